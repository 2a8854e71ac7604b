"""A `transformers` cache whose layers and heads hold different tokens and really shrink.

Logical and physical length differ: `get_seq_length` counts every column ever read, padding included, as generation
expects; a layer's tensors hold the tokens that stayed, padded to the fullest row of the batch. Where heads hold so
different numbers of tokens that it frees memory, every head has tensors of its own between two chunks and while tokens
are decoded.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from hosts.pytorch.attention import attend, rotate
from hosts.pytorch.compiling import uncompiled
from namm.pytorch.selection import compact, update
from namm.pytorch.state import CacheShape, Observation, PolicyState, SlotCache, TorchPolicy
from namm.selection import SelectionConfig

_ROOM = 32  # slots that decoding adds at a time, at most
_WAITING = 32  # decoded tokens whose attention a policy takes in together
_WORTH = 0.1  # of a layer's slots; heads stand apart where it frees as much
Rotate = Callable[[Tensor, Tensor], Tensor]  # vectors [..., dim] on by so many positions [...]


class Asked(NamedTuple):
    """A chunk's queries (after RoPE), their positions, tokens per row, and tokens each row read before."""

    queries: Float[Tensor, "batch query_head query dim"]
    positions: Int[Tensor, "batch query"]
    counts: tuple[int, ...]
    seen: tuple[int, ...]
    scaling: float

    def part(self, begin: int, end: int) -> "Asked":
        """The chunk's columns from `begin` on, up to `end`."""
        counts = tuple(min(max(n - begin, 0), end - begin) for n in self.counts)
        seen = tuple(n + min(count, begin) for n, count in zip(self.seen, self.counts, strict=True))
        return Asked(self.queries[:, :, begin:end], self.positions[:, begin:end], counts, seen, self.scaling)

    def last(self, depth: int | None) -> "Asked":
        """The queries that can matter where only `depth` of them do."""
        length = self.queries.shape[2]
        if depth is None or depth >= length or set(self.counts) != {length}:
            return self
        return self.part(length - depth, length)


