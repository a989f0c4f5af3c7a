"""Files of predictions: round trips, agreement with meds-evaluation, bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from meds_evaluation.evaluate import evaluate_binary_classification
from meds_evaluation.schema import PredictionSchema

from ehrjax.core.errors import InputError
from ehrjax.data.labelled import Target
from ehrjax.evals import comparing, prediction_files
from ehrjax.evals.comparing import Entry
from ehrjax.evals.prediction_files import Predictions

NAMES = ("a", "b", "c")


def made(kind: str, count: int = 60, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    keys = pl.DataFrame({"subject_id": rng.integers(0, 20, count), "prediction_time": np.arange(count) * 10**9})
    keys = keys.with_columns(pl.col("prediction_time").cast(pl.Datetime("us")))
    names = NAMES if kind in ("classes", "codes") else ()
    many = rng.random((count, 3)).astype(np.float32)
    one = rng.random((count, 1)).astype(np.float32)
    truth, values, edges = {
        "yes_no": (rng.random((count, 1)) < one, one, ()),
        "classes": (rng.integers(0, 3, (count, 1)), many / many.sum(1, keepdims=True), ()),
        "codes": (rng.random((count, 3)) < 0.3, many, ()),
        "number": (rng.normal(size=(count, 1)), rng.normal(size=(count, 1)), ()),
        "time": (
            np.stack([rng.exponential(100, count), rng.random(count) < 0.5], 1),
            np.concatenate([one, -np.sort(-many, axis=1)], 1),
            (30.0, 90.0, 365.0),
        ),
    }[kind]
    return Predictions(Target(kind, names), keys, truth.astype(np.float32), values.astype(np.float32), edges)


@pytest.mark.parametrize("kind", ["yes_no", "classes", "codes", "number", "time"])
def test_round_trip(kind, tmp_path):
    own = made(kind)
    prediction_files.write(tmp_path / "p.parquet", own, 0.4)
    back = prediction_files.read(tmp_path / "p.parquet")
    assert back.target == own.target and back.edges_days == own.edges_days and back.keys.equals(own.keys)
    np.testing.assert_array_equal(back.truth, own.truth)
    np.testing.assert_array_equal(back.values, own.values)


def test_meds_evaluation_reads_it_and_agrees(tmp_path):
    own = made("yes_no", 400)
    # Their calibration error is a plain mean over bins, ours is weighted by their rows: the same where all are as full.
    risks = np.random.default_rng(1).permutation((np.arange(400, dtype=np.float32) + 0.5) / 400)[:, None]
    own = replace(own, values=risks)
    cut = comparing.threshold_of(Entry("m", "m", "model", own, own))
    prediction_files.write(tmp_path / "p.parquet", own, cut)
    PredictionSchema.validate(pq.read_table(tmp_path / "p.parquet"))
    theirs = evaluate_binary_classification(pl.read_parquet(tmp_path / "p.parquet"))["samples_equally_weighted"]
    entry = Entry("m", "m", "model", prediction_files.read(tmp_path / "p.parquet"), own)
    (ours,) = comparing.compare([entry], reference="m", resamples=10)["models"]
    for mine, name in (
        ("auroc", "roc_auc_score"),
        ("average_precision", "average_precision_score"),
        ("brier", "brier_score"),
        ("accuracy", "binary_accuracy"),
        ("f1", "f1_score"),
        ("ece", "calibration_error"),
    ):
        assert ours["metrics"][mine]["value"] == pytest.approx(theirs[name], abs=1e-9), mine


def test_a_file_of_somebody_else(tmp_path):
    frame = pl.DataFrame(
        {
            "subject_id": [1, 2],
            "prediction_time": ["2020-01-01 00:00:00", "2021-05-05 10:00:00"],
            "predicted_boolean_probability": [0.2, 0.9],
        }
    )
    frame.write_csv(tmp_path / "p.csv")
    back = prediction_files.read(tmp_path / "p.csv")
    assert (
        back.truth is None and back.target.kind == "yes_no" and back.values[:, 0].tolist() == pytest.approx([0.2, 0.9])
    )


def test_numbers_are_as_precise_as_the_file_has_them(tmp_path):
    # 0.7 lies at the edge of a bin; as float32 it would lie below, and two bins' errors would cancel.
    risks, truth = np.repeat([0.6, 0.7], 100), np.arange(200) % 100 < np.repeat([70, 60], 100)
    frame = pl.DataFrame({"subject_id": np.arange(200), "prediction_time": ["2020-01-01"] * 200})
    frame = frame.with_columns(boolean_value=pl.Series(truth), predicted_boolean_probability=pl.Series(risks))
    frame.write_csv(tmp_path / "p.csv")
    frame.with_columns(pl.col("prediction_time").str.to_datetime()).write_parquet(tmp_path / "p.parquet")
    for name in ("p.csv", "p.parquet"):
        back = prediction_files.read(tmp_path / name)
        np.testing.assert_array_equal(back.values[:, 0], risks)
        (model,) = comparing.compare([Entry("m", "m", "model", back)], reference="m", resamples=10)["models"]
        assert model["metrics"]["ece"]["value"] == pytest.approx(0.1, abs=1e-9)


def test_a_column_that_is_0_and_1_for_long_may_hold_more(tmp_path):
    risks = [*([0, 1] * 100), 0.37]
    frame = pl.DataFrame({"subject_id": range(201), "prediction_time": ["2020-01-01"] * 201})
    lines = frame.write_csv().splitlines()
    text = [f"{line},{value}" for line, value in zip(lines, ["predicted_boolean_probability", *risks])]
    (tmp_path / "p.CSV").write_text("\n".join(text))
    assert prediction_files.read(tmp_path / "p.CSV").values[:, 0].tolist() == risks


def test_a_truth_that_is_empty_is_none(tmp_path):
    for kind, columns in (("time", ["event_time_days", "censored"]), ("classes", ["categorical_value"])):
        table = prediction_files.as_table(made(kind))
        for name in columns:
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, pa.nulls(len(table), table.schema.field(name).type))
        pq.write_table(table, tmp_path / f"{kind}.parquet")
        assert prediction_files.read(tmp_path / f"{kind}.parquet").truth is None


def test_files_that_no_table_can_be_made_of(tmp_path):
    table = prediction_files.as_table(made("yes_no"))
    pq.write_table(table.append_column("subject_id", table["subject_id"]), tmp_path / "twice.parquet")
    with pytest.raises(InputError, match="cannot be read as parquet"):
        prediction_files.read(tmp_path / "twice.parquet")
    times, codes = (prediction_files.as_table(made(kind)) for kind in ("time", "codes"))
    told = b'{"kind": "time", "names": [], "edges_days": [30, 30, 90]}'
    pq.write_table(times.replace_schema_metadata({b"ehrjax": told}), tmp_path / "edges.parquet")
    with pytest.raises(InputError, match="must be days above 0 that rise"):
        prediction_files.read(tmp_path / "edges.parquet")
    pq.write_table(times.replace_schema_metadata({b"ehrjax": b"\xe9"}), tmp_path / "bytes.parquet")
    with pytest.raises(InputError, match="metadata"):
        prediction_files.read(tmp_path / "bytes.parquet")
    place = codes.schema.get_field_index("label_codes")
    survival = [[0.9, 0.5, 0.5 + 1e-8]] * (len(times) - 1) + [[0.5, 0.75, 0.25]]
    rising = times.set_column(
        times.schema.get_field_index("predicted_survival"), "predicted_survival", pa.array(survival)
    )
    pq.write_table(rising, tmp_path / "rising.parquet")
    with pytest.raises(InputError, match=r"survival rises in 1 rows \(the first is row 60,"):
        prediction_files.read(tmp_path / "rising.parquet")
    huge = prediction_files.as_table(made("number"))
    at = huge.schema.get_field_index("predicted_float_value")
    pq.write_table(
        huge.set_column(at, "predicted_float_value", pa.array([1e39] * len(huge))), tmp_path / "huge.parquet"
    )
    with pytest.raises(InputError, match="not a finite number in 60 rows"):
        prediction_files.read(tmp_path / "huge.parquet")
    numbers = codes.set_column(place, "label_codes", pa.array([1] * len(codes)))
    pq.write_table(numbers, tmp_path / "codes.parquet")
    with pytest.raises(InputError, match="lists of codes"):
        prediction_files.read(tmp_path / "codes.parquet")


def damaged(change) -> pa.Table:
    frame = pl.from_arrow(prediction_files.as_table(made("yes_no")))
    return change(frame).to_arrow()


BAD = {
    "two predictions of subject": lambda f: pl.concat([f, f.head(1)]),
    "outside 0..1": lambda f: f.with_columns(pl.col(prediction_files.PROBABILITY) * 3),
    "not a finite number": lambda f: f.with_columns(
        pl.when(pl.int_range(pl.len()) == 3).then(float("nan")).otherwise(pl.col(prediction_files.PROBABILITY))
        .alias(prediction_files.PROBABILITY)
    ),
    "missing or not": lambda f: f.with_columns(
        pl.when(pl.int_range(pl.len()) > 3).then(prediction_files.PROBABILITY).alias(prediction_files.PROBABILITY)
    ),
    "has no column 'predicted_boolean_probability'": lambda f: f.drop(prediction_files.PROBABILITY),
    "has no column 'subject_id'": lambda f: f.drop("subject_id"),
    "rows without prediction_time": lambda f: f.with_columns(
        pl.when(pl.int_range(pl.len()) > 0).then(pl.col("prediction_time")).alias("prediction_time")
    ),
    "must be whole numbers": lambda f: f.with_columns(pl.lit("x").alias("subject_id")),
    "must be true or false": lambda f: f.with_columns(pl.col("boolean_value").cast(pl.Int64) + 1),
    "'boolean_value' holds no numbers": lambda f: f.with_columns(pl.struct("boolean_value").alias("boolean_value")),
}  # fmt: skip


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_sentence(message, tmp_path):
    pq.write_table(damaged(BAD[message]), tmp_path / "p.parquet")
    with pytest.raises(InputError, match=message):
        prediction_files.read(tmp_path / "p.parquet")


def test_probabilities_of_classes_add_up_and_a_file_holds_some(tmp_path):
    own = made("classes")
    prediction_files.write(tmp_path / "p.parquet", replace(own, values=np.ones_like(own.values)))
    with pytest.raises(InputError, match="do not add up to 1 in 60 rows"):
        prediction_files.read(tmp_path / "p.parquet")
    prediction_files.write(tmp_path / "none.parquet", comparing.subset(own, np.zeros(0, int)))
    with pytest.raises(InputError, match="holds no predictions"):
        prediction_files.read(tmp_path / "none.parquet")


def test_no_file_and_no_parquet(tmp_path):
    with pytest.raises(InputError, match="do not exist"):
        prediction_files.read(tmp_path / "none.parquet")
    (tmp_path / "p.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match="cannot be read"):
        prediction_files.read(tmp_path / "p.parquet")
    table = prediction_files.as_table(made("classes"))
    pq.write_table(table.replace_schema_metadata({b"ehrjax": b"{"}), tmp_path / "m.parquet")
    with pytest.raises(InputError, match="metadata"):
        prediction_files.read(tmp_path / "m.parquet")
