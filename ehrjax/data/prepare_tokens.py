"""From a MEDS dataset to a token dataset: fit on train, then write every split, shard by shard."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import polars as pl

from ehrjax.core import config as configs
from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.data import token_dataset
from ehrjax.ingest import meds
from ehrjax.vocab import grammar, value_bins
from ehrjax.vocab import vocabulary as vocabularies
from ehrjax.vocab.recipe import Recipe

Progress = Callable[[str, int, int], None]


def source_fingerprint(dataset: meds.MedsDataset) -> str:
    """A hash of the content of the event files, the splits and the descriptions."""
    digest = hashlib.sha256()
    for path in [
        *dataset.shards,
        *(dataset.folder / "metadata" / n for n in ("codes.parquet", "subject_splits.parquet")),
    ]:
        digest.update(str(path.relative_to(dataset.folder)).encode())
        digest.update(files.sha256_file(path).encode())
    return digest.hexdigest()[:16]


def fit(
    dataset: meds.MedsDataset, recipe: Recipe, *, progress: Progress | None = None
) -> tuple[pl.DataFrame, vocabularies.Vocabulary]:
    """Fits value bins, then the vocabulary, on the train split alone.

    Returns:
      The bins (`value_bins.BREAKS_SCHEMA`) and the vocabulary.
    """
    values: list[pl.DataFrame] = []
    for i, path in enumerate(dataset.shards):
        if progress:
            progress("fitting value bins", i, len(dataset.shards))
        values.append(value_bins.count_values(_train_events(dataset, path, recipe)))
        values = [value_bins.merge_counts(values)]
    counts = value_bins.merge_counts(values)
    if recipe.num_bins:
        breaks = value_bins.fit_breaks(counts, num_bins=recipe.num_bins, min_values=recipe.min_values)
    else:
        breaks = pl.DataFrame(schema=value_bins.BREAKS_SCHEMA)
    keys = ("str", "code", "bin")
    tokens: list[pl.DataFrame] = []
    for i, path in enumerate(dataset.shards):
        if progress:
            progress("counting tokens", i, len(dataset.shards))
        part = grammar.count_tokens(grammar.name_tokens(_train_events(dataset, path, recipe), breaks))
        tokens = [pl.concat([*tokens, part]).group_by(*keys).agg(pl.col("count").sum())]
    if not tokens or not len(tokens[0]):
        raise InputError(f"{dataset.folder} has no events in its train split; nothing can be fitted.")
    return breaks, vocabularies.build(
        tokens[0],
        min_count=recipe.min_count,
        bin_bounds=value_bins.bounds(breaks),
        descriptions=dict(dataset.codes.select("code", "description").iter_rows()),
    )


def _train_events(dataset: meds.MedsDataset, path: Path, recipe: Recipe) -> pl.DataFrame:
    events = grammar.drop_codes(dataset.read_shard(path), recipe.drop)
    train = dataset.splits.filter(pl.col("split") == meds.TRAIN).select("subject_id")
    return events.join(train, on="subject_id", how="semi", maintain_order="left")


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
      fitted_from: a token dataset whose vocabulary and bins are used as they are instead of fitting.
      progress: called with what is being done, how many files are finished, and how many there are.

    Returns:
      What was written to dataset.json.

    Raises:
      InputError: the input is no MEDS dataset, a subject has no split or lies in two files.
    """
    files.refuse_existing(output, what="token dataset")
    dataset = meds.open_dataset(source)
    if fitted_from is None:
        breaks, vocabulary = fit(dataset, recipe, progress=progress)
    else:
        old = token_dataset.open_tokens(fitted_from)
        vocabulary, breaks = old.vocabulary, read_bins(old.folder)
    with files.written_folder(output, what="token dataset") as folder:
        counts = {split: Counter() for split in meds.SPLITS}
        seen: set[int] = set()
        for i, path in enumerate(dataset.shards):
            if progress:
                progress("writing tokens", i, len(dataset.shards))
            events = _with_split(dataset, path, seen)
            for split in meds.SPLITS:
                part = events.filter(pl.col("split") == split).drop("split")
                if not len(part):
                    continue
                frame, counted = grammar.tokenize(part, recipe, breaks, vocabulary)
                counts[split].update(counted, tokens=int(frame["tokens"].list.len().sum()))
                token_dataset.write_shard(frame, folder / "data" / split / f"{i:05d}.arrow")
        vocabulary.write(folder / "vocab.csv")
        files.write_json(
            folder / "value_bins.json",
            {code: {"breaks": b, "low": low, "high": high} for code, b, low, high in breaks.iter_rows()},
        )
        info = {
            "kind": "ehrjax token dataset",
            "version": token_dataset.VERSION,
            "source": {key: dataset.metadata.get(key) for key in ("dataset_name", "dataset_version")},
            "source_fingerprint": source_fingerprint(dataset),
            "recipe": recipe.as_dict(),
            "vocabulary_fingerprint": vocabulary.fingerprint,
            "vocabulary_size": len(vocabulary),
            "splits": {split: dict(counter) for split, counter in counts.items()},
        }
        info["fingerprint"] = configs.fingerprint(info)
        files.write_json(folder / "dataset.json", info)
    return info


def read_bins(folder: Path) -> pl.DataFrame:
    """The fitted bins of a token dataset as a table (`value_bins.BREAKS_SCHEMA`)."""
    saved = files.read_json(folder / "value_bins.json", what="token dataset")
    rows = [(code, b["breaks"], b["low"], b["high"]) for code, b in saved.items()]
    return pl.DataFrame(rows, schema=value_bins.BREAKS_SCHEMA, orient="row")


def _with_split(dataset: meds.MedsDataset, path: Path, seen: set[int]) -> pl.DataFrame:
    events = dataset.read_shard(path)
    events = events.join(
        dataset.splits.select("subject_id", "split"), on="subject_id", how="left", maintain_order="left"
    )
    if lost := events["split"].null_count():
        raise InputError(f"{path} has {lost} events of subjects that subject_splits.parquet does not list.")
    subjects = set(events["subject_id"].unique())
    if again := seen & subjects:
        raise InputError(f"{path} holds {len(again)} subjects that an earlier file holds too; MEDS keeps each in one.")
    seen |= subjects
    if not events["subject_id"].rle_id().n_unique() == len(subjects):
        raise InputError(f"{path} does not keep each subject's rows together; sort it by subject_id and time.")
    ordered = meds.order_events(events)
    return events if events.equals(ordered) else ordered
