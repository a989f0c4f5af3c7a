"""What the MIMIC-IV reader refuses, in one sentence that names the file and line, with nothing written."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from ehrjax.core.errors import InputError
from ehrjax.ingest import mimic_iv
from tests.ingest import mimic_iv_layout as layout


@pytest.fixture(scope="module")
def tables() -> layout.Tables:
    return layout.generate(seed=1)


Change = Callable[[Path], None]


def _edit(name: str, function: Callable[[bytes], bytes]) -> Change:
    def change(raw: Path) -> None:
        path = raw / f"{name}.csv"
        path.write_bytes(function(path.read_bytes()))

    return change


def _value(name: str, column: str, value: str, row: int = 2) -> Change:
    """Puts `value` into the data row `row` (from 0), which stands on line row + 2."""

    def change(raw: Path) -> None:
        path = raw / f"{name}.csv"
        frame = pl.read_csv(path, infer_schema=False).with_row_index("i")
        frame = frame.with_columns(pl.when(pl.col("i") == row).then(pl.lit(value)).otherwise(column).alias(column))
        frame.drop("i").write_csv(path)

    return change


def _line(name: str, line: int, function: Callable[[bytes], bytes]) -> Change:
    def edit(data: bytes) -> bytes:
        lines = data.split(b"\n")
        lines[line - 1] = function(lines[line - 1])
        return b"\n".join(lines)

    return _edit(name, edit)


def _truncated_gzip(name: str) -> Change:
    def change(raw: Path) -> None:
        path = raw / f"{name}.csv"
        data = gzip.compress(path.read_bytes())
        path.with_suffix(".csv.gz").write_bytes(data[: len(data) * 2 // 3])
        path.unlink()

    return change


def _drop_column(name: str, column: str) -> Change:
    def change(raw: Path) -> None:
        path = raw / f"{name}.csv"
        pl.read_csv(path, infer_schema=False).drop(column).write_csv(path)

    return change


def _twice(name: str) -> Change:
    def repeat(data: bytes) -> bytes:
        lines = data.splitlines(keepends=True)
        return b"".join([*lines[:4], lines[2], *lines[4:]])

    return _edit(name, repeat)


def _both(raw: Path) -> None:
    (raw / "hosp" / "labevents.csv.gz").write_bytes(gzip.compress((raw / "hosp" / "labevents.csv").read_bytes()))


def _header_only(data: bytes) -> bytes:
    return data[: data.index(b"\n") + 1]


BAD = {
    "no patients": (lambda raw: (raw / "hosp/patients.csv").unlink(), ["table patients", "needed"]),
    "no admissions": (lambda raw: (raw / "hosp/admissions.csv").unlink(), ["table admissions", "needed"]),
    "missing column": (_drop_column("hosp/labevents", "charttime"), ["labevents.csv", "'charttime'"]),
    "missing column of a d_ table": (_drop_column("icu/d_items", "label"), ["d_items.csv", "'label'"]),
    "bad date": (
        _value("hosp/labevents", "charttime", "2150-13-45 00:00:00"),
        ["labevents.csv, line 4", "'2150-13-45 00:00:00'", "'charttime'"],
    ),
    "not a date": (_value("hosp/omr", "chartdate", "Mary Smith"), ["omr.csv, line 4", "'chartdate'"]),
    "bad dod": (
        _value("hosp/patients", "dod", "2150-02-30"),
        ["patients.csv, line 4", "'2150-02-30'", "'dod'"],
    ),
    "bad subject_id": (
        _value("hosp/labevents", "subject_id", "x17"),
        ["labevents.csv, line 4", "'subject_id'"],
    ),
    "bad hadm_id": (_value("hosp/admissions", "hadm_id", "2.5"), ["admissions.csv, line 4", "'hadm_id'"]),
    "bad number": (_value("icu/inputevents", "rate", "fast"), ["inputevents.csv, line 4", "'rate'"]),
    "header only": (_edit("hosp/patients", _header_only), ["patients.csv", "no rows"]),
    "header without a line end": (
        _edit("hosp/admissions", lambda data: _header_only(data)[:-1]),
        ["admissions.csv", "no rows"],
    ),
    "zero bytes": (_edit("hosp/patients", lambda data: b""), ["patients.csv", "is empty"]),
    "zero bytes, optional": (_edit("hosp/labevents", lambda data: b""), ["labevents.csv", "is empty"]),
    "truncated gzip": (_truncated_gzip("hosp/labevents"), ["labevents.csv.gz", "truncated"]),
    "truncated gzip, required": (_truncated_gzip("hosp/patients"), ["patients.csv.gz", "truncated"]),
    "not gzip": (
        lambda raw: (raw / "hosp/emar.csv").rename(raw / "hosp/emar.csv.gz"),
        ["emar.csv.gz", "not a gzip file"],
    ),
    "not UTF-8": (
        _line("hosp/labevents", 5, lambda line: line.replace(b"mg/dL", b"mg/\xb5L").replace(b"5080", b"50\xb50")),
        ["labevents.csv, line 5", "UTF-8"],
    ),
    "duplicated subject_id": (_twice("hosp/patients"), ["patients.csv, line 5", "subject_id", "line 3"]),
    "duplicated hadm_id": (_twice("hosp/admissions"), ["admissions.csv, line 5", "hadm_id", "line 3"]),
    "short row": (
        _line("hosp/emar", 6, lambda line: line.rsplit(b",", 1)[0]),
        ["emar.csv, line 6", "11", "12"],
    ),
    "long row": (_line("hosp/emar", 6, lambda line: line + b",x"), ["emar.csv, line 6", "13", "12"]),
    "open quote": (_line("hosp/emar", 6, lambda line: b'"' + line), ["emar.csv, line 6"]),
    "plain and compressed": (_both, ["labevents.csv, labevents.csv.gz"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_sentence_and_nothing_is_written(name, tables, tmp_path):
    change, said = BAD[name]
    raw = layout.write(tables, tmp_path / "raw")
    change(raw)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError) as error:
        mimic_iv.read(raw, tmp_path / "out" / "meds")
    message = str(error.value)
    for part in said:
        assert part in message
    assert "\n" not in message and message.endswith(".") and ". " not in message
    assert "Mary" not in message, "no patient's data in messages"
    assert list((tmp_path / "out").iterdir()) == []


def test_lines_are_counted_in_the_file_also_when_a_quoted_field_spans_lines(tables, tmp_path):
    changed = dict(tables)
    labs = tables["hosp/labevents"].with_row_index("i")
    changed["hosp/labevents"] = labs.with_columns(
        pl.when(pl.col("i") == 0).then(pl.lit("two\nlines")).otherwise("comments").alias("comments"),
        pl.when(pl.col("i") == 3).then(pl.lit("yesterday")).otherwise("charttime").alias("charttime"),
    ).drop("i")
    with pytest.raises(InputError, match="labevents.csv, line 6:"):
        mimic_iv.read(layout.write(changed, tmp_path / "raw"), tmp_path / "meds")


def test_a_missing_folder_and_an_existing_output_are_refused(tables, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        mimic_iv.read(tmp_path / "nowhere", tmp_path / "meds")
    raw = layout.write(tables, tmp_path / "raw")
    (tmp_path / "meds").mkdir()
    (tmp_path / "meds" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="already exists"):
        mimic_iv.read(raw, tmp_path / "meds")
    assert [p.name for p in (tmp_path / "meds").iterdir()] == ["mine.txt"]


def test_an_optional_table_with_only_a_header_is_a_table_of_no_rows(tables, tmp_path):
    raw = layout.write(tables, tmp_path / "raw")
    _edit("hosp/hcpcsevents", _header_only)(raw)
    assert mimic_iv.read(raw, tmp_path / "meds")["tables"]["hcpcsevents"]["rows"] == 0


def test_a_file_cut_at_the_end_of_a_line_is_told_by_its_checksum(tmp_path):
    raw = layout.write(layout.generate(seed=3, patients=4), tmp_path / "raw")
    table = raw / "hosp" / "labevents.csv"
    whole = table.read_bytes()
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.relative_to(raw)}" for path in raw.rglob("*.csv")]
    table.write_bytes(b"".join(whole.splitlines(keepends=True)[:-3]))
    mimic_iv.read(raw, tmp_path / "unnoticed")
    (raw / "SHA256SUMS.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"labevents\.csv is not the file that SHA256SUMS\.txt names"):
        mimic_iv.read(raw, tmp_path / "meds")
    table.write_bytes(whole)
    mimic_iv.read(raw, tmp_path / "meds")
    (raw / "SHA256SUMS.txt").write_text("what is this\n")
    with pytest.raises(InputError, match="line 1 is no checksum"):
        mimic_iv.read(raw, tmp_path / "again")
