"""How bad input ends: one sentence on stderr and exit code 2, never a traceback."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

EXIT_BAD_INPUT = 2
EXIT_FAILED = 1


class InputError(Exception):
    """The user's input cannot be used. The message is one sentence: file, row or column, what to do."""


class RunError(Exception):
    """The run itself failed (a non-finite loss, a full disk); the message says what is safe and what to do."""


def exits_cleanly(main: Callable[..., object]) -> Callable[..., None]:
    """Wraps a verb's `main`: `InputError` becomes exit code 2, `RunError` 1, each with its one sentence.

    Any other exception is a defect of ehrjax and keeps its traceback.
    """

    @functools.wraps(main)
    def wrapped(*args: object, **kwargs: object) -> None:
        try:
            main(*args, **kwargs)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            sys.exit(EXIT_BAD_INPUT)
        except RunError as error:
            print(f"failed: {error}", file=sys.stderr, flush=True)
            sys.exit(EXIT_FAILED)

    return wrapped
