"""What masked networks know of syntax and of senses: probes of MiniLM's word vectors, layer by layer, cell by cell.

    python benchmarks/case_geometry.py --cases PATH --only dense,magnitude,random          # masks that nobody trains
    python benchmarks/case_geometry.py --cases PATH --glue-dir PATH --only mask,finetuned  # masks of tasks, and their teachers
    python benchmarks/case_geometry.py --cases PATH --only trees                           # masks learnt for trees

It adds what it lacks to results/case_geometry.json: stopped and called again, it goes on. Masks that it trains are kept in
--keep, and the fine-tuned networks that teach them in --cache, as of `adaptprune sweep`. A part can be asked for:
`--task cola --sparsities 0.5 --seeds 0,1 --measure trees`.

The folder --cases holds two others. ud-ewt has en_ewt-train.conllu and en_ewt-dev.conllu of the English Web Treebank
(github.com/UniversalDependencies/UD_English-EWT, version 2.15). semcor has brown1.tsv and brown2.tsv, made from
github.com/google-research-datasets/word_sense_disambigation_corpora in the format of adaptprune/data/semcor/README.md.
It needs the extra cases."""
import os
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np, torch
from torch.utils.data import DataLoader

from adaptprune.cli import script
from adaptprune.head import load_encoder, load_tokenizer
from adaptprune.identity import weights_of
from adaptprune.layer import apply_mask
from adaptprune.loop import adapt
from adaptprune.mask import Mask, pack_mask, unpack_mask
from adaptprune.probes import (TreeModel, attention_scores, control_depths, depth_score, distance_scores, draw_pairs, fit_probe,
    guesses, pair_attention, tree_batch, tree_loss, word_states)
from adaptprune.prune import magnitudes, random_mask
from adaptprune.recipe import get_recipe
from adaptprune.results import Records
from adaptprune.senses import choose_senses, read_senses, sense_scores, sense_vectors
from adaptprune.task import adapt_task
from adaptprune.tasks import get_task
from adaptprune.teacher import make_teacher
from adaptprune.timing import with_cost
from adaptprune.trees import chain_distances, read_conllu, uuas

root = Path(__file__).resolve().parent.parent
steps = dict(stsb=719, sst2=1000, cola=1000, mnli=1000)         # of a mask of a task and of its teacher
tree_layer = 3                                                  # whose vectors a mask for trees is learnt on
sizes = dict(train=2500, dev=600, pairs=20_000, held_pairs=5000, examples=10, rank=64, epochs=6, tree_steps=1000)

# What is measured on

@dataclass
class Study:
    "Data and settings, read when they are asked for"
    cases:Path
    glue_dir:str
    cache:str
    keep:Path
    sizes:dict
    model:str = 'minilm'

    @cached_property
    def tokenizer(self): return load_tokenizer(self.model)
    @cached_property
    def train(self): return self.sentences('train', self.sizes['train'])
    @cached_property
    def dev(self): return self.sentences('dev', self.sizes['dev'])
    @cached_property
    def control(self):
        "Random depths of all words, of train and of dev"
        both = control_depths(self.train+self.dev)
        return both[:len(self.train)], both[len(self.train):]

    @cached_property
    def senses(self):
        "Occurrences to learn from and to ask"
        parts = [read_senses(self.cases/'semcor'/f'{name}.tsv', longest=40) for name in ('brown1', 'brown2')]
        return choose_senses(*parts, n=self.sizes['examples'])

    def sentences(self, split, n):
        "Sentences of 5 to 30 words, drawn at random, always the same ones"
        trees = read_conllu(self.cases/'ud-ewt'/f'en_ewt-{split}.conllu', 5, 30)
        return [trees[i] for i in sorted(np.random.default_rng(0).permutation(len(trees))[:n])]

    def encoder(self): return load_encoder(self.model)

# The networks

def inside(mask):
    "How sparse the layers are: together, and one by one"
    layers = {}
    for n,m in mask.items(): layers.setdefault(next(int(p) for p in n.split('.') if p.isdigit()), []).append(m)
    each = [round(1-sum(int(m.sum()) for m in ms)/sum(m.numel() for m in ms), 4) for _,ms in sorted(layers.items())]
    return dict(sparsity=round(mask.sparsity, 6), by_layer=each)

def kept_mask(s, cell, learn):
    "A mask and what its run reported; learnt once"
    file = s.keep/('-'.join(str(v) for v in cell.values())+'.pt')
    if not file.exists():
        mask,report = learn()
        s.keep.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix('.part')
        torch.save(dict(mask=pack_mask(mask), report=report), part)
        part.replace(file)
    held = torch.load(file, weights_only=False)
    weights = weights_of(s.encoder())
    return unpack_mask(held['mask'], {n: weights[n].shape for n in held['mask']}), held['report']

