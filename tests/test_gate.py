from dataclasses import replace

import pytest
from comparison_values import comparison, result

from amint.errors import UsageError
from amint.gate import Limit, check_gate, parse_limit


@pytest.mark.parametrize("text, metric, most", [("auroc=0.60", "auroc", 0.6), (" epsilon = 2 ", "epsilon", 2.0)])
def test_limits_are_read(text, metric, most):
    assert parse_limit(text) == Limit(metric, most)
    assert parse_limit("tpr_at_fpr_0.001=1e-2") == Limit("tpr_at_fpr_0.001", 0.01)


@pytest.mark.parametrize("text", ["AUROC=0.6", "Balanced-Accuracy=0.6", "TPR_at_FPR_0.01=0.6", "EPSILON=0.6"])
def test_names_of_metrics_are_read_generously(text):
    assert parse_limit(text) == Limit(text.split("=")[0].lower().replace("-", "_"), 0.6)
    with pytest.raises(UsageError, match=r"did you mean auroc\?"):
        Limit("AUROC", 0.6)


@pytest.mark.parametrize("most", [0.0, 0.2, 0.5, 1.0])
def test_every_number_that_the_metric_can_have_is_a_limit(most):
    assert Limit("auroc", most).most == Limit("balanced_accuracy", most).most == Limit("tpr_at_fpr_0.1", most).most
    assert Limit("epsilon", most * 100).most == most * 100


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
        ("auroc=60", r"auroc must lie between 0 and 1, such as 0.60, not 60; found 60"),
        ("balanced_accuracy=75", r"balanced_accuracy must lie between 0 and 1, .* found 75"),
        ("tpr_at_fpr_0.01=1.001", "between 0 and 1, .* found 1.001"),
        ("auroc=-0.1", "between 0 and 1, .* found -0.1"),
        ("epsilon=-1", "epsilon must be 0 or more, found -1"),
        ("auroc=1_0", "metric=number"),
        ("auroc=0.6_0", "metric=number"),
        ("epsilon=1_0", "metric=number"),
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


def test_a_bound_on_epsilon_that_could_not_have_been_higher_passes_nothing():
    few = replace(result("loss").epsilon, value=0.0, guesses=3, correct=3, samples=3)
    made = comparison(replace(result("loss"), epsilon=few))
    [said] = check_gate(made, [Limit("epsilon", 0.1)]).broken
    assert said == "epsilon of loss cannot be judged: 3 right guesses of as many would show 0 only"
    # Of 30 pairs a perfect attack shows 2.2.
    more = comparison(replace(result("loss"), epsilon=replace(few, guesses=30, correct=15, samples=30)))
    assert check_gate(more, [Limit("epsilon", 1.5)]).passed
    assert not check_gate(more, [Limit("epsilon", 2.5)]).passed


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


def test_an_attack_on_one_model_that_did_not_run_breaks_it_only_if_it_was_asked_for():
    results = result("loss"), result("gmint", family="white box", reason="no linear layer")
    found = check_gate(comparison(*results), [Limit("auroc", 0.99)])
    assert found.passed
    assert found.not_judged == ("gmint",)
    asked = check_gate(comparison(*results, attacks=["loss", "gmint"]), [Limit("auroc", 0.99)])
    assert asked.broken == ("asked for, but could not run: gmint (no linear layer)",)


def test_an_attack_that_failed_over_some_rows_breaks_it_although_nobody_asked_for_it_by_name():
    nan, again = (
        result(name, family="white box", reason="on the audited rows: 1 row holds NaN.") for name in ("gmint", "mine")
    )
    head = replace(result("mint", family="trained in", reason="no head"), failed=True)
    made = comparison(result("loss"), replace(nan, failed=True), replace(again, failed=True), head)
    found = check_gate(made, [Limit("auroc", 0.99)])
    why = "could not run although this model gives what they need: gmint, mine (on the audited rows: 1 row holds NaN)"
    assert found.broken == (why,)
    assert found.not_judged == ("gmint", "mine", "mint")


def test_without_references_an_attack_that_needs_them_is_no_part_of_it_whatever_else_it_lacks():
    both = replace(result("salem", family="shadow model", reason="needs shadow_top3, top3: late"), failed=True)
    found = check_gate(with_references(result("loss"), both, k=0), [Limit("auroc", 0.99)])
    assert found.passed
    assert found.without_references == ("salem",)


def with_references(*results, k, attacks="all"):
    made = comparison(*results, attacks=attacks)
    return replace(made, settings=made.settings | {"references": k})


NOT_RUN = (
    result("watson", family="references", reason="needs reference_in: no model left this sample out."),
    result("rmia-online", family="references", reason="needs reference_in: no model left this sample out."),
    result("salem", family="shadow model", reason="the shadow model is too small"),
    result("gmint", family="white box", reason="no linear layer"),
)


@pytest.mark.parametrize("k", [1, 8])
def test_attacks_that_need_references_must_run_if_there_are_some(k):
    found = check_gate(with_references(result("loss"), *NOT_RUN, k=k), [Limit("auroc", 0.99)])
    assert found.broken == (
        "could not run although there are reference models: watson, rmia-online (needs reference_in: no model left "
        "this sample out); salem (the shadow model is too small)",
    )
    assert found.broken[0] in found.sentence()
    assert (found.not_judged, found.without_references) == (("watson", "rmia-online", "salem", "gmint"), ())


