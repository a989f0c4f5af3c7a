"""Both sides of a conversion on the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ehrjax.core.errors import InputError
from ehrjax.data import rows as filling
from ehrjax.hf import source
from ehrjax.training import run as runs

SEED, SEQUENCES, LONGEST = 0, 8, 96


@dataclass(frozen=True)
class Difference:
    """Largest absolute differences, float32.

    Attributes:
      hidden: of the last hidden states.
      logits: of the scores of every token; None where one side has no such head.
      tokens: how many positions were compared.
    """

    hidden: float
    logits: float | None
    tokens: int


def verify(hf: str | Path, run: str | Path, *, sentences: Sequence[Sequence[int]] | None = None) -> Difference:
    """Runs a HuggingFace folder (with torch) and a converted run on the same tokens, one sequence a row and packed.

    Args:
      hf: the HuggingFace folder.
      run: the run.
      sentences: token ids as HuggingFace's tokenizer gives them; default random ones, the same each time.

    Raises:
      InputError: torch is missing, or one side cannot be opened.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError("verify runs the PyTorch side too and needs torch; pip install 'ehrjax[torch]'.") from error
    opened = runs.load(run)
    came = source.read(Path(run))
    rows = np.arange(len(opened.vocabulary)) if came is None else came.rows
    ours = np.zeros(max(int(rows.max()) + 1, 1), np.int32)
    ours[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
    if sentences is None:
        sentences = _random(rows, min(LONGEST, opened.config["data"]["context_length"]))
    theirs = _Torch(Path(hf), torch)
    given = [ours[np.asarray(sentence)].tolist() for sentence in sentences]
    batch = filling.collate(given, context_length=opened.config["data"]["context_length"], max_segments=len(given))
    hidden = np.asarray(opened.encode(batch))
    scores = np.asarray(opened.logits(batch)) if theirs.has_head and not (came and came.fresh) else None
    compared = np.flatnonzero(rows >= 0)
    worst_hidden, worst_logits = 0.0, 0.0
    for row, segment in zip(*np.nonzero(batch["subject_id"] >= 0)):
        here = batch["segment_ids"][row] == segment + 1
        expected, logits = theirs(sentences[batch["subject_id"][row, segment]])
        worst_hidden = max(worst_hidden, float(np.abs(hidden[row][here] - expected).max()))
        if scores is not None:
            difference = scores[row][here][:, compared] - logits[:, rows[compared]]
            worst_logits = max(worst_logits, float(np.abs(difference).max()))
    return Difference(worst_hidden, None if scores is None else worst_logits, sum(map(len, sentences)))


def _random(rows: np.ndarray, longest: int) -> list[list[int]]:
    generator = np.random.default_rng(SEED)
    lengths = generator.integers(1, longest + 1, SEQUENCES)
    # Specials apart: some models take their positions from where padding is not.
    usable = rows[5:]
    return [generator.choice(usable, length).tolist() for length in lengths]


class _Torch:
    """The HuggingFace side: sequence -> last hidden states and logits."""

    def __init__(self, folder: Path, torch: Any) -> None:
        import transformers

        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        names = config.architectures or []
        self.has_head = any(
            name.endswith(("ForMaskedLM", "ForPreTraining", "LMHeadModel", "ForCausalLM")) for name in names
        )
        causal = any(name.endswith(("LMHeadModel", "ForCausalLM")) for name in names)
        kind = transformers.AutoModel
        if self.has_head:
            kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForMaskedLM
        try:
            self._model = kind.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
        except Exception as error:
            raise InputError(f"transformers cannot open {folder} ({type(error).__name__}: {error}).") from error
        self._torch = torch

    def __call__(self, tokens: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        ids = self._torch.tensor([list(tokens)])
        with self._torch.no_grad():
            out = self._model(input_ids=ids, attention_mask=self._torch.ones_like(ids), output_hidden_states=True)
        logits = out.logits[0].numpy() if self.has_head else None
        return out.hidden_states[-1][0].numpy(), logits
