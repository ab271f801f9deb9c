"""The SHA-256 of each sample, bit for bit as the model is fed it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, SequentialSampler

from amint.batches import Source, input_batches, is_map_style
from amint.errors import UsageError
from amint.seeding import undisturbed

__all__ = ["sample_digest", "sample_digests"]


def sample_digest(row: Tensor) -> bytes:
    """32 bytes for a row's dtype, shape and content.

    Args:
        row: without batch dimension. Its numbers are taken in the memory order of little-endian machines.
    """
    header = json.dumps([str(row.dtype), list(row.shape)]).encode()
    content = row.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(header + b"\n" + content).digest()


def sample_digests(role: str, source: Source) -> tuple[bytes, ...]:
    """One digest a row, in order; the global random state is left alone.

    Raises:
        UsageError: the rows differ each time they are read.
    """
    rows = _in_order(source)
    with undisturbed():
        if not isinstance(rows, Iterator):
            once, again = (
                [sample_digest(row) for batch in islice(input_batches(rows), 1) for row in batch] for _ in "ab"
            )
            if once != again:
                raise UsageError(
                    f"the {role} differ each time they are read, so nobody could show later what was committed: pass "
                    "them without random augmentation, and a dataset rather than a loader that draws rows at random"
                )
        return tuple(sample_digest(row) for batch in input_batches(rows) for row in batch)


def _in_order(source: Source) -> Source:
    """A loader that cuts a dataset into batches, whichever way it shuffles them, as one that takes row after row."""
    whole = (RandomSampler, SequentialSampler, DistributedSampler)
    if not isinstance(source, DataLoader) or not isinstance(source.sampler, whole) or source.batch_size is None:
        return source
    if not is_map_style(source.dataset):
        return source
    generator = torch.Generator()
    return DataLoader(
        source.dataset,
        source.batch_size,
        collate_fn=source.collate_fn,
        num_workers=source.num_workers,
        worker_init_fn=source.worker_init_fn,
        multiprocessing_context=source.multiprocessing_context,
        generator=generator,
    )
