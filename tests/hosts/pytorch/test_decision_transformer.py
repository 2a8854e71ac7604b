"""A Decision Transformer step by step against the stock forward, and with memories that evict."""

import numpy as np
import pytest
import torch
from transformers import DecisionTransformerModel

from hosts.pytorch import attach, detach, memory_report
from hosts.pytorch.decision_transformer import Episodes
from namm.artefact import training_free
from namm.config import MemoryConfig
from tests.hosts.pytorch.models import tiny_player
from tests.random_host import BUDGETED, random_memory

STATE, ACTION, BATCH, STEPS = 5, 2, 3, 14
Record = dict[str, torch.Tensor]


@pytest.fixture
def model() -> DecisionTransformerModel:
    return tiny_player(STATE, ACTION, noise=0.2, max_ep_len=64, max_position_embeddings=64)


def episodes(batch: int = BATCH, steps: int = STEPS) -> Record:
    start = torch.randint(0, 30, (batch, 1))
    return {
        "states": torch.randn(batch, steps, STATE),
        "actions": torch.randn(batch, steps, ACTION),
        "returns_to_go": torch.randn(batch, steps, 1),
        "timesteps": start + torch.arange(steps),
    }


def stock(model: DecisionTransformerModel, record: Record, **options) -> torch.Tensor:
    with torch.no_grad():
        return model(**record, rewards=None, **options).action_preds


def stepwise(model: DecisionTransformerModel, record: Record, played: Episodes | None = None) -> torch.Tensor:
    played, actions = played or Episodes(model), []
    for t in range(record["states"].shape[1]):
        taken = record["actions"][:, t - 1] if t else None
        now = record["states"][:, t], record["returns_to_go"][:, t, 0], record["timesteps"][:, t]
        actions.append(played.act(*now, taken))
    return torch.stack(actions, dim=1)


def test_steps_with_a_cache_are_the_stock_forward(model: DecisionTransformerModel) -> None:
    record = episodes()
    expected = stock(model, record)
    np.testing.assert_allclose(stepwise(model, record), expected, atol=1e-5)
    with attach(model, "keep-all", interval=6):
        np.testing.assert_allclose(stepwise(model, record, played := Episodes(model)), expected, atol=1e-5)
        assert memory_report(model).seen == [3 * STEPS - 1] * BATCH and played.cache is not None


def test_a_whole_call_under_keep_all_is_the_stock_one(model: DecisionTransformerModel) -> None:
    """In chunks, and with the padding that training puts in front of short episodes."""
    record, mask = episodes(), torch.ones(BATCH, STEPS)
    mask[1, :5] = 0
    expected = stock(model, record, attention_mask=mask)
    kind, forward = type(model), model.encoder.forward
    with attach(model, "keep-all", interval=8, chunk=4):
        found = stock(model, record, attention_mask=mask)
    np.testing.assert_allclose(found[mask > 0], expected[mask > 0], atol=1e-5)
    assert type(model) is kind and model.encoder.forward == forward
    np.testing.assert_array_equal(stock(model, record, attention_mask=mask), expected)


def test_a_window_is_the_stock_forward_with_a_mask(model: DecisionTransformerModel) -> None:
    """sliding-window keeps 7 tokens at every 6th: a query sees those and what came since."""
    record, kept, interval = episodes(), 7, 6
    length = 3 * STEPS
    seen = np.zeros((length, length), bool)
    for query in range(length):
        update = query // interval * interval
        seen[query, max(0, update - kept) : query + 1] = True
    mask = torch.where(torch.from_numpy(seen), 0.0, torch.finfo(torch.float32).min)[None, None].expand(BATCH, 1, -1, -1)
    time = model.embed_timestep(record["timesteps"])
    parts = (model.embed_return(record["returns_to_go"]), model.embed_state(record["states"]))
    parts = [part + time for part in (*parts, model.embed_action(record["actions"]))]
    tokens = model.embed_ln(torch.stack(parts, dim=2).reshape(BATCH, length, -1))
    zeros = torch.zeros(BATCH, length, dtype=torch.long)
    with torch.no_grad():
        hidden = model.encoder(inputs_embeds=tokens, attention_mask=mask, position_ids=zeros).last_hidden_state
        expected = model.predict_action(hidden[:, 1::3])
    full = stock(model, record)
    with attach(model, training_free("sliding-window"), kept, interval):
        found = stepwise(model, record, played := Episodes(model))
        held = memory_report(model).kept
        assert played.cache.seen == [length - 1] * BATCH
    np.testing.assert_allclose(found, expected.detach(), atol=1e-5)
    assert (found - full).abs().max() > 1e-3
    assert all((layer == kept + (length - 1) % interval).all() for layer in held)


@pytest.mark.parametrize("name", ["h2o", "tova", "keydiff", "namm"])
def test_episodes_of_a_batch_do_not_mix(model: DecisionTransformerModel, name: str) -> None:
    config = MemoryConfig(("recency", "spectrum", "latest", "near"), interval=16, selection=BUDGETED)
    memory = random_memory(0, config) if name == "namm" else training_free(name)
    record = episodes()
    with attach(model, memory, 12, 16):
        together = stepwise(model, record)
        alone = [stepwise(model, {k: v[i : i + 1] for k, v in record.items()}) for i in range(BATCH)]
    np.testing.assert_allclose(together, torch.cat(alone), atol=1e-5)
    assert (together - stock(model, record)).abs().max() > 1e-4


def test_rows_that_are_kept_go_on_as_they_were(model: DecisionTransformerModel) -> None:
    """With the stock cache and with a memory's, which has evicted by then."""
    record, rows = episodes(), torch.tensor([2, 0])
    first = {k: v[:, :9] for k, v in record.items()}

    def rest(played: Episodes, chosen: torch.Tensor | None) -> torch.Tensor:
        at = slice(None) if chosen is None else chosen
        now = [record[name][at, 9] for name in ("states", "returns_to_go", "timesteps")]
        return played.act(now[0], now[1][:, 0], now[2], record["actions"][at, 8])

    for memory in (None, "keydiff"):
        if memory is not None:
            attach(model, memory, 12, 16)
        whole, part = Episodes(model), Episodes(model)
        with pytest.raises(ValueError, match="act first"):
            part.keep(rows)
        stepwise(model, first, whole)
        stepwise(model, first, part)
        part.keep(rows)
        np.testing.assert_allclose(rest(part, rows), rest(whole, None)[rows], atol=1e-5)


def test_what_cannot_work_is_refused(model: DecisionTransformerModel) -> None:
    for name in ("streaming-llm", "sirllm", "expected-attention"):
        with pytest.raises(ValueError, match="neither RoPE nor tokens"):
            attach(model, name, 8)
    record, played = episodes(), Episodes(model)
    now = record["states"][:, 0], record["returns_to_go"][:, 0, 0], record["timesteps"][:, 0]
    with pytest.raises(ValueError, match="taken is given"):
        played.act(*now, record["actions"][:, 0])
    played.act(*now)
    with pytest.raises(ValueError, match="taken is missing"):
        played.act(*now)
    with attach(model, "keydiff", 8), pytest.raises(ValueError, match="memory already"):
        attach(model, "keydiff", 8)
    with pytest.raises(ValueError, match="no memory"):
        detach(model)
