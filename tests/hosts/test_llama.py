"""The forward against `transformers` on tiny random models, in float32."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from hosts.llama import forward
from hosts.spec import RopeSpec
from hosts.weights import Host, cast, load_host
from tests.tiny import save_host, tiny_llama

ORIGINAL = {"original_max_position_embeddings": 32}
ROPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 3.0},
    "dynamic": {"factor": 2.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **ORIGINAL},
    "yarn": {"factor": 4.0, **ORIGINAL},
    "yarn-weighted": {
        "factor": 4.0, "beta_fast": 16.0, "beta_slow": 2.0, "mscale": 0.7, "mscale_all_dim": 1.5, "truncate": False,
        **ORIGINAL,
    },
}  # fmt: skip


def random_tokens(*shape: int) -> np.ndarray:
    return np.random.default_rng().integers(0, 320, shape)


def expected_logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


def run(host: Host, tokens: np.ndarray, **options: Any) -> np.ndarray:
    return np.asarray(jax.jit(forward, static_argnums=1)(host.params, host.spec, jnp.asarray(tokens), **options))


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("kind", ROPES)
def test_logits_agree_for_every_rope_and_grouping(kind: str, kv_heads: int, tmp_path: Path) -> None:
    rope = {"rope_type": kind.split("-")[0], "rope_theta": 1000.0, **ROPES[kind]}
    model = tiny_llama(np.random.randint(1 << 30), num_key_value_heads=kv_heads, rope_parameters=rope)
    host = load_host(save_host(tmp_path, model), tokenizer=False)
    tokens = random_tokens(2, 150)  # beyond the 64 positions of the model
    np.testing.assert_allclose(run(host, tokens), expected_logits(model, tokens), atol=1e-4, rtol=0)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("attention_bias, mlp_bias", [(True, False), (False, True), (True, True)])
def test_logits_agree_with_biases_and_tied_heads(
    attention_bias: bool, mlp_bias: bool, tied: bool, tmp_path: Path
) -> None:
    options = {"attention_bias": attention_bias, "mlp_bias": mlp_bias, "tie_word_embeddings": tied, "head_dim": 12}
    model = tiny_llama(np.random.randint(1 << 30), **options)
    host = load_host(save_host(tmp_path, model), tokenizer=False)
    assert ("head" in host.params) != tied
    tokens = random_tokens(1, 40)
    np.testing.assert_allclose(run(host, tokens), expected_logits(model, tokens), atol=1e-4, rtol=0)


def test_fixed_ntk_agrees_with_the_rescaled_base(tmp_path: Path) -> None:
    base = 1000.0 * 7 ** (8 / 6)  # alpha 2, factor 4, head size 8
    model = tiny_llama(3, rope_parameters={"rope_type": "default", "rope_theta": base})
    host = load_host(save_host(tmp_path, model), rope=RopeSpec("ntk", 1000.0, 4.0, 2.0), tokenizer=False)
    assert host.spec.max_positions == 256
    tokens = random_tokens(1, 200)
    np.testing.assert_allclose(run(host, tokens), expected_logits(model, tokens), atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Host:
    return load_host(save_host(tmp_path_factory.mktemp("host"), tiny_llama(1)), tokenizer=False)


def test_left_padding_changes_nothing(tiny: Host) -> None:
    tokens = random_tokens(2, 30)
    mask = jnp.asarray(np.arange(30) >= np.array([[0], [11]]))
    padded = run(tiny, tokens, mask=mask)
    np.testing.assert_allclose(padded[0], run(tiny, tokens[:1])[0], atol=1e-5)
    np.testing.assert_allclose(padded[1, 11:], run(tiny, tokens[1:, 11:])[0], atol=1e-5)


def test_future_tokens_change_nothing(tiny: Host) -> None:
    tokens = random_tokens(1, 150)
    other = np.concatenate([tokens[:, :140], random_tokens(1, 10)], axis=1)
    np.testing.assert_array_equal(run(tiny, tokens)[:, :140], run(tiny, other)[:, :140])


def test_given_positions_are_used(tiny: Host) -> None:
    """RoPE is relative: a common shift changes nothing, a gap does."""
    tokens, steps = random_tokens(1, 20), np.arange(20)[None]
    plain = run(tiny, tokens)
    np.testing.assert_allclose(run(tiny, tokens, positions=jnp.asarray(steps + 30)), plain, atol=1e-4)
    assert np.abs(run(tiny, tokens, positions=jnp.asarray(steps * 3)) - plain).max() > 0.01


def test_jit_changes_nothing(tiny: Host) -> None:
    tokens = random_tokens(1, 16)
    np.testing.assert_allclose(forward(tiny.params, tiny.spec, jnp.asarray(tokens)), run(tiny, tokens), atol=1e-5)


def test_bfloat16_parameters_give_close_float32_logits(tiny: Host) -> None:
    tokens = random_tokens(2, 40)
    narrow = cast(tiny.params, jnp.bfloat16)
    got, exact = run(replace_params(tiny, narrow), tokens), run(tiny, tokens)
    assert got.dtype == np.float32
    assert np.abs(got - exact).mean() < 0.05 * np.abs(exact).mean()


def test_mixed_parameters_give_closer_ones(tiny: Host) -> None:
    tokens = random_tokens(2, 40)
    exact = run(tiny, tokens)
    mixed, narrow = (run(replace_params(tiny, cast(tiny.params, dtype)), tokens) for dtype in ("mixed", jnp.bfloat16))
    assert mixed.dtype == np.float32 and np.abs(mixed - exact).max() > 0
    assert np.abs(mixed - exact).mean() < np.abs(narrow - exact).mean()


def replace_params(host: Host, params: dict[str, Any]) -> Host:
    return host._replace(params=params, spec=replace(host.spec, name="narrow"))


def test_the_accelerator_attention_is_the_same_function(tiny: Host) -> None:
    from hosts.llama import _attention, _attention_blocks

    keys = jax.random.split(jax.random.key(np.random.randint(1 << 30)), 3)
    q, k, v = (jax.random.normal(key, (2, heads, 150, 8)) for key, heads in zip(keys, (4, 2, 2), strict=True))
    valid = jnp.asarray(np.arange(150) >= np.array([[0], [20]]))
    left, right = _attention(q, k, v, valid), _attention_blocks(q, k, v, valid)
    np.testing.assert_allclose(left[0], right[0], atol=1e-5)
    np.testing.assert_allclose(left[1, :, 20:], right[1, :, 20:], atol=1e-5)


def test_gradients_are_finite(tiny: Host) -> None:
    """The pocket host is trained through this forward."""
    tokens = jnp.asarray(random_tokens(2, 20))
    grads = jax.grad(lambda params: jnp.sum(forward(params, tiny.spec, tokens) ** 2))(tiny.params)
    assert all(bool(jnp.isfinite(leaf).all()) and bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(grads))
