"""Damaged YAIB folders: each case says beforehand what must come of it, and gets it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ehrjax.ingest import yaib as reader
from tests.ingest import yaib_layout as layout
from tests.ingest.meds_checks import check_accounting, digests, events_in, labels_in, refusal

FRAMES = layout.generate(7)
FAR, UNKNOWN, NO_STAY = reader._FAR[0], reader._NOT_IN_STA[0], reader._NO_STAY[0]
HOURS = 5
Case = tuple[str, Callable[[Path], None], str, object]


def changed(name: str, *columns: pl.Expr | pl.Series) -> Callable[[Path], None]:
    return frames(name, FRAMES[name].with_columns(*columns))


def frames(name: str, frame: pl.DataFrame) -> Callable[[Path], None]:
    return lambda folder: layout.write({**FRAMES, name: frame}, folder) and None


def cell(name: str, column: str, value: object, rows: tuple[int, ...] = (2,)) -> Callable[[Path], None]:
    values = FRAMES[name][column].to_list()
    for row in rows:
        values[row] = value
    return changed(name, pl.Series(column, values, FRAMES[name][column].dtype))


def content(name: str, make: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = layout.write(FRAMES, folder) / f"{name}.parquet"
        path.write_bytes(make(path.read_bytes()))

    return write


def cases() -> list[Case]:
    """(name, how to write it, what comes of it, with what): error: words of the message; dyn, sta, labels: reason ->
    rows set aside; same: the same events; fewer: so many events less."""
    found: list[Case] = []
    for name in ("dyn", "sta", "outc"):
        for part in np.linspace(0, 0.999, 30):
            cut = content(name, lambda data, part=part: data[: int(part * len(data))])
            found.append((f"{name} cut at {part:.3f}", cut, "error", f"{name}.parquet is truncated"))
        found.append(
            (f"{name} is CSV", content(name, lambda data: b"stay_id,label\n1,2\n"), "error", f"{name}.parquet")
        )
        absent = lambda folder, name=name: (layout.write(FRAMES, folder) / f"{name}.parquet").unlink()  # noqa: E731
        found.append((f"no {name}", absent, "error", f"{name}.parquet is missing"))
        found.append((f"{name} as floats", changed(name, pl.col("stay_id").cast(pl.Float64)), "same", None))
        found.append((f"{name} as unsigned", changed(name, pl.col("stay_id").cast(pl.UInt64)), "same", None))
        text = changed(name, pl.format("p{}", "stay_id").alias("stay_id"))
        found.append((f"{name} with text ids", text, "error", "not whole numbers"))
        part = changed(name, pl.col("stay_id") + 0.5)
        found.append((f"{name} with fractions as ids", part, "error", "not whole numbers"))
        for seed in range(5):
            order = np.random.default_rng(seed).permutation(FRAMES[name].columns).tolist()
            found.append((f"{name} columns shuffled {seed}", frames(name, FRAMES[name].select(order)), "same", None))
            rows = FRAMES[name].sample(fraction=1, shuffle=True, seed=seed)
            found.append((f"{name} rows shuffled {seed}", frames(name, rows), "same", None))
    for name, required in (
        ("dyn", "stay_id time"),
        ("sta", "stay_id age sex height weight"),
        ("outc", "stay_id label"),
    ):
        for column in required.split():
            found.append((f"{name} without {column}", frames(name, FRAMES[name].drop(column)), "error", repr(column)))
    for column in ("age", "height", "weight"):
        found.append((f"{column} is text", changed("sta", pl.col(column).cast(pl.String)), "error", "not numbers"))
        for value in (-1.0, 1e6, float("nan"), float("inf")):
            # A birth goes with an age.
            found.append((f"{column} is {value}", cell("sta", column, value), "fewer", 2 if column == "age" else 1))
    found.append(("sex is a number", changed("sta", pl.lit(1).alias("sex")), "error", "not text"))
    found.append(("no sex", cell("sta", "sex", None), "fewer", 1))
    for column in layout.VARIABLES:
        found.append((f"{column} is text", changed("dyn", pl.col(column).cast(pl.String)), "error", repr(column)))
        full = next(i for i, v in enumerate(FRAMES["dyn"][column]) if v is not None)
        for value in (float("nan"), float("inf"), float("-inf")):
            found.append((f"{column} is {value}", cell("dyn", column, value, (full,)), "fewer", 1))
    hour = 3_600_000
    # So that every row holds something, whatever else it lacks.
    filled = FRAMES["dyn"].with_columns(pl.col("hr").fill_null(60.0))
    times = filled["time"].cast(pl.Int64).to_list()
    for count, value in ((1, None), (2, 10**14), (3, -(10**14)), (4, 24 * 365 * 8000 * hour)):
        wrong = pl.Series("time", [value] * count + times[count:], pl.Int64).cast(pl.Duration("ms"))
        reason = {"no time": count} if value is None else {FAR: count}
        found.append((f"{count} times are {value}", frames("dyn", filled.with_columns(wrong)), "dyn", reason))
    found.append(("times are text", changed("dyn", pl.lit("1h").alias("time")), "error", "not numbers"))
    dates = pl.datetime(2020, 1, 1).alias("time")
    found.append(("times are dates", changed("dyn", dates), "error", "not numbers"))
    as_hours = (pl.col("time").dt.total_milliseconds() / hour).alias("time")
    found.append(("times are hours", changed("dyn", as_hours), "same", None))
    found.append(("times are nanoseconds", changed("dyn", pl.col("time").dt.cast_time_unit("ns")), "same", None))
    for count in (1, 2, 3):
        ids = FRAMES["sta"]["stay_id"].to_list()
        unknown = frames("dyn", filled.with_columns(pl.col("stay_id").replace(dict.fromkeys(ids[:count], -7))))
        found.append((f"{count} stays not in sta", unknown, "dyn", {UNKNOWN: count * HOURS}))
        missing = pl.Series("stay_id", [None] * count + filled["stay_id"].to_list()[count:], pl.Int32)
        found.append(
            (f"{count} rows without a stay", frames("dyn", filled.with_columns(missing)), "dyn", {NO_STAY: count})
        )
        again = frames("sta", pl.concat([FRAMES["sta"], FRAMES["sta"].head(count)]))
        found.append((f"{count} stays twice in sta", again, "sta", {"stay_id stands in an earlier row": count}))
        labels = frames("outc", FRAMES["outc"].with_columns(pl.col("stay_id").replace(dict.fromkeys(ids[:count], -7))))
        found.append((f"{count} labels of unknown stays", labels, "labels", {UNKNOWN: count * HOURS}))
        rows = tuple(range(count))
        found.append((f"{count} labels missing", cell("outc", "label", None, rows), "labels", {"no label": count}))
        found.append((f"{count} label times missing", cell("outc", "time", None, rows), "labels", {"no time": count}))
    found += [
        ("labels are text", changed("outc", pl.lit("yes").alias("label")), "error", "not numbers"),
        ("labels are NaN", changed("outc", pl.lit(float("nan")).alias("label")), "labels", {"no label": 6 * HOURS}),
        ("sta is empty", frames("sta", FRAMES["sta"].clear()), "error", "has no rows"),
        ("dyn is empty", frames("dyn", FRAMES["dyn"].clear()), "dyn", {}),
        ("outc is empty", frames("outc", FRAMES["outc"].clear()), "labels", {}),
        ("dyn has no variables", frames("dyn", FRAMES["dyn"].select("stay_id", "time")), "error", "0 variables"),
        ("an unknown variable", changed("dyn", pl.lit(None, pl.Float64).alias("new")), "same", None),
        ("a list as variable", changed("dyn", pl.lit([1.0]).alias("hr")), "error", "'hr'"),
    ]
    return found


CASES = cases()


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 200 and len({case[0] for case in CASES}) == len(CASES)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("sound")
    return folder / "meds", reader.read(layout.write(FRAMES, folder / "raw"), folder / "meds")


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
        order = ["subject_id", "time", "code"]
        same = events_in(tmp_path / "meds").sort(order).equals(events_in(sound[0]).sort(order))
        assert same and (
            "rows shuffled" in name or digests(tmp_path / "meds" / "labels") == digests(sound[0] / "labels")
        )
        key = ["subject_id", "prediction_time"]
        assert labels_in(tmp_path / "meds", "outcome").sort(key).equals(labels_in(sound[0], "outcome").sort(key))
    elif outcome == "fewer":
        assert summary["events"] == sound[1]["events"] - detail
    elif outcome == "labels":
        assert summary["labels"]["outcome"]["rows_set_aside"] == detail
    else:
        assert summary["tables"][outcome]["rows_set_aside"] == detail
