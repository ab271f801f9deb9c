import dataclasses
import math

import numpy as np
import pytest
from scipy import stats
from test_attacks_references import (
    EXACT,
    KNOWN,
    KNOWN_MEMBERS,
    MEMBERS,
    SCORED,
    VECTORS,
    changed,
    columns_of,
    fleet,
    rows,
)

from amint.attacks.lira import Lira
from amint.errors import UsageError
from amint.metrics import auroc
from amint.signals import Signals

VECTOR = VECTORS["lira"]
FIVE = Signals(
    {
        "scaled_logit": np.array(VECTOR["phi_target"]),
        "reference_scaled_logit": np.array(VECTOR["phi_reference"]),
        "reference_in": np.array(VECTORS["ref_in"], bool),
    }
)


def on_vectors(mode, **options):
    """The vectors pool over the samples that they score."""
    return Lira(mode, **options).fit(FIVE, np.zeros(5, bool))


@pytest.mark.parametrize(
    "entry, mode, options",
    [
        ("online_per_example", "online", {"variance": "per_example"}),
        ("online_pooled_residual", "online", {"variance": "pooled"}),
        ("online_pooled_residual", "online", {}),
        ("online_official_fixed_correct", "online", {"variance": "official", "location": "median"}),
        ("online_official_fixed_with_bug", "online", {"variance": "official_bug", "location": "median"}),
        ("offline_z", "offline", {"variance": "pooled"}),
    ],
)
def test_the_score_equals_the_reference_vectors(entry, mode, options):
    assert on_vectors(mode, **options).score(FIVE) == pytest.approx(VECTOR[entry], **EXACT)


@pytest.mark.parametrize("variance, entry", [("pooled", "pooled_residual_std"), ("official", "official_global_std")])
def test_the_pooled_spread_equals_the_reference_vectors(variance, entry):
    spread = on_vectors("online", variance=variance).spread
    assert spread.inside == pytest.approx([VECTOR[entry]["in_"]], **EXACT)
    assert spread.outside == pytest.approx([VECTOR[entry]["out"]], **EXACT)


def test_the_moments_equal_the_reference_vectors():
    """Through the offline score: 0 at the mean, 1 one standard deviation above; IN by swapping the roles."""
    inside, outside = np.array(VECTOR["mean_in"]), np.array(VECTOR["mean_out"])
    attack = on_vectors("offline", variance="per_example")
    assert attack.score(changed(FIVE, scaled_logit=outside)) == pytest.approx(0, **EXACT)
    assert attack.score(changed(FIVE, scaled_logit=outside + VECTOR["std_out"])) == pytest.approx(1, **EXACT)
    swapped = changed(FIVE, reference_in=~FIVE["reference_in"])
    assert attack.score(changed(swapped, scaled_logit=inside)) == pytest.approx(0, **EXACT)
    assert attack.score(changed(swapped, scaled_logit=inside + VECTOR["std_in"])) == pytest.approx(1, **EXACT)


def test_the_offline_score_ranks_as_the_probability_of_the_paper_without_its_ties():
    z = on_vectors("offline").score(FIVE)
    assert stats.norm.cdf(z) == pytest.approx(VECTOR["offline_prob"], **EXACT)
    assert stats.norm.logcdf(z) == pytest.approx(VECTOR["offline_logcdf"], **EXACT)
    far = changed(FIVE, scaled_logit=np.array(VECTOR["mean_out"]) + np.arange(10, 15))
    scores = on_vectors("offline").score(far)
    assert len(np.unique(stats.norm.cdf(scores))) == 1
    assert len(np.unique(scores)) == 5


def slow_lira(known, scored, mode, variance, location, nu=8.0):
    """The specification, sample by sample and query by query, through scipy's own Gaussian."""
    centre = np.mean if location == "mean" else np.median
    pooled = {}
    for hypothesis in True, False:
        groups = [
            [
                row[seen == hypothesis, query]
                for row, seen in zip(known["reference_scaled_logit_queries"], known["reference_in"], strict=True)
            ]
            for query in range(3)
        ]
        residuals = [np.concatenate([g - g.mean() for g in group]) for group in groups]
        pooled[hypothesis] = [math.sqrt(np.mean(r**2)) for r in residuals]
        if variance.startswith("official"):
            pooled[hypothesis] = [np.concatenate([g for group in groups for g in group]).std()] * 3
    if variance == "official_bug":
        pooled[False] = pooled[True]
    scores = []
    for phi, row, seen in zip(
        scored["scaled_logit_queries"], scored["reference_scaled_logit_queries"], scored["reference_in"], strict=True
    ):
        total = 0.0
        for query in range(3):
            gaussian = {}
            for hypothesis in True, False:
                values = row[seen == hypothesis, query]
                std = {
                    "per_example": values.std(),
                    "shrunk": math.sqrt(
                        (len(values) * values.var() + nu * pooled[hypothesis][query] ** 2) / (len(values) + nu)
                    ),
                }.get(variance, pooled[hypothesis][query])
                gaussian[hypothesis] = stats.norm(centre(values), std)
            if mode == "offline":
                total += (phi[query] - gaussian[False].mean()) / gaussian[False].std()
            else:
                total += gaussian[True].logpdf(phi[query]) - gaussian[False].logpdf(phi[query])
        scores.append(total)
    return np.array(scores)


