"""`evoprune serve` up to the moment in which it becomes vLLM: the command, and every mistake before it."""

from __future__ import annotations

import json
import shlex
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import evoprune
from evoprune.cli import app
from evoprune.commands import serve as command_line
from evoprune.serve import installed
from evoprune.serve.command import CAREFUL, Wanted, build
from evoprune.serve.options import Options
from evoprune.serve.passed import Passed

LLAVA = ("LlavaForConditionalGeneration",)


def wanted(*arguments: str, **more: Any) -> Wanted:
    return Wanted("folder", Options.of([evoprune.EvoPrune(keep=49)]), arguments=arguments, **more)


def built(*arguments: str, present: dict[str, str] | None = None, **more: Any) -> Any:
    return build(wanted(*arguments, **more), LLAVA, present or {})


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["serve", *map(str, arguments)])


def refused(result: Result, *words: str) -> None:
    """One sentence on stderr that holds `words`, nothing on stdout, exit code 2."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("Error: "), result.stderr
    for word in words:
        assert word in lines[0]


def test_command_asks_for_the_pruned_architecture_on_loopback() -> None:
    found = built()
    assert found.arguments[:3] == ("serve", "folder", "--hf-overrides")
    overrides = json.loads(found.arguments[3])
    assert overrides["architectures"] == ["EvoPruneLlavaForConditionalGeneration"]
    assert evoprune.Pruner.from_dict(overrides["evoprune"]) == evoprune.EvoPrune(keep=49)
    assert found.arguments[4:] == ("--host", "127.0.0.1", "--port", "8000")
    assert "--allowed-local-media-path" not in found.arguments and "--trust-request-mm-kwargs" not in found.arguments


def test_printed_line_is_what_runs() -> None:
    found = built("--served-model-name", "a b", "--seed", "-1", environment={"A_B": "1 2"})
    words = shlex.split(found.shell())
    assert words == [*(f"{k}={v}" for k, v in CAREFUL.items()), "A_B=1 2", "vllm", *found.arguments]
    assert found.arguments[-4:] == ("--served-model-name", "a b", "--seed", "-1")


def test_own_values_win_over_defaults() -> None:
    defaults = {"--max-model-len": "2048", "--enforce-eager": "", "--dtype": "float32"}
    found = built(
        "--max_model_len=512", "--no-x", defaults=defaults, environment={"A": "1"}, present={"A": "2"}
    ).arguments
    assert found[8:] == ("--enforce-eager", "--dtype", "float32", "--max_model_len=512", "--no-x")
    assert built(present={"VLLM_MEDIA_CONNECTOR": "http"}).environment == {
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
        "VLLM_MAX_IMAGE_PIXELS": "50000000",
    }
    assert built(present={"VLLM_MAX_IMAGE_PIXELS": "9"}).environment.get("VLLM_MAX_IMAGE_PIXELS") is None


@pytest.mark.parametrize("passed", [("--api-key", "one", "two"), ("--api_key=one",), ("--hf-token", "one")])
def test_keys_are_not_printed(passed: tuple[str, ...]) -> None:
    command = built(*passed, "--seed", "1")
    assert command.arguments[-2 - len(passed) : -2] == passed
    assert "one" not in command.shell().split("serve")[1] and "..." in command.shell()
    assert command.shell().endswith("--seed 1")


def test_own_overrides_are_merged() -> None:
    found = built("--hf-overrides", '{"max_position_embeddings": 99}', "--seed", "1")
    assert found.overrides["max_position_embeddings"] == 99 and "evoprune" in found.overrides
    assert found.arguments.count("--hf-overrides") == 1 and found.arguments[-2:] == ("--seed", "1")


@pytest.mark.parametrize("implementation", ["auto", "vllm", "transformers"])
def test_implementations(implementation: str) -> None:
    native, backend = "EvoPruneLlavaForConditionalGeneration", "EvoPruneTransformersMultiModalForCausalLM"
    expected = backend if implementation == "transformers" else native
    assert built(implementation=implementation).architecture == expected
    passed = built("--model-impl", implementation)
    assert passed.architecture == expected and "--model-impl" not in passed.arguments


def test_budget_of_requests_is_a_flag_of_vllm() -> None:
    assert built(per_request=True).arguments.count("--trust-request-mm-kwargs") == 1
    assert built("--trust_request_mm_kwargs", per_request=True).arguments[-1] == "--trust_request_mm_kwargs"
    assert "--trust-request-mm-kwargs" not in built("--trust_request_mm_kwargs", per_request=True).arguments


def test_socket_has_no_host() -> None:
    assert "--host" not in built("--uds", "/tmp/x").arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--hf-overrides", '{"architectures": ["A"]}'], ["'architectures'", "leave it out"]),
        (["--hf_overrides", '{"evoprune": {}}'], ["'evoprune'", "leave it out"]),
        (["--hf-overrides={"], ["no JSON"]),
        (["--hf-overrides", "[]"], ["no JSON object"]),
        (["--hf-overrides.evoprune.keep", "5"], ["in parts"]),
        (["--hf-over", "{}", "--hf-overrides", "{}"], ["in parts"]),
        (["--model-impl", "terratorch"], ["'terratorch'", "auto, vllm, transformers"]),
        (["--model-class-overrides", "{}"], ["replace the class"]),
        (["--model", "other"], ["as MODEL"]),
        (["--host=0.0.0.0"], ["--host before --"]),
        (["--port", "1"], ["--port before --"]),
        (["--mm-processor-kwargs", '{"evoprune_keep": 5}'], ["contradicts --keep"]),
        (["--mm-processor-kwargs.evoprune_keep", "5"], ["contradicts --keep"]),
        (["word"], ["'word'", "no option"]),
    ],
)
def test_contradictions_are_refused(arguments: list[str], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        built(*arguments)
    for word in words:
        assert word in str(error.value)


def test_two_implementations_are_refused() -> None:
    with pytest.raises(ValueError, match="contradict"):
        built("--model-impl", "transformers", implementation="vllm")
    with pytest.raises(ValueError, match="'jax' has no pruned model"):
        built(implementation="jax")


@pytest.mark.parametrize("key", ["hf-overrides", "hf_overrides.evoprune.keep", "model-impl", "model", "port"])
def test_config_file_does_not_decide(tmp_path: Path, key: str) -> None:
    file = tmp_path / "vllm.yaml"
    file.write_text(f"seed: 1\n{key}: x\n")
    with pytest.raises(ValueError, match=f"has {key.replace('_', '-')!r}, which has to be seen here"):
        built("--config", str(file))
    file.write_text("max-model-len: 512\n")
    assert built("--config", str(file)).arguments[-2:] == ("--config", str(file))


def test_other_architectures_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Qwen2VL.*LlavaNextForConditionalGeneration"):
        build(wanted(), ["Qwen2VLForConditionalGeneration"], {})
    with pytest.raises(ValueError, match="no architecture"):
        build(wanted(), [], {})


def test_similar_options_are_not_taken_for_each_other() -> None:
    passed = Passed.read(
        ["--model-impl", "auto", "--hf-config-path", "x", "--max-model-len", "5", "-tp", "2", "--seed", "-1"]
    )
    assert not passed.has("--model") and not passed.has("--hf-overrides")
    assert passed.values("--seed") == ["-1"] and passed.without("--model-impl")[:2] == ["--hf-config-path", "x"]


def environment(monkeypatch: pytest.MonkeyPatch, version: str | None, plugins: tuple[str, ...] = ("evoprune",)) -> None:
    monkeypatch.setattr(installed, "vllm_version", lambda: version)
    monkeypatch.setattr(installed, "program", lambda: "/bin/vllm")
    monkeypatch.setattr(installed, "entry_points", lambda group: [SimpleNamespace(name=one) for one in plugins])
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)


def test_what_keeps_vllm_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, "0.32.1+cpu")
    assert installed.problems({}) == [] and installed.on_cpu()
    assert installed.problems({"VLLM_PLUGINS": "a,evoprune"}) == []
    (told,) = installed.problems({"VLLM_PLUGINS": "a"})
    assert "VLLM_PLUGINS='a' switches the plug-in off" in told
    assert "switches" in installed.problems({"VLLM_PLUGINS": ""})[0]
    environment(monkeypatch, "0.31.0")
    assert (
        "vLLM 0.31.0 is installed" in installed.problems({})[0]
        and "pip install 'evoprune[serve]'" in installed.problems({})[0]
    )
    environment(monkeypatch, "0.32.0", plugins=("other",))
    assert "not registered" in installed.problems({})[0]
    environment(monkeypatch, None)
    assert "not installed" in installed.problems({})[0] and "pip install 'evoprune[serve]'" in installed.problems({})[0]


def test_dry_run_prints_the_command_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, "0.32.0+cpu")
    monkeypatch.setattr(command_line.os, "execve", lambda *given: pytest.fail("a dry run starts nothing"))
    found = json.loads(call("tiny", "--keep", 0.25, "--dry-run", "--json").stdout)
    assert found["picture"] == {"height": 112, "width": 112, "full": 196, "kept": 49, "token": 3}
    words = shlex.split(found["command"])
    assert "VLLM_CPU_KVCACHE_SPACE=1" in words and words[words.index("--block-size") + 1] == "32"
    assert words[words.index("--served-model-name") + 1] == "tiny"
    assert words[words.index("--mm-processor-cache-gb") + 1] == "0"
    passed = ("tiny", "--keep", 49, "--dry-run", "--json", "--", "--mm-processor-cache-type", "shm")
    assert "--mm-processor-cache-gb" not in json.loads(call(*passed).stdout)["command"]
    shown = call("tiny-video", "--keep", 0.25, "--dry-run", "--impl", "transformers").stdout
    assert "EvoPruneTransformersMultiModalForCausalLM" in shown and "127.0.0.1:8000" in shown


def test_dry_run_tells_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, None)
    result = call("tiny", "--keep", 49, "--dry-run")
    assert result.exit_code == 0 and "vLLM is not installed" in result.stdout
    refused(call("tiny", "--keep", 49), "vLLM is not installed", "pip install 'evoprune[serve]'")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_process_becomes_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, "0.32.0")
    ran: list[Any] = []
    monkeypatch.setattr(command_line.os, "execve", lambda *given: ran.append(given))
    monkeypatch.setattr(command_line, "_watch", lambda picture, *rest: ran.append(picture.kept))
    port = free_port()
    assert call("tiny", "--keep", 49, "--port", port).exit_code == 0
    kept, (program, words, variables) = ran
    assert kept == 49 and program == words[0] == "/bin/vllm" and words[words.index("--port") + 1] == str(port)
    assert variables["VLLM_MEDIA_CONNECTOR"] == "evoprune"
    for more in (["--no-check"], ["--", "--headless"]):
        ran.clear()
        call("tiny", "--keep", 49, "--port", port, *more)
        assert len(ran) == 1, "a server that cannot be asked is not"


def test_taken_port_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, "0.32.0")
    monkeypatch.setattr(command_line.os, "execve", lambda *given: pytest.fail("nothing starts"))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = call("tiny", "--keep", 49, "--port", port)
    refused(result, f"127.0.0.1:{port} cannot be listened on", "--port")
    refused(call("tiny", "--keep", 49, "--host", "no.such.host.invalid"), "cannot be listened on", "--host")


def test_help_has_examples() -> None:
    assert "evoprune serve tiny" in call("--help").stdout.split("Examples:")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tiny", "--keep", "1"], ["smallest reachable keep is 7"]),
        (["tiny", "--keep", "197"], ["above the 196 tokens"]),
        (["tiny", "--keep", "x"], ["'x' is no number"]),
        (["tiny", "--keep", "49", "--method", "fastv"], ["decoder stage"]),
        (["tiny", "--keep", "49", "--method", "cdpruner"], ["cdpruner"]),
        (["tiny", "--keep", "49", "--set", "positions=original"], ["positions='original'"]),
        (["tiny", "--keep", "49", "--impl", "jax"], ["'jax'"]),
        (["tiny", "--keep", "49", "--port", "0"], ["--port 0"]),
        (["/no/such/folder", "--keep", "49"], ["does not exist"]),
        (["tiny", "--keep", "49", "--", "--model-impl", "terratorch"], ["'terratorch'"]),
        (["tiny", "--keep", "49", "word"], ["no option of vLLM"]),
    ],
)
def test_mistakes_are_told_before_anything_starts(arguments: list[str], words: list[str]) -> None:
    refused(call(*arguments, "--dry-run") if "--" not in arguments else call(*arguments), *words)


def test_model_of_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"]}'
    )
    refused(call(tmp_path, "--keep", 49, "--dry-run"), "Qwen2VLForConditionalGeneration", "cannot be served")
