"""Finding a part by its module's name: the file is the registry."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from types import ModuleType

from ehrjax.core.errors import InputError


def names(package: str, attribute: str) -> list[str]:
    """The modules of a package that define `attribute`."""
    folder = importlib.import_module(package)
    found = [module.name for module in pkgutil.iter_modules(folder.__path__)]
    return sorted(n for n in found if hasattr(importlib.import_module(f"{package}.{n}"), attribute))


def find(package: str, name: str, attribute: str, *, key: str) -> ModuleType:
    """The module `name` of `package`, which must define `attribute`.

    Args:
      package: for example "ehrjax.models".
      name: the module's name, from a config.
      attribute: what marks a module as a part ("Model").
      key: the config key that named it, for the message.

    Raises:
      InputError: there is no such part.
    """
    folder = importlib.import_module(package)
    # The others are imported only to say which there are.
    if name in {module.name for module in pkgutil.iter_modules(folder.__path__)}:
        module = importlib.import_module(f"{package}.{name}")
        if hasattr(module, attribute):
            return module
    known = names(package, attribute)
    close = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}."
    raise InputError(f"config.{key} is {name!r}, which does not exist; {hint}")
