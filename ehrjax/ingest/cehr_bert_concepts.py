"""What the elements of CEHR-BERT's lists mean: codes, times, visits, values.

A sequence is `[year:Y age:N gender race] [VS] (visit type) events (discharge facility) [VE] ATT [VS] ...`. The tokens
between visits (ATT: W3, M2, LT, D12, i-H4, ...) say again what the times say and are set aside; so are [VS] and [VE].
Times are `epoch_times` (seconds since 1970), else `dates` (weeks since 1970). Midnight exactly means that only the day
is known, so the event counts from the end of that day; one known by its week counts from the end of the week.

Concepts that are whole numbers are OMOP concept ids (`OMOP_CONCEPT//201826`); others (the MEDS path) are source codes
and stay as they are, with `/` after the vocabulary as `//`.
"""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from ehrjax.core.codes import SEPARATOR
from ehrjax.ingest.meds import BIRTH, DEATH, VISIT_COLUMN
from ehrjax.ingest.raw_csv import end_of_day
from ehrjax.ingest.raw_tables import OUT_OF_RANGE, UNKNOWN, VISIT_FROM, Event, Table

# The lists that are read and what their elements are; `number_as_values` or `concept_values` come as `number`.
LISTS = {
    "concept_ids": pl.String,
    "visit_segments": pl.Float64,
    "concept_value_masks": pl.Float64,
    "epoch_times": pl.Float64,
    "dates": pl.Float64,
    "ages": pl.Float64,
    "concept_as_values": pl.String,
    "is_numeric_types": pl.Float64,
    "units": pl.String,
    "visit_concept_ids": pl.String,
    "visit_rank_orders": pl.Float64,
}
NUMBERS = ("number_as_values", "concept_values")
# Beyond it a time has no date in MEDS; about the year 2600.
MOST_SECONDS = 2e10
SECONDS_PER_DAY, SECONDS_PER_WEEK = 86_400, 7 * 86_400
MOST_YEARS = 130
# Visits that begin at one moment are told apart by a number below this.
SAME_START = 64

_ATT = r"^(?:(?:i|VS)-)?(?:[WMDH]-?[0-9]+|LT)(?:-VE)?$"
_START, _END = ["[VS]", "VS"], ["[VE]", "VE"]
_SPECIAL = ["[START]", "[END]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNUSED]"]
_DIED = ["[DEATH]", "4306655", DEATH]
_NO_UNIT = ["N/A", "", "0", "None"]
# OMOP's ids of the CMS places of service, where a discharge leads (8536 home, 8863 skilled nursing facility, ...).
_PLACES = (8533, 8999)
_PLACES_TOO = ["0", "581476", "4216643"]

_OTHER, _DISCHARGED, _DEAD = 10, 61, 99

CONCEPTS = Table(
    "concepts",
    "",
    {},
    (
        Event(pl.when(pl.col("role") == "static").then(pl.col("code")), None, once=pl.col("once")),
        Event(pl.when(pl.col("birth").is_not_null()).then(pl.lit(BIRTH)), pl.col("birth"), once=pl.lit(BIRTH), rank=0),
        Event(
            pl.when(pl.col("role") == "event").then(pl.col("code")),
            pl.col("time"),
            pl.col("numeric"),
            pl.col("text"),
            once=pl.col("once"),
        ),
        Event(
            pl.when(pl.col("role") == "discharge").then(pl.col("code")),
            pl.col("time"),
            once=pl.col("once"),
            rank=_DISCHARGED,
        ),
        Event(pl.when(pl.col("role") == "death").then(pl.lit(DEATH)), pl.col("time"), once=pl.col("once"), rank=_DEAD),
    ),
    _OTHER,
    "at its epoch time, by day or by week at the end of it; the visit's type where the visit begins; birth is 1 "
    "January of the year of the first event less the age, or of the prompt's year less its age",
    (
        ("no concept", pl.col("concept_ids").is_null()),
        ("artificial time token", pl.col("role") == "att"),
        ("[VS] or [VE] token", pl.col("role") == "mark"),
        ("special token", pl.col("role") == "special"),
        ("year of the prompt", pl.col("role") == "year"),
        (OUT_OF_RANGE, pl.col("far") & ~pl.col("role").is_in(["static", "age"])),
        ("no time", pl.col("time").is_null() & ~pl.col("role").is_in(["static", "age"])),
    ),
    repeats="stands in an earlier sequence of the person",
    required=True,
)

