"""DART: keep a few pivots, and the tokens that duplicate them least."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..ops.density import unit
from ..ops.indexing import rows
from ..ops.selection import top
from .base import DecoderPruner
from .fastv import behind
from .views import DecoderView


@dataclass(frozen=True)
class DART(DecoderPruner):
    """Tokens unlike a few pivots of the picture and of the text, in an early layer (arXiv 2502.11494).

    Attributes
    ----------
    layer
        K: layers 0 to K - 1 see all tokens; keys and states of layer K - 1 decide which of them layer K sees.
    image_pivots, text_pivots
        How many tokens of the picture, which stay, and of the text behind it, which only steer, are pivots.
    counts
        ``"exact"`` keeps exactly `keep` tokens. ``"official"`` takes keep // pivots tokens for each pivot and the
        picture's own pivots on top: 68 for keep=64 with 4 + 4 pivots, but never more than there are.

    Notes
    -----
    Pivots are visited by rank, those of the picture first; the official order is that of a hash table (`conformance`).
    Where a picture has less text behind it than `text_pivots`, the pivots that there are take the tokens between them.
    """

    name: ClassVar[str] = "dart"
    source: ClassVar[str] = "DART, arXiv 2502.11494"
    summary: ClassVar[str] = "keeps the tokens least like a few pivots of picture and text, from an early layer on"

    _: KW_ONLY
    layer: int = 2
    image_pivots: int = 4
    text_pivots: int = 4
    counts: Literal["exact", "official"] = "exact"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._number("layer", 1, whole=True)
        self._number("image_pivots", 1, whole=True)
        self._number("text_pivots", 0, whole=True)
        self._choice("counts", ("exact", "official"))

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(["hidden", "keys"])

    @property
    def minimum(self) -> int:
        return self.image_pivots

    def tokens_after(self, n: int) -> int:
        kept = self.count(n)
        if self.counts == "official":
            kept = min(n, official(kept, self.image_pivots, self.text_pivots))
        return kept

    def leaves(self, tokens: int, layers: int) -> tuple[int, ...]:
        return behind(self.layer, tokens, self.tokens_after(tokens), layers)

    def select(self, view: DecoderView, keep: int) -> Tensor:
        if view.hidden is None or view.keys is None:
            raise ValueError("the decoder view has no hidden states or no keys: tap what `DART.needs` asks for")
        own, steering = chosen_pivots(view, min(self.image_pivots, keep), self.text_pivots)
        return least_duplicated(view, own, steering, keep)


def official(keep: int, image_pivots: int, text_pivots: int) -> int:
    """Return how many tokens the official code keeps where it is asked for `keep`."""
    together = image_pivots + text_pivots
    return image_pivots + together * (keep // together)


@torch.no_grad()
def chosen_pivots(view: DecoderView, image_pivots: int, text_pivots: int) -> tuple[Tensor, Tensor]:
    """Return the tokens whose keys have the largest L1 norms, by rank, of each block and of the text behind it.

    int64 (G, image_pivots) and (G, text_pivots or what there is at most); text that a block does not have comes last.
    """
    keys = view.keys
    if keys is None:
        raise ValueError("the decoder view has no keys: tap what `DART.needs` asks for")
    own = top(_norms(keys), image_pivots)
    if view.text_keys is None:
        return own, own[:, :0]
    norms = _norms(view.text_keys)
    return own, top(norms if view.text_mask is None else norms.masked_fill(~view.text_mask, -1.0), text_pivots)


@torch.no_grad()
def least_duplicated(
    view: DecoderView, image_pivots: Tensor, text_pivots: Tensor, keep: int, order: Sequence[int] | None = None
) -> Tensor:
    """Return int64 (G, keep), ascending: each block's own pivots, and the tokens least like a pivot.

    The pivots are visited one after the other; each takes those of the tokens left with the lowest cosine to it. They
    take equally many, and where that does not come out, the first ones visited one more.

    Parameters
    ----------
    view
        `hidden` and `text_hidden`, any floating dtype; cosines are float32.
    image_pivots, text_pivots
        int64 (G, P) and (G, Q): what `chosen_pivots` returns. Those of text that is not there take nothing.
    keep
        P to n.
    order
        The pivots in the order of the visits, a permutation of their numbers 0..P + Q - 1: those of the image, then
        those of the text. Ascending by default.

    Raises
    ------
    ValueError
        No hidden states, `keep` outside its limits, or an `order` of other numbers.

    Notes
    -----
    DART (arXiv 2502.11494). Lower indices win ties. A vector of zeros, or one that is not finite, has cosine 0.
    """
    if view.hidden is None:
        raise ValueError("the decoder view has no hidden states: tap what `DART.needs` asks for")
    tokens, own = view.hidden.shape[1], image_pivots.shape[1]
    if not own <= keep <= tokens:
        raise ValueError(f"keep={keep} is outside {own}..{tokens}, the pivots and tokens of a block: give one of these")
    visits = list(range(own + text_pivots.shape[1])) if order is None else list(order)
    if sorted(visits) != list(range(own + text_pivots.shape[1])):
        raise ValueError(f"order={visits} is no order of {own + text_pivots.shape[1]} pivots: name each from 0 on once")
    near, there = rows(view.hidden, image_pivots), torch.ones_like(image_pivots, dtype=torch.bool)
    if view.text_hidden is not None and text_pivots.shape[1]:
        near = torch.cat((near, rows(view.text_hidden, text_pivots)), dim=1)
        mask = torch.ones_like(view.text_hidden[..., 0], dtype=torch.bool) if view.text_mask is None else view.text_mask
        there = torch.cat((there, mask.gather(1, text_pivots)), dim=1)
    quotas = _quotas(there if order is None else there[:, visits], keep - own)
    cosine = _cosines(near, view.hidden)
    taken = torch.zeros_like(cosine[:, 0], dtype=torch.bool).scatter(1, image_pivots, True)
    places = torch.arange(tokens, device=taken.device)
    for visit, pivot in enumerate(visits):
        ranked = cosine[:, pivot].masked_fill(taken, math.inf).sort(dim=1, stable=True).indices
        taken = taken.scatter(1, ranked, taken.gather(1, ranked) | (places < quotas[:, visit : visit + 1]))
    return top(taken.to(torch.int8), keep)


def _quotas(there: Tensor, picks: int) -> Tensor:
    """Return int64 (G, P), how many of `picks` each pivot takes, of those that are there, bool (G, P)."""
    count = there.sum(dim=1, keepdim=True)
    place = there.cumsum(dim=1) - 1
    return (picks // count + (place < picks % count)) * there


def _norms(keys: Tensor) -> Tensor:
    return torch.linalg.vector_norm(keys.float(), ord=1, dim=-1).nan_to_num()


def _cosines(some: Tensor, tokens: Tensor) -> Tensor:
    """Return the cosines (G, P, n) float32 of (G, P, C) and (G, n, C)."""
    values = tokens.float()
    norm = torch.linalg.vector_norm(values, dim=-1)
    with torch.autocast(tokens.device.type, enabled=False):
        products = torch.bmm(unit(some), values.transpose(1, 2))
    return (products / torch.where(norm > 0, norm, 1.0).unsqueeze(1)).nan_to_num_(0.0, 0.0, 0.0)


def conformance(inputs: Mapping[str, Tensor], hyper_parameters: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what the official functions return for one sequence, with `official` counts.

    The pivots are visited in the order of ``pivot_order`` where it is given, or else in the official one.
    """
    start, tokens = int(hyper_parameters["image_token_start_index"]), int(hyper_parameters["image_tokens"])
    own, steering = int(hyper_parameters["pivot_image_token"]), int(hyper_parameters["pivot_text_token"])
    hidden, keys, behind_it = inputs["hidden"], inputs["keys"].transpose(1, 2).flatten(2), start + tokens
    view = DecoderView(
        hidden=hidden[:, start:behind_it], keys=keys[:, start:behind_it],
        text_hidden=hidden[:, behind_it:], text_keys=keys[:, behind_it:],
    )  # fmt: skip
    image, text = chosen_pivots(view, own, steering)
    places = torch.cat((image + start, text + behind_it), dim=1)[0].tolist()
    # The official order is that in which a Python set of these numbers is read.
    given = inputs.get("pivot_order", hyper_parameters.get("pivot_order"))
    order = list(set(places)) if given is None else [int(place) for place in given]
    picks = hyper_parameters.get("per_pivot")
    if picks is None:
        keep = official(_asked(hyper_parameters, tokens, own), own, steering)
    else:
        keep = own + (own + steering) * int(picks)
    keep = min(tokens, keep)
    (kept,) = least_duplicated(view, image, text, keep, [places.index(place) for place in order])
    return {
        "image_pivots": image[0] + start,
        "text_pivots": text[0] + behind_it,
        "pivot_order": torch.tensor(order),
        "retained": kept.sort().values + start,
    }


def _asked(hyper_parameters: Mapping[str, Any], tokens: int, image_pivots: int) -> int:
    """Return the count that a variant of the official code starts from."""
    if hyper_parameters.get("reduction_ratio") is not None:
        return int(tokens * (1 - hyper_parameters["reduction_ratio"]))
    budget = int(hyper_parameters["budget"])
    return min(budget, tokens - image_pivots) if hyper_parameters.get("variant") == "llava_next" else budget
