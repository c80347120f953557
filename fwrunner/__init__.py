"""Run one Firework on a compute node, with the standard library alone."""

__version__ = "0.1.0.dev0"
