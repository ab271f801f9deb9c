"""What can be asked of a table; the rest is as recipes/grid.py has it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from grid import FULL

Names = Annotated[tuple[str, ...], Parameter(consume_multiple=True)]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is None is as recipes/grid.py has it; the last three say how a head learns, and how large it is."""

    data_root: Path
    seed: int = 0
    device: str = FULL["cifar10"].device
    smoke: bool = False
    members: int | None = None
    external: int | None = None
    calibration: int | None = None
    side: int | None = None
    batch: int | None = None
    epochs: int | None = None
    head_epochs: int | None = None
    head_lr: float | None = None
    head_hidden: int | None = None
    head_ensemble: int | None = None

    def changes(self) -> dict[str, Any]:
        """The settings that were asked for."""
        return {name: value for name, value in asdict(self).items() if value is not None}
