"""How many tokens are merged at which layer: integers, exact sums, known from shapes alone.

Everything here is plain Python integers, so that the processor, the checks, the bench and a serving engine
all find the same counts without running a model.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
from decimal import Context, Decimal, InvalidOperation

from .errors import unknown

STRATEGIES = ("mean", "skip", "skip:0", "skip:1", "every:N", "first:N", "last:N", "increasing:A", "decreasing:A")
MAX_ALPHA = 1000
_DIGITS = 60  # decimal places kept of an irrational weight such as 2 ** 0.5


def check_keep(keep: int | float) -> int | float:
    """Return `keep` as a plain int (tokens per image) or float in (0, 1] (share of the tokens).

    Raises
    ------
    TypeError
        `keep` is no number.
    ValueError
        `keep` is a bool, NaN, below 1 as an int, or outside (0, 1] as a float.
    """
    wanted = "give tokens per image as an int or a share in (0, 1] as a float"
    if isinstance(keep, bool):
        raise ValueError(f"keep={keep} is a bool: {wanted}")
    try:
        tokens = operator.index(keep)  # type: ignore[arg-type]
    except TypeError:
        if isinstance(keep, (str, bytes)) or not hasattr(keep, "__float__"):
            raise TypeError(f"keep={keep!r} is no number: {wanted}") from None
        share = float(keep)
        if not 0.0 < share <= 1.0:
            raise ValueError(f"keep={share} is outside (0, 1]: {wanted}") from None
        return share
    if tokens < 1:
        raise ValueError(f"keep={tokens} is below 1: {wanted}, at least 1 token")
    return tokens


def count(keep: int | float, n: int) -> int:
    """Return how many of `n` tokens stay: ``max(1, floor(keep * n + 0.5))`` for a float, `keep` for an int.

    A float is multiplied in IEEE double precision, which is the same on every machine.

    Raises
    ------
    ValueError
        `keep` is not valid (`check_keep`), or an int above `n`.
    """
    n = operator.index(n)
    if n < 1:
        raise ValueError(f"there are {n} tokens to keep from: at least 1 is needed")
    keep = check_keep(keep)
    if isinstance(keep, float):
        return max(1, math.floor(keep * n + 0.5))
    if keep > n:
        raise ValueError(f"keep={keep} is above the {n} tokens of the image: keep at most {n}, or use a float share")
    return keep


def allocate(
    tokens: int,
    keep: int,
    layers: int,
    strategy: str | Sequence[int] = "skip",
    *,
    allowed: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """Return how many pairs each layer merges so that exactly `keep` of `tokens` tokens are left.

    A bipartite merge can remove at most half of a layer's tokens. Shares are given out from the last merging
    layer backwards, in proportion to the strategy's weights and capped there; what is left over goes to the
    merging layers from the first on, up to their caps, until everything is placed.

    Parameters
    ----------
    tokens, keep
        Tokens of one image before the first and after the last layer, CLS not counted.
    layers
        Effective layers: those that feed the features in use.
    strategy
        ``"mean"`` (all layers equally), ``"skip"`` = ``"skip:1"`` (layers 1, 3, 5, ... from 0), ``"skip:0"``
        (layers 0, 2, 4, ...), ``"every:N"`` (layers N - 1, 2N - 1, ...: fewer merges to launch, and ``"every:2"`` is
        skip), ``"first:N"``, ``"last:N"``, ``"increasing:A"`` (weights (l + 1)^A), ``"decreasing:A"`` (weights
        (layers - l)^A), or the counts themselves, one a layer.
    allowed
        The layers that may merge at all, all of them by default: the strategy's weights elsewhere count as 0.

    Returns
    -------
    tuple of int
        `layers` counts r_l with r_l <= T_l // 2 that sum to ``tokens - keep``.

    Raises
    ------
    ValueError
        Impossible counts (the message names the smallest reachable `keep`), or an unknown strategy.

    Notes
    -----
    EvoPrune (arXiv 2603.03681), Appendix A gives the strategies; its fixed share per layer cannot reach high
    ratios (729 -> 16 would merge 55 of the last 71 tokens), hence the caps.
    """
    tokens, keep, layers = (operator.index(value) for value in (tokens, keep, layers))
    if layers < 1:
        raise ValueError(f"layers={layers} leaves nowhere to merge: at least 1 layer is needed")
    if not 1 <= keep <= tokens:
        raise ValueError(
            f"keep={keep} is outside 1..{tokens}, the tokens of the image: the smallest reachable keep for schedule "
            f"{strategy!r} over {layers} layers is {smallest(tokens, layers, strategy)}"
        )
    if not isinstance(strategy, str):
        return _explicit(tokens, keep, layers, strategy, allowed)
    shares = weights(layers, strategy)
    if keep < tokens:
        shares = _allowed(shares, strategy, allowed)
    least = _halved(tokens, sum(w > 0 for w in shares))
    if keep < least:
        raise ValueError(
            f"keep={keep} of {tokens} tokens is out of reach for schedule {strategy!r} over "
            f"{layers} layers, each merge at most halves them: the smallest reachable keep is {least}"
        )
    merges = _backward(shares, keep, tokens - keep)
    return tuple(_fill(merges, shares, keep, tokens - keep - sum(merges)))


def smallest(tokens: int, layers: int, strategy: str | Sequence[int] = "skip") -> int:
    """Return the smallest `keep` within reach: tokens halved (rounding up) once per merging layer.

    An explicit sequence of counts reaches one number only: ``tokens - sum(counts)``.
    """
    if isinstance(strategy, str):
        return _halved(tokens, sum(w > 0 for w in weights(layers, strategy)))
    return tokens - sum(operator.index(value) for value in strategy)


def check_strategy(strategy: str) -> None:
    """Raise ValueError for a strategy that no number of layers makes valid."""
    name, _, text = strategy.strip().lower().partition(":")
    span = name in ("first", "last", "every") and re.fullmatch(r"[1-9]\d{0,5}", text, re.ASCII)
    weights(int(text) if span else 1, strategy)


def check_fit(strategy: str | Sequence[int], layers: int, allowed: Sequence[int] | None = None) -> None:
    """Raise ValueError for a schedule that cannot be for a model of `layers` layers, whatever the picture's size."""
    if isinstance(strategy, str):
        _allowed(weights(layers, strategy), strategy, allowed)
    else:
        merges = check_counts(strategy)
        _one_a_layer(merges, layers, allowed)


