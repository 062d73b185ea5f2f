"""How the site is built (``make docs``): Sphinx reads these pages, which are plain Markdown.

The tables of all settings are made from the code at every build, so that they cannot be old.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from settings_tables import settings_tables

from psdp import __version__

project = "psdp"
author = "the authors of psdp"
release = __version__
extensions = ["myst_parser"]
exclude_patterns = ["generated", "_build"]
smartquotes = False  # what a flag begins with is no dash
myst_heading_anchors = 3
nitpicky = True  # a link that leads nowhere is a warning, and make docs ends with the first
html_theme = "furo"
html_title = f"psdp {__version__}"
html_show_copyright = False
html_copy_source = False

tables = Path(__file__).with_name("generated") / "settings.md"
tables.parent.mkdir(exist_ok=True)
tables.write_text(settings_tables(), encoding="utf-8")
