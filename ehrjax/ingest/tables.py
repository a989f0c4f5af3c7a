"""The reader of any tables (CSV, tab-delimited or parquet) by a YAML of column mappings: claims, UK Biobank, a local
warehouse.

What the YAML can say is in `table_mapping` and docs/tables.md. A bare date counts from the end of its day, except for a
birth.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from ehrjax.core import files
from ehrjax.core.codes import SEPARATOR
from ehrjax.core.errors import InputError
from ehrjax.ingest import raw_csv, raw_files, raw_parquet
from ehrjax.ingest import table_mapping as mapping
from ehrjax.ingest.conversion import ByteProgress, Conversion, Progress, text_bytes
from ehrjax.ingest.meds import BIRTH, DEATH, VISIT_COLUMN
from ehrjax.ingest.raw_csv import ROW, Kind, end_of_day
from ehrjax.ingest.raw_tables import UNKNOWN, VISIT_FROM, Event, Table, not_before
from ehrjax.ingest.subject_ids import TextIds
from ehrjax.ingest.table_mapping import MappedEvent, MappedTable

_SUBJECT = "subject_id"
_END_OF_DAY = datetime.time(23, 59, 59, 999_999)
_BIRTH_RANK, _RANK, _DEATH_RANK = 0, 50, 99


@dataclass(frozen=True)
class Settings:
    """Options.

    Attributes:
      mapping: the YAML file; required.
    """

    mapping: str = ""


def read(
    input: str | Path, output: str | Path, settings: Settings = Settings(), *, progress: Progress | None = None
) -> dict[str, object]:
    """Converts tables to MEDS by a mapping.

    Args:
      input: the folder of the tables.
      output: the MEDS folder to write; it must not exist or be empty.
      settings: options.
      progress: called as progress(stage, bytes done, bytes in all).

    Returns:
      The summary of `Conversion.finish`, with absent tables.

    Raises:
      InputError: the mapping or something in the input cannot be used; nothing is written.
    """
    if not settings.mapping:
        raise InputError("The source tables needs --mapping=FILE.yaml; docs/tables.md shows how to write one.")
    told = mapping.load(settings.mapping)
    input = Path(input)
    if not input.is_dir():
        raise InputError(f"The folder {input} does not exist; name the folder that holds the tables.")
    files.refuse_existing(output, what="MEDS dataset")
    opened = [_Opened(input, table, told) for table in told.tables]
    there = [table for table in opened if table.paths]
    every = [path for table in there for path in table.paths]
    report = ByteProgress(progress, sum(path.stat().st_size for path in every))
    subjects = TextIds("subject") if told.subject_ids == mapping.TEXT else None
    visits = TextIds("visit") if told.visit_ids == mapping.TEXT else None
    with files.written_folder(output, what="MEDS dataset") as folder:
        conversion = Conversion(
            folder,
            [table.declared for table in there],
            source="tables",
            dataset_name=told.dataset_name,
            dataset_version=Path(settings.mapping).name,
            text_bytes=text_bytes(every),
        )
        described: dict[str, str] = {}
        for table in there:
            for batch in table.batches(report):
                frame = table.prepared(batch, subjects, visits)
                conversion.add(frame, table.declared)
                table.describe(frame, described)
            report.finished(table.name, sum(path.stat().st_size for path in table.paths))
        if subjects:
            subjects.write(folder / "metadata" / "subject_ids.parquet", "source_id")
        looked_up = _looked_up(input, told)
        pseudo = {"pseudo_dates": dict(told.pseudo_dates)} if told.pseudo_dates else {}
        return conversion.finish(
            lambda codes: _describe(codes, described, looked_up),
            extra={"roles": {role: list(patterns) for role, patterns in told.roles.items()}, **pseudo},
            summary={"absent_tables": [table.name for table in opened if not table.paths]},
        )


@dataclass
class _Opened:
    """A table of the mapping with its files.

    Attributes:
      name: the file's name.
      paths: its files; none if it is absent and not required.
      declared: what it means to the conversion.
    """

    input: Path
    table: MappedTable
    told: mapping.TableMapping
    name: str = field(init=False)
    paths: list[Path] = field(init=False)
    declared: Table = field(init=False)

    def __post_init__(self) -> None:
        self.name = self.table.file
        self.paths = _find(self.input, self.table.file)
        if not self.paths and self.table.required:
            raise InputError(
                f"{self.input / self.table.file} is not there as {raw_files.SHOWN}; correct the mapping, "
                "or say required: false."
            )
        taken = {name for join in self.table.join for name in join.take}
        have = {name.lower() for path in self.paths for name in raw_files.columns_of(path)} | {t.lower() for t in taken}
        # Of repeated columns only those that are there.
        self._events = [
            event
            for event in self.table.events
            if not event.repeat or all(name.lower() in have for name in event.columns())
        ]
        if not self._events and self.paths:
            raise InputError(f"{self.paths[0]} has none of the repeated columns that the mapping names.")
        self._columns = {name: kind for name, kind in self._kinds().items() if name not in taken}
        self._joined: list[pl.DataFrame] = []
        if self.paths:
            raw_files.check_columns(self.paths, self._columns)
            self._joined = [_joined(self.input, join, self._columns[join.by]) for join in self.table.join]
        self.declared = self._declared()

    def _kinds(self) -> dict[str, Kind]:
        table = self.table
        kinds: dict[str, Kind] = {}
        for event in self._events:
            kinds |= dict.fromkeys(sorted(event.columns()), Kind.TEXT)
        kinds |= dict.fromkeys((*table.recode, *table.skip, *(join.by for join in table.join)), Kind.TEXT)
        # A column of times in a format of its own is text until it is parsed here.
        kinds |= {name: Kind.TEXT if name in table.formats else Kind.TIME for name in sorted(self._times())}
        kinds[table.subject] = Kind.TEXT if self.told.subject_ids == mapping.TEXT else Kind.ID
        if table.visit:
            kinds[table.visit] = Kind.TEXT if self.told.visit_ids == mapping.TEXT else Kind.ID
        return kinds

    def _times(self) -> set[str]:
        named = {event.time for event in self._events} | {event.not_before for event in self._events}
        return (named | {self.table.visit_from, *self.table.formats}) - {"", mapping.STATIC}

    def _declared(self) -> Table:
        aside = [("no subject", pl.col(_SUBJECT).is_null())]
        for column, texts in self.table.skip.items():
            aside += [(f"{column} is {text}", (pl.col(column) == text).fill_null(False)) for text in texts]
        return Table(
            self.name,
            "",
            self._columns,
            tuple(_event(event, number) for number, event in enumerate(self._events)),
            _RANK,
            "as the mapping says",
            tuple(aside),
            repeats="repeats what is told once",
        )

    def batches(self, report: ByteProgress) -> Iterator[pl.DataFrame]:
        """The table's rows in pieces."""
        return raw_files.read_batches(self.paths, self._columns, on_bytes=report.during(self.name))

    def prepared(self, frame: pl.DataFrame, subjects: TextIds | None, visits: TextIds | None) -> pl.DataFrame:
        """The rows with joined columns, parsed times, recoded texts, subject and visit."""
        for join, rows in zip(self.table.join, self._joined, strict=True):
            frame = frame.join(rows, on=join.by, how="left", maintain_order="left")
        for column, wanted in self.table.formats.items():
            if column in frame.columns:
                frame = frame.with_columns(_parsed(frame, column, wanted, self.paths[0]))
        # Columns that were joined are still text.
        for column in self._times():
            if column in frame.columns and frame[column].dtype == pl.String:
                frame = frame.with_columns(raw_csv.parse(frame, {column: Kind.TIME}, self.paths[0])[column])
        frame = frame.with_columns(
            pl.col(column).replace({str(k): str(v) for k, v in texts.items()})
            for column, texts in self.table.recode.items()
        )
        ids = frame[self.table.subject]
        frame = frame.with_columns((subjects.encode(ids) if subjects else ids).alias(_SUBJECT))
        if self.table.visit:
            ids = frame[self.table.visit]
            frame = frame.with_columns((visits.encode(ids) if visits else ids).alias(VISIT_COLUMN))
            if self.table.visit_from:
                frame = frame.with_columns(pl.col(self.table.visit_from).alias(VISIT_FROM))
        return frame

    def describe(self, frame: pl.DataFrame, described: dict[str, str]) -> None:
        """Keeps the first description that the rows give of each code."""
        for event, declared in zip(self._events, self.declared.events, strict=True):
            if event.description:
                told = frame.select(declared.code.alias("code"), mapping.filled(event.description).alias("text"))
                for name, text in told.drop_nulls().unique("code", keep="first", maintain_order=True).iter_rows():
                    described.setdefault(name, text)


