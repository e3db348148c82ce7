"""Tasks for lmms-eval: the functions that their YAML files name, by the full name of the module."""
