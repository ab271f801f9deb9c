import csv
import io

import numpy as np
import pytest
import torch
from audit_toys import ToyNet, audit_of, images
from comparison_toys import TableFleet, TableTarget, compared, table
from torch.utils.data import DataLoader, TensorDataset

from amint.attack_results import METRICS, Comparison
from amint.attacks import registry
from amint.comparison import compare
from amint.errors import NonFiniteError, RoleOverlapError, UsageError
from amint.gate import Limit, check_gate
from amint.metrics import summary
from amint.signals import Signals


class Own:
    """Guesses by the difference to one reference. And more."""

    needs = frozenset({"logprob", "reference_logprob"})

    def __init__(self, name="own"):
        self.name = name

    def fit(self, known, is_member):
        return self

    def score(self, signals):
        return signals["logprob"] - signals["reference_logprob"][:, 0]


class Broken(Own):
    def score(self, signals):
        raise KeyError("a bug of the user's")


class Overflowing(Own):
    def score(self, signals):
        return np.full(len(signals), np.inf)


class Short(Own):
    def score(self, signals):
        return np.zeros(3)


class Scribbling(Own):
    def score(self, signals):
        signals["logprob"][:] = 0
        return np.zeros(len(signals))


@pytest.fixture(scope="module")
def everything():
    return compared(seed=1)


def test_all_attacks_run_and_are_measured(everything):
    assert [result.name for result in everything.attacks] == list(registry.names())
    assert everything.not_run == ()
    for result in everything.attacks:
        assert tuple(m.name for m in result.measurements) == METRICS
        assert result["auroc"].n_members == result["auroc"].n_nonmembers == 100
        assert all(m.interval.low <= m.value <= m.interval.high for m in result.measurements)
        assert result["auroc"].value > 0.6
        assert result.p_value < 0.05
        assert result.about.endswith((".", "?", "label by itself"))
        fpr, tpr = np.array(result.roc).T
        assert (fpr[0], tpr[-1], fpr[-1]) == (0, 1, 1)
        assert (np.diff(fpr) >= 0).all()
        assert (np.diff(tpr) >= 0).all()
    assert everything.sizes == {
        "fit_members": 67,
        "fit_nonmembers": 67,
        "threshold_members": 33,
        "threshold_nonmembers": 33,
        "audited_members": 100,
        "audited_nonmembers": 100,
    }


def test_costs_are_counted_in_passes(everything):
    passes = {result.name: result.forward_passes for result in everything.attacks}
    assert passes["loss"] == passes["mint"] == passes["quantile"] == 1
    assert passes["gradient-norm"] == passes["gmint"] == 3
    assert passes["salem"] == 2
    assert passes["rmia-offline"] == 1 + 4
    queried = compared(attacks=["lira-online-queries"])["lira-online-queries"]
    assert queried.forward_passes == (1 + 4) * 2


def test_one_pass_whatever_the_number_of_attacks():
    signals, members, nonmembers = table()
    target = TableTarget(signals, signals.columns)
    compare(target, members, nonmembers, attacks=["loss", "margin", "entropy", "gmint", "passive-mint"])
    # Eight rows of the first batch are tried out for each signal, then every row is read once.
    assert target.passes == 400 + 8 * len({"logprob", "hinge", "entropy", "gradient", "gradient_norms", "activations"})


def test_figures_are_those_of_the_audited_rows_and_a_threshold_from_other_rows():
    signals, members, nonmembers = table(60, 90, seed=3)
    seen = {}

    class Spy(Own):
        needs = frozenset({"logprob", "label"})

        def fit(self, known, is_member):
            seen["fit"] = known["logprob"], is_member
            return self

        def score(self, signals):
            seen.setdefault("scored", []).append(signals["logprob"])
            return signals["logprob"]

    found = compare(TableTarget(signals, signals.columns), members, nonmembers, attacks=[Spy()], seed=7)["own"]
    tuning, audited = seen["scored"][:2]
    assert [len(seen["fit"][0]), len(tuning), len(audited)] == [20 + 30, 10 + 15, 30 + 45]
    everything = np.sort(np.concatenate([seen["fit"][0], tuning, audited]))
    np.testing.assert_array_equal(everything, np.sort(signals["logprob"]))
    rows = np.array([np.flatnonzero(signals["logprob"] == value)[0] for value in audited])
    inside = np.isin(rows, members[0][:, 0].long().numpy())
    expected = summary(audited, inside, found.threshold)
    assert {m.name: m for m in found.measurements} == expected
    # The threshold is one of the tuning scores, and none of them does better there.
    which = np.array([np.flatnonzero(signals["logprob"] == value)[0] for value in tuning])
    tuned = np.isin(which, members[0][:, 0].long().numpy())
    assert found.threshold in tuning
    best = max(np.mean(tuning[tuned] >= t) + np.mean(tuning[~tuned] < t) for t in tuning)
    assert np.mean(tuning[tuned] >= found.threshold) + np.mean(tuning[~tuned] < found.threshold) == pytest.approx(best)


