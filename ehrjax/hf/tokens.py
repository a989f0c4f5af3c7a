"""Vocabularies between the houses: the rows of a foreign table in our order, and our codes as a tokenizer.

Our vocabularies begin with [PAD], [UNK], [CLS], [SEP], [MASK]. A foreign one has its specials anywhere, by other names,
or lacks some; rows are moved, so that nothing else has to know, and moved back on the way out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.vocab import vocabulary as vocabularies
from ehrjax.vocab.recipe import CLS, MASK, PAD, SEP, SPECIALS, UNK
from ehrjax.vocab.vocabulary import Vocabulary

OURS, ROW = "ehrjax_vocab.csv", "row"
# What may stand between codes in a text; the first that no code holds.
_BETWEEN = (r"\s+", "\t", "\n", "\x1f")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
# Which of a foreign tokenizer's specials stands for which of ours, the surest first; each is taken once.
_ROLES = (
    (MASK, ("mask_token",)),
    (PAD, ("pad_token",)),
    (CLS, ("cls_token", "bos_token")),
    (SEP, ("sep_token", "eos_token")),
    (UNK, ("unk_token",)),
)


@dataclass(frozen=True)
class Rows:
    """A foreign vocabulary as ours.

    Attributes:
      vocabulary: ours.
      rows: [V] int64: for each of our ids the row there, -1 where there is none.
      count: how many rows there are there.
    """

    vocabulary: Vocabulary
    rows: np.ndarray
    count: int

    @property
    def absent(self) -> tuple[int, ...]:
        """Our ids that have no row there."""
        return tuple(int(i) for i in np.flatnonzero(self.rows < 0))


def read(folder: Path, config: Mapping[str, Any], count: int) -> Rows:
    """The vocabulary of a model's folder.

    Args:
      folder: with a tokenizer, or with our own vocabulary beside the model, or with neither: then tokens are numbers.
      config: its config.json.
      count: the rows of the table.

    Raises:
      InputError: the tokenizer is damaged, or has more tokens than the table has rows.
    """
    if (folder / OURS).is_file():
        return _own(folder / OURS, count)
    strings, specials = _tokenizer(folder)
    if strings and max(strings) >= count:
        raise InputError(
            f"The tokenizer of {folder} has the id {max(strings)} ({strings[max(strings)]!r}), but the model's table "
            f"has {count} rows; they do not belong together."
        )
    return from_strings(strings, specials or _config_specials(config), count)


def _own(path: Path, count: int) -> Rows:
    """Our own vocabulary beside a model, where a column `row` says which row is whose if they are in another order."""
    vocabulary = vocabularies.read(path)
    told = pl.read_csv(path, infer_schema_length=0)
    rows = np.arange(len(vocabulary))
    if ROW in told.columns:
        rows = told[ROW].cast(pl.Int64, strict=False).fill_null(-2).to_numpy()
    there = rows[rows >= 0]
    if len(there) != len(np.unique(there)) or rows.min() < -1 or rows.max() >= count:
        raise InputError(f"{path} must name rows of a table of {count}, each once; copy the file again.")
    if ROW not in told.columns and len(vocabulary) != count:
        raise InputError(
            f"{path} has {len(vocabulary)} tokens, the model's table {count} rows; they do not belong together."
        )
    return Rows(vocabulary, rows, count)


def from_strings(strings: Mapping[int, str], specials: Mapping[str, int], count: int) -> Rows:
    """Our vocabulary of foreign tokens.

    Args:
      strings: id -> token; ids without one are named by number.
      specials: role ("mask_token", ...) -> id.
      count: the rows of the table.
    """
    chosen: dict[str, int] = {}
    for ours, roles in _ROLES:
        found = [specials[role] for role in roles if role in specials]
        for row in found:
            if 0 <= row < count and row not in chosen.values():
                chosen[ours] = row
                break
    # A vocabulary that has our names means them.
    by_string = {string: row for row, string in strings.items()}
    for name in SPECIALS:
        if name not in chosen and by_string.get(name, count) < count and by_string[name] not in chosen.values():
            chosen[name] = by_string[name]
    first = [chosen.get(name, -1) for name in SPECIALS]
    rows = np.array([*first, *(row for row in range(count) if row not in set(first))], np.int64)
    names, seen = list(SPECIALS), set(SPECIALS)
    literal = set(strings.values())
    for row in rows[len(SPECIALS) :]:
        name = strings.get(int(row), "")
        if not name or name in seen or name != name.strip("\r\n"):
            name = f"token//{row}"
            # A tokenizer may hold this very text.
            while name in literal:
                name += "//"
        names.append(name)
        seen.add(name)
    families = ["special"] * len(SPECIALS) + ["token"] * (len(rows) - len(SPECIALS))
    table = pl.DataFrame(
        {
            "token": range(len(rows)),
            "str": names,
            "count": [0] * len(rows),
            "family": families,
            "code": [None] * len(SPECIALS) + names[len(SPECIALS) :],
        }
    )
    missing = [pl.lit(None, dtype).alias(n) for n, dtype in vocabularies.COLUMNS.items() if n not in table.columns]
    table = table.with_columns(missing).select(pl.col(n).cast(dtype) for n, dtype in vocabularies.COLUMNS.items())
    return Rows(Vocabulary(table), rows, count)


def _tokenizer(folder: Path) -> tuple[dict[int, str], dict[str, int]]:
    """id -> token and role -> id of a folder's tokenizer; empty without one."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES if name != "special_tokens_map.json"):
        return {}, {}
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many classes for what it cannot read
        raise InputError(
            f"The tokenizer of {folder} cannot be read ({type(error).__name__}); copy its files again or remove them."
        ) from error
    strings = {row: token for token, row in tokenizer.get_vocab().items()}
    roles = {role for _, names in _ROLES for role in names}
    specials = {role: getattr(tokenizer, f"{role}_id", None) for role in roles}
    return strings, {role: row for role, row in specials.items() if row is not None}


