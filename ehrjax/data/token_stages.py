"""The stages of token preparation, each a pure function of whole subjects: the same in one process or on a cluster.

`count` and `add` fit a step; `tokenize` makes a piece with ids of its own; `vocabulary_of` decides the final ids from
the pieces' integer counts; `finish` turns the pieces' rows of one shard into its files. A shard holds the subjects of
one value of a stable hash, in order of subject id, so the files depend neither on how the events were cut into pieces
nor on who did the work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from ehrjax.ingest.meds import SPLITS, TRAIN
from ehrjax.vocab import grammar
from ehrjax.vocab import vocabulary as vocabularies
from ehrjax.vocab.recipe import SPECIALS, Recipe

SHARD_EVENTS = 1_000_000
RAGGED = ("tokens", "times", "visits", "values")
NAMES_SCHEMA = {"str": pl.String, "code": pl.String, "bin": pl.Int32, "count": pl.Int64}


def shard_of(subject_ids: np.ndarray, num_shards: int) -> np.ndarray:
    """[N] int64: the shard of each subject, by a hash (Fibonacci hashing) that is the same everywhere."""
    mixed = np.asarray(subject_ids, np.int64).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return ((mixed >> np.uint64(32)) % np.uint64(num_shards)).astype(np.int64)


def num_shards(events: int) -> int:
    """How many shards a dataset of so many events gets."""
    return max(1, -(-events // SHARD_EVENTS))


def runs(events: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Where each subject's rows begin, and how many they are: two [subjects] arrays."""
    subject = events["subject_id"].to_numpy()
    starts = np.flatnonzero(np.r_[True, subject[1:] != subject[:-1]]) if len(subject) else np.zeros(0, np.int64)
    return starts, np.diff(starts, append=len(subject))


def columns_counted(steps: Sequence[grammar.Step], which: int) -> tuple[str, ...]:
    """The columns that `count` needs for step `which`; none where that is not known, so that all are read.

    It is known where the step says what it counts (COUNTED; COUNTED_ROWS, where it counts only some rows) and those
    before it look at codes alone (BY_CODE).
    """
    if all(getattr(step.module, "BY_CODE", False) for step in steps[:which]):
        return tuple(getattr(steps[which].module, "COUNTED", ()))
    return ()


def count(
    events: pl.DataFrame,
    subjects: pl.DataFrame,
    steps: Sequence[grammar.Step],
    which: int,
    fitted: Mapping[str, pl.DataFrame],
) -> pl.DataFrame:
    """What step `which` counts in the train subjects of a piece, after the steps before it.

    Args:
      events: whole subjects.
      subjects: subject_id and split of these, in the same order.
      steps: the whole grammar.
      which: the index of the step that is being fitted.
      fitted: tables of the steps before it.
    """
    _, lengths = runs(events)
    step = steps[which]
    wanted = pl.lit(pl.Series(np.repeat((subjects["split"] == TRAIN).to_numpy(), lengths)))
    if columns_counted(steps, which):
        wanted = wanted & getattr(step.module, "COUNTED_ROWS", pl.lit(True))
    train = events.filter(wanted)
    before = grammar.apply(train, tuple(steps[:which]), fitted)
    return step.module.count(grammar.as_taken(before, step), step.settings)


def add(parts: Iterable[pl.DataFrame], step: grammar.Step) -> pl.DataFrame:
    """Adds counts; sorted by key, so the result does not depend on the order of the parts."""
    keys = list(step.module.KEYS)
    empty = pl.DataFrame(schema={**step.module.KEYS, "count": pl.Int64})
    return pl.concat([empty, *parts]).group_by(keys).agg(pl.col("count").sum()).sort(keys)


@dataclass(frozen=True)
class Piece:
    """Tokens of some whole subjects, with ids of their own.

    Attributes:
      subjects: grammar.SUBJECT_SCHEMA and `split`; tokens are row numbers of `names`.
      names: NAMES_SCHEMA: each token's string, code, bin and how often it occurs in train subjects.
      set_aside: split -> how many subjects had too few events.
    """

    subjects: pl.DataFrame
    names: pl.DataFrame
    set_aside: dict[str, int]


