"The house stands: imports go down, no room takes another's private names, no line is too long; and the tools that say so do say so."
import subprocess,sys
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools'))
import floors,style

def test_imports_go_down(): assert not floors.faults(floors.rooms(root/'adaptprune'))

def test_contributing_shows_the_floors():
    r = subprocess.run([sys.executable, 'tools/floors.py', '--check'], cwd=root, capture_output=True, text=True)
    assert r.returncode==0, r.stderr

small = dict(ground=0, cellar=0, attic=1)

@pytest.mark.parametrize('changes, want', [
    ({}, []),
    (dict(ground='from .attic import x'), ['ground (floor 0) imports attic (floor 1): imports go down', 'a circle of imports: ']),
    (dict(ground='def f():\n    from adaptprune.attic import x'), ['ground (floor 0) imports attic', 'a circle of imports: ']),
    (dict(cellar='from adaptprune import attic'), ['cellar (floor 0) imports attic']),
    (dict(cellar='import adaptprune.attic as a'), ['cellar (floor 0) imports attic']),
    (dict(cellar='from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .attic import x'), []),
    (dict(cellar='import json\nfrom os.path import join\nfrom other.attic import x'), []),
    (dict(cellar='from .ground import x'), []),
    (dict(cellar='from .ground import x', ground='from .cellar import y'), ['a circle of imports: ']),
    (dict(attic='from .ground import x,_y'), ['attic takes the private name _y from ground']),
    (dict(attic='from . import ground\nground._y()\nground.x()\nground.__name__'), ['attic takes the private name _y from ground']),
    (dict(attic='import adaptprune.ground\nadaptprune.ground._y'), ['attic takes the private name _y from ground']),
    (dict(shed=''), ['shed stands on no floor']),
    (dict(cellar=None), ['cellar is on a floor, but there is no such module']),
])
def test_faults_are_found(changes, want):
    sources = {**dict(ground='import torch', cellar='', attic='from .ground import x'), **changes}
    got = floors.faults({k: v for k,v in sources.items() if v is not None}, small)
    assert len(got)==len(want) and all(g.startswith(w) for g,w in zip(got, want)), got

def test_picture():
    "What a room gets through another is left out"
    sources = dict(ground='', cellar='from .ground import x', attic='from .ground import x\nfrom .cellar import y')
    drawn = [l.split() for l in floors.picture(sources, small).splitlines()]
    assert drawn[1]==['floor', '1', 'attic', 'cellar'] and drawn[3:5]==[['floor', '0', 'cellar', 'ground'], ['ground']]

def test_no_exported_line_is_over_140():
    wide = style.offenders(root, 140)
    said = f'{len(wide)} lines of exported cells are over 140 characters:'
    assert not wide, '\n'.join([said, *(f'{name}: {line}' for name,line in wide)])

def test_constructs():
    lines = ['a,b = f(x),1', 'a,b = b,a', 'a,b = c', 'x = [i for i in [j for j in y]]', 'z = 1 if a else 2',
        'def g(self, a, b, c, d, e, f, g, h): pass', 'def h(a, b, c, d, e, f, g, h, *, i): pass']
    want = {'tuple assignments': 3, '... of unlike things': 1, 'conditional expressions': 1, 'nested comprehensions': 1}
    assert style.constructs('\n'.join(lines))==style.Counter({**want, 'functions with more than 8 parameters': 1})

def test_sentences():
    parts = ['# Title', 'One two three. You may `call(x)` it; see [the page](x.ipynb).', '| a | table |']
    md = '\n\n'.join([*parts, '```sh\ncode that is code\n```', '- An item of a list.'])
    assert [' '.join(s) for s in style.sentences(md)]==['One two three', 'You may x it see the page', 'An item of a list']

def test_code_lines(): assert style.code_lines('#| export\nimport os\n\n# words\n%time f()\nx = 1  ')==['import os', 'x = 1']
