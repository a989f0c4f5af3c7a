"""What tensors are called: wrappers, prefixes and old spellings of foreign names, and the names on the way out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import ModuleType

from ehrjax.core.errors import InputError
from ehrjax.hf import source, tensors

# What wrappers put before every name: DistributedDataParallel, torch.compile, PEFT, and models inside models.
_WRAPPERS = ("module.", "_orig_mod.", "base_model.model.", "model.")
_OLD = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}

Prefix = str | tuple[str, ...]


def canonical(found: Mapping[str, tensors.Tensor], prefix: Prefix) -> dict[str, tuple[str, tensors.Tensor]]:
    """Name without wrappers and prefix, in today's spelling -> name there and tensor.

    Raises:
      InputError: two names are one.
    """
    result: dict[str, tuple[str, tensors.Tensor]] = {}
    for name, tensor in found.items():
        short = canonical_name(name, prefix)
        if short in result:
            raise InputError(f"The checkpoint holds {short} twice, as {result[short][0]} and as {name}.")
        result[short] = (name, tensor)
    return result


def canonical_name(name: str, prefix: Prefix) -> str:
    """A name without wrappers and prefix, in today's spelling."""
    while start := next((w for w in (*_WRAPPERS, *_all(prefix)) if w and name.startswith(w)), None):
        name = name.removeprefix(start)
    return _today(name)


def _today(name: str) -> str:
    for old, new in _OLD.items():
        name = re.sub(rf"{re.escape(old)}$", new, name)
    return name


def _all(prefix: Prefix) -> tuple[str, ...]:
    return (prefix,) if isinstance(prefix, str) else prefix


def in_head(family: ModuleType) -> set[str]:
    """The names of a family's own head, which have no prefix."""
    return {
        name
        for rule in family.RULES
        if rule.group
        for name in ((rule.names,) if isinstance(rule.names, str) else rule.names)
    }


def by_class(name: str, family: ModuleType) -> str:
    """The name that transformers' class with the family's head has for a canonical one."""
    return name if name in in_head(family) else _all(family.PREFIX)[0] + name


def without_wrappers(name: str, family: ModuleType) -> str:
    """A foreign name without what wrappers put before it; the family's prefix stays."""
    own = _all(family.PREFIX)
    while wrapper := next((w for w in _WRAPPERS if name.startswith(w)), None):
        rest = name.removeprefix(wrapper)
        if wrapper in own and not rest.startswith((*own, *_WRAPPERS)):
            break
        name = rest
    return name


def wrapper_of(given: Iterable[str], family: ModuleType) -> str:
    """What stands before the names of a checkpoint so that transformers does not know them; "" where nothing does."""
    for name in given:
        if (plain := without_wrappers(name, family)) != name:
            return name.removesuffix(plain)
    return ""


def going_out(
    names: Iterable[str], family: ModuleType, came: source.Source | None, *, by_classes: bool
) -> dict[str, tuple[str, str]]:
    """Canonical name -> name and dtype to write.

    Args:
      names: of the tensors that the run has, and of the copies of these.
      family: the family's module.
      came: where the run came from; its names are written again.
      by_classes: the names of transformers' classes instead, whatever the names were.
    """
    names = set(names)
    if came is None or not came.names:
        return {name: (by_class(name, family), "float32") for name in names}
    first = next(iter(came.names.values()))[1]
    result = {}
    for name in names:
        there = came.stands.get(name, name)
        # What stood for another tensor may have become a tensor of its own.
        known = there in came.names and (there == name or there not in names)
        given, dtype = came.names[there] if known else (_like_others(name, family, came), first)
        result[name] = (by_class(there if known else name, family) if by_classes else given, dtype)
    return result


def _like_others(name: str, family: ModuleType, came: source.Source) -> str:
    """The name of a tensor that the checkpoint did not have, with the prefix of those it had."""
    heads = in_head(family)
    for other, (given, _) in came.names.items():
        if (other in heads) == (name in heads) and given.endswith(other):
            return given.removesuffix(other) + name
    return by_class(name, family)
