"""Pickles from strangers, read without running anything that they name.

A pickle is a program: it can import any function and call it. Here only plain containers, numbers, text, dates and
numpy arrays of plain types can be named, and each of them only through code of this module. What may be called has no
state that a pickle could change, and an array's bytes are never taken for addresses (dtypes with objects or fields are
refused).
"""

from __future__ import annotations

import builtins
import collections
import copyreg
import datetime
import mmap
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ehrjax.core.errors import InputError

# Booleans, whole numbers, numbers, dates, durations, bytes and text of a fixed width.
PLAIN_KINDS = "biufcMmSU"


class _Forbidden(Exception):
    """The pickle names something that it may not; the message is its name."""


class _Dtype:
    """Stands for numpy.dtype while a pickle is read: what it builds is checked before numpy sees it."""

    __slots__ = ("dtype",)

    def __init__(self, text: object) -> None:
        if not isinstance(text, str) or len(text) > 16:
            raise _Forbidden("a numpy dtype that is not plain")
        self.dtype = np.dtype(text)
        if self.dtype.kind not in PLAIN_KINDS or self.dtype.hasobject or self.dtype.names or self.dtype.subdtype:
            raise _Forbidden("a numpy dtype that is not plain")

    def __setstate__(self, state: object) -> None:
        # (version, byte order, subdtype, names, fields, item size, alignment, flags[, metadata of dates])
        if not isinstance(state, tuple) or len(state) not in (8, 9) or state[1] not in ("<", ">", "|", "="):
            raise _Forbidden("a numpy dtype that is not plain")
        if any(part is not None for part in state[2:5]) or (len(state) == 9 and self.dtype.kind not in "Mm"):
            raise _Forbidden("a numpy dtype that is not plain")
        if state[1] != "|":
            self.dtype = self.dtype.newbyteorder(state[1])
        if len(state) == 9 and self.dtype.kind in "Mm":
            unit, count = state[8][1][0], state[8][1][1]
            unit = unit.decode("ascii") if isinstance(unit, bytes) else unit
            self.dtype = np.dtype(f"{self.dtype.str[0]}{self.dtype.kind}8[{int(count)}{unit}]")


class _Array(np.ndarray):
    """An array whose state is checked before numpy takes it."""

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _Forbidden("a numpy array with a foreign state")
        version, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise _Forbidden("a numpy array of objects")
        _check_shape(shape, dtype.dtype, data)
        super().__setstate__((int(version), shape, dtype.dtype, bool(fortran), data))


def _check_shape(shape: object, dtype: np.dtype, data: Any) -> None:
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise _Forbidden("a numpy array with a foreign shape")
    size = dtype.itemsize
    if not size:
        raise _Forbidden("a numpy array of elements without a size")
    for n in shape:
        size *= n
    if size != memoryview(data).nbytes:
        raise _Forbidden("a numpy array whose bytes do not fill its shape")


# Each of the following stands for a function or class of numpy. They are instances without a dictionary, so that a
# pickle cannot set attributes on them, as it could on a function.


class _MakeDtype:
    __slots__ = ()

    def __call__(self, text: object, align: object = False, copy: object = True) -> _Dtype:
        return _Dtype(text)


class _ArrayClass:
    __slots__ = ()


class _Reconstruct:
    __slots__ = ()

    def __call__(self, subtype: object, shape: object, dtype: object) -> _Array:
        if not isinstance(subtype, _ArrayClass):
            raise _Forbidden("a subclass of numpy.ndarray")
        return _Array((0,), np.int8)


class _FromBuffer:
    __slots__ = ()

    def __call__(self, data: object, dtype: object, shape: object, order: object) -> np.ndarray:
        if not isinstance(dtype, _Dtype) or not isinstance(data, (bytes, bytearray)) or order not in ("C", "F"):
            raise _Forbidden("a numpy array of objects")
        _check_shape(shape, dtype.dtype, data)
        return np.frombuffer(bytes(data), dtype.dtype).reshape(shape, order=order)


class _Scalar:
    __slots__ = ()

    def __call__(self, dtype: object, data: object = b"") -> Any:
        if isinstance(data, str):  # protocol 2 keeps bytes as text
            data = data.encode("latin-1")
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise _Forbidden("a numpy scalar of an object")
        _check_shape((), dtype.dtype, data)
        return np.frombuffer(data, dtype.dtype)[0]


class _Encode:
    """`_codecs.encode`, by which protocols 0 to 2 write bytes."""

    __slots__ = ()

    def __call__(self, text: object, encoding: object = "latin1") -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise _Forbidden("_codecs.encode with another encoding than latin1")
        return text.encode("latin-1")


class _Bytes:
    """`builtins.bytes`, by which protocols 0 to 2 write empty bytes; with a number it would fill the memory."""

    __slots__ = ()

    def __call__(self, *given: object) -> bytes:
        if given and not isinstance(given[0], (bytes, list, tuple)):
            raise _Forbidden("builtins.bytes of a number")
        return bytes(given[0]) if given else b""


