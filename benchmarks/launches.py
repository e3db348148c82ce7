"""How many operations one forward of the tower launches: native, pruned, and pruned at fewer layers.

    python benchmarks/launches.py --output benchmarks/results/launches.json

With one picture a GPU waits for launches, not for arithmetic. The tower of LLaVA-1.5 has its real depth and its 576
patches, but is narrow: counting needs no real width. On a CPU torch's dispatched operations are counted on the plain
path (EVOPRUNE_KERNELS=off), about what a GPU without our kernels would launch; on a CUDA machine the kernels
themselves too. FLOPs of the same schedules at real size come from the shape model.
"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode

import evoprune
from evoprune import flops, schedules
from evoprune.bench import manifest

SIDE, PATCH, LAYERS, TOKENS = 336, 14, 24, 576  # openai/clip-vit-large-patch14-336; the last layer is not read
WIDTH, HEADS = 64, 4  # narrow
SCHEDULES = ("skip", "skip:0", "every:3", "every:4", "every:5", "every:6")
# Real sizes: tokens, layers read, width, MLP, prefix, budgets.
TOWERS = {
    "CLIP-L/336, 23 of 24 layers": (576, 23, 1024, 4096, 1, (128, 64, 32)),
    "SigLIP so400m/384, 26 layers": (729, 26, 1152, 4304, 0, (64, 32, 16)),
}


class Operations(TorchDispatchMode):
    """Counts what torch dispatches: all operations, and those that compute and not only view."""

    def __init__(self) -> None:
        super().__init__()
        self.all = self.computing = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.all += 1
        self.computing += not func.is_view
        return func(*args, **(kwargs or {}))


def build(device: torch.device) -> Any:
    """LLaVA-1.5 with a tower of real depth, narrow, and a language model of two narrow layers, which is never run."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=128
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=100, image_seq_length=TOKENS)
    torch.manual_seed(0)
    return LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa").eval().to(device)


def kernels(run: Any) -> int:
    """Return the launches of `run` as the CUDA profiler sees them, a whole graph being one."""
    from torch.profiler import ProfilerActivity, profile

    run()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        run()
        torch.cuda.synchronize()
    return sum(one.count for one in seen.key_averages() if "Launch" in one.key and one.key.startswith("cu"))


def count(model: Any, pixels: torch.Tensor, pruner: Any, mode: str, name: str) -> dict[str, Any]:
    """One arm: operations of the pruned tower and, on a GPU, kernels; those alone where a graph is replayed."""

    def run() -> None:
        model.model.get_image_features(pixel_values=pixels, return_dict=True)

    with ExitStack() as stack:
        merges: tuple[int, ...] = ()
        if pruner is not None:
            stack.enter_context(evoprune.apply(model, pruner, encoder_mode=mode))
            merges = pruner.merges(TOKENS, LAYERS - 1)
        run()
        with Operations() as seen:
            run()
        launched = kernels(run) if pixels.is_cuda else None
    return {
        "name": name,
        "merging": sum(merged > 0 for merged in merges),
        "operations": seen.all,
        "computing": seen.computing,
        "kernels": launched,
    }


def ratios() -> list[dict[str, Any]]:
    """FLOPs of each schedule at real size, to those of the unpruned layers."""
    rows = []
    for name, (tokens, layers, width, mlp, prefix, keeps) in TOWERS.items():
        native = flops.tower(tokens, (0,) * layers, width, mlp, prefix)
        for schedule in SCHEDULES:
            least = schedules.smallest(tokens, layers, schedule)
            for keep in keeps:
                row: dict[str, Any] = {"tower": name, "schedule": schedule, "keep": keep, "least": least, "ratio": None}
                if keep >= least:
                    merges = schedules.allocate(tokens, keep, layers, schedule)
                    row |= {
                        "ratio": flops.tower(tokens, merges, width, mlp, prefix) / native,
                        "selection": flops.selection(tokens, merges, width, prefix=prefix) / native,
                        "merging": sum(merged > 0 for merged in merges),
                    }
                rows.append(row)
    return rows


@torch.no_grad()
def main(
    keep: Annotated[int, typer.Option(help="Patch tokens that stay of 576.")] = 64,
    output: Annotated[Path | None, typer.Option(help="Where the JSON goes.")] = None,
) -> None:
    """Count the arms, print the table and write the JSON."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        os.environ["EVOPRUNE_KERNELS"] = "off"
    model = build(device)
    pixels = torch.randn(1, 3, SIDE, SIDE, device=device)
    arms = [count(model, pixels, None, "eager", "native, as shipped")]
    arms.append(count(model, pixels, evoprune.EvoPrune(keep=1.0), "eager", "native, layers read"))
    for schedule in SCHEDULES:
        if keep >= schedules.smallest(TOKENS, LAYERS - 1, schedule):
            pruner = evoprune.EvoPrune(keep=keep, schedule=schedule)
            arms.append(count(model, pixels, pruner, "eager", f"{schedule}, eager"))
            if device.type == "cuda":
                arms.append(count(model, pixels, pruner, "cudagraph", f"{schedule}, cudagraph"))
    table = Table(title=f"CLIP-L/336 at real depth, one picture, {TOKENS} -> {keep}, {device.type}")
    for column in ("arm", "merging layers", "operations", "computing", "to native", "kernels"):
        table.add_column(column, justify="right")
    for arm in arms:
        arm["to_native"] = arm["computing"] / arms[1]["computing"]
        table.add_row(*(str(arm[k]) for k in ("name", "merging", "operations", "computing")),
                      f"{arm['to_native']:.2f}", str(arm["kernels"]))  # fmt: skip
    Console().print(table)
    if output is not None:
        what = (
            f"The CLIP-L/336 tower at its depth of {LAYERS} layers, narrow, with projector, one picture, {TOKENS} -> "
            f"{keep} tokens, float32, sdpa: operations that torch dispatches in one forward on {device.type}, "
            f"{'our kernels in use' if device.type == 'cuda' else 'the plain torch path'}; to native without the "
            "layer that nobody reads."
        )
        data = {"manifest": manifest(seed=0, keep=keep), "what": what, "arms": arms, "flops": ratios()}
        output.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
