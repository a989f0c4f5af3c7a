"""Which labels a run can be asked, and what classes they have."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.data import token_dataset
from ehrjax.data.labelled import NO_HISTORY, Target
from ehrjax.evals import judged, judging
from ehrjax.evals.judged import Judged
from ehrjax.evals.prediction_files import Predictions
from ehrjax.ingest.meds import HELD_OUT, TRAIN

SPLITS = (TRAIN, HELD_OUT)


@pytest.fixture
def run(toy_tokens: Path, tmp_path: Path) -> SimpleNamespace:
    """What is asked of a run here, which was trained on three classes."""
    files.write_json(tmp_path / "run" / "target.json", {"kind": "classes", "names": ["I", "II", "III"]})
    vocabulary = token_dataset.open_tokens(toy_tokens).vocabulary
    return SimpleNamespace(folder=tmp_path / "run", vocabulary=vocabulary, config={"data": {"context_length": 64}})


def written(path: Path, toy_tokens: Path, split: str, values: list[str], *, year: int = 2100) -> pl.DataFrame:
    """Labels of the first subjects of a split, in a file."""
    dataset = token_dataset.open_tokens(toy_tokens).split(split)
    frame = pl.DataFrame(
        {"subject_id": dataset.subject_ids[: len(values)], "categorical_value": values},
        schema={"subject_id": pl.Int64, "categorical_value": pl.String},
    ).with_columns(pl.datetime(year, 1, 1, time_unit="us").alias("prediction_time"))
    frame.write_parquet(path)
    return frame


def test_without_labels_of_train_the_classes_are_those_of_the_run(run, toy_tokens, tmp_path) -> None:
    written(tmp_path / "stage.parquet", toy_tokens, HELD_OUT, ["II", "I", "IV"])
    found = judged.join(run, judged.read(tmp_path / "stage.parquet"), toy_tokens, SPLITS)
    assert found.target == Target("classes", ("I", "II", "III")) and list(found.parts) == [HELD_OUT]
    assert found.parts[HELD_OUT].labels[:, 0].tolist() == [1, 0]
    assert found.parts[HELD_OUT].set_aside["of a class that train does not have"] == 1
    with pytest.raises(InputError, match="of subjects in train have 1 classes; two are needed"):
        written(tmp_path / "stage.parquet", toy_tokens, TRAIN, ["II"])
        judged.join(run, judged.read(tmp_path / "stage.parquet"), toy_tokens, SPLITS)


def test_deaths_that_end_a_follow_up_are_warned_of() -> None:
    keys = pl.DataFrame({"subject_id": [1, 2, 3], "prediction_time": [datetime(2020, 1, 1)] * 3})
    truth = Predictions(Target("time"), keys, np.array([[5, 1], [9, 0], [7, 0]], np.float32), np.zeros((3, 1)))
    frame = keys.with_columns(censored_by_death=pl.Series([False, True, False]))
    found = Judged(SimpleNamespace(frame=frame), truth.target, {HELD_OUT: truth}, {}, {}, [])
    judging._warn_of_deaths(found, HELD_OUT)
    assert len(found.warnings) == 1 and found.warnings[0].startswith("1 of 3 labels end by a death before the event")


def test_labels_of_train_without_a_history_do_not_keep_others_from_being_judged(run, toy_tokens, tmp_path) -> None:
    early = written(tmp_path / "early.parquet", toy_tokens, TRAIN, ["I", "II"], year=1700)
    late = written(tmp_path / "late.parquet", toy_tokens, HELD_OUT, ["I", "II", "I"])
    pl.concat([early, late]).write_parquet(tmp_path / "stage.parquet")
    found = judged.join(run, judged.read(tmp_path / "stage.parquet"), toy_tokens, SPLITS)
    assert list(found.parts) == [HELD_OUT] and len(found.parts[HELD_OUT].labels) == 3
    assert found.target.names == ("I", "II") and NO_HISTORY not in found.parts[HELD_OUT].set_aside
