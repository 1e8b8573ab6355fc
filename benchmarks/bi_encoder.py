"""Pairs of texts by a bi-encoder: each text alone, the mean of its tokens' vectors, the cosine of two. Tuned, masked, and smaller.

    python benchmarks/bi_encoder.py --glue-dir PATH --choose    # the losses and rates of tuning, on held-out train: results/bi_encoder_study.json
    python benchmarks/bi_encoder.py --glue-dir PATH             # what was chosen there, on dev: adds what is missing to results/bi_encoder.json

STS-B, two epochs of batches of 16 pairs, as the cross-encoders of sweeps/cpu.toml. A mask learns from the labels and from the hidden states
of the tuned bi-encoder of the same seed. On one core a run takes five to eight minutes.
Without any training, the cosine of the untouched encoder is in results/frozen.json."""
from pathlib import Path

import torch
from torch import nn
from sentence_transformers.sentence_transformer.losses import CoSENTLoss, CosineSimilarityLoss
from torch.utils.data import DataLoader

from adaptprune.cli import script
from adaptprune.compaction import compact
from adaptprune.fisher import choose_units, unit_scores
from adaptprune.head import load_encoder, load_tokenizer
from adaptprune.loop import adapt
from adaptprune.loss import distil_hidden
from adaptprune.results import Records
from adaptprune.tasks import BucketBatchSampler, compute_metrics, get_task, holdout, load_task
from adaptprune.timing import with_cost
from adaptprune.units import find_units

root = Path(__file__).resolve().parent.parent
task = get_task('stsb')
hidden_weight = 30.     # as in the recipe `distilled`
n_scored = 64           # batches that units are scored on

class BiEncoder(nn.Module):
    "The cosine of two texts' mean vectors. A batch has both texts of each pair as rows: first all the one, then all the other"
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    @property
    def base_model(self): return self.encoder

    def forward(self, labels=None, **inputs):
        states = self.encoder(**inputs, output_hidden_states=True).hidden_states
        mask = inputs['attention_mask'][...,None].float()
        vectors = (states[-1]*mask).sum(1)/mask.sum(1)
        return nn.functional.normalize(vectors).chunk(2), states

def loader(rows, tokenizer, batch_size, seed=None, most=5):
    "Batches of both texts of pairs of like length, labels as fractions of the greatest; in a new order each epoch where there is a seed"
    def collate(some):
        texts = [r['text_a'] for r in some]+[r['text_b'] for r in some]
        batch = tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors='pt')
        return dict(batch, labels=torch.tensor([r['label']/most for r in some]))
    lengths = [max(map(len, tokenizer([r['text_a'], r['text_b']])['input_ids'])) for r in rows]
    batches = BucketBatchSampler(lengths, batch_size, seed=seed or 0, shuffle=seed is not None)
    return DataLoader(list(rows), batch_sampler=batches, collate_fn=collate)

def make_loss(name, teacher=None):
    "(model, batch) -> a loss of sentence-transformers, and the distance to a teacher's hidden states where there is one"
    of = dict(cosent=CoSENTLoss, mse=CosineSimilarityLoss)[name](None)
    def loss(model, batch):
        vectors,states = model(**batch)
        total = of.compute_loss_from_embeddings(list(vectors), batch['labels'])
        if teacher is None: return total
        with torch.no_grad(): theirs = teacher(**batch)[1]
        return total+hidden_weight*distil_hidden(states, theirs, batch['attention_mask'])
    return loss

@torch.no_grad()
def score(model, batches):
    "Spearman's and Pearson's correlation of cosines and labels"
    model.eval()
    found = [((u*v).sum(1), b['labels']) for b in batches for (u, v) in [model(**b)[0]]]
    cosines,labels = (torch.cat(x) for x in zip(*found))
    return compute_metrics(task, cosines[:,None], labels)