def tokenize(
    events: pl.DataFrame,
    splits: pl.DataFrame,
    recipe: Recipe,
    steps: Sequence[grammar.Step],
    fitted: Mapping[str, pl.DataFrame],
) -> Piece:
    """Turns whole subjects into tokens.

    Args:
      events: whole subjects in MEDS order.
      splits: subject_id and split of these, in the same order.
      recipe: says how few events are too few.
      steps: the grammar.
      fitted: label -> fitted table.
    """
    births = grammar.births_of(events)
    rows = grammar.apply(events, tuple(steps), fitted)
    starts, lengths = runs(rows)
    timed = np.add.reduceat(rows["time"].is_not_null().to_numpy(), starts, dtype=np.int64) if len(rows) else starts
    if (few := timed < recipe.min_events).any():
        rows = rows.filter(pl.Series(np.repeat(~few, lengths)))
        starts, lengths = starts[~few], lengths[~few]
    ids, names = _number(rows)
    subjects = grammar.gather_subjects(rows.with_columns(pl.Series("token", ids, pl.Int32)), births)
    subjects = subjects.join(splits, on="subject_id", how="left", maintain_order="left")

    train = np.repeat((subjects["split"] == TRAIN).to_numpy(), lengths)
    counts = np.bincount(ids[train], minlength=len(names))
    names = names.with_columns(pl.Series("count", counts, pl.Int64))
    before = Counter(splits["split"].to_list())
    before.subtract(subjects["split"].to_list())
    return Piece(subjects, names.cast(NAMES_SCHEMA), {split: before[split] for split in SPLITS})


