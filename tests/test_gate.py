import pytest
from comparison_values import comparison, result

from amint.errors import UsageError
from amint.gate import Limit, check_gate, parse_limit


@pytest.mark.parametrize("text, metric, most", [("auroc=0.60", "auroc", 0.6), (" epsilon = 2 ", "epsilon", 2.0)])
def test_limits_are_read(text, metric, most):
    assert parse_limit(text) == Limit(metric, most)
    assert parse_limit("tpr_at_fpr_0.001=1e-2") == Limit("tpr_at_fpr_0.001", 0.01)


@pytest.mark.parametrize(
    "text, words",
    [
        ("auroc", r"metric=number, such as auroc=0.60; found 'auroc'"),
        ("auroc=high", "metric=number"),
        ("auroc==0.6", "metric=number"),
        ("=0.6", "metric=number"),
        ("", "metric=number"),
        ("auroc=nan", "must be a finite number"),
        ("auroc=inf", "must be a finite number"),
        ("aurok=0.6", r"no metric 'aurok' \(did you mean auroc\?\); it knows auroc, balanced_accuracy"),
        ("tpr=0.6", "no metric 'tpr'"),
    ],
)
def test_other_limits_are_refused(text, words):
    with pytest.raises(UsageError, match=words):
        parse_limit(text)


def test_the_upper_end_of_the_interval_decides():
    made = comparison(result("loss", 0.57), result("rmia", 0.59))
    assert check_gate(made, [Limit("auroc", 0.61)]).passed
    found = check_gate(made, [Limit("auroc", 0.60)])
    assert not found.passed
    assert found.broken == ("auroc of rmia may be 0.610, above 0.6",)
    assert found.sentence() == "Gate broken (auroc at most 0.6): auroc of rmia may be 0.610, above 0.6."
    assert check_gate(made, [Limit("auroc", 0.61)]).sentence() == "Gate passed (auroc at most 0.61)."


def test_every_limit_and_every_attack_counts():
    made = comparison(result("loss", 0.57), result("rmia", 0.59), result("watson", 0.58))
    found = check_gate(made, [Limit("auroc", 0.595), Limit("balanced_accuracy", 0.5), Limit("tpr_at_fpr_0.1", 0.9)])
    assert found.broken == (
        "auroc of rmia may be 0.610, above 0.595",
        "auroc of watson may be 0.600, above 0.595",
        "balanced_accuracy of rmia may be 0.565, above 0.5",
        "balanced_accuracy of watson may be 0.560, above 0.5",
        "balanced_accuracy of loss may be 0.555, above 0.5",
    )
    assert "above 0.5; and 2 more." in found.sentence()


def test_epsilon_is_held_against_its_lower_bound():
    made = comparison(result("loss", epsilon=0.4), result("rmia", epsilon=1.5))
    assert check_gate(made, [Limit("epsilon", 1.5)]).passed
    assert check_gate(made, [Limit("epsilon", 1.0)]).broken == ("epsilon of rmia is at least 1.5, above 1",)


def test_the_trained_in_head_is_not_judged_and_that_is_said():
    made = comparison(result("loss", 0.55), result("mint", 0.99, family="trained in"))
    found = check_gate(made, [Limit("auroc", 0.6)])
    assert found.passed
    assert found.not_judged == ("mint",)
    assert found.sentence().endswith("Not judged: mint.")


def test_what_cannot_be_judged_does_not_pass():
    limit = [Limit("auroc", 0.99)]
    assert check_gate(comparison(result()), [Limit("tpr_at_fpr_0.001", 1)]).broken == (
        "tpr_at_fpr_0.001 of loss cannot be judged: it needs at least 1000 non-members, has 300",
    )
    assert check_gate(comparison(result(), passed=False), limit).broken == ("the controls do not support the table",)
    assert "no attack from outside could run" in check_gate(comparison(result(reason="x")), limit).broken
    head = comparison(result("mint", family="trained in"))
    assert "no attack from outside could run" in check_gate(head, limit).broken


def test_an_attack_that_did_not_run_breaks_it_only_if_it_was_asked_for():
    results = result("loss"), result("rmia", reason="there are no reference models")
    found = check_gate(comparison(*results), [Limit("auroc", 0.99)])
    assert found.passed
    assert found.not_judged == ("rmia",)
    asked = check_gate(comparison(*results, attacks=["loss", "rmia"]), [Limit("auroc", 0.99)])
    assert asked.broken == ("rmia was asked for and could not run",)


def test_a_gate_without_limits_is_refused():
    with pytest.raises(UsageError, match="at least one limit"):
        check_gate(comparison(result()), [])
