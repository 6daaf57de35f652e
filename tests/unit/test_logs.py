"""The logs of a run: each step once, and never the end of a training."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from facke_core.errors import FackeWarning
from facke_core.training.logs import RunLog
from facke_core.weights.layout import LOG


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def board(folder: Path) -> Any:
    """What TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    shown.Reload()
    return shown


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in board(folder).Scalars(name)]


def train(folder: Path, first: int, last: int, loss: float) -> None:
    with RunLog(folder, first - 1) as log:
        for step in range(first, last + 1):
            log.write(step, {"generator.identity": loss + step})


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel fills files up to ``size`` bytes, then refuses, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def recorded() -> Iterator[Callable[[], list[str]]]:
    """The texts of facke's warnings inside."""
    with warnings.catch_warnings(record=True) as came:
        warnings.simplefilter("always")
        yield lambda: [str(w.message) for w in came if issubclass(w.category, FackeWarning)]


def test_a_line_and_a_scalar_are_written_for_every_step(tmp_path: Path) -> None:
    with RunLog(tmp_path / "run", 0) as log:
        log.write(20, {"images": 160, "generator.identity": 0.123456789, "note": "Zoë"})
        log.write(40, {"images": 123456789, "lr": 1.23456789e-6, "generator.identity": 1234.5678})
    first, second = lines(tmp_path / "run")
    assert first == {"step": 20, "images": 160, "generator.identity": 0.12346, "note": "Zoë"}
    assert second == {
        "step": 40,
        "images": 123456789,
        "lr": 1.2346e-6,
        "generator.identity": 1234.6,
    }
    assert next(iter(first)) == "step"
    shown = scalars(tmp_path / "run", "generator/identity")
    assert [step for step, _ in shown] == [20, 40]
    assert [value for _, value in shown] == pytest.approx([0.12345679, 1234.5678])
    assert set(board(tmp_path / "run").Tags()["scalars"]) == {"images", "lr", "generator/identity"}


def test_a_line_can_be_read_as_soon_as_it_is_written(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0) as log:
        log.write(1, {"loss": 1.0})
        assert lines(tmp_path) == [{"step": 1, "loss": 1.0}]
        assert scalars(tmp_path, "loss") == [(1, 1.0)]


def test_numbers_that_are_not_finite_keep_the_line_valid(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0) as log:
        log.write(1, {"a": float("nan"), "b": float("-inf"), "c": 1.0})
    text = (tmp_path / LOG).read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"step": 1, "a": None, "b": None, "c": 1}


def test_a_resumed_run_has_logged_every_step_once(tmp_path: Path) -> None:
    train(tmp_path, 1, 50, loss=1000)
    train(tmp_path, 31, 40, loss=2000)
    train(tmp_path, 36, 45, loss=3000)
    expected = [(step, 1000 + step) for step in range(1, 31)]
    expected += [(step, 2000 + step) for step in range(31, 36)]
    expected += [(step, 3000 + step) for step in range(36, 46)]
    assert [(x["step"], x["generator.identity"]) for x in lines(tmp_path)] == expected
    assert scalars(tmp_path, "generator/identity") == expected


def test_a_run_that_is_resumed_where_it_ended_loses_nothing(tmp_path: Path) -> None:
    train(tmp_path, 1, 5, loss=0)
    before = (tmp_path / LOG).stat()
    train(tmp_path, 6, 5, loss=0)
    assert (tmp_path / LOG).stat() == before
    assert len(scalars(tmp_path, "generator/identity")) == 5


def test_a_training_that_begins_anew_begins_a_new_log(tmp_path: Path) -> None:
    for loss in (1000, 2000):
        with RunLog(tmp_path, 0) as log:
            for step in range(3 if loss == 1000 else 2):
                log.write(step, {"loss": loss})
    assert lines(tmp_path) == [{"step": 0, "loss": 2000}, {"step": 1, "loss": 2000}]
    assert scalars(tmp_path, "loss") == [(0, 2000), (1, 2000)]


@pytest.mark.parametrize(
    "torn",
    [b'{"step": 4, "lo', b"\x00\x00", b'{"step": 4, "note": "Zo\xc3', b"[4]", b"7\n{}\n"],
)
def test_a_line_that_was_cut_off_is_dropped(tmp_path: Path, torn: bytes) -> None:
    (tmp_path / LOG).write_bytes(b'{"step": 2}\n{"step": 3}\n' + torn)
    train(tmp_path, 4, 5, loss=0)
    assert [x["step"] for x in lines(tmp_path)] == [2, 3, 4, 5]


def test_a_last_line_without_its_end_is_kept_whole(tmp_path: Path) -> None:
    (tmp_path / LOG).write_text('{"step": 2}\n{"step": 3}')
    train(tmp_path, 4, 4, loss=0)
    assert [x["step"] for x in lines(tmp_path)] == [2, 3, 4]


