"""What every training-free policy scores, token by token, from the papers' equations in float64.

A `Record` is a whole sequence; `held` lists, per KV head, the tokens still in the cache (named by position).
Each function returns one array of scores per head, in the order of `held`.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np


class Record(NamedTuple):
    """attention [head, query, token], queries [query_head, token, dim], keys, values [head, token, dim], surprisal."""

    attention: np.ndarray
    queries: np.ndarray
    keys: np.ndarray
    values: np.ndarray
    surprisal: np.ndarray


def per_head(function):
    def scores(record, n, held, policy, interval):
        return [np.array(function(record, n, held, h, policy, interval), float) for h in range(len(held))]

    return scores


def with_sinks(policy, tokens, scores):
    return [np.inf if token < policy.sinks else score for token, score in zip(tokens, scores, strict=True)]


@per_head
def keep_all(record, n, held, h, policy, interval):
    return [np.inf for _ in held[h]]


@per_head
def sliding_window(record, n, held, h, policy, interval):
    return held[h]


@per_head
def streaming_llm(record, n, held, h, policy, interval):
    return with_sinks(policy, held[h], held[h])


@per_head
def h2o(record, n, held, h, policy, interval):
    return [record.attention[h, :n, token].sum() for token in held[h]]


@per_head
def tova(record, n, held, h, policy, interval):
    return [
        sum(record.attention[g, n - 1, token] for g in range(len(held)) if token in held[g]) / len(held)
        for token in held[h]
    ]


@per_head
def snapkv(record, n, held, h, policy, interval):
    voters = range(max(0, n - policy.window), n)
    prefix = [token for token in held[h] if token < n - policy.window]
    votes = [np.mean([record.attention[h, query, token] for query in voters]) for token in prefix]
    reach = policy.kernel // 2
    pooled = [max(votes[max(0, i - reach) : i + reach + 1]) for i in range(len(prefix))]
    return pooled + [2 + token for token in held[h][len(prefix) :]]


@per_head
def key_norm(record, n, held, h, policy, interval):
    return [-np.linalg.norm(record.keys[h, token]) for token in held[h]]


@per_head
def keydiff(record, n, held, h, policy, interval):
    keys = record.keys[h, held[h]]
    anchor = np.mean([key / np.linalg.norm(key) for key in keys], axis=0)
    return [-(key @ anchor) / np.linalg.norm(key) / np.linalg.norm(anchor) for key in keys]


def rotation(angles):
    """RoPE matrix of one position: component i turns with component i + dim/2."""
    cos, sin = np.diag(np.cos(angles)), np.diag(np.sin(angles))
    return np.block([[cos, -sin], [sin, cos]])


@per_head
def expected_attention(record, n, held, h, policy, interval):
    frequencies = np.array(policy.frequencies)
    mean_rotation = policy.scale * np.mean(
        [rotation(position * frequencies) for position in range(n, n + policy.future)], axis=0
    )
    dim, group = record.keys.shape[2], len(record.queries) // len(held)
    tokens = [token for token in held[h] if token >= policy.sinks]
    weights = np.zeros(len(tokens))
    for query_head in range(h * group, (h + 1) * group):
        seen = record.queries[query_head, policy.sinks : n]
        mean = mean_rotation @ seen.mean(axis=0)
        covariance = mean_rotation @ np.cov(seen.T, bias=True) @ mean_rotation.T
        mass = np.array(
            [np.exp(k @ mean / np.sqrt(dim) + k @ covariance @ k / (2 * dim)) for k in record.keys[h, tokens]]
        )
        weights += mass / mass.sum() / group
    values = [np.linalg.norm(record.values[h, token]) for token in tokens]
    return [np.inf] * (len(held[h]) - len(tokens)) + list(weights * values)


@per_head
def lagkv(record, n, held, h, policy, interval):
    sinks = [token for token in held[h] if token < policy.sinks]
    body = held[h][len(sinks) :]
    whole = len(body) // policy.lag
    parts = [body[p * policy.lag : (p + 1) * policy.lag] for p in range(whole)]
    scores = [np.inf for _ in sinks]
    for part, reference in pairwise(parts):
        spread = np.zeros(policy.lag)
        for x in (record.keys[h], record.values[h]):
            low, high = x[reference].min(axis=0), x[reference].max(axis=0)
            deviation = np.exp(((x[part] - low) / (high - low)).std(axis=1, ddof=1))
            spread += deviation / deviation.sum()
        scores += [sum(other < own for other in spread) / policy.lag for own in spread]
    return scores + [1 + token for token in body[max(whole - 1, 0) * policy.lag :]]


@per_head
def sirllm(record, n, held, h, policy, interval):
    turns = [(n - 1) // interval - token // interval for token in held[h]]
    scores = [record.surprisal[token] * policy.decay**turn for token, turn in zip(held[h], turns, strict=True)]
    return with_sinks(policy, held[h], scores)


def tiers(held, first):
    return [token + (max(held) + 1 if is_first else 0) for token, is_first in zip(held, first, strict=True)]


@per_head
def logsparse(record, n, held, h, policy, interval):
    oldest = {}
    for token in held[h]:
        age = n - 1 - token
        oldest.setdefault(int(np.log2(age)) if age else -1, token)
    return tiers(held[h], [token in oldest.values() for token in held[h]])


@per_head
def strided(record, n, held, h, policy, interval):
    return tiers(held[h], [(n - 1 - token) % policy.stride == 0 for token in held[h]])


@per_head
def fixed(record, n, held, h, policy, interval):
    columns = range(policy.stride - policy.summary, policy.stride)
    return tiers(held[h], [token % policy.stride in columns for token in held[h]])


ORACLES = {
    "keep-all": keep_all,
    "sliding-window": sliding_window,
    "streaming-llm": streaming_llm,
    "h2o": h2o,
    "tova": tova,
    "snapkv": snapkv,
    "key-norm": key_norm,
    "keydiff": keydiff,
    "expected-attention": expected_attention,
    "lagkv": lagkv,
    "sirllm": sirllm,
    "sirllm-released": sirllm,
    "logsparse": logsparse,
    "sparse-transformer-strided": strided,
    "sparse-transformer-fixed": fixed,
}
