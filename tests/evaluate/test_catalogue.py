"""The catalogue against the installed lmms-eval, names, judges, and data that is not there."""

from __future__ import annotations

import sys
import tomllib
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from evoprune.evaluate import catalogue
from evoprune.evaluate.catalogue import BENCHMARKS, GROUPS, Benchmark, DataMissing, check_data, check_judges, resolve
from evoprune.evaluate.catalogue import data as catalogue_data
from evoprune.evaluate.catalogue import hub as catalogue_hub
from evoprune.evaluate.catalogue import index as catalogue_index
from evoprune.evaluate.embedded.tasks import TASKS as EMBEDDED
from tests.evaluate.local_tasks import RED, cache, write

DOCS = Path(__file__).parents[2] / "docs" / "evaluation.md"
PARTS = [(one, task) for one in BENCHMARKS for task in one.tasks]

needs_lmms = pytest.mark.skipif(find_spec("lmms_eval") is None, reason="lmms-eval is an extra")


@needs_lmms
@pytest.mark.parametrize(("one", "task"), PARTS, ids=[task for _, task in PARTS])
def test_facts_are_those_of_the_installed_files(one: Benchmark, task: str) -> None:
    found = catalogue_index.config(catalogue_index.paths()[task])
    assert found["task"] == task
    assert found["dataset_path"] == one.dataset
    if len(one.tasks) == 1:
        assert found.get("dataset_name") == one.config
    else:
        assert found["dataset_name"] == task.removeprefix(f"{one.name}_") and one.config is None
    assert found["test_split"] == one.split
    assert tuple(metric["metric"] for metric in found["metric_list"]) == one.metrics
    assert found.get("output_type", "generate_until") == "generate_until"
    kwargs = found.get("dataset_kwargs") or {}
    assert (one.modality == "video") == bool(kwargs.get("video"))
    if one.videos:
        assert one.videos.startswith(kwargs["cache_dir"])


@needs_lmms
def test_every_split_that_is_told_of_exists() -> None:
    for one in BENCHMARKS:
        for word in one.others.replace(";", "").split():
            if word.startswith(one.tasks[0].split("_")[0] + "_"):
                assert word in catalogue_index.paths(), word
    assert sorted(catalogue_index.leaves("mvbench")) == sorted(resolve(["mvbench"]))
    assert len(resolve(["mvbench"])) == 20


@needs_lmms
def test_the_index_knows_what_lmms_eval_knows() -> None:
    from lmms_eval.tasks import TaskManager

    manager = TaskManager("ERROR", include_path=[str(catalogue_index.shipped())])
    known = {*manager.all_subtasks, *manager.all_groups}
    assert known <= set(catalogue_index.paths())
    assert len(set(catalogue_index.paths()) - known) < 5  # tasks that are Python classes
    path = catalogue_index.paths()["mmbench_cn_dev_static"]
    assert manager.task_index["mmbench_cn_dev_static"]["yaml_path"] == str(path)


@needs_lmms
def test_our_static_mmbench_is_the_dev_split_with_other_scoring() -> None:
    ours, theirs = (catalogue_index.config(catalogue_index.paths()[f"mmbench_cn_dev{end}"]) for end in ("_static", ""))
    module = "lmms_eval.tasks.mmbench."
    for key in theirs.keys() - {"task", "metric_list"}:
        found = ours[key].removeprefix(module) if isinstance(ours[key], str) else ours[key]
        assert found == theirs[key], key
    assert ours.keys() - theirs.keys() == {"metadata"}
    assert [one["metric"] for one in ours["metric_list"]] == ["gpt_eval_score"]


def test_names_stand_for_tasks() -> None:
    assert resolve(["vqav2"]) == ["vqav2_val"]
    assert resolve(["MM-Vet", "Video-MME", "MMBench-CN"]) == ["mmvet", "videomme", "mmbench_cn_dev_static"]
    assert resolve(["tiny_scenes", "pope", "tiny_scenes"]) == ["tiny_scenes", "pope"]
    assert resolve(["Tiny_scenes", "TINY-CLIPS"]) == ["tiny_scenes", "tiny_clips"]
    assert resolve(["mvbench_action_count"]) == ["mvbench_action_count"]
    assert resolve(["refcoco"]) == ["refcoco_bbox_rec_val"], "not lmms-eval's group of that name"
    assert resolve(["fragile"]) == ["textvqa_val", "docvqa_val", "ocrbench", "refcoco_bbox_rec_val", "pope"]
    assert {one.name for one in BENCHMARKS} >= {name for members in GROUPS.values() for name in members}
    both = resolve(["paper-images", "paper-videos"])
    assert {catalogue.benchmark(task).title for task in both} == {  # type: ignore[union-attr]
        "VQAv2", "MME", "MMBench", "MMBench-CN", "MM-Vet", "MVBench", "LongVideoBench", "Video-MME",
    }  # fmt: skip


