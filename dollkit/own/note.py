"""What a network's folder says of what it draws."""

from __future__ import annotations

import json
from pathlib import Path

from dollkit.errors import InputError, brief


def read_note(path: Path) -> tuple[tuple[str, ...], int]:
    """Classes and size as `predict.save_note` wrote them; none and 0 without a note."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return (), 0
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({brief(error)}): delete it") from None
    try:
        note = json.loads(text)
        names, side = note.get("classes", []), note.get("size", 0)
    except (ValueError, AttributeError, RecursionError):
        names, side = None, None
    if not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
        and isinstance(side, int) and not isinstance(side, bool)
    ):  # fmt: skip
        raise InputError(
            f'{path}: not like {{"classes": ["lungs"], "size": 256}}: mend it, or delete it and '
            "give 'classes' and 'size'"
        )
    return tuple(names), side
