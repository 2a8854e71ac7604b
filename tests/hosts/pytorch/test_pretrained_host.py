"""The real pretrained host with a memory attached."""

from typing import Any

import pytest
import torch

from hosts import smollm2
from hosts.pytorch import attach, memory_report
from hosts.pytorch.pretrained import load_model

pytestmark = pytest.mark.smollm2
GREEDY = {"do_sample": False, "max_new_tokens": 8, "min_new_tokens": 8, "pad_token_id": 2}


@pytest.fixture(scope="module")
def model() -> Any:
    try:
        return load_model(smollm2.NAME)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def inputs() -> dict[str, torch.Tensor]:
    ids = torch.randint(100, 40_000, (1, 104), generator=torch.Generator().manual_seed(3))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_keep_all_answers_as_the_stock_model(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    expected = model.generate(**inputs, **GREEDY)
    with attach(model, "keep-all", interval=64, chunk=48):
        torch.testing.assert_close(model.generate(**inputs, **GREEDY), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["h2o", "smollm2"])
def test_eviction_shrinks_the_cache(model: Any, inputs: dict[str, torch.Tensor], name: str) -> None:
    with attach(model, name, budget=40, interval=32):
        model.generate(**inputs, **GREEDY)
        report = memory_report(model)
    token = 30 * 3 * 2 * 64 * 4  # layers, heads, key and value, dimensions, float32
    assert report.full_bytes == token * 111 and report.seen == [111]
    assert report.bytes <= report.peak_bytes == token * (40 + 32)
    assert all(kept.tolist() == [[40 + 15] * 3] for kept in report.kept)
