"""Models as people run them: compiled, spread over devices, fine-tuned under their memory."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from accelerate import dispatch_model
from torch._dynamo.backends.registry import lookup_backend

from hosts.pytorch import attach
from tests.hosts.pytorch import models
from tests.hosts.pytorch.models import prompts, tiny_model
from tests.random_host import all_memories

BUDGET, INTERVAL = 20, 32
GREEDY = {**models.GREEDY, "max_new_tokens": 8}


def answers(model: Any, memory: Any = "h2o") -> torch.Tensor:
    with attach(model, memory, budget=BUDGET, interval=INTERVAL):
        return model.generate(**prompts(2), **GREEDY)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Dynamo cannot trace the type checks that these tests put around every function of the library."""
    jaxtyping.config.update("jaxtyping_disable", True)
    torch.compiler.reset()
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("memory", ["h2o", "sirllm", "namm-heads"])
def test_a_compiled_model_answers_as_the_eager_one(memory: str, unchecked: None) -> None:
    """Up to what Inductor would be given; it needs a C++ compiler. The second time everything is compiled."""
    model, graphs = tiny_model(seed=1), []
    stock, expected = model.generate(**prompts(2), **GREEDY), answers(model, all_memories()[memory])
    through = lookup_backend("aot_eager")

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        graphs.append(graph)
        return through(graph, inputs)

    model.compile(backend=backend)
    torch.testing.assert_close(answers(model, all_memories()[memory]), expected, rtol=0, atol=0)
    compiled = len(graphs)
    torch.testing.assert_close(answers(model, all_memories()[memory]), expected, rtol=0, atol=0)
    assert len(graphs) == compiled > 0
    torch.testing.assert_close(model.generate(**prompts(2), **GREEDY), stock, rtol=0, atol=0)


def test_a_compiled_wrapper_is_refused() -> None:
    compiled = torch.compile(tiny_model(), backend="eager")
    with pytest.raises(ValueError, match=r"torch\.compile\(attach"):
        attach(compiled, "h2o", budget=BUDGET)


@pytest.mark.parametrize("name", ["h2o", "streaming-llm", "sirllm"])
@pytest.mark.parametrize("parts", [1, 2])
def test_device_maps_change_nothing(name: str, parts: int, tmp_path: Path) -> None:
    """Hooks on every module, and half of the weights away on disk between calls."""
    model, memory = tiny_model(seed=3), all_memories()[name]
    stock, expected = model.generate(**prompts(2), **GREEDY), answers(model, memory)
    places = {"": "cpu"}
    if parts == 2:
        places = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu"}
        places |= {"model.layers.1": "disk", "model.norm": "disk", "lm_head": "disk"}
    model = dispatch_model(model, places, offload_dir=tmp_path, main_device="cpu", force_hooks=True)
    assert (next(model.model.layers[1].parameters()).device.type == "meta") == (parts == 2)
    torch.testing.assert_close(answers(model, memory), expected, rtol=0, atol=0)
    torch.testing.assert_close(model.generate(**prompts(2), **GREEDY), stock, rtol=0, atol=0)


def test_gradients_are_those_of_the_stock_model() -> None:
    """Weights for the policy and the output come from one pass: taking the first must not spoil the second."""
    model, ids = tiny_model(seed=4), prompts(5, (60,))["input_ids"]
    expected = torch.autograd.grad(model(ids, labels=ids).loss, model.model.layers[0].self_attn.q_proj.weight)[0]
    with attach(model, "h2o", budget=64, interval=64):
        loss = model(ids, labels=ids).loss
    got = torch.autograd.grad(loss, model.model.layers[0].self_attn.q_proj.weight)[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
