"""One row for each class of a survey of compression: what the other records lack, on MiniLM with STS-B and SST-2.

    python benchmarks/case_compression.py --glue-dir PATH                   # adds what it lacks to results/case_compression.json
    python benchmarks/case_compression.py --glue-dir PATH --only svd,int8   # some of the classes

Everything starts at the fine-tuned network of seed 0, which is the teacher of the recorded masks: it is read from --cache,
or trained there. Two networks are trained as well and kept in runs/case_compression: a mask of half the weights, and a
structured one.
Scores are of the dev set. What is chosen (strengths, thresholds of an exit, tokens) is chosen on training rows.
Quantizing needs the extra onnx; the heads of exits and the linear model need scikit-learn."""
import copy, tempfile, time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np, torch
from torch import nn
from torch.nn import functional as F

from adaptprune.cli import script
from adaptprune.compaction import compact
from adaptprune.demo import held
from adaptprune.export import OnnxRunner, export_onnx
from adaptprune.loop import adapt
from adaptprune.quantize import quantize_onnx, text_batches
from adaptprune.recipe import get_recipe
from adaptprune.results import Records
from adaptprune.setup import evaluate, score_answers, set_up
from adaptprune.task import adapt_task
from adaptprune.tasks import compute_metrics, make_loaders
from adaptprune.teacher import make_teacher
from adaptprune.trim import trim_embeddings, trim_tokenizer, used_tokens
from adaptprune.units import Structure
from adaptprune.vectors import linear_baseline, mean_vectors

root = Path(__file__).resolve().parent.parent
steps = dict(stsb=719, sst2=1000)               # as in the recorded runs
nets = dict(mask=dict(recipe='distilled', sparsity=.5), structured=dict(recipe='structured', sparsity=.4, remove=.7))

# Matrix decomposition

def layer_linears(model):
    "The linear layers of the encoder by name"
    return {n: m for n,m in model.named_modules() if isinstance(m, nn.Linear) and '.layer.' in n}

@torch.no_grad()
def second_moments(model, batches):
    "The mean of x x^T of what each linear layer reads, (in, in) float64"
    def empty(m): return torch.zeros(m.in_features, m.in_features, dtype=torch.float64)
    found = {n: empty(m) for n,m in layer_linears(model).items()}
    rows = dict.fromkeys(found, 0)
    def watch(name):
        def add(module, args):
            x = args[0].flatten(0, -2)
            found[name] += (x.T@x).double()
            rows[name] += len(x)
        return add
    hooks = [m.register_forward_pre_hook(watch(n)) for n,m in layer_linears(model).items()]
    for b in batches: model.eval()(**b)
    for h in hooks: h.remove()
    return {n: c/rows[n] for n,c in found.items()}

@torch.no_grad()
def factors(weight, moment=None):
    "A weight (out, in) as a product: (out, k) and (k, in), best first; with a moment, best for such inputs"
    w = weight.double()
    root = back = torch.eye(w.shape[1], dtype=w.dtype)
    if moment is not None:
        size,axes = torch.linalg.eigh(moment)
        size = size.clamp(min=1e-6*size.max()).sqrt()
        root = axes*size@axes.T
        back = axes/size@axes.T
    u,s,v = torch.linalg.svd(w@root, full_matrices=False)
    return (u*s).float(), (v@back).float()

def rank_at(weight, share):
    "The rank at which two factors have a share of the weight's numbers; at least 1, at most what a weight can have"
    out,into = weight.shape
    return max(1, min(out, into, round(share*out*into/(out+into))))

def low_rank(linear, left, right, rank):
    "A linear layer as two thinner ones"
    inner = nn.Linear(linear.in_features, rank, bias=False)
    outer = nn.Linear(rank, linear.out_features, bias=linear.bias is not None)
    inner.weight.data = right[:rank].clone()
    outer.weight.data = left[:,:rank].clone()
    if linear.bias is not None: outer.bias.data = linear.bias.detach().clone()
    return nn.Sequential(inner, outer)

