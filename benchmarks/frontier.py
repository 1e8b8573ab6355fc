"""How fast the networks of the recorded structures are: milliseconds of each cut in PyTorch and ONNX Runtime, interleaved.

    python benchmarks/frontier.py        # adds the sizes that it lacks to results/frontier.json, some minutes; needs the extra onnx
    python benchmarks/frontier.py --base --batch 1,8 --tokens 64 --rounds 7 --out results/frontier_base.json
    python benchmarks/frontier.py --openvino --batch 1,8 --tokens 64 --rounds 9 --out results/frontier_openvino.json    # needs the extra openvino

With --base the network has the shape of BERT-base, random weights, and 70 % of its units are taken out by random scores.
The structures are those of seed 0 on STS-B in results/structured.jsonl. Time depends on shapes alone, so nothing is trained:
beside them stand the dense network, three layers of it taken evenly, and the dense one with zeros in place of weights."""
from pathlib import Path

import torch

from adaptprune.bench import Plan, bench, bench_table, with_csr, with_zeros
from adaptprune.cli import script
from adaptprune.compaction import compact
from adaptprune.fisher import choose_units, even_layers
from adaptprune.head import AdaptModel
from adaptprune.quantize import text_batches
from adaptprune.results import read_results
from adaptprune.setup import set_up
from adaptprune.units import Structure, find_units
from transformers import BertConfig, BertModel

root = Path(__file__).resolve().parent.parent

def structures(path, task='stsb'):
    "The structure of seed 0 for each cut"
    rows = [r for r in read_results(path) if r['cell']['task']==task and r['cell']['seed']==0]
    return {r['cell']['remove']: Structure.from_dict(r['report']['structure']) for r in rows}

def models(setup, path):
    "The networks, and those that only PyTorch runs"
    dense = setup.model.eval()
    nets = {'dense': dense}
    for share,structure in sorted(structures(path).items()): nets[f'{share:.0%} removed'] = compact(dense, structure).eval()
    nets['3 of 6 layers'] = compact(dense, even_layers(find_units(dense), .5)).eval()
    zeros = {f'dense, {s:.0%} zeros in place': with_zeros(dense, s) for s in (.5, .9)}
    sparse = {f'dense, {s:.0%} zeros, CSR': with_csr(dense, s) for s in (.5, .9)}
    return nets, {**zeros, **sparse}

def base_models():
    "BERT-base by its shape, and three tenths of it"
    dense = AdaptModel(BertModel(BertConfig(), add_pooling_layer=False), 2).eval()
    units = find_units(dense)
    scores = {u.out: u.cost*torch.rand(u.n) for u in units}        # heads and neurons alike
    return {'dense': dense, '70% removed': compact(dense, choose_units(units, scores, .7)).eval()}, {}

def main(
    out:str=str(root/'results/frontier.json'), # adds the sizes that it lacks
    runs:str=str(root/'results/structured.jsonl'), # recorded runs with their structures
    threads:int=2, # threads of every route
    rounds:int=15, # turns of every route in each size
    batch:str='1,8,32', # numbers of texts in a call
    tokens:str='16,64,128', # tokens of each text
    base:bool=False, # a network of BERT-base's shape in place of MiniLM
    openvino:bool=False, # time OpenVINO as well
):
    "Time what is missing"
    torch.manual_seed(0)
    setup = set_up('mini-similarity')
    sizes = dict(batch=tuple(map(int, batch.split(','))), tokens=tuple(map(int, tokens.split(','))))
    routes = 'pytorch','onnx','onnx-int8',*(['openvino', 'openvino-int8'] if openvino else [])
    plan = Plan(**sizes, routes=routes, threads=threads, rounds=rounds)
    nets,eager = base_models() if base else models(setup, runs)
    texts = list(zip(setup.data['train']['text_a'], setup.data['train']['text_b']))[:128]
    print(bench_table(bench(nets, plan, out, eager, text_batches(texts, setup.tokenizer))))

if __name__=='__main__': script(main)
