"""How far two harnesses agree: the same questions and arms through lmms-eval and through the batched runner."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evoprune.evaluate.folder import Folder

SUFFIX = "_lmms_eval"  # of a task's folder that was made through lmms-eval
OPTIONS = "--harness lmms-eval --methods all --keep 0.25 --limit 200 --set positions=original"


def command(task: str, model: str) -> str:
    """Return what makes the folder."""
    return f"evoprune eval {model} --tasks {task} {OPTIONS} --output benchmarks/results/eval/{task}{SUFFIX}"


def differing(task: str, folders: Path) -> dict[str, tuple[int, int]] | None:
    """Return for each arm that both folders ran how many answers differ, of how many; None without a second folder."""
    if not all((folders / name / "configuration.json").exists() for name in (task, task + SUFFIX)):
        return None
    ours, theirs = Folder(folders / task), Folder(folders / f"{task}{SUFFIX}")
    found = {}
    for arm, facts in theirs.cells(task):
        if facts["error"] is None and ours.done(task, arm):
            said = {one.id: one.text.strip() for one in ours.answers(task, arm)}
            pairs = [(one.text.strip(), said[one.id]) for one in theirs.answers(task, arm)]
            name = arm.name if arm.keep is None else f"{arm.name} {arm.keep}"
            name += "" if arm.seed is None else f" seed {arm.seed}"
            found[name] = (sum(mine != other for mine, other in pairs), len(pairs))
    return found


def harness(task: str, model: str, folders: Path) -> Iterator[str]:
    """Yield the paragraphs about a task through lmms-eval."""
    yield "### The same through lmms-eval"
    found = differing(task, folders)
    if found is None:
        yield f"Not measured: this makes the folder.\n\n    {command(task, model)}"
        return
    ran = [str(facts.get("command")) for facts in Folder(folders / f"{task}{SUFFIX}").manifest()]
    yield "Made by\n\n" + "\n".join(f"    {one}" for one in dict.fromkeys(ran))
    odd = [f"`{name}` {other} of {asked}" for name, (other, asked) in found.items() if other]
    asked = sum(number for _, number in found.values())
    yield (
        f"{len(found)} arms, {asked} answers: {sum(other for other, _ in found.values())} differ from those of the"
        f" batched runner to the same questions{': ' + ', '.join(odd) if odd else ''}."
        + (" Fewer frames are chosen there by the harness's own model." if any("frames" in one for one in odd) else "")
    )
