"""The training-free policies, by name. `params` is ignored by all of them."""

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


def load_policy(name: str) -> Policy:
    """The policy of that name with its default settings; change settings with `dataclasses.replace`.

    Raises ValueError for an unknown name. A policy whose `needs` has "rope" must be given `frequencies` and `scale`.
    """
    if name not in POLICIES:
        raise ValueError(f"unknown policy {name!r}; expected one of {', '.join(POLICIES)}")
    return POLICIES[name]
