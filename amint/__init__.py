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
    from amint.active import Auditable, attach
    from amint.architecture import Architecture
    from amint.audit import Audit, load
    from amint.balance import Balance, NormalisedByFirst, NormalisedByRunningMean, Weighted
    from amint.calibration import Calibration
    from amint.errors import AmintError
    from amint.evidence import Evidence, Verdict
    from amint.lightning import ActiveMint
    from amint.negatives import HardNegatives, horizontal_flip, one_pixel_shift
    from amint.preprocessing import Preprocessing
    from amint.registration import register
    from amint.report import write_report
    from amint.roles import assign_roles, check_disjoint, without
    from amint.split import tap_points
    from amint.verification import verify

# Loaded when first used: `import amint` must not pull in Lightning, timm or matplotlib.
_HOMES = {
    "ActiveMint": "lightning",
    "AmintError": "errors",
    "Architecture": "architecture",
    "Audit": "audit",
    "Auditable": "active",
    "Balance": "balance",
    "Calibration": "calibration",
    "Evidence": "evidence",
    "HardNegatives": "negatives",
    "NormalisedByFirst": "balance",
    "NormalisedByRunningMean": "balance",
    "Preprocessing": "preprocessing",
    "Verdict": "evidence",
    "Weighted": "balance",
    "assign_roles": "roles",
    "attach": "active",
    "check_disjoint": "roles",
    "horizontal_flip": "negatives",
    "load": "audit",
    "one_pixel_shift": "negatives",
    "register": "registration",
    "tap_points": "split",
    "verify": "verification",
    "without": "roles",
    "write_report": "report",
}

__version__ = "0.1.0"

__all__ = [
    "ActiveMint",
    "AmintError",
    "Architecture",
    "Audit",
    "Auditable",
    "Balance",
    "Calibration",
    "Evidence",
    "HardNegatives",
    "NormalisedByFirst",
    "NormalisedByRunningMean",
    "Preprocessing",
    "Verdict",
    "Weighted",
    "assign_roles",
    "attach",
    "check_disjoint",
    "horizontal_flip",
    "load",
    "one_pixel_shift",
    "register",
    "tap_points",
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
