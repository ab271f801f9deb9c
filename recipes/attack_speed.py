"""How long do the attacks with reference models take once the signals are there? Synthetic signals, seconds and memory.

python recipes/attack_speed.py                      # 50,000 samples, 50,000 known non-members, 64 references
python recipes/attack_speed.py --samples 5000 --references 16
"""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from launch import launch
from rich.console import Console
from rich.table import Table

from amint.attacks.registry import named
from amint.signals import Signals

ATTACKS = (
    "rmia-online",
    "rmia-offline",
    "informia-online",
    "informia-offline",
    "lira-online",
    "lira-offline",
    "watson",
)


def signals(n: int, references: int, seed: int) -> Signals:
    """Of ``n`` samples, each in half of the references; what was trained on has a higher probability."""
    rng = np.random.default_rng(seed)
    inside = rng.permuted(np.arange(references) < references // 2 + np.zeros((n, 1)), axis=1)
    phi = rng.normal(size=(n, references + 1)) + rng.normal(size=(n, 1))
    phi[:, 1:] += inside
    logprob = -np.logaddexp(0, -phi)
    return Signals(
        {
            "logprob": logprob[:, 0],
            "scaled_logit": phi[:, 0],
            "reference_logprob": logprob[:, 1:],
            "reference_scaled_logit": phi[:, 1:],
            "reference_in": inside,
        }
    )


def main(
    *,
    samples: int = 50_000,
    population: int = 50_000,
    references: int = 64,
    out: Path = Path("runs/attack-speed"),
    smoke: bool = False,
) -> None:
    """Fit and score every attack; print and save seconds and the peak of memory."""
    if smoke:
        samples, population, references = 2_000, 2_000, 8
    known, audited = signals(population, references, 0), signals(samples, references, 1)
    outside = np.zeros(population, np.bool_)
    found: dict[str, Any] = {"samples": samples, "population": population, "references": references, "seconds": {}}
    for name in ATTACKS:
        began = time.perf_counter()
        named(name).fit(known, outside).score(audited)
        found["seconds"][name] = round(time.perf_counter() - began, 2)
    found["peak_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    table = Table("attack", "seconds", title=f"{samples:,} samples, {population:,} known, {references} references")
    for name, seconds in found["seconds"].items():
        table.add_row(name, f"{seconds:.2f}")
    Console().print(table, f"peak memory of the process, signals and libraries included: {found['peak_mib']:,} MiB")
    out.mkdir(parents=True, exist_ok=True)
    (out / "attack_speed.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    launch(main)
