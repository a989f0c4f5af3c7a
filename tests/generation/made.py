"""Small models with fresh parameters, prompts and decoders for the tests of generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl

from ehrjax.core import rng
from ehrjax.data import token_dataset
from ehrjax.generation import decode, prompts, sampling
from ehrjax.training import run as runs

DROPLESS = dict(dropout=0.0, attention_dropout=0.0)
SMALL = dict(num_layers=2, num_heads=4, hidden_dim=32, **DROPLESS)
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": dict(name="gpt2", max_positions=512, **SMALL),
    "sinusoidal": dict(name="decoder", max_positions=512, **SMALL),
    "rotary": dict(name="decoder", positions="rotary", kv_heads=2, norm="rms", gated=True, **SMALL),
    "rotary over ages": dict(name="decoder", positions="rotary", over="ages", **SMALL),
    "sinusoids over times": dict(name="decoder", over="times", **SMALL),
    "bag": dict(name="decoder", over="ages", unit_days=365.25, bag=True, **SMALL),
    "log-linear bag": dict(name="bag", groups=("^([A-Z]+)//",)),
    "lstm": dict(name="lstm", embedding_dim=16, hidden_dim=24, num_layers=2, dropout=0.0),
}
FAR = np.iinfo(np.int32).max


def run(
    tokens: Path, model: str, *, context: int = 64, scale: float = 0.3, objective: str = "next_token", **changes: Any
) -> runs.Run:
    """A run of random parameters, spread so that its distributions are far from flat."""
    dataset = token_dataset.open_tokens(tokens)
    tied = not model == "lstm"
    config = {
        "model": {**MODELS[model], **changes},
        "objective": dict(name=objective, tied=tied, use_bias=not tied),
        "precision": "fp32",
        "data": {"context_length": context},
    }
    parts = runs.build(config, dataset.vocabulary)
    generator = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: np.asarray(x) + scale * generator.standard_normal(x.shape).astype(np.float32),
        parts.init(rng.key_for(0, "test")),
    )
    return runs.Run(tokens, config, dataset.vocabulary, params, 0, parts)


def asked(tokens: Path, count: int, *, most: int, least: int = 5) -> list[prompts.Prompt]:
    """Prompts in the middle of subjects' lives, one a subject."""
    split = token_dataset.open_tokens(tokens).split("train")
    rows = []
    for index in range(len(split)):
        subject = split.subject(index)
        if len(subject.tokens) > 2 * least and len(rows) < count:
            rows.append((subject.subject_id, int(subject.times[len(subject.tokens) // 2]) + 60_000_000))
    frame = pl.DataFrame(rows, schema={"subject_id": pl.Int64, "prediction_time": pl.Int64}, orient="row")
    return prompts.make([split], frame.with_columns(pl.col("prediction_time").cast(pl.Datetime("us"))), most=most)


def tables(vocabulary: Any, **changes: np.ndarray) -> decode.Tables:
    """A clock of one day before every token; nothing stops a row and there is no task."""
    count = len(vocabulary)
    given = dict(
        gaps=np.full((4, count), 1440, np.int32),
        is_time=np.zeros(count, bool),
        stops=np.zeros(count, bool),
        never=np.arange(count) == vocabulary.pad,
        tasks=np.zeros((0, count), bool),
        horizons=np.zeros(0, np.int32),
    )
    return decode.Tables(**{**given, **changes})


def decoder(opened: runs.Run, *, max_tokens: int = 40, **limits: Any) -> decode.Decoder:
    settings = limits.pop("settings", sampling.Settings())
    given = limits.pop("tables", None) or tables(opened.vocabulary)
    return decode.of_run(opened, decode.limits(opened, max_tokens, **limits), settings, given)
