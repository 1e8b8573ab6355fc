"Two processes on one machine: the same mask on both, and the same as of one process."
import os
from functools import partial
import pytest,torch
from torch import nn
from adaptprune.anatomy import maskable
from adaptprune.optim import MaskOptimizer
from toy import on_two

class Net(nn.Module):
    "Rows that do not divide by two, and a matrix with a single row"
    def __init__(self):
        super().__init__()
        self.emb,self.a,self.b,self.one = nn.Embedding(11, 5),nn.Linear(5, 7),nn.Linear(7, 5),nn.Linear(5, 1, bias=False)
        self.head = nn.Linear(1, 2)
    def forward(self, x):
        h = self.emb(x).mean(1)
        h = h+self.b(self.a(h).tanh())
        return self.head(self.one(h))

X = torch.randint(0, 11, (3, 8, 4), generator=torch.Generator().manual_seed(0))
Y = torch.randn(3, 8, 2, generator=torch.Generator().manual_seed(1), dtype=torch.double)
weights = ['*', '!head*']
runs = dict(sign=dict(), ties=dict(start='constant'), matrix=dict(budget='matrix', every=1), gone=dict(recovery=False),
    adam=dict(step='adam'),
    soft=dict(step='plain', alpha=1e-2, t_l=100.), backward=dict(in_backward=True),
    gamma=dict(schedule='none', gamma=6e-3, start='uniform', every=1))

def net():
    torch.manual_seed(0)
    return Net().double()
def optimizer(m, steps=12, **kw): return MaskOptimizer(m, m.head, .5, steps, weights=weights, **{**dict(start='rank', every=3), **kw})
def train(m, opt, n=None, part=slice(None), model=None):
    for _ in range(opt.steps if n is None else n):
        if opt.done: break
        opt.zero_grad()
        ((model or m)(X[opt.i%3,part])-Y[opt.i%3,part]).square().mean().backward()
        opt.step()
    return opt
def summary(opt):
    found = dict(mask=dict(opt.mask()), taus=[g.tau for g in opt.weights.groups], i=opt.i, sparsity=opt.sparsity(), met=opt.target_met())
    return dict(found, recovered=opt.recovered(), far=opt.max_theta())

def ddp(part):
    m = net()
    opt = optimizer(m)
    return summary(train(m, opt, part=part, model=nn.parallel.DistributedDataParallel(m)))

def wrapped_first(unused, frozen=False):
    "What is said where the model was wrapped before the optimiser was made, its matrices frozen or not"
    m = net()
    if frozen:
        for p in m.parameters(): p.requires_grad_(p.dim()<2)
    model = nn.parallel.DistributedDataParallel(m, find_unused_parameters=unused)
    was = [p.requires_grad for p in m.parameters()]
    try: opt = optimizer(m)
    except ValueError as e: return str(e), was==[p.requires_grad for p in m.parameters()]
    return summary(train(m, opt, part=slice(None), model=model))

def again():
    "A second optimiser on a model that is still wrapped, and that learns the same parameters"
    m = net()
    first = optimizer(m)
    model = nn.parallel.DistributedDataParallel(m)
    train(m, first, 3, model=model)
    first.restore()
    first.close()
    return summary(train(m, optimizer(m), model=model))

def accelerated():
    from accelerate import Accelerator
    m = net()
    opt = optimizer(m)
    data = [(x, y) for x,y in zip(X.flatten(0, 1), Y.flatten(0, 1))]
    acc = Accelerator(cpu=True)
    model,wrapped,loader = acc.prepare(m, opt, torch.utils.data.DataLoader(data, batch_size=4))
    while not opt.done:
        for x,y in loader:
            if opt.done: break
            acc.backward((model(x)-y).square().mean())
            acc.clip_grad_norm_(model.parameters(), 1e9)
            wrapped.step()
            wrapped.zero_grad()
    return summary(opt)

def shard(m):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    mesh = init_device_mesh('cpu', (2,))
    for part in (m.a, m.b): fully_shard(part, mesh=mesh)
    return fully_shard(m, mesh=mesh)

def sharded(kw):
    m = shard(net())
    base = {n: p.full_tensor().clone() for n,p in maskable(m, weights).items()}
    opt = train(m, optimizer(m, **kw))
    out = dict(summary(opt), plain=[hasattr(p.param, 'to_local') for p in opt.weights], sizes=[p.n for p in opt.weights])
    full = {n: p.full_tensor() for n,p in maskable(m, weights).items()}
    out['written'] = all(torch.equal(full[n], base[n]*k) for n,k in out['mask'].items())
    opt.restore()
    out['restored'] = all(torch.equal(p.full_tensor(), base[n]) for n,p in maskable(m, weights).items())
    return out