def task_mask(s, cell):
    "A mask of the layers, learnt for a task by the recipe 'distilled'"
    task = cell['task']
    how = dict(glue_dir=s.glue_dir, seed=cell['seed'], cache=s.cache, max_steps=steps[task], progress=False)
    res = adapt_task(task, s.model, recipe='distilled', weights='encoder', sparsity=cell['sparsity'], **how)
    return res.mask, {k: res.report[k] for k in ('metrics', 'teacher_metrics', 'steps', 'seconds')}

def tree_mask(s, cell):
    "A mask of the layers below `tree_layer`, learnt for the loss of the probe and nothing else"
    encoder = s.encoder()
    states = word_states(encoder, s.tokenizer, [t.words for t in s.train])
    probe = fit_probe(states, [t.distances() for t in s.train], s.sizes['rank'], s.sizes['epochs'], seed=cell['seed'])
    model = TreeModel(encoder, tree_layer, probe)
    order = torch.Generator().manual_seed(cell['seed'])
    batches = DataLoader(s.train, 16, shuffle=True, generator=order, collate_fn=lambda trees: tree_batch(s.tokenizer, trees))
    below = [f're:\\blayer\\.{i}\\.' for i in range(tree_layer)]
    res = adapt(model, batches, tree_loss, sparsity=cell['sparsity'], weights=below, max_steps=s.sizes['tree_steps'],
        seed=cell['seed'], progress=False)
    return res.mask, {k: res.report[k] for k in ('steps', 'seconds')}

def fine_tuned(s, cell):
    "The network that teaches the masks of a task"
    about = dict(task=get_task(cell['task']), model=s.model, data=None, glue_dir=s.glue_dir, validate=False, max_length=128)
    how = dict(progress=False)
    net,report = make_teacher(get_recipe('distilled'), s.cache, steps[cell['task']], how, seed=cell['seed'], **about)
    return net.base_model.eval(), dict(metrics=report['teacher_metrics'])

def network(s, cell):
    "The encoder of a cell, and what there is to say of it"
    kind = cell['network']
    encoder = s.encoder().eval()
    if kind=='dense': return encoder, {}
    if kind=='finetuned': return fine_tuned(s, cell)
    report = {}
    if kind=='magnitude': mask = Mask.from_scores(magnitudes(encoder, 'encoder'), cell['sparsity'])
    elif kind=='random': mask = random_mask(encoder, cell['sparsity'], 'encoder', seed=cell['seed'])
    else: mask,report = kept_mask(s, cell, lambda: (tree_mask if kind=='trees' else task_mask)(s, cell))
    return apply_mask(encoder, mask), dict(inside(mask), **report)

def cells(only, tasks, sparsities, seeds):
    "The networks, those first that cost least"
    def fits(s): return sparsities is None or s in sparsities
    for kind in only:
        if kind=='dense': yield dict(network=kind)
        if kind=='magnitude': yield from (dict(network=kind, sparsity=s) for s in (.2, .5, .8) if fits(s))
        if kind=='random': yield from (dict(network=kind, sparsity=s, seed=i) for i in seeds for s in (.5, .8, .2) if fits(s))
        if kind=='trees': yield from (dict(network=kind, sparsity=s, seed=i) for i in seeds for s in (.2, .5) if fits(s))
        if kind=='finetuned': yield from (dict(network=kind, task=t, seed=i) for i,t in product(seeds, tasks))
        if kind!='mask': continue
        yield from (dict(network=kind, task=t, sparsity=s, seed=i) for i,s,t in product(seeds, (.5, .8), tasks) if fits(s))

# What is measured

def rounded(x, digits=5): return [round(float(v), digits) for v in x]

def measure_trees(s, encoder):
    "Distances at every layer for three seeds of the probe; depths and the control task for the first"
    held = [word_states(encoder, s.tokenizer, [t.words for t in trees]) for trees in (s.train, s.dev)]
    distances = [t.distances() for t in s.train]
    chain = round(uuas(s.dev, map(chain_distances, s.dev)), 5)
    def said(targets, seed, kind):
        probe = fit_probe(held[0], targets, s.sizes['rank'], s.sizes['epochs'], seed=seed)
        return guesses(probe, held[1], kind)
    def depth(train, dev): return rounded(depth_score(dev, g) for g in said(train, 0, 'depths'))
    for seed in range(3):
        found = [distance_scores(s.dev, ds) for ds in said(distances, seed, 'distances')]
        row = dict(probe_seed=seed, chain=chain, **{k: rounded(f[k] for f in found) for k in ('uuas', 'spearman')})
        if seed: yield row
        else: yield dict(row, depth=depth(*[[t.depths() for t in ts] for ts in (s.train, s.dev)]), control=depth(*s.control))

