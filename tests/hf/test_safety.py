"""What strangers' files could do: a payload in every container is refused and did not run."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from ehrjax.core.errors import InputError
from ehrjax.hf import embeddings, from_torch, incoming, tensors
from tests.conftest import run_here
from tests.hf import models


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def sprung(tmp_path):
    """Where the trap's folder would be; after the test it must not be there."""
    yield tmp_path / "sprung"
    assert not (tmp_path / "sprung").exists(), "the payload ran"


def trapped(path: Path, sprung: Path, container: str) -> None:
    if container == "pickle":
        path.write_bytes(pickle.dumps({"weight": Trap(sprung)}))
    elif container == "old torch":
        torch.save({"weight": torch.zeros(2, 2), "more": Trap(sprung)}, path, _use_new_zipfile_serialization=False)
    else:
        torch.save({"weight": torch.zeros(2, 2), "more": Trap(sprung)}, path)


CONTAINERS = ("torch", "old torch", "pickle")


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("suffix", ["pt", "bin", "pth"])
def test_embeddings(container, suffix, tmp_path, sprung):
    trapped(tmp_path / f"e.{suffix}", sprung, container)
    with pytest.raises(InputError, match="is refused: it is damaged, or holds more"):
        embeddings.read(tmp_path / f"e.{suffix}")


def test_codes_and_arrays(tmp_path, sprung):
    np.save(tmp_path / "e.npy", np.zeros((2, 2), np.float32))
    (tmp_path / "codes.pkl").write_bytes(pickle.dumps(["a", Trap(sprung)]))
    with pytest.raises(InputError, match="codes.pkl is refused"):
        embeddings.read(tmp_path / "e.npy", codes=tmp_path / "codes.pkl")
    np.save(tmp_path / "o.npy", np.array([Trap(sprung)], object), allow_pickle=True)
    with pytest.raises(InputError, match="no plain .npy array"):
        embeddings.read(tmp_path / "o.npy")


@pytest.mark.parametrize("container", CONTAINERS)
def test_checkpoints(container, tmp_path, sprung):
    models.save("bert base", tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").unlink()
    trapped(tmp_path / "hf" / "pytorch_model.bin", sprung, container)
    result = run_here("convert", "from-hf", f"--input={tmp_path / 'hf'}", f"--output={tmp_path / 'run'}")
    assert (
        result.returncode == 2 and "pytorch_model.bin is refused" in result.stderr and "Traceback" not in result.stderr
    )
    trapped(tmp_path / "model.pth", sprung, container)
    with pytest.raises(InputError, match=r"model.pth is refused"):
        from_torch.from_torch(tmp_path / "model.pth", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_with_code_of_its_own_runs_none_of_it(tmp_path, sprung):
    models.save("bert base", tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoTokenizer": ["evil.T", None]}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    (tmp_path / "hf" / "evil.py").write_text(f"import os\nos.mkdir({str(sprung)!r})\n")
    incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")


def test_an_index_cannot_lead_out_of_its_folder(tmp_path):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other"}}))
    with pytest.raises(InputError, match="no usable weight_map"):
        tensors.open_folder(tmp_path / "hf")


def test_without_torch_safetensors_still_convert(tmp_path):
    import subprocess
    import sys

    from tests.conftest import ROOT

    models.save("gpt2 lm tied", tmp_path / "hf")
    torch.save({"embeddings": torch.zeros(2, 2)}, tmp_path / "e.pt")
    code = (
        "import sys\nsys.modules['torch'] = None\nfrom ehrjax.hf import incoming, outgoing, embeddings\n"
        f"incoming.from_hf({str(tmp_path / 'hf')!r}, {str(tmp_path / 'run')!r})\n"
        f"outgoing.to_hf({str(tmp_path / 'run')!r}, {str(tmp_path / 'back')!r})\n"
        "from ehrjax.core.errors import InputError\n"
        f"try:\n    embeddings.read({str(tmp_path / 'e.pt')!r})\nexcept InputError as e:\n    print('said:', e)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "needs torch" in result.stdout and "ehrjax[torch]" in result.stdout
