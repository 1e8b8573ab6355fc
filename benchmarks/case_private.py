"""Masks, gates and heads of SST-2 under differential privacy, and how much they tell.

    python benchmarks/case_private.py --glue-dir PATH                      # adds what it lacks to results/case_private.json
    python benchmarks/case_private.py --glue-dir PATH --only linear,head   # some of: noise, choice, linear, head, pruned, gates, mask, attack
    python benchmarks/case_private.py --glue-dir PATH --plan               # what is missing, and about how long it takes

All read the mean vectors of a text. `linear` is logistic regression on those of the last layer, `head` the library's small network on
those of all layers, and `pruned` the same head on an encoder that lost half of its weights by magnitude, where masks begin; all take a minute or more, after ten in which the frozen encoder reads all training rows once. A mask or gates need
the gradient of each example: on one core about half an hour for 63,000 rows. `--large` adds runs that read up to four times as many.
Scores are of the dev set, whose rows are not protected. The bounds of gradients were chosen on the packaged sentences
(`mini-sentiment`). The learning rates of `linear` and `head` were chosen with `--only choice`, on rows of train that were held out;
the account does not cover that look, for which one needs public rows of the same kind. Masks and gates take the rate of `head`.
SST-2 is public, so the noise comes from a known seed and a run can be made again. Needs the extra `private`."""
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from statistics import median

import torch
from torch import nn

from adaptprune.cli import script
from adaptprune.head import Head
from adaptprune.layer import apply_mask
from adaptprune.mask import Mask
from adaptprune.privacy import Privacy, account_of, epsilon_spent, sampling_rates, sigma_for
from adaptprune.private import HeadLearner, MaskLearner, adapt_privately, attack_auc, learn_privately, private_recipe, row_losses
from adaptprune.prune import magnitudes
from adaptprune.recipe import as_method
from adaptprune.results import Records
from adaptprune.setup import sampled, set_up
from adaptprune.tasks import load_task
from adaptprune.timing import with_cost

root = Path(__file__).resolve().parent.parent
n_train,delta = 67_349, 1e-5
parted = 16_000, 2000                                               # rows of train for a choice: to learn from, and to score
rates = (.003, .01, .03, .1, .3)
chosen = dict(linear=.03, head=.1)                                  # by `--only choice`
on_vectors = dict(linear=dict(beta=chosen['linear']), head=dict(beta=chosen['head']))
masks = dict(gates=dict(pattern='row', beta=chosen['head']), mask=dict(beta=chosen['head']))
controls = dict(pruned=dict(beta=chosen['head']))
kinds = on_vectors | controls | masks
numbers = dict(weights=10_616_832, gates=20_736, head=148_617)      # that get noise, in MiniLM's layers and in the head
seconds = dict(linear=.001, head=.002, pruned=.002, gates=.025, mask=.02)       # for an example, on one core

# What runs there are

equal = [(1024, 62), (256, 250), (4096, 16)]                        # batch size and steps: as many rows are read
large = [(4096, 62), ((512, 1024, 2048), 62)]

def runs(with_large=False):
    "The cells of all runs, the cheapest first"
    pairs = equal+large*with_large
    for kind,(size,steps),epsilon in product(kinds, pairs, (8., None)): yield cell(kind, size, steps, epsilon)
    if with_large:
        for kind,steps in product(kinds, (16, 62)): yield cell(kind, 4096, steps, 2.)
    for kind,(size,steps) in product(on_vectors, large): yield cell(kind, size, steps, 8.)
    for kind,seed in product(on_vectors, (1, 2)): yield cell(kind, 1024, 62, 8., seed)

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

class OnLast(Head):
    "Logistic regression on the last layer's vector"
    def __init__(self, width, n_out):
        nn.Module.__init__(self)
        self.map = nn.Linear(width, n_out)

    def forward(self, hs): return self.map(hs[-1])

def reader(setup):
    "What learns on the vectors of a frozen encoder, which are computed once"
    return HeadLearner(setup, privacy_of(cell('head', *equal[0], None)), as_method(private_recipe, 'features'))

@cache
def on_all(glue_dir, pruned=False):
    "All training rows of SST-2"
    setup = set_up('sst2', 'minilm', glue_dir=glue_dir, pooling='mean')
    if pruned: apply_mask(setup.model.encoder, Mask.from_scores(magnitudes(setup.model.encoder, 'encoder'), .5))
    return reader(setup)

