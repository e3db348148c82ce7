"""lmms-eval's response cache, whose key holds the arguments as they were typed, and not what is in a file."""

from __future__ import annotations

import hashlib
import sys

from .arguments import Wanted


def check_cache(wanted: Wanted) -> None:
    """Refuse lmms-eval's response cache where its key would not change with a file that a setting names.

    The key holds the arguments as they were typed. ``fingerprint`` brings the contents of the files into it.

    Raises
    ------
    ValueError
        With the fingerprint to add; or one is given and is another.
    """
    if not wanted.files:
        return
    found = hashlib.sha256()
    for file in wanted.files:
        with open(file, "rb") as opened:
            found.update(opened.read())
    now = "f" + found.hexdigest()[:12]  # a letter first: lmms-eval would read digits as a number
    names = " and ".join(wanted.files)
    if wanted.fingerprint is None and _cached():
        raise ValueError(
            f"--use_cache would not notice a change of {names}: add fingerprint={now} to --model_args, or leave "
            "--use_cache out"
        )
    if wanted.fingerprint not in (None, now):
        raise ValueError(f"fingerprint={wanted.fingerprint} is not that of {names}: it is {now} now")


def _cached() -> bool:
    """Whether lmms-eval, which is building a model, was given a response cache: it tells models nothing of it."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "simple_evaluate" and frame.f_locals.get("use_cache") is not None:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
