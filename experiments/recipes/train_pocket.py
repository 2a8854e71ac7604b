"""Train the pocket host: `python -m experiments.recipes.train_pocket`.

Claim: a Llama of half a million parameters answers at least 97% of held-out `pocket-recall` prompts of 512 tokens with
its full cache. One question a sequence teaches next to nothing, so a training sequence states up to ten facts and asks
twice for each at its end; only what can be looked up is scored. Lengths grow from stage to stage. Runs on two CPU
cores; stops and resumes at any step (orbax), and gives the same weights for a seed.

Tried before, 2026-11, 100 to 480 steps of 4096 tokens each: plain random weights and RoPE's base of 10,000, with AdamW
(tied embeddings) and Muon (tied; untied for 100 steps). Of three facts in 96 tokens the first digit came right in 62%
at best, and at 256 tokens hardly more often than by chance. That base leaves 4 of 16 frequencies to compare tokens
500 apart. With base 500,000 and the start of `init_params` (not tried one by one) lookup takes 40 steps.
"""

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
from transformers import PreTrainedTokenizerBase

from experiments.recipes.pocket_model import init_params, pocket_spec, save_host
from experiments.recipes.pocket_tokenizer import build_tokenizer
from experiments.records import claim
from experiments.tasks import Split, load_task
from experiments.tasks.encoding import collate, encode
from experiments.tasks.recall import HEADER, draw_pairs, fact, filler, lookalike
from hosts.llama import Params, forward
from hosts.spec import HostSpec
from hosts.weights import POCKET

log = logging.getLogger(__name__)
FACT_TOKENS = 7  # tokens of a fact, an answered question or a look-alike in the pocket tokenizer
SCORED = slice(2, 6)  # its noun, which follows from the adjective, and the digits of its value


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
    stages: tuple[Stage, ...] = (Stage(128, 150), Stage(256, 150), Stage(512, 250), Stage(1024, 40))
    step_tokens: int = 4096
    muon_rate: float = 0.01
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


def draw_sequence(
    tokenizer: PreTrainedTokenizerBase, rng: np.random.Generator, length: int
) -> tuple[Int[np.ndarray, " query"], Bool[np.ndarray, " query"]]:
    """Token ids of facts among look-alikes and filler, then every fact asked twice; True where scored."""
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
    weights[len(tokens) - FACT_TOKENS * len(asked) :].reshape(len(asked), FACT_TOKENS)[:, SCORED] = True
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
        muon_weight_dimension_numbers=matrices,  # pyright: ignore[reportArgumentType]
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
    claim(config.checkpoints, config)
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
                log.info("step %d length %d loss %.4f tokens right %.3f", step, length, entropy, right)
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
