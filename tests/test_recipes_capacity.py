"""How many members a head remembers, small: more of them, worse remembered."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

RECIPE = Path(__file__).parents[1] / "recipes" / "capacity.py"


@pytest.mark.slow
def test_how_much_heads_remember(tmp_path):
    command = [sys.executable, RECIPE, "--smoke", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "capacity.png") as plot:
        assert min(plot.size) > 300
    rows = json.loads((tmp_path / "capacity.json").read_text())
    assert [row["head"] for row in rows] == ["frozen 32", "frozen 32", "joint 32", "joint 32"]
    for row in rows:
        assert row["head"] in " ".join(done.stdout.split())
        tpr, low, high = row["tpr"]
        assert 0 <= low <= tpr <= high <= 1
        assert row["needed"] * row["parameters"] == pytest.approx(row["members"] * math.log2(100))
        assert 0 <= row["shown"] <= row["needed"]
        assert (row["shown"] > 0) == (tpr > 0.01)
        assert row["auroc"][0] > 0.85
    # The norm of the map's 64 x 2 x 2 values, the dense layer that reads them whole, the norm of its units, the dense
    # layer behind them, and the last two layers.
    assert {row["parameters"] for row in rows} == {
        2 * 256 + (256 * 32 + 32) + 2 * 32 + (32 * 128 + 128) + (128 * 128 + 128) + 129
    }
    few, many = rows[:2]
    assert few["members"] < many["members"]
