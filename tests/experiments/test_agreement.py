"""Recorded against streaming scoring: where they must agree, what candidates are, resume, bad settings."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from experiments import agreement as module
from experiments.agreement import AgreementConfig, agreement, candidates, rank_correlation
from namm.artefact import make
from namm.config import MemoryConfig, ScorerConfig
from namm.selection import SelectionConfig
from tests.tiny import save_host, tiny_llama

pytestmark = pytest.mark.usefixtures("compile_quickly")
QUIET = Console(quiet=True)


@pytest.fixture
def config(tmp_path: Path) -> AgreementConfig:
    budgeted, scorer = SelectionConfig(threshold=None), ScorerConfig("linear")
    memory = make("x", MemoryConfig(("recency", "norms"), scorer=scorer, selection=budgeted, interval=64))
    memory.save_pretrained(tmp_path / "memory")
    host = save_host(tmp_path / "host", tiny_llama(max_position_embeddings=512, num_hidden_layers=1))
    return AgreementConfig(
        str(tmp_path / "memory"), str(host), ("passkey",), (200,), (0.5, 0.25), 6, 1.0, 4, folder=tmp_path / "run"
    )


def test_an_update_after_everything_is_read_is_a_recorded_one(config: AgreementConfig, tmp_path: Path) -> None:
    """With an interval past the context the two ways are one: same ranks, same answers."""
    rows = agreement(replace(config, interval=256), QUIET)
    assert [row.budget for row in rows] == [0.5, 0.25]
    for row in rows:
        assert row.rank == pytest.approx(1.0) and row.best == 1 and row.low > 0.99
        assert row.recorded == row.streaming and min(row.recorded_seconds, row.streaming_seconds) > 0


def test_a_second_call_goes_on(config: AgreementConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = agreement(replace(config, budget=(0.5,)), QUIET)
    assert -1 <= first[0].low <= first[0].rank <= first[0].high <= 1
    made = []
    agree = module.agree
    monkeypatch.setattr(module, "agree", lambda *args: made.append(args[-1]) or agree(*args))
    both = agreement(config, QUIET)
    assert made == [0.25] and both[0] == first[0]
    assert len(json.loads((config.folder / "agreement.json").read_text())) == 2
    with pytest.raises(ValueError, match="spread"):
        agreement(replace(config, spread=0.5), QUIET)


def test_a_task_file_that_changed_is_refused(config: AgreementConfig, tmp_path: Path) -> None:
    task = tmp_path / "own.jsonl"
    lines = [json.dumps({"prompt": f"Text {i}. " * 12, "answers": ["it"]}) for i in range(20)]
    task.write_text("\n".join(lines))
    config = replace(config, task=(str(task),), budget=(0.5,))
    agreement(config, QUIET)
    task.write_text("\n".join(lines[1:]))
    with pytest.raises(ValueError, match=r"^contents of .*own\.jsonl: .*another --folder"):
        agreement(config, QUIET)


def test_candidates_lie_around_the_memory() -> None:
    memory = make("x", MemoryConfig(("recency", "spectrum")))
    found = candidates(memory, 40, 0.3, 0)
    kernel, made = memory.params.evolved["params"]["score"]["kernel"], found["params"]["score"]["kernel"]
    np.testing.assert_array_equal(made[0], kernel)
    assert np.std(made[1:] - kernel) == pytest.approx(0.3, rel=0.1)


def test_rank_correlation_by_hand() -> None:
    """Ranks 1 2 3 4 5 against 2 1 4 3 5: 1 - 6 * 4 / (5 * 24) = 0.8; tanh(1.0986 -+ 1.96 * sqrt(1.32 / 2))."""
    rank, low, high = rank_correlation(np.array([0.1, 0.2, 0.3, 0.4, 9.0]), np.array([2.0, 1.0, 40.0, 30.0, 50.0]))
    assert rank == pytest.approx(0.8)
    assert (low, high) == (pytest.approx(-0.4577, abs=1e-3), pytest.approx(0.9909, abs=1e-3))
    upwards = np.arange(5.0)
    assert rank_correlation(upwards, upwards**3) == pytest.approx((1.0, 1.0, 1.0))


def test_bad_settings(config: AgreementConfig) -> None:
    with pytest.raises(ValueError, match="candidates is 2"):
        replace(config, candidates=2)
    with pytest.raises(ValueError, match="training-free"):
        agreement(replace(config, memory="keydiff"), QUIET)
