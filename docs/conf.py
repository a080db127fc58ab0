"""How Sphinx makes the site; ``python -m mer_lab.site`` gathers the pages and calls it."""

from mer_lab import __version__

project = "mer_lab"
html_title = "mer_lab"
version = release = __version__
language = "en"
extensions = ["myst_nb"]
exclude_patterns = ["_apart"]

# Lessons are shown with the outputs that are committed; to run them is the business of mer_lab.lessons.
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}  # scripts from the network; outputs hold no live widgets
myst_enable_extensions = ["amsmath", "attrs_block", "dollarmath"]
myst_heading_anchors = 3
myst_update_mathjax = False  # it knows later versions only

# The MathJax that JupyterLab's server brings (2.7), with the STIX fonts only; by default it asks for others.
mathjax_path = "mathjax/MathJax.js"
mathjax2_config = {
    "config": ["TeX-AMS-MML_HTMLorMML-full.js", "Safe.js"],
    "jax": ["input/TeX", "output/HTML-CSS"],
    "TeX": {"equationNumbers": {"autoNumber": "AMS", "useLabelIds": True}},
    "tex2jax": {
        "inlineMath": [["\\(", "\\)"]], "displayMath": [["\\[", "\\]"]],
        "ignoreClass": "page", "processClass": "math",
    },
    "HTML-CSS": {
        "availableFonts": [], "imageFont": None, "preferredFont": None, "webFont": "STIX-Web",
        "linebreaks": {"automatic": True},
        # its own asks for about:blank
        "styles": {"@font-face": {"font-family": "MathJax_Blank", "src": "local('none')"}},
    },
    "messageStyle": "none",
    "showMathMenu": False,
}  # fmt: skip

highlight_language = "none"  # a block that names no language has none
pygments_dark_style = "github-dark"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_show_copyright = False
html_copy_source = False
html_use_index = False
html_domain_indices = False
html_theme_options = {
    "top_of_page_buttons": [],
    "navigation_with_keys": False,
    "light_css_variables": {"color-brand-primary": "#00568a", "color-brand-content": "#00568a"},
    "dark_css_variables": {"color-brand-primary": "#7cc0ee", "color-brand-content": "#7cc0ee"},
}
