"""A hundred patients of a real hospital: the report runs whole, and says how little they can show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ehrjax import evaluate
from ehrjax.data import prepare_tokens
from ehrjax.evals import prediction_files
from ehrjax.ingest import mimic_iv
from ehrjax.ingest.labels import making
from ehrjax.ingest.labels.reading import read_labels
from ehrjax.ingest.labels.settings import choose
from tests.conftest import behrt_recipe, run_here


@pytest.mark.data
def test_how_little_it_shows_is_said_first(data_folder: Path, tmp_path: Path) -> None:
    mimic_iv.read(data_folder / "mimic-iv-demo", tmp_path / "events")
    making.make(tmp_path / "events", tmp_path / "labels", choose("long_length_of_stay"))
    labels = tmp_path / "labels" / "long_length_of_stay"
    # As from a cross-validation: all of the hundred, each predicted by somebody else's model.
    frame = read_labels(labels).frame.select("subject_id", "prediction_time", "boolean_value")
    guessed = np.random.default_rng(0).random(len(frame))
    guessed = frame.with_columns(pl.Series(prediction_files.PROBABILITY, guessed))
    guessed.write_parquet(tmp_path / "guessed.parquet")
    splits = pl.read_parquet(tmp_path / "events" / "metadata" / "subject_splits.parquet")
    held_out = splits.filter(pl.col("split") == "held_out")["subject_id"]
    guessed.filter(pl.col("subject_id").is_in(held_out.implode())).write_parquet(tmp_path / "few.parquet")
    evaluate.main([f"--predictions={tmp_path / 'guessed.parquet'}", f"--output={tmp_path / 'all'}"])
    judged_by = f"--events={tmp_path / 'events'}", f"--labels={labels}"
    everything = "--probe=linear,trees", "--few_shot=1,2", "--robustness", "--reference=few"
    run = f"--workdir=run={trained(tmp_path, labels)}"
    evaluate.main(
        [f"--predictions={tmp_path / 'few.parquet'}", run, *judged_by, *everything, f"--output={tmp_path / 'few'}"]
    )
    for name, most in (("all", 100), ("few", len(held_out))):
        result = json.loads((tmp_path / name / "metrics.json").read_text())["result"]
        assert 1 < result["subjects"] <= most
        page = (tmp_path / name / "index.html").read_text()
        assert f"{result['subjects']} subjects show very little." in page
        for model in result["models"]:
            found = model["metrics"]["auroc"]
            # The same answer for all ranks nothing in any resample.
            assert found["low"] < found["value"] < found["high"] or model["name"] == "majority"
        guess = next(m for m in result["models"] if m["name"] in ("guessed", "few"))["metrics"]["auroc"]
        assert guess["low"] < 0.5 < guess["high"] and guess["high"] - guess["low"] > 0.1
    assert "too few subjects to say" in page and ">better<" not in page
    names = {model["name"] for model in result["models"]}
    assert names == {"majority", "age_sex", "counts_lr", "counts_gbm", "run", "few", "probe_run", "trees_run"}
    for heading in ("Result", "Differences", "Groups", "Robustness", "Few examples", "Cost"):
        assert f">{heading}</h2>" in page


def trained(folder: Path, labels: Path) -> Path:
    """A small LSTM that has seen the labels of train for a moment."""
    prepare_tokens.prepare(folder / "events", folder / "tokens", behrt_recipe(min_count=100, min_values=500))
    small = ("model.embedding_dim=16", "model.hidden_dim=16", "data.context_length=128", "batch_size=8", "num_steps=6")
    quick = ("eval_every=3", "schedule.warmup_steps=2", "report.enabled=False", "tensorboard=False")
    given = f"--config.data.path={folder / 'tokens'}", f"--config.data.labels={labels}"
    changes = [f"--config.{change}" for change in (*small, *quick)]
    result = run_here("train", "--config=configs/lstm.py:readmission", *given, *changes, f"--workdir={folder / 'run'}")
    assert result.returncode == 0, result.stderr
    return folder / "run"
