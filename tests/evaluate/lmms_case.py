"""Small tasks and random models for lmms-eval, as files in a temporary folder."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from tests import builders
from tests.families import gemma3, idefics3, internvl, llava_next, llava_onevision, qwen
from tests.families.case import Picture, Video, draw

TASK = "local_letters"
YAML = """
task: local_letters
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/rows.jsonl}}
test_split: test
output_type: OUTPUT
doc_to_visual: !function utils.visual
doc_to_text: !function utils.text
doc_to_target: answer
process_results: !function utils.result
generation_kwargs: {max_new_tokens: 3, temperature: 0, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
UTILS = """
from PIL import Image

def visual(doc):
    return [Image.open(one).convert("RGB") if one.endswith(".png") else one for one in doc["shown"]]

def text(doc):
    return doc["question"]

def result(doc, results):
    return {"exact_match": float(results[0].strip() == doc["answer"])}
"""


@dataclass(frozen=True)
class Row:
    """One document: what is asked, and pictures or videos (folders of frames) before it."""

    question: str
    shown: Sequence[Picture | Video] = field(default=())


def write_task(folder: Path, rows: Sequence[Row], output: str = "generate_until") -> Path:
    """Write a task of these rows, and return what lmms-eval takes as include path."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, row in enumerate(rows):
        paths = [_drawn(folder / f"{number}-{i}", part) for i, part in enumerate(row.shown)]
        lines.append(json.dumps({"question": row.question, "shown": paths, "answer": "a"}))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "utils.py").write_text(UTILS, encoding="utf-8")
    yaml = YAML.replace("FOLDER", str(folder)).replace("OUTPUT", output)
    (folder / f"{TASK}.yaml").write_text(yaml, encoding="utf-8")
    return folder


def _drawn(path: Path, part: Picture | Video) -> str:
    if isinstance(part, Picture):
        file = path.with_suffix(".png")
        draw(part).save(file)
        return str(file)
    path.mkdir()
    for number, frame in enumerate(draw(part)):
        Image.fromarray(frame).save(path / f"{number}.png")
    return str(path)


def write_clip(path: Path, part: Video) -> str:
    """Write a video file without loss, for classes that read no folders."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=2)
        stream.height, stream.width, stream.pix_fmt = part.height, part.width, "bgr0"
        for frame in draw(part):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return str(path)


CHAT = (
    "{% for m in messages %}{{ m['role'] }} {% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% elif c['type'] == 'video' %}VIDEO"
    "{% else %}{{ c['text'] }}{% endif %} {% endfor %}{% endif %}{% endfor %}"
)
QWEN = [qwen.START + token + qwen.END for token in (qwen.IMAGE, qwen.VIDEO)]
MODELS: dict[str, tuple[Callable[[], Any], Callable[[], Any], str, str]] = {
    "llava": (builders.model, builders.processor, "<image>", ""),
    "llava_next": (llava_next.model, llava_next.processor, "<image>", ""),
    "llava_onevision": (llava_onevision.model, llava_onevision.processor, "<image>", "<video>"),
    "qwen2_5_vl": (qwen.qwen25, functools.partial(qwen.processor, "2.5"), *QWEN),
    "qwen3_vl": (qwen.qwen3, functools.partial(qwen.processor, "3"), QWEN[0], qwen.VIDEO),
    "internvl": (internvl.model, internvl.processor, "<image>", "<video>"),
    "gemma3": (gemma3.model, gemma3.processor, "<boi>", ""),
    "idefics3": (idefics3.model, idefics3.processor, "<image>", ""),
}

TOKENS = {
    "internvl": {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<image>",
        "video_token": "<video>",
    },
    "gemma3": {"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"},
}  # fmt: skip


def save(kind: str, folder: Path) -> str:
    """Save a tiny random model and its processor, and return the folder."""
    model, processor, image, video = MODELS[kind]
    built, read = model(), processor()
    read.chat_template = CHAT.replace("IMAGE", image).replace("VIDEO", video)
    built.save_pretrained(folder)
    read.save_pretrained(folder)
    if kind in TOKENS:  # what the tests' tokenizers are told after they are made is not saved
        file = folder / "tokenizer_config.json"
        told = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**told, "extra_special_tokens": TOKENS[kind]}), encoding="utf-8")
    return str(folder)


def build(arguments: str, *, simple: bool = False, batch: int = 1) -> Any:
    """Build the plug-in's model as lmms-eval does."""
    from lmms_eval.models import get_model

    return get_model("evoprune", simple).create_from_arg_string(arguments, {"batch_size": batch, "device": None})


def evaluate(lm: Any, folder: Path, task: str = TASK, **settings: Any) -> dict[str, Any]:
    """Run a task of a folder through lmms-eval."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    manager = TaskManager("ERROR", include_path=[str(folder)], include_defaults=False, model_name="evoprune")
    return simple_evaluate(model=lm, tasks=[task], task_manager=manager, bootstrap_iters=0, **settings)


def texts(results: dict[str, Any], task: str = TASK) -> list[str]:
    """Return the answers in the order of the documents."""
    samples = sorted(results["samples"][task], key=lambda sample: sample["doc_id"])
    return [sample["filtered_resps"][0] for sample in samples]
