"""Comparisons put together by hand, for what only reads them."""

from amint.attack_results import AttackControl, AttackResult, Comparison
from amint.lower_bound import EpsilonBound
from amint.metrics import Interval, Measurement

NEEDS_MORE = "needs at least 1000 non-members, has 300"


def result(name="loss", auroc=0.6, *, family="one model", epsilon=0.4, reason="", p_value=1e-9, width=0.02, note=""):
    """An attack whose figures all follow from its AUROC."""
    if reason:
        return AttackResult(name, family, f"About {name}.", ("logprob",), reason=reason)
    values = {
        "auroc": auroc,
        "balanced_accuracy": (auroc + 0.5) / 2,
        "tpr_at_fpr_0.1": auroc / 2,
        "tpr_at_fpr_0.01": auroc / 10,
        "tpr_at_fpr_0.001": auroc / 50,
    }
    measured = tuple(
        Measurement(key, v, Interval(max(0, v - width), min(1, v + width), 0.95), 200, 300, NEEDS_MORE * ("001" in key))
        for key, v in values.items()
    )
    bound = EpsilonBound(epsilon, 100, 80, 200, 1e-5, 0.95)
    roc = ((0.0, auroc / 50), (0.01, auroc / 10), (0.1, auroc / 2), (0.5, auroc), (1.0, 1.0))
    return AttackResult(
        name, family, f"About {name}.", ("logprob",), measured, p_value, 0.0, roc, bound, 1, 0.25, "", note
    )


def controls(*names, p_value=0.5, kinds=("untrained twin", "shuffled membership")):
    return tuple(AttackControl(kind, name, 0.51, p_value) for kind in kinds for name in names)


def comparison(*results, passed=True, notes=(), attacks="all", epsilon=0.3, **changes):
    """A comparison of these results, with controls that passed or failed."""
    names = [r.name for r in results if not r.reason]
    outside = [r for r in results if not r.reason and r.family != "trained in"]
    values = {
        "attacks": tuple(results),
        "epsilon": EpsilonBound(epsilon, 100, 80, 200, 1e-5, 0.95) if outside else None,
        "epsilon_attack": outside[0].name if outside else "",
        "controls": controls(*names, p_value=0.5 if passed else 1e-6),
        "sizes": {
            f"{use}_{side}": n
            for use, n in (("fit", 134), ("threshold", 66), ("audited", 200))
            for side in ("members", "nonmembers")
        },
        "notes": tuple(notes),
        "settings": {
            "attacks": attacks,
            "references": 4,
            "confidence": 0.95,
            "delta": 1e-5,
            "seed": 0,
            "batch_size": 256,
        },
        "target": {"model": "ToyNet", "model_sha256": "ab" * 32},
        "created": "2025-01-31T12:00:00+00:00",
        "libraries": {"amint-audit": "0.1.0", "torch": "2.9.1"},
        "seconds": {"passes": 1.5, "all": 3.25},
    }
    return Comparison(**(values | changes))
