"""A hundred patients of a real hospital: the report runs whole, and says how little they can show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ehrjax import evaluate
from ehrjax.evals import prediction_files
from ehrjax.ingest import mimic_iv
from ehrjax.ingest.labels import making
from ehrjax.ingest.labels.reading import read_labels
from ehrjax.ingest.labels.settings import choose


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
    with_baselines = f"--events={tmp_path / 'events'}", f"--labels={labels}", "--baselines=age_sex,counts_lr"
    evaluate.main([f"--predictions={tmp_path / 'few.parquet'}", *with_baselines, f"--output={tmp_path / 'few'}"])
    for name, most in (("all", 100), ("few", len(held_out))):
        result = json.loads((tmp_path / name / "metrics.json").read_text())["result"]
        assert 1 < result["subjects"] <= most
        page = (tmp_path / name / "index.html").read_text()
        assert f"{result['subjects']} subjects show very little." in page
        for model in result["models"]:
            found = model["metrics"]["auroc"]
            assert found["low"] < found["value"] < found["high"]
        guess = result["models"][0]["metrics"]["auroc"]
        assert guess["low"] < 0.5 < guess["high"] and guess["high"] - guess["low"] > 0.1
    assert "too few subjects to say" in page and ">better<" not in page
