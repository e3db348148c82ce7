"""The numbers of published models, each from the config.json and preprocessor_config.json of the model cited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .presets import Preset, Values

# Vision towers.
CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768,
}  # fmt: skip
SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 26,
    "num_attention_heads": 16, "image_size": 384, "patch_size": 14, "vision_use_head": False,
}  # fmt: skip
INTERNVIT = {
    "model_type": "internvl_vision", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": [448, 448], "patch_size": [14, 14], "attention_bias": True,
    "layer_scale_init_value": 0.1, "use_qk_norm": False, "norm_type": "layer_norm",
}  # fmt: skip
QWEN2_VIT = {
    "model_type": "qwen2_vl_vision", "depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16,
    "in_channels": 3, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
}  # fmt: skip
QWEN25_VIT = {
    "model_type": "qwen2_5_vl_vision", "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16,
    "in_channels": 3, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2,
}  # fmt: skip
QWEN3_VIT = {
    "model_type": "qwen3_vl_vision", "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16,
    "in_channels": 3, "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
    "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24],
}  # fmt: skip
QWEN3_VIT_SMALL = {
    **QWEN3_VIT, "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17],
}  # fmt: skip
SMOL_SIGLIP = {
    "model_type": "smolvlm_vision", "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "image_size": 512, "patch_size": 16,
}  # fmt: skip


# Language models.
def _decoder(kind: str, sizes: Sequence[int], vocabulary: int, *parts: Mapping[str, Any], **more: Any) -> Values:
    """Return a language model of (width, MLP, layers, heads, key heads), and what `parts` and `more` say beside."""
    width, mlp, layers, heads, keys = sizes
    made = {
        "model_type": kind, "hidden_size": width, "intermediate_size": mlp, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": keys, "vocab_size": vocabulary, **more,
    }  # fmt: skip
    for part in parts:
        made |= part
    return made


VICUNA_7B = _decoder("llama", (4096, 11008, 32, 32, 32), 32064, max_position_embeddings=4096, rms_norm_eps=1e-5)
VICUNA_13B = _decoder("llama", (5120, 13824, 40, 40, 40), 32064, max_position_embeddings=4096, rms_norm_eps=1e-5)
LONG = {"max_position_embeddings": 32768}
QWEN2_7B = (3584, 18944, 28, 28, 4)
QWEN2_05B = (896, 4864, 24, 14, 2)


def _mrope(sections: list[int], theta: float = 1e6, **more: Any) -> Values:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, "mrope_section": sections, **more}}


QWEN2_SECTIONS = _mrope([16, 24, 24])
QWEN3_SECTIONS = _mrope([24, 20, 20], 5e6, mrope_interleaved=True)
QWEN_IDS = {
    "vision_start_token_id": 151652, "vision_end_token_id": 151653, "image_token_id": 151655, "video_token_id": 151656,
}  # fmt: skip

# Picture and video processors.
CLIP_PICTURES = ("CLIPImageProcessor", {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}})
NEXT_GRID = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
NEXT_PICTURES = ("LlavaNextImageProcessor", {**CLIP_PICTURES[1], "image_grid_pinpoints": NEXT_GRID, "do_pad": True})
OV_GRID = [[384 * rows, 384 * columns] for rows in range(1, 7) for columns in range(1, 7)]
OV_SIZE = {"height": 384, "width": 384}
OV_PICTURES = ("LlavaOnevisionImageProcessor", {"size": OV_SIZE, "image_grid_pinpoints": OV_GRID})
OV_VIDEOS = ("LlavaOnevisionVideoProcessor", {"size": OV_SIZE})
OV_MORE = {
    "image_grid_pinpoints": OV_GRID, "vision_aspect_ratio": "anyres_max_9", "image_token_index": 151646,
    "video_token_index": 151647, "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
}  # fmt: skip
INTERNVL_SIZE = {"height": 448, "width": 448}
INTERNVL_PICTURES = ("GotOcr2ImageProcessor", {"size": INTERNVL_SIZE, "crop_to_patches": True})
INTERNVL_VIDEOS = ("InternVLVideoProcessor", {"size": INTERNVL_SIZE})
INTERNVL_MORE = {
    "image_token_id": 151667, "image_seq_length": 256, "downsample_ratio": 0.5, "vision_feature_layer": -1,
    "vision_feature_select_strategy": "default", "tie_word_embeddings": False,
}  # fmt: skip


def _qwen(kind: str, patch: int) -> tuple[tuple[str, Any], tuple[str, Any]]:
    sizes = {"patch_size": patch, "merge_size": 2, "temporal_patch_size": 2}
    return ("Qwen2VLImageProcessor", sizes), (f"{kind}VideoProcessor", {**sizes, "do_sample_frames": False})


QWEN2_PICTURES, QWEN2_VIDEOS = _qwen("Qwen2VL", 14)
QWEN3_PICTURES, QWEN3_VIDEOS = _qwen("Qwen3VL", 16)
SMOL_SIZES = {"size": {"longest_edge": 2048}, "max_image_size": {"longest_edge": 512}}

ALL = (
    Preset(
        "llava-1.5-7b", "llava-hf/llava-1.5-7b-hf", "Llava", CLIP, VICUNA_7B, CLIP_PICTURES,
        parameters=7_063_427_072, tokens=576, picture=(480, 640),
        more={"image_token_index": 32000, "vision_feature_layer": -2, "vision_feature_select_strategy": "default"},
    ),
    Preset(
        "llava-1.5-13b", "llava-hf/llava-1.5-13b-hf", "Llava", CLIP, VICUNA_13B, CLIP_PICTURES,
        parameters=13_351_494_656, tokens=576, picture=(480, 640),
        more={"image_token_index": 32000, "vision_feature_layer": -2, "vision_feature_select_strategy": "default"},
    ),
    Preset(
        "llava-next-7b", "llava-hf/llava-v1.6-vicuna-7b-hf", "LlavaNext", CLIP, VICUNA_7B, NEXT_PICTURES,
        parameters=7_063_431_168, tokens=2928, picture=(672, 672),
        more={"image_token_index": 32000, "image_grid_pinpoints": NEXT_GRID},
        note="the form with Vicuna-7B; a picture is five tiles",
    ),
    Preset(
        "llava-video-7b", "lmms-lab/LLaVA-Video-7B-Qwen2", "LlavaOnevision", SIGLIP,
        _decoder("qwen2", QWEN2_7B, 152064, LONG, rope_theta=1e6), OV_PICTURES, video_processor=OV_VIDEOS,
        parameters=8_030_348_832, tokens=196, picture=(384, 640), frames=64, more=OV_MORE,
        note="built as LLaVA-OneVision, which pools a frame to 14 x 14; the options pool=average and newline=grid pool "
        "to 13 x 13 with a newline a row, as LLaVA-Video was trained",
    ),
    Preset(
        "llava-onevision-7b", "llava-hf/llava-onevision-qwen2-7b-ov-hf", "LlavaOnevision", SIGLIP,
        _decoder("qwen2", QWEN2_7B, 152064, LONG, rope_theta=1e6), OV_PICTURES, video_processor=OV_VIDEOS,
        parameters=8_030_348_832, tokens=3699, picture=(768, 768), more=OV_MORE, note="a picture is five tiles",
    ),
    Preset(
        "llava-onevision-0.5b", "llava-hf/llava-onevision-qwen2-0.5b-ov-hf", "LlavaOnevision", SIGLIP,
        _decoder("qwen2", QWEN2_05B, 151936, LONG, rope_theta=1e6, tie_word_embeddings=True), OV_PICTURES,
        video_processor=OV_VIDEOS, parameters=893_618_208, tokens=3699, picture=(768, 768),
        more={**OV_MORE, "tie_word_embeddings": True}, note="a picture is five tiles",
    ),
    Preset(
        "qwen2-vl-2b", "Qwen/Qwen2-VL-2B-Instruct", "Qwen2VL", {**QWEN2_VIT, "hidden_size": 1536},
        _decoder("qwen2_vl_text", (1536, 8960, 28, 12, 2), 151936, LONG, QWEN2_SECTIONS, tie_word_embeddings=True),
        QWEN2_PICTURES, video_processor=QWEN2_VIDEOS, parameters=2_208_985_600, tokens=576, picture=(672, 672),
        more={**QWEN_IDS, "tie_word_embeddings": True},
    ),
    Preset(
        "qwen2.5-vl-7b", "Qwen/Qwen2.5-VL-7B-Instruct", "Qwen2_5_VL", {**QWEN25_VIT, "out_hidden_size": 3584},
        _decoder("qwen2_5_vl_text", QWEN2_7B, 152064, LONG, QWEN2_SECTIONS), QWEN2_PICTURES,
        video_processor=QWEN2_VIDEOS, parameters=8_292_166_656, tokens=576, picture=(672, 672), more=QWEN_IDS,
    ),
    Preset(
        "qwen2.5-vl-3b", "Qwen/Qwen2.5-VL-3B-Instruct", "Qwen2_5_VL", {**QWEN25_VIT, "out_hidden_size": 2048},
        _decoder(
            "qwen2_5_vl_text", (2048, 11008, 36, 16, 2), 151936, LONG, QWEN2_SECTIONS, tie_word_embeddings=True
        ),
        QWEN2_PICTURES, video_processor=QWEN2_VIDEOS, parameters=3_754_622_976, tokens=576, picture=(672, 672),
        more={**QWEN_IDS, "tie_word_embeddings": True},
    ),
    Preset(
        "qwen3-vl-8b", "Qwen/Qwen3-VL-8B-Instruct", "Qwen3VL", {**QWEN3_VIT, "out_hidden_size": 4096},
        _decoder("qwen3_vl_text", (4096, 12288, 36, 32, 8), 151936, QWEN3_SECTIONS, head_dim=128), QWEN3_PICTURES,
        video_processor=QWEN3_VIDEOS, parameters=8_767_123_696, tokens=576, picture=(768, 768), more=QWEN_IDS,
    ),
    Preset(
        "qwen3-vl-4b", "Qwen/Qwen3-VL-4B-Instruct", "Qwen3VL", {**QWEN3_VIT_SMALL, "out_hidden_size": 2560},
        _decoder(
            "qwen3_vl_text", (2560, 9728, 36, 32, 8), 151936, QWEN3_SECTIONS, head_dim=128, tie_word_embeddings=True
        ),
        QWEN3_PICTURES, video_processor=QWEN3_VIDEOS, parameters=4_437_815_808, tokens=576, picture=(768, 768),
        more={**QWEN_IDS, "tie_word_embeddings": True},
    ),
    Preset(
        "qwen3-vl-2b", "Qwen/Qwen3-VL-2B-Instruct", "Qwen3VL", {**QWEN3_VIT_SMALL, "out_hidden_size": 2048},
        _decoder(
            "qwen3_vl_text", (2048, 6144, 28, 16, 8), 151936, QWEN3_SECTIONS, head_dim=128, tie_word_embeddings=True
        ),
        QWEN3_PICTURES, video_processor=QWEN3_VIDEOS, parameters=2_127_532_032, tokens=576, picture=(768, 768),
        more={**QWEN_IDS, "tie_word_embeddings": True},
    ),
    Preset(
        "internvl3-8b", "OpenGVLab/InternVL3-8B-hf", "InternVL", INTERNVIT,
        _decoder("qwen2", QWEN2_7B, 151674, LONG, rope_theta=1e6), INTERNVL_PICTURES,
        video_processor=INTERNVL_VIDEOS, parameters=7_944_373_760, tokens=1280, picture=(896, 896), more=INTERNVL_MORE,
        note="a picture is five tiles",
    ),
    Preset(
        "internvl3-1b", "OpenGVLab/InternVL3-1B-hf", "InternVL", INTERNVIT,
        _decoder("qwen2", QWEN2_05B, 151674, LONG, rope_theta=1e6), INTERNVL_PICTURES,
        video_processor=INTERNVL_VIDEOS, parameters=938_193_024, tokens=1280, picture=(896, 896), more=INTERNVL_MORE,
        note="a picture is five tiles",
    ),
    Preset(
        "smolvlm-500m", "HuggingFaceTB/SmolVLM-500M-Instruct", "SmolVLM", SMOL_SIGLIP,
        _decoder("llama", (960, 2560, 32, 15, 5), 49280, head_dim=64, rope_theta=1e5, max_position_embeddings=8192),
        ("SmolVLMImageProcessor", SMOL_SIZES), parameters=507_482_304, tokens=1088, picture=(1024, 1024),
        more={"image_token_id": 49190, "scale_factor": 4, "tie_word_embeddings": False},
        note="a picture is seventeen tiles",
    ),
)  # fmt: skip

PRESETS = {preset.name: preset for preset in ALL}
