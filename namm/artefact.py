"""A trained memory on disk: a folder with `memory.safetensors` and `config.json`. Strict: anything odd is an error."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from namm.config import MemoryConfig, from_json, to_json
from namm.contract import NO_PARAMETERS, Parameters, Policy
from namm.model import NammPolicy, initial_parameters
from namm.policies import load_policy
from namm.selection import SelectionConfig

FORMAT_VERSION = 1
WEIGHTS, CONFIG = "memory.safetensors", "config.json"
PRETRAINED = Path(__file__).parent / "pretrained"
REMAKE = "save it again with namm.save, or fetch an undamaged copy"


@dataclass(frozen=True)
class Memory:
    """A policy ready for use: what scores, how scores become kept slots, how often, and where it came from.

    provenance: host, tasks, generations, seed, commit and the like, as recorded by the run that made it.
    """

    name: str
    policy: Policy
    selection: SelectionConfig
    interval: int
    params: Parameters = NO_PARAMETERS
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def population(self) -> Parameters:
        """The parameters as a population of one."""
        return Parameters(jax.tree.map(lambda x: jnp.asarray(x)[None], self.params.evolved), self.params.frozen)


def make(name: str, config: MemoryConfig, params: Parameters | None = None, **provenance: Any) -> Memory:
    """A NAMM from its configuration; without parameters, where a search would start."""
    policy = NammPolicy(config)
    return Memory(name, policy, config.selection, config.interval, params or initial_parameters(policy), provenance)


def training_free(name: str, interval: int = 512, recent: int = 1, sinks: int = 0) -> Memory:
    """A hand-written policy under a budget; the protected tokens are the caller's choice, alike for all it compares."""
    selection = SelectionConfig(threshold=None, recent=recent, sinks=sinks)
    return Memory(name, load_policy(name), selection, interval)


def save(memory: Memory, folder: str | Path) -> Path:
    """Write a trained memory; the folder appears complete or not at all where it did not exist."""
    if not isinstance(memory.policy, NammPolicy):
        raise ValueError(f"{memory.name} is a training-free policy; it has nothing to save, use its name")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {k: np.asarray(v, np.float32) for k, v in _flatten(memory.params).items()}
    save_file(arrays, folder / WEIGHTS)
    shapes = {k: list(v.shape) for k, v in arrays.items()}
    content = {
        "format_version": FORMAT_VERSION,
        "name": memory.name,
        "memory": to_json(memory.policy.config),
        "shapes": shapes,
        "provenance": dict(memory.provenance),
    }
    (folder / CONFIG).write_text(json.dumps(content, indent=2) + "\n")
    return folder


def load(source: str | Path) -> Memory:
    """A memory by path, by the name of one that ships with the library, or a training-free policy by its name."""
    folder = Path(source)
    if not folder.is_dir() and "/" not in str(source) and (PRETRAINED / str(source)).is_dir():
        folder = PRETRAINED / str(source)
    if folder.is_dir():
        return _load_folder(folder)
    if folder.exists() or "/" in str(source):
        raise ValueError(f"{source} is not a folder with {CONFIG} and {WEIGHTS}; name the folder that namm.save wrote")
    return training_free(str(source))


def shipped() -> list[str]:
    """Names of the trained memories that come with the library."""
    return sorted(folder.parent.name for folder in PRETRAINED.glob(f"*/{CONFIG}"))


def _load_folder(folder: Path) -> Memory:
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; a memory is a folder with {CONFIG} and {WEIGHTS}")
    content = _read_config(folder / CONFIG)
    config = from_json(MemoryConfig, content["memory"], f"{folder / CONFIG}: memory")
    policy = NammPolicy(config, content["name"])
    expected = {k: np.shape(v) for k, v in _flatten(initial_parameters(policy)).items()}
    try:
        arrays = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder / WEIGHTS} is not a readable safetensors file ({error}); {REMAKE}") from error
    _check(folder / WEIGHTS, arrays, expected)
    params = _unflatten(arrays, initial_parameters(policy))
    return Memory(content["name"], policy, config.selection, config.interval, params, content["provenance"])


def _read_config(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{path} is not readable JSON ({error}); {REMAKE}") from error
    wanted = {"format_version": int, "name": str, "memory": dict, "shapes": dict, "provenance": dict}
    if not isinstance(content, dict) or set(content) != set(wanted):
        got = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} holds {got}; expected exactly the keys {sorted(wanted)}; {REMAKE}")
    for key, kind in wanted.items():
        if type(content[key]) is not kind:
            raise ValueError(f"{path}: {key} is {content[key]!r}; expected {kind.__name__}; {REMAKE}")
    if content["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{path}: format_version is {content['format_version']}; this release reads {FORMAT_VERSION}; "
            "upgrade namm or save the memory again"
        )
    return content


def _check(path: Path, arrays: dict[str, np.ndarray], expected: dict[str, tuple[int, ...]]) -> None:
    if set(arrays) != set(expected):
        unknown, missing = sorted(set(arrays) - set(expected)), sorted(set(expected) - set(arrays))
        raise ValueError(f"{path}: unknown tensors {unknown}, missing tensors {missing}; {REMAKE}")
    for name, array in arrays.items():
        if array.shape != expected[name] or array.dtype != np.float32:
            raise ValueError(
                f"{path}: {name} is {array.dtype} {array.shape}; expected float32 {expected[name]} "
                f"for the configuration beside it; {REMAKE}"
            )
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{path}: {name} holds numbers that are not finite; {REMAKE}")


def _flatten(params: Parameters) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(params._asdict())[0]
    return {".".join(str(entry.key) for entry in path): leaf for path, leaf in leaves}


def _unflatten(arrays: dict[str, np.ndarray], like: Parameters) -> Parameters:
    names = list(_flatten(like))
    treedef = jax.tree.structure(like._asdict())
    return Parameters(**jax.tree.unflatten(treedef, [jnp.asarray(arrays[name]) for name in names]))
