"""The check beside a starting server, against a server that only pretends."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from evoprune.serve import probe

PICTURE = {"height": 112, "width": 112, "full": 196, "kept": 49, "token": 3}


@contextmanager
def pretending(placeholders: int | None, asked: list[Any]) -> Iterator[str]:
    """A server whose prompts have so many placeholders, None for one that answers 400; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.reply(200, {"data": [{"id": "name"}]})

        def do_POST(self) -> None:
            asked.append((json.loads(self.rfile.read(int(self.headers["Content-Length"]))), dict(self.headers)))
            self.reply(400, {"error": "no template"}) if placeholders is None else self.reply(
                200, {"prompt_token_ids": [0, *[3] * placeholders, 5]}
            )

        def reply(self, status: int, body: Any) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


# Stands in for vLLM: starts the check as `evoprune serve` does, and lives on until it is ended.
PARENT = """
import json, os, subprocess, sys, time
told = {"url": sys.argv[1], "pid": os.getpid(), "picture": json.loads(sys.argv[2])}
check = subprocess.Popen([sys.executable, "-m", "evoprune.serve.probe", json.dumps(told)])
check.wait()
time.sleep(0.5)
sys.exit(7)
"""


@pytest.mark.parametrize(
    ("placeholders", "code", "says"),
    [
        (49, 7, "the server is ready: 49 of 196 tokens"),
        (196, -15, "does not prune and is stopped"),
        (60, -15, "prunes otherwise than asked"),
        (None, 7, "could not be asked"),
    ],
)
def test_only_a_server_that_does_not_prune_is_ended(placeholders: int | None, code: int, says: str) -> None:
    with pretending(placeholders, []) as url:
        words = [sys.executable, "-c", PARENT, url, json.dumps(PICTURE)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    assert says in done.stderr


def test_question_has_a_picture_of_the_towers_size_and_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setenv(probe.KEY, "secret")
    with pretending(49, asked) as url:
        assert probe.tokens(url, PICTURE) == 49
    ((body, headers),) = asked
    assert body["model"] == "name" and body["max_tokens"] == 1
    assert body["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert headers["Authorization"] == "Bearer secret"


def test_check_ends_with_the_server() -> None:
    lives = iter([True, True, False])
    assert not probe.wait("http://127.0.0.1:9", lambda: next(lives))