@pytest.mark.parametrize("location", ["mean", "median"])
@pytest.mark.parametrize(
    "mode, variance",
    [
        *(("online", v) for v in ("per_example", "pooled", "shrunk", "official", "official_bug")),
        *(("offline", v) for v in ("per_example", "pooled", "shrunk", "official")),
    ],
)
def test_the_score_equals_loops(mode, variance, location):
    known, scored = rows(KNOWN, slice(60)), rows(SCORED, slice(15))
    attack = Lira(mode, variance, location, queries=True).fit(known, KNOWN_MEMBERS[:60])
    np.testing.assert_allclose(
        attack.score(scored), slow_lira(known, scored, mode, variance, location), rtol=1e-9, atol=1e-9
    )


def slow_port(keep, scores, target_scores, fixed, online):
    """The PyTorch port of the authors' code as its description gives it: models first, member-LOW predictions.

    Medians; per-sample and per-query std, or with ``fixed`` the std of all raw IN scores for BOTH hypotheses online
    and of all raw OUT scores offline; 1e-30 added to each std; the mean over queries of the log densities.
    """
    n = keep.shape[1]
    inside = np.array([scores[keep[:, i], i] for i in range(n)])
    outside = np.array([scores[~keep[:, i], i] for i in range(n)])
    std_in = np.std(inside) if fixed else np.std(inside, axis=1)
    std_out = np.std(inside if online else outside) if fixed else np.std(outside, axis=1)
    log_out = stats.norm.logpdf(target_scores, np.median(outside, axis=1), std_out + 1e-30)
    if not online:
        return log_out.mean(axis=1)
    log_in = stats.norm.logpdf(target_scores, np.median(inside, axis=1), std_in + 1e-30)
    return -(log_in - log_out).mean(axis=1)


def as_port(signals):
    return (
        signals["reference_in"].T,
        signals["reference_scaled_logit_queries"].transpose(1, 0, 2),
        signals["scaled_logit_queries"],
    )


@pytest.mark.parametrize("fixed, variance", [(False, "per_example"), (True, "official_bug")])
def test_the_parity_options_equal_the_port(fixed, variance):
    """The same numbers, but for three differences that are ours: the sign; a sum over queries in place of a mean; the
    fixed std is learned in fit (here on the scored samples, as in the port), so that no score depends on its batch.
    """
    attack = Lira("online", variance, "median", queries=True).fit(SCORED, MEMBERS)
    port = slow_port(*as_port(SCORED), fixed=fixed, online=True)
    np.testing.assert_allclose(attack.score(SCORED), -3 * port, rtol=1e-9, atol=1e-9)


def test_the_ports_offline_score_is_two_sided_and_ours_is_not():
    """Its density falls on both sides, so an unusually UNSURE target is called a member too."""
    attack = Lira("offline", "official", "median").fit(FIVE, np.zeros(5, bool))
    z, std = attack.score(FIVE), attack.spread.outside[0]
    two_sided = z**2 / 2 + math.log(std) + math.log(2 * math.pi) / 2
    assert two_sided == pytest.approx(VECTOR["offline_official_code_two_sided"], **EXACT)

    one_query = changed(SCORED, **{n: c[..., :1] for n, c in SCORED.columns.items() if n.endswith("_queries")})
    port = -slow_port(*as_port(one_query), fixed=True, online=False)
    ours = Lira("offline", "official", "median").fit(SCORED, MEMBERS)
    z, std = ours.score(SCORED), ours.spread.outside[0]
    np.testing.assert_allclose(z**2 / 2 + math.log(std) + math.log(2 * math.pi) / 2, port, rtol=1e-9, atol=1e-9)
    assert auroc(z, MEMBERS) > auroc(port, MEMBERS) + 0.05


def test_the_ratio_equals_that_of_given_moments():
    """PrivacyGuard takes moments from the caller: log N(x; in) - log N(x; out), member-high, one query."""
    inside, outside = SCORED["reference_in"], ~SCORED["reference_in"]
    values = SCORED["reference_scaled_logit"]
    moments = [
        (
            np.array([v[m].mean() for v, m in zip(values, mask, strict=True)]),
            np.array([v[m].std() for v, m in zip(values, mask, strict=True)]),
        )
        for mask in (inside, outside)
    ]
    given = [stats.norm.logpdf(SCORED["scaled_logit"], *pair) for pair in moments]
    ours = Lira("online", "per_example").fit(KNOWN, KNOWN_MEMBERS).score(SCORED)
    np.testing.assert_allclose(ours, given[0] - given[1], rtol=1e-9, atol=1e-9)


