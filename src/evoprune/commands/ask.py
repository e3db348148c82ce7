"""``evoprune ask``: one question to any supported model, pruned, and unpruned beside it if asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from rich.markup import escape
from rich.table import Table

from ..apply import apply
from ..pruners import Pruner
from ..video import Clip
from . import cost
from .answer import generate, prepare, visual_tokens
from .clips import open_clips
from .device import choose_device, choose_dtype, timed
from .errors import UserError, refused
from .loading import defaults, load
from .pictures import open_picture
from .settings import make_pruner, missing
from .terminal import emit, out, progress, watched
from .watching import answering


@dataclass(frozen=True)
class Question:
    """What is asked, about which pictures and videos, and how long the answer may get."""

    prompt: str
    pictures: Sequence[Image.Image]
    clips: Sequence[Clip]
    max_new_tokens: int

    @property
    def items(self) -> int:
        """Pictures and frames."""
        return len(self.pictures) + sum(len(clip.frames) for clip in self.clips)


def run(
    name: str,
    *,
    images: Sequence[str],
    prompt: str,
    method: Mapping[str, Any],
    max_new_tokens: int,
    device: str,
    dtype: str,
    compare: bool,
    as_json: bool,
    videos: Sequence[str] = (),
    frames: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Check everything that can be wrong, then load the model and answer.

    Parameters
    ----------
    options
        What `evoprune.apply` takes beside the pruner (`settings.apply_options`).
    """
    filled = missing(method["method"], method.get("settings", ()), defaults(name))
    pruner, chosen = make_pruner(**method, defaults=filled), dict(options or {})
    kind, place = choose_dtype(dtype), choose_device(device)
    if chosen.get("encoder_mode") == "cudagraph" and place.type != "cuda":
        raise UserError(
            f"--encoder-mode cudagraph needs a CUDA device, but the model is to run on {place}: give --device cuda, or "
            "--encoder-mode compile"
        )
    if not images and not videos:
        raise UserError("there is nothing to ask about: give a picture with --image or a video with --video")
    shown = watched(as_json)
    pictures, clips = [open_picture(path) for path in images], open_clips(videos, frames, shown)
    anywhere = {name: value for name, value in chosen.items() if name != "encoder_mode"}  # tried without weights
    model, processor = load(name, [pruner], place, kind, shown, options=anywhere, video=bool(videos))
    asked = Question(prompt, pictures, clips, max_new_tokens)
    with progress(shown) as bars, answering(bars, model, asked.items, max_new_tokens) as streamer:
        result = _answers(model, processor, pruner, asked, compare, chosen, streamer)
    seen = {"images": list(images)} | ({"videos": [clip.to_dict() for clip in clips]} if clips else {})
    how = {"method": pruner.to_dict()} | ({"options": chosen} if chosen else {})
    how |= {"defaults": filled} if filled else {}
    result = {"model": name, **seen, "prompt": prompt, **how} | result
    if as_json:
        emit(result)
    else:
        _show(result)


def unpruned_side(
    model: Any, processor: Any, inputs: Any, max_new_tokens: int, streamer: Callable[[], Any] = lambda: None
) -> dict[str, Any]:
    """Answer, placeholders and milliseconds of the model as it is, after a short call to warm up."""
    with refused(ValueError):
        generate(model, processor, inputs, 1)  # whatever a first call sets up is in neither time
        said, milliseconds = timed(lambda: generate(model, processor, inputs, max_new_tokens, streamer()), model.device)
    return {"answer": said[0], "visual_tokens": visual_tokens(model, inputs), "milliseconds": milliseconds}


def _answers(
    model: Any,
    processor: Any,
    pruner: Pruner,
    asked: Question,
    compare: bool,
    options: Mapping[str, Any],
    streamer: Callable[[], Any],
) -> dict[str, Any]:
    device: torch.device = model.device
    inputs = prepare(processor, [asked.prompt], [asked.pictures], device, [asked.clips])
    sides: dict[str, Any] = {}
    if compare:
        sides["unpruned"] = unpruned_side(model, processor, inputs, asked.max_new_tokens, streamer)
    with refused(ValueError):
        handle = apply(model, pruner, tokenizer=getattr(processor, "tokenizer", None), **options)
    with handle, refused(ValueError):  # placeholders that do not fit, if the processor is not the model's own
        if "encoder_mode" in options:
            generate(model, processor, inputs, 1)  # compiling or capturing is not in the time
        said, milliseconds = timed(lambda: generate(model, processor, inputs, asked.max_new_tokens, streamer()), device)
        stats = handle.stats
        sides["pruned"] = {
            "answer": said[0],
            "visual_tokens": sum(stats.visual_tokens),
            "tower_flops": stats.flops,
            "milliseconds": milliseconds,
            "visual_tokens_per_image": list(stats.visual_tokens),
            "tokens_after_each_layer": list(stats.tokens),
        }
        if stats.decoder_tokens:  # of each picture or frame, behind each layer of the language model
            sides["pruned"]["decoder_tokens"] = [list(one) for one in stats.decoder_tokens]
        full = cost.unpruned(model, stats)
    if compare:
        sides["unpruned"]["tower_flops"] = full.shipped
    ratio = stats.flops / full.read, stats.flops / full.shipped
    return {
        "answer": sides["pruned"]["answer"],
        **sides,
        "tower_flop_ratio": {"to_layers_read": ratio[0], "to_model_as_shipped": ratio[1]},
        "device": str(device),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def _show(result: Mapping[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading, justify in (("", "left"), ("answer", "left"), ("visual tokens", "right"), ("time", "right")):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for side in ("unpruned", "pruned"):
        if side in result:
            one = result[side]
            label = "without pruning" if side == "unpruned" else result["method"]["method"]
            left = sum(block[-1] for block in one.get("decoder_tokens", []))
            tokens = f"{one['visual_tokens']}, then {left}" if left else str(one["visual_tokens"])
            table.add_row(label, escape(one["answer"]), tokens, f"{one['milliseconds']:.0f} ms")
    console = out()
    console.print(table)
    for setting, value in result.get("defaults", {}).items():
        console.print(f"\n{setting}: {value}, which comes with the embedded model", markup=False, soft_wrap=True)
    for clip in result.get("videos", []):
        console.print(_used(clip), markup=False, soft_wrap=True)
    ratio = result["tower_flop_ratio"]
    console.print(
        f"\nFLOPs of the vision tower: {ratio['to_layers_read']:.3f} of the unpruned layers in use, "
        f"{ratio['to_model_as_shipped']:.3f} of the model as shipped. Times are of one run on {result['device']} in "
        f"{result['dtype']}, everything from pictures in memory to the answer's last token.",
        soft_wrap=True,
    )


def _used(clip: Mapping[str, Any]) -> str:
    times = clip["timestamps"]
    span = f", from {times[0]:.1f} s to {times[-1]:.1f} s" if times else ""
    note = f" ({clip['note']})" if clip["note"] else ""
    return f"\n{clip['source']}: {clip['frames_used']} of {clip['total_frames']} frames{span}{note}"
