"""Labels of several tasks as one table."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from ehrjax.core.errors import InputError
from ehrjax.ingest.labels import several


def write(path, rows, value="boolean_value", dtype=pl.Boolean):
    schema = {"subject_id": pl.Int64, "prediction_time": pl.Int64, value: dtype}
    frame = pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        pl.col("prediction_time").cast(pl.Datetime("us"))
    )
    frame.write_parquet(path)
    return path


def test_an_answer_a_task_and_nan_where_none_is_asked(tmp_path):
    a = write(tmp_path / "a.parquet", [(1, 10, True), (1, 20, False), (2, 10, False), (2, 10, False)])
    b = write(tmp_path / "b.parquet", [(2, 10, True), (3, 5, True)])
    found = several.read_several([a, b])
    assert found.value == "answers" and found.info["tasks"] == ["a", "b"]
    keys = list(zip(found.frame["subject_id"].to_list(), found.frame["prediction_time"].to_physical().to_list()))
    assert keys == [(1, 10), (1, 20), (2, 10), (3, 5)]
    expected = [[1, np.nan], [0, np.nan], [0, 1], [np.nan, 1]]
    np.testing.assert_array_equal(np.array(found.frame["answers"].to_list()), expected)


def test_what_cannot_be_learnt_together_is_refused(tmp_path):
    a = write(tmp_path / "a.parquet", [(1, 10, True)])
    number = write(tmp_path / "n.parquet", [(1, 10, 3.0)], "float_value", pl.Float32)
    torn = write(tmp_path / "torn.parquet", [(1, 10, True), (1, 10, False)])
    (tmp_path / "other").mkdir()
    same = write(tmp_path / "other" / "a.parquet", [(1, 10, True)])
    for paths, message in (([a, number], "no yes or no"), ([a, torn], "contradict"), ([a, same], "one name")):
        with pytest.raises(InputError, match=message):
            several.read_several(paths)


def test_splits_that_disagree_are_refused(tmp_path):
    for task, split in (("a", "train"), ("b", "tuning")):
        (tmp_path / task / split).mkdir(parents=True)
        write(tmp_path / task / split / "0.parquet", [(1, 10, True)])
    with pytest.raises(InputError, match="different splits"):
        several.read_several([tmp_path / "a", tmp_path / "b"])
