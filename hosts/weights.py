"""Where hosts come from, and their weights as one pytree.

A host is loaded from a Hugging Face directory, a hub id, a GGUF file or by a short name. Everything that can be wrong
(configuration, names and shapes of all tensors, tokenizer) is checked before the first weight is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from hosts import gguf_file, smollm2
from hosts.directory import SafetensorFiles, read_spec, read_tokenizer
from hosts.spec import HostSpec, RopeSpec

PRETRAINED = Path(__file__).parent / "pretrained"
POCKET = PRETRAINED / "pocket"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
HUB_FILES = ["config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*"]
HUB_FILES += ["special_tokens_map.json", "chat_template.jinja", "added_tokens.json", "vocab.json", "merges.txt"]
MIXED = "mixed"  # the layers' matrices in bfloat16, all else in float32: CPUs multiply twice as fast, move as fast
IGNORED = re.compile(r".*rotary_emb\.inv_freq")  # a buffer that old files carry; recomputed from the configuration

HostType = DTypeLike | Literal["mixed"]


class Host(NamedTuple):
    """A frozen model: what it is, its weights (layers stacked, matrices (in, out)), its fast tokenizer (or None)."""

    spec: HostSpec
    params: dict[str, Any]
    tokenizer: Any


class Listing(NamedTuple):
    """One line of `namm hosts`; `spec` is None where it is only known after fetching."""

    name: str
    origin: str
    available: bool
    spec: HostSpec | None


@runtime_checkable
class Tensors(Protocol):
    """Named tensors in a file or several, under their Hugging Face names and in Hugging Face layout."""

    where: str
    shapes: dict[str, tuple[int, ...]]

    def read(self, name: str) -> np.ndarray: ...


def load_host(
    source: str | Path, *, dtype: HostType = jnp.float32, rope: RopeSpec | None = None, tokenizer: bool = True
) -> Host:
    """Load a Llama: `smollm2-135m`, `pocket`, a Hugging Face directory, a `*.gguf` file or a hub id `org/name`.

    `dtype` is the parameters' type, or "mixed" for the layers' matrices in bfloat16 and everything else, activations
    and caches too, in float32. `rope` replaces the model's RoPE rule, `tokenizer=False` leaves the tokenizer out.
    Raises FileNotFoundError for a missing file or unknown source, ValueError for anything unsupported or damaged.
    """
    path = locate(source)
    if path.suffix == ".gguf":
        file = gguf_file.GGUFFile(path)
        spec, tensors = file.spec(path.stem if isinstance(source, Path) else str(source)), file
        words = file.tokenizer() if tokenizer else None
    else:
        spec, tensors = read_spec(path, str(source)), SafetensorFiles(path)
        words = read_tokenizer(path) if tokenizer else None
    if words is not None and len(words) > spec.vocabulary:
        raise ValueError(f"{path}: the tokenizer has {len(words)} tokens, the model only {spec.vocabulary}")
    return Host(spec if rope is None else spec.with_rope(rope), read_params(tensors, spec, dtype), words)


def locate(source: str | Path) -> Path:
    """The directory or GGUF file that a source names; fetches it where it is not on this machine."""
    if source == smollm2.NAME:
        return smollm2.fetch()
    path = POCKET if source == "pocket" else Path(source).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    if source != "pocket" and path.suffix != ".gguf" and not path.exists() and HUB_ID.fullmatch(str(source)):
        return _download(str(source))
    raise FileNotFoundError(
        f"host {str(source)!r}: no such directory or GGUF file ({path}); expected one of "
        f"{smollm2.NAME}, pocket, a Hugging Face directory, a *.gguf file or a hub id like org/name"
    )


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=HUB_FILES))
    except Exception as error:  # network, authorisation and cache errors share no base class
        raise FileNotFoundError(
            f"host {name!r}: no such directory here, and the hub did not provide it ({type(error).__name__}: {error}). "
            "Check the name, the network, and for a gated model that you are logged in (`hf auth login`)."
        ) from error


def list_hosts() -> list[Listing]:
    """The hosts that have a short name; their specs where the files are on this machine."""
    cached = smollm2.cached()
    listings = [
        Listing(
            smollm2.NAME,
            f"package {smollm2.PACKAGE} {smollm2.VERSION}, SmolLM2-135M-Instruct, Apache-2.0",
            cached is not None,
            gguf_file.GGUFFile(cached).spec(smollm2.NAME) if cached else None,
        )
    ]
    there = (POCKET / "config.json").is_file()
    listings.append(
        Listing("pocket", "shipped; trained by this project", there, read_spec(POCKET, "pocket") if there else None)
    )
    return listings


def parameter_names(spec: HostSpec) -> tuple[dict[str, str], dict[str, str]]:
    """Pytree name -> Hugging Face name, outside the layers and within one (`{}` stands for the layer's number)."""
    outer = {"embedding": "model.embed_tokens.weight", "norm": "model.norm.weight"}
    if not spec.tied_embeddings:
        outer["head"] = "lm_head.weight"
    attention = {"query": "q", "key": "k", "value": "v", "output": "o"}
    modules = {name: f"self_attn.{short}_proj" for name, short in attention.items()}
    modules |= {name: f"mlp.{name}_proj" for name in ("gate", "up", "down")}
    inner = {name: f"{module}.weight" for name, module in modules.items()}
    biased = [name for name in modules if (spec.attention_bias if name in attention else spec.mlp_bias)]
    inner |= {f"{name}_bias": f"{modules[name]}.bias" for name in biased}
    inner |= {"attention_norm": "input_layernorm.weight", "mlp_norm": "post_attention_layernorm.weight"}
    return outer, {name: f"model.layers.{{}}.{module}" for name, module in inner.items()}


def parameter_shapes(spec: HostSpec) -> dict[str, tuple[int, ...]]:
    """Pytree name -> shape in the file (of one layer): matrices are (out, in) there."""
    queries, keys = spec.query_heads * spec.head_dim, spec.kv_heads * spec.head_dim
    out_in = {
        "query": (queries, spec.hidden),
        "key": (keys, spec.hidden),
        "value": (keys, spec.hidden),
        "output": (spec.hidden, queries),
        "gate": (spec.intermediate, spec.hidden),
        "up": (spec.intermediate, spec.hidden),
        "down": (spec.hidden, spec.intermediate),
    }
    biases = {f"{name}_bias": shape[:1] for name, shape in out_in.items()}
    norms = {name: (spec.hidden,) for name in ("norm", "attention_norm", "mlp_norm")}
    vocabulary = dict.fromkeys(("embedding", "head"), (spec.vocabulary, spec.hidden))
    return out_in | biases | norms | vocabulary


def leaf_types(dtype: HostType) -> tuple[np.dtype, np.dtype]:
    """Types of the layers' matrices and of all other parameters."""
    if dtype == MIXED:
        return jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float32)
    return jnp.dtype(dtype), jnp.dtype(dtype)


