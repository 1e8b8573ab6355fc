"""What one training step costs: masks beside AdamW, beside forward and backward alone, and beside two common ways of masking.

    python benchmarks/step.py --out results/step.json                     the record on a processor (wants a quiet machine, 16 GB)
    python benchmarks/step.py --device cuda --out results/step_gpu.json   on a GPU
    python benchmarks/step.py --quick                                     a tiny model, to see that it runs

Times are comparisons within one process. Every round takes some steps with each variant, in an order that rotates.
What is reported are medians over rounds, and of the ratios within a round, which a slow moment of the machine hits alike."""
import argparse, copy, datetime, gc, json, os, platform, statistics, sys, time
from contextlib import nullcontext
from pathlib import Path
import torch, transformers
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertModel
import adaptprune
from adaptprune import kernels
from adaptprune.anatomy import maskable
from adaptprune.head import AdaptModel, load_encoder
from adaptprune.layer import MaskedWeight
from adaptprune.mask import kth_smallest, locate
from adaptprune.optim import MaskOptimizer

def bert(**kw): return BertModel(BertConfig(**kw), add_pooling_layer=False)
tiny = dict(vocab_size=2000, hidden_size=64, num_attention_heads=2, intermediate_size=256)
models = dict(bert=bert, minilm=lambda: load_encoder('minilm'), tiny=lambda: bert(num_hidden_layers=2, **tiny))
every,n_steps,sparsity = 10,1000,.5

# ---- the variants: each takes a model, changes it, and returns its optimiser, or None
def adamw(m, **kw): return torch.optim.AdamW(m.parameters(), lr=1e-5, **kw)

def ours(m, **kw):
    "As `adapt` does it; theta starts 'normal', since ranking a hundred million weights for each variant takes long"
    return MaskOptimizer(m.encoder, m.head, sparsity=sparsity, steps=n_steps, start='normal', **kw)

class Foreach(MaskOptimizer):
    "The same without Triton"
    def _learn_at_once(self, lr): self.learn_many([p for p in self.weights if p.param.grad is not None], lr, self.i+1)

def by_parametrize(m):
    "What one writes first: a parametrisation at every matrix"
    m.encoder.requires_grad_(False)
    for n,p in maskable(m.encoder).items():
        path,attr = n.rpartition('.')[::2]
        parametrize.register_parametrization(m.encoder.get_submodule(path), attr, MaskedWeight(torch.full_like(p, .01)))
    return torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=1e-3)

