import numpy as np
import pytest
import torch
from audit_toys import ToyNet, audit_of, images, registered
from comparison_toys import TableTarget, table

from amint.comparison import compare
from amint.errors import RoleOverlapError, UsageError
from amint.loading import load
from amint.queries import Queries
from amint.roles import fingerprints
from amint.signals import Signals
from amint.subjects import subject_of
from amint.targets import ClassifierTarget

Y = torch.arange(30) % 4
MEMBERS, OTHERS = (images(30, seed=1), Y), (images(30, seed=2), Y)
OWN_QUERIES = Queries(count=3, shift=1, flip=False, seed=5)


class Asked:
    """References that note which queries they were asked with."""

    provides = frozenset({"reference_in", "reference_scaled_logit_queries"})
    k = 4

    def saw(self, marks):
        return np.ones(len(marks), bool)

    def signals(self, batches, needs, *, queries=None, **arguments):
        self.queries = queries
        n = sum(len(x) for x, _ in batches)
        logits = np.random.default_rng(0).normal(size=(n, self.k, (queries or Queries()).count))
        inside = np.arange(self.k) % 2 == np.arange(n)[:, None] % 2
        columns = {"reference_in": inside, "reference_scaled_logit_queries": logits}
        return Signals({name: columns[name] for name in needs})


def test_a_classifier_target_has_the_twin_of_its_model():
    torch.manual_seed(0)
    model = ToyNet().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attacks = ["loss", "passive-mint", "margin"]
    found = compare(ClassifierTarget(model, taps="middle"), MEMBERS, OTHERS, attacks=attacks)
    twins = [control for control in found.controls if control.kind == "untrained twin"]
    assert [control.attack for control in twins] == attacks
    assert all(control.p_value is not None for control in twins)
    assert found.unchecked() == ""
    # The very controls, figures and description of the plain model.
    plain = compare(model, MEMBERS, OTHERS, attacks=attacks)
    assert found.controls == plain.controls
    assert found.target == plain.target
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_twin_that_is_attacked_with_success_spoils_the_table_of_a_classifier_target():
    torch.manual_seed(0)
    y = torch.arange(240) % 4
    brighter = (images(240, seed=1, level=2.0), y), (images(240, seed=2), y)
    found = compare(ClassifierTarget(ToyNet().eval()), *brighter, attacks=["entropy", "loss"])
    assert {control.kind for control in found.failed_controls} == {"untrained twin"}
    assert found.warning().startswith("Do not rely on this table")


def test_a_classifier_target_with_an_audit_has_the_twin_of_both():
    audit = audit_of()
    found = compare(ClassifierTarget(audit.backbone, audit=audit), MEMBERS, OTHERS, attacks=["mint", "loss"])
    assert found.controls == compare(audit, MEMBERS, OTHERS, attacks=["mint", "loss"]).controls
    assert all(control.p_value is not None for control in found.controls)


def test_a_twin_keeps_what_its_target_was_told():
    class Mine(ClassifierTarget):
        pass

    target = Mine(ToyNet().eval(), taps="middle", classes=4, queries=OWN_QUERIES)
    twin = subject_of(target).twin(0)
    assert type(twin) is Mine
    assert (twin.queries, twin.provides) == (OWN_QUERIES, target.provides)
    batch = (MEMBERS[0][:4], Y[:4])
    ours, theirs = (one.measure(batch, {"activations", "logprob_queries"}) for one in (target, twin))
    for name, column in ours.items():
        assert column.shape == theirs[name].shape
        assert not np.array_equal(column, theirs[name])


def test_a_target_that_keeps_its_model_to_itself_says_that_no_twin_was_checked():
    signals, members, nonmembers = table()
    found = compare(TableTarget(signals, signals.columns), members, nonmembers, attacks=["loss", "margin"])
    assert found.unchecked().startswith("No untrained twin could be checked: ")
    assert found.unchecked() in found.sentence()
    assert "shuffled" not in found.unchecked()


def test_external_rows_are_refused_as_non_members_of_a_classifier_target_too():
    from dataclasses import replace

    audit = audit_of()
    audit.training = replace(audit.training, external_marks=fingerprints(OTHERS[0][:4]).numpy())
    with pytest.raises(RoleOverlapError, match="4 of 30 non-members are external rows"):
        compare(ClassifierTarget(audit.backbone, audit=audit), MEMBERS, OTHERS)


def test_a_changed_audit_is_not_described_as_the_bundle_it_was_loaded_from(tmp_path):
    audit = load(audit_of().save(tmp_path / "toy"), model=ToyNet())
    assert compare(audit, MEMBERS, OTHERS, attacks=["loss"]).target["bundle_sha256"] == audit.bundle.sha256
    audit.note(plain_accuracy=0.5)
    assert "bundle_sha256" not in compare(audit, MEMBERS, OTHERS, attacks=["loss"]).target


def test_members_that_the_audit_knows_to_be_none_are_refused():
    from dataclasses import replace

    calibration, external = images(49, seed=99), images(20, seed=8)
    audit = audit_of()
    audit.training = replace(audit.training, external_marks=fingerprints(external).numpy())
    for rows, found in (
        (calibration[:3], r"3 of 33 members are calibration rows.*first at rows \[30, 31, 32\]\); take them out"),
        (external[:5], r"5 of 35 members are external rows, which the task was not trained on"),
    ):
        members = torch.cat([MEMBERS[0], rows]), torch.arange(30 + len(rows)) % 4
        with pytest.raises(RoleOverlapError, match=found):
            compare(audit, members, OTHERS, attacks=["loss"])
    # Nothing was trained on calibration rows, so they may stand for non-members.
    assert not compare(audit, MEMBERS, (calibration, torch.arange(49) % 4), attacks=["loss"]).not_run


def test_the_external_rows_of_a_registered_audit_are_no_members_before_and_after_saving(tmp_path):
    external = images(40, seed=8)
    audit = registered(MEMBERS[0], external, images(49, seed=9))
    audit.save(tmp_path / "toy")
    claimed = torch.cat([MEMBERS[0], external[:7]]), torch.arange(37) % 4
    for opened in (audit, load(tmp_path / "toy", model=ToyNet())):
        with pytest.raises(RoleOverlapError, match="7 of 37 members are external rows"):
            compare(opened, claimed, OTHERS, attacks=["loss"])


@pytest.mark.parametrize("given", [None, OWN_QUERIES])
def test_references_are_asked_about_the_target_s_own_queries(given):
    fleet, target = Asked(), ClassifierTarget(ToyNet().eval(), queries=OWN_QUERIES)
    found = compare(target, MEMBERS, OTHERS, attacks=["lira-online-queries"], fleet=fleet, queries=given)
    assert fleet.queries == OWN_QUERIES
    assert found.not_run == ()


def test_references_are_asked_about_the_given_queries_of_a_plain_model():
    fleet = Asked()
    compare(ToyNet().eval(), MEMBERS, OTHERS, attacks=["lira-online-queries"], fleet=fleet, queries=OWN_QUERIES)
    assert fleet.queries == OWN_QUERIES


def test_queries_that_differ_from_the_target_s_own_are_refused():
    with pytest.raises(UsageError, match=r"asked about Queries\(count=10.*queries= says Queries\(count=3"):
        compare(ClassifierTarget(ToyNet().eval()), MEMBERS, OTHERS, queries=OWN_QUERIES)
