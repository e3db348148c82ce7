"""Evaluation: plug-in for lmms-eval, resumable sweeps of methods x keeps x tasks, paired statistics, tables."""
