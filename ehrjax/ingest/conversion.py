"""A conversion under way: pieces of raw tables go in, a MEDS dataset with an account of every row comes out.

Two passes. `add` turns a piece of a table into events and spills them to buckets of whole subjects; `finish`
sorts each bucket, writes it as a shard, and writes the metadata. Memory is bounded by a piece or a bucket.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.ingest.meds import SPLITS, VISIT_COLUMN, MedsWriter, family
from ehrjax.ingest.raw_tables import VISIT_FROM, Buckets, Table, Tally, events_of, in_order

# A bucket of this much raw text is a few hundred MiB while it is sorted.
BUCKET_BYTES = 64 << 20
# What a compressed file grows by when it is read, roughly.
RATIO = {".gz": 10, ".zst": 10, ".parquet": 5}

Progress = Callable[[str, int, int], None]


def text_bytes(paths: Iterable[Path]) -> int:
    """About how many bytes of uncompressed text some files hold."""
    return sum(path.stat().st_size * RATIO.get(path.suffix, 1) for path in paths)


class ByteProgress:
    """Adds up the bytes of finished files for a caller's progress."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.total = total
        self._progress, self._done = progress, 0

    def during(self, stage: str) -> Callable[[int], None]:
        """A callback for the bytes read so far of the file that is being read."""
        return lambda read: self(stage, self._done + read)

    def finished(self, stage: str, size: int) -> None:
        """A file of `size` bytes is done."""
        self._done += size
        self(stage, self._done)

    def __call__(self, stage: str, done: int) -> None:
        if self._progress:
            self._progress(stage, min(done, self.total), self.total)


class Conversion:
    """Collects the events of a source's tables and writes them as a MEDS dataset.

    Attributes:
      tallies: table name -> the fate of its rows.
      writer: the MEDS writer of the output folder.
    """

    def __init__(
        self,
        folder: Path,
        tables: Sequence[Table],
        *,
        source: str,
        dataset_name: str,
        dataset_version: str,
        text_bytes: int,
        bucket_bytes: int | None = None,
        splits: pl.DataFrame | None = None,
    ) -> None:
        """Starts a conversion.

        Args:
          folder: the folder to fill (from `files.written_folder`).
          tables: the tables that the source has, in the order of reading.
          source: the reader's name.
          dataset_name: for dataset.json.
          dataset_version: for dataset.json.
          text_bytes: about how much raw text there is; decides the number of buckets.
          bucket_bytes: raw text a bucket; default BUCKET_BYTES.
          splits: subject_id and split of subjects that the source itself assigns; others are split by hash.
        """
        self._source = source
        self._tables = tuple(tables)
        self._index = {table.name: index for index, table in enumerate(self._tables)}
        self.tallies = {table.name: Tally() for table in self._tables}
        self.writer = MedsWriter(folder, dataset_name, dataset_version, splits=splits)
        self._buckets = Buckets(folder / "buckets", Buckets.count_for(text_bytes, bucket_bytes or BUCKET_BYTES))

    def add(self, frame: pl.DataFrame, table: Table) -> None:
        """Spills the events of a piece of a table.

        Args:
          frame: the parsed rows: `subject_id`, `row`, what the table's expressions use, and, where the source
            has visits, `visit_id` Int64 and since when it is known, `visit_from` (default: always). Where
            `visit_from` is null the events carry no visit.
          table: one of the conversion's tables.
        """
        if VISIT_COLUMN not in frame.columns:
            frame = frame.with_columns(pl.lit(None, pl.Int64).alias(VISIT_COLUMN))
        if VISIT_FROM not in frame.columns:
            frame = frame.with_columns(pl.datetime(1, 1, 1, time_unit="us").alias(VISIT_FROM))
        self._buckets.add(events_of(frame, table, self._index[table.name], self.tallies[table.name]))

    def finish(
        self,
        describe: Callable[[Iterable[str]], Mapping[str, str]],
        *,
        parents: Callable[[Iterable[str]], Mapping[str, list[str]]] | None = None,
        summary: Mapping[str, object] | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> dict[str, object]:
        """Writes the shards and the metadata.

        Args:
          describe: gives code -> description for the codes that occur.
          parents: gives code -> parent codes.
          summary: more entries for the summary (absent tables and the like).
          extra: more entries for dataset.json (roles, pseudo-dates, ...).

        Returns:
          A summary without any patient's values, also kept in dataset.json under `reader_summary`: per table
          rows = rows_emitted + sum(rows_set_aside); events by family; subjects by split.

        Raises:
          InputError: there is no event at all.
        """
        tables = dict(enumerate(self._tables))
        counts: Counter[str] = Counter()
        subjects = dict.fromkeys(SPLITS, 0)
        for events in self._buckets.drain():
            shard = in_order(events, tables, self.tallies)
            counts.update(dict(shard["code"].value_counts().iter_rows()))
            for split in self.writer.split_subjects(shard["subject_id"].unique().to_numpy()):
                subjects[split] += 1
            self.writer.write_shard(shard)
        self._buckets.remove()
        if not self.writer.rows:
            named = ", ".join(self.tallies)
            raise InputError(f"No row of {named} gives an event; check that these are the tables of {self._source}.")
        families: Counter[str] = Counter()
        for name, count in counts.items():
            families[family(name)] += count
        result = {
            "source": self._source,
            "tables": {name: tally.as_dict() for name, tally in self.tallies.items()},
            **(summary or {}),
            "subjects": subjects,
            "events": self.writer.rows,
            "codes": len(counts),
            "events_by_family": dict(sorted(families.items())),
        }
        self.writer.finish(
            describe(counts),
            parents=parents(counts) if parents else None,
            extra={**(extra or {}), "reader_summary": result},
        )
        return result