def _number(rows: pl.DataFrame) -> tuple[np.ndarray, pl.DataFrame]:
    """Numbers the tokens of a piece: [N] int32, and str, code, bin of each number."""
    codes, code = _numbered(rows["code"])
    bins = rows["bin"].fill_null(0).to_numpy()
    width = int(bins.max(initial=0)) + 1
    # Few codes times few bins: which of the pairs occur is a table, not a sort.
    pairs = code.astype(np.int64) * width + bins
    number = np.cumsum(np.bincount(pairs, minlength=len(codes) * width) > 0, dtype=np.int32) - 1
    found = np.flatnonzero(np.diff(number, prepend=-1))
    names = pl.DataFrame(
        {
            "code": codes[found // width],
            "bin": pl.Series(found % width, dtype=pl.Int32).replace(0, None),
        }
    )
    with_bin = pl.when(pl.col("bin").is_null()).then("code").otherwise(pl.format("{}//Q{}", "code", "bin"))
    return number[pairs] if len(pairs) else np.zeros(0, np.int32), names.select(with_bin.alias("str"), "code", "bin")


def _numbered(codes: pl.Series) -> tuple[pl.Series, np.ndarray]:
    """The distinct codes as Strings, and [N] the number of each row's."""
    if codes.dtype == pl.String:
        encoded = pc.dictionary_encode(codes.to_arrow())
        return pl.Series(encoded.dictionary.to_pylist(), dtype=pl.String), encoded.indices.to_numpy()
    # The process numbers its categories; those that occur here are some of them.
    distinct = codes.unique()
    place = np.zeros((distinct.to_physical().max() or 0) + 1, np.int32)
    place[distinct.to_physical().to_numpy()] = np.arange(len(distinct))
    return distinct.cast(pl.String), place[codes.to_physical().to_numpy()]


def vocabulary_of(
    names: Iterable[pl.DataFrame],
    recipe: Recipe,
    *,
    bounds: Mapping[str, list[tuple[float, float]]],
    descriptions: Mapping[str, str | None],
) -> vocabularies.Vocabulary:
    """The vocabulary of all pieces' tokens (`vocabularies.build`), from their added counts."""
    merged = pl.concat([pl.DataFrame(schema=NAMES_SCHEMA), *names]).filter(~pl.col("str").is_in(list(SPECIALS)))
    keys = ["str", "code", "bin"]
    counts = merged.group_by(keys).agg(pl.col("count").sum()).filter(pl.col("count") > 0)
    # One token string is one token, also where two kinds of rows are named alike.
    counts = (
        counts.sort(keys)
        .group_by("str", maintain_order=True)
        .agg(pl.col("code").first(), pl.col("bin").first(), pl.col("count").sum())
    )
    return vocabularies.build(
        counts, min_count=recipe.min_count, bin_bounds=dict(bounds), descriptions=dict(descriptions)
    )


def final_ids(names: pl.DataFrame, vocabulary: vocabularies.Vocabulary, recipe: Recipe) -> np.ndarray:
    """[tokens of a piece] int32: the final id of each; -1 where rare tokens are dropped."""
    ids = vocabulary.encode(names["str"]).to_numpy().astype(np.int32)
    rare = (ids == vocabulary.unk) & (names["str"] != SPECIALS[vocabulary.unk]).to_numpy()
    return np.where(rare, -1, ids).astype(np.int32) if recipe.rare == "drop" else ids


def finish(
    parts: Sequence[tuple[pa.Table, np.ndarray]], vocabulary: vocabularies.Vocabulary
) -> tuple[dict[str, pa.Table], dict[str, Counter[str]]]:
    """The tables of one shard, by split, and what they hold.

    Args:
      parts: rows of the pieces that belong to the shard (subject columns, `split`) and their final ids.
      vocabulary: the vocabulary.

    Returns:
      split -> table (token_dataset.ARROW_SCHEMA's columns) in order of subject id; split -> subjects, tokens,
      events (tokens that are not specials) and known (those of them that have an entry of their own).
    """
    frames = []
    for table, lookup in parts:
        tokens = table["tokens"].combine_chunks()
        flat = lookup[tokens.values.to_numpy()[tokens.offsets[0].as_py() : tokens.offsets[-1].as_py()]]
        frames.append(_with_tokens(table, flat))
    whole = pa.concat_tables(frames).combine_chunks()
    split = whole["split"].to_numpy()
    place = np.select([split == name for name in SPLITS], range(len(SPLITS)), len(SPLITS))
    order = np.lexsort((whole["subject_id"].to_numpy(), place))
    place = place[order]
    tables, counts = {}, {}
    for number, name in enumerate(SPLITS):
        first, last = np.searchsorted(place, [number, number + 1])
        if first == last:
            continue
        # Taken, not sliced: a slice would write what lies behind it as padding.
        tables[name] = whole.take(order[first:last]).drop_columns(["split"])
        column = tables[name]["tokens"].combine_chunks()
        tokens = column.flatten().to_numpy()
        events, unknown = tokens >= len(SPECIALS), tokens == vocabulary.unk
        counts[name] = Counter(
            subjects=int(last - first),
            tokens=len(tokens),
            events=int(np.count_nonzero(events | unknown)),
            known=int(np.count_nonzero(events)),
        )
    return tables, counts


def _with_tokens(table: pa.Table, tokens: np.ndarray) -> pa.Table:
    """The table with other tokens in its lists; where one is -1 it is left out of all lists."""
    lists = {name: table[name].combine_chunks() for name in RAGGED}
    offsets = lists["tokens"].offsets.to_numpy()
    start, offsets = int(offsets[0]), offsets - offsets[0]
    keep = tokens >= 0
    flat = {name: column.values.slice(start, len(tokens)) for name, column in lists.items()}
    flat["tokens"] = pa.array(tokens)
    if not keep.all():
        kept_before = np.concatenate([[0], np.cumsum(keep)])
        timeless = flat["times"].to_numpy() == grammar.NO_TIME
        static_before = np.concatenate([[0], np.cumsum(keep & timeless)])
        static = (static_before[offsets[1:]] - static_before[offsets[:-1]]).astype(np.int32)
        offsets = kept_before[offsets]
        flat = {name: column.filter(pa.array(keep)) for name, column in flat.items()}
        table = table.set_column(table.schema.get_field_index("num_static"), "num_static", pa.array(static))
    for name in RAGGED:
        column = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat[name])
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return table
