"""Is it the mask or only its densities? Masks shuffled within each matrix, and pre-trained weights with noise, each
with a head trained anew (the paper's Table 3).

    adaptprune sweep sweeps/cpu.toml --glue-dir PATH --out runs/again.jsonl     # first: learns the masks again, and keeps them in runs/masks
    python benchmarks/perturb.py --glue-dir PATH                                # adds what is missing to results/perturb.jsonl, about a minute a line on one core

Masks are not in the repository; those that the folder lacks are passed over. The network stays frozen in all of them;
only the head is trained, with as many steps as it had beside the mask."""
from functools import partial
from pathlib import Path

import torch

from adaptprune.artifact import TaskMask
from adaptprune.cli import script
from adaptprune.mask import Mask
from adaptprune.prune import on_fixed_mask
from adaptprune.recipe import get_recipe
from adaptprune.results import read_results
from adaptprune.setup import set_up
from adaptprune.sweep import run_cells
from adaptprune.topology import shuffled

root = Path(__file__).resolve().parent.parent
noises = 0., .001, .01, .1, .3, 1.

@torch.no_grad()
def jittered(model, names, std, seed):
    "Each masked weight times Normal(1, std)"
    gen = torch.Generator().manual_seed(seed)
    for n,p in model.named_parameters():
        if n in names: p.mul_(torch.randn(p.shape, generator=gen).mul_(std).add_(1))

def run(task, change, mask, folder, glue_dir, seed, max_steps, mixed_precision, sparsity, recipe, progress):
    "One line: a changed mask or changed weights, and a new head"
    kept = TaskMask.from_pretrained(Path(folder)/mask).mask
    kind,_,std = change.partition(' ')
    s = set_up(task, glue_dir=glue_dir, seed=seed)
    recipe = get_recipe(recipe)
    if kind=='noise': jittered(s.model.base_model, kept, float(std), seed)
    gen = torch.Generator().manual_seed(seed)
    used = Mask({n: shuffled(m, gen) for n,m in kept.items()}) if kind=='shuffle' else kept
    res = on_fixed_mask(s, used, recipe, seed=seed, max_steps=max_steps, mixed_precision=mixed_precision, progress=progress)
    res.report.update(task=s.task.name, metric=s.task.metric, seed=seed, split='dev', sparsity=kept.sparsity)
    return res

def changes(row):
    "The configurations that change the mask of a recorded run, or its weights"
    cell = row['cell']
    kinds = ['shuffle']
    if cell['sparsity']==.5: kinds += [f'noise {s:g}' for s in noises]
    same = {k: cell[k] for k in ('task', 'seed', 'sparsity', 'max_steps')}
    same |= dict(mask=row['key'], recipe='features', mixed_precision=cell.get('mixed_precision', 'no'))
    return [dict(same, name=k, change=k) for k in kinds]

def main(
    glue_dir:str=None, # folder with GLUE's data (default: the variable GLUE_DIR)
    of:str=str(root/'results/paper_cpu.jsonl'), # the runs whose masks are changed
    start:str='rank', # those of which default recipe: the first one started from the 'rank' of magnitudes, today's from 'activation' scores
    masks:str=str(root/'runs/masks'), # folder with their masks
    tasks:str='stsb', # comma-separated
    seeds:int=1, # seeds 0 to this less one
    out:str=str(root/'results/perturb.jsonl'), # adds the lines that it lacks
    threads:int=1, # of torch
):
    "Run what is missing"
    torch.set_num_threads(threads)
    def wanted(r):
        cell = r['cell']
        recipe = (cell['recipe'], r['recipe']['start'])==('default', start) and not cell.get('levels')
        return recipe and cell['task'] in tasks.split(',') and cell['seed']<seeds and (Path(masks)/r['key']).exists()
    rows = sorted(filter(wanted, read_results(of)), key=lambda r: (r['cell']['seed'], r['cell']['sparsity']))
    if not rows: raise SystemExit(f"{masks} holds no mask of these runs of {of}: run the sweep first.")
    command = f'python benchmarks/perturb.py --glue-dir PATH --tasks {tasks} --seeds {seeds} --start {start}'
    cells = [c for r in rows for c in changes(r)]
    run_cells(cells, out, command, run=partial(run, folder=masks), glue_dir=glue_dir)

if __name__=='__main__': script(main)
