"""What a question is about: its kind, and the picture or video that it shares with other questions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

ROTATION = 1_000_000  # MMBench's questions repeat with rotated options under index + ROTATION * n

# By patterns of task names: the column of the data set with the kind of a question, and that with its picture or video.
_KINDS = {
    "vqav2_.*": "answer_type",
    "mme": "category",
    "mmbench_.*": "L2-category",
    "mmvet": "capability",
    "longvideobench_.*": "question_category",
    "videomme(_.*)?": "task_type",
    "docvqa_.*": "question_types",
    "ocrbench": "question_type",
    "pope(_.*)?": "category",
    "scienceqa(_.*)?": "subject",
    "seedbench(_.*)?": "question_type_id",
    "mmstar(_.*)?": "category",
}
_GROUPS = {
    "vqav2_.*": "image_id",
    "mme": "question_id",
    "mvbench_.*": "video",
    "longvideobench_.*": "video_path",
    "videomme(_.*)?": "videoID",
    "textvqa_.*": "image_id",
    "docvqa_.*": "docId",
    "pope(_.*)?": "image_source",
    "gqa(_.*)?": "imageId",
}


def kind(task: str, doc: Mapping[str, Any]) -> str:
    """Return the type of a question, "" where the task has none.

    Parameters
    ----------
    task
        Name of the lmms-eval task.
    doc
        Its row of the data set.
    """
    if task.startswith("mvbench_"):
        return task.removeprefix("mvbench_")
    column = _of(_KINDS, task)
    found = doc.get(column if column else "kind")
    if task.startswith("videomme") and found and doc.get("duration"):
        return f"{doc['duration']}: {found}"  # its results are told by length as well
    return ", ".join(map(str, found)) if isinstance(found, (list, tuple)) else _text(found)


def group(task: str, doc: Mapping[str, Any]) -> str:
    """Return what a question shares with others, its picture or video; "" where nothing tells.

    Parameters
    ----------
    task, doc
        As in `kind`. Rotations of one question of MMBench are a group.
    """
    if task.startswith("mmbench") and isinstance(doc.get("index"), int):
        return str(doc["index"] % ROTATION)
    if task.startswith("refcoco"):
        # The file is named by picture and object, COCO_train2014_000000581857_16.jpg.
        return re.sub(r"_\d+(\.\w+)?$", "", _text(doc.get("file_name"))) or _text(doc.get("question_id"))
    column = _of(_GROUPS, task)
    return _text(doc.get(column if column else "group"))


def _of(columns: Mapping[str, str], task: str) -> str:
    return next((column for pattern, column in columns.items() if re.fullmatch(pattern, task)), "")


def _text(value: Any) -> str:
    return "" if value is None else str(value)
