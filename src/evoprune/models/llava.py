"""LLaVA-1.5: CLIP (or SigLIP) tower, per-token projector, one square picture an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from .base import BlockSpec, Family, UnsupportedModel


class Llava(Family):
    """`LlavaForConditionalGeneration`; features are taken at `config.vision_feature_layer` (-2 for LLaVA-1.5)."""

    name = "LLaVA-1.5"
    model_types = ("llava",)
    examples = ("llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-13b-hf")
    towers = "CLIP ViT-L/14-336"
    block = BlockSpec(attn="self_attn", norm2="layer_norm2", mlp="mlp")

    def __init__(self, model: nn.Module, **options: str):
        super().__init__(model, **options)
        missing = [name for name in ("vision_tower", "multi_modal_projector") if not hasattr(self.base, name)]
        if missing:
            raise UnsupportedModel(f"{type(model).__name__} has no {' and no '.join(missing)}: it is no LLaVA model")
        if self._strategy == "default" and not self.prefix:
            raise UnsupportedModel(
                "vision_feature_select_strategy='default' drops the first token, which is a patch in a "
                f"{type(self.tower).__name__} without CLS: set it to 'full'"
            )
        self._choice = self._selection({})

    @property
    def prefix(self) -> int:
        return int(any(name.endswith("class_embedding") for name, _ in self.tower.named_parameters()))

    @property
    def kept_prefix(self) -> int:
        return 0 if self._strategy == "default" else self.prefix

    @property
    def feature_layers(self) -> tuple[int, ...]:
        chosen = self.base.config.vision_feature_layer
        count = len(self.blocks) + 1
        layers = (chosen,) if isinstance(chosen, int) else tuple(chosen)
        if not layers or any(not -count <= layer < count for layer in layers):
            raise ValueError(
                f"vision_feature_layer={chosen} is outside the {count} hidden states of the tower: "
                f"choose from {-count}..{count - 1}"
            )
        return tuple(layer % count for layer in layers)

    @property
    def side(self) -> int:
        return int(self.tower_config.image_size) // self.patch_size

    def check_call(self, arguments: Mapping[str, Any]) -> None:
        if self._selection(arguments) != self._choice:
            raise ValueError(
                f"vision_feature_layer and vision_feature_select_strategy are {self._selection(arguments)} in this "
                f"call but were {self._choice} when the pruner was applied: set them in model.config, then apply again"
            )

    @property
    def _strategy(self) -> str:
        return self.base.config.vision_feature_select_strategy

    def _selection(self, arguments: Mapping[str, Any]) -> tuple[Any, str]:
        layer = arguments.get("vision_feature_layer")
        layer = self.base.config.vision_feature_layer if layer is None else layer
        strategy = arguments.get("vision_feature_select_strategy")
        return (layer if isinstance(layer, int) else tuple(layer)), (self._strategy if strategy is None else strategy)
