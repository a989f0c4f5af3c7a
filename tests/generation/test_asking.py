"""When subjects are asked about."""

import datetime

import numpy as np
import pytest

from ehrjax.core.errors import InputError
from ehrjax.data import rows
from ehrjax.generation import asking

DAY = rows.MICROSECONDS_PER_DAY
YEAR = rows.MICROSECONDS_PER_YEAR
SEX, CODE, DEATH = 5, 6, 7
ENDS = np.arange(8) == DEATH


class Split:
    """Subjects in a list, as a split."""

    name = "held_out"

    def __init__(self, *subjects):
        self.subjects = subjects

    def __len__(self):
        return len(self.subjects)

    def subject(self, index):
        return self.subjects[index]

    @property
    def subject_ids(self):
        return np.array([subject.subject_id for subject in self.subjects])


def subject(number, times, tokens, birth=0):
    days = [0, *(round(t) for t in times)]
    return rows.subject([SEX, *tokens], subject_id=number, num_static=1, birth_time=birth, times=days)


SPLIT = Split(
    subject(1, [40 * YEAR, 61 * YEAR], [CODE, CODE]),
    subject(2, [40 * YEAR, 59 * YEAR], [CODE, DEATH]),
    subject(3, [40 * YEAR, 63 * YEAR], [CODE, DEATH]),
    subject(4, [61 * YEAR], [CODE]),
    subject(5, [40 * YEAR], [CODE], birth=None),
    subject(6, [70 * YEAR], [CODE], birth=round(20 * YEAR)),
)


def asked(text, **more):
    frame, _ = asking.alive([SPLIT], asking.at([SPLIT], text, **more), ENDS)
    return dict(zip(frame["subject_id"], frame["prediction_time"].to_physical()))


def test_an_age_asks_those_alive_with_a_history_and_a_birth():
    found = asked("age:60")
    # 4 has nothing on record at 60, 2 is dead, of 5 no birth is known.
    assert found == {1: round(60 * YEAR), 3: round(60 * YEAR), 6: round(20 * YEAR) + round(60 * YEAR)}


def test_nobody_is_asked_after_death():
    late = (datetime.datetime(1970, 1, 1) + datetime.timedelta(days=200 * 365)).isoformat()
    assert set(asked(late)) == {1, 4, 5, 6}
    assert set(asked("last")) == {1, 4, 5, 6}
    assert asked("after:x", tokens=np.arange(8) == CODE)[3] == round(40 * YEAR)


@pytest.mark.parametrize("text", ["age:", "age:old", "age:nan", "age:inf", "yesterday", ""])
def test_what_is_no_time(text):
    with pytest.raises(InputError, match="is not 'last'"):
        asked(text)


def test_nobody_is_left():
    with pytest.raises(InputError, match="leaves no subject of held_out"):
        asked("age:1")
