"""Embedding tables in files: .safetensors, .npy, .pt, word2vec (text or binary), CSV; with codes and metadata."""

from __future__ import annotations

import contextlib
import csv
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ehrjax.core import files, restricted_pickle
from ehrjax.core.errors import InputError
from ehrjax.hf import tensors

TENSOR, CODES = "embeddings", "codes"
# Other names of the codes in PyTorch's files, and what these say of the table's own shape.
_CODES_TOO = (CODES, "vocab", "tokens")
_SIZES = ("vocab_size", "embedding_dim")


@dataclass(frozen=True)
class Embeddings:
    """Vectors of codes.

    Attributes:
      vectors: [N, D] float32.
      codes: N strings, each once; None where the file does not name them.
      metadata: what else the file said, strings by name; not the sizes, which the vectors tell.
    """

    vectors: np.ndarray
    codes: tuple[str, ...] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def named(self, where: object) -> tuple[str, ...]:
        """The codes. Raises InputError where the file does not name them."""
        if self.codes is None:
            raise InputError(f"{where} does not say which code each row is; add --codes=FILE.")
        return self.codes


def read(path: str | Path, *, codes: str | Path | None = None) -> Embeddings:
    """Reads a table from a file or from a folder: a run of ehrjax, or a HuggingFace model's input table.

    Args:
      path: the file (its kind is told by its ending; .bin is word2vec binary or PyTorch's) or folder.
      codes: a file that names the rows: one a line, a vocab.csv, or a .pkl list (of strings, or of mappings with
        concept_id, as cehrgpt writes).

    Raises:
      InputError: it cannot be read, would run code, holds no table, or names another number of rows.
    """
    path = Path(path)
    if path.is_dir():
        found = _folder(path)
    elif not path.is_file():
        raise InputError(f"The file {path} does not exist.")
    else:
        readers = {".safetensors": _safetensors, ".npy": _npy, ".pt": _torch, ".pth": _torch, ".csv": _csv}
        readers.update({".txt": _word2vec_text, ".vec": _word2vec_text, ".bin": _binary})
        if path.suffix not in readers:
            raise InputError(f"{path} ends in {path.suffix!r}; embeddings are read from {', '.join(sorted(readers))}.")
        found = readers[path.suffix](path)
    named = found.codes if codes is None else tuple(_read_codes(Path(codes)))
    told = {name: value for name, value in found.metadata.items() if name not in _SIZES}
    return _checked(Embeddings(found.vectors, named, told), path)


