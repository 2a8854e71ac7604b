"""Every example of the documentation runs, in the page's order."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hosts.pytorch import attach, memory_report
from hosts.pytorch.report import report
from namm.config import MemoryConfig
from tests.hosts.pytorch.models import GREEDY, prompts, tiny_model
from tests.local_hub import stand_in
from tests.namm.test_original import state
from tests.random_host import BUDGETED, random_memory
from tests.tiny import tiny_tokenizer

PAGE = Path(__file__).parents[3] / "docs" / "pipeline.md"


def blocks_of(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page, re.DOTALL)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = blocks_of(PAGE.read_text())
    assert len(blocks) == 10
    model = tiny_model(max_position_embeddings=4096)
    names: dict[str, Any] = {"load_model": lambda: (model, tiny_tokenizer()), "torch": torch}
    monkeypatch.chdir(tmp_path)
    stand_in(tmp_path / "hub", monkeypatch)
    random_memory(0, MemoryConfig(interval=64, selection=BUDGETED)).save_pretrained("runs/smollm2/memory")
    names["evolution_state"] = state()
    for block in blocks:
        exec(block, names)
    assert names["converted"].interval == 512
    assert max(kept.max() for kept in report(names["cache"]).kept) <= 64 + 64


def test_the_example_of_a_card_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch)
    budgeted = random_memory(0, MemoryConfig(interval=32, selection=BUDGETED))
    own = random_memory(0, MemoryConfig(interval=32))
    for memory, budget in ((budgeted, "0.25"), (replace(budgeted, provenance={"budget": 0.5}), "0.5"), (own, "None")):
        name = f"you/budget-{budget}"
        memory.push_to_hub(name)
        (example,) = blocks_of((tmp_path / name / "main" / "README.md").read_text())
        assert f"budget={budget})" in example and name in example
        names = {"model": tiny_model(), "inputs": {**prompts(1, (40, 33)), **GREEDY, "max_new_tokens": 2}}
        exec(example, names)
        assert len(names["output"]) == 2


def test_a_function_sees_what_it_is_told() -> None:
    """Attention of the window alone, summing to 1 over the slots; kept are the highest scores and the newest token."""
    seen = []

    def score(keys: Any, values: Any, attention: Any, positions: Any) -> torch.Tensor:
        seen.append((attention, positions))
        assert keys.shape == values.shape == (2, 2, positions.shape[2], 8)
        return -positions.float()

    model = tiny_model()
    with attach(model, score, budget=5, interval=32):
        model.generate(**prompts(1, (70, 40)), **GREEDY)
        assert memory_report(model).kept[0].max() <= 5 + 32
    assert len(seen) == 2 * 2  # layers; both rows fall due at 32 tokens, the longer one at 64
    for attention, positions in seen:
        torch.testing.assert_close(attention.sum(-1), torch.ones(2, 2))
        assert torch.all(attention[positions < 0] == 0)
    with attach(model, lambda *_: torch.zeros(3), budget=5, interval=32), pytest.raises(ValueError, match="of scores"):
        model(**prompts(1, (70, 40)))
