"""`evoprune bench --server` against a server without a model: what is sent, what is counted, what is refused."""

from __future__ import annotations

import csv
import importlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from evoprune.bench.serving import run as running
from evoprune.bench.serving import samples, table
from evoprune.bench.serving.client import Streaming, client
from evoprune.bench.serving.prompts import prompts
from evoprune.bench.serving.server import Server
from evoprune.cli import app
from tests.serve.fake_server import Fake, start

Start = Callable[..., tuple[Fake, str]]


@pytest.fixture
def fake() -> Iterator[Start]:
    """Start fake servers that end with the test."""
    servers = []

    def begin(**settings: Any) -> tuple[Fake, str]:
        made = Fake(**settings)
        server, url = start(made)
        servers.append(server)
        return made, url

    yield begin
    for server in servers:
        server.shutdown()
        server.server_close()


def bench(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["bench", *(str(one) for one in arguments)], env={"COLUMNS": "120"})


SMALL = ("--client", "own", "--repeats", 2, "--warmup", 0, "--concurrency", "1,4", "--requests", 6, "--side", 32)


def pair(fake: Start, **pruned: Any) -> tuple[Fake, Fake, list[object]]:
    """A native and a pruned server, and the options that name them."""
    native, to = fake(prompt=200)
    mine, url = fake(**{"prompt": 50, **pruned})
    return native, mine, ["--server", url, "--native-server", to, *SMALL]


def test_both_servers_get_the_same_prompts_and_no_picture_comes_twice(fake: Start, tmp_path: Path) -> None:
    native, pruned, options = pair(fake)
    done = bench(*options, "--json", tmp_path / "a.json")
    assert done.exit_code == 0, done.output
    assert len(set(native.pictures())) == len(native.pictures()) == 2 * 2 * 6
    assert sorted(native.pictures()) == sorted(pruned.pictures())
    for body in native.streamed() + pruned.streamed():
        assert body["ignore_eos"] is True and body["temperature"] == 0 and body["max_completion_tokens"] == 9
    assert native.pictures()[0] != bench_again(fake, options, native)  # nor in the next measurement


def bench_again(fake: Start, options: list[object], native: Fake) -> str:
    """Measure the same servers again; return the first picture that the native one got."""
    before = len(native.pictures())
    assert bench(*options).exit_code == 0
    return native.pictures()[before]


def test_figures_are_those_of_the_samples(fake: Start, tmp_path: Path) -> None:
    _, _, options = pair(fake)
    path, figures = tmp_path / "a.json", tmp_path / "a.csv"
    done = bench(*options, "--json", path, "--csv", figures, "--plot", tmp_path / "a.svg")
    assert done.exit_code == 0, done.output
    result = running.load(path)
    assert {name: one["prompt_tokens"] for name, one in result["servers"].items()} == {"native": 200, "pruned": 50}
    assert [(c["round"], c["concurrency"], c["first"]) for c in result["cells"]] == [
        (0, 1, "native"), (0, 4, "pruned"), (1, 1, "pruned"), (1, 4, "native"),
    ]  # fmt: skip
    found = table.rows(result)
    assert [(row["concurrency"], row["server"], row["prompt"], row["requests"], row["failed"]) for row in found] == [
        (1, "native", 200, 12, 0), (1, "pruned", 50, 12, 0), (4, "native", 200, 12, 0), (4, "pruned", 50, 12, 0),
    ]  # fmt: skip
    rates = [6 / cell["arms"]["pruned"]["seconds"] for cell in result["cells"] if cell["concurrency"] == 4]
    assert found[3]["rate"] == {
        "median": pytest.approx(sum(rates) / 2), "low": pytest.approx(min(rates)), "high": pytest.approx(max(rates))
    }  # fmt: skip
    with figures.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["server"] for row in rows] == ["native", "pruned"] * 2 and rows[0]["rate_to_native"] == ""
    assert float(rows[3]["rate_to_native"]) == pytest.approx(found[3]["ratio"]["median"])
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")


def test_as_many_requests_are_open_as_there_are_clients(fake: Start) -> None:
    made, url = fake(together=threading.Barrier(4))  # answers only where four wait
    done = bench("--server", url, "--client", "own", "--repeats", 1, "--warmup", 0, "--concurrency", 4, "--requests", 8,
                 "--side", 32)  # fmt: skip
    assert done.exit_code == 0, done.output
    assert made.most == 4 and len(made.pictures()) == 8


