"""The entry point that lmms-eval finds: ``lmms-eval --model evoprune``.

lmms-eval loads this module whenever it starts, while it is being imported itself, and takes an error here for a missing
model. So nothing is imported but its registry, and that in the call: importing the registry may be what loads this.
"""

from __future__ import annotations

from typing import Any


def manifests() -> list[Any]:
    """Return what lmms-eval is to know: one model id, with a class for each of its two kinds of prompts."""
    from lmms_eval.models.registry_v2 import ModelManifest

    home = "evoprune.evaluate.lmms.models"
    return [
        ModelManifest(
            model_id="evoprune",
            chat_class_path=f"{home}.EvoPruneChat",
            simple_class_path=f"{home}.EvoPruneSimple",
        )
    ]
