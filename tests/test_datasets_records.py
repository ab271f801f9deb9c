import io
import pickle
import random
import struct
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.functional import pil_to_tensor

from amint.datasets import in_memory, record_io
from amint.errors import InputError

MAGIC = (0xCED7230A).to_bytes(4, "little")


def written(payload):
    """A record as the format's own writer cuts it: at every magic number at a multiple of 4 of the payload."""
    words = [payload[i : i + 4] for i in range(0, len(payload), 4)]
    pieces = [b""]
    for word in words:
        if word == MAGIC:
            pieces.append(b"")
        else:
            pieces[-1] += word
    flags = [0] if len(pieces) == 1 else [1, *[2] * (len(pieces) - 2), 3]
    heads = [MAGIC + struct.pack("<I", flag * 2**29 + len(piece)) for flag, piece in zip(flags, pieces, strict=True)]
    return b"".join(head + piece + bytes(-len(piece) % 4) for head, piece in zip(heads, pieces, strict=True))


def content(label, image=b"", key=0):
    """Labels as MXNet packs them: one in the header, several after it."""
    if isinstance(label, list):
        return struct.pack(f"<IfQQ{len(label)}f", len(label), 0, key, 0, *label) + image
    return struct.pack("<IfQQ", 0, label, key, 0) + image


def jpeg(seed, comment=b"", size=(9, 12)):
    pixels = random.Random(seed).randbytes(3 * size[0] * size[1])
    file = io.BytesIO()
    Image.frombytes("RGB", size, pixels).save(file, "JPEG", comment=comment)
    return file.getvalue()


def save(folder, payloads, order=None):
    """A pair of files of payloads by key, the records in the given order of keys."""
    parts, lines, position = [], [], 0
    for key in order or list(payloads):
        parts.append(written(payloads[key]))
        lines.append(f"{key}\t{position}\n")
        position += len(parts[-1])
    (folder / "train.rec").write_bytes(b"".join(parts))
    (folder / "train.idx").write_text("".join(lines))
    return folder / "train.rec"


def faces(folder, images, labels):
    """What InsightFace distributes: a record of two labels, the images, a record for each person."""
    people, n = sorted(set(labels)), len(images)
    rows = {
        i + 1: content(float(label), image, i + 1) for i, (image, label) in enumerate(zip(images, labels, strict=True))
    }
    ends = {
        n + 1 + i: content([float(1 + labels.index(p)), float(1 + n - labels[::-1].index(p))])
        for i, p in enumerate(people)
    }
    return save(folder, {0: content([float(n + 1), float(n + 1 + len(people))]), **rows, **ends})


@pytest.fixture
def pair(tmp_path):
    # Of eight magic numbers five bytes apart two begin at a multiple of 4.
    images = [jpeg(i, (MAGIC + b".") * 8 if i % 3 == 0 else b"") for i in range(11)]
    labels = [0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 4]
    return faces(tmp_path, images, labels), images, labels


def pixels(image):
    return pil_to_tensor(Image.open(io.BytesIO(image)))


def test_images_come_back_bit_for_bit(pair):
    path, images, labels = pair
    dataset = record_io(path)
    assert len(dataset) == 11
    for (found, label), image, expected in zip(dataset, images, labels, strict=True):
        assert found.dtype == torch.uint8
        assert torch.equal(found, pixels(image))
        assert (label, type(label)) == (expected, int)
    assert dataset.labels.tolist() == labels
    assert dataset.labels.dtype == torch.int64
    assert dataset.shape == (3, 12, 9)


def test_some_of_these_records_have_parts(pair):
    words = struct.iter_unpack("<I", pair[0].read_bytes())
    assert {following >> 29 for (word,), (following,) in pairwise(words) if word == 0xCED7230A} == {0, 1, 2, 3}


