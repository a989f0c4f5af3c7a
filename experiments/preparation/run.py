"""Events a second and peak memory from MEDS to a token dataset, beside MEDS-transforms on the same events.

    python experiments/preparation/run.py --peer=VENV [--events=10000000] [--repeats=3] [--large=100000000] [--work=DIR]

Prints one table. The README beside this file says what is measured and how.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import polars as pl
import yaml

from ehrjax.ingest import synthetic

ROOT = Path(__file__).resolve().parents[2]
EVENTS_A_PATIENT = 229
MIN_COUNT, QUANTILES = 5, [round(0.1 * k, 1) for k in range(1, 10)]
GOAL_EVENTS, GOAL_RATIO, GOAL_GIB = 3e6, 3.0, 4.0


def make_events(folder: Path, events: int) -> int:
    """Writes about so many synthetic events, unless they are there; returns how many there are."""
    if not folder.exists():
        synthetic.write(folder, patients=round(events / EVENTS_A_PATIENT), seed=0)
    return sum(pl.scan_parquet(path).select(pl.len()).collect().item() for path in folder.glob("data/*/*.parquet"))


def resident(root: int) -> int:
    """Bytes of memory that a process and its descendants hold now (shared pages count for each)."""
    children: dict[int, list[int]] = {}
    size: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
            size[int(entry.name)] = int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    total, todo = 0, [root]
    while todo:
        pid = todo.pop()
        total += size.get(pid, 0)
        todo += children.get(pid, [])
    return total


def measured(command: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Seconds of a whole process with its start, and GiB at its peak, descendants included."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=env)
        peak, done = 0, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not done.wait(0.05):
                peak = max(peak, resident(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        code = process.wait()
        done.set()
        watcher.join()
        if code:
            log.seek(0)
            raise SystemExit(f"{command[0]} failed:\n{log.read()[-3000:]}")
    return time.perf_counter() - started, peak / 2**30


def ours(source: Path, output: Path) -> tuple[float, float]:
    """Filters rare codes, fits and applies deciles, numbers visits, orders, and writes token ids as ragged arrays."""
    shutil.rmtree(output, ignore_errors=True)
    config = ROOT / "configs" / "tokens" / "behrt.py"
    command = [sys.executable, "-m", "ehrjax.prepare", "tokens", f"--config={config}", "--config.rare=drop"]
    return measured([*command, f"--input={source}", f"--output={output}"], dict(os.environ))


def theirs(source: Path, output: Path, peer: Path, workers: int) -> tuple[float, float]:
    """MEDS-transforms: aggregate, filter rare codes, bin by the aggregated deciles, vocabulary, order within a time."""
    shutil.rmtree(output, ignore_errors=True)
    stages = [
        {
            "aggregate_code_metadata": {
                "aggregations": ["code/n_occurrences", {"name": "values/quantiles", "quantiles": QUANTILES}],
                "do_summarize_over_all_codes": False,
            }
        },
        {"filter_measurements": {"min_occurrences_per_code": MIN_COUNT}},
        "bin_numeric_values",
        "fit_vocabulary_indices",
        {"reorder_measurements": {"ordered_code_patterns": ["MEDS_BIRTH", "ENCOUNTER.*", "REASON.*", ".*"]}},
    ]
    pipeline = {"input_dir": str(source), "output_dir": str(output), "description": "the same work", "stages": stages}
    if workers > 1:
        pipeline["parallelize"] = {"n_workers": workers, "launcher": "joblib"}
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(pipeline))
    env = {**os.environ, "PATH": f"{peer / 'bin'}:{os.environ['PATH']}"}
    return measured([str(peer / "bin" / "MEDS_transform-pipeline"), str(path)], env)


def spread(values: list[float], digits: int) -> str:
    """median (lowest..highest)"""
    shown = [f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values))]
    return f"{shown[0]} ({shown[1]}..{shown[2]})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="a virtual environment with MEDS-transforms; without it ehrjax alone")
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--large", type=int, default=0, help="also prepare so many events, for memory and linear time")
    parser.add_argument("--work", type=Path, default=Path("preparation"), help="where events and tokens go")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    source = args.work / f"events-{args.events}"
    events = make_events(source, args.events)
    print(f"{events:,} events; {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    ways = {"ehrjax": lambda: ours(source, args.work / "tokens")}
    if args.peer:
        for workers in (1, 2):
            name = f"MEDS-transforms, {workers} worker{'s' * (workers > 1)}"
            ways[name] = lambda workers=workers: theirs(source, args.work / "peer", args.peer.absolute(), workers)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for repeat in range(args.repeats):
        for name, way in ways.items():
            found[name].append(way())
            print(
                f"  repeat {repeat + 1}: {name}: {found[name][-1][0]:.1f} s, {found[name][-1][1]:.2f} GiB", flush=True
            )
    print("\n| | seconds | million events a second | peak GiB | ehrjax is faster by |\n|---|---|---|---|---|")
    for name, results in found.items():
        seconds, memory = [s for s, _ in results], [m for _, m in results]
        rate = spread([events / s / 1e6 for s in seconds], 2)
        ratio = spread([theirs / mine[0] for theirs, mine in zip(seconds, found["ehrjax"])], 1)
        print(f"| {name} | {spread(seconds, 1)} | {rate} | {max(memory):.2f} | {ratio} |")
    print(f"\ngoals: {GOAL_EVENTS / 1e6:g} million events a second, {GOAL_RATIO:g} times the peer")
    if args.large:
        source = args.work / f"events-{args.large}"
        large = make_events(source, args.large)
        seconds, memory = ours(source, args.work / "tokens")
        rate = large / seconds / 1e6
        print(f"\n{large:,} events: {seconds:.1f} s, {rate:.2f} million a second, {memory:.2f} GiB (goal {GOAL_GIB:g})")


if __name__ == "__main__":
    main()
