"""A run's tables for another vocabulary: rows that are known move, others start at the spread of those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehrjax.core import files, plugins, trees
from ehrjax.core.errors import InputError
from ehrjax.hf import configs, incoming, made, names, source
from ehrjax.hf.families import bert
from ehrjax.training import run as runs
from ehrjax.vocab import matching
from ehrjax.vocab.vocabulary import Vocabulary

POSITIONS = "model/embeddings/position/embedding"
# Path -> the axis of the vocabulary.
AXES = {trees.CODE_TABLE: 0, "head/bias": 0, "head/codes/kernel": 1, "head/codes/bias": 0}


def resize(
    folder: str | Path,
    vocabulary: Vocabulary,
    output: str | Path,
    *,
    mapping: Mapping[str, str] | None = None,
    ways: Sequence[str] = matching.WAYS,
    seed: int = 0,
) -> tuple[pl.DataFrame, dict[str, dict[str, float]]]:
    """Writes a run with another vocabulary.

    Args:
      folder: the run.
      vocabulary: the new one.
      output: the run's folder to write; it must not exist or be empty.
      mapping: a user's table, new token -> token of the run.
      ways: see `matching.match`.
      seed: of the rows that nothing stands for: normal, with the mean and spread of the run's rows in each column.

    Returns:
      What stands for what (`matching.match`), and the coverage.

    Raises:
      InputError: the run cannot be opened, or no token of the two vocabularies is alike.
    """
    files.refuse_existing(output, what="run")
    run = made.load(folder)
    found = matching.match(vocabulary.strings, run.vocabulary.strings, mapping=mapping, ways=ways)
    if not found["source"].drop_nulls().len():
        raise InputError(f"No token of the vocabulary is in {folder}; give a mapping, or more ways to match.")
    rows = np.array([-1 if source is None else run.vocabulary.ids[source] for source in found["source"]], np.int64)
    # A special that the checkpoint did not have has no row worth keeping.
    absent = run.config["objective"].get("absent", [])
    rows[np.isin(rows, absent)] = -1
    generator = np.random.default_rng(seed)
    flat = trees.flatten(run.params)
    moved = {
        path: moved_rows(leaf, rows, generator, axis=AXES[path], bias=path.endswith("bias")) if path in AXES else leaf
        for path, leaf in flat.items()
    }
    model = dict(run.config["model"])
    if offset := model.get("position_offset", 0):
        # RoBERTa's positions begin behind the id of its padding, which is another one now.
        moved[POSITIONS] = moved[POSITIONS][offset:]
        model.update(position_offset=0, max_positions=model["max_positions"] - offset)
    config = {
        **run.config,
        "model": model,
        "objective": {k: v for k, v in run.config["objective"].items() if k != "absent"},
    }
    with files.written_folder(output, what="run") as target:
        made.write(target, trees.unflatten(moved), config, vocabulary, was=str(folder))
        _remember(run, source.read(Path(folder)), config, vocabulary, target)
    return found, matching.coverage(found, vocabulary.table["count"].to_list())


def _remember(
    run: runs.Run, came: source.Source | None, config: Mapping[str, Any], vocabulary: Vocabulary, target: Path
) -> None:
    """Writes what the new run remembers of a checkpoint: all but what speaks of the old vocabulary.

    Args:
      run: the old run.
      came: where it came from.
      config: of the new run.
      vocabulary: of the new run.
      target: the new run's folder.
    """
    if came is None or came.family not in plugins.names(incoming.FAMILIES, "MODEL_TYPES"):
        return
    family = plugins.find(incoming.FAMILIES, came.family, "MODEL_TYPES", key="family")
    # Biases and output layers that a head does not use have rows of the vocabulary, too.
    of_tokens = {*family.COPIES, *getattr(family, "UNUSED", {})}
    heads, more = {}, {}
    for name, tensor in source.heads_of(came).items():
        short = names.canonical_name(name, family.PREFIX)
        if short in of_tokens:
            more[short] = (name, tensor.dtype)
        else:
            heads[name] = tensor.read()
    rows = np.arange(len(vocabulary))
    told = {
        **{key: value for key, value in came.config.items() if not key.endswith("_token_id")},
        **configs.specials(vocabulary, rows),
        "vocab_size": len(vocabulary),
    }
    new = replace(came, config=told, names={**came.names, **more}, rows=rows, count=len(rows), own_tokens=True)
    if run.config["model"].get("position_offset"):
        try:
            new = _as_bert(run, new, config)
        except InputError:
            # A head that is not like the layers: no class has it, and there is no way back to remember.
            return
    source.write(target, new, heads=heads, given=None)
    source.carry_beside(came, target)


def _as_bert(run: runs.Run, told: source.Source, config: Mapping[str, Any]) -> source.Source:
    """What a RoBERTa that is a BERT now remembers: no name is what it was.

    Raises:
      InputError: no BERT has such a head.
    """
    model = {**configs.settings_of(run), **config["model"]}
    kept = {key: value for key, value in told.config.items() if key != "architectures"}
    kept.update(bert.config_to(model, config["objective"]))
    part = "base" if told.fresh else "head"
    kept["architectures"] = [configs.architecture(kept, bert, part)]
    settings = ({key: value for key, value in config["model"].items() if key != "name"}, dict(config["objective"]))
    return replace(told, family="bert", config=kept, settings=settings, names={}, copies={}, stands={})


def moved_rows(
    table: np.ndarray, rows: np.ndarray, generator: np.random.Generator, *, axis: int = 0, bias: bool = False
) -> np.ndarray:
    """A table whose row i is the old row rows[i]; where that is -1, one like the old ones (a bias: their mean)."""
    old = np.moveaxis(np.asarray(table, np.float32), axis, 0)
    new = old[np.maximum(rows, 0)].copy()
    fresh = rows < 0
    if bias:
        new[fresh] = old.mean()
    else:
        drawn = generator.standard_normal((len(rows), *old.shape[1:]), np.float32)
        new[fresh] = (old.mean(axis=0) + old.std(axis=0) * drawn)[fresh]
    return np.ascontiguousarray(np.moveaxis(new, 0, axis))
