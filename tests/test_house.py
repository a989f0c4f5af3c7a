"""The house: layers import downward only, the host world knows no jax, and the package opens at once."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "ehrjax"

# What each room may import, beside itself. A verb (a module at the top) may import everything.
MAY_IMPORT = {
    "core": set(),
    "ingest": {"core"},
    "vocab": {"core", "ingest"},
    "metrics": {"core"},
    "viz": {"core"},
    "models": {"core"},
    "objectives": {"core"},
    "data": {"core", "ingest", "vocab"},
    "generation": {"core", "ingest", "vocab", "data", "models", "objectives"},
    "training": {"core", "vocab", "data", "objectives"},
    "evals": {"core", "ingest", "vocab", "data", "objectives", "metrics", "viz"},
    "hf": {"core", "vocab", "metrics", "data", "training"},
    "texts": {"core", "ingest", "data", "training", "evals", "hf"},
}
HOST = ("ingest", "vocab", "metrics", "viz")


def imports(path: Path) -> set[str]:
    """The rooms of ehrjax that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        found |= {name.split(".")[1] for name in names if name.startswith("ehrjax.")}
    return found


def test_imports_point_down() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert rooms == set(MAY_IMPORT)
    for room, allowed in MAY_IMPORT.items():
        for path in (PACKAGE / room).rglob("*.py"):
            wrong = {name for name in imports(path) if (PACKAGE / name).is_dir()} - allowed - {room}
            assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"
            verbs = {p.stem for p in PACKAGE.glob("*.py")} - {"__init__"}
            assert not imports(path) & verbs, f"{path.relative_to(ROOT)} imports a verb"


def python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("room", HOST)
def test_host_world_imports_without_jax(room: str) -> None:
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((PACKAGE / room).rglob("*.py"))
    ]
    out = python(f"import sys\nfor m in {modules!r}: __import__(m)\nprint('jax' in sys.modules, 'flax' in sys.modules)")
    assert out.split() == ["False", "False"]


def test_import_ehrjax_is_light() -> None:
    out = python("import sys, ehrjax\nprint(sorted({'jax', 'numpy', 'polars', 'orbax', 'grain'} & set(sys.modules)))")
    assert out.strip() == "[]"


def test_importing_the_device_world_starts_no_device() -> None:
    code = (
        "import ehrjax\nehrjax.load\n"
        "import ehrjax.data, ehrjax.training.loop, ehrjax.models.behrt, ehrjax.evals.tuning\n"
        "from jax._src import xla_bridge\nprint(xla_bridge.backends_are_initialized())"
    )
    assert python(code).strip() == "False"


def test_files_stay_readable() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 450, path
        assert not path.stem.startswith("util") and path.parent.name != "utils", path
