import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from amint.errors import NonFiniteError, UsageError
from amint.lower_bound import audit_p_value, epsilon_lower_bound, one_run_audit, paired_audit


def slow_p_value(r, v, m, epsilon, delta):
    """The theorem's sum written out in plain Python, term by term."""
    right = 1 / (1 + np.exp(-epsilon))
    pmf = [stats.binom.pmf(k, r, right) for k in range(r + 1)]
    heaviest = max((sum(pmf[max(0, v - i) : v]) / i for i in range(1, m + 1)), default=0)
    return min(1, sum(pmf[v:]) + 2 * m * delta * heaviest)


def test_reference_values():
    assert epsilon_lower_bound(100, 90, 1000, 0, 0.95) == pytest.approx(1.6308, abs=5e-5)
    assert epsilon_lower_bound(100, 90, 1000, 1e-5, 0.95) == pytest.approx(1.6261, abs=5e-5)
    assert audit_p_value(100, 90, 1000, 1.0) == pytest.approx(2.7358e-5, rel=2e-5)


counts = st.integers(1, 40).flatmap(
    lambda m: st.integers(0, m).flatmap(lambda r: st.tuples(st.just(m), st.just(r), st.integers(0, r)))
)


@given(counts, st.floats(0, 8), st.sampled_from([0.0, 1e-6, 1e-3, 0.2, 1.0]))
def test_p_value_is_the_sum_written_out(sizes, epsilon, delta):
    m, r, v = sizes
    assert audit_p_value(r, v, m, epsilon, delta) == pytest.approx(slow_p_value(r, v, m, epsilon, delta), abs=1e-9)


@given(counts, st.sampled_from([0.0, 1e-6, 1e-3, 0.2]), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_bound_is_where_the_p_value_crosses_and_everything_below_is_refuted(sizes, delta, confidence):
    m, r, v = sizes
    bound = epsilon_lower_bound(r, v, m, delta, confidence)
    assert bound >= 0
    p_values = [audit_p_value(r, v, m, epsilon, delta) for epsilon in np.linspace(0, 6, 40)]
    assert (np.diff(p_values) >= -1e-12).all()
    if bound > 0:
        assert audit_p_value(r, v, m, bound * (1 + 1e-6) + 1e-9, delta) >= 1 - confidence - 1e-9
        assert audit_p_value(r, v, m, bound * (1 - 1e-6), delta) <= 1 - confidence + 1e-9
    else:
        assert audit_p_value(r, v, m, 0, delta) >= 1 - confidence


@pytest.mark.parametrize("delta", [1e-17, 1e-20, 1e-300, 5e-324])
@pytest.mark.parametrize(
    "r, v, confidence", [(8, 8, 0.95), (8, 7, 0.9), (100, 90, 0.95), (5, 4, 0.5), (1000, 999, 0.99)]
)
def test_a_delta_below_rounding_gives_the_bound_without_delta(r, v, confidence, delta):
    without = epsilon_lower_bound(r, v, r, 0.0, confidence)
    assert epsilon_lower_bound(r, v, r, delta, confidence) == pytest.approx(without, rel=1e-9)


def test_bound_grows_with_right_guesses_and_shrinks_with_delta_and_confidence():
    by_correct = [epsilon_lower_bound(200, v, 1000, 1e-5) for v in range(201)]
    assert by_correct == sorted(by_correct)
    assert by_correct[100] == 0 < by_correct[-1]
    by_delta = [epsilon_lower_bound(200, 180, 1000, delta) for delta in (0, 1e-9, 1e-6, 1e-4, 1e-2, 1)]
    assert by_delta == sorted(by_delta, reverse=True)
    assert by_delta[-1] == 0
    by_confidence = [epsilon_lower_bound(200, 180, 1000, 1e-6, c) for c in (0.5, 0.9, 0.99, 0.999999)]
    assert by_confidence == sorted(by_confidence, reverse=True)


@pytest.mark.parametrize("r", [1, 4, 5, 30, 300])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0, 3.0])
def test_level_is_kept_exactly_for_a_fixed_number_of_guesses(r, epsilon):
    """All outcomes of randomised response are summed, so nothing is left to a lucky draw."""
    chances = stats.binom.pmf(np.arange(r + 1), r, 1 / (1 + np.exp(-epsilon)))
    over = [epsilon_lower_bound(r, v, r) > epsilon for v in range(r + 1)]
    assert chances @ over <= 0.05 + 1e-12


