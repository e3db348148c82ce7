"""``evoprune ask``: one question to any supported model, pruned, and unpruned beside it if asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from rich.markup import escape
from rich.table import Table

from ..apply import apply
from ..pruners import Pruner
from . import cost
from .answer import generate, prepare, visual_tokens
from .device import choose_device, choose_dtype, timed
from .errors import refused
from .loading import load
from .pictures import open_picture
from .settings import make_pruner
from .terminal import emit, out, progress, watched


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
) -> None:
    """Check everything that can be wrong, then load the model and answer."""
    pruner = make_pruner(**method)
    kind, place = choose_dtype(dtype), choose_device(device)
    pictures = [open_picture(path) for path in images]
    shown = watched(as_json)
    model, processor = load(name, [pruner], place, kind, shown)
    with progress(shown) as bars:
        bars.add_task("Answering", total=None)
        result = _answers(model, processor, pruner, pictures, prompt, max_new_tokens, compare)
    result = {"model": name, "images": list(images), "prompt": prompt, "method": pruner.to_dict()} | result
    if as_json:
        emit(result)
    else:
        _show(result)


def _answers(
    model: Any,
    processor: Any,
    pruner: Pruner,
    pictures: list[Image.Image],
    prompt: str,
    max_new_tokens: int,
    compare: bool,
) -> dict[str, Any]:
    device: torch.device = model.device
    inputs = prepare(processor, [prompt], [pictures], device)
    full = cost.unpruned(model)
    sides: dict[str, Any] = {}
    if compare:
        with refused(ValueError):
            generate(model, processor, inputs, 1)  # whatever a first call sets up is in neither time
            said, milliseconds = timed(lambda: generate(model, processor, inputs, max_new_tokens), device)
        sides["unpruned"] = {
            "answer": said[0],
            "visual_tokens": visual_tokens(model, inputs),
            "tower_flops": full.shipped * len(pictures),
            "milliseconds": milliseconds,
        }
    with refused(ValueError):
        handle = apply(model, pruner)
    with handle, refused(ValueError):  # placeholders that do not fit, if the processor is not the model's own
        said, milliseconds = timed(lambda: generate(model, processor, inputs, max_new_tokens), device)
        stats = handle.stats
        sides["pruned"] = {
            "answer": said[0],
            "visual_tokens": sum(stats.visual_tokens),
            "tower_flops": stats.flops,
            "milliseconds": milliseconds,
            "visual_tokens_per_image": list(stats.visual_tokens),
            "tokens_after_each_layer": list(stats.tokens),
        }
    ratio = stats.flops / (full.read * len(pictures)), stats.flops / (full.shipped * len(pictures))
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
            table.add_row(label, escape(one["answer"]), str(one["visual_tokens"]), f"{one['milliseconds']:.0f} ms")
    console = out()
    console.print(table)
    ratio = result["tower_flop_ratio"]
    console.print(
        f"\nFLOPs of the vision tower: {ratio['to_layers_read']:.3f} of the unpruned layers in use, "
        f"{ratio['to_model_as_shipped']:.3f} of the model as shipped. Times are of one run on {result['device']} in "
        f"{result['dtype']}, everything from pictures in memory to the answer's last token.",
        soft_wrap=True,
    )
