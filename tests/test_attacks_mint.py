import numpy as np
import pytest
from audit_toys import audit_of, images, registered
from hypothesis import given
from hypothesis import strategies as st

from amint.attacks.mint import Mint
from amint.errors import UsageError
from amint.metrics import auroc
from amint.signals import Signals, extract
from amint.targets import AuditedModel


@pytest.fixture(scope="module")
def overfitted():
    """An audit that knows 32 members by heart."""
    return registered(images(32), images(64, seed=2), images(50, seed=3))


def scores_of(audit, *groups):
    attack = Mint()
    return [attack.score(extract(AuditedModel(audit), [x], attack.needs)) for x in groups]


def test_members_score_higher(overfitted):
    members, unseen = scores_of(overfitted, images(32), images(200, seed=4))
    labels = np.r_[np.ones(32), np.zeros(200)]
    assert auroc(np.r_[members, unseen], labels) > 0.9
    assert np.median(members) > np.quantile(unseen, 0.95)


def test_an_untrained_head_knows_nothing():
    members, unseen = scores_of(audit_of(), images(300), images(300, seed=4))
    assert 0.4 < auroc(np.r_[members, unseen], np.r_[np.ones(300), np.zeros(300)]) < 0.6


def test_the_score_is_the_heads(overfitted):
    [scores] = scores_of(overfitted, images(5))
    np.testing.assert_array_equal(scores, overfitted.read(images(5)).scores)
    # A batch of another size is summed in another order.
    np.testing.assert_allclose(scores, overfitted.score(images(5)).double(), rtol=1e-5)
    assert scores.dtype == np.float64


@given(st.lists(st.floats(-50, 50, width=32), min_size=2), st.data())
def test_a_higher_signal_is_a_higher_score(logits, data):
    column = np.array(logits, np.float32)
    i, j = data.draw(st.tuples(*[st.integers(0, len(logits) - 1)] * 2))
    scores = Mint().score(Signals({"mint_logit": column}))
    assert scores.shape == column.shape
    assert (scores[i] < scores[j]) == (column[i] < column[j])


def test_fit_learns_nothing_more():
    known = Signals({"mint_logit": np.array([3.0, -1.0, 0.5])})
    attack = Mint()
    before = attack.score(known)
    assert attack.fit(known, np.array([False, True, True])) is attack
    np.testing.assert_array_equal(attack.score(known), before)


def test_it_needs_its_signal():
    assert Mint.needs == {"mint_logit"}
    with pytest.raises(UsageError, match="no signal 'mint_logit' here"):
        Mint().score(Signals({"loss": np.zeros(3)}))