def factorised(model, pairs, share):
    "A copy of a model in which the linear layers of `pairs` are cut to a share of their numbers"
    small = copy.deepcopy(model)
    for n,pair in pairs.items():
        linear = small.get_submodule(n)
        small.set_submodule(n, low_rank(linear, *pair, rank_at(linear.weight, share)))
    return small.eval()

# Dynamic inference

@torch.no_grad()
def all_states(model, batches):
    "What the head reads of each layer, (layers, rows, width), with the network's own answers and the labels"
    states,answers,labels = [],[],[]
    for b in batches:
        b = dict(b)
        labels.append(b.pop('labels'))
        _,x = model.eval().read(**b)
        states.append(x[1:])                                # without the embeddings
        answers.append(model.head(x))
    return torch.cat(states, 1), torch.cat(answers), torch.cat(labels)

def fit_exits(states, labels, kind):
    "A linear head for each layer but the last"
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    def head():
        if kind=='regression': return RidgeCV(alphas=np.logspace(-1, 5, 13))
        return LogisticRegression(C=.01, max_iter=300)
    return [make_pipeline(StandardScaler(), head()).fit(x.numpy(), labels.numpy()) for x in states[:-1]]

def exit_answers(heads, states, own, kind):
    "The answers at each layer, (layers, rows, columns); the last are the network's own"
    def read(head, x):
        y = head.predict(x.numpy()) if kind=='regression' else head.predict_log_proba(x.numpy())
        return torch.as_tensor(y).float().reshape(len(x), -1)
    return torch.stack([*(read(h, x) for h,x in zip(heads, states)), own.float()])

def doubt(answers, kind):
    "How unsure each layer is of each row, (layers, rows); infinite at the first layer of a score"
    if kind!='regression': return 1-answers.softmax(-1).amax(-1)
    moved = answers.diff(dim=0).abs().squeeze(-1)
    return torch.cat([torch.full_like(moved[:1], torch.inf), moved])

def leave(answers, kind, threshold):
    "The answer of the first layer whose doubt is at most a threshold, and how many layers it took"
    sure = doubt(answers, kind)<=threshold
    sure[-1] = True
    at = sure.int().argmax(0)
    return answers[at, torch.arange(answers.shape[1])], at+1

def threshold_for(answers, kind, layers):
    "The smallest threshold at which rows take a number of layers in the mean, or fewer"
    tries = doubt(answers, kind)[:-1].flatten()
    tries = torch.cat([torch.tensor([-1.]), tries[tries.isfinite()].sort().values])
    lo,hi = 0,len(tries)-1
    while lo<hi:
        mid = (lo+hi)//2
        if leave(answers, kind, tries[mid])[1].float().mean()<=layers: hi = mid
        else: lo = mid+1
    return float(tries[lo])

# Parameter sharing

@torch.no_grad()
def tied(model, groups):
    "A copy of a model in which the layers of each group are one, their average"
    small = copy.deepcopy(model)
    layers = small.base_model.encoder.layer
    for group in groups:
        one = layers[group[0]]
        for n,p in one.named_parameters(): p.copy_(torch.stack([layers[i].get_parameter(n) for i in group]).mean(0))
        for i in group: layers[i] = one
    return small.eval()

def repeated(model, k):
    "A copy of a model in which every layer is the layer k"
    small = copy.deepcopy(model)
    layers = small.base_model.encoder.layer
    for i in range(len(layers)): layers[i] = layers[k]
    return small.eval()

# Static word vectors

class WordVectors(nn.Module):
    "The word embeddings of an encoder, and nothing after them"
    def __init__(self, encoder):
        super().__init__()
        self.table = encoder.get_input_embeddings()

    def forward(self, input_ids, attention_mask=None, **_):
        from transformers.modeling_outputs import BaseModelOutput
        return BaseModelOutput(last_hidden_state=self.table(input_ids))

