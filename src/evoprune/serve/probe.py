"""Waits beside a server that starts, and asks it once: do as many placeholders reach its prompt as were promised?

`evoprune serve` starts this before it turns into vLLM, so that the server keeps its own process, signals and exit code.
A server that does not prune is ended; one that cannot be asked (no chat template) goes on, and a line says so.
"""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

PAUSE = 1.0  # seconds between looks
PATIENCE = 120.0  # seconds that one answer may take
KEY = "EVOPRUNE_PROBE_KEY"  # the server's API key; in the environment, where other users do not see it


def main(arguments: str) -> int:
    """Run the check of ``python -m evoprune.serve.probe JSON``: url, pid, and a `checkpoint.Picture`."""
    told = json.loads(arguments)
    server = told["pid"]
    if not wait(told["url"], lambda: os.getppid() == server):
        return 0
    try:
        found = tokens(told["url"], told["picture"])
    except (OSError, ValueError, LookupError, TypeError, HTTPException) as error:
        _say(f"the server answers, but whether it prunes could not be asked ({_reason(error)})")
        return 0
    line, right = verdict(found, told["picture"])
    _say(line)
    if not right and os.getppid() == server:
        os.kill(server, signal.SIGTERM)
    return 0 if right else 1


def verdict(found: int, picture: Mapping[str, int]) -> tuple[str, bool]:
    """Return a line about the placeholders that were found, and whether they are those that were promised."""
    size = f"a picture of {picture['width']} x {picture['height']} pixels"
    if found == picture["kept"]:
        return f"the server is ready: {found} of {picture['full']} tokens for {size}", True
    state = "does not prune" if found == picture["full"] else "prunes otherwise than asked"
    return f"this server {state} and is stopped: {found} tokens for {size} in place of {picture['kept']}", False


def wait(url: str, alive: Callable[[], bool]) -> bool:
    """Return whether the server got ready before it ended."""
    while alive():
        try:
            _ask(f"{url}/health", None, PAUSE)
            return True
        except (OSError, ValueError, HTTPException):
            time.sleep(PAUSE)
    return False


def tokens(url: str, picture: Mapping[str, int]) -> int:
    """Return how many placeholders the server's prompt has for a grey picture."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (picture["width"], picture["height"]), (127, 127, 127)).save(file, "PNG")
    data = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": data}}, {"type": "text", "text": "?"}]
    question = {
        "model": _ask(f"{url}/v1/models", None, PATIENCE)["data"][0]["id"],
        "messages": [{"role": "user", "content": content}],
        "max_tokens": 1,
        "return_token_ids": True,
    }
    found = _ask(f"{url}/v1/chat/completions", question, PATIENCE)
    return int(found["prompt_token_ids"].count(picture["token"]))


def _ask(url: str, body: Mapping[str, Any] | None, seconds: float) -> Any:
    headers = {"Content-Type": "application/json"}
    if KEY in os.environ:
        headers["Authorization"] = f"Bearer {os.environ[KEY]}"
    data = None if body is None else json.dumps(body).encode()
    opener = build_opener(ProxyHandler({}))  # the server is on this machine
    with opener.open(Request(url, data, headers), timeout=seconds) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def _reason(error: Exception) -> str:
    said = error.read().decode(errors="replace") if isinstance(error, HTTPError) else ""
    return " ".join(f"{error} {said}".split())[:300]


def _say(line: str) -> None:
    print(f"evoprune: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
