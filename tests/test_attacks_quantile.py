import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import mean_pinball_loss

from amint.attacks.quantile import GaussianQuantile, QuantileHeads
from amint.errors import AlphaError, NonFiniteError, UsageError
from amint.metrics import auroc
from amint.signals import Signals

VECTORS = json.loads((Path(__file__).parent / "vectors" / "image_baselines.json").read_text())
BOTH = [GaussianQuantile, QuantileHeads]


def moments(x, label):
    """Mean and standard deviation of a non-member's margin: both depend on the sample and on its class."""
    return 2 * x[:, 0] - 3 * (label == 1), 0.5 + np.abs(x[:, 1]) + 0.5 * (label == 2)


def sample(n, seed, rise=0.0):
    """Margins ``rise`` standard deviations above a non-member's, features and labels."""
    draw = np.random.default_rng(seed)
    x, label = draw.normal(size=(n, 4)).astype(np.float32), draw.integers(0, 3, n)
    mean, deviation = moments(x, label)
    return Signals({"hinge": mean + deviation * (draw.normal(size=n) + rise), "features": x, "label": label})


def constant(hinge):
    """Samples that cannot be told apart but by their margin."""
    n = len(hinge)
    return Signals({"hinge": np.asarray(hinge), "features": np.ones((n, 2)), "label": np.zeros(n, np.int64)})


def joined(*parts):
    return Signals({name: np.concatenate([part[name] for part in parts]) for name in parts[0].columns})


def hard(n, seed):
    """Margins that 200 samples are too few to learn: trees fit them far better than new ones, and quantiles cross."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(n, 10))
    return Signals({"hinge": 3 * x.sum(1) + draw.normal(size=n), "features": x, "label": np.zeros(n, np.int64)})


@pytest.fixture(scope="module", params=BOTH)
def fitted(request):
    """Fitted on 4,000 non-members; the members between them must not count."""
    known = joined(sample(4000, seed=1), sample(500, seed=2, rise=30))
    return request.param().fit(known, np.arange(4500) >= 4000)


@pytest.mark.slow
@pytest.mark.parametrize("attack", BOTH)
def test_the_nominal_rate_is_realised_on_other_non_members(attack):
    """A little above nominal is the price of moments that are learned: a bias here is a deviation too small there."""
    alphas, rates = np.array([0.2, 0.1, 0.05, 0.01]), []
    for seed in range(6):
        fitted = attack().fit(sample(4000, seed), np.zeros(4000, bool))
        judged = sample(20_000, 100 + seed)
        rates.append([fitted.decide(judged, alpha).mean() for alpha in alphas])
    realised = np.mean(rates, axis=0)
    assert (realised > 0.85 * alphas).all()
    assert (realised < [0.22, 0.12, 0.07, 0.02]).all()


def test_deviations_are_those_of_new_samples_not_of_fitted_ones():
    """Residuals of the training itself would make the deviations half as large and 5 % false alarms 27 %."""
    rates = []
    for seed in range(5):
        fitted = GaussianQuantile().fit(hard(200, seed), np.zeros(200, bool))
        rates.append(fitted.decide(hard(5000, 100 + seed), 0.05).mean())
    assert 0.03 < np.mean(rates) < 0.12


@pytest.mark.parametrize("attack", BOTH)
def test_quantiles_are_those_of_the_gaussian(attack):
    """Without the factor sqrt 2 the share below the "99 % quantile" would be 95 %, five times the false alarms."""
    bug, shares = VECTORS["quantile_gaussian_bug"], []
    nominal, wrong = 1 - np.array(bug["nominal"]), 1 - np.array(bug["realised_without_sqrt2"])
    for seed in range(8):
        draw = np.random.default_rng(seed)
        fitted = attack().fit(constant(draw.normal(5, 2, 8000)), np.zeros(8000, bool))
        judged = constant(draw.normal(5, 2, 50_000))
        shares.append([fitted.decide(judged, alpha).mean() for alpha in nominal])
    realised = np.mean(shares, axis=0)
    np.testing.assert_allclose(realised, nominal, rtol=0.4)
    np.testing.assert_allclose(realised[:2], nominal[:2], rtol=0.1)
    assert (realised < nominal + 0.25 * (wrong - nominal)).all()


def test_the_size_of_the_bug_equals_the_reference_vectors():
    bug = VECTORS["quantile_gaussian_bug"]
    found = [stats.norm.cdf(stats.norm.ppf(level) / math.sqrt(2)) for level in bug["nominal"]]
    np.testing.assert_allclose(found, bug["realised_without_sqrt2"], rtol=0, atol=1e-9)


def test_scores_are_close_to_the_true_ones(fitted):
    judged = sample(4000, seed=4)
    mean, deviation = moments(judged["features"], judged["label"])
    truth = (judged["hinge"] - mean) / deviation
    assert np.corrcoef(fitted.score(judged), truth)[0, 1] > 0.9


def test_members_stand_out_only_once_the_sample_is_accounted_for(fitted):
    judged, inside = joined(sample(3000, seed=5, rise=1.5), sample(3000, seed=6)), np.arange(6000) < 3000
    assert auroc(fitted.score(judged), inside) > auroc(judged["hinge"], inside) + 0.07


def test_the_gaussian_score_is_that_of_the_constant_moments():
    draw = np.random.default_rng(0)
    hinge = draw.normal(5, 2, 4000)
    scores = GaussianQuantile().fit(constant(hinge), np.zeros(4000, bool)).score(constant([1.0, 5.0, 9.0]))
    np.testing.assert_allclose(scores, [-2, 0, 2], atol=0.1)


def test_heads_need_no_gaussian():
    """Exponential margins: the Gaussian's 1 % is 1.9 %, e^(-1 - 2.326) times the mean; the quantile itself is found."""
    draw = np.random.default_rng(0)
    known, judged = constant(draw.exponential(1, 8000)), constant(draw.exponential(1, 50_000))
    rates = [attack().fit(known, np.zeros(8000, bool)).decide(judged, 0.01).mean() for attack in BOTH]
    assert rates[0] == pytest.approx(math.exp(-1 - stats.norm.isf(0.01)), rel=0.1)
    assert rates[1] == pytest.approx(0.01, rel=0.35)


