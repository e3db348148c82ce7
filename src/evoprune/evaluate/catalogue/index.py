"""The tasks that lmms-eval knows, read from its YAML files alone: nothing of it is imported, which takes seconds."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from .. import tasks as task_files

MISSING = "lmms-eval is not installed, and it needs the extra 'eval': pip install 'evoprune[eval]'"


def shipped() -> Path:
    """Return the folder of our own tasks, to be given to lmms-eval as an include path."""
    return Path(str(resources.files(task_files)))


def installed() -> Path:
    """Return the folder of lmms-eval's tasks; ValueError where it is not installed."""
    found = importlib.util.find_spec("lmms_eval")
    if found is None or found.origin is None:
        raise ValueError(MISSING)
    return Path(found.origin).parent / "tasks"


def config(path: Path) -> dict[str, Any]:
    """Return a task's YAML file with what it includes; functions are strings, ``utils.mme_process_results``."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Reads functions as their names."""

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    text = path.read_text(encoding="utf-8", errors="replace")
    found = yaml.load(text, Loader)
    if not isinstance(found, dict):
        return {}
    includes = found.pop("include", [])
    whole: dict[str, Any] = {}
    # lmms-eval's order: of several files the first one wins.
    for name in reversed([includes] if isinstance(includes, str) else includes):
        whole |= config(Path(name) if Path(name).is_file() else path.parent / name)
    return whole | found


@lru_cache(maxsize=1)
def paths() -> dict[str, Path]:
    """Return the file of every task and group by its name; ours come last, as lmms-eval's win over them there too."""
    found: dict[str, Path] = {}
    for root in (installed(), shipped()):
        for path in sorted(root.rglob("*.yaml")):
            name = _name(path)
            if name is not None:
                found.setdefault(name, path)
    return found


def _name(path: Path) -> str | None:
    """Return what a file defines: a group where its ``task:`` is a list, else a task, which may be included."""
    text = path.read_text(encoding="utf-8", errors="replace")
    task, group = _line(text, "task"), _line(text, "group")
    if task and not task.startswith("["):
        return task
    if task is not None and group:
        return group
    if task is None and "include" in text:
        inherited = config(path).get("task")
        return inherited if isinstance(inherited, str) else None
    return None


def _line(text: str, key: str) -> str | None:
    found = re.search(rf"^{key}[ \t]*:[ \t]*([^#\n]*)", text, re.MULTILINE)
    return None if found is None else found.group(1).strip().strip("\"'")


def leaves(name: str) -> Iterator[str]:
    """Yield the tasks of a group, those of groups in it too; a task yields itself."""
    found = config(paths()[name]).get("task")
    if not isinstance(found, list):
        yield name
        return
    for member in found:
        inner = member.get("task") if isinstance(member, dict) else member
        if isinstance(inner, str) and inner in paths():
            yield from leaves(inner)
        else:
            if _likelihoods(paths()[name].parent):
                raise ValueError(
                    f"the group {name} of lmms-eval compares likelihoods of given answers, and pruned models are "
                    "scored by what they generate: leave it out"
                )
            raise ValueError(
                f"the group {name} of lmms-eval has members that are no tasks of their own: name its tasks"
            )


def _likelihoods(folder: Path) -> bool:
    """Whether a folder's tasks let the model compare given answers."""
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in sorted(folder.rglob("*yaml")))
    return any((_line(text, "output_type") or "") in ("multiple_choice", "loglikelihood") for text in texts)
