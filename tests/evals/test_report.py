"""The report: its numbers are the measured ones, it needs no network, and it says where there is too little."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest

from ehrjax.data import prepare_tokens
from ehrjax.ingest import meds
from ehrjax.vocab.recipe import Recipe
from tests.conftest import run_verb

EVIL = "<script>alert('x')</script>"
SMOKE = (
    "--config=configs/behrt.py:smoke",
    "--config.tensorboard=False",
    "--config.num_steps=6",
    "--config.eval_every=3",
    "--config.log_every=2",
)


def with_splits(source: Path, folder: Path, tuning: int, *, description: str | None = None) -> Path:
    """A copy of a MEDS dataset whose tuning split has so many subjects; the other tuning subjects go to train."""
    shutil.copytree(source, folder)
    path = folder / "metadata" / "subject_splits.parquet"
    splits = pl.read_parquet(path).sort("split", "subject_id")
    kept = splits.filter(pl.col("split") == meds.TUNING)["subject_id"].head(tuning)
    move = (pl.col("split") == meds.TUNING) & ~pl.col("subject_id").is_in(kept.implode())
    splits.with_columns(pl.when(move).then(pl.lit(meds.TRAIN)).otherwise("split").alias("split")).write_parquet(path)
    if description:
        codes = folder / "metadata" / "codes.parquet"
        pl.read_parquet(codes).with_columns(description=pl.lit(description)).write_parquet(codes)
    return folder


def train(meds_folder: Path, folder: Path, *more: str) -> tuple[Path, str]:
    tokens = folder / "tokens"
    prepare_tokens.prepare(meds_folder, tokens, Recipe("behrt", drop=("MEDS_BIRTH",), min_count=2))
    result = run_verb("train", *SMOKE, f"--config.data.path={tokens}", f"--workdir={folder / 'run'}", *more)
    assert result.returncode == 0, result.stderr
    return folder / "run", result.stdout


def words(page: str) -> str:
    """What a reader sees, roughly: no scripts, no tags, one blank between words."""
    page = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


@pytest.fixture(scope="module")
def reported(toy_meds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return train(with_splits(toy_meds, folder / "meds", 1000, description=EVIL), folder)[0]


def test_the_numbers_are_the_measured_ones(reported: Path) -> None:
    measured = json.loads((reported / "report" / "masked_code_accuracy.json").read_text())
    seen = words((reported / "report" / "index.html").read_text())
    for name in ("model", "train", "subject", "neighbour"):
        for k in (1, 5, 10):
            value = measured["overall"][f"{name}_top{k}"]
            shown = f"{100 * value['value']:.1f} % ({100 * value['low']:.1f} to {100 * value['high']:.1f})"
            assert shown in seen, (name, k)
    assert f"{measured['targets']:,} hidden codes" in seen and f"{measured['subjects']} subjects are few" in seen
    for family, values in measured["families"].items():
        assert f"{family} {values['targets']:,} " in seen
    final = json.loads((reported / "final.json").read_text())
    assert measured["step"] == final["best_step"]


def test_nothing_is_loaded_from_elsewhere(reported: Path) -> None:
    page = (reported / "report" / "index.html").read_text()
    tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page)
    assert not [tag for tag in tags if re.search(r"(src|href)\s*=", tag)]
    assert "@import" not in page and page.count("plotly.js v") == 1


def test_descriptions_are_escaped_everywhere(reported: Path) -> None:
    page = (reported / "report" / "index.html").read_text()
    assert EVIL not in page
    assert "&lt;script&gt;alert" in page or "\\u0026lt;script\\u0026gt;alert" in page


def test_the_page_says_with_what_it_was_made(reported: Path) -> None:
    saved = json.loads((reported / "config.json").read_text())
    seen = words((reported / "report" / "index.html").read_text())
    assert saved["dataset"]["fingerprint"] in seen and saved["versions"]["jax"] in seen
    assert '"num_steps": 6' in seen


def test_the_same_command_writes_the_same_numbers(reported: Path) -> None:
    tokens = json.loads((reported / "config.json").read_text())["config"]["data"]["path"]
    before = (reported / "report" / "masked_code_accuracy.json").read_bytes()
    shutil.rmtree(reported / "report")
    result = run_verb("train", *SMOKE, f"--config.data.path={tokens}", f"--workdir={reported}")
    assert result.returncode == 0, result.stderr
    assert (reported / "report" / "masked_code_accuracy.json").read_bytes() == before


@pytest.mark.parametrize(
    ("tuning", "sentence"),
    [(0, "The tuning split has no hidden codes, so nothing can be said"), (1, "(one subject)")],
)
def test_too_few_tuning_subjects(tuning: int, sentence: str, toy_meds: Path, tmp_path: Path) -> None:
    workdir, out = train(with_splits(toy_meds, tmp_path / "meds", tuning), tmp_path)
    assert "report: " in out
    assert sentence in words((workdir / "report" / "index.html").read_text())


def test_no_report_on_request(toy_meds: Path, tmp_path: Path) -> None:
    workdir, out = train(toy_meds, tmp_path, "--config.report.enabled=False")
    assert not (workdir / "report").exists() and "report:" not in out
