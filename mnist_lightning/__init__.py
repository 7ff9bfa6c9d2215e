"""A handwritten-digit classifier on PyTorch Lightning, to run, trust, read and copy from."""
