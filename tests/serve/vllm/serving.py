"""A real server for the tests: `evoprune serve tiny` in processes of its own, asked over HTTP."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import psutil
from PIL import Image

STARTS = 600.0  # seconds until a server that has not answered is given up
ANSWERS = 120.0  # the same for one request: a server that hangs
OPENER = build_opener(ProxyHandler({}))


@dataclass(frozen=True)
class Reply:
    """HTTP status and body; JSON where it is some."""

    status: int
    body: Any

    @property
    def message(self) -> str:
        """The sentence of an error."""
        error = self.body.get("error", self.body) if isinstance(self.body, dict) else {}
        found = error.get("message") or error.get("detail") if isinstance(error, dict) else None
        return found if isinstance(found, str) else str(self.body)


@dataclass
class Server:
    """A server that runs, and where it writes what it says."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def send(self, body: Any, path: str = "/v1/chat/completions", headers: Mapping[str, str] | None = None) -> Reply:
        """Send `body` (bytes as they are, None for a GET) and return the reply, whatever its status."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        request = Request(self.url + path, data, dict(self.headers if headers is None else headers))
        try:
            with OPENER.open(request, timeout=ANSWERS) as answer:
                return Reply(answer.status, _parsed(answer.read()))
        except HTTPError as error:
            return Reply(error.code, _parsed(error.read()))

    def processes(self) -> list[psutil.Process]:
        """The server's own process and all that it started."""
        first = psutil.Process(self.process.pid)
        return [first, *first.children(recursive=True)]

    def resident(self) -> dict[str, int]:
        """Resident bytes of each process, by name and number."""
        found = {}
        for number, one in enumerate(self.processes()):
            try:
                program = Path((one.cmdline() or ["?"])[0]).name[:24]
                found[f"{program} {number}"] = one.memory_info().rss
            except (psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found

    def said(self) -> str:
        return self.log.read_text(errors="replace")


@contextmanager
def running(folder: Path, *arguments: str, passed: Sequence[str] = (), model: str = "tiny") -> Iterator[Server]:
    """Start `evoprune serve`, wait until it answers, and end its whole process group afterwards."""
    port, log = free_port(), folder / "server.log"
    program = [sys.executable, "-m", "evoprune", "serve", model, "--port", str(port), *arguments, "--", *passed]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("VLLM_ENABLE_V1_MULTIPROCESSING", None)  # of the engines inside the tests' own process
    with log.open("wb") as file:
        process = subprocess.Popen(
            program, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        server = Server(process, port, log)
        try:
            _until_ready(server)
            yield server
        finally:
            _end(process)


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _until_ready(server: Server) -> None:
    deadline = time.monotonic() + STARTS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(f"the server ended with {server.process.returncode}:\n{server.said()[-4000:]}")
        try:
            if server.send(None, "/health").status == 200:
                return
        except OSError:
            time.sleep(0.5)
    raise RuntimeError(f"the server is not ready after {STARTS:.0f} s:\n{server.said()[-4000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(30)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
    process.wait(30)


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")


def data_url(picture: Image.Image | bytes, mime: str = "image/png") -> str:
    """Return a picture, or any bytes, as the URL of an OpenAI-style request."""
    if isinstance(picture, Image.Image):
        file = io.BytesIO()
        picture.save(file, "PNG")
        picture = file.getvalue()
    return f"data:{mime};base64,{base64.b64encode(picture).decode()}"


def image(url: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


def text(words: Any) -> dict[str, Any]:
    return {"type": "text", "text": words}


def chat(*parts: Any, **more: Any) -> dict[str, Any]:
    """Return a request with one message, answered greedily in eight tokens, whose ids come back."""
    messages = [{"role": "user", "content": list(parts)}]
    settings = {"max_tokens": 8, "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    return {"model": "tiny", "messages": messages, **settings, **more}
