"""What a built site would fetch from elsewhere: ``python -m tests.site_loads site``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from bs4 import BeautifulSoup

LOADS = ["script", "img", "iframe", "source", "video", "audio", "embed", "object", "track"]
RELATIONS = {"stylesheet", "icon", "preload", "modulepreload", "prefetch", "preconnect"}
RELATIONS |= {"dns-prefetch", "manifest"}
IN_STYLE = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s;]+)""")


def fetched(page: BeautifulSoup) -> Iterator[str]:
    """Addresses that a browser fetches by itself; links to click on do not count."""
    linked = [tag for tag in page.find_all("link") if RELATIONS.intersection(tag.get("rel", ()))]
    for tag in [*page.find_all(LOADS), *linked]:
        yield from (tag.get(name, "") for name in ("src", "href", "data", "poster"))
    for tag in page.find_all(srcset=True):
        yield from (part.split()[0] for part in tag["srcset"].split(",") if part.strip())


def loads(site: Path) -> list[str]:
    """``file: address`` of everything that pages and style sheets fetch from another host."""
    found = []
    for path in sorted(site.rglob("*.html")):
        page = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        addresses = [a for a in fetched(page) if re.match(r"(?:https?:)?//", a)]
        for style in page.find_all("style"):
            addresses += IN_STYLE.findall(style.text)
        for tag in page.find_all(style=True):
            addresses += IN_STYLE.findall(tag["style"])
        found += [f"{path.relative_to(site)}: {address}" for address in addresses]
    for path in sorted(site.rglob("*.css")):
        addresses = IN_STYLE.findall(path.read_text(encoding="utf-8"))
        found += [f"{path.relative_to(site)}: {address}" for address in addresses]
    return found


if __name__ == "__main__":
    sys.exit("\n".join(loads(Path(sys.argv[1]))) or 0)
