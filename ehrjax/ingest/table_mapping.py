"""The YAML that tells what the columns of any tables mean; docs/tables.md explains it with examples.

    dataset_name: my hospital
    tables:
      - file: admissions
        subject: patient_id
        visit: stay_id
        time: admit_time
        events:
          - code: "HOSPITAL_ADMISSION//{admission_type?}"
          - {code: "HOSPITAL_DISCHARGE//{place?}", time: discharge_time, not_before: admit_time}

In a template `{column}` stands for the column's text (no event where it is empty) and `{column?}` for its text or UNK.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
import yaml

from ehrjax.core.errors import InputError
from ehrjax.ingest.raw_tables import or_unknown, words
from ehrjax.ingest.roles import MEANINGS, check_patterns

T = TypeVar("T")
STATIC = "static"
NUMBER, TEXT = "number", "text"
ID_KINDS = (NUMBER, TEXT)
_PLACE = re.compile(r"\{([^{}?]+)(\?)?\}")
_REPEATED = "$i"


@dataclass(frozen=True)
class MappedEvent:
    """One kind of event that a row can give.

    Attributes:
      code: a template.
      time: a column, or `static` for none; empty: the table's.
      value: a column; what is no number in it becomes the event's text.
      text: a column.
      unit: a template, the last part of the code; UNK where it is empty.
      not_before: a column of times; the event is no earlier than it.
      when: column -> the texts (one or a list) that it must have for the event to be.
      once: only the first such event of a subject is kept.
      description: a template that describes the code; the first row that gives the code tells it.
      repeat: [first, last]: the event is repeated with $i in its column names replaced by first, ..., last; columns
        that the table lacks are passed over.
    """

    code: str
    time: str = ""
    value: str = ""
    text: str = ""
    unit: str = ""
    not_before: str = ""
    when: Mapping[str, Sequence[str]] = field(default_factory=dict)
    once: bool = False
    description: str = ""
    repeat: Sequence[int] = ()

    def columns(self) -> set[str]:
        """The columns that the event needs."""
        named = {self.value, self.text, self.not_before, *self.when}
        named |= {self.time} - {STATIC}
        for template in (self.code, self.unit, self.description):
            named |= places(template)
        return named - {""}


@dataclass(frozen=True)
class Join:
    """Columns taken from another table: the one row there that has the same `by`.

    Attributes:
      file: that table.
      by: the column that both have; unique there.
      take: the columns taken.
    """

    file: str
    by: str
    take: Sequence[str]


@dataclass(frozen=True)
class MappedTable:
    """What the rows of a table mean.

    Attributes:
      file: its name without the suffix, below the input folder (`hosp/labs`).
      subject: the column of subject ids.
      events: what a row can give.
      time: the column of times that events have unless they name another.
      visit: the column of visit ids.
      visit_from: the column with the time since when the visit is known; empty: every row's own time is late enough.
      formats: column -> how its times are written (`%d/%m/%Y`), where it is not as 2015-03-01 12:30:00 or 2015-03-01.
      recode: column -> {text: what it stands for}.
      skip: column -> texts of rows that are set aside (entered in error, cancelled).
      join: columns taken from other tables.
      required: the input is refused without this table.
    """

    file: str
    subject: str
    events: Sequence[MappedEvent]
    time: str = ""
    visit: str = ""
    visit_from: str = ""
    formats: Mapping[str, str] = field(default_factory=dict)
    recode: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    skip: Mapping[str, Sequence[str]] = field(default_factory=dict)
    join: Sequence[Join] = ()
    required: bool = True


@dataclass(frozen=True)
class Lookup:
    """A table that describes codes.

    Attributes:
      file: its name.
      code: a template that gives the code; a measurement's code without its unit is enough.
      description: a template that describes it.
    """

    file: str
    code: str
    description: str


@dataclass(frozen=True)
class TableMapping:
    """The whole file.

    Attributes:
      tables: what the tables mean.
      dataset_name: for dataset.json.
      subject_ids: `number`, or `text` where subjects are named by text.
      visit_ids: the same for visits.
      roles: role -> regular expressions (`ingest/roles.py`).
      pseudo_dates: {good_for: order or intervals, why: a sentence} where the times are no dates.
      descriptions: tables that describe codes.
    """

    tables: Sequence[MappedTable]
    dataset_name: str = "tables"
    subject_ids: str = NUMBER
    visit_ids: str = NUMBER
    roles: Mapping[str, Sequence[str]] = field(default_factory=dict)
    pseudo_dates: Mapping[str, str] = field(default_factory=dict)
    descriptions: Sequence[Lookup] = ()


def places(template: str) -> set[str]:
    """The columns that a template names.

    >>> sorted(places("LAB//{test}//{unit?}"))
    ['test', 'unit']
    """
    return {name for name, _ in _PLACE.findall(template)}


def filled(template: str) -> pl.Expr:
    """The template with the row's columns; null where a column without `?` is empty."""
    parts, at = [], 0
    for found in _PLACE.finditer(template):
        parts.append(pl.lit(template[at : found.start()]))
        parts.append(or_unknown(found[1]) if found[2] else words(found[1]))
        at = found.end()
    return pl.concat_str(*parts, pl.lit(template[at:]))


