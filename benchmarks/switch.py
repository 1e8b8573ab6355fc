"""Many tasks on one base: how long a switch takes beside a plain copy and a reload, what the masks take, and mixed batches.

    python benchmarks/switch.py --out results/switch.json      the record: BERT-base's shapes, random weights (some minutes, 3 GB of memory)
    python benchmarks/switch.py --threads 2 --out results/switch_2_threads.json      the same on two threads
    python benchmarks/switch.py --quick                        a tiny model, to see that it runs; its times mean nothing

Everything that is compared takes one turn in each round, so that a slow moment of the machine hits all of it; reported are quartiles over the rounds in milliseconds, and of
the ratios within a round: of the wall clock, and of the processor's time, which a busy machine does not stretch. Masks are random, half kept: no switch can profit from tasks that are alike. The copy is `copy_` of the tensors that a switch writes. The reload is safetensors and `load_state_dict`
from a file that the system holds in its cache; `reload_uncached` asks it first to forget the file (Linux; no use on a RAM disk). "obvious" multiplies by unpacked bits; "lookup" gathers eight factors for each byte of the mask from a table, in pieces."""
import os, statistics, sys, tempfile, time
from pathlib import Path
import json, safetensors.torch, torch
from transformers import BertConfig, BertModel
from adaptprune.anatomy import maskable
from adaptprune.cli import script
from adaptprune.layer import fingerprint
from adaptprune.mask import Mask, pack_bits, unpack_bits
from adaptprune.multitask import MultiTask
from adaptprune.results import environment

configs = {'BERT-base': {}, 'MiniLM-L6': dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536),
    'tiny': dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=500)}

def model(name, dtype=torch.float32):
    torch.manual_seed(0)
    return BertModel(BertConfig(**configs[name]), add_pooling_layer=False).to(dtype).eval()

def random_masks(net, n, keep=.5):
    gen,ps = torch.Generator().manual_seed(0),dict(net.named_parameters())
    return {f'task{i}': Mask({m: torch.rand(ps[m].shape, generator=gen)<keep for m in maskable(net)}) for i in range(n)}

def quartiles(xs, digits): return [round(float(q), digits) for q in (min(xs), *statistics.quantiles(xs, n=4), max(xs))]

def rounds(fs, n, base):
    "Least, quartiles and greatest: milliseconds of each function, of the processor and of the clock, and their ratios to `base` within a round"
    cpu,wall = {k: [] for k in fs},{k: [] for k in fs}
    for f in fs.values(): f(0)
    for i in range(1, n+1):
        for k,f in fs.items():
            c,w = time.process_time(),time.perf_counter()
            f(i)
            wall[k].append(1e3*(time.perf_counter()-w))
            cpu[k].append(1e3*(time.process_time()-c))
    def times(ts, k): return dict(ms=quartiles(ts[k], 2), ratio=quartiles([t/b for t,b in zip(ts[k], ts[base])], 3))
    return {k: dict(cpu=times(cpu, k), wall=times(wall, k)) for k in fs}

def brief(r): return {k: [x for t in ('cpu', 'wall') for x in (v[t]['ms'][2], v[t]['ratio'][2])] for k,v in r.items() if isinstance(v, dict) and 'cpu' in v}

def forget(file):
    "Drop a file from the system's cache"
    with open(file, 'rb') as f:
        os.fsync(f.fileno())
        if hasattr(os, 'posix_fadvise'): os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

def obvious(pairs, packed):
    for (w,w0),p in zip(pairs, packed): torch.mul(w0, unpack_bits(p, w0.numel()).view(w0.shape), out=w)

