"""Gemma 3: SigLIP tower, 4 x 4 average pooling in the projector, 256 tokens for each picture or crop of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from .base import BlockSpec, Family, Grid, Modality, Segment
from .features import install_leaving, wants_projected
from .state import TowerState


class Gemma3(Family):
    """`Gemma3ForConditionalGeneration`; pruned pictures go from patches straight to `keep`, without the pooling.

    A crop that the processor makes with `do_pan_and_scan` is a picture of its own.
    """

    name = "Gemma 3"
    model_types = ("gemma3",)
    examples = ("google/gemma-3-4b-it", "google/gemma-3-12b-it", "google/gemma-3-27b-it")
    towers = "SigLIP so400m, 896 px"
    block = BlockSpec(attn="self_attn", norm2="layer_norm2", mlp="mlp")
    picks_itself = True

    @property
    def side(self) -> int:
        return int(self.base.vision_tower.config.image_size) // self.patch_size

    def native(self, grid: Grid, modality: Modality = "image") -> int:
        return int(self.base.config.mm_tokens_per_image)

    def offsets(self, segment: Segment, survivors: Sequence[Tensor]) -> Tensor:
        """Return the pooled cell that each surviving patch lies in: several may share one, and its position."""
        (places,) = survivors
        rows, columns = self._known(None)
        cells = math.isqrt(segment.count.full)
        return (places // columns * cells // rows) * cells + places % columns * cells // columns

    def install(self, state: TowerState, stack: ExitStack) -> None:
        """Let what is left of a picture pass by the average pooling, whose grid it does not fill."""
        install_leaving(state, stack)
        pool, patches = self.base.multi_modal_projector.avg_pool, self.units(self._known(None))
        waiting: list[Tensor] = []

        def before_projector(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            waiting.clear()
            hidden = args[0]
            if hidden.shape[1] == patches and not (state.run.pruned and wants_projected(state)):
                return None
            waiting.append(hidden)
            # Only for the projector's own reshape: the pooling below returns what waits.
            return (hidden.new_zeros(()).expand(hidden.shape[0], patches, hidden.shape[2]), *args[1:])

        def after_pool(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            return waiting.pop().transpose(1, 2)[..., None] if waiting else None

        stack.callback(self.projector.register_forward_pre_hook(before_projector).remove)
        stack.callback(pool.register_forward_hook(after_pool).remove)
