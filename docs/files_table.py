"""The table of files of the architecture page, from what each says of itself."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path


def files_table(root: Path) -> str:
    """Return Markdown: a table of the modules below each folder of the package at ``root``."""
    folders = sorted({path.parent for path in root.rglob("*.py")})
    return "\n".join(line for folder in folders for line in _of_folder(folder, root))


def _of_folder(folder: Path, root: Path) -> Iterator[str]:
    yield f"### `{folder.relative_to(root.parent)}/`"
    yield ""
    yield from (_said_by(folder / "__init__.py"), "")
    yield from ("| file | |", "|---|---|")
    for path in sorted(folder.glob("*.py")):
        if path.name != "__init__.py":
            yield f"| `{path.name}` | {_said_by(path).replace('|', chr(92) + '|')} |"
    yield ""


def _said_by(path: Path) -> str:
    """Return the first paragraph of a module's docstring as Markdown."""
    said = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    text = re.sub(r"(:[a-z]+:)?`+(.+?)`+", r"`\2`", " ".join(said.partition("\n\n")[0].split()))
    return re.sub(r"(`[^`]+`)|<", lambda found: found[1] or "&lt;", text)  # what is no HTML
