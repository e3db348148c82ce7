"""Where the pictures and videos of requests come from: vLLM's own loader, which answers some mistakes with HTTP 500.

`evoprune serve` chooses it by the environment variable ``VLLM_MEDIA_CONNECTOR``.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

from urllib3.util import parse_url
from vllm.exceptions import VLLMClientError, VLLMValidationError
from vllm.multimodal.media import MEDIA_CONNECTOR_REGISTRY
from vllm.multimodal.media.connector import MediaConnector

from . import CONNECTOR


@MEDIA_CONNECTOR_REGISTRY.register(CONNECTOR)
class Connector(MediaConnector):
    """vLLM's loader that blames the request for what is wrong with it, and stays away from the server's own network.

    A name whose address changes between the look and the fetch is not caught.
    """

    def load_from_url(self, url: str, media_io: Any, **settings: Any) -> Any:
        with blamed(url):
            self._check(url)
            return super().load_from_url(url, media_io, **settings)

    async def load_from_url_async(self, url: str, media_io: Any, **settings: Any) -> Any:
        with blamed(url):
            await asyncio.to_thread(self._check, url)
            return await super().load_from_url_async(url, media_io, **settings)

    def _check(self, url: str) -> None:
        """Refuse hosts inside the server's network, unless vLLM is told which hosts are allowed."""
        if url[:4].lower() != "http" or self.allowed_media_domains:
            return
        host = (parse_url(url).hostname or "").strip("[]")  # as vLLM reads it, whatever other parsers make of it
        if any(not ip_address(address).is_global for address in addresses(host)):
            raise ValueError(
                f"the host {host!r} is inside the server's own network, from which it fetches nothing: send the "
                "picture as a data URL, or start the server with --allowed-media-domains"
            )


def addresses(host: str) -> list[str]:
    """Return what a host's name stands for; ValueError where it cannot be told."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"the host {host!r} of a picture cannot be found: send the picture as a data URL") from error
    return [str(entry[4][0]).partition("%")[0] for entry in found]


@contextmanager
def blamed(url: str) -> Iterator[None]:
    """Turn every failure to get what a request names into HTTP 400 with a sentence."""
    try:
        yield
    except (ValueError, VLLMClientError):
        raise  # vLLM answers these with 4xx
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise VLLMValidationError(
            f"what {url[:64]!r} names cannot be read ({reason[:240]}): send a whole PNG, JPEG or WebP as a data URL "
            "in base64",
            parameter="url",
        ) from error
