"""What one training step costs in time and memory: masks beside AdamW, beside forward and backward alone, and beside two common ways of masking.

    python benchmarks/step.py --out results/step.json       the record (needs a quiet machine)
    python benchmarks/step.py --quick                       the same on a tiny model, to see that it runs

Times are comparisons within one process: every round takes one step with each variant, in an order that rotates; what is reported is the median over rounds, and of the ratios within a round."""
import copy, ctypes, datetime, gc, json, math, multiprocessing, os, platform, resource, statistics, sys, time
from pathlib import Path
from types import SimpleNamespace
import torch, transformers
from fastcore.script import call_parse, store_true
from torch import nn
from torch.nn.utils import parametrize, prune
from transformers import BertConfig, BertModel
import adaptprune
from adaptprune.head import AdaptModel, load_encoder
from adaptprune.layer import MaskedWeight, maskable
from adaptprune.mask import kth_smallest, split_at
from adaptprune.optim import SparsityController, pack_bits
from adaptprune.train import get_recipe, prepare

def bert(**kw): return BertModel(BertConfig(**kw), add_pooling_layer=False)
models = dict(bert=bert, minilm=lambda: load_encoder('minilm'),
    tiny=lambda: bert(vocab_size=2000, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256))
every, n_steps, sparsity = 10, 1000, .5

# The variants: each takes a model, changes it, and returns (optimiser or None, controller or None).
def dense(m): return None, None
def adamw(m, **kw): return torch.optim.AdamW(m.parameters(), lr=1e-5, **kw), None
class AllRows(nn.Embedding):
    "An embedding that `attach` cannot tell to be one: the whole table is masked at each step"
    def forward(self, x): return super().forward(x)
def ours(m, sparse=True, rows_only=True, **fields):
    "As `adapt` does it; only theta starts 'normal', as ranking a hundred million weights for each variant takes long"
    if not rows_only:
        for e in m.modules(): e.__class__ = AllRows if type(e) is nn.Embedding else e.__class__
    opt = prepare(m, get_recipe(start='normal', **fields), m.encoder, n_steps, sparse_grad=sparse)
    return opt, SparsityController(m.encoder, sparsity, n_steps, every=1)

class SoftMask(nn.Module):
    "The two temperatures as autograd would have them: the value of one sigmoid, the gradient of another"
    def __init__(self, w0): super().__init__(); self.theta = nn.Parameter(torch.full_like(w0, .01))
    def forward(self, w0):
        soft = self.theta.sigmoid()
        return w0*(torch.sigmoid(1e5*self.theta).detach()+soft-soft.detach())
def naive(m):
    m.encoder.requires_grad_(False)
    for [(mod, attr)] in maskable(m.encoder).values(): parametrize.register_parametrization(mod, attr, SoftMask(getattr(mod, attr)))
    return torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=1e-3), None
