"The front page, the README made from it, and what the site says of itself"
import json,re,sys
from configparser import ConfigParser
from pathlib import Path
import pandas as pd,pytest,yaml
from nbdev import doclinks
from nbformat.v4 import new_markdown_cell, new_notebook

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools'))
import bridge,docs,printed

readme = (root/'README.md').read_text(encoding='utf-8')
def cells(page): return json.loads((root/'nbs'/page).read_text(encoding='utf-8'))['cells']

def html_outputs(page):
    "What a page shows as HTML"
    data = [o.get('data', {}) for c in cells(page) for o in c.get('outputs', [])]
    return [''.join(d['text/html']) for d in data if 'text/html' in d]

def links(md): return re.findall(r'\]\(([^)\s]+)\)', md)

def test_readme_is_right_away_from_the_repository():
    "PyPI knows no relative link; an anchor of the README itself is one too"
    assert len(links(readme))>50
    assert [l for l in links(readme) if not l.startswith('https://')]==[]

def test_readme_opens_with_picture_and_python():
    lines = readme.splitlines()
    picture = next(i for i,l in enumerate(lines, 1) if l.startswith('!['))
    python = next(i for i,l in enumerate(lines, 1) if l=='```python')
    assert picture<10 and python<=30

def test_pictures_of_the_readme_are_there():
    names = re.findall(r'!\[[^\]]+\]\(https://raw\.githubusercontent\.com/adaptprune/adaptprune/main/([^)]+)\)', readme)
    assert len(names)==readme.count('![')>=3
    assert [n for n in names if not (root/n).exists()]==[]

def test_every_page_is_linked_from_the_front():
    "Each notebook: tutorials, explanations and experiments by their titles, the rooms from the table"
    md = printed.markdown(root/'nbs'/'index.ipynb')
    linked = {l.split('#')[0] for l in links(md)}
    there = {p.relative_to(root/'nbs').as_posix() for p in printed.pages()}-{'index.ipynb'}
    assert there-linked==set()

def test_front_page_shows_the_figure_of_the_method():
    "The same picture, byte for byte: after a new run of that page this one is to run as well"
    def moons(page): return next(h for h in html_outputs(page) if 'id="forgetting"' in h)
    assert moons('index.ipynb')==moons('explanations/method.ipynb')

@pytest.mark.parametrize('page', printed.pages(), ids=lambda p: p.stem)
def test_figures_need_no_network(page):
    "What runs in a page comes with it, and is small enough for a phone"
    figures = [h for h in html_outputs(page) if '<figure' in h]
    assert sum(map(len, figures))<500_000
    assert not [h for h in figures if re.search(r'src="(?!data:)|href="(?![\w/.]+\.ipynb)|@import|fetch\(|<script src', h)]

good = """<html><head><meta name="description" content="What it is"><meta property="og:image" content="x.png">
<link rel="icon" href="icon.svg"></head>
<body><article><p>Words, <code>a[0](x)</code></p><pre>::: note</pre></article></body></html>"""

@pytest.mark.parametrize('was,now,says', [
    ('Words', 'Words', None), ('Words', '[words](page.md)', 'Markdown as text'), ('Words', '::: tip', 'Markdown as text'),
    ('content="What it is"', 'content=""', 'no description'), ('icon.svg', 'none.svg', 'no favicon'), ('og:image', 'og:x', 'no picture')])
def test_problems_of_a_page(tmp_path, was, now, says):
    (tmp_path/'icon.svg').write_text('<svg/>')
    found = list(docs.problems(good.replace(was, now), tmp_path))
    assert found==[] if says is None else len(found)==1 and found[0].startswith(says)

@pytest.mark.parametrize('to,lost', [('here.html', False), ('there.html', True)])
def test_a_page_that_moved_leads_somewhere(tmp_path, to, lost):
    (tmp_path/'here.html').write_text('')
    found = list(docs.problems(f'<html><head><noscript><meta http-equiv="refresh" content="0; url={to}" /></noscript></head></html>', tmp_path))
    assert [f.startswith('leads nowhere') for f in found]==[True]*lost

def test_a_module_begins_with_what_is_in_it():
    "Names that people start with first; each with a line, and a link to its place"
    def entry(name, said): return new_markdown_cell(f"### {name}\n\n[source](https://x/y){{.source}}\n\n```python\n{name}(a)\n```\n\n{said}\n\n| a |")
    nb = new_notebook(cells=[entry('a\\_part', 'One | two'), new_markdown_cell('### A heading'), entry('main', 'What it is')])
    assert bridge.contents(nb, ['main']).splitlines()[3:]==['| [`main`](#main) | What it is |', r'| [`a_part`](#a_part) | One \| two |']
    assert bridge.contents(new_notebook(cells=nb.cells[:1]))=='' and bridge.starting('task')==['adapt_task'] and 'adapt' in bridge.starting('cli')

def test_every_page_stands_in_one_section(monkeypatch):
    listed = [o for s in bridge.sidebar()['website']['sidebar']['contents'] for o in s.get('contents', ())]
    assert len(listed)==len(set(listed))>100
    monkeypatch.setattr(bridge.tomllib, 'loads', lambda text: {'Start': ['tutorials/ten_minutes', 'tutorials/gone']})
    with pytest.raises(SystemExit, match='every page once: api/anatomy.*tutorials/gone'): bridge.sidebar()

