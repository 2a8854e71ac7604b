"""A checkpoint of the original becomes a memory with the original's scores; anything odd in one is an error."""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import namm
from experiments.cli import main
from namm.model import NammPolicy
from namm.original import from_original

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "namm_reference.npz")
BUFFERS = "stored_buffers_to_save.token_embedding_0_"
SIZE = 4172


def state(prefix: str = "") -> dict[str, np.ndarray]:
    """The entries of an evolution state, in the original's shapes; the mean and the statistics are the golden ones."""
    rng = np.random.default_rng()
    noise = {name: rng.normal(size=SIZE).astype(np.float32) for name in ("best_member", "evo_path_c", "evo_path_sigma")}
    search = {name: np.zeros(shape, np.float32) for name, shape in (("C", (3, 3)), ("x", (2, SIZE)), ("weights", (2,)))}
    scalars = {"g": np.float32(7), "sigma": np.float32(0.1), "best_fitness": np.float32(3)}
    entries = {"mean": GOLDEN["params"], **noise, **search, **{k: np.asarray(v) for k, v in scalars.items()}}
    wide = (1, 1, 1, 17)
    buffers = {
        "output_mean": GOLDEN["norm_mean"].reshape(wide),
        "output_var": GOLDEN["norm_var"].reshape(wide),
        "output_num": np.full(wide, 100),
    }
    buffers |= {f"online_new_{k}": np.zeros(wide, v.dtype) for k, v in buffers.items()}
    entries |= {BUFFERS + k: v for k, v in buffers.items()} | {f"best_{BUFFERS}{k}": v * 0 for k, v in buffers.items()}
    return {prefix + k: v for k, v in entries.items()}


def checkpoint(path: Path, entries: dict[str, np.ndarray], **more: Any) -> Path:
    tensors = OrderedDict((k, torch.tensor(v)) for k, v in entries.items())
    torch.save({"evolution_state": tensors, "iter_num": 7, "best_val_loss": np.float64(3.5), **more}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_golden_scores_after_conversion(prefix: str, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "ckpt.pt", state(prefix))
    assert main(["convert", str(source), str(tmp_path / "converted"), "--interval", "64"]) == 0
    memory = namm.load(tmp_path / "converted")
    assert (memory.name, memory.interval, memory.provenance["generations"]) == ("converted", 64, 7)
    assert isinstance(memory.policy, NammPolicy)
    np.testing.assert_array_equal(memory.params.frozen["mean"], GOLDEN["norm_mean"])
    np.testing.assert_array_equal(memory.params.frozen["variance"], GOLDEN["norm_var"])
    for i in range(9):
        features = jnp.asarray(GOLDEN[f"u{i}_feat"])
        scores = memory.policy.apply(memory.params.evolved, features, jnp.ones(features.shape[:2], bool))
        np.testing.assert_allclose(scores, GOLDEN[f"u{i}_scores"], atol=1e-4)


def test_members_differ() -> None:
    entries = state()
    mean, best = (from_original(entries, "x", member) for member in ("mean", "best_member"))
    for memory, member in ((mean, "mean"), (best, "best_member")):
        kernel = np.asarray(memory.params.evolved["params"]["attention_in"]["kernel"])
        np.testing.assert_array_equal(kernel.ravel(), entries[member][: kernel.size])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mean": None}, "'mean' is missing"),
        ({"mean": np.zeros(100)}, r"shape \(100,\); expected \(4172,\)"),
        ({"mean": np.zeros((1, SIZE))}, r"shape \(1, 4172\); expected one vector"),
        ({"mean": np.full(SIZE, np.nan)}, "'mean' holds numbers that are not finite"),
        ({BUFFERS + "output_mean": None}, r"statistics output_mean: found \[\]"),
        ({"stored_buffers_to_save.output_mean": np.zeros(17)}, "statistics output_mean: found .*, "),
        ({BUFFERS + "output_var": np.ones(16)}, r"output_var has shape \(16,\); expected \(17,\)"),
        ({BUFFERS + "output_var": np.ones((17, 1))}, "output_var has shape"),
        ({BUFFERS + "output_var": np.full(17, -1.0)}, "negative variance"),
        ({BUFFERS + "output_mean": np.full(17, np.inf)}, "output_mean' holds numbers that are not finite"),
        ({BUFFERS + "output_num": np.zeros(17)}, "never gathered"),
        ({"momentum": np.zeros(3)}, r"unknown entries \['momentum'\]"),
        ({BUFFERS + "output_median": np.zeros(17)}, "unknown entries .*output_median"),
    ],
)
def test_odd_entries(changes: dict[str, Any], message: str) -> None:
    entries = {k: v for k, v in (state() | changes).items() if v is not None}
    with pytest.raises(ValueError, match=message):
        from_original(entries, "x")


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_odd_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    good = checkpoint(tmp_path / "good.pt", state()).read_bytes()
    ran = tmp_path / "ran"
    cases: dict[str, tuple[Any, str]] = {
        "empty": (b"", "not a whole file of torch.save"),
        "cut": (good[: len(good) // 2], "not a whole file of torch.save"),
        "pickle": (pickle.dumps(Hostile(ran)), "not a whole file of torch.save"),
        "hostile": ({"evolution_state": Hostile(ran)}, "more than tensors and numbers"),
        "hostile-score": ({"evolution_state": {}, "best_val_loss": Hostile(ran)}, "more than tensors and numbers"),
        "list": ([1, 2], "holds list; expected evolution_state"),
        "other": ({"evolution_state": {}, "lora": {}}, "'lora'"),
        "bare": ({"mean": torch.zeros(3)}, "holds ['mean']; expected evolution_state"),
        "numbers": ({"evolution_state": {"mean": 3}}, "not a mapping of names to tensors"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        assert main(["convert", str(path), str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert message in error and name in error and len(error.strip().splitlines()) == 1
    assert main(["convert", str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 2
    assert "nowhere: no such file" in capsys.readouterr().err
    assert not ran.exists() and not (tmp_path / "out").exists()


def test_flipped_bytes_never_run_anything(tmp_path: Path) -> None:
    """Damage of the file's own record of its contents: an error of one kind, or a state of the same entries."""
    from experiments.convert import read_state

    rng = np.random.default_rng()
    good = bytearray(checkpoint(tmp_path / "good.pt", state()).read_bytes())
    where = good.index(b"PK\x03\x04")
    for _ in range(60):
        bad = bytearray(good)
        for at in rng.integers(where, where + 3000, 3):
            bad[at] ^= int(rng.integers(1, 256))
        (tmp_path / "bad.pt").write_bytes(bad)
        try:
            assert len(read_state(tmp_path / "bad.pt")) == len(state())
        except ValueError as error:
            assert "bad.pt" in str(error)
