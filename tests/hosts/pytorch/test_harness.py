"""lm-evaluation-harness: the registered model attaches its memory, generates and refuses likelihoods.

The harness itself is an extra; its two modules that are imported are stood in for, with the same signatures.
"""

import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from hosts.pytorch import memory_report
from tests.tiny import tiny_llama


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> Any:
    registered: dict[str, type] = {}

    class HFLM:
        def __init__(self, pretrained: Any, **options: Any):
            self.model, self.options = pretrained, options

    def register_model(name: str) -> Any:
        return lambda kind: registered.setdefault(name, kind)

    contents = {
        "lm_eval": {},
        "lm_eval.api": {},
        "lm_eval.models": {},
        "lm_eval.api.registry": {"register_model": register_model},
        "lm_eval.models.huggingface": {"HFLM": HFLM},
    }
    for name, content in contents.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "hosts.pytorch.harness", raising=False)
    importlib.import_module("hosts.pytorch.harness")
    yield registered["namm"]
    del sys.modules["hosts.pytorch.harness"]


def test_the_registered_model_generates_under_its_memory(harness: Any) -> None:
    model = tiny_llama(max_position_embeddings=512)
    made = harness("h2o", budget=32, interval=32, pretrained=model, device="cpu")
    assert made.options == {"device": "cpu"}
    tokens = torch.randint(5, 50, (2, 200))
    made.model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=3, do_sample=False)
    report = memory_report(made.model)
    assert max(int(kept.max()) for kept in report.kept) <= 64 and report.seen == [202, 202]


def test_likelihood_tasks_are_refused(harness: Any) -> None:
    made = harness("keep-all", pretrained=tiny_llama())
    requests = [SimpleNamespace(task_name="hellaswag")]
    for method in (made.loglikelihood, made.loglikelihood_rolling):
        with pytest.raises(ValueError, match=r"hellaswag.*generate_until"):
            method(requests)
