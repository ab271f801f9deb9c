import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import amint
from amint.versions import versions


def test_versions_are_those_installed():
    assert amint.__version__ == metadata.version("amint-audit")
    assert versions("torch", "numpy") == {
        "amint-audit": amint.__version__,
        "torch": metadata.version("torch"),
        "numpy": metadata.version("numpy"),
    }
    assert versions("no such library") == {"amint-audit": amint.__version__, "no such library": "unknown"}


SCRIPT = """
import sys
sys.path[:0] = sys.argv[1:3]
from importlib import metadata
try:
    metadata.version("amint-audit")
    raise SystemExit("it is installed after all")
except metadata.PackageNotFoundError:
    pass
import torch
import amint
from audit_toys import audit_of, images
audit = audit_of()
audit.calibrate(images(40, seed=5))
audit.save(sys.argv[3])
verdict = amint.verify(audit, images(5, seed=6), alpha=0.1)
print(verdict.libraries["amint-audit"])
labels = torch.arange(60) % 4
found = amint.compare(audit, (images(60), labels), (images(60, seed=7), labels), attacks=["loss"])
print(found.libraries["amint-audit"])
"""


def test_everything_works_from_a_folder_of_sources_that_is_not_installed(tmp_path):
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "amint" not in entry.name:
            (libraries / entry.name).symlink_to(entry)
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "amint").symlink_to(Path(amint.__file__).parent)
    for toys in Path(__file__).parent.glob("*_toys.py"):
        (sources / toys.name).symlink_to(toys)
    done = subprocess.run(
        [sys.executable, "-S", "-c", SCRIPT, sources, libraries, tmp_path / "model.amint"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [amint.__version__] * 2
