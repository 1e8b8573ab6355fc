"Sphinx configuration of the offline site, which tools/docs.py builds"
import sys
from configparser import ConfigParser
from pathlib import Path

here = Path(__file__).parent
sys.path.insert(0, str(here.parent/'tools'))
cfg = ConfigParser()
cfg.read(here.parent/'settings.ini')
cfg = cfg['DEFAULT']

project,author,copyright,version = cfg['title'],cfg['author'],cfg['copyright'],cfg['version']
release = version
extensions = ['myst_nb','sphinx_design','sphinx_copybutton']
root_doc,html_theme,html_title,smartquotes = 'index','furo',project,False
html_static_path = ['_static','../.cache/static']
html_css_files = ['site.css']
html_copy_source,html_show_sphinx,html_show_sourcelink = False,False,False
def colour(c): return {'color-brand-primary': c, 'color-brand-content': c}
html_theme_options = dict(light_css_variables=colour('#0b6e6e'), dark_css_variables=colour('#5ec8c0'))
pygments_style,pygments_dark_style = 'default','github-dark'

nb_execution_mode,nb_merge_streams,nb_render_markdown_format = 'off',True,'myst'
myst_enable_extensions = ['dollarmath','amsmath','colon_fence','attrs_inline','attrs_block','deflist']
myst_heading_anchors,myst_heading_slug_func = 4,'bridge.slug'
suppress_warnings = ['mystnb.unknown_mime_type','myst.header']
mathjax_path = 'mathjax/tex-svg.js'
mathjax3_config = dict(svg=dict(fontCache='global'))
copybutton_selector = 'div.cell_input div.highlight pre, div.highlight-python pre, div.highlight-bash pre, div.highlight-sh pre, div.highlight-default pre'
