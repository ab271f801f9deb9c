"""A target and references that read their signals off a table, and comparisons of attacks on them."""

import numpy as np
import torch

from amint.comparison import compare
from amint.signals import Signals
from amint.testing import fake_signals


class TableTarget:
    """The first number of an input is the row of the table that holds its signals."""

    def __init__(self, signals, names):
        self.signals, self.provides, self.passes = signals, frozenset(names), 0

    def measure(self, batch, needs):
        self.passes += len(batch[0])
        return {name: self.signals[name][batch[0][:, 0].long().numpy()] for name in needs}

    def identity(self):
        return "table"


class TableFleet:
    """References from the same table; ``seen`` ``[n]`` are the rows that any of them was trained on, None for all."""

    def __init__(self, signals, seen=None):
        self.table, self.seen, self.k = signals, seen, signals["reference_in"].shape[1]
        self.provides = frozenset(name for name in signals.columns if name.startswith(("reference_", "shadow_")))

    def saw(self, marks):
        return np.ones(len(marks), bool) if self.seen is None else self.seen

    def signals(self, batches, needs, *, queries=None, classes=None, cache=None, device="cpu"):
        rows = np.concatenate([x[:, 0].long().numpy() for x, _ in batches])
        return Signals({name: self.table[name][rows] for name in needs})


def table(n_members=200, n_nonmembers=200, **world):
    """Signals, and the rows as (members, non-members), each a pair of tensors."""
    signals, is_member = fake_signals(n_members, n_nonmembers, **world)
    numbers, labels = torch.arange(len(is_member)).float(), torch.from_numpy(signals["label"])
    x = torch.stack([numbers, torch.sin(numbers)], dim=1)
    return signals, (x[is_member], labels[is_member]), (x[~is_member], labels[~is_member])


def compared(n_members=200, n_nonmembers=200, *, world=None, references=True, lacking=(), **arguments):
    """A comparison on a table."""
    signals, members, nonmembers = table(n_members, n_nonmembers, **(world or {}))
    own = {name for name in signals.columns if not name.startswith(("reference_", "shadow_"))}
    target = TableTarget(signals, own - set(lacking))
    return compare(target, members, nonmembers, fleet=TableFleet(signals) if references else None, **arguments)
