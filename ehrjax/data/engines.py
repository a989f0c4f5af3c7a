"""Where the stages of preparation run: on threads of this process, or on a Spark cluster.

An engine applies the same function to 0 .. count - 1; what the function writes, it writes to the shared work folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from ehrjax.core.errors import InputError

T = TypeVar("T")
ENGINES = ("local", "spark")


class Engine(Protocol):
    """What preparation needs of an engine."""

    def each(self, function: Callable[[int], T], count: int) -> Iterator[T]:
        """The results of `function(i)`, in order of i."""

    def total(self, function: Callable[[int], T], count: int, add: Callable[[list[T]], T]) -> Iterator[list[T]]:
        """Results of `function(i)` added up as far as is good where they were made; the caller adds up what comes."""


class Local:
    """Threads of this process; a few results at most wait for the caller."""

    def __init__(self, workers: int | None = None) -> None:
        self._workers = workers or min(4, os.cpu_count() or 1)

    def each(self, function: Callable[[int], T], count: int) -> Iterator[T]:
        with ThreadPoolExecutor(self._workers) as pool:
            pending = []
            try:
                for i in range(count):
                    pending.append(pool.submit(function, i))
                    if len(pending) > self._workers:
                        yield pending.pop(0).result()
                while pending:
                    yield pending.pop(0).result()
            finally:
                for future in pending:
                    future.cancel()

    def total(self, function: Callable[[int], T], count: int, add: Callable[[list[T]], T]) -> Iterator[list[T]]:
        for result in self.each(function, count):
            yield [result]


class Spark:
    """A Spark cluster that sees the input and the work folder under the same paths (local[N] does).

    The cluster is what `spark.master` or SPARK_MASTER says, else local[*].
    """

    def __init__(self, master: str | None = None) -> None:
        """Starts a session, or takes the one that there is.

        Raises:
          InputError: pyspark or Java is missing.
        """
        try:
            from pyspark.errors import PySparkException
            from pyspark.sql import SparkSession
        except ImportError as error:
            raise InputError("--engine=spark needs pyspark; pip install 'ehrjax[spark]'.") from error
        # The workers must be this Python, with this ehrjax.
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        builder = SparkSession.builder.appName("ehrjax").config("spark.ui.enabled", "false")
        builder = builder.config("spark.log.level", "ERROR").config("spark.ui.showConsoleProgress", "false")
        chosen = master or os.environ.get("SPARK_MASTER")
        try:
            self._spark = (builder.master(chosen) if chosen else builder).getOrCreate().sparkContext
        except (PySparkException, OSError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"Spark cannot be started ({reason}); it needs Java 17 (JAVA_HOME).") from error

    def each(self, function: Callable[[int], T], count: int) -> Iterator[T]:
        for answer in self._numbers(count).map(lambda i: _answer(function, i)).collect():
            yield _opened(answer)

    def total(self, function: Callable[[int], T], count: int, add: Callable[[list[T]], T]) -> Iterator[list[T]]:
        def both(a: Answer, b: Answer) -> Answer:
            return a if a[1] else b if b[1] else (add([a[0], b[0]]), "")

        if count:
            yield [_opened(self._numbers(count).map(lambda i: _answer(function, i)).treeReduce(both))]

    def _numbers(self, count: int) -> Any:
        return self._spark.parallelize(range(count), max(count, 1))


# A result, or why the input was refused: raised in a task it would fill the log and come back as text.
Answer = tuple[Any, str]


def _answer(function: Callable[[int], Any], i: int) -> Answer:
    try:
        return function(i), ""
    except InputError as error:
        return None, str(error)


def _opened(answer: Answer) -> Any:
    if answer[1]:
        raise InputError(answer[1])
    return answer[0]


def make(name: str) -> Engine:
    """The engine of that name.

    Raises:
      InputError: there is none, or it cannot be started.
    """
    if name not in ENGINES:
        raise InputError(f"--engine is {name!r}; choose {' or '.join(ENGINES)}.")
    return Spark() if name == "spark" else Local()
