"""Damaged diabetic_data.csv files: each case says beforehand what must come of it, and gets it."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ehrjax.ingest import uci_diabetes130 as reader
from tests.ingest import uci_diabetes130_layout as layout
from tests.ingest.meds_checks import check_accounting, digests, events_in, refusal

FRAME = layout.generate(7, stays=16, patients=6).with_columns(pl.lit("Cardiology").alias("medical_specialty"))
TEXT = FRAME.write_csv()
LINES = TEXT.splitlines()
PACKED = gzip.compress(TEXT.encode(), mtime=0)
ROWS = len(FRAME)
Case = tuple[str, Callable[[Path], None], str, object]


def text(content: str | bytes, name: str = "diabetic_data.csv") -> Callable[[Path], None]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def frame(changed: pl.DataFrame) -> Callable[[Path], None]:
    return text(changed.write_csv())


def cell(column: str, value: str | None, row: int = 3) -> Callable[[Path], None]:
    values = FRAME[column].to_list()
    values[row] = value
    return frame(FRAME.with_columns(pl.Series(column, values, pl.String)))


def cases() -> list[Case]:
    """(name, how to write it, what comes of it, with what): error: words of the message; aside: reason -> rows;
    same: the events of the sound file; fewer: so many events less, no row lost."""
    found: list[Case] = []
    for cut in np.linspace(1, len(PACKED) - 1, 40).astype(int):
        found.append(
            (f"gzip cut at {cut}", text(PACKED[:cut], "diabetic_data.csv.gz"), "error", "diabetic_data.csv.gz")
        )
    for name in layout.COLUMNS:
        found.append((f"without {name}", frame(FRAME.drop(name)), "error", repr(name)))
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(layout.COLUMNS).tolist()
        found.append((f"columns shuffled {seed}", frame(FRAME.select(order)), "same", None))
    whole = ["encounter_id", "patient_nbr", "time_in_hospital"]
    for name in [*whole, *layout.NUMBERS]:
        found.append((f"{name} is text", cell(name, "abc"), "error", f"line 5: the value in column {name!r}"))
        found.append((f"{name} has a comma", cell(name, "1,5"), "error", repr(name)))
    for name in whole:
        found.append((f"{name} is nan", cell(name, "nan"), "error", repr(name)))
        found.append((f"{name} is a fraction", cell(name, "1.5"), "error", repr(name)))
        found.append((f"{name} is beyond 64 bits", cell(name, "9" * 30), "error", repr(name)))
    for name in layout.NUMBERS:
        for value in ("nan", "inf", "-inf", None):
            found.append((f"{name} is {value}", cell(name, value), "fewer", 1))
    found += [
        ("no encounter_id", cell("encounter_id", None), "aside", {"no encounter_id": 1}),
        ("no patient_nbr", cell("patient_nbr", None), "aside", {"no patient_nbr": 1}),
        ("no length of stay", cell("time_in_hospital", None), "aside", {reader.uci.BAD_STAY[0]: 1}),
    ]
    for value in ("-1", "100", "9999", "-9223372036854775808"):
        found.append((f"stay of {value}", cell("time_in_hospital", value), "aside", {reader.uci.BAD_STAY[0]: 1}))
    for copies in range(1, 11):
        doubled = pl.concat([FRAME, FRAME.head(copies)])
        found.append((f"{copies} rows twice", frame(doubled), "aside", {reader.uci.REPEATED[0]: copies}))
    for row in range(ROWS):
        extra = [*LINES[: row + 1], LINES[row + 1] + ",x", *LINES[row + 2 :]]
        found.append((f"row {row} too long", text("\n".join(extra) + "\n"), "error", f"line {row + 2} has 51 fields"))
        short = [*LINES[: row + 1], LINES[row + 1].rsplit(",", 1)[0], *LINES[row + 2 :]]
        found.append((f"row {row} too short", text("\n".join(short) + "\n"), "error", f"line {row + 2} has 49 fields"))
    found += [
        ("empty", text(""), "error", "is empty"),
        ("header only", text(LINES[0] + "\n"), "error", "no rows"),
        ("header without a line end", text(LINES[0]), "error", "no rows"),
        ("no header", text("\n".join(LINES[1:]) + "\n"), "error", "has no column 'encounter_id'"),
        ("byte order mark", text("\ufeff" + TEXT), "same", None),
        ("CRLF", text(TEXT.replace("\n", "\r\n")), "same", None),
        ("no last line end", text(TEXT.rstrip("\n")), "same", None),
        ("utf-16", text(TEXT.encode("utf-16")), "error", "diabetic_data.csv"),
        ("latin-1", text(TEXT.replace("Cardiology", "Card\u00edology", 1).encode("latin-1")), "error", "not UTF-8"),
        ("all quoted", text(FRAME.write_csv(quote_style="always")), "same", None),
        ("upper-case header", text(TEXT.replace(LINES[0], LINES[0].upper())), "same", None),
        ("blanks around fields", text(TEXT.replace(",", " , ")), "same", None),
        ("an open quote", text(TEXT.replace("Cardiology", '"Cardiology', 1)), "error", "diabetic_data.csv"),
        ("text named .gz", text(TEXT, "diabetic_data.csv.gz"), "error", "diabetic_data.csv.gz"),
        ("gzip named .csv", text(PACKED), "error", "diabetic_data.csv"),
        ("text named .parquet", text(TEXT, "diabetic_data.parquet"), "error", "diabetic_data.parquet"),
        ("text named .zst", text(TEXT, "diabetic_data.csv.zst"), "error", "diabetic_data.csv.zst"),
        ("no file", lambda folder: None, "error", "diabetic_data.csv"),
        ("a folder without parts", lambda folder: (folder / "diabetic_data").mkdir(), "error", "diabetic_data"),
    ]
    for content, words in (
        (b"", "none of the tables"),
        (b"a,b\n1,2\n", "none of the tables"),
        (b"\xff\xfe\x00", "UTF-8"),
    ):

        def both(folder: Path, content: bytes = content) -> None:
            (folder / "diabetic_data.csv").write_text(TEXT)
            (folder / "IDs_mapping.csv").write_bytes(content)

        found.append((f"mapping {content!r}", both, "error", words))
    return found


CASES = cases()


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 200 and len({case[0] for case in CASES}) == len(CASES)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("sound")
    text(TEXT)(folder)
    return folder / "meds", reader.read(folder, folder / "meds")


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_each_damage_has_the_outcome_that_was_stated(case: Case, sound, tmp_path) -> None:
    _, make, outcome, detail = case
    raw = tmp_path / "raw"
    raw.mkdir()
    make(raw)
    if outcome == "error":
        message = refusal(reader.read, raw, tmp_path / "meds")
        assert detail in message, message
        return
    summary = reader.read(raw, tmp_path / "meds")
    check_accounting(summary)
    account = summary["tables"]["diabetic_data"]
    if outcome == "same":
        assert events_in(tmp_path / "meds").equals(events_in(sound[0]))
        assert digests(tmp_path / "meds" / "labels") == digests(sound[0] / "labels")
    elif outcome == "fewer":
        assert account["rows_emitted"] == ROWS and summary["events"] == sound[1]["events"] - detail
    else:
        assert account["rows_set_aside"] == detail
        assert summary["labels"][reader.TASK]["rows_set_aside"] == detail


def test_an_unknown_answer_gives_no_label(tmp_path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    cell("readmitted", "maybe")(raw)
    summary = reader.read(raw, tmp_path / "meds")
    assert summary["labels"][reader.TASK]["rows_set_aside"] == {"readmitted is not <30, >30 or NO": 1}
    assert summary["tables"]["diabetic_data"]["rows_set_aside"] == {}
