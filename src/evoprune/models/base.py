"""What a model family has to tell: where its tower, blocks and projector stand, and how many tokens there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from .. import flops
from ..errors import unknown
from ..pruners import Pruner
from .blocks import BlockSpec, UnsupportedModel, find_blocks
from .counts import MODALITIES, PIXELS, STAGES, Count, Grid, Modality, Segment, chain

if TYPE_CHECKING:
    from .attention import Tap
    from .forms import Form
    from .prompt import Layout
    from .state import Run, TowerState

__all__ = [
    "MODALITIES", "PIXELS", "STAGES", "BlockSpec", "Count", "Family", "Grid", "Modality", "Segment", "UnsupportedModel",
    "chain", "find_blocks",
]  # fmt: skip


class Family:
    """One loaded model, seen through its family: structure and counts, never a pruning method.

    Parameters
    ----------
    model
        The transformers model that owns the tower: the one with `generate`, or its inner base model.
    options
        Choices of the family, of those in `options` of the class.

    Attributes
    ----------
    towers
        The vision towers that it was made for, in words.
    modalities
        What has placeholders of its own: images, videos.
    frames_as_images
        Whether videos come as images, one a frame, without placeholders of their own.
    stages
        Where pruners may act.
    options
        For each option of `apply` that the family takes its values, the default first.
    uniform
        Whether every segment of a modality has the same number of placeholders.
    picks_itself
        Whether the family calls the feature stage itself (`features.pick`) instead of a pre-hook of its projector.
    mrope
        Whether the language model has three-axis positions: survivors then always keep their original ones.
    repeats_rows
        Whether pixels come by prompt: beams then repeat all pictures of a prompt, not each picture.
    """

    name: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    examples: ClassVar[tuple[str, ...]] = ()
    towers: ClassVar[str] = ""
    block: ClassVar[BlockSpec]
    modalities: ClassVar[tuple[Modality, ...]] = ("image",)
    frames_as_images: ClassVar[bool] = False
    stages: ClassVar[tuple[str, ...]] = STAGES
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    uniform: ClassVar[bool] = True
    picks_itself: ClassVar[bool] = False
    mrope: ClassVar[bool] = False
    repeats_rows: ClassVar[bool] = False

    def __init__(self, model: nn.Module, **options: str):
        self.model: Any = model
        self.base: Any = getattr(model, "base_model", model)
        for name, value in options.items():
            if not self.options:
                raise ValueError(f"{self.name} has no options, but {name}={value!r} was given: leave it out")
            if name not in self.options:
                raise ValueError(unknown(f"option of {self.name}", name, list(self.options)))
            if value not in self.options[name]:
                raise ValueError(unknown(name, value, self.options[name]))
        self.chosen = {name: options.get(name, values[0]) for name, values in self.options.items()}

    # Structure.

    # The names that most families of transformers use; others override.

    @property
    def tower(self) -> nn.Module:
        """The vision encoder."""
        return self.base.vision_tower

    @property
    def tower_config(self) -> Any:
        """The config of the vision encoder."""
        return self.tower.config

    @property
    def backend(self) -> str:
        """Name of the attention backend of the vision encoder."""
        return self.tower_config._attn_implementation

    @property
    def projector(self) -> nn.Module:
        """The module whose input are the features that leave the tower."""
        return self.base.multi_modal_projector

    @property
    def language_model(self) -> nn.Module:
        """The decoder that takes `inputs_embeds` and `position_ids`."""
        return self.base.language_model

    @property
    def prefix(self) -> int:
        """Tokens at the front of the tower's sequence that stand for no patch (CLS)."""
        return 0

    @property
    def kept_prefix(self) -> int:
        """How many of the prefix tokens the language model sees."""
        return 0

    @property
    def feature_layers(self) -> tuple[int, ...]:
        """Indices of the hidden states in use, 0 = the embeddings, l = what leaves layer l - 1."""
        return (len(self.blocks),)

    @property
    def merging_layers(self) -> tuple[int, ...] | None:
        """The layers that may merge, None for all of them."""
        return None

    @property
    def blocks(self) -> list[nn.Module]:
        """The tower's transformer blocks."""
        return find_blocks(self.tower, self.block)

    @property
    def form(self) -> Form:
        """How the tower's hidden states lie."""
        from .forms import Batched

        return Batched(self.prefix, self.unit_side)

    # Counts.

    @property
    def side(self) -> int | None:
        """Patches a side of the picture as the processor makes it, None where it varies."""
        return None

    @property
    def grid(self) -> Grid | None:
        """Patches of a tower item, None where they vary."""
        return None if self.side is None else (self.side, self.side)

    @property
    def patch_size(self) -> int:
        """Pixels a side of a patch."""
        return int(self.tower_config.patch_size)

    @property
    def unit_side(self) -> int:
        """Patches a side of a unit: the projector makes one token of it, and only whole units merge."""
        return 1

    def units(self, grid: Grid) -> int:
        """Return the units of a tower item: what merges and is counted."""
        return (grid[0] // self.unit_side) * (grid[1] // self.unit_side)

    def native(self, grid: Grid, modality: Modality = "image") -> int:
        """Return the tokens that an unpruned tower item becomes in the language model, prefix not counted."""
        return self.units(grid)

    def tokens_after(self, pruners: Sequence[Pruner], grid: Grid | None = None, modality: Modality = "image") -> Count:
        """Return the placeholders of one tower item before and after the pruners: the one source of all counts."""
        native = self.native(self._known(grid), modality)
        lenient = self.grid is None or not self.uniform
        return Count(native + self.kept_prefix, chain(pruners, native, lenient) + self.kept_prefix)

    def segments(
        self, arguments: Mapping[str, Any], modality: Modality, pruners: Sequence[Pruner]
    ) -> list[Segment] | None:
        """Return the segments of a modality that a call of generate or forward brings along, None if none.

        In the order of the prompt, from pixels, sizes or grids; pixels may be missing where `mm_encoder_outputs`
        carries the features.
        """
        pixels = arguments.get(PIXELS[modality])
        if pixels is None:
            return None
        return [Segment(self.tokens_after(pruners, modality=modality))] * int(pixels.shape[0])

    def offsets(self, segment: Segment, survivors: Sequence[Tensor]) -> Tensor:
        """Return for each token of a pruned segment the offset of the native placeholder it stands for.

        Parameters
        ----------
        survivors
            For each of the segment's items the raster index of its surviving units, int64 (K,).

        Returns
        -------
        Tensor
            int64 (segment.count.short,), ascending where the family's tokens are in raster order.
        """
        prefix = torch.arange(self.kept_prefix, device=survivors[0].device)
        return torch.cat((prefix, *(self.kept_prefix + places for places in survivors)))

    def position_table(self, layout: Layout, columns: Tensor, generating: bool) -> tuple[Tensor, Tensor]:
        """Return the positions in the language model of a short prompt's columns, and of what comes next.

        Parameters
        ----------
        columns
            int64 (B, S): the columns of the prompt with all placeholders that they stand for.
        generating
            Whether what comes next is counted on by `generate`, or by the model's own forward.

        Returns
        -------
        tuple of Tensor
            int64 (B, S) and (B,); with three axes (3, B, S) and (3, B).
        """
        from .positions import original_table

        last = columns[:, -1:].clone()
        for slot in layout.slots:
            if slot.short + slot.segment.count.short == columns.shape[1]:  # a prompt that ends with a picture
                last[slot.row] = slot.long + slot.segment.count.full - 1
        return original_table(layout, columns), original_table(layout, last)[:, -1] + 1

    def tower_flops(self, grid: Grid, merges: Sequence[int]) -> int:
        """Return the FLOPs of the first ``len(merges)`` layers on one item, `merges` in units."""
        config = self.tower_config
        unit = self.unit_side**2
        return flops.tower(
            self.units(grid) * unit, [unit * r for r in merges], self.width, config.intermediate_size, self.prefix
        )

    @property
    def width(self) -> int:
        """Hidden size of the tower."""
        return int(self.tower_config.hidden_size)

    @property
    def head_width(self) -> int:
        """Width of one of the tower's attention heads."""
        config = self.tower_config
        heads = getattr(config, "num_attention_heads", None) or config.num_heads
        return self.width // int(heads)

    # Placeholders.

    @property
    def image_token_id(self) -> int:
        """Id of an image's placeholder in `input_ids`."""
        return int(self.base.config.image_token_id)

    @property
    def video_token_id(self) -> int | None:
        """Id of a video's placeholder, None where videos have none of their own."""
        return None

    def token_id(self, modality: Modality) -> int | None:
        """Return the placeholder of a modality."""
        return self.image_token_id if modality == "image" else self.video_token_id

    # What happens in a call.

    def items(self, arguments: Mapping[str, Any]) -> list[Grid]:
        """Return the grids of all items of a tower call, by its arguments."""
        return [self._known(None)] * int(arguments["pixel_values"].shape[0])

    def resize(self, arguments: Mapping[str, Any], grid: Grid) -> dict[str, Any]:
        """Return a tower call's arguments with pictures of `grid` patches, position embeddings interpolated.

        Bilinear with antialiasing, in float32, in the dtype given.
        """
        pixels, size = arguments["pixel_values"], (grid[0] * self.patch_size, grid[1] * self.patch_size)
        small = nn.functional.interpolate(
            pixels.float(), size=size, mode="bilinear", antialias=True, align_corners=False
        )
        return {**arguments, "pixel_values": small.to(pixels.dtype), "interpolate_pos_encoding": True}

    def chunks(self, arguments: Mapping[str, Any], size: int) -> Iterator[dict[str, Any]]:
        """Yield a tower call in parts of at most `size` items."""
        for part in arguments["pixel_values"].split(size):
            yield {**arguments, "pixel_values": part}

    def block_arguments(self, run: Run, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return a block's keyword arguments for what is left of the tokens (positions, masks, lengths)."""
        return arguments

    def install(self, state: TowerState, stack: ExitStack) -> None:
        """Install what the family needs besides: around poolings that would miss the grid, for example."""
        return

    def tap(self, block: nn.Module, state: TowerState, layer: int, stack: ExitStack) -> Tap:
        """Let the attention of `block` be looked into until `stack` closes."""
        from .attention import install_tap

        return install_tap(getattr(block, self.block.attn), state, layer, stack)

    def finish(self, output: Any, modality: Modality, state: TowerState) -> None:
        """Put right what `get_image_features` or `get_video_features` is about to return."""
        return

    def check_call(self, arguments: Mapping[str, Any]) -> None:
        """Raise ValueError if a call of `get_image_features` asks for other features than those planned for.

        By default every call is accepted: most families have nothing to choose in one.
        """

    def _known(self, grid: Grid | None) -> Grid:
        grid = grid or self.grid
        if grid is None:
            raise ValueError(f"the pictures of {self.name} vary in size: give the grid of patches (rows, columns)")
        return grid
