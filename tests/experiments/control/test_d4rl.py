"""D4RL's gym tasks, random models in place of the hub's: environments, scaling, scores, and a run of the command."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from transformers import DecisionTransformerModel

from experiments.cli import main
from experiments.control.d4rl import STATES, load_published
from experiments.control.tasks import D4RL, find_task
from experiments.control.transfer import ControlTransfer
from experiments.transfer import TransferConfig, transfer
from hosts.pytorch import attach
from hosts.pytorch.decision_transformer import Episodes
from tests.hosts.pytorch.models import tiny_player


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a random model under the name of each on the hub, one of them in the old format."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    for number, task in enumerate(D4RL.values()):
        env = task.make()
        state, action = (space.shape[0] for space in (env.observation_space, env.action_space))  # type: ignore[index]
        made = tiny_player(state, action, noise=0.3, max_ep_len=1000, n_positions=1024)
        made.save_pretrained(task.host)
        if number == 0:
            (Path(task.host) / "model.safetensors").unlink()
            torch.save(made.state_dict(), Path(task.host) / "pytorch_model.bin")
    return tmp_path


def test_the_nine_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of the hub, returns of arXiv 2106.01345, D4RL's references, data of as many numbers as states have."""
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log where it runs
    assert len(D4RL) == 9
    for name, task in D4RL.items():
        assert find_task(name) is task and task.context == 1000
        assert task.host == f"edbeeching/decision-transformer-gym-{name.removeprefix('d4rl-')}"
        assert task.reference is not None
        assert [task.score(returned) for returned in task.reference] == [0.0, 100.0]
        mean, spread = STATES[task.data]
        assert task.make().observation_space.shape == (len(mean),) == (len(spread),)
        assert task.environment.max_episode_steps == 1000
    targets = {"hopper": 3600, "halfcheetah": 6000, "walker2d": 5000}
    assert {name: find_task(f"d4rl-{name}-expert").target for name in targets} == targets


@pytest.mark.parametrize("name", ["d4rl-halfcheetah-medium", "d4rl-hopper-medium-replay", "d4rl-walker2d-expert"])
def test_models_take_raw_states_and_returns(name: str, hub: Path) -> None:
    """As the model itself takes states of mean 0 and deviation 1, and returns in thousands."""
    task, stock = find_task(name), ControlTransfer(name).load()
    raw = type(stock).from_pretrained(task.host).eval()
    mean, spread = map(torch.tensor, STATES[task.data])
    states, returns, steps = torch.randn(5, len(mean)) * spread + mean, 3000 * torch.rand(5), torch.arange(5)
    with attach(load_published(task.host, task.data), "keep-all") as ours, attach(raw, "keep-all"):
        got = Episodes(ours).act(states, returns, steps)
        expected = Episodes(raw).act((states - mean) / spread, returns / 1000, steps)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert float((got - got[0]).abs().max()) > 1e-3


def test_a_run(hub: Path) -> None:
    few = {"policy": ("sliding-window",), "random": 0, "episodes": 2}
    rows = transfer(
        TransferConfig(task=("d4rl-hopper-medium",), budget=(0.02,), folder=hub / "out", **few), Console(quiet=True)
    )
    assert [row.memory for row in rows] == ["keep-all", "context-1", "contents", "sliding-window"]
    assert all(np.isfinite(row.score) for row in rows)


def test_no_model(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(name: str) -> None:
        raise OSError(f"We couldn't connect to the hub to load {name}")

    monkeypatch.setattr(DecisionTransformerModel, "from_pretrained", offline)
    assert main(["transfer", "--task", "d4rl-hopper-expert", "--folder", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "edbeeching/decision-transformer-gym-hopper-expert: no such folder, and the hub did not" in error
    assert not (tmp_path / "out").exists()
