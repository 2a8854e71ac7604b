"""`namm device` on the CPU: counted operations against XLA's, what fails a check, and what a second call does."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from experiments import device as module
from experiments.costs import Cost, Entry, forward_cost, layer_weights, rollout_cost, slot_size, update_cost
from experiments.device import DeviceConfig, device
from experiments.device_times import Sizes, timings
from experiments.objective import KEEP_ALL
from experiments.recipes import RECIPES
from experiments.run_config import Precision, PromptConfig
from hosts.llama import logits
from hosts.stream import make_engine, read, start
from hosts.weights import load_host
from namm.policies import load_policy
from tests.tiny import save_host, tiny_llama

pytestmark = pytest.mark.usefixtures("compile_quickly")
QUIET = Console(quiet=True)
SMALL = Sizes(length=256, candidates=2, prompts=2, steps=4, rounds=1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    model = tiny_llama(max_position_embeddings=2048, num_hidden_layers=1, hidden_size=64, intermediate_size=128)
    return str(save_host(tmp_path_factory.mktemp("host"), model))


@pytest.fixture
def recipe(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = RECIPES["smollm2-ruler"]
    small = replace(
        config,
        host=tiny,
        start=None,  # what ships is for a host of another size
        memory=replace(config.memory, scorer=replace(config.memory.scorer, sets=(1, 2))),
        stages=(replace(config.stages[0], tasks=("niah-single",), length=300, generations=3),),
        search=replace(config.search, population=4),
        prompts=PromptConfig(2, 2, 2, 2, 2, 0, 2),
        candidates=2,
        policies=("keydiff", "keep-all"),
    )
    monkeypatch.setitem(RECIPES, "smollm2-ruler", small)


def test_operations_are_those_that_xla_counts(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One layer, and rows not one by one, so that XLA, which counts the body of a loop once, counts it all; norms and
    softmax make the rest."""
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *inputs, **ways: ways["default"](*inputs))
    host, length = load_host(tiny), 128
    engine = make_engine(host.spec, load_policy("keep-all"), KEEP_ALL)
    tokens, counts = jnp.zeros((2, length), jnp.int32), jnp.full(2, length)

    def reading(params):
        stream = start(engine, params, 2, length, jax.random.key(0))
        return logits(params, host.spec, read(engine, params, stream, tokens, counts, 0)[1])

    counted = jax.jit(reading).lower(host.params).compile().cost_analysis()
    ours = forward_cost(host.spec, 2, length, length, Entry(4, 4), head=True)
    assert 1.0 <= counted["flops"] / ours.flops < 1.2
    sizes = sum(x.size for name, x in host.params["layers"].items() if "norm" not in name)
    assert layer_weights(host.spec) == sizes


def test_bytes_and_rollouts_add_up(tiny: str) -> None:
    spec, full = load_host(tiny).spec, Entry(4, 4)
    assert slot_size(spec, 4) == 2 * spec.kv_heads * spec.head_dim * 4 * spec.layers
    step, mixed = (forward_cost(spec, 3, 1, 100, entry, head=True) for entry in (Entry(2, 2), Entry(2, 4)))
    matrices, embedding, slots = spec.layers * layer_weights(spec), spec.vocabulary * spec.hidden, 3 * 100
    assert step.bytes == 2 * (matrices + embedding) + slots * slot_size(spec, 2)
    assert mixed.bytes == 2 * matrices + 4 * embedding + slots * slot_size(spec, 4)
    assert update_cost(spec, 5, 10, 4, 4, 7).bytes == 5 * 18 * (slot_size(spec, 4) + spec.kv_heads * 7)
    alone = rollout_cost(spec, 1, 2, 512, 512, 128, 64, full)
    assert alone == rollout_cost(spec, 9, 2, 512, 512, 128, 64, full)  # the first window is read once
    more = rollout_cost(spec, 9, 2, 1024, 512, 128, 64, full)
    one = forward_cost(spec, 18, 512, 64 + 512, full)
    assert more.flops - alone.flops == pytest.approx(one.flops)
    roomy = [rollout_cost(spec, candidates, 2, 2048, 512, 128, 600, full).flops for candidates in (1, 9)]
    apart = forward_cost(spec, 16, 1024, 600 + 512, full)  # two windows that come after the budget is full
    assert roomy[1] - roomy[0] == pytest.approx(apart.flops)
    assert Cost(100.0, 10.0).seconds(50.0, 1.0) == 10.0


@pytest.mark.usefixtures("recipe")
def test_a_second_call_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DeviceConfig(sizes=SMALL, dtype="float32", minutes=1e-6, folder=tmp_path)
    device(config, QUIET)
    checks, times = (json.loads((tmp_path / name).read_text()) for name in ("checks.json", "times.json"))
    assert all(row["value"] <= 0.01 for row in checks["rows"][:2]) and len(checks["rows"]) == 4
    assert [0 < row["share"] < 2 and row["seconds"] > 0 for row in times["rows"]] == [True] * 3
    assert times["flops"] > 1e8 and times["bandwidth"] > 1e8
    run = tmp_path / "smollm2-ruler"
    assert not (run / "table.json").exists() and (run / "memory").is_dir()

    for name in ("check", "timings"):
        monkeypatch.setattr(module, name, lambda *args, name=name: pytest.fail(f"{name} again"))
    device(config, QUIET)
    assert len((run / "search" / "metrics.jsonl").read_text().splitlines()) == 3  # start and two pieces
    device(replace(config, minutes=9.0), QUIET)
    assert {"evolved", "keydiff", "keep-all"} <= {row["memory"] for row in json.loads((run / "table.json").read_text())}


@pytest.mark.parametrize(
    ("backend", "told", "kept"), [("gpu", None, True), ("gpu", "other", False), ("cpu", None, False)]
)
def test_what_an_accelerator_compiled_is_kept(
    backend: str, told: str | None, kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", told)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    try:
        device(DeviceConfig(parts=(), folder=tmp_path), QUIET)
        assert jax.config.jax_compilation_cache_dir == (str(tmp_path / "compiled") if kept else told)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.usefixtures("recipe")
def test_a_wrong_device_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look, calls = module._look, []

    def wrong(*args):
        calls.append(args)
        seen = look(*args)
        return seen._replace(logits=seen.logits + (len(calls) == 2))

    monkeypatch.setattr(module, "_look", wrong)
    with pytest.raises(ValueError, match=r"not right: float32: largest difference of a logit"):
        device(DeviceConfig(parts=("check",), sizes=SMALL, folder=tmp_path), QUIET)
    assert not (tmp_path / "checks.json").exists()


def test_changed_slots_are_counted() -> None:
    a = np.array([[[1, 2, 3, -1], [4, 5, -1, -1]]])
    b = np.array([[[1, 2, 4, -1], [4, 5, -1, -1]]])
    assert module._changed(a, b) == pytest.approx(1 / 5) and module._changed(a, a) == 0


@pytest.mark.usefixtures("recipe")
@pytest.mark.parametrize("dtype", ["bfloat16", "mixed"])
def test_narrower_products_are_timed(dtype: Precision) -> None:
    run = replace(RECIPES["smollm2-ruler"], dtype=dtype)
    limits, rows = timings(run, SMALL)
    assert len(rows) == 3 and limits.flops > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [({"recipe": "none"}, "recipe is 'none'"), ({"minutes": 0.0}, "minutes is 0")],
)
def test_bad_settings(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeviceConfig(**change)
    with pytest.raises(ValueError, match=r"sizes\.rounds is 0"):
        Sizes(rounds=0)
    with pytest.raises(ValueError, match="length is 3; expected 4 or more"):
        Sizes(length=3)
