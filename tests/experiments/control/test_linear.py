"""Augmented random search and PPO find policies, and their play is what was asked for."""

from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from experiments.control.datasets import read
from experiments.control.linear import Moments, SearchConfig, search
from experiments.control.ppo import learn
from experiments.control.tasks import PLAY, find_task
from experiments.recipes.record_mujoco import SOURCES, RecordConfig, main, mixture, reach


class Follow(gym.Env[np.ndarray, np.ndarray]):
    """Rewards actions near minus the state's first part; 20 steps."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.steps = 0
        return self._draw(), {}

    def _draw(self) -> np.ndarray:
        self.state = 5.0 + self.np_random.normal(size=2)
        return self.state

    def step(self, action: np.ndarray):
        reward = 1.0 - (float(action[0]) + 0.5 * (self.state[0] - 5.0)) ** 2
        self.steps += 1
        return self._draw(), reward, False, self.steps == 20, {}


def test_search_finds_what_is_rewarded() -> None:
    config = SearchConfig(rate=0.05, noise=0.05, bonus=0.0)
    policy = reach(search(Follow(), config), 19.95)[-1]
    state = policy.mean + policy.deviation
    assert policy.act(state)[0] == pytest.approx(-0.5, abs=0.2)
    act = policy.player(0.0)(np.random.default_rng(0))
    assert act(policy.mean + 1e3)[0] == -1.0 and act(state).dtype == np.float32
    with pytest.raises(ValueError, match=r"no policy returned 30.0 within the limit"):
        reach(islice(search(Follow(), SearchConfig()), 2), 30.0)


def test_play_is_noisy_as_asked() -> None:
    policy = reach(search(Follow(), SearchConfig(rate=0.05, noise=0.05, bonus=0.0)), 10.0)[-1]
    spread = [np.std([act(policy.mean)[0] for _ in range(200)]) for act in map(policy.player(0.2), _rngs(40))]
    assert 0.15 < max(spread) < 0.22 and min(spread) < 0.05


def test_replay_is_of_the_way_and_expert_play_of_two() -> None:
    found = search(Follow(), SearchConfig(rate=0.05, noise=0.05, bonus=0.0))
    way = reach(found, 19.0)
    further = reach(found, 19.9)  # the same search goes on
    assert len(way) > 3 and not any(np.array_equal(one.weights, way[-1].weights) for one in further)
    state = way[-1].mean + way[-1].deviation
    for policies in (way[-1:], way, [way[-1], further[-1]]):
        play = mixture(policies, 0.0)
        actions = {float(play(rng)(state)[0]) for rng in _rngs(60 * len(policies))}
        assert actions == {float(one.clip(one.act(state))[0]) for one in policies}


def test_ppo_learns_and_what_it_gave_stays() -> None:
    found = learn(Follow(), 0)
    first, _ = next(found)
    state = first.moments.mean + np.sqrt(first.moments.var)
    before, again = first.act(state), next(learn(Follow(), 0))[0]
    (_, at_first), *_, (last, returned) = (next(found) for _ in range(4))
    np.testing.assert_array_equal(first.act(state), before)
    np.testing.assert_array_equal(again.act(state), before)
    assert returned > at_first
    assert last.act(state)[0] < last.act(last.moments.mean)[0] - 0.1  # -0.5 is best


def test_recorded_play_is_named_and_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    monkeypatch.setitem(SOURCES, "hopper", SOURCES["hopper"]._replace(medium=20.0, expert=60.0))
    main(RecordConfig(play=PLAY, episodes=4))
    assert find_task("hopper").data == "namm/hopper/medium-v0"
    for play in PLAY:
        episodes = read(f"namm/hopper/{play}-v0")
        assert len(episodes) == 4 and episodes[0].states.shape[1] == 11 and episodes[0].actions.shape[1] == 3
    with pytest.raises(ValueError, match="environment is 'ant'; expected one of halfcheetah, hopper, walker2d"):
        RecordConfig("ant")
    with pytest.raises(ValueError, match="play is 'expert'; expected some of medium, medium-replay, medium-expert"):
        RecordConfig(play=("expert",))
    with pytest.raises(ValueError, match="play is empty; expected some of medium"):
        RecordConfig(play=())
    with pytest.raises(ValueError, match="limit -1, spread"):
        RecordConfig(limit=-1)
    monkeypatch.setitem(SOURCES, "hopper", SOURCES["hopper"]._replace(medium=1e6))
    with pytest.raises(ValueError, match=r"no policy returned 1000000.0"):
        main(RecordConfig(limit=1))


def _rngs(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


def test_moments_are_those_of_the_states() -> None:
    states = np.random.default_rng(0).normal(3.0, [1.0, 5.0], size=(50, 2))
    moments = Moments(0, np.zeros(2), np.zeros(2))
    for state in states:
        moments.add(state)
    np.testing.assert_allclose(moments.mean, states.mean(0))
    np.testing.assert_allclose(moments.deviation, states.std(0, ddof=1))
