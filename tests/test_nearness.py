import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amint.branches import TapSpec
from amint.errors import UsageError
from amint.heads import HeadConfig, MintHead
from amint.losses import membership_loss
from amint.nearness import nearness

BEST = math.log(9)
FINITE = st.floats(-50, 50)


@given(FINITE)
def test_up_to_the_best_answer_a_score_is_the_logit(value):
    (score,) = nearness(torch.tensor([value], dtype=torch.float64), 0.2).tolist()
    assert score == pytest.approx(value if value <= BEST else 1.5 * BEST - value / 2, abs=1e-12)
    assert score <= BEST + 1e-12


@given(FINITE)
def test_without_smoothing_scores_are_logits(value):
    assert nearness(torch.tensor([value]), 0.0).tolist() == torch.tensor([value]).tolist()


@pytest.mark.parametrize("smoothing", [0.05, 0.2, 0.9])
def test_the_best_answer_is_the_one_that_the_loss_asks_of_members(smoothing):
    logits = torch.linspace(-8, 8, 3201, dtype=torch.float64)
    losses = torch.stack([membership_loss(torch.stack([z, z.new_zeros(())]), 1, smoothing) for z in logits])
    assert float(logits[losses.argmin()]) == pytest.approx(
        float(logits[nearness(logits, smoothing).argmax()]), abs=0.01
    )


def test_what_is_not_finite_does_not_look_like_a_member():
    scores = nearness(torch.tensor([math.inf, -math.inf, math.nan]), 0.2)
    assert scores[:2].tolist() == [-math.inf, -math.inf]
    assert scores[2].isnan()


def test_a_head_scores_the_mean_nearness_of_its_ensemble():
    """Two heads of which one is far beyond the best answer, so that their mean logit is a member's."""
    head = MintHead(HeadConfig((TapSpec("vector", 4, ()),), (8,), pool=1, hidden=8, ensemble=2)).eval()
    for one, says in ((head, 0.0), (head.others[0], 2 * BEST)):
        torch.nn.init.zeros_(one.join[-1].weight)
        torch.nn.init.constant_(one.join[-1].bias, says)
    x = torch.randn(3, 4)
    assert head.each([x]).mean(dim=1).tolist() == pytest.approx([BEST] * 3)
    assert head([x]).tolist() == pytest.approx([BEST / 4] * 3)


def test_a_head_from_before_is_read_as_it_was_taught():
    data = HeadConfig((TapSpec("vector", 4, ()),), (8,), pool=1, hidden=8).to_json()
    assert HeadConfig.from_json(data).smoothing == 0.2
    assert HeadConfig.from_json({name: value for name, value in data.items() if name != "smoothing"}).smoothing == 0
    for wrong in (1.0, -0.1, True, "0.2", math.nan, None):
        with pytest.raises(UsageError, match="not a description of a MINT head"):
            HeadConfig.from_json(data | {"smoothing": wrong})
