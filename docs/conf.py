"""How the site is built (``make docs``): Sphinx reads these pages, which are plain Markdown.

The tables of settings and of files are made from the code at every build, so that neither
can be old.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from files_table import files_table
from settings_tables import settings_tables

import psdp

project = "psdp"
author = "the authors of psdp"
release = psdp.__version__
extensions = ["myst_parser"]
exclude_patterns = ["generated", "_build"]
smartquotes = False  # what a flag begins with is no dash
myst_heading_anchors = 3
nitpicky = True  # a link that leads nowhere is a warning, and make docs ends with the first
html_theme = "furo"
html_title = f"psdp {psdp.__version__}"
html_show_copyright = False
html_copy_source = False

made = Path(__file__).with_name("generated")
made.mkdir(exist_ok=True)
(made / "settings.md").write_text(settings_tables(), encoding="utf-8")
(made / "files.md").write_text(files_table(Path(psdp.__file__).parent), encoding="utf-8")
