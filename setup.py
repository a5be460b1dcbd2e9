"""Names the packages: pyproject.toml alone can't say "what is found under wavflow, and conf/ as wavflow.conf"."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["wavflow", "wavflow.*"]), "wavflow.conf"])
