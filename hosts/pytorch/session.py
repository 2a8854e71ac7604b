"""What stands between a model and its decoder while a memory is attached: chunks, signals, updates."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import Any, cast

import jax
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hosts.pytorch.attention import rotate
from hosts.pytorch.cache import NammCache, NammLayer
from hosts.pytorch.compiling import uncompiled, uncompiled_itself
from hosts.pytorch.interface import Chunk
from namm.artefact import Memory
from namm.contract import SIGNALS
from namm.model import NammPolicy
from namm.pytorch import port
from namm.selection import SelectionConfig, share_out

_share_out = jax.jit(share_out, static_argnums=3)
Budget = int | tuple[int, ...] | float | None  # see `Schedule`


@dataclass(frozen=True)
class Schedule:
    """When updates happen and how much stays.

    budget: tokens per head (int, or one for every row of a batch), a share of the tokens read (float), or None for the
    memory's own threshold. interval: tokens of a row between updates. chunk: tokens of a forward at most.
    """

    budget: Budget
    interval: int
    chunk: int

    def check(self, batch: int) -> None:
        """ValueError where rows have budgets of their own but not each of `batch`, as it was read first, has one."""
        if isinstance(self.budget, tuple) and len(self.budget) != batch:
            raise ValueError(f"budget has {len(self.budget)} numbers for {batch} rows; give each row one")

    def tokens(self, seen: list[int], rows: list[int], selection: SelectionConfig) -> Int[Tensor, " batch"]:
        """Budget of every row; `rows`: which of the batch that was read first they are."""
        if self.budget is None:
            return torch.tensor(seen)
        if isinstance(self.budget, int):
            return torch.tensor([self.budget] * len(seen))
        if isinstance(self.budget, tuple):
            return torch.tensor([self.budget[row] for row in rows])
        return torch.tensor([max(ceil(self.budget * n), selection.protected) for n in seen])


class Session:
    """A memory at work on one decoder. Caches hold all state; a session can serve any number of them."""

    def __init__(self, model: nn.Module, decoder: nn.Module, memory: Memory, schedule: Schedule):
        self.decoder, self.memory, self.schedule = decoder, memory, schedule
        policy, config = memory.policy, cast(Any, decoder).config
        self.signals = policy.needs & SIGNALS
        self.head = cast(Any, model).get_output_embeddings() if self.signals else None
        rotary: Any = getattr(decoder, "rotary_emb", None)
        self.turned = rotary is not None  # keys carry their positions
        if "rope" in policy.needs:
            rates = tuple(rotary.inv_freq.tolist())
            policy = replace(cast(Any, policy), frequencies=rates, scale=float(rotary.attention_scaling))
        self.slot_rule = policy.position_rule == "slot"
        kv_heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
        if isinstance(policy, NammPolicy):
            policy.check_size(config.num_hidden_layers, kv_heads)
        self.policies = [port(policy, memory.params, layer) for layer in range(config.num_hidden_layers)]
        self.group = config.num_attention_heads // kv_heads

    def new_cache(self) -> NammCache:
        return NammCache(self.policies, self.group)

    def turn(self, keys: Tensor, steps: Tensor) -> Tensor:
        """Rotate cached keys on, for slot positions."""
        rates: Tensor = cast(Any, self.decoder.rotary_emb).inv_freq
        return rotate(keys, steps, rates.to(keys.device))

    @uncompiled_itself
    def read(self, forward: Any, cache: NammCache, inputs: "Inputs", **options: Any) -> Any:
        """Run the decoder over the inputs, row by row in step with each row's own updates.

        Of all this `torch.compile` gets the decoder's own code alone: what memories do changes shape at every turn.

        Every forward takes at most `chunk` tokens of a row and ends where the row's interval ends, so that a row fares
        the same in any batch, under any padding and however its tokens are spread over calls.
        """
        self._begin(cache, inputs)
        left = inputs.real.sum(1).tolist()
        order = torch.argsort((~inputs.real).to(torch.int8), dim=1, stable=True)  # a row's tokens first
        done, out, hidden = [0] * len(left), None, None
        while any(left) or out is None:
            room = [self.schedule.interval - window for window in cache.window]
            counts = [min(self.schedule.chunk, *pair) for pair in zip(left, room, strict=True)]
            at = torch.tensor(done)[:, None] + torch.arange(max(1, *counts))
            at = order.gather(1, at.clamp(max=order.shape[1] - 1).to(order.device))
            out = self._chunk(forward, cache, inputs, at, counts, options)
            states = out.last_hidden_state
            if counts == [inputs.real.shape[1]] * len(counts):
                hidden = states
                break
            if hidden is None:
                hidden = states.new_zeros(*inputs.real.shape, states.shape[-1])
            for row, count in enumerate(counts):
                hidden[row, at[row, :count].to(hidden.device)] = states[row, :count]
            left = [n - count for n, count in zip(left, counts, strict=True)]
            done = [n + count for n, count in zip(done, counts, strict=True)]
        if not bool(inputs.real.all()):
            cache.squeeze()
        cache.columns += inputs.real.shape[1]
        out.last_hidden_state, out.past_key_values = hidden, cache
        return out

    @uncompiled
    def _begin(self, cache: NammCache, inputs: "Inputs") -> None:
        """Counters for the rows of a call; ValueError for a batch or a length that cannot be."""
        self.schedule.check(cache.batch or inputs.real.shape[0])
        cache.start_rows(inputs.real.shape[0])
        if inputs.real.shape[1] == 0:
            raise ValueError("the inputs have no token; give the model at least one")

    @uncompiled_itself
    def _chunk(
        self, forward: Any, cache: NammCache, inputs: "Inputs", at: Tensor, counts: list[int], options: dict[str, Any]
    ) -> Any:
        """One forward of the decoder, the signals it gives and the updates that fall due at its end."""
        arguments, step = self._announce(cache, inputs, at, counts)
        out = forward(**arguments, attention_mask=None, past_key_values=cache, use_cache=True, **options)
        self._conclude(cache, step, out.last_hidden_state)
        return out

    @uncompiled
    def _announce(
        self, cache: NammCache, inputs: "Inputs", at: Tensor, counts: list[int]
    ) -> tuple[dict[str, Any], "Step"]:
        """The decoder's arguments for the columns `at`, of which its layers are told, and what to do behind it."""
        length = at.shape[1]
        real = torch.arange(length) < torch.tensor(counts)[:, None]
        positions = torch.tensor(cache.position)[:, None] + torch.arange(length)
        positions = given = positions.to(at.device)
        if inputs.positions is not None and not self.slot_rule:
            given = torch.where(real.to(at.device), inputs.positions.gather(1, at), positions)
            positions = given if self.turned else positions
        room = self.schedule.interval - min(cache.window)
        for layer in cache.memory_layers:
            layer.expect(positions, real, all(count == length for count in counts), room)
        seen = [n + count for n, count in zip(cache.seen, counts, strict=True)]
        due = [window + count >= self.schedule.interval for window, count in zip(cache.window, counts, strict=True)]
        evict = self._eviction(cache, due, seen)
        at_once = None if self.signals else evict  # signals come with the last layer's output
        chunk = Chunk(cache.memory_layers, positions, counts, list(cache.seen), at_once)
        tokens = inputs.take(at)
        return {**tokens, "position_ids": given, "namm_chunk": chunk}, Step(tokens, real, counts, due, evict)

    @uncompiled
    def _conclude(self, cache: NammCache, step: "Step", hidden: Tensor) -> None:
        """Signals, updates that wait for them, and the counters."""
        cache.measure()
        with torch.no_grad():
            if self.signals:
                self._annotate(cache, step.tokens, hidden, step.real, step.counts)
                if step.evict is not None:
                    for layer in cache.memory_layers:
                        step.evict(layer)
        cache.seen, cache.window, cache.position = (
            [n + count for n, count in zip(counters, step.counts, strict=True)]
            for counters in (cache.seen, cache.window, cache.position)
        )
        self._restart(cache, step.due)

    def settle(self, cache: NammCache) -> None:
        """An update now, in every row that read a token since its last one."""
        due = [window > 0 for window in cache.window]
        with torch.no_grad():
            if evict := self._eviction(cache, due, cache.seen):
                for layer in cache.memory_layers:
                    evict(layer)
        self._restart(cache, due)

    def _eviction(self, cache: NammCache, due: list[bool], seen: list[int]) -> Callable[[NammLayer], None] | None:
        """What an update of the rows that are due, `seen` tokens read, does to a layer; None where no row is."""
        if not any(due):
            return None
        budgets = self._budgets(self.schedule.tokens(seen, cache.rows, self.memory.selection), seen)
        turn = self.turn if self.slot_rule else None

        def evict(layer: NammLayer) -> None:
            cache.measure()
            layer.evict(torch.tensor(due), budgets[layer.index], self.memory.selection, turn)

        return evict

    def _budgets(self, budget: Int[Tensor, " batch"], seen: list[int]) -> Int[Tensor, "layer batch #head"]:
        """Tokens that every layer's heads keep of every row, as `hosts.stream.compress` shares them out."""
        selection = self.memory.selection
        if selection.budgets == "equal":
            return budget[:, None].expand(len(self.policies), -1, 1)
        most = np.minimum(np.asarray(seen, np.int32), selection.widest * budget.numpy().astype(np.int32))
        shares = self.memory.params.evolved["budgets"]
        rows = [_share_out(shares, *row, selection.protected) for row in zip(budget.int().numpy(), most, strict=True)]
        return torch.tensor(np.stack(rows, axis=1))

    def _restart(self, cache: NammCache, due: list[bool]) -> None:
        """A new window in the rows that were due."""
        cache.window = [0 if d else n for d, n in zip(due, cache.window, strict=True)]
        if self.slot_rule and any(due):
            filled = cache.memory_layers[0].held()[:, 0].tolist()
            cache.position = [int(f) if d else n for f, d, n in zip(filled, due, cache.position, strict=True)]

    def _annotate(
        self,
        cache: NammCache,
        tokens: dict[str, Tensor],
        hidden: Tensor,
        real: Bool[Tensor, "batch query"],
        counts: list[int],
    ) -> None:
        """Write the chunk's per-token signals (see `namm.contract.annotate`) into the slots that were just appended."""
        ids = tokens.get("input_ids")
        if ids is None:
            raise ValueError(f"{self.memory.name} needs token ids for its surprisal; pass input_ids, not inputs_embeds")
        last, first = cache.last, torch.tensor(cache.seen) == 0
        if last is None:
            last = torch.zeros_like(hidden[:, 0]), ids[:, 0]
        before = torch.cat([last[0][:, None], hidden[:, :-1]], dim=1)
        named = {"surprisal": ids, "repeat-surprisal": torch.cat([last[1][:, None], ids[:, :-1]], dim=1)}
        chosen = {name: named[name] for name in self.signals}
        signals = self._surprisal(before, chosen)
        for layer in cache.memory_layers:
            for name, values in signals.items():
                values = values.masked_fill((~real).to(values.device), 0.0)
                values[:, 0].masked_fill_(first.to(values.device), 0.0)
                layer.flush()
                slots = layer.state.slots[name]
                slots[:, :, -real.shape[1] :] = values[:, None].to(slots.device)
        end = (torch.tensor(counts, device=hidden.device) - 1).clamp(min=0)
        rows, moved = torch.arange(len(counts), device=hidden.device), torch.tensor(counts, device=hidden.device) > 0
        cache.last = (
            torch.where(moved[:, None], hidden[rows, end], last[0]),
            torch.where(moved.to(ids.device), ids[rows.to(ids.device), end.to(ids.device)], last[1]),
        )

    def _surprisal(self, before: Float[Tensor, "batch query hidden"], chosen: dict[str, Tensor]) -> dict[str, Tensor]:
        """-log p of tokens, row by row: a chunk's logits over the vocabulary are large."""
        assert self.head is not None
        out: dict[str, list[Tensor]] = {name: [] for name in chosen}
        for row in range(before.shape[0]):
            log = self.head(before[row]).float().log_softmax(-1)
            for name, ids in chosen.items():
                out[name].append(-log.gather(1, ids[row].to(log.device)[:, None])[:, 0])
        return {name: torch.stack(rows) for name, rows in out.items()}


@dataclass(frozen=True)
class Step:
    """One forward's tokens, by the decoder's argument names, which are real, how many of each row, and its updates."""

    tokens: dict[str, Tensor]
    real: Bool[Tensor, "batch query"]
    counts: list[int]
    due: list[bool]
    evict: Callable[[NammLayer], None] | None


@dataclass(frozen=True)
class Inputs:
    """What a call gives the decoder: ids or embeddings, which columns hold tokens, and positions if it says so."""

    ids: Int[Tensor, "batch query"] | None
    embeddings: Float[Tensor, "batch query hidden"] | None
    real: Bool[Tensor, "batch query"]
    positions: Int[Tensor, "batch query"] | None

    def take(self, at: Int[Tensor, "batch chunk"]) -> dict[str, Tensor]:
        """The columns `at` of every row, under the decoder's argument names."""
        if self.ids is not None:
            return {"input_ids": self.ids.gather(1, at)}
        assert self.embeddings is not None
        return {"inputs_embeds": self.embeddings.gather(1, at[..., None].expand(-1, -1, self.embeddings.shape[-1]))}
