"""Give a `transformers` model a memory, and take it away again."""

import copy
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformers import AttentionInterface

from hosts.pytorch.cache import NammCache
from hosts.pytorch.compiling import uncompiled, uncompiled_itself
from hosts.pytorch.interface import NAME, slot_attention
from hosts.pytorch.report import Report, report
from hosts.pytorch.session import Budget, Inputs, Schedule, Session
from namm.artefact import Memory, load
from namm.config import check_interval
from namm.contract import SIGNALS
from namm.model import NammPolicy
from namm.pytorch.custom import CustomPolicy, Score
from namm.selection import SelectionConfig

_CHUNK = 512
_INTERVAL = 512  # of a policy given as a function, as of the training-free ones
_ATTACHED = "namm_attachment"
_REFUSED = {
    "assistant_model": "assisted decoding rolls the cache back",
    "prompt_lookup_num_tokens": "prompt-lookup decoding rolls the cache back",
    "assistant_early_exit": "assisted decoding rolls the cache back",
    "cache_implementation": "the memory brings its own cache",
    "penalty_alpha": "contrastive search rolls the cache back",
    "dola_layers": "DoLa reads hidden states of all layers",
}


class Attachment:
    """Everything that `attach` changes on a model, remembered so that `detach` restores it exactly."""

    def __init__(self, model: nn.Module, decoder: nn.Module, session: Session):
        self.model, self.decoder, self.session = model, decoder, session
        self.kind = type(model)
        self.inner_forward = decoder.forward
        self.own_forward = decoder.__dict__.get("forward")
        config = cast(Any, decoder).config
        self.users = [m for m in decoder.modules() if getattr(m, "config", None) is config]
        self.config = config
        self.latest: weakref.ref[NammCache] | None = None
        self.report: Report | None = None

    def enter(self) -> None:
        AttentionInterface.register(NAME, slot_attention)
        config = copy.deepcopy(self.config)  # other models may share the original
        config._attn_implementation = NAME
        for module in self.users:
            module.config = config
        self.decoder.forward = self.forward  # pyright: ignore[reportAttributeAccessIssue] (restored by `leave`)
        self.model.__class__ = _with_memory(self.kind)
        setattr(self.model, _ATTACHED, self)

    def leave(self) -> None:
        delattr(self.model, _ATTACHED)
        self.model.__class__ = self.kind
        del self.decoder.forward
        if self.own_forward is not None:
            self.decoder.forward = self.own_forward
        for module in self.users:
            module.config = self.config

    @uncompiled_itself
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **options: Any,
    ) -> Any:
        """The decoder's forward in chunks with memory updates between them."""
        if use_cache is False:
            raise ValueError("use_cache=False leaves nothing to evict; detach the memory or leave the cache on")
        wanted = [name for name in ("output_attentions", "output_hidden_states") if options.get(name)]
        if wanted:
            raise ValueError(f"{' and '.join(wanted)} cannot be given while a memory splits the input; detach it first")
        cache = self.cache(past_key_values)
        given = input_ids if input_ids is not None else inputs_embeds
        if given is None or (input_ids is not None and inputs_embeds is not None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        real = _real(attention_mask, given)
        if position_ids is not None:
            position_ids = position_ids.expand(real.shape) if position_ids.ndim == 2 else None
        self.latest = weakref.ref(cache)
        return self.session.read(
            self.inner_forward, cache, Inputs(input_ids, inputs_embeds, real, position_ids), **options
        )

    @uncompiled
    def cache(self, given: Any) -> NammCache:
        """A new cache where none is given; ValueError for one of another kind."""
        if given is None:
            return self.session.new_cache()
        if isinstance(given, NammCache):
            return given
        raise ValueError(
            f"past_key_values is a {type(given).__name__}; expected none, or the cache that an earlier call returned"
        )


@cache
def _with_memory(kind: Any) -> type:
    """The class of attached models of this class; one for all of them, so that nothing is compiled again."""
    methods: dict[str, Any] = {"__enter__": lambda model: model, "__exit__": lambda model, *_: detach(model)}
    methods |= {"generate": _generate} if hasattr(kind, "generate") else {}
    methods |= {"__module__": kind.__module__, "__doc__": kind.__doc__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (kind,), methods)


@uncompiled
def _real(mask: Tensor | None, given: Tensor) -> Bool[Tensor, "batch query"]:
    """Which of the new columns hold tokens."""
    batch, length = given.shape[:2]
    if mask is None:
        return torch.ones(batch, length, dtype=torch.bool, device=given.device)
    if mask.ndim != 2 or mask.shape[1] < length:
        shape = tuple(mask.shape)
        raise ValueError(f"attention_mask has shape {shape}; expected [{batch}, at least {length}], 1 = token")
    return mask[:, mask.shape[1] - length :].bool().to(given.device)


def _generate(model: Any, *args: Any, **kwargs: Any) -> Any:
    """`generate` with a fresh cache of the memory's unless one is passed; refuses what cannot work with eviction."""
    attachment: Attachment = getattr(model, _ATTACHED)
    config = kwargs.get("generation_config") or model.generation_config
    for name, reason in _REFUSED.items():
        if kwargs.get(name, getattr(config, name, None)) is not None:
            raise ValueError(f"generate({name}=...) does not work with a memory attached: {reason}")
    if kwargs.get("use_cache", config.use_cache) is False:
        raise ValueError("use_cache=False leaves nothing to evict; detach the memory or leave the cache on")
    kwargs["past_key_values"] = attachment.cache(kwargs.get("past_key_values"))
    out = cast(Any, attachment.kind).generate(model, *args, **kwargs)
    attachment.report = report(kwargs["past_key_values"])
    return out


def attach(
    model: Any,
    memory: Memory | str | Path | Score,
    budget: Budget = None,
    interval: int | None = None,
    chunk: int | None = None,
) -> Any:
    """Give a model a memory; returns the model, which is also a context manager that detaches at its end.

    memory: a `namm.Memory`, anything that `namm.load` takes, or a function (see `CustomPolicy`). budget: tokens kept
    per head (int, or a tuple with one for every row of the batch), share of the tokens read (float), or None for the
    memory's own threshold; where layers or heads have shares in it (`selection.budgets`), what they hold on average.
    interval: tokens between updates (default: the memory's). chunk: tokens read at once. A layer holds at most budget
    (with shares: `selection.widest` of them) + interval tokens of a row; where a chunk is an interval, one layer at a
    time does (all do, for a memory that asks for surprisal).
    ValueError for a model, or settings, that cannot work.
    """
    if hasattr(model, "_orig_mod"):
        raise ValueError("the model is wrapped by torch.compile; attach first: torch.compile(attach(model, ...))")
    if getattr(model, _ATTACHED, None) is not None:
        raise ValueError("the model has a memory already; detach(model) first")
    memory = _memory(memory)
    interval = memory.interval if interval is None else interval
    chunk = min(interval, _CHUNK) if chunk is None else chunk
    _check_schedule(memory, budget, interval, chunk)
    decoder = _decoder(model, memory)
    attachment = Attachment(model, decoder, Session(model, decoder, memory, Schedule(budget, interval, chunk)))
    attachment.enter()
    return model


def detach(model: Any) -> None:
    """Restore a model to what it was before `attach`."""
    attachment = getattr(model, _ATTACHED, None)
    if attachment is None:
        raise ValueError("the model has no memory attached")
    attachment.leave()


def settle(model: Any) -> None:
    """One memory update now, in the cache of the latest call: what came since the last one is judged at once.

    ValueError if there is no such cache.
    """
    attachment: Attachment | None = getattr(model, _ATTACHED, None)
    cache = attachment and attachment.latest and attachment.latest()
    if not attachment or cache is None:
        raise ValueError("nothing to settle: attach a memory, call the model and hold on to the cache it returns")
    attachment.session.settle(cache)


def memory_report(model: Any) -> Report:
    """Kept tokens and bytes of the latest call; ValueError if there was none since `attach`."""
    attachment: Attachment | None = getattr(model, _ATTACHED, None)
    if attachment is None:
        raise ValueError("the model has no memory attached; ask for the report before detaching")
    cache = attachment.latest and attachment.latest()
    if cache is not None:
        return report(cache)
    if attachment.report is None:
        raise ValueError("nothing to report: call the model, or its generate, first")
    return attachment.report


def _memory(given: Memory | str | Path | Score) -> Memory:
    if isinstance(given, Memory):
        return given
    if isinstance(given, str | Path):
        return load(given)
    policy = CustomPolicy(function=given)
    return Memory(policy.name, policy, SelectionConfig(threshold=None), _INTERVAL)


def _check_schedule(memory: Memory, budget: Budget, interval: int, chunk: int) -> None:
    least = memory.selection.protected
    if budget is None and memory.selection.threshold is None and memory.policy.name != "keep-all":
        raise ValueError(f"{memory.name} has no threshold of its own; give a budget (tokens, or a share below 1)")
    if isinstance(budget, float) and not 0.0 < budget <= 1.0:
        raise ValueError(f"budget is {budget}; expected a share in (0, 1], or an integer number of tokens")
    if isinstance(budget, int | tuple) and min([budget] if isinstance(budget, int) else budget, default=0) < least:
        raise ValueError(f"budget is {budget}; expected at least the {least} protected tokens of {memory.name}")
    if interval < 1 or chunk < 1:
        raise ValueError(f"interval is {interval} and chunk is {chunk}; expected 1 or more tokens")
    if isinstance(memory.policy, NammPolicy):
        check_interval(interval, memory.policy.config.spectrum.hop)


def _decoder(model: Any, memory: Memory) -> nn.Module:
    """The stack of layers that a memory serves; ValueError if it cannot."""
    name, turns = type(model).__name__, "rope" in memory.policy.needs or memory.policy.position_rule == "slot"
    if getattr(getattr(model, "config", None), "model_type", None) == "decision_transformer":
        if turns or memory.policy.needs & SIGNALS:
            raise ValueError(f"{memory.name} rotates keys or asks for surprisal; a {name} has neither RoPE nor tokens")
        return model.encoder
    find: Callable[[], Any] | None = getattr(model, "get_decoder", None)
    decoder = find() if find is not None else None
    if decoder is None or not hasattr(decoder, "layers") or not hasattr(decoder, "rotary_emb"):
        raise ValueError(f"{name} is not a Llama-like decoder: expected get_decoder() with .layers and .rotary_emb")
    if memory.policy.needs & SIGNALS and hasattr(model.config, "vision_config"):
        raise ValueError(f"{memory.name} asks for surprisal, which the image tokens of a {name} do not have")
    config = decoder.config
    kinds = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    window = getattr(config, "sliding_window", None)
    if kinds or (window is not None and not hasattr(config, "layer_types")):
        raise ValueError(
            f"{name} has layers without full attention ({', '.join(sorted(kinds)) or f'sliding_window={window}'}); "
            "a memory needs full attention in every layer (set sliding_window=None if prompts stay within it)"
        )
    kind = getattr(decoder.rotary_emb, "rope_type", "default")
    if turns and kind in ("dynamic", "longrope"):
        raise ValueError(f"{memory.name} rotates keys itself, which a {kind!r} RoPE rules out; choose another policy")
    return decoder
