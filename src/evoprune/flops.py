"""The shape model of cost: floating-point operations from shapes alone, two per multiply-add.

Only matrix products are counted (as torch's FlopCounterMode does): normalisations, activations, softmax and
biases are left out. A layer that merges runs attention on the tokens that enter it and the MLP on those that
leave it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def layer(tokens_in: int, tokens_out: int, width: int, mlp: int, prefix: int = 0) -> int:
    """Return the FLOPs of one encoder layer on one image: ``8TC^2 + 4T^2C`` before the merge, ``4TCM`` after.

    Parameters
    ----------
    tokens_in, tokens_out
        Patch tokens that enter the layer and that leave it.
    width, mlp
        Hidden size C and MLP size M.
    prefix
        Tokens that are never merged (CLS, registers); they are added to both counts.
    """
    before, after = tokens_in + prefix, tokens_out + prefix
    return 8 * before * width**2 + 4 * before**2 * width + 4 * after * width * mlp


def tower(tokens: int, merges: Sequence[int], width: int, mlp: int, prefix: int = 0) -> int:
    """Return the FLOPs of ``len(merges)`` encoder layers on one image, the l-th of which merges ``merges[l]``
    pairs.

    The selection (`selection`), the patch embedding and the projector are not in it.
    """
    total = 0
    for merged in merges:
        total += layer(tokens, tokens - merged, width, mlp, prefix)
        tokens -= merged
    return total


def selection(
    tokens: int,
    merges: Sequence[int],
    width: int,
    *,
    prefix: int = 0,
    unit: int = 1,
    importance: bool = True,
    diversity: bool = True,
    compared: int | None = None,
) -> int:
    """Return the FLOPs that choosing the pairs adds to `tower`, over all layers that merge.

    Parameters
    ----------
    tokens, merges
        In units of `unit` patches, which are compared as wholes; attention is received by patches.
    importance
        The layer's attention logits are computed once more to find what each token receives: ``2T^2C``. On a CPU with
        sdpa they are shared with the attention (`ops.attend`), and this part is not spent.
    diversity
        Similarities of all tokens, ``2T^2C``; without, only those between the two groups, a quarter of it.
    compared
        Width of what is compared, C by default; keys averaged over the heads have that of one head.
    """
    total = 0
    for merged in merges:
        if merged:
            everyone = tokens * unit + prefix
            total += 2 * everyone**2 * width if importance else 0
            total += 2 * (compared or width) * (tokens**2 if diversity else ((tokens + 1) // 2) * (tokens // 2))
        tokens -= merged
    return total


def linear(tokens: int, *widths: int) -> int:
    """Return the FLOPs of a chain of linear layers, ``widths[0] -> widths[1] -> ...``, on `tokens` tokens.

    Covers per-token projectors (``linear(576, 1024, 4096, 4096)``) and patch embeddings
    (``linear(576, 3 * 14 * 14, 1024)``, a convolution whose stride is its kernel).
    """
    return sum(2 * tokens * a * b for a, b in pairwise(widths))