def word_features(setup):
    "u of a text; u, v, |u-v| and u*v of a pair: means of word vectors"
    words = WordVectors(setup.model.base_model)
    def of(rows):
        u = mean_vectors(words, setup.tokenizer, list(rows['text_a']))
        if 'text_b' not in rows.column_names: return u
        v = mean_vectors(words, setup.tokenizer, list(rows['text_b']))
        return np.concatenate([u, v, np.abs(u-v), u*v], axis=1)
    return {s: of(d) for s,d in setup.data.items()}

# The work

@dataclass
class Work:
    "A task, and the networks that are trained for it"
    task:str
    glue_dir:str
    cache:str
    keep:Path

    @cached_property
    def setup(self): return set_up(self.task, 'minilm', glue_dir=self.glue_dir)

    @cached_property
    def fine(self):
        "The fine-tuned network"
        about = dict(task=self.setup.task, model='minilm', data=None, glue_dir=self.glue_dir)
        about.update(validate=False, max_length=128, seed=0)                # as `adapt_task` asks, so that both share a file
        return make_teacher(get_recipe('distilled'), self.cache, steps[self.task], **about)[0].eval()

    @property
    def kind(self): return self.setup.task.kind

    @cached_property
    def batches(self):
        "128 training batches, always the same ones"
        return list(self.setup.sample(128))

    @cached_property
    def moments(self):
        "Of what each linear layer of the fine-tuned network reads"
        return second_moments(self.fine, [{k: v for k,v in b.items() if k!='labels'} for b in self.batches[:48]])

    @cached_property
    def read_pairs(self):
        "Factors of its linear layers that are best for what they read"
        return {n: factors(m.weight.detach(), self.moments[n]) for n,m in layer_linears(self.fine).items()}

    @cached_property
    def head_bytes(self): return held(self.fine.head)

    @cached_property
    def words(self):
        "The tokens of the training texts"
        rows = self.setup.data['train']
        columns = [c for c in ('text_a', 'text_b') if c in rows.column_names]
        return used_tokens(self.setup.tokenizer, [t for c in columns for t in rows[c]])

    def net(self, what):
        "A network of `nets`, and what its run reports; trained once"
        file = self.keep/f'{self.task}-{what}.pt'
        if not file.exists():
            how = dict(glue_dir=self.glue_dir, seed=0, cache=self.cache, max_steps=steps[self.task], progress=False)
            res = adapt_task(self.task, 'minilm', **how, **nets[what])
            self.keep.mkdir(parents=True, exist_ok=True)
            torch.save(dict(model=res.model.state_dict(), report=res.report), file)
        kept = torch.load(file, weights_only=True)
        model = copy.deepcopy(self.setup.model)
        if what=='structured': model = compact(model, Structure.from_dict(kept['report']['structure']))
        model.load_state_dict(kept['model'])
        return model.eval(), kept['report']

    def score(self, model, tokenizer=None): return evaluate(model, self.dev(tokenizer), self.setup.task)

    def dev(self, tokenizer=None):
        if tokenizer is None: return self.setup.loaders['dev']
        return make_loaders({'dev': self.setup.data['dev']}, tokenizer)['dev']

    def trim(self, model):
        "A network with the tokens of the training texts only, and its tokenizer"
        small = copy.deepcopy(model)
        small.encoder = trim_embeddings(model.encoder, self.words)
        return small.eval(), trim_tokenizer(self.setup.tokenizer, self.words)

    def in_int8(self, model, tokenizer=None):
        "The metrics of a network in int8, and the bytes of its file"
        rows = self.setup.data['train'].select(range(64))
        columns = [list(rows[c]) for c in ('text_a', 'text_b') if c in rows.column_names]
        texts = list(zip(*columns)) if len(columns)>1 else columns[0]
        batches = text_batches(texts, tokenizer or self.setup.tokenizer)
        with tempfile.TemporaryDirectory() as folder:
            whole,small = Path(folder)/'whole.onnx', Path(folder)/'int8.onnx'
            export_onnx(model, whole)
            quantize_onnx(whole, small, model, batches, bound=-1.)
            return score_answers(OnnxRunner(small, 1), self.dev(tokenizer), self.setup.task), small.stat().st_size

