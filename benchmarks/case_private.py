"""Masks, gates and heads of SST-2 under differential privacy, and how much they tell.

    python benchmarks/case_private.py --glue-dir PATH                      # adds what it lacks to results/case_private.json
    python benchmarks/case_private.py --glue-dir PATH --only noise,head    # some of the kinds: noise, head, gates, mask, attack
    python benchmarks/case_private.py --glue-dir PATH --plan               # what is missing, and about how long it takes

A private head takes a minute or more, after ten in which the frozen encoder reads all training rows once. A mask or gates take one backward pass for each example: on one core about
45 minutes for 62 batches of 1,024, on a GPU a few. The large batches, `--large`, are for a GPU.
Scores are of the dev set, whose rows are not protected. The bounds of gradients were chosen on the packaged sentences (`mini-sentiment`);
the other settings were not tuned.
SST-2 is public, so the noise comes from a known seed and a run can be made again. Needs the extra `private`."""
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from statistics import median

import torch

from adaptprune.cli import script
from adaptprune.head import Head
from adaptprune.privacy import Privacy, account_of, epsilon_spent, sampling_rates, sigma_for
from adaptprune.private import HeadLearner, MaskLearner, adapt_privately, attack_auc, learn_privately, private_recipe, row_losses
from adaptprune.recipe import as_method
from adaptprune.results import Records
from adaptprune.setup import sampled, set_up
from adaptprune.tasks import load_task
from adaptprune.timing import with_cost

root = Path(__file__).resolve().parent.parent
n_train,delta = 67_349, 1e-5
kinds = dict(head=dict(method='features', beta=3e-3), gates=dict(pattern='row', beta=3e-3), mask=dict(beta=3e-3))
numbers = dict(weights=10_616_832, gates=20_736, head=148_617)      # that get noise, in MiniLM's layers and in the head
seconds = dict(head=.004, gates=.043, mask=.043)                    # for an example, on one core

# What runs there are

small = [(256, 250), (1024, 62)]                                    # batch size and steps: as many rows are read
large = [(4096, 16), (4096, 62), ((512, 1024, 2048), 62)]

def runs(with_large=False):
    "The cells of all runs, the cheapest first"
    pairs = small+large*with_large
    for kind,(size,steps),epsilon in product(kinds, pairs, (8., None)): yield cell(kind, size, steps, epsilon)
    if with_large:
        for kind,(size,steps) in product(kinds, large[:2]): yield cell(kind, size, steps, 2.)
    for size,steps in large: yield cell('head', size, steps, 8.)
    for seed in (1, 2): yield cell('head', 1024, 62, 8., seed)

def cell(kind, size, steps, epsilon, seed=0):
    return dict(task='sst2', kind=kind, batch_size=list(size) if isinstance(size, tuple) else size, steps=steps, epsilon=epsilon, seed=seed)

def privacy_of(c):
    size = c['batch_size']
    return Privacy(epsilon=c['epsilon'], delta=delta, batch_size=tuple(size) if isinstance(size, list) else size, steps=c['steps'],
        known_seed=c['seed'])

def cost(c):
    "Seconds on one core"
    return seconds[c['kind']]*sum(privacy_of(c).sizes())

# What is measured

@cache
def on_frozen(glue_dir):
    "What learns a head, with vectors of all training rows, which are computed once"
    recipe = as_method(replace(private_recipe, beta=kinds['head']['beta']), 'features')
    return HeadLearner(set_up('sst2', 'minilm', glue_dir=glue_dir), privacy_of(cell('head', 1024, 62, None)), recipe)

def head_of(c, glue_dir):
    "A run of a head, as `adapt_privately` does it with method='features'"
    learner = on_frozen(glue_dir)
    learner.privacy = privacy_of(c)
    torch.manual_seed(c['seed'])
    first,last = learner.model.head.mlp[1],learner.model.head.mlp[-1]
    learner.model.head.load_state_dict(Head(len(learner.x[0]), first.in_features, last.out_features).state_dict())
    learner.restart()
    rates = sampling_rates(learner.privacy, n_train)
    sigma = 0. if c['epsilon'] is None else sigma_for(c['epsilon'], rates, delta)
    learn_privately(learner, sigma, progress=False)
    metrics = learner.setup.evaluate(learner.model)
    return dict(metrics=metrics, privacy=account_of(learner.privacy, sigma, n_train), thetas=0)

def trained(c, glue_dir):
    "A run"
    if c['kind']=='head': return head_of(c, glue_dir)
    res = adapt_privately('sst2', 'minilm', privacy_of(c), glue_dir=glue_dir, seed=c['seed'], **kinds[c['kind']])
    r = res.report
    return dict(metrics=r['metrics'], privacy=r['privacy'], sparsity=r.get('sparsity'), thetas=r.get('thetas', 0))

