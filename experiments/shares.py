"""Shares of the budget by descent through the host.

Whether a token stays has no gradient; how many a head keeps has one once its edge is soft. The token that a head with n
tokens ranks r-th weighs sigmoid((n - r - 1/2) / (SOFT n)) in its attention, question and answer are read behind such a
context, and Adam moves the shares against the negative log-likelihood of the answers, all layers and heads at once. The
score stays as it is, and with it the ranks: 90 numbers for SmolLM2, which a prompt's gradient tells apart where an
evolutionary search needs candidates for every one of them.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from experiments.fitted import scores_of
from experiments.prompts import Budget, resolve_budget
from experiments.recordings import Record, stack
from experiments.tasks.encoding import Batch
from hosts.answering import join
from hosts.llama import Params, block, embed, logits, rope_frequencies, rotate
from hosts.stream import Engine
from namm.artefact import Memory
from namm.contract import Parameters
from namm.selection import parts, protect

SOFT, FEW = 0.15, 8  # how far a head's edge reaches: of its tokens, and of so many where it has fewer
STEPS, RATE, PROMPTS = 100, 0.03, 4  # of Adam; prompts that a step takes the mean over
BLOCK = 32  # tokens: questions and answers are padded to multiples of it, so that few programs are compiled


class Ranked(NamedTuple):
    """A context as the full cache read it, the rank of every slot in its head (best first, empty ones last), and the
    prompt behind it."""

    keys: Float[Array | np.ndarray, "layer head slot dim"]
    values: Float[Array | np.ndarray, "layer head slot dim"]
    ranks: Int[Array | np.ndarray, "layer head slot"]
    prompt: Batch


@partial(jax.jit, static_argnums=0)
def _ranks(engine: Engine, memory: Parameters, stream: Any) -> Int[Array, "batch layer head slot"]:
    scores = jnp.nan_to_num(jnp.moveaxis(scores_of(engine, memory, stream), 2, 1), nan=-jnp.inf)
    guard = jax.vmap(jax.vmap(partial(protect, config=engine.selection)))
    guarded = guard(scores, stream.cache.positions, stream.cache.valid)
    return jnp.moveaxis(jnp.argsort(jnp.argsort(-guarded, axis=-1), axis=-1), 1, 0)


def ranked(engine: Engine, memory: Parameters, records: list[Record]) -> list[Ranked]:
    """The records' contexts, ranked by the memory."""
    stream, prompt = stack(records)
    keys, values = (np.moveaxis(np.asarray(x), 1, 0) for x in stream.cache[:2])
    slots = zip(keys, values, np.asarray(_ranks(engine, memory, stream)), strict=True)
    return [Ranked(*one, Batch(*(x[i] for x in prompt))) for i, one in enumerate(slots)]


def surprise(
    engine: Engine, params: Params, shares: Array, one: Ranked, budget: Int[Array, ""], width: int, soft: float = SOFT
) -> Float[Array, ""]:
    """Mean negative log-likelihood (nats) of a target's tokens behind a context whose heads keep about so many tokens.

    width: columns for question and target, at least as many as they have. soft: see SOFT; as it nears 0, so many stay.
    """
    spec, prompt = engine.spec, one.prompt
    length, asked, answered = prompt.context_length, prompt.question_length, prompt.target_length
    most = jnp.minimum(length, engine.selection.widest * budget)
    kept = parts(shares, budget, most, engine.selection.protected)[..., None]
    gates = jax.nn.log_sigmoid((kept - one.ranks - 0.5) / (soft * jnp.maximum(kept, FEW)))
    gates = jnp.where(one.ranks < length, gates, jnp.finfo(jnp.float32).min)
    rows = (jnp.asarray(x)[None] for x in (prompt.question, asked, prompt.target, answered))
    tokens = jnp.pad(join(*rows)[0], (0, width))[:width]
    columns = jnp.arange(width)
    seen = (columns <= columns[:, None]) & (columns < asked + answered - 1)
    frequencies, scale = rope_frequencies(spec, engine.length)

    def layer(hidden: Array, inputs: tuple[Params, Array, Array, Array]) -> tuple[Array, None]:
        layer, keys, values, gate = inputs

        def attend(q: Array, k: Array, v: Array) -> tuple[Array, None]:
            q, k = (rotate(x, length + columns, frequencies, scale) for x in (q, k))
            grouped = q.reshape(spec.kv_heads, spec.group, width, -1) / np.sqrt(spec.head_dim)
            before = jnp.einsum("hgqd,hsd->hgqs", grouped, keys) + gate[:, None, None]
            here = jnp.einsum("hgqd,hsd->hgqs", grouped, k)
            weights = jnp.concatenate([before, jnp.where(seen, here, jnp.finfo(jnp.float32).min)], axis=-1)
            weights = jax.nn.softmax(weights, axis=-1)
            out = jnp.einsum("hgqs,hsd->hgqd", weights, jnp.concatenate([values, v], axis=1))
            return out.reshape(q.shape), None

        return block(layer, spec, hidden, attend)

    layered = params["layers"], jnp.asarray(one.keys), jnp.asarray(one.values), gates
    hidden, _ = jax.lax.scan(layer, embed(params, tokens), layered)
    steps = jnp.arange(len(prompt.target))
    states = hidden[jnp.minimum(asked - 1 + steps, width - 1)]
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits(params, spec, states)), prompt.target[:, None], axis=1)
    return -jnp.sum(jnp.where(steps < answered, chosen[:, 0], 0.0)) / answered


_slope = jax.jit(jax.value_and_grad(surprise, argnums=2), static_argnums=(0, 5))


def descended(
    memory: Memory,
    engine: Engine,
    params: Params,
    batches: Iterable[list[Record]],
    budgets: Sequence[Budget],
    tell: Callable[[str], None],
) -> Memory:
    """The memory with shares that lose less of what these prompts' answers need, at these budgets in turn.

    Keys and values of all prompts are held. ValueError for a memory whose budgets are alike for all.
    """
    if engine.selection.budgets == "equal":
        raise ValueError(f"{memory.name} has no shares of the budget; expected selection.budgets 'layer' or 'head'")
    prompts = [one for records in batches for one in ranked(engine, memory.params, records)]
    shares = jnp.asarray(memory.params.evolved["budgets"])
    adam = optax.adam(optax.linear_schedule(RATE, 0.0, STEPS // 2, STEPS // 2), b2=0.99)
    state, rng, lost = adam.init(shares), np.random.default_rng(0), []
    order: list[int] = []
    for step in range(STEPS):
        slopes = []
        for _ in range(PROMPTS):
            order = order or rng.permutation(len(prompts)).tolist()
            one = prompts[order.pop()]
            budget = budgets[int(rng.integers(len(budgets)))]
            length = np.asarray(one.prompt.context_length)
            tokens = resolve_budget(budget, length[None], int(length), engine.selection.protected)[0]
            width = -(-int(one.prompt.question_length + one.prompt.target_length) // BLOCK) * BLOCK
            slopes.append(_slope(engine, params, shares, one, tokens, width))
        values, gradients = zip(*slopes, strict=True)
        lost.append(np.mean(values))
        change, state = adam.update(jnp.mean(jnp.stack(gradients), axis=0), state)
        shares = jnp.asarray(optax.apply_updates(shares, change))
        if step % 20 == 19:
            tell(f"Shares: step {step + 1} of {STEPS}, {np.mean(lost[-20:]):.3f} nats a target token")
    evolved = {**memory.params.evolved, "budgets": shares}
    return replace(memory, params=memory.params._replace(evolved=evolved))
