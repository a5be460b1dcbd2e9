"""What the commands do: `run` of each module, which `wavflow.cli.command` imports once the options are read."""