def check_counts(counts: Sequence[int]) -> tuple[int, ...]:
    """Return explicit counts as a tuple of ints; TypeError where they are no sequence of ints."""
    try:
        if isinstance(counts, Mapping | bytes):
            raise TypeError
        return tuple(operator.index(value) for value in counts)
    except TypeError:
        raise TypeError(
            f"schedule {counts!r} is neither a name nor a sequence of ints, one count of merges a layer"
        ) from None


def weights(layers: int, strategy: str) -> tuple[int, ...]:
    """Return the strategy's weights over the layers as integers; only their proportions matter.

    Raises
    ------
    ValueError
        Unknown strategy (with the nearest name), or a parameter outside its range.
    """
    name, colon, text = strategy.strip().lower().partition(":")
    index = range(layers)
    if name == "mean" and not colon:
        return (1,) * layers
    if name == "skip" and (not colon or text in ("0", "1")):
        odd = 0 if text == "0" else 1
        return tuple(int(i % 2 == odd) for i in index)
    if name in ("first", "last"):
        n = _span(strategy, text, layers)
        return tuple(int(i < n if name == "first" else i >= layers - n) for i in index)
    if name == "every":
        n = _span(strategy, text, layers)
        return tuple(int(i % n == n - 1) for i in index)
    if name in ("increasing", "decreasing"):
        alpha = _alpha(strategy, text)
        return tuple(_power(i + 1 if name == "increasing" else layers - i, alpha) for i in index)
    if name in ("mean", "skip"):
        raise ValueError(
            f"schedule {strategy!r} has a parameter that it does not take: write 'mean', 'skip:0' or 'skip:1'"
        )
    raise ValueError(unknown("schedule", strategy, STRATEGIES))


