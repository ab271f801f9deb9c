import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# Two workers share two cores; more threads a worker, or a process that a test starts, only wait for each other.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
# The same examples each time: a failure belongs to the change that is tested.
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_root():
    """The folder with the real datasets; tests that need it are skipped where it is not."""
    root = Path(os.environ.get("AMINT_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (root / "MNIST" / "raw").is_dir():
        pytest.skip(f"no datasets at {root}: set AMINT_DATA to a folder with MNIST/raw")
    return root
