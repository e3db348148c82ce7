"""Honest counts in the processor, alone and together with the entry shim."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from evoprune.apply import apply
from evoprune.models.processor import patch_processor
from evoprune.pruners import Downsample, EvoPrune, Random
from tests import builders
from tests.families import qwen
from tests.families.case import Picture

TEXTS = ["USER: <image> what is this ?", "a <image> <image> b", "what ?"]


def encode(processor: Any) -> dict[str, torch.Tensor]:
    pictures = [builders.picture(seed) for seed in (1, 2, 3)]
    return dict(processor(images=pictures, text=TEXTS, return_tensors="pt", padding=True))


@pytest.mark.parametrize("strategy", ["default", "full"])
@pytest.mark.parametrize("pruner", [EvoPrune(16), EvoPrune(16, positions="original"), Random(0.25), Downsample(20)])
@torch.no_grad()
def test_short_prompts_run_as_the_shim_would_run_long_ones(strategy: str, pruner: Any) -> None:
    model, processor = builders.model(strategy=strategy), builders.processor(strategy)
    long = encode(processor)
    with patch_processor(processor, pruner):
        short = encode(processor)
        counts = processor._get_num_multimodal_tokens(image_sizes=[(32, 32)] * 2)
    extra = int(strategy == "full")
    assert int((short["input_ids"] == builders.IMAGE_TOKEN).sum()) == 3 * (16 + extra)
    assert counts.num_image_tokens == [16 + extra] * 2
    with apply(model, pruner) as handle:
        torch.testing.assert_close(model(**short).logits, model(**long).logits, atol=1e-6, rtol=1e-6)
        assert handle.stats.visual_tokens == (16 + extra,) * 3
        new = model.generate(**short, max_new_tokens=4, do_sample=False)
        assert torch.equal(new[:, :-4], short["input_ids"])
        assert torch.equal(new[:, -4:], model.generate(**long, max_new_tokens=4, do_sample=False)[:, -4:])
    assert {k: v.tolist() for k, v in encode(processor).items()} == {k: v.tolist() for k, v in long.items()}


def test_apply_patches_and_restores_a_processor(llava: Any) -> None:
    processor = builders.processor()
    with apply(llava, EvoPrune(16), processor):
        x = encode(processor)
        assert int((x["input_ids"] == builders.IMAGE_TOKEN).sum()) == 48
        llava(**x)
        # Four images' worth of 16 placeholders also is one of 64: an honest processor settles it.
        ids = torch.tensor([[builders.IMAGE_TOKEN] * 64])
        assert llava(input_ids=ids).logits.shape[1] == 64
    assert "replace_image_token" not in processor.__dict__ and "_evoprune_patched" not in processor.__dict__
    with apply(llava, EvoPrune(16)):
        assert llava(input_ids=ids).logits.shape[1] == 16


def test_patched_processor_is_saved_as_it_was(tmp_path: Any) -> None:
    processor = builders.processor()
    processor.save_pretrained(tmp_path / "before")
    with patch_processor(processor, EvoPrune(16)):
        processor.save_pretrained(tmp_path / "during")
    for file in (tmp_path / "before").iterdir():
        assert (tmp_path / "during" / file.name).read_bytes() == file.read_bytes()


def test_errors_name_the_way_out(llava: Any) -> None:
    processor = builders.processor()
    with patch_processor(processor, EvoPrune(16)):
        with pytest.raises(ValueError, match=r"applied already: call remove"):
            patch_processor(processor, EvoPrune(16))
        with pytest.raises(ValueError, match="applied already"):
            apply(llava, EvoPrune(16), processor)
    assert "_evoprune_handle" not in llava.model.__dict__ and "generate" not in llava.__dict__
    with pytest.raises(ValueError, match="has no replace_image_token"):
        patch_processor(builders.tokenizer(), EvoPrune(16))


@torch.no_grad()
def test_pictures_of_any_size_keep_what_they_have_below_an_int() -> None:
    rows = [("a ", Picture(16, 16), " b"), ("a ", Picture(32, 40), " b")]  # 4 and 20 units
    model, pruner = qwen.qwen2(), EvoPrune(6, schedule="mean")
    long = qwen.inputs(rows, "2")
    with patch_processor(qwen.processor("2"), pruner):
        short = qwen.inputs(rows, "2")
    image = model.config.image_token_id
    assert [int(n) for n in (long["input_ids"] == image).sum(1)] == [4, 20]
    assert [int(n) for n in (short["input_ids"] == image).sum(1)] == [4, 6]
    with apply(model, pruner) as handle:
        torch.testing.assert_close(model(**short).logits[:, -1], model(**long).logits[:, -1], atol=1e-5, rtol=1e-5)
        assert handle.stats.visual_tokens == (4, 6)
