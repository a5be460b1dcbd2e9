"""The Hydra configuration, installed as `wavflow.conf` so that `pkg://wavflow.conf` finds it."""
