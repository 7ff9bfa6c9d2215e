"""A handwritten-digit classifier built with PyTorch Lightning, to run, trust, read and reuse."""
