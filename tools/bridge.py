"Turn the notebooks that nbdev has processed, which speak Quarto's Markdown, into plain ones for Sphinx (MyST) or for a README."
import ast,posixpath,re,sys,tomllib
from base64 import b64decode
from functools import cache
from hashlib import sha1
from importlib import import_module
from importlib.metadata import EntryPoint
from itertools import chain
import yaml
from bs4 import BeautifulSoup
from nbformat.v4 import new_markdown_cell
from nbdev import doclinks
from nbdev.config import get_config
from adaptprune.exercises import blank

cfg = get_config()
root,nbs_path = cfg.config_path.resolve(),cfg.nbs_path.resolve()
base = f"{cfg.doc_host.rstrip('/')}/{cfg.doc_baseurl.strip('/')}/"

words = dict(claims=['recovery'], cli=['apply', 'info'], sparsity=['constant'], timing=['versions'], topology=['magnitude'])

def link_names():
    "Let nbdev link the names of this package, and of no other, whether it is installed or not"
    sys.path.insert(0, str(root))
    syms = import_module(f'{cfg.lib_path.name}._modidx').d['syms']
    for room in ('demo', 'cli'):                # the first room that has a name wins, and `adapt` is a function before it is a command
        name = f'{cfg.lib_name}.{room}'
        syms[name] = syms.pop(name)
    for room,some in words.items():             # words that mean other things on pages
        for word in some: syms[f'{cfg.lib_name}.{room}'].pop(f'{cfg.lib_name}.{room}.{word}', None)
    doclinks._re_backticks = re.compile(r'`([^`\s]+?)(?:\(\))?`(?![^\[\]]*\]\()')      # no link within a link
    doclinks.entry_points = lambda group: [EntryPoint(cfg.lib_name, f'{cfg.lib_path.name}._modidx:d', group)]

def page_of(nb):
    "The name of the page that a notebook makes, without its number: api/mask of api/01_mask.ipynb"
    return doclinks._nbpath2html(nb).with_suffix('').as_posix()

def sidebar():
    "The sections of the site and the notebooks in each, as Quarto reads them"
    nbs = {page_of(p): p.as_posix() for p in (o.resolve().relative_to(nbs_path) for o in doclinks.nbglob(as_path=True))}
    sections = tomllib.loads((root/'tools'/'sections.toml').read_text(encoding='utf-8'))
    listed = ['index', *chain(*sections.values())]
    wrong = sorted(set(nbs)^set(listed))+sorted({o for o in listed if listed.count(o)>1})
    if wrong: sys.exit(f'tools/sections.toml has to name every page once: {", ".join(wrong)}')
    secs = [dict(section=name, contents=[nbs[o] for o in some]) for name,some in sections.items()]
    return dict(website=dict(sidebar=dict(contents=[dict(text='Home', href='index.ipynb'), *secs])))

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

def div_lines(md):
    "The lines of `md`, each with the attributes of the div it opens, and whether it closes one"
    for l,out in outside_code(md):
        m = out and re.match(r':{3,}\s*(\{.*\}|[\w-]+)?\s*$', l)
        yield l, m[1] if m else None, bool(m and not m[1])

attr_re = re.compile(r'^(#+ +(.*?))[ \t]*\{([#.][^}]*)\}[ \t]*$', re.M)

def own_ids(md):
    "Anchors that headings set themselves, as in `## Notation {#sec-notation}`, and the ones they have without"
    return {o: slug(m[2]) for m in attr_re.finditer(md) for o in re.findall(r'#([\w-]+)', m[3])}

def no_attrs(md):
    "Headings without pandoc's attributes"
    return attr_re.sub(r'\1', md)

def anchors(nb):
    "The anchors of the headings of the plain notebook `nb`"
    lines = [l for c in nb.cells if c.cell_type=='markdown' for l,out in outside_code(c.source) if out]
    heads = [m[1] for l in lines if (m:=re.match(r'#+\s+(.+?)\s*$', l))]
    return {slug(re.sub(r'\]\([^)]*\)', '', h)) for h in heads}

