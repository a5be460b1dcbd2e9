"""The report folder: one page of tables, players and pictures, as HTML, as Markdown, and its figures as JSON."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import NamedTuple
from urllib.parse import quote

from wavflow.evaluation.tables import Row, html_table, markdown_table, plain_rows
from wavflow.files import aside

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --ink: #1d2330; --soft: #5b6475; --line: #d9dde5; --page: #fff; --card: #f5f6f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ef; --soft: #9aa3b5; --line: #343b4a; --page: #14171d; --card: #1d222b; }
}
body { margin: 0 auto; max-width: 64rem; padding: 1.5rem 1rem 4rem; color: var(--ink); background: var(--page);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 0 0 .5rem; overflow-wrap: anywhere; } li { margin: .25rem 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .4rem .75rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; }
.clip { background: var(--card); border-radius: .6rem; padding: 1rem; margin: 0 0 1rem; }
.players { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .75rem; }
.players span { display: block; color: var(--soft); font-size: .85rem; } audio { width: 100%; height: 2.4rem; }
figure { margin: 0 0 1rem; } .clip figure { margin: 1rem 0 0; }
figcaption { color: var(--soft); font-size: .85rem; } img { max-width: 100%; height: auto; border-radius: .4rem; }
</style>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
""")


class _Page(NamedTuple):
    """What both renderings of the report show; pictures and wav files are links by now."""

    title: str
    summary: Sequence[Row]
    tables: Mapping[str, Sequence[Row]]
    clips: Sequence[Row]
    pictures: Mapping[str, str]
    wavs: Mapping[str, Mapping[str, str]]
    notes: Sequence[str]


def write_report(
    folder: str | Path,
    title: str,
    *,
    summary: Sequence[Row],
    tables: Mapping[str, Sequence[Row]] | None = None,
    clips: Sequence[Row] = (),
    pictures: Mapping[str, str | Path] | None = None,
    wavs: Mapping[str, Mapping[str, str | Path]] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Writes `report.md`, `index.html` and `figures.json` into a folder that already holds the pictures and wav files.

    Args:
        folder: Made if it is not there. The page links with relative paths, so the folder may be moved.
        title: Heading of the page.
        summary: One row per system (recording, teacher, ...), see `markdown_table` for what a cell may hold.
        tables: Further tables below the summary: heading to rows.
        clips: One row per clip and system.
        pictures: Caption to PNG inside `folder`. One named like a clip of `wavs` stands under that clip's players.
        wavs: Clip to system to wav file inside `folder`.
        notes: One sentence each, below the table: what was measured, on what, with which command.

    Raises:
        ValueError: If a picture or wav file is not inside `folder`.
    """
    folder = Path(folder)
    links = {caption: _link(folder, path) for caption, path in (pictures or {}).items()}
    players = {clip: {name: _link(folder, path) for name, path in row.items()} for clip, row in (wavs or {}).items()}
    page = _Page(title, summary, tables or {}, clips, links, players, notes)
    figures = {
        "title": title,
        "summary": plain_rows(summary),
        "tables": {heading: plain_rows(rows) for heading, rows in page.tables.items()},
        "clips": plain_rows(clips),
        "notes": list(notes),
    }
    files = {
        "figures.json": json.dumps(figures, indent=2, allow_nan=False, ensure_ascii=False) + "\n",
        "report.md": _markdown_page(page),
        "index.html": _html_page(page),
    }
    for name, text in files.items():
        with aside(folder / name) as part:
            part.write_text(text, encoding="utf-8")


def _link(folder: Path, path: str | Path) -> str:
    """URL of a file, relative to `folder`; a relative `path` may start at `folder` or at the working directory."""
    root = folder.resolve()
    for candidate in ((folder / path).resolve(), Path(path).resolve()):
        if candidate.is_file() and candidate.is_relative_to(root):
            return quote(candidate.relative_to(root).as_posix())
    raise ValueError(f"Pictures and wav files must lie inside {folder}, got {path}: write them there first.")


def _markdown_page(page: _Page) -> str:
    blocks = [f"# {page.title}", markdown_table(page.summary)]
    for heading, rows in page.tables.items():
        blocks += [f"## {heading}", markdown_table(rows)]
    blocks.append("\n".join(f"- {note}" for note in page.notes))
    if page.wavs:
        lines = (", ".join(f"[{name}]({link})" for name, link in row.items()) for row in page.wavs.values())
        blocks += ["## Listen", "\n".join(f"- {clip}: {line}" for clip, line in zip(page.wavs, lines, strict=True))]
    if page.pictures:
        blocks += ["## Pictures", *(f"![{caption}]({link})" for caption, link in page.pictures.items())]
    if page.clips:
        blocks += ["## Clip by clip", markdown_table(page.clips)]
    return "\n\n".join(block.strip() for block in blocks if block) + "\n"


def _html_page(page: _Page) -> str:
    blocks = [html_table(page.summary)]
    for heading, rows in page.tables.items():
        blocks += [f"<h2>{html.escape(heading)}</h2>", html_table(rows)]
    if page.notes:
        blocks += ["<ul>", *(f"<li>{html.escape(note)}</li>" for note in page.notes), "</ul>"]
    if page.wavs:
        blocks += ["<h2>Listen</h2>", *(_html_clip(page, clip) for clip in page.wavs)]
    others = [caption for caption in page.pictures if caption not in page.wavs]
    if others:
        blocks += ["<h2>Pictures</h2>", *(_html_figure(page, caption) for caption in others)]
    if page.clips:
        blocks += ["<h2>Clip by clip</h2>", html_table(page.clips)]
    return PAGE.substitute(title=html.escape(page.title), body="\n".join(blocks))


def _html_clip(page: _Page, clip: str) -> str:
    """One player per system, and the clip's picture below."""
    players = [
        f'<div><span>{html.escape(name)}</span><audio controls preload="metadata" src="{link}" '
        f'aria-label="{html.escape(f"{clip}, {name}")}"></audio></div>'
        for name, link in page.wavs[clip].items()
    ]
    picture = [_html_figure(page, clip)] if clip in page.pictures else []
    head = f'<section class="clip"><h3>{html.escape(clip)}</h3>'
    return "\n".join([head, '<div class="players">', *players, "</div>", *picture, "</section>"])


def _html_figure(page: _Page, caption: str) -> str:
    link, text = page.pictures[caption], html.escape(caption)
    below = "" if caption in page.wavs else f"<figcaption>{text}</figcaption>"
    return f'<figure><a href="{link}"><img src="{link}" alt="{text}" loading="lazy"></a>{below}</figure>'
