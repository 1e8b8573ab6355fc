"""Many classifiers on one base: memory and time for 1, 6 and 20 tasks, as masks, as fine-tuned copies and as LoRA adapters.

    python benchmarks/many_tasks.py --out results/many_tasks.json      the record: MiniLM, some minutes, 3 GB of memory
    python benchmarks/many_tasks.py --quick                            a tiny model, to see that it runs; its numbers mean nothing

Only memory and time are measured, so nothing is trained: masks (half pruned) and adapters are random, copies are equal, and every task has a head of its own.
Memory is what a fresh process holds (resident) when all tasks stand ready and have answered once, less what it holds when the libraries are imported.
Times are of one batch of 32 texts of 32 tokens, its rows dealt to the tasks in turn: wall clock, and the processor's time, which a busy machine does not stretch.
All ways take one turn in each round. `one_model` is the batch through one plain model, which no way can beat."""
import ctypes, json, os, statistics, subprocess, sys, tempfile, time
from pathlib import Path

import torch
from transformers import BertConfig, BertModel

from adaptprune.anatomy import maskable
from adaptprune.artifact import TaskMask
from adaptprune.cli import script
from adaptprune.head import AdaptModel, load_encoder
from adaptprune.mask import Mask
from adaptprune.multitask import MultiTask
from adaptprune.timing import machine, versions

rows,tokens,classes = 32,32,3
tiny = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, vocab_size=500)

def encoder(name):
    "The base, in memory of its own: not in pages of a file that all processes share"
    net = load_encoder('minilm') if name=='minilm' else BertModel(BertConfig(**tiny), add_pooling_layer=False)
    for p in net.parameters(): p.data = p.data.clone()
    return net.eval().requires_grad_(False)

def heads(base, n):
    "A model for each task, all around one base"
    return [AdaptModel(base, classes).eval().requires_grad_(False) for _ in range(n)]

def by_task(n):
    "The rows of each task in the batch"
    return {t: list(range(t, rows, n)) for t in range(min(n, rows))}

def in_order(parts, answers):
    "The answers to the rows of each task, as one batch"
    out = torch.empty(rows, classes)
    for t,at in parts.items(): out[at] = answers[t]
    return out

def masks(name, n, weights='all'):
    "Random masks, half pruned, in a `MultiTask`"
    base = encoder(name)
    many,draw = MultiTask(base),torch.Generator().manual_seed(0)
    for t,model in enumerate(heads(base, n)):
        mask = Mask({k: torch.rand(p.shape, generator=draw)<.5 for k,p in maskable(base, weights).items()})
        many.add(f'task{t}', mask, model)
    names = [f'task{i%n}' for i in range(rows)]
    return lambda batch: torch.stack(many(tasks=names, **batch))

def masks_encoder(name, n):
    "The same without the word embeddings"
    return masks(name, n, 'encoder')

def copies(name, n):
    "As many models as tasks"
    models,parts = [heads(encoder(name), 1)[0] for _ in range(n)],by_task(n)
    def run(batch): return in_order(parts, {t: models[t](**{k: v[at] for k,v in batch.items()}).logits for t,at in parts.items()})
    return run

def adapted(name, n):
    "A base with LoRA adapters of rank 8 on queries and values, as peft chooses for BERT, and a model for each task"
    import peft
    base = encoder(name)
    config = peft.LoraConfig(r=8, lora_alpha=16, init_lora_weights=False)
    net = peft.get_peft_model(base, config, adapter_name='task0')
    for t in range(1, n): net.add_adapter(f'task{t}', config)
    return net.eval(), heads(base, n)

def lora_switched(name, n):
    "LoRA: one adapter after the other"
    net,models = adapted(name, n)
    parts = by_task(n)
    def run(batch):
        out = {}
        for t,at in parts.items():
            net.set_adapter(f'task{t}')
            out[t] = models[t](**{k: v[at] for k,v in batch.items()}).logits
        return in_order(parts, out)
    return run

def lora_mixed(name, n):
    "LoRA: one pass of the base for all rows, peft's `adapter_names`"
    net,models = adapted(name, n)
    parts,names = by_task(n),[f'task{i%n}' for i in range(rows)]
    def run(batch):
        hs = net(**batch, output_hidden_states=True, adapter_names=names).hidden_states
        x = models[0].pool(hs, batch['attention_mask'])
        return in_order(parts, {t: models[t].head(x[:,at]) for t,at in parts.items()})
    return run

def one_model(name, n):
    "One model, for all rows"
    model = heads(encoder(name), 1)[0]
    return lambda batch: model(**batch).logits

ways = dict(masks=masks, masks_encoder=masks_encoder, copies=copies, lora_switched=lora_switched, lora_mixed=lora_mixed, one_model=one_model)

