"""Vocabularies between the houses: the rows of a foreign table in our order, and our codes as a tokenizer.

Our vocabularies begin with [PAD], [UNK], [CLS], [SEP], [MASK]. A foreign one has its specials anywhere, by other names,
or lacks some; rows are moved, so that nothing else has to know, and moved back on the way out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.vocab import vocabulary as vocabularies
from ehrjax.vocab.recipe import CLS, MASK, PAD, SEP, SPECIALS, UNK
from ehrjax.vocab.vocabulary import Vocabulary

OURS = "ehrjax_vocab.csv"
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
        vocabulary = vocabularies.read(folder / OURS)
        if len(vocabulary) != count:
            raise InputError(
                f"{folder / OURS} has {len(vocabulary)} tokens, the model's table {count} rows; they do not belong "
                "together."
            )
        return Rows(vocabulary, np.arange(count), count)
    strings, specials = _tokenizer(folder)
    if strings and max(strings) >= count:
        raise InputError(
            f"The tokenizer of {folder} has the id {max(strings)} ({strings[max(strings)]!r}), but the model's table "
            f"has {count} rows; they do not belong together."
        )
    return from_strings(strings, specials or _config_specials(config), count)


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
    for row in rows[len(SPECIALS) :]:
        name = strings.get(int(row), "")
        if not name or name in seen or name != name.strip("\r\n"):
            name = f"token//{row}"
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


def write_tokenizer(folder: Path, vocabulary: Vocabulary, *, max_length: int) -> None:
    """Writes our codes as a word-level `PreTrainedTokenizerFast`, and the vocabulary itself beside it.

    Texts are codes with blanks between; where codes hold blanks themselves, with tabs between. Whole codes can also be
    given as a list (`is_split_into_words=True`).
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {string: i for i, string in enumerate(vocabulary.strings)}
    blank = any(character.isspace() for word in words for character in word)
    tokenizer = Tokenizer(models.WordLevel(words, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("\t" if blank else r"\s+"), "removed")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNK,
        cls_token=CLS,
        sep_token=SEP,
        mask_token=MASK,
        model_max_length=max_length,
    ).save_pretrained(str(folder))
    vocabulary.write(folder / OURS)