class Bench:
    "Runs on one split of the data; tuned models serve as teachers"
    def __init__(self, model, data, split, steps):
        self.model,self.steps,self.split = model,steps,split
        self.tokenizer,self.rows = load_tokenizer(model),data['train']
        self.scored = loader(data[split], self.tokenizer, 64)
        self.tuned = {}

    def fresh(self): return BiEncoder(load_encoder(self.model))
    def batches(self, seed): return loader(self.rows, self.tokenizer, 16, seed)
    def learn(self, model, cell, loss, recipe, **how):
        seed = cell['seed']
        return adapt(model, self.batches(seed), loss, recipe=recipe, max_steps=self.steps, seed=seed, progress=False, **how)

    def finetune(self, cell):
        "All weights tuned; a tuned model is kept"
        key = cell['loss'], cell['lr'], cell['dropout'], cell['seed']
        if key in self.tuned: return self.tuned[key]
        model = self.fresh()
        self.learn(model, cell, make_loss(cell['loss']), 'finetune', lr=cell['lr'], dropout=None if cell['dropout'] else 0.)
        self.tuned[key] = model.eval()
        return model

    def masked(self, cell, remove=0.):
        "A mask over the frozen encoder, or over what is left of it"
        teacher,student = self.finetune(cell),self.fresh()
        how = dict(reach=cell['reach']) if 'reach' in cell else {}
        if remove:
            train = (b for b,_ in zip(self.batches(cell['seed']), range(n_scored)))
            structure = choose_units(find_units(teacher), unit_scores(teacher, train, make_loss(cell['loss'])), remove)
            student,how = compact(student, structure), dict(how, weights='encoder')
        res = self.learn(student, cell, make_loss(cell['loss'], teacher), 'default', sparsity=cell['sparsity'], **how)
        return student, round(res.mask.sparsity, 4)

    def run(self, cell):
        "Metrics, and what there is to say of the network"
        about = {}
        if cell['method']=='finetune': model = self.finetune(cell)
        else:
            model,about['sparsity'] = self.masked(cell, cell.get('remove', 0.))
        return dict(metrics=score(model, self.scored), split=self.split, **about)

rates = dict(cosent=(5e-5, 1e-4, 2e-4), mse=(2e-5, 5e-5, 1e-4))
tuning = dict(loss='mse', lr=5e-5, dropout=True)        # by `--choose`

def study():
    "What there is to choose from, on held-out train"
    plain = [dict(method='finetune', seed=0, dropout=False, loss=loss, lr=lr) for loss,some in rates.items() for lr in some]
    return [*plain, dict(tuning, method='finetune', seed=0, dropout=True)]

def chosen():
    "What is measured on dev; inside a structured mask things are as in the recipe `structured`"
    ways = [dict(method='finetune'), dict(method='mask', sparsity=.5), *(dict(method='structured', remove=r, sparsity=.4, reach=4.) for r in (.5, .7))]
    return [dict(tuning, **w, seed=s) for s in range(3) for w in ways]

def fits(cell, only):
    "Has a cell the values that are asked for?"
    asked = dict(part.split('=') for part in only.split(',')) if only else {}
    return all(str(cell.get(k))==v for k,v in asked.items())

def main(
    glue_dir:str=None, # folder with GLUE's data (default: the variable GLUE_DIR)
    model:str='minilm', # 'minilm', 'mpnet', a folder, or a Hub id
    choose:bool=False, # the study on held-out train, in place of the chosen settings on dev
    steps:int=719, # optimiser steps of each run
    limit:int=None, # use so many training rows and cells, to see that it works
    only:str=None, # runs with these values only, such as loss=mse,lr=0.0001: processes side by side may share a file
    out:str=None # adds the rows that it lacks; by default results/bi_encoder.json, or bi_encoder_study.json with --choose
):
    "Run what is missing"
    data = load_task(task, glue_dir)
    if choose: data = holdout(data)
    if limit: data['train'] = data['train'].select(range(limit))
    out = out or root/f"results/bi_encoder{'_study' if choose else ''}.json"
    rows = Records(out)
    bench = Bench(model, data, 'validation' if choose else 'dev', steps)
    for cell in (study() if choose else chosen())[:limit]:
        if not fits(cell, only): continue
        cell = dict(cell, model=model, steps=steps)
        if rows.has(cell): continue
        found = with_cost(lambda: bench.run(cell))
        print(cell, found, flush=True)
        command = f"python benchmarks/bi_encoder.py --glue-dir PATH --model {model} --steps {steps}"+' --choose'*choose
        rows.add(dict(cell=cell, **found, command=command))

if __name__=='__main__': script(main)
