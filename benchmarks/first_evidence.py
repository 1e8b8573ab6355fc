"""First evidence on real GLUE: MiniLM on STS-B and SST-2; feature extraction, fine-tuning, and masks at 20 % and 50 % sparsity.

    python benchmarks/first_evidence.py --glue_dir PATH --preset cpu      # hours on two cores; adds to results/first_evidence.jsonl
    python benchmarks/first_evidence.py --glue_dir PATH --preset full     # the paper's epochs, five seeds, MNLI-54k too; wants a GPU

Every method of a task sees the same number of training examples. Nothing was chosen on the dev sets: see benchmarks/tune.py."""
from pathlib import Path

import torch
from fastcore.script import call_parse

from adaptprune.experiment import run_cells

root = Path(__file__).resolve().parent.parent
methods = [dict(name='feature extraction', recipe='features', sparsity=0.), dict(name='fine-tuning', recipe='finetune', sparsity=0.)] + [
    dict(name=f'{label} {s:g}', recipe=recipe, sparsity=s) for s in (.5, .2) for label,recipe in (('ours, default', 'default'), ('ours, paper recipe', 'paper'))]
# examples seen by each run: a fixed number of epochs on the full preset, fewer on the cpu one
examples = {'cpu': {'stsb': 2*5749, 'sst2': 24_000}, 'full': {'stsb': 5*5749, 'sst2': 3*67_349, 'mnli': 2*54_437}}

def cells(preset, tasks, seeds):
    "The cells of a preset, in an order that gives one whole seed first"
    return [dict(c, max_steps=round(examples[preset][c['task']]/(8 if c['recipe']=='paper' else 16)), eval_every=0) for seed in range(seeds) for task in tasks
            for c in (dict(m, task=task, seed=seed) for m in methods)]

@call_parse
def main(
    glue_dir:str=None, # folder with GLUE's data (default: the variable GLUE_DIR)
    preset:str='cpu', # 'cpu' or 'full'
    tasks:str='stsb,sst2', # comma-separated
    seeds:int=1, # seeds 0 to this less one
    out:str=str(root/'results/first_evidence.jsonl'), # adds the lines that it lacks
    threads:int=2, # of torch
):
    "Run what is missing"
    torch.set_num_threads(threads)
    run_cells(cells(preset, tasks.split(','), seeds), out, f'python benchmarks/first_evidence.py --glue_dir PATH --preset {preset} --tasks {tasks} --seeds {seeds}', glue_dir=glue_dir)
