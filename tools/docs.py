"""Build the documentation in _site/ without Quarto and without a network: open _site/index.html in a browser.
nbdev processes the notebooks (links, `show_doc`), `bridge.py` turns them into plain ones, Sphinx makes the pages.
usage: python tools/docs.py [--sidebar]      (--sidebar: only bring nbs/sidebar.yml and nbs/nbdev.yml up to date)"""
import gc,io,os,posixpath,re,shutil,subprocess,sys,tarfile
os.environ.setdefault('OMP_NUM_THREADS', '1')
from base64 import b64decode
from html import escape,unescape
from pathlib import Path
from textwrap import wrap
from urllib.parse import quote
import nbformat
from bs4 import BeautifulSoup
from nbformat.v4 import new_markdown_cell
from nbdev.doclinks import _build_modidx,_nbpath2html
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
from PIL import Image,ImageDraw,ImageFont
from bridge import anchors,base,cfg,contents,divs,github,link_names,maths,nbs_path,no_attrs,own_ids,page_of,plain,relink,root,sidebar,starting,write_sidebar
from pages import installs
from readme import as_markdown

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

def titled(fm, rel):
    "The title of a page; that of a module is its full name"
    return fm.get('title', rel.stem) if rel.parts[0]!='api' else page_of(rel).replace('api/', f'{cfg.lib_name}.')

def header(fm, rel, colab):
    "Title, description and, but on the front page, the ways to open the notebook: in Colab if it installs what it needs"
    title = titled(fm, rel)
    res = f"# {title}"
    if fm.get('description'): res += f"\n\n> {fm['description']}"
    path = f'{cfg.user}/{cfg.repo}/blob/{cfg.branch}/{nbs_path.name}/{rel.as_posix()}'
    wrong = f'[Report a problem]({cfg.git_url}/issues/new?title={quote(title+": ")})'
    ways = [f'[Open in Colab](https://colab.research.google.com/github/{path})']*colab + [f'[Notebook on GitHub](https://github.com/{path})', wrong]
    links = '{.nblinks}\n'+' · '.join(ways)
    return new_markdown_cell(res if rel.name=='index.ipynb' else f'{res}\n\n{links}')

