"""What a request may make the server fetch; no engine, and no network: names are looked up in a table."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.media.image import ImageMediaIO

from evoprune.serve.vllm import media

NAMES = {
    "pictures.example": ["93.184.216.34"],
    "inside.example": ["10.0.0.1"],
    "10.0.0.1": ["10.0.0.1"],
    "both.example": ["93.184.216.34", "127.0.0.1"],
    "six.example": ["2606:2800:220:1::1"],
    "local.example": ["fe80::1%eth0"],
}
FETCHED = b"not a picture"


class Connection:
    """Stands in for HTTP: whatever is asked for comes, or an error does."""

    def __init__(self, error: Exception | None = None):
        self.error, self.asked = error, []

    def get_bytes(self, url: str, **settings: Any) -> bytes:
        self.asked.append(url)
        if self.error:
            raise self.error
        return FETCHED

    async def async_get_bytes(self, url: str, **settings: Any) -> bytes:
        return self.get_bytes(url)


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(host: str, *rest: Any, **more: Any) -> list[Any]:
        if host not in NAMES:
            raise socket.gaierror(-2, "Name or service not known")
        return [(0, 0, 0, "", (address, 0)) for address in NAMES[host]]

    monkeypatch.setattr(media.socket, "getaddrinfo", look_up)


def fetch(url: str, connection: Connection, waiting: bool, **settings: Any) -> Any:
    connector = media.Connector(connection=connection, **settings)
    if waiting:
        return connector.load_from_url(url, ImageMediaIO())
    return asyncio.run(connector.load_from_url_async(url, ImageMediaIO()))


both_ways = pytest.mark.parametrize("waiting", [True, False])


@both_ways
@pytest.mark.parametrize("host", ["inside.example", "both.example", "local.example", "10.0.0.1\\@pictures.example"])
def test_own_network_is_left_alone(host: str, waiting: bool) -> None:
    connection = Connection()
    with pytest.raises(ValueError, match="inside the server's own network"):
        fetch(f"http://{host}/a.png", connection, waiting)
    assert connection.asked == []


@both_ways
@pytest.mark.parametrize("host", ["pictures.example", "six.example"])
def test_other_hosts_are_asked(host: str, waiting: bool) -> None:
    connection = Connection()
    with pytest.raises(ValueError, match="Failed to load image"):
        fetch(f"https://{host}/a.png", connection, waiting)
    assert connection.asked == [f"https://{host}/a.png"]


@both_ways
def test_allowed_hosts_are_vllms_own_matter(waiting: bool) -> None:
    connection = Connection()
    with pytest.raises(ValueError, match="Failed to load image"):
        fetch("http://inside.example/a.png", connection, waiting, allowed_media_domains=["inside.example"])
    with pytest.raises(ValueError, match="allowed domains"):
        fetch("http://pictures.example/a.png", connection, waiting, allowed_media_domains=["inside.example"])
    assert connection.asked == ["http://inside.example/a.png"]


@both_ways
@pytest.mark.parametrize("error", [ConnectionRefusedError("refused"), TimeoutError(), RuntimeError("odd")])
def test_what_cannot_be_fetched_is_the_requests_fault(error: Exception, waiting: bool) -> None:
    with pytest.raises(VLLMValidationError, match="cannot be read"):
        fetch("http://pictures.example/a.png", Connection(error), waiting)


@both_ways
def test_files_are_not_read(waiting: bool) -> None:
    with pytest.raises(VLLMValidationError, match="allowed-local-media-path"):
        fetch("file:///etc/hosts", Connection(), waiting)


def test_unknown_hosts() -> None:
    with pytest.raises(ValueError, match=r"'no\.example' of a picture cannot be found"):
        fetch("http://no.example/", Connection(), True)
