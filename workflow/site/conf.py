"""How Sphinx builds the pages that build.py collected: no execution, no network, no warning."""

import re

from docutils import nodes

import unetv2

project = "The skip connection, taken apart"
author = "the U-Net v2 collection authors"
version = release = unetv2.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
exclude_patterns = ["_images"]

nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"  # as the text has it: commonmark knows no tables
nb_ipywidgets_js = {}  # they would come from the network
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

default_role = "code"  # single backticks, as the docstrings have them
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # torch's own are not ours
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
maximum_signature_line_length = 80
napoleon_custom_sections = ["Shape", "Shapes"]

html_theme = "furo"
html_title = project
html_static_path = ["site.css", "tex-svg.js"]
html_css_files = ["site.css"]
html_copy_source = html_show_copyright = False
html_show_search_summary = False  # it would need a server
mathjax_path = "tex-svg.js"
mathjax_options = {"defer": "defer"}
mathjax3_config = {"options": {"enableMenu": False}}

MARKS = re.compile(r"(`[^`]*`|\*\*[^*]+\*\*)|([*|]|_(?!\w))")
SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Shapes?|Yields):")


def as_rst(app, what, name, obj, options, lines):
    """Docstrings are plain text: here they become what Sphinx reads.

    What is set in after an empty line is a formula or code, and a star is a star. What is set in
    within a paragraph is no quotation, but in a section (Args, ...), which napoleon reads.
    """
    depth, literal, section, new = 0, None, False, [""]
    for line in lines:
        here = len(line) - len(line.lstrip())
        if line.strip() and literal is not None and here < literal:
            literal = None
        if line.strip() and literal is None:
            if here > depth and not new[-1] and len(new) > 1:
                new += [" " * depth + "::", ""]
                literal = here
            elif here > depth and not section:
                line = " " * depth + line.lstrip()
        if line.strip() and literal is None:
            bullet = re.match(r"\s*(?:[*-]|\d+\.) +", line)
            depth = bullet.end() if bullet else len(line) - len(line.lstrip())
            section = section or SECTION.fullmatch(line.strip()) is not None
            line = line[:depth] + MARKS.sub(lambda m: m[1] or f"\\{m[2]}", line[depth:])
        new.append(line)
    lines[:] = new[1:]


def as_written(app, tree):
    """Sphinx would set a formula with line breaks in `split`, where MathJax allows no \\tag."""
    for block in tree.findall(nodes.math_block):
        if not block.get("no-wrap"):
            block["no-wrap"] = True
            block[:] = [nodes.Text(rf"\[{block.astext()}\]")]


def setup(app):
    app.connect("doctree-read", as_written)
    app.connect("autodoc-process-docstring", as_rst, priority=400)  # before napoleon
