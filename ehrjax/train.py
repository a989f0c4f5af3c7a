"""Train a model: `python -m ehrjax.train --config=configs/behrt.py[:ARG] --workdir=DIR [--config.KEY=VALUE ...]`.

With `--yaml=FILE` the config is a YAML of a token-based pipeline (`model: type ...`).
The same command on the same DIR continues where it stopped. The last line printed is `params sha256: ...`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ehrjax.core import config as configs
from ehrjax.core import files, memory
from ehrjax.core.errors import InputError, exits_cleanly


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ehrjax.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="--config=FILE[:ARG] names the recipe; --config.KEY=VALUE changes one of its values.",
    )
    parser.add_argument("--yaml", help="a YAML config of a token-based pipeline, instead of --config (docs/yaml.md)")
    parser.add_argument("--workdir", help="the run's folder; default runs/<config>")
    parser.add_argument("--coordinator", help="host:port of process 0, when several processes train together")
    parser.add_argument("--num-processes", type=int, help="how many processes train together")
    parser.add_argument("--process-id", type=int, help="this process's number, from 0")
    return parser


def _default_workdir(argv: Sequence[str]) -> Path:
    name = next(a.split("=", 1)[1] for a in argv if a.startswith("--config="))
    path, _, argument = name.partition(":")
    return Path("runs") / "-".join(filter(None, [Path(path).stem, argument]))


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Trains, then writes the report."""
    memory.keep_freed()
    args, rest = _parser().parse_known_args(argv)
    if args.yaml:
        if rest:
            raise InputError(f"--yaml takes no other settings than those in its file; remove {rest[0]}.")
        _train_yaml(Path(args.yaml), args)
        return
    config = configs.to_dict(configs.from_argv(rest))
    workdir = Path(args.workdir) if args.workdir else _default_workdir(rest)
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"{workdir} is a file; name a folder as --workdir.")
    if config["deterministic"]:
        # Must stand before the first device is touched; CPU results are deterministic without it.
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_deterministic_ops=true".strip()
    train(config, workdir, args)


def _train_yaml(path: Path, args: argparse.Namespace) -> None:
    """Runs a YAML config of a token-based pipeline."""
    from ehrjax.training import yaml_configs

    given = yaml_configs.read(path)
    if given.device == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
    workdir = Path(args.workdir) if args.workdir else Path("runs") / given.name
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"{workdir} is a file; name a folder as --workdir.")
    import ehrjax
    from ehrjax.training import yaml_runs

    checked(given.config | {"data": {**given.config["data"], "notes": "later" if given.notes else ""}})
    made = yaml_runs.tokens(given, workdir)
    if given.notes:
        _notes(workdir / "data", made / "notes" / "notes.parquet", given.notes.encoder, given.notes.max_tokens)
    config = yaml_runs.by_epoch(given.config, made, workdir / "data" / "notes" if given.notes else None)
    with yaml_runs.logged(workdir):
        if given.device == "cuda":
            import jax

            if jax.default_backend() == "cpu":
                print("training.device is cuda, but there is no GPU here: training on the CPU", flush=True)
        train(config, workdir, args)
    final = workdir / "final.json"
    # Not where it was interrupted, perhaps behind the end of an earlier, shorter run.
    if final.exists() and files.read_json(final, what="run")["step"] == config["eval_at"][-1]:
        yaml_runs.leave(workdir, config, path, ehrjax.load(workdir).params)


def train(config: dict[str, Any], workdir: Path, args: argparse.Namespace | None = None) -> None:
    """Runs a resolved config (`configs.to_dict`) in a workdir, from the start or from its newest checkpoint.

    Raises:
      InputError: the config, the data or the workdir cannot be used.
      RunError: the training itself failed.
    """
    import jax

    if args is not None and args.coordinator:
        if None in (args.num_processes, args.process_id):
            raise InputError("--coordinator needs --num-processes and --process-id.")
        jax.distributed.initialize(args.coordinator, args.num_processes, args.process_id)
    # A bad config is refused before anything is written.
    settings = checked(config)
    if jax.process_index():
        _train(config, workdir, settings)
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"The workdir {workdir} cannot be made ({error.strerror}); name another.") from error
    with files.locked(workdir, what="run"):
        _train(config, workdir, settings)


