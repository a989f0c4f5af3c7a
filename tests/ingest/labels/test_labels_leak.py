"""For every task: nothing after the prediction time reaches the input, nor, but where it says so, who is asked."""

from __future__ import annotations

import datetime
from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrjax.ingest.labels import making
from ehrjax.ingest.labels.history import history_at, known_rows
from ehrjax.ingest.labels.settings import choose
from tests.ingest.labels.cases import CASES, END, NAMES, fast
from tests.ingest.labels.histories import EPOCH, frame, row, subjects


@st.composite
def futures(draw: st.DrawFn) -> tuple[pl.DataFrame, pl.DataFrame]:
    """A history and other events for the same subjects."""
    return draw(subjects()), draw(subjects())


def another_future(events: pl.DataFrame, other: pl.DataFrame, subject: int, time: datetime.datetime) -> pl.DataFrame:
    """`events` up to and including a time, then what `other` says comes later."""
    past = events.filter((pl.col("subject_id") == subject) & (pl.col("time").is_null() | (pl.col("time") <= time)))
    later = other.with_columns(pl.lit(subject, pl.Int64).alias("subject_id")).filter(pl.col("time") > time)
    return frame(pl.concat([past, later]).rows())


@pytest.mark.parametrize("case", CASES, ids=NAMES)
@settings(max_examples=10, deadline=None)  # tasks differ in who is asked and when, not in what is then seen
@given(pair=futures())
def test_nothing_after_the_prediction_time_reaches_the_input(case, pair) -> None:
    events, other = pair
    chosen = choose(case[0], **case[1])
    labels = fast(events, chosen).filter(pl.col("excluded").is_null())
    inputs = history_at(events, labels)
    for number, (subject, time) in enumerate(labels.select("subject_id", "prediction_time").iter_rows()):
        seen = inputs.filter(pl.col("label") == number).drop("label")
        assert seen.filter(pl.col("time") > time).is_empty()
        # Exactly the past: all of it, in order, whatever comes later.
        mine = events.filter((pl.col("subject_id") == subject) & (pl.col("time").is_null() | (pl.col("time") <= time)))
        assert seen.equals(mine)
        changed = another_future(events, other, subject, time)
        assert history_at(changed, labels[number]).drop("label").equals(seen)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
@settings(max_examples=25, deadline=None)
@given(pair=futures())
def test_who_is_asked_depends_on_the_past_but_for_the_reasons_that_say_so(case, pair) -> None:
    task, options = case
    if options.get("predict") == "every" and not options.get("data_end"):
        options = {**options, "data_end": END}  # without it, the record's own end decides how long is asked
    events, other = pair
    chosen = choose(task, **options)
    if chosen.module.ANCHORED_AHEAD and options.get("at") != "admission":
        return  # when is asked is known only afterwards; each such task says so
    ahead = {*chosen.module.LOOKS_AHEAD, making.DUPLICATE}

    def known(candidates: pl.DataFrame, subject: int, time: datetime.datetime) -> Counter:
        at = candidates.filter((pl.col("subject_id") == subject) & (pl.col("prediction_time") == time))
        return Counter(None if reason in ahead else reason for reason in at["excluded"])

    before = fast(events, chosen)
    asked = before.filter(pl.col("prediction_time").is_not_null()).unique(["subject_id", "prediction_time"])
    for subject, time in asked.select("subject_id", "prediction_time").iter_rows():
        after = fast(another_future(events, other, subject, time), chosen)
        assert known(after, subject, time) == known(before, subject, time)


def test_a_history_is_static_rows_and_everything_up_to_and_including_the_time() -> None:
    events = frame([row(1, "B"), row(None, "S"), row(1, "C"), row(2, "D"), row(0, "A"), row(5, "E", subject=2)])
    hours = ((1, 1), (2, 4), (1, -1), (3, 9), (2, 5), (1, 1.5))
    labels = pl.DataFrame(
        {
            "subject_id": [subject for subject, _ in hours],
            "prediction_time": [EPOCH + datetime.timedelta(hours=hour) for _, hour in hours],
        }
    )
    seen = history_at(events, labels)
    codes = {number: "".join(seen.filter(pl.col("label") == number)["code"]) for number in range(len(hours))}
    # Nothing of a subject without events or before its first one; ties are all seen, in the order of the record.
    assert codes == {0: "SABC", 1: "", 2: "S", 3: "", 4: "E", 5: "SABC"}
    assert seen.columns == ["label", *events.columns]
    assert known_rows(events, labels).rows() == [(0, 4), (5, 0), (0, 1), (0, 0), (5, 1), (0, 4)]
    assert history_at(events.clear(), labels).is_empty() and history_at(events, labels.clear()).is_empty()
