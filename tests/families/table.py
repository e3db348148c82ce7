"""All cases of the table: every module of this folder that has some. Models are built once, and shared."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tests.families as here
from tests.families.case import Case, Picture, Row, Video


def cases() -> list[Case]:
    names = sorted(info.name for info in pkgutil.iter_modules(here.__path__) if not info.name.startswith("test_"))
    modules = [importlib.import_module(f"{here.__name__}.{name}") for name in names if name not in ("case", "table")]
    return [case for module in modules for case in getattr(module, "CASES", [])]


CASES = cases()


@functools.cache
def _model(case_name: str) -> Any:
    return next(case for case in CASES if case.name == case_name).model()


@contextmanager
def model_of(case: Case) -> Iterator[Any]:
    """Hand out the case's model, which a test has to leave as it was."""
    model = _model(case.name)
    before = {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.named_modules()}
    yield model
    for name, module in model.named_modules():
        hooks = len(module._forward_hooks), len(module._forward_pre_hooks)
        # transformers itself adds one that captures outputs
        assert hooks[0] <= before[name][0] + 1 and hooks[1] <= before[name][1], f"a test left hooks on {name}"
        assert not {"forward", "generate"} & set(module.__dict__), f"a test left {name} wrapped"


def mixed(case: Case) -> list[Row]:
    """Return a batch of rows: one picture, text alone, two adjacent ones, and a video where there are any."""
    first, second, third = (case.pictures * 3)[:3]
    rows: list[Row] = [
        ("USER: ", first, " what is this ? ASSISTANT:"),
        ("USER: what is a dog ? a b c d ASSISTANT:",),
        ("a ", second, third, " and more"),
    ]
    if case.videos and case.mixes:
        rows.append(("look ", case.videos[0], " what moves ?"))
    return rows


def visuals(rows: list[Row]) -> list[Picture | Video]:
    """Return pictures, then videos, of a batch: the order in which the library counts them."""
    parts = [part for row in rows for part in row if not isinstance(part, str)]
    return [p for p in parts if isinstance(p, Picture)] + [p for p in parts if isinstance(p, Video)]
