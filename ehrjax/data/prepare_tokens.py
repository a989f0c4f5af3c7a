"""From a MEDS dataset to a token dataset: fit on train, tokenize piece by piece, write shard by shard.

What was done when a process is killed is found again by the next one with the same input and recipe.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.ipc

from ehrjax.core import config as configs
from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.data import token_dataset, token_stages
from ehrjax.ingest import fingerprint as fingerprints
from ehrjax.ingest import meds
from ehrjax.vocab import grammar
from ehrjax.vocab import vocabulary as vocabularies
from ehrjax.vocab.recipe import Recipe
from ehrjax.vocab.steps import bin_values

Progress = Callable[[str, int, int], None]
CHUNK_EVENTS = 1_000_000
WORKERS = min(4, os.cpu_count() or 1)
T = TypeVar("T")


def prepare(
    source: str | Path,
    output: str | Path,
    recipe: Recipe,
    *,
    fitted_from: str | Path | None = None,
    progress: Progress | None = None,
) -> dict:
    """Writes the token dataset of a MEDS dataset; the same input and recipe give the same bytes.

    Args:
      source: the MEDS folder.
      output: the folder to write; it must not exist.
      recipe: the grammar's settings.
      fitted_from: a token dataset whose vocabulary and fitted tables are used as they are instead of fitting.
      progress: called with what is being done, how many pieces are finished, and how many there are.

    Returns:
      What was written to dataset.json.

    Raises:
      InputError: the input is no MEDS dataset, a subject has no split or lies in two files, or a step needs dates
        that the source does not have.
    """
    files.refuse_existing(output, what="token dataset")
    steps = grammar.bind(recipe)
    dataset = meds.open_dataset(source)
    grammar.check_times(steps, times_good_for(dataset), source=str(dataset.metadata.get("dataset_name") or source))
    old = None if fitted_from is None else token_dataset.open_tokens(fitted_from)
    source_fingerprint = fingerprints.fingerprint(dataset)
    fingerprint = configs.fingerprint(
        [source_fingerprint, recipe.as_dict(), None if old is None else old.fingerprint, token_dataset.VERSION]
    )
    with files.resumable_folder(output, what="token dataset", fingerprint=fingerprint) as folder:
        work = _Work(dataset, recipe, steps, folder, progress)
        fitted = work.fit() if old is None else {s.label: read_fitted(old.folder, s) for s in steps if s.fitted}
        pieces = work.tokenize(fitted)
        vocabulary = old.vocabulary if old is not None else work.vocabulary(pieces, fitted)
        counts = work.finish(pieces, vocabulary)
        vocabulary.write(folder / "vocab.csv")
        for step in steps:
            if step.fitted:
                files.write_json(folder / f"{step.label}.json", {"rows": fitted[step.label].to_dicts()})
        info = {
            "kind": "ehrjax token dataset",
            "version": token_dataset.VERSION,
            "source": {key: dataset.metadata.get(key) for key in ("dataset_name", "dataset_version")},
            "source_fingerprint": source_fingerprint,
            "recipe": recipe.as_dict(),
            "vocabulary_fingerprint": vocabulary.fingerprint,
            "vocabulary_size": len(vocabulary),
            "splits": {split: dict(counter) for split, counter in counts.items()},
        }
        info["fingerprint"] = configs.fingerprint(info)
        files.write_json(folder / "dataset.json", info)
        work.clean()
    return info


def times_good_for(dataset: meds.MedsDataset) -> str:
    """What the times of a dataset are good for: 'dates', or what its `pseudo_dates` in dataset.json say."""
    pseudo = dataset.metadata.get("pseudo_dates")
    if not pseudo:
        return grammar.DATES
    good_for = pseudo.get("good_for") if isinstance(pseudo, dict) else None
    return good_for if good_for in grammar.GOOD_FOR else grammar.ORDER


def read_fitted(folder: Path, step: grammar.Step) -> pl.DataFrame:
    """The fitted table of a step of a token dataset.

    Raises:
      InputError: the dataset was made without this step, or the file is damaged.
    """
    saved = files.read_json(folder / f"{step.label}.json", what="token dataset with this recipe")
    try:
        return pl.DataFrame(saved["rows"], schema=step.module.FITTED)
    except (KeyError, TypeError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{folder / f'{step.label}.json'} is damaged; prepare the tokens again.") from error


class _Work:
    """The stages over all pieces of a dataset, with what is kept in the work folder between them."""

    def __init__(
        self,
        dataset: meds.MedsDataset,
        recipe: Recipe,
        steps: tuple[grammar.Step, ...],
        folder: Path,
        progress: Progress | None,
    ) -> None:
        self._dataset, self._recipe, self._steps = dataset, recipe, steps
        self._folder, self._progress = folder, progress
        self._chunks = list(dataset.chunks(CHUNK_EVENTS))
        self._num_shards = token_stages.num_shards(dataset.count_events())
        self._splits = dataset.splits.select("subject_id", "split").unique("subject_id", keep="first")
        (folder / "pieces").mkdir(exist_ok=True)

    def _events(self, chunk: meds.Chunk) -> pl.DataFrame:
        events = self._dataset.read_chunk(chunk)
        events = events.join(self._splits, on="subject_id", how="left", maintain_order="left")
        if lost := events["split"].null_count():
            raise InputError(
                f"{self._dataset.folder} has {lost} events of subjects that subject_splits.parquet does not list."
            )
        return events

    def _each(self, what: str, items: Sequence[Any], function: Callable[[int], T]) -> Iterator[T]:
        """`function` of the number of each item, some at a time, in order."""
        with ThreadPoolExecutor(WORKERS) as pool:
            pending = []
            try:
                for i in range(len(items)):
                    pending.append(pool.submit(function, i))
                    if len(pending) > WORKERS:
                        yield pending.pop(0).result()
                        if self._progress:
                            self._progress(what, i - WORKERS + 1, len(items))
                while pending:
                    yield pending.pop(0).result()
                if self._progress:
                    self._progress(what, len(items), len(items))
            finally:
                for future in pending:
                    future.cancel()

    def fit(self) -> dict[str, pl.DataFrame]:
        """Fits the steps that are fitted, each on what the steps before it make of the train split."""
        fitted: dict[str, pl.DataFrame] = {}
        for which, step in enumerate(self._steps):
            if not step.fitted:
                continue

            def counted(i: int, which: int = which) -> pl.DataFrame:
                return token_stages.count(self._events(self._chunks[i]), self._steps, which, fitted)

            parts: list[pl.DataFrame] = []
            for part in self._each(f"fitting {step.label}", self._chunks, counted):
                parts.append(part)
                if len(parts) == 16:
                    parts = [token_stages.add(parts, step)]
            fitted[step.label] = step.module.fit(token_stages.add(parts, step), step.settings)
        return fitted

    def tokenize(self, fitted: dict[str, pl.DataFrame]) -> list[Path]:
        """Writes the pieces that are not there yet."""
        folder = self._folder / "pieces"

        def piece(i: int) -> Path:
            path = folder / f"{i:06d}.arrow"
            if path.is_file():
                return path
            made = token_stages.tokenize(self._events(self._chunks[i]), self._recipe, self._steps, fitted)
            write_piece(path, made, self._num_shards)
            return path

        pieces = list(self._each("tokenizing", self._chunks, piece))
        seen = [read_piece(path)[0]["subject_id"].to_numpy() for path in pieces]
        subjects = np.concatenate(seen) if seen else np.zeros(0, np.int64)
        if again := len(subjects) - len(np.unique(subjects)):
            raise InputError(
                f"{self._dataset.folder} holds {again} subjects in more than one file; MEDS keeps each in one file."
            )
        return pieces

    def vocabulary(self, pieces: list[Path], fitted: dict[str, pl.DataFrame]) -> vocabularies.Vocabulary:
        """The vocabulary of the train split."""
        names = [read_piece(path)[1] for path in pieces]
        bounds: dict[str, list[tuple[float, float]]] = {}
        for step in self._steps:
            if step.module is bin_values:
                bounds.update(bin_values.bounds(fitted[step.label]))
        descriptions = dict(self._dataset.codes.select("code", "description").iter_rows())
        made = token_stages.vocabulary_of(names, self._recipe, bounds=bounds, descriptions=descriptions)
        if len(made) == made.num_specials and not any(part["count"].sum() for part in names):
            raise InputError(f"{self._dataset.folder} has no events in its train split; nothing can be fitted.")
        return made

    def finish(self, pieces: list[Path], vocabulary: vocabularies.Vocabulary) -> dict[str, Counter[str]]:
        """Writes the shards; counts what is in each split."""
        total = {split: Counter(subjects=0, events=0, known=0, tokens=0, subjects_set_aside=0) for split in meds.SPLITS}
        opened = [read_piece(path) for path in pieces]
        lookups = [token_stages.final_ids(names, vocabulary, self._recipe) for _, names, _ in opened]

        def shard(number: int) -> dict[str, Counter[str]]:
            done = self._folder / "shards" / f"{number:05d}.json"
            if done.is_file():
                return {k: Counter(v) for k, v in json.loads(done.read_text()).items()}
            parts = []
            for (table, _, _), lookup in zip(opened, lookups):
                first, last = np.searchsorted(table["shard"].to_numpy(), [number, number + 1])
                if last > first:
                    parts.append((table.slice(first, last - first).drop_columns(["shard"]), lookup))
            if not parts:
                return {}
            tables, counts = token_stages.finish(parts, vocabulary)
            for split, table in tables.items():
                token_dataset.write_table(table, self._folder / "data" / split / f"{number:05d}.arrow")
            files.write_json(done, counts)
            return counts

        for counts in self._each("writing shards", range(self._num_shards), shard):
            for split, counter in counts.items():
                total[split].update(counter)
        for _, _, set_aside in opened:
            for split, number in set_aside.items():
                total[split]["subjects_set_aside"] += number
        return total

    def clean(self) -> None:
        """Removes what only the stages need."""
        import shutil

        for name in ("pieces", "shards"):
            shutil.rmtree(self._folder / name, ignore_errors=True)


def write_piece(path: Path, piece: token_stages.Piece, num_shards: int) -> None:
    """Writes a piece as one Arrow file, its subjects by shard."""
    shard = token_stages.shard_of(piece.subjects["subject_id"].to_numpy(), num_shards)
    frame = piece.subjects.with_columns(pl.Series("shard", shard, pl.Int64)).sort("shard", maintain_order=True)
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    names = piece.names.to_arrow(compat_level=pl.CompatLevel.oldest())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, names.schema) as stream:
        stream.write_table(names)
    schema = token_dataset.ARROW_SCHEMA.append(pa.field("split", pa.string())).append(pa.field("shard", pa.int64()))
    schema = schema.with_metadata(
        {b"names": sink.getvalue().to_pybytes(), b"set_aside": json.dumps(piece.set_aside).encode()}
    )
    table = table.select(schema.names).cast(schema.remove_metadata()).replace_schema_metadata(schema.metadata)
    with files.written_file(path) as temporary:
        with pa.OSFile(str(temporary), "wb") as out, pa.ipc.new_file(out, table.schema) as writer:
            writer.write_table(table.combine_chunks())


def read_piece(path: Path) -> tuple[pa.Table, pl.DataFrame, dict[str, int]]:
    """A piece's subjects (mapped, not read), its names, and how many subjects it set aside by split."""
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    metadata = table.schema.metadata
    names = pl.DataFrame(pl.from_arrow(pa.ipc.open_stream(metadata[b"names"]).read_all()))
    return table.replace_schema_metadata(None), names, json.loads(metadata[b"set_aside"])
