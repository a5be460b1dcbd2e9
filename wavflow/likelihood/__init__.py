"""Likelihood in use: how surprising a recording is, and lossless coding of it; see `wavflow.score` and `wavflow.compress`."""