def _config_specials(config: Mapping[str, Any]) -> dict[str, int]:
    """role -> id, as far as a config says it."""
    roles = {role for _, names in _ROLES for role in names}
    return {role: config[f"{role}_id"] for role in roles if isinstance(config.get(f"{role}_id"), int)}


def write_tokenizer(folder: Path, found: Rows, *, max_length: int) -> None:
    """Writes our codes as a word-level `PreTrainedTokenizerFast`, and the vocabulary itself beside it.

    Texts are codes with blanks between; where codes hold blanks themselves, with tabs between (newlines, where they
    hold tabs). Whole codes can also be given as a list (`is_split_into_words=True`).

    Args:
      folder: where.
      found: the vocabulary, and the rows that its tokens have in the table that is written.
      max_length: tokens a text.

    Raises:
      InputError: codes hold all that could stand between them.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    strings = found.vocabulary.strings
    words = {string: int(row) for string, row in zip(strings, found.rows) if row >= 0}
    for row in sorted(set(range(found.count)) - set(words.values())):
        # Two tokens there were one of ours.
        name = f"token//{row}"
        while name in words:
            name += "//"
        words[name] = row
    free = [pattern for pattern in _BETWEEN if not any(re.search(pattern, word) for word in words)]
    if not free:
        raise InputError("Codes hold all of blank, tab, newline and unit separator; rename some, nothing splits them.")
    specials = {
        f"{role}_token": name
        for role, name in (("pad", PAD), ("unk", UNK), ("cls", CLS), ("sep", SEP), ("mask", MASK))
        if name in words
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(free[0]), "removed")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **specials).save_pretrained(
        str(folder)
    )
    table = found.vocabulary.table
    if not np.array_equal(found.rows, np.arange(found.count)):
        table = table.with_columns(pl.Series(ROW, found.rows, pl.Int64))
    with files.written_file(folder / OURS) as path:
        table.write_csv(path, float_precision=9)
