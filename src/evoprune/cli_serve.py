"""The command that serves: what it takes; what it does is in ``commands``, imported when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from .cli_words import Json, told


def serve(
    model: Annotated[str, typer.Argument(help="Folder of a model, a hub id, or an embedded one: tiny, tiny-video.")],
    keep: Annotated[str, typer.Option(help="Tokens to keep of each picture or frame: 64, 0.25 or 'all'.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[-- VLLM ARGUMENTS]", help="Passed on to `vllm serve`.")
    ] = None,
    method: Annotated[str, typer.Option(help="One of `evoprune methods` that needs no question.")] = "evoprune",
    schedule: Annotated[str | None, typer.Option(help="As in `evoprune ask`.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Another setting of the method.")
    ] = None,
    impl: Annotated[
        str, typer.Option(help="Whose model: vllm, transformers, or auto (vLLM's own where it has one).")
    ] = "auto",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    per_request_keep: Annotated[
        bool, typer.Option("--per-request-keep", help="Let a request name its own budget (evoprune_keep).")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print the command, start nothing.")] = False,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Ask the server once whether it prunes; stop it if not.")
    ] = True,
    json: Json = False,
) -> None:
    """Serve a model with vLLM's OpenAI-compatible API while visual tokens are pruned in its encoder.

    Needs vLLM: pip install 'evoprune\\[serve]'. The exact command is printed before it runs.

    \b
    Examples:
      evoprune serve tiny --keep 0.25
      evoprune serve llava-hf/llava-1.5-7b-hf --keep 64 -- --max-model-len 4096
      evoprune serve llava-hf/llava-onevision-qwen2-7b-ov-hf --keep 64 -- --tensor-parallel-size 2
      evoprune serve ./my-llava --keep 64 --per-request-keep --host 0.0.0.0 --port 9000
      evoprune serve tiny --keep 49 --dry-run --json
    """
    with told():
        from .commands import serve as command

        command.run(
            model,
            {"method": method, "keep": keep, "schedule": schedule, "settings": settings or []},
            command.How(
                implementation=impl,
                host=host,
                port=port,
                per_request=per_request_keep,
                arguments=arguments or [],
                dry_run=dry_run,
                check=check,
                as_json=json,
            ),
        )
