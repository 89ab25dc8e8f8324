"""A page of HTML as a parser sees it, and a text that tries to break out of one."""

from __future__ import annotations

from collections import defaultdict
from html.parser import HTMLParser

__all__ = ["EVIL", "Page"]

EVIL = "</script><script>alert('x')</script><img src=x onerror=y>&\"'{{ 7 * 7 }}{% raw %}"
_VOID = {"meta", "link", "input", "br", "img"}


class Page(HTMLParser):
    """A page, with its tags balanced and its texts by tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._pieces: defaultdict[str, list[str]] = defaultdict(list)
        self.feed(text)
        assert self.open == []
        self.texts = {tag: "".join(pieces) for tag, pieces in self._pieces.items()}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self._pieces[tag].append(data)

    def attributes(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.tags if name in attributes]
