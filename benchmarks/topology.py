"""Where the masks of a sweep prune: every table of `adaptprune.topology` for each saved mask, and the overlap of each pair that shares a sparsity.

    python benchmarks/topology.py --masks runs/masks --runs results/paper_cpu.jsonl      those of one sweep; ten seconds of one core for each mask
    python benchmarks/topology.py --masks runs/masks --cache runs/topology               keeps the tables of each mask, so that a longer sweep goes on from there

The masks are those that a sweep writes (`adaptprune sweep FILE` with a folder for masks), read by `adaptprune.experiment.load_mask`; what a run was, stands in its `cell`.
Columns that are the same for all masks (names, sizes, the dense ranks) are stored once, under `shared`; floats are rounded to five digits.
Overlap: `kappa` is agreement beyond the densities in each matrix, `kappa_size` beyond those in each hundredth of a matrix by |w|, `kappa_global` beyond the overall density."""
import json, time
from itertools import groupby
from pathlib import Path
import torch
from fastcore.script import call_parse
from tqdm.auto import tqdm
from adaptprune.experiment import environment, load_mask, read_results
from adaptprune.head import load_encoder
from adaptprune.mask import Mask
from adaptprune.topology import describe, overlaps, split_by_size

root = Path(__file__).resolve().parent.parent

def tidy(x):
    "Plain values with floats to five significant digits"
    if isinstance(x, float): return float(f'{x:.5g}')
    if isinstance(x, dict): return {k: tidy(v) for k,v in x.items()}
    return [tidy(v) for v in x] if isinstance(x, list) else x

def columns(rows): return {k: [r[k] for r in rows] for k in rows[0]} if rows else {}

def against_start(mask, model):
    "Overlap with where a rank start begins: the largest |w| of each matrix, at the mask's own sparsity; by component"
    start = Mask.from_scores({n: model.get_parameter(n).detach().abs() for n in mask}, mask.sparsity, 'matrix')
    return overlaps(dict(start=start, mask=mask), 'component')

def tables(key, mask, about, model, cache):
    "The tables of one mask, from the cache if it has them"
    file = cache and Path(cache)/f'{key}.json'
    if file and file.exists(): return json.loads(file.read_text())
    found = tidy(dict(key=key, cell=about['cell'], **{k: columns(v) if isinstance(v, list) else v for k,v in describe(mask, model).items()},
        start=columns(against_start(mask, model))))
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found))
    return found

def share(masks):
    "Take columns out of the tables that are the same in all of them"
    same = {t: {c: v for c,v in cols.items() if all(m[t].get(c)==v for m in masks)} for t,cols in masks[0].items() if isinstance(cols, dict) and t!='cell'}
    return same, [{t: {c: v for c,v in cols.items() if c not in same[t]} if t in same else cols for t,cols in m.items()} for m in masks]

def compare(group, model):
    "Overlap of each pair of some masks, as rows of keys"
    rows,sized = overlaps(group), overlaps(split_by_size(group, model))
    return [dict(r, kappa_size=s['kappa'], jaccard_chance_size=s['jaccard_chance']) for r,s in zip(rows, sized)]

def seeds_by_component(group, cells):
    "The same by component, for pairs that differ in nothing but the seed"
    def run(k): return json.dumps({f: v for f,v in cells[k].items() if f!='seed'}, sort_keys=True)
    same = [sorted(g) for _,g in groupby(sorted(group, key=run), key=run)]
    return [r for g in same if len(g)>1 for r in overlaps({k: group[k] for k in g}, 'component')]

@call_parse
def main(
    masks:str='runs/masks', # folder of masks, KEY.safetensors
    runs:str=None, # .jsonl file of a sweep: only the masks of its runs
    out:str=str(root/'results/topology.json'),
    cache:str=None, # folder to keep the tables of each mask in
    threads:int=1, # of torch
):
    "All tables of all masks, and their overlap"
    torch.set_num_threads(threads)
    files = {p.stem: p for p in sorted(Path(masks).glob('*.safetensors'))}
    if runs: files = {k: files[k] for k in {r['key'] for r in read_results(runs)} if k in files}
    if not files: raise SystemExit(f'No masks in {masks}: run a sweep that saves them first.')
    files = dict(sorted(files.items()))
    began,models,found = time.perf_counter(), {}, []
    def base(name): return models.setdefault(name, None) or models.update({name: load_encoder(name)}) or models[name]
    for key,file in tqdm(files.items(), desc='tables'):
        mask,about = load_mask(file)
        found.append(tables(key, mask, about, base(about['cell'].get('model', 'minilm')), cache))
    cells = {f['key']: f['cell'] for f in found}
    def level(k): return cells[k].get('model', 'minilm'), cells[k].get('weights', 'all'), cells[k]['sparsity']
    pairs,parts = [],[]
    for (name,*_),keys in tqdm(groupby(sorted(cells, key=level), key=level), desc='overlap'):
        group = {k: load_mask(files[k])[0] for k in keys}
        if len(group)<2: continue
        pairs += compare(group, base(name))
        parts += seeds_by_component(group, cells)
    same,found = share(found)
    command = 'python benchmarks/topology.py --masks runs/masks' + (f' --runs results/{Path(runs).name}' if runs else '')
    record = dict(command=command, environment=environment(), seconds=round(time.perf_counter()-began), shared=same, masks=found,
        overlap=tidy(columns(pairs)), seeds=tidy(columns(parts)))
    Path(out).write_text(json.dumps(record, separators=(',', ':'), allow_nan=False).replace('{"key"', '\n{"key"')+'\n')
    print(f'{len(found)} masks, {len(pairs)} pairs: {out}')
