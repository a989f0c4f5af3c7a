"""Who the subject of each label is, to compare groups: sex, age band, race, ethnicity, insurance, a file's columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.evals.baselines.histories import Piece, pieces
from ehrjax.ingest import roles
from ehrjax.ingest.meds import MedsDataset

UNKNOWN = "unknown"
FEMALE, MALE = "female", "male"
AGE_EDGES = (18.0, 45.0, 65.0, 80.0)
# All readers write FAMILY//value; other MEDS datasets also Family/value.
FAMILIES = {"race": "RACE", "ethnicity": "ETHNICITY", "insurance": "INSURANCE"}


def groups(
    dataset: MedsDataset,
    labels: pl.DataFrame,
    *,
    age_edges: Sequence[float] = AGE_EDGES,
    file: str | Path | None = None,
    columns: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """The groups of each label's subject, from what is known at the prediction time (static rows included).

    Race, ethnicity and insurance are the latest that was told. Where one moment tells several, the last in the file
    holds.

    Args:
      dataset: an opened MEDS dataset.
      labels: [N] subject_id and prediction_time; more columns are ignored.
      age_edges: years at which a new band begins, rising.
      file: parquet or CSV with subject_id, perhaps prediction_time, and `columns`.
      columns: what to take from `file`; each becomes a group of that name.

    Returns:
      sex, age, race, ethnicity, insurance and `columns` -> [N] array of str; "unknown" where nothing is known.

    Raises:
      InputError: the edges do not rise, no subject is in the dataset, or the file cannot be used.
    """
    edges = [float(edge) for edge in age_edges]
    if not edges or any(not b > a for a, b in zip([0.0, *edges], edges)):
        raise InputError(f"age_edges is {tuple(age_edges)}; it must be years above 0 that rise.")
    found = {name: np.full(len(labels), UNKNOWN, object) for name in ("sex", "age", *FAMILIES)}
    own = roles.of(dataset)
    for piece in pieces(dataset, labels):
        found["sex"][piece.rows] = sexes(piece, own)
        found["age"][piece.rows] = age_bands(piece.ages(), edges)
        for name, family in FAMILIES.items():
            found[name][piece.rows] = latest(piece, family)
    told = {name: values.astype(str) for name, values in found.items()}
    if columns:
        if file is None:
            raise InputError(f"The groups {', '.join(columns)} need a file that holds them; name it.")
        told |= from_file(Path(file), labels, columns)
    return told


def sexes(piece: Piece, own: roles.Roles) -> np.ndarray:
    """[n] female, male or unknown, by the roles; unknown too for a subject that is said to be both."""
    numbers, codes = piece.codes()
    names = pl.Series(codes, dtype=pl.String)
    is_female, is_male = (
        _any(piece, roles.matching(names, own.get(role)).to_numpy().astype(bool)[numbers]) for role in (FEMALE, MALE)
    )
    return np.where(is_female & ~is_male, FEMALE, np.where(is_male & ~is_female, MALE, UNKNOWN)).astype(object)


def _any(piece: Piece, there: np.ndarray) -> np.ndarray:
    """[n] bool: whether a known row of each label is one of `there` [E]."""
    before = np.concatenate([[0], np.cumsum(there)])
    return before[piece.stop] > before[piece.static]


def age_bands(years: np.ndarray, edges: Sequence[float] = AGE_EDGES) -> np.ndarray:
    """[n] the band of each age: <18, 18-44, ..., 80+ for the edges 18, ..., 80; unknown for NaN.

    A band is named by whole years: 44.9 years are in 18-44.
    """
    names = [f"<{edges[0]:g}", *(f"{a:g}-{b - 1:g}" for a, b in zip(edges, edges[1:])), f"{edges[-1]:g}+"]
    return np.array([*names, UNKNOWN], object)[
        np.where(np.isnan(years), len(names), np.searchsorted(edges, years, side="right"))
    ]


def latest(piece: Piece, family: str) -> np.ndarray:
    """[n] what stands behind the family in the latest known code of it (upper or lower case); unknown for none."""
    numbers, codes = piece.codes()
    parts = pl.Series(codes, dtype=pl.String).str.extract(rf"^(?i:{family})//?(.+)$")
    told = np.array(parts.fill_null(UNKNOWN).to_list(), object)
    is_one = parts.is_not_null().to_numpy().astype(bool)[numbers]
    # The place of the newest such row up to each row; -1 before the first.
    newest = np.maximum.accumulate(np.where(is_one, np.arange(len(is_one)), -1)) if len(is_one) else np.zeros(0, int)
    place = np.where(piece.stop > piece.static, piece.stop - 1, -1)
    last = np.where(place >= 0, newest[place] if len(newest) else -1, -1)
    known = last >= piece.static
    return np.where(known, told[numbers[np.maximum(last, 0)]], UNKNOWN) if len(numbers) else np.full(len(last), UNKNOWN)


def from_file(path: Path, labels: pl.DataFrame, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """Groups that a file names: each of `columns` -> [N] array of str, "unknown" where it says nothing.

    Args:
      path: parquet or CSV with subject_id, perhaps prediction_time, and the columns.
      labels: [N] subject_id and prediction_time.
      columns: what to take.

    Raises:
      InputError: the file cannot be used.
    """
    try:
        is_csv = path.suffix.lower() == ".csv"
        frame = pl.read_csv(path, infer_schema=False) if is_csv else pl.read_parquet(path, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path} cannot be read; groups come from a parquet or CSV file with a header.") from error
    for name in ("subject_id", *columns):
        if name not in frame.columns:
            raise InputError(f"{path} has no column {name!r}; groups need subject_id and each column that is named.")
    keys = ["subject_id"] + ["prediction_time"] * ("prediction_time" in frame.columns)
    try:
        ids = frame["subject_id"]
        if ids.dtype.is_float() and (ids.drop_nulls() % 1 != 0).any():
            raise InputError(f"{path}: column 'subject_id' holds numbers that are not whole.")
        frame = frame.with_columns(ids.cast(pl.Int64))
        if "prediction_time" in keys:
            time = pl.col("prediction_time")
            is_text = frame["prediction_time"].dtype == pl.String
            frame = frame.with_columns((time.str.to_datetime() if is_text else time).cast(pl.Datetime("us")))
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path} has subject ids that are no whole numbers, or prediction times that are none.") from (
            error
        )
    if frame.select(keys).is_duplicated().any():
        raise InputError(f"{path} has several rows for one {' and '.join(keys)}; leave one.")
    try:
        told = [
            (pl.col(name).fill_nan(None) if frame[name].dtype.is_float() else pl.col(name)).cast(pl.String)
            for name in columns
        ]
        # An empty text says nothing.
        frame = frame.select(*keys, *(column.replace("", None).fill_null(UNKNOWN) for column in told))
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: one of {', '.join(columns)} holds no names of groups.") from error
    asked = labels.select(pl.col("subject_id").cast(pl.Int64), pl.col("prediction_time").cast(pl.Datetime("us")))
    joined = asked.join(frame, on=keys, how="left", maintain_order="left")
    if not len(asked.join(frame, on=keys, how="semi")):
        raise InputError(f"{path} has no row of a labelled {' and '.join(keys)}; groups need those of the labels.")
    return {name: joined[name].fill_null(UNKNOWN).to_numpy().astype(str) for name in columns}
