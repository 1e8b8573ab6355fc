"""What using the library costs beside the network itself: an import, the command's help, a predictor, reading and tokenising a large table.

    python benchmarks/product.py --out results/product.json      the record; about two minutes
    python benchmarks/product.py --quick                         a tiny model and a small table, to see that it runs

Processes are fresh ones, seven of each, in turns with those that they are compared with. A target that is missed is said, not hidden."""
import csv, json, os, random, resource, statistics, subprocess, sys, tempfile, time
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizer

from adaptprune import load_data
from adaptprune.cli import script
from adaptprune.head import AdaptModel, load_encoder, load_tokenizer
from adaptprune.predict import Predictor
from adaptprune.taskcard import TaskCard
from adaptprune.tasks import make_loaders
from adaptprune.timing import machine

targets = dict(import_s=.05, help_cpu_s=.3, predictor_overhead=.05)

def middle(xs, digits=4): return dict(median=round(statistics.median(xs), digits), least=round(min(xs), digits), greatest=round(max(xs), digits))

def fresh(code):
    "What a fresh process prints last, as a number"
    got = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True, env=dict(os.environ, OMP_NUM_THREADS='1'))
    return float(got.stdout.split()[-1])

_timed = 'import time, torch; began = time.perf_counter(); {}; print(time.perf_counter()-began)'
imports = {'import adaptprune': 'import adaptprune', 'from adaptprune import load': 'from adaptprune import load',
    'from adaptprune import adapt_task': 'from adaptprune import adapt_task', 'import transformers': 'import transformers'}

def importing(times):
    "Seconds of imports beyond `import torch`"
    took = {name: [] for name in imports}
    for _ in range(times):
        for name,code in imports.items(): took[name].append(fresh(_timed.format(code)))
    return {name: middle(xs) for name,xs in took.items()}

def processor_seconds(args):
    "Processor seconds of a command, from its start to its end"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(args, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime+after.ru_stime-before.ru_utime-before.ru_stime

def asking_for_help(times):
    "Processor seconds of `adaptprune --help`, of the help of one command, and of a Python that does nothing"
    python = [sys.executable, '-m', 'adaptprune']
    asked = {'--help': [*python, '--help'], 'adapt --help': [*python, 'adapt', '--help'], 'python alone': [sys.executable, '-c', '']}
    took = {name: [] for name in asked}
    for _ in range(times):
        for name,args in asked.items(): took[name].append(processor_seconds(args))
    return {name: middle(xs) for name,xs in took.items()}

words = ('the a this film book story actor plot scene music was is seemed felt very rather good bad dull bright slow '
    'moving and but with without any real charm humour pace at all in its second half').split()

def sentence(draw, least=5, most=40): return ' '.join(draw.choices(words, k=draw.randint(least, most)))

@torch.no_grad()
def predicting(encoder, tokenizer, rounds):
    """A batch of 32 texts: the bare model on prepared tensors, the same with its tokenizer, the predictor.

    What the predictor adds is measured within each of its calls: what it spends outside of the model, over what it spends inside. Between calls a
    busy machine makes larger differences than that, as `ratio_to` shows"""
    model,draw = AdaptModel(encoder, 3).eval(),random.Random(0)
    texts = [sentence(draw) for _ in range(32)]
    predictor = Predictor(model, tokenizer, TaskCard('classification', 3, text=('text',), labels=('a', 'b', 'c'), max_length=128))
    def tokenised(): return tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors='pt')
    batch = tokenised()
    runs = dict(model=lambda: model(**batch).logits, model_and_tokenizer=lambda: model(**tokenised()).logits, predictor=lambda: predictor.predict(texts))
    took,names = {n: [] for n in runs},list(runs)
    inside,added = [],[]
    for run in runs.values(): run()
    model.register_forward_pre_hook(lambda *_: inside.append(-time.process_time()))
    model.register_forward_hook(lambda *_: inside.append(inside.pop()+time.process_time()))
    for i in range(rounds):
        for n in names[i%3:]+names[:i%3]:
            inside.clear()
            began = time.process_time()
            runs[n]()
            took[n].append(time.process_time()-began)
            if n=='predictor': added.append(took[n][-1]/sum(inside)-1)
    ratios = {n: middle([a/b for a,b in zip(took['predictor'], took[n])]) for n in ('model', 'model_and_tokenizer')}
    return dict(texts=32, tokens_of_the_longest=batch['input_ids'].shape[1], cpu_ms={n: middle([1e3*x for x in xs], 2) for n,xs in took.items()},
        overhead=middle(added), ratio_to=ratios)

def reading(tokenizer, n, times):
    "Seconds to load a generated CSV as a task, and to tokenise it"
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as d:
        path = Path(d)/'reviews.csv'
        with open(path, 'w', newline='') as f:
            out = csv.writer(f)
            out.writerow(['text', 'label'])
            for i in range(n): out.writerow([f'{sentence(draw)} {i}', ('bad', 'neutral', 'good')[i%3]])
        took = dict(load=[], tokenise=[])
        cpu = dict(load=[], tokenise=[])
        for _ in range(times):
            clock,processor = time.perf_counter(),time.process_time()
            _,data = load_data(str(path))
            took['load'].append(time.perf_counter()-clock)
            cpu['load'].append(time.process_time()-processor)
            clock,processor = time.perf_counter(),time.process_time()
            loaders = make_loaders(data, tokenizer)
            took['tokenise'].append(time.perf_counter()-clock)
            cpu['tokenise'].append(time.process_time()-processor)
        size = path.stat().st_size
    tokens = sum(int(l.dataset.lengths.sum()) for l in loaders.values())
    return dict(rows=n, megabytes=round(size/1e6, 1), tokens=tokens, wall_s={k: middle(xs, 2) for k,xs in took.items()}, cpu_s={k: middle(xs, 2) for k,xs in cpu.items()})

def model_and_tokenizer(quick):
    if not quick: return load_encoder('minilm').eval(), load_tokenizer('minilm')
    vocabulary = {w: i for i,w in enumerate(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *dict.fromkeys(words)])}
    size = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=len(vocabulary))
    return BertModel(BertConfig(**size), add_pooling_layer=False).eval(), BertTokenizer(vocab=vocabulary)

def main(
    out:str=None, # file to write
    quick:bool=False, # a tiny model and a small table
    times:int=7, # fresh processes of each kind
    rounds:int=21, # rounds of the predictor
    threads:int=1 # of torch
):
    "Measure, compare with the targets, print and write"
    torch.set_num_threads(threads)
    began,load = time.time(),os.getloadavg()
    encoder,tokenizer = model_and_tokenizer(quick)
    found = dict(imports_s=importing(times), help_cpu_s=asking_for_help(times), predictor=predicting(encoder, tokenizer, rounds),
        table=reading(tokenizer, 1000 if quick else 100_000, 1 if quick else 3))
    got = dict(import_s=found['imports_s']['import adaptprune']['median'], help_cpu_s=found['help_cpu_s']['--help']['median'],
        predictor_overhead=found['predictor']['overhead']['median'])
    verdict = {k: dict(measured=got[k], target=t, met=got[k]<=t) for k,t in targets.items()}
    record = dict(command=' '.join(['python', 'benchmarks/product.py', *sys.argv[1:]]), machine=dict(machine(), threads=threads),
        load_average=dict(before=load, after=os.getloadavg()), wall_s=round(time.time()-began), targets=verdict, **found)
    print(json.dumps(record, indent=1))
    if out: Path(out).write_text(json.dumps(record, indent=1)+'\n')

if __name__=='__main__': script(main)
