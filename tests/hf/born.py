"""Runs that were born here: fresh parameters of a model, with a small vocabulary of codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl

from ehrjax.core import files, trees
from ehrjax.hf import made, source
from ehrjax.training import run as runs
from ehrjax.vocab import vocabulary as vocabularies
from ehrjax.vocab.vocabulary import Vocabulary

CODES = [*(f"DIAGNOSIS//ICD10CM//E{n}" for n in range(10, 30)), *(f"LAB//{n}//mg/dL" for n in range(20)), "DEATH"]
SMALL = dict(num_layers=2, num_heads=3, hidden_dim=48)
DROPLESS = dict(dropout=0.0, attention_dropout=0.0)
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "behrt": (
        dict(name="behrt", embedding_dim=32, max_positions=64, **SMALL, **DROPLESS),
        dict(name="masked_codes", tied=False),
    ),
    "behrt tied, segments, sinusoids": (
        dict(
            name="behrt", embedding_dim=48, max_positions=64, positions="sinusoidal", visit_segments=True,
            **SMALL, **DROPLESS,
        ),
        dict(name="masked_codes", tied=True, gelu="tanh"),
    ),
    "bert": (
        dict(name="bert", num_types=2, max_positions=64, **SMALL, **DROPLESS),
        dict(name="masked_codes", tied=True, layer_norm_epsilon=1e-12),
    ),
    "gpt2": (dict(name="gpt2", max_positions=64, **SMALL, **DROPLESS), dict(name="next_token", tied=True)),
    "llama": (
        dict(
            name="decoder", positions="rotary", norm="rms", final_norm=True, gated=True, use_bias=False, gelu="silu",
            mlp_dim=64, max_positions=64, layer_norm_epsilon=1e-6, **SMALL, **DROPLESS,
        ),
        dict(name="next_token", tied=True),
    ),
}  # fmt: skip


def vocabulary(codes: list[str] = CODES) -> Vocabulary:
    counts = pl.DataFrame(
        {"str": codes, "code": codes, "bin": [None] * len(codes), "count": list(range(len(codes), 0, -1))}
    )
    return vocabularies.build(counts, min_count=1, bin_bounds={}, descriptions={})


def write(folder: Path, name: str, *, codes: list[str] = CODES, seed: int = 0) -> runs.Run:
    """Writes a run with parameters of some spread, biases and norms among them."""
    model, objective = MODELS[name]
    config = {"model": model, "objective": objective, "precision": "fp32", "data": {"context_length": 64}}
    words = vocabulary(codes)
    params = jax.jit(runs.build(config, words).init)(jax.random.key(seed))
    generator = np.random.default_rng(seed)
    params = jax.tree.map(lambda x: np.asarray(x) + 0.1 * generator.standard_normal(x.shape).astype(np.float32), params)
    with files.written_folder(folder, what="run") as temporary:
        made.write(temporary, params, config, words, was="nothing")
    return runs.load(folder)


def go_on(
    old: Path, new: Path, *, model: dict[str, Any] | None = None, objective: dict[str, Any] | None = None
) -> None:
    """Writes what training from a run leaves: its parameters moved a little, other settings, the same source."""
    run = runs.load(old)
    config = {
        **run.config,
        "model": {**run.config["model"], **(model or {})},
        "objective": {**run.config["objective"], **(objective or {})},
    }
    shapes = trees.flatten(jax.eval_shape(runs.build(config, run.vocabulary).init, jax.random.key(1)))
    taken = trees.flatten(run.params)
    generator = np.random.default_rng(1)
    params = {}
    for path, leaf in shapes.items():
        start = taken[path] if path in taken and taken[path].shape == leaf.shape else np.zeros(leaf.shape, np.float32)
        params[path] = start + 0.1 * generator.standard_normal(leaf.shape).astype(np.float32)
    with files.written_folder(new, what="run") as temporary:
        made.write(temporary, trees.unflatten(params), config, run.vocabulary, was=str(old))
        source.carry(old, temporary)
