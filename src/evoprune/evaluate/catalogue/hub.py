"""The hub of data sets, asked once and briefly: whether it answers, and how to do without it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 5.0  # seconds until the hub counts as out of reach
LOCAL = ("parquet", "json", "csv", "text", "pandas", "arrow", "imagefolder", "videofolder")


def reach(dataset: Any) -> str:
    """Return why a data set cannot be fetched, "" if it can, or if it lies on the disk."""
    import datasets
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if not isinstance(dataset, str) or dataset in LOCAL or os.path.exists(dataset):
        return ""
    if datasets.config.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE or HF_DATASETS_OFFLINE is set"
    try:
        HfApi().dataset_info(dataset, timeout=PATIENCE)
    except HfHubHTTPError as error:
        status = getattr(error.response, "status_code", 0)
        return f"the hub {'is out of order' if status >= 500 else 'refuses it'} (HTTP {status})"
    except Exception as error:  # the hub's clients raise errors of several packages, by version
        return f"the hub is out of reach ({type(error).__name__})"
    return ""


@contextmanager
def once(download: Any) -> Iterator[None]:
    """Let lmms-eval try a download once: it tries five times, two seconds apart, whatever the reason."""
    from tenacity import stop_after_attempt

    before = download.retry.stop
    download.retry.stop = stop_after_attempt(1)
    try:
        yield
    finally:
        download.retry.stop = before


@contextmanager
def offline(wanted: bool) -> Iterator[None]:
    """Look into the cache alone, instead of waiting for a hub that does not answer."""
    import datasets
    import huggingface_hub.constants as hub

    before = datasets.config.HF_HUB_OFFLINE, hub.HF_HUB_OFFLINE
    if wanted:
        datasets.config.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, hub.HF_HUB_OFFLINE = before


def cause(error: BaseException) -> BaseException:
    """Return what the last of several tries raised, or the error itself."""
    from tenacity import RetryError

    return (error.last_attempt.exception() or error) if isinstance(error, RetryError) else error
