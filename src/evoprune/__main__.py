"""``python -m evoprune`` is the same as ``evoprune``."""

from .cli import app

app(prog_name="evoprune")