def test_auto_trusts_each_examples_variance_from_64_references_on():
    for k, rule in (62, "pooled"), (64, "per_example"):
        (known, known_members), (scored, _) = fleet(n=30, k=k, seed=1), fleet(n=30, k=k, seed=2)
        auto, named = (Lira("online", v).fit(known, known_members).score(scored) for v in ("auto", rule))
        np.testing.assert_array_equal(auto, named)


@pytest.mark.parametrize("k, better", [(8, "pooled"), (64, "per_example")])
def test_shrinking_is_about_as_good_as_the_better_rule(k, better):
    """Examples of different spread: few references favour one pooled variance, many each example's own."""

    def uneven(n, seed):
        rng = np.random.default_rng(seed)
        spread = 1 / np.sqrt(rng.gamma(1.5, 1 / 1.5, size=n))
        signals, is_member = fleet(n=n, k=k, q=1, seed=seed, gain=1.0)
        logit, reference = signals["scaled_logit"], signals["reference_scaled_logit"]
        scaled = columns_of(
            (logit * spread)[:, None], (reference * spread[:, None])[..., None], signals["reference_in"]
        )
        return scaled, is_member

    (known, known_members), (scored, members) = uneven(2000, 1), uneven(8000, 2)
    found = {
        v: auroc(Lira("online", v).fit(known, known_members).score(scored), members)
        for v in ("pooled", "per_example", "shrunk")
    }
    worse = "per_example" if better == "pooled" else "pooled"
    assert found[better] > found[worse] + 0.005
    assert found["shrunk"] > found[better] - 0.01


def test_shrinking_goes_from_each_examples_own_variance_to_the_pooled_one():
    def score(**options):
        return Lira("online", **options).fit(KNOWN, KNOWN_MEMBERS).score(SCORED)

    np.testing.assert_allclose(score(variance="shrunk", nu=0.0), score(variance="per_example"), rtol=1e-9)
    np.testing.assert_allclose(score(variance="shrunk", nu=1e12), score(variance="pooled"), rtol=1e-6, atol=1e-6)


def test_queries_sum():
    together = Lira("offline", queries=True).fit(KNOWN, KNOWN_MEMBERS).score(SCORED)
    alone = 0.0
    for query in range(3):
        one = [
            changed(s, **{f"{p}scaled_logit": s[f"{p}scaled_logit_queries"][..., query] for p in ("", "reference_")})
            for s in (KNOWN, SCORED)
        ]
        alone = alone + Lira("offline").fit(one[0], KNOWN_MEMBERS).score(one[1])
    np.testing.assert_allclose(together, alone, rtol=1e-12, atol=1e-12)
    assert auroc(together, MEMBERS) > auroc(Lira("offline").fit(KNOWN, KNOWN_MEMBERS).score(SCORED), MEMBERS)


def test_a_pooled_variance_needs_two_references_of_the_kind_on_some_known_sample():
    fresh, nobody = fleet(half=False)
    with pytest.raises(UsageError, match="None of the known samples had two IN references"):
        Lira("online").fit(fresh, nobody).score(SCORED)
    pairs, members = fleet(k=2)
    with pytest.raises(UsageError, match="None of the known samples had two OUT references"):
        Lira("offline").fit(pairs, members).score(pairs)
    assert np.isfinite(Lira("offline").fit(fresh, nobody).score(SCORED)).all()


def test_samples_with_one_reference_do_not_dilute_the_pooled_variance():
    single = rows(KNOWN, slice(50))
    inside = np.ones_like(single["reference_in"])
    inside[:, 0] = False
    diluted = Signals(
        {
            name: np.concatenate([KNOWN[name], inside if name == "reference_in" else single[name]])
            for name in KNOWN.columns
        }
    )
    plain = Lira("offline").fit(KNOWN, KNOWN_MEMBERS).spread
    again = Lira("offline").fit(diluted, np.zeros(450, bool)).spread
    np.testing.assert_allclose(again.outside, plain.outside, rtol=1e-12)


def test_a_variance_of_ones_own_needs_two_references():
    inside = SCORED["reference_in"].copy()
    inside[4] = np.arange(8) < 7
    attack = Lira("offline", "per_example").fit(KNOWN, KNOWN_MEMBERS)
    with pytest.raises(UsageError, match="1 of 400 samples have fewer than 2 OUT references"):
        attack.score(changed(SCORED, reference_in=inside))
    assert dataclasses.replace(attack, variance="shrunk").score(changed(SCORED, reference_in=inside)).shape == (400,)
