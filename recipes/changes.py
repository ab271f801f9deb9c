"""What happens to pictures on their way: compression, resizing, cropping, a screen.

All take and give uint8 ``[n, c, h, w]``.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import cast

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms


def resized(x: Tensor, share: float) -> Tensor:
    """To another size and back."""
    sides = list(x.shape[-2:])
    return cast(Tensor, transforms.resize(transforms.resize(x, [round(share * side) for side in sides]), sides))


def compressed(x: Tensor, quality: int) -> Tensor:
    """Through a JPEG file."""
    files = [io.BytesIO() for _ in x]
    for picture, file in zip(x, files, strict=True):
        transforms.to_pil_image(picture).save(file, "JPEG", quality=quality)
    return torch.stack([transforms.pil_to_tensor(Image.open(file)) for file in files])


def screenshot(x: Tensor) -> Tensor:
    """Half as large again and back, a little less contrast, and noise of 4 grey levels."""
    noise = 4 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    return cast(Tensor, transforms.adjust_contrast(resized(x, 1.5), 0.95) + noise).round().clamp(0, 255).to(torch.uint8)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "JPEG 95": lambda x: compressed(x, 95),
    "JPEG 75": lambda x: compressed(x, 75),
    "resized": lambda x: resized(x, 0.75),
    "crop": lambda x: transforms.resize(x[..., 1:-1, 1:-1], list(x.shape[-2:])),
    "brightness": lambda x: transforms.adjust_brightness(x, 1.15),
    "grey": lambda x: transforms.rgb_to_grayscale(x, x.shape[1]),
    "screenshot": screenshot,
}
