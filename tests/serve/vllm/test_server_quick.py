"""One server with the defaults of `evoprune serve`: it prunes, answers like transformers, refuses with a sentence."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil
import pytest

from .malformed_pictures import png_of
from .offline import Known, known
from .serving import ANSWERS, Server, chat, data_url, image, running, text
from .wrong import QUESTION


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server"), "--keep", "0.25") as found:
        yield found


@pytest.fixture(scope="module")
def questions() -> list[Known]:
    return known(4, [None])


def check(server: Server, right: Known) -> None:
    """The server's answer and the length of its prompt are those of transformers."""
    reply = server.send(chat(image(data_url(right.picture)), text(right.question)))
    assert reply.status == 200, reply.body
    assert reply.body["usage"]["prompt_tokens"] == right.prompt_tokens
    assert tuple(reply.body["choices"][0]["token_ids"]) == right.tokens


def test_answers_are_those_of_transformers(server: Server, questions: list[Known]) -> None:
    for right in questions:
        check(server, right)
    assert len({one.tokens for one in questions}) > 1


def test_prompt_has_the_pruned_placeholders(server: Server, questions: list[Known]) -> None:
    reply = server.send(chat(image(data_url(questions[0].picture)), text(questions[0].question)))
    assert reply.body["prompt_token_ids"].count(3) == 49


def test_server_was_asked_whether_it_prunes(server: Server) -> None:
    until = time.monotonic() + ANSWERS
    while "evoprune: " not in server.said() and time.monotonic() < until:  # it looks each second, then asks
        time.sleep(0.2)
    assert "evoprune: the server is ready: 49 of 196 tokens" in server.said()


def test_listens_on_loopback_only(server: Server) -> None:
    listening = [
        one.laddr for one in psutil.Process(server.process.pid).net_connections("tcp") if one.status == "LISTEN"
    ]
    assert {one.ip for one in listening if one.port == server.port} == {"127.0.0.1"}


@pytest.mark.parametrize("keep", [49, 0.5, 1.0, "abc", -1])
def test_budgets_of_requests_are_forbidden(server: Server, questions: list[Known], keep: object) -> None:
    picture = image(data_url(questions[0].picture))
    reply = server.send(chat(picture, QUESTION, mm_processor_kwargs={"evoprune_keep": keep}))
    assert reply.status == 400
    assert "--trust-request-mm-kwargs" in reply.message
    check(server, questions[0])


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "http://127.0.0.1:1/a.png",
        "data:image/png;base64,",
        "data:image/png;base64,iVBORw0KGgo",
        "hello",
    ],
)
def test_what_is_no_picture_is_refused(server: Server, questions: list[Known], url: str) -> None:
    reply = server.send(chat(image(url), QUESTION))
    assert 400 <= reply.status < 500 and " " in reply.message
    check(server, questions[1])


def test_a_huge_picture_is_refused(server: Server, questions: list[Known]) -> None:
    reply = server.send(chat(image(data_url(png_of(20_000, 20_000))), QUESTION))
    assert reply.status == 400 and "400000000 pixels" in reply.message
    check(server, questions[2])
