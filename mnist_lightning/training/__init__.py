"""Training: history, checkpoints, exact resume, interruptions."""