def test_the_split_is_stratified_seeded_and_disjoint():
    from amint.attack_runs import split_rows

    generator = np.random.default_rng(0)
    classes, is_member = generator.integers(7, size=5000), generator.random(5000) < 0.3
    rows = np.flatnonzero(generator.random(5000) < 0.9)
    parts = split_rows(is_member, classes, rows, seed=3)
    together = np.concatenate([parts.fit, parts.threshold, parts.audited])
    np.testing.assert_array_equal(np.sort(together), rows)
    for side in (True, False):
        for label in range(7):
            n = (is_member[rows] == side) & (classes[rows] == label)
            for part, share in ((parts.fit, 1 / 3), (parts.threshold, 1 / 6), (parts.audited, 1 / 2)):
                mine = (is_member[part] == side) & (classes[part] == label)
                assert abs(mine.sum() - share * n.sum()) <= 2
    again = split_rows(is_member, classes, rows, seed=3)
    np.testing.assert_array_equal(again.audited, parts.audited)
    assert not np.array_equal(split_rows(is_member, classes, rows, seed=4).audited, parts.audited)


def test_same_seed_same_figures_and_another_seed_others(everything):
    again, other = compared(seed=1, attacks=["loss", "rmia-offline"]), compared(seed=2, attacks=["loss"])
    for name in ("loss", "rmia-offline"):
        assert again[name].measurements == everything[name].measurements
        assert again[name].epsilon == everything[name].epsilon
    assert other["loss"].measurements != everything["loss"].measurements


def test_an_attack_that_cannot_run_is_a_row_with_its_reason_and_the_others_run():
    attacks = ["loss", Broken("broken"), Overflowing("overflowing"), Short("short"), Scribbling("scribbling"), Own()]
    found = compared(attacks=attacks, lacking={"gradient"})
    assert {result.name for result in found.not_run} == {"broken", "overflowing", "short", "scribbling"}
    assert all(result.failed == bool(result.reason) for result in found.attacks)
    assert "a bug of the user's" in found["broken"].reason
    assert "KeyError" in found["broken"].reason
    assert "NaN or infinite" in found["overflowing"].reason
    assert "3 scores for 66 samples" in found["short"].reason
    assert "read-only" in found["scribbling"].reason
    assert found["own"]["auroc"].value > 0.6
    assert found["loss"].measurements == compared(attacks=["loss"])["loss"].measurements
    assert found["own"].family == "own"
    assert found["own"].about == "Guesses by the difference to one reference."


def test_missing_signals_and_references_are_named():
    found = compared(references=False, lacking={"gradient", "mint_logit"})
    lacking = {result.name: result.reason for result in found.not_run}
    assert set(lacking) == {
        *("gmint", "mint", "salem", "watson", "attack-r"),
        *(f"{name}-{mode}" for name in ("lira", "rmia", "informia") for mode in ("online", "offline")),
    }
    assert lacking["gmint"] == "needs gradient: this target does not provide it"
    assert "needs reference_in, reference_logprob: there are no reference models; pass fleet=" in lacking["watson"]
    assert found["gmint"].forward_passes == 0
    assert "Could not run: " in found.sentence()
    assert not any(result.failed for result in found.attacks)


def test_a_signal_that_fails_is_told_before_the_pass():
    class Failing(TableTarget):
        def measure(self, batch, needs):
            if "hinge" in needs:
                raise RuntimeError("no hinge today")
            return super().measure(batch, needs)

    signals, members, nonmembers = table()
    found = compare(Failing(signals, signals.columns), members, nonmembers, attacks=["loss", "margin"])
    assert (found["margin"].reason, found["margin"].failed) == ("needs hinge: RuntimeError: no hinge today", True)
    assert found["loss"]["auroc"].value > 0.6
    with pytest.raises(RuntimeError, match="no hinge today"):
        compare(Failing(signals, signals.columns), members, nonmembers, attacks=["margin"])