def test_a_page_without_its_files_stops_the_build(tmp_path):
    with pytest.raises(SystemExit, match='index.md is missing\nllms.txt is missing'): docs.check(tmp_path)

def test_colab_is_offered_where_a_page_installs_what_it_needs():
    def shown(page):
        nb = docs.nbformat.read(root/'nbs'/page, 4)
        return docs.header(dict(title='A'), Path(page), docs.installs(nb)).source
    assert 'colab.research' in shown('tutorials/ten_minutes.ipynb') and 'colab.research' not in shown('api/01_mask.ipynb')
    assert 'blob/main/nbs/api/01_mask.ipynb' in shown('api/01_mask.ipynb')

def test_names_link_to_functions_and_never_within_a_link(monkeypatch):
    for name in ('entry_points', '_re_backticks'): monkeypatch.setattr(doclinks, name, getattr(doclinks, name))
    bridge.link_names()
    look = doclinks.NbdevLookup()
    assert look.doc('adapt').endswith('/api/loop.html#adapt') and look.doc('compress').endswith('/api/compression.html#compress')
    assert look.link_line('`adapt` and [one](x)').startswith('[`adapt`](http')
    for said in ('[`adapt`](x.ipynb)', '[the loop of `adapt`](x.ipynb)', '`no_such_name`'): assert look.link_line(said)==said

def test_links_of_a_figure_lead_to_pages():
    "Those to notebooks, by where they are; what else a page links to stays"
    seen = []
    def resolve(path, anchor):
        seen.append((path, anchor))
        return 'other.ipynb#b'
    html = '<a href="b.ipynb#a">x</a><a href="../tutorials/c.ipynb">y</a><a href="https://x.org/d.ipynb">z</a><a href="#e">e</a>'
    now = docs.relink_html(html, Path('experiments/a.ipynb'), resolve)
    assert seen==[('experiments/b.ipynb', '#a'), ('tutorials/c.ipynb', '')]
    assert now=='<a href="other.html#b">x</a><a href="other.html#b">y</a><a href="https://x.org/d.ipynb">z</a><a href="#e">e</a>'

def test_citation():
    cfg = ConfigParser()
    cfg.read(root/'settings.ini')
    cite = yaml.safe_load((root/'CITATION.cff').read_text())
    assert cite['version']==cfg['DEFAULT']['version'] and cite['license']=='Apache-2.0'
    assert cite['repository-code']==cfg['DEFAULT']['git_url'] and '2105.03343' in cite['references'][0]['url']

def test_targets_that_are_named_for_programs_are_there():
    said = (root/'AGENTS.md').read_text(encoding='utf-8')
    targets = set(re.findall(r'^([a-z]+):', (root/'Makefile').read_text(), re.M))
    named = set(re.findall(r'`make ([a-z]+)', said))
    assert named and named<=targets

# What the site makes of docstrings and tables

def test_parameters_keep_their_defaults_whole():
    "A comma within brackets or quotes parts nothing"
    sig = "def f(\n    a, b:int=1, # first\n    c:S=S(x='all', y=(1, 2)), # settings, of all\n    **kwargs\n)->dict: # what comes back"
    assert bridge.params(sig)==[('a', None, None, None), ('b', 'int', '1', 'first'), ('c', 'S', "S(x='all', y=(1, 2))", 'settings, of all'),
        ('**kwargs', None, None, None), ('', 'dict', None, 'what comes back')]

@pytest.mark.parametrize('path, begins, said', [
    ('prune.py', 'def tune(', ('for `adapt`', None)), ('prune.py', 'def prune_at_random(', (None, None)),   # the next function says more
    ('demo.py', 'def run_demo(', ('for `demo_stages`', 'task, rows, plot and seconds')), ('private.py', 'class PrivateMasks(', (None, None))])
def test_what_is_said_of_further_arguments_stands_beside_them(path, begins, said):
    lines = (root/'adaptprune'/path).read_text(encoding='utf-8').splitlines()
    line = next(i for i,l in enumerate(lines, 1) if l.startswith(begins))
    assert bridge.said_in_source(f'https://github.com/a/b/blob/main/adaptprune/{path}#L{line}')==said

@pytest.mark.parametrize('names, columns', [
    (['task'], None), (['task', 'recipe'], None), ([None], None), (['task'], 'labels'), (['task', 'recipe'], 'labels')])
def test_a_table_has_one_row_of_headers(names, columns):
    "Names of the index move up, and share a cell with the name of the columns"
    index = pd.MultiIndex.from_product([['a', 'b']]*len(names), names=names) if len(names)>1 else pd.Index(['a', 'b'], name=names[0])
    table = pd.DataFrame({'x': range(len(index)), 'y': 1.}, index=index).rename_axis(columns=columns)
    html = bridge.one_header(table.to_html())
    head = html[:html.index('</thead>')]
    *others,last = names
    shown = [*others, f'{last} / {columns}' if columns else last, 'x', 'y']
    assert head.count('<tr')==1 and all(f'>{n}</th>' in head for n in filter(None, shown))
    assert html.count('<td')==table.to_html().count('<td')
