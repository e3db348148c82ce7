"""The kernels on this machine's CPU, by Triton's interpreter.

Triton asks for its interpreter once, when it is imported, so `cases.py` runs in a process of its own; each of its test
functions is reported here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="needs the package triton")
CASES = Path(__file__).with_name("cases.py")
NAMES = re.findall(r"^def (test_\w+)", CASES.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str | None]]:
    """Run all cases once: for each function, what went wrong in each of its cases (None: nothing)."""
    report = tmp_path_factory.mktemp("interpreted") / "report.xml"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment |= {"TRITON_INTERPRET": "1", "EVOPRUNE_KERNELS": "interpret", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", str(CASES), f"--junitxml={report}"]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, timeout=600)
    assert report.exists(), done.stdout + done.stderr
    found: dict[str, list[str | None]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        wrong = next((child.text for child in case if child.tag in ("failure", "error", "skipped")), None)
        found.setdefault(case.attrib["name"].split("[")[0], []).append(wrong and f"{case.attrib['name']}\n{wrong}")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_case(results: dict[str, list[str | None]], name: str) -> None:
    assert results.get(name), "none of its cases ran"
    wrong = [text for text in results[name] if text is not None]
    assert not wrong, "\n\n".join(wrong)
