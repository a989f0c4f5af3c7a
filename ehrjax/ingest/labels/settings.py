"""From arguments to a task's settings: the module's defaults, a config file over them, --config.KEY=VALUE over both."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ehrjax.core import config as configs
from ehrjax.core import plugins
from ehrjax.core.errors import InputError
from ehrjax.ingest.roles import MEANINGS, check_patterns

PACKAGE = "ehrjax.ingest.labels.tasks"


@dataclass(frozen=True)
class Chosen:
    """A task with its settings.

    Attributes:
      task: the module's name.
      module: the module (`ehrjax.ingest.labels.tasks` says what it defines).
      settings: its `Settings`.
      name: the folder of its labels; the task's name unless the config says otherwise.
      roles: role -> regular expressions that replace the dataset's.
    """

    task: str
    module: ModuleType
    settings: Any
    name: str
    roles: Mapping[str, tuple[str, ...]]


def tasks() -> list[str]:
    """The names of all tasks."""
    return plugins.names(PACKAGE, "label")


def choose(task: str, *, name: str = "", roles: Mapping[str, Sequence[str]] | None = None, **settings: Any) -> Chosen:
    """A task by name, from Python.

    Args:
      task: a module of `ehrjax.ingest.labels.tasks`.
      name: the folder of its labels; default the task's name.
      roles: role -> regular expressions that replace the dataset's.
      **settings: fields of the task's `Settings`.

    Raises:
      InputError: there is no such task or setting, or a value cannot be.
    """
    module = plugins.find(PACKAGE, task, "label", key="task")
    name = name or task
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise InputError(f"config.name is {name!r}; it names a folder: use letters, digits, '_', '-' and '.'.")
    fields = {field.name: field.default for field in dataclasses.fields(module.Settings)}
    for key, value in settings.items():
        _refuse_unknown(key, [*fields, "task", "name", *(f"roles.{role}" for role in MEANINGS)], task)
        settings[key] = _typed(value, fields[key], f"config.{key}")
    checked = {role: check_patterns(patterns, f"config.roles.{role}") for role, patterns in (roles or {}).items()}
    return Chosen(task, module, module.Settings(**settings), name, checked)


def from_arguments(task: str | None, arguments: Sequence[str]) -> Chosen:
    """A task from `--task` and the arguments `--config=FILE[:ARG]` and `--config.KEY=VALUE`.

    Raises:
      InputError: no task is named or two are, or what `choose` raises.
    """
    files = [argument for argument in arguments if argument.split("=")[0] in ("--config", "-config")]
    given = configs.to_dict(configs.from_argv(files)) if files else {}
    named = given.pop("task", None)
    if task and named and task != named:
        raise InputError(f"--task is {task} but the config is for {named}; leave --task out or name another config.")
    if not (task or named):
        raise InputError(f"No task was named; add --task=NAME, one of {', '.join(tasks())}.")
    task = str(task or named)
    roles = given.pop("roles", {})
    if not isinstance(roles, dict):
        raise InputError("config.roles must hold a list of regular expressions for each role.")
    module = plugins.find(PACKAGE, task, "label", key="task")
    fields = {field.name: field.default for field in dataclasses.fields(module.Settings)}
    for argument in arguments:
        if argument in files:
            continue
        key, equals, text = argument.partition("=")
        key = key.lstrip("-")
        if not key.startswith("config.") or not equals:
            raise InputError(f"Unknown argument {argument}; settings are given as --config.KEY=VALUE.")
        key = key.removeprefix("config.")
        if key.startswith("roles."):
            roles[key.removeprefix("roles.")] = _parsed(text, (), argument)
        elif key == "name":
            given["name"] = text
        else:
            _refuse_unknown(key, [*fields, "name", *(f"roles.{role}" for role in MEANINGS)], task)
            given[key] = _parsed(text, fields[key], argument)
    return choose(task, roles=roles, **given)


def _refuse_unknown(key: str, known: Sequence[str], task: str) -> None:
    if key not in known:
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}."
        raise InputError(f"The task {task} has no setting {key!r}; {hint}")


def _typed(value: Any, default: Any, where: str) -> Any:
    """A value of the default's type; lists become tuples, whole numbers become floats where those are meant."""
    if isinstance(default, tuple) and isinstance(value, (list, tuple)):
        return tuple(value)
    if isinstance(default, tuple) and isinstance(value, str):
        return (value,)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if (default is None or isinstance(default, float)) and (number or value is None):
        return None if value is None else float(value)
    if type(value) is type(default):
        return value
    raise InputError(f"{where} is {value!r}, but must be {_wanted(default)}.")


def _parsed(text: str, default: Any, argument: str) -> Any:
    """The value of `--config.KEY=text`, of the default's type."""
    if isinstance(default, str):
        return text
    if isinstance(default, tuple):
        # A single regular expression may stand without brackets and quotes.
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return (text,)
        return tuple(value) if isinstance(value, (list, tuple)) else (value if isinstance(value, str) else text,)
    if isinstance(default, bool):
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
    elif text == "None":
        return None
    else:
        try:
            return int(text) if isinstance(default, int) else float(text)
        except ValueError:
            pass
    raise InputError(f"{argument}: the value must be {_wanted(default)}.")


def _wanted(default: Any) -> str:
    names = {bool: "true or false", int: "a whole number", str: "text", tuple: "a list"}
    return names.get(type(default), "a number")
