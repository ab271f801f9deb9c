"""Images that come with scikit-learn."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["digits"]


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's bundled handwritten digits: uint8 ``[1797, 1, 8, 8]`` (0 to 255) and labels ``[1797]``."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    grey = np.round(images * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    return torch.from_numpy(grey), torch.from_numpy(labels)
