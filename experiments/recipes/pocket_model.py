"""The pocket host: its shape, its weights before training, and the directory it is written to."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerBase

from hosts.llama import Params
from hosts.spec import HostSpec, RopeSpec
from hosts.weights import parameter_names, parameter_shapes


def pocket_spec(vocabulary: int) -> HostSpec:
    """The shape of the pocket host: 4 layers, grouped-query attention with 2 KV heads."""
    return HostSpec(
        name="pocket",
        layers=4,
        query_heads=4,
        kv_heads=2,
        head_dim=32,
        hidden=96,
        intermediate=192,
        vocabulary=vocabulary,
        max_positions=2048,
        rope=RopeSpec("default", theta=500_000.0),  # half of the frequencies hardly turn: lookup at any distance
        norm_epsilon=1e-5,
        tied_embeddings=False,  # tied to a head that only ever answers digits, the other words' embeddings collapse
        attention_bias=False,
        mlp_bias=False,
        bos_id=0,
        eos_ids=(1,),
    )


def init_params(spec: HostSpec, key: Array) -> Params:
    """Random matrices of variance 1 / fan-in, but lookup half built in: training from noise takes long to find it.

    The first layer's heads attend one, two and three tokens back; the first of them copies a part of that token into
    the last components, and the second layer's heads look there for the token they stand at (an induction head,
    Olsson et al. 2022). All of it is trained on.
    """
    outer, inner = parameter_names(spec)
    shapes = parameter_shapes(spec)
    copied = np.arange(spec.hidden) >= spec.hidden - spec.head_dim
    keys = dict(zip([*outer, *inner], jax.random.split(key, len(outer) + len(inner)), strict=True))

    def draw(name: str, *stack: int) -> Array:
        shape = shapes[name]
        if len(shape) == 1:
            return jnp.ones((*stack, *shape))
        if name == "embedding":  # component 0, the same for all, is what attention to positions reads
            return (jax.random.normal(keys[name], shape) * np.where(copied, 0.1, 1.0)).at[:, 0].set(4.0)
        return jax.random.normal(keys[name], (*stack, *shape[::-1])) / np.sqrt(shape[1])

    params: Params = {name: draw(name) for name in outer}
    layers = {name: draw(name, spec.layers) for name in inner}
    layers["down"] /= 2 * spec.layers  # every layer sees the tokens themselves at first
    query, key_back = _looking_back(spec, (1, 2, 1, 3))
    layers["query"] = layers["query"].at[0].set(0.3 * layers["query"][0] + query)
    layers["key"] = layers["key"].at[0].set(0.3 * layers["key"][0] + key_back)
    value = layers["value"][0, :, : spec.head_dim].at[0].set(0.0) * ~copied[:, None]
    layers["value"] = layers["value"].at[0, :, : spec.head_dim].set(value)
    place = np.eye(spec.hidden, dtype=np.float32)[copied]
    layers["output"] = layers["output"].at[0].multiply(0.3).at[0, : spec.head_dim].set(place)
    slow = np.arange(spec.head_dim) % (spec.head_dim // 2) >= 7  # RoPE would scramble a comparison in the others
    layers["query"] = layers["query"].at[1].set(jnp.tile(3 * slow * value, spec.query_heads))
    layers["key"] = layers["key"].at[1].set(jnp.tile(3 * slow * place.T, spec.kv_heads))
    return params | {"layers": layers}


def _looking_back(
    spec: HostSpec, offsets: tuple[int, ...]
) -> tuple[Float[np.ndarray, "hidden queries"], Float[np.ndarray, "hidden keys"]]:
    """Query and key matrices whose heads attend `offsets` tokens back, by RoPE's six fastest frequencies."""
    fast, strength = np.arange(6), 1.5
    angles = spec.rope.theta ** (-2 * fast / spec.head_dim)
    query = np.zeros((spec.hidden, spec.query_heads, spec.head_dim), np.float32)
    keyed = np.zeros((spec.hidden, spec.kv_heads, spec.head_dim), np.float32)
    keyed[0][:, fast] = strength
    for head, offset in enumerate(offsets):
        query[0, head, fast] = strength * np.cos(offset * angles)
        query[0, head, fast + spec.head_dim // 2] = -strength * np.sin(offset * angles)
    return query.reshape(spec.hidden, -1), keyed.reshape(spec.hidden, -1)


def save_host(directory: Path, spec: HostSpec, params: Params, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write a Hugging Face directory (float32 safetensors) that any Llama implementation reads."""
    outer, inner = parameter_names(spec)

    def stored(name: str, array: Array) -> np.ndarray:
        value = np.asarray(array, np.float32)
        return np.ascontiguousarray(value if name == "embedding" or value.ndim == 1 else value.T)

    tensors = {key: stored(name, params[name]) for name, key in outer.items()}
    for name, key in inner.items():
        tensors |= {key.format(i): stored(name, params["layers"][name][i]) for i in range(spec.layers)}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": spec.vocabulary,
        "hidden_size": spec.hidden,
        "intermediate_size": spec.intermediate,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.query_heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "max_position_embeddings": spec.max_positions,
        "rope_theta": spec.rope.theta,
        "rms_norm_eps": spec.norm_epsilon,
        "tie_word_embeddings": spec.tied_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": spec.bos_id,
        "eos_token_id": spec.eos_ids[0],
        "torch_dtype": "float32",
    }
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(directory)
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