# What each class gives: the bytes to ship are those of one more task, where the base is there already

def row(name, group, metrics, ship, hold=None, **more):
    "A row of the table; what ships whole is held as it is shipped"
    return dict(row=name, group=group, metrics=metrics, ship=int(ship), hold=int(ship if hold is None else hold), **more)

def dense(w):
    "The fine-tuned network itself"
    yield row('fine-tuned', 'none', w.score(w.fine), held(w.fine))

def int8(w):
    "Eight bits of the fine-tuned network"
    metrics,size = w.in_int8(w.fine)
    yield row('int8', 'quantisation', metrics, size)

def adapted(w, what, name, group):
    "A network that was adapted by pruning, as it is and in eight bits"
    model,report = w.net(what)
    ship = report['bytes']+w.head_bytes
    about = {k: report[k] for k in ('sparsity', 'removed', 'bytes', 'seconds') if k in report}
    yield row(name, group, w.score(model), ship, held(model), report=about)
    metrics,size = w.in_int8(model)
    yield row(f'{name}, int8', 'combination', metrics, ship, size)

def mask(w): yield from adapted(w, 'mask', 'mask, 50 %', 'unstructured pruning')
def structured(w): yield from adapted(w, 'structured', 'structured, 70 %', 'structured pruning')

def svd(w):
    "Truncated factors at the bytes of half and of three tenths of the layers"
    plain = {n: factors(m.weight.detach()) for n,m in layer_linears(w.fine).items()}
    for name,pairs in (('SVD', plain), ('SVD of what layers read', w.read_pairs)):
        for share in (.5, .3):
            model = factorised(w.fine, pairs, share)
            label = f'{name}, {1-share:.0%} out'
            yield row(label, 'matrix decomposition', w.score(model), held(model), removed=round(1-share, 2))

def svd_parts(w):
    "As many bytes out of attention alone, and out of the feed-forward layers alone"
    pairs = w.read_pairs
    sizes = {n: m.weight.numel() for n,m in layer_linears(w.fine).items()}
    attention = [n for n in pairs if '.attention.' in n]
    gone = sum(sizes[n] for n in attention)/2
    for part,names in (('attention', attention), ('feed-forward layers', [n for n in pairs if n not in attention])):
        share = 1-gone/sum(sizes[n] for n in names)
        model = factorised(w.fine, {n: pairs[n] for n in names}, share)
        label = f'SVD of what layers read, {1-share:.0%} of the {part} out'
        yield row(label, 'matrix decomposition', w.score(model), held(model), part=part, removed=round(1-share, 2))

def exits(w):
    "A head for each layer, at fixed layers and by doubt"
    states,own,labels = all_states(w.fine, w.batches)
    fit = len(labels)*4//5
    heads = fit_exits(states[:,:fit], labels[:fit], w.kind)
    held_out = exit_answers(heads, states[:,fit:], own[fit:], w.kind)
    x,last,y = all_states(w.fine, w.dev())
    answers = exit_answers(heads, x, last, w.kind)
    size = held(w.fine)+4*sum(h[-1].coef_.size+h[-1].intercept_.size for h in heads)
    for k in range(1, len(answers)):
        metrics = compute_metrics(w.setup.task, answers[k-1], y)
        yield row(f'exit after layer {k}', 'dynamic inference', metrics, size, layers=k)
    for aim in (5, 4, 3):
        t = threshold_for(held_out, w.kind, aim)
        got,used = leave(answers, w.kind, t)
        more = dict(layers=round(float(used.float().mean()), 3), aim=aim, threshold=t)
        metrics = compute_metrics(w.setup.task, got, y)
        yield row(f'early exit, {aim} layers aimed at', 'dynamic inference', metrics, size, **more)

tying = 150                         # optimiser steps of the tuned one
pairs = [(0, 1), (2, 3), (4, 5)]    # layers that become one

def sharing(w):
    "One layer in place of several"
    def made(name, model): return row(name, 'parameter sharing', w.score(model), held(model), steps=0)
    yield made('pairs of layers averaged', tied(w.fine, pairs))
    yield made('all layers averaged', tied(w.fine, [range(6)]))
    yield made('the first layer six times', repeated(w.fine, 0))

