"""Every class of transformers: the same numbers here, and the same bytes on the way back."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from ehrjax.hf import incoming, outgoing, verify
from tests.hf import models

TOLERANCE = 1e-4


@pytest.mark.parametrize("case", models.CASES)
def test_same_numbers_and_the_way_back_loses_nothing(case, tmp_path, caplog):
    models.save(case, tmp_path / "hf")
    told = incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")
    found = verify.verify(tmp_path / "hf", tmp_path / "run")
    assert found.hidden < TOLERANCE and found.tokens > 100
    has_head = not told["fresh"] and "base" not in case and "classifier" not in case
    assert (found.logits is not None) == has_head
    assert found.logits is None or found.logits < TOLERANCE

    outgoing.to_hf(tmp_path / "run", tmp_path / "back")
    before, after = models.tensors(tmp_path / "hf"), models.tensors(tmp_path / "back")
    assert set(before) == set(after)
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        np.testing.assert_array_equal(tensor, after[name], err_msg=name)
    given, returned = (json.loads((tmp_path / side / "config.json").read_text()) for side in ("hf", "back"))
    assert given == returned
    transformers.utils.logging.enable_propagation()
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="transformers"):
        _, info = models.CASES[case][0].from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not [r.message for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.parametrize("case", ["bert mlm tied", "gpt2 lm tied", "llama"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_comes_back_bit_for_bit(case, dtype, tmp_path):
    models.save(case, tmp_path / "hf", dtype=dtype)
    incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")
    assert verify.verify(tmp_path / "hf", tmp_path / "run").logits < TOLERANCE
    outgoing.to_hf(tmp_path / "run", tmp_path / "back")
    before, after = models.tensors(tmp_path / "hf"), models.tensors(tmp_path / "back")
    assert set(before) == set(after)
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype and tensor.tobytes() == after[name].tobytes()


OTHER = "gpt2 lm untied, 3 heads, narrow, relu"


@pytest.mark.parametrize(
    ("case", "layout"),
    [
        *(("bert mlm tied", layout) for layout in ("sharded", "bin", "sharded bin", "wrapped", "old names")),
        (OTHER, "sharded"),
        (OTHER, "bin"),
    ],
)
def test_other_layouts_give_the_same_run(case, layout, tmp_path):
    model = models.save(case, tmp_path / "plain")
    incoming.from_hf(str(tmp_path / "plain"), tmp_path / "expected")
    folder = tmp_path / "hf"
    if layout == "sharded":
        models.save(case, folder, max_shard_size="20KB")
        assert len(list(folder.glob("model-*.safetensors"))) > 2
    else:
        folder.mkdir()
        (folder / "config.json").write_text((tmp_path / "plain" / "config.json").read_text())
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        if layout == "wrapped":
            state = {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}
        if layout == "old names":
            pairs = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
            for new, old in pairs:
                state = {name.replace(new, old): tensor for name, tensor in state.items()}
        if layout == "sharded bin":
            names = sorted(state)
            parts = {"a.bin": names[: len(names) // 2], "b.bin": names[len(names) // 2 :]}
            for file, part in parts.items():
                torch.save({name: state[name] for name in part}, folder / file)
            index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
            (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        else:
            torch.save(state, folder / "pytorch_model.bin")
    incoming.from_hf(str(folder), tmp_path / "run")
    assert _sha(tmp_path / "run") == _sha(tmp_path / "expected")


def _sha(run: Path) -> str:
    import ehrjax
    from ehrjax.core import trees

    return trees.sha256(ehrjax.load(run).params)
