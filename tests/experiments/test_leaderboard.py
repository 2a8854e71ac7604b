"""The kvpress folders parse as its leaderboard parses them and say what the verdicts say."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from experiments.leaderboard import FOLDER, PROMPTS, TASKS, write_leaderboard
from experiments.summary import Verdict

# The fields that the leaderboard's own class has; it has defaults for all but the first six.
KNOWN = (
    "dataset", "data_dir", "model", "device", "press_name", "compression_ratio", "fraction", "query_aware",
    "press_init_command",
)  # fmt: skip
ENTRIES = (("snapkv", "25%"), ("snapkv", "1024"), ("a/own", "25%"), ("keep-all", "full"))


@pytest.fixture
def verdicts() -> list[Verdict]:
    rng = np.random.default_rng()
    found = []
    for memory, budget in ENTRIES:
        for index in range(3 * len(TASKS)):
            kept = 1.0 if budget == "full" else 0.25 + 0.004 * rng.random()
            found.append(
                Verdict(
                    memory, budget, "recorded", TASKS[index % len(TASKS)], "test", 4096, index, "hidden", None,
                    float(rng.random()), kept, 4000, 1.0, 'a "quoted",\nlonger answer é', ("x", 'y"'), ((1,),),
                )
            )  # fmt: skip
    return found


def test_folders_say_what_the_verdicts_say(verdicts: list[Verdict], tmp_path: Path) -> None:
    folders = write_leaderboard(verdicts, "Qwen/Qwen3-8B", tmp_path)
    assert len(set(folders)) == len(ENTRIES) and set(folders) == set((tmp_path / FOLDER).iterdir())
    presses = []
    for folder, (memory, budget) in zip(folders, ENTRIES, strict=True):
        own = [v for v in verdicts if (v.memory, v.budget) == (memory, budget)]
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert tuple(config) == KNOWN
        assert (config["dataset"], config["data_dir"], config["model"]) == ("ruler", "4096", "Qwen/Qwen3-8B")
        assert config["fraction"] == len(own) / PROMPTS and not config["query_aware"]
        presses.append(config["press_name"])
        name = folder.name.split("__")
        assert name[:4] == ["ruler", "4096", "Qwen--Qwen3-8B", config["press_name"]] and "fraction0.006" in name
        metrics = json.loads((folder / "metrics.json").read_text())
        assert set(metrics) == {task.removeprefix("ruler/") for task in TASKS}
        for task, values in metrics.items():
            score = np.mean([v.score for v in own if v.task == f"ruler/{task}"])
            assert values == {"string_match": pytest.approx(100 * score, abs=0.005)}
        with (folder / "predictions.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        for row, v in zip(rows, own, strict=True):
            assert f"ruler/{row['task']}" == v.task and row["predicted_answer"] == v.prediction
            assert tuple(json.loads(row["answer"])) == v.answers
            assert float(row["compression_ratio"]) == 1 - v.kept
        assert config["compression_ratio"] == pytest.approx(1 - np.mean([v.kept for v in own]), abs=1e-4)
        assert float(name[4]) == pytest.approx(config["compression_ratio"], abs=0.006)
    assert presses == ["snapkv", "snapkv", "a--own_recorded", "no_press"]


def test_other_modes_questions_and_missing_tasks(verdicts: list[Verdict], tmp_path: Path) -> None:
    streaming = [replace(v, mode="streaming", question="shown") for v in verdicts if v.memory == "snapkv"]
    folder, _ = write_leaderboard(streaming, "h", tmp_path)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["press_name"] == "snapkv_streaming" and config["query_aware"]
    fewer = [v for v in verdicts if v.task != TASKS[3]]
    assert write_leaderboard(fewer, "h", tmp_path / "fewer") == [] and not (tmp_path / "fewer").exists()
