"""A running server: what it says it is, whether it has nothing to do, how many tokens it makes of a picture."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from .prompts import Prompt

QUEUES = ("vllm:num_requests_running", "vllm:num_requests_waiting")
HITS = ("vllm:prefix_cache_hits_total", "vllm:mm_cache_hits_total")
PATIENCE = 30.0  # seconds in which a server has to become idle


def http() -> Any:
    """Return the HTTP library, which huggingface_hub brings; ValueError where it is missing."""
    try:
        import httpx2
    except ImportError as error:
        raise ValueError(
            "asking servers needs httpx2, which is not installed: pip install httpx2, or bring huggingface_hub up to "
            "date"
        ) from error
    return httpx2


@dataclass(frozen=True)
class Server:
    """A server at the address `url`, of the arm `name`; ``model`` is what it calls its model."""

    name: str
    url: str
    model: str
    version: str | None

    @staticmethod
    def at(url: str, name: str) -> Server:
        """Return the server at `url`, with or without ``/v1`` at its end.

        Raises
        ------
        ValueError
            Nothing answers there, or not as OpenAI's API does.
        """
        url = url.rstrip("/").removesuffix("/v1")
        wanted = f"start the {name} server first, for example with `evoprune serve`, and give its address"
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url!r} is no address of a server: give one such as http://127.0.0.1:8000")
        try:
            answer = http().get(f"{url}/v1/models", timeout=30)
            models = answer.json()["data"] if answer.status_code == 200 else None
        except (http().HTTPError, http().InvalidURL, OSError) as error:
            raise ValueError(f"no server answers at {url} ({_short(error)}): {wanted}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{url}/v1/models is no list of models ({_short(error)}): {wanted}") from error
        if not models:
            raise ValueError(f"{url}/v1/models answers with status {answer.status_code} and no model: {wanted}")
        return Server(name, url, models[0]["id"], _version(url))

    def facts(self) -> dict[str, Any]:
        """Return what a result says of this server, without its address."""
        return {"name": self.name, "model": self.model, "version": self.version}

    def payload(self, prompt: Prompt, tokens: int, **more: Any) -> dict[str, Any]:
        """Return the body of a request: greedy, and of exactly so many tokens whatever the model says."""
        return {
            "model": self.model,
            "messages": prompt.messages,
            "max_completion_tokens": tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            **more,
        }

    def probe(self, prompt: Prompt, tokens: int = 1) -> int:
        """Return how many tokens the server makes of `prompt`; ValueError where it refuses."""
        try:
            answer = http().post(f"{self.url}/v1/chat/completions", json=self.payload(prompt, tokens), timeout=600)
        except http().HTTPError as error:
            raise ValueError(
                f"the {self.name} server at {self.url} broke off ({_short(error)}): see its log"
            ) from error
        if answer.status_code != 200:
            raise ValueError(
                f"the {self.name} server at {self.url} refuses a request with a picture with status "
                f"{answer.status_code} ({answer.text[:200]!r}): serve a model that takes pictures"
            )
        return int(answer.json()["usage"]["prompt_tokens"])

    def metrics(self, names: tuple[str, ...]) -> dict[str, float]:
        """Return counters of vLLM's ``/metrics``, summed over labels, without those that the server does not have."""
        try:
            answer = http().get(f"{self.url}/metrics", timeout=30)
        except http().HTTPError:
            return {}
        found: dict[str, float] = {}
        for line in answer.text.splitlines() if answer.status_code == 200 else ():
            name = line.split("{")[0].split(" ")[0]
            if name in names:
                found[name] = found.get(name, 0.0) + float(line.rsplit(" ", 1)[1])
        return found

    def hits(self) -> dict[str, float]:
        """Return how many tokens and pictures came out of the server's caches so far."""
        return self.metrics(HITS)

    def settle(self, patience: float = PATIENCE) -> None:
        """Wait until the server has nothing to do; ValueError where it does not come to rest."""
        until = time.monotonic() + patience
        while (busy := sum(self.metrics(QUEUES).values())) and time.monotonic() < until:
            time.sleep(0.2)
        if busy:
            raise ValueError(
                f"the {self.name} server at {self.url} is busy with {busy:.0f} other requests after {patience:.0f} s "
                "of waiting: measure when nobody else uses it"
            )


def _version(url: str) -> str | None:
    try:
        answer = http().get(f"{url}/version", timeout=30)
        return str(answer.json()["version"]) if answer.status_code == 200 else None
    except (http().HTTPError, ValueError, KeyError, TypeError):
        return None


def _short(error: BaseException) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:160]
