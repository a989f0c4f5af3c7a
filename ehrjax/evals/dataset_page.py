"""A page that shows a dataset: `python -m ehrjax.prepare inspect --input=MEDS|TOKENS --output=DIR`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.data import token_dataset
from ehrjax.ingest import inspection
from ehrjax.ingest.meds import BIRTH, DEATH, SPLITS, VISIT_COLUMN, open_dataset
from ehrjax.viz import figures
from ehrjax.viz.page import Markup, Page, facts, figure, table, text

# What fewer people have than this is not counted exactly on a page that may leave the hospital.
SMALL = 11
LONGEST = 70
MOST_CODES, MOST_LINES, MOST_LANES, MOST_TOKENS = 40, 4, 14, 400
QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
YEAR = 365.25 * 86_400
PAGE = "index.html"

Progress = Callable[[str, int, int], None]


def write(
    source: str | Path, output: str | Path, *, subject: int | None = None, progress: Progress | None = None
) -> Path:
    """Writes the page of a MEDS dataset or a token dataset.

    Args:
      source: the dataset's folder.
      output: the folder to write; it must not exist or be empty.
      subject: whose timeline to draw; without it one is drawn only where the people are made up.
      progress: called as progress(stage, pieces done, pieces in all).

    Returns:
      The page.

    Raises:
      InputError: the source is neither kind of dataset, is damaged, or lacks the subject.
    """
    source, output = Path(source), Path(output)
    if not source.is_dir():
        raise InputError(f"The folder {source} does not exist; name a MEDS dataset or a token dataset.")
    files.refuse_existing(output, what="page")
    if (source / "metadata").is_dir():
        page = _events_page(source, subject, progress)
    elif (source / "dataset.json").is_file():
        page = _tokens_page(source, subject)
    else:
        raise InputError(f"{source} is neither a MEDS dataset (metadata/) nor a token dataset (dataset.json).")
    with files.written_folder(output, what="page") as folder:
        page.write(folder / PAGE)
    return output / PAGE


def _events_page(source: Path, subject: int | None, progress: Progress | None) -> Page:
    dataset = open_dataset(source)
    made_up = inspection.is_open(dataset.metadata)
    found = inspection.inspect(dataset, subject=subject, typical=made_up, progress=progress)
    name = str(dataset.metadata.get("dataset_name") or source.name)
    people, events = int(found.splits["subjects"].sum()), int(found.splits["events"].sum())
    page = Page(name, f"<p>{people:,} subjects, {events:,} events, {len(found.codes):,} codes.</p>")
    if pseudo := dataset.metadata.get("pseudo_dates"):
        why = pseudo.get("why", "") if isinstance(pseudo, dict) else pseudo
        page.lead += f"<p><strong>The times are no dates:</strong> {text(why)}.</p>"
    page.add("Subjects and events", _splits_table(found))
    page.add("Code families", *_families(found, made_up))
    page.add("Most frequent codes", _codes_table(found, made_up))
    page.add("Events a subject", *_lengths(found.lengths, "events"))
    page.add("Visits", *_visits(found))
    page.add("Values", *_values(found, dataset.codes, made_up))
    page.add("What the reader set aside", _set_aside(dataset.metadata.get("reader_summary")))
    page.add("One subject", *_timeline(found.timeline, dataset.codes, made_up))
    return page


def _splits_table(found: inspection.Inspection) -> str:
    # Python's own dates end in the year 9999, and begin in the year 1.
    dates = pl.col("first", "last").dt.to_string("%Y-%m-%d").fill_null("-")
    rows = [
        (
            row["split"],
            f"{row['subjects']:,}",
            f"{row['events']:,}",
            f"{row['static']:,}",
            f"{row['with_value']:,}",
            row["first"],
            row["last"],
            f"{100 * found.coverage[row['split']]:.2f} %" if row["split"] in found.coverage else "-",
        )
        for row in found.splits.with_columns(dates).iter_rows(named=True)
    ]
    header = ("split", "subjects", "events", "without a time", "with a value", "first", "last", "codes seen in train")
    note = "Coverage is the share of a split's events whose code occurs in train; births do not count as first events."
    return table(header, rows) + f'<p class="note">{note}</p>'


def _families(found: inspection.Inspection, made_up: bool) -> Sequence[str]:
    total = max(int(found.families["events"].sum()), 1)
    rows = [
        (r["family"], f"{r['codes']:,}", _shown(r["events"], r["subjects"], made_up), _share(r, total, made_up))
        for r in found.families.iter_rows(named=True)
    ]
    top = found.families.filter(made_up | (pl.col("subjects") >= SMALL)).head(20)
    drawn = figures.bars(top["family"].to_list(), top["events"].to_list(), x="events")
    return table(("family", "codes", "events", "share"), rows), figure(drawn)


def _shown(count: int, people: int, made_up: bool) -> str:
    """A count of events, unless few people have them."""
    return f"{count:,}" if made_up or count == 0 or people >= SMALL else "few"


def _share(row: dict[str, Any], total: int, made_up: bool) -> str:
    return f"{100 * row['events'] / total:.1f} %" if made_up or row["subjects"] >= SMALL else "-"


def _codes_table(found: inspection.Inspection, made_up: bool) -> str:
    rows = [
        (Markup(f"{text(_short(r['description'] or r['code']))} <small>{text(r['code'])}</small>"),)
        + tuple(_shown(r[split], r[f"{split} subjects"], made_up) for split in SPLITS)
        for r in found.codes.head(MOST_CODES).iter_rows(named=True)
    ]
    rare = int((found.codes["subjects"] < SMALL).sum())
    note = f"{len(found.codes):,} codes in all, {rare:,} of them with fewer than {SMALL} subjects" + (
        "." if made_up else "; such counts are not shown."
    )
    return table(("code", *SPLITS), rows) + f'<p class="note">{note}</p>'


def _lengths(lengths: dict[str, np.ndarray], what: str) -> Sequence[str]:
    rows = []
    for split, values in lengths.items():
        if len(values):
            quantiles = [f"{q:,.0f}" for q in np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])]
            rows.append((split, *quantiles, f"{values.max():,}"))
    every = np.concatenate(list(lengths.values()))
    if not len(every):
        return ("<p>There are no subjects.</p>",)
    header = ("split", "5 %", "25 %", "median", "75 %", "95 %", "longest")
    return table(header, rows), figure(figures.histogram(every, x=f"{what} a subject", y="subjects"))


def _visits(found: inspection.Inspection) -> Sequence[str]:
    if found.visits:
        lead = f"<p>{found.visits:,} visits (events that share a {VISIT_COLUMN}).</p>"
        between = "days from the end of a visit to the start of the next"
    else:
        lead = "<p>The dataset has no visit ids; the gaps are between days with events.</p>"
        between = "days between days with events"
    if found.overlaps:
        lead += f"<p>{found.overlaps:,} begin before an earlier one has ended; they have no gap.</p>"
    parts = [lead, figure(figures.counted(inspection.EDGES, found.gaps, x=between, y="gaps"))]
    if found.stays.sum():
        parts.append(figure(figures.counted(inspection.EDGES, found.stays, x="hours that a visit lasts", y="visits")))
    return parts


def _values(found: inspection.Inspection, codes: pl.DataFrame, made_up: bool) -> Sequence[str]:
    people = dict(found.codes.select("code", "subjects").iter_rows())
    values = {code: frame for code, frame in found.values.items() if made_up or people[code] >= SMALL}
    if not values:
        return ("<p>No event has a numeric value.</p>" if not found.values else "<p>Few subjects have values.</p>",)
    names = dict(codes.select("code", "description").iter_rows())
    parts: list[str] = []
    rows = []
    for code, frame in values.items():
        seen, counts = frame["value"].to_numpy().astype(np.float64), frame["count"].to_numpy()
        share, total = np.cumsum(counts) / counts.sum(), int(counts.sum())
        quantiles = {q: seen[np.searchsorted(share, q)] for q in QUANTILES}
        label = Markup(f"{text(_short(names.get(code) or code))} <small>{text(code)}</small>")
        # The outermost percentiles of few values are somebody's.
        shown = (f"{v:g}" if made_up or min(q, 1 - q) * total >= SMALL else "-" for q, v in quantiles.items())
        rows.append((label, f"{total:,}", *shown))
        low, high = quantiles[QUANTILES[0]], quantiles[QUANTILES[-1]]
        if len(parts) < 6 and high > low:
            edges = _edges(np.unique(seen[(seen >= low) & (seen <= high)]))
            inside = np.histogram(seen, edges, weights=counts)[0]
            if not made_up:
                inside[inside < SMALL] = 0
            drawn = figures.counted(edges, inside, x=str(names.get(code) or code), y="values", log=False)
            parts.append(figure(drawn))
    header = ("code, with its unit", "values", *(f"{100 * q:g} %" if q != 0.5 else "median" for q in QUANTILES))
    note = "The figures show what lies between the first and the last percentile" + (
        "." if made_up else f", without bars of fewer than {SMALL} values."
    )
    return (table(header, rows), f'<p class="note">{note}</p>', *parts)


def _edges(values: np.ndarray) -> np.ndarray:
    """Edges of bins for distinct, ascending values: each its own bin where they are few, as on a grid."""
    if len(values) > 80:
        return np.linspace(values[0], values[-1], 61)
    middles = (values[:-1] + values[1:]) / 2
    return np.concatenate([[2 * values[0] - middles[0]], middles, [2 * values[-1] - middles[-1]]])


def _short(description: str) -> str:
    return description if len(description) <= LONGEST else description[: LONGEST - 1].rstrip() + "\u2026"


def _set_aside(summary: Any) -> str:
    tables = summary.get("tables", {}) if isinstance(summary, dict) else {}
    rows = [
        (name, f"{told['rows']:,}", f"{told['rows_emitted']:,}", reason, f"{count:,}")
        for name, told in tables.items()
        for reason, count in (told.get("rows_set_aside") or {"-": 0}).items()
    ]
    if not rows:
        return "<p>The dataset does not say what its reader did.</p>"
    return table(("table", "rows", "gave an event", "set aside because", "rows set aside"), rows)


def _timeline(events: pl.DataFrame | None, codes: pl.DataFrame, made_up: bool) -> Sequence[str]:
    if events is None:
        return (
            "<p>No timeline is drawn: a page with a person's record leaves the hospital easily. "
            "--timeline=SUBJECT_ID draws the one of that subject.</p>",
        )
    names = dict(codes.select("code", "description").iter_rows())
    timed = events.filter(pl.col("time").is_not_null())
    births = timed.filter(pl.col("code").str.starts_with(BIRTH))["time"]
    lived = timed.filter(~pl.col("code").str.starts_with(BIRTH))
    static = ", ".join(names.get(c) or c for c in events.filter(pl.col("time").is_null())["code"])
    if not len(lived):
        return (f"<p>{text(static)}. This subject has no events with a time.</p>",)
    # As microseconds: Python's own dates end in the year 9999.
    start = births.to_physical()[0] if len(births) else lived["time"].to_physical().min()
    place = ((pl.col("time").to_physical() - start) / (1e6 * YEAR)).alias("place")
    lived = lived.with_columns(place, pl.col("code").str.split("//").list.first().alias("family"))
    measured = lived.filter(pl.col("numeric_value").is_finite())
    often = measured["code"].value_counts().sort("count", "code", descending=[True, False]).head(MOST_LINES)["code"]
    lanes = {}
    order = lived.group_by("family", maintain_order=True).agg(pl.len()).sort("len", descending=True).head(MOST_LANES)
    for family in order["family"]:
        part = lived.filter(pl.col("family") == family)
        when = pl.col("time").dt.to_string("%Y-%m-%d %H:%M")
        hover = [f"{names.get(c) or c}<br>{t}" for c, t in part.select("code", when).iter_rows()]
        lanes[family] = (part["place"].to_list(), hover)
    lines = {
        _short(names.get(code) or code): measured.filter(pl.col("code") == code)
        .select("place", "numeric_value")
        .to_numpy()
        .T
        for code in often
    }
    bands = (
        lived.filter(pl.col(VISIT_COLUMN).is_not_null())
        .group_by(VISIT_COLUMN)
        .agg(pl.col("place").min().alias("a"), pl.col("place").max().alias("b"))
        .filter(pl.col("b") - pl.col("a") > 0.5 / 365)
        .sort("a")
    )
    what = "This person is made up. " if made_up else ""
    died = (lived["code"].str.starts_with(DEATH)).any()
    lead = f"<p>{what}{text(static)}. {len(lived):,} events{', the last of them death' if died else ''}.</p>"
    axis = "age in years" if len(births) else "years since the first event"
    note = '<p class="note">Bands are visits of half a day and more; hover for what each mark is.</p>'
    return lead, figure(figures.timeline(lanes, lines, list(bands.select("a", "b").iter_rows()), x=axis)), note


def _tokens_page(source: Path, subject: int | None) -> Page:
    dataset = token_dataset.open_tokens(source)
    told = dataset.info
    splits = {name: dataset.split(name) for name in SPLITS}
    size = len(dataset.vocabulary)
    by_split, people = {}, {}
    for name, split in splits.items():
        by_split[name], people[name] = np.zeros(size, np.int64), np.zeros(size, np.int64)
        for shard in split.shards:
            tokens = shard.columns["tokens"]
            owner = np.repeat(np.arange(len(shard.subject_id)), np.diff(shard.offsets))
            by_split[name] += np.bincount(tokens, minlength=size)
            people[name] += np.bincount(np.unique(owner * size + tokens) % size, minlength=size)
    counts = np.sum(list(by_split.values()), axis=0)
    page = Page(
        f"Tokens of {told['source'].get('dataset_name') or source.name}",
        f"<p>Recipe {text(told['recipe'].get('name'))}: {size:,} tokens in the vocabulary, "
        f"{counts.sum():,} in {sum(map(len, splits.values())):,} sequences.</p>",
    )
    rows = [
        (
            name,
            f"{n.get('subjects', 0):,}",
            f"{n.get('tokens', 0):,}",
            f"{n.get('events', 0):,}",
            f"{100 * n['known'] / n['events']:.2f} %" if n.get("events") else "-",
            f"{n.get('subjects_set_aside', 0):,}",
        )
        for name in SPLITS
        if (n := told["splits"].get(name))
    ]
    header = ("split", "subjects", "tokens", "events", "events in the vocabulary", "subjects with too few events")
    page.add("Subjects and tokens", table(header, rows))
    labels = dataset.vocabulary.strings
    families: dict[str, int] = {}
    for label, count in zip(labels, counts.tolist(), strict=True):
        family = label.split("//")[0]
        families[family] = families.get(family, 0) + count
    top = dict(sorted(families.items(), key=lambda item: -item[1])[:20])
    page.add("Token families", figure(figures.bars(list(top), list(top.values()), x="tokens")))
    made_up = inspection.is_open(told["source"])
    order = np.argsort(-counts, kind="stable")[:MOST_CODES]
    rows = [
        (labels[i], *(_shown(int(by_split[s][i]), int(people[s][i]), made_up) for s in SPLITS))
        for i in order
        if counts[i]
    ]
    page.add("Most frequent tokens", table(("token", *SPLITS), rows))
    page.add("Tokens a subject", *_lengths({name: split.lengths for name, split in splits.items()}, "tokens"))
    page.add("One sequence", _sequence(splits, labels, subject, made_up))
    page.add("Recipe", facts((key, value) for key, value in told["recipe"].items()))
    return page


def _sequence(splits: dict[str, Any], labels: list[str], subject: int | None, made_up: bool) -> str:
    if subject is None and not made_up:
        return "<p>No sequence is shown: it is a person's record. --timeline=SUBJECT_ID shows that subject's.</p>"
    for split in splits.values():
        at = np.flatnonzero(split.subject_ids == subject) if subject is not None else np.arange(len(split))[:1]
        if len(at):
            own = split.subject(int(at[0]))
            shown = " ".join(labels[token] for token in own.tokens[:MOST_TOKENS])
            more = f" ... ({len(own.tokens):,} in all)" if len(own.tokens) > MOST_TOKENS else ""
            return f'<p class="note">Subject {own.subject_id}</p><p>{text(shown)}{text(more)}</p>'
    raise InputError(f"--timeline={subject}: the dataset has no such subject.")
