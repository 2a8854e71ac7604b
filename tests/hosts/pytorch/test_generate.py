"""A memory that drops nothing changes no token; one that drops treats every row as if it were alone."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, TextStreamer, pipeline

from hosts.pytorch import attach, detach, memory_report
from hosts.pytorch.cache import NammCache
from tests.hosts.pytorch.models import FAMILIES, GREEDY, prompts, tiny_model
from tests.random_host import all_memories
from tests.tiny import tiny_tokenizer

MEMORIES = all_memories()
BUDGET = 20
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "prefill chunks": {"prefill_chunk_size": 16},
    "beams": {"num_beams": 2},
    "sampling": {"do_sample": True, "top_k": 20},
    "beam sampling": {"do_sample": True, "num_beams": 3, "num_return_sequences": 2},
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", WAYS)
def test_without_eviction_every_token_is_that_of_stock_generate(family: str, way: str) -> None:
    model, inputs, options = tiny_model(family, seed=1), prompts(2), {**GREEDY, **WAYS[way]}
    torch.manual_seed(3)
    expected = model.generate(**inputs, **options)
    with attach(model, "keep-all", interval=32, chunk=13):
        torch.manual_seed(3)
        torch.testing.assert_close(model.generate(**inputs, **options), expected, rtol=0, atol=0)
        report = memory_report(model)
    if way == "greedy":
        assert report.full_bytes <= report.bytes <= report.peak_bytes <= report.full_bytes * (94 + 32) / 94
    torch.manual_seed(3)
    torch.testing.assert_close(model.generate(**inputs, **options), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", MEMORIES)
def test_rows_of_a_batch_fare_as_alone(name: str) -> None:
    """Neither neighbours nor padding nor chunk sizes matter, through several evictions in prefill and decoding."""
    model, inputs, memory = tiny_model(seed=4), prompts(5), MEMORIES[name]
    budget = None if memory.selection.threshold is not None else BUDGET
    options = {**GREEDY, "max_new_tokens": 40}
    with attach(model, memory, budget=budget, chunk=11):
        together = model.generate(**inputs, **options)
        kept = memory_report(model).kept
    rows = zip(inputs["input_ids"], inputs["attention_mask"], together, strict=True)
    for i, (ids, mask, out) in enumerate(rows):
        alone = {"input_ids": ids[mask == 1][None], "attention_mask": mask[mask == 1][None]}
        with attach(model, memory, budget=budget):
            single = model.generate(**alone, **options)
            assert [x[0].tolist() for x in memory_report(model).kept] == [x[i].tolist() for x in kept]
        torch.testing.assert_close(single[0], out[-len(single[0]) :], rtol=0, atol=0)


@pytest.mark.parametrize("name", ["namm-strict", "namm-head-budgets"])
def test_heads_that_stand_apart_answer_as_side_by_side(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of different lengths, evictions in prefill and decoding: the same answers from less memory."""
    model, inputs, memory = tiny_model(seed=9), prompts(8), MEMORIES[name]
    budget = None if memory.selection.threshold is not None else BUDGET
    options = {**GREEDY, "output_logits": True, "return_dict_in_generate": True}
    found = []
    for worth in (0.0, 2.0):  # wherever it frees anything, and never
        monkeypatch.setattr("hosts.pytorch.cache._WORTH", worth)
        with attach(model, memory, budget=budget, chunk=11):
            out = model.generate(**inputs, **options)
            found.append((out, memory_report(model), [len(x.parts) for x in out.past_key_values.memory_layers]))
    (apart, less, parts), (whole, more, alone) = found
    assert max(parts) == 2 and set(alone) == {1}
    torch.testing.assert_close(apart.sequences, whole.sequences, rtol=0, atol=0)
    torch.testing.assert_close(torch.stack(apart.logits), torch.stack(whole.logits), rtol=1e-5, atol=1e-5)
    assert [x.tolist() for x in less.kept] == [x.tolist() for x in more.kept]
    assert less.bytes < more.bytes if memory.selection.budgets == "head" else less.bytes == more.bytes
    assert less.peak_bytes <= more.peak_bytes


