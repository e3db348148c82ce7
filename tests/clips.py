"""Tiny videos, written by PyAV, and a tiny random LLaVA-OneVision that takes them: no network."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

from tests.builders import BYTES

SPECIAL = ["<pad>", "<s>", "</s>", "<image>", "<video>"]
SIDE, PATCH = 6, 4  # 36 patches a frame; transformers pools a video's frames to 3 x 3
CHAT = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>\n"
    "{% elif c['type'] == 'video' %}<video>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
)
FPS, SIZE = 10, (64, 48)  # width, height of the clips
STEP = 4  # how much brighter a frame is than the one before


def frame(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A gray picture that tells its number by its brightness, with a white box at the upper left."""
    pixels = np.full((size[1], size[0], 3), 10 + STEP * number, dtype=np.uint8)
    pixels[: size[1] // 3, : size[0] // 3] = 255
    return pixels


def numbers(frames: np.ndarray) -> list[int]:
    """The numbers of frames that `frame` made, read off their lower right."""
    height, width = frames.shape[1:3]
    corner = frames[:, height * 2 // 3 :, width * 2 // 3 :].astype(float).mean((1, 2, 3))
    return [round((brightness - 10) / STEP) for brightness in corner]


def write_video(
    file: Path,
    count: int,
    codec: str = "mpeg4",
    *,
    gop: int = 4,
    when: Callable[[int], int] = lambda number: number,
    options: dict[str, str] | None = None,
    rotation: int = 0,
) -> Path:
    """Write `count` frames, shown at ``when(number)`` tenths of a second."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream(codec, rate=FPS, options=options or {})
        stream.width, stream.height = SIZE
        stream.pix_fmt, stream.gop_size = "yuv420p", gop
        stream.bit_rate = 4_000_000  # enough for a brightness to come out as it went in
        stream.codec_context.time_base = Fraction(1, FPS)
        for number in range(count):
            picture = av.VideoFrame.from_ndarray(frame(number), format="rgb24")
            picture.pts, picture.time_base = when(number), Fraction(1, FPS)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    if rotation:
        turn(file, rotation)
    return file


def turn(file: Path, rotation: int) -> None:
    """Note in an MP4 file that it is to be shown turned by `rotation` degrees: the matrix in the header of its track.

    By hand, as PyAV below 16 (lmms-eval asks for one) cannot.
    """
    content = bytearray(file.read_bytes())
    place = content.index(b"tkhd") + 44  # behind the box's type, version, times, duration, layer and volume
    cosine, sine = (round(65536 * one(math.radians(rotation))) for one in (math.cos, math.sin))
    content[place : place + 36] = struct.pack(">9i", cosine, -sine, 0, sine, cosine, 0, 0, 0, 1 << 30)
    file.write_bytes(content)


def write_audio(file: Path) -> Path:
    """Write a second of silence."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return file


def write_folder(folder: Path, count: int, ending: str = "png") -> Path:
    """Write frames as pictures, ``frame0`` to ``frame<count - 1>``, numbers not padded."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        Image.fromarray(frame(number)).save(folder / f"frame{number}.{ending}")
    return folder


def tokenizer(**placeholders: str) -> PreTrainedTokenizerFast:
    """Return a fast tokenizer with one token a byte and a few special ones, such as ``video_token="<video>"``."""
    placeholders = placeholders or {"image_token": "<image>", "video_token": "<video>"}
    special = [*SPECIAL[:3], *placeholders.values()]
    raw = Tokenizer(models.BPE({token: i for i, token in enumerate([*special, *BYTES])}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left",
        extra_special_tokens=placeholders, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def processor() -> LlavaOnevisionProcessor:
    look = {"size": {"height": SIDE * PATCH, "width": SIDE * PATCH}}
    return LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessorPil(**look, image_grid_pinpoints=[[SIDE * PATCH] * 2]),
        tokenizer(),
        LlavaOnevisionVideoProcessor(**look),
        num_image_tokens=SIDE**2,
        vision_feature_select_strategy="full",
        chat_template=CHAT,
    )


def model(seed: int = 0) -> LlavaOnevisionForConditionalGeneration:
    torch.manual_seed(seed)
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=8, num_attention_heads=4, image_size=SIDE * PATCH,
        patch_size=PATCH, vision_use_head=False,
    )  # fmt: skip
    text = Qwen2Config(
        vocab_size=len(SPECIAL) + len(BYTES), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    config = LlavaOnevisionConfig(
        vision_config=vision, text_config=text, image_token_index=SPECIAL.index("<image>"),
        video_token_index=SPECIAL.index("<video>"), vision_feature_layer=-1, vision_feature_select_strategy="full",
        image_grid_pinpoints=[[SIDE * PATCH] * 2], tie_word_embeddings=False,
    )  # fmt: skip
    return LlavaOnevisionForConditionalGeneration(config).eval()


def save(folder: Path) -> Path:
    """Write model and processor so that the Auto classes load them."""
    model().save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder
