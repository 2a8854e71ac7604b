"""Attaching changes a model for as long as it lasts and no longer; what cannot work is refused; reports are true."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import DynamicCache

from hosts.pytorch import attach, detach, memory_report
from hosts.rollout import Schedule, prefill
from hosts.stream import make_engine
from hosts.weights import load_host
from namm.artefact import training_free
from tests.hosts.pytorch.models import GREEDY, prompts, tiny_model
from tests.random_host import INTERVAL, all_memories
from tests.tiny import save_host, tiny_llama

MEMORIES = all_memories()
KEPT, CONTEXT, SHORT = 20, 90, 53


def everything(model: Any) -> list[Any]:
    """All that could be changed on a model: attributes, classes, hooks and configurations of every module."""
    out = []
    for module in model.modules():
        own = {k: v for k, v in vars(module).items() if not k.startswith("_") or k.endswith("hooks")}
        out.append((type(module), {k: (id(v), copy.copy(v) if isinstance(v, dict) else None) for k, v in own.items()}))
    return [*out, model.config.to_dict(), model.config._attn_implementation, model.generation_config.to_dict()]


def test_leaving_restores_the_model_exactly() -> None:
    model = tiny_model()
    twin = type(model)(model.config).eval()  # shares its configuration object
    before, inputs = everything(model), prompts(1)
    expected = twin.generate(**inputs, **GREEDY)
    with attach(model, "h2o", budget=20, interval=32) as inside:
        assert inside is model and type(model).__name__ == "LlamaForCausalLM"
        model.generate(**inputs, **GREEDY)
        torch.testing.assert_close(twin.generate(**inputs, **GREEDY), expected, rtol=0, atol=0)
        assert twin.config._attn_implementation == "sdpa" and type(twin.model(**inputs).past_key_values) is DynamicCache
    assert everything(model) == before
    with pytest.raises(RuntimeError, match="on purpose"), attach(model, "h2o", budget=20):
        raise RuntimeError("on purpose")
    assert everything(model) == before
    assert attach(model, "h2o", budget=20) is model
    detach(model)
    assert everything(model) == before


def test_two_memories_at_work_share_nothing() -> None:
    first, second, inputs = tiny_model(seed=1), tiny_model(seed=2), prompts(3)
    alone = []
    for model, name in ((first, "h2o"), (second, "streaming-llm")):
        with attach(model, name, budget=20, interval=32):
            alone.append(model.generate(**inputs, **GREEDY))
    with attach(first, "h2o", budget=20, interval=32), attach(second, "streaming-llm", budget=20, interval=32):
        for model, expected in zip((first, second), alone, strict=True):
            torch.testing.assert_close(model.generate(**inputs, **GREEDY), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_lookup_num_tokens": 3}, "prompt-lookup decoding"),
        ({"assistant_model": "itself"}, "assisted decoding"),
        ({"cache_implementation": "static"}, "its own cache"),
        ({"cache_implementation": "quantized"}, "its own cache"),
        ({"use_cache": False}, "use_cache=False"),
        ({"past_key_values": DynamicCache()}, "DynamicCache"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    model = tiny_model()
    if "assistant_model" in options:
        options = {"assistant_model": model}
    with attach(model, "h2o", budget=20), pytest.raises(ValueError, match=message):
        model.generate(**prompts(4), **GREEDY, **options)


def test_a_cache_is_never_cropped() -> None:
    model = tiny_model()
    with attach(model, "h2o", budget=20):
        cache = model(**prompts(5)).past_key_values
        with pytest.raises(ValueError, match="rolled back"):
            cache.crop(-1)
        with pytest.raises(ValueError, match="use_cache"):
            model(**prompts(5), use_cache=False)
        with pytest.raises(ValueError, match="rows"):
            model(prompts(5)["input_ids"][:1], past_key_values=cache)
        with pytest.raises(ValueError, match="output_attentions"):
            model(**prompts(5), output_attentions=True)
    with pytest.raises(ValueError, match="with a memory attached"):
        model(prompts(5)["input_ids"], past_key_values=cache)


@pytest.mark.parametrize(
    ("family", "overrides", "arguments", "message"),
    [
        ("Mistral", {"sliding_window": 64}, {}, "sliding_window=64"),
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}, {}, "sliding_attention"),
        ("Llama", {}, {"budget": None}, "no threshold"),
        ("Llama", {}, {"budget": 0}, "at least the 1 protected"),
        ("Llama", {}, {"budget": 1.5}, "a share in"),
        ("Llama", {}, {"chunk": 0}, "1 or more"),
        ("Llama", {"num_hidden_layers": 3}, {"memory": MEMORIES["namm-layers"]}, r"parameters for \(2,\)"),
        ("Llama", {"num_key_value_heads": 1}, {"memory": MEMORIES["namm-heads"]}, r"the host has \(2, 1\)"),
        ("Phi3", {"partial_rotary_factor": 0.5}, {"memory": "expected-attention"}, "whole heads"),
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
         {"memory": "streaming-llm"}, "'dynamic' RoPE"),
    ],
)
def test_models_and_settings_that_cannot_work(
    family: str, overrides: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    model = tiny_model(family, **overrides)
    before = everything(model)
    with pytest.raises(ValueError, match=message):
        attach(model, **{"memory": "h2o", "budget": 20, **arguments})
        model.generate(**prompts(6), **GREEDY)
    if getattr(model, "namm_attachment", None) is not None:
        detach(model)
    assert everything(model) == before


def test_twice_and_never_attached() -> None:
    model = tiny_model()
    for call in (detach, memory_report):
        with pytest.raises(ValueError, match="no memory attached"):
            call(model)
    with attach(model, "h2o", budget=20):
        with pytest.raises(ValueError, match="already"):
            attach(model, "h2o", budget=20)
        with pytest.raises(ValueError, match="nothing to report"):
            memory_report(model)
    with pytest.raises(ValueError, match="not a Llama-like decoder"):
        attach(torch.nn.Linear(2, 2), "h2o", budget=20)


@pytest.mark.parametrize("budget", [20, 0.25])
def test_the_report_counts_what_is_there(budget: int | float) -> None:
    model, inputs = tiny_model(), prompts(7)
    with attach(model, "h2o", budget=budget, interval=32) as inside:
        out = inside(**inputs)
        report = memory_report(model)
    # 70, 37 and 65 tokens: updates at 64, 32 and 64, the rest waits
    wanted = [20 + 6, 20 + 5, 20 + 1] if budget == 20 else [16 + 6, 8 + 5, 16 + 1]
    assert [kept.tolist() for kept in report.kept] == [[[n, n] for n in wanted]] * 2
    assert report.seen == [70, 37, 65]
    tensors = [x for layer in out.past_key_values.memory_layers for x in (layer.keys, layer.values)]
    assert report.bytes == sum(x.untyped_storage().nbytes() for x in tensors) == 2 * 2 * 3 * 2 * max(wanted) * 8 * 4
    assert report.full_bytes == 2 * 2 * 3 * 2 * 70 * 8 * 4 and report.saved_bytes == report.full_bytes - report.bytes
    # every row is full to its interval before the first update; later it holds its budget and an interval
    assert report.peak_bytes <= 2 * 2 * 3 * 2 * (20 + 32 + 32) * 8 * 4
    assert f"{report.bytes:,} bytes" in str(report)


def test_decoding_makes_no_room_past_the_next_update() -> None:
    model, inputs = tiny_model(), prompts(13, (104,))
    with attach(model, "h2o", budget=40, interval=32):
        model.generate(**inputs, **{**GREEDY, "max_new_tokens": 40})
        assert memory_report(model).peak_bytes == 2 * 2 * 2 * (40 + 32) * 8 * 4


def test_rows_take_their_budgets_along_when_others_leave() -> None:
    model, inputs = tiny_model(), prompts(14, (64, 64, 64))
    with attach(model, "h2o", budget=(10, 20, 30), interval=32):
        cache = model(**inputs).past_key_values
        cache.batch_select_indices(torch.tensor([2, 0]))
        model(inputs["input_ids"][[2, 0], :32], past_key_values=cache)
        held = torch.stack(memory_report(model).kept)  # [layer, row, head]
        assert (held[:, 0] == 30).all() and (held[:, 1] == 10).all()
        with pytest.raises(ValueError, match="3 numbers for 2 rows"):
            model(inputs["input_ids"][:2])
    with attach(model, "h2o", budget=(10, 20), interval=32):  # it was read as a batch of three
        with pytest.raises(ValueError, match="2 numbers for 3 rows"):
            model(inputs["input_ids"][:2, :32], past_key_values=cache)


@pytest.mark.parametrize("name", ["h2o", "namm-head-budgets"])
def test_rows_go_on_when_the_fullest_has_left(name: str) -> None:
    """Slots that were its alone stand empty in front of every head, and the policy's state has them too."""
    model, inputs, memory = tiny_model(), prompts(15, (64, 64)), MEMORIES[name]
    more = prompts(16, (40,))["input_ids"].split([7, 1, 30, 1, 1], dim=1)
    with attach(model, memory, budget=(30, 10), interval=32), torch.no_grad():
        cache = model(**inputs).past_key_values
        cache.batch_select_indices(torch.tensor([1]))
        got = [model(ids, past_key_values=cache).logits[:, -1] for ids in more]
    with attach(model, memory, budget=10, interval=32), torch.no_grad():
        cache = model(inputs["input_ids"][1:]).past_key_values
        expected = [model(ids, past_key_values=cache).logits[:, -1] for ids in more]
    torch.testing.assert_close(torch.cat(got), torch.cat(expected), rtol=1e-5, atol=1e-5)


