"""Which tokens stay as they are: greedy selection, batched over images, one step a pick."""

from __future__ import annotations

import torch
from torch import Tensor

from .density import RESOLUTION, cosines

# Above every cosine, so that the smallest value is never one of these while another token is left.
_PADDING = 3.0
_PICKED = 4.0


@torch.no_grad()
def max_min_diversity(features: Tensor, keep: int, *, protected: Tensor | None = None) -> Tensor:
    """Pick tokens one by one, each the farthest from its nearest one among those picked before.

    The distance is 1 - cos; the first pick is the token whose nearest other token is farthest.

    Parameters
    ----------
    features
        (B, N, C), any floating dtype; distances are float32.
    keep
        Tokens to pick of each image, 1 to N.
    protected
        (B, N) bool, True for tokens that do not exist (padding): nobody's neighbours, and picked only where an
        image has fewer than `keep` others (the caller's contract).

    Returns
    -------
    Tensor
        (B, keep) int64, distinct, in the order of the picks. Equal distances go to the lower index. A zero vector,
        or one that is not finite, has distance 1 to every other. Distances below 1e-6, which float32 cannot tell
        from 0, are 0.

    Raises
    ------
    ValueError
        Shapes that do not fit, or `keep` outside 1..N.

    Notes
    -----
    DivPrune (arXiv 2503.02175), section 3: the greedy solution of the max-min diversity problem. The products of all
    pairs are computed once; a step then reads one row of them.
    """
    check_picks("features have", features, "(B, N, C)", keep, protected=protected)
    batch, length, _ = features.shape
    near = cosines(features).nan_to_num_(nan=0.0)
    near.masked_fill_(near > 1.0 - RESOLUTION, 1.0)
    if protected is not None:
        near.masked_fill_(protected.unsqueeze(1) | protected.unsqueeze(2), float("-inf"))
    near.diagonal(dim1=1, dim2=2).fill_(float("-inf"))
    # Along rows and columns, as rounding may tell (i, j) from (j, i): each other's nearest have to tie.
    closest = torch.maximum(near.amax(1), near.amax(2))
    near.diagonal(dim1=1, dim2=2).fill_(_PICKED)
    if protected is not None:
        closest.masked_fill_(protected, _PADDING)
        near.masked_fill_(protected.unsqueeze(1) & (near < _PICKED), _PADDING)
    table, places = near.view(-1, length), torch.arange(length, device=features.device)
    offset = torch.arange(0, batch * length, length, device=features.device)
    picks = [_nearest(closest, places)]
    closest = table.index_select(0, picks[0] + offset)
    for _ in range(keep - 1):
        picks.append(_nearest(closest, places))
        closest = torch.maximum(closest, table.index_select(0, picks[-1] + offset))
    return torch.stack(picks, dim=1)


def top(scores: Tensor, keep: int) -> Tensor:
    """Return the indices of the `keep` largest of the scores (B, N), int64 (B, keep), largest first.

    Equal scores go to the lower index, on every device.
    """
    return torch.sort(scores, dim=-1, descending=True, stable=True).indices[:, :keep]


def _nearest(values: Tensor, places: Tensor) -> Tensor:
    """Return the index of the first minimum of (B, N), int64 (B,)."""
    return first_true(values == values.amin(-1, keepdim=True), places)


def first_true(there: Tensor, places: Tensor) -> Tensor:
    """Return the index of the first True of bool (B, N), int64 (B,), on every device; `places` is 0 to N - 1."""
    return torch.where(there, places, len(places)).amin(-1)


def check_picks(name: str, value: Tensor, shape: str, keep: int, **scores: Tensor | None) -> None:
    """Raise ValueError where a selection is given a tensor that is not (B, N, ...), too many picks, or odd scores."""
    if value.dim() != 3:
        raise ValueError(f"{name} shape {tuple(value.shape)}: give {shape}")
    images = value.shape[:2]
    if not 1 <= keep <= images[1]:
        raise ValueError(f"keep={keep} is outside 1..{images[1]}, the tokens of an image: give a number of them")
    for score, given in scores.items():
        if given is not None and given.shape != images:
            raise ValueError(f"{score} has shape {tuple(given.shape)}: give {tuple(images)}, one value a token")
