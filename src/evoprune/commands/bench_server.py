"""``evoprune bench --server``: a running server, pruned, and a native one beside it, at several numbers of clients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bench.serving import run as running
from ..bench.serving import table
from ..bench.serving.client import client
from ..bench.serving.server import Server
from . import bench_words as words
from .errors import UserError, refused
from .terminal import emit, progress, watched

# What of `evoprune bench` says something to a server that runs already.
MEANT = {
    "server", "native_server", "concurrency", "requests", "side", "goodput", "client", "repeats", "warmup",
    "decode_tokens", "seed", "json", "csv", "plot", "resume",
}  # fmt: skip
OWN = ("native_server", "concurrency", "requests", "side", "goodput", "client")
WARMUP = 4


@dataclass(frozen=True)
class Wanted:
    """What stands on the command line, as it was written."""

    server: str
    native: str | None
    concurrency: str
    requests: str | None
    repeats: int
    warmup: int | None
    decode_tokens: int
    side: int
    seed: int
    goodput: float | None
    client: str

    def plan(self) -> running.Plan:
        """Return what is to be measured; UserError where a number makes no sense."""
        clients = sorted(set(words.numbers("concurrency", self.concurrency) or []))
        with refused(ValueError):
            if any(one < 1 for one in clients):
                raise ValueError(f"--concurrency {self.concurrency} has a number below 1: give for example 1,4,16,32")
            requests = words.numbers("requests", self.requests)
            if requests is not None and len(requests) == 1:
                requests = [max(requests[0], one) for one in clients]
            return running.Plan(
                concurrency=tuple(clients),
                requests=tuple(requests or running.usual(clients)),
                rounds=self.repeats,
                tokens=self.decode_tokens + 1,
                warmup=WARMUP if self.warmup is None else self.warmup,
                side=self.side,
                seed=self.seed,
            )


def refuse_others(given: Iterable[str], server: str | None) -> None:
    """Refuse options that a running server does not hear, and those of servers where none is given."""
    if server is None:
        for name in OWN:
            if name in given:
                raise UserError(f"{_option(name)} is of servers: give the address of one with --server too")
        return
    for name in given:
        if name == "model":
            raise UserError("a model and --server are given: leave the model out, the server has one already")
        if name not in MEANT:
            raise UserError(
                f"{_option(name)} has no effect on a server that runs already: give it to `evoprune serve`, or leave "
                "out --server"
            )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def run(wanted: Wanted, outputs: words.Outputs) -> None:
    """Check everything that can be wrong, measure, and write."""
    outputs.check()
    plan = wanted.plan()
    if wanted.goodput is not None and not wanted.goodput > 0:
        raise UserError(f"--goodput {wanted.goodput} is no time: give milliseconds to the first token, such as 500")
    with refused(ValueError):
        if wanted.native is not None and wanted.native.rstrip("/") == wanted.server.rstrip("/"):
            raise ValueError(f"--server and --native-server are both {wanted.server}: give two servers")
        sends = client(wanted.client)
        servers = [Server.at(wanted.server, running.PRUNED if wanted.native else running.ALONE)]
        if wanted.native is not None:
            servers.insert(0, Server.at(wanted.native, running.NATIVE))
        result = running.begin(servers, plan, sends)
        path = None if outputs.stdout else outputs.json
        if path is not None and path.exists() and not outputs.overwrite:
            result = running.resumed(path, result)
        _measure(servers, plan, sends, result, path, watched(outputs.stdout))
        _report(result, outputs, wanted.goodput)


def _measure(
    servers: Sequence[Server],
    plan: running.Plan,
    sends: Any,
    result: dict[str, Any],
    path: Path | None,
    shown: bool,
) -> None:
    with progress(shown) as bars:
        open_cells = plan.rounds * len(plan.concurrency) - len(result["cells"])
        warm = len(plan.concurrency) if plan.warmup and open_cells else 0
        task = bars.add_task("Measuring", total=(open_cells + warm) * len(servers))
        started = False

        def advance(what: str) -> None:
            nonlocal started
            bars.update(task, description=what, advance=int(started))
            started = True

        running.measure(servers, plan, sends, result, path, advance)


def _report(result: dict[str, Any], outputs: words.Outputs, goodput: float | None) -> None:
    within = None if goodput is None else goodput / 1000
    if outputs.stdout:
        emit({**result, "figures": table.rows(result, within)})
    else:
        table.show(result, within)
    if outputs.csv is not None:
        table.write_csv(result, outputs.csv, within)
    if outputs.plot is not None:
        from ..bench.serving import plot

        plot.draw(result, outputs.plot)
