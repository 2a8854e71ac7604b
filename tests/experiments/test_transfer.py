"""`namm transfer` on an untrained host: every control in the same episodes, resumed runs, and what cannot work."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import DecisionTransformerModel

from experiments import transfer as module
from experiments.cli import main
from experiments.control.players import ContextOne, play
from experiments.control.tasks import TASKS, find_task, hide
from experiments.control.transfer import ControlTransfer
from experiments.summary import WHOLE
from experiments.transfer import TransferConfig, choose, entries, random_memories, transfer
from experiments.transfer_rows import summarise
from hosts.pytorch import attach
from hosts.pytorch.decision_transformer import Episodes, load_player
from namm.artefact import load, training_free
from tests.hosts.pytorch.models import tiny_player

QUIET = Console(quiet=True)
SMALL = {
    "memory": "smollm2",
    "task": ("tmaze-20",),
    "budget": (0.5, 0.25),
    "policy": ("sliding-window", "keydiff", "sirllm"),
    "random": 1,
}


def untrained(state: int) -> DecisionTransformerModel:
    """A host for environments with three actions."""
    torch.manual_seed(0)
    return tiny_player(state, 3, noise=0.3, max_ep_len=1000, n_positions=1)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> DecisionTransformerModel:
    """An untrained host in place of the shipped one."""
    made = untrained(8)
    monkeypatch.setattr("experiments.control.transfer.load_player", lambda _: made)
    return made


def config(folder: Path, **changes) -> TransferConfig:
    return TransferConfig(**{**SMALL, "episodes": 6, "batch": 4, "interval": 16, "folder": folder, **changes})


def lines(folder: Path) -> list[dict]:
    found = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    return [{k: v for k, v in one.items() if k != "seconds"} for one in found]


def test_everything_plays_the_same_episodes(model, tmp_path: Path) -> None:
    rows = transfer(config(tmp_path), QUIET)
    assert [(row.memory, row.budget) for row in rows[:2]] == [("keep-all", WHOLE), ("context-1", WHOLE)]
    served = ["smollm2", "random-0", "sliding-window", "keydiff"]
    assert [(row.memory, row.budget) for row in rows[2:]] == [(n, b) for b in ("50%", "25%") for n in served]
    records = lines(tmp_path)
    for row in rows:
        mine = [one for one in records if (one["memory"], one["budget"]) == (row.memory, row.budget)]
        assert sorted(one["seed"] for one in mine) == list(range(6)) and row.episodes == 6
        assert row.score == row.returned == np.mean([one["returned"] for one in mine])
        assert row.kept == pytest.approx(np.mean([one["held"] for one in mine]))
    whole, one, half, quarter = rows[0], rows[1], rows[2], rows[6]
    assert whole.kept == whole.cue_kept == 1.0 and one.cache_bytes == 0
    slot = 2 * 32 * 4 * 2  # keys and values of 32 floats in two layers
    assert whole.cache_bytes == pytest.approx((3 * whole.steps - 1) * slot)
    assert whole.cache_bytes > half.cache_bytes > quarter.cache_bytes and half.state_bytes > 0 == whole.state_bytes
    window = next(row for row in rows if (row.memory, row.budget) == ("sliding-window", "25%"))
    assert window.cue_kept == 0.0  # the last 16 to 32 tokens of 60 are beyond the first quarter
    for name in ("transfer.md", "transfer.png", "timesteps.png", "transfer.html", "transfer.json"):
        assert (tmp_path / name).stat().st_size > 100
    assert "`sirllm`: sirllm rotates keys or asks for surprisal" in (tmp_path / "transfer.md").read_text()


def test_a_killed_run_goes_on(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"policy": ("keydiff",), "random": 0}
    transfer(config(tmp_path / "whole", **few), QUIET)
    calls, run = iter(range(5)), module.run

    def dies(*arguments):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return run(*arguments)

    monkeypatch.setattr(module, "run", dies)
    with pytest.raises(KeyboardInterrupt):
        transfer(config(tmp_path / "part", **few), QUIET)
    with (tmp_path / "part" / "episodes.jsonl").open("a") as file:
        file.write('{"task": "tm')  # a torn line
    monkeypatch.setattr(module, "run", run)
    transfer(config(tmp_path / "part", **few), QUIET)
    assert lines(tmp_path / "part") == lines(tmp_path / "whole")
    monkeypatch.setattr(module, "run", None)
    transfer(config(tmp_path / "part", **few), QUIET)  # finished: nothing is played again
    with pytest.raises(ValueError, match=r"interval: .* has 16, got 32"):
        transfer(config(tmp_path / "part", interval=32, **few), QUIET)


def test_a_finished_run_grows(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {"policy": ("keydiff",), "random": 0, "budget": (0.25,), "episodes": 1, "batch": 1}
    transfer(config(tmp_path / "grown", **few), QUIET)
    more = few | {"policy": ("h2o", "keydiff"), "random": 1, "budget": (0.5, 0.25), "episodes": 2}
    played, run = [], module.run
    monkeypatch.setattr(module, "run", lambda *given: (played.append(given), run(*given))[1])
    rows = transfer(config(tmp_path / "grown", **more), QUIET)
    assert len(played) == (2 + 2 * 4) * 2 - (2 + 2)
    again = transfer(config(tmp_path / "once", **more), QUIET)
    assert lines(tmp_path / "grown") == lines(tmp_path / "once")
    assert [(row.memory, row.budget, row.score) for row in rows] == [(r.memory, r.budget, r.score) for r in again]
    with pytest.raises(ValueError, match=r"budget: .*Choose another --folder"):
        transfer(config(tmp_path / "grown", **few), QUIET)
    with torch.no_grad():
        model.embed_state.weight.mul_(2)
    with pytest.raises(ValueError, match=r"contents of dt-tmaze"):
        transfer(config(tmp_path / "grown", **more | {"episodes": 3}), QUIET)


def test_a_batch_is_its_episodes() -> None:
    """Whatever plays beside it: hoppers that fall leave the batch on the way."""
    model, task, seeds, memory = untrained(11), find_task("hopper"), list(range(4)), load("smollm2")
    with attach(model, memory, 12, 16):
        together = play(Episodes(model), task, seeds)
        alone = [play(Episodes(model), task, [seed])[0] for seed in seeds]
    assert len({one.steps for one in together}) > 1, "all episodes are alike; the test shows nothing"
    for a, b in zip(together, alone, strict=True):
        assert (a.steps, a.kept, a.cache_bytes, a.cue) == (b.steps, b.kept, b.cache_bytes, None)
        assert a.returned == pytest.approx(b.returned, rel=1e-4)


def test_kept_tokens_are_those_of_the_window(model) -> None:
    """Budget 6, updates every 16 tokens: what the last update left, and all that came since."""
    with attach(model, training_free("sliding-window"), 6, 16):
        one = play(Episodes(model), find_task("tmaze-20"), [3])[0]
    read = 3 * one.steps - 1
    since = read // 16 * 16
    assert one.kept == tuple(float(i >= since - 6) for i in range(read))


class Spy:
    """A player that pushes alternately, and notes what it was told."""

    cache = None

    def __init__(self) -> None:
        self.told: list[tuple[torch.Tensor, ...]] = []

    def act(self, states, returns, timesteps, taken=None):
        self.told.append((states, returns, timesteps, taken))
        return torch.full((len(states), 3), 2.0 if len(self.told) % 2 else -0.25)

    def keep(self, rows) -> None:
        self.told.append((rows,))


def test_players_are_told_what_happened() -> None:
    """States, the return still to come, the step, and the action as it was done: clipped to the bounds."""
    task, spy = find_task("hopper"), Spy()
    (one,) = play(spy, task, [7])
    env, total = task.make(), 0.0
    state, _ = env.reset(seed=7)
    for step, (states, returns, timesteps, taken) in enumerate(spy.told):
        np.testing.assert_array_equal(states[0], state.astype(np.float32))
        assert returns[0] == pytest.approx(task.target - total) and timesteps.tolist() == [step]
        assert taken is None if step == 0 else taken.tolist() == [[1.0 if step % 2 else -0.25] * 3]
        state, reward, *_ = env.step(np.full(3, -0.25 if step % 2 else 1.0, np.float32))
        total += float(reward)
    assert one.steps == len(spy.told) > 4 and one.returned == pytest.approx(total) and one.held == 0.0


def test_context_one_forgets(model) -> None:
    player, state = ContextOne(model), torch.zeros(1, 8)
    first = player.act(state, torch.ones(1), torch.tensor([5]))
    player.act(state + 1, torch.ones(1), torch.tensor([6]), torch.ones(1, 3))
    assert torch.equal(first, player.act(state, torch.ones(1), torch.tensor([5]), torch.ones(1, 3)))


def test_random_memories_differ_in_parameters_alone() -> None:
    memory = load("smollm2")
    found = random_memories(memory, 2)
    weights = [one.params.evolved["params"]["score"]["kernel"] for one in (memory, *found)]
    assert not any(np.allclose(weights[i], weights[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    for one in found:
        assert (one.policy.config, one.selection) == (memory.policy.config, memory.selection)
        np.testing.assert_array_equal(one.params.frozen["mean"], memory.params.frozen["mean"])
    assert random_memories(load("keydiff"), 2) == []


def test_budgets_are_shares_of_the_longest_context(tmp_path: Path) -> None:
    found = entries(config(tmp_path), [load("keydiff")], ControlTransfer("tmaze-20"))
    assert [(one.label, one.tokens) for one in found] == [(WHOLE, None)] * 2 + [("50%", 33), ("25%", 16)]


def test_d4rl_scores() -> None:
    """The library function gives the fraction; tables give percent."""
    task = find_task("hopper")
    assert task.score(3234.3) == pytest.approx(100) and task.score(-20.272305) == pytest.approx(0)
    assert find_task("tmaze-20").score(0.5) == 0.5


def test_differences_are_paired_by_episode() -> None:
    """The change is from the full context, the lead of the memory over the line, whatever the order of the records."""

    def record(memory: str, budget: str, seed: int, returned: float) -> dict:
        return {"task": "hopper", "memory": memory, "budget": budget, "seed": seed, "returned": returned} | rest

    rest = {"cue": None, "cue_kept": None, "steps": 10, "held": 0.5, "cache_bytes": 8, "state_bytes": 2, "seconds": 1.0}
    found = [record("keep-all", WHOLE, seed, 1000.0 * seed) for seed in (0, 1, 2)]
    found += [record("mine", "50%", seed, 1000.0 * seed + 300.0) for seed in (2, 0, 1)]
    found += [record("other", "50%", seed, 1000.0 * seed + 100.0) for seed in (1, 2, 0)]
    rows = {row.memory: row for row in summarise(found, [ControlTransfer("hopper")], "mine")}
    unit = 100.0 / (3234.3 + 20.272305)  # percent for a return of 1
    assert rows["mine"].change == pytest.approx((300 * unit,) * 3) and rows["mine"].lead == (0, 0, 0)
    assert rows["other"].lead == pytest.approx((200 * unit,) * 3)
    assert rows["other"].returned == 1100 and rows["keep-all"].lead == (None, None, None)
    assert rows["keep-all"].score == pytest.approx(unit * (1000 + 20.272305))


@pytest.mark.parametrize(
    ("name", "positions", "velocities"), [("hopper", 5, 6), ("halfcheetah", 8, 9), ("walker2d", 8, 9)]
)
def test_hidden_velocities(name: str, positions: int, velocities: int) -> None:
    shown, whole = find_task(f"{name}-hidden").make(), find_task(name).make()
    inner: Any = whole.unwrapped
    assert (len(inner.data.qpos[1:]), len(inner.data.qvel)) == (positions, velocities)
    assert shown.observation_space.shape == (positions,)
    np.testing.assert_array_equal(shown.reset(seed=1)[0], whole.reset(seed=1)[0][:positions])
    assert hide(find_task("hopper").make(), 2).reset(seed=1)[0].shape == (2,)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "tmaze"], "unknown control task 'tmaze'; expected one of tmaze-20"),
        (["--task", "image"], "unknown task 'image'; expected one that begins with tmaze, halfcheetah, hopper"),
        (["--memory", "smolm2"], "smolm2"),
        (["--memory", "sirllm"], "memory: sirllm rotates keys or asks for surprisal"),
        (["--interval", "20"], "memory: interval is 20; expected a positive multiple"),
    ],
)
def test_mistakes_end_in_one_clear_line(words, message, model, tmp_path, capsys) -> None:
    assert main(["transfer", *words, "--folder", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": (0.5, 0.5)}, "expected one or more different ones"),
        ({"task": ()}, "expected one or more different ones"),
        ({"budget": (12.0,)}, "expected shares of the longest context"),
        ({"episodes": 0}, "episodes is 0"),
        ({"random": -1}, "random -1"),
    ],
)
def test_settings_that_cannot_work(changes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransferConfig(**changes)


def test_what_is_not_served_is_named(model) -> None:
    served, refused = choose([load("keydiff"), load("expected-attention")], model, 48)
    assert [one.name for one in served] == ["keydiff"] and list(refused) == ["expected-attention"]


def test_a_host_of_ones_own(tmp_path: Path) -> None:
    own = untrained(8)
    with torch.no_grad():
        own.predict_action[0].bias.copy_(torch.tensor([5.0, 0.0, 0.0]))
    own.save_pretrained(tmp_path / "host")
    task = module.find_task(f"tmaze-20@{tmp_path / 'host'}")
    assert (task.host, task.tokens) == (str(tmp_path / "host"), 66) and "@" in task.name
    loaded = load_player(task.host)
    torch.testing.assert_close(dict(loaded.named_parameters()), dict(own.named_parameters()))
    assert task.model(loaded) is loaded
    with pytest.raises(ValueError, match="has 8 numbers a state, 3 an action and 1000 steps; expected 11 numbers a"):
        module.find_task(f"hopper@{tmp_path / 'host'}").model(loaded)
    with pytest.raises(FileNotFoundError, match="nowhere: no Decision Transformer"):
        transfer(config(tmp_path / "out", task=("tmaze-20@nowhere",)), QUIET)


@pytest.mark.parametrize("name", TASKS)
def test_shipped_hosts_serve_their_tasks(name: str) -> None:
    task = ControlTransfer(name)
    assert task.model(task.load()).training is False


def test_a_host_that_does_not_ship() -> None:
    with pytest.raises(FileNotFoundError, match="expected dt-"):
        load_player("dt-nothing")


def test_the_shipped_host_needs_its_context() -> None:
    """The bar of its README: at least 30% above context 1 and above half of the context."""
    model, task, seeds = load_player("dt-tmaze"), find_task("tmaze-80"), list(range(1000, 1020))
    one = np.mean([played.returned for played in play(ContextOne(model), task, seeds)])
    with pytest.raises(ValueError, match="no memory attached"):
        play(Episodes(model), task, seeds)
    with attach(model, "keep-all"):
        full = np.mean([played.returned for played in play(Episodes(model), task, seeds)])
    with attach(model, "sliding-window", 3 * task.context // 2, 48):
        cut = np.mean([played.returned for played in play(Episodes(model), task, seeds)])
    assert full >= 0.95 and full >= 1.3 * max(one, cut)


def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture) -> None:
    page = (Path(__file__).parents[2] / "docs" / "transfer.md").read_text()
    (example,) = page.split("```python\n")[1:]
    exec(compile(example.split("```")[0], "docs/transfer.md", "exec"), {})
    returned, cue, _ = capsys.readouterr().out.split()
    assert float(returned) >= 0.9 and 0 <= int(cue) < 75