def test_failures_are_counted_and_have_no_part_in_the_figures(fake: Start, tmp_path: Path) -> None:
    _, _, options = pair(fake, fails=frozenset({1}), breaks=frozenset({7}))
    assert bench(*options, "--json", tmp_path / "a.json").exit_code == 0
    result = running.load(tmp_path / "a.json")
    rows = {(row["concurrency"], row["server"]): row for row in table.rows(result)}
    assert [row["failed"] for row in rows.values()] == [0, 1, 0, 1]
    errors = [s["error"] for cell in result["cells"] for s in cell["arms"]["pruned"]["samples"] if s["error"]]
    assert "no such picture" in errors[0] and "the engine is dead" in errors[1]
    assert table.cells(rows[1, "pruned"])[-1] == "1/12"


def test_an_answer_of_another_length_is_a_failure(fake: Start) -> None:
    _, url = fake(short=2)
    done = bench("--server", url, *SMALL)
    assert done.exit_code == 2 and "an answer of 7 tokens, 9 were asked for" in done.output.replace("\n", " ")


def test_a_pruned_server_that_does_not_prune_is_refused(fake: Start) -> None:
    native, _, options = pair(fake, prompt=200)
    done = bench(*options)
    assert done.exit_code == 2 and "does not prune" in done.output and native.pictures() == []


def test_a_busy_server_is_refused(fake: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server.settle, "__defaults__", (0.0,))
    _, _, options = pair(fake, running=3)
    done = bench(*options)
    assert done.exit_code == 2 and "busy with 3 other requests" in done.output


def test_cache_hits_are_told(fake: Start) -> None:
    _, _, options = pair(fake, hits=5)
    assert "prefix_cache_hits_total: 120, so caches answered" in bench(*options).output


def test_a_broken_off_measurement_goes_on_with_other_pictures(fake: Start, tmp_path: Path) -> None:
    native, _, options = pair(fake)
    path = tmp_path / "a.json"
    assert bench(*options, "--json", path).exit_code == 0
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({**whole, "cells": whole["cells"][:3]}))
    before = native.pictures()
    assert bench(*options, "--json", path).exit_code == 0
    again = running.load(path)
    assert again["cells"][:3] == whole["cells"][:3] and len(again["cells"]) == 4
    sent = native.pictures()[len(before) :]
    assert len(sent) == 6 and not set(sent) & set(before)
    assert bench(*options, "--json", path).exit_code == 0 and len(native.pictures()) == len(before) + 6


