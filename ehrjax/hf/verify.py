"""Both sides of a conversion on the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ehrjax.core.errors import InputError
from ehrjax.data import rows as filling
from ehrjax.hf import configs, made, source
from ehrjax.hf.torch_side import TorchSide
from ehrjax.training import run as runs

SEED, SEQUENCES, LONGEST = 0, 8, 96
# Of the largest absolute value there, or of 1 where that is smaller.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Difference:
    """Largest absolute differences, float32.

    Attributes:
      hidden: of the last hidden states.
      logits: of the scores of every token; None where one side has no such head.
      tokens: how many positions were compared.
      alike: whether both are within TOLERANCE of the largest absolute value there (at least of 1).
    """

    hidden: float
    logits: float | None
    tokens: int
    alike: bool


def verify(hf: str | Path, run: str | Path, *, sentences: Sequence[Sequence[int]] | None = None) -> Difference:
    """Runs a HuggingFace folder (with torch) and a converted run on the same tokens, one sequence a row and packed.

    Args:
      hf: the HuggingFace folder.
      run: the run.
      sentences: token ids as HuggingFace's tokenizer gives them, cut where a side has no more positions; default
        random ones, the same each time.

    Raises:
      InputError: torch is missing, one side cannot be opened, or the two are no models of the same shape.
    """
    opened = made.load(run)
    came = source.read(Path(run))
    rows = np.arange(len(opened.vocabulary)) if came is None else came.rows
    theirs = TorchSide(Path(hf))
    _check_pair(theirs, hf, opened, len(rows) if came is None else came.count)
    ours = np.zeros(max(int(rows.max()) + 1, 1), np.int32)
    ours[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
    context = opened.config["data"]["context_length"]
    longest = min(theirs.longest, context)
    if sentences is None:
        sentences = _random(rows, min(LONGEST, longest))
    sentences = [list(sentence)[:longest] for sentence in sentences]
    given = [ours[np.asarray(sentence)].tolist() for sentence in sentences]
    batch = filling.collate(given, context_length=context, max_segments=len(given))
    hidden = np.asarray(opened.encode(batch))
    own_head = opened.config["objective"]["name"] in configs.objectives(theirs.family)
    scored = theirs.has_head and own_head and not (came and came.fresh)
    scores = np.asarray(opened.logits(batch)) if scored else None
    compared = np.flatnonzero(rows >= 0)
    states, logits = _Worst(), _Worst()
    for row, segment in zip(*np.nonzero(batch["subject_id"] >= 0)):
        here = batch["segment_ids"][row] == segment + 1
        expected, expected_logits = theirs(sentences[batch["subject_id"][row, segment]])
        states.add(hidden[row][here], expected)
        if scores is not None:
            logits.add(scores[row][here][:, compared], expected_logits[:, rows[compared]])
    return Difference(
        states.difference,
        None if scores is None else logits.difference,
        sum(map(len, sentences)),
        states.alike and logits.alike,
    )


class _Worst:
    """The largest absolute difference so far, and the largest absolute value."""

    def __init__(self) -> None:
        self.difference, self._largest = 0.0, 1.0

    def add(self, mine: np.ndarray, expected: np.ndarray) -> None:
        # NaN on one side counts as the largest difference that there is.
        self.difference = max(self.difference, float(np.nan_to_num(np.abs(mine - expected), nan=np.inf).max()))
        self._largest = max(self._largest, float(np.abs(expected).max()))

    @property
    def alike(self) -> bool:
        return self.difference <= TOLERANCE * self._largest


def _check_pair(theirs: TorchSide, hf: str | Path, run: runs.Run, count: int) -> None:
    """Raises InputError where the two sides cannot be the same model: family, vocabulary, depth and width."""
    name = run.config["model"]["name"]
    if theirs.family.MODEL != name:
        kind = theirs.config["model_type"]
        raise InputError(f"{hf} is a {kind}, here {theirs.family.MODEL}, {run.folder} is a {name}; name its folder.")
    if (size := theirs.config.get("vocab_size", count)) != count:
        raise InputError(
            f"{hf} has a vocabulary of {size} rows, {run.folder} one of {count}; they are not the same model."
        )
    settings = configs.settings_of(run)
    for key in ("hidden_dim", "num_layers"):
        if theirs.settings[key] != settings[key]:
            raise InputError(
                f"{hf} says {key} = {theirs.settings[key]}, {run.folder} has {settings[key]}; they are not the same "
                "model."
            )


def _random(rows: np.ndarray, longest: int) -> list[list[int]]:
    generator = np.random.default_rng(SEED)
    lengths = generator.integers(1, longest + 1, SEQUENCES)
    # Specials apart: some models take their positions from where padding is not.
    usable = rows[5:]
    return [generator.choice(usable, length).tolist() for length in lengths]