@cache
def on_some(glue_dir):
    "Rows of train to learn from, and others in place of the dev set"
    n,held = parted
    rows = sampled(load_task('sst2', glue_dir), n+held, seed=0)['train']
    parts = dict(train=rows.select(range(n)), dev=rows.select(range(n, n+held)))
    return reader(set_up('sst2', 'minilm', data=parts, pooling='mean'))

def learn_head(learner, c, rate):
    "Learn the head of a cell, from its first values on; the noise over the bound"
    learner.privacy = privacy_of(c)
    learner.recipe = replace(learner.recipe, beta=rate)
    torch.manual_seed(c['seed'])
    n_layers,width = learner.x.shape[1:]
    learner.use(OnLast(width, 2) if c['kind']=='linear' else Head(n_layers, width, 2))
    learner.model.eval()
    accounted = sampling_rates(learner.privacy, n_train)
    sigma = 0. if c['epsilon'] is None else sigma_for(c['epsilon'], accounted, delta)
    learn_privately(learner, sigma, progress=False)
    return sigma

def choice(kind, rate, glue_dir):
    "What a learning rate reaches on held-out rows, with the noise of a run on all rows"
    learner = on_some(glue_dir)
    sigma = learn_head(learner, cell(kind, *equal[0], 8.), rate)
    return dict(metrics=learner.setup.evaluate(learner.model), sigma=sigma)

def trained(c, glue_dir):
    "A run"
    if c['kind'] in on_vectors | controls:
        learner = on_all(glue_dir, c['kind'] in controls)
        sigma = learn_head(learner, c, kinds[c['kind']]['beta'])
        metrics = learner.setup.evaluate(learner.model)
        return dict(metrics=metrics, privacy=account_of(learner.privacy, sigma, n_train), thetas=0)
    how = dict(glue_dir=glue_dir, seed=c['seed'], pooling='mean')
    res = adapt_privately('sst2', 'minilm', privacy_of(c), **how, **kinds[c['kind']])
    r = res.report
    return dict(metrics=r['metrics'], privacy=r['privacy'], sparsity=r.get('sparsity'), thetas=r.get('thetas', 0))

def noise_table():
    "The noise that a promise takes, and its length on the mean gradient over the bound of an example"
    found = []
    for epsilon,(size,steps) in product((8., 2.), equal+large[:1]):
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
    setup = set_up('mini-sentiment', 'minilm', pooling='mean')
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
    how = kinds[kind] if kind in masks else dict(kinds[kind], method='features')
    res = adapt_privately('sst2', 'minilm', p, data=halves, seed=0, pooling='mean', **how)
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
    for kind,rate in product(on_vectors, rates):
        yield 'choice', dict(measured='choice', kind=kind, rate=rate), 60, lambda kind=kind, rate=rate: choice(kind, rate, glue_dir)
    for c in runs(with_large): yield c['kind'], c, cost(c), lambda c=c: trained(c, glue_dir)
    for kind,epsilon in product(('head', *masks), (None, 8.)):
        c = dict(task='sst2', measured='attack', kind=kind, epsilon=epsilon, seed=0)
        yield 'attack', c, 80*128*seconds[kind], lambda kind=kind, epsilon=epsilon: attacked(kind, epsilon, glue_dir)

def recorded(measure, c, kind):
    "A measurement as it is recorded"
    split = 'held-out train' if c.get('measured')=='choice' else 'dev'
    about = dict(model='minilm', metric='accuracy', data='GLUE', split=split)
    return dict(cell=c, **about, **with_cost(measure), command=f'python benchmarks/case_private.py --glue-dir PATH --only {kind}')

def main(
    glue_dir:str=None, # folder with GLUE's data (default: the variable GLUE_DIR)
    only:str=None, # kinds to measure, with commas: noise, choice, linear, head, pruned, gates, mask, attack; all by default
    large:bool=False, # large batches too, for a GPU
    epsilon:float=None, # runs of this epsilon only
    plan:bool=False, # say what is missing, and start nothing
    out:str=str(root/'results/case_private.json') # adds what it lacks
):
    "Measure what is missing"
    records = Records(out)
    asked = only.split(',') if only else ['noise', 'choice', *kinds, 'attack']
    for kind,c,takes,measure in jobs(glue_dir, large):
        if kind not in asked or records.has(c) or epsilon is not None and c.get('epsilon')!=epsilon: continue
        said = ' '.join(f'{k}={v}' for k,v in c.items())
        if plan: print(f'{takes/60:6.0f} min  {said}')
        if plan: continue
        row = recorded(measure, c, kind)
        records.add(row)
        print(said, row.get('metrics'), row.get('auc', ''), flush=True)

if __name__=='__main__': script(main)
