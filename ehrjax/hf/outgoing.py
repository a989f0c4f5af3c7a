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
from ehrjax.hf import configs, incoming, made, names, rules, source, tensors, tokens
from ehrjax.training import run as runs


def to_hf(folder: str | Path, output: str | Path, *, family: str = "", plain_names: bool = False) -> dict[str, Any]:
    """Writes config.json, model.safetensors and tokenizer files.

    A converted run goes back as it came: the same names, dtypes, tokenizer and other heads; its config says what the
    run's settings are now.

    Args:
      folder: the run.
      output: the folder to write; it must not exist or be empty.
      family: as what, where a run that was born here could be several; by default the first that fits.
      plain_names: the names of transformers' classes, whatever the names were.

    Returns:
      family, tensors, architecture; `wrapper`, what stands before the names so that transformers does not know them;
      `beside`, the heads that no class with this architecture has.

    Raises:
      InputError: the run cannot be opened, or has parts that no family of HuggingFace has.
    """
    files.refuse_existing(output, what="model")
    run = made.load(folder, parameters=False)
    shapes_here = incoming.virtual_shapes(jax.eval_shape(run.parts.init, jax.random.key(0)))
    remembered = source.read(Path(folder))
    found = tokens.Rows(run.vocabulary, np.arange(len(run.vocabulary)), len(run.vocabulary))
    if remembered is not None:
        found = tokens.Rows(run.vocabulary, remembered.rows, remembered.count)
    # A PyTorch project's checkpoint leaves as what it is here, with its own rows.
    known = remembered is not None and remembered.family in plugins.names(incoming.FAMILIES, "MODEL_TYPES")
    came = remembered if known else None
    if came is not None and family not in ("", came.family):
        raise InputError(f"{folder} came from {came.family} and goes back as that; leave --family out.")
    if came is not None:
        module = plugins.find(incoming.FAMILIES, came.family, "MODEL_TYPES", key="family")
        config = configs.of_came(came, module, run)
    else:
        module, config = configs.of_born(run, family)
    model = run.config["model"]
    steps = [
        (names_there, paths, how)
        for names_there, paths, how, _ in rules.steps_of(incoming.rules_of(module, model), model.get("num_layers", 1))
        if all(path in shapes_here for path in paths) and not (came and set(paths) & set(came.fresh))
    ]
    there = _Tensors(steps, shapes_here, found.rows, found.count)
    changed = came is not None and configs.set_architecture(config, module, came, set(there.shapes), run)
    written = _Written(there, module, came, changed=changed, plain=plain_names)

    with files.written_folder(output, what="model") as target:
        if came is not None:
            source.write_back(came, target)
        with _leaves(run, target) as there.params:
            tensors.write_folder(target, written.shapes, written.read)
        if written.beside:
            tensors.write_file(target / source.OTHER_HEADS, written.beside, lambda name: written.beside[name].read())
        if came is None:
            config.update(configs.specials(run.vocabulary, found.rows), vocab_size=found.count)
        if remembered is None or remembered.own_tokens:
            tokens.write_tokenizer(target, found, max_length=run.config["data"]["context_length"])
        if remote := getattr(module, "REMOTE", ""):
            shutil.copyfile(Path(__file__).parent / "remote" / f"{remote}.py", target / f"{remote}.py")
        files.write_json(target / "config.json", config)
    return {
        "family": incoming.name_of(module),
        "tensors": len(written.shapes),
        "architecture": (config.get("architectures") or [configs.architecture(config, module, "base")])[0],
        "wrapper": names.wrapper_of(written.shapes, module),
        "beside": sorted(written.beside),
    }


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


class _Written:
    """What is written, by the names that it has there.

    Attributes:
      shapes: name -> shape and dtype, of all that goes into the model's file.
      beside: name -> tensor, of heads that go into a file of their own.
    """

    def __init__(
        self, there: _Tensors, family: ModuleType, came: source.Source | None, *, changed: bool, plain: bool
    ) -> None:
        """changed: the architecture is another than the one that came; plain: the names of transformers' classes."""
        own = set(there.shapes)
        copies = {name: name for name in own}
        if came is not None:
            copies.update({c: original for c, original in came.copies.items() if original in own and c not in own})
        was_untied = came is not None and not changed and not came.settings[1].get("tied")
        for name, original in getattr(family, "UNUSED", {}).items():
            # A checkpoint that came without it, or with it in the place of the other, goes back so.
            as_it_came = was_untied and (name not in came.names or came.stands.get(original) == name)
            if original in own and name not in copies and not as_it_came:
                copies[name] = original
        spelled = names.going_out(copies, family, came, by_classes=changed or plain)
        self._there = there
        self._of = {spelled[name][0]: original for name, original in copies.items()}
        self.shapes = {spelled[name][0]: (there.shapes[copies[name]], spelled[name][1]) for name in copies}
        heads = source.heads_of(came) if came is not None else {}
        # A tensor that was kept may have become one of the model's own since.
        heads = {n: t for n, t in heads.items() if names.canonical_name(n, family.PREFIX) not in copies}
        if plain:
            heads = {names.without_wrappers(name, family): tensor for name, tensor in heads.items()}
        self.beside = heads if changed else {}
        self._heads = {} if changed else heads
        self.shapes.update({name: (tensor.shape, tensor.dtype) for name, tensor in self._heads.items()})

    def read(self, name: str) -> np.ndarray:
        if name in self._heads:
            return self._heads[name].read()
        return self._there.read(self._of[name]).astype(tensors.as_dtype(self.shapes[name][1]))


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
