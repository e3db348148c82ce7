"""Slow literal references in float64, straight from the formulas: what the operators are tested against.

`pair_scores` is plain loops over plain floats; `pair_scores_fast` is the same in numpy, for larger images.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np

TIE = 1e-5  # two choices whose float64 scores differ by less are both right
EQUAL = 1e-6  # distances below this count as 0 (float32 cannot tell them apart)


def received(query, key, scaling, bias=None, mask=None):
    """(H, Tq, D), (Hk, Tk, D), bias (Tk,), mask (Tq,) -> list of Tk floats."""
    heads, group = len(query), len(query) // len(key)
    total = [0.0] * len(key[0])
    rows = [i for i in range(len(query[0])) if mask is None or mask[i]]
    for h in range(heads):
        for i in rows:
            logits = [
                scaling * sum(a * b for a, b in zip(query[h][i], k, strict=True)) + (0.0 if bias is None else bias[j])
                for j, k in enumerate(key[h // group])
            ]
            peak = max(logits)
            exps = [math.exp(v - peak) for v in logits] if peak > -math.inf else [0.0] * len(logits)
            for j, e in enumerate(exps):
                total[j] += e / (sum(exps) or 1.0) / heads / len(rows)
    return total


def protected_size(n, r, critical_ratio):
    return max(0, min(math.floor(Fraction(str(critical_ratio)) * n), n - 2 * r))


def costs_and_groups(importance, r, critical_ratio, partition, padding):
    """Return cost per token, group a, group b."""
    real = [i for i in range(len(padding)) if not padding[i]]
    cost = [0] * len(padding)
    if importance is not None:
        size = protected_size(len(real), r, critical_ratio)
        members = sorted(real, key=lambda i: (-importance[i], i))[:size]
        for rank, i in enumerate(reversed(members)):
            cost[i] = 8 * (1 + rank)
    listed = [i for i in real if partition == "index" or cost[i] == 0]
    return cost, listed[0::2], listed[1::2]


def pair_scores(
    tokens, importance, r, *, critical_ratio=0.25, neighbors=5, bandwidth=None, diversity=1.0,
    similarity="cosine", partition="mergeable", padding=None,
):  # fmt: skip
    """Return {(i, j): score - cost(i) - cost(j)} over i in a, j in b, by loops over plain floats."""
    length = len(tokens)
    padding = padding or [False] * length
    norm = [math.sqrt(sum(v * v for v in x)) for x in tokens]

    def cosine(i, j):
        dot = sum(p * q for p, q in zip(tokens[i], tokens[j], strict=True))
        return dot / norm[i] / norm[j] if norm[i] and norm[j] else 0.0

    real = [i for i in range(length) if not padding[i]]
    nearest = {}
    for i in real:
        distances = [max(0.0, 2 - 2 * cosine(i, k)) for k in real if k != i]
        nearest[i] = sorted(0.0 if d < EQUAL else d for d in distances)[:neighbors]
    values = [d for row in nearest.values() for d in row]
    square = bandwidth**2 if bandwidth is not None else (sum(values) / len(values) if values else 0.0)
    d = dict.fromkeys(real, 0.0)
    if square > 0 and values:
        d = {i: 1 - sum(math.exp(-v / square) for v in row) / len(row) for i, row in nearest.items()}
    cost, a, b = costs_and_groups(importance, r, critical_ratio, partition, padding)
    least = min((cost[j] for j in b), default=0)
    free = [j for j in b if cost[j] == least]
    scores = {}
    for i in a:
        for j in b:
            sim = cosine(i, j)
            if similarity == "sigmoid":
                sim = 1 / (1 + math.exp(-sim))
            elif similarity == "softmax":
                sim = math.exp(sim) / sum(math.exp(cosine(i, k)) for k in free) if j in free else 0.0
            scores[i, j] = sim * math.exp(-diversity * (d[i] + d[j])) - cost[i] - cost[j]
    return scores, a, b


def pair_scores_fast(
    tokens, importance, r, *, critical_ratio=0.25, neighbors=5, bandwidth=None, diversity=1.0,
    similarity="cosine", partition="mergeable", padding=None,
):  # fmt: skip
    """`pair_scores` in numpy: a (len(a), len(b)) array instead of a dict."""
    x = np.asarray(tokens, dtype=np.float64)
    padding = np.zeros(len(x), bool) if padding is None else np.asarray(padding)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    unit = x / np.where(norm > 0, norm, 1)
    cos = unit @ unit.T
    real = np.flatnonzero(~padding)
    distance = np.maximum(0, 2 - 2 * cos[np.ix_(real, real)])
    distance[distance < EQUAL] = 0
    np.fill_diagonal(distance, np.inf)
    k = min(neighbors, len(real) - 1)
    nearest = np.sort(distance, axis=1)[:, :k]
    square = bandwidth**2 if bandwidth is not None else nearest.mean()
    d = np.zeros(len(x))
    if square > 0:
        d[real] = 1 - np.exp(-nearest / square).mean(1)
    cost, a, b = costs_and_groups(importance, r, critical_ratio, partition, padding.tolist())
    cost = np.asarray(cost, dtype=np.float64)
    sim = cos[np.ix_(a, b)]
    free = cost[b] == cost[b].min()
    if similarity == "sigmoid":
        sim = 1 / (1 + np.exp(-sim))
    elif similarity == "softmax":
        sim = np.where(free, np.exp(sim), 0)
        sim = sim / sim.sum(1, keepdims=True)
    weight = np.exp(-diversity * d)
    return sim * weight[a][:, None] * weight[b][None] - cost[a][:, None] - cost[b][None], a, b


def check_matching(source, target, kept, scores, a, b, r):
    """Raise AssertionError unless the pairs are a right answer up to ties; return the number of ties met.

    `scores` is the array (len(a), len(b)) of float64 pair scores.
    """
    length = len(source) + len(kept)
    assert len(source) == len(target) == r and len(set(source)) == r
    assert set(source) <= set(a) and set(target) <= set(b)
    assert kept == sorted(set(range(length)) - set(source))
    row, column = {i: n for n, i in enumerate(a)}, {j: n for n, j in enumerate(b)}
    best = scores.max(1)
    order = sorted(range(len(a)), key=lambda n: (-best[n], n))[:r]
    ties = 0
    given = [scores[row[i], column[j]] for i, j in zip(source, target, strict=True)]
    for i, j, score in zip(source, target, given, strict=True):
        assert best[row[i]] - score < TIE, (i, j, best[row[i]], score)
        ties += column[j] != int(scores[row[i]].argmax())
    assert all(p - q > -TIE for p, q in pairwise(given))
    ours, theirs = {row[i] for i in source}, set(order)
    for p, q in zip(sorted(best[list(ours - theirs)]), sorted(best[list(theirs - ours)]), strict=True):
        assert abs(p - q) < TIE, (p, q)
        ties += 1
    return ties


def merged(tokens, sizes, source, target, survivors, weights="size"):
    """Loops: tokens T x C and sizes T to the rows of `survivors`."""
    values, total = [], []
    for t in survivors:
        group = [t] + [s for s, g in zip(source, target, strict=True) if g == t]
        share = [sizes[i] if weights == "size" else 1.0 for i in group]
        columns = range(len(tokens[0]))
        values.append([sum(w * tokens[i][c] for w, i in zip(share, group, strict=True)) / sum(share) for c in columns])
        total.append(sum(sizes[i] for i in group))
    return values, total
