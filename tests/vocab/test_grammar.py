"""Tokens: visits from the past alone, nothing lost or reordered, fitted on train only, nothing from the future."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehrjax.core.errors import InputError
from ehrjax.data import prepare_tokens, token_dataset
from ehrjax.ingest import meds
from ehrjax.vocab import grammar, recipe, vocabulary
from ehrjax.vocab.grammar import NO_TIME
from ehrjax.vocab.steps.number_visits import number_visits
from tests.conftest import ROOT, behrt_recipe, write_meds

HOUR = 3_600_000_000
RECIPE = behrt_recipe(min_count=2)


def frame(rows: list[tuple]) -> pl.DataFrame:
    """Rows of (subject, hour or None, visit id or None)."""
    return pl.DataFrame(
        {
            "subject_id": [r[0] for r in rows],
            "time": pl.Series([None if r[1] is None else r[1] * HOUR for r in rows], dtype=pl.Int64).cast(
                pl.Datetime("us")
            ),
            "visit_id": pl.Series([r[2] for r in rows], dtype=pl.Int64),
        }
    )


def visits(rows: list[tuple]) -> list[int]:
    return number_visits(frame(rows), gap_hours=24)["visit"].to_list()


def test_visits_by_id_and_by_gap() -> None:
    rows = [
        (1, None, None),
        (1, 0, None),
        (1, 1, None),
        (1, 2, 77),
        (1, 3, None),
        (1, 4, 77),
        (1, 90, None),
        (1, 91, 5),
    ]
    assert visits(rows) == [-1, 0, 0, 1, 1, 1, 2, 3]
    # The same visit id again after an event that stood alone is a visit of its own; another subject starts at 0.
    assert visits([(1, 0, 7), (1, 50, None), (1, 51, 7), (2, 51, 7), (2, 52, None)]) == [0, 1, 2, 0, 0]
    assert visits([(1, None, None), (2, None, 4), (2, 1, 4)]) == [-1, -1, 0]


timelines = st.lists(st.tuples(st.integers(0, 60), st.none() | st.integers(0, 3)), min_size=1, max_size=40)


@given(timelines, st.integers(0, 40))
def test_later_events_never_change_earlier_visits(steps: list, keep: int) -> None:
    hours = np.cumsum([step for step, _ in steps])
    rows = [(1, int(hour), visit) for hour, (_, visit) in zip(hours, steps)]
    assert visits(rows)[:keep] == visits(rows[:keep])


@given(timelines)
def test_visit_numbers_match_a_walk_through_the_events(steps: list) -> None:
    hours = np.cumsum([step for step, _ in steps])
    rows = [(1, int(hour), visit) for hour, (_, visit) in zip(hours, steps)]
    expected, current, number, last = [], None, -1, None
    for _, hour, visit in rows:
        if visit is None:
            if last is None or hour - last > 24:
                number, current = number + 1, None
        elif last is None or visit != current:
            number, current = number + 1, visit
        expected.append(number)
        last = hour
    assert visits(rows) == expected


def read_all(folder: Path) -> dict[int, token_dataset.Subject]:
    dataset = token_dataset.open_tokens(folder)
    splits = [dataset.split(name) for name in meds.SPLITS]
    return {int(s): split.subject(i) for split in splits for i, s in enumerate(split.subject_ids)}


def test_tokens_are_the_events(toy_meds: Path, toy_tokens: Path) -> None:
    source, dataset = meds.open_dataset(toy_meds), token_dataset.open_tokens(toy_tokens)
    subjects = read_all(toy_tokens)
    events = pl.concat([source.read_shard(path) for path in source.shards])
    assert set(subjects) == set(events["subject_id"])
    for subject_id, subject in subjects.items():
        rows = events.filter((pl.col("subject_id") == subject_id) & (pl.col("code") != "MEDS_BIRTH"))
        keep = subject.tokens >= dataset.vocabulary.num_specials
        keep |= subject.tokens == dataset.vocabulary.unk
        assert subject.tokens[0] == dataset.vocabulary.cls
        assert keep.sum() == len(rows)
        np.testing.assert_array_equal(
            subject.times[keep], rows["time"].to_physical().fill_null(NO_TIME).to_numpy(), strict=True
        )
        strings = dataset.vocabulary.decode(subject.tokens[keep])
        for string, code in zip(strings, rows["code"]):
            assert string == "[UNK]" or string == code or string.startswith(f"{code}//Q")
        assert subject.num_static == 2 and (subject.times[:2] == NO_TIME).all()
        assert (np.diff(subject.times[2:]) >= 0).all() and (np.diff(subject.visits) >= 0).all()
        separators = np.flatnonzero(subject.tokens == dataset.vocabulary.sep)
        assert len(separators) == subject.visits[-1]
        assert (subject.visits[separators + 1] == subject.visits[separators] + 1).all()
        birth = events.filter((pl.col("subject_id") == subject_id) & (pl.col("code") == "MEDS_BIRTH"))
        assert subject.birth_time == birth["time"].to_physical().item()


def test_same_input_and_recipe_give_the_same_bytes(toy_meds: Path, toy_tokens: Path, tmp_path: Path) -> None:
    prepare_tokens.prepare(toy_meds, tmp_path / "again", RECIPE)
    written = {p.relative_to(toy_tokens): p.read_bytes() for p in toy_tokens.rglob("*") if p.is_file()}
    again = {p.relative_to(tmp_path / "again"): p.read_bytes() for p in (tmp_path / "again").rglob("*") if p.is_file()}
    assert written == again


def test_nothing_is_fitted_on_tuning_or_held_out(toy_meds: Path, toy_tokens: Path, tmp_path: Path) -> None:
    """Other values and codes in tuning and held_out leave vocabulary, bins and train tokens as they are."""
    source = meds.open_dataset(toy_meds)
    train = source.splits.filter(pl.col("split") == "train")["subject_id"]
    changed = tmp_path / "changed"
    (changed / "metadata").mkdir(parents=True)
    for path in source.shards:
        events = source.read_shard(path).with_columns(
            pl.when(pl.col("subject_id").is_in(train.implode()))
            .then(pl.col("code"))
            .otherwise(pl.format("NEW//{}", "code"))
            .alias("code"),
            pl.when(pl.col("subject_id").is_in(train.implode()))
            .then(pl.col("numeric_value"))
            .otherwise(pl.col("numeric_value") * 1000),
        )
        target = changed / path.relative_to(toy_meds)
        target.parent.mkdir(parents=True, exist_ok=True)
        events.write_parquet(target)
    for path in (toy_meds / "metadata").iterdir():
        (changed / "metadata" / path.name).write_bytes(path.read_bytes())
    prepare_tokens.prepare(changed, tmp_path / "tokens", RECIPE)
    for name in ("vocab.csv", "bin_values.json"):
        assert (tmp_path / "tokens" / name).read_bytes() == (toy_tokens / name).read_bytes()
    for path in sorted((toy_tokens / "data" / "train").iterdir()):
        assert (tmp_path / "tokens" / "data" / "train" / path.name).read_bytes() == path.read_bytes()
    counts = json.loads((tmp_path / "tokens" / "dataset.json").read_text())["splits"]
    assert counts["tuning"]["known"] == 0 < counts["tuning"]["events"]


def test_deleting_the_future_leaves_the_past(toy_meds: Path, toy_tokens: Path, tmp_path: Path) -> None:
    source = meds.open_dataset(toy_meds)
    whole = read_all(toy_tokens)
    times = np.concatenate([s.times[s.num_static :] for s in whole.values()])
    for quantile in (0.2, 0.5, 0.8):
        cut = int(np.quantile(times, quantile))
        folder = tmp_path / f"cut{quantile}"
        with meds.files.written_folder(folder, what="MEDS dataset") as temporary:
            writer = meds.MedsWriter(temporary, "toy", "1")
            for path in source.shards:
                events = source.read_shard(path)
                writer.write_shard(events.filter(pl.col("time").is_null() | (pl.col("time").to_physical() <= cut)))
            writer.finish({})
        prepare_tokens.prepare(
            folder,
            tmp_path / f"tokens{quantile}",
            behrt_recipe(min_events=0),
            fitted_from=toy_tokens,
        )
        for subject_id, subject in read_all(tmp_path / f"tokens{quantile}").items():
            full = whole[subject_id]
            count = np.count_nonzero(full.times <= cut)  # static tokens have the smallest time of all
            for name in token_dataset.RAGGED:
                assert getattr(full, name)[:count].tobytes() == getattr(subject, name).tobytes()


def test_odd_subjects(tmp_path: Path) -> None:
    """Static rows only, one event, 100,000 events, unicode codes, NaN and infinite values, times before 1970."""
    big = 100_000
    rows = {
        "subject_id": [1, 2, 3, 3] + [4] * big,
        "time": pl.Series([None, -(10**17), 0, 5] + list(range(big)), dtype=pl.Int64).cast(pl.Datetime("us")),
        "code": ["GENDER//F", "Größe//身長", "LAB//x", "LAB//x"] + ["DX//1"] * big,
        "numeric_value": pl.Series([None, None, float("nan"), float("inf")] + [None] * big, dtype=pl.Float32),
    }
    with meds.files.written_folder(tmp_path / "meds", what="MEDS dataset") as folder:
        writer = meds.MedsWriter(folder, "odd", "1")
        writer.write_shard(pl.DataFrame(rows))
        writer.finish({})
    splits = pl.DataFrame({"subject_id": [1, 2, 3, 4], "split": ["train"] * 4})
    splits.write_parquet(tmp_path / "meds" / "metadata" / "subject_splits.parquet")
    info = prepare_tokens.prepare(tmp_path / "meds", tmp_path / "tokens", behrt_recipe(drop=()))
    assert info["splits"]["train"]["subjects"] == 3 and info["splits"]["train"]["subjects_set_aside"] == 1
    subjects = read_all(tmp_path / "tokens")
    words = token_dataset.open_tokens(tmp_path / "tokens").vocabulary
    assert words.decode(subjects[2].tokens) == ["[CLS]", "Größe//身長"] and subjects[2].times[1] == -(10**17)
    assert words.decode(subjects[3].tokens) == ["[CLS]", "LAB//x", "LAB//x"]
    assert np.isnan(subjects[3].values[1]) and np.isinf(subjects[3].values[2])
    assert len(subjects[4].tokens) == big + 1
    assert subjects[4].birth_time is None


def test_vocabulary_round_trip_and_refusals(toy_tokens: Path, tmp_path: Path) -> None:
    words = vocabulary.read(toy_tokens / "vocab.csv")
    words.write(tmp_path / "vocab.csv")
    assert (tmp_path / "vocab.csv").read_bytes() == (toy_tokens / "vocab.csv").read_bytes()
    assert (words.pad, words.unk, words.cls, words.sep, words.mask) == (0, 1, 2, 3, 4)
    assert words.encode(pl.Series(["[MASK]", words.strings[7], "never seen"])).to_list() == [4, 7, 1]
    counts = words.table["count"][words.num_specials :]
    assert counts.to_list() == sorted(counts, reverse=True) and counts.min() >= 2
    (tmp_path / "short.csv").write_text("token,str\n0,[PAD]\n")
    with pytest.raises(InputError, match="no column 'count'"):
        vocabulary.read(tmp_path / "short.csv")
    lines = (toy_tokens / "vocab.csv").read_text().splitlines()
    (tmp_path / "gap.csv").write_text("\n".join(lines[:6] + lines[7:]) + "\n")
    with pytest.raises(InputError, match="must list ids 0, 1, 2"):
        vocabulary.read(tmp_path / "gap.csv")


def test_the_config_is_the_recipe_of_the_embedded_data() -> None:
    from ehrjax.core import config

    shown = recipe.from_config(config.from_argv([f"--config={ROOT}/configs/tokens/behrt.py"]))
    embedded = config.from_argv([f"--config={ROOT}/configs/behrt.py"]).embedded.recipe
    assert recipe.from_config(embedded) == shown


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_count": 0}, "recipe.min_count is 0"),
        ({"rare": "forget"}, "choose unk or drop"),
        ({"filter_codes": {"drop": ("(",)}}, "no regular expression"),
        ({"number_visits": {"gap_hours": 0.0}}, "must be positive"),
        ({"bin_values": {"num_bin": 3}}, "did you mean recipe.bin_values.num_bins"),
        ({"bin_valeus": {"num_bins": 3}}, "did you mean bin_values"),
        ({"min_cuont": 3}, "did you mean recipe.min_count"),
        ({"steps": ("filter_codes", "bin_value")}, "did you mean 'bin_values'"),
        ({"steps": ("start", "start")}, "lists a step twice"),
    ],
)
def test_bad_recipes(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        grammar.bind(recipe.from_config({"name": "behrt", **change}))


def test_bad_meds(toy_meds: Path, tmp_path: Path) -> None:
    import shutil

    def copy(name: str) -> Path:
        return Path(shutil.copytree(toy_meds, tmp_path / name))

    def message(folder: Path) -> str:
        with pytest.raises(InputError) as caught:
            prepare_tokens.prepare(folder, tmp_path / "out", RECIPE)
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))
        return str(caught.value)

    assert "does not exist" in message(tmp_path / "nothing")
    folder = copy("truncated")
    shard = meds.open_dataset(folder).shards[0]
    shard.write_bytes(shard.read_bytes()[:-50])
    assert f"{shard} cannot be read as parquet" in message(folder)
    folder = copy("column")
    shard = meds.open_dataset(folder).shards[0]
    pl.read_parquet(shard).drop("code").write_parquet(shard)
    assert "has no column 'code'" in message(folder)
    folder = copy("split")
    path = folder / "metadata" / "subject_splits.parquet"
    pl.read_parquet(path).head(10).write_parquet(path)
    assert "subject_splits.parquet does not list" in message(folder)
    folder = copy("twice")
    shards = meds.open_dataset(folder).shards
    (shards[0].parent / "99999.parquet").write_bytes(shards[0].read_bytes())
    assert "MEDS keeps each in one" in message(folder)
    write_meds(tmp_path / "out", 3)
    with pytest.raises(InputError, match="already exists"):
        prepare_tokens.prepare(toy_meds, tmp_path / "out", RECIPE)


def test_births_with_a_suffix_count() -> None:
    events = pl.DataFrame(
        {"subject_id": [1], "code": ["MEDS_BIRTH//x"], "time": pl.Series([-5], dtype=pl.Int64).cast(pl.Datetime("us"))}
    )
    assert grammar.births_of(events)["birth_time"].to_list() == [-5]