ROLES = {
    "admission": ["VISIT//(9201|262|8717|8971|8920|581379|32037)$", "HOSPITAL_ADMISSION(//|$)"],
    "discharge": ["DISCHARGE//", "HOSPITAL_DISCHARGE(//|$)"],
    "discharge_dead": ["DISCHARGE//4216643$", "HOSPITAL_DISCHARGE//DIED$"],
    "icu_admission": ["VISIT//(581379|32037)$", "ICU_ADMISSION(//|$)"],
    "emergency": ["VISIT//(9203|262)$"],
    "outpatient": ["VISIT//9202$"],
    "female": ["GENDER//(8532|F|FEMALE|Female)$"],
    "male": ["GENDER//(8507|M|MALE|Male)$"],
}


def read_concepts(frame: pl.DataFrame, repeated: pl.Series) -> pl.DataFrame:
    """Adds what `CONCEPTS` and `Conversion.add` need to list elements.

    Args:
      frame: row, sequence, person_id, the columns of LISTS and `number`; whole sequences in order.
      repeated: persons whose events may come in several sequences.
    """
    token, position = pl.col("concept_ids"), pl.int_range(pl.len()).over("sequence")
    frame = frame.with_columns(pl.when(token != "").then(token).alias("concept_ids"), position.alias("position"))
    frame = _times(frame)
    prompted = token.first().over("sequence").str.starts_with("year:").fill_null(False) & (pl.col("position") < 4)
    frame = frame.with_columns(prompted.alias("prompt"))
    frame = _visits(frame)
    frame = frame.with_columns(_role().alias("role")).with_columns(_code().alias("code"))
    # Where the patient went is known when the visit ends: at the [VE] that follows.
    ends = pl.when(pl.col("role") == "discharge").then(pl.col("time").shift(-1).over("sequence"))
    frame = frame.with_columns(pl.max_horizontal("time", ends).alias("time"))
    frame = _values(_births(frame))
    frame = _once(frame, repeated)
    return frame.with_columns(pl.col("person_id").alias("subject_id"))


def _times(frame: pl.DataFrame) -> pl.DataFrame:
    """Adds `start` (seconds, as given), `time` (when it is known) and `far` (no such date)."""
    week = pl.col("dates") * SECONDS_PER_WEEK
    exact, given = pl.col("epoch_times"), pl.coalesce("epoch_times", week)
    far = (given.abs() > MOST_SECONDS).fill_null(False)
    near = pl.when(~far).then(given)
    at = (near * 1e6).round().cast(pl.Int64).cast(pl.Datetime("us"))
    known = (
        pl.when(exact.is_null())
        .then(end_of_day(at + pl.duration(days=6)))
        .when(exact % SECONDS_PER_DAY == 0)
        .then(end_of_day(at))
        .otherwise(at)
    )
    return frame.with_columns(near.alias("start"), known.alias("time"), far.alias("far"))


def _visits(frame: pl.DataFrame) -> pl.DataFrame:
    """Adds `visit_id` and since when it is known: the visit's first moment.

    A visit begins with [VS] or where the segment turns from 1 to 2 or back. Its id is visit_rank_orders where the
    source has it, else its first second x 64 plus its place among visits that begin then, so that the same visit has
    the same id in every sequence of a person.
    """
    segment = pl.when((pl.col("visit_segments") > 0) & ~pl.col("prompt")).then(pl.col("visit_segments"))
    last = segment.forward_fill().over("sequence")
    turned = (segment != last.shift(1).over("sequence")).fill_null(segment.is_not_null())
    opens = segment.is_not_null() & (turned | pl.col("concept_ids").is_in(_START).fill_null(False))
    frame = frame.with_columns(segment.alias("segment"), opens.alias("opens"))
    visit = pl.when(segment.is_not_null()).then(pl.col("opens").cum_sum().over("sequence"))
    frame = frame.with_columns(visit.alias("visit"))
    first = pl.when(pl.col("visit").is_not_null()).then(pl.col("start").min().over("sequence", "visit"))
    frame = frame.with_columns(first.floor().cast(pl.Int64).alias("first"))
    place = (pl.col("visit").rank("dense").over("sequence", "first") - 1).clip(upper_bound=SAME_START - 1)
    made = pl.col("first") * SAME_START + place.cast(pl.Int64)
    rank = pl.when(pl.col("visit").is_not_null()).then(pl.col("visit_rank_orders").cast(pl.Int64, strict=False))
    return frame.with_columns(
        pl.coalesce(rank, made).alias(VISIT_COLUMN),
        (pl.col("first") * 1_000_000).cast(pl.Datetime("us")).alias(VISIT_FROM),
    )


