"""Hyperparameter search, on one machine or many."""
