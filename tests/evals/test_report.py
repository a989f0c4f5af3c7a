"""The report: its numbers are the measured ones, it needs no network, and it says where there is too little."""

from __future__ import annotations

import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import jax
import polars as pl
import pytest

from ehrjax.core import config as configs
from ehrjax.core import mesh as meshes
from ehrjax.data import open_tokens, pipeline, prepare_tokens
from ehrjax.evals import masked_code_accuracy as accuracy
from ehrjax.evals import report, tuning
from ehrjax.ingest import meds
from ehrjax.training import run, step
from ehrjax.training import workdir as workdirs
from tests.conftest import ROOT, behrt_recipe, run_here

EVIL = "<script>alert('x')</script>"
SMOKE = (
    "--config=configs/behrt.py:smoke",
    "--config.tensorboard=False",
    "--config.num_steps=6",
    "--config.eval_every=3",
    "--config.log_every=2",
)


def with_splits(source: Path, folder: Path, tuning: int, *, description: str | None = None) -> Path:
    """A copy of a MEDS dataset whose tuning split has so many subjects; the other tuning subjects go to train."""
    shutil.copytree(source, folder)
    path = folder / "metadata" / "subject_splits.parquet"
    splits = pl.read_parquet(path).sort("split", "subject_id")
    kept = splits.filter(pl.col("split") == meds.TUNING)["subject_id"].head(tuning)
    move = (pl.col("split") == meds.TUNING) & ~pl.col("subject_id").is_in(kept.implode())
    splits.with_columns(pl.when(move).then(pl.lit(meds.TRAIN)).otherwise("split").alias("split")).write_parquet(path)
    if description:
        codes = folder / "metadata" / "codes.parquet"
        pl.read_parquet(codes).with_columns(description=pl.lit(description)).write_parquet(codes)
    return folder


def train(meds_folder: Path, folder: Path, like: Path | None = None) -> tuple[Path, str]:
    """A run on some events; in the vocabulary of other tokens it is of the programs of runs on these."""
    tokens = folder / "tokens"
    prepare_tokens.prepare(meds_folder, tokens, behrt_recipe(min_count=2), fitted_from=like)
    result = run_here("train", *SMOKE, f"--config.data.path={tokens}", f"--workdir={folder / 'run'}")
    assert result.returncode == 0, result.stderr
    return folder / "run", result.stdout


def words(page: str) -> str:
    """What a reader sees, roughly: no scripts, no tags, one blank between words."""
    page = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", page)))


@pytest.fixture(scope="module")
def reported(toy_meds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return train(with_splits(toy_meds, folder / "meds", 1000, description=EVIL), folder)[0]


def test_the_numbers_are_the_measured_ones(reported: Path) -> None:
    measured = json.loads((reported / "report" / "masked_code_accuracy.json").read_text())
    seen = words((reported / "report" / "index.html").read_text())
    for name in ("model", "train", "subject", "neighbour"):
        for k in (1, 5, 10):
            value = measured["overall"][f"{name}_top{k}"]
            shown = f"{100 * value['value']:.1f} % ({100 * value['low']:.1f} to {100 * value['high']:.1f})"
            assert shown in seen, (name, k)
    assert f"{measured['targets']:,} hidden codes" in seen and f"{measured['subjects']} subjects are few" in seen
    for family, values in measured["families"].items():
        assert f"{family} {values['targets']:,} " in seen
    final = json.loads((reported / "final.json").read_text())
    assert measured["step"] == final["best_step"]


def test_nothing_is_loaded_from_elsewhere(reported: Path) -> None:
    page = (reported / "report" / "index.html").read_text()
    tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page)
    assert not [tag for tag in tags if re.search(r"(src|href)\s*=", tag)]
    assert "@import" not in page and page.count("plotly.js v") == 1


def test_descriptions_are_escaped_everywhere(reported: Path) -> None:
    page = (reported / "report" / "index.html").read_text()
    assert EVIL not in page
    assert "&lt;script&gt;alert" in page or "\\u0026lt;script\\u0026gt;alert" in page


def test_the_page_says_with_what_it_was_made(reported: Path) -> None:
    saved = json.loads((reported / "config.json").read_text())
    seen = words((reported / "report" / "index.html").read_text())
    assert saved["dataset"]["fingerprint"] in seen and saved["versions"]["jax"] in seen
    assert '"num_steps": 6' in seen


def test_the_same_command_writes_the_same_numbers(reported: Path) -> None:
    tokens = json.loads((reported / "config.json").read_text())["config"]["data"]["path"]
    before = (reported / "report" / "masked_code_accuracy.json").read_bytes()
    shutil.rmtree(reported / "report")
    result = run_here("train", *SMOKE, f"--config.data.path={tokens}", f"--workdir={reported}")
    assert result.returncode == 0, result.stderr
    assert (reported / "report" / "masked_code_accuracy.json").read_bytes() == before


