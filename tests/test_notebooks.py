"Every notebook runs, gives what it holds, takes the answers that it folds away, is clean, and names nothing of a machine."
import os
os.environ.setdefault('OMP_NUM_THREADS', '1')
import gc,json,re,sys,time
import pytest,torch
from nbformat import NotebookNode
from execnb.nbio import dict2nb,nb2str,read_nb
from execnb.shell import CaptureShell
from nbdev.clean import clean_nb
from nbdev.config import get_config
from test_exercises import try_answers

cfg = get_config()
root = cfg.config_path.resolve()
sys.path.insert(0, str(root/'tools'))
from colab import offered
from execute import executed,without_bars
from outputs import differences
from pages import name,pages

nbs = pages()
names = [p.relative_to(root).as_posix() for p in nbs]
each = pytest.mark.parametrize('fn', nbs, ids=names)
long_ones = 'theorem_certificate', '21_predict', '22_sentence', '26_demo', '18_task', 'transfer', 'case_studies/compression'
def marks(name): return [pytest.mark.slow] if any(o in name for o in long_ones) else []
in_colab = offered() # `make users` runs these, on the wheel
to_run = [pytest.param(p, marks=marks(n), id=n) for p,n in zip(nbs, names) if p not in in_colab]
machine = re.compile(r'(?<![\w.:/~-])(?:/(?:home|root|Users|work|tmp|mnt|opt|var|usr)/|[A-Z]:\\)[\w.-]+')

def text(fn):
    "The sources and the textual outputs of the notebook `fn`"
    for c in json.loads(fn.read_text(encoding='utf-8'))['cells']:
        yield ''.join(c['source'])
        for o in c.get('outputs', []):
            yield ''.join(o.get('text', []))
            for k,v in o.get('data', {}).items():
                if k.startswith('text/'): yield ''.join(v)

@pytest.fixture
def torch_as_it_was():
    "A notebook may set torch's defaults for itself; they must not leak into what runs after it in this process"
    dtype,threads,grad = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    yield
    torch.set_default_dtype(dtype); torch.set_num_threads(threads); torch.set_grad_enabled(grad)

@pytest.fixture
def swept():
    "What a page made goes once it has run; what it imported stays, and the next page's sweep does not look through it again"
    yield
    gc.collect()
    gc.freeze()

@pytest.mark.parametrize('fn', to_run)
def test_runs(fn, monkeypatch, torch_as_it_was, swept):
    monkeypatch.setenv('IN_TEST', '1')
    monkeypatch.chdir(fn.parent)
    shell = CaptureShell(fn)
    began = time.perf_counter()
    fresh,error = executed(fn, shell)
    assert not error, error
    if fn.parent.name=='case_studies': assert time.perf_counter()-began<300, 'a case study is to run small within five minutes'
    try_answers(name(fn), shell.user_ns)
    assert not (told:=differences(read_nb(fn), fresh)), told

def test_a_stored_page_has_no_progress_bar():
    bar = NotebookNode(output_type='stream', name='stderr', text='\r 1/9 [..]\r 9/9 [..]\r            \r')
    warned = NotebookNode(output_type='stream', name='stderr', text=['UserWarning: look\n', '\r 1/9 [..]'])
    said = NotebookNode(output_type='stream', name='stdout', text='a\rb')
    assert [o.text for o in without_bars([bar, warned, said])]==['UserWarning: look\n', 'a\rb']

@each
def test_clean(fn):
    src = fn.read_text(encoding='utf-8')
    nb = dict2nb(json.loads(src))
    clean_nb(nb, clean_ids=cfg.clean_ids)
    assert nb2str(nb)==src, f'{fn.name} holds metadata that nbdev_clean takes out: run `make export`'

@each
def test_title(fn):
    "The site makes a heading of the first cell, and drops what else is in it"
    lines = ''.join(json.loads(fn.read_text(encoding='utf-8'))['cells'][0]['source']).splitlines()
    assert lines[0].startswith('# ') and any(l.startswith('> ') for l in lines)
    assert not [l for l in lines[1:] if l.strip() and not re.match(r'> |- \S.*:.*\S', l)]

@each
def test_stored_outputs(fn):
    outs = [o for c in json.loads(fn.read_text(encoding='utf-8'))['cells'] for o in c.get('outputs', [])]
    assert not [o['ename'] for o in outs if o['output_type']=='error']
    assert not (found:=[m[0] for t in text(fn) for m in machine.finditer(t)]), f'paths of one machine: {found}'
