"""What ConflictAverse takes, refuses and needs."""

import builtins
import importlib.util
import subprocess
import sys

import pytest
import torch
from balance_toys import conflicting, pair

from amint.balance import ConflictAverse, UncertaintyWeighting, Weighted
from amint.errors import UsageError


def aggregated(method, a, b, **options):
    toy = pair(a, b)
    ConflictAverse(method, **options).backward(*toy.losses())
    return toy.gradient()


@pytest.mark.parametrize(
    "method, near", [("up_grad", "near names: upgrad"), ("UPGrad", "upgrad"), ("IMTLG", "imtl_g"), ("xyz", "there are")]
)
def test_unknown_methods_are_answered_with_near_names(method, near):
    with pytest.raises(UsageError, match=f"no conflict-averse method '{method}'; .*{near}"):
        ConflictAverse(method)


@pytest.mark.parametrize(
    "method, options, match",
    [
        ("upgrad", {"c": 0.5}, "upgrad has no option 'c'; it has pref_vector, projector"),
        ("pcgrad", {"c": 0.5}, "pcgrad has no option 'c'; it has none"),
        ("nash_mtl", {"n_tasks": 3}, "nash_mtl has no option 'n_tasks'; it has max_norm"),
        ("cagrad", {"c": -1}, "c must be non-negative"),
        ("upgrad", {"pref_vector": (1, 1, 1)}, r"ConflictAverse\('upgrad', .*does not work for two losses"),
        ("aligned_mtl", {"scale_mode": "max"}, "does not work for two losses: Invalid scale_mode"),
        ("upgrad", {"of": Weighted}, "of must be a balance of losses"),
        ("upgrad", {"of": ConflictAverse("mgda")}, r"of must be a balance of losses.*got ConflictAverse\('mgda'\)"),
    ],
)
def test_bad_options_are_refused(method, options, match):
    with pytest.raises(UsageError, match=match):
        ConflictAverse(method, **options)


def test_preferences_are_plain_numbers():
    a, b = conflicting(0)
    preferred = aggregated("upgrad", a, b, pref_vector=(1, 1))
    torch.testing.assert_close(preferred, 2 * aggregated("upgrad", a, b))
    aggregated("aligned_mtl", a, b, pref_vector=[1, 3])


def test_the_representation_says_everything():
    assert repr(ConflictAverse("upgrad")) == "ConflictAverse('upgrad')"
    shown = repr(ConflictAverse("cagrad", of=Weighted(mint=10)))
    assert shown == "ConflictAverse('cagrad', c=0.5, norm_eps=1e-06, of=Weighted(task=1, mint=10))"


@pytest.mark.parametrize(
    "absent, make",
    [
        ("torchjd", lambda: ConflictAverse("upgrad")),
        ("torchjd", UncertaintyWeighting),
        ("quadprog", lambda: ConflictAverse("upgrad")),
        ("clarabel", lambda: ConflictAverse("cagrad")),
    ],
)
def test_what_is_not_installed_is_named(monkeypatch, absent, make):
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchjd"]:
        monkeypatch.delitem(sys.modules, name)
    real, find = builtins.__import__, importlib.util.find_spec

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == absent:
            raise ModuleNotFoundError(f"No module named {absent!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == absent else find(name, *a))
    if absent == "torchjd":
        monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(UsageError, match=rf'pip install "amint-audit\[balance\]".*{absent}'):
        make()


def test_torchjd_is_loaded_on_demand():
    script = "import sys, amint.balance; amint.balance.GradNorm(); print('torchjd' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
