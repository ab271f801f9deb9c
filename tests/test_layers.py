"""Who may import whom: the drawing in the design, held to the source by reading it, not by running it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import amint

ROOT = Path(amint.__file__).parent

# Every file or folder of the package is in exactly one of these.
TRAINING = {
    "accounting",
    "active",
    "auditable",
    "balance",
    "lightning",
    "losses",
    "external",
    "head_training",
    "mixing",
    "monitoring",
    "muon",
    "negatives",
    "passes",
    "placement",
    "randomness",
    "reach",
    "registration",
    "tolerance",
}
AUDIT = {
    "attack_controls",
    "attack_runs",
    "attacks",
    "comparison",
    "dependence",
    "fleet",
    "gathering",
    "gradients",
    "hash_register",
    "identity",
    "journal",
    "judging",
    "labelled",
    "probes",
    "queries",
    "reference_files",
    "reference_notes",
    "reference_training",
    "signal_cache",
    "signals",
    "stacking",
    "subjects",
    "submission",
    "targets",
    "twins",
    "verification",
}
EDGES = {"cli", "commands", "datasets", "demo", "ml_bom", "readers", "references", "report", "testing"}
ARRAYS = {
    "arrays",
    "attack_figures",
    "attack_results",
    "calibration",
    "conditional",
    "effect",
    "errors",
    "evidence",
    "findings",
    "gate",
    "intervals",
    "items",
    "lower_bound",
    "metrics",
    "next_steps",
    "oddness",
    "power",
    "ranksum",
    "result_files",
    "set_tests",
    "spill",
    "task_accuracy",
    "texts",
    "versions",
    "wording",
}
SHARED = ARRAYS | {
    "architecture",
    "audit",
    "batches",
    "blind",
    "branches",
    "bundle",
    "bundle_files",
    "bundle_manifest",
    "bundle_words",
    "calibrating",
    "commitments",
    "controls",
    "evaluating",
    "facts",
    "graph",
    "heads",
    "history",
    "loading",
    "merkle",
    "meters",
    "near_groups",
    "nearness",
    "origin",
    "perceptual",
    "posteriors",
    "preprocessing",
    "reading",
    "rebuilding",
    "records",
    "regular_files",
    "roles",
    "seeding",
    "signing",
    "split",
    "taps",
    "training_controls",
    "whitening",
}
FRONT = {"amint"}
ALL = TRAINING | AUDIT | EDGES | SHARED

# Edges that others than the command line may use.
USED_EDGES = {("submission", "readers"), ("verification", "readers"), ("demo", "report"), ("demo", "datasets")}
NUMERICAL = {"numpy", "scipy"}


def part_of(path):
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py").replace("__init__", "amint")


def package_of(path):
    return ".".join([ROOT.name, *path.relative_to(ROOT).parts[:-1]])


def imported(source, package):
    """Dotted names of everything a source imports: at the top, inside functions, for types only, or by a string."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            first = node.args[0] if node.args else None
            if called in {"import_module", "__import__"} and isinstance(first, ast.Constant):
                yield str(first.value)


def violations(importer, source, package="amint"):
    """What this source, as part ``importer`` of the package, imports though it may not."""
    found = []
    for name in imported(source, package):
        library, _, rest = name.partition(".")
        if library != "amint":
            if importer in ARRAYS and library not in NUMERICAL | set(sys.stdlib_module_names):
                found.append(name)
            continue
        part = rest.partition(".")[0]
        part = part if part in ALL else "amint"
        if part != importer and not may_import(importer, part):
            found.append(name)
    return found


def may_import(importer, part):
    if part in EDGES | FRONT:
        speaks = importer in FRONT | {"cli", "commands"}
        return speaks or (importer, part) in USED_EDGES | {("demo", "amint")}
    if importer in ARRAYS:
        return part in ARRAYS
    if importer in SHARED:
        return part in SHARED
    if importer in TRAINING:
        return part in SHARED | TRAINING
    if importer in AUDIT:
        return part in SHARED | AUDIT
    return True


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_imports_what_it_may_not(path):
    assert violations(part_of(path), path.read_text(encoding="utf-8"), package_of(path)) == []


def test_every_part_has_one_layer():
    layers = [TRAINING, AUDIT, EDGES, SHARED, FRONT]
    assert {part_of(path) for path in FILES} == set().union(*layers)
    assert sum(map(len, layers)) == len(set().union(*layers))


@pytest.mark.parametrize(
    "importer, source",
    [
        ("active", "from amint.signals import extract"),
        ("active", "from amint.attacks.mint import Mint"),
        ("mixing", "import amint.verification as judge"),
        ("lightning", "def late():\n    from amint import targets"),
        ("balance", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from amint.signals import Signals"),
        ("reach", "from . import signals"),
        ("reach", "from .signals import Signals"),
        ("registration", "import importlib\nimportlib.import_module('amint.targets')"),
        ("signals", "from amint.active import attach"),
        ("attacks", "from amint.mixing import Mixture"),
        ("targets", "from amint import registration"),
        ("verification", "from amint.report import write_report"),
        ("audit", "from amint.auditable import Auditable"),
        ("heads", "from amint.reach import Reach"),
        ("split", "from amint.signals import Signals"),
        ("bundle", "from amint.attacks import mint"),
        ("roles", "from amint.readers.files import Row"),
        ("taps", "import amint.demo"),
        ("heads", "import amint"),
        ("active", "from amint import attach"),
        ("report", "from amint.readers import Row"),
        ("readers", "from amint.datasets import digits"),
        ("datasets", "from amint.cli import main"),
        ("demo", "from amint.cli import main"),
        ("calibration", "import torch"),
        ("metrics", "def late():\n    from torch import Tensor"),
        ("evidence", "import torchmetrics"),
        ("intervals", "import sklearn.metrics"),
        ("metrics", "from amint.split import TapPoint"),
        ("errors", "__import__('lightning')"),
    ],
)
def test_a_wrong_import_is_found(importer, source):
    assert len(violations(importer, source)) == 1


def test_a_wrong_relative_import_is_found_inside_a_folder():
    assert violations("attacks", "from ..active import attach", "amint.attacks") == ["amint.active.attach"]
    assert violations("readers", "from .. import report", "amint.readers") == ["amint.report"]
    assert violations("attacks", "from ..signals import Signals\nfrom .mint import Mint", "amint.attacks") == []


@pytest.mark.parametrize(
    "importer, source",
    [
        ("active", "from amint.mixing import Mixture\nfrom amint.heads import MintHead\nimport torch, lightning"),
        ("verification", "from amint.readers.images import ImageReader\nfrom amint.attacks.mint import Mint"),
        ("cli", "from amint.report import write_report\nfrom amint import __version__\nimport amint.active"),
        ("demo", "import amint\nfrom amint.report import write_report\nfrom amint.verification import verify"),
        ("readers", "from amint.readers.files import Row\nfrom amint.errors import InputError"),
        ("metrics", "import numpy, math\nfrom scipy import stats\nfrom amint.intervals import Interval"),
        ("bundle", "from amint.heads import MintHead\nimport torch"),
        ("amint", "from amint.active import attach\nfrom amint.verification import verify"),
    ],
)
def test_right_imports_pass(importer, source):
    assert violations(importer, source) == []


def loaded_by(statement):
    script = f"import sys\n{statement}\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in result.stdout.split()}


def test_the_statistics_run_without_torch():
    loaded = loaded_by("import " + ", ".join(f"amint.{name}" for name in sorted(ARRAYS)))
    assert {"amint", "numpy", "scipy"} <= loaded
    assert "torch" not in loaded
    assert "torch" in loaded_by("import amint.split")
