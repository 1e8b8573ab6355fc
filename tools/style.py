"""Measure the style of code and prose: how dense the code is, how long the sentences are.
usage: python tools/style.py [ROOT] [--json]      (ROOT: a checkout, by default this one; --json: for a program)

Code is counted where it has ink: lines that are neither empty nor comments. Figures are for 1,000 such lines, unless
they say "count". Prose is what markdown cells say in sentences: code, tables, formulas and headings are left out."""
import ast,json,re,subprocess,sys
from collections import Counter
from pathlib import Path
from statistics import mean,median

here = Path(__file__).resolve().parent.parent
comprehensions = ast.ListComp,ast.SetComp,ast.DictComp,ast.GeneratorExp
functions = ast.FunctionDef,ast.AsyncFunctionDef,ast.Lambda

def cells(root):
    "(path, type, source) of each cell of the notebooks"
    for path in sorted((root/'nbs').rglob('*.ipynb')):
        if any(p[0] in '._' for p in path.relative_to(root).parts): continue
        for c in json.loads(path.read_text(encoding='utf-8'))['cells']: yield path, c['cell_type'], ''.join(c['source'])

def exported(src): return bool(re.search(r'^#\|\s*exports?\b', src, re.M))

def code_lines(src):
    "Lines of code, without empty ones, comments and magics"
    return [l.rstrip() for l in src.splitlines() if l.strip() and not re.match(r'\s*#|[%!]', l)]

def tree(src):
    "The syntax tree of a piece of code, without IPython's magics; empty where it cannot be read"
    try: return ast.parse('\n'.join('' if re.match('[%!]', l) else l for l in src.splitlines()))
    except SyntaxError: return ast.parse('')

def has_tuple_target(node): return isinstance(node, ast.Assign) and any(isinstance(t, ast.Tuple) for t in node.targets)

def is_list_of_assignments(node):
    "`a,b = f(x),g(y)`: several things in one statement, and no swap"
    if not has_tuple_target(node) or not isinstance(node.value, ast.Tuple): return False
    left = {ast.unparse(e) for t in node.targets if isinstance(t, ast.Tuple) for e in t.elts}
    return left!={ast.unparse(e) for e in node.value.elts}

def n_inside(node): return sum(isinstance(n, comprehensions) for n in ast.walk(node) if n is not node)

def n_params(func):
    "How many parameters a function has, without `self`"
    a = func.args
    return sum(p.arg!='self' for p in [*a.posonlyargs, *a.args, *a.kwonlyargs])

def constructs(src):
    "How often a piece of code uses what makes code dense"
    found = Counter()
    for node in ast.walk(tree(src)):
        found['tuple assignments'] += has_tuple_target(node)
        found['... of unlike things'] += is_list_of_assignments(node)
        found['conditional expressions'] += isinstance(node, ast.IfExp)
        if isinstance(node, comprehensions): found['nested comprehensions'] += n_inside(node)
        if isinstance(node, functions) and n_params(node)>8: found['functions with more than 8 parameters'] += 1
    return found

def measure(sources):
    "The figures of a list of pieces of code"
    lines = [len(l) for s in sources for l in code_lines(s)]
    if not lines: return {}
    found = sum(map(constructs, sources), Counter())
    def rate(n): return round(n*1000/len(lines), 1)
    wide = {f'lines over {n}': rate(sum(l>n for l in lines)) for n in (140, 120)}
    names = 'tuple assignments','... of unlike things','conditional expressions','nested comprehensions'
    many = {'functions with more than 8 parameters (count)': found['functions with more than 8 parameters']}
    size = {'code lines': len(lines), 'mean line length': round(mean(lines), 1)}
    return {**size, **wide, **{k: rate(found[k]) for k in names}, **many}

def code(root):
    "The figures by kind of code"
    kinds = {'exported cells': [], 'other cells': []}
    for _,kind,src in cells(root):
        if kind=='code': kinds['exported cells' if exported(src) else 'other cells'].append(src)
    for folder in ('tests', 'tools', 'benchmarks'):
        kinds[folder] = [p.read_text(encoding='utf-8') for p in sorted((root/folder).glob('*.py'))]
    return {k: measure(v) for k,v in {**kinds, 'all': sum(kinds.values(), [])}.items()}

