"""Memory that is freed and needed again a moment later stays with the process.

Preparation works piece by piece and takes the same large blocks again for every piece, and on a CPU so does each step
of training. Given back to the system in between, each of their pages costs a fault; on a virtual machine that is up to
half of the time of preparation, and a fifth of that of training.
"""

from __future__ import annotations

import ctypes
import os
import sys

# For the allocator of polars; read once, when polars is imported.
_POLARS = "_RJEM_MALLOC_CONF"
_DECAY = "dirty_decay_ms:60000,muzzy_decay_ms:60000"
# glibc's mallopt: what is smaller comes from the heap, and the heap is not trimmed below that.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_BYTES = 1 << 30
# Threads have heaps of their own, which are given back whatever the thresholds say; XLA's would be such.
_ARENAS = -8


def keep_freed() -> None:
    """Call it before polars and jax are imported; elsewhere than on Linux with glibc it does little or nothing."""
    os.environ.setdefault(_POLARS, _DECAY)
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _BYTES)
        mallopt(_TRIM_THRESHOLD, _BYTES)
        mallopt(_ARENAS, 1)
