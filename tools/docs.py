"""Build the documentation in _site/ without Quarto and without a network: open _site/index.html in a browser.
nbdev processes the notebooks (links, `show_doc`), `bridge.py` turns them into plain ones, Sphinx makes the pages.
usage: python tools/docs.py [--sidebar]      (--sidebar: only bring nbs/sidebar.yml and nbs/nbdev.yml up to date)"""
import os,posixpath,re,shutil,subprocess,sys,tarfile
os.environ.setdefault('OMP_NUM_THREADS', '1')
import nbformat
from nbformat.v4 import new_markdown_cell
from nbdev.doclinks import _build_modidx,_nbpath2html
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
from bridge import anchors,cfg,divs,link_names,maths,nbs_path,no_attrs,own_ids,plain,relink,root,sidebar,write_sidebar

cache,site = root/'.cache',root/'_site'

def mathjax(version='3.2.2'):
    "The one file that sets the maths, fetched from npm the first time"
    js = cache/'static'/'mathjax'/'tex-svg.js'
    if js.exists(): return
    if not shutil.which('npm'): sys.exit(f'npm is needed, once, to fetch MathJax (or put es5/tex-svg.js of mathjax {version} at {js.relative_to(root)}).')
    js.parent.mkdir(parents=True, exist_ok=True)
    tgz = subprocess.run(['npm','pack','--silent',f'mathjax@{version}'], cwd=cache, check=True, capture_output=True, text=True).stdout.split()[-1]
    with tarfile.open(cache/tgz) as t: js.write_bytes(t.extractfile('package/es5/tex-svg.js').read())
    (cache/tgz).unlink()

def header(fm, rel):
    "Title, description and, but on the front page, the ways to open the notebook"
    res = f"# {fm.get('title', rel.stem)}"
    if fm.get('description'): res += f"\n\n> {fm['description']}"
    path = f'{cfg.user}/{cfg.repo}/blob/{cfg.branch}/{nbs_path.name}/{rel.as_posix()}'
    links = f'{{.nblinks}}\n[Open in Colab](https://colab.research.google.com/github/{path}) · [Notebook on GitHub](https://github.com/{path})'
    return new_markdown_cell(res if rel.name=='index.ipynb' else f'{res}\n\n{links}')

def toctree(new):
    "The table of contents, by the sections of nbs/sidebar.yml"
    def tree(docs, caption): return '\n'.join(['```{toctree}', ':hidden:', caption, '', *docs, '```'])
    def doc(o): return new[o].removesuffix('.ipynb')
    items = sidebar()['website']['sidebar']['contents']
    top = ['Home <self>', *(doc(o) for o in items if isinstance(o, str))]
    secs = [tree(map(doc, o['contents']), f":caption: {o['section']}") for o in items if 'section' in o]
    return new_markdown_cell('\n\n'.join([tree(top, ''), *secs]))

def source(proc, dest):
    "Write the plain notebooks, and the files beside them, from `proc` to `dest`"
    shutil.rmtree(dest, ignore_errors=True)
    nbs = {p.relative_to(proc): nbformat.read(p, 4) for p in sorted(proc.rglob('*.ipynb'))}
    new = {r.as_posix(): _nbpath2html(r).with_suffix('.ipynb').as_posix() for r in nbs}
    if len(set(new.values()))<len(new): sys.exit(f'Two notebooks make the same page: {sorted(new.values())}')
    heads,ids,images = {},{},{}
    for r,nb in nbs.items():
        page = new[r.as_posix()]
        ids[page] = {k:v for c in nb.cells if c.cell_type=='markdown' for k,v in own_ids(c.source).items()}
        fm = plain(nb, lambda md: maths(divs(no_attrs(md)), page.removesuffix('.ipynb').replace('/', '-')), images)
        nb.cells.insert(0, header(fm, r))
        if r.as_posix()=='index.ipynb': nb.cells.append(toctree(new))
        heads[page] = anchors(nb)
    for r,nb in nbs.items():
        def resolve(path, anchor):
            page = new.get(path) or re.sub(r'\.html$', '.ipynb', path)
            if page not in heads:
                file = posixpath.normpath(f'{nbs_path.name}/{path}')
                outside = path.startswith('../') and (root/file).exists()
                return f'{cfg.git_url}/blob/{cfg.branch}/{file}' if outside else posixpath.relpath(path, r.parent.as_posix())+anchor
            a = ids[page].get(anchor[1:], anchor[1:])
            if path.endswith('.html') and a not in heads[page]: a = a.split('.')[0]    # a method without an entry of its own: its class
            if path.endswith('.html') and a not in heads[page]: a = ''
            return ('' if page==new[r.as_posix()] and a else posixpath.relpath(page, r.parent.as_posix())) + (f'#{a}' if a else '')
        for c in nb.cells:
            if c.cell_type=='markdown': c.source = relink(c.source, r, resolve)
            for o in c.get('outputs', []):
                if 'text/markdown' in o.get('data',{}): o.data['text/markdown'] = relink(o.data['text/markdown'], r, resolve)
        p = dest/new[r.as_posix()]
        p.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, p)
    (dest/'_images').mkdir()
    for name,png in images.items(): (dest/'_images'/name).write_bytes(png)
    for p in proc.rglob('*'):
        if p.suffix in ('.png','.jpg','.gif','.svg','.webp'):
            (dest/p.relative_to(proc)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(p, dest/p.relative_to(proc))

def main(args):
    refresh_quarto_yml()
    write_sidebar()
    if '--sidebar' in args: return
    _build_modidx()
    link_names()
    mathjax()
    try: proc = proc_nbs(n_workers=0, force=True)
    except Exception as e:
        why = 'The documentation of a notebook that exports runs what it exports and every cell with an import: keep imports in cells of their own.'
        sys.exit(f'{e}\n{type(e.__cause__).__name__}: {e.__cause__}\n\n{why}')
    source(proc, cache/'docs')
    html = cache/'html'
    shutil.rmtree(html, ignore_errors=True)
    cmd = [sys.executable,'-m','sphinx','-q','-W','--keep-going','-E','-b','html','-c','docs','-d',cache/'doctrees',cache/'docs',html]
    if res:=subprocess.run(cmd, cwd=root).returncode: sys.exit(res)
    shutil.rmtree(site, ignore_errors=True)
    html.rename(site)
    print(f'{len(list(site.rglob("*.html")))} pages: open {site.relative_to(root)}/index.html')

if __name__=='__main__': main(sys.argv[1:])
