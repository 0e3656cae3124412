"""Markdown as plain text: what a reader sees, block by block."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import yaml

_FRONT_MATTER = re.compile(r"---[^\S\n]*\n(.*?\n)(?:---|\.\.\.)[^\S\n]*(?:\n|\Z)", re.DOTALL)


def read_markdown(text: str) -> tuple[str, str]:
    """Title and plain text of a Markdown document (CommonMark with tables).

    The title is that of YAML front matter, else the first heading, else empty. A heading that
    opens the document as its title is not repeated in the text. Blocks are parted by blank lines;
    items of lists keep their bullet or number, a row of a table is its cells with ` | ` between
    them, code stays as it is written. Of links the words are kept, of images their description,
    of HTML what stands between the tags; addresses, comments and front matter are left out.
    """
    from markdown_it import MarkdownIt

    fields, body = _take_front_matter(text.replace("\r\n", "\n"))
    parser = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    tokens = parser.parse(body)
    headings = [i for i, token in enumerate(tokens) if token.type == "heading_open"]
    given = fields.get("title")
    title = given.strip() if isinstance(given, str) else ""
    heading = _inline(tokens[headings[0] + 1]) if headings else ""
    if headings and headings[0] == 0 and title in ("", heading):
        tokens = tokens[3:]  # the opening, its words and the closing
    return title or heading, _Blocks(tokens).text()


def _take_front_matter(text: str) -> tuple[dict[str, Any], str]:
    """Fields that stand before the document, and the rest; a rule and text are none."""
    found = _FRONT_MATTER.match(text)
    if found is None:
        return {}, text
    try:
        fields = yaml.load(found[1], Loader=yaml.BaseLoader)  # every value a text
    except (yaml.YAMLError, RecursionError):
        return {}, text
    return (fields, text[found.end() :]) if isinstance(fields, dict) else ({}, text)


class _Blocks:
    """Blocks of a document, put together from markdown-it's tokens."""

    def __init__(self, tokens: Sequence[Any]):
        self.blocks: list[str] = []
        self.lists: list[int | None] = []
        """Of each open list the number of its next item; None: bullets."""
        self.mark = ""
        """What the next block begins with: the bullet or number of its item."""
        self.tight = False
        """Whether the next block follows the one before without a blank line."""
        self.cells: list[str] | None = None
        for token in tokens:
            self._read(token)

    def text(self) -> str:
        return "".join(self.blocks).strip()

    def _read(self, token: Any) -> None:
        kind = token.type
        if kind in ("bullet_list_open", "ordered_list_open"):
            ordered = kind == "ordered_list_open"
            self.tight = bool(self.lists)
            self.lists.append(int(token.attrGet("start") or 1) if ordered else None)
        elif kind in ("bullet_list_close", "ordered_list_close"):
            self.lists.pop()
            self.tight = False
        elif kind == "list_item_open":
            number = self.lists[-1]
            self.mark += "- " if number is None else f"{number}. "
            if number is not None:
                self.lists[-1] = number + 1
        elif kind == "list_item_close":
            self.mark, self.tight = "", True
        elif kind == "tr_open":
            self.cells = []
        elif kind == "tr_close":
            row, self.cells = self.cells or [], None
            self._add(" | ".join(row))
            self.tight = True
        elif kind == "table_close":
            self.tight = False
        elif kind == "inline":
            if self.cells is None:
                self._add(_inline(token))
            else:
                self.cells.append(_inline(token))
        elif kind in ("fence", "code_block"):
            self._add(token.content.rstrip("\n"))
        elif kind == "html_block":
            self._add(_strip_tags(token.content))

    def _add(self, text: str) -> None:
        if not text.strip():
            return
        if self.blocks:
            self.blocks.append("\n" if self.tight else "\n\n")
        self.blocks.append(self.mark + text)
        self.mark, self.tight = "", False


def _inline(token: Any) -> str:
    """Words of a paragraph, a heading or a cell."""
    pieces = []
    for child in token.children or ():
        if child.type in ("text", "code_inline"):
            pieces.append(child.content)
        elif child.type == "image":
            pieces.append(_inline(child))
        elif child.type in ("softbreak", "hardbreak") or child.content.lower().startswith("<br"):
            pieces.append("\n")
    return "".join(pieces).strip()


def _strip_tags(html: str) -> str:
    stripper = _Stripper()
    stripper.feed(html)
    stripper.close()
    return "".join(stripper.pieces).strip()


class _Stripper(HTMLParser):
    """Collects what stands between the tags, but for scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.silent = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if not self.silent and tag in ("script", "style"):
            self.silent = tag

    def handle_endtag(self, tag: str) -> None:
        if tag == self.silent:
            self.silent = ""

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.pieces.append(data)
