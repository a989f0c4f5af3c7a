"""Damaged patient_sequence files: each case says beforehand what must come of it, and gets it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ehrjax.ingest import cehr_bert as reader
from ehrjax.ingest.raw_tables import OUT_OF_RANGE
from tests.ingest import cehr_bert_layout as layout
from tests.ingest.meds_checks import check_accounting, digests, events_in, refusal

FRAME = layout.generate(7, persons=8, prompt=False)[0]
# In the first sequence, a place that holds an ordinary event of an outpatient or inpatient visit.
FIRST = FRAME.row(0, named=True)
PLACE = next(
    i for i, c in enumerate(FIRST["concept_ids"]) if c.startswith("2000") and not FIRST["concept_value_masks"][i]
)

NUMERIC = (
    "visit_segments concept_value_masks epoch_times dates ages is_numeric_types visit_rank_orders number_as_values"
)
Case = tuple[str, Callable[[Path], None], str, object]


def frame(changed: pl.DataFrame) -> Callable[[Path], None]:
    return lambda folder: layout.write(changed, folder, parts=1) and None


def content(make: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = layout.write(FRAME, folder, parts=1) / "part-00000.parquet"
        path.write_bytes(make(path.read_bytes()))

    return write


def element(column: str, value: object, row: int = 0, place: int = PLACE) -> Callable[[Path], None]:
    rows = FRAME[column].to_list()
    rows[row][place] = value
    return frame(FRAME.with_columns(pl.Series(column, rows, FRAME[column].dtype)))


def shorter(column: str, rows: int) -> Callable[[Path], None]:
    cut = pl.col(column).list.head(pl.col(column).list.len() - 1)
    return frame(FRAME.with_columns(pl.when(pl.int_range(pl.len()) < rows).then(cut).otherwise(pl.col(column))))


def cases() -> list[Case]:
    """(name, how to write it, what comes of it, with what): error: words of the message; sequences, concepts, labels:
    reason -> rows more than in the sound file; same: the same events; fewer: so many events less."""
    found: list[Case] = []
    for part in np.linspace(0, 0.999, 60):
        cut = content(lambda data, part=part: data[: int(part * len(data))])
        found.append((f"cut at {part:.3f}", cut, "error", "part-00000.parquet is truncated"))
    found.append(("CSV", content(lambda data: b"person_id,concept_ids\n1,2\n"), "error", "no parquet file"))
    for name in reader.REQUIRED:
        found.append((f"without {name}", frame(FRAME.drop(name)), "error", repr(name)))
    found.append(("without times", frame(FRAME.drop("epoch_times", "dates")), "error", "have no times"))
    for name in ("cohort_member_id", "orders", "priorities", "mlm_skip_values", "num_of_visits", "dates"):
        found.append((f"without {name}", frame(FRAME.drop(name)), "same", None))
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(FRAME.columns).tolist()
        found.append((f"columns shuffled {seed}", frame(FRAME.select(order)), "same", None))
        rows = FRAME.sample(fraction=1, shuffle=True, seed=seed)
        found.append((f"rows shuffled {seed}", frame(rows), "same", None))
    lists = [name for name in layout.LISTS if name in (*NUMERIC.split(), "concept_ids", "units", "visit_concept_ids")]
    for name in lists:
        first = pl.col(name).list.first()
        found.append((f"{name} holds no lists", frame(FRAME.with_columns(first)), "error", f"{name!r} holds"))
        nested = pl.concat_list(pl.col(name).list.eval(pl.concat_list(pl.element()))).alias(name)
        found.append((f"{name} holds lists of lists", frame(FRAME.with_columns(nested)), "error", repr(name)))
        for count in (1, 2, 3):
            found.append((f"{name} too short {count}", shorter(name, count), "sequences", {reader.UNEQUAL: count}))
        nulls = pl.when(pl.int_range(pl.len()) >= 1).then(pl.col(name)).alias(name)
        reason = "no concepts" if name == "concept_ids" else reader.UNEQUAL
        found.append((f"{name} is missing once", frame(FRAME.with_columns(nulls)), "sequences", {reason: 1}))
    for name in NUMERIC.split():
        text = pl.col(name).list.eval(pl.format("x{}", pl.element())).alias(name)
        found.append((f"{name} holds text", frame(FRAME.with_columns(text)), "error", f"{name!r} holds String"))
        floats = pl.col(name).cast(pl.List(pl.Float32 if name != "epoch_times" else pl.Float64))
        if name != "number_as_values":
            found.append((f"{name} holds floats", frame(FRAME.with_columns(floats)), "same", None))
    numbers = pl.col("concept_ids").list.eval(pl.element().str.len_chars().cast(pl.Float64)).alias("concept_ids")
    found.append(("concepts are floats", frame(FRAME.with_columns(numbers)), "error", "not text"))
    for value in (None, ""):
        found.append((f"concept is {value!r}", element("concept_ids", value), "concepts", {"no concept": 1}))
    both = FRAME.with_columns(pl.Series("dates", [[None] * len(x) for x in FRAME["dates"]], pl.List(pl.Int32)))
    for value in (None, float("nan"), float("inf"), float("-inf")):
        rows = FRAME["epoch_times"].to_list()
        rows[0][PLACE] = value
        changed = both.with_columns(pl.Series("epoch_times", rows, pl.List(pl.Float64)))
        found.append((f"time is {value}", frame(changed), "concepts", {"no time": 1}))
    for value in (1e11, -1e11, 2.5e11, -6.2e10, 1e300, 253370764800.0, 1.1e10, -8.6e9):
        found.append((f"time is {value}", element("epoch_times", value), "concepts", {OUT_OF_RANGE: 1}))
    for value in (-5, 131, 10_000):
        # The age before it is taken for the birth.
        found.append((f"age is {value}", element("ages", value), "same", None))
    for value in (2, -1, 7):
        found.append((f"mask is {value}", element("concept_value_masks", value), "same", None))
    for special in ("[START]", "[END]", "[PAD]"):
        found.append((f"concept is {special}", element("concept_ids", special), "concepts", {"special token": 1}))
    for count in (1, 2, 3):
        ids = pl.Series("person_id", [None] * count + FRAME["person_id"].to_list()[count:], pl.Int64)
        found.append(
            (f"{count} without a person", frame(FRAME.with_columns(ids)), "sequences", {"no person_id": count})
        )
        doubled = pl.concat([FRAME, FRAME.head(count)])
        found.append((f"{count} rows twice", frame(doubled), "same", None))
        empty = FRAME.with_columns(
            pl.when(pl.int_range(pl.len()) < count).then(pl.col(name).list.head(0)).otherwise(pl.col(name)).alias(name)
            for name in layout.LISTS
        )
        found.append((f"{count} empty sequences", frame(empty), "sequences", {"no concepts": count}))
        for name, value, reason in (
            ("label", None, "no label"),
            ("label", 2, "label is not 0 or 1"),
            ("label", -1, "label is not 0 or 1"),
            ("index_date", None, "no index_date"),
            ("index_date", float("nan"), "no index_date"),
            ("index_date", 253370764800.0, OUT_OF_RANGE),
            ("index_date", -1e300, OUT_OF_RANGE),
        ):
            values = [value] * count + FRAME[name].to_list()[count:]
            changed = FRAME.with_columns(pl.Series(name, values, FRAME[name].dtype))
            found.append((f"{count} x {name} {value}", frame(changed), "labels", {reason: count}))
    found += [
        ("persons are text", frame(FRAME.with_columns(pl.lit("a").alias("person_id"))), "error", "not whole numbers"),
        ("persons are fractions", frame(FRAME.with_columns(pl.lit(0.5).alias("person_id"))), "error", "whole numbers"),
        ("persons are floats", frame(FRAME.with_columns(pl.col("person_id").cast(pl.Float64))), "same", None),
        ("labels are text", frame(FRAME.with_columns(pl.lit("yes").alias("label"))), "error", "'label' holds String"),
        ("dates are text", frame(FRAME.with_columns(pl.lit("2001").alias("index_date"))), "error", "'index_date'"),
        ("no files", lambda folder: (folder / "patient_sequence").mkdir(parents=True), "error", "no .csv"),
        ("no folder", lambda folder: None, "error", "does not exist"),
    ]
    return found


CASES = cases()


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 200 and len({case[0] for case in CASES}) == len(CASES)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("sound")
    raw = layout.write(FRAME, folder / "raw", parts=1)
    return folder / "meds", reader.read(raw, folder / "meds")


def more(here: dict, there: dict) -> dict:
    """By how much the counts of one account exceed those of another."""
    return {key: n for key in {*here, *there} if (n := here.get(key, 0) - there.get(key, 0))}


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_each_damage_has_the_outcome_that_was_stated(case: Case, sound, tmp_path) -> None:
    name, make, outcome, detail = case
    make(tmp_path / "raw")
    if outcome == "error":
        message = refusal(reader.read, tmp_path / "raw", tmp_path / "meds")
        assert detail in message, message
        return
    summary = reader.read(tmp_path / "raw", tmp_path / "meds")
    check_accounting(summary)
    if outcome == "same":
        order = ["subject_id", "time", "code", "numeric_value", "text_value", "visit_id"]
        assert events_in(tmp_path / "meds").sort(order).equals(events_in(sound[0]).sort(order))
        if "rows" not in name:
            assert digests(tmp_path / "meds" / "labels") == digests(sound[0] / "labels")
    elif outcome == "labels":
        assert summary["labels"]["outcome"]["rows_set_aside"] == detail
    elif outcome == "sequences":
        assert summary["sequences"]["rows_set_aside"] == detail
    else:
        account, before = (s["tables"]["concepts"]["rows_set_aside"] for s in (summary, sound[1]))
        assert more(account, before) == detail