def test_a_process_killed_without_warning_keeps_what_it_logged(tmp_path: Path) -> None:
    code = f"""
        import os, signal
        from pathlib import Path
        from facke_core.training.logs import RunLog
        log = RunLog(Path({str(tmp_path)!r}), 0)
        for step in range(1, 31):
            log.write(step, {{"generator.identity": float(step)}})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert done.returncode == -signal.SIGKILL
    (events,) = (tmp_path / "tensorboard").iterdir()
    with events.open("ab") as file:  # a record that was cut off
        file.write(events.read_bytes()[:11])
    train(tmp_path, 21, 25, loss=100)
    expected = [*range(1, 21), *range(121, 126)]
    assert [x["generator.identity"] for x in lines(tmp_path)] == expected
    assert [value for _, value in scalars(tmp_path, "generator/identity")] == expected


def test_a_picture_is_kept_as_a_file_and_in_tensorboard(tmp_path: Path) -> None:
    picture = torch.zeros(3, 8, 12)
    picture[0] = 1
    with RunLog(tmp_path, 0) as log:
        log.image(500, "probe.preview", picture.flip(0))
        log.image(500, "probe.preview", picture)
    (file,) = (tmp_path / "previews").iterdir()
    assert file.name == "00000500.png"
    read = Image.open(file)
    assert (read.size, read.getpixel((3, 3))) == ((12, 8), (255, 0, 0))
    shown = board(tmp_path).Images("probe/preview")
    assert [(x.step, x.width, x.height) for x in shown] == [(500, 12, 8)] * 2


def test_previews_after_the_step_are_dropped_and_other_files_stay(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0) as log:
        for step in (100, 200, 300):
            log.image(step, "probe", torch.zeros(3, 4, 4))
    (tmp_path / "previews" / "mine.png").write_bytes(b"")
    RunLog(tmp_path, 200).close()
    names = sorted(x.name for x in (tmp_path / "previews").iterdir())
    assert names == ["00000100.png", "00000200.png", "mine.png"]


def test_without_tensorboard_the_lines_are_written_and_one_warning_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with recorded() as messages, RunLog(tmp_path, 0) as log:
        log.write(1, {"loss": 1.0})
        log.image(1, "probe", torch.zeros(3, 4, 4))
    (message,) = messages()
    assert "pip install 'facke-core[train]'" in message
    assert lines(tmp_path) == [{"step": 1, "loss": 1.0}]
    assert (tmp_path / "previews" / "00000001.png").is_file()
    assert not (tmp_path / "tensorboard").exists()


def test_a_line_that_does_not_fit_is_left_out_whole_with_one_warning(tmp_path: Path) -> None:
    long = {"note": "x" * 3_000_000}
    with recorded() as messages, RunLog(tmp_path, 0) as log:
        log.write(1, {"loss": 1.0})
        with largest_file(1_000_000):
            log.write(2, long)
            log.write(3, long)
        log.write(4, {"loss": 4.0})
    (message,) = messages()
    assert "log.jsonl cannot be written (File too large)" in message
    assert "Check the free space" in message
    assert [x["step"] for x in lines(tmp_path)] == [1, 4]
    assert scalars(tmp_path, "loss") == [(1, 1.0), (4, 4.0)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_lines_go_on_when_tensorboard_cannot_write(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with recorded() as messages, RunLog(tmp_path, 0) as log:
        log.image(1, "probe", torch.rand(3, 400, 400))
        (events,) = (tmp_path / "tensorboard").iterdir()
        with largest_file(events.stat().st_size + 10):
            log.write(2, {"loss": 2.0})
        log.write(3, {"loss": 3.0})
        log.image(3, "probe", torch.zeros(3, 4, 4))
        for thread in set(threading.enumerate()) - before:
            thread.join()  # TensorBoard's, which the error ended
    (message,) = messages()
    assert "tensorboard cannot be written (File too large)" in message
    assert [x["step"] for x in lines(tmp_path)] == [2, 3]
    assert (tmp_path / "previews" / "00000003.png").is_file()


def test_previews_that_cannot_be_written_warn_once(tmp_path: Path) -> None:
    (tmp_path / "previews").write_text("not a folder")
    with recorded() as messages, RunLog(tmp_path, 0) as log:
        log.image(1, "probe", torch.zeros(3, 4, 4))
        log.image(2, "probe", torch.zeros(3, 4, 4))
        log.write(2, {"loss": 1.0})
    (message,) = messages()
    assert "previews cannot be written" in message
    assert lines(tmp_path) == [{"step": 2, "loss": 1.0}]


def test_a_folder_that_cannot_be_made_warns_and_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with recorded() as messages, RunLog(tmp_path / "file" / "run", 0) as log:
        log.write(1, {"loss": 1.0})
        log.image(1, "probe", torch.zeros(3, 4, 4))
    came = messages()
    assert any("log.jsonl" in message for message in came)
    assert len(set(came)) == len(came) <= 3


def test_a_log_can_be_closed_twice(tmp_path: Path) -> None:
    with recorded() as messages:
        log = RunLog(tmp_path, 0)
        log.close()
        log.close()
    assert messages() == []
