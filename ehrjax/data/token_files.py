"""Token files of another pipeline become a token dataset: `.pkl` lists of subjects with a vocabulary CSV.

The format of token-based pipelines (CancEHR-Tokenisation and its like):

    INPUT/vocab.csv                      token,str[,count]
    INPUT/train/*.pkl                    [{subject_id, tokens, timestamps, label (optional)}, ...]
    INPUT/tuning/*.pkl, held_out/*.pkl   likewise (also val, valid, validation, test); without such folders INPUT/*.pkl
    INPUT/notes/**/*.pkl                 [{subject_id, notes: [{note_id, charttime, token_ids or text}, ...]}, ...]

Timestamps are seconds since 1970; exactly 0 marks a static token. They go straight to the contract of
`token_dataset`: [CLS] first (a `<start>` of the source is dropped for it), static tokens, then the others by time.
`<unknown>` becomes [UNK], padding is dropped, `<end>` stays a token like others. No births and no values are known;
a visit is a run of tokens without a gap of more than a day.

`label` becomes `labels/TASK/labels.parquet` (MEDS label schema; prediction_time: the last token's), notes become
`notes/notes.parquet` (`token_file_notes`), both inside the output folder.
"""

from __future__ import annotations

import datetime
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ehrjax.core import config as configs
from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.data import prepare_tokens, token_dataset, token_file_notes, token_stages
from ehrjax.data.token_file_records import checked, records
from ehrjax.ingest import meds, raw_csv
from ehrjax.ingest.label_files import LabelFile, check_task
from ehrjax.ingest.raw_tables import FIRST_TIME, LAST_TIME, OUT_OF_RANGE
from ehrjax.vocab import grammar
from ehrjax.vocab.recipe import CLS, MASK, PAD, SEP, SPECIALS, UNK
from ehrjax.vocab.steps.number_visits import number_visits
from ehrjax.vocab.vocabulary import COLUMNS, Vocabulary

Progress = Callable[[str, int, int], None]
SPLIT_FOLDERS = {
    **{"train": meds.TRAIN, "tuning": meds.TUNING, "val": meds.TUNING, "valid": meds.TUNING},
    **{"validation": meds.TUNING, "test": meds.HELD_OUT, "held_out": meds.HELD_OUT},
}
# What other pipelines call the specials. Their separators and masks are never learnt from, so they must be ours.
KNOWN_AS = {
    **{"<unknown>": UNK, "<unk>": UNK, "<pad>": PAD, "<padding>": PAD, "<start>": CLS, "<mask>": MASK},
    **{name: name for name in (PAD, UNK, CLS, SEP, MASK)},
}
END = "<end>"
GAP_HOURS = 24.0
PADDING, STARTING, STATIC, NO_TIME = "padding", "<start>: [CLS] stands for it", "static token", "no time"
TIMELESS, OF_TIMELESS = "no token with a time", "of a subject without a time"


@dataclass(frozen=True)
class Settings:
    """Options.

    Attributes:
      vocab: the vocabulary's file, relative to the input folder.
      notes: the folder of clinical notes, relative to the input folder; without one there are no notes.
      static_tokens: keep tokens without a time (demographics).
      task: the name of the label file's folder below `labels`.
    """

    vocab: str = "vocab.csv"
    notes: str = "notes"
    static_tokens: bool = True
    task: str = "outcome"


@dataclass(frozen=True)
class Source:
    """The vocabulary of the source: final ids and special meanings of its tokens, by its ids."""

    strings: list[str]
    final: np.ndarray
    end: int


