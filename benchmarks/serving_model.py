"""Models that vLLM's own classes load: one whose encoder dominates, with random weights, and the embedded one.

The first is a LLaVA-1.5 form with the tower at its real size before two small decoder layers.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from evoprune import tiny

# openai/clip-vit-large-patch14-336, the tower of LLaVA-1.5.
SIDE, PATCH = 336, 14
TOWER = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": SIDE, "patch_size": PATCH, "projection_dim": 768, "hidden_act": "quick_gelu",
}  # fmt: skip
DECODER = {
    "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 8,
    "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 4096,
}  # fmt: skip
DONE, WEIGHTS = "evoprune_built.json", "model.safetensors"


def build(folder: Path, seed: int = 0) -> dict[str, Any]:
    """Write the checkpoint to `folder` in bfloat16, unless it is there, and return the facts of it.

    Tokenizer, chat template and the processor's other settings are the embedded model's.
    """
    facts = {"vision": TOWER, "text": DECODER, "seed": seed, "tokens": (SIDE // PATCH) ** 2}
    done = folder / DONE
    if not done.exists() or json.loads(done.read_text(encoding="utf-8")) != facts:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _write(folder, seed)
        done.write_text(json.dumps(facts), encoding="utf-8")
    return facts


def _write(folder: Path, seed: int) -> None:
    from safetensors.torch import save_file
    from transformers import AutoProcessor, LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig.from_pretrained(tiny.folder())
    text = {**config.text_config.to_dict(), **DECODER}
    made = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **TOWER},
        text_config=text,
        image_token_id=config.image_token_id,
        image_seq_length=(SIDE // PATCH) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        architectures=["LlavaForConditionalGeneration"],
        dtype="bfloat16",
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(made).to(torch.bfloat16)
    # The layout of the hub, which vLLM's own class reads.
    weights = {_hub(name): value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    made.save_pretrained(folder)
    processor = AutoProcessor.from_pretrained(tiny.folder(), backend="pil")
    processor.patch_size = PATCH
    processor.image_processor.size = {"height": SIDE, "width": SIDE}
    processor.image_processor.crop_size = {"height": SIDE, "width": SIDE}
    processor.save_pretrained(folder)


def embedded(folder: Path) -> None:
    """Write the embedded model to `folder` in the layout of the hub, which vLLM's own class reads and transformers 5 no
    longer writes."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(tiny.folder(), folder, dirs_exist_ok=True)
    weights = load_file(folder / WEIGHTS)
    save_file({_hub(name): value for name, value in weights.items()}, folder / WEIGHTS, metadata={"format": "pt"})


def _hub(name: str) -> str:
    if name.startswith("language_model.model.") or name.startswith("language_model.lm_head."):
        return name
    name = name.removeprefix("model.")
    for old, new in (("language_model.", "language_model.model."), ("lm_head.", "language_model.lm_head.")):
        if name.startswith(old):
            return name.replace(old, new, 1)
    if name.startswith("vision_tower.") and not name.startswith("vision_tower.vision_model."):
        return name.replace("vision_tower.", "vision_tower.vision_model.", 1)
    return name


if __name__ == "__main__":
    print(json.dumps(build(Path(sys.argv[1]))))
