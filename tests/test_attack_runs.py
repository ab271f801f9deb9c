import csv
import io

import numpy as np
import pytest
import torch
from comparison_toys import TableFleet, TableTarget, compared, table

from amint.attack_results import Comparison
from amint.attack_runs import control_of, shuffled, split_rows
from amint.comparison import compare
from amint.labelled import read_labelled
from amint.signals import Signals


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


def world(n, seed, members_classes, others_classes, sees_class=0.0):
    """Signals of n members and n non-members: members have a higher log-probability, class 0 has if it is seen."""
    dice = np.random.default_rng(seed)
    is_member = np.repeat([True, False], n)
    classes = np.concatenate([dice.choice(members_classes, n), dice.choice(others_classes, n)])
    logit = dice.normal(size=2 * n) + 1.5 * is_member + sees_class * (classes == 0)
    return Signals({"logprob": -np.logaddexp(0, -logit)}), is_member, classes


def shuffled_control(n, seed, *kinds, by_class, **options):
    signals, is_member, classes = world(n, seed, *kinds, **options)
    parts = split_rows(is_member, classes, np.arange(2 * n), seed)
    flags = shuffled(is_member, classes, parts, seed, by_class=by_class)
    apart = is_member if by_class else None
    return control_of("shuffled membership", Scores(lambda logprob: logprob), signals, flags, parts, apart)


@pytest.mark.parametrize("classes", [10, 100, 1000])
def test_shuffled_membership_is_chance_whatever_the_number_of_classes(classes):
    kinds = np.arange(classes)
    found = [shuffled_control(1000, seed, kinds, kinds, by_class=False) for seed in range(20)]
    # Each fails with a chance of 1 %: three of 20 would have one of 1 in 1000.
    assert sum(control.p_value <= 0.01 for control in found) < 3
    assert abs(np.mean([control.auroc for control in found]) - 0.5) < 0.01


def test_classes_that_differ_are_shuffled_apart():
    # Class 0 makes up half of the members and a tenth of the non-members.
    kinds = [0] * 5 + [1, 2, 3, 4, 5], list(range(10))
    assert shuffled_control(1000, 0, *kinds, by_class=True, sees_class=4.0).p_value < 1e-6
    assert shuffled_control(1000, 0, *kinds, by_class=False, sees_class=4.0).p_value > 0.01
    _, is_member, classes = world(1000, 0, *kinds)
    parts = split_rows(is_member, classes, np.arange(2000), 0)
    flags = shuffled(is_member, classes, parts, 0, by_class=True)
    for use in (parts.fit, parts.threshold, parts.audited):
        assert flags[use].sum() == is_member[use].sum()
    rows = parts.audited[classes[parts.audited] == 0]
    assert flags[rows].sum() == is_member[rows].sum() != len(rows) / 2


@pytest.mark.parametrize("classes", [10, 100, 1000])
def test_an_attack_that_does_not_see_the_class_passes_where_classes_differ(classes):
    # Class 0 makes up a quarter of the members and next to nothing of the non-members, or some classes are on one side.
    for kinds in (
        ([0] * (classes // 4) + list(range(1, 1 + 3 * classes // 4)), list(range(classes))),
        (list(range(classes)), list(range(classes // 2)) * 3 + list(range(classes))),
    ):
        found = [shuffled_control(1000, seed, *kinds, by_class=True).p_value for seed in range(20)]
        assert sum(p <= 0.01 for p in found) < 3


def test_an_attack_that_sees_the_class_fails_where_many_small_classes_differ():
    # Members have 10 rows of each of 50 classes, non-members of these and of 450 others, which have another loss.
    dice = np.random.default_rng(0)
    is_member, classes = np.repeat([True, False], 1000), np.concatenate([np.arange(1000) % 50, np.arange(1000) % 500])
    signals = Signals({"logprob": -np.logaddexp(0, -(dice.normal(size=2000) + 2 * (classes < 50)))})
    parts = split_rows(is_member, classes, np.arange(2000), 0)
    flags = shuffled(is_member, classes, parts, 0, by_class=True)
    found = control_of("shuffled membership", Scores(np.copy), signals, flags, parts, is_member)
    assert found.p_value < 1e-6
    assert found.auroc > 0.6


def test_classes_of_one_side_only_leave_nothing_to_shuffle():
    found = shuffled_control(100, 0, [0, 1], [2, 3], by_class=True)
    assert (found.auroc, found.p_value) == (None, None)
    assert found.reason.startswith("the class alone tells members from non-members")


def test_a_comparison_with_many_classes_has_no_control_that_fails():
    signals, members, nonmembers = table(1500, 1500, classes=400)
    found = compare(TableTarget(signals, signals.columns), members, nonmembers, attacks=["loss", "margin", "entropy"])
    assert found.failed_controls == ()


def test_classes_differ_where_luck_does_not_explain_it():
    dice, x = np.random.default_rng(0), torch.arange(2000.0)[:, None]

    def rows(inside, outside):
        labels = torch.from_numpy(np.concatenate([dice.choice(inside, 1000), dice.choice(outside, 1000)]))
        return read_labelled((x[:1000], labels[:1000]), (x[1000:], labels[1000:]))

    for classes in (1, 2, 100, 1000):
        same = rows(np.arange(classes), np.arange(classes))
        assert not same.classes_differ
        assert same.class_note() == ""
    assert rows([0, 1, 1], [0, 1]).classes_differ
    assert rows(np.arange(500), np.arange(500, 1000)).classes_differ
