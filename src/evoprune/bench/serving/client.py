"""Who sends the requests: `vllm bench serve` where vLLM is installed, else a small client of our own.

Both take the time to the first token as vLLM does: to the first piece of the answer, which vLLM sends with the first
token.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Protocol

from .prompts import Prompt
from .samples import Run, Sample
from .server import Server, http

CLIENTS = ("auto", "vllm", "own")


class Client(Protocol):
    """Sends all prompts to a server, so many at a time, and takes the times."""

    name: str

    def run(self, server: Server, prompts: Sequence[Prompt], concurrency: int, tokens: int) -> Run: ...


def client(name: str = "auto") -> Client:
    """Return a client by its name; ValueError for an unknown one, or vLLM's where that is not installed."""
    if name not in CLIENTS:
        raise ValueError(f"client={name!r} is unknown: choose one of {', '.join(CLIENTS)}")
    there = find_spec("vllm") is not None
    if name == "vllm" and not there:
        raise ValueError("client='vllm' is `vllm bench serve`, and vllm is not installed here: choose own")
    if name == "own" or not there:
        return Streaming()
    from .vllm_client import BenchServe

    return BenchServe()


class Streaming:
    """A client of our own, for machines without vLLM."""

    name = "own client"

    def run(self, server: Server, prompts: Sequence[Prompt], concurrency: int, tokens: int) -> Run:
        return asyncio.run(_all(server, prompts, concurrency, tokens))


async def _all(server: Server, prompts: Sequence[Prompt], concurrency: int, tokens: int) -> Run:
    bodies = [
        json.dumps(server.payload(one, tokens, stream=True, stream_options={"include_usage": True})).encode()
        for one in prompts
    ]
    turn = asyncio.Semaphore(concurrency)
    limits = http().Limits(max_connections=concurrency, max_keepalive_connections=concurrency)
    async with http().AsyncClient(limits=limits, timeout=600.0) as session:

        async def one(body: bytes) -> Sample:
            async with turn:
                return await _one(session, server.url, body)

        begun = time.perf_counter()
        samples = await asyncio.gather(*(one(body) for body in bodies))
        return Run(time.perf_counter() - begun, tuple(samples))


async def _one(session: Any, url: str, body: bytes) -> Sample:
    begun = time.perf_counter()
    first = last = 0.0
    usage: dict[str, Any] = {}
    error = ""
    headers = {"Content-Type": "application/json"}
    try:
        async with session.stream("POST", f"{url}/v1/chat/completions", content=body, headers=headers) as answer:
            if answer.status_code != 200:
                text = (await answer.aread()).decode("utf-8", "replace")
                return Sample(0.0, 0.0, 0, 0, f"HTTP {answer.status_code}: {text[:200]}")
            async for line in answer.aiter_lines():
                if not line.startswith("data:") or (text := line[5:].strip()) == "[DONE]":
                    continue
                chunk = json.loads(text)
                error = str(chunk["error"])[:200] if chunk.get("error") else error
                usage = chunk.get("usage") or usage
                if chunk.get("choices"):
                    last = time.perf_counter()
                    first = first or last
    except (http().HTTPError, ValueError) as broken:
        error = f"{type(broken).__name__}: {str(broken)[:200]}"
    if not first:
        return Sample(0.0, 0.0, 0, 0, error or "no token came")
    tokens = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    return Sample(first - begun, last - begun, *tokens, error)
