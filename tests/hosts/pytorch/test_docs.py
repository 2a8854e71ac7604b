"""Every example of the documentation runs, in the page's order."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from hosts.pytorch import attach, memory_report
from hosts.pytorch.report import report
from tests.hosts.pytorch.models import GREEDY, prompts, tiny_model
from tests.tiny import tiny_tokenizer

PAGE = Path(__file__).parents[3] / "docs" / "pipeline.md"


def test_the_page_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 5
    model = tiny_model(max_position_embeddings=4096)
    names: dict[str, Any] = {"load_model": lambda: (model, tiny_tokenizer()), "torch": torch}
    for block in blocks:
        exec(block, names)
    assert max(kept.max() for kept in report(names["cache"]).kept) <= 64 + 64


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
