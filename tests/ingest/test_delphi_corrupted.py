"""Damaged Delphi folders: each case says beforehand what must come of it, and gets it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ehrjax.ingest import delphi as reader
from tests.ingest import delphi_layout as layout
from tests.ingest.meds_checks import check_accounting, events_in, refusal

ROWS = layout.generate(7, patients=12)
VAL = layout.generate(8, patients=3, first=9000)
BYTES = ROWS.astype("<u4").tobytes()
TEXT = "\n".join(layout.NAMES) + "\n"
BEYOND, PADDING, OLD = (reason for reason, _ in reader._SET_ASIDE)
Case = tuple[str, Callable[[Path], None], str, object]


def rows(changed: np.ndarray, val: np.ndarray | None = None) -> Callable[[Path], None]:
    return lambda folder: layout.write(folder, changed, val) and None


def content(name: str, data: bytes, val: np.ndarray | None = None) -> Callable[[Path], None]:
    return lambda folder: (layout.write(folder, ROWS, val) / name).write_bytes(data) and None


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (layout.write(folder, ROWS, VAL) / name).unlink()


def altered(column: int, value: int, places: list[int]) -> np.ndarray:
    changed = ROWS.copy()
    changed[places, column] = value
    return changed


def cases() -> list[Case]:
    """(name, how to write it, what comes of it, with what): error: words of the message; train, val: reason -> rows
    set aside; same: the same events; rows: so many rows."""
    found: list[Case] = []
    rng = np.random.default_rng(0)
    timed = [i for i, row in enumerate(ROWS) if row[2] > 2]
    for cut in range(1, 97):
        if cut % 12:
            found.append((f"cut by {cut} bytes", content("train.bin", BYTES[:-cut]), "error", "no whole number"))
        else:
            # A file cut exactly between two triples cannot be told from a shorter one.
            found.append((f"cut by {cut} bytes", content("train.bin", BYTES[:-cut]), "rows", len(ROWS) - cut // 12))
    for count in range(1, 12):
        places = rng.choice(timed, count, replace=False).tolist()
        for value in (12, 13, 5000, 2**32 - 1):
            found.append((f"{count} x token {value}", rows(altered(2, value, places)), "train", {BEYOND: count}))
        for value in (reader.MAX_AGE_DAYS + 1, 10**6, 2**32 - 1):
            found.append((f"{count} x age {value}", rows(altered(1, value, places)), "train", {OLD: count}))
        found.append((f"{count} x padding", rows(altered(2, 0, places)), "train", {PADDING: count}))
    for seed in range(10):
        order = np.random.default_rng(seed).permutation(len(ROWS))
        found.append((f"rows shuffled {seed}", rows(ROWS[order]), "same", None))
    for count in (1, 5):
        doubled = np.concatenate([ROWS, ROWS[:count]])
        found.append((f"{count} rows twice", rows(doubled), "rows", len(ROWS) + count))
        shared = np.concatenate([VAL, ROWS[:count]])
        found.append((f"{count} rows shared with val", rows(ROWS, shared), "error", "share 1 patients"))
        bad = VAL.copy()
        bad[-count:, 2] = 77
        found.append((f"{count} x token 77 in val", rows(ROWS, bad), "val", {BEYOND: count}))
    for cut in (1, 4, 8, 11):
        data = VAL.astype("<u4").tobytes()[:-cut]
        found.append((f"val cut by {cut}", content("val.bin", data, VAL), "error", "val.bin holds"))
    found += [
        ("train empty", content("train.bin", b""), "error", "train.bin holds 0 bytes"),
        ("val empty", content("val.bin", b"", VAL), "error", "val.bin holds 0 bytes"),
        ("train missing", without("train.bin"), "error", "train.bin is missing"),
        ("labels missing", without("labels.csv"), "error", "labels.csv is missing"),
        ("no folder", lambda folder: None, "error", "does not exist"),
        ("big-endian", content("train.bin", ROWS.astype(">u4").tobytes()), "error", "gives an event"),
        ("labels empty", content("labels.csv", b""), "error", "does not begin"),
        ("labels without the first line", content("labels.csv", TEXT.split("\n", 1)[1].encode()), "error", "not begin"),
        ("labels with a header", content("labels.csv", ("name\n" + TEXT).encode()), "error", "does not begin"),
        ("labels in utf-16", content("labels.csv", TEXT.encode("utf-16")), "error", "not UTF-8"),
        ("labels in latin-1", content("labels.csv", TEXT.replace("cho", "\u00e9").encode("latin-1")), "error", "UTF-8"),
        ("labels with a byte order mark", content("labels.csv", ("\ufeff" + TEXT).encode()), "same", None),
        ("labels with CRLF", content("labels.csv", TEXT.replace("\n", "\r\n").encode()), "same", None),
        ("labels in quotes", content("labels.csv", TEXT.replace("Death", '"Death"').encode()), "same", None),
        ("labels with blanks", content("labels.csv", TEXT.replace("Death", "  Death ").encode()), "same", None),
        ("no last line end", content("labels.csv", TEXT.rstrip().encode()), "same", None),
        ("more labels", content("labels.csv", (TEXT + "Z99 (more)\n").encode()), "same", None),
    ]
    for missing in range(1, 5):
        names = "\n".join(layout.NAMES[:-missing]) + "\n"
        lost = int((ROWS[:, 2] >= len(layout.NAMES) - 1 - missing).sum())
        found.append((f"{missing} labels missing", content("labels.csv", names.encode()), "train", {BEYOND: lost}))
        blank = TEXT.replace(layout.NAMES[-missing], "")
        gone = int((ROWS[:, 2] == len(layout.NAMES) - 1 - missing).sum())
        found.append((f"label {-missing} is blank", content("labels.csv", blank.encode()), "train", {PADDING: gone}))
    return found


CASES = cases()


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 200 and len({case[0] for case in CASES}) == len(CASES)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    reader.read(layout.write(folder / "raw", ROWS), folder / "meds")
    return folder / "meds"


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_each_damage_has_the_outcome_that_was_stated(case: Case, sound, tmp_path) -> None:
    _, make, outcome, detail = case
    make(tmp_path / "raw")
    if outcome == "error":
        message = refusal(reader.read, tmp_path / "raw", tmp_path / "meds")
        assert detail in message, message
        return
    summary = reader.read(tmp_path / "raw", tmp_path / "meds")
    check_accounting(summary)
    if outcome == "same":
        assert events_in(tmp_path / "meds").equals(events_in(sound))
    elif outcome == "rows":
        account = summary["tables"]["train"]
        assert account["rows"] == account["rows_emitted"] == detail
    else:
        assert summary["tables"][outcome]["rows_set_aside"] == detail
