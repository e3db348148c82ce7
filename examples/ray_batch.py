"""The same as offline_batch.py on many machines: Ray Data's vLLM processor, the encoders pruned.

    python examples/ray_batch.py llava-hf/llava-1.5-7b-hf rows.jsonl -o answers.jsonl --address auto --engines 16
    python examples/ray_batch.py llava-hf/llava-1.5-7b-hf rows.jsonl -o answers.jsonl --address auto --engines 4 \\
        --engine '{"tensor_parallel_size": 4}'
    python examples/ray_batch.py tiny rows.jsonl -o answers.jsonl --keep 49 --max-tokens 4 --cpu

Every machine needs evoprune, vLLM and the pictures, under the same paths. Each engine takes the GPUs of its tensor
parallelism, or with --cpu one CPU and no GPU; without --address, Ray runs on this machine alone. Answers come in the
order in which they are finished, and the machine that runs this command writes them, as offline_batch.py does: the same
command goes on after a kill.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import batch_rows
from batch_rows import Row, pictures
from offline_batch import arguments, begin, progress, report

ERROR = "__inference_error__"  # a row with this field passes the engine untouched
SHARE = {"num_cpus": 0.25}  # of a CPU, for opening pictures and for what is left of an answer


def prompts(model: str, rows: Sequence[Row], max_tokens: int) -> Iterator[dict[str, Any]]:
    """Yield what Ray carries of each row: the prompt's tokens, as vLLM's chat would have them, and no pictures yet."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(model)
    for row in rows:
        text = processor.apply_chat_template(row.messages(), add_generation_prompt=True)
        tokens = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        params = {"max_tokens": max_tokens, "temperature": 0.0}
        yield {"row": vars(row), "tokenized_prompt": tokens, "sampling_params": params}


def opened(given: dict[str, Any]) -> dict[str, Any]:
    """Add the pictures, or the sentence that says why there are none."""
    try:
        return {**given, "multimodal_data": {"image": pictures(Row(**given["row"]))}}
    except ValueError as error:
        return {**given, ERROR: str(error)}


def finished(done: Mapping[str, Any]) -> dict[str, Any]:
    """Return the line of a row; one that failed comes with the error in place of the answer."""
    row = Row(**done["row"])
    if done.get(ERROR):
        return row.asked() | {"error": " ".join(done[ERROR].split())}
    return row.asked() | {
        "answer": done["generated_text"].strip(), "prompt_tokens": int(done["num_input_tokens"]),
        "answer_tokens": int(done["num_generated_tokens"]),
    }  # fmt: skip


def answered(options: dict[str, Any], rows: Sequence[Row], given: Any) -> Iterator[list[dict[str, Any]]]:
    """Yield finished rows, as many as come at a time."""
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    ray.cloudpickle.register_pickle_by_value(batch_rows)  # this folder is not installed on other machines
    # More logical CPUs than there are: the stages mostly wait for the engine.
    ray.init(address=given.address, **({} if given.address else {"num_cpus": 4, "include_dashboard": False}))
    options = dict(options)
    config = vLLMEngineProcessorConfig(
        model_source=options.pop("model"),
        engine_kwargs=options,
        concurrency=given.engines,
        batch_size=given.chunk,
        placement_group_config={"bundle_per_worker": {"CPU": 1}} if given.cpu else None,
        should_continue_on_error=True,
        log_engine_metrics=False,
        chat_template_stage=False,  # the prompts are tokens already
        tokenize_stage=False,
        detokenize_stage=False,
        prepare_multimodal_stage=False,  # it would open files and addresses that a row names, and end on a broken one
    )
    processor = build_processor(
        config, preprocess=opened, postprocess=lambda done: done,
        preprocess_map_kwargs=SHARE, postprocess_map_kwargs=SHARE,
    )  # fmt: skip
    items = list(prompts(config.model_source, rows, given.max_tokens))
    data = ray.data.from_items(items, override_num_blocks=-(-len(items) // given.chunk))
    for batch in processor(data).iter_batches(batch_size=None, batch_format="pyarrow"):
        yield [finished(one) for one in batch.to_pylist()]


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--address", help="of a running Ray cluster, auto for this machine's; a local Ray without it")
    parser.add_argument("--engines", type=int, default=1, help="at most so many engines (%(default)s)")
    parser.add_argument("--cpu", action="store_true", help="engines without GPUs")
    given, options, answers, rows, left = begin(parser)
    if left:
        with progress(answers, len(left)) as advance:
            for part in answered(options, left, given):
                answers.append(part)
                advance(len(part))
    return report(answers, rows)


if __name__ == "__main__":
    sys.exit(main())
