import csv
import io
import json
from dataclasses import replace

import pytest
from comparison_values import comparison, controls, result

from amint.attack_results import AttackControl, Comparison
from amint.errors import UsageError


def test_round_trip():
    for made in (
        comparison(result(), result("gmint", reason="needs gradient"), notes=["mind this"]),
        comparison(),
        comparison(result(p_value=None), controls=(AttackControl("untrained twin", "loss", None, None, "no twin"),)),
    ):
        assert Comparison.from_json(made.to_json()) == made
        data = json.loads(made.to_json())
        assert (data["schema"], data["sentence"], data["warning"]) == (1, made.sentence(), made.warning())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        '{"schema": 1}',
        comparison(result()).to_json().replace('"auroc"', '"x"', 1).replace('"p_value"', '"q"'),
        comparison(result()).to_json().replace("0.25", "NaN"),
        comparison(result()).to_json().replace('"interval": {', '"interval": [{').replace("}\n", "}]\n"),
        "[" * 100_000,
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(UsageError, match="not a comparison"):
        Comparison.from_json(text)


def test_another_schema_is_refused():
    text = comparison(result()).to_json().replace('"schema": 1', '"schema": 2')
    with pytest.raises(UsageError, match="schema 2, expected 1"):
        Comparison.from_json(text)


def test_the_sentence_names_the_strongest_and_keeps_the_head_apart():
    made = comparison(result("loss", 0.6), result("rmia", 0.7), result("mint", 0.99, family="trained in"))
    assert made.sentence() == (
        "The strongest of 2 attacks from outside, rmia, tells members from non-members with an AUROC of 0.700 "
        "(95 % interval 0.680 to 0.720) and finds 7.0 % of the members at 1 % false alarms. The head that was trained "
        "in (mint) has an AUROC of 0.990 (95 % interval 0.970 to 1.000)."
    )
    assert [r.name for r in made.ranked] == ["mint", "rmia", "loss"]


def test_what_luck_explains_is_no_success():
    # One attack with p = 0.02 would be one, but the best of five may have that by luck.
    assert comparison(result(p_value=0.02)).sentence().startswith("The attack loss tells")
    made = comparison(*(result(f"a{i}", 0.52, p_value=0.02) for i in range(5)))
    assert made.sentence().startswith(
        "No attack from outside clearly tells members from non-members: the strongest of 5"
    )
    assert "where 0.5 is guessing, and by luck alone the strongest of 5 lies higher. This" in made.sentence()
    assert made.sentence().endswith("This does not show that no attack could.")


def test_an_attack_that_is_reliably_wrong_is_a_success():
    made = comparison(result("loss", 0.6), result("odd", 0.2, p_value=1.0), result("mint", 0.9, family="trained in"))
    assert made.sentence().startswith(
        "The strongest of 2 attacks from outside, odd, tells members from non-members in reverse: members score lower, "
        "with an AUROC of 0.200 (95 % interval 0.180 to 0.220), and with the scores turned round it is 0.800."
    )
    assert [r.name for r in made.ranked] == ["mint", "odd", "loss"]
    assert [(r.reversed, r.reach) for r in made.ranked] == [(False, 0.9), (True, 0.8), (False, 0.6)]
    assert comparison(result("odd", 0.2, p_value=1.0)).sentence().startswith("The attack odd tells members from non")


def test_what_luck_explains_is_no_success_in_reverse_either():
    # An interval that reaches 0.5, and one below it as the best of five has it by luck.
    for made in (
        comparison(result("odd", 0.485, p_value=0.9)),
        comparison(*(result(f"a{i}", 0.47, p_value=0.985) for i in range(5))),
    ):
        assert made.sentence().startswith("No attack from outside clearly tells members from non-members")


def test_nothing_ran():
    made = comparison(result("a", reason="x"), result("b", reason="y"))
    assert made.sentence() == "No attack from outside could run. Could not run: a, b."
    assert made.epsilon_sentence() == "No lower bound on epsilon: no attack from outside could run."
    assert made.warning() == ""


