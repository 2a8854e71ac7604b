"""Recorded play comes back as it was, windows are cut right, training learns, resumes exactly and folds its scaling."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.control.batches import draw, fold, scaled, scaling
from experiments.control.datasets import Episode, read, record
from experiments.control.tasks import TASKS, find_task
from experiments.control.tmaze import walker
from experiments.recipes import train_decision
from experiments.recipes.train_decision import TrainConfig, loss, train

NAME = "tmaze-20"


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory):
    """A few recorded episodes of the shortest maze, the only task of a tiny host."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("minari")))
        patch.setattr(train_decision, "TASKS", {NAME: replace(TASKS[NAME], host="tiny")})
        task = find_task(NAME)
        record(task.make(), walker, 12, 0, task.data)
        yield read(task.data)


def config(folder: Path, steps: int) -> TrainConfig:
    paths, sizes = (folder / "out", folder / "run"), {"width": 16, "layers": 1, "heads": 2}
    return TrainConfig("tiny", *paths, 3, steps, 264, **sizes, rate=1e-2, save_every=1, warmup=1)


def test_recorded_play_is_what_was_played(play: list[Episode]) -> None:
    task = find_task(NAME)
    for index, one in enumerate(play):
        rng = np.random.default_rng([0, index])
        env = task.make()
        state, _ = env.reset(seed=int(rng.integers(2**31)))
        act, total = walker(rng), 0.0
        for step, action in enumerate(one.actions):
            np.testing.assert_array_equal(one.states[step], state)
            chosen = act(state)
            assert action.tolist() == np.eye(3)[chosen].tolist()
            state, reward, ended, cut, _ = env.step(chosen)
            total += float(reward)
        assert ended or cut
        assert one.returns[0] == total
    assert {one.returns[0] for one in play} == {0.0, 1.0}
    assert read(task.data, visible=2)[0].states.shape[1] == 2
    with pytest.raises(FileNotFoundError, match="record it first"):
        read("namm/nothing-v0")


def test_windows_are_pieces_of_episodes() -> None:
    rng = np.random.default_rng(0)
    episodes = [Episode(np.arange(n)[:, None] + 100.0 * n, np.zeros((n, 1)), np.arange(n) * 1.0) for n in (3, 9)]
    batch = draw(rng, episodes, 5, 40)
    assert batch.states.shape == (40, 5, 1) and batch.real.sum(1).unique().tolist() == [3.0, 5.0]
    real = batch.real > 0
    assert (batch.states[..., 0] % 100)[real].equal(batch.timesteps[real].double())
    assert batch.returns[..., 0][real].equal(batch.timesteps[real].double())
    assert set(batch.timesteps[:, 0].tolist()) == {0, 1, 2, 3, 4}


def test_training_learns_and_resumes(play: list[Episode], tmp_path: Path) -> None:
    whole = train(config(tmp_path, 30))
    mean, spread = scaling([play])
    fresh = train_decision.build(config(tmp_path, 30), 8, 3, True)
    fold(fresh, mean, spread)
    batch = draw(np.random.default_rng(0), play, 22, 12)
    before, after = (float(loss(model, batch, True).detach()) for model in (fresh, whole))
    assert after < 0.7 * before
    shutil.rmtree(tmp_path / "run")
    part = config(tmp_path, 30)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_decision, "draw", _stops_at(17, train_decision.draw))
        with pytest.raises(KeyboardInterrupt):
            train(part)
    resumed = train(part).state_dict()
    assert all(torch.equal(resumed[name], x) for name, x in whole.state_dict().items())


def _stops_at(call: int, function):
    calls = iter(range(call))

    def counted(*arguments):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return function(*arguments)

    return counted


def test_folding_changes_nothing(play: list[Episode], tmp_path: Path) -> None:
    mean, spread = scaling([play])
    model = train_decision.build(config(tmp_path, 1), 8, 3, True).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))  # so that every input matters
    rng = np.random.default_rng
    small = draw(rng(0), [scaled(one, mean, spread) for one in play], 22, 6)
    with torch.no_grad():
        expected = loss(model, small, True)
        fold(model, mean, spread)
        found = loss(model, draw(rng(0), play, 22, 6), True)
    # padding is not scaled, but no step that counts can look at it
    torch.testing.assert_close(found, expected)


def test_bad_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_decision, "TASKS", TASKS)
    with pytest.raises(ValueError, match=r"host is 'dt-nothing'; expected one of .*dt-tmaze"):
        TrainConfig("dt-nothing")
    with pytest.raises(ValueError, match="heads divide"):
        TrainConfig(heads=3)
    with pytest.raises(ValueError, match="step_tokens is 100"):
        TrainConfig(step_tokens=100)
    with pytest.raises(ValueError, match="unknown control task 'tmaze'"):
        find_task("tmaze")
