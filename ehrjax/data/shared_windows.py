"""Several labels of one subject in one window: for a model of the past a token's state is what was known then.

A label by itself repeats the history before it; a subject with ten labels is read ten times. Where no state depends
on later tokens, one window from the record's beginning up to the last of them serves all, each at the last token that
it may see. Labels whose history does not fit a window whole keep their own: in a window that ends later and begins
later for it, a label would see by its place how much is still to come. So do, for a model that sees whole visits,
labels in the middle of one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ehrjax.data.labelled import LabelledSplit
from ehrjax.data.token_dataset import Subject
from ehrjax.data.windows import Windows


def share(part: LabelledSplit, *, most: int, whole_visits: bool = False) -> LabelledSplit:
    """The same labels in fewer windows, each seeing exactly the tokens that it would see alone.

    Args:
      part: a window a label.
      most: labels a window at most.
      whole_visits: for a model that knows all of a visit at each of its tokens (a separator behind it too).
    """
    tiled = part.windows
    whole = tiled.start == part.num_static[tiled.subject]
    fits = np.ones(len(tiled), bool)
    if whole_visits:
        fits[:] = [_ends_a_visit(part.subject(place), stop) for place, stop in zip(tiled.subject, tiled.stop)]
    # By subject, the latest label first; labels of one time in their order, so that the result is one.
    order = np.lexsort((np.arange(len(tiled)), -tiled.stop, tiled.subject))
    groups: list[list[int]] = []
    for i in order.tolist():
        own = groups[-1] if groups else []
        # Where the latest label's history fits, those of the subject's earlier ones do.
        if own and len(own) < most and whole[own[0]] and fits[i] and tiled.subject[i] == tiled.subject[own[0]]:
            own.append(i)
        else:
            groups.append([i])
    heads = np.array([own[0] for own in groups], np.int64)
    chosen = np.array([i for own in groups for i in own], np.int64)
    return replace(
        part,
        windows=Windows(*(column[heads] for column in (tiled.subject, tiled.start, tiled.stop, tiled.length))),
        labels=part.labels[chosen],
        prediction_times=part.prediction_times[chosen],
        stops=tiled.stop[chosen],
        offsets=np.cumsum([0, *(len(own) for own in groups)]),
    )


def _ends_a_visit(subject: Subject, stop: int) -> bool:
    """Whether the tokens before `stop` end with a whole visit."""
    return stop == len(subject.visits) or subject.visits[stop] != subject.visits[stop - 1]