def test_a_measurement_that_is_broken_off_twice_shows_no_picture_again(
    fake: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    native, _, options = pair(fake)
    path = tmp_path / "a.json"

    def broken(*given: Any) -> dict[str, Any]:
        turn(*given)
        raise ValueError("cut")

    turn = running._turn
    with monkeypatch.context() as patched:
        patched.setattr(running, "_turn", broken)
        for attempt in (1, 2):
            assert bench(*options, "--json", path).exit_code == 2
            assert running.load(path)["attempts"] == attempt
    assert bench(*options, "--json", path).exit_code == 0
    assert len(set(native.pictures())) == len(native.pictures())


def test_warming_up_shows_other_pictures_and_is_not_counted(fake: Start, tmp_path: Path) -> None:
    native, _, options = pair(fake)
    assert bench(*options, "--warmup", 3, "--json", tmp_path / "a.json").exit_code == 0
    assert len(set(native.pictures())) == len(native.pictures()) == 2 * 3 + 2 * 2 * 6
    assert sum(row["requests"] for row in table.rows(running.load(tmp_path / "a.json"))) == 2 * 2 * 2 * 6


def test_figures_of_other_servers_are_not_mixed_in(fake: Start, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    _, _, options = pair(fake)
    assert bench(*options, "--json", path).exit_code == 0
    _, _, others = pair(fake, prompt=25)
    done = bench(*others, "--json", path)
    assert done.exit_code == 2 and "another servers" in done.output
    assert bench(*others, "--json", path, "--overwrite").exit_code == 0
    assert running.load(path)["servers"]["pruned"]["prompt_tokens"] == 25


def test_one_server_alone_is_measured_without_a_ratio(fake: Start) -> None:
    _, url = fake()
    done = bench("--server", url, *SMALL, "--json", "-", "--goodput", 60_000)
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["figures"]
    assert [row["server"] for row in rows] == ["server", "server"] and rows[0]["ratio"] is None
    assert rows[0]["goodput"] == rows[0]["rate"]  # everything came within a minute


def test_goodput_counts_first_tokens_in_time() -> None:
    rows = [{"ttft": ttft, "latency": 1.0, "prompt": 5, "answer": 9, "error": ""} for ttft in (0.1, 0.2, 0.4)]
    run = {"seconds": 2.0, "samples": [*rows, {**rows[0], "error": "broken"}]}
    assert samples.rate(run) == 1.5 and samples.rate(run, within=0.2) == 1.0
    found = samples.figures([run, run], within=0.2)
    assert found["failed"] == 2 and found["requests"] == 8 and found["ttft"]["p50"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--server", "127.0.0.1:8000"), "no address of a server"),
        (("--server", "http://127.0.0.1:9"), "no server answers"),
        (("--native-server", "http://127.0.0.1:9"), "--native-server is of servers"),
        (("tiny", "--server", "http://127.0.0.1:9"), "leave the model out"),
        (("--keep", "64", "--server", "http://127.0.0.1:9"), "--keep has no effect on a server"),
        (("--server", "http://127.0.0.1:9", "--concurrency", "0,4"), "a number below 1"),
        (("--server", "http://127.0.0.1:9", "--concurrency", "4", "--requests", "1,2"), "2 numbers of requests for 1"),
        (("--server", "http://127.0.0.1:9", "--client", "curl"), "client='curl' is unknown"),
        (("--server", "http://127.0.0.1:9", "--goodput", "0"), "--goodput 0.0 is no time"),
        (("--server", "http://127.0.0.1:9", "--native-server", "http://127.0.0.1:9/"), "give two servers"),
    ],
)
def test_mistakes_are_told_in_a_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    done = bench(*arguments)
    assert done.exit_code == 2 and done.output.startswith("Error: "), done.output
    assert sentence in done.output and "Traceback" not in done.output


def test_a_server_of_no_model_is_refused(fake: Start) -> None:
    _, url = fake(models=())
    with pytest.raises(ValueError, match="no model"):
        Server.at(url + "/v1/", "pruned")


def test_prompts_are_those_of_their_place() -> None:
    assert prompts(3, 1, 2, side=32) == prompts(3, 1, 2, side=32)
    assert not {str(one) for one in prompts(3, 1, 2, side=32)} & {str(one) for one in prompts(3, 1, 3, side=32)}


def test_own_client_says_what_the_server_counted(fake: Start) -> None:
    _, url = fake(prompt=77)
    run = Streaming().run(Server.at(url, "pruned"), prompts(2, 0, side=32), 2, 5)
    assert [(one.prompt, one.answer, one.error) for one in run.samples] == [(77, 5, "")] * 2
    assert all(0 < one.ttft <= one.latency <= run.seconds for one in run.samples)
    assert client("own").name == "own client"


def test_the_page_has_the_figures_of_the_result_files_alone(
    fake: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "docs"))
    page = importlib.import_module("measured_serving")
    assert page.block(tmp_path) == "Not measured."
    (tmp_path / "soak.json").write_text('{"manifest": {}}')  # somebody else's
    _, _, options = pair(fake)
    path = tmp_path / "encoder.json"
    assert bench(*options, "--json", path).exit_code == 0
    facts = {"text": "a model", "dtype": "float32", "keep": 5, "cores": 2, "commands": {"native": "vllm serve m"}}
    running.write({**running.load(path), **facts}, path)
    text = page.block(tmp_path)
    assert text.startswith("**A model**, float32, `keep=5`: 50 prompt tokens instead of 200.")
    for row in table.rows(running.load(path)):
        assert "| " + " | ".join(table.cells(row)) + " |" in text
    page.draw(tmp_path, tmp_path / "plots")
    assert [one.name for one in (tmp_path / "plots").iterdir()] == ["encoder.svg"]
