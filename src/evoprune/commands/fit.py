"""``evoprune fit``: recipes of FitPrune for a model, from a few prompts; or what that would cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress
from rich.table import Table

from ..bench.manifest import manifest
from ..models import find
from ..recipe_files import write
from ..recipes import Recipe, identify
from . import fit_data, loading
from .clips import FRAMES
from .device import choose_device, choose_dtype
from .errors import UserError, refused
from .terminal import check_writable, emit, out, progress, quiet, watched


@dataclass(frozen=True)
class Wanted:
    """What stands on the command line."""

    model: str
    reduce: str
    data: Path | None = None
    prompt: str | None = None
    output: Path = Path("recipe.json")
    samples: int = 32
    frames: int | None = None
    seed: int = 0
    official: bool = False
    device: str = "auto"
    dtype: str = "auto"


def run(wanted: Wanted, *, as_json: bool) -> None:
    """Check everything that can be wrong, then load the model, fit, and write the recipes.

    Raises
    ------
    UserError
        A share that is none or cannot be met, data or a model that cannot be used, or an output that cannot be written.
    """
    shares = parse_shares(wanted.reduce)
    kind, place = choose_dtype(wanted.dtype), choose_device(wanted.device)
    check_writable(wanted.output, (".json",))
    shown = watched(as_json)
    asked = fit_data.find_prompts(wanted.model, wanted.data, wanted.prompt, wanted.samples, wanted.seed)
    video = any(one.videos or one.film is not None for one in asked)
    if wanted.frames is not None and not video:
        raise UserError(f"--frames {wanted.frames} says how many frames of a video, but there is none: leave it out")
    model, processor = loading.load(wanted.model, [], place, kind, shown, video=video)
    facts = manifest(
        fitted_on=str(place), dtype=str(model.dtype).removeprefix("torch."), seed=wanted.seed,
        data=None if wanted.data is None else str(wanted.data),
    )  # fmt: skip
    from ..fit import fit

    start = time.perf_counter()
    with progress(shown) as bars, refused(ValueError):
        recipes = fit(
            model,
            fit_data.prompts(asked, processor, place, (wanted.frames or FRAMES) if video else None),
            shares,
            official=wanted.official,
            store="cpu",
            name=wanted.model,
            manifest=facts,
            advance=_bars(bars),
        )
    seconds = time.perf_counter() - start
    try:
        write(wanted.output, recipes)
    except OSError as error:
        raise UserError(f"{wanted.output} cannot be written ({error.strerror}): choose another path") from error
    if as_json:
        rows = [{key: value for key, value in one.to_dict().items() if key != "manifest"} for one in recipes]
        emit({"output": str(wanted.output), "seconds": seconds, "recipes": rows, "manifest": facts})
    else:
        _show(recipes, wanted.output, seconds)


def parse_shares(text: str) -> list[float]:
    """Return ``"0.4,0.5"`` as numbers in (0, 1).

    Raises
    ------
    UserError
        One of them is none.
    """
    shares = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            shares.append(float(part))
        except ValueError:
            shares.append(0.0)
        if not 0.0 < shares[-1] < 1.0:
            raise UserError(f"--reduce {part} is no share between 0 and 1: give for example 0.4, or 0.4,0.5")
    if not shares:
        raise UserError("--reduce is empty: give the share of the visual tokens' FLOPs to take away, such as 0.4")
    return list(dict.fromkeys(shares))


def cost(wanted: Wanted, *, as_json: bool) -> None:
    """Print FLOPs and memory of a fit, of a preset of ``evoprune bench`` or of any model, without weights."""
    from ..bench.published import PRESETS
    from ..fit.cost import estimate

    shares = parse_shares(wanted.reduce)
    quiet(False)
    if wanted.model in PRESETS:
        from ..bench.build import skeleton

        preset = PRESETS[wanted.model]
        model, tokens, text = skeleton(preset), preset.tokens * (preset.frames or 1), preset.prompt
    else:
        model, text = loading.skeleton(wanted.model), 40
        grid = find(model).grid
        if grid is None:
            raise UserError(
                f"the pictures of {wanted.model} vary in size: give a preset of its kind, see evoprune bench --list"
            )
        tokens = find(model).native(grid)
    found = estimate(
        model, tokens=tokens, text=text, samples=wanted.samples, official=wanted.official, shares=len(shares),
        size={"float32": 4}.get(wanted.dtype, 2),
    )  # fmt: skip
    if as_json:
        emit({"model": wanted.model, "layers": identify(model.config).layers, **found.to_dict()})
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for label, value in (
        ("vision tower, once", None if found.tower is None else f"{found.tower / 1e12:,.1f} TFLOPs"),
        ("language model unpruned, once", f"{found.recording / 1e12:,.1f} TFLOPs"),
        (f"search, {found.passes} tolerances at most", f"< {found.searching / 1e12:,.1f} TFLOPs"),
        ("in all", f"< {found.flops / 1e12:,.1f} TFLOPs"),
        ("weights", _bytes(found.weights)),
        ("recorded prompts, on the CPU", _bytes(found.prompts)),
        ("sums of attention, at most", _bytes(found.sums)),
    ):
        table.add_row(label, value or "not known")
    console = out()
    told = f"Fitting {wanted.model} on {found.samples} prompts of {tokens} + {text} tokens:"
    console.print(told, soft_wrap=True, markup=False)
    console.print(table)


def _bytes(count: int) -> str:
    return f"{count / 2**30:,.2f} GiB"


def _bars(bars: Progress) -> Callable[[str, int, int], None]:
    tasks: dict[str, Any] = {}

    def advance(what: str, done: int, total: int) -> None:
        if what not in tasks:
            for task in tasks.values():
                bars.update(task, visible=False)
            tasks[what] = bars.add_task(what, total=total or None)
        bars.update(tasks[what], completed=done)

    return advance


def _show(recipes: Sequence[Recipe], output: Path, seconds: float) -> None:
    console, table = out(), Table(box=None, pad_edge=False)
    for heading, justify in (("asked", "right"), ("removed", "right"), ("mean left", "right"), ("left", "left")):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for one in recipes:
        counts = " ".join(str(count) for count in one.left)
        table.add_row(f"{one.reduce:.4g}", f"{one.removed:.4f}", f"{one.mean:.4f}", f"{one.tokens}: {counts}")
    console.print(table)
    console.print(
        "\nShares are of the visual tokens' FLOPs in the language model; left is how many tokens leave each layer. "
        f"Fitted on {recipes[0].samples} prompts in {seconds:.1f} s; written to {output}.",
        soft_wrap=True,
        markup=False,
    )
