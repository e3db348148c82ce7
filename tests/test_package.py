"""What the package promises as a whole: its names, its imports, its files, and a README that is up to date."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import evoprune
from evoprune.commands.tables import markdown

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "evoprune"


def in_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_public_names() -> None:
    for name in evoprune.__all__:
        assert getattr(evoprune, name) is not None
        assert name in dir(evoprune)
    with pytest.raises(AttributeError, match="no attribute 'aply'"):
        _ = evoprune.aply


def test_import_is_light() -> None:
    code = (
        "import sys, evoprune, evoprune.cli; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    assert in_new_process(code) == "[]"


def test_apply_is_the_function_whatever_is_imported_first() -> None:
    for first in ("from evoprune.apply import Handle", "pass"):
        assert in_new_process(
            f"{first}\nimport evoprune\nprint(evoprune.apply.__name__, callable(evoprune.apply))"
        ) == ("apply True")


def test_using_pruners_needs_no_transformers() -> None:
    code = "import sys, evoprune; evoprune.EvoPrune(4).to_dict(); print('transformers' in sys.modules)"
    assert in_new_process(code) == "False"


def test_version_is_the_same_everywhere() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", evoprune.__version__)
    assert evoprune.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def _imports(file: Path) -> set[str]:
    """The parts of evoprune that a file imports, wherever in it."""
    package = ("evoprune", *file.relative_to(SOURCE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = [*base, *(node.module or "").split(".")] if node.module else base
            names = [module] if len(module) > 1 else [[*module, alias.name] for alias in node.names]
            found |= {name[1] for name in names if name[0] == "evoprune" and len(name) > 1}
            found |= {name[0] for name in names if name and name[0] != "evoprune"}
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                found.add(parts[1] if parts[0] == "evoprune" and len(parts) > 1 else parts[0])
    return found


@pytest.mark.parametrize(
    ("part", "never"),
    [
        ("ops", {"transformers", "schedules", "flops", "pruners", "models", "apply", "bench", "tiny", "commands"}),
        ("schedules.py", {"torch", "transformers", "pruners", "models", "apply", "tiny", "show", "commands"}),
        ("flops.py", {"transformers", "pruners", "models", "apply", "tiny", "show", "commands"}),
        ("identity.py", {"torch", "transformers", "pruners", "models", "apply", "fit", "tiny", "show", "commands"}),
        ("recipes.py", {"torch", "transformers", "pruners", "models", "apply", "fit", "tiny", "show", "commands"}),
        ("recipe_files.py", {"torch", "transformers", "pruners", "models", "apply", "fit", "tiny", "show", "commands"}),
        ("pruners", {"transformers", "models", "apply", "tiny", "show", "commands", "evaluate"}),
        ("fit", {"bench", "tiny", "show", "commands", "evaluate"}),
        ("models", {"apply", "bench", "tiny", "show", "commands", "evaluate"}),
        ("apply.py", {"bench", "tiny", "show", "commands", "evaluate"}),
        ("bench", {"show", "commands", "evaluate"}),
        ("show", {"tiny", "commands", "matplotlib", "evaluate"}),
        ("tiny", {"commands", "show", "evaluate"}),
        ("evaluate", {"show", "commands"}),
        ("video", {"transformers", "models", "apply", "tiny", "show", "commands"}),
    ],
)
def test_imports_run_one_way(part: str, never: set[str]) -> None:
    place = SOURCE / part
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    assert files
    for file in files:
        assert not _imports(file) & never, file.relative_to(ROOT)


def test_no_family_names_a_method() -> None:
    from evoprune.pruners import METHODS

    for file in (SOURCE / "models").rglob("*.py"):
        words = {
            node.id for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Name)
        }
        assert not words & {method.__name__ for method in METHODS.values()}, file.name


def test_library_never_asserts() -> None:
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            assert not isinstance(node, ast.Assert), f"{file.name}:{node.lineno}"


def test_every_dependency_has_its_reason() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    wanted = [line for line in lines if re.match(r'\s+"[a-z-]+([>=<.\d,]*)",', line) and "::" not in line]
    assert len(wanted) > 10
    for line in wanted:
        assert "# " in line, line


def test_package_files_stand_in_the_source() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["src/evoprune"]
    for name in ("py.typed", "tiny/pixels.npz", "tiny/pixels.json", "tiny/recipes.json", "tiny/video/recipes.json"):
        assert (SOURCE / name).is_file()


@pytest.mark.parametrize("block", ["methods", "models"])
def test_readme_tables_are_up_to_date(block: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = text.split(f"<!-- {block}:begin -->")[1].split(f"<!-- {block}:end -->")[0].strip()
    assert shown == markdown(block), "run `make readme`"


def test_readme_figures_come_from_the_result_files() -> None:
    pytest.importorskip("scipy", reason="intervals need the extra 'eval'")
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'docs')!r}); import measured; print(measured.block())"
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = text.split("<!-- measured:begin -->")[1].split("<!-- measured:end -->")[0].strip()
    assert shown == in_new_process(code), "run `make readme`"


def test_figures_of_the_video_model_come_from_the_result_file() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'docs')!r}); import measured; print(measured.video_page())"
    text = (ROOT / "docs" / "embedded-video-model.md").read_text(encoding="utf-8")
    shown = text.split("<!-- measured:begin -->")[1].split("<!-- measured:end -->")[0].strip()
    assert shown == in_new_process(code), "run `make readme`"


def test_links_of_the_documents_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"
