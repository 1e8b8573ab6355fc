"""Make README.md from the front page, nbs/index.ipynb, as `nbdev_readme` does where Quarto is installed.
usage: python tools/readme.py [--check]      (--check: only say whether README.md is in step)"""
import posixpath,re,shutil,sys
from functools import cache
from pathlib import Path
import nbformat
from execnb.nbio import read_nb,nb2str
from nbconvert import MarkdownExporter
from nbdev.doclinks import nbglob,_nbpath2html
from nbdev.processors import FilterDefaults
from traitlets.config import Config
from bridge import base,cfg,divs,github,link_names,nbs_path,no_attrs,plain,relink,root

figs = 'docs/readme'    # the figures of the front page

@cache
def exporter():
    "One for all pages: making one compiles its templates"
    return MarkdownExporter(config=Config(TagRemovePreprocessor=dict(enabled=True, remove_input_tags={'remove-input'})))

def as_markdown(nb, show):
    "A plain notebook as Markdown, and its pictures by name; `show` makes Markdown of a picture's alternative text and name"
    outs = [(c,o) for c in nb.cells if c.cell_type=='code' for o in c.outputs]
    for c,o in outs:
        if 'text/plain' in o.get('data',{}): o.data.pop('text/html', None)
    alts = iter([c.metadata.get('mystnb',{}).get('image',{}).get('alt','') for c,o in outs if 'image/png' in o.get('data',{})])
    md,res = exporter().from_notebook_node(nb, dict(output_files_dir=figs))
    md = re.sub(r'!\[png\]\(([^)]*)\)', lambda m: show(next(alts), m[1]), md)
    return re.sub(r'\n{3,}', '\n\n', re.sub(r'[ \t]+$', '', md, flags=re.M)).strip()+'\n', res['outputs']

def readme():
    "README.md and its figures: a dict from path to content"
    link_names()
    nb = read_nb(nbs_path/'index.ipynb')
    FilterDefaults()(nb)
    nb = nbformat.reads(nb2str(nb), 4)
    pages = {p.as_posix(): _nbpath2html(p).as_posix() for p in (o.resolve().relative_to(nbs_path) for o in nbglob(as_path=True))}
    def resolve(path, anchor):
        "Pages are on the site, and all else in the repository: a README is read on PyPI as well"
        if path=='index.ipynb' and anchor: return anchor
        if path in pages or path in pages.values(): return f'{base}{pages.get(path, path)}{anchor}'
        return f"{cfg.git_url}/blob/{cfg.branch}/{posixpath.normpath(f'{nbs_path.name}/{path}')}"
    fm = plain(nb, lambda md: relink(divs(no_attrs(md), github), Path('index.ipynb'), resolve))
    raw = f'https://raw.githubusercontent.com/{cfg.user}/{cfg.repo}/{cfg.branch}'
    md,pictures = as_markdown(nb, lambda alt, name: f'![{alt}]({raw}/{name})')
    md = f"# {fm['title']}\n\n> {fm['description']}\n\n{md}"
    return {'README.md': f'<!-- Made from {nbs_path.name}/index.ipynb by `make readme`: edit that notebook. -->\n\n{md}'.encode(), **pictures}

def main(check):
    new = readme()
    old = {p.relative_to(root).as_posix(): p.read_bytes() for p in [root/'README.md', *(root/figs).glob('*')] if p.exists()}
    if old==new: return print('README.md in step with the front page')
    if check: sys.exit(f'README.md is out of step with {nbs_path.name}/index.ipynb. Run `make readme`.')
    shutil.rmtree(root/figs, ignore_errors=True)
    for name,data in new.items():
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        (root/name).write_bytes(data)
    print('wrote', *new)

if __name__=='__main__': main('--check' in sys.argv)
