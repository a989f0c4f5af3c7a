"""The progress bar of the verbs."""

from __future__ import annotations

import sys
from collections.abc import Callable


def bar() -> tuple[object, Callable[[str, int, int | None], None]]:
    """A rich progress bar on stderr (a context manager) and the callback that moves it: (what, done, total or None).

    Where stderr is no terminal nothing is shown.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    tasks: dict[str, int] = {}

    def advance(what: str, done: int, total: int | None) -> None:
        if what not in tasks:
            tasks[what] = shown.add_task(what, total=total)
        shown.update(tasks[what], completed=done, total=total)

    return shown, advance