def _span(strategy: str, text: str, layers: int) -> int:
    if not re.fullmatch(r"\d+", text, re.ASCII) or not 1 <= int(text) <= layers:
        example = f"{strategy.partition(':')[0]}:{layers}"
        raise ValueError(f"schedule {strategy!r} needs layers in 1..{layers}: write {example!r} or less")
    return int(text)


def _alpha(strategy: str, text: str) -> Decimal:
    try:
        alpha = Decimal(text)
    except InvalidOperation:
        alpha = Decimal("NaN")
    if not alpha.is_finite() or not 0 <= alpha <= MAX_ALPHA:
        example = f"{strategy.partition(':')[0]}:1.0"
        raise ValueError(f"schedule {strategy!r} needs an exponent in 0..{MAX_ALPHA}: write {example!r}")
    return alpha


def _power(base: int, alpha: Decimal) -> int:
    # Decimal arithmetic is defined digit by digit, so that a non-integer exponent gives the same counts
    # everywhere.
    if alpha == alpha.to_integral_value():
        return base ** int(alpha)
    context = Context(prec=_DIGITS + 10 + math.ceil(float(alpha) * math.log10(base + 1)))
    return int(context.scaleb(context.power(Decimal(base), alpha), _DIGITS))


def _backward(shares: Sequence[int], keep: int, removed: int) -> list[int]:
    merges, left, after = [0] * len(shares), removed, keep
    below = sum(shares)  # sum of the weights of this layer and all before it
    for i in range(len(shares) - 1, -1, -1):
        if shares[i]:
            merges[i] = min(left * shares[i] // below, after)
            left, after, below = left - merges[i], after + merges[i], below - shares[i]
    return merges


def _fill(merges: list[int], shares: Sequence[int], keep: int, left: int) -> list[int]:
    # A layer's cap is the number of tokens that leave it; it grows when a later layer merges more.
    while left:
        for i, share in enumerate(shares):
            if share:
                extra = min(left, keep + sum(merges[i + 1 :]) - merges[i])
                merges[i], left = merges[i] + extra, left - extra
    return merges


def _allowed(shares: tuple[int, ...], strategy: str, allowed: Sequence[int] | None) -> tuple[int, ...]:
    if allowed is None:
        return shares
    left = tuple(share if i in allowed else 0 for i, share in enumerate(shares))
    if not any(left):
        raise ValueError(
            f"schedule {strategy!r} merges at none of the layers {list(allowed)} that may merge in this model: use "
            "'mean', or give the counts"
        )
    return left


def _one_a_layer(merges: Sequence[int], layers: int, allowed: Sequence[int] | None) -> None:
    if len(merges) != layers:
        raise ValueError(
            f"schedule {list(merges)} has {len(merges)} counts for {layers} layers: give one count a layer"
        )
    for i, merged in enumerate(merges):
        if merged and allowed is not None and i not in allowed:
            raise ValueError(
                f"schedule {list(merges)} merges at layer {i}, but only the layers {list(allowed)} may merge in this "
                "model: give 0 there"
            )


def _explicit(
    tokens: int, keep: int, layers: int, counts: Sequence[int], allowed: Sequence[int] | None = None
) -> tuple[int, ...]:
    merges = check_counts(counts)
    _one_a_layer(merges, layers, allowed)
    left = tokens
    for i, merged in enumerate(merges):
        if not 0 <= merged <= left // 2:
            raise ValueError(
                f"schedule {list(merges)} merges {merged} of {left} tokens at layer {i}: give 0..{left // 2}, "
                f"which makes {_halved(tokens, layers)} the smallest reachable keep"
            )
        left -= merged
    if left != keep:
        raise ValueError(
            f"schedule {list(merges)} leaves {left} of {tokens} tokens where keep={keep} is asked for: "
            f"let it sum to {tokens - keep} (its smallest reachable keep is {left})"
        )
    return merges


def _halved(tokens: int, times: int) -> int:
    for _ in range(times):
        tokens = (tokens + 1) // 2
    return tokens
