"""Tiles, placeholders and places of AnyRes images, against transformers' own choices and packing."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import pytest
import torch
from transformers.image_processing_utils import select_best_resolution

from evoprune import EvoPrune, apply
from evoprune.models import UnsupportedModel, find
from evoprune.models.anyres import Tiling, best_resolution, frame_cells, tiling
from tests.families import llava_next, llava_onevision
from tests.families.case import Picture, Video
from tests.families.literal_tiles import logits, tower

REAL = [[384 * a, 384 * b] for a in range(1, 7) for b in range(1, 7)]
NEXT = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
SIDES = [1, 2, 13, 27, 100, 333, 384, 385, 640, 768, 1000, 1151, 1920, 4000]


@functools.cache
def next_model() -> Any:
    return llava_next.model()


@functools.cache
def clip_model() -> Any:
    return llava_next.video_model()


def test_the_resolution_is_the_processors() -> None:
    for size in itertools.product(SIDES, SIDES):
        for resolutions in (REAL, llava_next.RESOLUTIONS, NEXT):
            assert best_resolution(size, resolutions) == tuple(select_best_resolution(size, resolutions)), size


@pytest.mark.parametrize("size", list(itertools.product([5, 20, 31, 64, 90, 200], repeat=2)), ids=str)
@pytest.mark.parametrize("family", [llava_next, llava_onevision], ids=["next", "onevision"])
def test_places_are_where_transformers_puts_the_patches(family: Any, size: tuple[int, int]) -> None:
    """Features that are numbers go through transformers' packing: each number has to be where `places` says."""
    model = next_model() if family is llava_next else onevision_model()
    adapter = find(model)
    tiles = adapter.tile(size, True)
    side = tiles.side
    row = torch.arange(side**2) // side
    column = torch.arange(side**2) % side
    marks = [torch.stack((row, column, torch.zeros_like(row)), 1)]
    for down, across in itertools.product(range(tiles.tiles[0]), range(tiles.tiles[1])):
        marks.append(torch.stack((down * side + row, across * side + column, torch.ones_like(row)), 1))
    extra = (
        {"vision_feature_select_strategy": "default"}
        if family is llava_next
        else {"vision_aspect_ratio": "anyres_max_2"}
    )
    (packed,), lengths = model.model.pack_image_features(
        [torch.stack(marks).float()], [size], image_newline=torch.full((3,), -1.0), **extra
    )
    assert int(lengths[0]) == tiles.full == len(packed)
    left = [tiles.tiles[axis] * side - 2 * tiles.padding[axis] for axis in (0, 1)]
    for item, values in enumerate(marks):
        places = tiles.places(item, torch.arange(side**2))
        assert int(places.min()) >= 0 and int(places.max()) < tiles.full
        if item == 0:
            assert torch.equal(packed[places].long(), values)
            continue
        if not tiles.grid[0] or not tiles.grid[1]:
            continue  # nothing is left of the tiles
        for axis in (0, 1):
            nearest = values[:, axis].clamp(tiles.padding[axis], tiles.padding[axis] + left[axis] - 1)
            cell = left[axis] / tiles.grid[axis]  # patches a cell: 1 where nothing is shrunk
            assert ((packed[places, axis] - nearest).abs() <= cell / 2 + (cell > 1) * 0.5).all()
        assert (packed[places, 2] > 0.99).all()  # never a newline


@functools.cache
def onevision_model() -> Any:
    return llava_onevision.model()


