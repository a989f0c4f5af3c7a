"""Checkpoints of the PyTorch projects give the same logits here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ehrjax
from ehrjax.core.errors import InputError
from ehrjax.data import rows
from ehrjax.hf import from_torch, source
from tests.hf import torch_projects as projects

TOLERANCE = 1e-4
CAUSAL = {
    "nanogpt": (projects.NanoGPT, {}),
    "nanogpt without biases": (projects.NanoGPT, {"bias": False, "heads": 4}),
    "lstm": (projects.TokenLSTM, {}),
    "lstm deep": (projects.TokenLSTM, {"layers": 3, "hidden": 20}),
    "decoder": (projects.TokenDecoder, {}),
    "decoder deep": (projects.TokenDecoder, {"layers": 4, "heads": 6}),
}


def places(run: str) -> tuple[np.ndarray, np.ndarray]:
    """Our ids that have a row there, and these rows."""
    rows = source.read(run).rows
    ours = np.flatnonzero(rows >= 0)
    return ours, rows[ours]


@pytest.mark.parametrize("case", CAUSAL)
def test_causal_models(case, tmp_path):
    torch.manual_seed(1)
    cls, changes = CAUSAL[case]
    model = projects.randomised(cls(projects.config(**changes)))
    arguments = {"n_head": changes.get("heads", 3)}
    torch.save({"model_state_dict": model.state_dict(), "model_args": arguments, "epoch": 3}, tmp_path / "model.pth")
    told = from_torch.from_torch(tmp_path / "model.pth", tmp_path / "run")
    assert not told["fresh"]
    run = ehrjax.load(tmp_path / "run")
    ours, theirs = places(tmp_path / "run")
    back = dict(zip(theirs, ours))
    generator = np.random.default_rng(0)
    sequences = [generator.choice(theirs, n) for n in (17, 1, 30)]
    for sequence in sequences:
        batch = rows.collate([[back[t] for t in sequence], [back[t] for t in sequences[0]]], context_length=40)
        mine = np.argwhere(batch["subject_id"] == 0)[0]
        logits = np.asarray(run.logits(batch))[mine[0]][batch["segment_ids"][mine[0]] == mine[1] + 1]
        with torch.no_grad():
            expected = model(torch.tensor(sequence[None]))[0].numpy()
        np.testing.assert_allclose(logits[:, ours], expected[:, theirs], atol=TOLERANCE)


@pytest.mark.parametrize("embedding", [48, 32])
def test_behrt(embedding, tmp_path):
    torch.manual_seed(2)
    model = projects.randomised(projects.BehrtForMLM(projects.config(embedding=embedding)))
    with torch.no_grad():
        model.behrt.embeddings.code_embedding.weight[0] = 0
    torch.save(model.state_dict(), tmp_path / "best_model.pt")
    from_torch.from_torch(tmp_path / "best_model.pt", tmp_path / "run", num_heads=3)
    run = ehrjax.load(tmp_path / "run")
    ours, theirs = places(tmp_path / "run")
    back = dict(zip(theirs, ours))
    generator = np.random.default_rng(0)
    codes = generator.choice(theirs[1:], 25)
    ages, visits = np.sort(generator.uniform(0, 99, 25)), np.sort(generator.integers(0, 9, 25))
    made = rows.collate([[back[c] for c in codes]], context_length=25)
    made["ages"][0], made["visit_ids"][0] = ages, visits
    with torch.no_grad():
        given = (torch.tensor(x[None]) for x in (codes, ages.astype(np.float32), visits))
        expected = model(*given)[0].numpy()
    np.testing.assert_allclose(np.asarray(run.logits(made))[0][:, ours], expected[:, theirs], atol=TOLERANCE)


def test_the_vocabulary_is_the_one_of_the_token_reader(tmp_path):
    torch.manual_seed(1)
    strings = ["<unknown>", "<start>", "<end>", *(f"ICD//{i}" for i in range(38))]
    (tmp_path / "vocab.csv").write_text("token,str\n" + "".join(f"{i},{s}\n" for i, s in enumerate(strings)))
    model = projects.randomised(projects.TokenLSTM(projects.config()))
    torch.save({"model_state_dict": model.state_dict()}, tmp_path / "model.pth")
    from_torch.from_torch(tmp_path / "model.pth", tmp_path / "run", vocab=tmp_path / "vocab.csv")
    run = ehrjax.load(tmp_path / "run")
    table = run.params["model"]["embeddings"]["code"]["embedding"]
    weight = model.embedding.weight.detach().numpy()
    for row, string in enumerate(strings[3:], start=3):
        np.testing.assert_array_equal(table[run.vocabulary.ids[string]], weight[row])
    np.testing.assert_array_equal(table[run.vocabulary.unk], weight[0])
    (tmp_path / "short.csv").write_text("token,str\n0,a\n")
    with pytest.raises(InputError, match="1 tokens, the checkpoint's table 41 rows"):
        from_torch.from_torch(tmp_path / "model.pth", tmp_path / "again", vocab=tmp_path / "short.csv")


def test_what_is_no_known_checkpoint_is_refused(tmp_path):
    torch.save({"a.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="no project that is known"):
        from_torch.from_torch(tmp_path / "other.pt", tmp_path / "run")
    model = projects.NanoGPT(projects.config())
    torch.save(model.state_dict(), tmp_path / "nano.pt")
    with pytest.raises(InputError, match="add --heads"):
        from_torch.from_torch(tmp_path / "nano.pt", tmp_path / "run")
    state = model.state_dict()
    del state["transformer.h.1.mlp.c_fc.weight"]
    state["transformer.ln_f.weight"] = torch.zeros(7)
    state["transformer.h.0.attn.strange"] = torch.zeros(3)
    torch.save(state, tmp_path / "broken.pt")
    with pytest.raises(InputError) as error:
        from_torch.from_torch(tmp_path / "broken.pt", tmp_path / "run", num_heads=3)
    message = str(error.value)
    assert all(part in message for part in ("h.1.mlp.c_fc.weight is missing", "ln_f.weight", "h.0.attn.strange"))
    assert not (tmp_path / "run").exists()
