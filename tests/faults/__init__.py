"""Crashes, outages and torn files."""