def myst(kind, title, fold, body, depth):
    "A callout as a MyST admonition, or as a drop-down where it folds"
    fence = ':'*(8-depth)
    if fold: return f"{fence}{{dropdown}} {title or kind.title()}\n:class-container: fold fold-{kind}\n\n{body}\n{fence}"
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
    for l,opens,closes in div_lines(md):
        if opens: stack.append([opens,[]])
        elif closes and len(stack)>1: close()
        else: stack[-1][1].append(l)
    while len(stack)>1: close()
    return '\n'.join(stack[0][1]).strip('\n')

def maths(md, page):
    "Displayed maths with several rows or a number of its own, as an environment that Sphinx leaves as it is; labels belong to the `page`"
    def f(m):
        body,label = m[1].strip(),m[2]
        if re.match(r'\\begin\{(align|gather|equation|multline)\*?\}', body): return f'\n{body}\n'
        if r'\tag' in body or r'\\' in body and not label: return '\n\\begin{equation*}\n'+re.sub(r'\n\s*\n', '\n', body)+'\n\\end{equation*}\n'
        return f'$$\n{body}\n$$'+(f' ({page}-{label})' if label else '')
    md = re.sub(r'^\$\$(.+?)\$\$(?:[ \t]*\{#([\w-]+)\})?[ \t]*$', f, md, flags=re.S|re.M)
    return re.sub(r'(?<![\w`])@(eq-[\w-]+)', rf'{{eq}}`{page}-\1`', md)

def at_commas(code):
    "Parameters that stand on one line, each by itself; a comma within brackets or quotes belongs to a default"
    parts,open_,quote = [''],0,None
    for c in code:
        if quote: quote = None if c==quote else quote
        elif c in '"\'': quote = c
        open_ += 0 if quote else (c in '([{')-(c in ')]}')
        if c==',' and not (open_ or quote): parts.append('')
        else: parts[-1] += c
    return [f'{p.strip()},' for p in parts if p.strip()]

