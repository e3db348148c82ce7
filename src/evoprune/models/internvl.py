"""InternVL (the transformers port): CLS, LayerScale, and a pixel shuffle that joins 2 x 2 patches into one token."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from .base import BlockSpec, Family, Grid, UnsupportedModel
from .features import leave
from .state import Run, TowerState


def _scaled(block: nn.Module, hidden: Tensor, update: Tensor) -> Tensor:
    layer: Any = block
    update = layer.dropout(update)
    return (update if layer.lambda_2 is None else layer.lambda_2 * update) + hidden


class InternVL(Family):
    """`InternVLForConditionalGeneration`; tiles of a picture and frames of a video are items alike.

    The processor writes the same placeholder for both, and hands the pixels over as one `pixel_values`.
    """

    name = "InternVL"
    model_types = ("internvl",)
    examples = ("OpenGVLab/InternVL3-1B-hf", "OpenGVLab/InternVL3-8B-hf", "OpenGVLab/InternVL3_5-8B-HF")
    towers = "InternViT, 448 px tiles"
    frames_as_images = True
    block = BlockSpec(attn="attention", norm2="layernorm_after", mlp="mlp", combine=_scaled)
    picks_itself = True

    def __init__(self, model: nn.Module, **options: str):
        super().__init__(model, **options)
        config = self.base.config
        if config.vision_feature_select_strategy != "default":
            raise UnsupportedModel(
                f"vision_feature_select_strategy={config.vision_feature_select_strategy!r} leaves CLS among the "
                "patches, which fill no square then: set it to 'default'"
            )
        rows, columns = self.grid
        if rows != columns or rows % self.unit_side or not isinstance(config.vision_feature_layer, int):
            raise UnsupportedModel(
                f"a tower of {rows} x {columns} patches, downsample_ratio={config.downsample_ratio} and "
                f"vision_feature_layer={config.vision_feature_layer} do not fit: give a square that the ratio divides, "
                "and one layer"
            )
        self._choice = self._selection({})

    @property
    def prefix(self) -> int:
        return 1

    @property
    def feature_layers(self) -> tuple[int, ...]:
        return (self.base.config.vision_feature_layer % (len(self.blocks) + 1),)

    @property
    def grid(self) -> Grid:
        rows, columns = _pair(self.base.vision_tower.config.image_size)
        return rows // self.patch_size, columns // self.patch_size

    @property
    def patch_size(self) -> int:
        return _pair(self.base.vision_tower.config.patch_size)[0]

    @property
    def unit_side(self) -> int:
        return int(1 / self.base.config.downsample_ratio)

    def resize(self, arguments: Mapping[str, Any], grid: Grid) -> dict[str, Any]:
        """Return the arguments with smaller pictures: the tower interpolates its position embeddings by itself."""
        changed = super().resize(arguments, grid)
        del changed["interpolate_pos_encoding"]
        return changed

    def install(self, state: TowerState, stack: ExitStack) -> None:
        """Lead what is left of a tile around the reshape to a square and the pixel shuffle, to the projector."""
        layer, width = self.base.config.vision_feature_layer, self.unit_side**2 * self.width
        patches = self.units(self.grid) * self.unit_side**2

        def after_tower(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            run = state.run
            if not run.pruned or run.stash is not None or isinstance(output, tuple):
                return
            hidden = leave(state, output.last_hidden_state if layer == -1 else output.hidden_states[layer])
            run.stash = hidden if state.encoding else False
            if state.encoding:  # as many zeros as the square has patches; the projector gets what is stashed
                hidden = hidden.new_zeros(()).expand(hidden.shape[0], 1 + patches, hidden.shape[2])
            _put(output, layer, hidden)

        def before_projector(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
            kept = _stashed(state.runs.get(state.modality, [])) if state.encoding else []
            return (torch.cat(kept)[:, 1:].reshape(sum(map(len, kept)), -1, width), *args[1:]) if kept else None

        stack.callback(self.tower.register_forward_hook(after_tower).remove)
        stack.callback(self.projector.register_forward_pre_hook(before_projector).remove)

    def finish(self, output: Any, modality: Any, state: TowerState) -> None:
        """Give the caller the tower's own hidden states again, in place of the zeros."""
        runs = state.runs.get(modality, [])
        kept = _stashed(runs)
        if kept and not isinstance(output, tuple):
            _put(output, self.base.config.vision_feature_layer, torch.cat(kept))
        for run in runs:
            run.stash = None

    def check_call(self, arguments: Mapping[str, Any]) -> None:
        if self._selection(arguments) != self._choice:
            raise ValueError(
                f"vision_feature_layer and vision_feature_select_strategy are {self._selection(arguments)} in this "
                f"call but were {self._choice} when the pruner was applied: set them in model.config, then apply again"
            )

    def _selection(self, arguments: Mapping[str, Any]) -> tuple[Any, ...]:
        names = ("vision_feature_layer", "vision_feature_select_strategy")
        return tuple(
            getattr(self.base.config, name) if arguments.get(name) is None else arguments[name] for name in names
        )


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _put(output: Any, layer: int, hidden: Tensor) -> None:
    if layer == -1:
        output.last_hidden_state = hidden
    else:
        states = list(output.hidden_states)
        states[layer] = hidden
        output.hidden_states = tuple(states)


def _stashed(runs: list[Run]) -> list[Tensor]:
    return [run.stash for run in runs if isinstance(run.stash, Tensor)]
