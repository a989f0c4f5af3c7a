"""One pretrained run, fine-tuned on labels of several kinds and judged: what is written is what the run says."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

import ehrjax
from ehrjax import evaluate
from ehrjax.data import pipeline, token_dataset
from ehrjax.evals import prediction_files
from tests.conftest import run_here

QUICK = ("--config.report.enabled=False", "--config.tensorboard=False", "--config.schedule.warmup_steps=2")
SPLITS = ("train", "tuning", "held_out")
# The argument of configs/finetune.py, the columns of label i, the primary metric.
KINDS = {
    "number": ("regression", lambda i: {"float_value": 10.0 + i % 7}, "mae"),
    "time": ("hazard", lambda i: {"event_time_days": 20.0 + 97 * (i % 11), "censored": i % 3 == 0}, "harrell_c"),
    "classes": ("classification", lambda i: {"integer_value": i % 3}, "macro_auroc"),
}


@pytest.fixture(scope="module")
def pretrained(toy_tokens, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    small = ("--config.model.embedding_dim=16", "--config.model.hidden_dim=16", "--config.data.context_length=64")
    given = ("--config=configs/lstm.py:smoke", f"--config.data.path={toy_tokens}", "--config.num_steps=4", *small)
    result = run_here("train", *given, *QUICK, f"--workdir={folder}")
    assert result.returncode == 0, result.stderr
    return folder


def labels(tokens, path, columns) -> str:
    """A label of each subject, in the middle of its record."""
    rows = []
    for name in SPLITS:
        split = token_dataset.open_tokens(tokens).split(name)
        for i in range(len(split)):
            subject = split.subject(i)
            timed = subject.times[subject.num_static :]
            row = {"subject_id": subject.subject_id, "prediction_time": int(timed[len(timed) // 2]), **columns(i)}
            rows.append({"boolean_value": not row["censored"], **row} if "censored" in row else row)
    pl.DataFrame(rows).with_columns(pl.col("prediction_time").cast(pl.Datetime("us"))).write_parquet(path)
    return str(path)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_what_the_run_says(kind, pretrained, toy_tokens, tmp_path):
    argument, columns, primary = KINDS[kind]
    path = labels(toy_tokens, tmp_path / "labels.parquet", columns)
    given = (f"--config=configs/finetune.py:{argument}_smoke", f"--config.init.checkpoint={pretrained}")
    steps = ("--config.num_steps=4", "--config.eval_every=2")
    result = run_here("train", *given, f"--config.data.labels={path}", *steps, *QUICK, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr
    evaluate.main(
        [f"--workdir=run={tmp_path / 'run'}", f"--labels={path}", "--resamples=20", f"--output={tmp_path / 'o'}"]
    )
    written = prediction_files.read(tmp_path / "o" / "predictions" / "run" / "held_out.parquet")

    run = ehrjax.load(tmp_path / "run")
    settings = pipeline.Settings(str(toy_tokens), 64, 1, labels=path)
    part = pipeline.open_split(token_dataset.open_tokens(toy_tokens), "held_out", settings)
    epoch = pipeline.plan_epoch(part, settings, seed=None)
    rows = len(epoch.plan)
    batch = pipeline.make_batch(part, epoch, settings, rows=range(rows), batch_size=rows, index=0)
    said, real = run.predictions(batch), batch["weights"] > 0
    found = np.asarray(said[{"number": "values", "time": "survival"}.get(kind, "probabilities")])[real]
    found = np.hstack([1 - found[:, -1:], found]) if kind == "time" else found
    ids = batch["subject_id"][real]
    assert sorted(ids) == sorted(written.keys["subject_id"]) and len(ids) == len(part)
    found = found[[int(np.flatnonzero(ids == subject)[0]) for subject in written.keys["subject_id"]]]
    np.testing.assert_allclose(written.values, found, atol=2e-5)
    told = json.loads((tmp_path / "o" / "metrics.json").read_text())["result"]
    assert told["kind"] == kind and told["primary"] == primary and told["labels"] == len(found)
    model = next(m for m in told["models"] if m["name"] == "run")
    assert np.isfinite(model["metrics"][primary]["value"])
    assert model["told"]["started from"] == str(pretrained)
