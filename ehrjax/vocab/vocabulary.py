"""The vocabulary: token strings and their integer ids, kept as `vocab.csv` (`token,str,count,...`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from ehrjax.core import config as configs
from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.vocab.recipe import CLS, MASK, PAD, SEP, SPECIALS, UNK

COLUMNS = {
    "token": pl.Int64,
    "str": pl.String,
    "count": pl.Int64,
    "family": pl.String,
    "code": pl.String,
    "bin": pl.Int32,
    "low": pl.Float32,
    "high": pl.Float32,
    "description": pl.String,
}


@dataclass(frozen=True)
class Vocabulary:
    """Token ids are row numbers of `table` (columns of COLUMNS); the specials come first, [PAD] is 0."""

    table: pl.DataFrame

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def strings(self) -> list[str]:
        """Token strings by id."""
        return self.table["str"].to_list()

    @cached_property
    def ids(self) -> dict[str, int]:
        """Token ids by string."""
        return {string: i for i, string in enumerate(self.strings)}

    @property
    def num_specials(self) -> int:
        """Ids below this are specials: never masked, never predicted."""
        return len(SPECIALS)

    pad, unk, cls, sep, mask = (SPECIALS.index(name) for name in (PAD, UNK, CLS, SEP, MASK))

    @cached_property
    def families(self) -> tuple[list[str], np.ndarray]:
        """Family names in order of name, and the index of each token's family, [V] int32."""
        names = sorted(self.table["family"].unique())
        index = {name: i for i, name in enumerate(names)}
        return names, self.table["family"].replace_strict(index, return_dtype=pl.Int32).to_numpy()

    def encode(self, tokens: pl.Series) -> pl.Series:
        """Ids of token strings, int32; unknown ones become [UNK]."""
        known = self.table.select(pl.col("str"), pl.col("token").cast(pl.Int32))
        joined = tokens.alias("str").to_frame().join(known, on="str", how="left", maintain_order="left")
        return joined["token"].fill_null(self.unk)

    def decode(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """Strings of token ids."""
        strings = self.strings
        return [strings[int(i)] for i in np.asarray(ids).ravel()]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change when a token moves, comes or goes."""
        return configs.fingerprint(self.strings)

    def write(self, path: str | Path) -> None:
        """Writes vocab.csv, atomically."""
        with files.written_file(path) as temporary:
            self.table.write_csv(temporary, float_precision=9)


def build(
    counts: pl.DataFrame,
    *,
    min_count: int,
    bin_bounds: dict[str, list[tuple[float, float]]],
    descriptions: dict[str, str | None],
) -> Vocabulary:
    """Makes the vocabulary of the tokens that occur often enough in train.

    Args:
      counts: str, code, bin (null without value), count: the tokens of the train split.
      min_count: rarer tokens are left out.
      bin_bounds: code -> (low, high] by bin.
      descriptions: code -> text.
    """
    kept = counts.filter(pl.col("count") >= min_count).sort(["count", "str"], descending=[True, False])
    rows = [(i, name, 0, "special", None, None, None, None, None) for i, name in enumerate(SPECIALS)]
    for i, (string, code, bin_, count) in enumerate(kept.select("str", "code", "bin", "count").iter_rows()):
        low, high = bin_bounds[code][bin_ - 1] if bin_ is not None else (None, None)
        family = code.split("//", 1)[0]
        rows.append((len(SPECIALS) + i, string, count, family, code, bin_, low, high, descriptions.get(code)))
    return Vocabulary(pl.DataFrame(rows, schema=COLUMNS, orient="row"))


def smallest() -> Vocabulary:
    """The specials and one code: enough to check a config with, as far as no code is named in it."""
    counts = pl.DataFrame({"str": ["x"], "code": ["x"], "bin": [None], "count": [1]})
    return build(counts, min_count=1, bin_bounds={}, descriptions={})


def read(path: str | Path) -> Vocabulary:
    """Reads vocab.csv.

    Raises:
      InputError: the file is missing, lacks a column, or its ids are not 0, 1, 2, ...
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"The vocabulary {path} is missing.")
    try:
        table = pl.read_csv(path, schema_overrides=COLUMNS)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"The vocabulary {path} cannot be read: {str(error).splitlines()[0]}.") from error
    for name in COLUMNS:
        if name not in table.columns:
            raise InputError(f"The vocabulary {path} has no column {name!r}.")
    if table["token"].to_list() != list(range(len(table))) or table["str"].n_unique() != len(table):
        raise InputError(f"The vocabulary {path} must list ids 0, 1, 2, ... with a different string each.")
    if tuple(table["str"][: len(SPECIALS)]) != SPECIALS:
        raise InputError(f"The vocabulary {path} must start with {', '.join(SPECIALS)}.")
    return Vocabulary(table.select(list(COLUMNS)))
