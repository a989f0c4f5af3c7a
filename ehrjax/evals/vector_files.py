"""Vectors and whose they are, in files: .parquet (a column `vector`) or .npz (`vectors`)."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ehrjax.core import files
from ehrjax.core.errors import InputError


@dataclass(frozen=True)
class Vectors:
    """Some vectors and whose they are.

    Attributes:
      columns: name -> [N] numpy array.
      vectors: [N, D] float32.
    """

    columns: dict[str, np.ndarray]
    vectors: np.ndarray


def write(output: Path, found: Vectors) -> int:
    """Writes vectors; the ending of the file tells how.

    Returns:
      How many vectors.

    Raises:
      InputError: the file exists, or ends in something else.
    """
    check_output(output)
    if output.suffix == ".npz":
        savez(output, {"vectors": found.vectors, **found.columns})
    else:
        with files.written_file(output) as temporary:
            pq.write_table(as_table(found), temporary, compression="zstd")
    return len(found.vectors)


def savez(output: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name as an .npz file."""
    with files.written_file(output) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def check_output(output: Path, endings: Sequence[str] = (".parquet", ".npz")) -> None:
    """Raises InputError where a file cannot be written: it has another ending, exists, or cannot be made."""
    if output.suffix not in endings:
        raise InputError(f"{output} ends in {output.suffix!r}; this is written to {' or '.join(endings)}.")
    if output.exists():
        raise InputError(f"{output} already exists; remove it or name another file.")
    files.check_place(output)


def read(path: str | Path) -> Vectors:
    """Reads what `write` or `encodings.stream` has written.

    Raises:
      InputError: the file is missing, damaged, or is none of these.
    """
    path = Path(path)
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
            vectors = columns.pop("vectors")
        else:
            table = pq.read_table(path)
            columns = {n: table[n].to_numpy(zero_copy_only=False) for n in table.column_names if n != "vector"}
            vectors = _matrix(table["vector"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, pa.ArrowException) as error:
        raise InputError(f"{path} holds no vectors that encode has written, or is truncated.") from error
    if vectors.ndim != 2 or vectors.dtype.kind != "f":
        raise InputError(f"{path} holds {vectors.dtype} of shape {list(vectors.shape)}; vectors are rows of numbers.")
    for name, column in columns.items():
        if column.shape != (len(vectors),):
            raise InputError(f"{path} has {len(vectors)} vectors, but {name} is of shape {list(column.shape)}.")
    return Vectors(columns, vectors)


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    """[N, D] of a column of lists of one size. Raises ArrowException or ValueError for others."""
    kind = column.type
    if not (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise ValueError(f"the column is of {kind}")
    flat = column.combine_chunks().flatten()
    column.cast(pa.list_(kind.value_type, len(flat) // max(len(column), 1)))  # fails where lengths differ
    return flat.to_numpy(zero_copy_only=False).reshape(len(column), -1)


def joined(parts: Sequence[Vectors]) -> Vectors:
    """Several vectors behind one another. Raises InputError for none."""
    if not parts:
        raise InputError("The splits hold no subjects; nothing is written.")
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    return Vectors(columns, np.concatenate([part.vectors for part in parts]))


def as_table(found: Vectors) -> pa.Table:
    """Columns and `vector`, a list of float32 of fixed size."""
    flat = pa.array(np.ascontiguousarray(found.vectors, np.float32).ravel())
    vector = pa.FixedSizeListArray.from_arrays(flat, found.vectors.shape[1])
    return pa.table({**{name: pa.array(column) for name, column in found.columns.items()}, "vector": vector})
