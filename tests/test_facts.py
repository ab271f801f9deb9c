import pytest
from audit_toys import ToyNet, audit_of, images

import amint
from amint.bundle import read
from amint.errors import UsageError


def test_stated_accuracies_go_into_the_bundle_as_stated(tmp_path):
    audit = audit_of(ToyNet())
    audit.note(plain_accuracy=0.9)
    audit.note(audited_accuracy=1)
    path = audit.save(tmp_path / "a.amint")
    assert read(path).manifest["facts"]["task"] == {"plain_accuracy": 0.9, "audited_accuracy": 1.0}
    loaded = amint.load(path, model=ToyNet())
    loaded.note(plain_accuracy=0.0)
    assert loaded.facts["task"] == {"plain_accuracy": 0.0, "audited_accuracy": 1.0}


@pytest.mark.parametrize("value", [-0.01, 1.01, 95, float("nan"), float("inf"), "high", [0.5], 10**400])
def test_what_is_no_share_is_refused_and_not_kept(value):
    audit = audit_of(ToyNet(), calibration=0)
    with pytest.raises(UsageError, match=r"audited_accuracy is a share between 0 and 1.*divide percentages"):
        audit.note(plain_accuracy=0.5, audited_accuracy=value)
    assert "task" not in audit.facts


def test_to_state_nothing_is_a_mistake():
    with pytest.raises(UsageError, match="nothing was stated: pass plain_accuracy or audited_accuracy"):
        audit_of(ToyNet(), calibration=0).note()


def test_an_evaluation_is_kept_with_its_intervals():
    audit = audit_of(ToyNet())
    measured = audit.evaluate(images(20), images(30, seed=2), alpha=0.1)
    facts = audit.facts["evaluation"]
    assert facts.pop("alpha") == 0.1
    assert facts.keys() == measured.keys()
    for name, found in measured.items():
        assert facts[name] == {
            "value": found.value, "low": found.interval.low, "high": found.interval.high, "n": [20, 30],
        }  # fmt: skip
