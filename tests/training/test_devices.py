"""The same config gives the same losses on any number of devices, however the mesh is laid out."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import jax
import numpy as np
import pytest

from ehrjax.core import mesh as meshes
from ehrjax.core import rng
from ehrjax.core.errors import InputError
from ehrjax.data import pipeline, token_dataset
from ehrjax.training import optimizer, run, state, step
from tests.conftest import refused, run_verb, verb

CONFIG = {
    "precision": "fp32",
    "model": dict(name="behrt", num_layers=2, num_heads=4, hidden_dim=32, embedding_dim=16, max_positions=64),
    "objective": dict(name="masked_codes"),
    "data": dict(context_length=64),
}
STEPS, ROWS = 10, 16
DEVICES = 8
SMOKE = "--config=configs/behrt.py:smoke"


def losses(
    tokens: Path,
    mesh: jax.sharding.Mesh,
    *,
    accumulate: int = 1,
    dropout: float = 0.1,
    config: dict | None = None,
) -> tuple[np.ndarray, dict]:
    dataset = token_dataset.open_tokens(tokens)
    model = dict(CONFIG["model"], dropout=dropout, attention_dropout=dropout)
    parts = run.build({**CONFIG, **(config or {"model": model})}, dataset.vocabulary)
    settings = pipeline.Settings(str(tokens), context_length=64, max_segments=8)
    key = rng.key_for(0, "run")
    schedule = optimizer.make_schedule(optimizer.ScheduleSettings("constant"), 1e-2, STEPS)
    chosen = optimizer.make(optimizer.Settings(), schedule, jax.eval_shape(parts.init, key))
    train = step.make_train_step(parts.model, parts.objective, chosen, schedule, accumulate)
    rows = meshes.local_rows(mesh, ROWS)
    source = pipeline.Batches(str(tokens), "train", settings, batch_size=ROWS, seed=0, rows=rows, count=STEPS)
    with jax.set_mesh(mesh):
        current, _ = state.create(lambda: parts.init(key), chosen, mesh)
        jitted, values = jax.jit(train, donate_argnums=0), []
        for _, _, batch in pipeline.iterate(source, settings):
            device = meshes.to_devices(mesh, run.select(batch, parts.fields), rows=rows, batch_size=ROWS)
            current, metrics = jitted(current, device, key)
            values.append(float(metrics["loss"]))
    return np.array(values), current.params


def make(data: int, fsdp: int, tensor: int) -> jax.sharding.Mesh:
    return meshes.make(meshes.Settings(data, fsdp, tensor), jax.devices()[: data * fsdp * tensor])


@pytest.fixture(scope="module")
def single(toy_tokens: Path) -> np.ndarray:
    return losses(toy_tokens, make(1, 1, 1))[0]


@pytest.mark.parametrize("layout", [(8, 1, 1), (1, 8, 1), (4, 2, 1), (1, 2, 4), (2, 2, 2)], ids=str)
def test_losses_do_not_depend_on_the_mesh(toy_tokens: Path, single: np.ndarray, layout: tuple[int, int, int]) -> None:
    assert single[-1] < single[0]
    values, params = losses(toy_tokens, make(*layout))
    np.testing.assert_allclose(values, single, rtol=1e-5)
    kernel = params["model"]["layers"]["mlp"]["up"]["kernel"]
    # Parameters really are split: each device holds 1 / (fsdp * tensor) of a matrix.
    assert kernel.addressable_data(0).size * layout[1] * layout[2] == kernel.size


SMALL = dict(num_layers=2, num_heads=4, hidden_dim=32)
OTHERS = {
    "cehr_bert": (dict(name="cehr_bert", mlp_dim=64, **SMALL), dict(name="masked_values", tied=True)),
    "llama": (
        dict(name="decoder", positions="rotary", norm="rms", gated=True, kv_heads=2, use_bias=False, **SMALL),
        dict(name="next_token", tied=False),
    ),
    "lstm": (
        dict(name="lstm", embedding_dim=16, hidden_dim=32, num_layers=2),
        dict(name="next_token", tied=False, use_bias=True),
    ),
    # What it leaves out depends on the whole batch.
    "visit_lstm": (
        dict(name="visit_lstm", embedding_dim=16, visit_dim=16, hidden_dim=32, num_layers=1, dropout=0.1),
        dict(name="time_to_events"),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_kinds_of_models_give_the_same_losses_on_a_mesh(toy_tokens: Path, name: str) -> None:
    config = dict(zip(("model", "objective"), OTHERS[name]))
    one, _ = losses(toy_tokens, make(1, 1, 1), config=config)
    several, params = losses(toy_tokens, make(2, 2, 2), config=config)
    assert np.isfinite(one).all() and np.ptp(one) > 0.02, "the parameters move"
    np.testing.assert_allclose(several, one, rtol=2e-5)
    whole = sum(leaf.size for leaf in jax.tree.leaves(params))
    held = sum(leaf.addressable_data(0).size for leaf in jax.tree.leaves(params))
    assert held < 0.6 * whole, "the parameters are split"


def test_accumulation_adds_by_token(toy_tokens: Path) -> None:
    # Without dropout, micro-batches of very different token counts must give exactly the whole batch's update.
    whole, _ = losses(toy_tokens, make(1, 1, 1), dropout=0.0)
    split, _ = losses(toy_tokens, make(2, 1, 1), accumulate=4, dropout=0.0)
    np.testing.assert_allclose(split, whole, rtol=1e-5)


def test_rows_must_divide(toy_tokens: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch_size=12 rows cannot be divided over 8 devices"):
        meshes.check_batch(make(4, 2, 1), 12, 1)
    with pytest.raises(InputError, match="does not make the 8 devices"):
        meshes.make(meshes.Settings(3, 1, 1), jax.devices()[:8])
    for argument, message in (
        ("--config.batch_size=6", "batch_size=6 rows cannot be divided over 8 devices"),
        ("--config.mesh.tensor=3", "does not make the 8 devices"),
    ):
        said = refused("train", SMOKE, f"--config.data.path={toy_tokens}", argument, f"--workdir={tmp_path / 'run'}")
        assert message in said and not (tmp_path / "run" / "checkpoints").exists()


def test_two_processes_of_two_devices(toy_tokens: Path, tmp_path: Path) -> None:
    arguments = (
        SMOKE,
        f"--config.data.path={toy_tokens}",
        "--config.report.enabled=False",
        "--config.num_steps=10",
        "--config.log_every=1",
        "--config.tensorboard=False",
    )
    alone, together = tmp_path / "alone", tmp_path / "together"
    result = run_verb("train", *arguments, f"--workdir={alone}")
    assert result.returncode == 0, result.stderr
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    group = [
        verb(
            "train",
            *arguments,
            f"--workdir={together}",
            "--config.mesh.fsdp=2",
            f"--coordinator=localhost:{port}",
            "--num-processes=2",
            f"--process-id={i}",
            devices=2,
        )
        for i in range(2)
    ]
    outputs = [process.communicate(timeout=300) for process in group]
    assert [process.returncode for process in group] == [0, 0], outputs
    read = [
        [line["loss"] for line in map(json.loads, (folder / "metrics.jsonl").open()) if "loss" in line]
        for folder in (alone, together)
    ]
    assert len(read[0]) == 10
    np.testing.assert_allclose(read[1], read[0], rtol=1e-5)
