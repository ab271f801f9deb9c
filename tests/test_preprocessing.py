import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from amint.errors import InputError, UsageError
from amint.preprocessing import Preprocessing

MODES = {
    "nearest": InterpolationMode.NEAREST,
    "bilinear": InterpolationMode.BILINEAR,
    "bicubic": InterpolationMode.BICUBIC,
    "lanczos": InterpolationMode.LANCZOS,
    "box": InterpolationMode.BOX,
}


def picture(mode="RGB", height=23, width=31, seed=0):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def wide(values, mode):
    values = np.array(values)
    kinds = {"I;16": "<u2", "I;16L": "<u2", "I;16B": ">u2", "I": "<i4", "F": "<f4"}
    return Image.frombytes(mode, values.shape[::-1], values.astype(kinds[mode]).tobytes())


def torchvision_pipeline(size, channels, mean, std, interpolation):
    to_mode = transforms.Grayscale(1) if channels == 1 else transforms.Lambda(lambda i: i.convert("RGB"))
    resize = [] if size is None else [transforms.Resize(size, MODES[interpolation])]
    return transforms.Compose([to_mode, *resize, transforms.ToTensor(), transforms.Normalize(mean, std)])


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK", "YCbCr"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("interpolation", list(MODES))
def test_equals_torchvision_bit_for_bit(mode, channels, interpolation):
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    for size in (None, (16, 40), (64, 8)):
        ours = Preprocessing(size, channels, mean, std, interpolation)(picture(mode))
        theirs = torchvision_pipeline(size, channels, mean, std, interpolation)(picture(mode))
        assert ours.dtype == torch.float32
        assert ours.is_contiguous()
        assert torch.equal(ours, theirs)


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    size=st.none() | st.tuples(st.integers(1, 40), st.integers(1, 40)),
    mean=st.floats(-2, 2),
    std=st.floats(0.01, 10),
    interpolation=st.sampled_from(list(MODES)),
    seed=st.integers(0, 1000),
)
def test_equals_torchvision_for_any_numbers(height, width, size, mean, std, interpolation, seed):
    image = picture("RGB", height, width, seed)
    ours = Preprocessing(size, 3, (mean,), (std,), interpolation)(image)
    assert torch.equal(ours, torchvision_pipeline(size, 3, (mean,) * 3, (std,) * 3, interpolation)(image))


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    more=st.integers(0, 12),
    channels=st.sampled_from([1, 3]),
    interpolation=st.sampled_from(list(MODES)),
)
def test_resizing_and_cutting_out_equals_torchvision(height, width, size, more, channels, interpolation):
    side = max(size) + more
    to_mode = transforms.Grayscale(1) if channels == 1 else transforms.Lambda(lambda i: i.convert("RGB"))
    resize = transforms.Resize(side, MODES[interpolation])
    theirs = transforms.Compose([to_mode, resize, transforms.CenterCrop(size), transforms.ToTensor()])
    image = picture("RGB", height, width, seed=1)
    ours = Preprocessing(size, channels, interpolation=interpolation, shorter_side=side)
    assert torch.equal(ours(image), theirs(image))


def test_what_is_resized_and_cut_out_is_checked():
    with pytest.raises(UsageError, match="shorter_side is of use with a size"):
        Preprocessing(shorter_side=256)
    for side in (223, 256.0, True, 10**6):
        with pytest.raises(UsageError, match="shorter_side must be a number of pixels from 224"):
            Preprocessing((224, 200), shorter_side=side)
    with pytest.raises(InputError, match="its sides differ too much: 1 x 3000 pixels"):
        Preprocessing((8, 8), shorter_side=8)(Image.new("RGB", (1, 3000)))
    older = {name: value for name, value in Preprocessing((8, 8)).to_json().items() if name != "shorter_side"}
    assert Preprocessing.from_json(older) == Preprocessing((8, 8))


def test_mean_0_and_std_1_equal_to_tensor_alone():
    assert torch.equal(Preprocessing()(picture()), transforms.ToTensor()(picture()))


