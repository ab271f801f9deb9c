"""Two linear losses whose gradients are given, on shared parameters and on parameters of their own."""

from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Pair:
    """``task = a . shared + own``, ``mint = b . shared + 3 own``; the shared parameters are in two pieces."""

    a: torch.Tensor
    b: torch.Tensor
    pieces: tuple[nn.Parameter, nn.Parameter]
    task_own: nn.Parameter
    mint_own: nn.Parameter

    def losses(self, task=1.0, mint=1.0):
        shared = torch.cat(self.pieces)
        return (
            task + self.a @ shared + self.task_own.sum(),
            mint + self.b @ shared + 3 * self.mint_own.sum(),
        )

    def gradient(self):
        return torch.cat([piece.grad for piece in self.pieces])


def pair(a, b):
    a, b = (torch.as_tensor(v, dtype=torch.float64) for v in (a, b))
    cut = len(a) // 2
    zeros = [nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in (cut, len(a) - cut, 2, 3)]
    return Pair(a, b, (zeros[0], zeros[1]), zeros[2], zeros[3])


def conflicting(seed, size=6, ratio=1.0):
    """Two random vectors with a negative inner product, the second ``ratio`` times as long."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(2, size, dtype=torch.float64, generator=generator)
    b = b - (1 + torch.rand((), generator=generator)) * (a @ b) / (a @ a) * a if a @ b > 0 else b
    return a, b / b.norm() * a.norm() * ratio
