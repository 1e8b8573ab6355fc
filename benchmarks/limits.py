"""What limits a sparse mask: what the texts can say, or what its weights can hold? Masks with a teacher, and the
teacher itself, scored on held-out texts and on as many that they were trained on.

    python benchmarks/limits.py --glue-dir PATH     # adds what is missing to results/limits.jsonl, some minutes a line on one core

A tenth of the training set is held out, as in sweeps/recipe.toml; dev is not looked at. Where both scores are low, the
mask cannot hold the task, or has not had the steps; where they are far apart, it has learnt the texts and not the task."""
from pathlib import Path

from datasets import DatasetDict

from adaptprune.cli import script
from adaptprune.sweep import run_cells
from adaptprune.task import adapt_task
from adaptprune.tasks import holdout, load_task
from adaptprune.topology import sparsity_by

root = Path(__file__).resolve().parent.parent
epoch = 360 # steps
arms = [dict(sparsity=.5, max_steps=epoch), dict(sparsity=.9, max_steps=epoch), dict(sparsity=.9, max_steps=epoch, weights='encoder'),
    dict(sparsity=.9, max_steps=3*epoch)]

def run(task, glue_dir, **kwargs):
    "One line: the report has each metric on held-out texts, and with `_train` on seen ones"
    split = holdout(load_task(task, glue_dir))
    train,held = split['train'],split['validation']
    seen = train.shuffle(seed=0).select(range(len(held)))
    res = adapt_task(task, data=DatasetDict(train=train, dev=held, dev_train=seen), **kwargs)
    res.report.update(split='validation', parts=sparsity_by(res.mask, 'component'))
    return res

def cells(task, model, max_steps=None):
    "A run for each arm; with `max_steps`, arms that become the same are one"
    shared = dict(task=task, model=model, recipe='distilled', seed=0, batch_size=16)
    many = [{**shared, **a, 'max_steps': max_steps or a['max_steps']} for a in arms]
    return [c for i,c in enumerate(many) if c not in many[:i]]

def main(
    glue_dir:str=None, # folder with GLUE's data (default: the variable GLUE_DIR)
    task:str='stsb', # name of a GLUE or mini task
    model:str='minilm', # 'minilm', a folder, or a Hub id
    max_steps:int=None, # steps of every run, in place of its own, to see that it works
    out:str=str(root/'results/limits.jsonl'), # adds the lines that it lacks
    cache:str=str(root/'runs/imp'), # folder for teachers
):
    "Run what is missing"
    command = f'python benchmarks/limits.py --glue-dir PATH --task {task}'
    run_cells(cells(task, model, max_steps), out, command, run=run, cache=cache, glue_dir=glue_dir)

if __name__=='__main__': script(main)
