"""Structured pruning without training, as a strong user would try it first: Kwon et al. (2022) on the teachers of sweeps/structured.toml.

    python benchmarks/posttraining.py --glue-dir PATH --task stsb    # adds what is missing to results/posttraining.jsonl

Each line has three scores on dev: units cut by Fisher information, rearranged within layers, and rescaled by least squares."""
import time
from pathlib import Path
from types import SimpleNamespace

from adaptprune.cli import script
from adaptprune.fisher import choose_units, gated, summed_squares, unit_gradients
from adaptprune.posttraining import rearranged, tune_gates
from adaptprune.recipe import get_recipe
from adaptprune.setup import set_up
from adaptprune.sweep import run_cells
from adaptprune.task import n_scored
from adaptprune.teacher import make_teacher
from adaptprune.units import find_units, structure_report

root = Path(__file__).resolve().parent.parent
steps = dict(stsb=719)      # of the teacher; 1,000 elsewhere
removes = .2, .5, .7, .8

def run(task, glue_dir, cache, model, remove, max_steps, seed, recipe, **kwargs):
    "One line"
    recipe = get_recipe(recipe, remove=remove)
    about = dict(task=task, model=model, data=None, glue_dir=glue_dir, validate=False, max_length=128, seed=seed)
    teacher,taught = make_teacher(recipe, cache, max_steps, dict(progress=False), **about)
    setup = set_up(batch_size=recipe.batch_size, pooling=recipe.pooling, **about)
    began = time.perf_counter()
    teacher.eval()
    batches,units = list(setup.sample(n_scored)), find_units(teacher)
    grads = list(unit_gradients(teacher, batches))
    first = choose_units(units, summed_squares(grads), remove)
    second = rearranged(first, grads)
    stages = dict(fisher=first, rearranged=second, rescaled=tune_gates(teacher, second, batches))
    seconds = time.perf_counter()-began
    scores = {}
    for name,gates in stages.items():
        with gated(teacher, {n: g.float() for n,g in gates.items()}): scores[name] = setup.evaluate(teacher)
    about = structure_report(units, second)
    report = dict(task=task, model=model, metric=setup.task.metric, metrics=scores['rescaled'], stages=scores, split='dev', seed=seed,
        removed=about['removed'], structure=second.to_dict(), seconds=round(seconds, 1), method='post-training', **taught)
    return SimpleNamespace(report=report, history=[], mask=None)

def cells(task, model, seeds, max_steps=None):
    "A run for each seed and cut"
    shared = dict(name='post-training', task=task, model=model, recipe='structured', max_steps=max_steps or steps.get(task, 1000))
    return [dict(shared, remove=r, sparsity=0., seed=s) for s in range(seeds) for r in removes]

def main(
    glue_dir:str=None, # folder with GLUE's data (default: the variable GLUE_DIR)
    task:str='stsb', # name of a GLUE or mini task
    model:str='minilm', # 'minilm', a folder, or a Hub id
    seeds:int=3, # seeds of the teachers, from 0 on
    max_steps:int=None, # steps of the teachers in place of their own, to see that it works
    out:str=str(root/'results/posttraining.jsonl'), # adds the lines that it lacks
    cache:str=str(root/'runs/imp'), # folder for teachers
):
    "Run what is missing"
    command = f'python benchmarks/posttraining.py --glue-dir PATH --task {task}'
    run_cells(cells(task, model, seeds, max_steps), out, command, run=run, cache=cache, glue_dir=glue_dir)

if __name__=='__main__': script(main)
