"""What a run costs: parameters, time and memory of training and inference, energy where the machine tells it."""

from __future__ import annotations

import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ehrjax.core import trees
from ehrjax.core.errors import InputError
from ehrjax.core.writer import read_metrics
from ehrjax.data.labelled import LabelledSplit
from ehrjax.evals import packed, predicting

LATENCIES = 30
RAPL = Path("/sys/class/powercap")
CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def measure(run: Any, part: LabelledSplit, *, batches: int = 20) -> dict[str, Any]:
    """Numbers about a run on this machine: of its predictions, or of its states where it was not trained on labels.

    Args:
      run: an opened run.
      part: labelled windows to predict; at least one.
      batches: packed batches that throughput is measured on.

    Returns:
      parameters, trainable_parameters; windows_per_second and tokens_per_second of packed batches; latency_ms and
      latency_ms_95 of one window by itself (median and 95 % quantile); peak_memory_bytes and what memory that is
      ("so far" where what came before could not be left out of it);
      training_seconds (None where the run does not tell); joules_per_thousand_windows (None likewise); device.
    """
    forgotten = _forget_peak()
    content = predicting.content_of(part)
    made = []
    for batch, placed in packed.batches(run, content, predicting.ROWS):
        made.append((batch, placed))
        if len(made) == batches:
            break
    _wait(run, made[0][0])
    joules, begun = _joules(), time.perf_counter()
    for batch, _ in made:
        _wait(run, batch)
    seconds = time.perf_counter() - begun
    used = _joules()
    windows = sum(len(placed) for _, placed in made)
    tokens = sum(int(np.count_nonzero(batch["segment_ids"])) for batch, _ in made)
    singles = [batch for batch, _ in packed.batches(run, content[:1], 1)]
    _wait(run, singles[0])
    latencies = []
    for _ in range(LATENCIES):
        begun = time.perf_counter()
        _wait(run, singles[0])
        latencies.append(1000 * (time.perf_counter() - begun))
    memory, which = _peak_memory()
    which += "" if forgotten else ", so far"
    return {
        "parameters": trees.count(run.params),
        "trainable_parameters": trainable(run),
        "windows_per_second": windows / seconds,
        "tokens_per_second": tokens / seconds,
        "latency_ms": float(np.median(latencies)),
        "latency_ms_95": float(np.quantile(latencies, 0.95)),
        "peak_memory_bytes": memory,
        "memory_of": which,
        "training_seconds": training_seconds(run.folder),
        "joules_per_thousand_windows": (
            None if joules is None or used is None or used < joules else 1000 * (used - joules) / windows
        ),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }


def trainable(run: Any) -> int:
    """The parameters whose learning rate was above zero (config.optimizer.rate_rules); of a converted run all."""
    rules = run.config.get("optimizer", {}).get("rate_rules", [("", 1.0)])
    rates = trees.multipliers(tuple((path, factor) for path, factor in rules), run.params)
    flat = trees.flatten(run.params)
    total = 0
    for path, factor in trees.flatten(rates).items():
        share = np.count_nonzero(np.asarray(factor)) / max(np.asarray(factor).size, 1)
        total += round(flat[path].size * share)
    return total


def training_seconds(folder: Path) -> float | None:
    """Seconds of training steps, evaluation and saving not counted; None where the run does not tell them."""
    try:
        lines = read_metrics(folder / "metrics.jsonl")
    except (InputError, OSError):
        return None
    told = [line["seconds"] for line in lines if "seconds" in line]
    return float(sum(told)) if told else None


def _wait(run: Any, batch: Any) -> None:
    jax.block_until_ready(run.predictions(batch) if run.supervised else run.encode(batch))


def _device_peak() -> int | None:
    """The most bytes of the device that were in use so far; None where it does not tell."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def _forget_peak() -> bool:
    """Lets the process's peak memory count from now on; False where only a peak so far is to be had."""
    if _device_peak() is not None:
        return False
    try:
        CLEAR.write_text("5")  # Linux (proc_pid_clear_refs(5))
    except OSError:
        return False
    return True


def _peak_memory() -> tuple[int, str]:
    """Bytes, and whose: the device's where it tells, else this process's."""
    peak = _device_peak()
    if peak is not None:
        return int(peak), "device"
    if STATUS.exists():
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        if "VmHWM" in lines:
            return 1024 * int(lines["VmHWM"].split()[0]), "process"
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale, "process"


def _joules() -> float | None:
    """Energy used so far: of the GPU by NVML, else of the processor's packages by RAPL; None where neither is told."""
    if jax.default_backend() == "gpu":
        try:
            import pynvml

            pynvml.nvmlInit()
            return pynvml.nvmlDeviceGetTotalEnergyConsumption(_card(pynvml)) / 1000
        except Exception:  # NVML has its own errors for cards that do not tell, and it may be absent
            return None
    packages = sorted(RAPL.glob("intel-rapl:?/energy_uj"))
    try:
        return sum(int(path.read_text()) for path in packages) / 1e6 if packages else None
    except OSError:  # readable by root alone on many machines
        return None


def _card(nvml: Any) -> Any:
    """NVML's handle of the first card that jax is shown; NVML itself counts all cards of the machine."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    return nvml.nvmlDeviceGetHandleByIndex(int(first)) if first.isdigit() else nvml.nvmlDeviceGetHandleByUUID(first)