def test_loads_what_image_folder_loads(tmp_path):
    from torchvision.datasets.folder import default_loader

    for mode in ("RGB", "L", "P", "RGBA", "CMYK"):
        path = tmp_path / ("cmyk.tiff" if mode == "CMYK" else f"{mode}.png")
        picture(mode).save(path)
        with Image.open(path) as image:
            assert torch.equal(Preprocessing()(image), transforms.ToTensor()(default_loader(str(path))))


def test_default_dtype_and_device_do_not_matter():
    expected = Preprocessing()(picture())
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"):
            assert torch.equal(Preprocessing()(picture()), expected)
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I", "F"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_keeps_the_high_byte(mode, channels):
    tensor, notes = Preprocessing(channels=channels).apply(wide([[0, 255, 256, 40_000, 65_535]], mode))
    assert notes == ("16-bit reduced to 8",)
    for plane in tensor:
        assert torch.equal((plane[0] * 255).round(), torch.tensor([0.0, 0.0, 1.0, 156.0, 255.0]))


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I;16L", "I"])
def test_wide_pictures_without_wide_values_are_left_to_pillow(mode):
    image = wide([[0, 7, 255]], mode)
    tensor, notes = Preprocessing().apply(image)
    assert notes == ()
    assert torch.equal(tensor, transforms.ToTensor()(image.convert("RGB")))


def test_float_pictures():
    grey = Preprocessing(channels=1)
    tensor, notes = grey.apply(wide([[0.0, 0.5, 1.0]], "F"))
    assert notes == ("float 0..1 scaled to 8-bit",)
    assert (tensor * 255).round().flatten().tolist() == [0, 128, 255]
    tensor, notes = grey.apply(wide([[0.0, 1.6, 254.7]], "F"))
    assert notes == ("float reduced to 8-bit",)
    assert (tensor * 255).round().flatten().tolist() == [0, 1, 254]


@pytest.mark.parametrize("values", [[math.nan, 1], [math.inf, 1], [-1, 3], [0, 70_000]])
def test_values_of_no_known_range_are_refused(values):
    with pytest.raises(InputError, match="fit neither 8 nor 16 bits"):
        Preprocessing()(wide([values], "F"))


def test_32_bit_integers_out_of_range_are_refused():
    with pytest.raises(InputError, match="fit neither 8 nor 16 bits"):
        Preprocessing()(wide([[0, 1 << 20]], "I"))


def test_notes():
    clear = picture("RGBA")
    clear.putalpha(9)
    opaque = picture("RGBA")
    palette = picture("P")
    palette.info["transparency"] = b"\x00\x10" * 8
    keyed = picture("L")
    keyed.info["transparency"] = 3
    colour = Preprocessing()
    assert colour.apply(clear)[1] == ("transparency dropped",)
    assert colour.apply(opaque)[1] == ()
    assert colour.apply(palette)[1] == ("transparency dropped",)
    assert colour.apply(keyed)[1] == ("transparency dropped",)
    assert colour.apply(picture("CMYK"))[1] == ("CMYK converted",)
    assert palette.info["transparency"] == b"\x00\x10" * 8, "the caller's picture is left alone"
    assert torch.equal(colour(clear), transforms.ToTensor()(clear.convert("RGB")))


@pytest.mark.parametrize("channels", [1, 3])
def test_lab_is_converted(channels):
    image = Image.frombytes("LAB", (5, 5), bytes(range(75)))
    tensor, notes = Preprocessing(channels=channels).apply(image)
    assert notes == ("LAB converted",)
    assert tensor.shape == (channels, 5, 5)


def test_what_cannot_be_converted_is_named():
    with pytest.raises(InputError, match="colour mode La cannot be converted to L"):
        Preprocessing(channels=1)(picture("RGBA").convert("LA").convert("La"))
    with pytest.raises(InputError, match="without pixels"):
        Preprocessing()(Image.new("RGB", (0, 5)))
    with pytest.raises(UsageError, match="must be a Pillow image, found ndarray"):
        Preprocessing()(np.zeros((3, 3)))


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(),
        Preprocessing((28, 30), 1, (0.1307,), (0.3081,), "nearest"),
        Preprocessing((224, 224), 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "lanczos", 256),
    ],
)
def test_json_there_and_back(preprocessing):
    value = preprocessing.to_json()
    assert Preprocessing.from_json(json.loads(json.dumps(value))) == preprocessing
    assert hash(Preprocessing.from_json(value)) == hash(preprocessing)