def test_failed_controls_come_first():
    made = comparison(result("a"), result("b"), passed=False)
    assert made.sentence().startswith(
        "Do not rely on this table: attacks succeed where there is nothing to find (AUROC must be 0.5; untrained twin: "
        "a 0.510, b 0.510; shuffled membership: a 0.510, b 0.510)."
    )
    assert all(line["warning"] == made.warning() for line in csv.DictReader(io.StringIO(made.to_csv())))


def test_controls_account_for_their_number():
    one = replace(controls("a")[0], p_value=0.004)
    assert comparison(result("a"), controls=(one,)).failed_controls == (one,)
    many = (one, *controls(*"bcdefgh"))
    assert comparison(result("a"), controls=many).failed_controls == ()


def test_controls_that_could_not_run_are_a_warning_only_if_none_could():
    lacking = AttackControl("untrained twin", "loss", None, None, "no twin")
    assert comparison(result(), controls=(lacking, *controls("loss", kinds=["shuffled membership"]))).warning() == ""
    assert comparison(result(), controls=(lacking,)).warning().startswith("No control could run")
    assert comparison(result(), controls=()).warning().startswith("No control could run")


def test_controls_that_could_not_run_are_named_with_their_kind_attacks_and_reasons():
    assert comparison(result()).unchecked() == ""
    shuffled = controls("a", "b", "c", kinds=["shuffled membership"])
    none = [AttackControl("untrained twin", name, None, None, "no network") for name in "abc"]
    made = comparison(*map(result, "abc"), controls=(*shuffled, *none))
    assert made.unchecked() == (
        "No untrained twin could be checked: no network. Attacks may see another difference than membership."
    )
    assert made.sentence().endswith(made.unchecked())
    other = AttackControl("untrained twin", "c", None, None, "no gradient")
    (ran,) = controls("b", kinds=["untrained twin"])
    made = comparison(*map(result, "abc"), controls=(*shuffled, none[0], ran, other))
    assert made.unchecked() == "No untrained twin could be checked for a (no network), c (no gradient)."


def test_epsilon_is_missing_for_another_reason_than_that_nothing_ran():
    made = replace(comparison(replace(result(), epsilon=None)), epsilon=None, epsilon_attack="")
    assert made.epsilon_sentence() == ("No lower bound on epsilon: audited members and non-members share no class.")


def test_epsilon_in_words():
    assert comparison(result()).epsilon_sentence() == (
        "This training is not (0.30, 1e-05)-differentially private, with 95 % confidence (80 of 100 guesses "
        "on 200 pairs were right, loss). It holds if chance decided which samples became members, for the "
        "replacement of one sample."
    )
    nothing = comparison(result(), epsilon=0.0).epsilon_sentence()
    assert nothing.startswith("No privacy guarantee is refuted with 95 % confidence: epsilon may be 0 or more")


def test_csv_of_hostile_names_runs_no_formula():
    hostile = ['=cmd|"x"!A0', "+1", "-1", "@x", "＝1", 'quote",comma', "line\nbreak\rreturn", ""]
    made = comparison(*(result(name) for name in hostile), result("late", reason="=1"))
    lines = list(csv.DictReader(io.StringIO(made.to_csv(), newline="")))
    assert [line["attack"] for line in lines] == [
        ("'" if n[:1] in ("=", "+", "-", "@", "＝") and n else "") + n for n in hostile
    ] + ["late"]
    assert lines[-1]["reason"] == "'=1"
    assert lines[-1]["auroc"] == ""
    assert "tpr_at_fpr_0.001 needs at least 1000 non-members" in lines[0]["note"]


def test_written_files(tmp_path):
    made = comparison(result())
    paths = made.write(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["comparison.json", "comparison.csv"]
    assert Comparison.from_json(paths[0].read_text(encoding="utf-8")) == made


def test_lookups_say_what_there_is():
    made = comparison(result("loss"), result("gmint", reason="needs gradient"))
    assert made["loss"]["auroc"].value == 0.6
    with pytest.raises(UsageError, match=r"no attack 'margin'; it has \['loss', 'gmint'\]"):
        made["margin"]
    with pytest.raises(UsageError, match="loss has no 'accuracy'"):
        made["loss"]["accuracy"]
    with pytest.raises(UsageError, match="needs gradient"):
        made["gmint"]["auroc"]