@pytest.mark.parametrize(
    ("tuning", "sentence"),
    [(0, "The tuning split has no hidden codes, so nothing can be said"), (1, "(one subject)")],
)
def test_too_few_tuning_subjects(tuning: int, sentence: str, toy_meds: Path, toy_tokens: Path, tmp_path: Path) -> None:
    workdir, out = train(with_splits(toy_meds, tmp_path / "meds", tuning), tmp_path, toy_tokens)
    assert "report: " in out
    assert sentence in words((workdir / "report" / "index.html").read_text())


def strict(path: Path) -> dict:
    """Standard JSON: NaN and infinities are refused."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{path} holds {name}")

    return json.loads(path.read_text(), parse_constant=refuse)


class Tables(HTMLParser):
    """The cells of every table of a page, as text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._in_cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.tables[-1][-1][-1] += data


def percent(estimate: dict) -> str:
    if estimate["low"] is None:
        return f"{100 * estimate['value']:.1f} % (one subject)"
    return f"{100 * estimate['value']:.1f} % ({100 * estimate['low']:.1f} to {100 * estimate['high']:.1f})"


def test_the_page_opens_with_its_title(reported: Path) -> None:
    page = (reported / "report" / "index.html").read_text()
    title = "BEHRT on toy"
    assert page.startswith("<!DOCTYPE html>") and f"<title>{title}</title>" in page
    assert page.split("<body>")[1].startswith(f"<h1>{title}</h1>")


def test_every_table_holds_what_the_json_says(reported: Path) -> None:
    measured = strict(reported / "report" / "masked_code_accuracy.json")
    overall, tables = measured["overall"], Tables((reported / "report" / "index.html").read_text()).tables
    methods, differences, families, splits = tables
    for row, method in zip(methods[1:], accuracy.METHODS, strict=True):
        assert row == [report.NAMES[method], *(percent(overall[f"{method}_top{k}"]) for k in accuracy.TOP)]
    for row, baseline in zip(differences[1:], accuracy.BASELINES, strict=True):
        expected = [percent(overall[f"model_minus_{baseline}_top{k}"]) for k in accuracy.TOP]
        assert row == [f"model minus {report.NAMES[baseline]}", *expected, report.verdict(overall, baseline)]
    assert {row[0] for row in families[1:]} == set(measured["families"])
    for name, count, *shown, best, best_name in families[1:]:
        values = measured["families"][name]
        assert count == f"{values['targets']:,}"
        assert shown == [percent(values[f"model_top{k}"]) for k in accuracy.TOP]
        top = max(values[f"{b}_top1"]["value"] for b in accuracy.BASELINES)
        key = next(b for b in accuracy.BASELINES if report.NAMES[b] == best_name)
        assert values[f"{key}_top1"]["value"] == top and best == percent(values[f"{key}_top1"])
    saved = json.loads((reported / "config.json").read_text())["dataset"]["splits"]
    for name, *counts, _ in splits[1:]:
        assert counts == [f"{saved[name][key]:,}" for key in ("subjects", "events", "tokens")]


def test_the_loss_is_that_of_the_best_evaluation(reported: Path) -> None:
    measured = strict(reported / "report" / "masked_code_accuracy.json")
    final = json.loads((reported / "final.json").read_text())
    assert measured["loss"]["value"] == pytest.approx(final["best_value"], rel=1e-4)
    shown = f"Tuning loss {measured['loss']['value']:.3f} ({measured['loss']['low']:.3f} to"
    assert shown in words((reported / "report" / "index.html").read_text())


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.01, 0.2, "above"),
        (-0.2, -0.01, "below"),
        (-0.1, 0.1, "not distinguishable"),
        (0.0, 0.1, "not distinguishable"),
        (-0.1, 0.0, "not distinguishable"),
        (None, None, "too few subjects to say"),
    ],
)
def test_the_verdict_follows_the_interval(low: float | None, high: float | None, word: str) -> None:
    overall = {"model_minus_train_top1": {"value": 0.05, "low": low, "high": high, "subjects": 9}}
    assert report.verdict(overall, "train") == word


def open_run(tokens: Path, workdir: Path, lines: list[dict]) -> SimpleNamespace:
    """What the report is written from, with fresh parameters and the given metric lines."""
    config = configs.to_dict(configs.from_argv([f"--config={ROOT}/configs/behrt.py:smoke"]))
    config["data"]["path"] = str(tokens)
    dataset = open_tokens(tokens)
    parts = run.build(config, dataset.vocabulary)
    batches = tuning.SplitBatches(
        dataset.split("tuning"),
        configs.into(pipeline.Settings, config["data"], where="data"),
        meshes.make(meshes.Settings(data=1), devices=jax.devices()[:1]),
        parts.fields,
        4,
        0,
    )
    workdir.mkdir()
    workdirs.claim(workdir, config, dataset)
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return SimpleNamespace(
        workdir=workdir,
        saved=json.loads((workdir / "config.json").read_text()),
        step=3,
        params=parts.init(jax.random.key(0)),
        dataset=dataset,
        tuning=batches,
        evaluate=jax.jit(step.make_eval_step(parts.model, parts.objective)),
    )


