"""An alias of `mnist_lightning.data.sources`, for scripts that add a dataset."""

from mnist_lightning.data.sources import SOURCES, File, Source

__all__ = ["SOURCES", "File", "Source"]