def _find(input: Path, file: str) -> list[Path]:
    place = input / file
    return raw_files.find_table(place.parent, place.name)


def _joined(input: Path, join: mapping.Join, kind: Kind) -> pl.DataFrame:
    """The columns of a joined table, as text, with its key of some kind, in memory."""
    paths = _find(input, join.file)
    if not paths:
        raise InputError(f"{input / join.file} is not there, but a table is joined to it; correct the mapping.")
    wanted = {**dict.fromkeys(join.take, Kind.TEXT), join.by: kind}
    raw_files.check_columns(paths, wanted)
    none = pl.DataFrame(schema={ROW: pl.Int64, **{name: raw_parquet.TYPES[kind] for name, kind in wanted.items()}})
    frame = pl.concat([none, *raw_files.read_batches(paths, wanted)])
    frame = frame.filter(pl.col(join.by).is_not_null())
    raw_files.refuse_repeats(frame, join.by, paths)
    return frame.select(wanted.keys())


def _event(event: MappedEvent, number: int) -> Event:
    """What the conversion makes of an event of the mapping."""
    code = mapping.filled(event.code)
    if event.unit:
        code = pl.concat_str(code, pl.lit(SEPARATOR), mapping.filled(event.unit).fill_null(UNKNOWN))
    for column, texts in event.when.items():
        code = pl.when(pl.col(column).is_in(texts)).then(code)
    numeric = text = None
    if event.value:
        parsed = pl.col(event.value).cast(pl.Float64, strict=False)
        numeric = pl.when(parsed.is_finite()).then(parsed)
        text = pl.when(numeric.is_null()).then(pl.col(event.value))
    if event.text:
        text = pl.col(event.text) if text is None else pl.coalesce(pl.col(event.text), text)
    time = None if event.time == mapping.STATIC else pl.col(event.time)
    rank = {BIRTH: _BIRTH_RANK, DEATH: _DEATH_RANK}.get(event.code)
    if event.code == BIRTH and time is not None:
        # Born on a day: nothing of that day happened before.
        time = pl.when(time.dt.time() == pl.lit(_END_OF_DAY)).then(time.dt.truncate("1d")).otherwise(time)
    elif event.not_before and time is not None:
        time = not_before(event.time, event.not_before)
    once = pl.concat_str(pl.lit(f"{number}|"), code) if event.once else None
    if event.code in (BIRTH, DEATH):
        once = pl.lit(event.code)
    return Event(code, time, numeric, text, once, rank)


