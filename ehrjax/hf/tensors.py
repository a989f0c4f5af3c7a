"""The tensors of a checkpoint on disk, one at a time: safetensors (also in shards) or PyTorch's own format."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ehrjax.core import files
from ehrjax.core.errors import InputError

SAFETENSORS, TORCH = "model.safetensors", "pytorch_model.bin"
MAX_SHARD_BYTES = 5_000_000_000
# What safetensors calls a dtype, and what numpy (with ml_dtypes) and torch call it.
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip
# Those that numpy has not by itself.
_ML = {name for name in _DTYPES.values() if not hasattr(np, name)}


@dataclass(frozen=True)
class Tensor:
    """A tensor that is read when asked for: [..] as numpy (bfloat16 and float8 as ml_dtypes')."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


def open_folder(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder with model.safetensors or pytorch_model.bin, or with their index and shards.

    Raises:
      InputError: there is none of these, a shard is missing or damaged, or a file would run code.
    """
    for name, opener in ((SAFETENSORS, open_safetensors), (TORCH, open_torch)):
        path, index = folder / name, folder / f"{name}.index.json"
        if path.is_file():
            return opener(path)
        if index.is_file():
            return _open_shards(index, opener)
    raise InputError(f"{folder} has neither {SAFETENSORS} nor {TORCH} (nor an index of shards); name a model's folder.")


def open_file(path: Path) -> dict[str, Tensor]:
    """The tensors of one file: .safetensors, or anything that torch.save has written."""
    return open_safetensors(path) if path.suffix == ".safetensors" else open_torch(path)


def _open_shards(index: Path, opener: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    told = files.read_json(index, what="sharded checkpoint").get("weight_map")
    if not isinstance(told, dict) or not all(isinstance(v, str) and Path(v).name == v for v in told.values()):
        raise InputError(f"{index} has no usable weight_map; download the checkpoint again.")
    result: dict[str, Tensor] = {}
    for shard in sorted(set(told.values())):
        if not (index.parent / shard).is_file():
            raise InputError(f"{index.parent / shard} is missing, which {index.name} names; download it again.")
        result.update(opener(index.parent / shard))
    if lost := sorted(set(told) - set(result)):
        raise InputError(f"{index} names {lost[0]}, which its shards do not hold; download the checkpoint again.")
    return result


def open_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file; nothing is read but its header.

    Raises:
      InputError: the file is truncated or is none.
    """
    from safetensors import SafetensorError, safe_open

    def read(name: str, dtype: str) -> Callable[[], np.ndarray]:
        def now() -> np.ndarray:
            if dtype.startswith("float8"):
                return _raw(path, name, dtype)
            with safe_open(path, "np") as file:
                return file.get_tensor(name)

        return now

    try:
        with safe_open(path, "np") as file:
            result = {}
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                part = file.get_slice(name)
                if (kind := part.get_dtype()) not in _DTYPES:
                    raise InputError(f"{path}: {name} holds {kind}, which is not supported; save it as float32.")
                result[name] = Tensor(tuple(part.get_shape()), _DTYPES[kind], read(name, _DTYPES[kind]))
            return result
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is truncated or is no safetensors file ({error}); copy it again.") from error


def _raw(path: Path, name: str, dtype: str) -> np.ndarray:
    """A tensor by its place in the file, of a dtype that safetensors does not read as numpy."""
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        told = json.loads(stream.read(length))[name]
        start, stop = told["data_offsets"]
        stream.seek(8 + length + start)
        return np.frombuffer(stream.read(stop - start), as_dtype(dtype)).reshape(told["shape"])


def open_torch(path: Path) -> dict[str, Tensor]:
    """The tensors of what torch.save has written: a mapping, a mapping under `model_state_dict`, or a tensor ("").

    Nothing that the file names is run: only tensors, containers and numbers are made.

    Raises:
      InputError: torch is not installed, the file is damaged, or it would run code.
    """
    value = load_torch(path)
    for key in ("model_state_dict", "state_dict", "model"):
        if isinstance(value, Mapping) and isinstance(value.get(key), Mapping):
            value = value[key]
    return tensors_of(value, path)


def tensors_of(value: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of what `load_torch` gave; a lone tensor is named "".

    Raises:
      InputError: there is none, or one is sparse, quantized or of a dtype that safetensors has not.
    """
    import torch

    found = {"": value} if isinstance(value, torch.Tensor) else value
    result = {}
    if isinstance(found, Mapping):
        for name, tensor in found.items():
            if isinstance(tensor, torch.Tensor):
                dtype = str(tensor.dtype).removeprefix("torch.")
                if tensor.layout != torch.strided or dtype not in _DTYPES.values():
                    kind = dtype if tensor.layout == torch.strided else str(tensor.layout).removeprefix("torch.")
                    raise InputError(f"{path}: {name} is {kind}, which is not supported; save it as dense float32.")
                result[str(name)] = Tensor(tuple(tensor.shape), dtype, lambda tensor=tensor: to_numpy(tensor))
    if not result:
        raise InputError(f"{path} holds no tensors; save a state_dict.")
    return result


def to_numpy(tensor: Any) -> np.ndarray:
    """A dense torch tensor as numpy, bfloat16 and float8 as ml_dtypes'."""
    import torch

    tensor = tensor.detach()
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in _ML:
        return tensor.numpy()
    whole = tensor.contiguous()
    # A tensor without axes has no bytes to look at in another way.
    bits = whole.reshape(-1).view(torch.uint16 if whole.element_size() == 2 else torch.uint8)
    return bits.numpy().view(as_dtype(dtype)).reshape(tuple(whole.shape))


def load_torch(path: Path) -> Any:
    """What torch.save has written, memory-mapped, with tensors, containers and numbers only.

    Raises:
      InputError: torch is not installed, the file is damaged, or it names anything else.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f"{path} is in PyTorch's format, which needs torch to be read; pip install 'ehrjax[torch]', or save it as "
            "safetensors."
        ) from error
    import pickle
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:
                # Files of before torch 1.6 are no archives and cannot be mapped.
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} is refused: it is damaged, or holds more than tensors and plain containers and could run code; "
            "save its state_dict alone, or as safetensors."
        ) from error
    except Exception as error:  # a damaged archive fails in many ways
        raise InputError(f"{path} is truncated or is no file of torch.save; copy it again.") from error


def write_folder(
    folder: Path, shapes: Mapping[str, tuple[tuple[int, ...], str]], read: Callable[[str], np.ndarray]
) -> None:
    """Writes model.safetensors, or shards with an index where they are more than MAX_SHARD_BYTES.

    Args:
      folder: where.
      shapes: name -> shape and dtype, in order.
      read: gives a tensor by name; one shard is held at a time.
    """
    shards = list(_shards(shapes))
    if len(shards) == 1:
        write_file(folder / SAFETENSORS, shards[0], read)
        return
    weight_map, total = {}, 0
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_file(folder / file, names, read)
        weight_map.update(dict.fromkeys(names, file))
        total += sum(_size(*shapes[name]) for name in names)
    files.write_json(
        folder / f"{SAFETENSORS}.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
    )


def write_file(path: Path, names: Iterable[str], read: Callable[[str], np.ndarray]) -> None:
    """Writes one .safetensors file; read: gives a tensor by name."""
    from safetensors.numpy import save_file

    save_file({name: whole(read(name)) for name in names}, path, metadata={"format": "pt"})
    # safetensors writes files that nobody else may read.
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def _shards(shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> Iterator[list[str]]:
    held, size = [], 0
    for name, told in shapes.items():
        if held and size + _size(*told) > MAX_SHARD_BYTES:
            yield held
            held, size = [], 0
        held.append(name)
        size += _size(*told)
    yield held


def _size(shape: Iterable[int], dtype: str) -> int:
    return int(np.prod(list(shape), dtype=np.int64)) * as_dtype(dtype).itemsize


def as_dtype(name: str) -> np.dtype:
    """The numpy dtype of a name in safetensors' and torch's sense."""
    return np.dtype(getattr(ml_dtypes, name) if name in _ML else name)


def whole(array: np.ndarray) -> np.ndarray:
    """The array in one piece; unlike numpy's ascontiguousarray it leaves one without axes as it is."""
    return np.asarray(array, order="C")
