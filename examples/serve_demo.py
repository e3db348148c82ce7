"""Serve the embedded model with vLLM, ask it with curl about a picture, pruned and unpruned, and stop it again.

`make serve-demo` sets everything up and runs this.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

from rich.console import Console

from evoprune.tiny import benchmark

KEEP = "0.25"
QUESTION = 9  # of the embedded benchmark's test split
PATIENCE = 900.0  # seconds until a server that is not ready is given up
WRITTEN = Path("serve_demo_request.json")


def main() -> int:
    """Run the demo; exit code 1 where something failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port of 127.0.0.1; a free one by default")
    port = parser.parse_args().port or free_port()
    if taken(port):
        sys.exit(f"port {port} is taken: end that server, or give another --port")
    console = Console(highlight=False)
    asked = benchmark.examples("test")[QUESTION]
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "server.log", port, console):
        pruned, command = ask(port, request(asked, None), WRITTEN)
        unpruned, _ = ask(port, request(asked, 1.0), Path(folder) / "unpruned.json")
    show(console, asked, {f"pruned, --keep {KEEP}": pruned, "unpruned": unpruned}, command, port)
    few, many = (one["usage"]["prompt_tokens"] for one in (pruned, unpruned))
    if few >= many:
        print(f"the pruned prompt has {few} tokens and the unpruned one {many}: nothing was pruned", file=sys.stderr)
        return 1
    return 0


def taken(port: int) -> bool:
    """Whether somebody answers there already: it would be asked in place of the demo's server."""
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def serving(log: Path, port: int, console: Console) -> Iterator[None]:
    """Run `evoprune serve` in a process group of its own, from its readiness to the end of the block."""
    words = ["serve", "tiny", "--keep", KEEP, "--per-request-keep", "--port", str(port)]
    console.print(f"$ evoprune {' '.join(words)}", markup=False)
    with log.open("wb") as said:
        program = [sys.executable, "-m", "evoprune", *words]
        server = subprocess.Popen(program, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait(server, port, log, console)
        yield
    finally:
        stop(server)


def wait(server: subprocess.Popen[bytes], port: int, log: Path, console: Console) -> None:
    """Wait for the server, with a line that counts the seconds where somebody watches."""
    opener, start = build_opener(ProxyHandler({})), time.monotonic()
    with console.status("starting vLLM") as line:
        while (spent := time.monotonic() - start) < PATIENCE:
            if server.poll() is not None:
                sys.exit(f"the server ended with exit code {server.returncode}:\n{tail(log)}")
            try:
                opener.open(f"http://127.0.0.1:{port}/health", timeout=5).close()
                console.print(f"ready after {spent:.0f} s\n")
                return
            except OSError:
                line.update(f"starting vLLM: {spent:.0f} s")
                time.sleep(0.5)
    sys.exit(f"the server is not ready after {PATIENCE:.0f} s:\n{tail(log)}")


def request(asked: benchmark.Example, keep: float | None) -> dict[str, Any]:
    """Return an OpenAI-style chat request about a scene; `keep` is this request's own budget, None the server's."""
    file = io.BytesIO()
    benchmark.picture("test", asked.scene).image().save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": asked.question}]
    own = {} if keep is None else {"mm_processor_kwargs": {"evoprune_keep": keep}}
    return {
        "model": "tiny",
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 8,
        "temperature": 0,
    } | own


def ask(port: int, body: dict[str, Any], file: Path) -> tuple[dict[str, Any], list[str]]:
    """Send the request with curl from a file; return the reply, and curl's words."""
    file.write_text(json.dumps(body))
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    words = ["curl", "-s", url, "-H", "Content-Type: application/json", "-d", f"@{file}"]
    try:
        done = subprocess.run([*words, "--noproxy", "*", "--max-time", "300"], capture_output=True, text=True)
    except FileNotFoundError:
        sys.exit("curl is not installed: install it (apt install curl), and run this again")
    try:
        reply = json.loads(done.stdout)
    except ValueError:
        sys.exit(f"curl ended with {done.returncode} and no JSON: {done.stdout[:500]} {done.stderr[:500]}")
    if "choices" not in reply:
        sys.exit(f"the server refused the request: {done.stdout[:1000]}")
    return reply, words


def show(
    console: Console, asked: benchmark.Example, replies: dict[str, dict[str, Any]], words: list[str], port: int
) -> None:
    """Print what came back, and how to ask again."""
    console.print(f"question          {asked.question}", markup=False)
    console.print(f"right answer      {asked.answer}\n", markup=False)
    for name, reply in replies.items():
        said, tokens = reply["choices"][0]["message"]["content"].strip(), reply["usage"]["prompt_tokens"]
        console.print(f"{name:<20}{said:<8}{tokens:>4} prompt tokens", markup=False)
    program = Path(sys.executable).with_name("evoprune")
    console.print("\nTo repeat it, in two terminals:\n", markup=False)
    here = os.path.relpath(program) if program.is_relative_to(Path.cwd()) else str(program)
    console.print(f"  {here} serve tiny --keep {KEEP} --port {port}", markup=False, soft_wrap=True)
    console.print(f"  {shlex.join(words)}", markup=False, soft_wrap=True)


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the whole process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, number)
            server.wait(30)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def tail(log: Path, lines: int = 30) -> str:
    """Return the last lines of what the server said."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
