"""The published measurements, as programs that anyone can run: `python -m benchmarks.epoch_time` and so on."""
