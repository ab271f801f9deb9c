import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import amint

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.mark.slow
def test_mnist_smoke(data_root, tmp_path):
    tiny = {"members": 64, "external": 128, "calibration": 40, "epochs": 1, "most-unseen": 50, "arch": "resnet10t"}
    options = [text for name, value in tiny.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, RECIPES / "mnist.py", "--data-root", data_root, "--out", tmp_path, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "row.json").read_text())
    assert {"plain_accuracy", "audited_accuracy", "auroc", "balanced_accuracy", "tpr_at_fpr_0.01"} <= set(row)
    assert len(amint.load(tmp_path / "model.amint").calibration.scores) == 40


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.py")), ids=lambda path: path.stem)
def test_recipes_are_short_and_use_the_public_interface(path):
    source = path.read_text()
    assert len(source.splitlines()) <= 160
    imported = [line for line in source.splitlines() if line.startswith(("from amint", "import amint"))]
    public = (
        "from amint import datasets",
        *(f"from amint.{name}" for name in ("datasets", "metrics", "report", "tolerance")),
    )
    assert all(line == "import amint" or line.startswith(public) for line in imported)
    assert importlib.util.spec_from_file_location(path.stem, path) is not None
