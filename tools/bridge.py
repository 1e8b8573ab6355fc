"Turn the notebooks that nbdev has processed, which speak Quarto's Markdown, into plain ones for Sphinx (MyST) or for a README."
import os,posixpath,re,sys
from importlib.metadata import EntryPoint
from pathlib import Path
import nbformat,yaml
from nbformat.v4 import new_markdown_cell
from nbdev import doclinks
from nbdev.config import get_config

cfg = get_config()
root,nbs_path = cfg.config_path.resolve(),cfg.nbs_path.resolve()
base = f"{cfg.doc_host.rstrip('/')}/{cfg.doc_baseurl.strip('/')}/"
order = ['tutorials','explanations','experiments','api']

def link_names():
    "Let nbdev link the names of this package, and of no other, whether it is installed or not"
    sys.path.insert(0, str(root))
    doclinks.entry_points = lambda group: [EntryPoint(cfg.lib_name, f'{cfg.lib_path.name}._modidx:d', group)]

def sidebar():
    "The sections of the site and the notebooks in each, as Quarto reads them"
    nbs = sorted(p.resolve().relative_to(nbs_path) for p in doclinks.nbglob(as_path=True))
    dirs = sorted({p.parent.as_posix() for p in nbs}-{'.'}, key=lambda d: (order.index(d) if d in order else len(order), d))
    top = [str(p) for p in nbs if len(p.parts)==1 and p.name!='index.ipynb']
    secs = [dict(section='API' if d=='api' else d.title(), contents=[str(p) for p in nbs if p.parent.as_posix()==d]) for d in dirs]
    return dict(website=dict(sidebar=dict(contents=[dict(text='Home', href='index.ipynb'), *top, *secs])))

def write_sidebar(): (nbs_path/'sidebar.yml').write_text(yaml.dump(sidebar(), sort_keys=False))

def frontmatter(nb):
    "Take the front matter that nbdev wrote out of `nb`"
    for c in nb.cells[:2]:
        if c.cell_type!='code' and (m:=re.match(r'---\n(.*?)\n---\s*$', c.source.strip(), re.S)):
            nb.cells.remove(c)
            return yaml.safe_load(m[1]) or {}
    return {}

def directives(src):
    "Quarto's options at the head of a cell, and the code under them"
    d,lines = {},src.split('\n')
    while lines and (m:=re.match(r'\s*#\|\s*([\w-]+)\s*:?\s*(.*?)\s*$', lines[0])):
        d[m[1]] = m[2].strip('"\'')
        lines.pop(0)
    return d,'\n'.join(lines).strip('\n')

def slug(s):
    "The anchor of a heading, as Quarto makes it"
    return re.sub(r'^[^a-z]+', '', re.sub(r'[^\w.\- ]', '', s.lower()).strip().replace(' ', '-'))

def outside_code(md):
    "The lines of `md`, each with whether it lies outside a fenced block of code"
    fence = None
    for l in md.split('\n'):
        m = re.match(r'\s*(```+|~~~+)', l)
        yield l, not (m or fence)
        if m and not fence: fence = m[1]
        elif m and m[1].startswith(fence) and l.strip()==m[1]: fence = None

def anchors(nb):
    "The anchors of the headings of `nb`"
    lines = [l for c in nb.cells if c.cell_type=='markdown' for l,out in outside_code(c.source) if out]
    heads = [m[1] for l in lines if (m:=re.match(r'#+\s+(.+?)\s*(?:\{.*\})?$', l))]
    return {slug(re.sub(r'\]\([^)]*\)', '', h)) for h in heads}

kinds = dict(note='info', tip='success', warning='warning', important='danger', caution='warning')

def myst(kind, title, fold, body, depth):
    "A callout as a MyST admonition, or as a drop-down where it folds"
    fence = ':'*(8-depth)
    if fold: return f"{fence}{{dropdown}} {title or kind.title()}\n:color: {kinds[kind]}\n:class-container: callout-{kind}\n\n{body}\n{fence}"
    return f"{fence}{{admonition}} {title}\n:class: {kind}\n\n{body}\n{fence}" if title else f"{fence}{{{kind}}}\n{body}\n{fence}"

def github(kind, title, fold, body, depth):
    "A callout as GitHub shows one in a README"
    if fold: return f"<details>\n<summary>{title or kind.title()}</summary>\n\n{body}\n\n</details>"
    return '\n'.join('> '+l if l else '>' for l in [f'[!{kind.upper()}]', *([f'**{title}**',''] if title else []), *body.split('\n')])

