"""Entries answer together as they do alone, within their prompts' limits and their budgets' bytes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from experiments.answers import token_bytes
from experiments.comparison import EvaluateConfig, evaluate
from experiments.evaluate import Evaluator
from experiments.objective import UseConfig
from experiments.prompts import PromptSource, TaskMix
from experiments.records import read_verdicts
from experiments.summary import Verdict
from experiments.torch_engine import TorchEngine
from hosts.weights import load_host
from namm.artefact import Memory, training_free
from tests.hosts.pytorch.models import tiny_model
from tests.random_host import all_memories
from tests.tiny import save_host, tiny_llama

pytestmark = pytest.mark.usefixtures("compile_quickly")
LIMITS = (1, 3, 6)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> PromptSource:
    folder = tmp_path_factory.mktemp("evaluate")
    save_host(folder / "host", tiny_llama(max_position_embeddings=256, num_hidden_layers=2))
    lines = [
        {
            "context": f"{'the sky is blue. ' * (i % 3 + 1)}the {i} is {i * 37}. ok",
            "question": f" {i}?",
            "answers": ["1"],
            "max_new_tokens": LIMITS[i % len(LIMITS)],
        }
        for i in range(60)
    ]
    (folder / "own.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return PromptSource(load_host(str(folder / "host")), TaskMix((str(folder / "own.jsonl"),), 96))


def policies(*names: str) -> list[Memory]:
    return [training_free(name, 16, 1, 0) for name in names]


def predictions(evaluator: Evaluator) -> dict[tuple[str, int], Verdict]:
    found = evaluator.run("train", 4, lambda _: None, 0).verdicts
    return {(v.entry, v.index): replace(v, seconds=0.0) for v in found}


def test_entries_together_and_alone(source: PromptSource) -> None:
    use, names = UseConfig("recorded", 0.5, chunk=16), ("sliding-window", "key-norm", "keep-all")
    together = predictions(Evaluator(source, policies(*names), use, 4, (0.5, 16)))
    assert len(together) == (2 * 2 + 1) * 4
    for name, budget in (("sliding-window", 0.5), ("key-norm", 16), ("keep-all", 16)):
        alone = predictions(Evaluator(source, policies(name), replace(use, budget=budget), 4))
        assert len(alone) == 4 and alone.items() <= together.items()
    assert len({v.prediction for v in together.values()}) > 3


def test_a_row_ends_at_its_own_limit(source: PromptSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source.host.tokenizer, "decode", lambda ids, **_: " ".join(map(str, ids)))
    found = predictions(Evaluator(source, policies("keep-all"), UseConfig("streaming", 0.5, chunk=16), 4))
    limits = [source.prompt("train", index).sample.max_new_tokens for _, index in found]
    assert len(set(limits)) > 1
    assert [len(v.prediction.split()) for v in found.values()] == limits  # the tiny host ends no text


def test_torch_gives_the_same_scores(source: PromptSource) -> None:
    use = UseConfig("streaming", 12, chunk=16)
    memories = [*policies("h2o", "streaming-llm", "keep-all"), all_memories()["namm-strict"]]
    engines = (None, TorchEngine(source.host.spec.name, "float32"))
    assert engines[1] and engines[1].host.spec == source.host.spec
    jax, other = (predictions(Evaluator(source, memories, use, 4, equal="bytes", other=other)) for other in engines)
    assert len(jax) == 16 and jax == other
    with pytest.raises(ValueError, match="choose 'streaming'"):
        Evaluator(source, memories, replace(use, mode="recorded"), other=engines[1])
    with pytest.raises(ValueError, match="dtype is 'mixed'"):
        TorchEngine(source.host.spec.name, "mixed")


@pytest.mark.parametrize("family", ["Qwen2", "Gemma"])
def test_torch_serves_other_decoders(family: str, source: PromptSource, tmp_path: Path) -> None:
    """What JAX refuses; the full cache's answers are the stock model's."""
    model = tiny_model(family, seed=3, eos_token_id=1)
    host, mix = str(save_host(tmp_path / "host", model)), source.mix
    with pytest.raises(ValueError, match="LlamaForCausalLM"):
        load_host(host)
    config = EvaluateConfig(
        host, ("h2o",), mix.tasks, (mix.length,), (12,), engine="torch", prompts=3, batch=2, folder=tmp_path / "out"
    )
    rows = evaluate(config, Console(quiet=True))
    assert [(row.memory, row.prompts) for row in rows] == [("h2o", 3), ("keep-all", 3)]
    answers = [v for v in read_verdicts(tmp_path / "out") if v.memory == "keep-all"]
    assert len({v.prediction for v in answers}) > 1
    for v in answers:
        prompt = source.prompt("test", v.index)
        ids = torch.from_numpy(np.concatenate([prompt.context, prompt.question])[None].astype(np.int64))
        options = {"do_sample": False, "max_new_tokens": prompt.sample.max_new_tokens, "pad_token_id": 2}
        stock = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, ids.shape[1] :]
        assert source.host.tokenizer.decode(stock[stock != 1].tolist(), skip_special_tokens=True) == v.prediction


def test_equal_bytes_charge_for_what_a_memory_carries(source: PromptSource) -> None:
    memories, use = policies("h2o", "key-norm"), UseConfig("streaming", 16, chunk=16)
    tokens, charged = (predictions(Evaluator(source, memories, use, 4, equal=equal)) for equal in ("tokens", "bytes"))
    cache, state = token_bytes(memories, source.host)["h2o"]
    assert state > 0
    for key, v in tokens.items():
        assert {held for layer in v.held for held in layer} == {16}
        kept = 16 * cache // (cache + state) if v.memory == "h2o" else 16
        assert {held for layer in charged[key].held for held in layer} == {kept}
