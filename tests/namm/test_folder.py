"""A damaged, foreign or hostile folder: ValueError or FileNotFoundError that says what is wrong, and nothing else."""

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import namm
from namm.config import MemoryConfig
from namm.folder import DEEPEST_CONFIG, LARGEST_CONFIG
from tests.random_host import random_memory

FILES = ("config.json", "memory.safetensors")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    random_memory(3, MemoryConfig(("recency", "spectrum", "norms"))).save_pretrained(tmp_path / "memory")
    return tmp_path / "memory"


def refused(folder: Path, message: str = ".") -> None:
    """Loading ends in a short error that names the file."""
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        namm.load(folder)
    text = str(caught.value)
    assert any(name in text for name in FILES) and len(text) < 700 + len(str(folder)), text


def edited(path: Path, change: Callable[[dict], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format_version=4), "format_version"),
        (lambda c: c.update(format_version=1), "format_version"),  # it had no sets
        (lambda c: c.update(format_version=2), "format_version"),  # it had no budgets
        (lambda c: c["memory"]["scorer"].update(sets=[9999, 9999]), "shapes are"),
        (lambda c: c["memory"].update(relative="kept"), "memory.relative"),
        (lambda c: c["memory"]["scorer"].update(sets=[0]), "scorer.sets is"),
        (lambda c: c["memory"]["scorer"].update(sets=[1, 2, 3]), "scorer.sets is"),
        (lambda c: c.update(extra=1), "extra"),
        (lambda c: c.pop("provenance"), "provenance"),
        (lambda c: c.update(memory={}), "missing fields"),
        (lambda c: c.update(name=3), "name"),
        (lambda c: c.update(name="x" * 100_000, provenance=[]), "provenance"),
        (lambda c: c.update({f"key{i}": i for i in range(9999)}), "expected exactly the keys"),
        (lambda c: c["memory"].update({f"key{i}": i for i in range(9999)}), "unknown fields"),
        (lambda c: c.update(provenance={"score": float("nan")}), "NaN is not a JSON number"),
        (lambda c: c["shapes"].popitem(), "shapes are"),
        (lambda c: c["shapes"].update({"evolved.params.score.bias": [10**12]}), "shapes are"),
        (lambda c: c["memory"].update(features=["smell"]), "features"),
        (lambda c: c["memory"].update(features=["norms"] * 100_000), "features"),
        (lambda c: c["memory"].update(interval=100), "interval is 100"),
        (lambda c: c["memory"].update(scorer=5), "scorer"),
        (lambda c: c["memory"]["scorer"].update(kind="pickle"), "kind"),
        (lambda c: c["memory"]["scorer"].update(hidden=2**31 - 1), "shapes are"),
        (lambda c: c["memory"]["spectrum"].update(window=2**31 - 2, hop=2**30 - 1), "interval"),
    ],
)
def test_foreign_configuration(saved: Path, change: Callable[[dict], Any], message: str) -> None:
    edited(saved / "config.json", change)
    refused(saved, message)


NUMBERS = ["scorer.hidden", "scorer.start", "spectrum.window", "spectrum.hop", "spectrum.decay", "interval"]
NUMBERS += ["selection.threshold", "selection.recent", "selection.sinks"]
VALUES = [-(2**31), 2**31, 10**30, 10**400, -(10**4000), "1e999", "-Infinity", "NaN", '"1"', "true", "[]", "[[]]", "{}"]


@pytest.mark.parametrize("field", NUMBERS)
def test_no_number_of_a_memory(saved: Path, field: str) -> None:
    """Written as text, since Python's own writer would not."""

    def mark(content: dict) -> None:
        *path, last = field.split(".")
        place = content["memory"]
        for key in path:
            place = place[key]
        place[last] = "HERE"

    edited(saved / "config.json", mark)
    marked = (saved / "config.json").read_text()
    for value in VALUES:
        (saved / "config.json").write_text(marked.replace('"HERE"', str(value)))
        refused(saved)


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "3", "[]", '"text"', "{}", "\ufeff{}", "9" * 5000, "[" * 100_000, '{"a":' * 100_000, "\0" * 50],
    ids=lambda text: text[:8],
)
def test_no_configuration(saved: Path, text: str) -> None:
    (saved / "config.json").write_text(text, encoding="utf-8")
    refused(saved, r"config\.json")


@pytest.mark.parametrize("depth", [DEEPEST_CONFIG, 300, 900, 5000])
def test_nesting(saved: Path, depth: int) -> None:
    path = saved / "config.json"
    edited(path, lambda content: content.update(provenance={"deep": 0}))
    path.write_text(path.read_text().replace('{"deep": 0}', '{"deep": ' + "[" * depth + "]" * depth + "}"))
    refused(saved)


def test_sizes(saved: Path) -> None:
    """A file that is larger than any configuration is not read; no tensor is read that does not fit."""
    with (saved / "config.json").open("r+b") as file:
        file.truncate(2**40)  # sparse
    refused(saved, f"{2**40} bytes; expected at most {LARGEST_CONFIG}")


