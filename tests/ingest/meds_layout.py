"""Made-up MEDS datasets of other pipelines, in the layouts that are about."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl


def generate(seed: int, *, subjects: int = 6) -> pl.DataFrame:
    """Events in MEDS order, with columns of another pipeline's own."""
    rng = np.random.default_rng(seed)
    rows: list[tuple] = []
    for number in range(subjects):
        subject = 100 + number
        rows.append((subject, None, "GENDER//F", None, None, None, None))
        time = datetime(1931 + 8 * number, 6, 1)
        rows.append((subject, time, "MEDS_BIRTH", None, None, None, None))
        time += timedelta(days=15_000)
        for _ in range(int(rng.integers(3, 9))):
            time += timedelta(minutes=int(rng.integers(0, 3)) * 997)
            visit = 9000 + int(rng.integers(4))
            rows.append((subject, time, "LAB//GLU", float(np.float32(rng.normal(100, 20))), None, visit, "mg/dL"))
            rows.append((subject, time, "DIAGNOSIS//ICD10CM//E11.9", None, "a text", visit, None))
    return pl.DataFrame(
        rows,
        schema={
            "subject_id": pl.Int64,
            "time": pl.Datetime("us"),
            "code": pl.String,
            "numeric_value": pl.Float32,
            "text_value": pl.String,
            "hadm_id": pl.Int64,
            "unit": pl.String,
        },
        orient="row",
    )


def write(frame: pl.DataFrame, folder: Path, *, shards: int = 3, metadata: bool = True) -> Path:
    """A 0.4 dataset with nested shards; whole subjects a shard."""
    ids = frame["subject_id"].unique(maintain_order=True).to_list()
    splits = {}
    for number in range(shards):
        split = ("train", "tuning", "held_out")[number % 3]
        mine = ids[number::shards]
        splits.update(dict.fromkeys(mine, split))
        path = folder / "data" / split / f"deep{number}" / "0.parquet"
        path.parent.mkdir(parents=True)
        frame.filter(pl.col("subject_id").is_in(mine)).write_parquet(path)
    if metadata:
        (folder / "metadata").mkdir()
        pl.DataFrame(
            {"subject_id": list(splits), "split": list(splits.values())},
            schema={"subject_id": pl.Int64, "split": pl.String},
        ).write_parquet(folder / "metadata" / "subject_splits.parquet")
        pl.DataFrame(
            {
                "code": ["LAB//GLU", "DIAGNOSIS//ICD10CM//E11.9", "DIAGNOSIS//ICD10CM//E11.9"],
                "description": ["Glucose", "Type 2 diabetes", "another modifier"],
                "parent_codes": [None, ["DIAGNOSIS//ICD10CM//E11"], None],
                "modifier": ["", "a", "b"],
            }
        ).write_parquet(folder / "metadata" / "codes.parquet")
        told = {"dataset_name": "Elsewhere", "dataset_version": "7", "meds_version": "0.4.0", "license": "open"}
        (folder / "metadata" / "dataset.json").write_text(json.dumps(told))
    return folder
