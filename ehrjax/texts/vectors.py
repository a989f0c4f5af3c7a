"""Notes to vectors, written once: a folder that training maps (`data.notes`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehrjax.core import config as configs
from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.data import notes as stores
from ehrjax.ingest import notes as tables
from ehrjax.texts.encoders import Encoder

Progress = Callable[[str, int, "int | None"], None]


def write(source: Path, output: str | Path, encoder: Encoder, *, progress: Progress | None = None) -> dict[str, Any]:
    """Writes the vectors of a file of notes; a killed run goes on where it was, by pieces of some thousand notes.

    Args:
      source: see `ingest.notes.pieces`.
      output: the folder to write; it must not exist.
      encoder: see `encoders.opened`.
      progress: called with what is done, how many notes are, and None, for how many there are is not known.

    Returns:
      notes, width, set_aside.

    Raises:
      InputError: the notes cannot be read, or there are none.
    """
    fingerprint = configs.fingerprint([files.sha256_file(source), dict(encoder.about), stores.VERSION])
    with files.resumable_folder(output, what="folder of note vectors", fingerprint=fingerprint) as folder:
        parts = folder / "parts"
        parts.mkdir(exist_ok=True)
        set_aside: Counter[str] = Counter()
        index, paths = [], []
        done = 0
        for number, piece in enumerate(tables.pieces(source, set_aside)):
            path = parts / f"{number:06d}.npy"
            if len(piece) and not path.is_file():
                with files.written_file(path) as temporary, open(temporary, "wb") as stream:
                    np.save(stream, encoder.encode(piece), allow_pickle=False)
            if len(piece):
                paths.append(path)
                index.append(piece.select("subject_id", "time", "note_id"))
            done += len(piece)
            if progress:
                progress("encoding notes", done, None)
        if not paths:
            raise InputError(f"{source} holds no note with a subject, a time and a text.")
        aside = dict(sorted(set_aside.items()))
        about = {**encoder.about, "fingerprint": fingerprint, "set_aside": aside}
        stores.write(folder, pl.concat(index), _read(paths), about)
        for path in paths:
            path.unlink()
        parts.rmdir()
        info = files.read_json(folder / stores.INFO, what="folder of note vectors")
    return {"notes": info["notes"], "width": info["width"], "set_aside": aside}


def _read(paths: Sequence[Path]) -> Iterator[np.ndarray]:
    for path in paths:
        yield np.load(path, allow_pickle=False)
