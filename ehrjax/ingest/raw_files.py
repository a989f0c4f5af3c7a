"""Tables as files, whatever their format: `NAME.csv` (.tsv, .txt, .gz, .zst), `NAME.parquet`, or parts in a folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import polars as pl

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.ingest import raw_csv, raw_parquet
from ehrjax.ingest.raw_csv import ROW, Kind
from ehrjax.ingest.raw_tables import Table

SUFFIXES = (*raw_csv.SUFFIXES, ".parquet")
# Of the files in a folder of parts; a text beside them may be a licence.
PARTS = tuple(suffix for suffix in SUFFIXES if not suffix.startswith(".txt"))
MANIFEST = "SHA256SUMS.txt"
SHOWN = ".csv, .tsv, .txt (also .gz, .zst) or .parquet"


def find_table(folder: Path, name: str) -> list[Path]:
    """The files of a table in `folder`, in name order; the name is matched without regard to case.

    Returns:
      One file, the parts in a folder of that name, or nothing.

    Raises:
      InputError: the table is there more than once.
    """
    if not folder.is_dir():
        return []
    wanted = {f"{name}{suffix}".lower() for suffix in SUFFIXES}
    found = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name.lower() in wanted]
    parts = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name.lower() == name.lower()]
    if len(found) + len(parts) > 1:
        names = ", ".join(path.name for path in (*found, *parts))
        raise InputError(f"{folder} holds the table {name} more than once ({names}); keep one of them.")
    if not parts:
        return found
    inside = [path for path in sorted(parts[0].rglob("*")) if path.is_file() and path.name.endswith(PARTS)]
    if not inside:
        raise InputError(f"{parts[0]} holds no {SHOWN} files; remove the folder or copy it again.")
    return inside


def columns_of(path: Path) -> list[str]:
    """The names of a table's columns.

    Raises:
      InputError: the file is empty, damaged, or of no format known here.
    """
    _known(path)
    if path.suffix == ".parquet":
        return raw_parquet.column_names(path)
    return raw_csv.check_columns(path, ())[0]


def check_columns(paths: Iterable[Path], columns: Iterable[str]) -> None:
    """Raises InputError where a part of a table lacks one of `columns`: for a look before any long work."""
    for path in paths:
        there = {name.lower() for name in columns_of(path)}
        if missing := [name for name in columns if name.lower() not in there]:
            raise InputError(
                f"{path} has no column {', '.join(map(repr, missing))}; "
                "check that it is the table its name says, in its published layout."
            )


def check_manifest(folder: Path, paths: Iterable[Path]) -> None:
    """Compares files with the checksums that lie beside them (`MANIFEST`, as PhysioNet publishes it), if they do.

    A text that was cut at the end of a line looks whole; only this tells it.

    Raises:
      InputError: a file that the manifest names is another one; the manifest is no list of checksums.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return
    listed: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        digest, _, name = line.strip().partition(" ")
        if line.strip() and not re.fullmatch("[0-9a-fA-F]{64}", digest):
            raise InputError(f"{path}, line {number} is no checksum; copy the file again or remove it.")
        listed[name.strip().removeprefix("*").removeprefix("./")] = digest.lower()
    for file in paths:
        wanted = listed.get(file.relative_to(folder).as_posix())
        if wanted and files.sha256_file(file) != wanted:
            raise InputError(
                f"{file} is not the file that {path.name} names; copy it again, or remove {path.name} if the file was "
                "changed on purpose."
            )


def find_tables(folder: Path, tables: Iterable[Table], *, source: str) -> dict[str, list[Path]]:
    """Name -> files of those tables that a source's folder holds; their columns are checked.

    Args:
      folder: the input folder; a table lies in its `Table.folder` below it.
      tables: what the reader reads.
      source: what the folder holds, for messages ("OMOP CDM").

    Raises:
      InputError: the folder or a required table is not there, a table is there twice, is damaged at its start, lacks
        a column, or is not what the folder's MANIFEST says.
    """
    if not folder.is_dir():
        raise InputError(f"The {source} folder {folder} does not exist; name the folder that holds its tables.")
    found = {}
    for table in tables:
        if paths := find_table(folder / table.folder, table.name):
            check_manifest(folder, paths)
            check_columns(paths, table.columns)
            found[table.name] = paths
        elif table.required:
            raise InputError(
                f"{folder / table.folder} holds no table {table.name} ({SHOWN}), which is needed; "
                f"name the folder that holds the tables of {source}."
            )
    return found


def read_whole(paths: Iterable[Path], table: Table) -> pl.DataFrame:
    """A table in memory.

    Raises:
      InputError: it has a header but no rows.
    """
    paths = list(paths)
    batches = list(read_batches(paths, table.columns, optional=table.optional))
    if not batches:
        raise InputError(f"{paths[0]} has a header but no rows; copy the table again.")
    return pl.concat(batches)


def refuse_repeats(frame: pl.DataFrame, key: str, paths: Sequence[Path]) -> None:
    """Raises InputError where a key occurs twice in a table, read from `paths`, that others are joined to."""
    repeated = frame.filter(pl.col(key).is_not_null() & ~pl.col(key).is_first_distinct())
    if not len(repeated):
        return
    if len(paths) > 1:
        raise InputError(f"The files in {paths[0].parent} hold a {key} more than once; keep one row for each.")
    row, value = repeated[ROW][0], repeated[key][0]
    first = frame.filter(pl.col(key) == value)[ROW][0]
    raise InputError(
        f"{paths[0]}, line {raw_csv.line_of(paths[0], row)}: its {key} already stands on line "
        f"{raw_csv.line_of(paths[0], first)}; remove one of the two."
    )


def present(path: Path, columns: Mapping[str, Kind]) -> dict[str, Kind]:
    """Those of `columns` that a table has, whatever their case: for columns that may be absent."""
    names = {name.lower() for name in columns_of(path)}
    return {name: kind for name, kind in columns.items() if name.lower() in names}


def read_batches(
    paths: Path | Iterable[Path],
    columns: Mapping[str, Kind],
    *,
    optional: Mapping[str, Kind] | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[pl.DataFrame]:
    """Yields a table in pieces, as `raw_csv.read_batches`.

    Args:
      paths: its file, or its parts in order; rows are numbered through them.
      columns: the columns that must be there.
      optional: columns that become null where a part lacks them.
      on_bytes: called with the bytes read so far, over all parts.

    Raises:
      InputError: as `raw_csv.read_batches` and `raw_parquet.read_batches`.
    """
    first = done = 0
    for path in [paths] if isinstance(paths, Path) else paths:
        _known(path)
        there = present(path, optional or {})
        report = (lambda read, done=done: on_bytes(done + read)) if on_bytes else None
        module = raw_parquet if path.suffix == ".parquet" else raw_csv
        rows = 0
        for frame in module.read_batches(path, {**columns, **there}, on_bytes=report):
            rows += len(frame)
            absent = [
                pl.lit(None, raw_parquet.TYPES[kind]).alias(name)
                for name, kind in (optional or {}).items()
                if name not in there
            ]
            yield frame.with_columns(pl.col(ROW) + first, *absent)
        first += rows
        done += path.stat().st_size


def _known(path: Path) -> None:
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{path} is no {SHOWN}; convert it to one of these.")