class RowChanges:
    """The changes of the batch that generation asks for, as one."""

    def map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        """Apply a change of the batch to everything that is carried."""
        raise NotImplementedError

    def reorder_cache(self, beam_idx: Tensor) -> None:
        self.map_rows(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        self.map_rows(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        self.map_rows(lambda x: x[indices.to(x.device)])


class NammLayer(RowChanges, CacheLayerMixin):
    """Keys and values [batch, head, slot, dim] with position and occupancy of every slot, and the policy's state.

    parts: of all heads together, or of every head by itself.
    """

    is_sliding = False

    def __init__(self, index: int, policy: TorchPolicy, group: int):
        self.index, self.policy, self.group = index, policy, group
        self.reset()

    def reset(self) -> None:
        """Back to a layer that never saw a token."""
        self.is_initialized = False
        self.parts: list[SlotCache] = []
        self.buffers: list[SlotCache] = []  # the parts and room for more
        self.state = PolicyState({}, {})
        self.dense = True  # every slot is occupied
        self.coming: tuple[Tensor, Tensor, bool, int] | None = None
        self.waiting: list[Asked] = []

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        batch, heads, _, dim = key_states.shape
        self.dtype, self.device = key_states.dtype, key_states.device
        positions = torch.zeros(batch, heads, 0, dtype=torch.int32, device=self.device)
        self.slots = SlotCache(key_states[:, :, :0], value_states[:, :, :0], positions, positions.bool())
        self.state = self.policy.init(CacheShape(batch, heads, self.group, dim), self.device, self.index)
        self.is_initialized = True

    @property
    def slots(self) -> SlotCache:
        """All heads side by side; of heads that stand apart a copy, empty slots first where one holds fewer."""
        if len(self.parts) == 1:
            return self.parts[0]
        leaves, width = zip(*self.parts, strict=True), self.width
        level = ([_grow(x, width - x.shape[2], before=True) for x in heads] for heads in leaves)
        return SlotCache(*(torch.cat(heads, dim=1) for heads in level))

    @slots.setter
    def slots(self, cache: SlotCache) -> None:
        self.parts = self.buffers = [cache]

    @property
    def width(self) -> int:
        """Slots of the fullest head."""
        return max((part.positions.shape[2] for part in self.parts), default=0)

    @property
    def keys(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride] (declared as an attribute)
        return self.slots.keys if self.is_initialized else None

    @property
    def values(self) -> Tensor | None:  # pyright: ignore[reportIncompatibleVariableOverride] (declared as an attribute)
        return self.slots.values if self.is_initialized else None

    def expect(
        self, positions: Int[Tensor, "batch query"], real: Bool[Tensor, "batch query"], all_real: bool, left: int
    ) -> None:
        """Announce the chunk whose keys and values come next; `left` tokens, it among them, come before an update."""
        self.coming = positions, real, all_real, left

    @uncompiled
    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append a chunk, and return it: attention takes all slots from `parts`.

        Columns that hold no token become empty slots, zeroed.
        """
        if self.coming is None:
            raise ValueError("this cache serves a model with a memory attached; call that model")
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        (positions, real, all_real, left), self.coming = self.coming, None
        if key_states.shape[2] > 1 or not all_real:
            self.flush()
        if not all_real:
            key_states, value_states = (x.masked_fill(~real[:, None, :, None], 0) for x in (key_states, value_states))
        heads, length = key_states.shape[1:3]
        rows = (x.to(self.device)[:, None].expand(-1, heads, -1) for x in (positions.int(), real))
        self._append(SlotCache(key_states, value_states, *rows), length, left)
        self.dense = self.dense and all_real
        return key_states, value_states

    def _append(self, new: SlotCache, length: int, left: int) -> None:
        """Put slots behind those in use; a decoded token finds room for several, so that few steps copy the cache."""
        if length > 1:
            self.dense = self.dense and len(self.parts) == 1
            self.slots = SlotCache(*(torch.cat(pair, dim=2) for pair in zip(self.slots, new, strict=True)))
            return
        heads = new.positions.shape[1] // len(self.parts)
        apart = zip(*(x.split(heads, dim=1) for x in new), strict=True)
        rows = [_put(*parts, left) for parts in zip(self.buffers, self.parts, apart, strict=True)]
        self.buffers, self.parts = map(list, zip(*rows, strict=True))

    def observe(self, asked: Asked, attention: Tensor | None) -> None:
        """Tell the policy of a chunk, or of its parts in turn; `attention`, where the output's pass made its weights,
        covers the slots up to the part's last token.

        Decoded tokens wait for one another, and one product gives the weights of them all: their slots are the newest
        until a chunk comes or the layer evicts.
        """
        if asked.queries.shape[2] == 1 and set(asked.counts) == {1}:
            self.waiting.append(asked)
            if len(self.waiting) == _WAITING:
                self.flush()
            return
        self._see(asked, attention)

    def flush(self) -> None:
        """Bring the policy's state up to the slots and to the tokens that wait."""
        if self.waiting:
            asked, self.waiting = _join(self.waiting), []
            self._see(asked, None)
        self._follow(self.width)

    def _follow(self, slots: int) -> None:
        """Give the policy's state so many slots, the new ones zero."""
        grown = {k: _grow(v, slots - v.shape[2]) for k, v in self.state.slots.items()}
        self.state = self.state._replace(slots=grown)

    def _see(self, asked: Asked, attention: Tensor | None) -> None:
        """One observation of the policy, of what it needs."""
        policy, device = self.policy.policy, self.device
        asked = asked.last(self.policy.depth)
        queries, positions, counts, seen, scaling = asked
        if attention is None and "attention" in policy.needs:
            slots = self.slots
            dense = self.dense and len(self.parts) == 1
            attention = attend(queries, slots.keys, None, hidden(slots, positions, dense), scaling)[1]
        if attention is None:
            heads = queries.shape[1] // self.group
            attention = torch.zeros(queries.shape[0], heads, queries.shape[2], 0, device=device)
        self._follow(attention.shape[3] or self.width)
        turned = queries[:, :, :0]
        if "queries" in policy.needs:
            rates = torch.tensor(policy.frequencies, device=device)
            steps = -positions.to(device)[:, None].expand(queries.shape[:3])
            turned = rotate(queries, steps, rates) / policy.scale
        self.state = self.policy.observe(self.state, Observation(attention, turned, counts, seen))

    def evict(
        self,
        due: Bool[Tensor, " batch"],
        budget: Int[Tensor, "batch #head"],
        selection: SelectionConfig,
        turn: Rotate | None,
    ) -> None:
        """One memory update of the rows that are due. `turn` (slot positions) rotates the survivors' keys on."""
        due = due.to(self.device)
        self.flush()
        self.state, cache = update(self.policy, self.state, self.slots, selection, budget.to(self.device), due)
        if turn is not None:
            ranks = torch.where(cache.valid, cache.valid.cumsum(-1) - 1, 0).int()
            ranks = torch.where(due[:, None, None], ranks, cache.positions)
            cache = cache._replace(keys=turn(cache.keys, ranks - cache.positions), positions=ranks)
        self.slots, self.dense = cache, bool(cache.valid.all())
        self.part()

    def part(self) -> None:
        """Every head by itself, as long as its fullest row, where that frees enough."""
        if self.dense:
            return
        (whole,), width = self.parts, self.width
        first = whole.valid.any(0).int().argmax(-1)
        first = (first - first.min()).tolist()  # the state has as many slots as the fullest head
        if sum(first) < _WORTH * width * len(first):
            return
        heads = zip(zip(*(x.split(1, dim=1) for x in whole), strict=True), first, strict=True)
        self.parts = self.buffers = [SlotCache(*(x[:, :, n:].clone() for x in head)) for head, n in heads]
        self.dense = all(bool(part.valid.all()) for part in self.parts)

    def squeeze(self) -> None:
        """Free the slots that rows of different lengths left empty in between."""
        if not self.dense and self.is_initialized:
            self.flush()
            slots = self.slots
            self.state, self.slots = compact(self.state, slots, slots.valid)
            self.part()

    def held(self) -> Int[Tensor, "batch head"]:
        """Tokens of every row and head."""
        return torch.cat([part.valid.sum(-1) for part in self.parts], dim=1)

    def map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        if self.is_initialized:
            self.flush()
            self.parts = self.buffers = [SlotCache(*map(change, part)) for part in self.parts]
            self.state = PolicyState(*({k: change(v) for k, v in part.items()} for part in self.state))

    def get_seq_length(self) -> int:
        """Physical slots of the fullest head; the logical length is the cache's."""
        return self.width

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1

    def crop(self, tokens_to_remove: int) -> None:
        raise ValueError(
            "a cache with a memory cannot be rolled back: dropped tokens are gone. "
            "Decode without assisted, prompt-lookup or speculative options"
        )


class NammCache(RowChanges, Cache):
    """One layer per decoder layer and the counters of every row.

    batch: rows that were read first, 0 before. rows: which of them are left. seen: tokens read. position: of the next
    token (below `seen` after slot-rule updates). window: tokens since the last update. columns: logical length with
    padding. peak_bytes: the most that keys and values ever took.
    """

    def __init__(self, policies: list[TorchPolicy], group: int):
        super().__init__(layers=[NammLayer(i, policy, group) for i, policy in enumerate(policies)])
        self.reset()

    def reset(self) -> None:
        for layer in self.memory_layers:
            layer.reset()
        self.columns = self.peak_bytes = self.batch = 0
        self.rows: list[int] = []
        self.seen: list[int] = []
        self.position: list[int] = []
        self.window: list[int] = []
        self.last: tuple[Tensor, Tensor] | None = None  # hidden state and id of each row's newest token

    @property
    def memory_layers(self) -> list[NammLayer]:
        return self.layers  # pyright: ignore[reportReturnType] (declared for any layer class)

    def start_rows(self, batch: int) -> None:
        """Counters for a batch, at the first chunk; ValueError if the cache holds another batch."""
        if not self.seen:
            self.batch, self.rows = batch, list(range(batch))
            self.seen, self.position, self.window = [0] * batch, [0] * batch, [0] * batch
        if len(self.seen) != batch:
            raise ValueError(f"the inputs have {batch} rows, the cache holds {len(self.seen)}; use a cache per batch")

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.columns

    def bytes(self) -> int:
        """What keys and values take now, room for the next tokens included."""
        tensors = [x for layer in self.memory_layers for part in layer.parts for x in part[:2]]
        return sum(x.untyped_storage().nbytes() for x in tensors)

    def measure(self) -> None:
        """Remember the most bytes so far."""
        self.peak_bytes = max(self.peak_bytes, self.bytes())

    def map_rows(self, change: Callable[[Tensor], Tensor]) -> None:
        for layer in self.memory_layers:
            layer.map_rows(change)
        moved = change(torch.arange(len(self.seen))).tolist()
        counters = (self.rows, self.seen, self.position, self.window)
        self.rows, self.seen, self.position, self.window = ([x[i] for i in moved] for x in counters)
        if self.last is not None:
            self.last = change(self.last[0]), change(self.last[1])

    @uncompiled
    def squeeze(self) -> None:
        for layer in self.memory_layers:
            layer.squeeze()

    def crop(self, tokens_to_remove: int) -> None:
        self.memory_layers[0].crop(tokens_to_remove)


def hidden(
    slots: SlotCache, positions: Int[Tensor, "batch query"], dense: bool
) -> Bool[Tensor, "#batch #head query last"] | None:
    """What the newest tokens, at these positions, do not see among the last slots. None: they see everything.

    All slots before those are seen. A query sees every occupied slot whose position is not after its own. dense: all
    slots are occupied.
    """
    length, device = positions.shape[1], slots.valid.device
    if dense:
        later = torch.ones(length, length, dtype=torch.bool, device=device).triu(1)
        return later[None, None] if length > 1 else None
    after = slots.positions[:, :, None] > positions.to(device)[:, None, :, None]
    unseen = ~slots.valid[:, :, None] | after
    return unseen & ~unseen.all(-1, keepdim=True)  # a column without a token sees all rather than nothing: no NaN


def _grow(leaf: Shaped[Tensor, "batch head slot *rest"], slots: int, before: bool = False) -> Tensor:
    """The array with so many slots of zeros behind it, or before it."""
    if not slots:
        return leaf
    zeros = leaf.new_zeros(*leaf.shape[:2], slots, *leaf.shape[3:])
    return torch.cat([zeros, leaf] if before else [leaf, zeros], dim=2)


def _put(
    buffer: SlotCache, part: SlotCache, new: tuple[Tensor, ...], left: int
) -> tuple[SlotCache, SlotCache]:
    """A slot behind those in use: their buffer, a larger one where it is full, and what is in use of it."""
    used = part.positions.shape[2]
    if used == buffer.positions.shape[2]:
        buffer = SlotCache(*(_grow(x, min(_ROOM, left)) for x in part))
    for room, leaf in zip(buffer, new, strict=True):
        room[:, :, used : used + 1] = leaf
    return buffer, SlotCache(*(x[:, :, : used + 1] for x in buffer))


def _join(parts: list[Asked]) -> Asked:
    """Single tokens that follow each other, as one chunk."""
    queries = torch.cat([part.queries for part in parts], dim=2)
    positions = torch.cat([part.positions for part in parts], dim=1)
    counts = tuple(map(sum, zip(*(part.counts for part in parts), strict=True)))
    return Asked(queries, positions, counts, parts[0].seen, parts[0].scaling)