def noise_table():
    "The noise that a promise takes, and its length on the mean gradient over the bound of an example"
    found = []
    for epsilon,(size,steps) in product((8., 2.), small+large[:2]):
        p = Privacy(epsilon=epsilon, delta=delta, batch_size=size, steps=steps)
        rates = sampling_rates(p, n_train)
        sigma = sigma_for(epsilon, rates, delta)
        lengths = {k: sigma/size*n**.5 for k,n in numbers.items()}
        asked = dict(epsilon=epsilon, batch_size=size, steps=steps)
        found.append(dict(asked, sigma=sigma, spent=epsilon_spent(sigma, rates, delta), lengths=lengths))
    return found

mini = dict(epsilon=8., delta=1e-3, batch_size=32, steps=40)         # of the page's own run, on 100 packaged sentences

def mini_noise():
    "The noise of a small run"
    rates = sampling_rates(Privacy(**mini), 100)
    return dict(mini, rows=100, sigma=sigma_for(mini['epsilon'], rates, mini['delta']))

def norms(n=12):
    "Medians of the norms of gradients of theta and head at the start, of packaged sentences"
    setup = set_up('mini-sentiment', 'minilm')
    learner = MaskLearner(setup, Privacy(epsilon=None, batch_size=64, steps=10, clip=1e9, clip_head=1e9), private_recipe, .5)
    def one(i):
        parts = learner.batch_sum([i]).sums
        k = len(learner.places)
        return [torch.stack([t.norm() for t in some]).norm().item() for some in (parts[:k], parts[k:])]
    theta,head = zip(*map(one, range(n)))
    return dict(rows=n, theta=median(theta), head=median(head))

def attacked(kind, epsilon, glue_dir, n=1000):
    "A run on a thousand rows, and an attack that has a thousand others beside them"
    data = sampled(load_task('sst2', glue_dir), 2*n, seed=0)
    halves = dict(train=data['train'].select(range(n)), dev=data['dev'])
    others = dict(train=data['train'].select(range(n, 2*n)), dev=data['dev'])
    p = Privacy(epsilon=epsilon, delta=1e-4, batch_size=128, steps=80, known_seed=0)
    res = adapt_privately('sst2', 'minilm', p, data=halves, seed=0, **kinds[kind])
    losses = [row_losses(res.model, set_up('sst2', 'minilm', data=d).loaders['train']) for d in (halves, others)]
    r = res.report
    means = [l.mean().item() for l in losses]
    return dict(auc=attack_auc(*losses), losses=means, metrics=r['metrics'], privacy=r['privacy'])

# The work

def jobs(glue_dir, with_large):
    "Kind, cell, seconds on one core, and what measures it"
    yield 'noise', dict(measured='noise'), 60, lambda: dict(found=noise_table())
    yield 'noise', dict(measured='mini'), 10, lambda: dict(found=mini_noise())
    yield 'noise', dict(measured='norms'), 10, lambda: dict(found=norms())
    for c in runs(with_large): yield c['kind'], c, cost(c), lambda c=c: trained(c, glue_dir)
    for kind,epsilon in product(kinds, (None, 8.)):
        c = dict(task='sst2', measured='attack', kind=kind, epsilon=epsilon, seed=0)
        yield 'attack', c, 80*128*seconds[kind], lambda kind=kind, epsilon=epsilon: attacked(kind, epsilon, glue_dir)

def recorded(measure, c, kind):
    "A measurement as it is recorded"
    about = dict(model='minilm', metric='accuracy', data='GLUE', split='dev')
    return dict(cell=c, **about, **with_cost(measure), command=f'python benchmarks/case_private.py --glue-dir PATH --only {kind}')

def main(
    glue_dir:str=None, # folder with GLUE's data (default: the variable GLUE_DIR)
    only:str=None, # kinds to measure, with commas: noise, head, gates, mask, attack; all by default
    large:bool=False, # large batches too, for a GPU
    epsilon:float=None, # runs of this epsilon only
    plan:bool=False, # say what is missing, and start nothing
    out:str=str(root/'results/case_private.json') # adds what it lacks
):
    "Measure what is missing"
    records = Records(out)
    asked = only.split(',') if only else ['noise', *kinds, 'attack']
    for kind,c,takes,measure in jobs(glue_dir, large):
        if kind not in asked or records.has(c) or epsilon is not None and c.get('epsilon')!=epsilon: continue
        said = ' '.join(f'{k}={v}' for k,v in c.items())
        if plan: print(f'{takes/60:6.0f} min  {said}')
        if plan: continue
        row = recorded(measure, c, kind)
        records.add(row)
        print(said, row.get('metrics'), row.get('auc', ''), flush=True)

if __name__=='__main__': script(main)
