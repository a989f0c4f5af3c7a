"""Whose energy is told, and whose memory."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ehrjax.evals import efficiency


@pytest.mark.parametrize(
    ("shown", "card"), [(None, 0), ("0,1", 0), ("3, 1", 3), ("GPU-4f2a,GPU-77", "GPU-4f2a"), ("MIG-1", "MIG-1")]
)
def test_the_card_is_the_first_that_jax_is_shown(shown, card, monkeypatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if shown is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    nvml = SimpleNamespace(
        nvmlDeviceGetHandleByIndex=lambda number: number, nvmlDeviceGetHandleByUUID=lambda name: name
    )
    assert efficiency._card(nvml) == card


@pytest.mark.skipif(not efficiency.CLEAR.exists(), reason="Linux alone lets a process forget its peak")
def test_memory_that_was_let_go_before_is_not_counted() -> None:
    size = 400 * 2**20
    held = np.ones(size, np.uint8)
    with_it, _ = efficiency._peak_memory()
    del held
    assert efficiency._forget_peak()
    without, whose = efficiency._peak_memory()
    assert whose == "process" and with_it - without > 0.9 * size