def checked(config: dict[str, Any]) -> Sections:
    """The parsed sections of a resolved config.

    Raises:
      InputError: a value that cannot be.
    """
    from ehrjax.core import mesh as meshes
    from ehrjax.data import pipeline
    from ehrjax.training import initial, noted, optimizer, run, targets
    from ehrjax.vocab import vocabulary as vocabularies

    _check_numbers(config)
    sections = Sections(
        optimizer=configs.into(optimizer.Settings, config["optimizer"], where="optimizer"),
        schedule=configs.into(optimizer.ScheduleSettings, config["schedule"], where="schedule"),
        mesh=meshes.make(configs.into(meshes.Settings, config["mesh"], where="mesh")),
        start=configs.into(initial.Settings, config["init"], where="init"),
    )
    meshes.check_batch(sections.mesh, config["batch_size"], sections.optimizer.accumulate)
    configs.into(pipeline.Settings, config["data"], where="data")
    noted.check(config)
    parts = run.build(config, vocabularies.smallest())
    targets.check_sharing(config, parts.model)
    if config["num_steps"]:
        optimizer.make_schedule(sections.schedule, sections.optimizer.learning_rate, config["num_steps"])
    return sections


@dataclass(frozen=True)
class Sections:
    """The parsed sections of a config that the run is built from, and the mesh over the devices."""

    optimizer: Any
    schedule: Any
    mesh: Any
    start: Any


def _train(config: dict[str, Any], workdir: Path, sections: Sections) -> None:
    """Everything after the checks: data, state, loop, what is left behind."""
    import jax

    from ehrjax.core import rng, trees
    from ehrjax.core.writer import Writer
    from ehrjax.data import labelled, pipeline, tfds, token_dataset
    from ehrjax.evals import labelled_tuning, tuning
    from ehrjax.training import initial, loop, noted, optimizer, run, state, step, targets
    from ehrjax.training import workdir as workdirs

    first = jax.process_index() == 0
    optimizing, mesh = sections.optimizer, sections.mesh
    path = config["data"]["path"]
    make = None
    if not path:
        from ehrjax.data import embedded

        make = partial(embedded.ensure, workdir / "data", config["embedded"], labels=config["data"].get("labels", ""))
    if first and make:
        make()
    published = bool(path) and tfds.is_tfds(path)
    if first and published:
        tfds.ensure(path, workdir / "data")
    _barrier("data")
    if first and not path and config["data"].get("notes"):
        _embedded_notes(workdir / "data", config["data"]["notes"])
    _barrier("notes")
    if not path or published:
        path = str(tfds.tokens_of(path, workdir / "data") if published else workdir / "data" / "tokens")
        labels, notes = (config["data"].get(name, "") for name in ("labels", "notes"))
        if make:  # what others than the first process find there
            labels, notes = make(), str(workdir / "data" / "notes") if notes else ""
        config = {**config, "data": {**config["data"], "path": path, "labels": labels, "notes": notes}}
    dataset = token_dataset.open_tokens(path)
    config, target = targets.resolve(noted.resolve(config), dataset)
    settings = configs.into(pipeline.Settings, config["data"], where="data")
    parts = run.build(config, dataset.vocabulary)
    training = pipeline.open_split(dataset, "train", settings)
    tuning_split = pipeline.open_split(dataset, "tuning", settings)
    if not len(training):
        raise InputError(f"{settings.path} has no subjects in its train split; nothing can be trained on.")
    num_steps = config["num_steps"] or pipeline.count_steps(
        training, settings, batch_size=config["batch_size"], seed=config["seed"], epochs=config["num_epochs"]
    )

    schedule = optimizer.make_schedule(sections.schedule, optimizing.learning_rate, num_steps)
    key = rng.key_for(config["seed"], "run")
    with jax.set_mesh(mesh):
        init = partial(jax.jit(parts.init), key)  # traced once for all that follows
        shapes = jax.eval_shape(init)
        chosen = optimizer.make(optimizing, schedule, shapes)
        fresh, like = state.create(init, chosen, mesh)
    fresh = initial.start_from(sections.start, fresh, dataset.vocabulary, parts.model.config)
    if first:
        workdirs.claim(workdir, config, dataset)
        noted.write(workdir, config)
        if target is not None:
            targets.write(workdir, target, settings.labels)
            for name, part in (("train", training), ("tuning", tuning_split)):
                print(labelled.describe(part, target, name), flush=True)
        if sections.start.checkpoint:
            from ehrjax.hf import source

            source.carry(Path(sections.start.checkpoint), workdir)
        size = len(training) if target is None else len(training.labels)
        print(
            f"{config['model']['name']}: {trees.count(shapes):,} parameters; {size:,} "
            f"{'subjects' if target is None else 'labels'}, "
            f"{int(training.lengths.sum()):,} tokens; {jax.device_count()} device(s), {num_steps:,} steps",
            flush=True,
        )

    evaluate = jax.jit(step.make_eval_step(parts.model, parts.objective))
    tuning_batches = tuning.SplitBatches(
        tuning_split, settings, mesh, parts.fields, config["batch_size"], config["seed"]
    )
    if target is None:
        evaluator = tuning.TuningLoss(tuning_batches, evaluate)
    else:
        evaluator = labelled_tuning.TuningScores(tuning_batches, evaluate, target)
    result = loop.fit(
        parts,
        step.make_train_step(parts.model, parts.objective, chosen, schedule, optimizing.accumulate),
        fresh,
        like,
        mesh=mesh,
        key=key,
        folder=settings.path,
        settings=settings,
        seed=config["seed"],
        batch_size=config["batch_size"],
        cadence=loop.Cadence(
            num_steps=num_steps,
            log_every=config["log_every"],
            eval_every=config["eval_every"],
            eval_at=tuple(config["eval_at"]),
            checkpoint_every=config["checkpoint_every"],
            patience=config["early_stopping"]["patience"],
            metric=config["early_stopping"]["metric"],
            profile_start=config["profile"]["start"],
            profile_steps=config["profile"]["steps"],
        ),
        evaluators=[evaluator],
        workdir=workdir,
        make_writer=lambda start: Writer(
            workdir,
            step=start,
            tensorboard=config["tensorboard"],
            wandb=config["wandb"],
            config=config,
            active=first,
        ),
        quiet=not first,
    )
    if result.reason == "interrupted":
        if first:
            print(
                f"interrupted; saved step {int(result.state.step)}: the same command continues from there", flush=True
            )
        return
    params = _gather(result.state.params, mesh)
    if not first:
        return
    digest = trees.sha256(params)
    files.write_json(
        workdir / "final.json",
        {
            "step": int(result.state.step),
            "reason": result.reason,
            "params_sha256": digest,
            "best_step": None if result.progress.best is None else result.progress.best_step,
            "best_metric": config["early_stopping"]["metric"],
            "best_value": result.progress.best,
        },
    )
    if config["report"]["enabled"] and jax.process_count() == 1:
        from ehrjax.evals import report

        opened = run.load(workdir)
        path = report.write(
            workdir,
            saved=files.read_json(workdir / "config.json", what="run's folder"),
            step=opened.step,
            params=opened.params,
            dataset=dataset,
            tuning=tuning_batches,
            evaluate=evaluate,
        )
        print(f"report: {path}", flush=True)
    print(f"params sha256: {digest}", flush=True)


