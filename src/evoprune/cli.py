"""The command line: what each command takes. What it does is in ``commands``, imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import cli_measure, cli_serve
from ._version import __version__
from .cli_words import Json, told

app = typer.Typer(
    name="evoprune",
    help="Visual-token pruning for multimodal language models, without training.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"evoprune {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Visual-token pruning for multimodal language models, without training."""


@app.command()
def demo(
    output: Annotated[
        Path | None,
        typer.Option(
            help="Picture to write: survivors and what each stands for. PNG; GIF or WebP with --video.",
            show_default="evoprune_demo.png, .gif with --video",
        ),
    ] = None,
    video: Annotated[bool, typer.Option("--video", help="Ask about clips; the picture plays them.")] = False,
    keep: Annotated[
        str, typer.Option(help="Tokens to keep of each picture or frame: a number, a share or 'all'.")
    ] = "0.25",
    runs: Annotated[int, typer.Option(min=1, help="Timed runs of each side; the median counts.")] = 5,
    json: Json = False,
) -> None:
    """Ask the embedded model about a few pictures or clips, with and without EvoPrune.

    Nothing is downloaded: the models, trained by this project on scenes of handwritten digits on photographs, are
    part of the package. Counts, answers and times are measured in the run that prints them.

    \b
    Examples:
      evoprune demo
      evoprune demo --keep 24 --output survivors.png
      evoprune demo --video --output survivors.gif
      evoprune demo --json
    """
    with told():
        from .commands import demo as command

        command.run(output=output, keep=keep, runs=runs, as_json=json, video=video)


@app.command()
def ask(
    model: Annotated[str, typer.Argument(help="Folder of a model, a hub id, or an embedded one: tiny, tiny-video.")],
    prompt: Annotated[str, typer.Option(help="The question.")],
    keep: Annotated[str, typer.Option(help="Tokens to keep of each picture or frame: 64, 0.25 or 'all'.")],
    image: Annotated[
        list[str] | None, typer.Option(help="Picture file; give the option again for more pictures.")
    ] = None,
    video: Annotated[
        list[str] | None,
        typer.Option(help="Video file, animated picture or folder of frames; give the option again for more videos."),
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of each video, evenly spread.", show_default="32")] = None,
    method: Annotated[str, typer.Option(help="One of `evoprune methods`.")] = "evoprune",
    schedule: Annotated[
        str | None, typer.Option(help="How many tokens merge at which layer: skip, every:4, mean, last:13, 0,96,0, ...")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Another setting of the method.")
    ] = None,
    encoder_batch: Annotated[
        int | None, typer.Option(help="Pictures and frames encoded at a time.", show_default="all at once")
    ] = None,
    encoder_mode: Annotated[
        str | None, typer.Option(help="eager, compile or cudagraph: for few pictures at a time.", show_default="eager")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A choice of the model's family (`evoprune models`): pool=average."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto (as stored), float32, float16 or bfloat16.")] = "auto",
    compare: Annotated[bool, typer.Option("--compare", help="Answer without pruning too.")] = False,
    json: Json = False,
) -> None:
    """Ask a model about pictures or videos while visual tokens are pruned.

    \b
    Examples:
      evoprune ask tiny --image scene.png --prompt "How many digits are there?" --keep 0.25
      evoprune ask llava-hf/llava-1.5-7b-hf --image cat.jpg --prompt "What is this?" --keep 64 --compare
      evoprune ask ./my-llava --image a.jpg --image b.jpg --prompt "What differs?" --keep 64 --schedule last:13
      evoprune ask tiny --image scene.png --prompt "What digit is red?" --method random --keep 49 --set seed=3
      evoprune ask llava-hf/llava-onevision-qwen2-7b-ov-hf --video clip.mp4 --frames 64 --prompt "Who wins?" --keep 32
    """
    with told():
        from .commands import ask as command
        from .commands.settings import apply_options

        command.run(
            model,
            images=image or [],
            videos=video or [],
            frames=frames,
            options=apply_options(option or [], encoder_batch=encoder_batch, encoder_mode=encoder_mode),
            prompt=prompt,
            method={"method": method, "keep": keep, "schedule": schedule, "settings": settings or []},
            max_new_tokens=max_new_tokens,
            device=device,
            dtype=dtype,
            compare=compare,
            as_json=json,
        )


app.command()(cli_measure.bench)
app.command("eval")(cli_measure.evaluate)
app.command()(cli_measure.compare)
app.command()(cli_serve.serve)


@app.command()
def fit(
    model: Annotated[str, typer.Argument(help="Folder of a model, a hub id, or an embedded one: tiny, tiny-video.")],
    reduce: Annotated[
        str, typer.Option(help="Shares of the visual tokens' FLOPs in the language model to take away: 0.4 or 0.4,0.6.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            help='Folder of pictures, or a .jsonl file with lines {"image": "cat.jpg", "prompt": "What is this?"}.',
            show_default="dev questions, for an embedded model",
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("recipe.json"),
    prompt: Annotated[
        str | None, typer.Option(help="Asked about the pictures of a folder.", show_default="Describe the image.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Prompts to look at, drawn where there are more.")] = 32,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Frames of each video, evenly spread.", show_default="32")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of prompts.")] = 0,
    official: Annotated[
        bool, typer.Option("--official", help="Search as the official code does, which misses the share asked for.")
    ] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Print FLOPs and memory and stop; presets of `evoprune bench` too.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto (as stored), float32, float16 or bfloat16.")] = "auto",
    json: Json = False,
) -> None:
    """Fit recipes for FitPrune: how many visual tokens each layer of a language model can do without.

    \b
    Examples:
      evoprune fit tiny --reduce 0.5 -o recipe.json
      evoprune fit llava-hf/llava-1.5-7b-hf --data photos/ --prompt "What is this?" --reduce 0.4,0.6
      evoprune fit ./my-llava --data questions.jsonl --samples 64 --reduce 0.5 -o my-llava.json
      evoprune fit llava-1.5-7b --reduce 0.5 --estimate
      evoprune ask tiny --image scene.png --prompt "What digit is red?" --method fitprune --keep 0.5
    """
    with told():
        from .commands import fit as command

        wanted = command.Wanted(
            model=model,
            reduce=reduce,
            data=data,
            prompt=prompt,
            output=output,
            samples=samples,
            frames=frames,
            seed=seed,
            official=official,
            device=device,
            dtype=dtype,
        )
        if estimate:
            command.cost(wanted, as_json=json)
        else:
            command.run(wanted, as_json=json)


@app.command()
def doctor(json: Json = False) -> None:
    """Tell what this machine offers: versions, devices, attention backends, GPU kernels, optional packages.

    \b
    Examples:
      evoprune doctor
      evoprune doctor --json
    """
    with told():
        from .commands import doctor as command

        command.run(as_json=json)


@app.command()
def models(json: Json = False) -> None:
    """List the model families that pruners can be applied to.

    \b
    Examples:
      evoprune models
      evoprune models --json
    """
    with told():
        from .commands import tables

        tables.models(as_json=json)


@app.command()
def methods(json: Json = False) -> None:
    """List the pruning methods, where each acts, what it does, and its settings.

    \b
    Examples:
      evoprune methods
      evoprune methods --json
    """
    with told():
        from .commands import tables

        tables.methods(as_json=json)
