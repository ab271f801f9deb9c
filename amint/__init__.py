"""amint makes a PyTorch model auditable while it trains, and later answers one question with honest statistics:
*was this data used to train it?*

>>> import amint, torch, torch.nn.functional as F
>>> _ = torch.manual_seed(0)
>>> x, y, external, unseen = torch.randn(96, 8), torch.randint(3, (96,)), torch.randn(96, 8), torch.randn(400, 8)
>>> model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
>>> audit = amint.attach(model, split="0", external=external, balance=amint.Weighted(mint=1))
>>> optimizer = torch.optim.Adam(model.parameters(), 0.01)
>>> for _ in range(200):
...     loss = audit.loss(F.cross_entropy(model(x), y))
...     loss.backward(); optimizer.step(); optimizer.zero_grad()
>>> n = audit.calibrate(unseen[:300])
>>> amint.verify(audit, x).decision, amint.verify(audit, unseen[300:]).decision
('used', 'no evidence')
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amint.active import attach
    from amint.architecture import Architecture
    from amint.attack_results import Comparison
    from amint.audit import Audit
    from amint.auditable import Auditable
    from amint.balance import (
        Balance,
        ConflictAverse,
        GradientBalance,
        GradNorm,
        NormalisedByFirst,
        NormalisedByRunningMean,
        UncertaintyWeighting,
        Weighted,
    )
    from amint.calibration import Calibration
    from amint.commitments import Commitment, check_proof, check_roles, commit, prove
    from amint.comparison import compare
    from amint.errors import AmintError
    from amint.evidence import Evidence, Verdict
    from amint.fleet import Fleet
    from amint.gate import check_gate
    from amint.hash_register import HashRegister
    from amint.heads import HeadSize
    from amint.lightning import ActiveMint
    from amint.loading import load
    from amint.lower_bound import epsilon_lower_bound, one_run_audit
    from amint.muon import head_optimizers
    from amint.negatives import HardNegatives, Moved, horizontal_flip, one_pixel_shift
    from amint.preprocessing import Preprocessing
    from amint.readers import ImageFiles
    from amint.references import train_references
    from amint.registration import register
    from amint.report import write_report
    from amint.roles import assign_roles, check_disjoint, without
    from amint.split import tap_points
    from amint.tolerance import Reencoding, Tolerance
    from amint.verification import verify

# Loaded when first used: `import amint` must not pull in Lightning, timm or matplotlib.
_HOMES = {
    "ActiveMint": "lightning",
    "AmintError": "errors",
    "Architecture": "architecture",
    "Audit": "audit",
    "Auditable": "auditable",
    "Balance": "balance",
    "Calibration": "calibration",
    "Commitment": "commitments",
    "Comparison": "attack_results",
    "ConflictAverse": "balance",
    "Evidence": "evidence",
    "Fleet": "fleet",
    "GradNorm": "balance",
    "GradientBalance": "balance",
    "HardNegatives": "negatives",
    "HashRegister": "hash_register",
    "HeadSize": "heads",
    "ImageFiles": "readers",
    "Moved": "negatives",
    "NormalisedByFirst": "balance",
    "NormalisedByRunningMean": "balance",
    "Preprocessing": "preprocessing",
    "Reencoding": "tolerance",
    "Tolerance": "tolerance",
    "UncertaintyWeighting": "balance",
    "Verdict": "evidence",
    "Weighted": "balance",
    "assign_roles": "roles",
    "attach": "active",
    "check_disjoint": "roles",
    "check_gate": "gate",
    "check_proof": "commitments",
    "check_roles": "commitments",
    "commit": "commitments",
    "compare": "comparison",
    "epsilon_lower_bound": "lower_bound",
    "head_optimizers": "muon",
    "horizontal_flip": "negatives",
    "load": "loading",
    "one_pixel_shift": "negatives",
    "one_run_audit": "lower_bound",
    "prove": "commitments",
    "register": "registration",
    "tap_points": "split",
    "train_references": "references",
    "verify": "verification",
    "without": "roles",
    "write_report": "report",
}

__version__: str = importlib.import_module("amint.versions").VERSION

__all__ = [
    "ActiveMint",
    "AmintError",
    "Architecture",
    "Audit",
    "Auditable",
    "Balance",
    "Calibration",
    "Commitment",
    "Comparison",
    "ConflictAverse",
    "Evidence",
    "Fleet",
    "GradNorm",
    "GradientBalance",
    "HardNegatives",
    "HashRegister",
    "HeadSize",
    "ImageFiles",
    "Moved",
    "NormalisedByFirst",
    "NormalisedByRunningMean",
    "Preprocessing",
    "Reencoding",
    "Tolerance",
    "UncertaintyWeighting",
    "Verdict",
    "Weighted",
    "assign_roles",
    "attach",
    "check_disjoint",
    "check_gate",
    "check_proof",
    "check_roles",
    "commit",
    "compare",
    "epsilon_lower_bound",
    "head_optimizers",
    "horizontal_flip",
    "load",
    "one_pixel_shift",
    "one_run_audit",
    "prove",
    "register",
    "tap_points",
    "train_references",
    "verify",
    "without",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'amint' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"amint.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