def batch_of(name):
    vocabulary = 30000 if name=='minilm' else tiny['vocab_size']
    ids = torch.randint(1, vocabulary, (rows, tokens), generator=torch.Generator().manual_seed(0))
    return dict(input_ids=ids, attention_mask=torch.ones_like(ids))

def resident():
    "Bytes that this process holds, when what is free has been given back"
    ctypes.CDLL('libc.so.6').malloc_trim(0)
    return int(Path('/proc/self/statm').read_text().split()[1])*os.sysconf('SC_PAGE_SIZE')

@torch.no_grad()
def held(way, name, n):
    "In a fresh process: mebibytes for a way, beyond the libraries"
    import peft
    torch.randn(64, 64)@torch.randn(64, 64)
    before = resident()
    run = ways[way](name, n)
    run(batch_of(name))
    return (resident()-before)/2**20

def measured_memory(way, name, n):
    "What a process of its own says of its memory"
    code = f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import many_tasks; print(many_tasks.held({way!r}, {name!r}, {n}))'
    got = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, env=dict(os.environ, OMP_NUM_THREADS='1'))
    return float(got.stdout.split()[-1])

def quartiles(xs): return [round(q, 2) for q in statistics.quantiles(xs, n=4)]

@torch.no_grad()
def timed(name, n, rounds):
    "Quartiles of milliseconds of a batch for each way, of the clock and of the processor, and of the ratio to `copies` within a round"
    runs,batch = {w: make(name, n) for w,make in ways.items()},batch_of(name)
    for run in runs.values(): run(batch)
    wall,cpu = ({w: [] for w in ways} for _ in range(2))
    order = list(ways)
    for i in range(rounds):
        for w in order[i%len(order):]+order[:i%len(order)]:
            clock,processor = time.perf_counter(),time.process_time()
            runs[w](batch)
            cpu[w].append(1e3*(time.process_time()-processor))
            wall[w].append(1e3*(time.perf_counter()-clock))
    return {w: dict(wall_ms=quartiles(wall[w]), cpu_ms=quartiles(cpu[w]),
        cpu_of_copies=quartiles([a/b for a,b in zip(cpu[w], cpu['copies'])])) for w in ways}

@torch.no_grad()
def shipped(name):
    "Kilobytes of a task's file: a mask with a head, a copy, an adapter with a head"
    base = encoder(name)
    model, = heads(base, 1)
    head = sum(p.nbytes for p in model.head.parameters())
    mask = Mask({k: torch.rand(p.shape)<.5 for k,p in maskable(base).items()})
    with tempfile.TemporaryDirectory() as d:
        TaskMask(mask, base).save_pretrained(d)
        file = sum(p.stat().st_size for p in Path(d).iterdir())
    net,_ = adapted(name, 1)
    lora = sum(p.nbytes for k,p in net.named_parameters() if 'lora_' in k)
    whole = sum(p.nbytes for p in base.parameters())
    return {k: round(v/1024) for k,v in dict(mask=file+head, copy=whole+head, lora=lora+head, head=head).items()}

def main(
    out:str=None, # file to write
    quick:bool=False, # a tiny model
    rounds:int=11, # rounds of times
    counts:str='1,6,20', # numbers of tasks
    threads:int=1 # of torch
):
    "Measure, print and write"
    torch.set_num_threads(threads)
    name = 'tiny' if quick else 'minilm'
    began,load = time.time(),os.getloadavg()
    found = []
    for n in map(int, counts.split(',')):
        memory = {w: round(measured_memory(w, name, n), 1) for w in ways if w!='one_model'}
        found.append(dict(tasks=n, memory_mib=memory, batch=timed(name, n, rounds)))
        print(n, memory, {w: (t['wall_ms'][1], t['cpu_ms'][1]) for w,t in found[-1]['batch'].items()}, flush=True)
    how = dict(model=name, rows=rows, tokens=tokens, rounds=rounds, numbers='quartiles', masks='random, half pruned', adapters='random', training='none: only memory and time are measured',
        lora='rank 8 on queries and values', heads='one for each task, in every way', ways={w: f.__doc__ for w,f in ways.items()})
    record = dict(command=' '.join(['python', 'benchmarks/many_tasks.py', *sys.argv[1:]]), config=how,
        machine=dict(machine(), **versions('peft'), threads=threads), load_average=dict(before=load, after=os.getloadavg()),
        wall_s=round(time.time()-began), kilobytes_of_a_task=shipped(name), found=found)
    if out: Path(out).write_text(json.dumps(record, indent=1)+'\n')
    return record

if __name__=='__main__': script(main)
