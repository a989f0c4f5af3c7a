"""From raw MIMIC-IV tables to tokens: what happens later changes nothing earlier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ehrjax.data import prepare_tokens, token_dataset
from ehrjax.ingest import meds, mimic_iv
from tests.conftest import behrt_recipe
from tests.ingest import mimic_iv_layout as layout

RECIPE = behrt_recipe(min_values=5, min_events=0)


def tokens_of(tables: layout.Tables, folder: Path, fitted_from: Path | None) -> Path:
    mimic_iv.read(layout.write(tables, folder / "raw"), folder / "events")
    prepare_tokens.prepare(folder / "events", folder / "tokens", RECIPE, fitted_from=fitted_from)
    return folder / "tokens"


def subjects(tokens: Path) -> dict[int, token_dataset.Subject]:
    dataset = token_dataset.open_tokens(tokens)
    splits = [dataset.split(name) for name in meds.SPLITS]
    return {int(s): split.subject(i) for split in splits for i, s in enumerate(split.subject_ids)}


def check(tables: layout.Tables, folder: Path, shares: tuple[float, ...]) -> None:
    whole = tokens_of(tables, folder / "whole", None)
    full = subjects(whole)
    every = np.sort(np.concatenate([s.times[s.num_static :] for s in full.values()]))
    for share in shares:
        cut = int(every[int(share * (len(every) - 1))])
        text = str(np.datetime64(cut, "us").astype("datetime64[s]")).replace("T", " ")
        cut = int(np.datetime64(text.replace(" ", "T"), "us").astype(np.int64))
        part = subjects(tokens_of(layout.known_at(tables, text), folder / f"cut{share}", whole))
        compared = 0
        for subject_id, subject in full.items():
            count = int(np.count_nonzero(subject.times <= cut))  # static tokens have the smallest time
            timed = count - subject.num_static
            if timed <= 0:
                continue
            for name in token_dataset.RAGGED:
                assert getattr(subject, name)[:count].tobytes() == getattr(part[subject_id], name).tobytes(), name
            compared += timed
        assert compared > 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_tokens_of_a_generated_hospital(seed: int, tmp_path: Path) -> None:
    check(layout.generate(seed), tmp_path, (0.2, 0.5, 0.8))


@pytest.mark.data
def test_tokens_of_the_demo(data_folder: Path, tmp_path: Path) -> None:
    check(layout.load(data_folder / "mimic-iv-demo"), tmp_path, (0.4, 0.7))


@pytest.mark.data
def test_batches_of_the_demo_use_their_positions(data_folder: Path, tmp_path: Path) -> None:
    from ehrjax.data import pipeline

    mimic_iv.read(data_folder / "mimic-iv-demo", tmp_path / "events")
    prepare_tokens.prepare(tmp_path / "events", tmp_path / "tokens", RECIPE)
    settings = pipeline.Settings(str(tmp_path / "tokens"))
    split = token_dataset.open_tokens(tmp_path / "tokens").split("train")
    for epoch in range(3):
        planned = pipeline.plan_epoch(split, settings, seed=0, epoch=epoch)
        assert planned.num_tokens / (len(planned.plan) * settings.context_length) >= 0.97
