"""How large mask files are and how long they take, beside general compressors, safetensors and the Shannon bound.

    pip install zstandard
    python benchmarks/mask_files.py --out results/mask_files.json              random masks on BERT-base's encoder, 84.9 M weights (some minutes)
    python benchmarks/mask_files.py --learnt --out results/mask_files.json     adds to that file masks learnt on MiniLM (two short runs, some minutes each)
    python benchmarks/mask_files.py --quick                                    a hundredth of the size, to see that it runs

Random masks are the worst case: nothing but the density of each tensor can be used. Times are wall-clock seconds, the best of `reps`, and beside them the
processor's seconds, which a busy machine does not stretch. "mask" is the streams alone; "file" is all of the folder (config, names, hashes), without a head."""
import json, tempfile, time, zlib
from pathlib import Path
import numpy as np, safetensors.torch, torch, zstandard
from adaptprune.artifact import TaskMask
from adaptprune.cli import script
from adaptprune.codec import decode_mask, encode_mask, magnitude_mask, mask_entropy
from adaptprune.mask import Mask
from adaptprune.results import environment

def shapes(layers=12, width=768):
    "The weight matrices of a BERT encoder"
    return {f'encoder.layer.{i}.{n}.weight': s for i in range(layers) for n,s in {**{f'attention.self.{k}': (width, width) for k in ('query', 'key', 'value')},
        'attention.output.dense': (width, width), 'intermediate.dense': (4*width, width), 'output.dense': (width, 4*width)}.items()}

def timed(f, reps=1):
    "Result of f, and the least wall and processor seconds of `reps` calls"
    wall,cpu = [],[]
    for _ in range(reps):
        w,c = time.perf_counter(),time.process_time()
        out = f()
        wall.append(time.perf_counter()-w); cpu.append(time.process_time()-c)
    return out,dict(wall_s=round(min(wall), 3), cpu_s=round(min(cpu), 3))

def ours(mask, ref=None, reps=1):
    "Bytes of the streams, and the times of coding and decoding, checked"
    coded,enc = timed(lambda: {n: encode_mask(m, ref and ref[n]) for n,m in mask.items()}, reps)
    back,dec = timed(lambda: {n: decode_mask(h, mask[n].shape, d, ref and ref[n]) for n,(h,d) in coded.items()}, reps)
    assert Mask(back)==mask
    kinds = [h['coding'] for h,_ in coded.values()]
    return dict(bytes=sum(len(d) for _,d in coded.values()), encode=enc, decode=dec, codings={k: kinds.count(k) for k in sorted(set(kinds))})

def file(mask, reps=1, **kw):
    "The same with the file around it: config, hashes, fsync; the base's hashes are given"
    base = dict(model='google-bert/bert-base-uncased', revision='0'*40, tensors={n: dict(shape=list(m.shape), dtype='float32', sha256='0'*64) for n,m in mask.items()})
    with tempfile.TemporaryDirectory() as d:
        _,save = timed(lambda: TaskMask(mask, base).save_pretrained(d, **kw), reps)
        back,load = timed(lambda: TaskMask.from_pretrained(d, **kw).mask, reps)
        assert back==mask
        return dict(bytes=sum(f.stat().st_size for f in Path(d).iterdir()), encode=save, decode=load)

def others(mask):
    "The same bits by general means"
    flat = np.concatenate([m.numpy().reshape(-1) for m in mask.values()])
    packed,pack = timed(lambda: np.packbits(flat, bitorder='little'))
    _,unpack = timed(lambda: np.unpackbits(packed, bitorder='little'))
    out = dict(packbits=dict(bytes=packed.nbytes, encode=pack, decode=unpack))
    for name,comp,dec in (('zlib level 6', lambda b: zlib.compress(b, 6), zlib.decompress), ('zstd level 3', zstandard.ZstdCompressor(3).compress, zstandard.ZstdDecompressor().decompress),
                          ('zstd level 19', zstandard.ZstdCompressor(19).compress, zstandard.ZstdDecompressor().decompress)):
        b,enc = timed(lambda: comp(packed.tobytes()))
        _,d = timed(lambda: dec(b))
        out[name+' of packbits'] = dict(bytes=len(b), encode=enc, decode=d)
    b,enc = timed(lambda: safetensors.torch.save(dict(mask)))
    _,dec = timed(lambda: safetensors.torch.load(b))
    return dict(out, **{'safetensors bool': dict(bytes=len(b), encode=enc, decode=dec), 'fine-tuned fp32 weights': dict(bytes=4*mask.numel)})

