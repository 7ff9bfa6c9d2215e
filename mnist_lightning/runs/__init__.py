"""Runs: their folders and checkpoints."""
