"""FastV: keep the tokens that the prompt's last token attends to in an early layer of the language model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..ops.selection import top
from .base import DecoderPruner
from .views import DecoderView


@dataclass(frozen=True)
class FastV(DecoderPruner):
    """The largest attention from the prompt's last token, mean over the heads (arXiv 2403.06764).

    Attributes
    ----------
    layer
        K: layers 0 to K - 1 see all tokens, and the attention of layer K - 1 decides which of them layer K sees.

    Notes
    -----
    The choice is made once, in the prefill, and the cache of layers K and above is short from then on; a variant of the
    official code chooses anew at every step. Each row of a batch, and each picture in it, is ranked by itself, where
    the official code ranks the first row for all.
    """

    name: ClassVar[str] = "fastv"
    source: ClassVar[str] = "FastV, arXiv 2403.06764"
    summary: ClassVar[str] = "keeps the tokens that the last one of the prompt attends to, from an early layer on"

    _: KW_ONLY
    layer: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        self._number("layer", 1, whole=True)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(["attention"])

    def leaves(self, tokens: int, layers: int) -> tuple[int, ...]:
        return behind(self.layer, tokens, self.tokens_after(tokens), layers)

    def select(self, view: DecoderView, keep: int) -> Tensor:
        if view.attention is None:
            raise ValueError("the decoder view has no attention: tap what `FastV.needs` asks for")
        return most_attended(view.attention, keep)


def behind(layer: int, tokens: int, kept: int, layers: int) -> tuple[int, ...]:
    """Return how many of `tokens` leave each of `layers` layers, where those of layer - 1 and above leave `kept`.

    Raises
    ------
    ValueError
        `layer` outside 1..layers - 1: no layer is left that sees fewer tokens, or none that decides.
    """
    if not 1 <= layer < layers:
        limit = f"is outside 1..{layers - 1}" if layers > 1 else "needs a layer in front of it and one behind"
        raise ValueError(
            f"layer={layer} {limit}, as the language model has {layers} layers: give the first of them that shall see "
            "fewer tokens"
        )
    return (tokens,) * (layer - 1) + (kept,) * (layers - layer + 1)


def most_attended(attention: Tensor, keep: int) -> Tensor:
    """Return the `keep` largest of the attention (G, n), int64 (G, keep), ascending; the lower index wins ties."""
    return top(attention, keep).sort(dim=1).values


def conformance(inputs: Mapping[str, Tensor], hyper_parameters: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what the official code leaves of a whole sequence, by the attention of the batch's first row alone.

    Without a count ``attention_rank`` it takes the share ``fastv_r`` of the tokens out, rounded half to even.
    """
    attention, hidden = inputs["attn"], inputs["hidden"]
    start, tokens = int(hyper_parameters["sys_length"]), int(hyper_parameters["image_token_length"])
    keep = hyper_parameters.get("attention_rank")
    if keep is None and hyper_parameters.get("fastv_r") is not None:
        keep = round(tokens * (1 - hyper_parameters["fastv_r"]))
    elif keep is None:
        keep = hyper_parameters["keep"]
    kept = most_attended(attention[:1, :, -1, start : start + tokens].mean(1), int(keep))[0]
    places = torch.arange(hidden.shape[1], device=kept.device)
    stays = torch.cat((places[:start], kept + start, places[start + tokens :]))
    return {
        "kept_image": kept,
        "keep_indices": stays,
        "hidden_kept": hidden[:, stays],
        "position_ids": stays[None],
        "token_mask": torch.zeros(hidden.shape[:2], dtype=torch.bool, device=kept.device).index_fill(1, stays, True),
    }
