"""What the start of a mask gives already, before anything is learnt: two seeds beside each other, and beside the magnitudes.

    python benchmarks/topology_start.py --glue-dir PATH      # a minute of one core: results/topology_start.json

Labels alone (the recipe `default`) starts from the activations of its first batches, by rank in each matrix. The mask of a
start keeps the highest scores of each matrix. Its numbers are those of benchmarks/topology.py, of masks that nobody trained."""
import json
from pathlib import Path
from adaptprune.cli import script
from adaptprune.files import write_file
from adaptprune.mask import Mask
from adaptprune.methods import n_looks
from adaptprune.results import environment
from adaptprune.scores import activation_scores
from adaptprune.setup import set_up
from adaptprune.timing import with_cost
from adaptprune.topology import overlaps, split_by_size
import torch

root = Path(__file__).resolve().parent.parent
levels = .2, .5, .7, .9

def start_scores(seed, **data):
    "Scores that a run of labels alone starts from, and the base that they are of"
    s = set_up('stsb', 'minilm', batch_size=16, seed=seed, **data)
    batches = [b for b,_ in zip(s.loaders['train'], range(n_looks))]
    return activation_scores(s.model, batches, base=s.model.base_model), s.model.base_model

def among_small(mask, model):
    "Of what a mask keeps of the Transformer, the fraction that is not among the largest of its matrix"
    large = Mask.from_scores({n: model.get_parameter(n).detach().abs() for n in mask}, mask.sparsity, 'matrix')
    inner = [n for n in mask if 'embeddings' not in n]
    kept = sum(int(mask[n].sum()) for n in inner)
    return 1-sum(int((mask[n] & large[n]).sum()) for n in inner)/kept

def at(level, scores, model):
    "Two starts beside each other, and the first beside the magnitudes"
    masks = {str(seed): Mask.from_scores(s, level, 'matrix') for seed,s in scores.items()}
    pair,sized = overlaps(masks)[0],overlaps(split_by_size(masks, model))[0]
    return dict(sparsity=level, kappa=round(pair['kappa'], 4), kappa_size=round(sized['kappa'], 4), not_largest=round(among_small(masks['0'], model), 4))

def main(
    glue_dir:str=None, # folder with GLUE's data (default: the variable GLUE_DIR)
    out:str=str(root/'results/topology_start.json'), # file to write
    threads:int=1, # threads of torch
):
    "Starts of two seeds on STS-B, at each sparsity"
    torch.set_num_threads(threads)
    def measure():
        made = {seed: start_scores(seed, glue_dir=glue_dir) for seed in (0, 1)}
        model = made[0][1]
        return dict(rows=[at(s, {k: v for k,(v,_) in made.items()}, model) for s in levels])
    found = with_cost(measure)
    record = dict(task='stsb', model='minilm', recipe='default', seeds=[0, 1], command='python benchmarks/topology_start.py --glue-dir PATH',
        environment=environment(), **found)
    write_file(Path(out), (json.dumps(record, indent=1)+'\n').encode())
    for r in found['rows']: print(r)

if __name__=='__main__': script(main)