@torch.no_grad()
@pytest.mark.parametrize("name", ["h2o", "streaming-llm", "sirllm", "namm-all-features", "namm-strict"])
def test_beams_carry_their_memory_along(name: str) -> None:
    """Two beams whose cache evicts equal a search that reads every hypothesis from the start, one step at a time."""
    model, memory = tiny_model(seed=6), MEMORIES[name]
    budget = None if memory.selection.threshold is not None else BUDGET
    ids = prompts(7, (50,))["input_ids"]
    with attach(model, memory, budget=budget):
        out = model.generate(ids, attention_mask=torch.ones_like(ids), **{**GREEDY, "num_beams": 2})[0, 50:]
        beams = [(0.0, [])]
        for _ in range(GREEDY["max_new_tokens"]):
            grown = []
            for score, tokens in beams:
                text = torch.cat([ids, torch.tensor([tokens], dtype=torch.long)], dim=1)
                log = model(text).logits[0, -1].log_softmax(-1)
                grown += [(score + float(log[t]), [*tokens, int(t)]) for t in log.topk(2).indices]
            beams = sorted(grown, key=lambda beam: -beam[0])[:2]
    assert out.tolist() == beams[0][1]


def test_a_direct_call_after_evictions_is_right() -> None:
    """Against a stock forward whose mask hides exactly the dropped tokens: a sliding window, so all layers agree."""
    model, ids = tiny_model(seed=8), prompts(9, (75,))["input_ids"]
    with attach(model, "sliding-window", budget=BUDGET, interval=32):
        cache = model(ids[:, :70]).past_key_values
        logits = model(ids[:, 70:], past_key_values=cache).logits
        assert isinstance(cache, NammCache) and cache.get_seq_length() == 75
        assert cache.memory_layers[0].slots.positions[0, 0].tolist() == list(range(64 - BUDGET, 75))
    query, key = torch.arange(75)[:, None], torch.arange(75)
    start = (query // 32 * 32 - BUDGET).clamp(min=0)
    mask = torch.where((key <= query) & (key >= start), 0.0, -torch.inf)[None, None]
    torch.testing.assert_close(logits, model(ids, attention_mask=mask).logits[:, 70:], rtol=1e-4, atol=1e-4)


def test_slot_positions_are_those_of_a_shorter_text() -> None:
    """One layer, so keys depend on nothing but token and position: after an eviction a streaming host answers as a
    stock host does that reads the survivors alone."""
    model, ids = tiny_model(seed=10, num_hidden_layers=1), prompts(11, (70,))["input_ids"]
    with attach(model, "streaming-llm", budget=BUDGET, interval=32):
        cache = model(ids[:, :64]).past_key_values
        logits = model(ids[:, 64:], past_key_values=cache).logits
    survivors = torch.cat([ids[:, :4], ids[:, 64 - BUDGET + 4 :]], dim=1)
    torch.testing.assert_close(logits, model(survivors).logits[:, BUDGET:], rtol=1e-4, atol=1e-4)


def test_calls_of_any_length_give_the_same_logits() -> None:
    model, ids, memory = tiny_model(seed=12), prompts(13, (80,))["input_ids"], MEMORIES["namm-all-features"]
    with attach(model, memory, budget=BUDGET):
        whole = model(ids).logits
        cache, parts = None, []
        for part in ids.split([1, 40, 3, 36], dim=1):
            out = model(part, past_key_values=cache)
            cache, _ = out.past_key_values, parts.append(out.logits)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MEMORIES)
def test_half_precision_runs_and_scores_in_float32(name: str, dtype: torch.dtype) -> None:
    model, memory = tiny_model(seed=14).to(dtype), MEMORIES[name]
    budget = None if memory.selection.threshold is not None else BUDGET
    with attach(model, memory, budget=budget):
        out = model(**prompts(15))
    layer = out.past_key_values.memory_layers[1]
    assert layer.keys.dtype == dtype and torch.isfinite(out.logits[inputs_end()]).all()
    assert all(x.dtype == torch.float32 for x in layer.state.slots.values())


def inputs_end() -> tuple[slice, int]:
    return slice(None), -1


def test_pipeline_streamer_and_cache_of_an_earlier_call() -> None:
    model, tokenizer = tiny_model(seed=16), tiny_tokenizer()
    config = GenerationConfig(max_new_tokens=40, do_sample=False, pad_token_id=2)
    pipe = pipeline("text-generation", model=attach(model, "h2o", budget=BUDGET, interval=32), tokenizer=tokenizer)
    pipe(["a text that is longer than the budget", "short"], generation_config=config, batch_size=2)
    assert memory_report(model).kept[0].max() <= BUDGET + 32
    ids = prompts(17, (60,))["input_ids"]
    options = {"attention_mask": torch.ones_like(ids), "pad_token_id": 2, "do_sample": False}
    once = model.generate(ids, max_new_tokens=20, streamer=TextStreamer(tokenizer), **options)
    first = model.generate(ids, max_new_tokens=10, return_dict_in_generate=True, **options)
    mask = torch.ones_like(first.sequences)
    rest = model.generate(
        first.sequences, past_key_values=first.past_key_values, **{**options, "attention_mask": mask}, max_new_tokens=10
    )
    np.testing.assert_array_equal(rest, once)
    detach(model)
