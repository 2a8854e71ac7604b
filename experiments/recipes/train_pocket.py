"""Train the pocket host: `python -m experiments.recipes.train_pocket`.

Claim: a Llama of 0.4 million parameters answers at least 97% of held-out `pocket-recall` prompts of 512 tokens with its
full cache. One question a sequence teaches next to nothing, so a training sequence states up to ten facts and asks
twice for each at its end; only the answers' digits are scored. Lengths grow, since lookup emerges much sooner in short
sequences. Runs on two CPU cores; stops and resumes at any step (orbax), and gives the same weights for a seed.
"""

import json
import logging
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import orbax.checkpoint as ocp
import tyro
from jaxtyping import Array, Bool, Float, Int
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerBase

from experiments.recipes.pocket_tokenizer import build_tokenizer
from experiments.tasks import Split, load_task
from experiments.tasks.encoding import collate, encode
from experiments.tasks.recall import HEADER, draw_pairs, fact, filler, lookalike
from hosts.llama import Params, forward
from hosts.spec import HostSpec, RopeSpec
from hosts.weights import POCKET, parameter_names, parameter_shapes

log = logging.getLogger(__name__)
FACT_TOKENS = 7  # tokens of a fact, an answered question or a look-alike in the pocket tokenizer
DIGITS = slice(3, 6)  # where its value stands


@dataclass(frozen=True)
class Stage:
    """Optimiser steps at one sequence length (tokens)."""

    length: int
    steps: int


