"""What the untouched encoder gives, before anybody adapts it: a linear model on its vectors, and a cosine where pairs have a score.

    python benchmarks/frozen.py --glue-dir PATH                   # adds what is missing to results/frozen.json
    python benchmarks/frozen.py --glue-dir PATH --tasks stsb      # some tasks

Vectors are the mean of the last layer's tokens. With few labels, five samples of the training rows are drawn by seeds 0 to 4."""
import time
from pathlib import Path

import numpy as np

from adaptprune.cli import script
from adaptprune.results import Records
from adaptprune.setup import set_up
from adaptprune.vectors import cosine_baseline, linear_baseline, text_features

root = Path(__file__).resolve().parent.parent
few = 100, 300, 1000, 3000
samples = range(5)

def cells(task, kind, n_rows, paired):
    "What there is to fit: all labels, few of them, none"
    linear = 'ridge regression' if kind=='regression' else 'logistic regression'
    cosine = [dict(task=task, method='cosine', labels=0, sample=0)] if kind=='regression' and paired else []
    whole = [dict(task=task, method=linear, labels=n_rows, sample=0)]
    return cosine+whole+[dict(task=task, method=linear, labels=n, sample=s) for n in few if n<n_rows for s in samples]

def measured(setup, x, cell):
    "Metrics on dev"
    if cell['method']=='cosine': return cosine_baseline(setup, x)
    rows = np.random.default_rng(cell['sample']).permutation(len(x['train']))[:cell['labels']]
    return linear_baseline(setup, x, np.sort(rows))

def main(
    glue_dir:str=None, # folder with GLUE's data (default: the variable GLUE_DIR)
    tasks:str='stsb,mrpc,rte,cola,sst2,mnli', # names of GLUE or mini tasks, with commas
    model:str='minilm', # 'minilm', 'mpnet', a folder, or a Hub id
    limit:int=None, # use so many training rows, to see that it works
    out:str=str(root/'results/frozen.json') # adds the rows that it lacks
):
    "Measure what is missing"
    rows = Records(out)
    for task in tasks.split(','):
        setup = set_up(task, model, glue_dir=glue_dir)
        data = setup.data['train'] = setup.data['train'].select(range(limit)) if limit else setup.data['train']
        asked = [c for c in cells(task, setup.task.kind, len(data), 'text_b' in data.column_names) if not rows.has(c, model=model)]
        if not asked: continue
        began = time.perf_counter()
        x = text_features(setup)
        print(f'{task}: vectors in {time.perf_counter()-began:.0f} s', flush=True)
        for cell in asked:
            began = time.perf_counter()
            metrics = measured(setup, x, cell)
            print(cell, metrics, flush=True)
            command = f'python benchmarks/frozen.py --glue-dir PATH --tasks {task} --model {model}'
            seconds = round(time.perf_counter()-began, 1)
            rows.add(dict(cell=cell, model=model, metric=setup.task.metric, metrics=metrics, seconds=seconds, command=command))

if __name__=='__main__': script(main)