def read(
    input: str | Path, output: str | Path, settings: Settings = Settings(), *, progress: Progress | None = None
) -> dict[str, object]:
    """Writes the token dataset of a folder of token files.

    Args:
      input: the folder (see above).
      output: the folder to write; it must not exist or be empty.
      settings: options.
      progress: called as progress(stage, files done, files in all).

    Returns:
      A summary, also kept in dataset.json under `reader_summary`: `subjects` and `tokens` each with rows = kept +
      sum(set_aside), labels, notes.

    Raises:
      InputError: a file is damaged, names code, or does not have the format; a token is not in the vocabulary; a
        subject stands in two places. Nothing is written.
    """
    input = Path(input)
    check_task(settings.task)
    files.refuse_existing(output, what="token dataset")
    paths = find_files(input, settings)
    source = read_vocabulary(input / settings.vocab)
    notes = token_file_notes.find(input / settings.notes)
    if not notes and settings.notes != Settings.notes:
        raise InputError(f"{input / settings.notes} holds no .pkl files of notes; correct --notes or leave it out.")
    digests = [files.sha256_file(path) for path in (input / settings.vocab, *paths, *notes)]
    with files.written_folder(output, what="token dataset") as folder:
        work = _Work(folder, source, settings, num_shards=_num_shards(paths))
        for number, (path, split) in enumerate(paths.items()):
            work.add(path, split, number)
            if progress:
                progress("reading token files", number + 1, len(paths))
        vocabulary = vocabulary_of(source, work.counts)
        splits = work.write(vocabulary)
        subjects = work.subject_ids()
        summary = {
            "source": "tokens",
            "files": len(paths),
            "subjects": work.subjects.as_dict(),
            "tokens": work.tokens.as_dict(),
            "subjects_reordered": work.reordered,
            "labels": work.write_labels(),
            "notes": token_file_notes.write(notes, folder / "notes" / "notes.parquet", subjects) if notes else {},
        }
        vocabulary.write(folder / "vocab.csv")
        info = {
            "kind": "ehrjax token dataset",
            "version": token_dataset.VERSION,
            "source": {"dataset_name": "token files", "dataset_version": None},
            "source_fingerprint": configs.fingerprint(digests),
            "recipe": {"name": "token files", "settings": asdict(settings)},
            "vocabulary_fingerprint": vocabulary.fingerprint,
            "vocabulary_size": len(vocabulary),
            "splits": {split: dict(counter) for split, counter in splits.items()},
            "reader_summary": summary,
        }
        info["fingerprint"] = configs.fingerprint(info)
        files.write_json(folder / "dataset.json", info)
    return {**summary, "vocabulary": len(vocabulary), "splits": {k: dict(v) for k, v in splits.items()}}


def find_files(input: Path, settings: Settings) -> dict[Path, str | None]:
    """The token files in name order, with the split that their folder names (None: by the hash of the subject).

    Raises:
      InputError: there are none, or some lie beside the folders of the splits.
    """
    if not input.is_dir():
        raise InputError(f"The folder {input} does not exist; name the folder that holds the .pkl files.")
    found: dict[Path, str | None] = {}
    for name, split in SPLIT_FOLDERS.items():
        found |= {path: split for path in sorted((input / name).rglob("*.pkl"))}
    loose = sorted(input.glob("*.pkl"))
    if found and loose:
        raise InputError(f"{loose[0]} lies beside the folders of the splits; move it into one of them.")
    found |= dict.fromkeys(loose)
    if not found:
        names = ", ".join(SPLIT_FOLDERS)
        raise InputError(f"{input} holds no .pkl files, neither itself nor in {names}; name the folder of token files.")
    return found


def read_vocabulary(path: Path) -> Source:
    """The vocabulary CSV of a source.

    Raises:
      InputError: it is missing or damaged, its ids are not 0, 1, 2, ... or two of its strings are the same.
    """
    if not path.is_file():
        raise InputError(f"The vocabulary {path} is missing; name it by --vocab, relative to the input folder.")
    batches = list(raw_csv.read_batches(path, {"token": raw_csv.Kind.ID, "str": raw_csv.Kind.TEXT}))
    if not batches:
        raise InputError(f"The vocabulary {path} has no rows; copy it again.")
    table = pl.concat(batches).sort("token", nulls_last=True)
    if table["token"].to_list() != list(range(len(table))):
        raise InputError(f"The vocabulary {path} must list the ids 0, 1, 2, ... once each.")
    if table["str"].null_count() or table["str"].n_unique() < len(table):
        raise InputError(f"The vocabulary {path} must give each id a different, not empty string.")
    strings = table["str"].to_list()
    final = np.zeros(len(strings), np.int32)
    own = 0
    for token, string in enumerate(strings):
        if string in KNOWN_AS:
            final[token] = SPECIALS.index(KNOWN_AS[string])
        else:
            final[token] = len(SPECIALS) + own
            own += 1
    return Source(strings, final, strings.index(END) if END in strings else -1)


def vocabulary_of(source: Source, counts: np.ndarray) -> Vocabulary:
    """The source's vocabulary behind our specials, with how often each token occurs in train."""
    rows = [(i, name, 0, "special", None, None, None, None, None) for i, name in enumerate(SPECIALS)]
    for token, string in zip(source.final, source.strings):
        if token >= len(SPECIALS):
            family = meds.family(string)
            rows.append((int(token), string, int(counts[token]), family, string, None, None, None, None))
    return Vocabulary(pl.DataFrame(rows, schema=COLUMNS, orient="row"))


