"""Builds a command's model, data module and trainer from flags, configs and checkpoints."""
