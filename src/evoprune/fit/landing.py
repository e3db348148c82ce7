"""From the mean counts of the fit to whole tokens that take away what was asked for, and hardly more."""

from __future__ import annotations

from collections.abc import Sequence

from ..recipes import visual_flops

_LEAST = 1e-3  # of the largest mean: so that layers which drop nothing join in only where the others do not suffice


def land(tokens: int, left: Sequence[float], reduce: float, width: int, mlp: int) -> tuple[int, ...]:
    """Return whole counts near `left` that take away at least `reduce` of the FLOPs, and as little more as they can.

    What has gone by each layer is scaled by one factor, the smallest that meets the budget after rounding; then single
    tokens are given back, the last layer first, as long as it is still met. The official code rounds the mean number
    that goes at each layer down, and misses the budget by it.

    Parameters
    ----------
    tokens
        Visual tokens N.
    left
        Mean counts that leave each layer, in 0..N, never rising.

    Raises
    ------
    ValueError
        Not even one token behind every layer takes away so much.
    """
    check_reachable(tokens, len(left), reduce, width, mlp)
    gone = [tokens - count for count in left]
    gone = [max(one, _LEAST * max(*gone, 1.0)) for one in gone]
    low, high = 0.0, tokens / min(gone)  # where every layer leaves one token
    for _ in range(60):
        middle = (low + high) / 2
        if _removed(tokens, _scaled(tokens, gone, middle), width, mlp) >= reduce:
            high = middle
        else:
            low = middle
    return _given_back(tokens, list(_scaled(tokens, gone, high)), reduce, width, mlp)


def check_reachable(tokens: int, layers: int, reduce: float, width: int, mlp: int) -> None:
    """Raise ValueError where not even one token behind every layer takes away `reduce` of the FLOPs."""
    most = _removed(tokens, (1,) * layers, width, mlp)
    if most < reduce:
        raise ValueError(
            f"reduce={reduce} cannot be met: every visual token passes the attention of the first layer, so that at "
            f"most {most:.4f} of their FLOPs can go in {layers} layers; ask for less"
        )


def _scaled(tokens: int, gone: Sequence[float], factor: float) -> tuple[int, ...]:
    return tuple(max(1, int(tokens - factor * one + 0.5)) if factor * one < tokens else 1 for one in gone)


def _given_back(tokens: int, left: list[int], reduce: float, width: int, mlp: int) -> tuple[int, ...]:
    changed = True
    while changed:
        changed = False
        for layer in reversed(range(len(left))):
            if left[layer] < (left[layer - 1] if layer else tokens):
                left[layer] += 1
                if _removed(tokens, left, width, mlp) >= reduce:
                    changed = True
                else:
                    left[layer] -= 1
    return tuple(left)


def _removed(tokens: int, left: Sequence[int], width: int, mlp: int) -> float:
    full = visual_flops(tokens, (tokens,) * len(left), width, mlp)
    return 1.0 - visual_flops(tokens, left, width, mlp) / full
