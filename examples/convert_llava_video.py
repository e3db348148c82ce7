"""Turn a checkpoint of the original LLaVA-Video or LLaVA-OneVision code into one that transformers loads.

    python examples/convert_llava_video.py lmms-lab--LLaVA-Video-7B-Qwen2/ LLaVA-Video-7B-Qwen2-hf/

The first folder is a downloaded checkpoint with config.json and safetensors; it goes shard by shard into the second,
under transformers' names. The processor comes from a converted checkpoint of the same tower and tokenizer, such as
llava-hf/llava-onevision-qwen2-7b-ov-hf. transformers pools frames otherwise than the original, whose own path is
`evoprune.apply(model, EvoPrune(keep=1.0), pool="average", newline="grid")`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

HEADS = 16  # of SigLIP so400m: the one number of the tower that no tensor tells
IMAGE_TOKEN, VIDEO_TOKEN = 151646, 151647  # behind Qwen2's own special tokens
TOWER = "model.vision_tower.vision_tower.vision_model."
RENAMED = {
    TOWER + "head.": None,  # attention pooling of SigLIP, which LLaVA does not use
    TOWER: "model.vision_tower.",
    "model.mm_projector.0.": "model.multi_modal_projector.linear_1.",
    "model.mm_projector.2.": "model.multi_modal_projector.linear_2.",
    "model.image_newline": "model.image_newline",
    "model.layers.": "model.language_model.layers.",
    "model.embed_tokens.": "model.language_model.embed_tokens.",
    "model.norm.": "model.language_model.norm.",
    "lm_head.": "lm_head.",
}


def new_name(name: str) -> str | None:
    """Return the name of an original tensor in transformers, None for one that is left out.

    Raises
    ------
    ValueError
        The tensor belongs to no part of LLaVA-Video or LLaVA-OneVision.
    """
    if name.endswith(".inv_freq"):  # computed anew
        return None
    for old, new in RENAMED.items():
        if name.startswith(old):
            return None if new is None else new + name.removeprefix(old)
    raise ValueError(f"tensor {name!r} is in no part of LLaVA-Video or LLaVA-OneVision: give one of their checkpoints")


def shapes(source: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of the original checkpoint, without reading any."""
    found = {}
    for shard in shards(source):
        with safe_open(shard, "pt") as tensors:
            found.update({name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()})  # noqa: SIM118
    return found


def shards(source: Path) -> Iterator[Path]:
    """Yield the checkpoint's files in order."""
    files = sorted(source.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{source} holds no *.safetensors: download the whole checkpoint")
    yield from files


def pinpoints(original: Any, side: int) -> list[list[int]]:
    """Return the resolutions as pairs of pixels; the original may write "(1x1),...,(6x6)", in tiles."""
    if not isinstance(original, str):
        return [list(pair) for pair in original]
    corners = [int(number) for number in re.findall(r"\d+", original)]
    down, across = range(corners[0], corners[-2] + 1), range(corners[1], corners[-1] + 1)
    return [[side * a, side * b] for a in down for b in across]


def new_config(old: dict[str, Any], found: dict[str, tuple[int, ...]], heads: int, tokens: tuple[int, int]) -> Any:
    """Return the LlavaOnevisionConfig of an original config and its tensors' shapes."""
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

    width, _, patch, _ = found[TOWER + "embeddings.patch_embedding.weight"]
    side = patch * int(found[TOWER + "embeddings.position_embedding.weight"][0] ** 0.5)
    if "384" in str(old.get("mm_vision_tower", "")):
        side = 384  # 27 patches of 14 pixels and a rim of 6
    vision = SiglipVisionConfig(
        hidden_size=width, intermediate_size=found[TOWER + "encoder.layers.0.mlp.fc1.bias"][0], image_size=side,
        patch_size=patch, num_attention_heads=heads, vision_use_head=False,
        num_hidden_layers=sum(name.startswith(TOWER) and name.endswith("layer_norm1.weight") for name in found),
    )  # fmt: skip
    # Old configs have rope_theta by itself, which transformers 5 puts elsewhere.
    known = {*Qwen2Config().to_dict(), "rope_theta", "rope_scaling"}
    known -= {"model_type", "architectures", "transformers_version", "dtype"}
    text = Qwen2Config(**{name: value for name, value in old.items() if name in known})
    if max(tokens) >= text.vocab_size:
        raise ValueError(
            f"the vocabulary has {text.vocab_size} entries and no room for the placeholders {tokens}: give others"
        )
    return LlavaOnevisionConfig(
        vision_config=vision, text_config=text, image_token_index=tokens[0], video_token_index=tokens[1],
        image_grid_pinpoints=pinpoints(old.get("image_grid_pinpoints", "(1x1),...,(6x6)"), side),
        vision_aspect_ratio=old.get("image_aspect_ratio", "anyres_max_9"), tie_word_embeddings=text.tie_word_embeddings,
    )  # fmt: skip


def check(config: Any, found: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """Return {old name: new name}, after comparing names and shapes with the model of `config`."""
    from transformers import LlavaOnevisionForConditionalGeneration

    with torch.device("meta"):
        model = LlavaOnevisionForConditionalGeneration(config)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    names = {old: new for old in found if (new := new_name(old)) is not None}
    if config.tie_word_embeddings:  # shared with the embeddings, and not saved twice
        names.pop("lm_head.weight", None)
        expected.pop("lm_head.weight")
    have = {new: found[old] for old, new in names.items()}
    if have != expected:
        odd = sorted(name for name in have.keys() | expected.keys() if have.get(name) != expected.get(name))
        raise ValueError(f"{len(odd)} tensors do not fit the model, {odd[0]!r} first: is the checkpoint whole?")
    return names


def convert(
    source: Path, target: Path, heads: int = HEADS, tokens: tuple[int, int] = (IMAGE_TOKEN, VIDEO_TOKEN)
) -> None:
    """Write the checkpoint in `source` to the folder `target`, one shard in memory at a time."""
    found = shapes(source)
    config = new_config(json.loads((source / "config.json").read_text()), found, heads, tokens)
    names = check(config, found)
    target.mkdir(parents=True, exist_ok=True)
    table, total = {}, 0
    for shard in shards(source):
        with safe_open(shard, "pt") as tensors:
            part = {names[old]: tensors.get_tensor(old) for old in tensors.keys() if old in names}  # noqa: SIM118
        total += sum(one.numel() * one.element_size() for one in part.values())
        table.update(dict.fromkeys(part, shard.name))
        save_file(part, target / shard.name, metadata={"format": "pt"})
        config.dtype = next(iter(part.values())).dtype
    config.architectures = ["LlavaOnevisionForConditionalGeneration"]
    config.save_pretrained(target)
    index = {"metadata": {"total_size": total}, "weight_map": table}
    (target / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    convert(given.source, given.target)
    print(f"{given.target}: load it with LlavaOnevisionForConditionalGeneration.from_pretrained")


if __name__ == "__main__":
    main()
