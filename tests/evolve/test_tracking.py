"""The record on disk, trackers that are only imported when asked for, and the screen."""

import io
import json
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from evolve.tracking import Metrics, Screen, Tracking, open_backend

RECORD = {"stage": "only", "best_fitness": 1.5, "mean_fitness": 1.25, "validation": 0.75, "kept": 0.125}


def test_no_generation_appears_twice_after_a_resume(tmp_path):
    metrics = Metrics(tmp_path)
    for generation in range(5):
        metrics.write({"generation": generation, "value": float("nan")})
    metrics.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"generation": 5, "val')  # killed while writing
    resumed = Metrics(tmp_path, generation=3)
    resumed.write({"generation": 4, "value": 1.0})
    resumed.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["generation"] for line in lines] == [0, 1, 2, 3, 4]
    assert lines == resumed.history and lines[0]["value"] is None


def test_every_line_is_flushed(tmp_path):
    metrics = Metrics(tmp_path)
    metrics.write({"generation": 0})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"generation": 0}\n'
    metrics.close()


def test_a_damaged_line_is_an_error(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"generation": 0}\nbroken\n{"generation": 1}\n')
    with pytest.raises(ValueError, match="line 2"):
        Metrics(tmp_path, 9)


def test_a_missing_tracker_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ImportError, match="pip install trackio"):
        open_backend("trackio", tmp_path, {})


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_trackers_are_told_every_generation(tmp_path, monkeypatch, name):
    told = []
    writer = SimpleNamespace(
        add_scalar=lambda key, value, step: told.append((key, value, step)),
        flush=lambda: None,
        close=lambda: told.append("closed"),
    )
    module = SimpleNamespace(
        SummaryWriter=lambda folder: writer,
        init=lambda **options: told.append(options["project"]),
        log=lambda scalars, step: told.extend((key, value, step) for key, value in scalars.items()),
        finish=lambda: told.append("closed"),
    )
    monkeypatch.setitem(sys.modules, "tensorboardX" if name == "tensorboard" else name, module)
    folder = tmp_path / "project" / "run"
    folder.mkdir(parents=True)
    tracking = Tracking(folder, {"seed": 1}, total=3, done=-1, report_to=[name], console=Console(quiet=True))
    tracking.write({"generation": 2, **RECORD})
    tracking.close()
    assert ("validation", 0.75, 2) in told and "closed" in told
    assert name == "tensorboard" or told[0] == "project"


@pytest.mark.parametrize("terminal", [True, False])
def test_the_screen_shows_the_run(terminal):
    stream = io.StringIO()
    screen = Screen(Console(file=stream, force_terminal=terminal, width=200), total=9)
    screen.show({"generation": 4, "candidates_per_second": 2.5, **RECORD}, seconds_left=90.0)
    screen.show({"generation": 5, "stage": "only", "best_fitness": 1.75, "mean_fitness": 1.25})
    screen.close()
    text = stream.getvalue()
    expected = ["best 1.750", "mean 1.250", "validation 0.750", "kept 12.5%", "candidates/s 2.50", "5/9"]
    assert all(part in text for part in expected)
    assert terminal or ("1.5 min left" in text and text.count("\n") == 2)
