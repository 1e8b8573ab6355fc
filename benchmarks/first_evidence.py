"""First evidence on real GLUE: MiniLM on STS-B and SST-2; feature extraction, fine-tuning, and masks at 20 % and 50 %
sparsity.

    python benchmarks/first_evidence.py --glue-dir PATH --preset cpu      # about 50 minutes on one core; adds to results/first_evidence.jsonl
    python benchmarks/first_evidence.py --glue-dir PATH --preset full     # the paper's epochs, five seeds, MNLI-54k too; wants a GPU

Every method of a task sees the same number of training examples; nothing is chosen on the dev sets, which are evaluated
once, at the end. The paper's selected learning rates barely move a theta within the steps of the cpu preset, which
therefore takes the largest learning rates of the paper's grid. Those do not reach 20 % either before the steps are
over, so that the run for 50 % stands for both (a run stops only where its target is passed)."""
from pathlib import Path

import torch

from adaptprune.cli import script
from adaptprune.sweep import run_cells

root = Path(__file__).resolve().parent.parent
dense = [dict(name='feature extraction', recipe='features', sparsity=0.), dict(name='fine-tuning', recipe='finetune', sparsity=0.)]
first = dict(recipe='default', start='rank', reach=1., dropout=None) # the default of that time
ours = [dict(first, name=f'ours, default, {s:.0%}', sparsity=s) for s in (.5, .2)]
paper = [dict(name=f"the paper's recipe, {s:.0%}", recipe='paper', sparsity=s) for s in (.5, .2)]
fast = dict(recipe='paper', alpha=2e-4, beta=2e-4, gamma=2e-6)
faster = [dict(fast, name=f"the paper's recipe, largest rates of its grid, {s:.0%}", sparsity=s) for s in (.5, .2)]
presets = { # task -> training examples seen, and the methods
    'cpu': ({'stsb': 2*5749, 'sst2': 16_000}, dense+ours+faster[:1]),
    'full': ({'stsb': 5*5749, 'sst2': 3*67_349, 'mnli': 2*54_437}, dense+ours+paper+faster),
}

def cells(preset, tasks, seeds):
    "The cells of a preset: one whole seed first, and in it all tasks with the first methods first"
    examples,methods = presets[preset]
    return [dict(m, task=task, seed=seed, max_steps=round(examples[task]/(8 if m['recipe']=='paper' else 16)))
            for seed in range(seeds) for group in (methods[:4], methods[4:]) for task in tasks for m in group]

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
    asked = f'--preset {preset} --tasks {tasks} --seeds {seeds} --threads {threads}'
    command = f'python benchmarks/first_evidence.py --glue-dir PATH {asked}'
    run_cells(cells(preset, tasks.split(','), seeds), out, command, glue_dir=glue_dir)

if __name__=='__main__': script(main)
