"""What pruning inside the encoder saves on video frames: SigLIP so400m-384 at real size with random weights, on a CPU.

    python benchmarks/tower_video.py --output benchmarks/results/tower_video.json

Each frame's 729 patches are merged to 64, 32 and 16, as the paper's table 2 has them (arXiv 2603.03681). FLOPs are
counted by torch on the very modules and compared with the schedule's own prediction; seconds are
those of one thread, all arms interleaved in one process.
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

SIDE, PATCH, WIDTH, MLP, LAYERS = 384, 14, 1152, 4304, 26  # llava-onevision-qwen2-7b-ov-hf, vision_config
TOKENS, NARROW = (SIDE // PATCH) ** 2, 64
KEEPS = (64, 32, 16)


def build(attention: str) -> Any:
    """LLaVA-OneVision with its real tower and a language model of two narrow layers, which is never run."""
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        Qwen2Config,
        SiglipVisionConfig,
    )

    vision = SiglipVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=MLP,
        num_hidden_layers=LAYERS,
        num_attention_heads=16,
        image_size=SIDE,
        patch_size=PATCH,
        vision_use_head=False,
    )
    text = Qwen2Config(
        hidden_size=NARROW, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=128,
    )  # fmt: skip
    config = LlavaOnevisionConfig(vision_config=vision, text_config=text, image_token_index=100, video_token_index=101)
    torch.manual_seed(0)
    return LlavaOnevisionForConditionalGeneration._from_config(config, attn_implementation=attention).eval()


def arms() -> dict[str, evoprune.EvoPrune | None]:
    return {"native": None, **{f"keep {keep}": evoprune.EvoPrune(keep=keep) for keep in KEEPS}}


@torch.no_grad()
def once(model: Any, frames: torch.Tensor, pruner: Any) -> tuple[float, float]:
    """Wall and processor seconds from pixels to projected features."""
    with ExitStack() as stack:
        if pruner is not None:
            stack.enter_context(evoprune.apply(model, pruner))
        wall, cpu = time.perf_counter(), time.process_time()
        model.model.get_video_features(frames, return_dict=True)
        return time.perf_counter() - wall, time.process_time() - cpu


@torch.no_grad()
def counted(model: Any, frames: torch.Tensor, pruner: Any) -> int:
    """FLOPs that torch counts; the model's attention has to be eager, as torch counts none for sdpa on a CPU."""
    with ExitStack() as stack:
        if pruner is not None:
            stack.enter_context(evoprune.apply(model, pruner))
        with FlopCounterMode(display=False) as counter:
            model.model.get_video_features(frames, return_dict=True)
    return counter.get_total_flops()


def predicted(pruner: Any) -> tuple[int, int]:
    """FLOPs of a frame by the shape model: of tower, patch embedding and projector, and of the selection."""
    merges = (0,) * LAYERS if pruner is None else pruner.merges(TOKENS, LAYERS)
    body = flops.tower(TOKENS, merges, WIDTH, MLP) + flops.linear(TOKENS, 3 * PATCH**2, WIDTH)
    body += flops.linear(TOKENS - sum(merges), WIDTH, NARROW, NARROW)
    return body, flops.selection(TOKENS, merges, WIDTH)


def main(
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each arm.")] = 5,
    frames: Annotated[int, typer.Option(min=1)] = 2,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    output: Annotated[Path | None, typer.Option(help="Where the JSON goes.")] = None,
) -> None:
    """Count and time all arms."""
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    pixels, model = torch.randn(1, frames, 3, SIDE, SIDE), build("sdpa")
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in arms()}
    for number in track(range(repeats + 1), description="runs", console=Console(stderr=True)):
        for name, pruner in arms().items():
            if number:
                times[name].append(once(model, pixels, pruner))
            else:
                once(model, pixels[:, :1], pruner)  # warms up
    found: dict[str, dict[str, Any]] = {}
    model.set_attn_implementation("eager")
    for name, pruner in arms().items():
        body, selection = (frames * value for value in predicted(pruner))
        found[name] = {
            "seconds": median(t[0] for t in times[name]),
            "cpu_seconds": median(t[1] for t in times[name]),
            "cpu_seconds_least": min(t[1] for t in times[name]),
            "flops_counted": frames * counted(model, pixels[:, :1], pruner),
            "flops_predicted": body,
            "selection_flops_predicted": selection,
        }
    report(found, frames, repeats, output)


def report(found: dict[str, dict[str, Any]], frames: int, repeats: int, output: Path | None) -> None:
    """Print the table and write the JSON."""
    native = found["native"]
    table = Table(title=f"SigLIP so400m-384 tower, {frames} frame(s) of {TOKENS} patches, float32, sdpa")
    for column in ("arm", "CPU s", "GFLOP counted", "predicted", "CPU / native", "FLOP / native", "with selection"):
        table.add_column(column, justify="right")
    for name, row in found.items():
        both = row["flops_predicted"] + row["selection_flops_predicted"]
        row["to_native"] = {
            "seconds": row["seconds"] / native["seconds"],
            "cpu_seconds": row["cpu_seconds"] / native["cpu_seconds"],
            "flops": row["flops_predicted"] / native["flops_predicted"],
            "flops_counted": row["flops_counted"] / native["flops_counted"],
        }
        row["counted_to_predicted"] = row["flops_counted"] / both
        figures = [row["cpu_seconds"], row["flops_counted"] / 1e9, both / 1e9, row["to_native"]["cpu_seconds"]]
        figures += [row["to_native"]["flops"], row["to_native"]["flops_counted"]]
        table.add_row(name, *(f"{value:.3f}" for value in figures))
    Console().print(table)
    if output is not None:
        facts = manifest(model="SigLIP so400m-384, random weights", dtype="float32", attention="sdpa", seed=0)
        data = {"manifest": facts, "frames": frames, "repeats": repeats, "arms": found}
        output.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