@dataclass(frozen=True)
class TrainConfig:
    """What is trained, how long, and where files go."""

    output: Path = POCKET
    checkpoints: Path = Path("runs/pocket-host")
    seed: int = 0
    stages: tuple[Stage, ...] = (Stage(96, 400), Stage(256, 250), Stage(512, 250), Stage(1024, 40))
    step_tokens: int = 4096
    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    save_every: int = 50
    held_out: int = 200  # prompts of each length for the final measurement

    def __post_init__(self) -> None:
        if any(stage.length < 64 or stage.steps < 1 for stage in self.stages) or not self.stages:
            raise ValueError(f"stages: got {self.stages}, expected lengths of 64 tokens or more and at least one step")
        if self.step_tokens < max(stage.length for stage in self.stages):
            raise ValueError(f"step_tokens: got {self.step_tokens}, expected at least the longest stage's length")

    @property
    def steps(self) -> int:
        """Optimiser steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def length(self, step: int) -> int:
        """Sequence length at an optimiser step."""
        ends = np.cumsum([stage.steps for stage in self.stages])
        return self.stages[int(np.searchsorted(ends, step, side="right"))].length


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
        rope=RopeSpec("default", theta=10_000.0),
        norm_epsilon=1e-5,
        tied_embeddings=True,
        attention_bias=False,
        mlp_bias=False,
        bos_id=0,
        eos_ids=(1,),
    )


def init_params(spec: HostSpec, key: Array) -> Params:
    """Normal matrices of variance 1 / fan-in, norms of one, in the layout of `hosts.llama`."""
    outer, inner = parameter_names(spec)
    shapes = parameter_shapes(spec)

    def draw(name: str, key: Array, *stack: int) -> Array:
        shape = shapes[name]
        if len(shape) == 1:
            return jnp.ones((*stack, *shape))
        shape = shape if name == "embedding" else shape[::-1]
        fan_in = spec.hidden if name == "embedding" else shape[0]
        # small writes to the residual stream at first, so that every layer sees the tokens themselves
        shrink = 2 * spec.layers if name in ("output", "down") else 1
        return jax.random.normal(key, (*stack, *shape)) / (np.sqrt(fan_in) * shrink)

    keys = dict(zip([*outer, *inner], jax.random.split(key, len(outer) + len(inner)), strict=True))
    params: Params = {name: draw(name, keys[name]) for name in outer}
    params["layers"] = {name: draw(name, keys[name], spec.layers) for name in inner}
    return params


def draw_sequence(
    tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator, length: int
) -> tuple[Int[np.ndarray, " query"], Bool[np.ndarray, " query"]]:
    """Token ids of facts among look-alikes and filler, then every fact asked twice; True at the answers' digits."""
    count = min(10, length // (4 * FACT_TOKENS))
    pairs = draw_pairs(rng, "train", count + count // 2)
    facts, others = pairs[:count], pairs[count:]
    asked = [facts[i] for _ in range(2) for i in rng.permutation(count)]
    lines = [fact("set", *pair) for pair in facts] + [lookalike(*pair) for pair in others]
    lines += [filler()[i] for i in rng.integers(len(filler()), size=length // 7 + 1)]
    questions = [fact("get", *pair) for pair in asked]
    ids = tokenizer([f" {line}" for line in [*lines, *questions]], add_special_tokens=False)["input_ids"]
    ids, answers = ids[: len(lines)], ids[len(lines) :]
    head = [tokenizer.bos_token_id, *tokenizer(HEADER, add_special_tokens=False)["input_ids"]]
    room = length - len(head) - FACT_TOKENS * len(asked)
    # facts and look-alikes come first in `lines`; filler is added while there is room, then all are shuffled
    kept = int(np.searchsorted(np.cumsum([len(line) for line in ids]), room, side="right"))
    body = [token for i in rng.permutation(kept) for token in ids[i]]
    tokens = np.array(head + body + [token for line in answers for token in line], np.int32)
    weights = np.zeros(len(tokens), bool)
    weights[len(tokens) - FACT_TOKENS * len(asked) :].reshape(len(asked), FACT_TOKENS)[:, DIGITS] = True
    missing = length - len(tokens)
    return np.pad(tokens, (0, missing)), np.pad(weights, (0, missing))


def loss(
    params: Params, spec: HostSpec, tokens: Int[Array, "batch query"], scored: Bool[Array, "batch query"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean cross-entropy (nats) of the scored tokens given all before them, and their accuracy."""
    logits = forward(params, spec, tokens)[:, :-1]
    target, weight = tokens[:, 1:], scored[:, 1:] / jnp.sum(scored)
    entropy = optax.softmax_cross_entropy_with_integer_labels(logits, target)
    return jnp.sum(entropy * weight), jnp.sum((jnp.argmax(logits, -1) == target) * weight)


def optimiser(config: TrainConfig) -> optax.GradientTransformation:
    """Muon for the layers' matrices, Adam for the rest, warm-up and cosine decay, clipped gradients."""

    def rate(peak: float) -> optax.Schedule:
        return optax.warmup_cosine_decay_schedule(0.0, peak, 30, max(config.steps, 31), 0.01 * peak)

    def matrices(params: Params) -> Any:
        axes = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
        return jax.tree.map(lambda leaf: axes if leaf.ndim == 3 else None, params)

    muon = optax.contrib.muon(
        rate(config.muon_rate),
        adam_b2=0.98,
        adam_learning_rate=rate(config.adam_rate),
        muon_weight_dimension_numbers=matrices,
    )
    return optax.chain(optax.clip_by_global_norm(1.0), muon)


def train(config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> tuple[HostSpec, Params]:
    """Train from the newest checkpoint, or from the start, to the end of the last stage."""
    spec = pocket_spec(len(tokenizer))
    update = optimiser(config)

    @jax.jit
    def step_once(params: Params, state: Any, tokens: Array, scored: Array) -> tuple[Params, Any, Array, Array]:
        (entropy, right), gradient = jax.value_and_grad(loss, has_aux=True)(params, spec, tokens, scored)
        change, state = update.update(gradient, state, params)
        return optax.apply_updates(params, change), state, entropy, right  # pyright: ignore[reportReturnType]

    params = init_params(spec, jax.random.key(config.seed))
    run = {"params": params, "state": update.init(params)}
    options = ocp.CheckpointManagerOptions(max_to_keep=2, save_interval_steps=config.save_every)
    with ocp.CheckpointManager(config.checkpoints.absolute(), options=options) as manager:
        done = manager.latest_step()
        if done is not None:
            run = manager.restore(done, args=ocp.args.StandardRestore(run))
            log.info("resumed after step %d", done)
        for step in range(0 if done is None else done + 1, config.steps):
            length = config.length(step)
            rng = np.random.default_rng([config.seed, step])
            rows = [draw_sequence(tokenizer, rng, length) for _ in range(config.step_tokens // length)]
            tokens, scored = (np.stack(column) for column in zip(*rows, strict=True))
            params, state, entropy, right = step_once(run["params"], run["state"], tokens, scored)
            run = {"params": params, "state": state}
            if step % 20 == 0 or step == config.steps - 1:
                log.info("step %d length %d loss %.4f digits right %.3f", step, length, entropy, right)
            manager.save(step, args=ocp.args.StandardSave(run))
    return spec, run["params"]


def accuracy(
    spec: HostSpec, params: Params, tokenizer: PreTrainedTokenizerBase, length: int, count: int, split: Split = "test"
) -> float:
    """Share of `pocket-recall` prompts whose greedy answer from a full cache has every digit right."""
    task, right = load_task("pocket-recall"), 0
    run = jax.jit(partial(forward, spec=spec))
    for first in range(0, count, 10):
        samples = [task.make(tokenizer, length, split, i) for i in range(first, min(first + 10, count))]
        encoded = [encode(tokenizer, sample, "plain") for sample in samples]
        rows = [np.concatenate([one.context, one.question, one.target]) for one in encoded]
        tokens = np.stack([np.pad(row, (0, length - len(row))) for row in rows])
        # The answer is greedy exactly where each of its tokens is the most likely one after those before it.
        guess = np.asarray(jnp.argmax(run(params, tokens=jnp.asarray(tokens)), -1))
        sizes = zip(collate(encoded).target_length, rows, strict=True)
        right += sum(
            np.array_equal(guess[i, len(row) - size - 1 : len(row) - 1], row[-size:])
            for i, (size, row) in enumerate(sizes)
        )
    return right / count


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


def main() -> None:
    """Train, measure on held-out prompts, write the host."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("absl").setLevel(logging.WARNING)
    config = tyro.cli(TrainConfig, description=__doc__)
    log.info("%s", asdict(config))
    tokenizer = build_tokenizer()
    spec, params = train(config, tokenizer)
    save_host(config.output, spec, params, tokenizer)
    for length in (256, 512, 1024):
        share = accuracy(spec, params, tokenizer, length, config.held_out)
        log.info("%d held-out prompts of %d tokens: %.1f%% right", config.held_out, length, 100 * share)


if __name__ == "__main__":
    main()
