"""The embedded model answers one question with 196 and with 49 visual tokens.

Run it with ``.venv/bin/python examples/quickstart.py``; no network, no GPU. For a model of your own, replace the two
marked lines by the folder or hub id of a LLaVA-1.5 checkpoint.
"""

from transformers import AutoModelForImageTextToText, AutoProcessor

import evoprune
from evoprune.tiny import folder
from evoprune.tiny.scenes import scene

model = AutoModelForImageTextToText.from_pretrained(folder(), dtype="float32")  # your model
processor = AutoProcessor.from_pretrained(folder(), backend="pil")  # your processor

picture = scene("test", seed=7, index=1).image()
chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many digits are there?"}]}]
prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
inputs = processor(images=picture, text=prompt, return_tensors="pt", add_special_tokens=False)


def answer() -> str:
    """The model's answer: what follows the prompt."""
    output = model.generate(**inputs, max_new_tokens=2, do_sample=False)
    return processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


print("without pruning:", answer())
with evoprune.apply(model, evoprune.EvoPrune(keep=0.25)) as handle:
    print("with EvoPrune:  ", answer())
print("visual tokens:  ", handle.stats.visual_tokens[0])
print("layer by layer: ", handle.stats.tokens)
