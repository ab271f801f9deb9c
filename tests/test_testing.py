import doctest

import numpy as np
import pytest

import amint.testing
from amint.attacks import registry
from amint.metrics import auroc
from amint.testing import PropertyFailure, check_attack, fake_signals


class Sound:
    """The difference to the mean of the references: an attack that lacks nothing."""

    name = "sound"
    needs = frozenset({"logprob", "reference_logprob"})

    def fit(self, known, is_member):
        return self

    def score(self, signals):
        return signals["logprob"] - signals["reference_logprob"].mean(axis=1)


def test_a_sound_attack_passes():
    check_attack(Sound())


def test_the_documentation_is_an_attack_in_under_20_lines_that_passes():
    found = doctest.testmod(amint.testing)
    assert found.attempted >= 4
    assert found.failed == 0


@pytest.mark.parametrize("name", registry.names(variants=True))
def test_every_attack_of_the_package_has_all_properties(name):
    check_attack(registry.named(name))


class Nameless(Sound):
    name = ""


class NeedsAList(Sound):
    needs = ["logprob"]  # noqa: RUF012


class NeedsTheUnknown(Sound):
    needs = frozenset({"logprop"})


class FitGivesNothing(Sound):
    def fit(self, known, is_member):
        pass


class Inverted(Sound):
    def score(self, signals):
        return -super().score(signals)


class Guessing(Sound):
    def score(self, signals):
        return np.zeros(len(signals))


class Infinite(Sound):
    def score(self, signals):
        return np.where(super().score(signals) > 0, np.inf, 0)


class TooFew(Sound):
    def score(self, signals):
        return super().score(signals)[:-1]


class AList(Sound):
    def score(self, signals):
        return super().score(signals).tolist()


class TwoColumns(Sound):
    def score(self, signals):
        return super().score(signals)[:, None]


class Centred(Sound):
    """Depends on the batch."""

    def score(self, signals):
        return super().score(signals) - super().score(signals).mean()


class ByPlace(Sound):
    def score(self, signals):
        return super().score(signals) + 0.01 * np.arange(len(signals))


class Tiebreaking(Sound):
    """Adds so little that nothing but ties can show it."""

    def score(self, signals):
        return super().score(signals) + 1e-12 * np.arange(len(signals))


class Scribbling(Sound):
    def score(self, signals):
        signals["logprob"][0] = -1
        return super().score(signals)


class ScribblingInFit(Sound):
    def fit(self, known, is_member):
        is_member[:] = ~is_member
        return self


class Drawing(Sound):
    def fit(self, known, is_member):
        self.noise = np.random.default_rng().normal()
        return self

    def score(self, signals):
        return super().score(signals) + self.noise


class DrawingFromEverybody(Sound):
    def fit(self, known, is_member):
        np.random.random()  # noqa: NPY002
        return self


class Cheating(Sound):
    """Knows the make-believe members of the last call whatever the signals say."""

    def score(self, signals):
        n = len(signals)
        return super().score(signals) if n != 400 else super().score(signals) + 3 * self.flags_of(signals)

    def flags_of(self, signals):
        for seed in (2, 4):
            for gain in (0.0, 3.0):
                world, flags = fake_signals(gain=gain, seed=seed)
                if np.array_equal(world["logprob"], signals["logprob"]):
                    return flags
        return np.zeros(len(signals))


FAULTY = {
    "interface": [Nameless, NeedsAList, NeedsTheUnknown, FitGivesNothing],
    "orientation": [Inverted, Guessing],
    "scores": [Infinite, TooFew, AList, TwoColumns],
    "batch": [Centred],
    "equivariance": [ByPlace],
    "ties": [Tiebreaking],
    "inputs": [Scribbling, ScribblingInFit],
    "repeatable": [Drawing],
    "random": [DrawingFromEverybody],
}


@pytest.mark.parametrize("property, faulty", [(p, attack) for p, attacks in FAULTY.items() for attack in attacks])
def test_each_fault_is_named(property, faulty):
    with pytest.raises(PropertyFailure, match=f"^{property}: ") as caught:
        check_attack(faulty())
    assert caught.value.property == property
    assert isinstance(caught.value, AssertionError)


def test_an_attack_that_finds_members_where_there_are_none_is_found():
    with pytest.raises(PropertyFailure) as caught:
        check_attack(Cheating())
    assert caught.value.property in {"null", "equivariance"}


def test_hints_help():
    with pytest.raises(PropertyFailure, match="turn the sign"):
        check_attack(Inverted())
    with pytest.raises(PropertyFailure, match=r"no signal 'logprop'; near names: \['logprob'"):
        check_attack(NeedsTheUnknown())


def test_a_world_of_ones_own():
    def world(gain, seed):
        generator = np.random.default_rng(seed)
        flags = generator.random(300) < 0.5
        from amint.signals import Signals

        return Signals({"temperature": generator.normal(gain * flags)}), flags

    class Thermometer(Sound):
        needs = frozenset({"temperature"})

        def score(self, signals):
            return signals["temperature"]

    check_attack(Thermometer(), world)
    with pytest.raises(PropertyFailure, match="no signal 'temperature'"):
        check_attack(Thermometer())


def test_fake_signals_are_what_was_asked_for():
    signals, flags = fake_signals(30, 50, 6, seed=2, classes=7, queries=3)
    assert len(signals) == len(flags) == 80
    assert flags.sum() == 30
    assert signals["reference_logprob"].shape == signals["reference_in"].shape == (80, 6)
    assert signals["reference_logprob_queries"].shape == (80, 6, 3)
    assert (signals["reference_in"].sum(axis=1) == 3).all()
    assert signals["gradient"].shape == (80, 7 * (6 + 1))
    assert set(signals["label"]) <= set(range(7))
    assert signals["logprob"].max() <= 0
    np.testing.assert_array_equal(signals["logprob"], signals["logprob_queries"][:, 0])
    again, _ = fake_signals(30, 50, 6, seed=2, classes=7, queries=3)
    assert all(np.array_equal(column, again[name]) for name, column in signals.columns.items())
    assert "reference_in" in fake_signals(k=2)[0].columns


def test_fake_signals_have_every_signal_that_an_attack_needs():
    signals, _ = fake_signals()
    needed = frozenset().union(*(registry.named(name).needs for name in registry.names(variants=True)))
    assert needed <= set(signals.columns)


def test_gain_is_what_training_adds():
    found = [auroc(signals["logprob"], flags) for signals, flags in (fake_signals(gain=g) for g in (0.0, 1.0, 4.0))]
    assert abs(found[0] - 0.5) < 0.1
    assert found == sorted(found)
    assert found[-1] > 0.85