_BUILTINS = ("list", "dict", "tuple", "set", "frozenset", "int", "float", "bool", "str")
_DATETIME = ("date", "datetime", "time", "timedelta", "timezone")
_MULTIARRAY: dict[str, Callable] = {"_reconstruct": _Reconstruct(), "scalar": _Scalar()}
ALLOWED: dict[tuple[str, str], object] = {
    **{(module, name): getattr(builtins, name) for module in ("builtins", "__builtin__") for name in _BUILTINS},
    **{(module, "bytes"): _Bytes() for module in ("builtins", "__builtin__")},
    **{("datetime", name): getattr(datetime, name) for name in _DATETIME},
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _Encode(),
    ("numpy", "dtype"): _MakeDtype(),
    ("numpy", "ndarray"): _ArrayClass(),
    **{(f"numpy.{core}.multiarray", name): what for core in ("core", "_core") for name, what in _MULTIARRAY.items()},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer() for core in ("core", "_core")},
}


def _class(codes: str) -> bytes:
    return b"[" + b"".join(re.escape(code.encode("latin-1")) for code in codes) + b"]"


def _steps() -> re.Pattern[bytes]:
    """Matches a run of opcodes whose arguments have a fixed length or end with a line, but for STOP and the puts."""
    fixed: dict[int, str] = {}
    for opcode in pickletools.opcodes:
        if opcode.code not in ".pr" and (opcode.arg is None or opcode.arg.n >= 0):
            size = opcode.arg.n if opcode.arg else 0
            fixed[size] = fixed.get(size, "") + opcode.code
    parts = [_class(codes) + b".{%d}" % size for size, codes in sorted(fixed.items())]
    lines = [o.code for o in pickletools.opcodes if o.arg and o.arg.n == pickletools.UP_TO_NEWLINE and o.code != "p"]
    parts.append(_class("".join(code for code in lines if code not in "ci")) + rb"[^\n]*\n")
    parts.append(rb"[ci][^\n]*\n[^\n]*\n")
    return re.compile(b"(?:" + b"|".join(parts) + b")*+", re.DOTALL)


_STEPS = _steps()
# How many bytes hold the length of what follows.
_LENGTHS = {
    opcode.code.encode("latin-1"): {
        pickletools.TAKEN_FROM_ARGUMENT1: 1,
        pickletools.TAKEN_FROM_ARGUMENT4: 4,
        pickletools.TAKEN_FROM_ARGUMENT4U: 4,
        pickletools.TAKEN_FROM_ARGUMENT8U: 8,
    }[opcode.arg.n]
    for opcode in pickletools.opcodes
    if opcode.arg and opcode.arg.n < 0 and opcode.arg.n != pickletools.UP_TO_NEWLINE
}


def _check_memo(data: bytes | mmap.mmap) -> None:
    """Refuses a pickle that numbers what it remembers beyond its own size.

    The unpickler makes room for all numbers up to the largest one, so ten bytes could fill the memory.
    """
    at, size = 0, len(data)
    while at < size:
        at = _STEPS.match(data, at).end()
        code = data[at : at + 1]
        if code == b"r":
            index, end = int.from_bytes(data[at + 1 : at + 5], "little"), at + 5
        elif code == b"p":
            end = data.find(b"\n", at) + 1 or size
            digits = data[at + 1 : end].strip()
            index = int(digits) if len(digits) < 20 and digits.isdigit() else size + 1
        elif code in _LENGTHS:
            width = _LENGTHS[code]
            index, end = 0, at + 1 + width + int.from_bytes(data[at + 1 : at + 1 + width], "little")
        else:  # STOP, or where the unpickler will stumble too
            return
        if index > size:
            raise _Forbidden("a place in its memory that it cannot need")
        at = end


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED[module, name]
        except KeyError:
            raise _Forbidden(f"{module}.{name}") from None

    def persistent_load(self, pid: object) -> Any:
        raise _Forbidden("an object outside the file")


def load(path: str | Path) -> Any:
    """What a pickle file holds, built of plain containers, numbers, text, dates and numpy arrays.

    Args:
      path: the file; it must hold one pickle and nothing behind it.

    Raises:
      InputError: it is truncated, is no pickle, or names anything else; nothing that it names was run.
    """
    path = Path(path)
    # Codes of copyreg may stand for anything that this process registered or has seen before; an empty cache makes
    # every one of them go through find_class.
    copyreg.clear_extension_cache()
    try:
        with open(path, "rb") as stream:
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                _check_memo(data)
            value = _Unpickler(stream).load()
            rest = stream.read(1)
    except _Forbidden as error:
        raise InputError(
            f"{path} is refused: its pickle names {error}, which is not plain data; write it again as lists, dicts, "
            "numbers and numpy arrays."
        ) from error
    # A broken pickle can fail in any operation.
    except Exception as error:
        raise InputError(f"{path} is truncated or is no pickle; copy it again or write it again.") from error
    finally:
        copyreg.clear_extension_cache()
    if rest:
        raise InputError(f"{path} holds something behind its pickle; write one pickle a file.")
    return value
