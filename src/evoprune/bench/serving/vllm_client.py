"""`vllm bench serve` as the client: vLLM's own way of sending requests and taking times."""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .prompts import Prompt
from .samples import Run, Sample
from .server import Server


class BenchServe:
    """`vllm bench serve` on a file of chats, run in this process: to start it costs half a minute every time.

    Its own warm-up is left out, as it sends the first measured picture, which the server would then have cached.
    """

    def __init__(self) -> None:
        self.name = f"vllm bench serve {version('vllm')}"

    def run(self, server: Server, prompts: Sequence[Prompt], concurrency: int, tokens: int) -> Run:
        from vllm.benchmarks.serve import add_cli_args, main
        from vllm.utils.argparse_utils import FlexibleArgumentParser

        parser = FlexibleArgumentParser()
        add_cli_args(parser)
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder, "prompts.jsonl")
            lines = (json.dumps({"content": list(prompt.content)}) for prompt in prompts)
            data.write_text("\n".join(lines), encoding="utf-8")
            words = arguments(server, data, len(prompts), concurrency, tokens)
            try:
                return _read(_quietly(main, parser.parse_args(words)))
            finally:
                gc.unfreeze()  # it keeps everything that was alive when it began

    def __repr__(self) -> str:
        return self.name


def arguments(server: Server, data: Path, number: int, concurrency: int, tokens: int) -> list[str]:
    """Return the arguments of `vllm bench serve`; nothing is tokenised here, so no tokenizer is needed."""
    return [
        "--backend", "openai-chat", "--endpoint", "/v1/chat/completions", "--base-url", server.url,
        "--model", server.model, "--skip-tokenizer-init", "--dataset-name", "custom_image",
        "--dataset-path", str(data), "--disable-shuffle", "--enable-multimodal-chat", "--no-oversample",
        "--num-prompts", str(number), "--custom-output-len", str(tokens), "--ignore-eos", "--temperature", "0",
        "--max-concurrency", str(concurrency), "--num-warmups", "0", "--ready-check-timeout-sec", "0",
        "--percentile-metrics", "ttft", "--metric-percentiles", "50,99", "--disable-tqdm", "--save-detailed",
    ]  # fmt: skip


def _quietly(main: Any, parsed: argparse.Namespace) -> dict[str, Any]:
    with contextlib.redirect_stdout(io.StringIO()):
        return main(parsed)


def _read(result: dict[str, Any]) -> Run:
    rows = zip(*(result[name] for name in ("ttfts", "latencies", "input_lens", "output_lens", "errors")), strict=True)
    samples = []
    for ttft, latency, prompt, answer, error in rows:
        told = " ".join(str(error).split())[-200:]
        if not answer or told:
            samples.append(Sample(0.0, 0.0, 0, 0, told or "no token came"))
        else:
            samples.append(Sample(float(ttft), float(latency), int(prompt), int(answer)))
    return Run(float(result["duration"]), tuple(samples))