def measure_senses(s, encoder):
    "The nearest centroid of a sense, at every layer"
    train,test = s.senses
    x,asked = (sense_vectors(encoder, s.tokenizer, some) for some in (train, test))
    n = Counter(o.sense for o in test)
    best = {}
    for o in test: best[o.word] = max(best.get(o.word, 0), n[o.sense])
    yield dict(accuracy=rounded(sense_scores(x, train, asked, test)), commonest=round(sum(best.values())/len(test), 5),
        words=len(best), senses=len(n), asked=len(test))

def measure_attention(s, encoder):
    "What attention says of dependencies, for three draws of the pairs to fit; the held-out pairs stay the same"
    held = draw_pairs(s.dev, s.sizes['held_pairs'], seed=100)
    held_x = pair_attention(encoder, s.tokenizer, s.dev, held)
    some = s.train[:2*s.sizes['train']//5]
    drawn = [draw_pairs(some, s.sizes['pairs'], seed) for seed in range(3)]
    x = pair_attention(encoder, s.tokenizer, some, [p for pairs in drawn for p in pairs])
    at = np.cumsum([0, *map(len, drawn)])
    for seed,pairs in enumerate(drawn):
        found = attention_scores(x[at[seed]:at[seed+1]], pairs, held_x, held)
        yield dict(probe_seed=seed, pairs=len(pairs), held_pairs=len(held), **{k: round(v, 5) for k,v in found.items()})

measures = dict(trees=measure_trees, senses=measure_senses, attention=measure_attention)

def command(cell, what):
    asked = [f'--only {cell["network"]}', f'--measure {what}']
    if 'task' in cell: asked.append(f'--task {cell["task"]}')
    if 'sparsity' in cell: asked.append(f'--sparsities {cell["sparsity"]}')
    if 'seed' in cell: asked.append(f'--seeds {cell["seed"]}')
    return ' '.join(['python benchmarks/case_geometry.py --cases PATH', *['--glue-dir PATH']*('task' in cell), *asked])

def measured(s, cell, what, made):
    "A record"
    encoder,about = made
    found = with_cost(lambda: dict(found=list(measures[what](s, encoder))))
    return dict(cell=dict(cell, measured=what), model=s.model, network=about, sizes=s.sizes, **found, command=command(cell, what))

def chosen(given, known, what):
    "The parts of an option with commas; an unknown one stops the program"
    asked = given.split(',')
    unknown = [a for a in asked if a not in known]
    if unknown: raise SystemExit(f"Unknown {what} {unknown[0]!r}: give some of {', '.join(known)}.")
    return asked

def main(
    cases:str=None, # folder with ud-ewt and semcor (default: the variable CASES_DIR)
    glue_dir:str=None, # folder with GLUE's data, for masks of tasks (default: the variable GLUE_DIR)
    only:str='dense,magnitude,random,mask,finetuned,trees', # networks, with commas
    task:str='stsb,sst2,cola', # tasks of masks and fine-tuned networks, with commas; mnli may be added
    sparsities:str=None, # sparsities, with commas; all by default
    seeds:str='0,1,2', # seeds of networks, with commas
    measure:str='trees,senses,attention', # what to measure, with commas
    model:str='minilm', # 'minilm', a folder, or a Hub id
    cache:str='runs/imp', # folder of fine-tuned networks, as of `adaptprune sweep`
    keep:str='runs/case_geometry', # folder of the masks that are learnt here
    out:str=str(root/'results/case_geometry.json') # adds what it lacks
):
    "Measure what is missing"
    cases = cases or os.environ.get('CASES_DIR')
    if not cases or not Path(cases, 'ud-ewt').is_dir():
        raise SystemExit(f"No folder ud-ewt in {cases!r}: give --cases PATH, as said at the top of this program.")
    kinds = chosen(only, ('dense', 'magnitude', 'random', 'mask', 'finetuned', 'trees'), 'network')
    whats,tasks = chosen(measure, measures, 'measure'), chosen(task, steps, 'task')
    some = [float(x) for x in sparsities.split(',')] if sparsities else None
    records = Records(out)
    s = Study(Path(cases), glue_dir, cache, Path(keep), sizes, model)
    for cell in cells(kinds, tasks, some, list(map(int, seeds.split(',')))):
        missing = [w for w in whats if not records.has(dict(cell, measured=w))]
        made = network(s, cell) if missing else None
        for what in missing:
            row = measured(s, cell, what, made)
            print(row['cell'], row['found'][0], row['seconds'], 'seconds', flush=True)
            records.add(row)

if __name__=='__main__': script(main)
