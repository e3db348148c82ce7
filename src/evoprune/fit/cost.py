"""What a fit costs, from the shapes of a model alone: FLOPs and memory, without its weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from ..models import find, unwrap
from ..recipes import identify

PASSES = {True: 7, False: 10}  # tolerances that the search visits for one share, official and ours: at most
_CHUNK = 3 * (1 << 26) * 4  # bytes: float32 logits that `ops.attention_sums` holds at a time on a GPU, and two copies


@dataclass(frozen=True)
class Cost:
    """FLOPs (two per multiply-add) and bytes of a fit.

    Attributes
    ----------
    samples, tokens, text
        Prompts, and the visual and other tokens of each.
    passes
        Tolerances that are tried, at most.
    tower
        Of all prompts once through the vision tower; None where the size of its pictures varies.
    recording
        Of all prompts once through the language model's layers, with the sums of attention.
    searching
        Of all tolerances, as if nothing were dropped: an upper bound.
    weights
        Bytes of the weights.
    prompts
        Bytes of the recorded prompts, which may wait on the CPU.
    sums
        Bytes that the sums of attention need beside the layer itself, at most; on a GPU.
    """

    samples: int
    tokens: int
    text: int
    passes: int
    tower: int | None
    recording: int
    searching: int
    weights: int
    prompts: int
    sums: int

    @property
    def flops(self) -> int:
        """FLOPs in all."""
        return (self.tower or 0) + self.recording + self.searching

    def to_dict(self) -> dict[str, Any]:
        """Return every number, and the FLOPs in all."""
        return {**asdict(self), "flops": self.flops}


def estimate(
    model: nn.Module, *, tokens: int, text: int = 40, samples: int = 32, official: bool = False, shares: int = 1,
    size: int = 2,
) -> Cost:  # fmt: skip
    """Return the cost of a fit; `model` may lie on the meta device, without weights.

    Parameters
    ----------
    tokens, text
        Visual and other tokens of a prompt.
    shares
        Reductions that are asked for.
    size
        Bytes of a number.
    """
    inner = unwrap(model)
    family = find(inner)
    facts, config = identify(inner.config), inner.config.get_text_config()
    width, heads = facts.hidden_size, int(config.num_attention_heads)
    keys = int(getattr(config, "num_key_value_heads", None) or heads)
    head = int(getattr(config, "head_dim", None) or width // heads)
    length = tokens + text
    products = 2 * length * (2 * width * heads * head + 2 * width * keys * head + 3 * width * facts.intermediate_size)
    attention, sums = 4 * length**2 * heads * head, 2 * length**2 * heads * head
    once = facts.layers * (products + attention + sums)
    tower = None
    if family.grid is not None:
        pictures = max(1, round(tokens / family.native(family.grid)))
        tower = samples * pictures * family.tower_flops(family.grid, [0] * len(family.blocks))
    passes = PASSES[official] * shares
    rotary = 2 * length * head * 4  # float32 cosines and sines; all layers share them
    logits = 3 * heads * length**2 * 4
    return Cost(
        samples, tokens, text, passes, tower, samples * once, passes * samples * once,
        sum(one.numel() for one in inner.parameters()) * size, samples * (length * width * size + rotary),
        min(_CHUNK, logits) + heads * length * head * 4,
    )  # fmt: skip
