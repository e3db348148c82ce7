"""The embedded models on their own benchmarks: tasks, data for lmms-eval, a batched runner, shared features."""
