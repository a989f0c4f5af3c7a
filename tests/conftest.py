"""Shared fixtures: toy data small enough for every test, and a way to run the verbs as users do."""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from unittest import mock

# Before jax starts: eight devices on one CPU, and a cache so that no program is compiled twice in a test run. Programs
# are many and small, so that most of the time would go into optimising them, and into the slower one of XLA's two ways
# to write machine code. XLA does not start with a flag that it does not know, and flags come and go with its releases.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    + (" --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else "")
).strip()
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="ehrjax-jax-cache-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Each worker has its core: OpenMP threads that wait for a busy one keep it from its work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import polars as pl
import pytest
from hypothesis import settings

from ehrjax.core import files
from ehrjax.data import prepare_tokens, token_dataset
from ehrjax.ingest import meds
from ehrjax.vocab.recipe import Recipe

# Tracing programs makes so many objects that looking for garbage among all there are would take a tenth of the time.
gc.set_threshold(50_000)

# No test is timed; and fewer examples than by default, since there are many properties.
settings.register_profile("ehrjax", deadline=None, max_examples=40)
settings.load_profile("ehrjax")

ROOT = Path(__file__).resolve().parents[1]


def toy_events(subject: int, rng: np.random.Generator) -> pl.DataFrame:
    """One made-up subject: static sex, a birth before 1970, visits of codes and labs that depend on a topic."""
    topic, count = int(rng.integers(0, 5)), int(np.clip(np.exp(rng.normal(4.0, 1.0)), 3, 1200))
    birth = -int(rng.integers(0, 10**15))
    gaps = np.where(rng.random(count) < 0.15, rng.exponential(3e12, count), rng.exponential(3e9, count))
    times = birth + 10**15 + np.cumsum(gaps).astype(np.int64)
    labs = rng.random(count) < 0.3
    codes = [
        f"LAB//{rng.integers(0, 6)}//mg" if lab else f"DX//{topic * 12 + int(rng.integers(0, 12))}" for lab in labs
    ]
    values = [float(np.float32(rng.normal(topic, 2))) if lab else None for lab in labs]
    return pl.DataFrame(
        {
            "subject_id": [subject] * (count + 2),
            "time": pl.Series([None, birth, *times.tolist()], dtype=pl.Int64).cast(pl.Datetime("us")),
            "code": [f"GENDER//{'MF'[subject % 2]}", "MEDS_BIRTH", *codes],
            "numeric_value": pl.Series([None, None, *values], dtype=pl.Float32),
        }
    )


def write_meds(folder: Path, subjects: int, *, shards: int = 2, seed: int = 0) -> Path:
    """Writes toy subjects 0 .. subjects - 1 as a MEDS dataset."""
    rng = np.random.default_rng(seed)
    frames = [toy_events(subject, rng) for subject in range(subjects)]
    with files.written_folder(folder, what="MEDS dataset") as temporary:
        writer = meds.MedsWriter(temporary, "toy", "1")
        for part in np.array_split(np.arange(subjects), shards):
            writer.write_shard(pl.concat([frames[i] for i in part]))
        writer.finish({"DX//0": "the first diagnosis"})
    return folder


def behrt_recipe(*, drop: tuple[str, ...] = ("MEDS_BIRTH",), min_values: int = 50, **changes: object) -> Recipe:
    """BEHRT's grammar, with some values changed."""
    settings = {"filter_codes": {"drop": drop}, "bin_values": {"min_values": min_values}}
    return Recipe("behrt", settings=settings, **changes)


def pytest_collection_finish() -> None:
    """What all modules hold is no garbage, and not looked at again."""
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def _let_programs_go():
    """Compiled programs of a file are let go behind it: kept, they would fill the memory. The cache on disk stays."""
    yield
    import jax

    jax.clear_caches()


@pytest.fixture(scope="module", autouse=True)
def _devices(request: pytest.FixtureRequest) -> Iterator[None]:
    """One device: programs for more take longer to compile. A file that is about several says DEVICES = 8."""
    import jax

    some = jax.devices()[: getattr(request.module, "DEVICES", 1)]
    with mock.patch("jax.devices", lambda: some):
        yield


@pytest.fixture(scope="session")
def toy_meds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MEDS dataset of 150 toy subjects in two shards."""
    return write_meds(tmp_path_factory.mktemp("toy") / "meds", 150)


@pytest.fixture(scope="session")
def toy_tokens(toy_meds: Path) -> Path:
    """Its token dataset."""
    prepare_tokens.prepare(toy_meds, toy_meds.parent / "tokens", behrt_recipe(min_count=2))
    return toy_meds.parent / "tokens"


@pytest.fixture(scope="session")
def toy_labels(toy_tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three labels a subject at random times from its first event to three years after its last."""
    dataset, generator, rows = token_dataset.open_tokens(toy_tokens), np.random.default_rng(0), []
    for name in ("train", "tuning"):
        split = dataset.split(name)
        for i in range(len(split)):
            subject = split.subject(i)
            times = subject.times[subject.num_static :]
            drawn = np.sort(generator.integers(times[0], times[-1] + 3 * 365 * 86_400_000_000, 3))
            rows += [(subject.subject_id, int(time), bool(generator.random() < 0.5)) for time in drawn]
    schema = {"subject_id": pl.Int64, "prediction_time": pl.Int64, "boolean_value": pl.Boolean}
    path = tmp_path_factory.mktemp("labels") / "task.parquet"
    frame = pl.DataFrame(rows, schema=schema, orient="row").unique(["subject_id", "prediction_time"], keep="first")
    frame.with_columns(pl.col("prediction_time").cast(pl.Datetime("us"))).write_parquet(path)
    return path


@pytest.fixture
def data_folder() -> Path:
    """The real data folder; the test is skipped where EHRJAX_DATA does not name one."""
    if not os.environ.get("EHRJAX_DATA"):
        pytest.skip("EHRJAX_DATA does not name the folder of real data")
    return Path(os.environ["EHRJAX_DATA"])


def verb(name: str, *arguments: object, devices: int = 1, env: dict[str, str] | None = None) -> subprocess.Popen:
    """Starts `python -m ehrjax.<name> ...` with its own number of CPU devices, stdout and stderr piped."""
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",  # the last counts
        "PYTHONUNBUFFERED": "1",
        **(env or {}),
    }
    return subprocess.Popen(
        [sys.executable, "-m", f"ehrjax.{name}", *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_verb(name: str, *arguments: object, **options: object) -> subprocess.CompletedProcess:
    """Runs a verb to its end."""
    process = verb(name, *arguments, **options)
    out, err = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def run_here(name: str, *arguments: object) -> subprocess.CompletedProcess:
    """Runs a verb to its end in the test's own process: one of its own takes seconds to start."""
    main, out, err = importlib.import_module(f"ehrjax.{name}").main, io.StringIO(), io.StringIO()
    given, code = [str(argument) for argument in arguments], 0
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(given)
        except SystemExit as left:
            code = left.code
    return subprocess.CompletedProcess(given, code, out.getvalue(), err.getvalue())


def refused(name: str, *arguments: object, process: bool = False, env: dict[str, str] | None = None) -> str:
    """Runs a verb that must refuse its input: exit code 2, one sentence on stderr, no traceback.

    process: as users do, in one of its own; with `env` always.
    """
    result = run_verb(name, *arguments, env=env) if process or env else run_here(name, *arguments)
    code, said = result.returncode, result.stderr
    assert code == 2, (code, said)
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, said
    return lines[0].removeprefix("error: ")
