"""Readers turn submitted files into batches a model can judge, and say of every other file why not."""

from amint.readers.batches import ImageFiles
from amint.readers.images import Batch, ImageReader
from amint.readers.limits import Limits
from amint.readers.opening import open_submission, stamps_of
from amint.readers.rows import PROPERTY_NAMES, Properties, Rejected, Row

__all__ = [
    "PROPERTY_NAMES",
    "Batch",
    "ImageFiles",
    "ImageReader",
    "Limits",
    "Properties",
    "Rejected",
    "Row",
    "open_submission",
    "stamps_of",
]
