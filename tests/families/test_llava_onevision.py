"""LLaVA-OneVision beside the table: against a literal reference; poolings, newlines, several images, refusals."""

from __future__ import annotations

import functools
import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from evoprune import EvoPrune, Random, apply
from evoprune.models import find
from tests.families import llava_onevision as ov
from tests.families.case import Picture, Video, draw
from tests.families.literal_tiles import logits, tower

LAYERS = 6
VIDEO = Video(3, 30, 50, 4)


@functools.cache
def shared() -> Any:
    return ov.model()


def several(pictures: list[Picture]) -> dict[str, Any]:
    """Inputs of one prompt with several pictures, which the processor then does not cut into tiles."""
    text = "a " + "<image> or ".join([""] * (len(pictures) + 1)) + "?"
    return dict(ov.processor()(images=[[draw(one) for one in pictures]], text=[text], return_tensors="pt"))


def projected(model: Any, pixels: Tensor, keep: int | None, pruner: Any) -> Tensor:
    merges = (0,) * LAYERS if keep is None else pruner.merges(ov.SIDE**2, LAYERS, keep=keep)
    return model.model.multi_modal_projector(tower(model, pixels, merges, pruner, 0))


def ended(model: Any, rows: Tensor) -> Tensor:
    return torch.cat((rows, model.model.image_newline[None]))


def seen(model: Any, x: dict[str, Any]) -> Tensor:
    return model(**x).logits[0, -1]


@torch.no_grad()
def test_an_image_is_the_tokens_of_all_its_tiles_and_one_newline() -> None:
    model, pruner = shared(), EvoPrune(9, schedule="mean")
    x = ov.inputs([("a ", Picture(50, 40, 3), " b ?")])
    tokens = projected(model, x["pixel_values"][0], 9, pruner).flatten(0, 1)
    expected = logits(model, x["input_ids"][0], {ov.IMAGE_ID: [ended(model, tokens)]})
    with apply(model, pruner) as handle:
        torch.testing.assert_close(seen(model, x), expected, atol=1e-5, rtol=1e-4)
        assert handle.stats.visual_tokens == (5 * 9 + 1,)
        assert len(handle.stats.positions) == 5  # type: ignore[arg-type]
        assert handle.stats.options == {"pool": "hf", "newline": "one"}


@torch.no_grad()
def test_several_images_of_a_sample_are_one_tile_each() -> None:
    model, pruner = shared(), EvoPrune(9, schedule="mean")
    x = several([Picture(50, 40, 3), Picture(20, 90, 5), Picture(33, 33, 6)])
    assert x["batch_num_images"].tolist() == [3]
    tokens = projected(model, x["pixel_values"][:, 0], 9, pruner)
    expected = logits(model, x["input_ids"][0], {ov.IMAGE_ID: [ended(model, one) for one in tokens]})
    with apply(model, pruner) as handle:
        torch.testing.assert_close(seen(model, x), expected, atol=1e-5, rtol=1e-4)
        assert handle.stats.visual_tokens == (10, 10, 10)
        out = model.generate(**x, max_new_tokens=1, do_sample=False)
        assert int(out[0, -1]) == int(expected.argmax())


@torch.no_grad()
def test_samples_with_one_and_with_several_images_in_a_batch() -> None:
    model = shared()
    pictures = [[Picture(50, 40, 3)], [Picture(20, 90, 5), Picture(33, 33, 6)]]
    texts = ["<image> what ?", "a <image><image> b"]
    drawings = [[draw(one) for one in row] for row in pictures]
    batch = dict(ov.processor()(images=drawings, text=texts, return_tensors="pt", padding=True))
    with apply(model, EvoPrune(9, schedule="mean")) as handle:
        together = model(**batch).logits[:, -1]
        assert handle.stats.visual_tokens == (5 * 9 + 1, 10, 10)
        for text, row, expected in zip(texts, drawings, together, strict=True):
            x = dict(ov.processor()(images=[row], text=[text], return_tensors="pt"))
            torch.testing.assert_close(seen(model, x), expected, atol=1e-5, rtol=1e-4)


def newlined(model: Any, frames: Tensor, newline: str, rows: int) -> Tensor:
    """Frames (F, T, D), each of `rows` rows, as one run of tokens: literally, row by row."""
    found, end = [], model.model.image_newline[None]
    for frame in frames:
        for row in frame.chunk(rows) if newline == "grid" else [frame]:
            found.append(torch.cat((row, end)) if newline in ("grid", "frame") else row)
    return torch.cat((*found, end) if newline == "one" else found)


NATIVE = [("average", "one"), ("average", "grid"), ("average", "frame"), ("average", "none"), ("hf", "none")]


