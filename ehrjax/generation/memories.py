"""The memory of a model (models/memory.py) as one pytree that the decoding loop carries, whatever the model keeps.

Entries are paths below the model; each layer has either an attention's entries or a recurrence's. What a group of rows
shares begins with `prompt_`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from ehrjax.core import trees
from ehrjax.models.memory import KEPT, MEMORY

Memory = dict[str, Array]

_SHARED = ("prompt_visible", "own_visible", "slot")


def kept(variables: Mapping[str, Any], lengths: Int[Array, " prompts"]) -> Memory:
    """What a pass over prompts [F, P] left, as entries that `attach` takes: prompt_keys [F, kv, P, K], ... .

    lengths: of each prompt; a recurrence's state is that behind its last token.
    """
    entries = {}
    last = jnp.arange(len(lengths)), lengths - 1
    for path, (value,) in trees.flatten(variables[KEPT]).items():
        parent, name = path.rsplit("/", 1)
        value = value.swapaxes(1, 2) if name in ("keys", "values") else value[last]
        entries[f"{parent}/prompt_{name}"] = value
    return entries


def empty(prompts: Memory, *, groups: int, each: int, capacity: int) -> Memory:
    """Room for `groups` prompts like those of `prompts`, and for `capacity` own tokens of `each` rows a group."""
    memory = {}
    for path, value in prompts.items():
        memory[path] = jnp.zeros((groups, *value.shape[1:]), value.dtype)
        parent, name = path.rsplit("/prompt_", 1)
        if name in ("keys", "values"):
            kv, _, width = value.shape[1:]
            memory[f"{parent}/own_{name}"] = jnp.zeros((groups * each, kv, capacity, width), value.dtype)
        else:
            memory[f"{parent}/{name}"] = jnp.zeros((groups * each, *value.shape[1:]), value.dtype)
    return memory


def attach(memory: Memory, prompts: Memory, index: Int[Array, ""], group: Int[Array, ""]) -> Memory:
    """The memory with prompt `index` of `prompts` as what group `group` shares."""
    return {**memory, **{path: memory[path].at[group].set(value[index]) for path, value in prompts.items()}}


def begun(memory: Memory, rows: Bool[Array, " rows"]) -> Memory:
    """The memory with these rows' recurrences behind their prompts (own keys are forgotten by the row's count)."""
    memory = dict(memory)
    for path, value in memory.items():
        parent, name = path.rsplit("/", 1)
        if f"{parent}/prompt_{name}" in memory:
            prompt = memory[f"{parent}/prompt_{name}"]
            prompt = jnp.repeat(prompt, len(rows) // len(prompt), axis=0)
            memory[path] = jnp.where(rows[:, None], prompt, value)
    return memory


def capacity(memory: Memory) -> int:
    """Slots for own tokens; 0 for a model without attention."""
    return next((x.shape[2] for path, x in memory.items() if path.endswith("/own_keys")), 0)


def resized(memory: Memory, slot: Int[Array, ""], size: int) -> Memory:
    """The memory with `size` slots: the newest tokens, the newest of all in slot (slot - 1) % size as it must be."""
    result = dict(memory)
    for path, value in memory.items():
        if path.rsplit("/", 1)[1] in ("own_keys", "own_values"):
            old = value.shape[2]
            ages = (slot - 1 - jnp.arange(size)) % size  # how many steps ago slot i was written
            result[path] = jnp.take(value, (slot - 1 - ages) % old, axis=2)
    return result


def primed(memory: Memory, prompts: Memory, index: Int[Array, ""], row: Int[Array, ""], slot: Int[Array, ""]) -> Memory:
    """The memory with prompt `index` of `prompts`, whole, as the own tokens of one row.

    The prompts lie at the end of their [P]: its last column goes to the newest slot.
    """
    result = dict(memory)
    for path, value in prompts.items():
        parent, name = path.rsplit("/prompt_", 1)
        own = memory[f"{parent}/own_{name}"]
        size, length = own.shape[2], value.shape[2]
        slots = (slot - length + jnp.arange(length)) % size
        result[f"{parent}/own_{name}"] = own.at[row, :, slots].set(value[index].swapaxes(0, 1))
    return result


def variables(memory: Memory, shared: Mapping[str, Array]) -> dict[str, Any]:
    """The collection MEMORY; `shared` (slot, prompt_visible, own_visible) is shown to every attention."""
    entries = dict(memory)
    for path in memory:
        if path.endswith("/own_keys"):
            parent = path.rsplit("/", 1)[0]
            entries.update({f"{parent}/{name}": shared[name] for name in _SHARED})
    return {MEMORY: trees.unflatten(entries)}


def of_variables(changed: Mapping[str, Any], memory: Memory) -> Memory:
    """The memory that a call of the model left."""
    entries = trees.flatten(changed[MEMORY])
    return {path: entries[path] for path in memory}
