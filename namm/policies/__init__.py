"""The training-free policies, by name. `params` is ignored by all of them."""

from dataclasses import fields, replace
from typing import Any, cast

from namm.contract import Policy
from namm.policies.attention import HeavyHitters, LastQuery, WindowVote
from namm.policies.content import KeyDiff, KeyNorm, LagKV, ReleasedSirLLM, SirLLM
from namm.policies.expected import ExpectedAttention
from namm.policies.position import KeepAll, LogSparse, Random, SlidingWindow, SparseFixed, SparseStrided, StreamingLLM

__all__ = [
    "POLICIES",
    "ExpectedAttention",
    "HeavyHitters",
    "KeepAll",
    "KeyDiff",
    "KeyNorm",
    "LagKV",
    "LastQuery",
    "LogSparse",
    "Random",
    "ReleasedSirLLM",
    "SirLLM",
    "SlidingWindow",
    "SparseFixed",
    "SparseStrided",
    "StreamingLLM",
    "WindowVote",
    "load_policy",
]

_DEFAULTS: tuple[Policy, ...] = (
    KeepAll(),
    SlidingWindow(),
    StreamingLLM(),
    Random(),
    HeavyHitters(),
    LastQuery(),
    WindowVote(),
    KeyNorm(),
    KeyDiff(),
    ExpectedAttention(),
    LagKV(),
    SirLLM(),
    ReleasedSirLLM(),
    LogSparse(),
    SparseStrided(),
    SparseFixed(),
)

POLICIES: dict[str, Policy] = {policy.name: policy for policy in _DEFAULTS}
_FROM_HOST = ("frequencies", "scale")  # see "rope" in `namm.contract.Policy.needs`


def load_policy(name: str) -> Policy:
    """The policy of that name, its settings behind a colon: "sirllm", "streaming-llm:sinks=0", "lagkv:lag=64,sinks=8".

    Raises ValueError for an unknown name or setting, or a value that cannot be. A policy whose `needs` has "rope" must
    be given `frequencies` and `scale` by the host.
    """
    base, colon, settings = name.partition(":")
    if base not in POLICIES:
        raise ValueError(f"unknown policy {base!r}; expected one of {', '.join(POLICIES)}")
    policy = cast(Any, POLICIES[base])
    return replace(policy, **_settings(policy, settings.split(","))) if colon else policy


def _settings(policy: Any, words: list[str]) -> dict[str, Any]:
    kinds = {field.name: cast(type, field.type) for field in fields(policy) if field.name not in _FROM_HOST}
    values = {}
    for word in words:
        field, _, text = word.partition("=")
        if field not in kinds:
            raise ValueError(f"{policy.name}: no setting {field!r}; expected NAME=VALUE with one of {', '.join(kinds)}")
        try:
            values[field] = kinds[field](text)
        except ValueError:
            raise ValueError(f"{policy.name}: {field} is {text!r}; expected {kinds[field].__name__}") from None
    return values
