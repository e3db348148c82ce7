"""A server that speaks as much of OpenAI's API as a measurement needs, in this process and without a model."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Fake:
    """What the server does, and what it was asked.

    Attributes
    ----------
    prompt
        Tokens that it makes of every prompt.
    fails
        Numbers of the streamed requests that it answers with HTTP 400.
    breaks
        Numbers of those that end in an error after the first token.
    short
        Tokens that its answers lack.
    running
        Requests of others that it says it works on.
    hits
        Tokens out of its prefix cache that it counts for each streamed request.
    """

    prompt: int = 30
    fails: frozenset[int] = frozenset()
    breaks: frozenset[int] = frozenset()
    short: int = 0
    running: int = 0
    hits: int = 0
    models: tuple[str, ...] = ("m",)
    asked: list[dict[str, Any]] = field(default_factory=list)
    open: int = 0
    most: int = 0
    lock: Any = field(default_factory=threading.Lock)
    together: threading.Barrier | None = None  # so many clients are waited for before one is answered

    def pictures(self) -> list[str]:
        """The pictures of the streamed requests, in the order in which they came."""
        return [body["messages"][0]["content"][0]["image_url"]["url"] for body in self.streamed()]

    def streamed(self) -> list[dict[str, Any]]:
        return [body for body in self.asked if body.get("stream")]

    def metrics(self) -> str:
        return (
            f'# HELP\nvllm:num_requests_running{{engine="0"}} {self.running}.0\n'
            f'vllm:num_requests_waiting{{engine="0"}} 0.0\n'
            f'vllm:prefix_cache_hits_total{{engine="0"}} {float(self.hits * len(self.streamed()))}\n'
        )


def start(fake: Fake) -> tuple[ThreadingHTTPServer, str]:
    """Start the server on a free port of the loopback; `shutdown` and `server_close` end it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def reply(self, status: int, text: str, kind: str = "application/json") -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            if self.path == "/v1/models":
                self.reply(200, json.dumps({"data": [{"id": name} for name in fake.models]}))
            elif self.path == "/version":
                self.reply(200, json.dumps({"version": "0.0"}))
            elif self.path == "/metrics":
                self.reply(200, fake.metrics(), "text/plain")
            else:
                self.reply(404, "{}")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with fake.lock:
                fake.asked.append(body)
                number = len(fake.streamed()) - 1
                fake.open += 1
                fake.most = max(fake.most, fake.open)
            if fake.together is not None and body.get("stream"):
                fake.together.wait(60)
            with fake.lock:
                fake.open -= 1
            self.answer(body, number)

        def answer(self, body: dict[str, Any], number: int) -> None:
            tokens = body["max_completion_tokens"] - fake.short
            usage = {"prompt_tokens": fake.prompt, "completion_tokens": tokens}
            if not body.get("stream"):
                self.reply(200, json.dumps({"choices": [{}], "usage": usage}))
            elif number in fake.fails:
                self.reply(400, json.dumps({"error": {"message": "no such picture"}}))
            else:
                self.stream(tokens, usage, broken=number in fake.breaks)

        def stream(self, tokens: int, usage: dict[str, int], broken: bool) -> None:
            pieces: list[Any] = [{"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}]
            pieces += [{"choices": [{"index": 0, "delta": {"content": "a"}}]}] * tokens
            pieces.append({"choices": [], "usage": usage})
            if broken:
                pieces[2:] = [{"error": {"message": "the engine is dead"}}]
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in [*map(json.dumps, pieces), "[DONE]"]:
                line = f"data: {piece}\n\n".encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.write(b"0\r\n\r\n")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_address[1]}"
