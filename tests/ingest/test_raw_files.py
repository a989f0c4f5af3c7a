"""One table, whatever its format: the same rows, types and messages."""

from __future__ import annotations

import datetime
import gzip
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrjax.core.errors import InputError
from ehrjax.core.files import stable_hash
from ehrjax.ingest import raw_files
from ehrjax.ingest.raw_csv import Kind
from ehrjax.ingest.subject_ids import TextIds

COLUMNS = {"id": Kind.ID, "at": Kind.TIME, "day": Kind.DATE, "value": Kind.NUMBER, "text": Kind.TEXT}
ROWS = pl.DataFrame(
    {
        "id": [1, 2, None],
        "at": [datetime.datetime(1950, 1, 2, 3, 4, 5), None, datetime.datetime(2020, 2, 29)],
        "day": [datetime.date(2001, 1, 1), datetime.date(1969, 12, 31), None],
        "value": [0.5, None, -3.0],
        "text": ["a, b", None, "µg"],
    }
)


def written(folder: Path, suffix: str, rows: pl.DataFrame = ROWS, name: str = "t") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}{suffix}"
    if suffix == ".parquet":
        rows.write_parquet(path)
        return path
    text = rows.write_csv(separator="\t" if suffix == ".tab" else ",", datetime_format="%Y-%m-%d %H:%M:%S").encode()
    if suffix == ".csv.zst":
        with pa.CompressedOutputStream(str(path), "zstd") as stream:
            stream.write(text)
        return path
    path = path.with_suffix(".csv") if suffix == ".tab" else path
    path.write_bytes(gzip.compress(text) if suffix == ".csv.gz" else text)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".csv.zst", ".tab", ".parquet"])
def test_every_format_gives_the_same_rows(suffix: str, tmp_path: Path) -> None:
    texts = ["a b" if suffix == ".tab" else "a, b", None, "µg"]
    path = written(tmp_path, suffix, ROWS.with_columns(pl.Series("text", texts)))
    assert raw_files.columns_of(path) == list(COLUMNS)
    frame = pl.concat(list(raw_files.read_batches(path, COLUMNS)))
    assert frame["row"].to_list() == [0, 1, 2]
    assert frame["id"].to_list() == [1, 2, None] and frame["value"].to_list() == [0.5, None, -3.0]
    assert frame["text"].to_list() == texts
    last = datetime.timedelta(days=1) - datetime.timedelta(microseconds=1)
    midnight = datetime.datetime(2001, 1, 1)
    assert frame["day"].to_list() == [midnight + last, datetime.datetime(1969, 12, 31) + last, None]
    assert frame["at"].to_list() == ROWS["at"].to_list()


def test_parts_are_one_table_and_absent_columns_are_null(tmp_path: Path) -> None:
    written(tmp_path / "T", ".parquet", ROWS, "part-0")
    written(tmp_path / "T", ".csv", ROWS.drop("value"), "part-1")
    parts = raw_files.find_table(tmp_path, "t")
    assert [path.name for path in parts] == ["part-0.parquet", "part-1.csv"]
    needed = {name: kind for name, kind in COLUMNS.items() if name != "value"}
    frame = pl.concat(list(raw_files.read_batches(parts, needed, optional={"value": Kind.NUMBER})), how="diagonal")
    assert frame["row"].to_list() == list(range(6))
    assert frame["value"].to_list() == [0.5, None, -3.0, None, None, None]


def test_what_is_there_twice_is_refused(tmp_path: Path) -> None:
    written(tmp_path, ".csv")
    written(tmp_path, ".parquet")
    with pytest.raises(InputError, match="more than once"):
        raw_files.find_table(tmp_path, "T")
    assert raw_files.find_table(tmp_path, "other") == []


def test_typed_columns_are_cast(tmp_path: Path) -> None:
    rows = pl.DataFrame(
        {
            "id": [1.0, None],
            "at": pl.Series([0, 1], dtype=pl.Datetime("ns", "Europe/Berlin")),
            "day": pl.Series([0, None], dtype=pl.Datetime("ms")),
            "value": pl.Series(["1.5", "2"]).cast(pl.Decimal(10, 2)),
            "text": [7.0, None],
        }
    )
    frame = pl.concat(list(raw_files.read_batches(written(tmp_path, ".parquet", rows), COLUMNS)))
    assert frame["id"].to_list() == [1, None] and frame["text"].to_list() == ["7", None]
    assert frame["at"].dtype == pl.Datetime("us") and frame["at"][0] == datetime.datetime(1970, 1, 1)
    assert frame["value"].to_list() == [1.5, 2.0]
    assert frame["day"][0] == datetime.datetime(1970, 1, 1, 23, 59, 59, 999999)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (ROWS.with_columns(id=pl.lit("x")), "in column 'id' is not a whole number"),
        (ROWS.with_columns(id=pl.lit(1.5)), "column 'id' holds Float64, which is not a whole number"),
        (ROWS.with_columns(at=pl.lit(3)), "column 'at' holds Int32, which is not a time"),
        (ROWS.with_columns(text=pl.lit([1])), "column 'text' holds List"),
        (ROWS.drop("value"), "no column 'value'"),
    ],
)
def test_wrong_columns_are_named(rows: pl.DataFrame, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, ".parquet", rows)
    with pytest.raises(InputError) as raised:
        list(raw_files.read_batches(path, COLUMNS))
    assert message in str(raised.value) and str(path) in str(raised.value)


@pytest.mark.parametrize("suffix", [".csv.gz", ".csv.zst", ".parquet"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_named(suffix: str, share: float, tmp_path: Path) -> None:
    path = written(tmp_path, suffix, pl.concat([ROWS] * 500))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError) as raised:
        list(raw_files.read_batches(path, COLUMNS))
    assert str(path) in str(raised.value)


def test_a_foreign_suffix_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(InputError, match="t.xlsx is no .csv"):
        raw_files.columns_of(tmp_path / "t.xlsx")


@settings(max_examples=30)
@given(st.lists(st.one_of(st.none(), st.text(max_size=5)), max_size=20), st.integers(0, 20))
def test_text_ids_do_not_depend_on_the_pieces(texts: list[str | None], cut: int) -> None:
    whole, pieces = TextIds("patient"), TextIds("patient")
    expected = whole.encode(pl.Series(texts, dtype=pl.String)).to_list()
    got = [n for part in (texts[:cut], texts[cut:]) for n in pieces.encode(pl.Series(part, dtype=pl.String))]
    assert got == expected
    assert expected == [None if text is None else stable_hash(text) >> 1 for text in texts]


def test_text_ids_can_be_read_back(tmp_path: Path) -> None:
    ids = TextIds("patient")
    numbers = ids.encode(pl.Series("uid", ["b", "a", "b"]))
    ids.write(tmp_path / "ids.parquet", "uid")
    back = pl.read_parquet(tmp_path / "ids.parquet")
    assert dict(back.iter_rows()) == {"b": numbers[0], "a": numbers[1]}