def _embedded_notes(folder: Path, encoder: str) -> None:
    """Makes the notes of the embedded hospital, and their vectors."""
    from ehrjax.ingest import visit_notes

    source = folder / "notes.parquet"
    if not source.exists():
        visit_notes.write(folder / "events", source)
    _notes(folder, source, encoder, 512)


def _notes(folder: Path, source: Path, encoder: str, max_tokens: int) -> None:
    """Makes `folder/notes`, the vectors of a file of notes, unless it is there."""
    from ehrjax.data import notes
    from ehrjax.texts import encoders, vectors

    if (folder / "notes").exists():
        info = notes.open_notes(folder / "notes").info
        if info["encoder"] != encoders.called(encoder) or info.get("max_tokens", max_tokens) != max_tokens:
            raise InputError(
                f"{folder / 'notes'} is of another encoder or max_tokens; remove it or name another workdir."
            )
    else:
        print(f"encoding notes by {encoder}", flush=True)
        with encoders.opened(encoder, max_tokens=max_tokens) as opened:
            vectors.write(source, folder / "notes", opened)


def _check_numbers(config: dict[str, Any]) -> None:
    """Raises InputError for a length, cadence or seed that makes no sense."""
    flat = configs.flatten(config)
    names = ("seed", "num_steps", "num_epochs", "log_every", "eval_every", "checkpoint_every")
    for name in (*names, "early_stopping.patience", "profile.start", "profile.steps"):
        if flat[name] < 0:
            raise InputError(f"config.{name} is {flat[name]}; it must not be negative.")
    if not config["num_steps"] and not config["num_epochs"]:
        raise InputError("config.num_steps and config.num_epochs are both 0; set one of them.")


def _barrier(name: str) -> None:
    import jax

    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def _gather(params: Any, mesh: Any) -> Any:
    """The parameters on this host, whole, wherever their pieces lie."""
    import jax

    from ehrjax.core import mesh as meshes

    where = meshes.replicated(mesh)
    whole = jax.jit(lambda p: p, out_shardings=jax.tree.map(lambda _: where, params))(params)
    return jax.tree.map(lambda leaf: jax.device_get(leaf.addressable_data(0)), whole)


if __name__ == "__main__":
    main()