def test_a_huge_tensor_is_not_read(saved: Path) -> None:
    """A tensor of 64 GB in a sparse file: refused by its shape."""
    header = {"evolved.params.score.bias": {"dtype": "F32", "shape": [2**34], "data_offsets": [0, 2**36]}}
    shapes = json.loads((saved / "config.json").read_text())["shapes"]
    at = 2**36
    for name in shapes.keys() - header.keys():
        size = 4 * int(np.prod(shapes[name]))
        header[name] = {"dtype": "F32", "shape": shapes[name], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with (saved / "memory.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(saved, r"score\.bias is F32 \(17179869184,\); expected F32 \(1,\)")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # kilobytes: 128 MB


def headers(good: bytes) -> dict[str, bytes]:
    size = int.from_bytes(good[:8], "little")
    deep = b'{"a":' * 50_000
    return {
        "no bytes": b"",
        "text": b"not a tensor file at all",
        "huge": (2**62).to_bytes(8, "little") + good[8:],
        "negative": b"\xff" * 8 + good[8:],
        "100 MB": (10**8).to_bytes(8, "little") + good[8:],
        "longer": (size + 8).to_bytes(8, "little") + good[8:],
        "shorter": (size - 8).to_bytes(8, "little") + good[8:],
        "deep": len(deep).to_bytes(8, "little") + deep,
        "more data": good + b"\0" * 100,
        "offsets": good.replace(b'"data_offsets":[0,', b'"data_offsets":[4,', 1),
        "big shape": good.replace(b'"shape":[1]', b'"shape":[99999999999999999999]', 1),
        "big product": good.replace(b'"shape":[1]', b'"shape":[4294967296,4294967296]', 1),
    }


@pytest.mark.parametrize("damage", headers(bytes([8] * 99)))
def test_damaged_header(saved: Path, damage: str) -> None:
    path = saved / "memory.safetensors"
    good = path.read_bytes()
    path.write_bytes(headers(good)[damage])
    assert path.read_bytes() != good
    refused(saved, r"memory\.safetensors is not a readable safetensors file")


@pytest.mark.parametrize("damage", ["missing", "extra", "many", "shape", "transposed", "nan", "inf", "variance"])
@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64, np.int32, np.uint8])
def test_foreign_tensors(saved: Path, damage: str, kind: type) -> None:
    path = saved / "memory.safetensors"
    arrays = load_file(path)
    name = "evolved.params.attention_in.kernel"
    if damage == "missing":
        del arrays[name]
    elif damage == "extra":
        arrays["more"] = np.zeros(3, np.float32)
    elif damage == "many":
        arrays |= {f"more{i}": np.zeros(1, np.float32) for i in range(5000)}
    elif damage == "shape":
        arrays[name] = arrays[name].ravel()
    elif damage == "transposed":
        arrays[name] = np.ascontiguousarray(arrays[name].T)
    elif damage == "variance":
        arrays["frozen.variance"] = -arrays["frozen.variance"]
    elif kind is np.float32:
        arrays[name][3, 3] = float(damage)
    if kind is not np.float32:
        arrays["frozen.mean"] = arrays["frozen.mean"].astype(kind)
    save_file(arrays, path)
    refused(saved, r"memory\.safetensors")


@pytest.mark.parametrize("name", FILES)
def test_truncated_anywhere(saved: Path, name: str) -> None:
    path = saved / name
    good = path.read_bytes()
    rng = np.random.default_rng()
    last = len(good) - 2  # the configuration ends in a newline, which may go missing
    lengths = {*range(20), *rng.integers(0, last, 60).tolist(), *range(last - 20, last)}
    for length in lengths:
        path.write_bytes(good[:length])
        refused(saved)


@pytest.mark.parametrize("name", FILES)
def test_flipped_bits(saved: Path, name: str) -> None:
    """An error, or a memory of the same shapes in finite numbers: a changed digit cannot be told from a good one."""
    path = saved / name
    good = path.read_bytes()
    before = jax.tree.map(np.shape, namm.load(saved).params)
    rng = np.random.default_rng()
    header = min(len(good), 1200)
    for i in range(200):
        bad = bytearray(good)
        for at in rng.integers(0, header if i % 2 else len(good), int(rng.integers(1, 4))):
            bad[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        try:
            memory = namm.load(saved)
        except (ValueError, FileNotFoundError) as error:
            assert any(file in str(error) for file in FILES), (type(error), error)
        else:
            assert jax.tree.map(np.shape, memory.params) == before
            assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(memory.params))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["gone", "folder", "dangling", "loop", "link to folder", "device", "pickle"])
def test_no_file(saved: Path, tmp_path: Path, name: str, kind: str) -> None:
    path = saved / name
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "dangling":
        path.symlink_to(tmp_path / "nowhere")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "link to folder":
        path.symlink_to(tmp_path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pickle":
        path.write_bytes(b"cposix\nsystem\n(S'touch ran'\ntR.")
    refused(saved, r"is not readable|is not a readable" if kind == "pickle" else f"has no {name}")


def test_links_to_files_are_followed(saved: Path, tmp_path: Path) -> None:
    """The hub's cache holds links."""
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in FILES:
        (linked / name).symlink_to(saved / name)
    assert namm.load(linked).name == namm.load(saved).name
