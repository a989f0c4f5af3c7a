"""Subjects and visits that a source names by text: MEDS wants whole numbers, and results must find their way back."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ehrjax.core import files
from ehrjax.core.errors import InputError


class TextIds:
    """Turns text ids into int64: a 63-bit hash of the text, the same on every machine and in every run.

    Whole numbers written as text keep their value only if all of a source's ids are whole numbers, which a reader
    that streams cannot know; a reader of such a source parses them as numbers instead.
    """

    def __init__(self, what: str) -> None:
        """`what` is named in messages ("patient")."""
        self._what = what
        self._of: dict[str, int] = {}
        self._taken: dict[int, str] = {}

    def encode(self, texts: pl.Series) -> pl.Series:
        """[N] int64 ids; null where the text is null.

        Raises:
          InputError: two texts have the same hash (about one chance in a million with four million ids).
        """
        for text in texts.drop_nulls().unique():
            if text not in self._of:
                number = files.stable_hash(text) >> 1
                if self._taken.setdefault(number, text) != text:
                    raise InputError(f"Two {self._what} ids of the source have the same hash; rename one of them.")
                self._of[text] = number
        known = pl.DataFrame(
            {"text": list(self._of), "number": list(self._of.values())},
            schema={"text": pl.String, "number": pl.Int64},
        )
        joined = texts.alias("text").to_frame().join(known, on="text", how="left", maintain_order="left")
        return joined["number"].alias(texts.name)

    def write(self, path: Path, column: str) -> None:
        """Writes the table of ids (parquet: `column` as in the source, subject_id), so that results can be joined."""
        frame = pl.DataFrame(
            {column: list(self._of), "subject_id": list(self._of.values())},
            schema={column: pl.String, "subject_id": pl.Int64},
        ).sort("subject_id")
        with files.written_file(path) as temporary:
            frame.write_parquet(temporary)
