"""A trained memory's folder: `memory.safetensors` and `config.json`. Strict: anything odd is an error that names it.

Nothing in the files can run code, and nothing is read into memory before its size is known to fit the configuration.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as brief
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from namm.config import MemoryConfig, from_json, to_json
from namm.contract import Parameters, Policy
from namm.model import NammPolicy, initial_parameters

FORMAT_VERSION = 3  # 1 had neither `relative` nor `scorer.sets`, and 2 no `selection.budgets`
WEIGHTS, CONFIG = "memory.safetensors", "config.json"
REMAKE = "save it again with save_pretrained, or fetch an undamaged copy"
LARGEST_CONFIG = 2**20  # bytes; the configurations that ship have less than 2 KB
DEEPEST_CONFIG = 16  # levels of nesting; the configurations that ship have 4
KEYS = {"format_version": int, "name": str, "memory": dict, "shapes": dict, "provenance": dict}


class Contents(NamedTuple):
    """What a folder holds. `name` is the memory's, not the folder's."""

    name: str
    policy: Policy
    params: Parameters
    provenance: Mapping[str, Any]


def write(folder: Path, contents: Contents) -> None:
    """Write both files into an existing folder; the configuration comes last and whole, without it nothing loads."""
    config, arrays = encode(contents)
    save_file(arrays, folder / WEIGHTS)
    part = folder / f"{CONFIG}.part"
    part.write_text(config, encoding="utf-8")
    part.replace(folder / CONFIG)


def encode(contents: Contents) -> tuple[str, dict[str, np.ndarray]]:
    """The text of the configuration and the tensors by name; ValueError for what `read` would not take back."""
    name, policy, params, provenance = contents
    if not isinstance(policy, NammPolicy):
        raise ValueError(f"{name} is a training-free policy; it has nothing to save, use its name")
    arrays = {k: np.asarray(v, np.float32) for k, v in _flatten(params).items()}
    content = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "memory": to_json(policy.config),
        "shapes": {k: list(v.shape) for k, v in arrays.items()},
        "provenance": dict(provenance),
    }
    try:
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"memory {name!r}: the configuration or provenance is not plain JSON ({error})") from error
    where = f"memory {name!r}"
    _parse(text, where)
    _check_names({k: ("F32", v.shape) for k, v in arrays.items()}, _shapes(policy), where)
    _check_values(arrays, where)
    return text, arrays


def read(folder: Path) -> Contents:
    """FileNotFoundError for a missing file, ValueError for anything else that is wrong."""
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; a memory is a folder with {CONFIG} and {WEIGHTS}")
    path = folder / CONFIG
    try:
        size = path.stat().st_size
        text = path.read_text(encoding="utf-8") if size <= LARGEST_CONFIG else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable text ({error}); {REMAKE}") from error
    if size > LARGEST_CONFIG:
        raise ValueError(f"{path} has {size} bytes; expected at most {LARGEST_CONFIG}; {REMAKE}")
    content = _parse(text, str(path))
    policy = NammPolicy(from_json(MemoryConfig, content["memory"], f"{path}: memory"), content["name"])
    shapes = _shapes(policy)
    if content["shapes"] != {k: list(v) for k, v in shapes.items()}:
        got = brief(content["shapes"])
        raise ValueError(f"{path}: shapes are {got}; expected {shapes} for the memory it describes; {REMAKE}")
    arrays = _read_weights(folder / WEIGHTS, shapes)
    return Contents(content["name"], policy, _unflatten(arrays, policy), content["provenance"])


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not readable JSON ({error}); {REMAKE}") from error
    if not isinstance(content, dict) or set(content) != set(KEYS):
        got = brief(sorted(content) if isinstance(content, dict) else content)
        raise ValueError(f"{where} holds {got}; expected exactly the keys {sorted(KEYS)}; {REMAKE}")
    level = [content]
    for _ in range(DEEPEST_CONFIG):  # not by recursion, which the depth of hostile input would exhaust
        level = [x for v in level if isinstance(v, dict | list) for x in (v.values() if isinstance(v, dict) else v)]
    if level:
        raise ValueError(f"{where} is nested more than {DEEPEST_CONFIG} levels deep; {REMAKE}")
    for key, kind in KEYS.items():
        if type(content[key]) is not kind:
            raise ValueError(f"{where}: {key} is {brief(content[key])}; expected {kind.__name__}; {REMAKE}")
    memory, version = content["memory"], content["format_version"]
    scorer, selection = memory.get("scorer"), memory.get("selection")
    if version == 1 and isinstance(scorer, dict) and not {"relative", "sets"} & {*memory, *scorer}:
        memory["relative"], scorer["sets"], version = "held", [], 2
    if version == 2 and isinstance(selection, dict) and "budgets" not in selection:
        selection["budgets"], version = "equal", 3
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{where}: format_version is {brief(content['format_version'])}; this release reads 1 to {FORMAT_VERSION}; "
            "upgrade namm or save the memory again"
        )
    return content


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not a JSON number")


def _read_weights(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, "numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            found = {name: (x.get_dtype(), tuple(x.get_shape())) for name, x in slices.items()}
            fits = set(found) == set(shapes) and all(found[k] == ("F32", shapes[k]) for k in shapes)
            arrays = {name: file.get_tensor(name) for name in shapes} if fits else {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a readable safetensors file ({error}); {REMAKE}") from error
    _check_names(found, shapes, str(path))
    _check_values(arrays, str(path))
    return arrays


def _check_names(found: dict[str, Any], shapes: dict[str, tuple[int, ...]], where: str) -> None:
    if set(found) != set(shapes):
        unknown, missing = brief(sorted(set(found) - set(shapes))), sorted(set(shapes) - set(found))
        raise ValueError(f"{where}: unknown tensors {unknown}, missing tensors {missing}; {REMAKE}")
    for name, (dtype, shape) in found.items():
        if (dtype, shape) != ("F32", shapes[name]):
            raise ValueError(
                f"{where}: {name} is {dtype} {shape}; expected F32 {shapes[name]} for the configuration beside it; "
                f"{REMAKE}"
            )


def _check_values(arrays: dict[str, np.ndarray], where: str) -> None:
    for name, array in arrays.items():
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{where}: {name} holds numbers that are not finite; {REMAKE}")
    if np.any(arrays["frozen.variance"] < 0):
        raise ValueError(f"{where}: frozen.variance holds negative numbers; {REMAKE}")


def _shapes(policy: NammPolicy) -> dict[str, tuple[int, ...]]:
    """What a configuration asks for, without making any of it: the sizes in a damaged one may be anything."""
    return {k: tuple(v.shape) for k, v in _flatten(jax.eval_shape(lambda: initial_parameters(policy))).items()}


def _flatten(params: Parameters) -> dict[str, Any]:
    leaves = jax.tree_util.tree_flatten_with_path(params._asdict())[0]
    return {".".join(str(entry.key) for entry in path): leaf for path, leaf in leaves}


def _unflatten(arrays: dict[str, np.ndarray], policy: NammPolicy) -> Parameters:
    like = jax.eval_shape(lambda: initial_parameters(policy))
    return Parameters(
        **jax.tree.unflatten(jax.tree.structure(like._asdict()), [jnp.asarray(arrays[k]) for k in _flatten(like)])
    )
