"""ToMe: merge the most similar tokens in every layer of the encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from .. import flops, ops
from ..ops import Matching
from ..ops.indexing import rows
from ..ops.merging import ORDERS, Order
from .base import EncoderPruner
from .views import LayerView


@dataclass(frozen=True)
class ToMe(EncoderPruner):
    """Token merging (arXiv 2210.09461): bipartite soft matching of attention keys, means weighted by size.

    Attributes
    ----------
    schedule
        All layers merge equally many by default; ``"decreasing:1.0"`` is close to the paper's linear schedule, and
        `rates` gives the official counts.
    order
        ``"raster"`` lets the language model see what is left in the order of the picture; ``"tome"`` is the official
        order, group a's survivors before group b.
    proportional_attention
        Add log(size) to the key logits of later layers.

    Notes
    -----
    Keys are taken as the attention takes them, rotated where the tower rotates. CLS stands outside: the first patch is
    the first of group a, where the official code counts CLS in, which swaps the groups. Under ``order="tome"`` the
    survivors of group a ascend, as in the official code for towers with CLS; without CLS it has them by score.
    """

    name: ClassVar[str] = "tome"
    source: ClassVar[str] = "ToMe, arXiv 2210.09461"
    summary: ClassVar[str] = "merges the tokens with the most similar keys in every layer of the encoder"

    _: KW_ONLY
    schedule: str | tuple[int, ...] = "mean"
    order: Order = "raster"  # type: ignore[assignment]
    proportional_attention: bool = True  # type: ignore[assignment]

    def __post_init__(self) -> None:
        super().__post_init__()
        self._choice("order", ORDERS)
        if not isinstance(self.proportional_attention, bool):
            raise ValueError(
                f"proportional_attention={self.proportional_attention!r} is neither True nor False: give one of them"
            )

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(["keys"])

    def selection_flops(
        self, tokens: int, merges: Sequence[int], width: int, prefix: int, unit: int = 1, head: int | None = None
    ) -> int:
        return flops.selection(tokens, merges, head or width, unit=unit, importance=False, diversity=False)

    def match(self, view: LayerView, merges: int) -> Matching:
        if view.keys is None:
            raise ValueError("the layer view has no keys: tap what `ToMe.needs` asks for")
        return soft_matching(view.keys, merges, protected=view.protected)


def soft_matching(keys: Tensor, merges: int, *, fixed: Sequence[int] = (), protected: Tensor | None = None) -> Matching:
    """Return the `merges` pairs of largest cosine, each token of an even place with its best of an odd place.

    Parameters
    ----------
    keys
        (B, T, D), the mean over the heads.
    fixed
        Places that never merge but count in the alternation (CLS at 0, a distillation token at 1), known from shapes.
    protected
        (B, T) bool, True for padding, which does not count in it. Not together with `fixed`.
    """
    if not fixed:
        return ops.match(keys, None, merges, diversity=0.0, partition="index", protected=protected)
    # The set S of `ops.match` is what must not merge: here the `fixed` places, and no more.
    rank = torch.zeros(keys.shape[:2], device=keys.device)
    rank[:, list(fixed)] = 1.0
    share = len(fixed) / keys.shape[1]
    return ops.match(keys, rank, merges, critical_ratio=share, diversity=0.0, partition="index")


def rates(layers: int, merges: int, inflection: float = 0.0) -> tuple[int, ...]:
    """Return the official schedule as counts, one a layer, for `ToMe.schedule`.

    Parameters
    ----------
    layers, merges
        How many layers there are, and how many pairs each merges on average.
    inflection
        -1 falls in a straight line from twice `merges` to 0, 1 rises, 0 stays.

    Notes
    -----
    The counts are what the official code asks for; it merges fewer where a layer has not enough tokens.
    """
    first = int(merges * (1 - inflection))
    slope = (2 * merges - 2 * first) / max(layers - 1, 1)
    return tuple(int(first + slope * layer) for layer in range(layers))


class _Step(NamedTuple):
    """One official merge: pairs, where the official code puts each survivor, and values and sizes in that order."""

    matching: Matching
    place: Tensor  # (B, T - r): the official rows as indices of the ascending ones
    tokens: Tensor
    sizes: Tensor


def conformance(inputs: Mapping[str, Tensor], hyper_parameters: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what the official functions return: of one merge, of a chain of merges, or of proportional attention."""
    if "attn_x" in inputs:
        return _attention(inputs, int(hyper_parameters["num_heads"]))
    fixed = [place for place, name in enumerate(("class_token", "distill_token")) if hyper_parameters.get(name)]
    x = inputs["x"]
    sizes = inputs["size_in"][..., 0] if "size_in" in inputs else x.new_ones(x.shape[:2])
    sources = ops.initial_sources(x.shape[0], x.shape[1], x.device)
    if "r_per_step" in hyper_parameters:
        for number, merges in enumerate(hyper_parameters["r_per_step"]):
            step = _step(x @ inputs[f"w{number}"], x, sizes, int(merges), fixed)
            x, sizes, sources = step.tokens, step.sizes, _sources(sources, step)
        return {"x_out": x, "size_out": sizes[..., None], "source_out": _one_hot(sources, x)}
    step = _step(inputs["metric"], x, sizes, int(hyper_parameters["r_requested"]), fixed)
    sources = _sources(sources, step)
    found = {"x_out": step.tokens, "size_out": step.sizes[..., None], "source_out": _one_hot(sources, step.tokens)}
    if step.matching.source.shape[1]:
        plain, _ = ops.merge(x, sizes, step.matching, weights="equal")
        standing = step.matching.kept.gather(1, step.place)
        found["src_idx"], found["dst_idx"] = step.matching.source // 2, step.matching.target // 2
        found["unm_idx"] = standing[standing % 2 == 0].view(len(x), -1) // 2
        found["merged_mean"], found["unmerged"] = rows(plain, step.place), rows(step.tokens, sources)
    return found


