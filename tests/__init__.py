"""The tests mirror the package: one file a module, and more for what holds between them."""
