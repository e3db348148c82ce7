"""The command that starts vLLM with pruning: built and checked here, without vLLM."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .options import KEEP, KEY, Options
from .passed import Passed
from .vllm import BACKEND, CONNECTOR, NATIVE, PREFIX

IMPLEMENTATIONS = ("auto", "vllm", "transformers")
FLAG = "--hf-overrides"
# Arguments that have a say in what prunes, and that `evoprune serve` has options for: how each is given to it.
OURS = {
    "--model": "as MODEL",
    "--host": "as --host before --",
    "--port": "as --port before --",
    "--model-class-overrides": "not at all, as it would replace the class that prunes",
}
# What vLLM may fetch for a request; a user's own values win.
CAREFUL = {
    "VLLM_MEDIA_CONNECTOR": CONNECTOR,
    "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    "VLLM_MAX_IMAGE_PIXELS": "50000000",  # 150 MB as RGB; vLLM's own limit is three and a half times as much
}
SECRET = ("--api-key", "--hf-token")  # options whose values are nobody's business


@dataclass(frozen=True)
class Wanted:
    """A server, as it is asked for.

    Attributes
    ----------
    model
        Folder or hub id, as vLLM takes it.
    options
        The pruners.
    implementation
        One of `IMPLEMENTATIONS`: the encoder is vLLM's own, or that of transformers.
    host, port
        Where it listens.
    per_request
        Whether a request may name a budget of its own.
    arguments
        Of vLLM's own, as they were given.
    defaults
        Arguments of vLLM's that are added unless they were given: name and value, "" for a flag.
    environment
        Variables that are set unless they are set already.
    """

    model: str
    options: Options
    implementation: str = "auto"
    host: str = "127.0.0.1"
    port: int = 8000
    per_request: bool = False
    arguments: Sequence[str] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Command:
    """What is run: `arguments` of the program vllm, in an environment with `environment` added."""

    architecture: str
    overrides: Mapping[str, Any]
    arguments: tuple[str, ...]
    environment: Mapping[str, str]

    def shell(self, program: str = "vllm") -> str:
        """Return one line that a shell takes, without keys."""
        words = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*words, shlex.join([program, *_hidden(self.arguments)])])


def _hidden(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with ... for the values of secret ones."""
    shown: list[str] = []
    secret = False
    for word in arguments:
        option = word.startswith("--")
        if option:
            name, given, _ = word.partition("=")
            secret = any(one.startswith(name.replace("_", "-")) for one in SECRET) and len(name) > 4
            shown.append(f"{name}=..." if secret and given else word)
        else:
            shown.append("..." if secret else word)
    return shown


def build(wanted: Wanted, architectures: Sequence[str], present: Mapping[str, str]) -> Command:
    """Return the command.

    Parameters
    ----------
    architectures
        Of the checkpoint, as its config names them.
    present
        The environment that it will run in.

    Raises
    ------
    ValueError
        An architecture that cannot be served, or arguments for vLLM that contradict the pruning.
    """
    passed = Passed.read(wanted.arguments)
    for name, way in OURS.items():
        if passed.has(name):
            raise ValueError(f"{name} cannot be passed on to vLLM: give it {way}")
    implementation = _implementation(wanted.implementation, passed)
    architecture = chosen(architectures, implementation)
    _check_processor_arguments(passed)
    overrides = merged(passed, architecture, wanted.options)
    more = [] if passed.has("--uds") else ["--host", wanted.host, "--port", str(wanted.port)]
    if wanted.per_request and not passed.has("--trust-request-mm-kwargs"):
        more.append("--trust-request-mm-kwargs")
    for name, value in wanted.defaults.items():
        if not passed.has(name):
            more += [name, value] if value else [name]
    rest = passed.without(FLAG, "--model-impl")
    environment = {name: value for name, value in {**CAREFUL, **wanted.environment}.items() if name not in present}
    given = ("serve", wanted.model, FLAG, json.dumps(overrides), *more, *rest)
    return Command(architecture, overrides, given, environment)


def chosen(architectures: Sequence[str], implementation: str = "auto") -> str:
    """Return the plug-in's architecture for those of a checkpoint; ValueError where there is none."""
    for name in architectures:
        if name in NATIVE:
            return PREFIX + (BACKEND if implementation == "transformers" else name)
    named = ", ".join(architectures) or "no architecture"
    raise ValueError(
        f"a checkpoint of {named} cannot be served with pruning: this plug-in has {', '.join(NATIVE)}; `evoprune ask` "
        "prunes other families without a server (`evoprune models`)"
    )


def merged(passed: Passed, architecture: str, options: Options) -> dict[str, Any]:
    """Return the overrides of the checkpoint's config: the user's own, and what asks for pruning."""
    given = passed.values(FLAG)
    if passed.dotted(FLAG) or len(given) > 1:
        raise ValueError(f"{FLAG} is given in parts: write it once, as one JSON object")
    try:
        own = json.loads(given[0]) if given else {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{FLAG} {given[0]!r} is no JSON ({error}): write one JSON object") from error
    if not isinstance(own, dict):
        raise ValueError(
            f"{FLAG} {given[0]!r} is no JSON object: write one such as '{{\"max_position_embeddings\": 4096}}'"
        )
    for name in ("architectures", KEY):
        if name in own:
            raise ValueError(f"{FLAG} has {name!r}, which evoprune serve writes itself: leave it out")
    rows = [pruner.to_dict() for pruner in options.pruners]
    return {**own, "architectures": [architecture], KEY: rows[0] if len(rows) == 1 else rows}


def _implementation(asked: str, passed: Passed) -> str:
    """Return ours for vLLM's --model-impl, which would put an unpruned class in the pruned one's place."""
    given = passed.values("--model-impl")
    if asked not in IMPLEMENTATIONS or (given and given[-1] not in IMPLEMENTATIONS):
        wrong = given[-1] if given else asked
        raise ValueError(
            f"the implementation {wrong!r} has no pruned model: choose one of {', '.join(IMPLEMENTATIONS)}"
        )
    if given and asked not in ("auto", given[-1]):
        raise ValueError(f"--impl {asked} and --model-impl {given[-1]} contradict each other: leave one of them out")
    return given[-1] if given else asked


def _check_processor_arguments(passed: Passed) -> None:
    name = "--mm-processor-kwargs"
    if any(KEEP in text for text in (*passed.values(name), *passed.dotted(name))):
        raise ValueError(f"{name} has {KEEP!r}, which contradicts --keep: give the server's budget as --keep")
