"""The data: datasets, verified files, the data module and augmentation."""
