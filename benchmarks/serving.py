"""Pruned against native servers: requests a second and time to the first token at 1, 4, 16 and 32 clients.

    .venv-serve/bin/python benchmarks/serving.py

Needs vLLM and a quiet machine. Two models: the embedded one, and one whose encoder dominates (serving_model.py). Both
servers of a model run at the same time and take turns: one that waits takes no processor time to speak of. Writes
benchmarks/results/serve/*.json; the same command goes on where it was stopped, and leaves alone what is complete.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from evoprune.bench.serving import run as running
from evoprune.bench.serving import table
from evoprune.bench.serving.client import client
from evoprune.bench.serving.server import Server, http

sys.path.insert(0, str(Path(__file__).parent))
from serving_model import build, embedded

RESULTS = Path(__file__).parent / "results" / "serve"
MODELS = Path(tempfile.gettempdir()) / "evoprune-serving"
READY = 900  # seconds in which a server has to answer
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model, how it is served, and what is sent."""

    name: str
    text: str
    keep: int
    dtype: str
    length: int
    plan: running.Plan

    def folder(self) -> tuple[Path, dict[str, Any]]:
        """Return where the model is, built if need be, and the facts of it."""
        folder = MODELS / self.name
        if self.name != "embedded":
            return folder, build(folder)
        embedded(folder)
        return folder, {}


CASES = (
    Case(
        "embedded", "the embedded model", 49, "float32", 512,
        running.Plan(requests=(24, 48, 96, 96), side=112, warmup=8),
    ),
    Case(
        "encoder", "LLaVA-1.5's tower (CLIP ViT-L/14 at 336 px) before a decoder of 2 small layers, random weights", 64,
        "bfloat16", 1024, running.Plan(requests=(8, 16, 32, 64), side=336, warmup=2),
    ),
)  # fmt: skip


def command(case: Case, arm: str, folder: Path, port: int) -> list[str]:
    """Return the command of a server."""
    words = [
        str(Path(sys.executable).with_name("vllm")), "serve", str(folder),
        "--served-model-name", f"evoprune-{case.name}", "--host", "127.0.0.1", "--port", str(port),
        "--dtype", case.dtype, "--enforce-eager", "--block-size", "32", "--max-model-len", str(case.length),
    ]  # fmt: skip
    if arm == running.PRUNED:
        options = {
            "architectures": ["EvoPruneLlavaForConditionalGeneration"],
            "evoprune": {"method": "evoprune", "keep": case.keep},
        }
        words += ["--hf-overrides", json.dumps(options)]
    return words


@contextmanager
def served(words: Sequence[str], url: str, log: Path) -> Iterator[None]:
    """Run a server in a process group of its own until the block ends; one that is left over would be measured."""
    port = int(url.rpartition(":")[2])
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError as error:
            raise SystemExit(
                f"port {port} is taken ({error.strerror}): end that server, or give another --port"
            ) from error
    with log.open("w") as file:
        process = subprocess.Popen(
            words, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **ENVIRONMENT}, start_new_session=True
        )
    try:
        _wait(process, url, log)
        yield
    finally:
        for which in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, which)
                process.wait(30)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + READY
    while time.monotonic() < until:
        if process.poll() is not None:
            last = "".join(log.read_text(errors="replace").splitlines(keepends=True)[-20:])
            raise SystemExit(f"the server ended with {process.returncode} before it was ready; its last words:\n{last}")
        try:
            if http().get(f"{url}/health", timeout=5).status_code == 200:
                return
        except http().HTTPError:
            pass
        time.sleep(1)
    raise SystemExit(f"the server was not ready after {READY} s: see {log}")


def measure(case: Case, output: Path, port: int, sends: Any, overwrite: bool) -> None:
    """Start both servers of `case` and measure what its file does not have."""
    cells = case.plan.rounds * len(case.plan.concurrency)
    if output.exists() and not overwrite:
        found = running.load(output)
        same = found["keep"] == case.keep and found["dtype"] == case.dtype and found["client"] == sends.name
        if same and found["plan"] == running.configuration(case.plan) and len(found["cells"]) == cells:
            print(f"{output} is complete: nothing to do (--overwrite measures it anew)")
            return
    folder, facts = case.folder()
    commands = {arm: command(case, arm, folder, port + i) for i, arm in enumerate((running.NATIVE, running.PRUNED))}
    with ExitStack() as stack:
        servers = []
        for i, (arm, words) in enumerate(commands.items()):
            url = f"http://127.0.0.1:{port + i}"
            print(f"starting: {shlex.join(words)}", flush=True)
            stack.enter_context(served(words, url, Path(tempfile.gettempdir()) / f"evoprune-serving-{arm}.log"))
            servers.append(Server.at(url, arm))
        progress = stack.enter_context(Progress(console=Console(stderr=True)))
        task = progress.add_task(case.name, total=None)
        shown = {arm: shlex.join(["vllm", *words[1:2], folder.name, *words[3:]]) for arm, words in commands.items()}
        result = running.begin(
            servers, case.plan, sends, case=case.name, text=case.text, keep=case.keep, dtype=case.dtype, model=facts,
            commands=shown, cores=len(os.sched_getaffinity(0)), load=os.getloadavg()[0],
        )  # fmt: skip
        if output.exists() and not overwrite:
            result = running.resumed(output, result)
        output.parent.mkdir(parents=True, exist_ok=True)
        begun = time.monotonic()
        running.measure(servers, case.plan, sends, result, output, lambda what: progress.update(task, description=what))
        print(f"{case.name}: measured in {time.monotonic() - begun:.0f} s")


def main(
    only: Annotated[str | None, typer.Option(help="One of the cases: embedded or encoder.")] = None,
    rounds: Annotated[int, typer.Option(help="Turns of every server at every number of clients.")] = 3,
    scale: Annotated[float, typer.Option(help="Times as many requests, at least one a client: 0.5 to try.")] = 1.0,
    sender: Annotated[str, typer.Option("--client", help="vllm, own or auto.")] = "auto",
    port: Annotated[int, typer.Option(help="Of the native server; the pruned one has the next.")] = 8138,
    output: Annotated[Path, typer.Option(help="Folder for the results.")] = RESULTS,
    overwrite: Annotated[bool, typer.Option(help="Begin anew.")] = False,
) -> None:
    """Measure the cases, one after the other, and print their tables."""
    if only is not None and only not in {case.name for case in CASES}:
        raise typer.BadParameter(f"{only!r} is no case: choose embedded or encoder")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end with this process
    sends = client(sender)
    for case in CASES:
        if only in (None, case.name):
            sizes = tuple(
                max(clients, round(scale * number))
                for clients, number in zip(case.plan.concurrency, case.plan.requests, strict=True)
            )
            path = output / f"{case.name}.json"
            measure(replace(case, plan=replace(case.plan, rounds=rounds, requests=sizes)), path, port, sends, overwrite)
            table.show(running.load(path))


if __name__ == "__main__":
    typer.run(main)