def _parsed(frame: pl.DataFrame, column: str, wanted: str, path: Path) -> pl.Series:
    """A column of times in a format of its own; without hours it is a date and counts from the end of its day."""
    text = pl.col(column)
    if any(sign in wanted for sign in ("%H", "%I", "%T", "%R", "%X", "%c", "%s")):
        parsed = text.str.to_datetime(wanted, time_unit="us", strict=False)
    else:
        parsed = end_of_day(text.str.to_date(wanted, strict=False))
    times = frame.select(parsed).to_series()
    bad = frame.filter(times.is_null() & frame[column].is_not_null())
    if len(bad):
        raise InputError(
            f"{path}, line {raw_csv.line_of(path, bad[ROW][0])}: the value in column {column!r} is not written as "
            f"{wanted}; correct that row, or formats in the mapping."
        )
    return times


def _looked_up(input: Path, told: mapping.TableMapping) -> dict[str, str]:
    """Code -> what the tables under `descriptions` call it."""
    found: dict[str, str] = {}
    for lookup in told.descriptions:
        paths = _find(input, lookup.file)
        if not paths:
            raise InputError(f"{input / lookup.file} is not there, but the mapping's descriptions name it.")
        wanted = dict.fromkeys(sorted(mapping.places(lookup.code) | mapping.places(lookup.description)), Kind.TEXT)
        raw_files.check_columns(paths, wanted)
        for batch in raw_files.read_batches(paths, wanted):
            pair = batch.select(mapping.filled(lookup.code).alias("c"), mapping.filled(lookup.description).alias("d"))
            for name, text in pair.drop_nulls().iter_rows():
                found.setdefault(name, text)
    return found


def _describe(codes: Iterable[str], described: dict[str, str], looked_up: dict[str, str]) -> dict[str, str]:
    """A description for every code: by its rows, by a lookup (with or without its unit), else the code itself."""
    found = {}
    for name in codes:
        short, _, unit = name.rpartition(SEPARATOR)
        plain = looked_up.get(short)
        with_unit = f"{plain} ({unit})" if plain and unit != UNKNOWN else plain
        found[name] = described.get(name) or looked_up.get(name) or with_unit or name
    return found