def test_references_are_not_asked_for_what_the_target_cannot_give():
    signals, members, nonmembers = table()

    class Strict(TableFleet):
        def signals(self, batches, needs, **arguments):
            assert "reference_scaled_logit_queries" not in needs
            return super().signals(batches, needs, **arguments)

    target = TableTarget(signals, set(signals.columns) - {"scaled_logit_queries"})
    attacks = ["lira-online-queries", "lira-online", "salem"]
    found = compare(target, members, nonmembers, attacks=attacks, fleet=Strict(signals))
    assert [result.name for result in found.not_run] == ["lira-online-queries"]
    assert found["lira-online-queries"].reason == (
        "needs reference_scaled_logit_queries, scaled_logit_queries: this target does not provide it"
    )


def test_attacks_of_one_name_stay_apart():
    found = compared(attacks=["loss", "loss", "LOSS", Own(), Own(), "rmia", "rmia_offline"])
    assert [result.name for result in found.attacks] == ["loss", "own", "own (2)", "rmia-offline"]
    assert {control.attack for control in found.controls} == {"loss", "own", "own (2)", "rmia-offline"}


def test_shuffled_membership_is_half_and_a_leak_is_told_in_the_first_line(everything):
    shuffled = [control for control in everything.controls if control.kind == "shuffled membership"]
    assert len(shuffled) == len(everything.attacks)
    assert everything.failed_controls == ()
    # A table has no twin, and that is said; it is no reason to distrust the rest.
    assert all("no untrained twin" in c.reason for c in everything.controls if c.kind == "untrained twin")
    assert everything.warning() == ""
    assert everything.sentence().startswith("The strongest of 24 attacks from outside")
    assert everything.sentence().endswith(
        "No untrained twin could be checked: this target has no untrained twin; pass the model itself. "
        "Attacks may see another difference than membership."
    )


class Brightness(Own):
    needs = frozenset({"logprob"})

    def score(self, signals):
        return np.asarray(signals["logprob"], float)


def test_an_untrained_twin_that_is_attacked_with_success_spoils_the_table():
    """Members are brighter: any network, trained or not, tells them apart."""
    torch.manual_seed(0)
    y = torch.arange(240) % 4
    found = compare(
        ToyNet().eval(), (images(240, seed=1, level=2.0), y), (images(240, seed=2), y), attacks=["entropy", "loss"]
    )
    failed = {(control.kind, control.attack) for control in found.failed_controls}
    assert ("untrained twin", "entropy") in failed
    assert {kind for kind, _ in failed} == {"untrained twin"}
    assert found.sentence().startswith("Do not rely on this table")
    assert found.to_csv().splitlines()[1].count("Do not rely on this table") == 1


def test_a_model_with_a_head_is_compared_and_left_as_it_was():
    audit = audit_of()
    before = {name: value.clone() for name, value in audit.backbone.state_dict().items()}
    state = torch.get_rng_state()
    y = torch.arange(60) % 4
    found = compare(audit, (images(60, seed=1), y), (images(60, seed=2), y))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in audit.backbone.state_dict().items())
    assert not audit.backbone.training
    assert {r.name for r in found.not_run} == {name for name in registry.names() if "references" in found[name].reason}
    assert found["mint"].family == "trained in"
    assert "mint" not in found.epsilon_attack
    twins = [control for control in found.controls if control.kind == "untrained twin"]
    assert {control.attack for control in twins} == {result.name for result in found.ranked}
    assert all(control.auroc is not None for control in twins)
    assert found.failed_controls == ()
    assert "No attack from outside clearly tells" in found.sentence()
    assert "This does not show that no attack could." in found.sentence()
    assert set(found.target) == {"model", "model_sha256", "members_sha256", "nonmembers_sha256"}


def test_json_round_trip_and_csv(everything):
    assert Comparison.from_json(everything.to_json()) == everything
    assert everything.sentence() in repr(everything)
    assert len(repr(everything)) < 2_000
    lines = list(csv.DictReader(io.StringIO(everything.to_csv())))
    assert [line["attack"] for line in lines] == [result.name for result in everything.attacks]
    for line, result in zip(lines, everything.attacks, strict=True):
        assert None not in line
        assert float(line["auroc_high"]) == result["auroc"].interval.high
        assert float(line["tpr_at_fpr_0.01"]) == result["tpr_at_fpr_0.01"].value
        assert int(line["forward_passes"]) == result.forward_passes


