"""The files that pages are made of."""

from importlib import resources


def asset(name: str, package: str = "wavflow.evaluation.report") -> str:
    """Returns the text of a file in the folder `assets` of a package; the report's folder holds what all pages share."""
    return (resources.files(package) / "assets" / name).read_text(encoding="utf-8")
