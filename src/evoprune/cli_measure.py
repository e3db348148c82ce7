"""The commands that measure: what they take; what they do is in ``commands``, imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .cli_words import Json, told
from .commands.errors import UserError

SERVERS = "Servers that run already"  # a panel of the help


def bench(
    context: typer.Context,
    model: Annotated[
        str | None, typer.Argument(help="A preset (--list), the folder of a model, or tiny, tiny-video.")
    ] = None,
    stages: Annotated[
        str, typer.Option(help="all, or encoder: tower and projector alone, without a language model.")
    ] = "all",
    methods: Annotated[str, typer.Option(help="Of `evoprune methods`, with commas between.")] = "evoprune",
    keep: Annotated[str, typer.Option(help="Tokens of each picture, tile or frame: 64,32 or 0.25.")] = "64",
    images: Annotated[str | None, typer.Option(help="Pictures a prompt: 1 or 1,2.")] = None,
    frames: Annotated[str | None, typer.Option(help="Frames of a prompt's video: 8 or 2,8,32.")] = None,
    batch: Annotated[str, typer.Option(help="Prompts at once: 1 or 1,16.")] = "1",
    repeats: Annotated[int, typer.Option(help="Timed rounds, in which every arm has a turn.")] = 5,
    warmup: Annotated[
        int | None,
        typer.Option(help="Untimed rounds more than the two for FLOPs and memory.", show_default="2 on a GPU, else 0"),
    ] = None,
    decode_tokens: Annotated[int, typer.Option(help="Tokens generated behind the first one.")] = 8,
    dtype: Annotated[
        str,
        typer.Option(help="float32, float16, bfloat16.", show_default="bfloat16 on a GPU, else float32"),
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    attention: Annotated[str, typer.Option(help="sdpa, eager or flash_attention_2, of all arms alike.")] = "sdpa",
    threads: Annotated[
        int | None, typer.Option(help="Threads of torch on the CPU.", show_default="torch's own")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights and pictures.")] = 0,
    naive: Annotated[bool, typer.Option("--naive", help="Methods inside the encoder on the plain path too.")] = False,
    native_read: Annotated[
        bool,
        typer.Option(help="An arm without the layers nobody reads, where the model has some."),
    ] = True,
    encoder_mode: Annotated[str, typer.Option(help="eager, compile or cudagraph, of the pruned arms.")] = "eager",
    encoder_batch: Annotated[
        int | None, typer.Option(help="Pictures and frames encoded at a time.", show_default="all at once")
    ] = None,
    schedule: Annotated[str | None, typer.Option(help="As in `evoprune ask`.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of the methods that have it.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A choice of the model's family: pool=average.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="File for the result; - prints it instead of tables.")] = None,
    csv: Annotated[Path | None, typer.Option(help="File for the figures, a row a stage.")] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG, SVG or PDF: bars by stage; over frames if several.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume/--overwrite", help="Go on where --json FILE stopped, or begin anew.")
    ] = True,
    listed: Annotated[bool, typer.Option("--list", help="Show the presets and exit.")] = False,
    server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="A pruned server, measured from outside.", rich_help_panel=SERVERS),
    ] = None,
    native_server: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The same model unpruned, in turns with it.", rich_help_panel=SERVERS),
    ] = None,
    concurrency: Annotated[
        str, typer.Option(help="Clients at a time, each number by itself.", rich_help_panel=SERVERS)
    ] = "1,4,16,32",
    requests: Annotated[
        str | None,
        typer.Option(
            help="Of each round: one number, or one for each number of clients.",
            show_default="3 a client, 16 at least",
            rich_help_panel=SERVERS,
        ),
    ] = None,
    side: Annotated[int, typer.Option(help="Pixels of the pictures' sides.", rich_help_panel=SERVERS)] = 336,
    goodput: Annotated[
        float | None,
        typer.Option(
            metavar="MS", help="Count answers whose first token comes within this too.", rich_help_panel=SERVERS
        ),
    ] = None,
    client: Annotated[
        str,
        typer.Option(
            help="Who sends: vllm (its `bench serve`), own, or auto: vllm if installed.", rich_help_panel=SERVERS
        ),
    ] = "auto",
) -> None:
    """Measure a model with and without pruners, stage by stage, all arms in turn in one run; or servers from outside.

    Presets are published architectures at real size with random weights: nothing is downloaded. With --server, the
    pruned and the native server get the same pictures and questions in turns, at several numbers of clients.

    \b
    Examples:
      evoprune bench tiny --keep 48,24 --methods evoprune,random
      evoprune bench llava-video-7b --stages encoder --frames 2 --keep 64,32,16 --json out.json
      evoprune bench llava-1.5-7b --batch 1,16 --keep 128,64,32 --naive --json out.json --plot out.png
      evoprune bench --server http://127.0.0.1:8000 --native-server http://127.0.0.1:8001 --json out.json --plot out.png
      evoprune bench --list
    """
    with told():
        from .commands import bench as command
        from .commands import bench_words as words
        from .commands.settings import apply_options

        if listed:
            words.presets(as_json=str(json) == "-")
            return
        from .commands import bench_server

        bench_server.refuse_others(_given(context), server)
        if server is not None:
            bench_server.run(
                bench_server.Wanted(
                    server=server,
                    native=native_server,
                    concurrency=concurrency,
                    requests=requests,
                    repeats=repeats,
                    warmup=warmup,
                    decode_tokens=decode_tokens,
                    side=side,
                    seed=seed,
                    goodput=goodput,
                    client=client,
                ),
                words.Outputs(json=json, csv=csv, plot=plot, overwrite=not resume),
            )
            return
        if model is None:
            raise UserError(
                "there is nothing to measure: give a preset (evoprune bench --list) or the folder of a model"
            )
        command.run(
            words.Wanted(
                model=model,
                stages=stages,
                methods=methods,
                keep=keep,
                schedule=schedule,
                settings=settings or [],
                images=images,
                frames=frames,
                batch=batch,
                dtype=dtype,
                device=device,
                attention=attention,
                repeats=repeats,
                warmup=warmup,
                decode_tokens=decode_tokens,
                threads=threads,
                seed=seed,
                naive=naive,
                native_read=native_read,
                encoder_mode=encoder_mode,
                options=apply_options(option or [], encoder_batch=encoder_batch),
            ),
            words.Outputs(json=json, csv=csv, plot=plot, overwrite=not resume),
        )


def _given(context: typer.Context) -> list[str]:
    """Names of what stands on the command line, in its order of declaration."""
    return [name for name in context.params if str(context.get_parameter_source(name)).endswith("COMMANDLINE")]


def evaluate(
    model: Annotated[
        str | None, typer.Argument(help="Folder of a model, a hub id, or an embedded one: tiny, tiny-video.")
    ] = None,
    model_option: Annotated[str | None, typer.Option("--model", help="The same, as an option.")] = None,
    tasks: Annotated[
        str | None, typer.Option(help="Names of benchmarks or lmms-eval tasks, with commas; tiny_scenes, tiny_clips.")
    ] = None,
    methods: Annotated[
        str | None, typer.Option(help="Of `evoprune methods`, with commas, or all.", show_default="evoprune")
    ] = None,
    keep: Annotated[
        str | None, typer.Option(help="Tokens of each picture, tile or frame: 64,32 or 0.5,0.25.", show_default="0.25")
    ] = None,
    paper: Annotated[
        str | None, typer.Option(help="Exactly the cells of a table: table1, table2, table3 or fig4.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the results.", show_default="results/MODEL")
    ] = None,
    schedule: Annotated[str | None, typer.Option(help="As in `evoprune ask`.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting of the methods that have it.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A choice of the model's family: pool=average.")
    ] = None,
    encoder_batch: Annotated[
        int | None, typer.Option(help="Pictures and frames encoded at a time.", show_default="all at once")
    ] = None,
    sanity: Annotated[
        bool,
        typer.Option(
            "--sanity/--no-sanity",
            help="Random (3 seeds), grid, down-sampled pictures and, for videos, fewer frames, at every budget.",
        ),
    ] = True,
    harness: Annotated[
        str, typer.Option(help="lmms-eval, batched (embedded models and tasks only), or auto.")
    ] = "auto",
    base: Annotated[
        str | None,
        typer.Option(
            help="lmms-eval's own model class, such as qwen2_5_vl.", show_default="llava_hf for LLaVA, else auto"
        ),
    ] = None,
    model_args: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An argument of that class: max_pixels=1003520.")
    ] = None,
    gen_kwargs: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An argument of generate for every task.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first questions of each task.")] = None,
    batch: Annotated[int | None, typer.Option(help="Questions at once, where the model's class can.")] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of each video.", show_default="the class's own")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto (as stored), float32, float16 or bfloat16.")] = "auto",
    attention: Annotated[str, typer.Option(help="sdpa, eager or flash_attention_2, of all cells alike.")] = "sdpa",
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Go on where a cell crashes; exit with 1.")] = False,
    latency: Annotated[bool, typer.Option("--latency", help="Measure the time of every cell's stages too.")] = False,
    repeats: Annotated[int, typer.Option(help="Timed rounds of --latency, in which every arm has a turn.")] = 5,
    latency_batch: Annotated[int, typer.Option(help="Prompts a timed call of --latency.")] = 1,
    plots: Annotated[bool, typer.Option("--plots", help="Draw the pictures into the folder.")] = False,
    export: Annotated[
        Path | None, typer.Option(help="Folder for predictions as spreadsheets, which other harnesses can score.")
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Run nothing: summarise what the folder has.")] = False,
    json: Json = False,
) -> None:
    """Compare methods at equal tokens on benchmarks, beside sanity baselines, with paired intervals.

    Every finished cell is kept: the same command goes on where the last one stopped.

    \b
    Examples:
      evoprune eval tiny --tasks tiny_scenes --methods all --keep 0.5,0.25,0.125,0.0625
      evoprune eval llava-hf/llava-1.5-7b-hf --tasks mme,pope,textvqa --methods evoprune,divprune --keep 64 --latency
      evoprune eval --paper table1 --output table1
      evoprune eval --paper table1 --model tiny --limit 100
      evoprune eval --report --output table1 --plots
      accelerate launch --num_processes 8 -m evoprune eval Qwen/Qwen2.5-VL-7B-Instruct --tasks mvbench --keep 0.25
    """
    with told():
        from .commands import eval as command
        from .commands import eval_words as words
        from .commands.settings import apply_options

        if model is not None and model_option is not None:
            raise UserError(f"two models are given, {model} and {model_option}: give one")
        wanted = words.Wanted(
            model=model or model_option,
            tasks=tasks,
            methods=methods,
            keep=keep,
            paper=paper,
            settings=settings or [],
            schedule=schedule,
            sanity=sanity,
            harness=harness,
            base=base,
            model_args=model_args or [],
            gen_kwargs=gen_kwargs or [],
            limit=limit,
            batch=batch,
            frames=frames,
            device=device,
            dtype=dtype,
            attention=attention,
            keep_going=keep_going,
            latency=latency,
            repeats=repeats,
            latency_batch=latency_batch,
            options=apply_options(option or [], encoder_batch=encoder_batch),
        )
        command.run(wanted, words.Outputs(folder=output, plots=plots, export=export, json=json, report=report))


def compare(
    first: Annotated[Path, typer.Argument(help="A samples file of lmms-eval --log_samples, as .jsonl.")],
    second: Annotated[Path, typer.Argument(help="Another one of the same task: what changed from the first to it.")],
    json: Json = False,
) -> None:
    """Compare two runs of lmms-eval on the same questions: difference with its paired interval, and flips.

    \b
    Examples:
      evoprune compare full/samples_mme.jsonl keep64/samples_mme.jsonl
      evoprune compare full.jsonl keep64.jsonl --json
    """
    with told():
        from .commands import compare as command

        command.run(first, second, as_json=json)
