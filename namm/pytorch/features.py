"""The feature blocks of `namm.features` in torch, float32 whatever the model's dtype."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from namm.content import NEAR
from namm.features import AGES, LEAST, RECENCY_BASE, RECENCY_WIDTH, SpectrumConfig, fourier_basis
from namm.pytorch.state import Observation, SlotCache, newest, slide, take


def observe_spectrum(
    config: SpectrumConfig, slots: dict[str, Tensor], observation: Observation
) -> dict[str, Tensor]:
    """Every frame that completes enters the average, the last `window` samples of each row are kept."""
    device = observation.attention.device
    samples = torch.cat([slots["recent"].transpose(2, 3), observation.attention.float()], dim=2)
    recent = slide(samples, observation.counts, config.window).transpose(2, 3).contiguous()
    if "average" not in slots:
        return {"recent": recent}
    pending = [seen % config.hop for seen in observation.seen]
    complete = [(wait + count) // config.hop for wait, count in zip(pending, observation.counts, strict=True)]
    if not max(complete):
        return {"average": slots["average"], "recent": recent}
    starts = tuple(config.window - config.hop - wait for wait in pending)
    magnitudes = frame_magnitudes(config, slide(samples, starts, config.hop * (max(complete) + 1)))
    average = slots["average"].transpose(2, 3)
    for frame in range(max(complete)):
        moved = average.lerp(magnitudes[:, :, frame], 1.0 - config.decay**config.hop)
        if frame >= min(complete):  # rows whose frame is not complete stay
            due = torch.tensor([frame < n for n in complete], device=device)
            moved = torch.where(due[:, None, None, None], moved, average)
        average = moved
    return {"average": average.transpose(2, 3).contiguous(), "recent": recent}


def frame_magnitudes(
    config: SpectrumConfig, series: Float[Tensor, "batch head time slot"]
) -> Float[Tensor, "batch head frame freq slot"]:
    """Magnitudes of the frames that start every `hop` samples; time = hop * (frame + 1)."""
    basis = torch.from_numpy(fourier_basis(config).T.astype(np.float32)).to(series.device)
    frames = series.unfold(2, config.window, config.hop).transpose(3, 4)
    real, imaginary = (basis @ frames).square_().chunk(2, dim=3)
    return real.add_(imaginary).sqrt_()


def recency(cache: SlotCache) -> Float[Tensor, "batch head slot 8"]:
    """Sines and cosines of a token's age behind the newest token of its head."""
    age = (newest(cache) - cache.positions).float()
    rates = RECENCY_BASE ** (-np.arange(RECENCY_WIDTH // 2, dtype=np.float32) / (RECENCY_WIDTH // 2))
    angle = age[..., None] * torch.from_numpy(rates.astype(np.float32)).to(age.device)
    return torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)


def newness(cache: SlotCache) -> Float[Tensor, "batch head slot 4"]:
    """exp(-age / scale) on four scales."""
    age = torch.where(cache.valid, newest(cache) - cache.positions, 0).float()
    return torch.exp(-age[..., None] / torch.tensor(AGES, device=age.device))


def standardise(
    x: Float[Tensor, "*block batch head slot"], valid: Bool[Tensor, "batch head slot"]
) -> Float[Tensor, "*block batch head slot"]:
    """Zero mean and unit variance over the occupied slots of a head."""
    total = valid.sum(-1, keepdim=True).clamp(min=1)
    x = torch.where(valid, x, 0.0)
    centred = torch.where(valid, x - x.sum(-1, keepdim=True) / total, 0.0)
    variance = (centred * centred).sum(-1, keepdim=True) / total
    return centred * torch.rsqrt(variance + 1e-6)


def mean_cosine(
    x: Float[Tensor, "batch head slot dim"],
    squares: Float[Tensor, "batch head slot"],
    valid: Bool[Tensor, "batch head slot"],
) -> Float[Tensor, "batch head slot"]:
    """Cosine of each vector to the mean direction of its head's (of keys: arXiv 2504.15364).

    Two products with the vectors as they stand: no array of unit vectors is made.
    """
    scale = torch.rsqrt(squares + 1e-12)
    mean = torch.where(valid, scale, 0.0)[:, :, None] @ x
    mean = mean * torch.rsqrt((mean * mean).sum(-1, keepdim=True) + 1e-12)
    return (x @ mean.transpose(2, 3))[..., 0] * scale


def squared_norm(x: Float[Tensor, "batch head slot dim"]) -> Float[Tensor, "batch head slot"]:
    return (x * x).sum(-1)


def content(cache: SlotCache) -> tuple[Float[Tensor, "batch head slot 4"], Float[Tensor, "batch head 2 4"]]:
    """Cosines of key and value to their head's mean, and their log norms, relative to the head's other tokens.

    And their levels, see `namm.content`.
    """
    pair = (cache.keys.float(), cache.values.float())
    squares = [squared_norm(x) for x in pair]
    cosines = [mean_cosine(x, norm, cache.valid) for x, norm in zip(pair, squares, strict=True)]
    norms = [0.5 * torch.log(x + 1e-12) for x in squares]
    raw, count = torch.stack([*cosines, *norms]), cache.valid.sum(-1).clamp(min=1)
    mean = torch.where(cache.valid, raw, 0.0).sum(-1) / count
    centred = torch.where(cache.valid, raw - mean[..., None], 0.0)
    level = levels_of(mean.movedim(0, -1), centred.square().sum(-1).movedim(0, -1), count[..., None])
    return centred.movedim(0, -1) / level[:, :, None, 1], level


def levels_of(
    mean: Float[Tensor, "batch head 4"], squares: Float[Tensor, "batch head 4"], count: Shaped[Tensor, "batch head 1"]
) -> Float[Tensor, "batch head 2 4"]:
    """Mean and deviation of a head's tokens."""
    return torch.stack([mean, (squares / count.clamp(min=1) + 1e-6).sqrt()], dim=2)


def nothing_read(batch: int, heads: int, dim: int, device: torch.device) -> dict[str, Tensor]:
    """What `content_of_read` carries before the first token; see `namm.content.nothing_read`."""
    zeros = partial(torch.zeros, device=device)
    moments = {"count": zeros(batch, heads), "mean": zeros(batch, heads, 4), "squares": zeros(batch, heads, 4)}
    return {"counted": zeros(batch, dtype=torch.int32), "directions": zeros(batch, 2, heads, dim), **moments}


def content_of_read(
    cache: SlotCache, before: dict[str, Tensor]
) -> tuple[Float[Tensor, "batch head slot 4"], Float[Tensor, "batch head 2 4"], dict[str, Tensor]]:
    """`content`, relative to all tokens that the head has read, its levels, and what to carry on."""
    fresh = (cache.valid & (cache.positions >= before["counted"][:, None, None])).float()
    pair = torch.stack([cache.keys, cache.values], dim=1).float()
    squares = (pair * pair).sum(-1)
    scale = torch.rsqrt(squares + 1e-12)
    directions = before["directions"] + ((scale * fresh[:, None])[..., None, :] @ pair)[..., 0, :]
    towards = directions * torch.rsqrt((directions * directions).sum(-1, keepdim=True) + 1e-12)
    cosines = (pair @ towards[..., None])[..., 0] * scale
    raw = torch.cat([cosines, 0.5 * torch.log(squares + 1e-12)], dim=1).movedim(1, -1)
    new = fresh.sum(-1)
    mean = (fresh[:, :, None] @ raw)[:, :, 0] / new.clamp(min=1.0)[..., None]
    spread = (fresh[:, :, None] @ (raw - mean[:, :, None]).square())[:, :, 0]
    count = before["count"] + new
    share = (new / count.clamp(min=1.0))[..., None]
    apart = mean - before["mean"]
    mean = before["mean"] + share * apart
    spread = before["squares"] + spread + apart * apart * share * before["count"][..., None]
    counted = torch.maximum(before["counted"], newest(cache).amax((1, 2)) + 1)
    after = {"counted": counted, "directions": directions, "count": count, "mean": mean, "squares": spread}
    level = levels_of(mean, spread, count[..., None])
    relative = (raw - mean[:, :, None]) / level[:, :, None, 1]
    return torch.where(cache.valid[..., None], relative, 0.0), level, after


def levels(known: Float[Tensor, "batch head 2 4"], cache: SlotCache) -> Float[Tensor, "batch head slot 6"]:
    """Mean, then deviation of a head's value cosines and log norms, at each of its slots."""
    return known[..., 1:].flatten(2)[:, :, None].expand(*cache.valid.shape, -1)


def near_mean(x: Float[Tensor, "batch head slot width"], cache: SlotCache) -> Float[Tensor, "batch head slot width"]:
    """Mean over the held tokens at most NEAR positions away, itself included."""
    positions: Int[Tensor, "batch head slot"] = torch.where(cache.valid, cache.positions, -1).cummax(-1).values
    counted = torch.cat([x, torch.ones_like(x[..., :1])], dim=-1) * cache.valid[..., None]
    sums = torch.nn.functional.pad(counted.cumsum(2), (0, 0, 1, 0))
    first = torch.searchsorted(positions, (positions - NEAR).contiguous(), side="left")
    last = torch.searchsorted(positions, (positions + NEAR).contiguous(), side="right")

    total = take(sums, last) - take(sums, first)
    return total[..., :-1] / total[..., -1:].clamp(min=1.0)


def over_heads(
    values: Float[Tensor, "*block batch head slot"], cache: SlotCache
) -> Float[Tensor, "*block batch head slot"]:
    """Mean over all heads of a layer, matched by position; a head that does not hold a token adds nothing."""
    batch, heads = cache.positions.shape[:2]
    held = torch.where(cache.valid, values, 0.0).flatten(-3)
    positions = torch.where(cache.valid, cache.positions, -1).flatten(1)
    span = positions.amax() + 2
    apart = positions + span * torch.arange(batch, device=span.device)[:, None]  # rows share no token
    token = torch.unique(apart, return_inverse=True)[1].flatten()
    total = torch.zeros_like(held).index_add_(-1, token, held)
    return total[..., token].reshape(values.shape) / heads


def latest(recent: Float[Tensor, "batch head slot query"], cache: SlotCache) -> Float[Tensor, "batch head slot 4"]:
    """Log attention from the newest query and from the last `window` of them, of this head and of the layer's heads."""
    own = torch.stack([recent[..., -1], recent.mean(-1)])
    raw = torch.cat([own, over_heads(own, cache)])
    return standardise(torch.log(raw + LEAST), cache.valid).movedim(0, -1)


def features(
    names: tuple[str, ...], slots: dict[str, Tensor], cache: SlotCache
) -> dict[str, Float[Tensor, "batch head slot width"]]:
    """The named blocks, in this order; spectrum values are raw. See `namm.features.Block` for the slots' arrays."""
    blocks: dict[str, Callable[[], Tensor]] = {
        "recency": lambda: recency(cache),
        "newness": lambda: newness(cache),
        "spectrum": lambda: slots["average"],
        "latest": lambda: latest(slots["recent"], cache),
        "key-cosine": lambda: slots["content"][..., :1],
        "value-cosine": lambda: slots["content"][..., 1:2],
        "norms": lambda: slots["content"][..., 2:],
        "levels": lambda: levels(slots["levels"], cache),
        "near": lambda: near_mean(slots["content"], cache),
        "surprisal": lambda: standardise(slots["surprisal"], cache.valid)[..., None],
    }
    return {name: blocks[name]() for name in names}