@contextlib.contextmanager
def _text(path: Path) -> Iterator[None]:
    """What is raised while a text file is read as InputError."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; save it as UTF-8.") from error
    except csv.Error as error:
        raise InputError(
            f"{path} cannot be read as CSV ({error}); write it again, a code and its numbers a line."
        ) from error


def _floats(array: np.ndarray, path: Path) -> np.ndarray:
    """An array of numbers as float32; others, complex ones among them, are refused."""
    # To numpy, bfloat16 and float8 are of no kind that it knows.
    if array.dtype.kind not in "biuf" and not array.dtype.name.startswith(("bfloat16", "float8")):
        raise InputError(f"{path} holds values of the type {array.dtype}; save the table as float32.")
    return array.astype(np.float32)


def _checked(found: Embeddings, path: Path) -> Embeddings:
    if found.vectors.ndim != 2 or not found.vectors.size:
        raise InputError(f"{path} holds an array of shape {list(found.vectors.shape)}; a table has rows and columns.")
    if bad := int((~np.isfinite(found.vectors)).any(axis=1).sum()):
        raise InputError(f"{path} has {bad} rows with NaN or infinite values; leave them out.")
    if found.codes is not None:
        if len(found.codes) != len(found.vectors):
            raise InputError(f"{path} has {len(found.vectors)} rows, but {len(found.codes)} codes are named.")
        if len(set(found.codes)) != len(found.codes):
            twice = next(code for code in found.codes if found.codes.count(code) > 1)
            raise InputError(f"{path} names the code {twice!r} more than once.")
    return found


def _folder(path: Path) -> Embeddings:
    from ehrjax.hf import incoming, rules, tokens

    if (path / "checkpoints").is_dir():
        from ehrjax.core import trees
        from ehrjax.training import run as runs

        run = runs.load(path)
        return Embeddings(np.asarray(trees.flatten(run.params)[trees.CODE_TABLE]), tuple(run.vocabulary.strings))
    config = files.read_json(path / "config.json", what="run or HuggingFace model")
    family = incoming.family_of(config, path / "config.json")
    there = incoming.canonical(tensors.open_folder(path), family.PREFIX)
    table = incoming.rules_of(family, family.settings_from(config)[0])
    name = next(rule.names for rule in table if rule.how is rules.TABLE)
    if name not in there:
        raise InputError(f"{path} has no tensor {name}.")
    vectors = there[name][1].read().astype(np.float32)
    found = tokens.read(path, config, len(vectors))
    back = {int(row): string for row, string in zip(found.rows, found.vocabulary.strings) if row >= 0}
    return Embeddings(vectors, tuple(back[i] for i in range(len(vectors))))


def _safetensors(path: Path) -> Embeddings:
    from safetensors import safe_open

    there = tensors.open_safetensors(path)
    name = _the_one([n for n, t in there.items() if len(t.shape) == 2], path)
    with safe_open(path, "np") as file:
        told = dict(file.metadata() or {})
    codes = told.pop(CODES, None)
    try:
        names = None if codes is None else tuple(json.loads(codes))
    except ValueError as error:
        raise InputError(f"{path} has codes that are no JSON list; write it again.") from error
    return Embeddings(_floats(there[name].read(), path), names, told)


def _the_one(names: Sequence[str], path: Path) -> str:
    for wanted in (TENSOR, "embedding", "weight", ""):
        if wanted in names:
            return wanted
    if len(names) != 1:
        raise InputError(f"{path} holds {len(names)} tables; keep one, or name it {TENSOR!r}.")
    return names[0]


def _npy(path: Path) -> Embeddings:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no plain .npy array; save it with numpy.save, without objects.") from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise InputError(f"{path} is an archive of numpy.savez, no plain .npy array; save the table with numpy.save.")
    return Embeddings(_floats(array, path))


def _torch(path: Path) -> Embeddings:
    """A tensor, or a mapping with a table under `embeddings` and perhaps `codes` (or `vocab`) and `metadata`."""
    value = tensors.load_torch(path)
    there = tensors.tensors_of(value, path)
    name = _the_one([n for n, t in there.items() if len(t.shape) == 2], path)
    metadata: dict[str, str] = {}
    codes = None
    if isinstance(value, Mapping):
        for key, told in value.items():
            if key in _CODES_TOO and isinstance(told, (list, tuple)):
                codes = tuple(map(str, told))
            elif key in _CODES_TOO and isinstance(told, Mapping):
                codes = _by_row(told, f"{path}, {key}")
            elif isinstance(told, (str, int, float)):
                metadata[str(key)] = str(told)
            elif isinstance(told, Mapping) and key == "metadata":
                metadata.update({str(k): str(v) for k, v in told.items()})
        size = metadata.get("vocab_size")
        if size is not None and size != str(there[name].shape[0]):
            raise InputError(f"{path} says vocab_size = {size}, but its table has {there[name].shape[0]} rows.")
    try:
        array = there[name].read()
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise InputError(
            f"{path} holds a table of {there[name].dtype} that numpy cannot have (of few bits, sparse, or without its "
            "values); save it as a dense float32 tensor."
        ) from error
    return Embeddings(_floats(array, path), codes, metadata)


def _by_row(told: Mapping[Any, Any], where: str) -> tuple[str, ...]:
    """The codes of a mapping code -> row, in order of the rows."""
    back = {row: str(code) for code, row in told.items() if isinstance(row, int)}
    if sorted(back) != list(range(len(told))):
        raise InputError(f"{where} does not give the rows 0, 1, 2, ... a code each; write a list of codes instead.")
    return tuple(back[row] for row in range(len(told)))


def _csv(path: Path) -> Embeddings:
    """A code and its numbers a line, behind a header that may lack."""
    with _text(path), open(path, encoding="utf-8", newline="") as stream:
        lines = (line for line in csv.reader(stream) if line)
        first = next(lines, [])
        ahead = [] if _is_header(first, path) else [first]
        return _rows(((line[0], line[1:]) for part in (ahead, lines) for line in part), path, first=2 - len(ahead))


def _is_header(line: Sequence[str], path: Path) -> bool:
    """Whether the first line of a CSV file names columns: by no numbers, or by 0, 1, 2, ... or 1, 2, 3, ..."""
    numbers = [_is_number(cell) for cell in line[1:]]
    if any(numbers) and not all(numbers):
        place = numbers.index(False) + 2
        raise InputError(
            f"{path}, line 1, column {place} is {line[place - 1]!r} among numbers; write a header, or numbers."
        )
    counted = any(list(line[1:]) == [str(i + start) for i in range(len(numbers))] for start in (0, 1))
    return not any(numbers) or (counted and (len(numbers) > 1 or not line[0]))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _word2vec_text(path: Path) -> Embeddings:
    """word2vec's text format: a line with both sizes (may lack, as in GloVe), then a word and its numbers a line."""
    with _text(path), open(path, encoding="utf-8") as stream:
        lines = (line.rstrip("\n").rstrip(" ") for line in stream)
        first = next(lines, "")
        sizes = first.split(" ")
        told = len(sizes) == 2 and all(part.isdigit() for part in sizes)
        width = int(sizes[1]) if told else len(sizes) - 1
        split = (tuple(line.rsplit(" ", width)) for line in ([] if told else [first]))
        rest = (tuple(line.rsplit(" ", width)) for line in lines if line)
        found = _rows(((p[0], p[1:]) for part in (split, rest) for p in part), path, first=1 + told)
    if told and len(found.vectors) != int(sizes[0]):
        raise InputError(f"{path} promises {sizes[0]} words and holds {len(found.vectors)}; it is truncated.")
    return found


