"""On Spark: the same functions, the same bytes, the same messages."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ehrjax.ingest import meds
from tests.conftest import refused, run_verb

RECIPE = "--config=configs/tokens/behrt.py"
pytestmark = pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java")


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_bytes_and_the_same_refusals(toy_meds: Path, tmp_path: Path) -> None:
    env = {"SPARK_MASTER": "local[2]"}
    for engine in ("local", "spark"):
        result = run_verb(
            "prepare",
            "tokens",
            RECIPE,
            f"--input={toy_meds}",
            f"--output={tmp_path / engine}",
            f"--engine={engine}",
            env=env,
        )
        assert result.returncode == 0, result.stderr
    assert content(tmp_path / "spark") == content(tmp_path / "local")

    broken = Path(shutil.copytree(toy_meds, tmp_path / "broken"))
    splits = broken / "metadata" / "subject_splits.parquet"
    import polars as pl

    pl.read_parquet(splits).head(10).write_parquet(splits)
    assert len(meds.open_dataset(broken).splits) == 10
    said = refused(
        "prepare", "tokens", RECIPE, f"--input={broken}", f"--output={tmp_path / 'new'}", "--engine=spark", env=env
    )
    assert "subject_splits.parquet does not list" in said
    assert not (tmp_path / "new").exists() and not (tmp_path / ".new.partial").exists()


def test_an_unknown_engine_is_refused(toy_meds: Path, tmp_path: Path) -> None:
    given = f"--input={toy_meds}", f"--output={tmp_path / 'new'}"
    said = refused("prepare", "tokens", RECIPE, *given, "--engine=dask", process=True)
    assert "choose local or spark" in said