def continued(kw):
    "A run that goes on from the state of each process"
    m = shard(net())
    opt = train(m, optimizer(m, **kw), 5)
    torch.save(opt.state_dict(), path := f'{os.environ["FOLDER"]}/state{torch.distributed.get_rank()}.pt')
    head = {n: p.full_tensor().clone() for n,p in m.head.named_parameters()}
    n = net()
    n.head.load_state_dict(head)
    shard(n)
    again = optimizer(n, **kw)
    again.load_state_dict(torch.load(path, weights_only=True))
    return summary(train(m, opt)),summary(train(n, again))

def refused():
    "Errors that a user of several processes may meet"
    from torch.distributed.fsdp import fully_shard
    out = {}
    def note(key, f):
        try: f()
        except Exception as e: out[key] = f'{type(e).__name__}: {e}'
    m = net()
    fully_shard(m.a)
    note('mixed', lambda: optimizer(m))
    m = net()
    opt = optimizer(m)
    shard(m)
    m(X[0]).sum().backward()
    note('late', opt.step)
    m = shard(net())
    opt = optimizer(m)
    train(m, opt, 2)
    list(opt.weights)[1].theta.fill_(float('nan'))
    note('nan', lambda: train(m, opt, 1))
    n = net()
    early = optimizer(n, in_backward=True)
    note('early', lambda: train(n, early, 1, model=nn.parallel.DistributedDataParallel(n)))
    return out

def work(folder, rank):
    os.environ['FOLDER'] = folder
    torch.distributed.init_process_group('gloo')
    out = {'ddp': ddp(slice(4*rank, 4*rank+4)), 'accelerate': accelerated(), 'refused': refused(), 'again': again()}
    for unused in (False, True): out[f'wrapped first, {unused}'] = wrapped_first(unused)
    out['wrapped first, frozen'] = wrapped_first(True, frozen=True)
    for name,kw in runs.items(): out[name] = sharded(kw)
    for name in ('sign', 'adam', 'gone'): out[f'continued {name}'] = continued(runs[name])
    torch.save(out, f'{folder}/{rank}.pt')

@pytest.fixture(scope='module')
def both(tmp_path_factory):
    "What the two processes found"
    folder = str(tmp_path_factory.mktemp('ranks'))
    on_two(partial(work, folder))
    return [torch.load(f'{folder}/{rank}.pt') for rank in (0, 1)]

def alone(**kw):
    m = net()
    return summary(train(m, optimizer(m, **kw)))
def same(a, b):
    assert a['i']==b['i'] and a['taus']==b['taus'] and a['sparsity']==b['sparsity'] and a['met'] and b['met']
    assert a['mask'].keys()==b['mask'].keys() and all(torch.equal(a['mask'][n], b['mask'][n]) for n in a['mask'])

def test_data_parallel(both):
    "Half of each batch in each process is the whole batch in one"
    same(both[0]['ddp'], both[1]['ddp'])
    same(both[0]['ddp'], alone())

def test_a_model_that_was_wrapped_first(both):
    "The wrapper has noted which parameters learn. One that expects unused ones works; another would fail in the second step"
    for found in both:
        said,as_before = found['wrapped first, False']
        assert 'DistributedDataParallel noted that 8 parameters learn' in said and 'make the optimiser first' in said and as_before
        same(found['wrapped first, True'], alone())
        assert 'or others: make the optimiser first' in found['wrapped first, frozen'][0]       # matrices that no process would average

def test_a_second_optimiser_on_a_wrapped_model(both):
    for found in both: same(found['again'], alone())

def test_accelerate(both):
    same(both[0]['accelerate'], both[1]['accelerate'])
    assert both[0]['accelerate']['i']==12

@pytest.mark.parametrize('run', runs)
def test_sharded(both, run):
    "The same thresholds to the last bit, the same mask and the same counts as one process"
    a,b = both[0][run],both[1][run]
    assert all(a['plain']) and a['sizes']!=b['sizes'] and 0 in b['sizes']
    same(a, b)
    one = alone(**runs[run])
    same(a, one)
    assert a['recovered']==b['recovered']==one['recovered'] and a['far']==b['far']==pytest.approx(one['far'])
    assert a['written'] and b['written'] and a['restored'] and b['restored']

@pytest.mark.parametrize('run', ['sign', 'adam', 'gone'])
def test_sharded_runs_go_on(both, run):
    for rank in (0, 1):
        through,again = both[rank][f'continued {run}']
        same(through, again)
        same(again, alone(**runs[run]))

def test_several_processes_refuse(both):
    for found in (both[0]['refused'], both[1]['refused']):
        assert 'only one is sharded: call `fully_shard` on the whole base' in found['mixed']
        assert 'RuntimeError: No masked weight has a gradient' in found['late']
        assert 'RuntimeError: in_backward=True takes a gradient before `DistributedDataParallel` has averaged it' in found['early']
        assert 'FloatingPointError: Theta holds NaN at step 3' in found['nan']
