"""`python -m ehrjax.prepare`: what each verb prints and writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from ehrjax.data import token_dataset
from tests.conftest import refused, run_verb

RECIPE = "--config=configs/tokens/behrt.py"


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hospital") / "meds"
    result = run_verb("prepare", "synthetic", "--patients=60", "--seed=3", f"--output={folder}")
    assert result.returncode == 0, result.stderr
    assert f"wrote {folder} in " in result.stdout
    return folder


def test_synthetic_writes_meds_with_the_patients_asked_for(hospital: Path) -> None:
    events = pl.read_parquet(hospital / "data" / "**" / "*.parquet")
    assert events["subject_id"].n_unique() == 60
    for name in ("codes.parquet", "subject_splits.parquet", "dataset.json"):
        assert (hospital / "metadata" / name).is_file()


def test_the_seed_decides_the_patients(hospital: Path, tmp_path: Path) -> None:
    for seed, same in ((3, True), (4, False)):
        result = run_verb("prepare", "synthetic", "--patients=60", f"--seed={seed}", f"--output={tmp_path / str(seed)}")
        assert result.returncode == 0, result.stderr
        again = pl.read_parquet(tmp_path / str(seed) / "data" / "**" / "*.parquet")
        assert again.equals(pl.read_parquet(hospital / "data" / "**" / "*.parquet")) is same


def test_tokens_prints_what_it_kept(hospital: Path, tmp_path: Path) -> None:
    output = tmp_path / "tokens"
    result = run_verb("prepare", "tokens", RECIPE, f"--input={hospital}", f"--output={output}", "--config.min_count=2")
    assert result.returncode == 0, result.stderr
    dataset = token_dataset.open_tokens(output)
    assert f"vocabulary: {len(dataset.vocabulary):,}" in result.stdout
    assert f"train: subjects: {len(dataset.split('train')):,}" in result.stdout
    assert json.loads((output / "dataset.json").read_text())["recipe"]["min_count"] == 2


def test_another_sites_events_take_the_fitted_vocabulary(hospital: Path, toy_tokens: Path, tmp_path: Path) -> None:
    output = tmp_path / "tokens"
    result = run_verb(
        "prepare", "tokens", RECIPE, f"--input={hospital}", f"--output={output}", f"--fitted-from={toy_tokens}"
    )
    assert result.returncode == 0, result.stderr
    assert (output / "vocab.csv").read_bytes() == (toy_tokens / "vocab.csv").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("synthetic", "--patients=0"), "--patients"),
        (("synthetic", "--patients=-5"), "--patients"),
        (("synthetic", "--patints=5"), "Unknown argument --patints=5"),
        (("events", "--source=mimic-v", "--input=/tmp"), "There is no source 'mimic-v'; the sources are"),
        (("events", "--source=mimic-iv", "--input=/nowhere"), "/nowhere"),
        (("download", "--source=mimic-v"), "mimic-v"),
        (("tokens", RECIPE, "--input=/nowhere"), "/nowhere"),
        (("tokens", "--input=/nowhere"), "No config was named"),
        (("tokens", "--config=configs/tokens/none.py", "--input=/nowhere"), "does not exist"),
        (("tokens", RECIPE, "--config.bin_values.num_bns=4", "--input=/nowhere"), "did you mean 'bin_values.num_bins'"),
        (("tokens", RECIPE, "--config.bin_values.num_bins=-1", "--input=/nowhere"), "num_bins"),
    ],
)
def test_refused(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    output = tmp_path / "output"
    assert message in refused("prepare", *arguments, f"--output={output}")
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_an_output_that_exists_is_kept(hospital: Path, tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "mine.txt").write_text("mine")
    for arguments in (
        ("synthetic", "--patients=20"),
        ("tokens", RECIPE, f"--input={hospital}"),
    ):
        said = refused("prepare", *arguments, f"--output={tmp_path / 'output'}")
        assert "output" in said
        assert [path.name for path in (tmp_path / "output").iterdir()] == ["mine.txt"]


def test_a_damaged_events_folder_is_named(hospital: Path, tmp_path: Path) -> None:
    import shutil

    for name, message in (("subject_splits.parquet", "subject_splits.parquet"), ("codes.parquet", "codes.parquet")):
        copy = Path(shutil.copytree(hospital, tmp_path / name))
        (copy / "metadata" / name).write_bytes(b"PAR1 not parquet")
        assert message in refused("prepare", "tokens", RECIPE, f"--input={copy}", f"--output={tmp_path / 'out'}")
    copy = Path(shutil.copytree(hospital, tmp_path / "shard"))
    shard = next((copy / "data").rglob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:200])
    assert str(shard) in refused("prepare", "tokens", RECIPE, f"--input={copy}", f"--output={tmp_path / 'out'}")
    assert not (tmp_path / "out").exists()
