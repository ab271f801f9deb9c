"""Does a large submission fit in memory? Verify many small images in one archive and print the peak.

python recipes/stream.py --images 100000
python recipes/stream.py --smoke                # 300 images
"""

from __future__ import annotations

import io
import json
import resource
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from launch import launch
from PIL import Image
from rich.progress import track

import amint

PREPROCESSING = amint.Preprocessing(size=(32, 32), mean=(0.5,), std=(0.25,))


def noise(n: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 ``[n, 32, 32, 3]``."""
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


def archive(folder: Path, images: int) -> Path:
    """A zip file of so many images, made once."""
    path = folder / f"{images}.zip"
    if not path.exists():
        part = path.with_suffix(".part")
        with zipfile.ZipFile(part, "w") as packed:
            for number in track(range(images), "writing", transient=True):
                held = io.BytesIO()
                Image.fromarray(noise(1, number)[0]).save(held, "PNG", compress_level=0)
                packed.writestr(f"{number:07}.png", held.getvalue())
        part.rename(path)
    return path


def peak() -> int:
    """The most memory that this process has held so far, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(
    *, images: int = 100_000, out: Path = Path("runs/stream"), network: str = "test_resnet", smoke: bool = False
) -> dict[str, Any]:
    """Make a bundle and archives of images, verify them, print seconds and peak memory."""
    images = min(images, 300) if smoke else images
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    model = timm.create_model(network, num_classes=10)
    known = torch.stack([PREPROCESSING(Image.fromarray(pixels)) for pixels in noise(1_300, images + 1)])
    audit = amint.register(model, known[:100], known[100:300], split="entry", epochs=1)
    audit.calibrate(known[300:])
    bundle = audit.save(out / "model.amint", preprocessing=PREPROCESSING)
    # What libraries take when they are first used is not the submission's.
    amint.verify(bundle, archive(out, 200))
    large, before, began = archive(out, images), peak(), time.perf_counter()
    verdict = amint.verify(bundle, large, journal=out / "journal.jsonl")
    seconds, after = time.perf_counter() - began, peak()
    (out / "journal.jsonl").unlink()
    verdict.write(out)
    found = {
        "images": len(verdict.judged),
        "seconds": round(seconds, 1),
        "peak_mib": round(after / 1024),
        "grown_mib": round((after - before) / 1024),
        "written_mib": round((peak() - before) / 1024),
    }
    (out / "stream.json").write_text(json.dumps(found), encoding="utf-8")
    return found


if __name__ == "__main__":
    launch(main)
