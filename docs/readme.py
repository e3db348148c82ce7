"""Writes the generated parts of README.md and docs: methods and models from registries, figures from result files."""

from __future__ import annotations

import re
from pathlib import Path

import measured_serving
from measured import block as measured
from measured import methods_page, video_page

import results
from evoprune.commands.tables import markdown
from evoprune.evaluate.catalogue import markdown as benchmarks

README = Path(__file__).parents[1] / "README.md"
VIDEO = Path(__file__).with_name("embedded-video-model.md")
METHODS = Path(__file__).with_name("methods.md")
EVALUATION = Path(__file__).with_name("evaluation.md")
SERVING = Path(__file__).with_name("serving.md")


def updated(text: str, name: str, table: str) -> str:
    """Return `text` with `table` between the markers of block `name`."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if begin not in text or end not in text:
        raise ValueError(f"the page has no block {name!r}: put {begin} and {end} where it belongs")
    return re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{table}\n{end}", text, flags=re.DOTALL)


if __name__ == "__main__":
    results.write()
    page = README.read_text(encoding="utf-8")
    for name in ("methods", "models"):
        page = updated(page, name, markdown(name))
    page = updated(page, "measured", measured())
    README.write_text(page, encoding="utf-8")
    text = VIDEO.read_text(encoding="utf-8")
    VIDEO.write_text(updated(text, "measured", video_page()), encoding="utf-8")
    text = METHODS.read_text(encoding="utf-8")
    for name, part in {**{name: markdown(name) for name in ("methods", "settings")}, **methods_page()}.items():
        text = updated(text, name, part)
    METHODS.write_text(text, encoding="utf-8")
    text = EVALUATION.read_text(encoding="utf-8")
    EVALUATION.write_text(updated(text, "benchmarks", benchmarks().strip()), encoding="utf-8")
    measured_serving.draw()
    text = SERVING.read_text(encoding="utf-8")
    SERVING.write_text(updated(text, "serving", measured_serving.block()), encoding="utf-8")
