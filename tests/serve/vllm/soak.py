"""Many clients at once for minutes, some of which hang up: what leaks, and what is answered wrongly.

`python -m tests.serve.vllm.soak` runs it on a server of its own and writes benchmarks/results/serve/soak.json;
`make test-serve` runs it through test_server.py.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from evoprune.bench.manifest import manifest

from .offline import Known, known
from .serving import Server, chat, data_url, image, running, text

RESULT = Path(__file__).parents[3] / "benchmarks" / "results" / "serve" / "soak.json"
CLIENTS = 64
SECONDS = 120.0
WARM = 60.0  # seconds under the same load before memory counts: shapes, caches and allocators fill up
HANG_UP = 0.15  # share of the requests whose client closes the connection while the answer streams
WINDOW = 10.0  # seconds over which memory is averaged
KEEPS = (None, 24, 0.5, 1.0)
PICTURES = 48
SERVER = ("--keep", "0.25", "--per-request-keep")
# A small pool of keys and values (32,768 tokens), all of it written to in the warm-up: of a large one, block upon block
# becomes resident for minutes, which would look like a leak and hide one.
PASSED = ("--num-gpu-blocks-override", "1024")


@dataclass
class Tally:
    """What happened.

    Attributes
    ----------
    counts
        answers, wrong, hung_up, refused, failed.
    wrong
        What was expected and what came, of wrong answers.
    memory
        Seconds since the start, and resident bytes by process.
    """

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[dict[str, Any]] = field(default_factory=list)
    memory: list[tuple[float, dict[str, int]]] = field(default_factory=list)


async def load(server: Server, questions: Sequence[Known], *, clients: int, seconds: float, warm: float) -> Tally:
    """Let `clients` ask at random until `warm` and `seconds` are over; nothing is retried."""
    tally, start = Tally(), time.monotonic()
    bodies = [request(one) for one in questions]
    limits = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=limits) as session:

        async def client(number: int) -> None:
            draw = random.Random(number)
            while time.monotonic() - start < warm + seconds:
                index = draw.randrange(len(questions))
                if draw.random() < HANG_UP:
                    await hang_up(session, server, bodies[index], draw, tally)
                else:
                    await ask(session, server, bodies[index], questions[index], tally)

        async def watch() -> None:
            while time.monotonic() - start < warm + seconds:
                tally.memory.append((time.monotonic() - start, server.resident()))
                await asyncio.sleep(1.0)

        await asyncio.gather(watch(), *(client(number) for number in range(clients)))
    return tally


def request(one: Known) -> dict[str, Any]:
    own = {} if one.keep is None else {"mm_processor_kwargs": {"evoprune_keep": one.keep}}
    return chat(image(data_url(one.picture)), text(one.question), **own)


async def ask(session: aiohttp.ClientSession, server: Server, body: Any, right: Known, tally: Tally) -> None:
    """Ask and compare; whatever is not the right answer is counted."""
    try:
        async with session.post(f"{server.url}/v1/chat/completions", json=body) as answer:
            found = await answer.json(content_type=None)
            if answer.status != 200:
                tally.counts["refused"] += 1
                return
    except (aiohttp.ClientError, TimeoutError, ValueError):
        tally.counts["failed"] += 1
        return
    tally.counts["answers"] += 1
    got = tuple(found["choices"][0]["token_ids"]), found["usage"]["prompt_tokens"]
    if got != (right.tokens, right.prompt_tokens):
        tally.counts["wrong"] += 1
        tally.wrong.append({"question": right.question, "keep": right.keep, "right": right.tokens, "got": got[0],
                            "prompt_tokens": [right.prompt_tokens, got[1]]})  # fmt: skip


async def hang_up(session: aiohttp.ClientSession, server: Server, body: Any, draw: random.Random, tally: Tally) -> None:
    """Let a long answer stream, and close the connection after a few pieces of it, or before the first."""
    body = {**body, "stream": True, "max_tokens": 200}
    pieces = draw.randrange(6)
    try:
        answer = await session.post(f"{server.url}/v1/chat/completions", json=body)
        if answer.status != 200:
            tally.counts["refused"] += 1
            answer.close()
            return
        for _ in range(pieces):
            await answer.content.readline()
        answer.close()  # the connection, not only this answer
        tally.counts["hung_up"] += 1
    except (aiohttp.ClientError, TimeoutError):
        tally.counts["failed"] += 1


def windows(memory: Sequence[tuple[float, dict[str, int]]], warm: float) -> list[float]:
    """Return the mean resident bytes of all processes together in each window behind the warm-up."""
    found: dict[int, list[int]] = {}
    for when, processes in memory:
        if when >= warm:
            found.setdefault(int((when - warm) // WINDOW), []).append(sum(processes.values()))
    return [sum(rows) / len(rows) for _, rows in sorted(found.items()) if len(rows) > 1]


def measure(server: Server, *, clients: int = CLIENTS, seconds: float = SECONDS, warm: float = WARM) -> dict[str, Any]:
    """Run the load and return its figures."""
    questions = known(PICTURES, KEEPS)
    tally = asyncio.run(load(server, questions, clients=clients, seconds=seconds, warm=warm))
    means = windows(tally.memory, warm)
    if not means:
        raise ValueError(f"{seconds} s are too short to see memory: give more than {WINDOW:g}")
    half = means[len(means) // 2 :]
    moments = {"first": tally.memory[0][1], "last": tally.memory[-1][1]}
    moments["warm"] = next(processes for when, processes in tally.memory if when >= warm)
    return {
        "clients": clients,
        "seconds": seconds,
        "warm_up_seconds": warm,
        "questions": len(questions),
        **{name: tally.counts[name] for name in ("answers", "wrong", "hung_up", "refused", "failed")},
        "wrong_answers": tally.wrong[:20],
        "resident_mib": {
            "windows": [round(one / 2**20, 1) for one in means],
            "growth": (max(means) - means[0]) / means[0],
            "late_growth": (half[-1] - half[0]) / half[0],
            **{
                moment: {name: round(size / 2**20, 1) for name, size in processes.items()}
                for moment, processes in moments.items()
            },
        },
    }


def main() -> int:
    """Run it whole and write the figures."""
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), *SERVER, passed=PASSED) as server:
        found = measure(server)
    save(found)
    print(json.dumps(found, indent=2))
    return 0 if not (found["wrong"] or found["refused"] or found["failed"]) else 1


def save(found: dict[str, Any]) -> None:
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    made = manifest("vllm", "aiohttp", server=["evoprune", "serve", "tiny", *SERVER, "--", *PASSED])
    RESULT.write_text(json.dumps({"manifest": made, **found}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
