import csv
import io

import numpy as np
import pytest
import torch
from comparison_toys import TableFleet, TableTarget, compared, table

from amint.attack_results import Comparison
from amint.attack_runs import split_rows
from amint.comparison import compare
from amint.labelled import read_labelled


class Scores:
    """An attack that gives what a function makes of the log-probabilities."""

    needs = frozenset({"logprob"})
    name = "scores"

    def __init__(self, make):
        self.make = make

    def fit(self, known, is_member):
        return self

    def score(self, signals):
        return self.make(signals["logprob"])


def test_without_a_common_class_everything_but_the_bound_on_epsilon_is_there():
    signals, (x, y), (x2, y2) = table()
    found = compare(TableTarget(signals, signals.columns), (x, y * 0), (x2, y2 * 0 + 1), attacks=["loss", "entropy"])
    assert found.not_run == ()
    assert found.epsilon is None
    assert found.epsilon_attack == ""
    for result in found.attacks:
        assert result.epsilon is None
        assert result["auroc"].value > 0.5
        assert result.note == "no bound on epsilon: audited members and non-members share no class to form pairs in"
    assert found.epsilon_sentence() == "No lower bound on epsilon: audited members and non-members share no class."
    assert [line["epsilon"] for line in csv.DictReader(io.StringIO(found.to_csv()))] == ["", ""]
    assert Comparison.from_json(found.to_json()) == found


def test_one_common_class_is_enough_for_a_bound():
    signals, (x, y), (x2, y2) = table()
    y, y2 = y * 0, y2 * 0 + 1
    y2[:30] = 0
    found = compare(TableTarget(signals, signals.columns), (x, y), (x2, y2), attacks=["loss"])
    assert 0 < found.epsilon.samples <= 30
    assert found["loss"].note == ""


@pytest.mark.filterwarnings("ignore:overflow encountered")
def test_scores_that_no_statistic_can_hold_cost_that_attack_only():
    huge = Scores(lambda logprob: np.where(logprob > np.median(logprob), 1.7e308, -1.7e308))
    found = compared(attacks=["loss", huge])
    assert found["scores"].reason.startswith("on the audited rows: ")
    assert not found["loss"].reason


def test_a_reason_says_at_which_step_the_attack_failed():
    def failing(size):
        def make(logprob):
            if len(logprob) == size:
                raise KeyError("here")
            return logprob

        return Scores(make)

    assert compared(attacks=[failing(66)])["scores"].reason == ("on the rows that set the threshold: KeyError: 'here'")
    assert compared(attacks=[failing(200)])["scores"].reason == "on the audited rows: KeyError: 'here'"


# The rows that serve as calibration: the population or the pooled spread where an attack fits one, the threshold's.
@pytest.mark.parametrize("name", ["watson", "attack-r", "lira-online", "lira-offline"])
def test_threshold_rows_that_every_reference_trained_on_are_refused_with_counts(name):
    result = seen_by_all("threshold", name)
    assert result.reason.startswith("on the rows that set the threshold: 33 of 66 samples have no OUT reference: all 4")
    assert "add references that leave them out" in result.reason


@pytest.mark.parametrize("name", ["rmia-online", "rmia-offline", "informia-online", "informia-offline"])
def test_population_rows_that_every_reference_trained_on_are_refused_with_counts(name):
    result = seen_by_all("fit", name)
    assert result.reason.startswith("when fitted: 67 of 67 population samples (known non-members) have no OUT")
    assert "add references that leave them out" in result.reason


@pytest.mark.parametrize("name", ["attack-p", "loss", "quantile"])
def test_attacks_on_the_target_alone_do_not_mind_what_references_trained_on(name):
    assert not seen_by_all("fit", name).reason


def seen_by_all(use, name):
    """One attack where every reference was trained on the non-members of one use."""
    signals, members, nonmembers = table()
    rows = read_labelled(members, nonmembers)
    at = torch.cat([members[0], nonmembers[0]])[:, 0].long().numpy()
    which = getattr(split_rows(rows.is_member, rows.classes, rows.different, 0), use)
    signals.columns["reference_in"][at[which[~rows.is_member[which]]]] = True
    return compare(
        TableTarget(signals, {n for n in signals.columns if not n.startswith(("reference_", "shadow_"))}),
        members, nonmembers, attacks=[name], fleet=TableFleet(signals),
    )[name]  # fmt: skip
