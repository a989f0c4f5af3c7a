"""Made-up stays in the layout of YAIB's dyn, sta and outc."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

Frames = dict[str, pl.DataFrame]
VARIABLES = ("alb", "crea", "hr", "map", "temp", "urine")


def generate(seed: int, *, stays: int = 6, hours: int = 5, timed: bool = True) -> Frames:
    """dyn, sta and outc; no two values of a column are equal, about half are missing."""
    rng = np.random.default_rng(seed)
    ids = [101 + 3 * number for number in range(stays)]
    rows = stays * hours
    time = pl.Series("time", list(range(hours)) * stays, pl.Int64) * 3_600_000
    dyn = pl.DataFrame({"stay_id": np.repeat(ids, hours).astype(np.int32)}).with_columns(time.cast(pl.Duration("ms")))
    for name in VARIABLES:
        values = [float(v) if rng.random() < 0.5 else None for v in rng.permutation(rows) + 20.0]
        dyn = dyn.with_columns(pl.Series(name, values, pl.Float64))
    sta = pl.DataFrame(
        {
            "stay_id": pl.Series(ids, dtype=pl.Int32),
            "age": [float(rng.integers(20, 89)) for _ in ids],
            "sex": [("Female", "Male")[number % 2] for number in range(stays)],
            "height": [None if number % 3 == 0 else 160.5 + number for number in range(stays)],
            "weight": [55.5 + number for number in range(stays)],
        }
    )
    outc = dyn.select("stay_id", "time") if timed else sta.select("stay_id")
    outc = outc.with_columns(pl.Series("label", rng.random(len(outc)) < 0.5))
    return {"dyn": dyn, "sta": sta, "outc": outc}


def write(frames: Frames, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in frames.items():
        frame.write_parquet(folder / f"{name}.parquet")
    return folder
