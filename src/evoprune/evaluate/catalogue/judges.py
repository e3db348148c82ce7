"""Tasks that ask a judge model: refused while none can answer, as lmms-eval would score 0 or draw options at random."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

ALWAYS = ("mmvet",)
# Asked only where the rules find no option; without a key that takes minutes an answer, and ends in a random option.
UNPARSED = {
    "mmbench_en_dev": "mmbench_en_dev_static",
    "mmbench_en_dev_lite": "mmbench_en_dev_static",
    "mmbench_cn_dev": "mmbench_cn_dev_static",
    "mmbench_cn_dev_lite": "mmbench_cn_dev_static",
    "mmbench_cn_cc": "",
    "mmbench_ko_dev": "",
    "mmbench_ru_dev": "",
}
# What each kind of judge needs to be reached; "local" is a server of one's own, which lmms-eval asks for no key.
KEYS = {
    "openai": "OPENAI_API_KEY",
    "async_openai": "OPENAI_API_KEY",
    "azure": "AZURE_API_KEY",
    "async_azure": "AZURE_API_KEY",
    "bedrock": "AWS_BEARER_TOKEN_BEDROCK",
    "local": None,
}
RULED = ("openai", "azure")  # kinds that MMBench's own client knows


def judge(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return which judge the environment chooses, ``type`` and ``model``, where it is not the one of lmms-eval.

    Runs that were scored by different ones are not to be mixed. The address of a server is left out.
    """
    environ = os.environ if environ is None else environ
    kind, model = environ.get("API_TYPE", "").lower(), environ.get("MODEL_VERSION", "")
    chosen = {"type": "" if kind == "openai" else kind, "model": model}
    return {name: value for name, value in chosen.items() if value}


def check_judges(tasks: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
    """Refuse tasks whose judge cannot be asked.

    Parameters
    ----------
    tasks
        Names of lmms-eval tasks.
    environ
        In place of the environment.

    Raises
    ------
    ValueError
        A judge without its key, of a kind that scores nothing, or two judges that read one address differently.
    """
    environ = os.environ if environ is None else environ
    kind = environ.get("API_TYPE", "openai").lower()
    always, unparsed = [t for t in tasks if t in ALWAYS], [t for t in tasks if t in UNPARSED]
    if always and kind not in KEYS:
        raise ValueError(f"API_TYPE={kind} is no judge that scores {always[0]}: set it to one of {', '.join(KEYS)}")
    if always and KEYS[kind] and not environ.get(KEYS[kind] or ""):
        raise ValueError(
            f"every answer to {always[0]} is scored by a judge model, and {KEYS[kind]} is not set: set it (and "
            f"MODEL_VERSION for another model than lmms-eval's), or API_TYPE=local and LLM_JUDGE_URL for a server of "
            f"your own, or leave {always[0]} out"
        )
    if unparsed:
        _rules(unparsed[0], kind, environ)
    if always and unparsed and environ.get("OPENAI_API_URL"):
        raise ValueError(
            f"OPENAI_API_URL is the address of the API to {always[0]} and of its /chat/completions to {unparsed[0]}: "
            "run them one after the other, or take the static variant of MMBench"
        )


def _rules(task: str, kind: str, environ: Mapping[str, str]) -> None:
    key = KEYS.get(kind) if kind in RULED else None
    if key and environ.get(key):
        return
    way = f"run {UNPARSED[task]}, which needs no judge, or" if UNPARSED[task] else "leave it out, or"
    lacking = f"{key} is not set" if key else f"API_TYPE={kind} is no judge that MMBench knows"
    raise ValueError(
        f"{task} asks a judge model about answers that its rules cannot read, and {lacking}: {way} set API_TYPE to "
        f"openai or azure, and OPENAI_API_KEY or AZURE_API_KEY"
    )