def toctree(new):
    "The table of contents, by the sections of nbs/sidebar.yml"
    def tree(docs, caption): return '\n'.join(['```{toctree}', ':hidden:', caption, '', *docs, '```'])
    def doc(o):
        page = new[o].removesuffix('.ipynb')
        return f'{page.split("/")[1]} <{page}>' if page.startswith('api/') else page
    items = sidebar()['website']['sidebar']['contents']
    top = ['Home <self>', f'GitHub <{cfg.git_url}>']
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
        colab = installs(nb)
        ids[page] = {k:v for c in nb.cells if c.cell_type=='markdown' for k,v in own_ids(c.source).items()}
        fm = plain(nb, lambda md: maths(divs(no_attrs(md)), page.removesuffix('.ipynb').replace('/', '-')), images)
        here = contents(nb, starting(page_of(r).split('/')[1])) if r.parts[0]=='api' else ''
        if here: nb.cells.insert(0, new_markdown_cell(here))
        nb.cells.insert(0, header(fm, r, colab))
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
                if 'text/html' in o.get('data',{}): o.data['text/html'] = relink_html(o.data['text/html'], r, resolve)
        p = dest/new[r.as_posix()]
        p.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, p)
    (dest/'_images').mkdir()
    for name,png in images.items(): (dest/'_images'/name).write_bytes(png)
    for p in proc.rglob('*'):
        if p.suffix in ('.png','.jpg','.gif','.svg','.webp'):
            (dest/p.relative_to(proc)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(p, dest/p.relative_to(proc))

def relink_html(html, rel, resolve):
    "Point what links to notebooks in an HTML output of the notebook `rel`, such as a figure, to their pages"
    def f(m):
        to = resolve(posixpath.normpath(posixpath.join(rel.parent.as_posix(), m[1])), m[2] or '')
        return f'href="{to.replace(".ipynb", ".html")}"'
    return re.sub(r'href="([^":#]+\.ipynb)(#[^"]*)?"', f, html)

def twins(proc):
    "Each page as Markdown, for readers that are programs: a dict from its path on the site to title, description and text"
    res = {}
    nbs = [p.relative_to(proc) for p in sorted(proc.rglob('*.ipynb'))]
    names = {p.as_posix(): _nbpath2html(p).with_suffix('.md').as_posix() for p in nbs}
    for name,page in names.items():
        def resolve(path, anchor):
            to = names.get(path) or re.sub(r'\.html$', '.md', path)
            if to in names.values(): return posixpath.relpath(to, posixpath.dirname(page) or '.')+anchor
            file = posixpath.normpath(f'{nbs_path.name}/{path}')
            return f'{cfg.git_url}/blob/{cfg.branch}/{file}'
        nb = nbformat.read(proc/name, 4)
        fm = plain(nb, lambda md: relink(divs(no_attrs(md), github), Path(name), resolve))
        md,_ = as_markdown(nb, lambda alt, name: f'*Figure: {alt}*')
        title = titled(fm, Path(name))
        res[page] = title, fm['description'], f"# {title}\n\n> {fm['description']}\n\n{md}"
    return res

def llms(pages):
    "llms.txt: what the project is, and its pages by section"
    lines = [f'# {cfg.title}', '', f'> {pages["index.md"][1]}', '', f'- [Home]({base}index.md)', f'- [Repository]({cfg.git_url})']
    for o in sidebar()['website']['sidebar']['contents']:
        if 'section' not in o: continue
        lines += ['', f"## {o['section']}", '']
        names = [_nbpath2html(Path(p)).with_suffix('.md').as_posix() for p in o['contents']]
        lines += [f'- [{pages[n][0]}]({base}{n}): {pages[n][1]}' for n in names]
    return '\n'.join(lines)+'\n'

def sitemap(pages):
    urls = [f'<url><loc>{escape(base+re.sub(".md$", ".html", p))}</loc></url>' for p in pages]
    start = ['<?xml version="1.0" encoding="UTF-8"?>', '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">']
    return '\n'.join([*start, *urls, '</urlset>'])+'\n'

def card(proc):
    "The picture that a link to the site shows: the first of the front page, with title and description"
    outs = [o for c in nbformat.read(proc/'index.ipynb', 4).cells for o in c.get('outputs', [])]
    png = next(o.data['image/png'] for o in outs if 'image/png' in o.get('data', {}))
    picture = Image.open(io.BytesIO(b64decode(png))).convert('RGB')
    picture = picture.resize((1120, 1120*picture.height//picture.width))
    im = Image.new('RGB', (1200, 630), 'white')
    im.paste(picture, (40, 590-picture.height))
    draw = ImageDraw.Draw(im)
    draw.text((48, 40), cfg.title, '#0b6e6e', font=ImageFont.load_default(96))
    draw.text((50, 170), '\n'.join(wrap(cfg.description, 54, break_on_hyphens=False)), '#333333', font=ImageFont.load_default(40), spacing=12)
    im.save(cache/'static'/'card.png', optimize=True)

no_prose = re.compile(r'<(pre|script|style|code|figure)\b.*?</\1>|<(span|div) class="math\b.*?</\2>', re.S)

def problems(html, folder):
    "What is wrong with a page: Markdown that was not rendered, and what its head lacks or names in vain"
    head,_,body = html.partition('</head>')
    page = BeautifulSoup(head, 'html.parser')
    if on:=page.find('meta', attrs={'http-equiv': 'refresh'}):       # a page that has moved
        if not (folder/on['content'].split('url=')[1]).exists(): yield f"leads nowhere: {on['content']}"
        return
    def content(**attrs): return next((m.get('content') for m in page.find_all('meta', attrs=attrs)), None)
    if not content(name='description'): yield 'no description'
    if not content(property='og:image'): yield 'no picture for links to it'
    icon = page.find('link', rel='icon')
    if not icon or not (folder/icon['href'].split('?')[0]).exists(): yield 'no favicon'
    own = re.search('<article.*</article>', body, re.S)             # the sidebar is on every page
    text = unescape(re.sub('<[^>]*>', '', no_prose.sub('', own[0] if own else body)))
    for raw in ('](', ':::'):
        if raw in text: yield f'Markdown as text: {text[max(0, text.index(raw)-40):][:80]!r}'

def check(html):
    "Stop if a page has a problem, or a file that others look for is not there"
    found = []
    for p in sorted(html.rglob('*.html')):
        if '_static' in p.parts: continue
        found += [f'{p.relative_to(html)}: {o}' for o in problems(p.read_text(encoding='utf-8'), p.parent)]
    names = 'index.md','llms.txt','sitemap.xml','_static/card.png'
    found += [f'{name} is missing' for name in names if not (html/name).exists()]
    if (html/'genindex.html').exists(): found.append('genindex.html is an empty page')
    if found: sys.exit('\n'.join(found))

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
    gc.freeze()                 # the shell of each notebook collects all garbage when Python ends, which took half a minute
    source(proc, cache/'docs')
    card(proc)
    html = cache/'html'
    shutil.rmtree(html, ignore_errors=True)
    cmd = [sys.executable,'-m','sphinx','-q','-W','--keep-going','-E','-j','auto','-b','html','-c','docs','-d',cache/'doctrees',cache/'docs',html]
    with subprocess.Popen(cmd, cwd=root) as sphinx: pages = twins(proc)
    if sphinx.returncode: sys.exit(sphinx.returncode)
    for name,(_,_,md) in pages.items(): (html/name).write_text(md, encoding='utf-8')
    (html/'llms.txt').write_text(llms(pages), encoding='utf-8')
    (html/'sitemap.xml').write_text(sitemap(pages), encoding='utf-8')
    if (cache/'try').exists(): shutil.copytree(cache/'try', html/'try')
    check(html)
    shutil.rmtree(site, ignore_errors=True)
    html.rename(site)
    print(f'{len(list(site.rglob("*.html")))} pages: open {site.relative_to(root)}/index.html')

if __name__=='__main__': main(sys.argv[1:])
