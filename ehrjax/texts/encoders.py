"""Frozen text encoders: a text model's [CLS] vector, or hashed words."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehrjax.core import trees
from ehrjax.core.errors import InputError
from ehrjax.data import rows
from ehrjax.evals import encodings
from ehrjax.hf import hub, incoming
from ehrjax.texts import hashing, tokens
from ehrjax.training import run as runs


@dataclass(frozen=True)
class Encoder:
    """A function of notes, and what it depends on.

    Attributes:
      encode: gives the vectors [N, D] float32 of N notes (columns of `ingest.notes.FRAME`).
      about: what notes.json says of it; the vectors depend on nothing else.
    """

    encode: Callable[[pl.DataFrame], np.ndarray]
    about: Mapping[str, Any]


@contextlib.contextmanager
def opened(name: str, *, max_tokens: int) -> Iterator[Encoder]:
    """Opens an encoder.

    Args:
      name: 'hashing' or 'hashing:WIDTH'; the folder of a run that ehrjax.convert from-hf has written of a text model;
        or a HuggingFace model, a folder or an id on the Hub, which is converted for the time being.
      max_tokens: of a note, for text models.

    Raises:
      InputError: there is no such encoder, or it is no text model.
    """
    width = hashing.width_of(name)
    if max_tokens < 3:
        raise InputError(f"A note of {max_tokens} tokens has no room for [CLS], a token and [SEP]; give at least 3.")
    if width is not None:
        yield _hashing(name, width)
    elif (Path(name) / "checkpoints").is_dir():
        yield by_run(runs.load(name), name=name, max_tokens=max_tokens)
    else:
        folder = hub.local(name)
        with tempfile.TemporaryDirectory(prefix="ehrjax-encoder-") as temporary:
            incoming.from_hf(folder, Path(temporary) / "run")
            yield by_run(runs.load(Path(temporary) / "run"), name=name, max_tokens=max_tokens)


def called(name: str) -> str:
    """The name that notes.json has of an encoder."""
    width = hashing.width_of(name)
    return name if width is None else f"{hashing.NAME}:{width}"


def _hashing(name: str, width: int) -> Encoder:
    def encode(notes: pl.DataFrame) -> np.ndarray:
        if notes["text"].null_count():
            raise InputError("Notes have token_ids alone, which hashing cannot use; name a text model as the encoder.")
        return hashing.vectors(notes["text"].to_list(), width)

    return Encoder(encode, {"encoder": called(name)})


def by_run(run: runs.Run, *, name: str, max_tokens: int) -> Encoder:
    """A converted text model: the hidden state of a note's first token, [CLS]."""
    tokenize = tokens.tokenizer(run, max_tokens=max_tokens)

    def encode(notes: pl.DataFrame) -> np.ndarray:
        content = [(rows.subject(ids), 0, len(ids)) for ids in tokenize(notes)]
        found = {i: hidden[0] for i, hidden in encodings.hidden_states(run, content)}
        return np.stack([found[i] for i in range(len(content))]).astype(np.float32)

    return Encoder(encode, {"encoder": name, "encoder_sha256": trees.sha256(run.params), "max_tokens": max_tokens})
