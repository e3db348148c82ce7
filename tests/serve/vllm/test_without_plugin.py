"""vLLM without the plug-in refuses the pruned architecture: it does not run unpruned."""

from __future__ import annotations

import os
import subprocess
import sys

from evoprune import tiny
from evoprune.pruners import EvoPrune
from evoprune.serve.command import Wanted, build
from evoprune.serve.options import Options

# What `vllm serve` does first with its arguments; the model's class is looked up here.
START = """
import sys
from vllm.engine.arg_utils import EngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
given = make_arg_parser(FlexibleArgumentParser()).parse_args(sys.argv[2:])
given.model = given.model_tag
EngineArgs.from_cli_args(given).create_engine_config()
"""


def start(plugins: str) -> subprocess.CompletedProcess[str]:
    wanted = Wanted(str(tiny.folder()), Options.of([EvoPrune(keep=49)]), defaults={"--block-size": "32"})
    command = build(wanted, ["LlavaForConditionalGeneration"], {})
    environment = {**os.environ, **command.environment, "VLLM_PLUGINS": plugins}
    words = [sys.executable, "-c", START, *command.arguments]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=900)


def test_architecture_is_unknown_without_the_plugin() -> None:
    done = start("none")
    assert done.returncode != 0
    assert "EvoPruneLlavaForConditionalGeneration" in done.stderr and "not supported" in done.stderr


def test_architecture_is_known_with_it() -> None:
    done = start("evoprune")
    assert done.returncode == 0, done.stderr[-2000:]
