"A toy that several test files train."
import os,signal,socket,subprocess,sys,textwrap
from pathlib import Path
import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from adaptprune.loop import adapt
from adaptprune.tasks import load_files

X = torch.randn(100, 10, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (100,), generator=torch.Generator().manual_seed(1))
n_weights = 10*24+24*16

class Toy(nn.Module):
    "A frozen body with dropout, and a head"
    def __init__(self, dropout=.2):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Dropout(dropout), nn.Linear(24, 16), nn.Tanh())
        self.head = nn.Linear(16, 3)

    @property
    def base_model(self): return self.body
    def forward(self, x): return self.head(self.body(x))

plain_modules = {
    'Linear': (lambda: nn.Linear(4, 3), (2, 4)), 'Conv1d': (lambda: nn.Conv1d(4, 3, 2), (2, 4, 5)),
    'Conv2d': (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5)), 'ConvTranspose': (lambda: nn.ConvTranspose1d(4, 3, 2), (2, 4, 5))}                 # name -> what makes one, and the shape of an input

def loader(n=16, shuffle=True): return DataLoader(list(zip(X, Y)), n, shuffle=shuffle)      # 7 batches, the last one of 4
def even(n): return DataLoader(list(zip(X[:96], Y[:96])), n)
def ce(model, batch): return F.cross_entropy(model(batch[0]).float(), batch[1])

def go(model=None, data=None, loss=ce, **kwargs):
    "A short run, by default of three epochs from the rank of the weights"
    kw = dict(progress=False, recipe='default', **({} if 'max_steps' in kwargs else dict(epochs=3)))
    if kwargs.get('recipe', 'default') in ('default', 'paper'): kw.update(every=2, start='rank', dropout=None)
    return adapt(Toy() if model is None else model, loader() if data is None else data, loss, **{**kw, **kwargs})

def crash_at(call, error=RuntimeError('power cut'), loss=ce):
    "A loss that fails at a call, or does what it is given there"
    calls = iter(range(10**6))
    def crashing(model, batch):
        if next(calls)==call:
            if isinstance(error, BaseException): raise error
            error()
        return loss(model, batch)
    return crashing

def params(res): return {n: p.detach().clone() for n,p in res.model.named_parameters()}
def course(res): return res.history,{k: v for k,v in res.report.items() if k!='seconds'}
def same_run(a, b):
    assert a.mask==b.mask and course(a)==course(b)
    assert all(torch.equal(p, q) for p,q in zip(params(a).values(), params(b).values(), strict=True))

def child(tmp_path, body, *launcher):
    "A process that runs `body` with the names of this file"
    here = Path(__file__).resolve().parent
    (tmp_path/'run.py').write_text(f'import sys; sys.path.insert(0, {str(here)!r})\nfrom toy import *\nimport toy\n'+textwrap.dedent(body))
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(here.parent), ACCELERATE_USE_CPU='true')
    return subprocess.Popen([sys.executable, *launcher, tmp_path/'run.py'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)

def on_two(f):
    "Run a function of the rank in two forked processes that are connected, as a launcher would start them"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    torch.multiprocessing.start_processes(_ranked, (f, port), nprocs=2, start_method='fork')

def _ranked(rank, f, port):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port),
        ACCELERATE_USE_CPU='true')
    AcceleratorState._reset_state(reset_partial_state=True)
    f(rank)
    torch.distributed.destroy_process_group()

def own_data(tmp_path):
    "A small task of two classes in files"
    rows = [f'{"ab"[i%2]} {"cdefghij"[i%8]} {"cdefg"[i//8]}\t{("negative", "positive")[i%2]}' for i in range(40)]
    for name,part in (('train', rows), ('dev', rows[:10])): (tmp_path/f'{name}.tsv').write_text('\n'.join(['sentence\tlabel', *part])+'\n')
    return load_files(tmp_path/'train.tsv', tmp_path/'dev.tsv', text='sentence')

def die_at_call(k):
    "End this process, without a chance to tidy up, at the k-th call that touches the disk"
    left = [k]
    def dying(f):
        def g(*args, **kwargs):
            left[0] -= 1
            if not left[0]: os.kill(os.getpid(), signal.SIGKILL)
            return f(*args, **kwargs)
        return g
    os.fsync,os.replace,os.unlink,Path.unlink,Path.iterdir = map(dying, (os.fsync, os.replace, os.unlink, Path.unlink, Path.iterdir))
