"""The installed tasks of lmms-eval on data made here: their YAML files and functions, and a parquet file of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evoprune.evaluate.catalogue import index as catalogue_index

RED = Image.new("RGB", (16, 8), (200, 30, 30))


def write(folder: Path, task: str, rows: Sequence[Mapping[str, Any]], **overrides: Any) -> Path:
    """Write a task of the same name that includes the real one, and asks about `rows`; return its YAML file."""
    import datasets

    source = catalogue_index.paths()[task]
    found = catalogue_index.config(source)
    table = datasets.Dataset.from_list([dict(row) for row in rows])
    if "image" in table.column_names:
        table = table.cast_column("image", datasets.Image())
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"{task}.parquet"
    table.to_parquet(data)
    config = {
        "include": str(source),
        "task": task,
        "dataset_path": "parquet",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {found["test_split"]: str(data)}},
        **overrides,
    }
    path = folder / f"{task}.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    return path


def cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let lmms-eval copy data sets into `folder`; it looks at the environment once a process."""
    import lmms_eval.api.task as module

    monkeypatch.setattr(module, "_resolve_hf_datasets_cache_dir", lambda: str(folder))


def scripted(texts: Sequence[str]) -> Any:
    """Return a model that says `texts`, one a document, and looks at the messages that the task makes."""
    from lmms_eval.api.model import lmms

    class Scripted(lmms):
        """Answers by number."""

        is_simple = False
        device = "cpu"

        def __init__(self) -> None:
            super().__init__()
            self.seen: list[Any] = []
            self.settings: list[Any] = []

        def generate_until(self, requests: Any) -> list[str]:
            for one in requests:
                _, messages, settings, number, task, split = one.args
                self.seen.append(messages(self.task_dict[task][split][number]))
                self.settings.append(settings)
            return [texts[one.args[3]] for one in requests]

        def loglikelihood(self, requests: Any) -> Any:
            raise NotImplementedError

        def generate_until_multi_round(self, requests: Any) -> Any:
            raise NotImplementedError

    return Scripted()


def evaluate(yaml: Path, texts: Sequence[str]) -> tuple[dict[str, Any], list[dict[str, Any]], Any]:
    """Return what lmms-eval reports when a model says `texts`, its samples in order, and the model."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    task, model = yaml.stem, scripted(texts)
    manager = TaskManager("ERROR", include_path=[str(yaml.parent)], include_defaults=False, model_name="llava_hf")
    found = simple_evaluate(
        model=model, tasks=[task], task_manager=manager, batch_size=1, bootstrap_iters=0, verbosity="ERROR"
    )
    samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
    metrics = {name.split(",")[0]: value for name, value in found["results"][task].items()}
    return metrics, samples, model
