"""What a built site would fetch from elsewhere: ``python -m tests.site_loads site``."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

LOADS = {"script", "img", "iframe", "source", "video", "audio", "embed", "object", "track"}
RELATIONS = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect"}
RELATIONS |= {"dns-prefetch", "manifest"}
IN_STYLE = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s;]+)""")


class Loads(HTMLParser):
    """Collects addresses that a browser fetches by itself; links to click on do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        fetched = LOADS | ({"link"} if set(given.get("rel", "").split()) & RELATIONS else set())
        values = [given.get(n, "") for n in ("src", "href", "data", "poster") if tag in fetched]
        values += [part.split()[0] for part in given.get("srcset", "").split(",") if part.split()]
        self.found += [v for v in values if re.match(r"(?:https?:)?//", v)]
        self.found += IN_STYLE.findall(given.get("style", ""))
        self.style = tag == "style"

    def handle_data(self, data: str) -> None:
        if self.style:
            self.found += IN_STYLE.findall(data)

    def handle_endtag(self, tag: str) -> None:
        self.style = False


def loads(site: Path) -> list[str]:
    """``file: address`` of everything that pages and style sheets fetch from another host."""
    found = []
    for path in sorted(site.rglob("*.html")):
        parser = Loads()
        parser.feed(path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(site)}: {address}" for address in parser.found]
    for path in sorted(site.rglob("*.css")):
        addresses = IN_STYLE.findall(path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(site)}: {address}" for address in addresses]
    return found


if __name__ == "__main__":
    sys.exit("\n".join(loads(Path(sys.argv[1]))) or 0)
