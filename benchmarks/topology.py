"""Where the masks of a sweep prune: every table of `adaptprune.topology` for each saved mask, and the overlap of each
pair that shares a sparsity.

    adaptprune sweep sweeps/cpu.toml --glue-dir PATH --out runs/again.jsonl     # first: learns the masks again, and keeps them in runs/masks
    python benchmarks/topology.py --runs runs/again.jsonl                       # adds the tables that results/topology.json lacks
    python benchmarks/topology.py --runs runs/again.jsonl --afresh              # only the masks in the folder

A table takes about ten seconds of one core.
Masks are not in the repository, so the file grows: what it holds of a mask that is no longer in the folder stays, and
pairs are compared where both masks are there.
What a run was, stands in its `cell`; its `name` also says what its recipe changes.
Columns that are the same for all masks (names, sizes, the dense ranks) are stored once, under `shared`; floats are
rounded to five digits.
Overlap: `kappa` is agreement beyond the densities in each matrix, `kappa_size` beyond those in each hundredth of a
matrix by |w|, `kappa_global` beyond the overall density."""
import json, time
from itertools import groupby
from pathlib import Path
import torch
from tqdm.auto import tqdm
from adaptprune.artifact import TaskMask
from adaptprune.cli import script
from adaptprune.head import load_encoder
from adaptprune.mask import Mask
from adaptprune.results import environment, read_results
from adaptprune.topology import describe, overlaps, split_by_size

root = Path(__file__).resolve().parent.parent

def tidy(x):
    "Plain values with floats to five significant digits"
    if isinstance(x, float): return float(f'{x:.5g}')
    if isinstance(x, dict): return {k: tidy(v) for k,v in x.items()}
    return [tidy(v) for v in x] if isinstance(x, list) else x

def columns(rows): return {k: [r[k] for r in rows] for k in rows[0]} if rows else {}

def earlier(file):
    "The masks and the pairs of a file as rows, without the columns taken out"
    if not Path(file).exists(): return [],[],[]
    old = json.loads(Path(file).read_text())
    def rows(cols): return [dict(zip(cols, r)) for r in zip(*cols.values())]
    masks = [{t: {**old['shared'].get(t, {}), **cols} if isinstance(cols, dict) and t!='cell' else cols for t,cols in m.items()} for m in old['masks']]
    return masks, rows(old['overlap']), rows(old['seeds'])

def against_start(mask, model):
    "Overlap with the largest |w| of each matrix, at the mask's own sparsity, where the start of the first recipe begins; by component"
    start = Mask.from_scores({n: model.get_parameter(n).detach().abs() for n in mask}, mask.sparsity, 'matrix')
    return overlaps(dict(start=start, mask=mask), 'component')

def tables(key, mask, cell, model):
    "The tables of one mask"
    described = describe(mask, model)
    start = columns(against_start(mask, model))
    return tidy(dict(key=key, cell=cell, **{k: columns(v) if isinstance(v, list) else v for k,v in described.items()}, start=start))

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
    def run(k):
        return json.dumps({f: v for f,v in cells[k].items() if f not in ('seed', 'mixed_precision')}, sort_keys=True)
    same = [sorted(g) for _,g in groupby(sorted(group, key=run), key=run)]
    return [r for g in same if len(g)>1 for r in overlaps({k: group[k] for k in g}, 'component')]

def main(
    masks:str='runs/masks', # folder of mask files, each in a folder KEY
    runs:str=str(root/'results/paper_cpu.jsonl'), # file of the sweep: only the masks of its runs
    out:str=str(root/'results/topology.json'), # file to add to
    afresh:bool=False, # forget what the file holds
    threads:int=1, # threads of torch
):
    "All tables of all masks, and their overlap"
    torch.set_num_threads(threads)
    began = time.perf_counter()
    ran = {r['key']: r for r in read_results(runs)}
    called = {k: r['name'] for k,r in ran.items()}
    models = {}
    found,pairs,parts = ([],[],[]) if afresh else earlier(out)
    found = {m['key']: dict(m, name=called[m['key']]) for m in found if m['key'] in called}
    files = {p.parent.name: p.parent for p in sorted(Path(masks).glob('*/adaptprune.json')) if p.parent.name in called}
    if not files: raise SystemExit(f'{masks} holds no mask of a run in {runs}: run the sweep first.')
    def base(name):
        if name not in models: models[name] = load_encoder(name)
        return models[name]
    def read(key): return TaskMask.from_pretrained(files[key]).mask
    for key in tqdm(files, desc='tables'):
        if key in found: continue
        cell = dict(ran[key]['cell'], method=ran[key]['recipe']['method'])
        found[key] = dict(tables(key, read(key), cell, base(cell.get('model', 'minilm'))), name=called[key])
    cells = {k: dict(found[k]['cell'], name=called[k]) for k in files}
    def level(k): return cells[k].get('model', 'minilm'), cells[k].get('weights', 'all'), cells[k]['sparsity']
    pairs,parts = ([p for p in ps if not {p['a'], p['b']}<=set(files) and {p['a'], p['b']}<=set(found)] for ps in (pairs, parts))
    for (name,*_),keys in tqdm(groupby(sorted(cells, key=level), key=level), desc='overlap'):
        group = {k: read(k) for k in keys}
        if len(group)<2: continue
        pairs += tidy(compare(group, base(name)))
        parts += tidy(seeds_by_component(group, cells))
    same,found = share([found[k] for k in sorted(found)])
    record = dict(command=f'python benchmarks/topology.py --runs results/{Path(runs).name}', environment=environment(), seconds=round(time.perf_counter()-began), shared=same, masks=found,
        overlap=columns(pairs), seeds=columns(parts))
    Path(out).write_text(json.dumps(record, separators=(',', ':'), allow_nan=False).replace('{"key"', '\n{"key"')+'\n')
    print(f'{len(found)} masks, {len(pairs)} pairs: {out}')

if __name__=='__main__': script(main)
