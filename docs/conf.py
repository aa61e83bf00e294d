"""The site: `make docs` builds it into `site/`, with no network."""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # the extension beside this file
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from extension.notebooks import EXTENSIONS  # noqa: E402

import bilens  # noqa: E402

project = "bilens"
author = "The bilens founders"
copyright = author
version = release = bilens.__version__

extensions = [
    "sphinx.ext.autodoc",
    "myst_nb",
    "sphinx_copybutton",
    "extension",
]
exclude_patterns = ["extension", "_static"]

myst_enable_extensions = EXTENSIONS
smartquotes = False  # what is quoted is typed
myst_heading_anchors = 3
nb_custom_formats = {".md": ["extension.notebooks.read", {}, False]}
nb_execution_mode = "off"  # the reader runs them
nb_merge_streams = True

autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 88
add_module_names = False
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"bilens {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_search_summary = False  # a summary is fetched, which a page opened as a file cannot do
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