def tuned_sharing(w):
    "Tied layers that are tuned for a short while"
    model = tied(w.fine, pairs)
    how = dict(sparsity=0., recipe=get_recipe('finetune', dropout=0.), max_steps=tying, progress=False)
    adapt(model, w.setup.loaders['train'], **how)
    label = f'pairs of layers averaged, tuned for {tying} steps'
    yield row(label, 'parameter sharing', w.score(model), held(model), steps=tying)

def vocabulary(w):
    "The tokens of the training texts only, in 32 and in 8 bits"
    small,tokenizer = w.trim(w.fine)
    n = dict(tokens=len(w.words))
    yield row('vocabulary trimmed', 'embedding compression', w.score(small, tokenizer), held(small), **n)
    metrics,size = w.in_int8(small, tokenizer)
    yield row('vocabulary trimmed, int8', 'combination', metrics, size, **n)

def together(w):
    "Structure, a mask, a smaller vocabulary and eight bits"
    model,report = w.net('structured')
    which = -(-model.base_model.get_input_embeddings().num_embeddings//8)       # bytes that say which tokens stay
    ship = report['bytes']+w.head_bytes+which
    small,tokenizer = w.trim(model)
    metrics,size = w.in_int8(small, tokenizer)
    yield row('structured, 70 %, vocabulary trimmed, int8', 'combination', metrics, ship, size, tokens=len(w.words))

def word_vectors(w):
    "A linear model on means of the untouched word embeddings"
    table = held(WordVectors(w.setup.model.base_model))
    x = word_features(w.setup)
    rows = np.random.default_rng(0).permutation(len(x['train']))[:20_000]
    size = 4*w.setup.task.num_labels*(x['train'].shape[1]+1)
    metrics = linear_baseline(w.setup, x, np.sort(rows))['dev']
    yield row('static word vectors, a linear model', 'no fine-tuning', metrics, size, table+size, train_rows=len(rows))

classes = dict(dense=dense, int8=int8, svd=svd, svd_parts=svd_parts, exits=exits, sharing=sharing, vocabulary=vocabulary,
    word_vectors=word_vectors, tuned_sharing=tuned_sharing, mask=mask, structured=structured, together=together)

def measured(w, name):
    "The rows of a class on a task, as they are recorded"
    began,cpu = time.perf_counter(), time.process_time()
    found = list(classes[name](w))
    spent = dict(seconds=round(time.perf_counter()-began, 1), cpu_seconds=round(time.process_time()-cpu, 1))
    about = dict(seed=0, model='minilm', metric=w.setup.task.metric, data='GLUE', split='dev', rows=len(w.setup.data['dev']))
    came = dict(**spent, threads=torch.get_num_threads())
    command = f'python benchmarks/case_compression.py --glue-dir PATH --tasks {w.task} --only {name}'
    return dict(cell=dict(task=w.task, measured=name), **about, found=found, **came, command=command)

def main(
    glue_dir:str=None, # folder with GLUE's data (default: the variable GLUE_DIR)
    tasks:str='stsb,sst2', # names of GLUE tasks, with commas
    only:str=None, # classes to measure, with commas; all by default
    cache:str='runs/imp', # folder of fine-tuned networks, as of `adaptprune sweep`
    keep:str='runs/case_compression', # folder of the two networks that are adapted here
    out:str=str(root/'results/case_compression.json') # adds what it lacks
):
    "Measure what is missing"
    records = Records(out)
    for task in tasks.split(','):
        w = Work(task, glue_dir, cache, Path(keep))
        for name in only.split(',') if only else classes:
            if records.has(dict(task=task, measured=name)): continue
            made = measured(w, name)
            for r in made['found']: print(task, r['row'], r['metrics'], r['ship'], r['hold'])
            print(made['cpu_seconds'], 'seconds', flush=True)
            records.add(made)

if __name__=='__main__': script(main)