def random_masks(sparsity, shp, gen):
    "Per-tensor sparsities scattered around the wanted one, as under a global budget: its logit plus a normal draw of deviation 0.5"
    def keep(s): return 1-torch.sigmoid(torch.logit(torch.tensor(sparsity))+.5*torch.randn((), generator=gen))
    return Mask({n: torch.rand(s, generator=gen)<keep(s) for n,s in shp.items()})

def sister_of(mask, gen):
    "Another mask that differs at 2 % of the places"
    return Mask({n: m ^ (torch.rand(m.shape, generator=gen)<.02) for n,m in mask.items()})

def row(name, sparsity, mask, bound, r): return dict(what=name, sparsity=sparsity, weights=mask.numel, measured_sparsity=round(mask.sparsity, 4), bound_bytes=round(bound), of_bound=round(r['bytes']/bound, 4), **r)

def random_rows(shp, reps, seed=0):
    rows,gen = [],torch.Generator().manual_seed(seed)
    for sparsity in (.05, .2, .5, .9, .99):
        mask = random_masks(sparsity, shp, gen); bound = mask_entropy(mask)
        for name,r in dict({'mask': ours(mask, reps=reps), 'file': file(mask, reps)}, **others(mask)).items(): rows.append(row(name, sparsity, mask, bound, r))
        sister = sister_of(mask, gen)
        rows.append(row('mask of a sister, 2 % flipped', sparsity, sister, mask_entropy(sister), ours(sister, mask)))
        print(*(f"{x['what']:32} {x['sparsity']:5} {x['bytes']:>12,} {x['of_bound']:8.4f} {x.get('encode', '')} {x.get('decode', '')}" for x in rows if x['sparsity']==sparsity), sep='\n', flush=True)
    return rows

def learnt_rows(sparsity=.3, steps=150):
    "A mask that was learnt: alone, relative to a sister (another seed), relative to the largest weights of the base"
    from adaptprune.head import load_encoder
    from adaptprune.task import adapt_task
    ws = dict(load_encoder('minilm').named_parameters())
    m,sister = (adapt_task('mini-sentiment', sparsity=sparsity, recipe='default', max_steps=steps, seed=seed, progress=False).mask for seed in (0, 1))
    refs = {'alone': None, 'relative to another seed': sister, 'relative to the base': Mask({n: magnitude_mask(ws[n], int(t.count_nonzero())) for n,t in m.items()})}
    rows = [row('learnt mask, '+k, sparsity, m, mask_entropy(m), ours(m, r)) for k,r in refs.items()]
    print(*rows, sep='\n', flush=True)
    return rows

def main(
    out:str=None, # file to write
    quick:bool=False, # a hundredth of the size
    learnt:bool=False, # masks learnt on MiniLM; kept beside the rest of `out`
    reps:int=3 # of each timing
):
    t,old = time.time(),json.loads(Path(out).read_text()) if out and Path(out).exists() else {}
    part = 'learnt' if learnt else 'random'
    rows = learnt_rows() if learnt else random_rows(shapes(2, 128) if quick else shapes(), reps)
    config = dict(model='all-MiniLM-L6-v2', task='mini-sentiment', recipe='default', weights='all', steps=150) if learnt else dict(shapes='BERT-base encoder', seed=0, reps=reps)
    old[part] = dict(config=config, environment=dict(environment(), zstandard=zstandard.__version__, numpy=np.__version__), wall_s=round(time.time()-t), rows=rows)
    if out: Path(out).write_text(json.dumps(old, indent=1)+'\n')

if __name__=='__main__': script(main)
