"""Arguments that are passed on to vLLM, read as its parser reads them, as far as it matters here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# What a config file could say that decides on pruning or on where the server is, without being seen here.
UNSEEN = (
    "hf-overrides", "model-impl", "model", "model-class-overrides", "mm-processor-kwargs", "host", "port", "uds",
    "headless", "ssl-keyfile", "ssl-certfile", "root-path", "api-key",
)  # fmt: skip
WHOLE = ("--model", "--config")  # begin as others do, and are whole themselves


@dataclass(frozen=True)
class Passed:
    """Arguments in groups: an option, its value or values, and nothing that was not given.

    Attributes
    ----------
    groups
        Each begins with an option as it was written; one that does not is what stood before the first option.
    """

    groups: tuple[tuple[str, ...], ...]

    @staticmethod
    def read(arguments: Sequence[str]) -> Passed:
        """Return the groups; ValueError for words before the first option, and for a config file that decides too."""
        groups: list[tuple[str, ...]] = []
        for word in arguments:
            if word.startswith("-") and not _number(word):
                groups.append((word,))
            elif not groups:
                raise ValueError(
                    f"{word!r} is no option of vLLM: write -- and then options such as --max-model-len 4096"
                )
            else:
                groups[-1] += (word,)
        passed = Passed(tuple(groups))
        for file in passed.values("--config"):
            _check_file(file)
        return passed

    def has(self, name: str) -> bool:
        """Whether an option was given, in any of the forms that vLLM understands."""
        return any(_means(group[0], name) for group in self.groups)

    def values(self, name: str) -> list[str]:
        """Return the values of an option each time that it was given, without dotted parts."""
        found = []
        for first, *rest in self.groups:
            if _means(first, name) and "." not in _head(first):
                found += [first.partition("=")[2]] if "=" in first else rest[:1]
        return found

    def dotted(self, name: str) -> list[str]:
        """Return the dotted parts of an option that were given: ``--hf-overrides.a.b``."""
        return [first for first, *_ in self.groups if _means(first, name) and "." in _head(first)]

    def without(self, *names: str) -> list[str]:
        """Return the arguments but for these options and their values."""
        return [word for group in self.groups if not any(_means(group[0], one) for one in names) for word in group]


def _head(word: str) -> str:
    return word.partition("=")[0]


def _means(word: str, name: str) -> bool:
    """Whether vLLM's parser takes `word` for the option `name`: underscores, dotted parts and clear beginnings too."""
    given = _head(word).partition(".")[0].replace("_", "-")
    clear = given not in WHOLE and len(given) > 2 and given.startswith("--")
    return given == name or (clear and name.startswith(given))


def _number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _check_file(name: str) -> None:
    path = Path(name)
    text = path.read_text() if path.is_file() else ""  # a missing file is told by vLLM
    keys = [line.partition(":")[0].strip().strip("\"'").replace("_", "-") for line in text.splitlines()]
    for key in keys:
        if key.partition(".")[0] in UNSEEN:
            raise ValueError(f"--config {name} has {key!r}, which has to be seen here: give it on the command line")
