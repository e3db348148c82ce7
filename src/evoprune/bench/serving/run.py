"""The measurement: rounds in which every server has its turn at every number of clients, kept in a file as it grows."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..manifest import manifest
from ..results import read
from .client import Client
from .prompts import Prompt, prompts
from .samples import good
from .server import Server

FORMAT = "evoprune.serving/1"
PRUNED, NATIVE, ALONE = "pruned", "native", "server"  # the last where there is one, of which nothing is known
PROBE, WARM = 0, 1  # first numbers of the places of pictures that are not measured; rounds begin behind them


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes
    ----------
    concurrency
        Numbers of clients, each of which sends its next request when its last one is answered.
    requests
        Of one server in one round: for each number of clients.
    rounds
        Turns of every server at every number of clients.
    tokens
        Length of all answers.
    warmup
        Requests to each server before the first round, at each number of clients.
    side
        Height and width of the pictures, pixels.
    seed
        Of pictures and questions; the result's own salt is added to it.
    """

    concurrency: tuple[int, ...] = (1, 4, 16, 32)
    requests: tuple[int, ...] = (16, 32, 64, 96)
    rounds: int = 3
    tokens: int = 9
    warmup: int = 4
    side: int = 336
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rounds", "tokens", "side", "concurrency", "requests"):
            value = getattr(self, name)
            if any(one < 1 for one in (value if isinstance(value, tuple) else (value,))) or value == ():
                raise ValueError(f"{name}={value!r} is too small: give 1 or more")
        if len(self.requests) != len(self.concurrency):
            raise ValueError(
                f"{len(self.requests)} numbers of requests for {len(self.concurrency)} numbers of clients: give as many"
            )
        if self.warmup < 0:
            raise ValueError(f"warmup={self.warmup} is too small: give 0 or more")
        for clients, number in zip(self.concurrency, self.requests, strict=True):
            if number < clients:
                raise ValueError(f"{number} requests never make {clients} clients busy: send at least {clients}")


def usual(concurrency: Sequence[int]) -> tuple[int, ...]:
    """Return how many requests are sent by default: several for each client, and enough where there are few."""
    return tuple(max(16, 3 * clients) for clients in concurrency)


def begin(servers: Sequence[Server], plan: Plan, client: Client, **facts: Any) -> dict[str, Any]:
    """Look at the servers and return the result to be filled.

    Raises
    ------
    ValueError
        A server is busy or refuses; or the pruned server makes as many tokens of a picture as the native one: it
        runs unpruned.
    """
    salt = secrets.randbits(32)  # servers that were measured before have no picture of this run in their caches
    (probe,) = prompts(1, plan.seed, PROBE, side=plan.side)
    tokens = {}
    for server in servers:
        server.settle()
        tokens[server.name] = server.probe(probe)
    if {PRUNED, NATIVE} <= tokens.keys() and tokens[PRUNED] >= tokens[NATIVE]:
        raise ValueError(
            f"the pruned server makes {tokens[PRUNED]} tokens of a prompt of which the native one makes "
            f"{tokens[NATIVE]}, so it does not prune: start it with `evoprune serve`, which checks that the plug-in is "
            "loaded"
        )
    return {
        "format": FORMAT,
        "plan": configuration(plan),
        "servers": {one.name: {**one.facts(), "prompt_tokens": tokens[one.name]} for one in servers},
        "client": client.name,
        "salt": salt,
        **facts,
        "manifest": manifest("vllm"),
        "cells": [],
    }


def configuration(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON values."""
    return json.loads(json.dumps(asdict(plan)))


def measure(
    servers: Sequence[Server],
    plan: Plan,
    client: Client,
    result: dict[str, Any],
    path: Path | None = None,
    advance: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure what `result` does not have yet, writing it to `path` after every cell.

    A cell is one round at one number of clients: the servers take turns on the same prompts, and who is first changes
    from cell to cell. A cell that was broken off is measured anew with other pictures.
    """
    done = {(cell["round"], cell["concurrency"]) for cell in result["cells"]}
    attempt = result["attempts"] = result.get("attempts", 0) + 1
    base = (result["salt"], plan.seed)
    warm = False
    for turn in range(plan.rounds):
        for number, (clients, requests) in enumerate(zip(plan.concurrency, plan.requests, strict=True)):
            if (turn, clients) in done:
                continue
            if not warm:
                write(result, path)  # the attempt: one that is broken off has shown its pictures to the servers
                _warm_up(servers, plan, client, (*base, WARM, attempt), advance)
                warm = True
            asked = prompts(requests, *base, 2 + turn, clients, attempt, side=plan.side)
            order = servers if (turn + number) % 2 == 0 else tuple(reversed(servers))
            cell: dict[str, Any] = {"round": turn, "concurrency": clients, "first": order[0].name, "arms": {}}
            for server in order:
                advance(f"round {turn + 1}, {clients} clients, {server.name}")
                cell["arms"][server.name] = _turn(servers, server, asked, clients, plan, client)
            result["cells"].append(cell)
            write(result, path)
    return result


def _turn(
    servers: Sequence[Server], server: Server, asked: Sequence[Prompt], clients: int, plan: Plan, client: Client
) -> dict[str, Any]:
    for one in servers:
        one.settle()
    before = server.hits()
    run = client.run(server, asked, clients, plan.tokens).to_dict(plan.tokens)
    after = server.hits()
    run["cache_hits"] = {name.removeprefix("vllm:"): after[name] - before.get(name, 0.0) for name in after}
    if not good(run):
        raise ValueError(
            f"no request to the {server.name} server at {server.url} succeeded ({run['samples'][0]['error']}): see its "
            "log"
        )
    return run


def _warm_up(
    servers: Sequence[Server], plan: Plan, client: Client, place: tuple[int, ...], advance: Callable[[str], None]
) -> None:
    for clients in plan.concurrency if plan.warmup else ():
        asked = prompts(plan.warmup, *place, clients, side=plan.side)
        for server in servers:
            advance(f"warm-up, {clients} clients, {server.name}")
            client.run(server, asked, clients, plan.tokens)


def write(result: dict[str, Any], path: Path | None) -> None:
    """Write `result` whole or not at all."""
    if path is None:
        return
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(result, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def load(path: Path) -> dict[str, Any]:
    """Return the result in the file at `path`; ValueError where it is none."""
    wanted = "give a file that `evoprune bench --server` wrote"
    data = read(path, wanted)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"{path} is no result in the format {FORMAT!r}: {wanted}, or measure it anew")
    return data


def resumed(path: Path, fresh: dict[str, Any]) -> dict[str, Any]:
    """Return the result in the file to go on with.

    Raises
    ------
    ValueError
        It has another plan, client or server than `fresh`: figures of both would stand in one table.
    """
    found = load(path)
    facts = [name for name in ("keep", "dtype", "model", "commands") if name in fresh]
    for name in ("plan", "client", "servers", *facts):
        if found.get(name) != fresh[name]:
            raise ValueError(
                f"{path} was measured with another {name} ({found.get(name)}) than this one ({fresh[name]}): choose "
                "another file, or begin anew with --overwrite"
            )
    was, now = (one["manifest"].get("commit") for one in (found, fresh))
    if was != now:
        raise ValueError(
            f"{path} was begun at commit {was}, and this is {now}: choose another file, or begin anew with --overwrite"
        )
    return found
