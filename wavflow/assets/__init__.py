"""Files that ship with the package; `speech/` is the corpus of `data=bundled`."""