def pruned(m):
    for [(mod, attr)] in maskable(m.encoder).values():
        w = getattr(mod, attr).detach().abs()
        prune.custom_from_mask(mod, attr, w>kth_smallest([w], w.numel()//2))
    return adamw(m)

variants = { # name: (what it is, how it is built, does it own its weights or share frozen ones)
    'forward+backward': ('forward and backward of the dense model, nothing else: the limit', dense, False),
    'adamw': ('fine-tuning of all weights, torch.optim.AdamW as torch sets it up on this device', adamw, True),
    'adamw_fused': ('the same with fused=True', lambda m: adamw(m, fused=True), True),
    'ours': ("adaptprune's default: t_l=1e5, sign step, sparse embedding gradients, threshold moved every 10 steps", ours, False),
    'ours_hard': ('ours with the hard mask, t_l=inf', lambda m: ours(m, t_l=math.inf), False),
    'ours_adam': ("ours with Adam's step for theta (dense embedding gradients, two numbers of state a weight)", lambda m: ours(m, sparse=False, step='adam'), False),
    'ours_dense_grad': ('ours with dense embedding gradients', lambda m: ours(m, sparse=False), False),
    'ours_all_rows': ('ours, but embeddings mask their whole table', lambda m: ours(m, rows_only=False), False),
    'naive': ('torch.nn.utils.parametrize, the mask by autograd, torch.optim.SGD', naive, False),
    'prune': ('torch.nn.utils.prune masks at 50 %, weights trained by AdamW', pruned, True)}
core = 'forward+backward', 'adamw', 'adamw_fused', 'ours', 'ours_hard', 'naive', 'prune'

class Run:
    "One variant, ready to step"
    def __init__(self, base, name):
        _,build,owns = variants[name]
        self.model = copy.deepcopy(base, {} if owns else {id(p): nn.Parameter(p.detach()) for p in base.encoder.parameters()}).train()
        self.opt,self.ctl = build(self.model)
        if self.ctl: self.look()                                                                                       # from here on some weights are pruned
    def step(self, batch):
        self.model(**batch).loss.backward()
        if self.opt: self.opt.step()
    def look(self): self.ctl.i = n_steps//3; self.ctl.step()

def make(model, shape, seed):
    torch.manual_seed(seed)
    base = AdaptModel(models[model](), 2)
    n,length = map(int, shape.split('x'))
    ids = torch.randint(1, base.config.vocab_size, (n, length))
    return base, dict(input_ids=ids, attention_mask=torch.ones_like(ids), labels=torch.randint(0, 2, (n,)))

def spread(xs):
    q = statistics.quantiles(xs, n=4) if len(xs)>1 else list(xs)*3
    return {k: round(x, 6) for k,x in zip(('q25', 'median', 'q75'), q)}

def interleave(fns, rounds, warm=1):
    "name -> seconds of `rounds` calls of each function, taking turns, in an order that rotates"
    out,names = {k: [] for k in fns}, list(fns)
    for i in range(-warm, rounds):
        for k in names[i%len(names):]+names[:i%len(names)]:
            t = time.perf_counter(); fns[k](); t = time.perf_counter()-t
            if i>=0: out[k].append(t)
    return out

def time_steps(model, shape, names, rounds, seed):
    base,batch = make(model, shape, seed)
    runs = {k: Run(base, k) for k in names}
    def step(r): r.step(batch); r.model.zero_grad()
    raw = interleave({**{k: lambda r=r: step(r) for k,r in runs.items()}, 'look': runs['ours'].look}, rounds)
    secs = {k: [s+look/every*(runs[k].ctl is not None) for s,look in zip(raw[k], raw['look'])] for k in names}
    def to(ref): return {k: spread([a/b for a,b in zip(v, secs[ref])]) for k,v in secs.items()}
    return dict(rounds=rounds, seconds={k: spread(v) for k,v in secs.items()}, to_adamw=to('adamw'), to_adamw_fused=to('adamw_fused'), to_limit=to('forward+backward'),
        schedule=spread([look/every/s for s,look in zip(raw['ours'], raw['look'])]), raw={k: [round(x, 5) for x in v] for k,v in raw.items()})

def time_units(model, shape, rounds, seed):
    "Ten steps as one unit with the real controller, and without one: the schedule's share again, end to end"
    base,batch = make(model, shape, seed)
    runs = {k: Run(base, 'ours') for k in ('with', 'without')}
    ctl = SparsityController(runs['with'].model.encoder, sparsity, n_steps, every=every)
    def unit(r, end):
        for _ in range(every): r.step(batch); r.model.zero_grad(); end()
    t = interleave(dict(with_schedule=lambda: unit(runs['with'], ctl.step), without=lambda: unit(runs['without'], lambda: None)), rounds)
    return dict(rounds=rounds, **{k: spread(v) for k,v in t.items()}, ratio=spread([x/y for x,y in zip(*t.values())]))

# Memory is measured in one forked process for each variant.
def proc(key):
    "Bytes of this process: resident now (VmRSS), or at most (VmHWM, which `memory` sets back); elsewhere than on Linux the most of its life"
    try: return int(next(l for l in open('/proc/self/status') if l.startswith(key)).split()[1])*1024
    except OSError: return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1 if sys.platform=='darwin' else 1024)

def memory(model, shape, name, seed):
    "Bytes of all tensors that live from step to step, each storage once, and the growth of the process at its peak within a step"
    before = proc('VmRSS')
    base,batch = make(model, shape, seed)
    run = Run(base, name); base = None; gc.collect()
    try: ctypes.CDLL(None).malloc_trim(0); Path('/proc/self/clear_refs').write_text('5')
    except (OSError, AttributeError): pass
    for i in range(2): run.model.zero_grad(); run.step(batch)
    high,seen,count,ps = proc('VmHWM')-before, set(), {}, list(run.model.parameters())
    computed = [t for m in run.model.modules() for t in m.__dict__.values() if isinstance(t, torch.Tensor)]         # prune keeps w*mask
    state = [t for s in (run.opt.state.values() if run.opt else []) for t in s.values() if isinstance(t, torch.Tensor)]
    for kind,ts in dict(weights_and_masks=[*ps, *run.model.buffers(), *computed], gradients=[p.grad for p in ps if p.grad is not None],
                        state=state, bits=list(run.ctl.gone.values()) if run.ctl else []).items():
        stores = [x.untyped_storage() for t in ts for x in ([t._values(), t._indices()] if t.is_sparse else [t.detach()])]
        new = {s.data_ptr(): s.nbytes() for s in stores if s.data_ptr() not in seen}
        seen |= set(new); count[kind] = sum(new.values())
    return dict(count, total=sum(count.values()), peak=high)

def memories(model, shape, seed):
    "Call this before the first tensor is computed: a process that runs threads cannot be forked"
    names = [k for k in variants if k not in ('adamw_fused', 'ours_hard')]                                         # they hold what adamw and ours hold
    with multiprocessing.get_context('fork').Pool(1, maxtasksperchild=1) as pool: rows = pool.starmap(memory, [(model, shape, k, seed) for k in names], chunksize=1)
    ref = rows[names.index('adamw')]
    return {k: dict(r, to_adamw=round(r['total']/ref['total'], 4), peak_to_adamw=round(r['peak']/ref['peak'], 4)) for k,r in zip(names, rows)}

def pieces(d, rounds):
    "Nanoseconds a weight of each thing that masks add to a step (and of AdamW's step), for one d x d matrix"
    w0,g,tau = torch.randn(d, d)*.04, torch.randn(d, d), torch.tensor(.01)
    lin = nn.Sequential(nn.Linear(d, d, bias=False)); lin[0].weight.data = w0
    opt = prepare(lin, get_recipe(start='normal'), lin, n_steps)
    theta = lin[0].weight_theta; ctl = SparsityController(lin, sparsity, n_steps, every=1)
    ctx = SimpleNamespace(saved_tensors=(w0, theta.detach(), tau), t_s=1.)
    dense = nn.Parameter(w0.clone()); dense.grad = theta.grad = g
    fns = dict(forward=lambda: MaskedWeight.apply(w0, theta, tau, 1e5, 1.), forward_hard=lambda: MaskedWeight.apply(w0, theta, tau, math.inf, 1.),
        backward=lambda: MaskedWeight.backward(ctx, g), sign_step=opt.step, tau_by_weight=lambda: theta.data.sub_(1e-9),
        look=lambda: (setattr(ctl, 'i', 500), ctl.step()), move=lambda: ctl.move(.4), bits=lambda: pack_bits(theta.detach()<=tau), sparsity=ctl.sparsity)
    for k in ('adamw', 'adamw_fused'): fns[k] = torch.optim.AdamW([dense], fused=True if 'fused' in k else None).step
    return dict(weights=d*d, **{k: round(statistics.median(v)/d**2*1e9, 4) for k,v in interleave(fns, rounds, warm=2).items()})

def select(n, rounds):
    "Seconds to find the k-th smallest of n scores"
    x = torch.randn(n); k = n//3
    fns = dict(kth_smallest=lambda: kth_smallest([x], k), split_at=lambda: split_at([x], k), kthvalue=lambda: x.kthvalue(k), sort=lambda: x.sort())
    return dict(scores=n, rounds=rounds, **{k: round(statistics.median(v), 5) for k,v in interleave(fns, rounds, warm=int(n<5e6)).items()})

def machine():
    cpu = next((l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name')), '') if Path('/proc/cpuinfo').exists() else platform.processor()
    ram = round(os.sysconf('SC_PAGE_SIZE')*os.sysconf('SC_PHYS_PAGES')/2**30)
    return dict(cpu=cpu, arch=platform.machine(), cores=os.cpu_count(), threads=torch.get_num_threads(), ram_gib=ram, load_before=round(os.getloadavg()[0], 2),
        system=platform.system(), python=platform.python_version(), torch=torch.__version__, transformers=transformers.__version__, adaptprune=adaptprune.__version__)

@call_parse
def main(
    out:Path=None, # JSON file to write; otherwise only the summary is shown
    model:str='bert,minilm', # of bert (base size, random weights), minilm, tiny
    shapes:str='16x32,8x128', # batches, as sequences x tokens; the first gets all variants, the others the main ones
    rounds:int=5, # of the first shape; the others get half
    seed:int=0,
    quick:store_true=False # a tiny model and few rounds
):
    "Measure time and memory of a training step"
    t0,start,names = time.perf_counter(), datetime.datetime.now(datetime.timezone.utc), model.split(',')
    if quick: names,shapes,rounds = ['tiny'], '4x16,2x32', 3
    shapes = shapes.split(',')
    record = dict(machine(), date=start.isoformat(timespec='seconds'), seed=seed, command='python benchmarks/step.py '+' '.join(sys.argv[1:]))
    res = dict(record=record, every=every, variants={k: v[0] for k,v in variants.items()}, models={})
    def say(what): print(f'{time.perf_counter()-t0:5.0f} s  {what}', flush=True)
    for m in names: say(f'memory, {m}'); res['models'][m] = dict(memory=dict(shape=shapes[0], bytes=memories(m, shapes[0], seed)), shapes={})
    for m,r in res['models'].items():
        base = make(m, shapes[0], seed)[0]
        r.update(weights=sum(p.numel() for p in base.parameters()), masked=sum(getattr(*pl[0]).numel() for pl in maskable(base.encoder).values()))
        for i,s in enumerate(shapes): say(f'time, {m}, {s}'); r['shapes'][s] = time_steps(m, s, core if i else list(variants), max(2, rounds//2) if i else rounds, seed)
        if m!='bert': say(f'units of {every} steps, {m}'); r['units'] = dict(shape=shapes[0], **time_units(m, shapes[0], rounds, seed))
    say('pieces'); res['pieces'] = [pieces(d, 9) for d in ((64, 128) if quick else (256, 512, 1024, 2048, 4096))]
    say('selection'); res['select'] = [select(n, r) for n,r in ([(10**4, 3)] if quick else [(10**6, 5), (10**7, 3), (10**8, 1)])]
    record.update(wall_seconds=round(time.perf_counter()-t0), load_after=round(os.getloadavg()[0], 2))
    for m,r in res['models'].items():
        for k,b in r['memory']['bytes'].items(): print(f"{m:7} {k:17} {b['total']/1e6:8.1f} MB = {b['to_adamw']:.3f} x AdamW, peak of a step {b['peak_to_adamw']:.3f} x")
        for s,t in r['shapes'].items():
            for k,q in t['seconds'].items():
                print(f"{m:7}{s:>7} {k:17} {q['median']:8.4f} s = "+', '.join(f"{t['to_'+ref][k]['median']:5.3f} x {ref}" for ref in ('adamw', 'adamw_fused', 'limit')))
            print(f"{m:7}{s:>7} the schedule costs {t['schedule']['median']:.2%} of a step")
    say('done')
    if out: out.parent.mkdir(parents=True, exist_ok=True); out.write_text(json.dumps(res, indent=1)+'\n')