def load(path: str | Path) -> TableMapping:
    """Reads and checks a mapping.

    Raises:
      InputError: the file does not exist, is no YAML, or something in it is missing, unknown or of the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"The mapping {path} does not exist; docs/tables.md shows how to write one.")
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{where} is not YAML; correct it.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; save it as UTF-8.") from error
    whole = _build(TableMapping, given, str(path))
    for name, value in (("subject_ids", whole.subject_ids), ("visit_ids", whole.visit_ids)):
        if value not in ID_KINDS:
            raise InputError(f"{path}: {name} is {value!r}; it must be {' or '.join(ID_KINDS)}.")
    if whole.pseudo_dates and (
        set(whole.pseudo_dates) != {"good_for", "why"} or whole.pseudo_dates["good_for"] not in ("order", "intervals")
    ):
        raise InputError(f"{path}: pseudo_dates needs good_for (order or intervals) and why (a sentence).")
    for role, patterns in whole.roles.items():
        if role not in MEANINGS:
            raise InputError(f"{path}: roles has no {role!r}; there are {', '.join(MEANINGS)}.")
        check_patterns(list(patterns), f"{path}: roles: {role}")
    return dataclasses.replace(
        whole,
        tables=[_table(table, f"{path}: tables[{at}]") for at, table in enumerate(_list(whole.tables, path, "tables"))],
        descriptions=[
            _build(Lookup, lookup, f"{path}: descriptions[{at}]") for at, lookup in enumerate(whole.descriptions)
        ],
    )


def _list(value: Sequence[Any], path: Path, name: str) -> Sequence[Any]:
    if not value:
        raise InputError(f"{path}: {name} is empty; describe at least one.")
    return value


def _table(given: Any, where: str) -> MappedTable:
    table = _build(MappedTable, given, where)
    if not table.events:
        raise InputError(f"{where}: events is empty; say what its rows give.")
    events = [_event(event, table, f"{where}.events[{at}]") for at, event in enumerate(table.events)]
    joins = [_build(Join, join, f"{where}.join[{at}]") for at, join in enumerate(table.join)]
    return dataclasses.replace(
        table, events=[each for event in events for each in _repeated(event)], join=joins, skip=_texts(table.skip)
    )


def _event(given: Any, table: MappedTable, where: str) -> MappedEvent:
    event = _build(MappedEvent, given, where)
    if not event.code:
        raise InputError(f"{where}: code is empty.")
    if not event.time and not table.time:
        raise InputError(f"{where}: neither the event nor its table names a column of times; static means none.")
    if event.repeat and (len(event.repeat) != 2 or not all(isinstance(n, int) for n in event.repeat)):
        raise InputError(f"{where}: repeat must be [first, last].")
    return dataclasses.replace(event, time=event.time or table.time, when=_texts(event.when))


def _texts(given: Mapping[str, Any]) -> dict[str, list[str]]:
    """Column -> texts, where the file may give one or several of whatever type."""
    return {
        str(column): [str(value) for value in (values if isinstance(values, list) else [values])]
        for column, values in given.items()
    }


def _repeated(event: MappedEvent) -> list[MappedEvent]:
    if not event.repeat:
        return [event]
    first, last = event.repeat

    def numbered(value: Any, number: int) -> Any:
        if isinstance(value, str):
            return value.replace(_REPEATED, str(number))
        return {numbered(k, number): v for k, v in value.items()} if isinstance(value, dict) else value

    fields = [f.name for f in dataclasses.fields(event)]
    return [
        dataclasses.replace(event, **{name: numbered(getattr(event, name), number) for name in fields})
        for number in range(first, last + 1)
    ]


_TYPES = {
    "str": (str, "text"),
    "bool": (bool, "true or false"),
    "Mapping": (dict, "a mapping"),
    "Sequence": (list, "a list"),
}


def _build(cls: type[T], given: Any, where: str) -> T:
    """The dataclass from what the YAML says."""
    if not isinstance(given, dict):
        raise InputError(f"{where} must be a mapping of keys and values.")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key, value in given.items():
        if key not in fields:
            close = difflib.get_close_matches(str(key), list(fields), n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(fields)}."
            raise InputError(f"{where} has no key {key!r}; {hint}")
        kind, called = _TYPES[str(fields[key].type).split("[")[0]]
        if not isinstance(value, kind):
            raise InputError(f"{where}: {key} must be {called}.")
    needed = [n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING and n not in given]
    if needed:
        raise InputError(f"{where} lacks the key {needed[0]!r}.")
    return cls(**given)
