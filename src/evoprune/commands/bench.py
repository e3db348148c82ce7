"""``evoprune bench``: native against any pruners, stage by stage, interleaved in one run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import typer

from ..bench import run as running
from ..bench.build import build, processors, skeleton
from ..bench.inputs import Maker, Shape
from ..bench.presets import Preset
from ..bench.sweep import Sweep, shapes
from ..models import find
from ..pruners import EvoPrune
from . import bench_words as words
from .device import choose_device, choose_dtype
from .errors import refused
from .loading import load
from .terminal import emit, progress, quiet, watched

PICTURE = (480, 640)  # height and width of what a local model is shown


def run(wanted: words.Wanted, outputs: words.Outputs) -> None:
    """Check everything that can be wrong, build the model, measure, and write."""
    outputs.check()
    shown = watched(outputs.stdout)
    quiet(shown=False)
    pruners, rounds = words.make_pruners(wanted), words.rounds(wanted)
    device, dtype = choose_device(wanted.device), choose_dtype(wanted.dtype)
    if isinstance(dtype, str):  # where weights are random, what such models are run in
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    words.check_words(wanted, device)
    if wanted.threads is not None:
        torch.set_num_threads(wanted.threads)
    preset = words.find_preset(wanted.model)
    with refused(ValueError):
        asked = {name: words.numbers(name, getattr(wanted, name)) for name in ("images", "frames", "batch")}
        usual = words.usual(preset, wanted.model)
        todo = shapes(asked["images"], asked["frames"], asked["batch"] or [1], usual)
        plan = running.Plan(
            pruners, todo, wanted.stages, rounds, wanted.options, wanted.native_read, wanted.naive,
            wanted.encoder_mode, wanted.decode_tokens, wanted.seed,
        )  # fmt: skip
        head = running.facts(
            model=wanted.model, preset=None if preset is None else preset.to_dict(), stages=wanted.stages, dtype=dtype,
            device=device, attention=wanted.attention,
        )  # fmt: skip
        sweep = Sweep(None if outputs.stdout else outputs.json, {**head, **plan.configuration()}, head)
        sweep.resume(outputs.overwrite)
    if not all(sweep.done(shape) for shape in todo):
        with progress(shown) as bars:
            step = bars.add_task(f"Building {wanted.model}", total=None)
            with refused(ValueError):
                if preset is not None:
                    model, maker = _published(wanted, preset, plan, dtype, device)
                else:
                    model, maker = _local(wanted, plan, dtype, device)
            bars.remove_task(step)
            sweep.result["dtype"] = str(model.dtype).removeprefix("torch.")  # of a local model: as it is stored
            running.bench(model, maker, plan, sweep, _steps(bars))
    _report(sweep.result, outputs)
    if all(arm.get("error") for cell in sweep.result["cells"] for arm in cell["arms"]):
        raise typer.Exit(1)  # the reasons are in the table


def _steps(bars: Any) -> Callable[[Shape, int], Callable[[str], None]]:
    """A progress bar for each cell."""

    def begin(shape: Shape, steps: int) -> Callable[[str], None]:
        task = bars.add_task(str(shape), total=steps)
        started = False

        def advance(what: str) -> None:
            nonlocal started
            bars.update(task, description=f"{shape}, {what}", advance=int(started))
            started = True

        return advance

    return begin


def _report(result: dict[str, Any], outputs: words.Outputs) -> None:
    from ..bench import table

    if outputs.stdout:
        emit(result)
    else:
        table.show(result)
    if outputs.csv is not None:
        table.write_csv(result, outputs.csv)
    if outputs.plot is not None:
        from ..bench import plot

        with refused(ValueError):
            plot.stages([result], outputs.plot)
            if len({cell["frames"] for cell in result["cells"]} - {None}) > 1:
                plot.frames([result], outputs.plot.with_stem(f"{outputs.plot.stem}-frames"))


def _published(
    wanted: words.Wanted, preset: Preset, plan: running.Plan, dtype: torch.dtype, device: torch.device
) -> tuple[Any, Maker]:
    """Try everything on a model without memory, then build the real one."""
    empty = skeleton(preset, plan.stages, wanted.attention)
    pictures, videos = processors(preset)
    maker = Maker(
        find(empty, **_choices(plan)), pictures, videos, size=preset.picture, prompt=preset.prompt, seed=plan.seed
    )
    _try(empty, maker, plan)
    running.check_memory(wanted.model, empty, maker, plan, dtype, device, wanted.attention)
    model = build(preset, plan.stages, dtype=dtype, device=device, attention=wanted.attention, seed=plan.seed)
    return model, Maker(find(model), pictures, videos, size=preset.picture, prompt=preset.prompt, seed=plan.seed)


def _local(wanted: words.Wanted, plan: running.Plan, dtype: torch.dtype, device: torch.device) -> tuple[Any, Maker]:
    kind = "auto" if wanted.dtype == "auto" else dtype
    model, processor = load(wanted.model, [EvoPrune(keep=1.0)], device, kind)
    if model.config._attn_implementation != wanted.attention:
        with refused(ValueError, ImportError):
            model.set_attn_implementation(wanted.attention)
    videos = getattr(processor, "video_processor", None)
    maker = Maker(find(model), processor.image_processor, videos, size=PICTURE, seed=plan.seed)
    _try(model, maker, plan)
    return running.settle(model), maker


def _try(model: Any, maker: Maker, plan: running.Plan) -> None:
    for shape in plan.shapes:
        maker.check(shape)
    plan.arms(find(model))
    running.try_pruners(model, plan.pruners, plan.options)


def _choices(plan: running.Plan) -> dict[str, Any]:
    return {name: value for name, value in plan.options.items() if name != "encoder_batch"}
