"""The embedded benchmarks as files that lmms-eval loads: a YAML file, its questions as parquet, pictures without loss.

``python -m evoprune.evaluate.embedded.data tiny_scenes`` writes them, and prints lmms-eval's ``--include_path``.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ...tiny import benchmark as scenes
from ...tiny.video import benchmark as clips
from .. import tasks as task_files
from .lossless import ffv1, png
from .tasks import SPLIT, TASKS, examples, questions

FORMAT = 1  # of the files; another number makes them anew


def cache() -> Path:
    """Return the folder of generated files.

    ``$EVOPRUNE_CACHE``, else ``evoprune`` in ``$HF_HOME``, in ``$XDG_CACHE_HOME`` or in ``~/.cache``.
    """
    if os.environ.get("EVOPRUNE_CACHE"):
        return Path(os.environ["EVOPRUNE_CACHE"]).expanduser()
    parent = os.environ.get("HF_HOME") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(parent).expanduser() / "evoprune"


def prepare(task: str, limit: int | None = None, folder: Path | None = None) -> Path:
    """Write the files of an embedded task, where they are not there yet.

    They stand in a folder of their own that is named by a hash of what they hold, and that appears whole: several
    processes may prepare one task at once.

    Parameters
    ----------
    task
        ``"tiny_scenes"`` or ``"tiny_clips"``.
    limit
        Only the first so many questions.
    folder
        Where to write; `cache` by default.

    Returns
    -------
    Path
        What lmms-eval takes as ``--include_path``, and ``TaskManager`` as ``include_path``.

    Raises
    ------
    ValueError
        An unknown task, a limit below 1, a package that is missing, or a folder that cannot be written to.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} leaves no question of {task}: give 1 or more, or none for all of them")
    numbers = list(dict.fromkeys(example.scene for example in examples(task, limit)))
    folder = (cache() if folder is None else Path(folder)).expanduser().absolute()
    template = resources.files(task_files).joinpath(f"{task}.yaml.template").read_text(encoding="utf-8")
    target = folder / f"{task}-{_key(task, limit, numbers, template, folder)}"
    if target.is_dir():
        return target
    try:
        _write(task, limit, numbers, template, target)
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written ({error.strerror or error}): set EVOPRUNE_CACHE to a folder with free space"
        ) from error
    return target


def _pixels(task: str, number: int) -> np.ndarray:
    """Return a scene, uint8 (H, W, 3), or a clip, uint8 (F, H, W, 3)."""
    if TASKS[task] == "image":
        return np.asarray(scenes.picture(SPLIT, number).image().convert("RGB"))
    return clips.film(SPLIT, number).frames


def _key(task: str, limit: int | None, numbers: list[int], template: str, folder: Path) -> str:
    # The folder counts too: the files name each other by absolute paths, which another folder would break.
    told = [FORMAT, template, str(folder), [question.to_dict() for question in questions(task, limit)]]
    found = hashlib.sha256(json.dumps(told).encode())
    for number in numbers:
        found.update(_pixels(task, number).tobytes())
    return found.hexdigest()[:16]


def _write(task: str, limit: int | None, numbers: list[int], template: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".part-{task}-", dir=target.parent))
    try:
        part.chmod(0o755)
        _table(task, limit, numbers, part, target)
        yaml = template.replace("{data}", json.dumps(str(target / "questions.parquet")))
        (part / f"{task}.yaml").write_text(yaml, encoding="utf-8")
        try:
            part.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was faster, with the same files
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _table(task: str, limit: int | None, numbers: list[int], part: Path, target: Path) -> None:
    try:
        import datasets
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(f"{task} for lmms-eval needs the extra 'eval': pip install 'evoprune[eval]'") from error
    shown: dict[str, Any] = {}
    text, kind = datasets.Value("string"), TASKS[task]
    if kind == "image":
        shown = {str(number): {"bytes": png(_pixels(task, number)), "path": None} for number in numbers}
    else:
        for number in numbers:
            name = f"{number:04d}.mkv"
            ffv1(part / name, _pixels(task, number))
            shown[str(number)] = str(target / name)
    names = ("id", "question", "answer", "kind", "group", kind)
    features = datasets.Features(dict.fromkeys(names, text) | ({kind: datasets.Image()} if kind == "image" else {}))
    rows = [(q.id, q.prompt, q.target, q.kind, q.group, shown[q.group]) for q in questions(task, limit)]
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    table = pyarrow.table(columns, schema=features.arrow_schema)
    # zstd sees that neighbours show the same picture, and stores it once.
    parquet.write_table(table, part / "questions.parquet", compression="zstd")


def main(names: list[str]) -> None:
    """Prepare the tasks, all by default, and print the folder of each."""
    for name in names or list(TASKS):
        print(prepare(name))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as wrong:
        sys.exit(f"error: {wrong}")
