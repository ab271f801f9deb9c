import ast
import re
from pathlib import Path

import pytest

import amint.attacks
from amint.attacks import registry
from amint.errors import UsageError


@pytest.mark.parametrize("name", registry.names(variants=True))
def test_every_name_gives_an_attack_of_that_kind(name):
    made, entry = registry.named(name), registry.entry(name)
    assert made.needs
    assert made.name == name if entry.default else name.startswith(made.name) or made.name == name
    assert registry.family(made) == entry.family
    assert entry.family in registry.FAMILIES
    sentence = registry.about(made)
    assert 20 < len(sentence) < 200
    assert "\n" not in sentence


def test_names_are_words_joined_by_hyphens():
    for name in registry.names(variants=True):
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
        assert registry.canonical(name.replace("-", "_")) == name


def test_names_differ_and_all_is_without_variants():
    everything = registry.names(variants=True)
    assert len(set(everything)) == len(everything)
    assert set(registry.names()) < set(everything)
    assert "lira-online-shrunk" in set(everything) - set(registry.names())
    assert registry.named("lira-online-shrunk").variance == "shrunk"
    assert registry.named("rmia-offline-queries").queries


def test_every_attack_of_the_package_is_in_it():
    """A class with name, fit and score in a public module of the folder, found by reading the source."""
    classes = set()
    for path in Path(amint.attacks.__file__).parent.glob("[a-z]*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and {"fit", "score"} <= {getattr(item, "name", "") for item in node.body}:
                classes.add((path.stem, node.name))
    listed = {(registry.entry(name).module, registry.entry(name).attribute) for name in registry.names(variants=True)}
    assert classes == listed


@pytest.mark.parametrize(
    "written, name",
    [
        ("loss", "loss"),
        ("LiRA_Online", "lira-online"),
        (" Modified_Entropy ", "modified-entropy"),
        ("rmia", "rmia-offline"),
        ("InfoRMIA", "informia-offline"),
        ("attack_p", "attack-p"),
    ],
)
def test_names_are_read_generously(written, name):
    assert registry.canonical(written) == name


@pytest.mark.parametrize(
    "wrong, near",
    [
        ("los", "loss"),
        ("rmai-ofline", "rmia-offline"),
        ("lira_on", "lira-online"),
        ("gmit", "gmint"),
        ("modified_entrpy", "modified-entropy"),
        ("marginal", "margin"),
    ],
)
def test_wrong_names_are_answered_with_near_ones(wrong, near):
    with pytest.raises(
        UsageError, match=rf"no attack '{wrong}'; near names: .*{near}.*There are: correctness, confidence"
    ):
        registry.named(wrong)


@pytest.mark.parametrize("written", ["all", "ALL", " All "])
def test_all_is_no_attack_among_others(written):
    with pytest.raises(UsageError, match=r'^"all" stands alone, in lower case: attacks="all" or --attacks all'):
        registry.canonical(written)


def test_a_name_near_nothing():
    for wrong in ("", "xyzzy", "42"):
        with pytest.raises(UsageError, match=r"no attack '\w*'. There are: "):
            registry.canonical(wrong)


def test_an_attack_of_somebody_else():
    class Loss:
        """Mine. And more of it."""

    assert registry.family(Loss()) == "own"
    assert registry.about(Loss()) == "Mine."

    class Undocumented:
        pass

    assert registry.about(Undocumented()) == ""
