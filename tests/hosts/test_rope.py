"""RoPE against float64 oracles written from the equations."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hosts.llama import rope_frequencies, rotate
from hosts.spec import HostSpec, RopeSpec

DIM = 16
SPEC = HostSpec(
    "tiny", 1, 4, 2, DIM, 64, 96, 100, 64, RopeSpec("default", 10_000.0), 1e-5, False, False, False, None, ()
)
LLAMA3 = RopeSpec("llama3", 5e5, 8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_positions=512)
YARN = RopeSpec("yarn", 1e4, 4.0, original_max_positions=512)


def frequencies(rope: RopeSpec, length: int = 10) -> tuple[np.ndarray, float]:
    values, scale = rope_frequencies(replace(SPEC, rope=rope), length)
    return np.asarray(values, np.float64), scale


def test_linear_divides_every_frequency() -> None:
    plain = np.array([10_000.0 ** (-2 * i / DIM) for i in range(DIM // 2)])
    np.testing.assert_allclose(frequencies(RopeSpec("default", 1e4))[0], plain, rtol=1e-6)
    np.testing.assert_allclose(frequencies(RopeSpec("linear", 1e4, 4.0))[0], plain / 4, rtol=1e-6)


@pytest.mark.parametrize("alpha, factor, ratio", [(2.0, 4.0, 7.0), (1.0, 4.0, 4.0)])
def test_fixed_ntk_is_a_larger_base(alpha: float, factor: float, ratio: float) -> None:
    base = 5e5 * ratio ** (DIM / (DIM - 2))
    expected = frequencies(RopeSpec("default", base))[0]
    np.testing.assert_allclose(frequencies(RopeSpec("ntk", 5e5, factor, alpha))[0], expected, rtol=1e-6)


def test_fixed_ntk_of_the_paper() -> None:
    spec = replace(SPEC, head_dim=128, rope=RopeSpec("ntk", 5e5, 4.0, 2.0))
    second = float(rope_frequencies(spec, 1)[0][1])
    assert second ** (-128 / 2) == pytest.approx(3.61e6, rel=1e-3)


@pytest.mark.parametrize("length", [1, 512, 513, 1500])
def test_dynamic_grows_with_the_length_in_use(length: int) -> None:
    rope = RopeSpec("dynamic", 1e4, 2.0, original_max_positions=512)
    growth = 2.0 * max(length, 512) / 512 - 1.0
    base = 1e4 * growth ** (DIM / (DIM - 2))
    expected = [base ** (-2 * i / DIM) for i in range(DIM // 2)]
    np.testing.assert_allclose(frequencies(rope, length)[0], expected, rtol=2e-6)
    traced = jax.jit(lambda n: rope_frequencies(replace(SPEC, rope=rope), n)[0])(jnp.int32(length))
    np.testing.assert_allclose(traced, expected, rtol=2e-6)


def test_llama3_scales_long_wavelengths_only() -> None:
    expected = []
    for i in range(DIM // 2):
        plain = 5e5 ** (-2 * i / DIM)
        turns = 512 * plain / (2 * math.pi)
        smooth = (turns - 1.0) / (4.0 - 1.0)
        blend = (1 - smooth) * plain / 8 + smooth * plain
        expected.append(plain if turns > 4 else plain / 8 if turns < 1 else blend)
    np.testing.assert_allclose(frequencies(LLAMA3)[0], expected, rtol=1e-6)


def test_yarn_ramps_between_the_two_numbers_of_turns() -> None:
    def index(turns: float) -> float:
        return DIM * math.log(512 / (2 * math.pi * turns)) / (2 * math.log(1e4))

    low, high = math.floor(index(32)), math.ceil(index(1))
    expected = []
    for i in range(DIM // 2):
        kept = 1 - min(max((i - low) / (high - low), 0), 1)
        expected.append(1e4 ** (-2 * i / DIM) * (kept + (1 - kept) / 4))
    values, scale = frequencies(YARN)
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert scale == pytest.approx(0.1 * math.log(4) + 1)
    assert frequencies(replace(YARN, attention_factor=1.5))[1] == 1.5
    weighted = frequencies(replace(YARN, mscale=0.5, mscale_all_dim=2.0))[1]
    assert weighted == pytest.approx((0.05 * math.log(4) + 1) / (0.2 * math.log(4) + 1))


@pytest.mark.parametrize("per_head", [False, True])
def test_rotation_is_a_complex_product(per_head: bool) -> None:
    rng = np.random.default_rng()
    x = rng.normal(size=(2, 3, 5, DIM))
    positions = rng.integers(0, 5000, size=(2, 3, 5) if per_head else (2, 5))
    values, _ = frequencies(RopeSpec("default", 1e4))
    full = positions if per_head else positions[:, None]
    turned = (x[..., : DIM // 2] + 1j * x[..., DIM // 2 :]) * np.exp(1j * full[..., None] * values) * 1.25
    expected = np.concatenate([turned.real, turned.imag], -1)
    got = rotate(jnp.asarray(x, jnp.float32), jnp.asarray(positions), jnp.asarray(values, jnp.float32), 1.25)
    np.testing.assert_allclose(got, expected, atol=3e-3)
    near = rotate(jnp.asarray(x, jnp.float32), jnp.asarray(positions % 50), jnp.asarray(values, jnp.float32), 1.25)
    turned = (x[..., : DIM // 2] + 1j * x[..., DIM // 2 :]) * np.exp(1j * (full % 50)[..., None] * values) * 1.25
    np.testing.assert_allclose(near, np.concatenate([turned.real, turned.imag], -1), atol=2e-5)


def test_rotation_keeps_the_type_and_computes_wide() -> None:
    x = jax.random.normal(jax.random.key(np.random.randint(1 << 30)), (1, 1, 1, DIM)).astype(jnp.bfloat16)
    values, _ = rope_frequencies(SPEC, 1)
    got = rotate(x, jnp.array([[4001]]), values)
    wide = rotate(x.astype(jnp.float32), jnp.array([[4001]]), values)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, wide.astype(jnp.bfloat16))


def test_positions_of_another_rank_are_refused() -> None:
    with pytest.raises(ValueError, match="positions"):
        rotate(jnp.zeros((2, 3, 5, DIM)), jnp.arange(5), rope_frequencies(SPEC, 1)[0])


@pytest.mark.parametrize(
    "values, word",
    [
        ({"theta": 0.0}, "theta"),
        ({"factor": 0.5}, "factor"),
        ({"kind": "llama3"}, "low_freq_factor"),
        ({"kind": "ntk", "factor": 4.0, "alpha": -1.0}, "alpha"),
        ({"kind": "yarn", "beta_slow": 99.0}, "beta_slow"),
    ],
)
def test_bad_rules_name_the_field(values: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        RopeSpec(**{"kind": "default", "theta": 1e4, **values})


@pytest.mark.parametrize(
    "values, word",
    [({"layers": 0}, "layers"), ({"kv_heads": 3}, "kv_heads"), ({"head_dim": 15}, "head_dim")],
)
def test_bad_hosts_name_the_field(values: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        replace(SPEC, **values)


def test_a_rule_given_by_hand_stretches_the_context() -> None:
    host = SPEC.with_rope(RopeSpec("ntk", 1e4, 4.0, 2.0))
    assert (host.max_positions, host.rope.original_max_positions) == (256, 64)
    assert SPEC.with_rope(RopeSpec("dynamic", 1e4, 2.0)).rope.original_max_positions == 64
    with pytest.raises(ValueError, match="original_max_positions"):
        replace(SPEC, rope=RopeSpec("dynamic", 1e4, 2.0))


def test_counts_of_a_host() -> None:
    assert (SPEC.group, SPEC.kv_bytes(jnp.bfloat16)) == (2, 2 * 2 * DIM * 2)
    matrices = 2 * 64 * 4 * DIM + 2 * 64 * 2 * DIM + 3 * 64 * 96 + 64 * 100
    assert SPEC.flops_per_token == 2 * matrices