@cache
def module_of(path):
    "The lines of a module, and its functions and classes by the line that they begin on"
    text = (root/path).read_text(encoding='utf-8')
    found = [n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    return text.splitlines(), {min([n.lineno, *(d.lineno for d in n.decorator_list)]): n for n in found}

def said_in_source(link):
    "What the source says of `**kwargs` and of what comes back, which docments confuses; a class is made by its `__init__`"
    path,line = re.search(r'/blob/[^/]+/(.+)#L(\d+)', link).groups()
    lines,found = module_of(path)
    made = found[int(line)]
    if isinstance(made, ast.ClassDef): made = next((n for n in made.body if getattr(n, 'name', '')=='__init__'), None)
    if not made: return None, None
    def said(at): return lines[at-1].partition(' # ')[2] or None
    end = made.returns.end_lineno if made.returns else made.body[0].lineno-1
    of = made.args.kwarg and made.args.kwarg.lineno
    return said(of) if of and of<end else None, said(end)

def params(sig):
    "The parameters, and what is returned, in the signature that `show_doc` prints: (name, type, default, description) each, or None"
    lines = sig.split('\n')
    if not re.match(r'(def|class) \S+\($', lines[0]) or not lines[-1].startswith(')'): return
    def split(l):
        code,sep,text = l.strip().partition(' # ')
        *first,last = at_commas(code)
        return [*first, last+sep+text]
    pat = re.compile(r'(?P<name>\*{0,2}\w+)(?::(?P<type>.+?))?(?:=(?P<default>.+?))?,?(?: # (?P<text>.*))?$')
    res = [pat.match(o) for l in lines[1:-1] for o in split(l)]
    ret = re.match(r'\)(?:->(?P<type>.+?))?:(?: # (?P<text>.*))?$', lines[-1])
    def brief(default):
        "A long call without its arguments"
        return re.sub(r'^([\w.]+)\(.*\)$', r'\1(...)', default) if default and len(default)>60 else default
    def parts(m): return m['name'],m['type'],brief(m['default']),m['text']
    if all(res) and ret: return [parts(m) for m in res] + [('', ret['type'], None, ret['text'])]

def signature(name, ps, types):
    "How `name` is called with the parameters `ps`"
    args = [n+(f':{t}' if t and types else '')+(f'={d}' if d else '') for n,t,d,x in ps[:-1]]
    call = f"{name}({', '.join(args)})"
    if len(call)>100: call = f'{name}(\n    '+',\n    '.join(args)+')'
    return call + (f' -> {ps[-1][1]}' if types and ps[-1][1] not in (None,'None') else '')

def table(ps):
    "The parameters `ps` as a table, where there is something to say about them"
    if not any(x for n,t,d,x in ps): return ''
    def code(o): return f'`{o}`' if o else ''
    rows = [[code(n) or '*returns*', doclinks.NbdevLookup().link_line(code(t)), code(d), x or ''] for n,t,d,x in ps if n or x or t not in (None,'None')]
    rows = ['| '+' | '.join(o.replace('|', r'\|') for o in row)+' |' for row in rows]
    return '\n'.join(['{.params}','| | type | default | |','|---|---|---|---|',*rows])

def showdoc(md):
    "What `show_doc` says: a heading, the link to the source, how it is called, the docstring, and its parameters in a table"
    m = re.match(r'---\s*\n+(?:\[source\]\(([^)]*)\)\{[^}]*\}\s*\n+)?(#+) (\S+)\n+```python\n(.*?)\n```', md, re.S)
    if not m: return md
    src,level,name,sig = m.groups()
    ps = params(sig.strip())
    if src and ps and any(n.startswith('**') for n,*_ in ps):
        of,back = [doclinks.NbdevLookup().link_line(o) if o else o for o in said_in_source(src)]
        ps[-2:] = [(*ps[-2][:3], of), (*ps[-1][:3], back)]
    rows = table(ps) if ps else ''
    doc = re.sub(r'^\*(.*)\*', r'\1', md[m.end():].strip())
    return '\n\n'.join(filter(None, [
        f'{level} {name}'.replace('_', r'\_'), f'[source]({src}){{.source}}' if src else '',
        f'```python\n{signature(name, ps, types=not rows) if ps else sig}\n```', '' if doc=='Call self as a function.' else doc, rows]))

two_rows = re.compile(r'<thead>(?:(?:(?!</thead>).)*?<tr){2}', re.S)

def one_header(html):
    """A data frame's table without the almost empty row that names its index: the names move to the row above. Where that row
    names its columns, both names stand in one cell, as 'task / sparsity'"""
    if not two_rows.search(html): return html
    page = BeautifulSoup(html, 'html.parser')
    for head in page.select('table.dataframe > thead'):
        *_,above,names = [None, None, *head.find_all('tr', recursive=False)]
        if not above: continue
        pairs = list(zip(above.find_all('th'), names.find_all('th')))
        named = [bool(low.text.strip()) for _,low in pairs]
        if not any(named) or named!=sorted(named, reverse=True): continue
        *others,(columns,last) = [pair for pair,n in zip(pairs, named) if n]
        if any(high.text.strip() for high,_ in others): continue
        if what:=columns.text.strip(): last.string = f'{last.text} / {what}'
        for high,low in [*others, (columns, last)]: high.replace_with(low)
        names.decompose()
    return str(page)

def as_exercise(c, d):
    "A page takes no answers: the cell that does is folded, as it holds the right one, and says nothing while there is none"
    d.update({'code-fold': 'true', 'code-summary': 'The cell that checks your answer, in the notebook'})
    c.outputs = [o for o in c.outputs if blank not in ''.join(o.get('text') or o.get('data', {}).get('text/plain', ''))]

def code_cell(c, tfm):
    "The cells that show the processed code cell `c`: directives obeyed, Markdown outputs as Markdown where they are to be read as is"
    d,c.source = directives(c.source)
    if d.get('include')=='false' or not c.source: return []
    asis = [''.join(o.get('text') or o.get('data',{}).get('text/markdown','')) for o in c.outputs] if d.get('output')=='asis' else []
    if c.source.startswith('show_doc('): asis = [showdoc(o) for o in asis]
    if d.get('output') in ('false','asis'): c.outputs = []
    if d.get('warning')=='false': c.outputs = [o for o in c.outputs if o.get('name')!='stderr']
    if c.source.startswith('answer = ...'): as_exercise(c, d)
    for o in c.outputs:
        if o.output_type=='execute_result': o.execution_count = None
        if 'class="dataframe"' in (html:=''.join(o.get('data',{}).get('text/html', ''))): o.data['text/html'] = one_header(html)
        if 'text/markdown' in o.get('data',{}): o.data['text/markdown'] = tfm(o.data['text/markdown'])
    meta = {}
    if alt:=d.get('fig-alt') or d.get('fig-cap'): meta['image'] = dict(alt=alt)
    if cap:=d.get('fig-cap'): meta['figure'] = dict(caption=cap)
    if d.get('code-summary'): meta['code_prompt_show'] = meta['code_prompt_hide'] = d['code-summary']
    tags = ['remove-input']*(d.get('echo')=='false') + ['hide-input']*(d.get('code-fold') in ('true','hide'))
    c.metadata,c.execution_count = dict(tags=tags, **(dict(mystnb=meta) if meta else {})),None
    return [c]*(d.get('echo')!='false' or bool(c.outputs)) + [new_markdown_cell(tfm(o)) for o in asis if o.strip()]

def code_text(c, images):
    "A code cell and its outputs as Markdown; its pictures go to the dict `images`"
    d,src = directives(c.source)
    res = [f'```python\n{src}\n```']*(d.get('echo')!='false')
    for o in c.outputs:
        data = o.get('data', {'text/plain': o.get('text','')})
        if png:=data.get('image/png'):
            png = b64decode(png)
            images[name:=f'{sha1(png).hexdigest()[:12]}.png'] = png
            width = o.get('metadata',{}).get('image/png',{}).get('width')
            res.append(f"![{d.get('fig-alt','')}](/_images/{name})" + (f'{{width={width}px}}' if width else ''))
        else: res.append(data.get('text/markdown') or f"```text\n{data['text/plain'].rstrip()}\n```")
    return '\n\n'.join(res)

def joined(cells, images):
    "A div may open in one cell and close in a later one, around cells of code: make each such run one cell of Markdown"
    res,depth = [],0
    for c in cells:
        if depth: res[-1].source += '\n\n'+(c.source if c.cell_type!='code' else code_text(c, images))
        else: res.append(c)
        if c.cell_type=='markdown':
            for _,opens,closes in div_lines(c.source): depth = depth+1 if opens else max(depth-closes, 0)
    return res

def plain(nb, tfm, images=None):
    "Make the processed `nb` a plain notebook: `tfm` is what happens to each piece of Markdown"
    fm,cells = frontmatter(nb),[]
    for c in joined(nb.cells, {} if images is None else images):
        c.pop('has_sd', None)
        if c.cell_type=='code': cells += code_cell(c, tfm)
        elif c.cell_type=='markdown' and 'AUTOGENERATED' not in c.source: cells.append(new_markdown_cell(tfm(c.source)))
    nb.cells,nb.metadata = cells,dict(language_info=dict(name='python', pygments_lexer='ipython3'))
    return fm

_entry = re.compile(r'^### (\S+)\n+(?:\[source\]\S*\n+)?```python\n.*?\n```\n+([^\n{|#`][^\n]*)?', re.M|re.S)

def contents(nb, first=()):
    "What the plain notebook of a module documents, as a table: each name with the first line of what is said of it, some names `first`"
    found = [m.groups('') for c in nb.cells if c.cell_type=='markdown' for m in _entry.finditer(c.source)]
    said = {name.replace(chr(92), ''): line.replace('|', chr(92)+'|') for name,line in found}
    rows = [f'| [`{name}`](#{slug(name)}) | {said[name]} |' for name in sorted(said, key=lambda n: n not in first)]
    return '\n'.join(['{.inside}', '| in this module | |', '|---|---|', *rows]) if len(rows)>1 else ''

def starting(room):
    "The names of a module that people start with: what the package itself offers, and the commands"
    package = import_module(cfg.lib_name)
    return package._rooms.get(room, ()) if room!='cli' else import_module(f'{cfg.lib_name}.cli').commands

def relink(md, rel, resolve):
    "Rewrite the links of `md`, found in the notebook `rel`, by `resolve`, which gets a path relative to `nbs` and an anchor"
    def f(m):
        url,hash = m[2],m[3] or ''
        if url.startswith(base): return m[1]+resolve(url[len(base):], hash)
        if re.match(r'\w+:|/', url): return m[0]
        return m[1]+resolve(posixpath.normpath(posixpath.join(rel.parent.as_posix(), url)) if url else rel.as_posix(), hash)
    return re.sub(r'(\]\()([^)#\s]*)(#[^)\s]*)?(?=[)\s])', f, md)
