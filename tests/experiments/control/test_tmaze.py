"""The rules of the maze, that nothing but the cue tells the turn, and what a missing extra says."""

import importlib.util
from importlib import reload

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from experiments import control
from experiments.control.tmaze import ALIKE, CUE, FORWARD, JUNCTION, LANDMARK, LEFT, RIGHT, TMaze, limit, walker


def walk(env: TMaze, seed: int) -> tuple[np.ndarray, dict]:
    """What is seen on the straight way to the junction."""
    seen, info = env.reset(seed=seed)
    rows = [seen]
    for _ in range(env.corridor):
        seen, reward, ended, cut, _ = env.step(np.int64(FORWARD))
        assert reward == 0 and not ended and not cut
        rows.append(seen)
    return np.stack(rows), info


@pytest.mark.filterwarnings("ignore:.*the environment spec:UserWarning")
@pytest.mark.filterwarnings("ignore:.*not within the observation space:UserWarning")
def test_the_environment_is_one() -> None:
    check_env(TMaze(8), skip_render_check=True)


@pytest.mark.parametrize("corridor", [8, 20, 80])
def test_the_cue_shows_once_and_decides(corridor: int) -> None:
    env, cues, turns = TMaze(corridor), set(), set()
    for seed in range(60):
        seen, info = walk(env, seed)
        (places, signs) = np.nonzero(seen[:, CUE:ALIKE])
        assert places.tolist() == [info["cue"]] and LEFT + signs[0] == info["turn"]
        assert info["cue"] < corridor // 4 and (seen.sum(1) <= 1).all()
        assert np.flatnonzero(seen[:, JUNCTION]).tolist() == [corridor]
        _, reward, ended, cut, _ = env.step(np.int64(LEFT))
        assert (reward, ended, cut) == (float(info["turn"] == LEFT), True, False)
        cues.add(info["cue"])
        turns.add(info["turn"])
    assert len(cues) > corridor // 8 and turns == {LEFT, RIGHT}


def test_look_alikes_say_nothing() -> None:
    env = TMaze(200)
    agree = []
    for seed in range(40):
        seen, info = walk(env, seed)
        alike = seen[:, ALIKE:LANDMARK].sum(0)
        assert alike.sum() > 30 and seen[:, LANDMARK:].sum() > 60
        agree.append(alike[info["turn"] - LEFT] / alike.sum())
    assert abs(np.mean(agree) - 0.5) < 0.05


def test_walls_and_the_limit() -> None:
    env = TMaze(8)
    env.reset(seed=0)
    for step in range(limit(8)):
        _, reward, ended, cut, _ = env.step(np.int64(RIGHT))
        assert (env.place, reward, ended, cut) == (0, 0.0, False, step == limit(8) - 1)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="corridor is 7"):
        TMaze(7)


def test_scripted_play_is_good_and_bad() -> None:
    returns = []
    env = TMaze(20)
    for seed in range(200):
        act, over, total = walker(np.random.default_rng(seed)), False, 0.0
        seen, _ = env.reset(seed=seed)
        while not over:
            seen, reward, ended, cut, _ = env.step(np.int64(act(seen)))
            total, over = total + reward, ended or cut
        returns.append(total)
    assert 0.6 < np.mean(returns) < 0.9  # half right, half by chance


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "minari" else name)
    with pytest.raises(ImportError, match=r"minari missing; .* pip install -c constraints.txt -e '.\[control\]'"):
        reload(control)
    monkeypatch.undo()
    reload(control)
