"""SetFit's recipe (Tunstall et al. 2022, arXiv:2209.11055) on the few labels that the other methods get: no weight stays as it was.

    python benchmarks/setfit.py --glue-dir PATH                                  # adds what is missing to results/setfit.json
    python benchmarks/setfit.py --glue-dir PATH --labels 100,300 --samples 0     # a slice

Each training row is paired 20 times with a row of its class and 20 times with one of another. The encoder is tuned until the cosine
of the two vectors is 1 or 0, at the published rate, by one pass over the pairs or for the 500 steps of sweeps/few_labels.toml, what
is less. Then logistic regression reads its vectors, as it reads the untouched encoder's in benchmarks/frozen.py."""
import random
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader

from adaptprune.cli import script
from adaptprune.loop import adapt
from adaptprune.results import Records
from adaptprune.setup import Setup, set_up
from adaptprune.timing import with_cost
from adaptprune.vectors import linear_baseline, text_features

root = Path(__file__).resolve().parent.parent
partners = 20           # of the same class, and as many of another
batch_size,most_steps,rate = 16,500,2e-5

def pairs_of(texts, labels, seed):
    "Pairs of texts, with 1. where both are of one class and 0. where they are not"
    rng = random.Random(seed)
    of = {y: [t for t,l in zip(texts, labels) if l==y] for y in set(labels)}
    others = {y: [t for t,l in zip(texts, labels) if l!=y] for y in of}
    both = [(of, 1.), (others, 0.)]
    return [(t, rng.choice(pool[y]), same) for t,y in zip(texts, labels) for pool,same in both for _ in range(partners)]

class Cosines(nn.Module):
    "The cosines of pairs of texts: a batch has the first of each pair, then the second"
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    @property
    def base_model(self): return self.encoder

    def forward(self, labels=None, **inputs):
        states = self.encoder(**inputs).last_hidden_state
        mask = inputs['attention_mask'][...,None].float()
        u,v = nn.functional.normalize((states*mask).sum(1)/mask.sum(1)).chunk(2)
        return (u*v).sum(1)

def loader(pairs, tokenizer, seed):
    def collate(some):
        first,second,same = zip(*some)
        batch = tokenizer([*first, *second], padding=True, truncation=True, max_length=128, return_tensors='pt')
        return dict(batch, labels=torch.tensor(same))
    return DataLoader(pairs, batch_size, shuffle=True, generator=torch.Generator().manual_seed(seed), collate_fn=collate)

def squared(model, batch): return nn.functional.mse_loss(model(**batch), batch['labels'])

def tune(setup:Setup, seed):
    "Tune the encoder of a task on pairs of its training rows; how many steps it took"
    rows = setup.data['train']
    batches = loader(pairs_of(list(rows['text_a']), list(rows['label']), seed), setup.tokenizer, seed)
    steps = min(len(batches), most_steps)
    model = Cosines(setup.model.base_model)
    adapt(model, batches, squared, recipe='finetune', lr=rate, max_steps=steps, seed=seed, progress=False)
    return steps

def measured(cell, model, glue_dir):
    "Tune, fit, score on dev"
    setup = set_up(cell['task'], model, glue_dir=glue_dir, max_train_samples=cell['labels'], seed=cell['sample'])
    steps = tune(setup, cell['sample'])
    return dict(metric=setup.task.metric, metrics=linear_baseline(setup, text_features(setup)), steps=steps)

def main(
    glue_dir:str=None, # folder with GLUE's data (default: the variable GLUE_DIR)
    task:str='sst2', # a classification task of single texts
    labels:str='100,300,1000,3000', # numbers of training rows, with commas
    samples:str='0,1,2,3,4', # seeds of the draws, with commas
    model:str='minilm', # 'minilm', 'mpnet', a folder, or a Hub id
    out:str=str(root/'results/setfit.json') # adds the rows that it lacks
):
    "Measure what is missing"
    records = Records(out)
    for sample in samples.split(','):
        for n in labels.split(','):
            cell = dict(task=task, labels=int(n), sample=int(sample))
            if records.has(cell, model=model): continue
            found = with_cost(lambda: measured(cell, model, glue_dir))
            print(cell, found['metrics'], found['cpu_seconds'], 'seconds', flush=True)
            command = f'python benchmarks/setfit.py --glue-dir PATH --task {task} --labels {n} --samples {sample}'
            records.add(dict(cell=cell, model=model, settings=dict(lr=rate, partners=partners), **found, command=command))

if __name__=='__main__': script(main)
