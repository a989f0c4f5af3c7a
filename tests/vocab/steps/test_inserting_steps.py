"""Steps that add tokens: where they stand, at what time, how often; and everything else stays as it was."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehrjax.core.errors import InputError
from tests.vocab.steps.histories import HOUR, by_subject, histories, run

DAY = 24 * HOUR
ADDING = {
    "start": ("start",),
    "separate_visits": ("number_visits", "separate_visits"),
    "visit_tokens": ("number_visits", "visit_tokens"),
    "time_tokens visits": ("number_visits", "time_tokens"),
    "time_tokens events": ("time_tokens",),
    "both": ("number_visits", "time_tokens", "visit_tokens", "start"),
    "values": ("bin_values",),
    "split": ("split_codes",),
    "prompt": ("prompt",),
}
SETTINGS = {
    "time_tokens events": {"time_tokens": {"kind": "ethos", "between": "events"}},
    "values": {"bin_values": {"separate": True, "min_values": 1, "num_bins": 3}},
    "split": {"split_codes": {"family": "DX", "lengths": (1,)}},
    "prompt": {"prompt": {"static": ()}},
}


@pytest.mark.parametrize("name", ADDING)
@given(histories())
def test_nothing_is_lost_doubled_or_reordered(name: str, events: pl.DataFrame) -> None:
    before = run(events, *[step for step in ADDING[name] if step == "number_visits"])
    after = run(events, *ADDING[name], **SETTINGS.get(name, {}))
    kept = after.filter(~pl.col("added"))
    assert after.filter("added").select(_was_added(name)).to_series().all()
    columns = ["subject_id", "time", "numeric_value", "visit_id"]
    assert kept.select(columns).equals(before.select(columns))
    # Static rows first, then times that never fall; each subject in one piece.
    for rows in by_subject(after, "time").values():
        times = [time for (time,) in rows]
        timed = [time for time in times if time is not None]
        assert times == [None] * (len(times) - len(timed)) + sorted(timed)
    assert after["subject_id"].rle_id().n_unique() == events["subject_id"].n_unique()


def _was_added(name: str) -> pl.Expr:
    from ehrjax.vocab.steps.time_tokens import ETHOS, SIX_MONTHS

    text = pl.col("str")
    tokens = ["[CLS]", "[SEP]", "[VS]", "[VE]", "LT", SIX_MONTHS, *(label for label, _ in ETHOS)]
    made = text.is_in(tokens) | text.str.contains(r"^(Q|W|M|D)-?\d+$") | text.str.contains(r"^(YEAR|AGE)//")
    return made | text.str.contains(r"^DX//SFX//") if name == "split" else made


@given(histories())
def test_visits_are_closed_before_the_next_begins(events: pl.DataFrame) -> None:
    rows = run(events, "number_visits", "time_tokens", "visit_tokens", visit_tokens={"types": ("ENCOUNTER//",)})
    for told in by_subject(rows, "str", "visit", "time").values():
        timed = [row for row in told if row[2] is not None]
        names = [name for name, _, _ in timed]
        visits = sorted({visit for name, visit, _ in timed if visit >= 0})
        assert names.count("[VS]") == len(visits) and names.count("[VE]") == max(len(visits) - 1, 0)
        for i, (name, visit, time) in enumerate(timed):
            if name == "[VE]":
                # Then one time token, then the next visit, whose first event's time both carry.
                assert names[i + 2] == "[VS]" and names[i + 1][0] in "WML"
                assert timed[i + 2][1] == visit + 1 and timed[i + 2][2] == time == timed[i + 1][2]
            if name == "[VS]":
                assert names[i + 1] == "VISIT_TYPE//UNKNOWN" or names[i + 1].startswith("ENCOUNTER//")


@given(histories(), st.integers(0, 14))
@pytest.mark.parametrize("name", [name for name in ADDING if name != "values"])
def test_later_events_change_nothing_earlier(name: str, events: pl.DataFrame, keep: int) -> None:
    first = (
        events.with_columns(pl.int_range(pl.len()).over("subject_id").alias("n")).filter(pl.col("n") < keep).drop("n")
    )
    whole = by_subject(run(events, *ADDING[name], **SETTINGS.get(name, {})), "str", "time", "visit")
    for subject, rows in by_subject(
        run(first, *ADDING[name], **SETTINGS.get(name, {})), "str", "time", "visit"
    ).items():
        last = max((row[1] for row in rows if row[1] is not None), default=None)
        tied = first.filter((pl.col("subject_id") == subject) & (pl.col("time") == last)) if last else []
        all_tied = events.filter((pl.col("subject_id") == subject) & (pl.col("time") == last)) if last else []
        if len(tied) == len(all_tied) and whole[subject][: len(rows)] != rows:
            # Only a subject cut before its first timed event may lack what that event tells.
            assert last is None


def times(hours: list[float]) -> pl.DataFrame:
    frame = pl.DataFrame(
        {"subject_id": [1] * len(hours), "code": ["DX//1"] * len(hours)},
        schema={"subject_id": pl.Int64, "code": pl.String},
    )
    stamps = pl.Series("time", [int(h * HOUR) for h in hours], dtype=pl.Int64).cast(pl.Datetime("us"))
    empty = {"numeric_value": pl.Float32, "text_value": pl.String, "visit_id": pl.Int64}
    return frame.with_columns(stamps, *(pl.lit(None, dtype).alias(n) for n, dtype in empty.items()))


def tokens(kind: str, gap_hours: float) -> list[str]:
    rows = run(times([0, gap_hours]), "time_tokens", time_tokens={"kind": kind, "between": "events"})
    return rows["str"].to_list()[1:-1]


@pytest.mark.parametrize(
    ("kind", "days", "expected"),
    [
        ("cehr_bert", 0, ["W0"]),
        ("cehr_bert", 6.99, ["W0"]),
        ("cehr_bert", 7, ["W1"]),
        ("cehr_bert", 27, ["W3"]),
        ("cehr_bert", 28, ["M0"]),  # as published: 28 and 29 days are month 0
        ("cehr_bert", 30, ["M1"]),
        ("cehr_bert", 359, ["M11"]),
        ("cehr_bert", 360, ["LT"]),
        ("day", 0.5, ["D0"]),
        ("day", 1079, ["D1079"]),
        ("day", 1080, ["LT"]),
        ("mix", 7, ["D7"]),
        ("mix", 8, ["W2"]),
        ("mix", 30, ["W5"]),
        ("mix", 31, ["M2"]),
        ("mix", 360, ["M12"]),
        ("mix", 361, ["LT"]),
        ("ethos", 4.9 / 1440, []),
        ("ethos", 5 / 1440, ["5m-15m"]),
        ("ethos", 74 / 1440, ["45m-1h15m"]),
        ("ethos", 75 / 1440, ["1h15m-2h"]),
        ("ethos", 1, ["1d-2d"]),
        ("ethos", 59, ["30d-2mt"]),
        ("ethos", 179, ["2mt-6mt"]),
        ("ethos", 180, ["=6mt"]),
        ("ethos", 269, ["=6mt"]),
        ("ethos", 271, ["=6mt"] * 2),
        ("ethos", 3600, ["=6mt"] * 20),
    ],
)
def test_intervals(kind: str, days: float, expected: list[str]) -> None:
    assert tokens(kind, days * 24) == expected


def test_half_years_stand_where_they_are_known() -> None:
    """A record that is cut at any time shows half-years that have passed, whatever comes later."""
    for days, expected in ((200, [180]), (350, [180, 350]), (1000, [180, 360, 540, 720, 900, 1000]), (170, [170])):
        rows = run(
            times([0, days * 24]), "number_visits", "time_tokens", time_tokens={"kind": "ethos", "between": "events"}
        )
        start = rows["time"][0]
        middle = rows["time"][1:-1]
        assert [(time - start).days for time in middle] == expected, days
        assert rows["time"].is_sorted()


def test_the_prompt_says_who() -> None:
    frame = times([0, 24 * 365.25 * 40 + 24, 24 * 365.25 * 41])
    frame = frame.with_columns(code=pl.Series(["MEDS_BIRTH", "DX//1", "DX//2"]))
    static = frame[:1].with_columns(code=pl.lit("GENDER//F"), time=pl.lit(None, pl.Datetime("us")))
    rows = run(pl.concat([static, frame]), "prompt", prompt={"static": ("GENDER", "RACE")})
    assert rows["str"].to_list() == ["YEAR//2010", "AGE//40", "GENDER//F", "RACE//UNKNOWN", "DX//1", "DX//2"]
    assert rows["time"].null_count() == 4
    unborn = run(pl.concat([static, frame[1:]]), "prompt", prompt={"static": (), "year": False})
    assert unborn["str"].to_list() == ["GENDER//F", "AGE//UNKNOWN", "DX//1", "DX//2"]


@pytest.mark.parametrize(
    ("step", "settings", "message"),
    [
        ("time_tokens", {"kind": "weeks"}, "kind is 'weeks'"),
        ("time_tokens", {"between": "rows"}, "between is 'rows'"),
        ("prompt", {"static": ("(",)}, "no regular expression"),
        ("split_codes", {}, "family is empty"),
        ("split_codes", {"family": "DX", "lengths": (0,)}, "at least 1"),
        ("visit_tokens", {"types": ("(",)}, "no regular expression"),
    ],
)
def test_bad_settings(step: str, settings: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(times([0]), step, **{step: settings})
