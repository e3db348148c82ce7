"""Results of servers as rows: a number of clients and a server each, for the terminal, CSV and documents."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .run import ALONE, NATIVE, PRUNED
from .samples import figures, rate, spread

CSV = (
    "concurrency", "server", "prompt_tokens", "requests", "failed", "rate_median", "rate_low", "rate_high",
    "goodput_median", "ttft_p50", "ttft_p99", "rate_to_native", "ttft_p50_to_native", "ttft_p99_to_native",
)  # fmt: skip


def rows(result: dict[str, Any], within: float | None = None) -> list[dict[str, Any]]:
    """Return figures of every server at every number of clients that was measured, native before pruned.

    Returns
    -------
    list of dict
        ``concurrency``, ``server``, those of `samples.figures`, and ``ratio``: the rate over native's round by round,
        as median, low and high, None without a native server.
    """
    found = []
    for clients in result["plan"]["concurrency"]:
        cells = [cell for cell in result["cells"] if cell["concurrency"] == clients]
        for name in (ALONE, NATIVE, PRUNED):
            if not cells or name not in result["servers"]:
                continue
            made = figures([cell["arms"][name] for cell in cells], within)
            found.append({"concurrency": clients, "server": name, **made, "ratio": None})
            if name == PRUNED and NATIVE in result["servers"]:
                pairs = [rate(cell["arms"][PRUNED]) / rate(cell["arms"][NATIVE]) for cell in cells]
                found[-1]["ratio"] = spread(pairs)
    return found


def headings(goodput: bool = False) -> list[str]:
    """Return what stands over the columns of `cells`."""
    good = ["in time/s"] if goodput else []
    return ["clients", "server", "prompt", "requests/s", "× native", *good, "TTFT p50", "TTFT p99", "failed"]


def cells(row: dict[str, Any]) -> list[str]:
    """Return one row as text."""
    ttft, ratio, prompt = row["ttft"] or {}, row["ratio"], row["prompt"]
    return [
        str(row["concurrency"]),
        row["server"],
        "" if prompt is None else f"{prompt:.0f}",
        ranged(row["rate"]),
        "" if ratio is None else ranged(ratio),
        *([] if row["goodput"] is None else [ranged(row["goodput"])]),
        *(seconds(ttft.get(name)) for name in ("p50", "p99")),
        f"{row['failed']}/{row['requests']}",
    ]


def ranged(one: dict[str, float]) -> str:
    """Return a median with its range in brackets; one number where they are equal."""
    median, low, high = (_digits(one[name]) for name in ("median", "low", "high"))
    return median if low == high else f"{median} [{low}–{high}]"


def seconds(value: float | None) -> str:
    """Return a time in milliseconds or seconds."""
    if value is None:
        return ""
    return f"{_digits(value)} s" if value >= 1 else f"{_digits(value * 1000)} ms"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}"


def notes(result: dict[str, Any]) -> list[str]:
    """Return what a reader of the table has to know besides."""
    plan, servers = result["plan"], result["servers"]
    versions = sorted({str(one["version"]) for one in servers.values() if one["version"]})
    rounds = max(sum(c["concurrency"] == n for c in result["cells"]) for n in plan["concurrency"])
    told = [
        f"{' and '.join(dict.fromkeys(one['model'] for one in servers.values()))}"
        f"{f' on vLLM {versions[0]}' if len(versions) == 1 else ''}; answers of {plan['tokens']} tokens; median "
        f"[range] of {rounds} rounds in which the servers took turns on the same prompts; TTFT of all requests; "
        f"client: {result['client']}."
    ]
    if len(versions) > 1:
        told.append(f"The servers run different versions: {', '.join(versions)}.")
    hits: dict[str, float] = {}
    for cell in result["cells"]:
        for arm in cell["arms"].values():
            for name, number in arm["cache_hits"].items():
                hits[name] = hits.get(name, 0.0) + number
    if {PRUNED, NATIVE} <= result["servers"].keys():
        slow = behind(result)
        told.append(
            f"In requests a second pruned is not ahead at {', '.join(map(str, slow))} clients."
            if slow
            else "In requests a second pruned is ahead at every number of clients."
        )
    told += [f"{name}: {number:.0f}, so caches answered for some of it." for name, number in hits.items() if number]
    return told


def show(result: dict[str, Any], within: float | None = None, console: Console | None = None) -> None:
    """Print the table and its notes."""
    console = console or Console(highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for number, heading in enumerate(headings(within is not None)):
        table.add_column(heading, justify="left" if number == 1 else "right")
    for row in rows(result, within):
        table.add_row(*cells(row))
    console.print(table)
    for line in notes(result):
        console.print(line, style="dim", markup=False)


def write_csv(result: dict[str, Any], path: Path, within: float | None = None) -> None:
    """Write a row a server and number of clients; seconds, and requests a second."""
    found = rows(result, within)
    native = {row["concurrency"]: row for row in found if row["server"] == NATIVE}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CSV, lineterminator="\n")
        writer.writeheader()
        for row in found:
            writer.writerow(_flat(row, native.get(row["concurrency"])))


def _flat(row: dict[str, Any], to: dict[str, Any] | None) -> dict[str, Any]:
    ttft = row["ttft"] or {}
    flat = {name: row[name] for name in ("concurrency", "server", "requests", "failed")}
    flat |= {"prompt_tokens": row["prompt"], **{f"rate_{name}": value for name, value in row["rate"].items()}}
    flat |= {f"ttft_{name}": ttft.get(name) for name in ("p50", "p99")}
    flat["goodput_median"] = (row["goodput"] or {}).get("median")
    if row["ratio"] is not None:
        flat["rate_to_native"] = row["ratio"]["median"]
    if to is not None and to is not row and ttft and to["ttft"]:
        flat |= {f"ttft_{name}_to_native": ttft[name] / to["ttft"][name] for name in ("p50", "p99")}
    return flat


def behind(result: dict[str, Any]) -> Sequence[int]:
    """Return the numbers of clients at which the pruned server answered fewer requests a second than the native one."""
    return [row["concurrency"] for row in rows(result) if row["ratio"] and row["ratio"]["median"] <= 1]
