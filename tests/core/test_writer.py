"""metrics.jsonl is cut back to the restored step, a half-written last line included."""

from __future__ import annotations

from pathlib import Path

from ehrjax.core.writer import Writer, read_metrics


def test_cut_back_on_resume(tmp_path: Path) -> None:
    writer = Writer(tmp_path, step=0, tensorboard=False)
    for step in (1, 2, 3):
        writer.write(step, loss=1.0 / step)
    writer.close()
    with open(tmp_path / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 4, "lo')
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    writer = Writer(tmp_path, step=2, tensorboard=False)
    writer.write(3, loss=9.0)
    writer.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path / "metrics.jsonl")] == [
        (1, 1.0),
        (2, 0.5),
        (3, 9.0),
    ]


def test_tensorboard_holds_the_numbers(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    writer = Writer(tmp_path, step=0)
    writer.write(7, loss=0.25, note="text is for the file only")
    writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(7, 0.25)]


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    writer = Writer(tmp_path, step=0, active=False)
    writer.write(1, loss=1.0)
    writer.close()
    assert list(tmp_path.iterdir()) == []
