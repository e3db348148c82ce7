"""`vllm bench serve` as the client of `evoprune bench --server`: it sends and counts what our own client does."""

from __future__ import annotations

from typing import Any

import pytest

from evoprune.bench.serving.client import Client, Streaming, client
from evoprune.bench.serving.prompts import Prompt, prompts
from evoprune.bench.serving.samples import Run
from evoprune.bench.serving.server import Server
from tests.serve.fake_server import Fake, start


def sent(sends: Client, asked: list[Prompt], **settings: Any) -> tuple[Fake, Run]:
    """Send `asked` to a fake server with two clients, for answers of 5 tokens."""
    fake = Fake(prompt=77, **settings)
    server, url = start(fake)
    try:
        return fake, sends.run(Server.at(url, "pruned"), asked, 2, 5)
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def both() -> list[Client]:
    found = client("auto")
    assert found.name.startswith("vllm bench serve ")  # as vLLM is installed
    return [found, Streaming()]


def test_both_clients_send_the_same_requests(both: list[Client]) -> None:
    asked = prompts(6, 3, side=32)
    bodies = []
    for sends in both:
        fake, run = sent(sends, asked)
        assert fake.most <= 2 and len(fake.asked) == 6, "a request that nobody asked for would warm a cache"
        assert [(one.prompt, one.answer, one.error) for one in run.samples] == [(77, 5, "")] * 6
        assert all(0 < one.ttft <= one.latency <= run.seconds for one in run.samples)
        keys = ("model", "messages", "max_completion_tokens", "temperature", "ignore_eos", "stream", "stream_options")
        fake.asked.sort(key=lambda body: str(body["messages"]))
        bodies.append([{key: body[key] for key in keys} for body in fake.asked])
    assert bodies[0] == bodies[1]


def test_both_clients_tell_failures(both: list[Client]) -> None:
    for sends in both:
        _, run = sent(sends, prompts(6, 4, side=32), fails=frozenset({1}))
        assert sum(bool(one.error) for one in run.samples) == 1