def randomised_response(generator, m, epsilon, delta=0.0):
    """Each sample's membership told right with odds e^epsilon, and told with certainty with chance delta."""
    inside = generator.random(m) < 0.5
    told = np.where(generator.random(m) < 1 / (1 + np.exp(-epsilon)), inside, ~inside).astype(float)
    sure = generator.random(m) < delta
    return np.where(sure, np.where(inside, 2.0, -1.0), told), inside


@pytest.mark.slow
@pytest.mark.parametrize("guesses", [None, 100])
@pytest.mark.parametrize("epsilon, delta", [(0.0, 0.0), (0.5, 0.0), (2.0, 0.0), (0.5, 0.01)])
def test_bound_rarely_exceeds_the_truth(guesses, epsilon, delta):
    generator = np.random.default_rng(0)
    repeats, over, found = 3000, 0, []
    for seed in range(repeats):
        scores, inside = randomised_response(generator, 400, epsilon, delta)
        found.append(one_run_audit(scores, inside, guesses=guesses, delta=delta, seed=seed).value)
        over += found[-1] > epsilon
    # Nominal is 5 %; three standard errors of that many repeats are 1.2 %.
    assert over / repeats <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / repeats)
    if epsilon == 2 and guesses is None:
        assert np.mean(found) > 1.4


@pytest.mark.slow
@pytest.mark.parametrize("inside, outside", [(100, 100), (40, 160), (5, 5)])
@pytest.mark.parametrize("epsilon", [0.0, 0.6])
def test_pairs_keep_the_level_for_a_fixed_number_of_members(inside, outside, epsilon):
    """Replacing a member touches two answers of randomised response, so the truth is twice its epsilon."""
    generator = np.random.default_rng(1)
    labels = np.repeat([True, False], [inside, outside])
    over, repeats = 0, 2000
    for seed in range(repeats):
        told = np.where(generator.random(len(labels)) < 1 / (1 + np.exp(-epsilon)), labels, ~labels)
        bound = paired_audit(told, labels, seed=seed)
        over += bound.value > 2 * epsilon
    assert over / repeats <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / repeats)


@pytest.mark.parametrize("descending", [False, True])
def test_order_of_the_rows_is_no_evidence(descending):
    labels = np.sort(np.random.default_rng(0).random(1000) < 0.5)
    labels = labels[::-1] if descending else labels
    found = [one_run_audit(np.zeros(1000), labels, seed=seed).value for seed in range(20)]
    assert np.mean(np.array(found) > 0) <= 0.1
    found = [paired_audit(np.zeros(1000), labels, seed=seed).value for seed in range(20)]
    assert np.mean(np.array(found) > 0) <= 0.1


def test_perfect_scores_give_all_guesses_right():
    scores, labels = np.arange(1000.0), np.arange(1000) >= 500
    bound = one_run_audit(scores, labels, guesses=1000)
    assert (bound.guesses, bound.correct, bound.samples, bound.confidence) == (1000, 1000, 1000, 0.95)
    assert bound.value == pytest.approx(epsilon_lower_bound(1000, 1000, 1000))
    assert one_run_audit(-scores, labels).value == 0
    # Ten numbers of guesses were tried for this one, and paid for.
    tried = one_run_audit(scores, labels)
    assert tried.confidence == 0.95
    assert tried.value < bound.value
    odd = one_run_audit(scores, labels, guesses=7)
    assert (odd.guesses, odd.correct) == (7, 7)


def test_few_confident_guesses_beat_many_uncertain_ones():
    generator = np.random.default_rng(3)
    labels = generator.random(2000) < 0.5
    scores = generator.normal(size=2000)
    scores[:200] += np.where(labels[:200], 10, -10)
    bound = one_run_audit(scores, labels)
    assert bound.guesses < 300
    assert bound.value > 2.5 > 0.5 > one_run_audit(scores, labels, guesses=2000).value


