"""How much confounding an adapted text encoder removes: real titles and abstracts, with treatments and outcomes drawn.

    python benchmarks/case_causal.py --papers PATH/papers.tsv      # adds what it lacks to results/case_causal.json
    python benchmarks/case_causal.py --papers PATH/papers.tsv --only frozen,mask_50 --strengths 3 --draws 1
    python benchmarks/case_causal.py --out runs/small.json --only naive,oracle,frozen,mask_50 --strengths 3 --draws 1
        # small: the thousand papers of the package
    python benchmarks/case_causal.py --iclr PATH/papers.tsv        # real decisions; their truth is not known
    python benchmarks/case_causal.py --papers PATH/papers.tsv --choose      # the held-out losses that chose the settings

The confounder is a fashionable word in the title. Every row predicts each paper by what was learnt on the other fold.
Settings are chosen by held-out outcome loss on draw 99, which no row uses; bias chooses nothing. A row that was recorded with other settings is refused, not mixed."""
import random, warnings
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegressionCV
from sklearn.model_selection import StratifiedKFold

from adaptprune.causal import (cross_fit, cut, estimates, folds, held_out_losses, is_buzzy, linear_learner, load_papers,
    naive, one_draw_interval, outcome_propensity, overlap, simulate, stratified)
from adaptprune.cli import script
from adaptprune.head import load_encoder, load_tokenizer
from adaptprune.results import Records
from adaptprune.threeheads import encode_texts, heads_learner, read_vectors
from adaptprune.timing import with_cost

root = Path(__file__).resolve().parent.parent
max_length = 32
pilot = 99                                          # the draw that settings were chosen on

def mask(sparsity): return dict(sparsity=sparsity, weights='encoder')

learners = dict(features=dict(recipe='features'), finetune=dict(recipe='finetune'),
    mask_20=mask(.2), mask_50=mask(.5), mask_80=mask(.8), mask_90=mask(.9))
trained = {3.: dict(max_steps=120, hidden=1.), .6: dict(max_steps=60, hidden=1.)}      # of rows that train the encoder, by `--choose`
heads = {3.: dict(max_steps=120), .6: dict(max_steps=60)}                               # of heads on frozen vectors
on_words = {3.: dict(penalty='l1', reads='first', unit='parts'), .6: dict(penalty='l1', reads='first', unit='words')}
rows = 'naive','oracle','words','frozen',*learners
abstract_rows = 'words','frozen','finetune','mask_50'       # of the arm that does not see titles, and of real decisions
tries = [dict(max_steps=n, hidden=h) for n,h in ((30, 1.), (60, 1.), (60, 0.), (120, 1.), (60, 10.))]
counted = dict(words=dict(min_df=5), parts=dict(min_df=10, analyzer='char_wb', ngram_range=(3, 6)))
word_tries = [dict(penalty=p, reads=r, unit=u)
    for p in ('l1', 'l2') for r,u in (('all', 'words'), ('first', 'words'), ('first', 'parts'))]

