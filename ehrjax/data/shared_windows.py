"""Several labels of one subject in one window: for a causal model a token's state is what was known then.

A label by itself repeats the history before it; a subject with ten labels is read ten times. Where no state depends on
later tokens, one window up to the last of them serves all, each at the last token that it may see.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ehrjax.data.labelled import LabelledSplit
from ehrjax.data.windows import Windows


def share(part: LabelledSplit, *, context_length: int, most: int) -> LabelledSplit:
    """The same labels in fewer windows.

    A window holds the newest tokens up to its last label. An earlier label shares it if its whole history is in it, or
    at least half of what a window can hold; so a label may see less than it would in a window of its own.

    Args:
      part: a window a label.
      context_length: tokens a window at most, static ones included.
      most: labels a window at most.
    """
    tiled = part.windows
    static = part.num_static[tiled.subject]
    room = context_length - static
    # By subject, the latest label first; labels of one time in their order, so that the result is one.
    order = np.lexsort((np.arange(len(tiled)), -tiled.stop, tiled.subject))
    groups: list[list[int]] = []
    for i in order.tolist():
        if groups:
            own = groups[-1]
            first = own[0]
            seen = tiled.stop[i] - tiled.start[first]
            enough = min(tiled.stop[i] - static[i], max(room[i] // 2, 1))
            if len(own) < most and tiled.subject[i] == tiled.subject[first] and seen >= enough:
                own.append(i)
                continue
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
