import ast
import doctest
import importlib
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

import amint

PACKAGE = Path(amint.__file__).parent
ROOT = PACKAGE.parent
HEAVY = {
    "lightning",
    "pytorch_lightning",
    "timm",
    "transformers",
    "matplotlib",
    "jinja2",
    "torchmetrics",
    "torchvision",
}


def heavy_after(statement):
    script = f"import sys\n{statement}\nprint(*sys.modules)"
    result = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    return HEAVY & {name.partition(".")[0] for name in result.stdout.split()}


def test_importing_amint_is_light():
    assert heavy_after("import amint") == set()
    assert heavy_after("import amint; dir(amint); amint.__all__; amint.__version__") == set()


def test_the_check_for_heavy_imports_can_fail():
    assert "jinja2" in heavy_after("import amint, jinja2")
    assert "jinja2" in heavy_after("import amint; amint.write_report")


def test_all_is_what_is_there():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    typed = [alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    typed = [name for name in typed if name not in {"annotations", "TYPE_CHECKING", "Any"}]
    assert sorted(typed) == sorted(amint.__all__)
    assert amint.__all__ == sorted(set(amint.__all__))
    assert dir(amint) == sorted([*amint.__all__, "__version__"])
    homes = {
        node.module: [alias.name for alias in node.names] for node in ast.walk(tree) if type(node) is ast.ImportFrom
    }
    for home, names in homes.items():
        for name in names if home.startswith("amint.") else ():
            assert getattr(amint, name) is getattr(importlib.import_module(home), name)
            assert name in importlib.import_module(home).__all__


@pytest.mark.parametrize("name", amint.__all__)
def test_public_names_resolve_and_are_documented(name):
    value = getattr(amint, name)
    assert value.__module__.startswith("amint.")
    # A dataclass without a docstring gets its signature for one.
    assert len(value.__doc__.split()) > 3
    assert not value.__doc__.startswith(f"{name}(")


def test_other_names_are_not_there():
    with pytest.raises(AttributeError, match="module 'amint' has no attribute 'attack'"):
        _ = amint.attack


def test_the_quick_start_runs():
    results = doctest.testmod(amint)
    assert results.attempted > 8
    assert results.failed == 0


def test_the_version_is_the_distributions():
    assert metadata.version("amint-audit") == amint.__version__


def shipped(root):
    return sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


# Without its build backend at hand, pip fetches it.
OFFLINE = find_spec("hatchling") is not None


@pytest.mark.slow
@(pytest.mark.slow if OFFLINE else pytest.mark.network)
def test_installed_into_a_fresh_environment(tmp_path):
    source, home = tmp_path / "source", tmp_path / "environment"
    source.mkdir()
    shutil.copytree(PACKAGE, source / "amint", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    how = ["--no-build-isolation"] if OFFLINE else []
    build = ["wheel", "--quiet", "--no-deps", *how, "--wheel-dir", str(tmp_path), str(source)]
    subprocess.run([sys.executable, "-m", "pip", *build], check=True)
    (wheel,) = tmp_path.glob("amint_audit-*.whl")
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    install = ["--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", *install], check=True)

    def run(*command, **environment):
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=clean | environment, check=True
        )
        return done.stdout

    # Nothing but amint is installed there.
    installed = Path(run(python, "-W", "error", "-c", "import amint; print(amint.__file__)").strip()).parent
    assert installed.is_relative_to(home)
    assert shipped(installed) == shipped(PACKAGE)
    assert (installed / "py.typed").is_file()
    # The libraries it needs are those of this environment, where amint itself is only linked to.
    libraries = {"PYTHONPATH": sysconfig.get_path("purelib")}
    assert "verify" in run(home / "bin" / "amint", "--help", **libraries)
    where = "import amint.verification; print(amint.verification.__file__)"
    assert Path(run(python, "-c", where, **libraries).strip()).parent == installed


def test_the_command_is_declared():
    (script,) = [entry for entry in metadata.entry_points(group="console_scripts") if entry.name == "amint"]
    assert script.load() is importlib.import_module("amint.cli").main
