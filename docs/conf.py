# SPDX-License-Identifier: MIT
"""Sphinx: `make docs` builds the pages into build/docs."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = (ROOT / "csrc/include/polyshm/polyshm.h").read_text()

project = "polyshm"
author = "The polyshm authors"
copyright = "The polyshm authors, MIT licence"
release = version = re.search(r'#define PSHM_VERSION "([^"]+)"', HEADER)[1]

extensions = []
nitpicky = True
highlight_language = "none"
html_theme = "furo"
html_title = f"polyshm {release}"
html_copy_source = False
manpages_url = "https://man7.org/linux/man-pages/man{section}/{page}.{section}.html"
