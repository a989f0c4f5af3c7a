"""A foreign checkpoint as a run of ehrjax, which every verb opens."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from ehrjax.core import files, plugins, rng, trees
from ehrjax.core.errors import InputError
from ehrjax.hf import hub, made, rules, source, tensors, ties, tokens
from ehrjax.hf.names import canonical
from ehrjax.hf.settings import check_kinds
from ehrjax.training import run as runs

FAMILIES = "ehrjax.hf.families"

Progress = Callable[[str, int, int], None]


def family_of(config: Mapping[str, Any], where: Path) -> ModuleType:
    """The family that a config.json names by `model_type`.

    Raises:
      InputError: it names none that ehrjax has, or holds a value of a kind that its key cannot have.
    """
    check_kinds(config, where)
    kind = config.get("model_type")
    known = {}
    for name in plugins.names(FAMILIES, "MODEL_TYPES"):
        module = plugins.find(FAMILIES, name, "MODEL_TYPES", key="family")
        known.update(dict.fromkeys(module.MODEL_TYPES, module))
    if kind not in known:
        raise InputError(
            f"{where} says model_type = {kind!r}, which ehrjax cannot convert; it converts {', '.join(sorted(known))}."
        )
    return known[kind]


def from_hf(name: str, output: str | Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Converts a HuggingFace checkpoint.

    Args:
      name: a folder, or a model's id on the Hub.
      output: the run's folder to write; it must not exist or be empty.
      progress: called as progress(stage, parameters done, parameters in all).

    Returns:
      What became what: family, parameters, tensors, heads kept, paths that start afresh, specials that are absent.

    Raises:
      InputError: the folder, its config, its tokenizer or its tensors cannot be used; everything that does not fit is
        said at once.
    """
    files.refuse_existing(output, what="run")
    folder = hub.local(name)
    config = files.read_json(folder / "config.json", what="HuggingFace model")
    family = family_of(config, folder / "config.json")
    model, objective = family.settings_from(config)
    return write(
        tensors.open_folder(folder),
        output,
        family=family,
        config=config,
        settings=(model, objective),
        read_rows=lambda count: tokens.read(folder, config, count),
        given=folder,
        where=str(folder),
        progress=progress,
    )


