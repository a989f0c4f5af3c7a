"""A run of ehrjax as a folder that `transformers` opens."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from ehrjax.core import checkpoint, files, plugins, trees
from ehrjax.core.errors import InputError
from ehrjax.hf import incoming, rules, source, tensors, tokens
from ehrjax.training import run as runs


def to_hf(folder: str | Path, output: str | Path, *, family: str = "") -> dict[str, Any]:
    """Writes config.json, model.safetensors and tokenizer files.

    A converted run goes back as it came: the same names, dtypes, tokenizer and other heads.

    Args:
      folder: the run.
      output: the folder to write; it must not exist or be empty.
      family: as what, where a run that was born here could be several; by default the first that fits.

    Returns:
      family, tensors, architecture.

    Raises:
      InputError: the run cannot be opened, or has parts that no family of HuggingFace has.
    """
    files.refuse_existing(output, what="model")
    run = runs.load(folder, parameters=False)
    shapes_here = incoming.virtual_shapes(jax.eval_shape(run.parts.init, jax.random.key(0)))
    came = source.read(Path(folder))
    rows = np.arange(len(run.vocabulary)) if came is None else came.rows
    count = len(rows) if came is None else came.count
    native = came is None
    if came is not None and came.family not in plugins.names(incoming.FAMILIES, "MODEL_TYPES"):
        # A PyTorch project's checkpoint leaves as what it is here, with its own rows.
        came = None
    if came is not None and family not in ("", came.family):
        raise InputError(f"{folder} came from {came.family} and goes back as that; leave --family out.")
    if came is not None:
        module = plugins.find(incoming.FAMILIES, came.family, "MODEL_TYPES", key="family")
        config = dict(came.config)
    else:
        module, config = _choose(run, family)
    model = run.config["model"]
    steps = [
        (names, paths, how)
        for names, paths, how, _ in rules.steps_of(incoming.rules_of(module, model), model.get("num_layers", 1))
        if all(path in shapes_here for path in paths) and not (came and set(paths) & set(came.fresh))
    ]
    made = _Tensors(steps, shapes_here, rows, count)
    spelled = _names(made.shapes, module, came)
    if came and not set(made.shapes) <= set(came.names):
        # A head that the checkpoint lacked was trained since.
        config["architectures"] = [module.ARCHITECTURES["head"]]
    heads = source.heads_of(came) if came else {}
    shapes = {given: (made.shapes[name], dtype) for name, (given, dtype) in spelled.items()}
    shapes.update({name: (tensor.shape, tensor.dtype) for name, tensor in heads.items()})
    by_name = {given: name for name, (given, _) in spelled.items()}
    for copy, original in (came.copies if came else {}).items():
        given, dtype = came.names[copy]
        shapes[given], by_name[given] = (made.shapes[original], dtype), original

    def read(name: str) -> np.ndarray:
        if name in heads:
            return heads[name].read()
        return made.read(by_name[name]).astype(tensors.as_dtype(shapes[name][1]))

    with files.written_folder(output, what="model") as target:
        with _leaves(run, target) as made.params:
            tensors.write_folder(target, shapes, read)
        if came is None:
            config.update(_specials(run, rows), vocab_size=count)
        if native:
            tokens.write_tokenizer(target, run.vocabulary, max_length=run.config["data"]["context_length"])
        if came is not None:
            for name in tokens.TOKENIZER_FILES:
                if (came.folder / name).is_file():
                    shutil.copyfile(came.folder / name, target / name)
        if remote := getattr(module, "REMOTE", ""):
            shutil.copyfile(Path(__file__).parent / "remote" / f"{remote}.py", target / f"{remote}.py")
        files.write_json(target / "config.json", config)
    return {"family": incoming.name_of(module), "tensors": len(shapes), "architecture": _architecture(config, module)}


def _architecture(config: Mapping[str, Any], family: ModuleType) -> str:
    return (config.get("architectures") or [family.ARCHITECTURES["base"]])[0]


class _Tensors:
    """The tensors of a model by canonical name, each made when read.

    Attributes:
      params: path (one a layer) -> array; before it is set, what is read holds zeros.
      shapes: name -> shape.
    """

    def __init__(self, steps: list, shapes: Mapping[str, tuple[int, ...]], rows: np.ndarray, count: int) -> None:
        self._rows, self._count = rows, count
        self._of = {name: (place, step) for step in steps for place, name in enumerate(step[0])}
        # Strides of 0 stand for any shape.
        self.params: Mapping[str, np.ndarray] = {p: np.broadcast_to(np.float32(0), s) for p, s in shapes.items()}
        self.shapes = {name: self.read(name).shape for name in self._of}

    def read(self, name: str) -> np.ndarray:
        place, (_, paths, how) = self._of[name]
        return how.back([np.asarray(self.params[path]) for path in paths], self._rows, self._count)[place]


@contextmanager
def _leaves(run: runs.Run, folder: Path) -> Iterator[dict[str, np.ndarray]]:
    """Path (one a layer) -> array of a run's parameters, in files, so that the model need not fit into memory."""
    scratch = Path(tempfile.mkdtemp(dir=folder))
    try:
        flat: dict[str, np.ndarray] = {}
        for path, leaf in checkpoint.read_leaves(runs.checkpoints_of(run.folder), "params"):
            flat[path] = np.memmap(scratch / str(len(flat)), np.float32, "w+", shape=leaf.shape)
            flat[path][...] = leaf
        yield trees.flatten(trees.unstack(trees.unflatten(flat)))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _names(shapes: Mapping[str, Any], family: ModuleType, came: source.Source | None) -> dict[str, tuple[str, str]]:
    """Canonical name -> name and dtype to write."""
    if came is not None and all(name in came.names for name in shapes):
        return {name: came.names[name] for name in shapes}
    heads = {
        name
        for rule in family.RULES
        if rule.group
        for name in ((rule.names,) if isinstance(rule.names, str) else rule.names)
    }
    return {name: (name if name in heads else family.PREFIX + name, "float32") for name in shapes}


def _choose(run: runs.Run, family: str) -> tuple[ModuleType, dict[str, Any]]:
    """The family that a run goes out as, and its config."""
    model, objective = run.config["model"], run.config["objective"]
    names = [family] if family else plugins.names(incoming.FAMILIES, "MODEL_TYPES")
    reasons = []
    for name in names:
        module = plugins.find(incoming.FAMILIES, name, "MODEL_TYPES", key="family")
        if module.MODEL != model["name"]:
            if family:
                reasons.append(f"{name} is no {model['name']}")
            continue
        try:
            settings = {**vars(run.model.config), **{k: v for k, v in model.items() if k != "name"}}
            config = module.config_to(settings, objective)
        except InputError as error:
            reasons.append(f"{name}: {error}")
            continue
        head = objective["name"] in getattr(module, "OBJECTIVES", (module.OBJECTIVE,))
        architecture = module.ARCHITECTURES["head" if head else "base"]
        return module, {**config, "architectures": [architecture], "dtype": "float32"}
    why = "; ".join(reason.rstrip(".") for reason in reasons) or f"transformers has no {model['name']}"
    raise InputError(f"{run.folder} fits no family of HuggingFace: {why}.")


def _specials(run: runs.Run, rows: np.ndarray) -> dict[str, int | None]:
    vocabulary = run.vocabulary
    ours = {"pad_token_id": vocabulary.pad, "bos_token_id": vocabulary.cls, "eos_token_id": vocabulary.sep}
    return {name: int(rows[i]) if rows[i] >= 0 else None for name, i in ours.items()}