@pytest.mark.parametrize(("pool", "newline"), NATIVE)
@torch.no_grad()
def test_native_poolings_and_newlines(pool: str, newline: str) -> None:
    """keep=1.0 runs the native baseline that is asked for, with the prompt of the unchanged processor."""
    model = shared()
    x = ov.inputs([("a ", VIDEO, " b ?")])
    plain = projected(model, x["pixel_values_videos"][0], None, None)
    if pool == "average":
        pooled = avg_pool2d(plain.view(3, 7, 7, -1).permute(0, 3, 1, 2), 2).flatten(2).transpose(1, 2)
    else:
        pooled = model.model.apply_pooling(plain)
    tokens = newlined(model, pooled, newline, math.isqrt(pooled.shape[1]))
    expected = logits(model, x["input_ids"][0], {ov.VIDEO_ID: [tokens]})
    for pruner in (EvoPrune(1.0), EvoPrune(1.0, positions="original")):
        with apply(model, pruner, pool=pool, newline=newline) as handle:
            if pruner.positions == "contiguous":
                torch.testing.assert_close(seen(model, x), expected, atol=1e-5, rtol=1e-4)
            else:
                assert torch.isfinite(seen(model, x)).all()
            counts = {"one": 27 + 1, "grid": 3 * 12, "frame": 3 * 10, "none": 27}
            assert handle.stats.visual_tokens == (48 if pool == "hf" else counts[newline],)
            assert handle.stats.options == {"pool": pool, "newline": newline}
            out = model.generate(**x, max_new_tokens=2, do_sample=False)
            assert torch.equal(out[:, :-2], x["input_ids"])
    assert isinstance(model.model.image_newline, torch.nn.Parameter)


@pytest.mark.parametrize("newline", ["one", "grid", "frame", "none"])
@pytest.mark.parametrize("batch", [None, 2])
@torch.no_grad()
def test_pruned_frames_and_newlines(newline: str, batch: int | None) -> None:
    model, pruner = shared(), EvoPrune(6, schedule="mean")
    x = ov.inputs([("a ", VIDEO, " b ?")])
    frames = projected(model, x["pixel_values_videos"][0], 6, pruner)
    tokens = newlined(model, frames, "frame" if newline == "grid" else newline, 1)
    expected = logits(model, x["input_ids"][0], {ov.VIDEO_ID: [tokens]})
    with apply(model, pruner, newline=newline, encoder_batch=batch) as handle:
        torch.testing.assert_close(seen(model, x), expected, atol=1e-5, rtol=1e-4)
        assert handle.stats.visual_tokens == (18 + {"one": 1, "none": 0}.get(newline, 3),)


@torch.no_grad()
def test_native_newlines_that_do_not_fit_the_prompt_are_refused() -> None:
    model, x = shared(), ov.inputs([("a ", VIDEO, " b ?")])
    before = seen(model, x)
    with apply(model, EvoPrune(1.0), newline="grid"), pytest.raises(ValueError, match=r"60 tokens of 3 frames.*49"):
        model(**x)
    with apply(model, EvoPrune(15, schedule="mean"), newline="grid") as handle:  # pruned frames have one newline each
        model(**x)
        assert handle.stats.visual_tokens == (48,)
    assert torch.equal(seen(model, x), before)


@torch.no_grad()
def test_a_keep_between_frame_and_tile_leaves_videos_native() -> None:
    model, x = shared(), ov.inputs([("a ", VIDEO, " b ?")])
    image = ov.inputs([("a ", Picture(17, 19, 3), " b ?")])
    native = seen(model, x)
    with apply(model, Random(20)) as handle:
        assert torch.equal(seen(model, x), native)
        model(**image)
        assert handle.stats.visual_tokens == (2 * 20 + 1,)


@torch.no_grad()
def test_a_picked_feature_skips_the_pooling() -> None:
    model, pruner = shared(), Random(6)
    x = ov.inputs([("a ", VIDEO, " b ?")])
    with apply(model, pruner) as handle:
        found = seen(model, x)
        places = handle.stats.positions
    plain = tower(model, x["pixel_values_videos"][0], (0,) * LAYERS, pruner, 0)
    picked = model.model.multi_modal_projector(plain.gather(1, places[..., None].expand(-1, -1, plain.shape[2])))
    expected = logits(model, x["input_ids"][0], {ov.VIDEO_ID: [ended(model, picked.flatten(0, 1))]})
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_two_videos_of_a_batch() -> None:
    model = shared()
    clips = [Video(3, 30, 50, 4), Video(3, 50, 30, 5)]
    x = ov.inputs([("a ", clips[0], " b ?"), ("what ", clips[1], " ?")])
    with apply(model, EvoPrune(6, schedule="mean"), newline="frame") as handle:
        together = model(**x).logits[:, -1]
        assert handle.stats.visual_tokens == (21, 21)
        for row, expected in zip([("a ", clips[0], " b ?"), ("what ", clips[1], " ?")], together, strict=True):
            torch.testing.assert_close(seen(model, ov.inputs([row])), expected, atol=1e-5, rtol=1e-4)


