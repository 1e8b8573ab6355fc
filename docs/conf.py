"Sphinx configuration of the offline site, which tools/docs.py builds"
import sys
from configparser import ConfigParser
from html import escape
from pathlib import Path
from docutils import nodes

here = Path(__file__).parent
sys.path.insert(0, str(here.parent/'tools'))
cfg = ConfigParser()
cfg.read(here.parent/'settings.ini')
cfg = cfg['DEFAULT']

project,author,copyright,version = cfg['title'],cfg['author'],cfg['copyright'],cfg['version']
release = version
extensions = ['myst_nb','sphinx_design','sphinx_copybutton','sphinx_reredirects']
root_doc,html_theme,html_title,smartquotes = 'index','furo',project,False
html_static_path = ['_static','../.cache/static']
html_css_files = ['site.css']
html_js_files = ['search.js', 'site.js']
html_copy_source,html_show_sphinx,html_show_sourcelink = False,False,False
def colour(c): return {'color-brand-primary': c, 'color-brand-content': c}
html_favicon = '_static/favicon.svg'
html_use_index = False         # an empty page otherwise: nothing here makes entries for it
html_baseurl = f"{cfg['doc_host'].rstrip('/')}/{cfg['doc_baseurl'].strip('/')}/"
octocat = (here/'_static'/'github.svg').read_text(encoding='utf-8')
html_theme_options = dict(light_css_variables=colour('#0b6e6e'), dark_css_variables=colour('#5ec8c0'),
    footer_icons=[dict(name='GitHub', url=cfg['git_url'], html=octocat)])
pygments_style,pygments_dark_style = 'default','github-dark'

nb_execution_mode,nb_merge_streams,nb_render_markdown_format = 'off',True,'myst'
nb_code_prompt_show,nb_code_prompt_hide = 'Code','Code'
# Pages that have moved since the first version, and where what they said stands now
redirects = {'api/train': 'loop.html', 'api/glue': 'tasks.html', 'api/baseline': 'prune.html', 'api/experiment': 'sweep.html',
    'api/compact': 'compaction.html', 'api/compress': 'compression.html', 'tutorials/many_tasks': 'three_tasks_one_base.html'}
myst_enable_extensions = ['dollarmath','amsmath','colon_fence','attrs_inline','attrs_block','deflist']
myst_heading_anchors,myst_heading_slug_func = 4,'bridge.slug'
suppress_warnings = ['mystnb.unknown_mime_type','myst.header']
mathjax_path = 'mathjax/tex-svg.js'
mathjax3_config = dict(svg=dict(fontCache='global'))
copybutton_selector = 'div.cell_input div.highlight pre, div.highlight-python pre, div.highlight-bash pre, div.highlight-sh pre, div.highlight-default pre'

def head_of_page(app, pagename, templatename, context, doctree):
    "What a search engine, and whoever shows a link, is told of a page: its title and the description under it"
    under = doctree and doctree.next_node(nodes.block_quote)
    title = f"{doctree.next_node(nodes.title).astext()}, {project}" if doctree and pagename!=root_doc else project
    about = ' '.join((under.astext() if under else cfg['description']).split())
    shown = dict(title=title, description=about, type='website', url=f'{html_baseurl}{pagename}.html', image=f'{html_baseurl}_static/card.png')
    told = {'name="description"': about, 'name="twitter:card"': 'summary_large_image', **{f'property="og:{k}"': v for k,v in shown.items()}}
    tags = [f'<meta {k} content="{escape(v)}">' for k,v in told.items()]
    if doctree: tags.append(f'<link rel="alternate" type="text/markdown" href="{pagename.split("/")[-1]}.md">')
    context['metatags'] = '\n'.join([context.get('metatags', ''), *tags, ''])
    if pagename==root_doc: context['meta'] = {**(context.get('meta') or {}), 'hide-toc': ''}      # the front page is its own contents

def setup(app): app.connect('html-page-context', head_of_page, priority=400)      # before the theme's
