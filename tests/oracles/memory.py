"""The memory model in float64 NumPy, straight from the equations (arXiv 2410.13166, appendix A): no streaming."""

import numpy as np


def spectrum(series: np.ndarray, window: int = 32, hop: int = 16, decay: float = 0.99) -> np.ndarray:
    """Decayed average of Hann-windowed magnitudes of a whole series [slot, time], one hop of zeros put before it."""
    padded = np.concatenate([np.zeros((len(series), hop)), series], axis=1)
    hann = 0.5 * (1 - np.cos(2 * np.pi * np.arange(window) / window))
    average = np.zeros((len(series), window // 2 + 1))
    frames = (padded.shape[1] - window) // hop + 1
    for t in range(max(frames, 0)):
        magnitude = np.abs(np.fft.rfft(padded[:, t * hop : t * hop + window] * hann, axis=1))
        average = decay**hop * average + (1 - decay**hop) * magnitude
    return average


def recency(age: np.ndarray) -> np.ndarray:
    angle = age[..., None] * 50000.0 ** (-np.arange(4) / 4)
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)


def mean_cosine(x: np.ndarray) -> np.ndarray:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit @ (unit.mean(0) / np.linalg.norm(unit.mean(0)))


def near_mean(x: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Mean of rows over the tokens at most 4 positions away."""
    return np.stack([x[np.abs(positions - p) <= 4].mean(0) for p in positions])


def over_heads(values: np.ndarray, positions: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Mean over heads [head, slot] of the values of a token, zero where a head does not hold it."""
    out = np.zeros_like(values)
    for head, slot in np.argwhere(valid):
        same = valid & (positions == positions[head, slot])
        out[head, slot] = values[same].sum() / len(values)
    return out


def standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-6)


def backward_attention(params: dict, x: np.ndarray) -> np.ndarray:
    """Scores of [slot, feature]; every slot sees itself and newer ones."""
    p = {k: {n: np.asarray(a, np.float64) for n, a in v.items()} for k, v in params["params"].items()}
    hidden = p["attention_in"]["kernel"].shape[1] // 3
    qkv = x @ p["attention_in"]["kernel"] + p["attention_in"]["bias"]
    q, k, v = qkv[:, :hidden], qkv[:, hidden : 2 * hidden], qkv[:, 2 * hidden :]
    out = np.zeros_like(v)
    for i in range(len(x)):
        logits = k[i:] @ q[i] / np.sqrt(hidden)
        weights = np.exp(logits - logits.max())
        out[i] = weights @ v[i:] / weights.sum()
    y = out @ p["attention_out"]["kernel"] + p["attention_out"]["bias"]
    shift, scale = y[:, : x.shape[1]], y[:, x.shape[1] :]
    return (x * (1 + scale) + shift) @ p["score"]["kernel"][:, 0] + p["score"]["bias"][0]
