"""The tests mirror the package: one file per module, and more for what holds across modules."""
