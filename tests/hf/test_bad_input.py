"""Checkpoints that cannot be used: one sentence, exit 2, nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ehrjax.core.errors import InputError
from ehrjax.hf import incoming
from tests.conftest import run_here
from tests.hf import models


def edit_config(**changes) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def edit_tensors(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        there = load_file(folder / "model.safetensors")
        change(there)
        save_file(there, folder / "model.safetensors")

    return edit


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_shard(folder: Path) -> None:
    there = load_file(folder / "model.safetensors")
    names = sorted(there)
    save_file({n: there[n] for n in names[:5]}, folder / "a.safetensors")
    weight_map = {n: "a.safetensors" if i < 5 else "b.safetensors" for i, n in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model.safetensors").unlink()


def several(there: dict) -> None:
    del there["bert.encoder.layer.1.output.dense.weight"]
    there["bert.encoder.layer.0.intermediate.dense.bias"] = np.zeros(7, np.float32)
    there["bert.encoder.layer.0.attention.self.distance_embedding.weight"] = np.zeros((3, 3), np.float32)


CASES = {
    "no such model_type": (edit_config(model_type="t5"), "model_type = 't5', which ehrjax cannot convert"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has neither model.safetensors nor"),
    "cut": (cut, "is truncated or is no safetensors file"),
    "no safetensors": (lambda f: (f / "model.safetensors").write_bytes(b"x" * 99), "is no safetensors file"),
    "a shard is missing": (lose_shard, "b.safetensors is missing"),
    "another size of vocabulary": (edit_config(vocab_size=90), "a table of 83 rows, its config says vocab_size = 90"),
    "another width": (edit_config(hidden_size=64), "does not fit model/embeddings"),
    "more layers": (edit_config(num_hidden_layers=3), "encoder.layer.2.attention.self.query.weight is missing"),
    "heads that do not divide": (edit_config(num_attention_heads=5), "not divisible by model.num_heads 5"),
    "an activation that is not there": (edit_config(hidden_act="mish"), "hidden_act = 'mish'"),
    "relative positions": (edit_config(position_embedding_type="relative_key"), "position_embedding_type is"),
    "no embeddings": (
        edit_tensors(lambda t: t.pop("bert.embeddings.word_embeddings.weight")),
        "word_embeddings.weight is missing",
    ),
    "several things at once": (edit_tensors(several), "is missing"),
    "another architecture": (edit_config(model_type="gpt2"), "wte.weight is missing"),
    "a table without axes": (
        edit_tensors(lambda t: t.update({"bert.embeddings.word_embeddings.weight": np.zeros((), np.float32)})),
        "word_embeddings.weight has the shape [], but it must be a table",
    ),
    **{
        f"{key} = {value!r}": (edit_config(**{key: value}), f"{key} = {value!r}; it must be")
        for key, value in (
            ("num_hidden_layers", None), ("num_hidden_layers", "two"), ("hidden_size", "48"), ("hidden_size", 48.0),
            ("num_attention_heads", 4.0), ("num_attention_heads", True), ("layer_norm_eps", "1e-12"),
            ("layer_norm_eps", None), ("hidden_act", ["gelu"]), ("model_type", ["bert"]), ("rope_parameters", [1]),
            ("rope_theta", None), ("rms_norm_eps", None), ("architectures", "BertModel"), ("tie_word_embeddings", 1),
        )
    },
    "roberta without padding": (edit_config(model_type="roberta", pad_token_id=None), "pad_token_id = None"),
    "llama with odd heads": (edit_config(model_type="llama", head_dim=7), "heads of 7 columns"),
    "llama without a base": (
        edit_config(model_type="llama", rope_parameters={"rope_theta": None}), "rope_theta = None; it must be"
    ),
    "behrt without a setting": (edit_config(model_type="ehrjax_behrt"), "config.json has no embedding_size"),
    "a tokenizer with more tokens": (
        lambda f: (f / "tokenizer.json").write_text(
            json.dumps(
                {
                    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
                    "pre_tokenizer": None, "post_processor": None, "decoder": None,
                    "model": {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(99)}, "unk_token": "w0"},
                }
            )
        ),
        "has the id ",
    ),
    "a damaged tokenizer": (lambda f: (f / "tokenizer.json").write_text("{"), "The tokenizer of"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_sentence(case, tmp_path):
    models.save("bert mlm tied", tmp_path / "hf")
    damage, message = CASES[case]
    damage(tmp_path / "hf")
    with pytest.raises(InputError) as error:
        incoming.from_hf(str(tmp_path / "hf"), tmp_path / "run")
    said = str(error.value)
    assert message in said and "\n" not in said
    assert not (tmp_path / "run").exists() and not list(tmp_path.glob(".*"))
    if case == "several things at once":
        assert "layer.1.output.dense.weight is missing" in said and "distance_embedding.weight" in said
        assert "layer.0.intermediate.dense.bias" in said and "unexpected" in said


def test_the_verb_exits_with_2(tmp_path):
    for arguments, message in (
        (["from-hf", f"--input={tmp_path / 'none'}", f"--output={tmp_path / 'run'}"], "does not exist"),
        (["from-torch", f"--input={tmp_path / 'none.pt'}", f"--output={tmp_path / 'run'}"], "does not exist"),
        (["to-hf", f"--input={tmp_path / 'none'}", f"--output={tmp_path / 'hf'}"], "does not exist"),
        (["embeddings", f"--input={tmp_path / 'none.npy'}", "--describe"], "does not exist"),
    ):
        result = run_here("convert", *arguments)
        assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr, result.stderr


def test_a_hub_id_without_a_network_says_what_to_do(tmp_path, monkeypatch):
    import huggingface_hub

    def unreachable(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(InputError, match="hf download emilyalsentzer/Bio_ClinicalBERT --local-dir DIR"):
        incoming.from_hf("emilyalsentzer/Bio_ClinicalBERT", tmp_path / "run")
    monkeypatch.setattr(huggingface_hub.HfApi, "list_models", unreachable)
    from ehrjax.hf import hub

    with pytest.raises(InputError, match="cannot be reached"):
        hub.search("ehr")


def damage_run(path: Path, change: Callable[[Path], None]) -> None:
    models.save("gpt2 base", path / "hf")
    incoming.from_hf(str(path / "hf"), path / "run")
    change(path / "run")


def cut_rows(run: Path) -> None:
    np.save(run / "source" / "rows.npy", np.arange(3))


def lose_dataset(run: Path) -> None:
    told = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({"config": told["config"]}))


@pytest.mark.parametrize(
    ("change", "message"), [(cut_rows, "source is damaged"), (lose_dataset, "lacks its sections config and dataset")]
)
def test_damaged_runs(change, message, tmp_path):
    from ehrjax.hf import outgoing, resize, verify
    from tests.hf import born

    damage_run(tmp_path, change)
    for verb_of in (
        lambda: outgoing.to_hf(tmp_path / "run", tmp_path / "back"),
        lambda: resize.resize(tmp_path / "run", born.vocabulary(), tmp_path / "own"),
        lambda: verify.verify(tmp_path / "hf", tmp_path / "run"),
    ):
        with pytest.raises(InputError, match=message):
            verb_of()
    assert not (tmp_path / "back").exists() and not (tmp_path / "own").exists()


def test_pytorch_files_that_say_odd_things(tmp_path):
    import torch

    from ehrjax.hf import from_torch
    from tests.hf import torch_projects as projects

    model = projects.NanoGPT(projects.config())
    state = model.state_dict()
    cases = (
        ({"model": state, "model_args": "n_head=3"}, "add --heads"),
        ({"model": state, "model_args": {"n_head": "3"}}, "add --heads"),
        ({"model": state, "model_args": {"n_head": 3, "dropout": "no"}}, "dropout = 'no', which is no number"),
        (
            {"model": {**state, "transformer.wte.weight": torch.zeros(())}, "model_args": {"n_head": 3}},
            "number of axes",
        ),
    )
    for value, message in cases:
        torch.save(value, tmp_path / "odd.pt")
        with pytest.raises(InputError, match=message):
            from_torch.from_torch(tmp_path / "odd.pt", tmp_path / "run")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--into=R", "--output=O", "--vocab=V"], "leave --vocab out"),
        (["--pca", "--output=O"], "--pca fits vectors to a run's table"),
        (["--rescale", "--output=O"], "--rescale fits vectors"),
        (["--map=M", "--output=O"], "--map is for matching"),
        (["--unmapped=U", "--output=O"], "--unmapped is for matching"),
        (["--nearest=a", "--output=O"], "--nearest is printed by --describe"),
        (["--describe", "--nearest=a"], "--nearest needs codes"),
    ],
)
def test_options_that_would_do_nothing(options, message, tmp_path, capsys):
    from ehrjax import convert

    np.save(tmp_path / "e.npy", np.eye(4, dtype=np.float32))
    with pytest.raises(SystemExit) as stopped:
        convert.main(["embeddings", f"--input={tmp_path / 'e.npy'}", *options])
    assert stopped.value.code == 2 and message in capsys.readouterr().err