def cast(params: dict[str, Any], dtype: HostType) -> dict[str, Any]:
    """The parameters of a host in another type."""
    matrices, others = leaf_types(dtype)
    layers = {name: leaf.astype(matrices if leaf.ndim == 3 else others) for name, leaf in params["layers"].items()}
    return {name: leaf.astype(others) for name, leaf in params.items() if name != "layers"} | {"layers": layers}


def read_params(tensors: Tensors, spec: HostSpec, dtype: HostType) -> dict[str, Any]:
    """The parameter pytree of `hosts.llama`; names and shapes of all tensors are checked first."""
    outer, inner = parameter_names(spec)
    matrices, others = leaf_types(dtype)
    _check_shapes(tensors, spec, outer, inner)

    def matrix(name: str, tensor: np.ndarray) -> np.ndarray:
        return tensor.T if tensor.ndim == 2 and name != "embedding" else tensor

    def stacked(name: str, pattern: str) -> jax.Array:
        first = matrix(name, tensors.read(pattern.format(0)))
        stack = np.empty((spec.layers, *first.shape), matrices if first.ndim == 2 else others)
        for layer in range(spec.layers):
            stack[layer] = first if layer == 0 else matrix(name, tensors.read(pattern.format(layer)))
        return jnp.asarray(stack)

    params: dict[str, Any] = {name: jnp.asarray(matrix(name, tensors.read(key)), others) for name, key in outer.items()}
    params["layers"] = {name: stacked(name, pattern) for name, pattern in inner.items()}
    return params


def _check_shapes(tensors: Tensors, spec: HostSpec, outer: Mapping[str, str], inner: Mapping[str, str]) -> None:
    shapes = parameter_shapes(spec)
    expected = {key: shapes[name] for name, key in outer.items()}
    expected |= {key.format(layer): shapes[name] for name, key in inner.items() for layer in range(spec.layers)}
    for key, shape in expected.items():
        if key not in tensors.shapes:
            raise ValueError(f"{tensors.where}: tensor {key!r} is missing; the weights do not fit the configuration")
        if tensors.shapes[key] != shape:
            raise ValueError(f"{tensors.where}: tensor {key!r}: got shape {tensors.shapes[key]}, expected {shape}")
    spare = {"lm_head.weight"} if spec.tied_embeddings else set()  # some tied models store a copy
    unknown = [key for key in tensors.shapes if key not in expected and key not in spare and not IGNORED.match(key)]
    if unknown:
        raise ValueError(f"{tensors.where}: unknown tensor {unknown[0]!r} ({len(unknown)} in all)")