@settings(deadline=None, max_examples=60)
@given(
    chunks=st.lists(st.sampled_from([MAGIC, MAGIC * 3, MAGIC[:2], b"a", b"bcd", b"\0"]), max_size=12),
    tail=st.binary(max_size=5),
)
def test_magic_numbers_inside_an_image_are_kept(tmp_path_factory, chunks, tail):
    image = jpeg(1, b"".join(chunks) + tail)
    # Bytes after the end of a JPEG image are allowed, here up to a magic number as the very last word.
    images = [image + MAGIC[-len(image) % 4 :], image + bytes(-len(image) % 4) + MAGIC, image]
    dataset = record_io(faces(tmp_path_factory.mktemp("pair"), images, [3, 1, 2]))
    assert all(torch.equal(found, pixels(image)) for found, _ in dataset)
    assert dataset.labels.tolist() == [3, 1, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_read_the_same_file_side_by_side(pair, workers):
    path, images, labels = pair
    dataset = record_io(path)
    _ = dataset[0]
    expected = torch.stack([pixels(image) for image in images])
    found = list(DataLoader(dataset, batch_size=2, num_workers=workers))
    assert torch.equal(torch.cat([x for x, _ in found]), expected)
    assert torch.cat([y for _, y in found]).tolist() == labels
    held, answers = in_memory(dataset, workers=workers)
    assert torch.equal(held, expected)
    assert answers.tolist() == labels


def test_a_pickled_dataset_is_the_same_one(pair):
    path, images, labels = pair
    dataset = record_io(path)
    for _ in range(2):
        again = pickle.loads(pickle.dumps(dataset))  # noqa: S301  these are our own bytes
        assert torch.equal(again[-1][0], pixels(images[-1]))
        assert again.labels.tolist() == dataset.labels.tolist() == labels


def test_without_a_first_record_of_labels_every_record_is_an_image(tmp_path):
    images = {7: jpeg(7), 2: jpeg(2), 31: jpeg(31)}
    payloads = {key: content([float(key), 0.5], image) for key, image in images.items()}
    dataset = record_io(save(tmp_path, payloads, order=[31, 2, 7]).parent)
    assert [label for _, label in dataset] == [2, 7, 31]
    assert all(torch.equal(found, pixels(images[label])) for found, label in dataset)
    payloads[0] = content(5.0, jpeg(0))
    assert record_io(save(tmp_path, payloads)).labels.tolist() == [5, 2, 7, 31]


def test_every_file_that_was_cut_short_is_refused(pair):
    path, *_ = pair
    for file in (path, path.with_suffix(".idx")):
        whole = file.read_bytes()
        for kept in range(0, len(whole) - 1, 1 if file.suffix == ".idx" else 61):
            file.write_bytes(whole[:kept])
            with pytest.raises(InputError, match=r"train\.(rec|idx)"):
                record_io(path)
        file.write_bytes(whole)
    assert len(record_io(path)) == 11


def test_garbled_files_raise_nothing_else(pair):
    path, *_ = pair
    chance = random.Random(0)
    refused = 0
    for round_ in range(200):
        file = path if round_ % 2 else path.with_suffix(".idx")
        whole = file.read_bytes()
        garbled = bytearray(whole)
        for _ in range(chance.choice([1, 3, 30])):
            place = chance.randrange(len(garbled))
            garbled[place] = chance.choice([0, 255, ord("9"), ord("\t"), ord("\n"), chance.randrange(256)])
        file.write_bytes(bytes(garbled))
        try:
            dataset = record_io(path)
            read = [lambda dataset=dataset: dataset.labels, *[lambda i=i, d=dataset: d[i] for i in range(len(dataset))]]
        except InputError:
            read, refused = [], refused + 1
        for call in read:
            try:
                call()
            except InputError:
                refused += 1
        file.write_bytes(whole)
    assert refused > 100


def broken(change):
    """A pair in which one thing is wrong: what the change makes of the payloads and of the lines of the index."""

    def make(folder):
        payloads = {0: content([4.0, 6.0])} | {i: content(float(i), jpeg(i)) for i in (1, 2, 3)} | {4: b"", 5: b""}
        payloads |= {i: content([1.0, 4.0]) for i in (4, 5)}
        change(payloads)
        return save(folder, payloads)

    return make


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda p: p.update({0: content([9.0, 11.0])}), "key 6 is missing; record 0 promises images up to key 8"),
        (lambda p: p.update({0: content([1.0, 6.0])}), r"record 0 says that images end before key 1\.0"),
        (lambda p: p.update({0: content([float("nan"), 6.0])}), "record 0 says"),
        (lambda p: p.update({0: content([3e38, 6.0])}), "record 0 says"),
        (lambda p: p.update({0: b"short"}), "record at byte 0: 5 bytes are too few for its labels"),
        (lambda p: p.update({0: struct.pack("<IfQQ", 2**32 - 1, 0, 0, 0)}), "too few for its labels"),
        (lambda p: p.update({1: content(1.5, jpeg(1))}), r"record at byte 40: expected a whole number .* 1\.5"),
        (lambda p: p.update({1: content(float("inf"), jpeg(1))}), "expected a whole number"),
        (lambda p: p.update({1: content(1e30, jpeg(1))}), "expected a whole number"),
        (lambda p: p.update({1: content(1.0, b"no image")}), r"record at byte 40 cannot be read as an image"),
        (lambda p: p.pop(2), "key 2 is missing"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        record_io(broken(change)(tmp_path))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_found_when_it_is_read(tmp_path, workers):
    dataset = record_io(
        broken(lambda p: p.update({2: content(0.0, jpeg(2)[:300]), 3: content(0.0, jpeg(3, size=(8, 8)))}))(tmp_path)
    )
    assert dataset[0][1] == 1
    with pytest.raises(InputError, match=rf"train\.rec, record at byte {dataset.positions[1]} cannot be read"):
        dataset[1]
    with pytest.raises(InputError, match=r"expected an image of the first one's shape \(3, 12, 9\), found \(3, 8, 8\)"):
        dataset[2]
    with pytest.raises(InputError, match="cannot be read as an image"):
        in_memory(dataset, workers=workers)


@pytest.mark.parametrize(
    "lines",
    ["", "0\t0\n0\t4\n", "0\t0\n1\t0\n", "0 0\n", "0\t2\n", "0\t-4\n", "0\t" + "4" * 5000, "\u0660\t0\n", "0\t4\n"],
)
def test_a_damaged_index_is_refused(pair, lines):
    pair[0].with_suffix(".idx").write_text(lines, encoding="utf-8")
    with pytest.raises(InputError, match=r"train\.(idx|rec)"):
        record_io(pair[0])


def test_missing_files_are_named(tmp_path, pair):
    with pytest.raises(InputError, match=r"nowhere\.idx"):
        record_io(tmp_path / "nowhere.rec")
    pair[0].unlink()
    with pytest.raises(InputError, match=r"cannot read .*train\.rec"):
        record_io(tmp_path)
