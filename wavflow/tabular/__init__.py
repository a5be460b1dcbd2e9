"""Densities of vectors: data with folds, a small training loop, and pictures; what `python -m wavflow.density` is made of."""
