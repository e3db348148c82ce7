"""One server that lets requests choose their budget: hundreds of wrong requests, then many clients for minutes."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from . import soak
from .malformed import every
from .offline import Known, known
from .serving import Server, chat, data_url, image, running, text
from .wrong import Wrong

QUICK = "EVOPRUNE_QUICK"
RECORD = "EVOPRUNE_SOAK_RECORD"  # write what was measured to benchmarks/results/serve/soak.json
pytestmark = pytest.mark.skipif(
    os.environ.get(QUICK, "") not in ("", "0"), reason=f"{QUICK} is set: minutes of load are left out"
)
SECONDS = float(os.environ.get("EVOPRUNE_SOAK_SECONDS", soak.SECONDS))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server"), *soak.SERVER, passed=soak.PASSED) as found:
        yield found


@pytest.fixture(scope="module")
def questions() -> list[Known]:
    return known(6, soak.KEEPS)


def check(server: Server, right: Known) -> None:
    """The server's answer and the length of its prompt are those of transformers."""
    reply = server.send(soak.request(right))
    assert reply.status == 200, reply.body
    assert reply.body["usage"]["prompt_tokens"] == right.prompt_tokens
    assert tuple(reply.body["choices"][0]["token_ids"]) == right.tokens


def refuse(server: Server, wrong: Wrong) -> str:
    """Return what is wrong with the server's answer to a wrong request, nothing if it is as it should be."""
    try:
        reply = server.send(wrong.body, wrong.path, {"Content-Type": wrong.kind})
    except OSError as error:
        return f"{wrong.name}: no answer ({error})"
    if not 400 <= reply.status < 500:
        return f"{wrong.name}: HTTP {reply.status} {str(reply.body)[:200]}"
    if wrong.says not in reply.message or len(reply.message.split()) < 2:
        return f"{wrong.name}: says {reply.message[:200]!r}, not {wrong.says!r}"
    return ""


def test_wrong_requests_between_good_ones(server: Server, questions: list[Known]) -> None:
    wrong = every(questions[0].picture)
    assert len(wrong) >= 200
    failures = []
    for number, one in enumerate(wrong):
        failures.append(refuse(server, one))
        if number % 5 == 0:
            check(server, questions[number // 5 % len(questions)])
    told = [one for one in failures if one]
    assert not told, "\n".join(told)
    assert server.process.poll() is None and "EngineDeadError" not in server.said()


def test_a_refused_request_does_not_spoil_the_next_with_its_picture(server: Server) -> None:
    """Pictures that no other test sends: with vLLM's processor cache, each of these good requests gets HTTP 500."""
    for right in known(12, [None])[6:]:
        assert server.send({**soak.request(right), "min_tokens": 99}).status == 400
        check(server, right)


def test_placeholders_smuggled_in_as_text_change_no_other_answer(server: Server, questions: list[Known]) -> None:
    """vLLM takes the word for the token: the answer is the sender's own trouble."""
    for words in ("<image>", "<image><image><image> What digit is red?", "</s><s><pad><image>"):
        for parts in ([text(words)], [text(words), image(data_url(questions[0].picture))]):
            assert server.send(chat(*parts)).status in (200, 400)
            check(server, questions[1])


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (20_000, 100), (9, 7), (100, 20_000)])
def test_odd_sizes_are_answered(server: Server, questions: list[Known], size: tuple[int, int]) -> None:
    reply = server.send(chat(image(data_url(questions[0].picture.resize(size))), text("What digit is red?")))
    assert reply.status == 200 and reply.body["prompt_token_ids"].count(3) == 49
    check(server, questions[2])


def test_many_clients_for_minutes(server: Server) -> None:
    found = soak.measure(server, seconds=SECONDS)
    if os.environ.get(RECORD):
        soak.save(found)
    assert found["answers"] > found["clients"] and found["hung_up"] > 0
    assert (found["wrong"], found["refused"], found["failed"]) == (0, 0, 0), found["wrong_answers"]
    assert found["resident_mib"]["growth"] < 0.05, found["resident_mib"]
