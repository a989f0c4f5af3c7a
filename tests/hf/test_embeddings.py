"""Embedding tables in files: every kind there and back, bad ones refused, put into a run."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

import ehrjax
from ehrjax.core import trees
from ehrjax.core.errors import InputError
from ehrjax.hf import embeddings, tables
from ehrjax.hf.embeddings import Embeddings
from tests.conftest import run_here
from tests.hf import born, models

CODES = ("E11.65", "I10", "LAB//718//mg/dL", "Größe", "a,b", "x")


@pytest.fixture
def table() -> Embeddings:
    vectors = np.random.default_rng(0).standard_normal((len(CODES), 8)).astype(np.float32)
    return Embeddings(vectors, CODES, {"source": "made up"})


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "csv", "txt", "vec", "bin"])
def test_there_and_back(suffix, table, tmp_path):
    path = tmp_path / f"e.{suffix}"
    embeddings.write(path, table)
    found = embeddings.read(path)
    np.testing.assert_array_equal(found.vectors, table.vectors)
    assert found.codes == CODES
    if suffix in ("safetensors", "pt"):
        assert found.metadata["source"] == "made up"
    with pytest.raises(InputError, match="already exists"):
        embeddings.write(path, table)


def test_npy_with_codes_beside_it(table, tmp_path):
    embeddings.write(tmp_path / "e.npy", table)
    assert embeddings.read(tmp_path / "e.npy").codes is None
    (tmp_path / "codes.txt").write_text("\n".join(CODES) + "\n")
    (tmp_path / "codes.pkl").write_bytes(pickle.dumps([{"concept_id": c, "concept_name": "?"} for c in CODES]))
    for codes in ("codes.txt", "codes.pkl"):
        found = embeddings.read(tmp_path / "e.npy", codes=tmp_path / codes)
        assert found.codes == CODES
        np.testing.assert_array_equal(found.vectors, table.vectors)


def test_the_seeds_torch_files(table, tmp_path):
    tensor = torch.from_numpy(table.vectors)
    torch.save(tensor, tmp_path / "plain.pt")
    torch.save({"embeddings": tensor, "vocab_size": 6, "embedding_dim": 8}, tmp_path / "dict.pt")
    torch.save({"embeddings": tensor, "shape": (6, 8), "metadata": {"vocab_size": 6}}, tmp_path / "meta.pt")
    for name in ("plain", "dict", "meta"):
        np.testing.assert_array_equal(embeddings.read(tmp_path / f"{name}.pt").vectors, table.vectors)
    torch.save({"embeddings": tensor, "vocab_size": 7}, tmp_path / "wrong.pt")
    with pytest.raises(InputError, match="vocab_size = 7, but its table has 6 rows"):
        embeddings.read(tmp_path / "wrong.pt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.csv", b"code,d0\na,1\na,2\n", "the code 'a' more than once"),
        ("e.csv", b"code,d0\na,1\nb,x\n", "line 3: 'b' is not followed by numbers"),
        ("e.csv", b"code,d0\na,1\nb,1,2\n", "line 3: 'b' has 2 numbers, the lines before 1"),
        ("e.csv", b"code,d0\na,nan\n", "1 rows with NaN"),
        ("e.csv", b"code\n", "holds no vectors"),
        ("e.txt", b"3 2\na 1 2\nb 3 4\n", "promises 3 words and holds 2"),
        ("e.bin", b"2 2\na " + b"\0" * 8 + b"\nb \0", "promises 2 words and holds 1"),
        ("e.bin", b"nonsense", "is refused: it is damaged"),
        ("e.npy", b"\x93NUMPY", "no plain .npy array"),
        ("e.safetensors", b"x", "no safetensors file"),
        ("e.pt", b"x", "is refused: it is damaged"),
        ("e.xyz", b"x", "embeddings are read from"),
        ("e.csv", b"code,d0\n\xff,1\n", "is not UTF-8 text"),
        ("e.txt", b"\xff 1 2\n", "is not UTF-8 text"),
        ("e.csv", b"code,d0\n" + b"a" * 140_000 + b",1\n", "field larger than field limit"),
        ("e.csv", b"a,1,x\nb,1,2\n", "line 1, column 3 is 'x' among numbers"),
        ("e.npy", b"PK\x03\x04 cut", "no plain .npy array"),
    ],
)
def test_bad_files(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        embeddings.read(tmp_path / name)
    assert "\n" not in str(error.value) or name == "e.bin"


def test_a_table_that_is_one_dimensional_or_has_other_codes(tmp_path):
    np.save(tmp_path / "e.npy", np.zeros(4, np.float32))
    with pytest.raises(InputError, match=r"shape \[4\]"):
        embeddings.read(tmp_path / "e.npy")
    np.save(tmp_path / "f.npy", np.zeros((4, 2), np.float32))
    (tmp_path / "codes.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match="4 rows, but 2 codes are named"):
        embeddings.read(tmp_path / "f.npy", codes=tmp_path / "codes.txt")


def test_description_and_neighbours(table):
    told = tables.describe(table)
    assert told["rows"] == 6 and told["columns"] == 8 and told["zero_rows"] == 0
    assert told["std"] == pytest.approx(table.vectors.std(), rel=1e-6)
    near = Embeddings(np.vstack([table.vectors, table.vectors[1] * 3 + 1e-3]), (*CODES, "like I10"))
    assert tables.neighbours(near, ["I10"], k=2)["I10"][0][0] == "like I10"
    assert tables.neighbours(near, ["I10"])["I10"][0][1] == pytest.approx(1, abs=1e-4)
    with pytest.raises(InputError, match="no code 'none'"):
        tables.neighbours(near, ["none"])


def test_projection_keeps_distances_as_it_can():
    generator = np.random.default_rng(0)
    flat = generator.standard_normal((50, 4)) @ generator.standard_normal((4, 12))
    projected = tables.project(flat.astype(np.float32), 4)
    one, other = (np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (flat, projected))
    np.testing.assert_allclose(one, other, atol=1e-4)
    np.testing.assert_array_equal(tables.project(flat.astype(np.float32), 15)[:, 12:], 0)


def test_vectors_go_into_a_run(tmp_path):
    run = born.write(tmp_path / "run", "behrt")
    codes = tuple(c.replace("DIAGNOSIS//ICD10CM//", "ICD10:") for c in born.CODES[:30])
    vectors = np.random.default_rng(0).standard_normal((30, 32)).astype(np.float32)
    _, share = tables.into_run(tmp_path / "run", Embeddings(vectors, codes), tmp_path / "new")
    assert share["all"]["tokens"] == pytest.approx(30 / 41)
    new = ehrjax.load(tmp_path / "new")
    table, old = (trees.flatten(r.params)[trees.CODE_TABLE] for r in (new, run))
    for i, code in enumerate(born.CODES):
        row = run.vocabulary.ids[code]
        np.testing.assert_array_equal(table[row], vectors[i] if i < 30 else old[row])
    wide = Embeddings(np.tile(vectors, 2), codes)
    with pytest.raises(InputError, match="has 64 columns, the run's table 32; add --pca"):
        tables.into_run(tmp_path / "run", wide, tmp_path / "wide")
    tables.into_run(tmp_path / "run", wide, tmp_path / "wide", pca=True, rescale=True)
    moved = trees.flatten(ehrjax.load(tmp_path / "wide").params)[trees.CODE_TABLE]
    assert moved[5:35].std() == pytest.approx(old[5:].std(), rel=0.05)
    with pytest.raises(InputError, match="No token of"):
        tables.into_run(tmp_path / "run", Embeddings(vectors[:1], ("zzz",)), tmp_path / "none")


def test_tables_of_models_and_the_verb(tmp_path):
    model = models.save("bert mlm tied", tmp_path / "hf")
    found = embeddings.read(tmp_path / "hf")
    np.testing.assert_array_equal(found.vectors, model.get_input_embeddings().weight.detach().numpy())
    run = born.write(tmp_path / "run", "bert")
    assert embeddings.read(tmp_path / "run").codes == tuple(run.vocabulary.strings)
    result = run_here("convert", "embeddings", f"--input={tmp_path / 'run'}", f"--output={tmp_path / 't.safetensors'}",
                   "--describe", "--nearest=DEATH", f"--vocab={tmp_path / 'run' / 'vocab.csv'}",
                   f"--unmapped={tmp_path / 'lost.txt'}")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert all(told in result.stdout for told in ("46 x 48", "nearest to DEATH:", "100.00 % of tokens"))
    assert (tmp_path / "lost.txt").read_text() == ""
    assert len(embeddings.read(tmp_path / "t.safetensors").vectors) == 46


def test_arrays_that_are_no_numbers(tmp_path):
    np.savez(tmp_path / "z.npz", a=np.zeros((2, 2)))
    (tmp_path / "z.npz").rename(tmp_path / "z.npy")
    np.save(tmp_path / "complex.npy", np.ones((2, 2), np.complex64))
    np.save(tmp_path / "text.npy", np.array([["a"]]))
    torch.save(torch.ones((2, 2), dtype=torch.complex64), tmp_path / "complex.pt")
    torch.save({"embeddings": torch.eye(3).to_sparse()}, tmp_path / "sparse.pt")
    torch.save({"embeddings": torch.empty((2, 2), device="meta")}, tmp_path / "meta.pt")
    for name, message in (
        ("z.npy", "an archive of numpy.savez"),
        ("complex.npy", "type complex64"),
        ("text.npy", "save the table as float32"),
        ("complex.pt", "complex64"),
        ("sparse.pt", "sparse"),
        ("meta.pt", "meta.pt"),
    ):
        with pytest.raises(InputError, match=message) as error:
            embeddings.read(tmp_path / name)
        assert "\n" not in str(error.value)
    torch.save({"embeddings": torch.ones((2, 2)).to(torch.float8_e4m3fn)}, tmp_path / "small.pt")
    np.testing.assert_array_equal(embeddings.read(tmp_path / "small.pt").vectors, np.ones((2, 2)))


def test_codes_that_are_not_utf8_and_codes_with_odd_breaks(table, tmp_path):
    np.save(tmp_path / "e.npy", table.vectors[:2])
    (tmp_path / "codes.txt").write_bytes(b"a\n\xff\n")
    with pytest.raises(InputError, match="codes.txt is not UTF-8 text"):
        embeddings.read(tmp_path / "e.npy", codes=tmp_path / "codes.txt")
    (tmp_path / "codes.txt").write_bytes("a\x85b\r\n\u2028c\r\n".encode())
    assert embeddings.read(tmp_path / "e.npy", codes=tmp_path / "codes.txt").codes == ("a\x85b", "\u2028c")


@pytest.mark.parametrize(
    ("text", "codes"),
    [
        ("a,0.5,2\nb,3,4\n", ("a", "b")),
        ("a,7\nb,3\n", ("a", "b")),
        ("0,0.5,2\n1,3,4\n", ("0", "1")),
        ("code,d0,d1\na,1,2\n", ("a",)),
        (",0,1\na,1,2\n", ("a",)),
        ("code,1,2\na,1,2\n", ("a",)),
        (",0\na,1\n", ("a",)),
    ],
)
def test_the_header_of_a_csv_may_lack(text, codes, tmp_path):
    (tmp_path / "e.csv").write_text(text)
    found = embeddings.read(tmp_path / "e.csv")
    assert found.codes == codes and len(found.vectors) == len(codes)


def test_codes_of_a_torch_file_by_row(table, tmp_path):
    tensor = torch.from_numpy(table.vectors)
    by_row = {code: i for i, code in reversed(list(enumerate(CODES)))}
    torch.save({"embeddings": tensor, "vocab": by_row}, tmp_path / "e.pt")
    assert embeddings.read(tmp_path / "e.pt").codes == CODES
    for wrong in ({**by_row, "x": 7}, {**by_row, "x": 0}, {0: "a"}):
        torch.save({"embeddings": tensor, "vocab": wrong}, tmp_path / "e.pt")
        with pytest.raises(InputError, match="vocab does not give the rows 0, 1, 2"):
            embeddings.read(tmp_path / "e.pt")


@pytest.mark.parametrize("suffix", ["txt", "vec", "bin"])
@pytest.mark.parametrize("code", ["a\nb", "\na", "a\r"])
def test_word2vec_has_no_line_breaks(code, suffix, tmp_path):
    found = Embeddings(np.ones((1, 2), np.float32), (code,))
    with pytest.raises(InputError, match="holds a line break"):
        embeddings.write(tmp_path / f"e.{suffix}", found)
    assert not list(tmp_path.iterdir())
    embeddings.write(tmp_path / "e.csv", found)
    assert embeddings.read(tmp_path / "e.csv").codes == (code,)


def test_sizes_are_those_of_the_table_that_is_written(table, tmp_path):
    torch.save(
        {"embeddings": torch.from_numpy(table.vectors), "vocab_size": 6, "embedding_dim": 8, "codes": list(CODES)},
        tmp_path / "s.pt",
    )
    found = embeddings.read(tmp_path / "s.pt")
    part = Embeddings(found.vectors[:5], found.codes[:5], {**found.metadata, "vocab_size": "6"})
    for suffix in ("pt", "safetensors"):
        embeddings.write(tmp_path / f"part.{suffix}", part)
        again = embeddings.read(tmp_path / f"part.{suffix}")
        assert again.codes == CODES[:5] and "vocab_size" not in again.metadata
    assert torch.load(tmp_path / "part.pt", weights_only=True)["vocab_size"] == 5


def test_the_verb_keeps_rows_or_refuses(tmp_path):
    words = born.vocabulary()
    words.write(tmp_path / "vocab.csv")
    codes = [*born.CODES[:20], "zzz"]
    vectors = torch.ones((21, 4))
    torch.save({"embeddings": vectors, "vocab_size": 21, "codes": codes}, tmp_path / "s.pt")
    torch.save({"embeddings": vectors[:1], "vocab_size": 1, "codes": ["zzz"]}, tmp_path / "z.pt")
    (tmp_path / "c.parquet").touch()
    for input_, output, message in (
        ("s.pt", "s2.pt", None),
        ("z.pt", "z2.pt", "No row is left to write"),
        ("s.pt", "c.parquet/q.npy", "Cannot write the file"),
    ):
        result = run_here("convert", "embeddings", f"--input={tmp_path / input_}", f"--vocab={tmp_path / 'vocab.csv'}",
                       f"--output={tmp_path / output}")  # fmt: skip
        if message:
            assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr, (
                result.stderr
            )
            assert not (tmp_path / output).exists()
        else:
            assert result.returncode == 0, result.stderr
            assert embeddings.read(tmp_path / output).codes == tuple(codes[:20])
