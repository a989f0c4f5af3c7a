"""Damaged and hostile token files: each case says beforehand what must come of it, and gets it."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ehrjax.data import token_files as reader
from ehrjax.ingest.raw_tables import OUT_OF_RANGE
from tests.data import token_files_layout as layout
from tests.ingest.meds_checks import digests, refusal

MADE = layout.generate(9)
SOUND = pickle.dumps(MADE["train/0.pkl"], 4)
NOTES = next(name for name in MADE if name.startswith("notes/") and any(r["notes"] for r in MADE[name]))
SUBJECT = next(i for i, r in enumerate(MADE[NOTES]) if r["notes"])
Case = tuple[str, Callable[[Path], None], str, object]


class Calls:
    """Pickled, it asks the reader to call a function."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple:
        return self.function, self.arguments


def content(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (layout.write(MADE, folder) / name).write_bytes(data) and None


def changed(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        made = copy.deepcopy(MADE)
        change(made)
        layout.write(made, folder)

    return write


def field(name: str, value: object, record: int = 1) -> Callable[[Path], None]:
    return changed(lambda made: made["train/0.pkl"][record].__setitem__(name, value))


def place(name: str, value: object, at: int = 3) -> Callable[[Path], None]:
    return changed(lambda made: made["train/0.pkl"][1][name].__setitem__(at, value))


def note(name: str, value: object) -> Callable[[Path], None]:
    return changed(lambda made: made[NOTES][SUBJECT]["notes"][0].__setitem__(name, value))


def without(name: str) -> Callable[[Path], None]:
    return changed(lambda made: made["train/0.pkl"][1].pop(name))


def cases() -> list[Case]:
    """(name, how to write it, what comes of it, with what): error: words of the message; subjects, tokens, notes:
    reason -> rows set aside beside those of the sound files; same: the same data files."""
    found: list[Case] = []
    for cut in np.linspace(0, len(SOUND) - 1, 60).astype(int):
        found.append((f"cut at {cut}", content("train/0.pkl", SOUND[:cut]), "error", "0.pkl is truncated"))
    rows = pickle.dumps(MADE[NOTES])
    for cut in np.linspace(0, len(rows) - 1, 20).astype(int):
        found.append((f"notes cut at {cut}", content(NOTES, rows[:cut]), "error", ".pkl is truncated"))
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        honest = lambda folder, p=protocol: layout.write(MADE, folder, protocol=p) and None  # noqa: E731
        found.append((f"protocol {protocol}", honest, "same", None))
        for function in (os.system, eval, print):
            hostile = pickle.dumps([{"subject_id": Calls(function, "1")}], protocol)
            where = f"{function.__name__} by protocol {protocol}"
            found.append((where, content("train/0.pkl", hostile), "error", "is refused: its pickle names"))
            found.append((f"{where} in notes", content(NOTES, hostile), "error", "is refused: its pickle names"))
    for name in ("subject_id", "tokens", "timestamps"):
        found.append(
            (f"without {name}", without(name), "error", f"record 1{'' if name == 'subject_id' else ' has no'}")
        )
        for value in (None, "text", {"a": 1}, {1}, b"x"):
            found.append((f"{name} is {value!r}", field(name, value), "error", "record 1"))
    for value in (1.0, True, 2**63, -(2**63) - 1, float("nan"), b"7"):
        found.append((f"subject_id is {value!r}", field("subject_id", value), "error", "subject_id is not a whole"))
    for value in (-5, np.int64(77), np.uint8(78)):
        found.append((f"subject_id is {value!r}", field("subject_id", value), "renamed", None))
    for value in ([[1, 2]], [[1], [2, 3]], [1.5], ["a"], [None], [b"a"], np.zeros((2, 2), int), [2**70], [1e300]):
        found.append((f"tokens are {value!r}", field("tokens", value), "error", "'tokens'"))
    for value in ([[1.0]], ["2020-01-01"], [b"1"], [{}], ["1.5"], np.zeros((2, 2))):
        found.append((f"timestamps are {value!r}", field("timestamps", value), "error", "'timestamps'"))
    for value in (-1, len(layout.STRINGS), 10**9, 2**62):
        found.append((f"token is {value}", place("tokens", value), "error", f"uses the token {value}"))
    unequal = {"tokens and timestamps differ in length": 1}
    for more in ([], [6], [6] * 500):
        found.append((f"{len(more)} tokens", field("tokens", more), "subjects", unequal))
    nothing = changed(lambda made: made["train/0.pkl"][1].update(tokens=[], timestamps=[]))
    found.append(("no tokens", nothing, "subjects", {"no tokens": 1}))
    timeless = changed(
        lambda made: made["train/0.pkl"][1].update(timestamps=[0] * len(MADE["train/0.pkl"][1]["tokens"]))
    )
    found.append(("no times", timeless, "subjects", {reader.TIMELESS: 1}))
    for value in (None, float("nan"), float("inf"), float("-inf")):
        found.append((f"time is {value}", place("timestamps", value), "tokens", {reader.NO_TIME: 1}))
    for value in (253370764800.0, -6.2e10, 1e18, -1e300, 1.1e10, -8.6e9):
        found.append((f"time is {value}", place("timestamps", value), "tokens", {OUT_OF_RANGE: 1}))
    for value in ("yes", [1], {}, b"1", np.str_("1")):
        found.append((f"label is {value!r}", field("label", value), "error", "its label is not a number"))
    found.append(
        ("a subject twice", changed(lambda made: made["train/0.pkl"].append(made["train/0.pkl"][0])), "error", "twice")
    )
    other = changed(lambda made: made["val/1.pkl"].append(made["train/0.pkl"][0]))
    found.append(("a subject in two splits", other, "error", "more than one token file"))
    for value in ({}, 5, "text", [1], [[]], None, np.arange(3)):
        found.append(
            (f"the file holds {value!r}", content("train/0.pkl", pickle.dumps(value)), "error", "list of dicts")
        )
    found += [
        ("an empty list", content("held_out/2.pkl", pickle.dumps([])), "fewer", None),
        ("CSV", content("train/0.pkl", b"subject_id,tokens\n1,2\n"), "error", "0.pkl"),
        ("something behind the pickle", content("train/0.pkl", SOUND + b"x"), "error", "behind its pickle"),
        ("no files", lambda folder: folder.mkdir(), "error", "holds no .pkl files"),
        ("no folder", lambda folder: None, "error", "does not exist"),
        ("files beside the splits", content("loose.pkl", SOUND), "error", "beside the folders of the splits"),
    ]
    text = layout.vocabulary()
    lines = text.splitlines()
    for name, data, words in (
        ("empty", "", "is empty"),
        ("header only", lines[0] + "\n", "has no rows"),
        ("without token", text.replace("token,", "id,", 1), "'token'"),
        ("without str", text.replace("str,", "name,", 1), "'str'"),
        ("a gap in the ids", text.replace("\n3,", "\n30,"), "0, 1, 2"),
        ("an id twice", text.replace("\n3,", "\n4,"), "0, 1, 2"),
        ("ids from 1", "\n".join(lines[:1] + lines[2:]), "0, 1, 2"),
        ("a text id", text.replace("\n3,", "\nx,"), "'token'"),
        ("a string twice", text.replace("Q3", "1d"), "different"),
        ("no string", text.replace("Q3", ""), "different"),
        ("a line too long", text.replace("Q3,7", "Q3,7,8"), "fields"),
        ("too few tokens", "\n".join(lines[:5]) + "\n", "another dataset's"),
    ):
        found.append((f"vocabulary: {name}", content("vocab.csv", data.encode()), "error", words))
    found += [
        ("vocabulary: utf-16", content("vocab.csv", text.encode("utf-16")), "error", "vocab.csv"),
        ("vocabulary: latin-1", content("vocab.csv", text.replace("Q3", "\u00e9").encode("latin-1")), "error", "UTF-8"),
        ("vocabulary: byte order mark", content("vocab.csv", ("\ufeff" + text).encode()), "same", None),
        ("vocabulary: CRLF", content("vocab.csv", text.replace("\n", "\r\n").encode()), "same", None),
        (
            "vocabulary: no counts",
            content("vocab.csv", text.replace(",count", "").replace(",7", "").encode()),
            "same",
            None,
        ),
        ("vocabulary: shuffled", content("vocab.csv", "\n".join([lines[0], *lines[:0:-1]]).encode()), "same", None),
        ("vocabulary: missing", lambda f: (layout.write(MADE, f) / "vocab.csv").unlink(), "error", "is missing"),
    ]
    for value in (None, "", "yesterday", "2020-13-01 00:00:00", [], True, 1e300, float("nan")):
        found.append((f"charttime is {value!r}", note("charttime", value), "notes", {"no charttime": 1}))
    for value in ("9999-12-31 00:00:00", "0001-01-01 00:00:00", "9999-12-31", 2e10, -1e10):
        found.append((f"charttime is {value!r}", note("charttime", value), "notes", {OUT_OF_RANGE: 1}))
    for value in ([1.5], ["a"], "text", [-1], [2**40], [[1]]):
        found.append((f"token_ids are {value!r}", note("token_ids", value), "error", "'token_ids'"))
    empty = {"neither text nor token_ids": 1}
    found += [
        ("a note without anything", note("token_ids", None), "notes", empty),
        ("a note of bytes", note("text", b"x"), "error", "is not text"),
        ("notes are text", changed(lambda made: made[NOTES][0].update(notes="x")), "error", "'notes'"),
        ("notes are missing", changed(lambda made: made[NOTES][0].pop("notes")), "error", "'notes'"),
        ("notes of nobody", changed(lambda made: made[NOTES][0].pop("subject_id")), "error", "subject_id"),
    ]
    return found


CASES = cases()


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 200 and len({case[0] for case in CASES}) == len(CASES)


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("sound")
    return folder / "out", reader.read(layout.write(MADE, folder / "in"), folder / "out")


def data_of(folder: Path) -> dict[str, str]:
    """Digests of what does not name its source."""
    return {name: digest for name, digest in digests(folder).items() if not name.endswith("dataset.json")}


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_each_damage_has_the_outcome_that_was_stated(case: Case, sound, tmp_path, monkeypatch) -> None:
    _, make, outcome, detail = case
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "in")
    if outcome == "error":
        message = refusal(reader.read, tmp_path / "in", tmp_path / "out")
        assert detail in message, message
        return
    summary = reader.read(tmp_path / "in", tmp_path / "out")
    for account in (summary["subjects"], summary["tokens"]):
        assert account["rows"] == account["kept"] + sum(account["set_aside"].values())
    if outcome == "same":
        assert data_of(tmp_path / "out") == data_of(sound[0])
    elif outcome == "renamed":
        assert summary["tokens"] == sound[1]["tokens"] and summary["subjects"] == sound[1]["subjects"]
    elif outcome == "fewer":
        assert summary["subjects"]["rows"] == sound[1]["subjects"]["rows"] - len(MADE["held_out/2.pkl"])
    elif outcome == "tokens":
        more = {k: n - sound[1]["tokens"]["set_aside"].get(k, 0) for k, n in summary["tokens"]["set_aside"].items()}
        assert {k: n for k, n in more.items() if n} == detail
    else:
        assert summary[outcome]["set_aside"] == detail
