"""Configs: runnable Python files with `get_config(arg)`, overridden on the command line, locked, fingerprinted.

`--config=configs/behrt.py:smoke --config.optimizer.learning_rate=3e-4` (ml-collections config flags).
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from absl import flags
from ml_collections import ConfigDict, config_flags

from ehrjax.core.errors import InputError

T = TypeVar("T")


def from_argv(argv: Sequence[str]) -> ConfigDict:
    """Builds the locked config from `--config=FILE[:ARG]` and `--config.KEY=VALUE` arguments.

    Raises:
      InputError: no config, a file that does not exist, an unknown key or a value of the wrong type.
    """
    given = [argument for argument in argv if argument.split("=")[0] in ("--config", "-config")]
    if not given or "=" not in given[-1]:
        raise InputError("No config was named; add --config=configs/NAME.py.")
    path = given[-1].split("=", 1)[1].split(":", 1)[0]
    if not Path(path).is_file():
        raise InputError(f"The config file {path} does not exist.")
    if checkpoint := _checkpoint(argv, path):
        recipe = given[-1] + ("" if ":" in given[-1] else ":") + f"@{checkpoint}"
        argv = [recipe if argument is given[-1] else argument for argument in argv]
        given = [recipe]
    known = _parse([given[-1]])
    keys = set(flatten(known))
    for argument in argv:
        name = argument.split("=")[0].lstrip("-")
        if name.startswith("config.") and name.removeprefix("config.") not in keys:
            close = difflib.get_close_matches(name.removeprefix("config."), keys, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise InputError(f"The config {path} has no key {name.removeprefix('config.')!r}{hint}")
    return _parse(argv)


def _checkpoint(argv: Sequence[str], path: str) -> str:
    """The run that a recipe starts from, for a recipe that takes its model from there (STARTS_FROM_RUN)."""
    given = [a.split("=", 1)[1] for a in argv if a.startswith("--config.init.checkpoint=")]
    if not given or "STARTS_FROM_RUN" not in Path(path).read_text(encoding="utf-8"):
        return ""
    return given[-1]


def _parse(argv: Sequence[str]) -> ConfigDict:
    values = flags.FlagValues()
    arguments = ["ehrjax", *argv]
    holder = config_flags.DEFINE_config_file("config", flag_values=values, lock_config=True, sys_argv=arguments)
    try:
        rest = values(arguments)
    except flags.UnrecognizedFlagError as error:
        raise InputError(f"Unknown argument --{error.flagname}; config values are --config.KEY=VALUE.") from error
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"The config cannot be used: {_sentence(error)}.") from error
    if len(rest) > 1:
        raise InputError(f"Unknown argument {rest[1]}; config values are given as --config.KEY=VALUE.")
    return holder.value


def _sentence(error: Exception) -> str:
    """What the error says, in one line; of a config file that failed, its own exception's message."""
    lines = [line.strip() for line in str(error).strip().strip("'\"").splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "whilst parsing config file" in lines[0]:
        return re.sub(r"^\w+(Error|Exception): ", "", lines[-1]).rstrip(".")
    return lines[0].rstrip(".")


def to_dict(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """The config as plain nested dicts of JSON values (tuples become lists)."""
    plain = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    return json.loads(json.dumps(plain))


def flatten(config: ConfigDict | Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in to_dict(config).items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            flat.update(flatten(value, f"{name}.") or {name: {}})
        else:
            flat[name] = value
    return flat


def fingerprint(value: object) -> str:
    """The first 16 hex digits of the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def into(cls: type[T], config: ConfigDict | Mapping[str, Any], *, where: str, **more: Any) -> T:
    """Builds the dataclass `cls` from a config section; an unknown or missing key is one sentence.

    Args:
      cls: a dataclass.
      config: its section of the config.
      where: the section's name, for messages ("optimizer").
      more: fields that do not come from the config.
    """
    given = {**dict(config), **more}
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(given) - set(fields))
    if unknown:
        close = difflib.get_close_matches(unknown[0], list(fields), n=1)
        hint = f"; did you mean {where}.{close[0]}?" if close else f"; it has {', '.join(sorted(fields))}."
        raise InputError(f"config.{where} has no key {unknown[0]!r}{hint}")
    missing = [
        name
        for name, field in fields.items()
        if name not in given and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise InputError(f"config.{where} lacks the key {missing[0]!r}.")
    return cls(**given)


def from_options(cls: type[T] | None, arguments: Sequence[str], *, verb: str) -> tuple[T, ...]:
    """Builds the settings dataclass of a part from `--key=value` arguments, by the types of its fields.

    Args:
      cls: a dataclass whose fields are str, int, float or bool, all with defaults; None: no options.
      arguments: the arguments that are left.
      verb: whose options these are, for messages ("the source omop").

    Returns:
      The settings, or nothing where there is no class.

    Raises:
      InputError: an unknown option, or a value of the wrong type.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)} if cls else {}  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if not argument.startswith("--") or not equals or name not in fields:
            close = difflib.get_close_matches(name, list(fields), n=1)
            hint = f"; did you mean --{close[0]}=?" if close else f"; it has {', '.join(fields) or 'no options'}."
            raise InputError(f"Unknown argument {argument} of {verb}{hint}")
        given[name] = _option(text, fields[name].default, argument)
    return (cls(**given),) if cls else ()


def _option(text: str, default: Any, argument: str) -> Any:
    """The value of an option, of its default's type."""
    if isinstance(default, bool):
        values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if text.lower() not in values:
            raise InputError(f"{argument}: the value must be true or false.")
        return values[text.lower()]
    try:
        return type(default)(text)
    except ValueError as error:
        raise InputError(
            f"{argument}: the value is not {'a whole number' if type(default) is int else 'a number'}."
        ) from error


# What may change between two runs on one workdir: how long, how often something is reported, and the machine.
RESUMABLE = (
    "num_steps",
    "num_epochs",
    "log_every",
    "eval_every",
    "eval_at",
    "checkpoint_every",
    "mesh.",
    "data.num_workers",
    "data.prefetch",
    "profile.",
    "wandb.",
    "tensorboard",
    "report.",
)


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The dotted keys whose values differ and may not, when a run is resumed."""
    a, b = flatten(old), flatten(new)
    differing = [key for key in sorted(set(a) | set(b)) if a.get(key, KeyError) != b.get(key, KeyError)]
    return [key for key in differing if not key.startswith(RESUMABLE)]