def _step(keys: Tensor, x: Tensor, sizes: Tensor, merges: int, fixed: Sequence[int]) -> _Step:
    length = x.shape[1]
    most = max(0, (length - len(fixed)) // 2)
    merges = min(max(0, merges), most)
    found = soft_matching(keys, merges, fixed=fixed)
    merged, total = ops.merge(x, sizes, found)
    place = torch.arange(length - merges, device=x.device).expand(len(x), -1)
    if merges:
        first = found.kept[found.kept % 2 == 0].view(len(x), -1)
        second = torch.arange(1, length, 2, device=x.device).expand(len(x), -1)
        if 0 not in fixed:  # by score: what would have merged next stands first, what never could last
            ranked = soft_matching(keys, most, fixed=fixed)
            rest = ranked.kept[ranked.kept % 2 == 0].view(len(x), -1)
            first = torch.cat((ranked.source[:, merges:], rest), dim=1)
        parts = [first[:, :1], second[:, :1], first[:, 1:], second[:, 1:]] if 1 in fixed else [first, second]
        place = torch.searchsorted(found.kept.contiguous(), torch.cat(parts, dim=1))
    return _Step(found, place, rows(merged, place), total.gather(1, place))


def _sources(sources: Tensor, step: _Step) -> Tensor:
    return step.place.argsort(dim=1).gather(1, ops.update_sources(sources, step.matching))


def _one_hot(sources: Tensor, tokens: Tensor) -> Tensor:
    survivors = torch.arange(tokens.shape[1], device=sources.device)
    return (sources[:, None] == survivors[:, None]).to(tokens.dtype)


def _attention(inputs: Mapping[str, Tensor], heads: int) -> dict[str, Tensor]:
    x = inputs["attn_x"]
    projected = nn.functional.linear(x, inputs["qkv_w"], inputs.get("qkv_b"))
    query, key, value = projected.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    output, _ = ops.attend(query, key, value, key.shape[-1] ** -0.5, key_bias=inputs["attn_size"][..., 0].log())
    joined = output.transpose(1, 2).flatten(2)
    return {
        "attn_out": nn.functional.linear(joined, inputs["proj_w"], inputs.get("proj_b")),
        "attn_metric": key.mean(dim=1),
    }