@needs_lmms
def test_tasks_and_groups_of_lmms_eval_are_names_too() -> None:
    assert resolve(["vizwiz_vqa_val"]) == ["vizwiz_vqa_val"]
    assert resolve(["slake"]) == ["slake_en", "slake_zh"]
    assert [catalogue.modality(task) for task in ("videomme_long", "mme", "tiny_clips", "vizwiz_vqa_val")] == [
        "video",
        "image",
        "video",
        "image",
    ]


@needs_lmms
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("vqav3", "unknown task 'vqav3': did you mean 'vqav2' or"),
        ("tiny_scene", "did you mean 'tiny_scenes'"),
        ("vidomme", "did you mean 'videomme'"),
        ("paper_image", "'paper-images'"),
        ("vqav2_test", "vqav2_test has no public answers .*: run vqav2_val"),
        ("docvqa_test", "run docvqa_val"),
        ("longvideobench_test_v", "run longvideobench_val_v"),
        ("mmlu", "compares likelihoods of given answers, and pruned models are scored by what they generate"),
        ("seedbench_ppl", "seedbench_ppl asks for multiple_choice"),
    ],
)
def test_names_that_cannot_be_run(name: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        resolve(["mme", name])


def test_without_lmms_eval_the_benchmarks_are_known_still(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> Any:
        raise ValueError(catalogue_index.MISSING)

    monkeypatch.setattr(catalogue_index, "paths", absent)
    monkeypatch.setattr(catalogue_index, "installed", absent)
    assert resolve(["vqav2", "tiny_clips"]) == ["vqav2_val", "tiny_clips"]
    assert catalogue.modality("videomme") == "video"
    with pytest.raises(ValueError, match="did you mean 'vqav2'"):
        resolve(["vqa2"])
    with pytest.raises(ValueError, match=r"needs the extra 'eval': pip install 'evoprune\[eval\]'"):
        check_data(["mme"])


def test_frames_are_for_videos() -> None:
    catalogue.check_frames(None, ["mme"])
    catalogue.check_frames(8, ["mme", "videomme"])
    with pytest.raises(ValueError, match="frames=8 is for videos, and mme, tiny_scenes shows pictures alone"):
        catalogue.check_frames(8, ["mme", "tiny_scenes"])


def test_the_judge_is_told_apart_by_what_chooses_it() -> None:
    assert catalogue.judge({}) == catalogue.judge({"API_TYPE": "OpenAI", "OPENAI_API_KEY": "secret"}) == {}
    chosen = {"API_TYPE": "local", "MODEL_VERSION": "judge-7b", "LLM_JUDGE_URL": "http://inside:80"}
    assert catalogue.judge(chosen) == {"type": "local", "model": "judge-7b"}


def test_a_wheel_carries_our_tasks() -> None:
    folder = catalogue_index.shipped()
    package = Path(catalogue.__file__).parents[2]
    assert folder.is_dir() and folder.is_relative_to(package)
    names = {path.name for path in folder.iterdir() if path.is_file()}
    assert names >= {"mmbench_cn_dev_static.yaml", "mmbench.py", "tiny.py", *(f"{t}.yaml.template" for t in EMBEDDED)}
    root = package.parents[1]
    build = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    wheel = build["targets"]["wheel"]
    assert wheel == {"packages": [str(package.relative_to(root))]}, "what is left out of it is to be looked at"
    # The wheel leaves out what git ignores.
    ignored = [
        one for one in (root / ".gitignore").read_text(encoding="utf-8").splitlines() if one[:1] not in ("", "#")
    ]
    inside = [path.relative_to(root) for path in folder.iterdir() if path.is_file()]
    for pattern in ignored:
        parts = {part for path in inside for part in path.parts}
        assert not [part for part in parts if fnmatch(part, pattern.strip("/"))], pattern


def test_no_name_at_all() -> None:
    with pytest.raises(ValueError, match="no task is named: give some of tiny_scenes, "):
        resolve([])


@needs_lmms
def test_only_mmvet_is_made_greedy() -> None:
    assert catalogue.generation("mmvet") == {"temperature": 0, "do_sample": False}
    others = [task for _, task in PARTS if task != "mmvet"]
    assert all(catalogue.generation(task) == {} for task in [*others, "tiny_scenes"])


KEYED = {"OPENAI_API_KEY": "k"}


@pytest.mark.parametrize(
    ("tasks", "environ", "told"),
    [
        (["mmvet"], {}, "every answer to mmvet is scored by a judge model, and OPENAI_API_KEY is not set"),
        (["mmvet"], {"API_TYPE": "azure", **KEYED}, "AZURE_API_KEY is not set"),
        (["mmvet"], {"API_TYPE": "dummy"}, "API_TYPE=dummy is no judge"),
        (["mmbench_cn_dev"], {}, "run mmbench_cn_dev_static, which needs no judge"),
        (["mmbench_en_dev"], {"API_TYPE": "local"}, "API_TYPE=local is no judge that MMBench knows"),
        (["mmbench_ru_dev"], {}, "leave it out, or set API_TYPE"),
        (["mmvet", "mmbench_en_dev"], {**KEYED, "OPENAI_API_URL": "u"}, "OPENAI_API_URL is the address"),
    ],
)
def test_judges_that_cannot_be_asked(tasks: list[str], environ: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check_judges(tasks, environ)


@pytest.mark.parametrize(
    ("tasks", "environ"),
    [
        (["mme", "mmbench_en_dev_static", "mmbench_cn_dev_static"], {}),
        (["mmvet"], KEYED),
        (["mmvet"], {"API_TYPE": "local"}),
        (["mmvet", "mmbench_en_dev"], KEYED),
        (["mmvet", "mmbench_en_dev_static"], {**KEYED, "OPENAI_API_URL": "u"}),
    ],
)
def test_judges_that_can(tasks: list[str], environ: dict[str, str]) -> None:
    check_judges(tasks, environ)


# Data that is not there.


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without network and with an empty cache."""
    pytest.importorskip("lmms_eval", reason="lmms-eval is an extra")
    import datasets
    import huggingface_hub.constants as hub

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    cache(tmp_path / "datasets", monkeypatch)
    return tmp_path


@pytest.mark.parametrize("task", ["mme", "videomme", "mvbench_action_count", "gqa", "mmbench_cn_dev_static"])
def test_a_data_set_that_is_not_there_is_named(task: str, empty: Path) -> None:
    one = catalogue.benchmark(task)
    assert one is not None
    told = f"the data set {one.dataset} of {task} is not in the cache, .*OFFLINE.* is set: .*catalogue.data {task}"
    with pytest.raises(DataMissing, match=told):
        check_data([task])


def test_the_first_task_without_data_stops_before_others_are_tried(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    real = catalogue_data._build
    monkeypatch.setattr(catalogue_data, "_build", lambda task, *rest: tried.append(task) or real(task, *rest))
    with pytest.raises(ValueError, match="judge"):
        check_data(["mme", "mmvet"])
    assert tried == []
    with pytest.raises(DataMissing):
        check_data(["mme", "pope"])
    assert tried == ["mme"]


def test_a_limit_between_questions_that_are_scored_together() -> None:
    with pytest.raises(ValueError, match=r"limit=5 cuts through the 2 questions of mme .*give a multiple of 2"):
        check_data(["pope", "mme"], limit=5)


def test_lmms_eval_is_left_as_patient_as_it_was(empty: Path) -> None:
    from lmms_eval.api.task import ConfigurableTask

    before = ConfigurableTask.download.retry.stop
    with pytest.raises(DataMissing):
        check_data(["mme"])
    assert ConfigurableTask.download.retry.stop is before


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("away", r"out of reach \(OSError\)"),
        ("closed", r"the hub refuses it \(HTTP 401\)"),
        ("sick", "out of order .*503"),
    ],
)
def test_a_hub_that_does_not_answer_is_asked_once(
    kind: str, told: str, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets
    import huggingface_hub

    asked: list[str] = []

    def answer(self: Any, name: str, **settings: Any) -> Any:
        asked.append(name)
        if kind == "away":
            raise OSError("no route")
        import httpx

        number = {"closed": 401, "sick": 503}[kind]
        response = httpx.Response(number, request=httpx.Request("GET", "https://example.org"))
        raise huggingface_hub.errors.HfHubHTTPError(kind, response=response)

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", answer)
    with pytest.raises(DataMissing, match=told):
        check_data(["mme"])
    assert asked == ["lmms-lab-encoder/MME"]
    assert datasets.config.HF_HUB_OFFLINE is False


def test_what_is_on_the_disk_is_not_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("lmms_eval", reason="lmms-eval is an extra")
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: pytest.fail("asked"))
    assert catalogue_hub.reach("parquet") == "" and catalogue_hub.reach(str(tmp_path)) == ""


def local(task: str, rows: list[dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the catalogue find a task with data of ours."""
    path = write(folder / "task", task, rows)
    monkeypatch.setattr(catalogue_index, "paths", lambda: {task: path})


VIDEOS = [
    {
        "videoID": name,
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Law",
        "task_type": "OCR Problems",
        "question": "?",
        "options": ["A. a", "B. b"],
        "answer": "A",
    }
    for name in ("v", "v", "w")
]


def test_a_cache_that_was_carried_here_is_enough(empty: Path) -> None:
    """What `load_dataset` leaves of a hub's data set where there is a network, made by hand."""
    import json

    import datasets

    row = {"image": RED, "question": "?", "question_id": "1", "category": "count", "answer": "Yes"}
    table = datasets.Dataset.from_list([row]).cast_column("image", datasets.Image())
    home = empty / "datasets" / "lmms-lab-encoder___mme" / "default" / "0.0.0" / "0123"
    table.save_to_disk(empty / "made")
    home.mkdir(parents=True)
    (empty / "made" / "data-00000-of-00001.arrow").rename(home / "mme-test.arrow")
    info = json.loads((empty / "made" / "dataset_info.json").read_text())
    split = {"name": "test", "num_bytes": 1, "num_examples": 1, "dataset_name": "mme"}
    version = {"version_str": "0.0.0", "major": 0, "minor": 0, "patch": 0}
    info |= {"builder_name": "parquet", "dataset_name": "mme", "config_name": "default"}
    (home / "dataset_info.json").write_text(json.dumps(info | {"version": version, "splits": {"test": split}}))
    assert check_data(["mme"])["mme"].eval_docs[0]["answer"] == "Yes"


def test_missing_videos_are_counted_and_nothing_leaves_the_program(
    empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local("videomme", VIDEOS, empty, monkeypatch)
    with pytest.raises(DataMissing, match=r"a file of videomme is missing \(video path:.*v.mp4"):
        check_data(["videomme"])
    films = empty / "videomme" / "data"
    films.mkdir(parents=True)
    (films / "v.mp4").touch()
    assert len(check_data(["videomme"], limit=2)["videomme"].eval_docs) == 3
    with pytest.raises(DataMissing, match=r"a file of videomme is missing \(video path:.*w.mp4"):
        check_data(["videomme"])
    (films / "w.mkv").touch()
    check_data(["videomme"])


def test_missing_videos_of_a_task_that_goes_on_without(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = "mvbench_action_count"
    rows = [{"video": f"{n}.mp4", "question": "?", "candidates": ["a", "b"], "answer": "a"} for n in (1, 2, 2)]
    local(task, rows, empty, monkeypatch)
    films = empty / "mvbench_video" / "perception" / "videos"
    films.mkdir(parents=True)
    (films / "1.mp4").touch()
    told = rf"1 of 2 videos of \$HF_HOME/mvbench_video of {task} are missing, the first is {films}/2.mp4"
    with pytest.raises(DataMissing, match=told):
        check_data([task])
    (films / "2.mp4").touch()
    assert set(check_data([task], chat=False)) == {task}


def test_data_of_another_form_is_a_sentence_too(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local("pope", [{"image": RED, "text": "?"}], empty, monkeypatch)
    with pytest.raises(DataMissing, match=r"the data of pope \(parquet\) cannot be used \(KeyError"):
        check_data(["pope"])


def test_embedded_tasks_are_written_where_they_are_asked_for(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOPRUNE_CACHE", str(empty / "own"))
    found = check_data(["tiny_scenes", "tiny_clips"], limit=3)
    assert {task: len(one.eval_docs) for task, one in found.items()} == {"tiny_scenes": 3, "tiny_clips": 3}
    shipped, *written = catalogue.include_paths(["tiny_scenes", "mme", "tiny_clips"], 3)
    assert (shipped / "mmbench_cn_dev_static.yaml").is_file()
    assert [(path.parent, path.name.split("-")[0]) for path in written] == [
        (empty / "own", "tiny_scenes"),
        (empty / "own", "tiny_clips"),
    ]


def test_the_program_fetches_or_says_why_not(
    empty: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVOPRUNE_CACHE", str(empty / "own"))
    catalogue_data.main(["tiny_scenes"])
    assert "tiny_scenes: 2167 questions" in capsys.readouterr().out
    with pytest.raises(DataMissing):
        catalogue_data.main(["mme"])


# What is written about it.


def test_importing_the_catalogue_imports_no_extra() -> None:
    import subprocess

    code = (
        "import sys; import evoprune.evaluate.catalogue.scores, evoprune.evaluate.embedded.data;"
        "print(sorted({'lmms_eval', 'datasets', 'scipy', 'pandas', 'av', 'matplotlib'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_table_of_the_documentation_is_this_one() -> None:
    text = DOCS.read_text(encoding="utf-8")
    begin, end = "<!-- benchmarks:begin -->\n", "<!-- benchmarks:end -->"
    assert text.split(begin)[1].split(end)[0].strip() == catalogue.markdown().strip()
    for name, members in GROUPS.items():
        assert f"`{name}`: {', '.join(members)}" in text
