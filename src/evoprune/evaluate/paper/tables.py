"""EvoPrune's Tables 1 to 3 and Figure 4: model, benchmarks, budgets and rows of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import unknown
from . import numbers as printed
from .numbers import Key

RIVALS = ("fastervlm", "vispruner", "dart", "divprune", "cdpruner", "evoprune")
SCHEDULES = ("mean", "skip", "first:13", "last:13", "increasing:1.0", "decreasing:1.0")
L1 = ("S2E", "S2O", "S2A", "E2O", "O2E", "T2E", "T2O", "T2A")  # LongVideoBench's categories of perception
L2 = ("E3E", "O3O", "SSS", "SOS", "SAA", "T3E", "T3O", "TOS", "TAA")  # and of relation


@dataclass(frozen=True)
class Column:
    """A benchmark of a table, in the units in which the paper prints it.

    Attributes
    ----------
    task
        lmms-eval's name.
    metric, scale
        What the harness reports of it, and what makes the paper's units of that; None is the share of right answers.
    subtasks
        How many tasks the name stands for.
    kinds
        Only the questions whose kind, or the part of it before a colon, is one of these: a column within a benchmark,
        which no average counts again.
    """

    name: str
    task: str
    metric: str | None = None
    scale: float = 100.0
    subtasks: int = 1
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Variant:
    """A row of a table at each budget: its key in `numbers`, and the arm that it is."""

    key: str
    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""


@dataclass(frozen=True)
class Table:
    """One table of the paper.

    Attributes
    ----------
    model
        Its model on the hub; `hint` says what has to be done to it first.
    options
        Of `evoprune.apply`.
    frames
        Of a video; None where pictures are shown.
    settings
        What a method needs on this model beside its defaults.
    """

    name: str
    title: str
    model: str
    columns: tuple[Column, ...]
    budgets: tuple[int, ...]
    variants: tuple[Variant, ...]
    numbers: Mapping[Key, tuple[float | None, ...]]
    frames: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    hint: str = ""

    @property
    def tasks(self) -> tuple[str, ...]:
        """lmms-eval's names of its benchmarks."""
        return tuple(dict.fromkeys(column.task for column in self.columns))


MVBENCH = Column("MVBench", "mvbench", "mvbench_accuracy", 1.0, subtasks=20)
LONG = Column("LongVideoBench", "longvideobench_val_v", "lvb_acc")
VIDEOMME = Column("Video-MME", "videomme", "videomme_perception_score", 1.0)
VIDEO: dict[str, Any] = {
    "model": "lmms-lab/LLaVA-Video-7B-Qwen2",
    "hint": "turn it into what transformers loads with examples/convert_llava_video.py, and give the folder as --model",
    "frames": 64,
    "options": {"pool": "average", "newline": "grid"},
    "settings": {"text_tower": "embeddings"},
}
TABLES = {
    one.name: one
    for one in (
        Table(
            "table1", "Table 1: pictures, LLaVA-1.5-7B", "llava-hf/llava-1.5-7b-hf",
            (
                Column("VQAv2", "vqav2_val", "exact_match"),
                Column("MME", "mme", "mme_perception_score", 1.0),
                Column("MMBench", "mmbench_en_dev_static", "gpt_eval_score", 1.0),
                Column("MMBench-CN", "mmbench_cn_dev_static", "gpt_eval_score", 1.0),
                Column("MM-Vet", "mmvet", "gpt_eval_score", 1.0),
            ),
            (128, 64, 32), tuple(Variant(name, name) for name in RIVALS), printed.TABLE1,
            settings={"text_tower": "openai/clip-vit-large-patch14-336"},
        ),
        Table(
            "table2", "Table 2: videos, LLaVA-Video-7B, 64 frames",
            columns=(
                MVBENCH,
                LONG,
                Column("perception", LONG.task, kinds=L1),
                Column("relation", LONG.task, kinds=L2),
                VIDEOMME,
                *(Column(length, VIDEOMME.task, kinds=(length,)) for length in ("short", "medium", "long")),
            ),
            budgets=(64, 32, 16), variants=tuple(Variant(name, name) for name in RIVALS), numbers=printed.TABLE2,
            **VIDEO,
        ),
        Table(
            "table3", "Table 3: parts of EvoPrune's score, LLaVA-Video-7B, 64 frames",
            columns=(MVBENCH, LONG, VIDEOMME),
            budgets=(64,),
            variants=(
                Variant("without both", "evoprune", {"critical_ratio": 0.0, "diversity": 0.0}, "evoprune without both"),
                Variant("without attention", "evoprune", {"critical_ratio": 0.0}, "evoprune without attention"),
                Variant("without diversity", "evoprune", {"diversity": 0.0}, "evoprune without diversity"),
                Variant("evoprune", "evoprune"),
            ),
            numbers=printed.TABLE3, **VIDEO,
        ),
        Table(
            "fig4", "Figure 4: schedules of EvoPrune, LLaVA-Video-7B, 64 frames",
            columns=(MVBENCH, VIDEOMME),
            budgets=(64, 32, 16),
            variants=tuple(Variant(name, "evoprune", {"schedule": name}, f"evoprune {name}") for name in SCHEDULES),
            numbers=printed.FIGURE4, **VIDEO,
        ),
    )
}  # fmt: skip


def find(name: str) -> Table:
    """Return a table by name; ValueError with the nearest one where there is none such."""
    if name not in TABLES:
        raise ValueError(unknown("table", name, TABLES))
    return TABLES[name]