def test_heads_minimise_the_pinball_loss_of_the_reference_vectors():
    case = VECTORS["pinball"]
    targets = np.array(case["targets"])
    loss = {q: mean_pinball_loss(targets, np.full(5, float(q)), alpha=case["tau"]) for q in case["loss_at"]}
    assert loss == pytest.approx(case["loss_at"], abs=1e-12)
    assert mean_pinball_loss(targets, np.full(5, 3.0), alpha=0.5) == pytest.approx(case["loss_tau05_at_3"], abs=1e-12)
    fitted = QuantileHeads().fit(constant(np.tile(targets, 40)), np.zeros(200, bool))
    predicted = fitted.regressors[2].predict(np.array([[1.0, 1.0, 1.0]]))[0]
    assert fitted.regressors[2].quantile == case["tau"]
    assert case["minimiser_interval"][0] == pytest.approx(predicted, abs=1e-6)


@pytest.mark.parametrize("attack", BOTH)
def test_a_higher_margin_of_one_sample_is_a_higher_score(attack):
    fitted, judged, n = attack().fit(hard(200, seed=1), np.zeros(200, bool)), hard(200, seed=2), 120
    same = {name: np.repeat(judged[name], n, axis=0) for name in ("features", "label")}
    scores = fitted.score(Signals({**same, "hinge": np.tile(np.linspace(-60, 60, n), 200)}))
    assert (np.diff(scores.reshape(200, n)) > 0).all()


def test_heads_are_as_many_as_the_non_members_support():
    sizes = {n: len(QuantileHeads().fit(sample(n, seed=1), np.zeros(n, bool)).regressors) for n in (20, 99, 100, 1000)}
    assert sizes == {20: 4, 99: 5, 100: 6, 1000: 9}


@pytest.mark.parametrize("attack", BOTH)
def test_an_unseen_class_counts_as_unknown(attack):
    known = sample(200, seed=1)
    fitted = attack().fit(known, np.zeros(200, bool))
    scores = fitted.score(Signals({**known.columns, "label": np.full(200, 77)}))
    assert np.isfinite(scores).all()


@pytest.mark.parametrize("attack", BOTH)
@pytest.mark.parametrize("value", [0.0, -3.3, 1e4])
def test_constant_margins_give_one_finite_score(attack, value):
    fitted = attack().fit(constant(np.full(50, value)), np.zeros(50, bool))
    scores = fitted.score(constant(np.full(7, value)))
    assert np.isfinite(scores).all()
    assert len(set(scores)) == 1
    assert np.isfinite(fitted.score(constant([value - 1e4, value + 1e4]))).all()


def test_alphas_that_the_non_members_cannot_support_are_refused(fitted):
    judged = sample(5, seed=3)
    with pytest.raises(AlphaError, match="fitted on 4000 non-members; fit it on at least 10000"):
        fitted.decide(judged, 1e-4)
    for alpha in (0, 1, -0.1, math.nan):
        with pytest.raises(AlphaError, match="strictly between 0 and 1"):
            fitted.decide(judged, alpha)


@pytest.mark.parametrize("attack", BOTH)
def test_it_needs_known_non_members(attack):
    known = sample(30, seed=1)
    with pytest.raises(UsageError, match="at least 20 known non-members; found 30 samples and 30 labels, 19 of them"):
        attack().fit(known, np.arange(30) >= 19)
    with pytest.raises(UsageError, match="30 samples and 29 labels"):
        attack().fit(known, np.zeros(29, bool))
    with pytest.raises(UsageError, match="call fit with known non-members"):
        attack().score(known)


def test_bad_signals_are_refused(fitted):
    judged = sample(5, seed=3)
    for name, column, error, match in [
        ("features", np.full((5, 4), np.nan), NonFiniteError, "features: 20 of 20"),
        ("features", np.zeros((5, 3)), UsageError, "fitted on 7 columns .* found 6"),
        ("features", np.zeros(5), UsageError, r"floating array \[n, d\]; found shape \(5,\)"),
        ("hinge", np.full(5, np.inf), NonFiniteError, "hinge: 5 of 5"),
    ]:
        with pytest.raises(error, match=match):
            fitted.score(Signals({**judged.columns, name: column}))
