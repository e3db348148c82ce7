"""Every selection written straight down for one image, in float32 torch, as one would for a first experiment.

Tests compare the batched functions with these, and benchmarks/greedy.py measures both side by side. Each takes what one
image shows, without a batch dimension, and returns the places that it picks, (keep,) int64; what merges returns pairs,
(2, merges), and what makes new tokens these, (keep, C). Equal values go to the lower place, as in the library.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def batch(function: Callable[..., Any], *views: Tensor, **settings: Any) -> Tensor:
    """Take each image of a batch by itself, and stack what comes back."""
    return torch.stack([function(*(view[i] for view in views), **settings) for i in range(len(views[0]))])


def _largest(values: Tensor, keep: int) -> Tensor:
    return values.argsort(descending=True, stable=True)[:keep]


def _unit(features: Tensor) -> Tensor:
    return features / features.norm(dim=-1, keepdim=True)


def _without(length: int, places: Tensor) -> Tensor:
    left = torch.ones(length, dtype=torch.bool)
    left[places] = False
    return left.nonzero()[:, 0]


def random(features: Tensor, *, keep: int, seed: int = 0) -> Tensor:
    """The places with the smallest hashes of (seed, place)."""

    def mixed(value: Tensor) -> Tensor:
        for factor in (0x7FEB352D, 0x45D9F3B5):
            value = ((value ^ (value >> 16)) * factor) & 0xFFFFFFFF
        return value ^ (value >> 16)

    start = mixed(torch.tensor(seed + 0x3C6EF372))
    hashes = mixed(start ^ torch.arange(len(features)))
    return hashes.argsort()[:keep].sort().values


def grid(features: Tensor, *, keep: int) -> Tensor:
    """floor((i + 0.5) N / keep)."""
    return torch.tensor([math.floor((2 * i + 1) * len(features) / (2 * keep)) for i in range(keep)])


def first(features: Tensor, *, keep: int) -> Tensor:
    """The first ones."""
    return torch.arange(keep)


def pool(features: Tensor, *, keep: int) -> Tensor:
    """Adaptive average pooling of a square picture to g x g, g = floor(sqrt(keep)): the tokens, no places."""
    side, own = math.isqrt(keep), math.isqrt(len(features))
    picture = features.view(own, own, -1).permute(2, 0, 1)
    return nn.functional.adaptive_avg_pool2d(picture, side).flatten(1).T


def fastervlm(attention: Tensor, *, keep: int) -> Tensor:
    """The largest attention from CLS."""
    return _largest(attention, keep).sort().values


def vispruner(features: Tensor, attention: Tensor, *, keep: int, ratio: float = 0.5, removed: int = 8) -> Tensor:
    """A share by attention, the others by taking out near duplicates, `removed` at a time."""
    unit, order = _unit(features), attention.argsort(descending=True, stable=True)
    important = int(keep * ratio)
    rest = order[important:]
    while len(rest) > keep - important:
        a, b = rest[0::2], rest[1::2]
        closest = (unit[a] @ unit[b].T).amax(1).argsort(descending=True, stable=True)
        gone = min(removed, len(rest) - (keep - important), len(a))
        rest = torch.cat((a[closest[gone:]], b))
    return torch.cat((order[:important], rest)).sort().values


def divprune(features: Tensor, *, keep: int) -> Tensor:
    """The matrix of distances, then the farthest token from those chosen, again and again."""
    unit = _unit(features)
    distance = 1.0 - unit @ unit.T
    # The smallest distance of each token is its own, to itself.
    picks = [int(distance.topk(2, dim=0, largest=False).values[1].argmax())]
    while len(picks) < keep:
        nearest = distance[picks].amin(0)
        nearest[picks] = -1.0
        picks.append(int(nearest.argmax()))
    return torch.tensor(picks).sort().values


def cdpruner(features: Tensor, relevance: Tensor, *, keep: int) -> Tensor:
    """The greedy most probable set of the determinantal point process of relevance and cosine, by Cholesky rows."""
    unit = _unit(features)
    weight = (relevance - relevance.min() + 1e-6) / (relevance.max() - relevance.min())
    kernel = weight[:, None] * (unit @ unit.T) * weight[None, :]
    gain, rows, picks = kernel.diagonal().clone(), torch.zeros(keep, len(features)), []
    for step in range(keep):
        pick = int(gain.argmax())
        rows[step] = (kernel[pick] - rows[:step, pick] @ rows[:step]) / gain[pick].sqrt()
        gain -= rows[step] ** 2
        gain[pick] = -torch.inf
        picks.append(pick)
    return torch.tensor(picks).sort().values


def idpruner(features: Tensor, scores: Tensor, *, keep: int, balance: float = 0.5) -> Tensor:
    """Maximal marginal relevance: important, and unlike what was picked before."""
    unit = _unit(features)
    similarity = unit @ unit.T
    importance = (scores - scores.min()) / (scores.max() - scores.min() + 1e-6)
    picks = [int(importance.argmax())]
    while len(picks) < keep:
        value = balance * importance - (1 - balance) * similarity[picks].amax(0)
        value[picks] = -torch.inf
        picks.append(int(value.argmax()))
    return torch.tensor(picks).sort().values


def visionzip(features: Tensor, attention: Tensor, keys: Tensor, cls: Tensor, *, keep: int) -> Tensor:
    """CLS, the most attended tokens, and targets at even steps among the rest that take up the mean of their followers.

    The tokens, no places: 10 of 64 are such targets.
    """
    contextual = math.floor(keep * 10 / 64 + 0.5)
    dominant = keep - 1 - contextual
    kept = _largest(attention, dominant).sort().values
    rest = _without(len(features), kept)
    places = torch.arange(contextual) * max(1, len(rest) // contextual)
    targets, others = rest[places], rest[_without(len(rest), places)]
    unit = _unit(keys)
    owner = (unit[others] @ unit[targets].T).argmax(1)
    tokens = []
    for number, target in enumerate(targets):
        followers = features[others[owner == number]]
        tokens.append(features[target] + followers.mean(0) if len(followers) else features[target])
    return torch.stack([cls, *features[kept], *tokens])


def tome(keys: Tensor, *, merges: int) -> Tensor:
    """Bipartite soft matching of even places with odd ones: (2, merges), sources and their targets."""
    unit = _unit(keys)
    best = (unit[0::2] @ unit[1::2].T).max(1)
    winners = best.values.argsort(descending=True, stable=True)[:merges]
    return torch.stack((2 * winners, 2 * best.indices[winners] + 1))


def evoprune(tokens: Tensor, importance: Tensor, *, merges: int, ratio: float = 0.25, neighbors: int = 5) -> Tensor:
    """The same of tokens outside the most important ones, by cosine, with those that are distinct held back."""
    length = len(tokens)
    protected = max(0, min(int(ratio * length), length - 2 * merges))
    free = importance.argsort(descending=True, stable=True)[protected:].sort().values
    unit = _unit(tokens)
    cosine = unit @ unit.T
    others = cosine.clone()
    others.fill_diagonal_(-torch.inf)
    distance = 2 - 2 * others.topk(neighbors).values
    weight = torch.exp(-(1 - torch.exp(-distance / distance.mean()).mean(1)))
    a, b = free[0::2], free[1::2]
    score = cosine[a][:, b] * weight[a][:, None] * weight[b][None, :]
    best = score.max(1)
    winners = best.values.argsort(descending=True, stable=True)[:merges]
    return torch.stack((a[winners], b[best.indices[winners]]))


def fastv(attention: Tensor, *, keep: int) -> Tensor:
    """The largest attention from the last token of the prompt."""
    return _largest(attention, keep).sort().values


def dart(keys: Tensor, hidden: Tensor, text_keys: Tensor, text_hidden: Tensor, *, keep: int, pivots: int = 4) -> Tensor:
    """Pivots of image and text by the norm of their keys; each keeps the tokens that are least like it."""
    own = _largest(keys.abs().sum(1), pivots)
    text = _largest(text_keys.abs().sum(1), pivots)
    unit, text_unit = _unit(hidden), _unit(text_hidden)
    kept = torch.zeros(len(keys), dtype=torch.bool)
    kept[own] = True
    share, more = divmod(keep - pivots, 2 * pivots)
    for number, pivot in enumerate([*unit[own], *text_unit[text]]):
        near = (unit @ pivot).masked_fill(kept, torch.inf)
        kept[near.argsort(stable=True)[: share + (number < more)]] = True
    return kept.nonzero()[:, 0]


def fitprune(cross: Tensor, within: Tensor, *, keep: int) -> Tensor:
    """All but those with the smallest product of the attention from the text and that from the picture."""
    return _without(len(cross), (cross * within).argsort(stable=True)[: len(cross) - keep])