def test_pairs_stay_inside_their_group_and_use_each_row_once():
    labels = np.array([1, 1, 1, 0, 0, 1, 0, 0, 0, 1], bool)
    groups = np.array(list("aaabbbbccc"))
    # Only b (1 member, 3 others) and c (1 and 2) have both: one pair each. The member of b is above its group's others
    # and below those of c, the member of c below its own and above those of b.
    scores = np.array([0, 0, 0, 3, 3, 4, 3, 9, 9, 5], float)
    bounds = [paired_audit(scores, labels, groups, seed=seed) for seed in range(20)]
    assert {(bound.samples, bound.guesses, bound.correct) for bound in bounds} == {(2, 2, 1)}
    powers = 2.0 ** np.arange(10) * np.where(labels, 1, -1)
    assert paired_audit(powers, labels, seed=5).correct == paired_audit(powers, labels, seed=5).samples == 5


def test_every_pair_of_perfect_scores_is_guessed_right_however_few_there_are():
    labels = np.arange(60) < 30
    bound = paired_audit(labels.astype(float), labels, guesses=30)
    assert (bound.guesses, bound.correct, bound.samples) == (30, 30, 30)
    assert bound.value == pytest.approx(epsilon_lower_bound(30, 30, 30))
    tried = paired_audit(labels.astype(float), labels)
    # 30, 15 and fewer would be 8 at least: two numbers were tried and paid for, and the larger is the better one.
    assert (tried.guesses, tried.correct) == (30, 30)
    assert tried.value == pytest.approx(epsilon_lower_bound(30, 30, 30, 0.0, 0.975))
    assert paired_audit(-labels.astype(float), labels).correct == 0


def test_the_pairs_that_lie_furthest_apart_are_guessed_first():
    labels = np.arange(2000) < 1000
    scores = np.random.default_rng(0).normal(size=2000) + np.where(np.arange(2000) < 200, 10.0, 0.0)
    bound = paired_audit(scores, labels, guesses=150)
    assert bound.correct == 150
    assert bound.value > paired_audit(scores, labels, guesses=1000).value


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((10, 11, 100), "found correct=11, guesses=10, samples=100"),
        ((101, 50, 100), "guesses=101, samples=100"),
        ((0, 0, 0), "at least one sample"),
        ((10, -1, 100), "correct=-1"),
        ((10, 5, 100, -0.1), "delta must lie between 0 and 1, found -0.1"),
        ((10, 5, 100, float("nan")), "delta"),
        ((10, 5, 100, 0, 1.0), "confidence"),
    ],
)
def test_impossible_numbers_are_refused(arguments, words):
    with pytest.raises(UsageError, match=words):
        epsilon_lower_bound(*arguments)


def test_impossible_arrays_are_refused():
    with pytest.raises(UsageError, match="found 3 and 2"):
        one_run_audit([1, 2, 3], [True, False])
    with pytest.raises(UsageError, match="found 0 and 0"):
        one_run_audit([], [])
    with pytest.raises(NonFiniteError):
        one_run_audit([1, np.nan], [True, False])
    with pytest.raises(UsageError, match="guesses=3, samples=2"):
        one_run_audit([1, 2], [True, False], guesses=3)
    with pytest.raises(UsageError, match="epsilon must be 0 or more"):
        audit_p_value(1, 1, 1, float("nan"))
    with pytest.raises(UsageError, match="no pair can be formed"):
        paired_audit([1, 2], [True, False], groups=[0, 1])
    with pytest.raises(UsageError, match="found 1 for 2 scores"):
        paired_audit([1, 2], [True, False], groups=[0])
    with pytest.raises(UsageError, match="both needed"):
        paired_audit([1, 2], [True, True])
    with pytest.raises(UsageError, match="guesses=2, samples=1"):
        paired_audit([1, 2], [True, False], guesses=2)


def test_one_row_is_no_evidence():
    assert one_run_audit([1.0], [True]).value == 0
    assert epsilon_lower_bound(0, 0, 5) == 0
