"Every notebook runs, is clean, and holds nothing of the machine it was executed on."
import os
os.environ.setdefault('OMP_NUM_THREADS', '1')
import gc,json,re
import pytest,torch
from execnb.nbio import dict2nb,nb2str
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.test import test_nb as run_nb

cfg = get_config()
root = cfg.config_path.resolve()
nbs = sorted(p.resolve() for p in nbglob(cfg.nbs_path, as_path=True))
names = [p.relative_to(root).as_posix() for p in nbs]
each = pytest.mark.parametrize('fn', nbs, ids=names)
long_ones = 'tutorials/', 'near_optimality', '21_predict', '22_sentence', '26_demo', '18_task'
def marks(name): return [pytest.mark.slow] if any(o in name for o in long_ones) else []
to_run = pytest.mark.parametrize('fn', [pytest.param(p, marks=marks(n)) for p,n in zip(nbs, names)], ids=names)
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

@to_run
def test_runs(fn, monkeypatch, torch_as_it_was):
    monkeypatch.setenv('IN_TEST', '1')
    ok,_ = run_nb(fn, skip_flags=cfg.tst_flags.split(), basepath=root)
    gc.collect()
    assert ok, f'{fn.name} fails: its traceback is in the captured stderr below'

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