def test_what_could_not_be_judged_is_said_before_what_broke_a_limit():
    many = [result(f"attack {i}", 0.9) for i in range(5)]
    found = check_gate(with_references(*many, *NOT_RUN, k=2), [Limit("auroc", 0.6)])
    assert "Gate broken (auroc at most 0.6): could not run although" in found.sentence()
    assert "; and 3 more." in found.sentence()


def test_without_references_the_attacks_that_need_them_are_no_part_of_it_and_that_is_said():
    found = check_gate(with_references(result("loss"), *NOT_RUN, k=0), [Limit("auroc", 0.99)])
    assert found.passed
    assert (found.not_judged, found.without_references) == (("gmint",), ("watson", "rmia-online", "salem"))
    assert found.sentence() == (
        "Gate passed (auroc at most 0.99). Not judged: gmint. There are no reference models, so that this says nothing "
        "of watson, rmia-online, salem."
    )


def test_references_that_are_not_there_are_no_excuse_for_what_was_asked_for():
    made = with_references(result("loss"), NOT_RUN[0], k=0, attacks=["loss", "watson"])
    found = check_gate(made, [Limit("auroc", 0.99)])
    assert found.broken == ("asked for, but could not run: watson (needs reference_in: no model left this sample out)",)
    assert (found.not_judged, found.without_references) == (("watson",), ())


def test_a_comparison_that_does_not_tell_of_references_is_judged_as_with_some():
    made = comparison(result("loss"), NOT_RUN[0])
    made.settings.pop("references")
    assert not check_gate(made, [Limit("auroc", 0.99)]).passed


def test_an_attack_that_is_reliably_wrong_is_judged_with_its_scores_turned_round():
    made = comparison(result("loss", 0.146, p_value=1.0), result("rmia", 0.55))
    found = check_gate(made, [Limit("auroc", 0.6)])
    assert found.broken == (
        "auroc of loss, which ranks members below non-members, may be 0.874 with its scores turned round, above 0.6",
    )
    assert check_gate(made, [Limit("auroc", 0.88)]).passed


@pytest.mark.parametrize("auroc, passed", [(0.45, True), (0.49, True), (0.37, False), (0.479, True), (0.5, True)])
def test_an_auroc_is_turned_round_only_where_its_whole_interval_is_below_one_half(auroc, passed):
    """The interval reaches 0.02 to both sides."""
    assert check_gate(comparison(result("loss", auroc)), [Limit("auroc", 0.6)]).passed == passed
    tight = check_gate(comparison(result("loss", auroc)), [Limit("auroc", 0.52)])
    assert tight.passed == (0.48 <= auroc <= 0.5)


def test_a_limit_below_one_half_is_broken_from_both_sides():
    for auroc in (0.2, 0.45, 0.5, 0.9):
        assert not check_gate(comparison(result("loss", auroc)), [Limit("auroc", 0.4)]).passed


@pytest.mark.parametrize("metric", ["balanced_accuracy", "tpr_at_fpr_0.01", "epsilon"])
def test_other_metrics_of_an_attack_that_is_surely_wrong_cannot_be_judged(metric):
    found = check_gate(comparison(result("loss", 0.146, p_value=1.0)), [Limit(metric, 0.99)])
    assert found.broken == (f"{metric} of loss cannot be judged: members score clearly lower than non-members",)
    for auroc, p_value in ((0.47, 0.98), (0.47, None), (0.49, 1.0)):
        assert check_gate(comparison(result("loss", auroc, p_value=p_value)), [Limit(metric, 0.99)]).passed


def test_a_gate_without_limits_is_refused():
    with pytest.raises(UsageError, match="at least one limit"):
        check_gate(comparison(result()), [])


def lacking(made, name, kind, reason="it has lazy parameters."):
    """The comparison without this control of this attack, or all attacks."""
    return replace(
        made,
        controls=tuple(
            replace(c, auroc=None, p_value=None, reason=reason) if c.kind == kind and name in (c.attack, "") else c
            for c in made.controls
        ),
    )


@pytest.mark.parametrize("kind", ["untrained twin", "shuffled membership"])
def test_an_attack_without_a_control_breaks_it(kind):
    made = comparison(result("loss", 0.5), result("rmia", 0.5))
    limit = [Limit("auroc", 0.6)]
    assert check_gate(made, limit).passed
    found = check_gate(lacking(made, "rmia", kind), limit)
    assert found.broken == (f"no {kind} could be checked for rmia (it has lazy parameters)",)
    found = check_gate(lacking(made, "", kind), limit)
    assert found.broken == (f"no {kind} could be checked for any attack (it has lazy parameters)",)
    missing = replace(made, controls=tuple(c for c in made.controls if c.kind != kind))
    assert check_gate(missing, limit).broken == (f"no {kind} could be checked for any attack (it is missing)",)


def test_a_control_that_failed_breaks_it_however_low_the_figures_are():
    made = comparison(result("loss", 0.4), result("rmia", 0.4))
    failed = replace(made, controls=(replace(made.controls[0], auroc=0.2, p_value=1e-9), *made.controls[1:]))
    assert check_gate(failed, [Limit("auroc", 0.99)]).broken == ("the controls do not support the table",)


def test_controls_of_attacks_that_are_not_judged_need_not_have_run():
    made = comparison(result("loss", 0.5), result("mint", 0.9, family="trained in"))
    assert check_gate(lacking(made, "mint", "untrained twin"), [Limit("auroc", 0.6)]).passed
