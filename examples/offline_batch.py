"""Ask a model about many pictures with vLLM's offline engine, its encoder pruned; a killed run goes on where it was.

    python examples/offline_batch.py llava-hf/llava-1.5-7b-hf photos/ --prompt "What is this?" -o answers.jsonl
    python examples/offline_batch.py llava-hf/llava-1.5-7b-hf rows.jsonl -o answers.jsonl --keep 64
    python examples/offline_batch.py llava-hf/llava-1.5-7b-hf rows.jsonl -o answers.jsonl \\
        --engine '{"tensor_parallel_size": 4, "max_num_seqs": 512}'
    python examples/offline_batch.py tiny rows.jsonl -o answers.jsonl --keep 49 --max-tokens 4

rows.jsonl has a question a line: {"id": "7", "image": "cat.jpg", "prompt": "What is this?"}, with paths relative to it;
"image" may be a list, and "id" is the number of the line where it is left out. The output has a line a row, with
"answer", or with "error" where that row alone failed (a broken picture, a prompt that is too long). The same command
goes on after it was killed at any point; --retry asks the failed rows again. Exit code: 0 all rows have an answer,
1 some have an error, 2 the command is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from batch_rows import Answers, Row, pictures, read_rows

READERS = 8  # threads that open pictures
# What suits the embedded model on a CPU: short blocks, so that short prompts share some, and nothing to compile.
SMALL = {"block_size": 32, "max_model_len": 512, "dtype": "float32", "enforce_eager": True}


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return what this program and ray_batch.py are told alike."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="hub id or folder of a checkpoint, or tiny for the embedded model")
    parser.add_argument("data", type=Path, help="a folder of pictures, or a file of JSON lines")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--prompt", help="what to ask about each picture of a folder")
    parser.add_argument("--method", default="evoprune", help="a method of `evoprune methods` (%(default)s)")
    parser.add_argument("--keep", default="0.25", help="tokens a picture, or a share (%(default)s)")
    parser.add_argument("--max-tokens", type=int, default=64, help="of an answer (%(default)s)")
    parser.add_argument("--engine", type=json.loads, default={}, metavar="JSON", help="more arguments of vllm.LLM")
    parser.add_argument("--retry", action="store_true", help="ask the rows again that failed")
    return parser


def engine(given: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of vLLM's engine; UserError or ValueError for what cannot be served."""
    from transformers import AutoConfig

    from evoprune.commands.loading import resolve
    from evoprune.commands.settings import make_pruner
    from evoprune.serve.checkpoint import count
    from evoprune.serve.command import chosen
    from evoprune.serve.options import Options

    model, pruner = resolve(given.model), make_pruner(given.method, given.keep)
    config = AutoConfig.from_pretrained(model)
    overrides = {"architectures": [chosen(config.architectures or ())], "evoprune": pruner.to_dict()}
    count(config, Options.of([pruner]))  # refuses a budget out of reach before anything is loaded
    return {"model": model, "hf_overrides": overrides, **(SMALL if given.model == "tiny" else {}), **given.engine}


def settings(given: argparse.Namespace, options: dict[str, Any]) -> dict[str, Any]:
    """Return what answers depend on, and a run has to go on with."""
    return {"engine": options | {"model": given.model}, "max_tokens": given.max_tokens}


def answer(llm: Any, rows: Sequence[Row], max_tokens: int) -> list[dict[str, Any]]:
    """Return the finished rows; what fails in one row does not touch the others."""
    from vllm import SamplingParams
    from vllm.exceptions import VLLMClientError

    params = SamplingParams(max_tokens=max_tokens, temperature=0)
    errors: dict[str, str] = {}
    for row, seen in opened(rows):
        if isinstance(seen, str):
            errors[row.id] = seen
            continue
        try:
            llm.enqueue_chat(row.messages(seen), params, use_tqdm=False)
        except (VLLMClientError, ValueError) as error:  # of this request alone
            errors[row.id] = " ".join(str(error).split())
    outputs = llm.wait_for_completion(use_tqdm=False)  # in the order in which they were asked
    done = {row.id: {"error": errors[row.id]} for row in rows if row.id in errors}
    done |= zip([row.id for row in rows if row.id not in errors], map(told, outputs), strict=True)
    return [row.asked() | done[row.id] for row in rows]


def opened(rows: Sequence[Row]) -> Iterator[tuple[Row, Any]]:
    """Yield each row with its pictures, or with the sentence that says why there are none; a few at a time."""

    def seen(row: Row) -> Any:
        try:
            return pictures(row)
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(rows), READERS):
            part = rows[start : start + READERS]
            yield from zip(part, pool.map(seen, part), strict=True)


def told(output: Any) -> dict[str, Any]:
    """Return what a finished row says of an answer."""
    (only,) = output.outputs
    return {
        "answer": only.text.strip(), "prompt_tokens": len(output.prompt_token_ids),
        "answer_tokens": len(only.token_ids),
    }  # fmt: skip


def begin(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, dict[str, Any], Answers, list[Row], list[Row]]:
    """Return the command, the engine's arguments, the file of answers, the rows, and those that are left."""
    from evoprune.commands.errors import UserError

    parser.add_argument("--chunk", type=int, default=256, help="rows at a time (%(default)s)")
    given = parser.parse_args()
    if not isinstance(given.engine, dict):
        parser.error(f"--engine {given.engine!r} is no JSON object: write one such as '{{\"max_num_seqs\": 512}}'")
    if given.chunk < 1:
        parser.error(f"--chunk {given.chunk} is no number of rows: give 1 or more")
    try:
        options = engine(given)
        rows = read_rows(given.data, given.prompt)
        answers = Answers(given.output, settings(given, options), given.retry)
        return given, options, answers, rows, answers.left(rows)
    except (UserError, ValueError, OSError) as error:
        parser.error(" ".join(str(error).split()))


def report(answers: Answers, rows: Sequence[Row]) -> int:
    """Print how it went, and return the exit code."""
    failures = sum("error" in answers.finished[row.id] for row in rows)
    print(f"{answers.path}: {len(rows)} rows, {len(rows) - failures} answers, {failures} errors")
    return 1 if failures else 0


@contextmanager
def progress(answers: Answers, left: int) -> Iterator[Any]:
    """Show a bar of the rows that are finished, and yield what moves it on."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        done = len(answers.finished)
        task = bar.add_task("rows", total=done + left, completed=done)
        yield lambda number: bar.advance(task, number)


def main() -> int:
    given, options, answers, rows, left = begin(arguments(__doc__))
    if left:
        from vllm import LLM

        llm = LLM(**options)
        with progress(answers, len(left)) as advance:
            for start in range(0, len(left), given.chunk):
                part = left[start : start + given.chunk]
                answers.append(answer(llm, part, given.max_tokens))
                advance(len(part))
    return report(answers, rows)


if __name__ == "__main__":
    sys.exit(main())
