"""``evoprune serve``: checks, prints and becomes the vLLM command that prunes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from rich.table import Table

from ..serve import checkpoint, installed, probe
from ..serve.command import Command, Wanted, build
from ..serve.options import Options
from ..serve.passed import Passed
from .errors import UserError, refused
from .loading import BROKEN, EMBEDDED, defaults, not_found, resolve
from .settings import make_pruner, missing
from .terminal import emit, out, quiet

# vLLM remembers processed pictures in two processes, which disagree after a refused request: the next with the same
# picture gets HTTP 500 once.
NO_CACHE = {"--mm-processor-cache-gb": "0"}
# The embedded models are stored in float16 and meant to run in float32; there is nothing in them to compile.
SMALL = {"--dtype": "float32", "--max-model-len": "2048", "--enforce-eager": ""}
SMALL_ON_CPU = {"--block-size": "32"}  # of the default 128, a short prompt never fills one for the prefix cache
KV_CACHE = {"VLLM_CPU_KVCACHE_SPACE": "1"}  # GiB
ANYWHERE = ("0.0.0.0", "::", "")  # hosts that mean all of this machine's addresses


@dataclass(frozen=True)
class How:
    """What beside model and method stands on the command line."""

    implementation: str
    host: str
    port: int
    per_request: bool
    arguments: Sequence[str]
    dry_run: bool
    check: bool
    as_json: bool


def run(name: str, method: Mapping[str, Any], how: How) -> None:
    """Check everything that can be wrong, print the command, and start it unless it is a dry run."""
    quiet(shown=False)
    filled = missing(method["method"], method.get("settings", ()), defaults(name))
    pruner = make_pruner(**method, defaults=filled)
    with refused(ValueError):
        wanted = _wanted(name, Options.of([pruner]), how)
        passed = Passed.read(how.arguments)
    config = _config(name, wanted.model, passed)
    with refused(ValueError):
        command = build(wanted, config.architectures or (), os.environ)
        own = {key: value for key, value in command.overrides.items() if key not in ("architectures", "evoprune")}
        picture = checkpoint.count(checkpoint.overridden(config, own), wanted.options)
    problems = installed.problems(os.environ)
    if not how.dry_run:
        if problems:
            raise UserError("; ".join(problems))
        _check_address(how, passed)
    program = installed.program() or "vllm"
    found = {
        "model": name,
        "method": pruner.to_dict(),
        "architecture": command.architecture,
        "picture": picture.to_dict(),
        "command": command.shell(program),
        "problems": problems,
    }
    if how.as_json:
        emit(found)
    else:
        _show(found, how)
    if not how.dry_run:
        _become(program, command, picture if how.check else None, how, passed)


def _wanted(name: str, options: Options, how: How) -> Wanted:
    if not 0 < how.port < 65536:
        raise UserError(f"--port {how.port} is no port: give one from 1 to 65535")
    added, environment = dict(NO_CACHE), {}
    if Passed.read(how.arguments).has("--mm-processor-cache-type"):
        added = {}
    if name in EMBEDDED:
        added |= {"--served-model-name": name, **SMALL}
        if installed.on_cpu():
            added, environment = added | SMALL_ON_CPU, KV_CACHE
    return Wanted(
        resolve(name),
        options,
        implementation=how.implementation,
        host=how.host,
        port=how.port,
        per_request=how.per_request,
        arguments=how.arguments,
        defaults=added,
        environment=environment,
    )


def _config(name: str, folder: str, passed: Passed) -> Any:
    from transformers import AutoConfig

    revision = passed.values("--revision")
    try:
        return AutoConfig.from_pretrained(folder, **({"revision": revision[-1]} if revision else {}))
    except BROKEN as error:
        raise UserError(not_found(name, folder, error)) from error


def _check_address(how: How, passed: Passed) -> None:
    """Refuse an address that is taken: vLLM would share the port, and the check would ask the other server."""
    if passed.has("--uds") or passed.has("--headless"):
        return
    family = socket.AF_INET6 if ":" in how.host else socket.AF_INET
    try:
        with socket.socket(family) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # of a server that has just ended
            tried.bind((how.host, how.port))
    except OSError as error:
        raise UserError(
            f"{how.host}:{how.port} cannot be listened on ({error.strerror}): choose another --port, or another --host"
        ) from error


def _show(found: Mapping[str, Any], how: How) -> None:
    picture = found["picture"]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("architecture", found["architecture"])
    kept = f"{picture['kept']} of {picture['full']} tokens"
    table.add_row(
        "pruning",
        f"{found['method']['method']}: {kept} for a picture of {picture['width']} x {picture['height']} pixels",
    )
    table.add_row("listens on", f"{how.host}:{how.port}")
    console = out()
    console.print(table)
    console.print(f"\n{found['command']}\n", markup=False, soft_wrap=True)
    for problem in found["problems"]:
        console.print(f"This cannot start here: {problem}", markup=False, soft_wrap=True)


def _become(program: str, command: Command, picture: checkpoint.Picture | None, how: How, passed: Passed) -> NoReturn:
    """Turn this process into the server, so that signals and its exit code are vLLM's own."""
    environment = {**os.environ, **command.environment}
    if picture is not None and not _unreachable(passed):
        _watch(picture, how, passed, environment)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(program, [program, *command.arguments], environment)


def _unreachable(passed: Passed) -> bool:
    """Whether a plain request to this machine would not reach the server."""
    return any(map(passed.has, ("--uds", "--headless", "--ssl-keyfile", "--ssl-certfile", "--root-path", "--grpc")))


def _watch(picture: checkpoint.Picture, how: How, passed: Passed, environment: Mapping[str, str]) -> None:
    """Start the check beside the server to be; its entry stays in the process table until the server ends."""
    host = "127.0.0.1" if how.host in ANYWHERE else f"[{how.host}]" if ":" in how.host else how.host
    keys = passed.values("--api-key") or [environment.get("VLLM_API_KEY", "")]
    told = {"url": f"http://{host}:{how.port}", "pid": os.getpid(), "picture": picture.to_dict()}
    subprocess.Popen(
        [sys.executable, "-m", probe.__name__, json.dumps(told)],
        env={**environment, **({probe.KEY: keys[0]} if keys[0] else {})},
        stdin=subprocess.DEVNULL,
    )
