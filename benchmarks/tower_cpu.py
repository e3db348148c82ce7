"""Does the wall clock follow the FLOPs? The CLIP-L/336 tower of LLaVA-1.5 at real size with random weights, on a CPU.

    python benchmarks/tower_cpu.py --output benchmarks/results/tower_cpu.json

Three arms, interleaved in one process on one thread: the tower as shipped, the tower without the layer that nobody
reads, and the pruned one. The ratio that counts is to the second; FLOPs are counted by torch on the very modules.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

import evoprune
from evoprune import flops
from evoprune.bench import manifest

SIDE, PATCH, WIDTH, MLP, LAYERS = 336, 14, 1024, 4096, 24  # openai/clip-vit-large-patch14-336, config.json
TOKENS = (SIDE // PATCH) ** 2


def build(attention: str) -> Any:
    """LLaVA-1.5 with its real tower and a language model of two narrow layers, which is never run."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=MLP,
        num_hidden_layers=LAYERS,
        num_attention_heads=16,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=768,
    )
    text = LlamaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, vocab_size=128
    )
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=100, image_seq_length=TOKENS)
    torch.manual_seed(0)
    return LlavaForConditionalGeneration._from_config(config, attn_implementation=attention).eval()


def arms(keep: int) -> dict[str, evoprune.EvoPrune | None]:
    """What is applied in each arm; keeping all tokens leaves only the unread layer out."""
    return {"as shipped": None, "layers read": evoprune.EvoPrune(keep=1.0), "pruned": evoprune.EvoPrune(keep=keep)}


@torch.no_grad()
def once(model: Any, pixels: torch.Tensor, pruner: Any) -> tuple[float, float]:
    """Wall and processor seconds of one run of the tower."""
    with ExitStack() as stack:
        if pruner is not None:
            stack.enter_context(evoprune.apply(model, pruner))
        wall, cpu = time.perf_counter(), time.process_time()
        model.model.get_image_features(pixel_values=pixels, return_dict=True)
        return time.perf_counter() - wall, time.process_time() - cpu


@torch.no_grad()
def counted(pixels: torch.Tensor, pruner: Any) -> int:
    """FLOPs that torch counts on eager attention (it counts none for sdpa on a CPU)."""
    model = build("eager")
    with ExitStack() as stack:
        if pruner is not None:
            stack.enter_context(evoprune.apply(model, pruner))
        with FlopCounterMode(display=False) as counter:
            model.model.get_image_features(pixel_values=pixels, return_dict=True)
    return counter.get_total_flops()


def predicted(pruner: Any) -> tuple[int, int]:
    """FLOPs by the shape model: of tower, patch embedding and projector, and of the selection."""
    layers = LAYERS if pruner is None else LAYERS - 1
    merges = (0,) * layers if pruner is None else pruner.merges(TOKENS, layers)
    body = flops.tower(TOKENS, merges, WIDTH, MLP, prefix=1) + flops.linear(TOKENS, 3 * PATCH**2, WIDTH)
    return body + flops.linear(TOKENS - sum(merges), WIDTH, 64, 64), flops.selection(TOKENS, merges, WIDTH, prefix=1)


def main(
    keep: Annotated[int, typer.Option(help="Patch tokens that stay of 576.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each arm.")] = 15,
    images: Annotated[int, typer.Option(min=1)] = 1,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    output: Annotated[Path | None, typer.Option(help="Where the JSON goes.")] = None,
) -> None:
    """Time and count the three arms."""
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    pixels = torch.randn(images, 3, SIDE, SIDE)
    model, found = build("sdpa"), {}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in arms(keep)}
    for number in track(range(repeats + 2), description="runs", console=Console(stderr=True)):
        for name, pruner in arms(keep).items():
            seconds = once(model, pixels, pruner)
            if number >= 2:  # the first two warm up
                times[name].append(seconds)
    for name, pruner in arms(keep).items():
        body, selection = (images * value for value in predicted(pruner))
        found[name] = {
            "seconds": median(t[0] for t in times[name]),
            "cpu_seconds": median(t[1] for t in times[name]),
            "flops_counted": counted(pixels, pruner),
            "flops_predicted": body,
            "selection_flops_predicted": selection,
        }
    report(found, keep, images, repeats, output)


def report(found: dict[str, dict[str, Any]], keep: int, images: int, repeats: int, output: Path | None) -> None:
    """Print the table and write the JSON."""
    pruned = found["pruned"]
    table = Table(title=f"CLIP-L/336 tower, {images} image(s), {TOKENS} -> {keep}, float32, sdpa")
    for column in ("arm", "s", "CPU s", "GFLOP counted", "predicted", "time ratio", "CPU ratio", "FLOP ratio"):
        table.add_column(column, justify="right")
    for name, row in found.items():
        row["pruned_to_this"] = {
            "seconds": pruned["seconds"] / row["seconds"],
            "cpu_seconds": pruned["cpu_seconds"] / row["cpu_seconds"],
            "flops": pruned["flops_predicted"] / row["flops_predicted"],
        }
        predicted_all = row["flops_predicted"] + row["selection_flops_predicted"]
        row["counted_to_predicted"] = row["flops_counted"] / predicted_all
        figures = [row["seconds"], row["cpu_seconds"], row["flops_counted"] / 1e9, predicted_all / 1e9]
        table.add_row(name, *(f"{value:.3f}" for value in [*figures, *row["pruned_to_this"].values()]))
    Console().print(table)
    if output is not None:
        facts = manifest(model="CLIP-L/336, random weights", dtype="float32", attention="sdpa", seed=0)
        data = {"manifest": facts, "keep": keep, "images": images, "repeats": repeats, "arms": found}
        output.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