def _role() -> pl.Expr:
    """What an element is: att, mark, special, year, age, static, event, discharge or death."""
    token, position = pl.col("concept_ids"), pl.col("position")
    # A code such as D12 is a diagnosis, too; only between visits it is a time token.
    att = token.str.contains(_ATT) & pl.col("segment").is_null()
    number = token.cast(pl.Int64, strict=False)
    place = (number.is_between(*_PLACES) | token.is_in(_PLACES_TOO)).fill_null(False)
    leaves = token.shift(-1).over("sequence").is_in(_END).fill_null(False)
    return (
        pl.when(token.is_null())
        .then(pl.lit("none"))
        .when(pl.col("prompt") & (position == 0))
        .then(pl.lit("year"))
        .when(pl.col("prompt") & (position == 1) & token.str.starts_with("age:"))
        .then(pl.lit("age"))
        .when(pl.col("prompt") & (position >= 2))
        .then(pl.lit("static"))
        .when(att)
        .then(pl.lit("att"))
        .when(token.is_in(_START + _END))
        .then(pl.lit("mark"))
        .when(token.is_in(_SPECIAL))
        .then(pl.lit("special"))
        .when(token.is_in(_DIED))
        .then(pl.lit("death"))
        .when(place & leaves)
        .then(pl.lit("discharge"))
        .otherwise(pl.lit("event"))
    )


def _code() -> pl.Expr:
    token = pl.col("concept_ids")
    is_id = token.str.contains(r"^[0-9]+$")
    # The first token of a visit that names the visit's own type.
    opens = token.shift(1).over("sequence").is_in(_START).fill_null(False)
    kind = opens & (token == pl.col("visit_concept_ids")).fill_null(False)
    clean = token.str.replace_all(r"\s+", " ")
    source = (
        pl.when(clean.str.contains(SEPARATOR, literal=True))
        .then(clean)
        .when(clean.str.contains("/", literal=True))
        .then(clean.str.replace("/", SEPARATOR, literal=True))
        .otherwise(pl.concat_str(pl.lit("CODE//"), clean))
    )

    def named(family: str) -> pl.Expr:
        return pl.concat_str(pl.lit(f"{family}{SEPARATOR}"), clean.str.replace_all("/{2,}", "/"))

    static = pl.when(pl.col("position") == 2).then(pl.lit("GENDER")).otherwise(pl.lit("RACE"))
    already = clean.str.contains("^(?:GENDER|RACE|ETHNICITY)//")
    return (
        pl.when((pl.col("role") == "static") & ~already)
        .then(pl.concat_str(static, pl.lit(SEPARATOR), clean.str.replace(r"^(?i)(?:gender|race)/", "")))
        .when(pl.col("role") == "static")
        .then(clean)
        .when(pl.col("role") == "discharge")
        .then(named("DISCHARGE"))
        .when(kind & is_id)
        .then(named("VISIT"))
        .when(is_id)
        .then(named("OMOP_CONCEPT"))
        .otherwise(source)
    )


