import gzip
import struct

import pytest
import torch

from amint.datasets import digits, mnist
from amint.errors import InputError


def idx(shape, values):
    return b"\0\0\x08" + bytes([len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + bytes(values)


@pytest.fixture
def root(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = [i % 256 for i in range(2 * 28 * 28)]
    (raw / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx((2, 28, 28), pixels)))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(idx((2,), [7, 3]))
    return tmp_path


def test_digits_are_the_bundled_images():
    images, labels = digits()
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.uint8
    assert (int(images.min()), int(images.max())) == (0, 255)
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_mnist_reads_plain_and_compressed_files_in_place(root):
    images, labels = mnist(root, train=False)
    assert images.shape == (2, 1, 28, 28)
    assert images.flatten()[:300].tolist() == [i % 256 for i in range(300)]
    assert labels.tolist() == [7, 3]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t10k-labels-idx1-ubyte", b"", "damaged"),
        ("t10k-labels-idx1-ubyte", b"not an idx file at all", "damaged"),
        ("t10k-labels-idx1-ubyte", idx((3,), [1, 2]), "damaged"),
        ("t10k-labels-idx1-ubyte", b"\0\0\x08\xff\0\0\0\2\7\3", "damaged"),
        ("t10k-labels-idx1-ubyte", b"\0\0\x08\0\7", "damaged"),
        ("t10k-labels-idx1-ubyte", idx((3,), [1, 2, 3]), r"expected images \[n, h, w\] and labels \[n\], found"),
        ("t10k-labels-idx1-ubyte", idx((2, 1), [1, 2]), "do not belong together"),
        ("t10k-images-idx3-ubyte.gz", gzip.compress(b"abc" * 99, mtime=0)[:-9], "cannot read"),
        ("t10k-images-idx3-ubyte.gz", b"no gzip", "cannot read"),
    ],
)
def test_mnist_refuses_damaged_files(root, name, content, message):
    (root / "MNIST" / "raw" / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        mnist(root, train=False)


def test_mnist_says_where_it_looked_and_how_to_get_it(tmp_path):
    with pytest.raises(InputError, match=r"train-images.*download"):
        mnist(tmp_path, train=True)


def test_mnist_is_the_original(data_root):
    images, labels = mnist(data_root, train=False)
    assert int(images.long().sum()) == 264_923_200
    assert labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
