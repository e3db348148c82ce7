"""Serving: what lets an inference server prune inside its vision encoder. `evoprune.serve.vllm` is vLLM's plug-in."""