def test_too_few_non_members_are_said():
    few, enough = compared(60, 90, attacks=["loss"]), compared(30, 2400, attacks=["loss"], references=False)
    assert few.notes[-1].startswith(
        "Too few non-members for the TPR at 1 %, 0.1 % FPR: 45 were audited, 1000 are needed"
    )
    assert few["loss"]["tpr_at_fpr_0.001"].note == "needs at least 1000 non-members, has 45"
    assert enough.notes == ()


def test_copies_count_once():
    signals, (x, y), nonmembers = table()
    found = compare(
        TableTarget(signals, signals.columns),
        (torch.cat([x, x[:50]]), torch.cat([y, y[:50]])),
        nonmembers,
        attacks="loss",
    )
    assert found.sizes["audited_members"] + found.sizes["fit_members"] + found.sizes["threshold_members"] == 200
    assert found.notes[0] == "50 of 450 rows are exact copies of earlier ones and were left out."


def test_class_frequencies_that_differ_are_said():
    signals, (x, y), (x2, y2) = table(600, 600, classes=3)
    keep = (y > 0) | (torch.arange(len(y)) % 3 == 0)
    found = compare(TableTarget(signals, signals.columns), (x[keep], y[keep]), (x2, y2), attacks=["loss"])
    assert "Classes are not equally frequent: class 0 makes up" in found.notes[0]


def test_both_sides_come_in_one_shape_and_type():
    model, y = ToyNet().eval(), torch.arange(30) % 4
    for other in (images(30, seed=2, shape=(3, 8, 8)), images(30, seed=2).double()):
        with pytest.raises(UsageError, match=r"is \[3, 16, 16\] torch.float32, a batch of non-members holds"):
            compare(model, (images(30), y), (other, y), attacks=["loss"])
    ragged = [(torch.zeros(3, 16, 16), torch.tensor(0)), (torch.zeros(3, 8, 8), torch.tensor(0))]
    with pytest.raises(UsageError, match="a batch of members holds"):
        compare(model, [(x[None], t[None]) for x, t in ragged].__iter__(), (images(30), y), attacks=["loss"])


def test_offline_attacks_run_with_references_of_other_samples_only():
    signals, members, nonmembers = table(k=8)
    signals.columns["reference_in"][:] = False
    fleet = TableFleet(signals, np.zeros(400, bool))
    attacks = ["watson", "attack-r", "lira-offline", "rmia-offline", "informia-offline"]
    own = {name for name in signals.columns if not name.startswith(("reference_", "shadow_"))}
    found = compare(TableTarget(signals, own), members, nonmembers, attacks=attacks, fleet=fleet)
    assert found.not_run == ()
    for name in ("rmia-offline", "informia-offline"):
        assert found[name]["auroc"].value > 0.6
        assert found[name].note.startswith("a = 0.3, its authors' value for CIFAR-10: it could not be tuned")
    assert "a = 0.3" not in found["lira-offline"].note


def test_offline_attacks_run_with_one_pair_of_references():
    found = compared(world={"k": 2}, attacks=["rmia-offline", "informia-offline"])
    assert found.not_run == ()
    assert all("a = 0.3" in result.note for result in found.attacks)


def test_references_from_another_pool_are_said():
    signals, members, nonmembers = table()
    seen = np.arange(400) < 200
    found = compare(
        TableTarget(signals, signals.columns), members, nonmembers, attacks=["watson"], fleet=TableFleet(signals, seen)
    )
    assert "pool holds 100.0 % of the members and 0.0 % of the non-members" in " ".join(found.notes)


def test_references_that_saw_everything_are_refused_with_counts():
    signals, members, nonmembers = table()
    signals.columns["reference_in"][:] = True
    found = compare(
        TableTarget(signals, signals.columns), members, nonmembers, attacks=["rmia-online"], fleet=TableFleet(signals)
    )
    assert "67 of 67 population samples (known non-members) have no OUT reference" in found["rmia-online"].reason


def test_epsilon_pays_for_the_number_of_attacks(everything):
    assert everything.epsilon.confidence == 0.95
    best = max(result.epsilon.value for result in everything.attacks if result.family != "trained in")
    assert 0 < everything.epsilon.value < best
    assert everything.epsilon.samples <= 100
    assert everything[everything.epsilon_attack].family != "trained in"
    assert "differentially private, with 95 % confidence" in everything.epsilon_sentence()
    only = compared(seed=1, attacks=[everything.epsilon_attack])
    assert only.epsilon.value == only.attacks[0].epsilon.value > everything.epsilon.value


