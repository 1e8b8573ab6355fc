"""What the three mini tasks are worth: fine-tuned MiniLM, feature extraction and a mask at 50 %, beside a bag of words.

    python benchmarks/mini_tasks.py        # about 15 minutes on one core; adds to results/mini_tasks.jsonl"""
from pathlib import Path

import torch

from adaptprune.cli import script
from adaptprune.sweep import grid, run_cells

root = Path(__file__).resolve().parent.parent
epochs = {'mini-sentiment': 8, 'mini-similarity': 5, 'mini-inference': 10}

def cells(seeds):
    "Every method on every task"
    many = grid(recipe=['finetune', 'features', 'default'], task=list(epochs), seed=list(range(seeds)))
    return [dict(c, epochs=epochs[c['task']], name=c['recipe']) for c in many]

def main(
    seeds:int=1, # seeds 0 to this less one
    out:str=str(root/'results/mini_tasks.jsonl'), # adds the lines that it lacks
    threads:int=1, # of torch
):
    "Run what is missing"
    torch.set_num_threads(threads)
    run_cells(cells(seeds), out, f'python benchmarks/mini_tasks.py --seeds {seeds} --threads {threads}')

if __name__=='__main__': script(main)
