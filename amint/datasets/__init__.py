"""The datasets that demo and recipes use; nothing else in amint imports this.

What fits in memory comes as uint8 images ``[n, c, h, w]`` and int64 labels ``[n]``, with the groups of dependent images
beside them where there are any. What may not fit is a map-style dataset of one image and its label, decoded when it
is asked for, with all labels at hand as ``labels``; :func:`in_memory` makes the first out of the second.
"""

from amint.datasets.bundled import digits
from amint.datasets.characters import omniglot
from amint.datasets.cifar import cifar10
from amint.datasets.decoding import Pictures, in_memory
from amint.datasets.idx import mnist
from amint.datasets.people import faces, orl
from amint.datasets.records import Records, record_io
from amint.datasets.signs import gtsrb
from amint.datasets.tiny_images import tiny_imagenet

__all__ = [
    "Pictures",
    "Records",
    "cifar10",
    "digits",
    "faces",
    "gtsrb",
    "in_memory",
    "mnist",
    "omniglot",
    "orl",
    "record_io",
    "tiny_imagenet",
]
