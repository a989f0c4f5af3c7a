"""Texts as tokens of a converted text model, by the tokenizer that came with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.hf import source


def tokenizer(run: Any, *, max_tokens: int) -> Callable[[pl.DataFrame], Sequence[np.ndarray]]:
    """The function that turns notes into tokens of a run's vocabulary, [CLS] first and [SEP] last.

    Args:
      run: an opened run that `ehrjax.convert from-hf` has written of a model with a tokenizer.
      max_tokens: of a note, [CLS] and [SEP] included; what is longer loses its end.

    Returns:
      A function of notes with `text` (else `token_ids`, of the model's own tokenizer; padding is dropped, and [CLS] and
      [SEP] are added where they lack).

    Raises:
      InputError: the run is no converted text model, or cannot take so many tokens.
    """
    context = run.config["data"]["context_length"]
    if not 3 <= max_tokens <= context:
        raise InputError(f"A note of {max_tokens} tokens does not fit; the encoder takes 3 to {context} tokens.")
    told = source.read(Path(run.folder))
    if told is None or told.own_tokens:
        raise InputError(f"{run.folder} has no text tokenizer; name a text model that ehrjax.convert from-hf has read.")
    from transformers import AutoTokenizer

    try:
        texts = AutoTokenizer.from_pretrained(str(told.folder), local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{told.folder} has no text tokenizer that transformers can open; convert again.") from error
    ours = np.full(told.count, run.vocabulary.unk, np.int32)
    there = told.rows >= 0
    ours[told.rows[there]] = np.flatnonzero(there)
    cls, sep, pad = run.vocabulary.cls, run.vocabulary.sep, run.vocabulary.pad

    def of_ids(ids: np.ndarray) -> np.ndarray:
        if len(ids) and (ids.min() < 0 or ids.max() >= told.count):
            raise InputError(
                f"A note has the token id {int(ids.max())}, but the encoder has {told.count} tokens; these token_ids "
                "are another tokenizer's."
            )
        tokens = ours[ids]
        tokens = tokens[tokens != pad]
        inner = tokens[int(len(tokens) > 0 and tokens[0] == cls) :]
        inner = inner[: len(inner) - int(len(inner) > 0 and inner[-1] == sep)]
        return np.concatenate([[cls], inner[: max_tokens - 2], [sep]]).astype(np.int32)

    def tokenize(notes: pl.DataFrame) -> list[np.ndarray]:
        given = notes["text"].to_list()
        known = [text for text in given if text is not None]
        encoded = iter(texts(known, add_special_tokens=False, verbose=False)["input_ids"] if known else ())
        ids = [next(encoded) if text is not None else own for text, own in zip(given, notes["token_ids"].to_list())]
        return [of_ids(np.asarray(one, np.int64)) for one in ids]

    return tokenize