def test_members_that_score_lower_are_noted():
    class Inverted(Own):
        def score(self, signals):
            return -super().score(signals)

    assert compared(attacks=[Inverted()])["own"].note == "members score clearly lower than non-members"


@pytest.fixture
def rows():
    y = torch.arange(30) % 4
    return (images(30, seed=1), y), (images(30, seed=2), y)


BAD = [
    (
        lambda a, b: (a, (torch.cat([b[0], a[0][:3]]), torch.cat([b[1], a[1][:3]]))),
        RoleOverlapError,
        "3 of 33 non-members",
    ),
    (lambda a, b: (a, (b[0][:0], b[1][:0])), UsageError, "found 30 members and 0 non-members"),
    (lambda a, b: ((a[0][:5], a[1][:5]), b), UsageError, "5 members are too few"),
    (lambda a, b: (a, (b[0], b[1][:7])), UsageError, "30 inputs come with 7 labels"),
    (lambda a, b: (a[0], b), UsageError, "without labels"),
    (lambda a, b: (a, (b[0], b[1].float())), UsageError, "labels must be class numbers"),
    (lambda a, b: (a, (b[0], b[1] - 1)), UsageError, "labels must be class numbers"),
    (lambda a, b: (a, (b[0], b[1] + 7)), UsageError, "labels lie outside 0..3"),
    (lambda a, b: (5, b), UsageError, "expected a DataLoader"),
    (lambda a, b: (a, (b[0] * torch.nan, b[1])), NonFiniteError, "30 of 30 rows"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_unusable_data_is_refused(rows, number):
    change, error, words = BAD[number]
    with pytest.raises(error, match=words):
        compare(ToyNet().eval(), *change(*rows), attacks=["loss"])


def test_probabilities_are_refused(rows):
    model = torch.nn.Sequential(ToyNet(), torch.nn.Softmax(1)).eval()
    with pytest.raises(UsageError, match="looks like probabilities"):
        compare(model, *rows)


def test_external_rows_as_non_members_are_refused(rows):
    from dataclasses import replace

    from amint.roles import fingerprints

    audit = audit_of()
    audit.training = replace(audit.training, external_marks=fingerprints(rows[1][0][:4]).numpy())
    with pytest.raises(RoleOverlapError, match="4 of 30 non-members are external rows"):
        compare(audit, *rows)


@pytest.mark.parametrize("shuffled", [True, False])
def test_a_loader_must_give_the_same_rows_each_time(rows, shuffled):
    loader = DataLoader(TensorDataset(*rows[0]), batch_size=7, shuffle=shuffled)
    if shuffled:
        with pytest.raises(UsageError, match="differ from the first time"):
            compare(ToyNet().eval(), loader, rows[1], attacks=["loss"])
    else:
        model = ToyNet().eval()
        found = compare(model, loader, TensorDataset(*rows[1]), attacks=["loss"])
        assert found["loss"].measurements == compare(model, *rows, attacks=["loss"])["loss"].measurements


def test_an_iterator_that_is_used_up_is_refused(rows):
    with pytest.raises(UsageError, match="first time"):
        compare(ToyNet().eval(), iter([rows[0]]), rows[1], attacks=["loss"])


class Unread:
    """What is wrong before anything is computed must be found before it is asked."""

    provides = frozenset({"logprob"})

    def measure(self, batch, needs):
        raise AssertionError("it was asked")


def test_other_mistakes_are_refused(rows, tmp_path):
    with pytest.raises(UsageError, match="there is no attack 'losss'; near names: loss"):
        compare(ToyNet(), *rows, attacks=["losss"])
    with pytest.raises(UsageError, match="there is no attack to compare"):
        compare(ToyNet(), *rows, attacks=[])
    with pytest.raises(UsageError, match="confidence"):
        compare(Unread(), *rows, confidence=1.0)
    for delta in (2.0, -1e-9, float("nan"), float("inf"), "x"):
        with pytest.raises(UsageError, match="delta must lie between 0 and 1"):
            compare(Unread(), *rows, delta=delta)
    with pytest.raises(UsageError, match="got int"):
        compare(5, *rows)
    for seed in (-1, 2**63, 0.5, "0"):
        with pytest.raises(UsageError, match=r"seed must be a whole number from 0 up, below 2\*\*63; found"):
            compare(Unread(), *rows, seed=seed)
    for size in (0, -3, 2.0):
        with pytest.raises(UsageError, match="batch_size must be a whole number from 1 up"):
            compare(Unread(), *rows, batch_size=size)
    for attacks in ([5], ["loss", object()], [None]):
        with pytest.raises(UsageError, match="an attack is a name, or an object with name, needs, fit and score"):
            compare(Unread(), *rows, attacks=attacks)
    with pytest.raises(UsageError, match="there is no attack to compare"):
        compare(Unread(), *rows, attacks=None)
    same = compare(ToyNet().eval(), *rows, attacks=["loss"], seed=np.int64(1), batch_size=np.int64(9))
    assert not same.not_run

    class Anonymous:
        provides = frozenset({"logprob"})

        def measure(self, batch, needs):
            return {"logprob": np.zeros(len(batch[0]))}

    with pytest.raises(UsageError, match="Anonymous has no"):
        compare(Anonymous(), *rows, attacks=["loss"], cache=tmp_path)


def test_progress_and_cache(rows, tmp_path):
    told = []
    model = ToyNet().eval()
    first = compare(
        model, *rows, attacks=["loss", "margin"], cache=tmp_path / "c", progress=lambda *step: told.append(step)
    )
    assert [step for step in told if step[0] == "attacks"] == [("attacks", 1, 2), ("attacks", 2, 2)]
    assert ("target", 60, 60) in told
    assert ("untrained twin", 60, 60) in told
    assert list((tmp_path / "c").iterdir())
    second = compare(model, *rows, attacks=["loss", "margin"], cache=tmp_path / "c")
    assert [r.measurements for r in first.attacks] == [r.measurements for r in second.attacks]


def test_constant_scores_are_guessing():
    class Constant(Own):
        needs = frozenset({"label"})

        def score(self, signals):
            return np.zeros(len(signals))

    found = compared(attacks=[Constant()])
    assert found["own"]["auroc"].value == 0.5
    assert found["own"].roc == ((0, 0), (1, 1))
    assert found.epsilon.value == 0
    assert found.failed_controls == ()


@pytest.mark.slow
def test_controls_cry_wolf_rarely_and_nothing_is_found_where_nothing_is():
    """Signals without any trace of membership, 200 times: what is claimed falsely stays within its rate."""
    attacks = ["correctness", "loss", "entropy", "modified-entropy-by-class", "watson", "rmia-offline", "lira-online"]
    failed, claimed, over = 0, 0, 0
    for seed in range(200):
        found = compared(90, 120, world={"gain": 0.0, "seed": seed}, attacks=attacks, seed=seed)
        failed += bool(found.failed_controls)
        claimed += "No attack from outside clearly" not in found.sentence()
        over += found.epsilon.value > 0
    # Nominal rates are 1 %, 5 % and 5 %; the limits are what a binomial number exceeds once in a thousand.
    assert failed <= 8
    assert claimed <= 21
    assert over <= 21


def test_signals_of_the_table_are_untouched(everything):
    signals, members, nonmembers = table()
    before = {name: column.copy() for name, column in signals.columns.items()}
    attacks = ["loss", "gmint", "rmia", "lira-online-queries", "salem", "quantile"]
    compare(TableTarget(signals, signals.columns), members, nonmembers, attacks=attacks, fleet=TableFleet(signals))
    assert all(np.array_equal(before[name], column) for name, column in signals.columns.items())
    assert isinstance(signals, Signals)


@pytest.mark.parametrize("skill", [True, False])
def test_a_model_that_only_guesses_on_the_members_was_given_other_inputs(skill):
    signals, members, nonmembers = table(600, 600, classes=4)
    columns = dict(signals.columns)
    if not skill:
        columns["correct"] = (signals["label"] == 2).astype(columns["correct"].dtype)
    found = compare(TableTarget(columns, columns), members, nonmembers, attacks=["loss", "correctness"])
    assert found.accuracy.members == pytest.approx(columns["correct"][members[0][:, 0].long()].mean())
    assert found.accuracy.guesses is not skill
    assert found.warning().startswith("Do not rely on this table. The model is right about") is not skill
    assert (found.accuracy.sentence() in found.notes) is skill
    assert Comparison.from_json(found.to_json()) == found
    broken = check_gate(found, [Limit("auroc", 1.0)]).broken
    assert any("the model only guesses" in sentence for sentence in broken) is not skill
