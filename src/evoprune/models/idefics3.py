"""Idefics3 and SmolVLM: tiles of one size, and a pixel shuffle in the connector that joins squares of patches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..pruners import Pruner
from .base import BlockSpec, Family, Grid, Modality, Segment, UnsupportedModel
from .features import install_leaving
from .state import TowerState
from .undo import set_attribute


class Idefics3(Family):
    """`Idefics3ForConditionalGeneration`; every tile of a picture is an item."""

    name = "Idefics3"
    model_types = ("idefics3",)
    examples: ClassVar[tuple[str, ...]] = ("HuggingFaceM4/Idefics3-8B-Llama3",)
    towers = "SigLIP so400m, 364 px tiles"
    block = BlockSpec(attn="self_attn", norm2="layer_norm2", mlp="mlp")
    picks_itself = True
    repeats_rows = True

    def __init__(self, model: nn.Module, **options: str):
        super().__init__(model, **options)
        if self.side % self.unit_side:
            raise UnsupportedModel(
                f"scale_factor={self.unit_side} does not divide the tower's {self.side} patches a side: "
                "the connector cannot join them"
            )

    @property
    def tower(self) -> nn.Module:
        return self.base.vision_model

    @property
    def projector(self) -> nn.Module:
        return self.base.connector

    @property
    def language_model(self) -> nn.Module:
        return self.base.text_model

    @property
    def side(self) -> int:
        return int(self.base.vision_model.config.image_size) // self.patch_size

    @property
    def unit_side(self) -> int:
        return int(self.base.config.scale_factor)

    def segments(
        self, arguments: Mapping[str, Any], modality: Modality, pruners: Sequence[Pruner]
    ) -> list[Segment] | None:
        """Return one segment a tile; tiles of zeros fill up `pixel_values`, and the model drops them."""
        count = self.tokens_after(pruners)
        features = (arguments.get("mm_encoder_outputs") or {}).get(modality)
        if features is not None:  # by prompt, not by tile
            return [Segment(count)] * (sum(map(len, features.pooler_output)) // count.short)
        pixels = arguments.get("pixel_values")
        if pixels is None:
            return None
        # Upstream runs one blank tile where all of them are.
        real = int((pixels != 0).flatten(2).any(-1).sum())
        return [Segment(count)] * (real if real or not pixels.numel() else 1)

    def resize(self, arguments: Mapping[str, Any], grid: Grid) -> dict[str, Any]:
        """Return the arguments with smaller pictures; as the model does, each patch takes the embedding at its place.

        Raises
        ------
        ValueError
            Pictures are padded.
        """
        changed = super().resize(_unpadded(arguments), grid)
        del changed["interpolate_pos_encoding"]
        pixels = changed["pixel_values"]
        changed["patch_attention_mask"] = torch.ones(len(pixels), *grid, dtype=torch.bool, device=pixels.device)
        return changed

    def chunks(self, arguments: Mapping[str, Any], size: int) -> Iterator[dict[str, Any]]:
        pixels, mask = arguments["pixel_values"], arguments.get("patch_attention_mask")
        masks = [None] * len(pixels) if mask is None else mask.split(size)
        for part, one in zip(pixels.split(size), masks, strict=False):
            yield {**arguments, "pixel_values": part, "patch_attention_mask": one}

    def install(self, state: TowerState, stack: ExitStack) -> None:
        """Let the connector take units as they come from the tower, and the blocks do without a mask."""
        install_leaving(state, stack)
        connector, encoder = self.base.connector, self.base.vision_model.encoder
        patches, unit = self.units(self._known(None)) * self.unit_side**2, self.unit_side**2
        original = connector.pixel_shuffle

        def pixel_shuffle(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            if x.shape[1] == patches:
                return original(x, *args, **kwargs)
            return x.reshape(x.shape[0], -1, unit * x.shape[2])  # whole units, inside in raster order

        def before_tower(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if state.plan.fixed is not None and state.plan.fixed.pruned:
                _unpadded({"patch_attention_mask": args[1] if len(args) > 1 else kwargs.get("patch_attention_mask")})

        def before_encoder(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            # Eager attention gets a mask of the first length; it masks nothing.
            return (args, {**kwargs, "attention_mask": None}) if state.run.pruned else None

        set_attribute(connector, "pixel_shuffle", pixel_shuffle, stack)
        stack.callback(self.tower.register_forward_pre_hook(before_tower, with_kwargs=True).remove)
        stack.callback(encoder.register_forward_pre_hook(before_encoder, with_kwargs=True).remove)


class SmolVLM(Idefics3):
    """`SmolVLMForConditionalGeneration`; frames of a video are pictures with the same placeholder."""

    name = "SmolVLM"
    model_types = ("smolvlm",)
    examples = ("HuggingFaceTB/SmolVLM2-2.2B-Instruct", "HuggingFaceTB/SmolVLM2-500M-Video-Instruct")
    towers = "SigLIP so400m-384 or base-512"
    frames_as_images = True


def _unpadded(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    mask = arguments.get("patch_attention_mask")
    if mask is not None and not bool(mask.all()):
        raise ValueError(
            f"{int((~mask).sum())} patches of the pictures are padding (pixel_attention_mask), which no pruner may "
            "merge: let the processor make all tiles of one size (do_resize=True), or remove the pruner"
        )
    return arguments
