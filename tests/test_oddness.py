import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn.functional import avg_pool2d

from amint.blind import blind_features
from amint.datasets import mnist
from amint.errors import NonFiniteError
from amint.findings import Control
from amint.oddness import odd_samples


def rows(n, shift=0.0, seed=0, features=6):
    return np.random.default_rng([seed, n]).normal(size=(n, features)) + shift


def judged(own, known, seed=0, groups=None):
    return odd_samples(own, known, seed=seed, names=[f"{i}.png" for i in range(len(own))], groups=groups)


def test_a_strange_sample_fails_and_is_named():
    own = rows(3)
    own[1] += 20
    control = judged(own, rows(2_000, seed=1))
    assert (control.outcome, control.details["odd"], control.value) == ("failed", ["1.png"], 1 / 3)
    assert control.p_value == pytest.approx(3 / 1_001)
    assert control.sentence.startswith("1 of 3 submitted samples lies far outside the calibration data")
    assert judged(own[1:2], rows(299, seed=1)).sentence.startswith("The submitted sample lies far outside")


def test_samples_that_are_strange_only_together_fail_together():
    own = rows(8) * 2.5
    control = judged(own, rows(250, seed=1))
    assert (control.outcome, control.details["odd"]) == ("failed", [])
    assert control.sentence.startswith("Taken together, the 8 submitted samples lie outside the calibration data")


def test_the_conformal_p_value_of_one_sample_by_hand():
    own, known = rows(1), rows(400, seed=1)
    control = judged(own, known, seed=5)
    order = np.random.default_rng(5).permutation(400)
    fitted, ranked = known[order[200:]], known[order[:200]]
    z = (fitted - fitted.mean(0)) / fitted.std(0)
    inverse = np.linalg.inv(z.T @ z / 200 + 0.1 * np.eye(6))
    odd = [(one @ inverse @ one) for one in (np.r_[own, ranked] - fitted.mean(0)) / fitted.std(0)]
    assert control.p_value == pytest.approx((1 + sum(other >= odd[0] for other in odd[1:])) / 201)
    assert control.outcome == "passed"


@pytest.mark.parametrize(
    "m, n, enough",
    [(1, 299, True), (1, 298, False), (2, 499, True), (2, 498, False), (9, 1899, True), (9, 1898, False)],
)
def test_it_passes_only_where_one_odd_sample_would_have_failed(m, n, enough):
    control = judged(rows(m), rows(n, seed=1))
    assert control.outcome == ("passed" if enough else "not checked")
    needed = f"it takes {200 * m - 1}, so {200 * m + 99} in all"
    assert (needed in control.sentence) is not enough
    assert (control.details["ranked"] >= 200 * m - 1) is enough
    own = rows(m)
    own[0] = 99
    assert (judged(own, rows(n, seed=1)).details["odd"] == ["0.png"]) is enough


def test_groups_are_ranked_within():
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], 500)
    known = rng.normal(size=(1_000, 4)) * np.where(classes, 9, 1)[:, None]
    own = rng.normal(size=(1, 4)) * 9
    assert judged(own, known, groups=([1], classes)).outcome == "passed"
    assert judged(own, known, groups=([0], classes)).outcome == "failed"
    small = judged(own, known, groups=([0], np.r_[np.zeros(100, int), np.ones(900, int)]))
    assert "calibration samples of its class to rank it among, and it takes 199." in small.sentence
    unknown = judged(own, known, groups=([2], classes))
    assert (unknown.outcome, unknown.details["ranked"]) == ("not checked", 0)


def test_what_never_varied_and_what_is_constant():
    known = np.concatenate([rows(400, seed=1), np.full((400, 1), 0.25)], axis=1)
    own = np.concatenate([rows(1), [[0.25]]], axis=1)
    assert judged(own, known).outcome == "passed"
    own[0, -1] = 0.5
    assert judged(own, known).outcome == "failed"
    assert judged(np.ones((2, 3)), np.ones((900, 3))).outcome == "passed"


def test_nothing_to_compare_and_what_is_no_number():
    assert judged(rows(0), rows(300)).outcome == judged(rows(2), rows(39)).outcome == "not checked"
    with pytest.raises(NonFiniteError):
        judged(np.full((1, 6), np.nan), rows(300))


def test_it_is_json_and_the_same_each_time():
    calls = [judged(rows(m), rows(300, seed=1), seed=3) for m in (1, 1, 5)]
    assert calls[0] == calls[1]
    for control in calls:
        assert Control(**json.loads(json.dumps(asdict(control), allow_nan=False))) == control


@pytest.fixture(scope="module")
def pictures(data_root):
    x = mnist(data_root, train=False)[0][:6_000].float() / 255
    return x, blind_features(x).numpy()


def draws(features, n, m, repeats):
    rng = np.random.default_rng([n, m])
    for seed in range(repeats):
        chosen = rng.permutation(len(features))[: n + m]
        yield features[chosen[:m]], features[chosen[m:]], seed


@pytest.mark.slow
@pytest.mark.parametrize("n, m", [(299, 1), (1_000, 1), (250, 3), (1_000, 4), (2_000, 9)])
def test_digits_like_the_calibration_rarely_fail(pictures, n, m):
    """2,000 calibrations and submissions; one sample alone has one test at 0.5 %, more have two."""
    failed = sum(judged(own, known, seed).outcome == "failed" for own, known, seed in draws(pictures[1], n, m, 2_000))
    assert failed <= stats.binom.ppf(0.999, 2_000, 0.005 if m == 1 else 0.01)


@pytest.mark.slow
def test_groups_rarely_fail_whatever_their_mixture():
    """All of one class, which is odder than the others."""
    rng, failed = np.random.default_rng(0), 0
    for seed in range(2_000):
        classes = rng.choice(3, 600)
        known, own = rng.normal(size=(600, 8)) * (1 + classes)[:, None], rng.normal(size=(5, 8)) * 3
        failed += judged(own, known, seed, (np.full(5, 2), classes)).outcome == "failed"
    assert failed <= stats.binom.ppf(0.999, 2_000, 0.01)


@pytest.mark.parametrize("n, m", [(299, 1), (1_000, 1), (250, 5), (1_000, 9)])
@pytest.mark.parametrize(
    "changed, found",
    [
        (lambda x: 1 - x, 1.0),
        (torch.rand_like, 1.0),
        (lambda x: (x + 0.1 * torch.randn_like(x)).clamp(0, 1), 1.0),
        (lambda x: (x + 0.3).clamp(0, 1), 1.0),
        (lambda x: avg_pool2d(x, 3, 1, 1), 0.5),
    ],
    ids=["inverted", "noise", "pixel noise", "brighter", "blurred"],
)
def test_changed_digits_are_found(pictures, changed, found, n, m):
    features = blind_features(changed(pictures[0][:200])).numpy()
    rng = np.random.default_rng(0)
    outcomes = []
    for seed in range(20):
        known = pictures[1][200 + rng.permutation(5_800)[:n]]
        outcomes.append(judged(features[rng.permutation(200)[:m]], known, seed).outcome)
    assert outcomes.count("failed") >= 20 * found