def test_heads_of_a_layer_keep_different_tokens_and_numbers() -> None:
    model, memory = tiny_model(seed=9), MEMORIES["namm-strict"]
    with attach(model, memory):
        out = model(**prompts(8))
        counts = torch.stack(memory_report(model).kept)
    assert len({tuple(x) for x in counts.flatten(0, 1).tolist()}) > 1 and counts.unique().numel() > 2
    layers = out.past_key_values.memory_layers
    assert [layer.keys.shape[2] for layer in layers] == [int(x.max()) for x in counts]


def test_heads_with_budgets_of_their_own_free_what_they_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every head is as long as its fullest row, though others of its layer hold more."""
    monkeypatch.setattr("hosts.pytorch.cache._WORTH", 0.0)
    model, memory = tiny_model(seed=9), MEMORIES["namm-head-budgets"]
    with attach(model, memory, budget=20, interval=32):
        out = model(**prompts(8, (64, 64)))
        report = memory_report(model)
    counts = torch.stack(report.kept)
    assert (counts[..., 0] != counts[..., 1]).any() and counts.float().mean() <= 20
    held = [part.keys.shape[2] for layer in out.past_key_values.memory_layers for part in layer.parts]
    assert held == counts[:, 0].flatten().tolist()
    assert report.bytes == 2 * 2 * sum(held) * 8 * 4


@pytest.mark.parametrize("name", [name for name in MEMORIES if name != "random"])
def test_keeps_the_slots_that_the_jax_rollout_keeps(name: str, tmp_path: Path) -> None:
    """The same weights, prompts and schedule through both hosts, every layer, row and head ("random" draws anew)."""
    memory = MEMORIES[name]
    model = tiny_llama(seed=10, max_position_embeddings=512)
    spec, params, _ = load_host(save_host(tmp_path / "host", model), dtype=jnp.float32)
    ids = np.random.default_rng(11).integers(3, 300, (2, CONTEXT))
    lengths = jnp.asarray([CONTEXT, SHORT], jnp.int32)
    engine = make_engine(spec, memory.policy, memory.selection)
    schedule = Schedule(INTERVAL, INTERVAL, KEPT * memory.selection.widest, flush=False)
    run = jax.jit(prefill, static_argnums=0, static_argnames="schedule")
    arguments = (engine, params, memory.population, jnp.asarray(ids, jnp.int32), lengths, jnp.full(2, KEPT, jnp.int32))
    cache = run(*arguments, schedule=schedule, key=jax.random.key(0)).cache
    mask = torch.arange(CONTEXT) < torch.tensor([[CONTEXT], [SHORT]])
    with attach(model, memory, budget=KEPT, chunk=11), torch.no_grad():
        layers = model(torch.tensor(ids), attention_mask=mask.long()).past_key_values.memory_layers
    for index in np.ndindex(spec.layers, 2, spec.kv_heads):
        expected = np.asarray(cache.positions[index])[np.asarray(cache.valid[index])]
        ours = layers[index[0]].slots
        np.testing.assert_array_equal(ours.positions[index[1:]][ours.valid[index[1:]]], expected, err_msg=str(index))


def test_settings_of_a_policy_reach_the_port() -> None:
    memory = training_free("streaming-llm", interval=32)
    memory = replace(memory, policy=replace(memory.policy, sinks=7, position_rule="original"))  # pyright: ignore
    model = tiny_model()
    with attach(model, memory, budget=20):
        layers = model(prompts(12, (64,))["input_ids"]).past_key_values.memory_layers
    assert layers[0].slots.positions[0, 0].tolist() == [*range(7), *range(64 - 13, 64)]