def by_prune(m):
    "`torch.nn.utils.prune` at half, the weights trained by AdamW"
    for n,p in list(maskable(m.encoder).items()):
        path,attr = n.rpartition('.')[::2]
        size = p.detach().abs()
        prune.custom_from_mask(m.encoder.get_submodule(path), attr, size>kth_smallest([size], size.numel()//2))
    return adamw(m, fused=True)

def variants(device):
    "name -> (what it is, how it is built)"
    sparse = device=='cpu'
    out = {
        'forward+backward': ('forward and backward of the dense model, nothing else: the limit', lambda m: None),
        'adamw': ('fine-tuning of all weights, torch.optim.AdamW as torch sets it up on this device', adamw),
        'adamw_fused': ('the same with fused=True', lambda m: adamw(m, fused=True)),
        'ours': (f"MaskOptimizer as adapt uses it here{', sparse gradients of embeddings' if sparse else ''}", lambda m: ours(m, sparse_grad=sparse)),
        'ours_in_backward': ('updates inside the backward pass', lambda m: ours(m, in_backward=True)),
        'ours_adam': ("Adam's step for theta", lambda m: ours(m, step='adam')),
        'parametrize': ('torch.nn.utils.parametrize, the mask by autograd, torch.optim.SGD', by_parametrize),
        'prune': ('torch.nn.utils.prune masks at half, weights trained by fused AdamW', by_prune)}
    if sparse: out['ours_dense'] = ('MaskOptimizer with dense gradients, as in a plain loop', ours)
    else: out['ours_foreach'] = ('without Triton: torch._foreach_*',
        lambda m: Foreach(m.encoder, m.head, sparsity=sparsity, steps=n_steps, start='normal'))
    return out

class Run:
    "One variant, ready to step"
    def __init__(self, base, build, device):
        self.device = device
        self.model = copy.deepcopy(base).to(device).train()
        self.opt = build(self.model)
        self.masked = isinstance(self.opt, MaskOptimizer)
        self.moves = 0
        self.i = n_steps//3+1                       # a third of the way some weights are pruned, and no threshold update is due
        if self.masked: self.move()
    def loss(self, batch):
        half = torch.autocast(self.device, torch.bfloat16) if self.device=='cuda' else nullcontext()
        with half: return self.model(**batch).loss
    def step(self, batch):
        self.loss(batch).backward()
        self.update()
        self.model.zero_grad()
    def update(self):
        if self.masked: self.opt.i = self.i
        if self.opt: self.opt.step()
        if self.masked: self.forget()
    def forget(self):
        "The same step comes again: no gradient of it was taken yet"
        for p in self.opt.weights: p.took = None
    def move(self):
        "A threshold update, alone: there and back between two steps of the schedule, as one that stays would change no weight"
        self.moves += 1
        self.opt.i = self.i-1+every*(1+self.moves%2)
        self.opt._update_threshold()
        self.opt.weights.note()

def make(model, shape, seed, device):
    torch.manual_seed(seed)
    base = AdaptModel(models[model](), 2)
    n,length = map(int, shape.split('x'))
    ids = torch.randint(1, base.config.vocab_size, (n, length))
    batch = dict(input_ids=ids, attention_mask=torch.ones_like(ids), labels=torch.randint(0, 2, (n,)))
    return base, {k: v.to(device) for k,v in batch.items()}

# ---- time
def wait(device):
    if device=='cuda': torch.cuda.synchronize()

def spread(xs):
    q = statistics.quantiles(xs, n=4) if len(xs)>1 else list(xs)*3
    return {k: round(x, 6) for k,x in zip(('q25', 'median', 'q75'), q)}

def interleave(fns, rounds, device, calls=1, warm=1):
    "name -> seconds of a call, in each round; the functions take turns, in an order that rotates"
    out,names = {k: [] for k in fns},list(fns)
    for i in range(-warm, rounds):
        for k in names[i%len(names):]+names[:i%len(names)]:
            wait(device)
            t = time.perf_counter()
            for _ in range(calls): fns[k]()
            wait(device)
            if i>=0: out[k].append((time.perf_counter()-t)/calls)
    return out

def time_steps(base, batch, names, rounds, device, calls):
    built = variants(device)
    runs = {k: Run(base, built[k][1], device) for k in names}
    fns = {k: lambda r=r: r.step(batch) for k,r in runs.items()}
    raw = interleave(fns, rounds, device, calls, warm=2 if device=='cuda' else 1)
    moves = interleave({k: r.move for k,r in runs.items() if r.masked}, max(3, rounds//2), device)
    share = {k: statistics.median(moves[k])/every if k in moves else 0. for k in names}
    secs = {k: [s+share[k] for s in raw[k]] for k in names}
    def to(ref): return {k: spread([a/b for a,b in zip(v, secs[ref])]) for k,v in secs.items()}
    return dict(rounds=rounds, calls=calls, seconds={k: spread(v) for k,v in secs.items()}, move={k: spread(v) for k,v in moves.items()},
        to_adamw=to('adamw'), to_adamw_fused=to('adamw_fused'), to_limit=to('forward+backward'))

# ---- memory
def tensors_of(opt):
    "Every tensor that an optimiser holds from step to step"
    if opt is None: return []
    held = [t for s in opt.state.values() for t in s.values() if isinstance(t, torch.Tensor)]
    if not isinstance(opt, MaskOptimizer): return held
    head = [t for s in (opt.head.state.values() if opt.head else ()) for t in s.values() if isinstance(t, torch.Tensor)]
    places = [t for p in opt.weights for t in (p.w0, p.m, p.v) if t is not None]
    return [*held, *head, *places, *(t for g in opt.weights.groups for t in (g.theta, g.gone))]

def memory(base, batch, name, device):
    "Bytes of weights, gradients and state that live from step to step; on a GPU also the peak of a step, threshold update included"
    run = Run(base, variants(device)[name][1], device)
    run.step(batch)
    gc.collect()
    if device=='cuda': torch.cuda.reset_peak_memory_stats()
    run.loss(batch).backward()
    grads = [p.grad for p in run.model.parameters() if p.grad is not None]
    sizes = [g._values().nbytes+g._indices().nbytes if g.is_sparse else g.nbytes for g in grads]
    run.update()
    if run.masked: run.move()
    out = dict(weights=sum(p.nbytes for p in run.model.parameters()), gradients=sum(sizes), state=sum(t.nbytes for t in tensors_of(run.opt)))
    out['total'] = sum(out.values())
    if device=='cuda': out['peak'] = torch.cuda.max_memory_allocated()
    return out

def memories(base, batch, names, device):
    out = {}
    for k in names:
        gc.collect()
        if device=='cuda': torch.cuda.empty_cache()
        out[k] = memory(base, batch, k, device)
    for what in ('total', 'peak'):
        for k,r in out.items():
            if what in r: r[f'{what}_to_adamw'] = round(r[what]/out['adamw_fused'][what], 4)
    return out

# ---- launches
class Count(TorchDispatchMode):
    "Counts the operations that PyTorch is asked for"
    n = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += 1
        return func(*args, **(kwargs or {}))

def launches(layers, name, device):
    "What one update of a model with some layers costs in launches (kernels and copies on a GPU), its head included"
    torch.manual_seed(0)
    base = AdaptModel(bert(num_hidden_layers=layers, **tiny), 2)
    batch = make('tiny', '4x16', 0, device)[1]
    run = Run(base, variants(device)[name][1], device)
    run.step(batch)
    run.loss(batch).backward()
    if device=='cpu':
        with Count() as count: run.update()
        return count.n
    from torch.profiler import ProfilerActivity, profile
    wait(device)
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as p:
        run.update()
        wait(device)
    return sum(e.device_type==torch.autograd.DeviceType.CUDA for e in p.events())

def synchronises(base, batch, device):
    "Does a step without a threshold update make the host wait for the GPU? The error, or None"
    run = Run(base, variants(device)['ours'][1], device)
    run.step(batch)
    run.loss(batch).backward()
    torch.cuda.set_sync_debug_mode('error')
    try: run.update()
    except RuntimeError as e: return str(e).splitlines()[0]
    finally: torch.cuda.set_sync_debug_mode('default')

# ---- each piece of work
def pieces(d, rounds, device):
    "Nanoseconds a weight of what a step and a threshold update do, and of fused AdamW, for one d x d matrix"
    g,w0,theta = (torch.randn(d*d, device=device)*s for s in (1, .04, .02))
    w,gone = w0.clone(), torch.zeros(d*d//8, dtype=torch.uint8, device=device)
    dense = nn.Parameter(w0.clone())
    dense.grad = g
    find = kernels.inside if device=='cuda' and kernels.triton else None
    fns = {
        'fused AdamW': torch.optim.AdamW([dense], fused=True).step,
        'theta and weight': lambda: kernels.update(w, g, w0, theta, 0., 1e-9, kernels.Rule()),
        'weight alone': lambda: kernels.write(w, w0, theta, 0.),
        'quantile': lambda: locate([theta], d*d//3, find) if find else locate([theta], d*d//3),
        'what was pruned': lambda: kernels.remember(theta, 0., gone)}
    if device=='cuda' and kernels.triton:
        launch,tau = kernels.OneLaunch([w], [w0], [theta], [0]),torch.zeros(1, device=device)
        fns['theta and weight'] = lambda: launch.update([g], tau, 1e-9, kernels.Rule())
        fns['weight alone'] = lambda: launch.write(tau, kernels.Rule())
    times = interleave(fns, rounds, device, calls=5 if device=='cuda' else 1, warm=2)
    return dict(weights=d*d, **{k: round(statistics.median(v)/d**2*1e9, 4) for k,v in times.items()})

# ---- the record
def machine(device):
    cpu = platform.processor()
    if Path('/proc/cpuinfo').exists():
        cpu = next((l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name')), cpu)
    out = dict(cpu=cpu, arch=platform.machine(), cores=os.cpu_count(), threads=torch.get_num_threads(), load_before=round(os.getloadavg()[0], 2),
        system=platform.system(), python=platform.python_version(), torch=torch.__version__, transformers=transformers.__version__, adaptprune=adaptprune.__version__)
    if device=='cuda': out.update(gpu=torch.cuda.get_device_name(), triton=kernels.triton and kernels.triton.__version__)
    return out

core = 'forward+backward','adamw','adamw_fused','ours'

def measure(model, shapes, rounds, seed, device):
    "All figures of one model"
    calls = 5 if device=='cuda' else 1
    names = [k for k in variants(device) if device=='cuda' or k!='prune']
    out = dict(shapes={}, memory={})
    for i,shape in enumerate(shapes):
        base,batch = make(model, shape, seed, device)
        some = names if not i or device=='cuda' else [*core, 'ours_dense']
        out['shapes'][shape] = time_steps(base, batch, some, rounds, device, calls)
        out['weights'] = sum(p.numel() for p in base.parameters())
        out['masked'] = sum(p.numel() for p in maskable(base.encoder).values())
    if device=='cuda': out['synchronises'] = synchronises(base, batch, device)
    for shape in [*shapes, *(['4x32'] if device=='cuda' else [])]:
        base,batch = make(model, shape, seed, device)
        out['memory'][shape] = memories(base, batch, list(variants(device)), device)
    return out

def tell(model, r):
    for s,t in r['shapes'].items():
        for k,q in t['seconds'].items():
            fused,limit = t['to_adamw_fused'][k]['median'],t['to_limit'][k]['median']
            print(f"{model:7}{s:>8} {k:17} {1e3*q['median']:9.2f} ms = {fused:5.3f} x fused AdamW, {limit:5.3f} x forward and backward")
        for k,q in t['move'].items(): print(f"{model:7}{s:>8} {k:17} threshold update {1e3*q['median']:7.2f} ms")
    for s,t in r['memory'].items():
        for k,m in t.items():
            peak = f", peak {m['peak']/1e6:.0f} MB = {m['peak_to_adamw']:.3f} x" if 'peak' in m else ''
            print(f"{model:7}{s:>8} {k:17} held {m['total']/1e6:8.1f} MB = {m['total_to_adamw']:.3f} x AdamW{peak}")

def main():
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument('--out', type=Path, help='JSON file to write; otherwise only the summary is shown')
    ask.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    ask.add_argument('--model', default=None, help='of bert (base size, random weights), minilm, tiny; comma-separated')
    ask.add_argument('--shapes', default=None, help='batches, as sequences x tokens, comma-separated; on a CPU the first gets all variants')
    ask.add_argument('--rounds', type=int, default=None)
    ask.add_argument('--seed', type=int, default=0)
    ask.add_argument('--quick', action='store_true', help='a tiny model and few rounds; its times mean nothing')
    a = ask.parse_args()
    if a.device=='cuda' and not torch.cuda.is_available(): sys.exit('There is no GPU here: leave out --device cuda.')
    on_gpu = a.device=='cuda'
    names = (a.model or ('tiny' if a.quick else 'bert' if on_gpu else 'bert,minilm')).split(',')
    shapes = (a.shapes or ('4x16' if a.quick else '32x128,32x32' if on_gpu else '16x32,8x128')).split(',')
    rounds = a.rounds or (3 if a.quick else 12 if on_gpu else 7)
    began = time.perf_counter()
    record = dict(machine(a.device), device=a.device, date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        command=' '.join(['python', 'benchmarks/step.py', *sys.argv[1:]]), seed=a.seed, every=every, sparsity=sparsity,
        precision='bfloat16 autocast, float32 weights' if on_gpu else 'float32', variants={k: what for k,(what,_) in variants(a.device).items()})
    found = {m: measure(m, shapes, rounds, a.seed, a.device) for m in names}
    parts = [pieces(d, 5, a.device) for d in ((64, 128) if a.quick else (256, 1024, 4096))]
    counted = [k for k in ('adamw_fused', 'ours', 'ours_foreach') if k in variants(a.device)]
    if on_gpu: record['launches'] = {k: {f'{n} layers': launches(n, k, a.device) for n in (2, 12)} for k in counted}
    for m,r in found.items(): tell(m, r)
    if on_gpu: print('launches of an update:', record['launches'], '; synchronises:', [r['synchronises'] for r in found.values()])
    record.update(wall_seconds=round(time.perf_counter()-began), load_after=round(os.getloadavg()[0], 2))
    if a.out:
        a.out.parent.mkdir(parents=True, exist_ok=True)
        a.out.write_text(json.dumps(dict(record=record, models=found, pieces=parts), indent=1)+'\n')

if __name__=='__main__': main()
