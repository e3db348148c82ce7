"""The benchmarks by name: which tasks of lmms-eval they are, what can be scored, and what that needs."""

from __future__ import annotations

from dataclasses import dataclass

# fmt: off
MVBENCH = (
    "action_sequence", "moving_count", "action_prediction", "episodic_reasoning", "action_antonym", "action_count",
    "scene_transition", "object_shuffle", "object_existence", "fine_grained_pose", "unexpected_action",
    "moving_direction", "state_change", "object_interaction", "character_order", "action_localization",
    "counterfactual_inference", "fine_grained_action", "moving_attribute", "egocentric_navigation",
)
# fmt: on


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark as lmms-eval runs it, with the split whose answers are public.

    Attributes
    ----------
    name, title
        What the command line and the papers call it.
    tasks
        Tasks of lmms-eval; several where the benchmark has parts.
    dataset, config, split
        Hub id, its configuration (None where it has none, or one a task), and the split that is scored.
    metrics
        What lmms-eval reports.
    modality
        ``"image"`` or ``"video"``.
    sample
        What one answer scores, 0 to 1.
    official
        How lmms-eval's metric differs from the mean of that, "" where it does not.
    judge
        Whether a judge model scores the answers.
    others
        Splits that cannot be scored here, and what they need.
    videos
        Folder in ``$HF_HOME`` where lmms-eval looks for the videos.
    note
        What else a user has to know.
    together
        How many rows in turn lmms-eval scores together: a limit is a multiple of it.
    """

    name: str
    title: str
    tasks: tuple[str, ...]
    dataset: str
    config: str | None = None
    split: str
    metrics: tuple[str, ...]
    modality: str = "image"
    sample: str
    official: str = ""
    judge: bool = False
    others: str = ""
    videos: str = ""
    note: str = ""
    together: int = 1


_CIRCULAR = "a question counts only if right in all rotations of its options, x 100"
_MMBENCH = "the option that the answer names, by fixed rules"
_VQA = "agreement with the ten human answers"

BENCHMARKS = (
    Benchmark(
        name="vqav2",
        title="VQAv2",
        tasks=("vqav2_val",),
        dataset="lmms-lab-encoder/VQAv2",
        split="validation",
        metrics=("exact_match",),
        sample=_VQA,
        others="vqav2_test writes a file for the EvalAI server",
    ),
    Benchmark(
        name="mme",
        title="MME",
        tasks=("mme",),
        dataset="lmms-lab-encoder/MME",
        split="test",
        metrics=("mme_perception_score", "mme_cognition_score"),
        sample="yes or no, as asked",
        official="per category 100 x (share of answers right + share of pictures with both right), summed: "
        "at most 2000 and 800",
        note="a limit has to be even: lmms-eval scores the two questions of a picture together",
        together=2,
    ),
    Benchmark(
        name="mmbench_en",
        title="MMBench",
        tasks=("mmbench_en_dev_static",),
        dataset="lmms-lab-encoder/MMBench",
        config="en",
        split="dev",
        metrics=("gpt_eval_score", "submission"),
        sample=_MMBENCH,
        official=_CIRCULAR,
        others="mmbench_en_dev asks a judge model where the rules find nothing; mmbench_en_test writes a file for the "
        "MMBench server",
    ),
    Benchmark(
        name="mmbench_cn",
        title="MMBench-CN",
        tasks=("mmbench_cn_dev_static",),
        dataset="lmms-lab-encoder/MMBench",
        config="cn",
        split="dev",
        metrics=("gpt_eval_score",),
        sample=_MMBENCH,
        official=_CIRCULAR,
        others="mmbench_cn_dev asks a judge model where the rules find nothing; mmbench_cn_test writes a file for the "
        "MMBench server",
        note="our task file: lmms-eval has static scoring for English only",
    ),
    Benchmark(
        name="mmvet",
        title="MM-Vet",
        tasks=("mmvet",),
        dataset="lmms-lab-encoder/MMVet",
        split="test",
        metrics=("gpt_eval_score",),
        sample="the judge's score",
        official="x 100",
        judge=True,
        note="answered greedily here: its file asks for temperature 0.2, with which the models would sample",
    ),
    Benchmark(
        name="mvbench",
        title="MVBench",
        tasks=tuple(f"mvbench_{part}" for part in MVBENCH),
        dataset="OpenGVLab/MVBench",
        split="train",
        metrics=("mvbench_accuracy",),
        modality="video",
        sample="the option's letter",
        official="x 100, for each of the 20 parts",
        videos="mvbench_video",
        note="the clips of mvbench_episodic_reasoning are folders of frames, which the models of lmms-eval that read "
        "videos with decord cannot open",
    ),
    Benchmark(
        name="longvideobench",
        title="LongVideoBench",
        tasks=("longvideobench_val_v",),
        dataset="longvideobench/LongVideoBench",
        split="validation",
        metrics=("lvb_acc",),
        modality="video",
        sample="the option's letter; none is wrong",
        official="an answer without a letter gets a random one",
        others="longvideobench_test_v writes a file for the LongVideoBench server",
        videos="datasets/longvideobench/videos",
    ),
    Benchmark(
        name="videomme",
        title="Video-MME",
        tasks=("videomme",),
        dataset="lmms-eval/Video-MME",
        split="test",
        metrics=("videomme_perception_score",),
        modality="video",
        sample="the option's letter",
        official="x 100",
        videos="videomme/data",
    ),
    Benchmark(
        name="textvqa",
        title="TextVQA",
        tasks=("textvqa_val",),
        dataset="lmms-lab-encoder/textvqa",
        split="validation",
        metrics=("exact_match", "submission"),
        sample=_VQA,
        others="textvqa_test writes a file for the EvalAI server",
    ),
    Benchmark(
        name="docvqa",
        title="DocVQA",
        tasks=("docvqa_val",),
        dataset="lmms-lab-encoder/DocVQA",
        config="DocVQA",
        split="validation",
        metrics=("anls",),
        sample="ANLS: 1 - edit distance to the nearest answer, 0 below 0.5",
        others="docvqa_test writes a file for the RRC server",
    ),
    Benchmark(
        name="ocrbench",
        title="OCRBench",
        tasks=("ocrbench",),
        dataset="echo840/OCRBench",
        split="test",
        metrics=("ocrbench_accuracy",),
        sample="the answer contains the text",
        official="the sum / 1000, whatever the limit",
    ),
    Benchmark(
        name="refcoco",
        title="RefCOCO",
        tasks=("refcoco_bbox_rec_val",),
        dataset="lmms-lab-encoder/RefCOCO",
        split="val",
        metrics=(
            "refcoco_IoU",
            *(f"refcoco_ACC@{bound}" for bound in (0.1, 0.3, 0.5, 0.7, 0.9)),
            "refcoco_Center_ACC",
        ),
        sample="IoU of the box >= 0.5",
        official="refcoco_ACC@0.5 is the same",
        note="the group `refcoco` of lmms-eval is another task: it describes regions",
    ),
    Benchmark(
        name="pope",
        title="POPE",
        tasks=("pope",),
        dataset="lmms-lab-encoder/POPE",
        split="test",
        metrics=("pope_accuracy", "pope_precision", "pope_recall", "pope_f1_score", "pope_yes_ratio"),
        sample="exactly yes or no: `Yes.` is wrong",
        official="pope_accuracy is the same",
    ),
    Benchmark(
        name="gqa",
        title="GQA",
        tasks=("gqa",),
        dataset="lmms-lab-encoder/GQA",
        config="testdev_balanced_instructions",
        split="testdev",
        metrics=("exact_match",),
        sample="the same words, but for case and punctuation",
    ),
    Benchmark(
        name="scienceqa_img",
        title="ScienceQA-IMG",
        tasks=("scienceqa_img",),
        dataset="lmms-lab-encoder/ScienceQA",
        config="ScienceQA-IMG",
        split="test",
        metrics=("exact_match",),
        sample="the option's letter",
    ),
    Benchmark(
        name="seedbench",
        title="SEED-Bench",
        tasks=("seedbench",),
        dataset="lmms-lab-encoder/SEED-Bench",
        split="test",
        metrics=("seed_image", "seed_video", "seed_all"),
        sample="the answer's first letter",
        official="seed_all is the same; its videos come as pictures",
    ),
    Benchmark(
        name="mmstar",
        title="MMStar",
        tasks=("mmstar",),
        dataset="Lin-Chen/MMStar",
        split="val",
        metrics=(
            "coarse perception",
            "fine-grained perception",
            "instance reasoning",
            "logical reasoning",
            "science & technology",
            "math",
            "average",
        ),
        sample="the option's letter",
        official="`average` is the mean over kinds of question",
    ),
    Benchmark(
        name="ai2d",
        title="AI2D",
        tasks=("ai2d",),
        dataset="lmms-lab-encoder/ai2d",
        split="test",
        metrics=("exact_match",),
        sample="the option's letter",
    ),
)

GROUPS = {
    "paper-images": ("vqav2", "mme", "mmbench_en", "mmbench_cn", "mmvet"),
    "paper-videos": ("mvbench", "longvideobench", "videomme"),
    "fragile": ("textvqa", "docvqa", "ocrbench", "refcoco", "pope"),  # what pruning breaks first
}


def benchmark(task: str) -> Benchmark | None:
    """Return the benchmark that a task of lmms-eval is (a part of), None for other tasks."""
    return next((one for one in BENCHMARKS if task in one.tasks), None)