def rewrite(folder: Path, change: pl.Expr | None = None, keep: pl.Expr | None = None, split: str = "*") -> None:
    """Changes the code column, or drops events, in the files of a MEDS dataset."""
    for path in folder.glob(f"data/{split}/*.parquet"):
        events = pl.read_parquet(path)
        events = events.with_columns(code=change) if change is not None else events
        (events.filter(keep) if keep is not None else events).write_parquet(path)


@pytest.fixture(scope="module")
def evil(toy_meds: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run whose data set, code families, codes and descriptions are all named by an attacker; nothing is logged."""
    folder = tmp_path_factory.mktemp("evil")
    source = with_splits(toy_meds, folder / "meds", 1000)
    change = pl.col("code").str.replace("^DX//", f"{EVIL}//{EVIL}")
    rewrite(source, change)
    codes = source / "metadata" / "codes.parquet"
    pl.read_parquet(codes).with_columns(code=change, description=pl.lit(EVIL)).write_parquet(codes)
    about = source / "metadata" / "dataset.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "dataset_name": EVIL}))
    prepare_tokens.prepare(source, folder / "tokens", behrt_recipe(min_count=2))
    return open_run(folder / "tokens", folder / "run", [])


def test_no_name_in_the_data_becomes_markup(evil: SimpleNamespace) -> None:
    page = report.write(**vars(evil)).read_text()
    # The library is taken out first: what is left is the page's own, with as many scripts as it has figures.
    own = re.sub(r"<script>.*?plotly\.js v.*?</script>", "", page, count=1, flags=re.S)
    assert "<script>alert" not in own and "</script>alert" not in own
    escaped = html.escape(EVIL)
    assert f"<h1>BEHRT on {escaped}</h1>" in own and f"<td>{escaped}</td>" in own
    # The texts to hover are HTML inside JSON: escaped for the one, then for the other.
    hover = [text for data in re.findall(r'"text":(\[.*?"\])', own) for text in json.loads(data) if "in train" in text]
    assert len(hover) == len(evil.dataset.vocabulary) - evil.dataset.vocabulary.num_specials
    for text in hover:
        assert "<script" not in text and escaped in text and not re.search(r"<(?!b>|/b>|br>)", text)


def test_a_run_that_logged_nothing_has_a_page(evil: SimpleNamespace) -> None:
    seen = words(report.write(**vars(evil)).read_text())
    assert "No step was logged." in seen and "top 1" in seen


def test_writing_again_gives_the_same_numbers_and_words(evil: SimpleNamespace) -> None:
    lines = [{"step": i, "loss": 5.0 - i, "learning_rate": 1e-3, "tokens_per_second": 100.0 * i} for i in (1, 2, 3)] + [
        {"step": 3, "tuning_loss": 4.0, "tuning_top1": 0.1}
    ]
    path = evil.workdir / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pages = [report.write(**vars(evil)).read_text() for _ in range(2)]
    assert words(pages[0]) == words(pages[1])
    assert "Median speed 200 tokens a second" in words(pages[0])
    assert sorted(p.name for p in (evil.workdir / "report").iterdir()) == ["index.html", "masked_code_accuracy.json"]
    path.write_text("")


def test_a_tuning_subject_without_hidden_codes(toy_meds: Path, tmp_path: Path) -> None:
    """A subject is there, but of so few codes that none is hidden."""
    source = with_splits(toy_meds, tmp_path / "meds", 1)
    subject = (
        pl.read_parquet(source / "metadata" / "subject_splits.parquet")
        .filter(pl.col("split") == meds.TUNING)["subject_id"]
        .item()
    )
    few = pl.col("time").is_null() | (pl.col("code") == "MEDS_BIRTH")
    rewrite(source, keep=(pl.col("subject_id") != subject) | few)
    prepare_tokens.prepare(source, tmp_path / "tokens", behrt_recipe(min_count=2, min_events=0))
    opened = open_run(tmp_path / "tokens", tmp_path / "run", [])
    assert len(opened.dataset.split("tuning")) == 1
    seen = words(report.write(**vars(opened)).read_text())
    assert "The tuning split has no hidden codes, so nothing can be said" in seen
    measured = strict(opened.workdir / "report" / "masked_code_accuracy.json")
    assert measured["targets"] == 0 and measured["subjects"] == 0 and measured["families"] == {}
    assert measured["overall"]["model_top1"] == {"value": None, "low": None, "high": None, "subjects": 0}
    assert tuning.TuningLoss(opened.tuning, opened.evaluate)(opened.params) == {}
