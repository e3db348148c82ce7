"""One rank of a model whose layers are split over several: what it merged, saved for the test that started it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from evoprune import Pruner
from evoprune.models.attention import Tap
from evoprune.serve.options import Options, to_row
from tests.serve.vllm import conftest, engines

KEEP = 40  # of 64: enough that attention received decides what merges


def build(folder: str, architecture: str, rank: int, ranks: int, port: int) -> Any:
    """Return the model with this rank's share of the weights."""
    from vllm.config import set_current_vllm_config
    from vllm.distributed import parallel_state
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader import get_model

    plain = {name: value for name, value in engines.SETTINGS.items() if name != "disable_log_stats"}
    overrides = engines.overrides(architecture, Pruner.from_dict({"method": "evoprune", "keep": KEEP}))
    arguments = EngineArgs(folder, hf_overrides=overrides, tensor_parallel_size=ranks, **plain)
    config = arguments.create_engine_config()
    with set_current_vllm_config(config):
        if not parallel_state.model_parallel_is_initialized():
            address = f"tcp://127.0.0.1:{port}"
            parallel_state.init_distributed_environment(ranks, rank, address, rank, backend="gloo")
            parallel_state.initialize_model_parallel(ranks)
        return get_model(vllm_config=config)


def encoded(model: Any, pruner: dict[str, Any], pixels: torch.Tensor, agree: bool) -> dict[str, Any]:
    """Return features and source maps of pictures, with or without the mean over ranks."""
    model._options = Options.of([Pruner.from_dict(pruner)])
    state = model.use(model._options)
    if not agree:
        state.over_ranks = None
    heads: list[int] = []
    look = Tap.look

    def seen(tap: Tap, query: torch.Tensor, *more: Any, **named: Any) -> None:
        heads.append(query.shape[1])
        look(tap, query, *more, **named)

    Tap.look = seen  # type: ignore[method-assign]
    arguments = {"pixel_values": pixels, "evoprune_keep_image": torch.tensor([[*to_row(None), KEEP]] * len(pixels))}
    if hasattr(model, "_process_vision_input"):  # the Transformers backend
        arguments["num_image_patches"] = torch.ones(len(pixels), dtype=torch.long)
    try:
        with torch.inference_mode():
            features = torch.stack(list(model.embed_multimodal(**arguments)))
    finally:
        Tap.look = look  # type: ignore[method-assign]
    return {"features": features, "sources": torch.stack(state.run.sources()), "heads": set(heads)}


def main() -> None:
    task = json.loads(sys.argv[1])
    os.environ["VLLM_DIST_IDENT"] = f"evoprune-{task['port']}"  # of the shared memory in which ranks meet
    torch.accelerator.empty_cache = lambda: None  # as vLLM's own worker for CPUs has it
    conftest.look_here()
    found = {}
    for architecture in task["architectures"]:
        model = build(task["folder"], architecture, task["rank"], task["ranks"], task["port"])
        pixels = torch.load(Path(task["out"]) / "pixels.pt")
        for pruner in task["pruners"]:
            found[architecture, pruner["method"]] = encoded(model, pruner, pixels, agree=True)
        for pruner in task["pruners"]:
            model.use(Options.of([Pruner.from_dict({"method": "first", "keep": 1})]))  # begins anew after this
            found[architecture, "apart", pruner["method"]] = encoded(model, pruner, pixels, agree=False)
    torch.save(found, Path(task["out"]) / f"{task['rank']}.pt")


if __name__ == "__main__":
    main()
