"""`verify` where the two sides are not a folder and the run that it became: one sentence, or a non-zero exit."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import torch

from ehrjax import convert
from ehrjax.core.errors import InputError
from ehrjax.hf import incoming, outgoing, verify
from tests.hf import born, models
from tests.hf.test_safety import trapped


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A folder of BERT, and the run that it became."""
    folder = tmp_path_factory.mktemp("verify")
    models.save("bert mlm tied", folder / "hf")
    incoming.from_hf(str(folder / "hf"), folder / "run")
    return folder


def test_our_own_behrt_is_run_and_changed_code_is_not(tmp_path):
    born.write(tmp_path / "run", "behrt tied, segments, sinusoids")
    outgoing.to_hf(tmp_path / "run", tmp_path / "hf")
    found = verify.verify(tmp_path / "hf", tmp_path / "run")
    assert found.alike and found.hidden < 1e-4 and found.logits < 1e-4
    code = tmp_path / "hf" / "modeling_behrt.py"
    code.write_text(f"import os\nos.mkdir({str(tmp_path / 'sprung')!r})\n" + code.read_text())
    with pytest.raises(InputError, match="has code that is not what to-hf writes"):
        verify.verify(tmp_path / "hf", tmp_path / "run")
    assert not (tmp_path / "sprung").exists()


def test_a_class_that_transformers_has_not(there, tmp_path):
    from tests.hf import test_cehrbert

    test_cehrbert.save("plain", tmp_path / "hf")
    with pytest.raises(InputError, match="transformers has no class for cehrbert"):
        verify.verify(tmp_path / "hf", there / "run")


def edited(folder, target, **changes):
    shutil.copytree(folder, target)
    told = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**told, **changes}))
    return target


def test_folders_that_cannot_be_opened(there, tmp_path):
    (tmp_path / "empty").mkdir()
    for folder, message in (
        (tmp_path / "none", "does not exist"),
        (tmp_path / "empty", "config.json is missing"),
        (edited(there / "hf", tmp_path / "t5", model_type="t5"), "cannot convert"),
        (edited(there / "hf", tmp_path / "wide", intermediate_size=31), "has another shape|transformers cannot open"),
    ):
        with pytest.raises(InputError, match=message) as error:
            verify.verify(folder, there / "run")
        assert "\n" not in str(error.value)


def test_another_model_is_refused(there, tmp_path):
    models.save("gpt2 lm tied", tmp_path / "gpt2")
    with pytest.raises(InputError, match="is a gpt2, here gpt2, .* is a bert"):
        verify.verify(tmp_path / "gpt2", there / "run")
    config = models.hf.BertConfig(**{**models.BERT, "vocab_size": 90})
    models.hf.BertForMaskedLM(config).save_pretrained(tmp_path / "large")
    with pytest.raises(InputError, match="has a vocabulary of 90 rows, .* one of 83"):
        verify.verify(tmp_path / "large", there / "run")
    config = models.hf.BertConfig(**{**models.BERT, "num_hidden_layers": 1})
    models.hf.BertForMaskedLM(config).save_pretrained(tmp_path / "flat")
    with pytest.raises(InputError, match="num_layers = 1, .* has 2"):
        verify.verify(tmp_path / "flat", there / "run")


def test_names_that_transformers_ignores_are_refused(there, tmp_path):
    shutil.copytree(there / "hf", tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").unlink()
    state = {f"module.{name}": torch.tensor(array) for name, array in models.tensors(there / "hf").items()}
    torch.save(state, tmp_path / "hf" / "pytorch_model.bin")
    incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")
    with pytest.raises(InputError, match="names there begin with 'module.'.* --plain_names"):
        verify.verify(tmp_path / "hf", tmp_path / "run")
    outgoing.to_hf(tmp_path / "run", tmp_path / "plain", plain_names=True)
    assert verify.verify(tmp_path / "plain", tmp_path / "run").alike


def test_a_trap_is_refused_in_one_sentence(there, tmp_path):
    shutil.copytree(there / "hf", tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").unlink()
    trapped(tmp_path / "hf" / "pytorch_model.bin", tmp_path / "sprung", "torch")
    with pytest.raises(InputError, match="pytorch_model.bin is refused") as error:
        verify.verify(tmp_path / "hf", there / "run")
    assert "\n" not in str(error.value) and not os.path.exists(tmp_path / "sprung")


def test_a_shorter_context_is_kept_to(there, tmp_path):
    config = models.hf.BertConfig(**{**models.BERT, "max_position_embeddings": 10})
    models.hf.BertForMaskedLM(config).save_pretrained(tmp_path / "short")
    found = verify.verify(tmp_path / "short", there / "run", sentences=[list(range(5, 60)), [7, 8]])
    assert found.tokens == 12 and not found.alike


def test_the_exit_says_whether_they_are_alike(there, tmp_path, capsys):
    convert.main(["verify", f"--hf={there / 'hf'}", f"--ehrjax={there / 'run'}"])
    assert "logits" in capsys.readouterr().out
    from safetensors.numpy import save_file

    shutil.copytree(there / "hf", tmp_path / "hf")
    state = models.tensors(there / "hf")
    state["bert.encoder.layer.1.output.LayerNorm.bias"] += np.float32(0.5)
    save_file(state, tmp_path / "hf" / "model.safetensors", {"format": "pt"})
    with pytest.raises(SystemExit) as stopped:
        convert.main(["verify", f"--hf={tmp_path / 'hf'}", f"--ehrjax={there / 'run'}"])
    said = capsys.readouterr()
    assert stopped.value.code == 1 and "hidden states 0.5" in said.out and "differ by more than 0.001" in said.err