table = ((torch.arange(256)[:,None]>>torch.arange(8))&1).float()
def lookup(pairs, packed, piece=2**18):
    factors,at = torch.empty(piece//8, 8),torch.empty(piece//8, dtype=torch.int32)
    for (w,w0),p in zip(pairs, packed):
        for a,b,i in zip(w.view(-1).split(piece), w0.view(-1).split(piece), p.split(piece//8)):
            torch.index_select(table, 0, at[:len(i)].copy_(i), out=factors[:len(i)])
            torch.mul(b, factors[:len(i)].view(-1)[:len(b)], out=a)

@torch.no_grad()
def switching(name, dtype, n, reps, folder):
    net,twin = model(name, dtype),model(name, dtype)
    before,live,other = fingerprint(net),dict(net.named_parameters()),dict(twin.named_parameters())
    masks = random_masks(net, n)
    t = time.perf_counter()
    many = MultiTask(net, masks)
    added = (time.perf_counter()-t)/n
    file,names = str(Path(folder)/'tuned.safetensors'),list(many._weights)
    safetensors.torch.save_file({k: p.detach().clone() for k,p in live.items()}, file)
    pairs = [(other[k].detach(), many._weights[k].w0) for k in names]
    fs = dict(copy=lambda i: [w.copy_(w0) for w,w0 in pairs], switch=lambda i: many.use(f'task{i%n}'),
        reload=lambda i: twin.load_state_dict(safetensors.torch.load_file(file)), reload_uncached=lambda i: (forget(file), twin.load_state_dict(safetensors.torch.load_file(file))))
    if dtype==torch.float32:
        packed = [[pack_bits(m[k]) for k in names] for m in masks.values()]
        fs.update(lookup=lambda i: lookup(pairs, packed[i%n]), obvious=lambda i: obvious(pairs, packed[i%n]))
    out,memory = rounds(fs, reps, 'copy'),many.memory()
    for k,m in masks.items():
        with many.use(k): assert all(torch.equal(live[x], many._weights[x].w0*m[x]) for x in names)
    calls = rounds(dict(again=lambda i: many.use(many.task)), reps, 'again')['again']['wall']['ms']
    fp32 = 4*next(iter(masks.values())).numel
    many.close()
    assert fingerprint(net)==before
    return dict(model=name, dtype=str(dtype)[6:], tasks=n, weights=fp32//4, bytes=memory['pristine'], add_s=round(added, 3), use_of_the_task_in_use_ms=calls,
        memory=dict(memory, fp32_copy=fp32, mask_of_fp32_copy=round(max(memory['masks'].values())/fp32, 6)), **out)

@torch.no_grad()
def mixing(name, n, rows, tokens, reps):
    net = model(name)
    many = MultiTask(net, random_masks(net, n))
    gen = torch.Generator().manual_seed(0)
    x = torch.randint(1, net.config.vocab_size, (rows, tokens), generator=gen)
    tasks = [f'task{int(i)}' for i in torch.arange(rows)[torch.randperm(rows, generator=gen)]%n]
    parts = {t: x[[i for i,u in enumerate(tasks) if u==t]] for t in sorted(set(tasks))}
    def per_row(i): return [many(x[j:j+1], tasks=t)[0] for j,t in enumerate(tasks)]
    def separate(i):
        def run(t): many.use(t); return many(parts[t])[0]
        return {t: run(t) for t in parts}
    got,want = many(x, tasks=tasks),separate(0)
    assert all(torch.equal(torch.stack([a for a,u in zip(got, tasks) if u==t]), want[t]) for t in parts)
    alone = max(float((a-b).abs().max()) for a,b in zip(got, (r[0] for r in per_row(0))))
    out = rounds(dict(mixed=lambda i: many(x, tasks=tasks), separate=separate, switch_per_row=per_row, one_task=lambda i: many(x)), reps, 'mixed')
    many.close()
    return dict(model=name, tasks=n, rows=rows, tokens=tokens, equal_to_separate=True, largest_difference_to_rows_alone=alone, **out)

def main(
    out:str=None, # file to write
    quick:bool=False, # a tiny model
    tasks:int=4, # number of tasks
    threads:int=1, # threads of torch
    reps:int=25 # rounds; a quarter of it for mixed batches of BERT-base
):
    torch.set_num_threads(threads)
    start,names = time.time(),['tiny', 'tiny'] if quick else ['BERT-base', 'MiniLM-L6']
    with tempfile.TemporaryDirectory() as d: switch = [switching(n, t, tasks, reps, d) for n,t in ((names[0], torch.float32), (names[0], torch.bfloat16), (names[1], torch.float32))]
    mixed = [mixing(names[1], tasks, 32, 32, reps), mixing(names[0], tasks, 16, 64, max(3, reps//4))]
    cols = 'least, lower quartile, median, upper quartile, greatest'
    res = dict(command=' '.join(['python', 'benchmarks/switch.py', *sys.argv[1:]]), config=dict(threads=threads, masks='random, half kept, seed 0', rounds=reps, numbers=cols),
        environment=environment(), load_average=os.getloadavg(), wall_s=round(time.time()-start), switch=switch, mixed=mixed)
    for r in switch: print(r['model'], r['dtype'], brief(r), r['memory'], r['use_of_the_task_in_use_ms'])
    for r in mixed: print(r['model'], brief(r), r['largest_difference_to_rows_alone'])
    if out: Path(out).write_text(json.dumps(res, indent=1)+'\n')

if __name__=='__main__': script(main)
