"""Every notebook runs from its first cell to its last."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKDIR", str(tmp_path / "run"))
    monkeypatch.setenv("STEPS", "20")
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    book = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") for cell in book.cells), "outputs are not committed"
    done = NotebookClient(book, timeout=600, resources={"metadata": {"path": str(ROOT)}}).execute()
    errors = [out for cell in done.cells for out in cell.get("outputs", ()) if out.output_type == "error"]
    assert not errors
    assert sum(bool(cell.get("outputs")) for cell in done.cells if cell.cell_type == "code") >= 6