def test_a_lone_base_tile_and_the_cells_of_a_frame() -> None:
    assert Tiling(27).full == 730 and Tiling(27).items == 1
    cells = frame_cells(torch.arange(27**2), 27, 14)
    assert sorted(set(cells.tolist())) == list(range(196))
    assert torch.equal(frame_cells(torch.arange(64), 8, 4), (torch.arange(64) // 16) * 4 + torch.arange(64) % 8 // 2)


def test_counts_at_the_real_sizes() -> None:
    """so400m-384 with anyres_max_9, as LLaVA-OneVision-7B: 37 tiles natively shrunk, and one of two rows of tiles."""
    large = tiling((2304, 2304), REAL, 384, 27, 9)
    assert (large.items, large.grid, large.full) == (37, (81, 81), 729 + 81 * 82)
    wide = tiling((300, 700), REAL, 384, 27, 9)
    assert (wide.tiles, wide.padding) == ((1, 2), (2, 0)) and wide.full == 729 + 23 * 55


@pytest.mark.parametrize(("resolutions", "pixels", "side", "limit"), [(REAL, 384, 27, 9), (NEXT, 336, 24, None)])
def test_the_papers_budgets_fit_pictures_of_any_shape(resolutions: Any, pixels: int, side: int, limit: Any) -> None:
    sizes = [int(1.31**n) for n in range(8, 34)]
    for size in itertools.product(sizes, sizes):
        tiles = tiling(size, resolutions, pixels, side, limit)
        budget = 128 if max(size) <= 50 * min(size) else 64
        assert tiles.items * budget + 1 <= tiles.full, (size, tiles)


@torch.no_grad()
def test_next_images_are_the_tokens_of_all_tiles_and_one_newline() -> None:
    model, pruner = next_model(), EvoPrune(9, schedule="mean")
    x = llava_next.inputs([("a ", Picture(50, 40, 3), " b ?")])
    tokens = tower(model, x["pixel_values"][0], pruner.merges(64, 5), pruner, 1)
    features = torch.cat((model.model.multi_modal_projector(tokens).flatten(0, 1), model.model.image_newline[None]))
    expected = logits(model, x["input_ids"][0], {llava_next.IMAGE_ID: [features]})
    with apply(model, pruner):
        torch.testing.assert_close(model(**x).logits[0, -1], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_original_positions_of_tiles_are_those_of_their_patches() -> None:
    model = next_model()
    x = llava_next.inputs([("a ", Picture(50, 40, 3), " b ?")])
    start = int((x["input_ids"][0] == llava_next.IMAGE_ID).nonzero()[0])
    found: list[Any] = []

    def before(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        found.append(kwargs["position_ids"][0].tolist())

    with apply(model, EvoPrune(9, schedule="mean", positions="original")) as handle:
        with model.model.language_model.register_forward_pre_hook(before, with_kwargs=True):  # behind the one that sets
            model(**x)
        survivors = handle.stats.positions.tolist()  # type: ignore[union-attr]
    # 50 x 40 in 2 x 2 tiles: of 16 columns the outer 2 on each side are padding; 16 rows of 12 columns and a newline.
    tiles = find(model).tile((50, 40), True)
    assert (tiles.tiles, tiles.padding, tiles.grid) == ((2, 2), (0, 2), (16, 12))
    expected = list(range(start)) + [start + place for place in survivors[0]]
    for (down, across), places in zip([(0, 0), (0, 1), (1, 0), (1, 1)], survivors[1:], strict=True):
        for place in places:
            column = min(max(8 * across + place % 8 - 2, 0), 11)
            expected.append(start + 64 + (8 * down + place // 8) * 13 + column)
    expected += range(start + 64 + 16 * 13 - 1, x["input_ids"].shape[1])
    assert found == [expected]


@torch.no_grad()
def test_next_video_leaves_the_resampler_out() -> None:
    model, pruner = clip_model(), EvoPrune(6, schedule="mean")
    x = llava_next.video_inputs([("a ", Video(3, 30, 50, 4), " b ?")])
    merges = pruner.merges(64, 5, keep=6)
    tokens = tower(model, x["pixel_values_videos"][0], merges, pruner, 1)
    features = model.model.multi_modal_projector(tokens).flatten(0, 1)
    expected = logits(model, x["input_ids"][0], {llava_next.VIDEO_ID: [features]})
    with apply(model, pruner) as handle:
        torch.testing.assert_close(model(**x).logits[0, -1], expected, atol=1e-5, rtol=1e-4)
        assert handle.stats.visual_tokens == (18,)


def test_structures_that_have_no_rows_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="'full' keeps CLS"):
        find(llava_next.model(vision_feature_select_strategy="full"))
    with pytest.raises(UnsupportedModel, match="spatial_pool_mode='conv'"):
        find(llava_next.video_model(spatial_pool_mode="conv"))
