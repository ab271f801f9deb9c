"""The picture of capacity.py."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

FPR = 0.01
BITS = math.log2(1 / FPR)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """TPR by members (above: by bits) for each parameter, and bits shown by bits needed."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2), layout="constrained")
    for number, head in enumerate(dict.fromkeys(row["head"] for row in rows)):
        own, look = [row for row in rows if row["head"] == head], {"fmt": "osv^D"[number % 5] + "-", "capsize": 2}
        (tpr, low, high), at = np.array([row["tpr"] for row in own]).T, [r["members"] / r["parameters"] for r in own]
        left.errorbar(at, tpr, [tpr - low, high - tpr], label=f"{head}: {own[0]['parameters']:,} parameters", **look)
        right.errorbar(*([row[kind] for row in own] for kind in ("needed", "shown")), **look)
    right.plot(*[sorted(row["needed"] for row in rows)] * 2, ":", color="#6b7280", label="every member found")
    above = left.secondary_xaxis("top", functions=(lambda x: x * BITS, lambda x: x / BITS))
    above.set_xlabel("bits needed per head parameter")
    left.set(xscale="log", ylim=(0, 1.02), xlabel="members per head parameter", ylabel=f"TPR at {FPR:.0%} FPR")
    right.set(xscale="log", yscale="log", xlabel="bits needed per parameter", ylabel="bits shown per parameter")
    figure.legend(loc="outside upper center", ncols=3, fontsize=8)
    figure.savefig(path, dpi=150)
