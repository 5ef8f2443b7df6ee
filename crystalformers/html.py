"""Small tables in HTML, as notebooks show objects: every text is escaped, and nothing is loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


def html_table(title: str, about: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A titled table.

    Args:
        title: in bold above the table.
        about: behind the title.
        header: names of the columns.
        rows: cells, which are shown as their text.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    caption = f"<div><b>{escape(title)}</b> {escape(about)}</div>"
    return f"<div>{caption}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