def _births(frame: pl.DataFrame) -> pl.DataFrame:
    """Adds `birth` to one element a sequence: the prompt's age, else the first event with a plausible age."""
    token = pl.col("concept_ids")
    year = token.first().over("sequence").str.strip_prefix("year:").cast(pl.Int32, strict=False)
    told = token.str.strip_prefix("age:").cast(pl.Int32, strict=False)
    from_prompt = pl.when(pl.col("role") == "age").then(year - told)
    usable = (
        pl.col("role").is_in(["event", "discharge", "death"])
        & pl.col("ages").is_between(0, MOST_YEARS).fill_null(False)
        & pl.col("start").is_not_null()
    )
    began = (pl.col("start") * 1e6).round().cast(pl.Int64).cast(pl.Datetime("us"))
    estimate = pl.when(usable).then(began.dt.year() - pl.col("ages").floor().cast(pl.Int32))
    prompted = from_prompt.is_not_null().any().over("sequence")
    first = usable & (usable.cast(pl.Int32).cum_sum().over("sequence") == 1)
    born = pl.coalesce(from_prompt, pl.when(first & ~prompted).then(estimate))
    born = pl.when(born.is_between(1700, 2299)).then(born)
    return frame.with_columns(pl.datetime(born, 1, 1, time_unit="us").alias("birth"))


def _values(frame: pl.DataFrame) -> pl.DataFrame:
    """Adds `numeric` and `text`, and puts the unit behind the code of a measurement."""
    has = (pl.col("concept_value_masks") == 1).fill_null(False) & (pl.col("role") == "event")
    # Without is_numeric_types all values are numbers.
    is_number = pl.col("is_numeric_types").fill_null(1) == 1
    numeric = pl.when(has & is_number).then(pl.col("number"))
    text = pl.when(has & ~is_number & ~pl.col("concept_as_values").is_in(_NO_UNIT)).then(pl.col("concept_as_values"))
    unit = pl.col("units").str.replace_all(r"\s+", " ").str.replace_all("/{2,}", "/")
    unit = pl.when(~unit.is_in(_NO_UNIT)).then(unit).fill_null(UNKNOWN)
    ending = pl.concat_str(pl.lit(SEPARATOR), unit)
    measured = has & is_number & ~pl.col("code").str.ends_with(ending)
    # A source code that has a unit of its own gets no second, unknown one.
    has_own = (unit == UNKNOWN) & (pl.col("code").str.count_matches(SEPARATOR, literal=True) >= 2)
    return frame.with_columns(
        numeric.alias("numeric"),
        text.alias("text"),
        pl.when(measured & ~has_own).then(pl.concat_str("code", ending)).otherwise(pl.col("code")).alias("code"),
    )


def _once(frame: pl.DataFrame, repeated: pl.Series) -> pl.DataFrame:
    """Adds `once`, by which an event of a person's second sequence is found in the first one; null for others."""
    if not len(repeated):
        return frame.with_columns(pl.lit(None, pl.String).alias("once"))
    parts = [pl.col("start").cast(pl.String), pl.col("code"), pl.col("numeric").cast(pl.String), pl.col("text")]
    key = pl.concat_str(*(part.fill_null("") for part in parts), separator="|")
    frame = frame.with_columns(key.alias("once"))
    nth = pl.int_range(pl.len()).over("sequence", "once").cast(pl.String)
    static = pl.when(pl.col("role") == "static").then(pl.lit("static|") + pl.col("code"))
    keyed = pl.coalesce(static, pl.concat_str("once", nth, separator="|"))
    return frame.with_columns(pl.when(pl.col("person_id").is_in(repeated.implode())).then(keyed).alias("once"))


def describe(codes: Iterable[str]) -> dict[str, str]:
    """A description for every code; the format carries no names."""
    return {name: _sentence(name) for name in codes}


def _sentence(name: str) -> str:
    family, *rest = name.split(SEPARATOR)
    unit = f" ({rest[1]})" if len(rest) == 2 and rest[1] != UNKNOWN else ""
    known = {BIRTH: "Birth", DEATH: "Death"}
    if family in known:
        return known[family]
    texts = {
        "OMOP_CONCEPT": "OMOP concept {0}",
        "VISIT": "Visit of the type {0} begins",
        "DISCHARGE": "Discharged to {0}",
        "GENDER": "Gender: {0}",
        "RACE": "Race or ethnicity: {0}",
    }
    return texts[family].format(rest[0]) + unit if family in texts and rest else f"Source code {name}"