def _num_shards(paths: Mapping[Path, str | None]) -> int:
    # A token and its time take about eleven bytes in a pickle.
    return token_stages.num_shards(sum(path.stat().st_size for path in paths) // 11)


class _Tally:
    """rows == kept + sum(set_aside)."""

    def __init__(self) -> None:
        self.rows, self.set_aside = 0, Counter[str]()

    def as_dict(self) -> dict[str, object]:
        aside = {reason: count for reason, count in sorted(self.set_aside.items()) if count}
        return {"rows": self.rows, "kept": self.rows - sum(aside.values()), "set_aside": aside}


class _Work:
    """The files so far: pieces on disk, and what is counted over all of them."""

    def __init__(self, folder: Path, source: Source, settings: Settings, *, num_shards: int) -> None:
        self._folder, self._source, self._settings, self._num_shards = folder, source, settings, num_shards
        self._pieces: list[Path] = []
        self._subject_ids: list[np.ndarray] = []
        self._labels: list[pl.DataFrame] = []
        self.counts = np.zeros(len(SPECIALS) + len(source.strings), np.int64)
        self.subjects, self.tokens, self.reordered = _Tally(), _Tally(), 0
        (folder / "pieces").mkdir()

    def add(self, path: Path, split: str | None, number: int) -> None:
        """Reads one file into a piece."""
        flat, labels = self._flat(path)
        events = self._events(flat)
        subjects = events["subject_id"].unique(maintain_order=True)
        self._subject_ids.append(subjects.to_numpy())
        self._labels.append(labels.join(_last_times(events), on="subject_id", how="inner", maintain_order="left"))
        named = [split] * len(subjects) if split else meds.split_of(subjects.to_numpy()).tolist()
        splits = pl.DataFrame({"subject_id": subjects, "split": pl.Series(named, dtype=pl.String)})
        births = pl.DataFrame(schema={"subject_id": pl.Int64, "birth_time": pl.Int64})
        gathered = grammar.gather_subjects(number_visits(events, gap_hours=GAP_HOURS), births)
        gathered = gathered.join(splits, on="subject_id", how="left", maintain_order="left")
        train = events.join(splits.filter(pl.col("split") == meds.TRAIN), on="subject_id", how="semi")["token"]
        self.counts += np.bincount(train.to_numpy(), minlength=len(self.counts))
        piece = token_stages.Piece(gathered, pl.DataFrame(schema=token_stages.NAMES_SCHEMA), {})
        self._pieces.append(self._folder / "pieces" / f"{number:06d}.arrow")
        prepare_tokens.write_piece(self._pieces[-1], piece, self._num_shards)

    def _flat(self, path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
        """The file's tokens (subject_id, source token, seconds) and its labels, one a subject."""
        parts, labels = [], []
        for number, record in enumerate(records(path)):
            subject, tokens, seconds, label = checked(record, path, number)
            self.subjects.rows += 1
            if tokens is None or len(tokens) != len(seconds):
                self.subjects.set_aside["tokens and timestamps differ in length"] += 1
            elif not len(tokens):
                self.subjects.set_aside["no tokens"] += 1
            else:
                parts.append((subject, tokens, seconds))
                labels.append((subject, label))
        ids = np.repeat([part[0] for part in parts], [len(part[1]) for part in parts]).astype(np.int64)
        tokens = np.concatenate([np.zeros(0, np.int64), *(part[1] for part in parts)])
        if len(tokens) and (tokens.min() < 0 or tokens.max() >= len(self._source.strings)):
            worst = int(tokens.min() if tokens.min() < 0 else tokens.max())
            raise InputError(
                f"{path} uses the token {worst}, but the vocabulary's ids are 0 to {len(self._source.strings) - 1}; "
                "it is another dataset's."
            )
        seconds = np.concatenate([np.zeros(0), *(part[2] for part in parts)])
        frame = pl.DataFrame({"subject_id": ids, "source": tokens, "seconds": seconds})
        schema = {"subject_id": pl.Int64, "label": pl.Float64}
        if len({subject for subject, _ in labels}) < len(labels):
            raise InputError(f"{path} holds a subject_id twice; join the two records or remove one.")
        return frame, pl.DataFrame(labels, schema=schema, orient="row")

    def _events(self, flat: pl.DataFrame) -> pl.DataFrame:
        """Tokens in their final order with final ids, [CLS] first; what is set aside is counted."""
        self.tokens.rows += len(flat)
        seconds = pl.col("seconds")
        # An end without a time is at the end.
        last = pl.when(seconds.is_finite() & (seconds != 0)).then(seconds).max().over("subject_id")
        ended = (pl.col("source") == self._source.end) & (seconds == 0) & last.is_not_null()
        flat = flat.with_columns(pl.when(ended).then(last).otherwise(seconds).alias("seconds"))
        in_range = seconds.is_between(_seconds(FIRST_TIME), _seconds(LAST_TIME), closed="left")
        reasons = (
            (PADDING, pl.col("token") == SPECIALS.index(PAD)),
            (STARTING, pl.col("token") == SPECIALS.index(CLS)),
            (NO_TIME, ~seconds.is_finite()),
            (OUT_OF_RANGE, ~in_range),
            (STATIC, pl.lit(not self._settings.static_tokens) & (seconds == 0)),
        )
        reason = pl.coalesce(*(pl.when(condition).then(pl.lit(name)) for name, condition in reasons))
        frame = flat.with_columns(pl.Series("token", self._source.final[flat["source"].to_numpy()], pl.Int32))
        frame = frame.with_columns(reason.alias("reason"))
        self.tokens.set_aside.update(frame["reason"].drop_nulls().to_list())
        frame = frame.filter(pl.col("reason").is_null()).with_columns(
            pl.when(seconds != 0).then((seconds * 1e6).round().cast(pl.Int64)).cast(pl.Datetime("us")).alias("time")
        )
        subjects = flat["subject_id"].unique(maintain_order=True).to_frame()
        first = subjects.with_columns(
            pl.lit(SPECIALS.index(CLS), pl.Int32).alias("token"), pl.lit(None, pl.Datetime("us")).alias("time")
        )
        frame = pl.concat([first, frame.select(first.columns)]).with_row_index("at")
        # A subject without a single time has no history; the data set has no use for it.
        empty = frame.filter(pl.col("time").is_not_null().sum().over("subject_id") == 0)
        own = int((empty["token"] != SPECIALS.index(CLS)).sum())
        self.subjects.set_aside[TIMELESS] += empty["subject_id"].n_unique()
        self.tokens.set_aside[OF_TIMELESS] += own
        frame = frame.join(empty.select("subject_id").unique(), on="subject_id", how="anti", maintain_order="left")
        ordered = meds.order_events(frame)
        back = (pl.col("at").cast(pl.Int64).diff() < 0) & (pl.col("subject_id") == pl.col("subject_id").shift(1))
        self.reordered += ordered.filter(back)["subject_id"].n_unique()
        # What `number_visits` and `gather_subjects` read.
        return ordered.drop("at").with_columns(
            pl.lit(None, pl.Int64).alias(meds.VISIT_COLUMN), pl.lit(None, pl.Float32).alias("numeric_value")
        )

    def subject_ids(self) -> np.ndarray:
        """[N] int64: all subjects.

        Raises:
          InputError: one stands in two files.
        """
        ids = np.concatenate([np.zeros(0, np.int64), *self._subject_ids])
        if again := len(ids) - len(np.unique(ids)):
            raise InputError(f"{again} subjects stand in more than one token file; keep each in one of them.")
        return ids

    def write(self, vocabulary: Vocabulary) -> dict[str, Counter[str]]:
        """Writes the shards; counts what is in each split."""
        self.subject_ids()
        total = {split: Counter(subjects=0, events=0, known=0, tokens=0) for split in meds.SPLITS}
        same = np.arange(len(vocabulary), dtype=np.int32)
        opened = [prepare_tokens.read_subjects(path) for path in self._pieces]
        for number in range(self._num_shards):
            parts = []
            for table in opened:
                first, last = np.searchsorted(table["shard"].to_numpy(), [number, number + 1])
                if last > first:
                    parts.append((table.slice(first, last - first).drop_columns(["shard"]), same))
            if not parts:
                continue
            tables, counts = token_stages.finish(parts, vocabulary)
            for split, table in tables.items():
                token_dataset.write_table(table, self._folder / "data" / split / f"{number:05d}.arrow")
                total[split].update(counts[split])
        del opened
        shutil.rmtree(self._folder / "pieces")
        return total

    def write_labels(self) -> dict[str, object]:
        """Writes the label file, if any subject has a label."""
        labels = pl.concat(self._labels)
        given = labels["label"].drop_nulls()
        if not len(given):
            return {}
        whole = bool((given.is_finite() & (given % 1 == 0)).all())
        value = "boolean_value" if given.is_in([0.0, 1.0]).all() else "integer_value" if whole else "float_value"
        frame = labels.with_columns(
            (pl.col("label") == 1 if value == "boolean_value" else pl.col("label")).alias(value),
            pl.when(pl.col("label").is_null()).then(pl.lit("no label")).alias("reason"),
        )
        with LabelFile(self._folder, self._settings.task, value) as file:
            file.add(frame)
        return {self._settings.task: file.as_dict()}


def _last_times(events: pl.DataFrame) -> pl.DataFrame:
    return events.group_by("subject_id", maintain_order=True).agg(pl.col("time").max().alias("prediction_time"))


def _seconds(time: datetime.datetime) -> float:
    return (time - datetime.datetime(1970, 1, 1)).total_seconds()
