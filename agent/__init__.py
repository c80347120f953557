"""The login node: look, apply, claim, stage, submit; the daemon and its command line."""