def test_json_is_plain_numbers():
    assert Preprocessing((2, 3), 1).to_json() == {
        "size": [2, 3],
        "channels": 1,
        "mean": [0.0],
        "std": [1.0],
        "interpolation": "bilinear",
        "shorter_side": None,
    }


def test_one_number_stands_for_every_channel():
    assert Preprocessing(mean=(0.5,), std=(0.25,)) == Preprocessing(mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.mark.parametrize(
    "field, value",
    [
        ("size", 28),
        ("size", [28]),
        ("size", [28, 28.0]),
        ("size", [True, 28]),
        ("size", [0, 28]),
        ("size", [-1, 28]),
        ("size", [28, 10**9]),
        ("size", "28"),
        ("channels", 2),
        ("channels", True),
        ("channels", 3.0),
        ("channels", [3]),
        ("channels", None),
        ("mean", 0.5),
        ("mean", None),
        ("mean", "000"),
        ("mean", [0.0, 0.0]),
        ("mean", [0.0, 0.0, "0"]),
        ("mean", [0.0, 0.0, True]),
        ("mean", [0.0, 0.0, None]),
        ("mean", [0.0, 0.0, math.nan]),
        ("mean", [0.0, 0.0, math.inf]),
        ("mean", [0.0, 0.0, 1e60]),
        ("mean", [0.0, 0.0, 10**400]),
        ("std", [1.0, 1.0, 0.0]),
        ("std", [1.0, 1.0, -1.0]),
        ("std", [1.0, 1.0, math.nan]),
        ("std", [1.0, 1.0, 1e-60]),
        ("interpolation", "bilinaer"),
        ("interpolation", 2),
        ("interpolation", None),
        ("interpolation", ["box"]),
    ],
)
def test_bad_values_name_their_field(field, value):
    with pytest.raises(UsageError, match=field):
        Preprocessing.from_json(Preprocessing().to_json() | {field: value})


def test_a_near_name_is_offered():
    with pytest.raises(UsageError, match="did you mean 'bilinear'"):
        Preprocessing(interpolation="bilinaer")


def test_json_of_the_wrong_shape():
    good = Preprocessing().to_json()
    with pytest.raises(UsageError, match=r"unknown fields \['crop'\]"):
        Preprocessing.from_json(good | {"crop": 1})
    with pytest.raises(UsageError, match=r"unknown fields \['7'\]"):
        Preprocessing.from_json(good | {7: 1})
    del good["std"]
    with pytest.raises(UsageError, match=r"lacks the fields \['std'\]"):
        Preprocessing.from_json(good)
    with pytest.raises(UsageError, match="found list"):
        Preprocessing.from_json([1])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_of_pixels_scaled_is_what_calls_give(channels):
    preprocessing = Preprocessing((20, 12), channels, (0.3,), (0.21,))
    noise = np.random.default_rng(channels).integers(0, 256, (5, 17, 31, 3), dtype=np.uint8)
    pictures = [Image.fromarray(pixels) for pixels in noise]
    pixels = torch.stack([preprocessing.pixels(picture) for picture in pictures])
    assert pixels.shape == (5, channels, 20, 12)
    assert torch.equal(preprocessing.scaled(pixels), torch.stack([preprocessing(picture) for picture in pictures]))


def test_only_bytes_of_the_right_channels_are_scaled():
    for wrong in (
        torch.zeros(2, 3, 4, 4),
        torch.zeros(2, 1, 4, 4, dtype=torch.uint8),
        torch.zeros(4, 4, dtype=torch.uint8),
    ):
        with pytest.raises(UsageError, match=r"expected uint8 \[\.\.\., 3, height, width\]"):
            Preprocessing(channels=3).scaled(wrong)
