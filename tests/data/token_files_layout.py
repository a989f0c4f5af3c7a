"""Made-up token files in the layout of token-based pipelines."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np

STRINGS = ["<unknown>", "<start>", "<end>", "GENDER//M", "AGE_decile_5", "1d", "MEDICAL//C10", "LAB//GLUCOSE", "Q3"]
UNKNOWN, START, END, GENDER, AGE = range(5)
Record = dict[str, object]


def record(rng: np.random.Generator, subject: int) -> Record:
    """One subject: <start>, two static tokens, events in order of time, <end>."""
    count = int(rng.integers(1, 9))
    tokens = [START, GENDER, AGE, *rng.integers(5, len(STRINGS), count).tolist(), END]
    times = np.cumsum(rng.integers(0, 200_000, count)) + int(rng.integers(-(10**9), 10**9)) * 1.0
    return {
        "subject_id": subject,
        "tokens": tokens,
        "timestamps": [0, 0, 0, *times.tolist(), float(times[-1])],
        "label": int(rng.integers(2)),
    }


def notes_of(rng: np.random.Generator, records: list[Record]) -> list[Record]:
    """Up to three notes a subject, not in order of time."""
    made = []
    for entry in records:
        notes = [
            {
                "note_id": f"{entry['subject_id']}-{n}",
                "charttime": f"20{rng.integers(10, 20)}-03-0{rng.integers(1, 9)} 10:00:00",
                "token_ids": rng.integers(0, 30_000, int(rng.integers(0, 5))).tolist(),
            }
            for n in range(int(rng.integers(0, 4)))
        ]
        made.append({"subject_id": entry["subject_id"], "notes": notes})
    return made


def generate(seed: int, *, files: int = 3, subjects: int = 4) -> dict[str, list[Record]]:
    """Path below the input folder -> records; notes are below notes/."""
    rng = np.random.default_rng(seed)
    made: dict[str, list[Record]] = {}
    for number in range(files):
        folder = ("train", "val", "held_out")[number % 3]
        records = [record(rng, 100 * number + n) for n in range(subjects)]
        made[f"{folder}/{number}.pkl"] = records
        made[f"notes/{folder}/{number}.pkl"] = notes_of(rng, records)
    return made


def vocabulary() -> str:
    """vocab.csv."""
    return "token,str,count\n" + "".join(f"{i},{name},7\n" for i, name in enumerate(STRINGS))


def write(made: dict[str, list[Record]], folder: Path, *, protocol: int = 4) -> Path:
    """The input folder."""
    for name, records in made.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(records, protocol))
    (folder / "vocab.csv").write_text(vocabulary())
    return folder
