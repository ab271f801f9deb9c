import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets as published
from torchvision.transforms.functional import pil_to_tensor

from amint.datasets import cifar10, faces, gtsrb, in_memory, orl, tiny_imagenet
from amint.errors import InputError


def picture(seed, width=20, height=20, mode="RGB"):
    generator = np.random.default_rng(seed)
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8))


def put(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def packed(path, images, **columns):
    files = []
    for image in images:
        file = io.BytesIO()
        image.save(file, "JPEG")
        files.append(file.getvalue())
    header = files[0][:100]
    assert all(file[:100] == header for file in files)
    scans = [np.frombuffer(file[100:], np.uint8) for file in files]
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.array(column) for name, column in columns.items()}
    offsets = np.cumsum([0, *map(len, scans)]).astype(np.uint32)
    np.savez(path, header=np.frombuffer(header, np.uint8), scans=np.concatenate(scans), offsets=offsets, **arrays)
    return torch.stack([pil_to_tensor(Image.open(io.BytesIO(file))) for file in files])


@pytest.fixture
def signs(tmp_path):
    """Torchvision's layout: three classes, in two of them two tracks of three frames."""
    for label, track in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]:
        for frame in range(3):
            path = tmp_path / "gtsrb" / "GTSRB" / "Training" / f"{label:05}" / f"{track:05}_{frame:05}.ppm"
            put(path, picture(100 * label + 10 * track + frame, 15 + frame, 18 - label))
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for i, label in enumerate([2, 0, 1, 1]):
        put(tmp_path / "gtsrb" / "GTSRB" / "Final_Test" / "Images" / f"{i:05}.ppm", picture(900 + i, 30, 25))
        lines.append(f"{i:05}.ppm;30;25;5;5;25;20;{label}")
    (tmp_path / "gtsrb" / "GT-final_test.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.parametrize("train", [True, False])
def test_gtsrb_has_the_rows_of_torchvision(signs, train):
    images, labels, groups = gtsrb(signs, train=train, size=24)
    rows = list(published.GTSRB(signs, split="train" if train else "test"))
    assert labels.tolist() == [label for _, label in rows]
    resized = [pil_to_tensor(image.resize((24, 24), Image.Resampling.BICUBIC)) for image, _ in rows]
    assert torch.equal(images, torch.stack(resized))
    assert (groups is None) == (not train)


def test_the_groups_of_gtsrb_are_its_tracks(signs):
    _, labels, groups = gtsrb(signs, train=True)
    # Tracks are numbered anew in every class.
    assert groups.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert labels.tolist() == [0] * 6 + [1] * 6 + [2] * 3
    assert groups.dtype == labels.dtype == torch.int64


def test_the_packed_gtsrb_stands_in_for_training_images_only(tmp_path):
    labels, tracks = [0, 0, 3, 3, 3, 0], [4, 4, 0, 4, 4, 0]
    pixels = packed(
        tmp_path / "GTSRB" / "gtsrb_subset.npz", [picture(i) for i in range(6)], labels=np.uint8(labels), track=tracks
    )
    images, found, groups = gtsrb(tmp_path, train=True, size=20)
    assert torch.equal(images, pixels)
    assert found.tolist() == labels
    assert groups.tolist() == [1, 1, 2, 3, 3, 0]
    assert gtsrb(tmp_path, train=True)[0].shape == (6, 3, 32, 32)
    with pytest.raises(InputError, match=r"holds training images only: .*groups=groups.* or get it .*split='test'"):
        gtsrb(tmp_path, train=False)


def test_original_signs_are_preferred_to_packed_ones(signs):
    packed(signs / "GTSRB" / "gtsrb_subset.npz", [picture(0)], labels=[7], track=[7])
    assert len(gtsrb(signs, train=True)[0]) == 15


def test_damaged_signs_are_refused(signs):
    training, test = signs / "gtsrb" / "GTSRB" / "Training", signs / "gtsrb" / "GT-final_test.csv"
    content = test.read_text()
    for change in ("x", content.replace("ClassId", "Class"), content.replace(";2\n", ";two\n"), content[:150], ""):
        test.write_text(change)
        with pytest.raises(InputError):
            gtsrb(signs, train=False)
    test.write_text(content.replace("00003.ppm", "00004.ppm"))
    with pytest.raises(InputError, match=r"00004\.ppm cannot be read"):
        gtsrb(signs, train=False)
    frame = training / "00001" / "00001_00002.ppm"
    frame.write_bytes(frame.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"00001_00002\.ppm cannot be read"):
        gtsrb(signs, train=True)
    frame.rename(frame.with_name("frame.ppm"))
    with pytest.raises(InputError, match=r"not named CLASS/TRACK_FRAME\.ppm in digits"):
        gtsrb(signs, train=True)
    for train in (True, False):
        with pytest.raises(InputError, match=rf"GTSRB\(root, split='{'train' if train else 'test'}', download=True"):
            gtsrb(signs / "nowhere", train=train)


def test_the_subset_of_gtsrb_is_whole(data_root):
    if not (data_root / "GTSRB" / "gtsrb_subset.npz").is_file():
        pytest.skip(f"no GTSRB in {data_root}")
    images, labels, groups = gtsrb(data_root, train=True)
    assert images.shape == (5328, 3, 32, 32)
    assert groups.bincount().tolist() == [6] * 888
    assert labels.unique().tolist() == list(range(43))
    assert all(len(labels[groups == group].unique()) == 1 for group in range(0, 888, 10))


@pytest.mark.parametrize("train", [True, False])
def test_packed_cifar10_has_the_pixels_of_its_files(tmp_path, train):
    path = tmp_path / "CIFAR10" / ("train.npz" if train else "test.npz")
    pixels = packed(path, [picture(i, 32, 32) for i in range(5)], labels=[3, 1, 4, 1, 5])
    images, labels = cifar10(tmp_path, train=train)
    assert torch.equal(images, pixels)
    assert labels.tolist() == [3, 1, 4, 1, 5]


def test_damaged_packed_files_are_refused(tmp_path):
    path = tmp_path / "CIFAR10" / "test.npz"
    packed(path, [picture(i, 32, 32) for i in range(3)], labels=[1, 2, 3])
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for kept in generator.integers(0, len(whole), 30):
        path.write_bytes(whole[:kept])
        with pytest.raises(InputError, match=r"test\.npz"):
            cifar10(tmp_path, train=False)
    arrays = dict(np.load(io.BytesIO(whole)))
    offsets = arrays["offsets"]
    for change in (
        {"labels": [1, 2]},
        {"offsets": offsets[:-1]},
        {"offsets": offsets[::-1]},
        {"offsets": offsets + 1},
        {"offsets": [0]},
        {"offsets": [[0, 1]]},
        {"scans": arrays["scans"][:-1]},
        {"scans": arrays["scans"] * 0},
        {"labels": ["a", "b", "c"]},
        {"header": arrays["header"][:50]},
    ):
        np.savez(path, **(arrays | change))
        with pytest.raises(InputError, match=r"test\.npz"):
            cifar10(tmp_path, train=False)
    packed(path, [picture(0, 32, 32), picture(1, 32, 32)], labels=[1, 2])
    assert len(cifar10(tmp_path, train=False)[0]) == 2
    with pytest.raises(InputError, match=r"neither .*train\.npz nor CIFAR-10 .* download"):
        cifar10(tmp_path, train=True)


@pytest.fixture
def tiny(tmp_path):
    folder = tmp_path / "tiny-imagenet-200"
    wnids = ["n03", "n01", "n02"]
    for place, wnid in enumerate(wnids):
        for i in range(4):
            image = picture(10 * place + i, 64, 64, "L" if i == 1 else "RGB")
            put(folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", image, format="JPEG")
    lines = []
    for i, wnid in enumerate(["n02", "n02", "n03", "n01", "n03"]):
        put(folder / "val" / "images" / f"val_{i}.JPEG", picture(90 + i, 64, 64), format="JPEG")
        lines.append(f"val_{i}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("\n".join(wnids) + "\n")
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_tiny_imagenet_is_labelled_in_the_order_of_its_sorted_classes(tiny, workers):
    images, labels = tiny_imagenet(tiny, train=True, workers=workers)
    assert images.shape == (12, 3, 64, 64)
    assert images.dtype == torch.uint8
    assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    reference = published.ImageFolder(tiny / "tiny-imagenet-200" / "train")
    for (image, label), row, place in zip(reference, images, labels.tolist(), strict=True):
        assert torch.equal(row, pil_to_tensor(image))
        assert label == place
    # The second of each class is grey.
    assert torch.equal(images[1::4, 0], images[1::4, 2])
    assert not torch.equal(images[::4, 0], images[::4, 2])
    val, answers = tiny_imagenet(tiny, train=False)
    assert answers.tolist() == [1, 1, 2, 0, 2]
    first = tiny / "tiny-imagenet-200" / "val" / "images" / "val_0.JPEG"
    assert torch.equal(val[0], pil_to_tensor(Image.open(first)))


def test_damaged_tiny_imagenet_is_refused(tiny):
    folder = tiny / "tiny-imagenet-200"
    listed = folder / "val" / "val_annotations.txt"
    content = listed.read_text()
    for change, message in (
        (content.replace("n01", "n09"), "line 4 of .*val_annotations.txt"),
        (content.replace("\t", " "), "line 1 of"),
        (content.replace("val_3", "val_9"), r"val_9\.JPEG cannot be read"),
        ("", "is empty"),
    ):
        listed.write_text(change)
        with pytest.raises(InputError, match=message):
            tiny_imagenet(tiny, train=False)
    image = next((folder / "train" / "n02" / "images").glob("*_3.JPEG"))
    image.write_bytes(image.read_bytes()[:900])
    for workers in (0, 2):
        with pytest.raises(InputError, match=r"n02_3\.JPEG cannot be read"):
            tiny_imagenet(tiny, train=True, workers=workers)
    for image in (folder / "train" / "n01" / "images").iterdir():
        image.unlink()
    with pytest.raises(InputError, match="no images of class n01"):
        tiny_imagenet(tiny, train=True)
    with pytest.raises(InputError, match=r"wnids\.txt .*tiny-imagenet-200\.zip"):
        tiny_imagenet(tiny / "nowhere", train=True)


def test_faces_are_labelled_by_folder_at_any_depth(tmp_path):
    put(tmp_path / "s10" / "a.png", picture(0, 16, 16))
    put(tmp_path / "s2" / "2012" / "b.pgm", picture(1, 16, 16, "L"))
    put(tmp_path / "s2" / "c.jpg", picture(2, 40, 40))
    (tmp_path / "s2" / "notes.txt").write_text("no face")
    dataset = pickle.loads(pickle.dumps(faces(tmp_path, size=16)))  # noqa: S301  these are our own bytes
    assert dataset.labels.tolist() == [label for _, label in dataset] == [0, 1, 1]
    images, labels = in_memory(dataset)
    assert images.shape == (3, 3, 16, 16)
    assert labels.tolist() == [0, 1, 1]
    assert torch.equal(images[0], pil_to_tensor(picture(0, 16, 16)))
    assert sorted(path.rpartition("/")[2] for path in dataset.paths) == ["a.png", "b.pgm", "c.jpg"]
    assert torch.equal(dataset[0][0], images[0])


def test_a_block_of_images_is_filled_where_it_lies(tmp_path):
    for number in range(3):
        put(tmp_path / "anna" / f"{number}.png", picture(number, 16, 16))
    images, labels = in_memory(faces(tmp_path, size=16), device="meta")
    assert (images.device.type, images.shape, labels.device.type) == ("meta", (3, 3, 16, 16), "cpu")


def test_folders_without_faces_are_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="expected PERSON/IMAGE files in"):
            faces(folder, size=8)
    (tmp_path / "anna").mkdir()
    with pytest.raises(InputError, match="anna"):
        faces(tmp_path, size=8)
    (tmp_path / "anna" / "1.png").write_bytes(b"\x89PNG\r\n")
    with pytest.raises(InputError, match=r"1\.png cannot be read as an image"):
        in_memory(faces(tmp_path, size=8))


def test_orl_faces_are_the_original_bytes(data_root):
    if not (data_root / "ORL").is_dir():
        pytest.skip(f"no ORL in {data_root}")
    images, labels = orl(data_root)
    assert images.shape == (400, 1, 112, 92)
    assert labels.tolist() == [person for person in range(40) for _ in range(10)]
    with tarfile.open(data_root / "ORL" / "orl_faces.tar.xz") as archive:
        for person, number in [(1, 1), (2, 10), (10, 2), (40, 10)]:
            content = archive.extractfile(f"orl_faces/s{person}/{number}.pgm").read()
            assert images[10 * (person - 1) + number - 1].numpy().tobytes() == content[-112 * 92 :]


def archived(root, names):
    path = root / "ORL" / "orl_faces.tar.xz"
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w:xz") as archive:
        for i, name in enumerate(names):
            file = io.BytesIO()
            picture(i, 6, 8, "L").save(file, "PPM")
            entry = tarfile.TarInfo(name)
            entry.size = file.tell()
            archive.addfile(entry, io.BytesIO(file.getvalue()))
    return path


def test_orl_faces_stand_in_the_order_of_their_numbers(tmp_path):
    names = [f"orl_faces/s{p}/{i}.pgm" for p in range(40, 0, -1) for i in range(10, 0, -1)]
    path = archived(tmp_path, ["orl_faces/README", *names])
    images, labels = orl(tmp_path)
    assert torch.equal(images[0], pil_to_tensor(picture(400, 6, 8, "L")))
    assert torch.equal(images[-1], pil_to_tensor(picture(1, 6, 8, "L")))
    assert labels.bincount().tolist() == [10] * 40
    whole = path.read_bytes()
    for kept in range(0, len(whole) - 1, len(whole) // 15):
        path.write_bytes(whole[:kept])
        with pytest.raises(InputError, match=r"orl_faces\.tar\.xz"):
            orl(tmp_path)
    archived(tmp_path, names[1:])
    with pytest.raises(InputError, match="holds 399 faces; expected"):
        orl(tmp_path)
    with pytest.raises(InputError, match="cannot read"):
        orl(tmp_path / "nowhere")