def positions_of(model: Any, x: dict[str, Any]) -> Tensor:
    """Return the position ids that reach the language model."""
    found: list[Tensor] = []

    def before(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        found.append(kwargs["position_ids"])

    # Behind the hook that sets them.
    with model.model.language_model.register_forward_pre_hook(before, with_kwargs=True):
        model(**x)
    return found[0][0]


@pytest.mark.parametrize("newline", ["one", "grid", "frame", "none"])
@torch.no_grad()
def test_original_positions_of_frames_are_those_of_their_cells(newline: str) -> None:
    model, x = shared(), ov.inputs([("a ", VIDEO, " b ?")])
    start = int((x["input_ids"][0] == ov.VIDEO_ID).nonzero()[0])
    with apply(model, EvoPrune(6, schedule="mean", positions="original"), newline=newline) as handle:
        found = positions_of(model, x)
        expected: list[int] = list(range(start))
        for frame, places in enumerate(handle.stats.positions.tolist()):  # type: ignore[union-attr]
            expected += [start + 16 * frame + (p // 7 * 4 // 7) * 4 + p % 7 * 4 // 7 for p in places]
            expected += [start + 16 * frame + 15] if newline in ("grid", "frame") else []
        if newline != "none":
            expected = expected[:-1] if newline != "one" else expected
            expected.append(start + 48)
        expected += range(start + 49, x["input_ids"].shape[1])
        assert found.tolist() == expected


@torch.no_grad()
def test_features_that_were_computed_before() -> None:
    model = shared()
    if "mm_encoder_outputs" not in inspect.signature(model.model.forward).parameters:
        pytest.skip("this transformers takes no mm_encoder_outputs")
    x = ov.inputs([("a ", VIDEO, " b ", Picture(50, 40, 3), " ?")])
    rest = {k: v for k, v in x.items() if not k.startswith("pixel")}
    for positions in ("contiguous", "original"):
        with apply(model, EvoPrune(6, schedule="mean", positions=positions), newline="frame"):
            expected = seen(model, x)
            image = model.model.get_image_features(x["pixel_values"], x["image_sizes"], return_dict=True)
            video = model.model.get_video_features(x["pixel_values_videos"], return_dict=True)
            found = seen(model, {**rest, "mm_encoder_outputs": {"image": image, "video": video}})
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_refusals() -> None:
    model = shared()
    x = ov.inputs([("a ", Picture(50, 40, 3), " b ?")])
    with pytest.raises(ValueError, match=r"\bpool\b.*'avg'.*average"):
        apply(model, EvoPrune(9), pool="avg")
    with apply(model, EvoPrune(9, schedule="mean")):
        with pytest.raises(ValueError, match="image_sizes"):
            model(**{k: v for k, v in x.items() if k != "image_sizes"})
        with pytest.raises(ValueError, match=r"batch_num_images=\[2\] adds up to 2"):
            model(**{**x, "batch_num_images": torch.tensor([2])})
        with pytest.raises(ValueError, match="vision_aspect_ratio='anyres_max_4'"):
            model.model.get_image_features(x["pixel_values"], x["image_sizes"], vision_aspect_ratio="anyres_max_4")
        seen(model, x)
    thin = ov.inputs([("a ", Picture(4, 200, 3), " b ?")])
    native = seen(model, thin)
    with (
        apply(model, EvoPrune(30, schedule="mean")),
        pytest.raises(ValueError, match=r"has 71 tokens.*4 tiles of 30 would be 121: choose keep <= 17"),
    ):
        model(**thin)
    with apply(model, EvoPrune(17, schedule="mean")) as handle:
        assert torch.isfinite(seen(model, thin)).all()
        assert handle.stats.visual_tokens == (69,)
    with apply(model, EvoPrune(1.0)):
        assert torch.equal(seen(model, thin), native)
    with pytest.raises(ValueError, match="pool='average' leaves nothing of 1 x 1"):
        find(ov.model(side=1, layers=2), pool="average")


@torch.no_grad()
def test_weights_are_the_models_own_while_applied() -> None:
    model = shared()
    names = list(model.state_dict())
    with apply(model, EvoPrune(6, schedule="mean"), newline="none"):
        assert list(model.state_dict()) == names
        assert [name for name, _ in model.named_parameters()].count("model.image_newline") == 1
