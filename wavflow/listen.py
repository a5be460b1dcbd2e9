"""`python -m wavflow.listen results/*.csv`: tables of the results of a listening test."""

from __future__ import annotations

import argparse

from wavflow import __version__
from wavflow.cli import one_line_errors, output_folder


def main() -> None:
    """Reads the files that the page saved, prints tables, and writes them where asked."""
    parser = argparse.ArgumentParser(prog="python -m wavflow.listen", description=__doc__)
    parser.add_argument("results", nargs="+", metavar="results.csv", help="files that listen.html saved, all of one page")
    parser.add_argument("--output", metavar="FOLDER", help="also write scores.json, scores.png, mushra.csv and abx.csv there")
    parser.add_argument("--version", action="version", version=f"wavflow {__version__}")
    with one_line_errors():
        options = parser.parse_args()

        from wavflow.evaluation.report.listening_results import score, write_scores  # only now, see `wavflow.cli.command`
        from wavflow.reporting.tables import markdown_table

        scores = score(options.results)
        for heading, rows in (("MUSHRA", scores.mushra), ("ABX", scores.abx)):
            if rows:
                print(f"## {heading}\n\n{markdown_table(rows)}")
        print("\n".join(f"- {note}" for note in scores.notes))
        if options.output:
            write_scores(output_folder(options.output), scores)


if __name__ == "__main__":
    main()
