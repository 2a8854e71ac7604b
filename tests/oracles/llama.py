"""A Llama in float64 NumPy, one token at a time, attending to whatever positions it is told."""

from typing import Any

import numpy as np

from hosts.spec import HostSpec


class TokenByToken:
    """Keeps keys and values of every token ever read; `step` says which of them exist for this token."""

    def __init__(self, params: dict[str, Any], spec: HostSpec):
        wide = lambda x: np.asarray(x, np.float64)  # noqa: E731
        self.embedding, self.norm = wide(params["embedding"]), wide(params["norm"])
        self.layers = [{k: wide(v)[i] for k, v in params["layers"].items()} for i in range(spec.layers)]
        self.spec = spec
        self.past: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def _normed(self, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return x / np.sqrt(np.mean(x * x) + self.spec.norm_epsilon) * weight

    def _rotated(self, x: np.ndarray, position: int) -> np.ndarray:
        half = self.spec.head_dim // 2
        angle = position * self.spec.rope.theta ** (-np.arange(half) / half)
        first, second = x[:, :half], x[:, half:]
        return np.concatenate(
            [first * np.cos(angle) - second * np.sin(angle), second * np.cos(angle) + first * np.sin(angle)], axis=1
        )

    def step(self, token: int, position: int, visible: list[int]) -> np.ndarray:
        """Logits after reading `token`; `visible` positions include its own."""
        x, dim = self.embedding[token], self.spec.head_dim
        for index, layer in enumerate(self.layers):
            y = self._normed(x, layer["attention_norm"])
            q, k, v = ((y @ layer[name]).reshape(-1, dim) for name in ("query", "key", "value"))
            q, k = self._rotated(q, position), self._rotated(k, position)
            self.past[index, position] = (k, v)
            keys, values = (np.stack([self.past[index, p][part] for p in visible], 1) for part in (0, 1))
            out = []
            for head, query in enumerate(q):
                shared = head // self.spec.group
                logits = keys[shared] @ query / np.sqrt(dim)
                weights = np.exp(logits - logits.max())
                out.append(weights @ values[shared] / weights.sum())
            x = x + np.concatenate(out) @ layer["output"]
            y = self._normed(x, layer["mlp_norm"])
            gate = y @ layer["gate"]
            x = x + (gate / (1 + np.exp(-gate)) * (y @ layer["up"])) @ layer["down"]
        return self._normed(x, self.norm) @ self.embedding.T