def sample(papers, n=2000, seed=0):
    "All papers with a fashionable title, up to half of n, and others at random"
    if len(papers)<=n: return papers
    rng = random.Random(seed)
    buzzy = [p for p in papers if is_buzzy(p['title'])]
    rest = [p for p in papers if not is_buzzy(p['title'])]
    some = rng.sample(buzzy, min(len(buzzy), n//2))
    some += rng.sample(rest, n-len(some))
    rng.shuffle(some)
    return some

def on_presence(x, y, penalty):
    "Logistic regression on words as they are, with a penalty that is chosen by cross-validated log loss"
    parts = StratifiedKFold(3, shuffle=True, random_state=0)
    how = dict(Cs=np.logspace(-2, 2, 9), cv=parts, scoring='neg_log_loss', solver='liblinear')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')                 # of scikit-learn, on names that are to change
        return LogisticRegressionCV(penalty=penalty, **how).fit(x, y)

@dataclass
class Texts:
    "The papers of an arm, and what an untouched encoder reads in them"
    papers:list
    arm:str # 'title' for title and abstract, or 'abstract' alone

    def __post_init__(self):
        self.z = np.array([is_buzzy(p['title']) for p in self.papers], dtype=int)

    @cached_property
    def encoder(self): return load_encoder()

    @cached_property
    def tokenizer(self): return load_tokenizer()

    def text(self, p): return f"{p['title']}. {p['abstract']}" if self.arm=='title' else p['abstract']

    @cached_property
    def encoded(self): return encode_texts(self.tokenizer, [self.text(p) for p in self.papers], max_length)

    @cached_property
    def vectors(self): return read_vectors(self.encoder, self.tokenizer, self.encoded)

    def words(self, reads, unit):
        "Which words or parts of words a text holds, out of common ones: all of it, or as much as the encoder reads"
        texts = [self.text(p) for p in self.papers]
        if reads=='first': texts = self.tokenizer.batch_decode([e['input_ids'] for e in self.encoded], skip_special_tokens=True)
        return CountVectorizer(binary=True, **counted[unit]).fit_transform(texts).toarray()

    def learner(self, row, y, t, told, seed, **how):
        "What a row learns with, by its settings"
        if row=='frozen': return linear_learner(self.vectors, y, t)
        if row=='words':
            fit = partial(on_presence, penalty=how.pop('penalty'))
            return linear_learner(self.words(**how), y, t, fit)
        known = self.vectors if row=='features' else None
        how = {k: v for k,v in how.items() if k!='max_length'}
        return heads_learner(self.encoder, self.tokenizer, self.encoded, y, t, known, told, seed=seed, **how)

def predicted(texts, row, y, t, seed, **how):
    "Predictions of each paper by what was learnt on the others, their folds, and what each run reports"
    fold = folds(t, 2, seed)
    reports = []
    def told(res): reports.append({k: res.report[k] for k in ('sparsity', 'steps', 'seconds') if k in res.report})
    return cross_fit(texts.learner(row, y, t, told, seed, **how), fold), fold, reports

def plain(effects): return {n: asdict(e) for n,e in effects.items()}

def found(texts, row, y, t, seed, how, truth=None):
    "What a row estimates, and how it got there"
    p,fold,reports = predicted(texts, row, y, t, seed, **how)
    g,q = cut(p['g']),(p['q0'], p['q1'])
    second = outcome_propensity(t, *q, fold, seed)
    out = dict(effects=plain(estimates(y, t, g, *q)), losses=held_out_losses(y, t, **p), overlap=overlap(t, p['g']))
    out['by_outcomes'] = dict(effects=plain(estimates(y, t, cut(second), *q)), overlap=overlap(t, second))
    if truth is not None: out['interval'] = one_draw_interval(y, t, g, *q, truth)
    return dict(out, runs=reports) if reports else out

def drawn_row(texts, row, strength, draw):
    "A row on one draw"
    d = simulate(texts.z, strength, seed=draw)
    known = dict(truth=d.truth, effects=plain({'naive': naive(d.y, d.t)}))
    if row=='naive': return known
    if row=='oracle': return dict(known, effects=plain({'naive': naive(d.y, d.t), 'AIPTW': stratified(d.y, d.t, d.z)}))
    return dict(known, **found(texts, row, d.y, d.t, draw, settings(row, strength), d.truth))

def add(records, cell, make, command, **settings):
    "Record a cell, if it is not there; one that is there with other settings ends the program"
    if records.has(cell, **settings): return
    if records.has(cell):
        raise SystemExit(f"{records.path} holds {cell} with other settings than {settings}: take it out, or name another --out.")
    row = dict(cell=cell, **with_cost(make), **settings, command=f'python benchmarks/case_causal.py {command}')
    records.add(row)
    short = {n: round(e['value'], 4) for n,e in row.get('effects', {}).items()}
    print(cell, short, row.get('losses'), row['cpu_seconds'], 'seconds', flush=True)

def settings(row, strength=3.):
    "With which settings a row learns; real decisions take those of the stronger confounding"
    if row in ('naive', 'oracle'): return {}
    if row=='words': return on_words[strength]
    steps = {} if row=='frozen' else (heads if row=='features' else trained)[strength]
    return dict(learners.get(row, {}), **steps, max_length=max_length)

def drawn(records, papers, only, strengths, draws, arms):
    "All cells with a known truth, draw by draw"
    texts = {a: Texts(papers, a) for a in arms}
    cells = [(k, s, a, r) for k in range(draws) for s in strengths for a in arms for r in only
        if a=='title' or r in abstract_rows]
    for draw,strength,arm,row in cells:
        cell = dict(row=row, arm=arm, strength=strength, draw=draw, papers=len(papers))
        def make(): return drawn_row(texts[arm], row, strength, draw)
        command = f'--papers PATH --only {row} --arms {arm} --strengths {strength:g} --draws {draw+1}'
        add(records, cell, make, command, settings=settings(row, strength))

def real(records, papers, only, draws):
    "Decisions on submissions: does a fashionable title help? The texts are the abstracts"
    papers = [p for p in papers if p['year'] in ('2017', '2018')]
    texts = Texts(papers, 'abstract')
    y = np.array([int(p['accepted']) for p in papers])
    def make(row, seed):
        if row=='naive': return dict(effects=plain({'naive': naive(y, texts.z)}))
        return found(texts, row, y, texts.z, seed, settings(row))
    for seed in range(draws):
        for row in [r for r in only if r=='naive' or r in abstract_rows]:
            cell = dict(row=row, arm='iclr', draw=seed, papers=len(papers))
            command = f'--iclr PATH --only {row} --draws {seed+1}'
            add(records, cell, lambda: make(row, seed), command, settings=settings(row))

def choose_settings(records, papers, strengths, only):
    "Held-out losses of some settings, on the draw that no row uses"
    texts = Texts(papers, 'title')
    more = dict(words=word_tries, features=[dict(max_steps=n) for n in (60, 120, 240, 480)])
    def make(row, strength, how):
        d = simulate(texts.z, strength, seed=pilot)
        p,_,_ = predicted(texts, row, d.y, d.t, pilot, **dict(learners.get(row, {}), **how))
        return dict(losses=held_out_losses(d.y, d.t, **p))
    for strength in strengths:
        for row in [r for r in ('words', 'features', 'finetune', 'mask_50') if r in only]:
            for how in more.get(row, tries):
                cell = dict(choice=row, strength=strength, papers=len(papers), **how)
                add(records, cell, lambda: make(row, strength, how), f'--papers PATH --choose --strengths {strength:g}')

def main(
    papers:str=None, # table of papers, with columns title and abstract; by default the thousand of the package
    iclr:str=None, # table of submissions with decisions, to measure those instead
    only:str=None, # rows to measure, with commas; all by default
    arms:str='title,abstract', # what is read, with commas: 'title' for title and abstract, 'abstract' for it alone
    strengths:str='0.6,3', # how strongly the title moves outcomes, with commas
    draws:int=5, # draws of treatments and outcomes; of real decisions: deals into folds
    choose:bool=False, # measure the settings that were tried instead
    out:str=str(root/'results/case_causal.json') # adds what it lacks
):
    "Measure what is missing"
    records = Records(out)
    wanted = only.split(',') if only else rows
    unknown = [r for r in wanted if r not in rows]
    if unknown: raise SystemExit(f"There is no row {unknown[0]!r}: use some of {', '.join(rows)}.")
    if iclr: return real(records, load_papers(iclr), wanted, draws)
    c = [float(s) for s in strengths.split(',')]
    if unchosen := [x for x in c if x not in trained]:
        raise SystemExit(f"No settings were chosen for c = {unchosen[0]:g}: use some of {', '.join(f'{x:g}' for x in trained)}.")
    some = sample(load_papers(papers))
    if choose: return choose_settings(records, some, c, wanted)
    drawn(records, some, wanted, c, draws, arms.split(','))

if __name__=='__main__': script(main)
