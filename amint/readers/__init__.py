"""Readers turn submitted files into batches a model can judge, and say of every other file why not."""

from amint.readers.files import Rejected, Row
from amint.readers.images import Batch, ImageFolderReader

__all__ = ["Batch", "ImageFolderReader", "Rejected", "Row"]