def cell_lines(root):
    "Median lines of the exported cells that define something, of all notebooks and of each"
    sizes = {}
    for path,kind,src in cells(root):
        defines = re.search(r'^\s*(def|class) ', src, re.M)
        if kind=='code' and exported(src) and defines: sizes.setdefault(path.stem, []).append(len(code_lines(src)))
    return {'all': median(sum(sizes.values(), []) or [0]), **{k: median(v) for k,v in sizes.items()}}

def chkstyle(root):
    "Potential violations that chkstyle finds, by folder"
    def count(folder):
        exe = Path(sys.executable).with_name('chkstyle')
        if not exe.exists() or not (root/folder).exists(): return None
        out = subprocess.run([exe, folder], cwd=root, capture_output=True, text=True).stdout
        said = re.search(r'found (\d+) potential', out)
        return int(said[1]) if said else 0
    return {folder: count(folder) for folder in ('nbs', 'tests', 'tools')}

def sentences(md):
    "The sentences of a piece of markdown"
    md = re.sub(r'```.*?```|\$\$.*?\$\$|<[^>]+>', ' ', md, flags=re.S)
    md = re.sub(r'^\s*(#|\||>|:::|\$\$|    ).*$', '', md, flags=re.M)
    md = re.sub(r'`[^`]*`|\$[^$]*\$', 'x', md)
    md = re.sub(r'!?\[([^\]]*)\]\([^)]*\)', r'\1', md)
    paragraphs = re.split(r'\n\s*\n|\n\s*(?:[-*]|\d+\.)\s', '\n'+md)
    for p in paragraphs:
        for s in re.split(r'(?<=[.!?])["\')*]*\s+(?=[A-Z*"\'(x])', ' '.join(p.split())):
            if len(words := re.findall(r"\w[\w'’-]*", s))>2: yield words

def prose(root):
    "The figures of the prose, by folder"
    found = {}
    for path,kind,src in cells(root):
        if kind=='markdown': found.setdefault(path.parent.name, []).extend(sentences(src))
    def figures(ss):
        sizes,words = [len(s) for s in ss],[w.lower() for s in ss for w in s]
        you = sum(w in ('you', 'your', 'yours', 'yourself') for w in words)
        long = round(100*mean(n>35 for n in sizes), 1)
        you = round(you*1000/len(words), 1)
        return {'words': len(words), 'words a sentence': round(mean(sizes), 1),
            'sentences over 35 words, %': long, '"you" in 1,000 words': you}
    return {k: figures(v) for k,v in sorted(found.items())}

def offenders(root, width=140):
    "Lines of exported cells that are wider than `width`: (notebook, line)"
    public = [(p.name, src) for p,kind,src in cells(root) if kind=='code' and exported(src)]
    return [(name, l) for name,src in public for l in code_lines(src) if len(l)>width]

def show(title, table):
    "A table of figures in plain text: a row for each figure, a column for each key"
    table = {k: v for k,v in table.items() if v}
    names = dict.fromkeys(n for v in table.values() for n in v)
    wide = {k: max(len(k), 8) for k in table}
    first = max(len(n) for n in [title, *names])
    print('  '.join([title.ljust(first), *(k.rjust(w) for k,w in wide.items())]))
    for n in names: print('  '.join([n.ljust(first), *(str(table[k].get(n, '')).rjust(w) for k,w in wide.items())]))
    print()

def main(args):
    roots = [a for a in args if a!='--json']
    root = Path(roots[0]).resolve() if roots else here
    got = dict(code=code(root), cell_lines=cell_lines(root), chkstyle=chkstyle(root), prose=prose(root))
    if '--json' in args: return print(json.dumps(got, indent=1))
    show('code', got['code'])
    show('prose', got['prose'])
    print('median lines of exported cells:', ', '.join(f'{k} {v:g}' for k,v in got['cell_lines'].items()))
    print('chkstyle, potential violations:', ', '.join(f'{k} {v}' for k,v in got['chkstyle'].items()))

if __name__=='__main__': main(sys.argv[1:])
