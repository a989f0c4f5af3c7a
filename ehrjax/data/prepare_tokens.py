"""From a MEDS dataset to a token dataset: fit on train, tokenize piece by piece, write shard by shard.

What was done when a process is killed is found again by the next one with the same input and recipe.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.ipc

from ehrjax.core import config as configs
from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.data import engines, token_dataset, token_stages
from ehrjax.ingest import fingerprint as fingerprints
from ehrjax.ingest import meds
from ehrjax.vocab import grammar
from ehrjax.vocab import vocabulary as vocabularies
from ehrjax.vocab.recipe import Recipe
from ehrjax.vocab.steps import bin_values

Progress = Callable[[str, int, int], None]
CHUNK_EVENTS = 500_000
T = TypeVar("T")


def prepare(
    source: str | Path,
    output: str | Path,
    recipe: Recipe,
    *,
    fitted_from: str | Path | None = None,
    engine: engines.Engine | None = None,
    progress: Progress | None = None,
) -> dict:
    """Writes the token dataset of a MEDS dataset; the same input and recipe give the same bytes.

    Args:
      source: the MEDS folder.
      output: the folder to write; it must not exist.
      recipe: the grammar's settings.
      fitted_from: a token dataset whose vocabulary and fitted tables are used as they are instead of fitting.
      engine: where the work is done; default threads of this process. It does not change the bytes.
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
        splits = dataset.splits.select("subject_id", "split").unique("subject_id", keep="first")
        chunks = tuple(dataset.chunks(CHUNK_EVENTS))
        shards = token_stages.num_shards(dataset.count_events())
        plan = Plan(dataset, splits, recipe, steps, folder, chunks, shards)
        work = _Work(plan, engine or engines.Local(), progress)
        fitted = work.fit() if old is None else {s.label: read_fitted(old.folder, s) for s in steps if s.fitted}
        work.tokenize(fitted)
        vocabulary = old.vocabulary if old is not None else work.vocabulary(fitted)
        counts = work.finish(vocabulary)
        vocabulary.write(folder / "vocab.csv")
        for step in steps:
            if step.fitted:
                files.write_json(folder / f"{step.label}.json", {"rows": fitted[step.label].to_dicts()})
        info = {
            "kind": "ehrjax token dataset",
            "version": token_dataset.VERSION,
            "source": {
                **{key: dataset.metadata.get(key) for key in ("dataset_name", "dataset_version")},
                # Made-up people may be shown.
                **({"synthetic": True} if dataset.metadata.get("synthetic") else {}),
            },
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


@dataclass(frozen=True)
class Plan:
    """What is to be done, and each part of it as a function of a number: parts can run anywhere, in any order.

    Attributes:
      dataset: the events.
      splits: subject_id, split; each subject once.
      recipe: the recipe.
      steps: its steps.
      folder: the work folder, which whoever runs a part can write.
      chunks: the pieces of the input.
      num_shards: how many shards the output has.
    """

    dataset: meds.MedsDataset
    splits: pl.DataFrame
    recipe: Recipe
    steps: tuple[grammar.Step, ...]
    folder: Path
    chunks: tuple[meds.Chunk, ...]
    num_shards: int

    def events(self, i: int, columns: tuple[str, ...] = ()) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The events of piece i (all columns, or some), and subject_id and split of its subjects in the same order."""
        events = self.dataset.read_chunk(self.chunks[i], columns, categories=True)
        starts, lengths = token_stages.runs(events)
        subjects = pl.DataFrame({"subject_id": events["subject_id"].gather(starts)}).join(
            self.splits, on="subject_id", how="left", maintain_order="left"
        )
        if subjects["split"].null_count():
            lost = int(lengths[subjects["split"].is_null().to_numpy()].sum())
            raise InputError(
                f"{self.dataset.folder} has {lost} events of subjects that subject_splits.parquet does not list."
            )
        return events, subjects

    def piece(self, i: int) -> Path:
        """The path of piece i."""
        return self.folder / "pieces" / f"{i:06d}.arrow"

    def write_piece(self, i: int, fitted: dict[str, pl.DataFrame]) -> int:
        """Writes piece i, unless it is there."""
        if not self.piece(i).is_file():
            made = token_stages.tokenize(*self.events(i), self.recipe, self.steps, fitted)
            write_piece(self.piece(i), made, self.num_shards)
        return i

    def write_shard(
        self, number: int, lookups: list[np.ndarray], vocabulary: vocabularies.Vocabulary
    ) -> dict[str, dict[str, int]]:
        """Writes a shard, unless it is there; returns what it holds, by split."""
        done = self.folder / "shards" / f"{number:05d}.json"
        if done.is_file():
            return json.loads(done.read_text())
        parts = []
        for i, lookup in enumerate(lookups):
            table = read_subjects(self.piece(i))
            first, last = np.searchsorted(table["shard"].to_numpy(), [number, number + 1])
            if last > first:
                parts.append((table.slice(first, last - first).drop_columns(["shard"]), lookup))
        if not parts:
            return {}
        tables, counts = token_stages.finish(parts, vocabulary)
        for split, table in tables.items():
            token_dataset.write_table(table, self.folder / "data" / split / f"{number:05d}.arrow")
        files.write_json(done, counts)
        return {split: dict(counter) for split, counter in counts.items()}


class _Work:
    """The stages, one after another, on an engine."""

    def __init__(self, plan: Plan, engine: engines.Engine, progress: Progress | None) -> None:
        self._plan, self._engine, self._progress = plan, engine, progress
        (plan.folder / "pieces").mkdir(exist_ok=True)

    def _each(self, what: str, function: Callable[[int], T], count: int) -> Iterator[T]:
        for i, result in enumerate(self._engine.each(function, count), start=1):
            yield result
            if self._progress:
                self._progress(what, i, count)

    def fit(self) -> dict[str, pl.DataFrame]:
        """Fits the steps that are fitted, each on what the steps before it make of the train split."""
        plan, fitted = self._plan, {}
        for which, step in enumerate(plan.steps):
            if not step.fitted:
                continue
            before, columns = dict(fitted), token_stages.columns_counted(plan.steps, which)

            def counted(
                i: int,
                which: int = which,
                before: dict[str, pl.DataFrame] = before,
                columns: tuple[str, ...] = columns,
            ) -> pl.DataFrame:
                return token_stages.count(*plan.events(i, columns), plan.steps, which, before)

            add = functools.partial(token_stages.add, step=step)
            parts: list[pl.DataFrame] = []
            for i, more in enumerate(self._engine.total(counted, len(plan.chunks), add), start=1):
                parts.extend(more)
                if len(parts) >= 16:
                    parts = [add(parts)]
                if self._progress:
                    self._progress(f"fitting {step.label}", i, len(plan.chunks))
            fitted[step.label] = step.module.fit(add(parts), step.settings)
        return fitted

    def tokenize(self, fitted: dict[str, pl.DataFrame]) -> None:
        """Writes the pieces that are not there yet."""
        plan = self._plan
        for _ in self._each("tokenizing", lambda i: plan.write_piece(i, fitted), len(plan.chunks)):
            pass
        seen = [read_subjects(plan.piece(i))["subject_id"].to_numpy() for i in range(len(plan.chunks))]
        subjects = np.concatenate(seen) if seen else np.zeros(0, np.int64)
        if again := len(subjects) - len(np.unique(subjects)):
            raise InputError(
                f"{plan.dataset.folder} holds {again} subjects in more than one file; MEDS keeps each in one file."
            )

    def vocabulary(self, fitted: dict[str, pl.DataFrame]) -> vocabularies.Vocabulary:
        """The vocabulary of the train split."""
        plan = self._plan
        names = [read_names(plan.piece(i))[0] for i in range(len(plan.chunks))]
        bounds: dict[str, list[tuple[float, float]]] = {}
        for step in plan.steps:
            if step.module is bin_values:
                bounds.update(bin_values.bounds(fitted[step.label]))
        descriptions = dict(plan.dataset.codes.select("code", "description").iter_rows())
        made = token_stages.vocabulary_of(names, plan.recipe, bounds=bounds, descriptions=descriptions)
        if len(made) == made.num_specials and not any(part["count"].sum() for part in names):
            raise InputError(f"{plan.dataset.folder} has no events in its train split; nothing can be fitted.")
        return made

    def finish(self, vocabulary: vocabularies.Vocabulary) -> dict[str, Counter[str]]:
        """Writes the shards; counts what is in each split."""
        plan = self._plan
        total = {split: Counter(subjects=0, events=0, known=0, tokens=0, subjects_set_aside=0) for split in meds.SPLITS}
        found = [read_names(plan.piece(i)) for i in range(len(plan.chunks))]
        lookups = [token_stages.final_ids(names, vocabulary, plan.recipe) for names, _ in found]
        write = functools.partial(plan.write_shard, lookups=lookups, vocabulary=vocabulary)
        for counts in self._each("writing shards", write, plan.num_shards):
            for split, counter in counts.items():
                total[split].update(counter)
        for _, set_aside in found:
            for split, number in set_aside.items():
                total[split]["subjects_set_aside"] += number
        return total

    def clean(self) -> None:
        """Removes what only the stages need."""
        for name in ("pieces", "shards"):
            shutil.rmtree(self._plan.folder / name, ignore_errors=True)


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


def read_subjects(path: Path) -> pa.Table:
    """A piece's subjects, in order of their shards; mapped, not read."""
    with pa.memory_map(str(path)) as source:
        return pa.ipc.open_file(source).read_all().replace_schema_metadata(None)


def read_names(path: Path) -> tuple[pl.DataFrame, dict[str, int]]:
    """A piece's token names (token_stages.NAMES_SCHEMA), and how many subjects it set aside, by split."""
    with pa.memory_map(str(path)) as source:
        metadata = pa.ipc.open_file(source).schema.metadata
    names = pl.DataFrame(pl.from_arrow(pa.ipc.open_stream(metadata[b"names"]).read_all()))
    return names, json.loads(metadata[b"set_aside"])