def _rows(lines: Iterable[tuple[str, Sequence[str]]], path: Path, *, first: int) -> Embeddings:
    codes, vectors = [], []
    for number, (code, numbers) in enumerate(lines, start=first):
        try:
            vector = np.array([float(x) for x in numbers], np.float32)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {code!r} is not followed by numbers alone.") from error
        if vectors and len(vector) != len(vectors[0]):
            raise InputError(
                f"{path}, line {number}: {code!r} has {len(vector)} numbers, the lines before {len(vectors[0])}."
            )
        codes.append(code)
        vectors.append(vector)
    if not vectors:
        raise InputError(f"{path} holds no vectors.")
    return Embeddings(np.stack(vectors), tuple(codes))


def _binary(path: Path) -> Embeddings:
    """word2vec's binary format, or what torch.save has written."""
    with open(path, "rb") as stream:
        head = stream.readline(64).split()
        if len(head) != 2 or not all(part.isdigit() for part in head):
            return _torch(path)
        count, width = map(int, head)
        codes, vectors = [], np.zeros((0, width), np.float32)
        body = stream.read()
    at, rows = 0, []
    for _ in range(count):
        end = body.find(b" ", at)
        if end < 0 or len(body) < end + 1 + 4 * width:
            raise InputError(f"{path} promises {count} words and holds {len(rows)}; it is truncated.")
        codes.append(body[at:end].lstrip(b"\n").decode("utf-8", "replace"))
        rows.append(np.frombuffer(body, "<f4", width, end + 1))
        at = end + 1 + 4 * width
    if rows:
        vectors = np.stack(rows).astype(np.float32)
    return Embeddings(vectors, tuple(codes))


