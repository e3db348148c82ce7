"""VisionZip of one image written down literally: loops over plain numbers, from its description alone."""

from __future__ import annotations

import math

Rows = list[list[float]]


def cosine(x: list[float], y: list[float]) -> float:
    length = math.sqrt(sum(v * v for v in x)) * math.sqrt(sum(v * v for v in y))
    return sum(p * q for p, q in zip(x, y, strict=True)) / length if length else 0.0


def literal(
    patches: Rows, scores: list[float], keys: Rows, cls: list[float] | None, dominant: int, contextual: int
) -> tuple[Rows, list[int], list[int], float]:
    """Return one image's tokens, their places, which token holds each patch, and the smallest gap between choices."""
    ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    best = sorted(ranked[:dominant])
    rest = [i for i in range(len(scores)) if i not in best]
    contextual = min(contextual, len(rest))
    step = max(1, len(rest) // contextual) if contextual else 1
    targets = [rest[step * i] for i in range(contextual)]
    places = best + targets
    held = {place: rank for rank, place in enumerate(places)}
    followers: dict[int, list[int]] = {target: [] for target in targets}
    gap = math.inf
    for i in rest:
        if i in targets or not targets:
            continue
        near = [cosine(keys[i], keys[target]) for target in targets]
        winner = near.index(max(near))
        gap = min([gap, *(max(near) - value for n, value in enumerate(near) if n != winner)])
        followers[targets[winner]].append(i)
        held[i] = dominant + winner
    tokens = [patches[i] for i in best]
    for target in targets:
        group = followers[target]
        mean = [sum(patches[i][c] for i in group) / max(1, len(group)) for c in range(len(patches[0]))]
        tokens.append([own + more for own, more in zip(patches[target], mean, strict=True)])
    shift = 0
    if cls is not None:
        tokens, places, shift = [cls, *tokens], [0, *places], 1
    return tokens, places, [held[i] + shift if i in held else -1 for i in range(len(scores))], gap
