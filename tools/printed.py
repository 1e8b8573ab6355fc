"""Find the commands that the documentation prints: README, CONTRIBUTING, the notebooks with their outputs, the benchmarks,
the sweeps, and the records in results/.
usage: python tools/printed.py      (lists them, with where they stand)"""
import json,re,shlex
from pathlib import Path
from pages import pages,root

# What may stand before a command on its line
lead = re.compile(r'^(?:[#$>]\s+)?(?:\S*/)?(?:python3? -m )?(?=adaptprune )')

def code_of(md):
    "The pieces of markdown that are code: fenced and indented blocks line by line, and the spans in backticks"
    md = md.replace('\\\n', ' ')
    for m in re.finditer(r'^```(\w*)[^\n]*\n(.*?)^```', md, re.M|re.S):
        if m[1] not in ('python', 'py'): yield from m[2].splitlines()
    md = re.sub(r'^```.*?^```', '', md, flags=re.M|re.S)
    yield from (l for l in md.splitlines() if l.startswith('    '))
    yield from re.findall(r'(?<!`)`([^`\n]+)`(?!`)', md)

def words_of(line):
    "The words after `adaptprune` of a line of shell, without comment and redirection; None for any other line"
    line = line.strip()
    if not (m := lead.match(line)): return None
    try: words = shlex.split(line[m.end():], comments=True)
    except ValueError: return None
    ends = [i for i,w in enumerate(words) if re.match(r'\d*[<>|&]', w)]
    return words[1:min(ends, default=None)]

def outputs(cell):
    "The texts in the outputs of a cell: what was printed, and tables and text in markdown"
    for o in cell.get('outputs', []):
        yield from ''.join(o.get('text', [])).splitlines()
        yield from code_of(''.join(o.get('data', {}).get('text/markdown', [])))

def notebook(path):
    for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
        src = ''.join(cell['source'])
        if cell['cell_type']=='markdown': yield from code_of(src)
        else: yield from outputs(cell)

def markdown(path):
    "The markdown of a page"
    src = path.read_text(encoding='utf-8')
    if path.suffix!='.ipynb': return src
    return '\n\n'.join(''.join(c['source']) for c in json.loads(src)['cells'] if c['cell_type']=='markdown')

def lines():
    "(file, line of code) of everything that may be a command"
    def name(p): return p.relative_to(root).as_posix()
    for p in (root/'README.md', root/'CONTRIBUTING.md', root/'benchmarks'/'README.md'):
        yield from ((name(p), l) for l in code_of(p.read_text(encoding='utf-8')))
    for p in pages(): yield from ((name(p), l) for l in notebook(p))
    for p in [*sorted((root/'benchmarks').glob('*.py')), *sorted((root/'sweeps').glob('*.toml'))]:
        yield from ((name(p), l) for l in p.read_text(encoding='utf-8').splitlines())

def printed():
    "(file, words after `adaptprune`) of every printed command, once a file; bare mentions (`adaptprune sweep`) as well"
    found = {(name, tuple(words)): None for name,l in lines() if (words := words_of(l))}
    return [(name, list(words)) for name,words in found if words[0]!='COMMAND']

def recorded():
    "(file, words) of the commands in the records, once for each that differs in more than the key of its run"
    found = {}
    for p in sorted((root/'results').glob('*.jsonl')):
        for l in p.read_text(encoding='utf-8').splitlines():
            words = words_of(json.loads(l).get('command') or '')
            if words: found[p.name, re.sub(r'--only \w+', '--only KEY', shlex.join(words))] = words
    return [(name, words) for (name,_),words in found.items()]

def python_blocks(md):
    "The Python that a page prints, but for the answers to its exercises, which have a test of their own"
    md = re.sub(r'^<details>.*?^</details>', '', md, flags=re.M|re.S)
    return re.findall(r'^```python\n(.*?)^```', md, re.M|re.S)

def make_targets(): return {t for name,l in lines() for t in re.findall(r'^make ([a-z]+)', l.strip())}

if __name__=='__main__':
    for name,words in printed()+recorded(): print(f'{name:45} adaptprune {shlex.join(words)}')