def divs(md, render=myst):
    "Quarto's fenced divs: callouts through `render`, any other one as its content"
    stack = [['', []]]
    def close():
        attrs,body = stack.pop()
        kind = re.search(r'callout-(\w+)', attrs)
        body = '\n'.join(body).strip('\n')
        if kind:
            get = lambda k: (re.search(rf'{k}\s*=\s*"?([^"}}]*)"?', attrs) or ['',''])[1].strip()
            title = get('title')
            if not title and (m:=re.match(r'#+\s+(.*)\n*', body)): title,body = m[1],body[m.end():]
            body = render(kind[1], title, get('collapse') in ('true','false'), body, len(stack))
        stack[-1][1] += ['', body, '']
    for l,out in outside_code(md):
        if out and (m:=re.match(r':{3,}\s*(\{.*\}|[\w-]+)\s*$', l)): stack.append([m[1],[]])
        elif out and re.match(r':{3,}\s*$', l) and len(stack)>1: close()
        else: stack[-1][1].append(l)
    while len(stack)>1: close()
    return '\n'.join(stack[0][1]).strip('\n')

def maths(md):
    "Displayed maths with several rows or a number of its own, as an environment that Sphinx leaves as it is"
    def f(m):
        body,label = m[1].strip(),m[2]
        if re.match(r'\\begin\{(align|gather|equation|multline)', body): return f'\n{body}\n'
        if r'\tag' in body or r'\\' in body and not label: return '\n\\begin{equation*}\n'+re.sub(r'\n\s*\n', '\n', body)+'\n\\end{equation*}\n'
        return f'$$\n{body}\n$$'+(f' ({label})' if label else '')
    md = re.sub(r'^\$\$(.+?)\$\$(?:[ \t]*\{#([\w-]+)\})?[ \t]*$', f, md, flags=re.S|re.M)
    return re.sub(r'(?<![\w`])@(eq-[\w-]+)', r'{eq}`\1`', md)

def showdoc(md):
    "What `show_doc` says: its heading before the link to the source, and no attributes of pandoc's"
    m = re.match(r'---\s*\n+\[source\]\(([^)]*)\)\{[^}]*\}\s*\n+(#+ [^\n]*)\n', md)
    if m: md = '\n\n'.join([m[2].replace('_', r'\_'), f'[source]({m[1]}){{.source}}', md[m.end():]])
    return re.sub(r'(\]\([^)]*\))\{(?:target|style)[^}]*\}', r'\1', md)

def code_cell(c, tfm):
    "The cells that show the processed code cell `c`: directives obeyed, Markdown outputs as Markdown where they are to be read as is"
    d,c.source = directives(c.source)
    if d.get('include')=='false' or not c.source: return []
    asis = [''.join(o.get('text') or o.get('data',{}).get('text/markdown','')) for o in c.outputs] if d.get('output')=='asis' else []
    if c.source.startswith('show_doc('): asis = [showdoc(o) for o in asis]
    if d.get('output') in ('false','asis'): c.outputs = []
    if d.get('warning')=='false': c.outputs = [o for o in c.outputs if o.get('name')!='stderr']
    for o in c.outputs:
        if o.output_type=='execute_result': o.execution_count = None
        if 'text/markdown' in o.get('data',{}): o.data['text/markdown'] = tfm(o.data['text/markdown'])
    meta = {}
    if alt:=d.get('fig-alt') or d.get('fig-cap'): meta['image'] = dict(alt=alt)
    if cap:=d.get('fig-cap'): meta['figure'] = dict(caption=cap)
    if d.get('code-summary'): meta['code_prompt_show'] = meta['code_prompt_hide'] = d['code-summary']
    tags = ['remove-input']*(d.get('echo')=='false') + ['hide-input']*(d.get('code-fold') in ('true','hide'))
    c.metadata,c.execution_count = dict(tags=tags, **(dict(mystnb=meta) if meta else {})),None
    return [c]*(d.get('echo')!='false' or bool(c.outputs)) + [new_markdown_cell(tfm(o)) for o in asis if o.strip()]

def plain(nb, tfm):
    "Make the processed `nb` a plain notebook: `tfm` is what happens to each piece of Markdown"
    fm,cells = frontmatter(nb),[]
    for c in nb.cells:
        c.pop('has_sd', None)
        if c.cell_type=='code': cells += code_cell(c, tfm)
        elif c.cell_type=='markdown' and 'AUTOGENERATED' not in c.source: cells.append(new_markdown_cell(tfm(c.source)))
    nb.cells,nb.metadata = cells,dict(language_info=dict(name='python', pygments_lexer='ipython3'))
    return fm

def relink(md, rel, resolve):
    "Rewrite the links of `md`, found in the notebook `rel`: `resolve` gets a path under `nbs` or out of it, and the anchor"
    def f(m):
        url,hash = m[2],m[3] or ''
        if url.startswith(base): return m[1]+resolve(url[len(base):], hash)
        if re.match(r'\w+:|/', url) or not url: return m[0]
        return m[1]+resolve(posixpath.normpath(posixpath.join(rel.parent.as_posix(), url)), hash)
    return re.sub(r'(\]\()([^)#\s]*)(#[^)\s]*)?(?=[)\s])', f, md)
