"""Run one Firework on a compute node, with the standard library alone."""