def _read_codes(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(f"The file of codes {path} does not exist.")
    if path.suffix == ".pkl":
        value = restricted_pickle.load(path)
        if isinstance(value, list) and all(isinstance(v, (str, int)) for v in value):
            return [str(v) for v in value]
        if isinstance(value, list) and all(isinstance(v, dict) and "concept_id" in v for v in value):
            return [str(v["concept_id"]) for v in value]
        raise InputError(f"{path} is no list of codes, nor of mappings with concept_id.")
    if path.suffix == ".csv":
        from ehrjax.vocab import vocabulary as vocabularies

        return vocabularies.read(path).strings
    with _text(path):
        # Not splitlines, which divides at characters that a code may have.
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def write(path: str | Path, found: Embeddings) -> None:
    """Writes a table; its ending tells the kind: .safetensors, .npy (without codes), .pt, .txt, .vec, .bin, .csv.

    Raises:
      InputError: the ending is none of these, the table has no rows, or the kind needs codes and there are none, or
        cannot have one of them.
    """
    path = Path(path)
    writers: dict[str, Callable[[Path, Embeddings], None]] = {
        ".safetensors": _write_safetensors,
        ".npy": _write_npy,
        ".pt": _write_torch,
        ".txt": _write_text,
        ".vec": _write_text,
        ".bin": _write_binary,
        ".csv": _write_csv,
    }
    if path.suffix not in writers:
        raise InputError(f"{path} ends in {path.suffix!r}; embeddings are written to {', '.join(sorted(writers))}.")
    if path.exists():
        raise InputError(f"{path} already exists; remove it or name another file.")
    if not found.vectors.size:
        raise InputError(f"No row is left to write to {path}; give a mapping, or more ways to match.")
    with files.written_file(path) as temporary:
        writers[path.suffix](temporary, found)


def _write_safetensors(path: Path, found: Embeddings) -> None:
    from safetensors.numpy import save_file

    codes = {} if found.codes is None else {CODES: json.dumps(list(found.codes), ensure_ascii=False)}
    save_file({TENSOR: np.ascontiguousarray(found.vectors)}, path, metadata={**found.metadata, **codes})


def _write_npy(path: Path, found: Embeddings) -> None:
    with open(path, "wb") as stream:
        np.save(stream, found.vectors, allow_pickle=False)


def _write_torch(path: Path, found: Embeddings) -> None:
    try:
        import torch
    except ImportError as error:
        raise InputError("Writing .pt needs torch; pip install 'ehrjax[torch]', or write .safetensors.") from error
    value: dict[str, Any] = {
        TENSOR: torch.from_numpy(np.ascontiguousarray(found.vectors)),
        **dict(zip(_SIZES, found.vectors.shape)),
        "metadata": {name: value for name, value in found.metadata.items() if name not in _SIZES},
    }
    if found.codes is not None:
        value[CODES] = list(found.codes)
    torch.save(value, path)


def _lines(found: Embeddings) -> tuple[str, ...]:
    """The codes, none of which may have a line break."""
    codes = found.named("The table")
    if broken := next((code for code in codes if "\n" in code or "\r" in code), None):
        raise InputError(f"The code {broken!r} holds a line break, which word2vec's formats cannot have; write .csv.")
    return codes


def _write_text(path: Path, found: Embeddings) -> None:
    codes = _lines(found)
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(f"{len(codes)} {found.vectors.shape[1]}\n")
        for code, vector in zip(codes, found.vectors):
            stream.write(f"{code} {' '.join(repr(float(x)) for x in vector)}\n")


def _write_binary(path: Path, found: Embeddings) -> None:
    codes = _lines(found)
    if spaced := next((code for code in codes if " " in code), None):
        raise InputError(f"The code {spaced!r} holds a blank, which word2vec's binary format cannot have.")
    with open(path, "wb") as stream:
        stream.write(f"{len(codes)} {found.vectors.shape[1]}\n".encode())
        for code, vector in zip(codes, found.vectors):
            stream.write(code.encode() + b" " + vector.astype("<f4").tobytes() + b"\n")


def _write_csv(path: Path, found: Embeddings) -> None:
    codes = found.named("The table")
    with open(path, "w", encoding="utf-8", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(["code", *(f"d{i}" for i in range(found.vectors.shape[1]))])
        for code, vector in zip(codes, found.vectors):
            out.writerow([code, *(repr(float(x)) for x in vector)])