def write(
    found: Mapping[str, tensors.Tensor],
    output: str | Path,
    *,
    family: ModuleType,
    config: Mapping[str, Any],
    settings: tuple[dict[str, Any], dict[str, Any]],
    read_rows: Callable[[int], tokens.Rows],
    given: Path | None,
    where: str,
    own_tokens: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes the run of some tensors; see `from_hf`.

    Args:
      found: name -> tensor.
      output: the run's folder.
      family: the family's module.
      config: the foreign config, kept for the way back.
      settings: of the model and of the objective.
      read_rows: gives the vocabulary of a table of so many rows.
      given: the folder whose tokenizer and small files are kept, if there is one.
      where: the checkpoint, for messages.
      own_tokens: see source.Source.
      progress: see `from_hf`.
    """
    there = canonical(found, family.PREFIX)
    model, objective = settings
    # transformers ties what is alike, whatever the config says.
    untied = ties.differing(there, family.COPIES) if objective.get("tied") else []
    if untied:
        objective = {**objective, "tied": False}
    stands = ties.stand_ins(there, family.COPIES, tied=objective.get("tied", False))
    table = rules_of(family, model)
    rows = _rows(there, table, stands, config, read_rows, where=where, family=family)
    saved = run_config(family, (model, objective), rows.absent)
    parts = runs.build(saved, rows.vocabulary)
    shapes = jax.eval_shape(parts.init, jax.random.key(0))
    plan = rules.plan(
        table,
        num_layers=saved["model"].get("num_layers", 1),
        there={key: tensor.shape for key, (_, tensor) in there.items()},
        expected=virtual_shapes(shapes),
        rows=rows.rows,
        copies=family.COPIES,
        stands=stands,
        heads=family.HEADS,
        where=where,
    )
    used = list(dict.fromkeys(key for names, _, _ in plan.steps for key in names))
    remembered = source.Source(
        family=name_of(family),
        config=dict(config),
        settings=(model, objective),
        names={key: (there[key][0], there[key][1].dtype) for key in dict.fromkeys((*used, *plan.copies))},
        rows=rows.rows,
        count=rows.count,
        fresh=tuple(plan.fresh),
        copies=plan.copies,
        stands=plan.stands,
        own_tokens=own_tokens,
    )
    with files.written_folder(output, what="run") as folder, _leaves(shapes, folder) as leaves:
        _fill(plan, there, rows, leaves, progress)
        _start_fresh(plan.fresh, parts, leaves)
        made.write(folder, trees.unflatten(leaves), saved, rows.vocabulary, was=where)
        heads = {there[key][0]: there[key][1].read() for key in plan.heads}
        source.write(folder, remembered, heads=heads, given=given)
    return {
        "family": name_of(family),
        "model": family.MODEL,
        "objective": saved["objective"]["name"],
        "parameters": trees.count(shapes),
        "tensors": len(used),
        "heads": sorted(heads),
        "fresh": list(plan.fresh),
        "untied": untied,
        "tokens": len(rows.vocabulary),
        "absent": [rows.vocabulary.strings[i] for i in rows.absent],
    }


def _rows(
    there: Mapping[str, tuple[str, tensors.Tensor]],
    table: list[rules.Rule],
    stands: Mapping[str, str],
    config: Mapping[str, Any],
    read_rows: Callable[[int], tokens.Rows],
    *,
    where: str,
    family: ModuleType,
) -> tokens.Rows:
    """The vocabulary of the checkpoint's table.

    Raises:
      InputError: there is no table, it is none, or the config speaks of another.
    """
    name = next(rule.names for rule in table if rule.how is rules.TABLE)
    at = stands.get(name, name)
    if at not in there:
        raise InputError(f"{where} does not fit: {name} is missing, so it is no checkpoint of {name_of(family)}.")
    shape = there[at][1].shape
    if len(shape) != 2 or not shape[0]:
        raise InputError(f"{where} does not fit: {at} has the shape {list(shape)}, but it must be a table of tokens.")
    rows = read_rows(shape[0])
    if (told := config.get("vocab_size", rows.count)) != rows.count:
        raise InputError(f"{where} has a table of {rows.count} rows, its config says vocab_size = {told}.")
    return rows


def run_config(
    family: ModuleType, settings: tuple[dict[str, Any], dict[str, Any]], absent: tuple[int, ...]
) -> dict[str, Any]:
    """The config of a converted run: what `ehrjax.load` needs."""
    model, objective = settings
    longest = model.get("max_positions", 512) - model.get("position_offset", 0)
    return {
        "model": {"name": family.MODEL, **model},
        "objective": {"name": family.OBJECTIVE, **objective, **({"absent": list(absent)} if absent else {})},
        "precision": "fp32",
        "data": {"context_length": longest},
    }


def rules_of(family: ModuleType, model: Mapping[str, Any]) -> list[rules.Rule]:
    """The family's table, for a model of these settings."""
    return family.rules_for(model) if hasattr(family, "rules_for") else family.RULES


def name_of(family: ModuleType) -> str:
    """The family's name."""
    return family.__name__.rsplit(".", 1)[-1]


def virtual_shapes(shapes: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Path -> shape, one a layer for stacked leaves."""
    result = {}
    for path, leaf in trees.flatten(shapes).items():
        names = trees.virtual_paths(path, leaf)
        shape = leaf.shape if names == [path] else leaf.shape[1:]
        result.update(dict.fromkeys(names, tuple(shape)))
    return result


@contextmanager
def _leaves(shapes: Mapping[str, Any], folder: Path) -> Iterator[dict[str, np.ndarray]]:
    """Path -> array to fill, in files, so that the model need not fit into memory."""
    flat = trees.flatten(shapes)
    scratch = Path(tempfile.mkdtemp(dir=folder))
    try:
        yield {
            path: np.memmap(scratch / str(number), np.float32, "w+", shape=leaf.shape)
            for number, (path, leaf) in enumerate(flat.items())
        }
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fill(
    plan: rules.Plan,
    there: Mapping[str, tuple[str, tensors.Tensor]],
    rows: tokens.Rows,
    leaves: Mapping[str, np.ndarray],
    progress: Progress | None,
) -> None:
    done, total = 0, sum(leaf.size for leaf in leaves.values())
    for names, paths, how in plan.steps:
        read = [there[name][1].read() for name in names]
        for path, leaf in zip(paths, how.there(read, rows.rows), strict=True):
            stacked = re.sub(rf"(^|/){trees.STACK}/(\d+)/", rf"\g<1>{trees.STACK}/", path, count=1)
            layer = re.search(rf"(?:^|/){trees.STACK}/(\d+)/", path)
            if layer and stacked in leaves:
                leaves[stacked][int(layer[1])] = leaf
            else:
                leaves[path][...] = leaf
            done += leaf.size
        if progress:
            progress("converting", done, total)


def _start_fresh(paths: list[str], parts: runs.Parts, leaves: Mapping[str, np.ndarray]) -> None:
    """Fills what the checkpoint does not have with a fresh start, the same each time."""
    if paths:
        made = jax.jit(lambda key: {path: trees.flatten(parts.init(key))[path] for path in paths})
        for path, leaf in made(rng.key_for(0, "convert")).items():
            leaves[path][...] = np.asarray(leaf)
