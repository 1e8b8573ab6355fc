"""Make what the page *Try it* loads: one compact base in int8 and, beside it, small files for two tasks. Then `make docs` puts them into the site.
usage: python tools/try_page.py [--glue-dir PATH|hub] [--cache FOLDER] [--record]"""
import base64,gzip,hashlib,io,json,os,shutil,subprocess,sys,tarfile,tempfile,time
os.environ.setdefault('OMP_NUM_THREADS', '1')
if not {'hub', '--glue-dir=hub'} & set(sys.argv): os.environ.setdefault('HF_HUB_OFFLINE', '1')
from argparse import ArgumentParser
from copy import deepcopy
from dataclasses import asdict,replace
from datetime import date
from pathlib import Path
from statistics import median
import numpy as np
import onnx,onnxruntime,torch
from onnx import external_data_helper,numpy_helper
from scipy.special import softmax
from adaptprune.compaction import compact
from adaptprune.export import export_onnx
from adaptprune.fisher import choose_units,score_units
from adaptprune.loop import adapt,save_state
from adaptprune.quantize import quantize_onnx,text_batches
from adaptprune.recipe import get_recipe
from adaptprune.setup import digest,set_up
from adaptprune.tasks import compute_metrics,get_task
from adaptprune.teacher import make_teacher
from adaptprune.timing import machine
from adaptprune.units import Structure,find_units,structure_report

root = Path(__file__).resolve().parent.parent
cache,record = root/'.cache',root/'results'/'try.json'
chunk = 2_000_000               # characters of a file: one bar of progress
ort = dict(version='1.30.0', sha512='ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61')
ort_files = dict(api='ort.wasm.min.js', glue='ort-wasm-simd-threaded.mjs', wasm='ort-wasm-simd-threaded.wasm')
remove,sparsity,steps = .7,.4,300       # of the structure, of the mask, and of what learns it
teaching = {'sst2': 1000, 'stsb': 719, 'mini-sentiment': 300, 'mini-similarity': 300}       # steps of a teacher, for GLUE as in sweeps/structured.toml
sources = dict(glue=('sst2', 'stsb'), mini=('mini-sentiment', 'mini-similarity'))

def joint(scores):
    "Scores of units for several tasks: the mean, where those of each task sum to one"
    totals = [sum(float(s.sum()) for s in task.values()) for task in scores]
    return {n: sum(task[n]/t for task,t in zip(scores, totals)) for n in scores[0]}

class Learnt:
    "One compact base, and for each task a mask of its weights and a head"
    def __init__(self,
        tasks, # names
        glue_dir=None, # folder with GLUE's data (default: the variable GLUE_DIR, else the Hub)
        keep=cache/'try-learnt' # folder for what was learnt: the next call takes it from there
    ):
        self.recipe = get_recipe('structured', batch_size=16, remove=remove)
        how = dict(model='minilm', data=None, glue_dir=glue_dir, validate=False, max_length=128, seed=0)
        self.tasks,self.keep = tasks,Path(keep)
        self.abouts = [dict(how, task=get_task(t)) for t in tasks]
        self.setups = [set_up(batch_size=self.recipe.batch_size, pooling=self.recipe.pooling, **a) for a in self.abouts]
        self.units = find_units(self.setups[0].model.base_model)
        taught = [make_teacher(self.recipe, keep, teaching[t], {}, **a) for t,a in zip(tasks, self.abouts)]
        self.teachers = [t for t,_ in taught]
        self.structure = Structure.from_dict(self.once('structure', self.choose))
        self.cuts = structure_report(self.units, self.structure)
        for s in self.setups: s.model = compact(s.model, self.structure)
        self.before = deepcopy(self.setups[0].model.base_model.state_dict())
        self.reports = [self.mask(*o)|about for o,(_,about) in zip(zip(tasks, self.setups, self.teachers), taught)]

    def once(self, name, make):
        "What was made before, or is made now and kept"
        key = digest([self.tasks, asdict(self.recipe), sparsity, steps, teaching])
        file = self.keep/f'{name}-{key}.pt'
        if not file.exists(): save_state(file, make())
        return torch.load(file, weights_only=True)

    def choose(self):
        "The structure that suits all tasks"
        scores = [score_units('fisher', t, s.sample(64)) for t,s in zip(self.teachers, self.setups)]
        return choose_units(self.units, joint(scores), remove).to_dict()

    def mask(self, name, setup, teacher):
        "Learn a mask and a head for a task: the report"
        def make():
            res = adapt(setup.model, setup.loaders['train'], recipe=replace(self.recipe, remove=0.), evaluate=setup.evaluate,
                max_steps=steps, teacher_model=teacher, sparsity=sparsity, seed=0)
            kept = ('metrics', 'steps', 'seconds', 'sparsity')
            return dict(model=setup.model.state_dict(), report={k: res.report[k] for k in kept})
        got = self.once(name, make)
        setup.model.load_state_dict(got['model'])
        return got['report']

def fetch_ort():
    "The files of onnxruntime-web, from npm the first time: a dict of bytes"
    tgz = cache/f"onnxruntime-web-{ort['version']}.tgz"
    if not tgz.exists():
        if not shutil.which('npm'): sys.exit(f"npm is needed, once, to fetch onnxruntime-web (or put its package at {tgz.relative_to(root)}).")
        subprocess.run(['npm', 'pack', '--silent', f"onnxruntime-web@{ort['version']}"], cwd=cache, check=True, stdout=subprocess.DEVNULL)
    data = tgz.read_bytes()
    if hashlib.sha512(data).hexdigest()!=ort['sha512']: sys.exit(f'{tgz.relative_to(root)} is not the package that this tool knows: delete it.')
    with tarfile.open(fileobj=io.BytesIO(data)) as t: return {k: t.extractfile(f'package/dist/{f}').read() for k,f in ort_files.items()}

def texts_of(rows):
    "The texts of a split: strings, or tuples of two"
    if 'text_b' not in rows.column_names: return list(rows['text_a'])
    return list(zip(rows['text_a'], rows['text_b']))

def int8(model, setup, folder, bound=-2):
    "A model as an ONNX graph in int8. The base without its mask answers nothing, so nobody asks how well it agrees"
    export_onnx(model, folder/'whole.onnx', setup.tokenizer, force=True)
    batches = text_batches(texts_of(setup.data['train'])[:128], setup.tokenizer)
    quantize_onnx(folder/'whole.onnx', folder/'int8.onnx', model, batches, bound=bound, force=True)
    return onnx.load(str(folder/'int8.onnx'))

def tensors(graph): return {t.name: numpy_helper.to_array(t) for t in graph.graph.initializer}

class Files:
    "What is shared, and what is a task's own: graphs, the bytes of the base, and which of its weights each task keeps"
    def __init__(self,
        learnt, # a `Learnt`
        bound=.9 # smallest agreement of a task's int8 graph with PyTorch
    ):
        pairs = [self.pair(s, learnt.before, bound) for s in learnt.setups]
        self.graphs = [dense for dense,_ in pairs]
        dense,masked = ([tensors(p[i]) for p in pairs] for i in (0, 1))
        first = dense[0]
        def same(n, x): return all(n in d and d[n].tobytes()==x.tobytes() for d in dense)
        self.shared = [n for n,x in first.items() if x.nbytes>=256 and same(n, x)]
        self.cut = [n for n in self.shared if first[n].dtype==np.int8 and any((m[n]!=d[n]).any() for m,d in zip(masked, dense))]
        self.check(dense, masked)
        self.base,self.at = self.laid_out(first)
        self.bits = [np.packbits(np.concatenate([m[n].ravel()!=0 for n in self.cut])).tobytes() for m in masked]
        for g in self.graphs: self.refer(g)

    def pair(self, setup, before, bound):
        "The graphs of a task with and without its mask"
        model = setup.model.cpu().eval()
        dense = deepcopy(model)
        dense.base_model.load_state_dict(before)
        for n,p in model.base_model.state_dict().items():
            kept = p!=0
            if not torch.equal(p[kept], before[n][kept]): raise ValueError(f'{n} has weights that the base has not.')
        with tempfile.TemporaryDirectory() as tmp: return int8(dense, setup, Path(tmp)), int8(model, setup, Path(tmp), bound)

    def check(self, dense, masked):
        "All that a mask changes is which weights of the shared part are zero, and their scales"
        free = {*self.cut, *(n.replace('_quantized', '_scale') for n in self.cut)}
        for d,m in zip(dense, masked):
            other = [n for n in d if n not in free and d[n].tobytes()!=m[n].tobytes()]
            if other: raise ValueError(f'{other[0]} is changed by a mask, and it is not shared.')

    def laid_out(self, first):
        "The shared tensors in one piece, and where each lies"
        data,at = bytearray(),{}
        for n in self.shared:
            data += bytes(-len(data)%64)
            at[n] = [len(data), first[n].nbytes]
            data += first[n].tobytes()
        return bytes(data), at

    def refer(self, graph):
        "Let a graph look for the shared tensors in the file base.bin"
        for t in graph.graph.initializer:
            if t.name not in self.at: continue
            offset,length = self.at[t.name]
            t.raw_data = numpy_helper.to_array(t).tobytes()
            for part in ('float_data', 'int32_data', 'int64_data'): t.ClearField(part)
            external_data_helper.set_external_data(t, 'base.bin', offset=offset, length=length)
            t.ClearField('raw_data')

    @property
    def ranges(self): return [self.at[n] for n in self.cut]

def masked_base(base, bits, ranges):
    "The bytes of the base with zeros where a mask prunes"
    data = np.frombuffer(base, np.uint8).copy()
    kept = np.unpackbits(np.frombuffer(bits, np.uint8))
    done = 0
    for offset,length in ranges:
        data[offset:offset+length] *= kept[done:done+length]
        done += length
    return data.tobytes()

def write_part(folder, name, data):
    "Bytes as scripts, which a page may load from disk: their number, and how much they hold"
    text = base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()
    pieces = [text[i:i+chunk] for i in range(0, len(text), chunk)]
    for i,piece in enumerate(pieces): (folder/f'{name}-{i}.js').write_text(f'adaptpruneTry({json.dumps(name)},{i},"{piece}");\n')
    return dict(files=len(pieces), shipped=len(text), bytes=len(data))

def read_part(folder, name, files):
    "The bytes that `write_part` wrote"
    pieces = [(folder/f'{name}-{i}.js').read_text().split('"')[-2] for i in range(files)]
    return gzip.decompress(base64.b64decode(''.join(pieces)))

def read_manifest(folder): return json.loads((folder/'manifest.js').read_text().split('=', 1)[1].rstrip().rstrip(';'))

class Answers:
    "What ONNX Runtime answers in Python, by the files that the page loads"
    def __init__(self,
        folder, # with `manifest.js`
        task, # name
        tokenizer
    ):
        about = read_manifest(folder)
        self.task = next(t for t in about['tasks'] if t['name']==task)
        self.tokenizer,self.longest = tokenizer,about['longest']
        def part(name): return read_part(folder, name, about['parts'][name]['files'])
        with tempfile.TemporaryDirectory() as tmp:
            (Path(tmp)/'task.onnx').write_bytes(part(f'{task}-graph'))
            (Path(tmp)/'base.bin').write_bytes(masked_base(part('base'), part(f'{task}-mask'), about['ranges']))
            how = onnxruntime.SessionOptions()
            how.intra_op_num_threads = 1
            self.session = onnxruntime.InferenceSession(str(Path(tmp)/'task.onnx'), how, providers=['CPUExecutionProvider'])

    def logits(self, batch): return self.session.run(None, {k: np.asarray(v) for k,v in batch.items()})[0]

    def value(self, texts):
        "The probabilities, or the score, of one text or pair"
        texts = (texts,) if isinstance(texts, str) else texts
        z = self.logits(self.tokenizer(*texts, truncation=True, max_length=self.longest, padding=False, return_tensors='np'))[0]
        return softmax(z) if len(z)>1 else z

    def score(self, task, rows):
        "The metric of a task on a split, one text at a time, as on the page"
        got = np.stack([self.value(t) for t in texts_of(rows)])
        return float(compute_metrics(task, torch.tensor(got), torch.tensor(rows['label'][:]))[task.metric])

scale = 'about other things','on the same topic','some details in common','roughly the same','nearly the same','the same'
mood = dict(title='Sentiment', about='Is a sentence of a review positive or negative?')
alike = dict(title='Similarity', about='Do two sentences mean the same? From 0 to 5.', top=5, scale=scale)
told = {'sst2': mood, 'mini-sentiment': mood, 'stsb': alike, 'mini-similarity': alike}
data_names = {'sst2': 'SST-2', 'stsb': 'STS-B'}
licences = f"""ort.wasm.min.js, glue, wasm: ONNX Runtime Web {ort['version']}, Copyright (c) Microsoft Corporation, MIT License,
  https://github.com/microsoft/onnxruntime/blob/main/LICENSE
base, vocab: weights and vocabulary of all-MiniLM-L6-v2, sentence-transformers, Apache License 2.0,
  https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2; units cut out and in eight bits
"""

def describe(task, setup, report):
    "What the page says of a task"
    t = setup.task
    about = dict(name=task, data=data_names.get(task, task), texts=len(t.text), labels=list(t.labels or ['score']), metric=t.metric, **told[task])
    return dict(about, rows=len(setup.data['dev']), float32=report['metrics'][t.metric], teacher=report['teacher_metrics'][t.metric],
        mask_steps=report['steps'], teacher_steps=report['teacher_steps'])

def write_manifest(folder, about): (folder/'manifest.js').write_text(f'window.adaptpruneManifest={json.dumps(about)};\n')

def write(learnt, folder, bound=.9):
    "All that the page loads, into a new folder: the manifest"
    files,packed = Files(learnt, bound),fetch_ort()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    vocab = learnt.setups[0].tokenizer.get_vocab()
    parts = dict(wasm=packed['wasm'], glue=packed['glue'], vocab='\n'.join(sorted(vocab, key=vocab.get)).encode(), base=files.base)
    for t,g,bits in zip(learnt.tasks, files.graphs, files.bits): parts |= {f'{t}-graph': g.SerializeToString(), f'{t}-mask': bits}
    (folder/ort_files['api']).write_bytes(packed['api'])
    (folder/'LICENCES.txt').write_text(licences)
    tasks = [describe(*o) for o in zip(learnt.tasks, learnt.setups, learnt.reports)]
    about = dict(date=str(date.today()), api=ort_files['api'], longest=128, sparsity=sparsity, removed=learnt.cuts['removed'], ranges=files.ranges,
        parts={k: write_part(folder, k, v) for k,v in parts.items()}, tasks=tasks)
    write_manifest(folder, about)
    for t,s in zip(tasks, learnt.setups):
        t['int8'] = Answers(folder, t['name'], s.tokenizer).score(s.task, s.data['dev'])
        print(f"{t['data']}: {t['metric']} {t['int8']:.4f} in int8, {t['float32']:.4f} before, teacher {t['teacher']:.4f}")
    write_manifest(folder, about)
    return about

def plain_page(page, files):
    "Write a page with nothing but what `try.js` shows, for the files of a folder"
    static = root/'docs'/'_static'
    scripts = ''.join(f'<script src="{(static/n).as_uri()}"></script>' for n in ('wordpiece.js', 'try.js'))
    page.write_text(f'<!doctype html><meta charset="utf-8"><div id="try-it" data-files="{files.as_uri()}/"></div>{scripts}')

def in_browser(files, questions, runs=5):
    "What headless Chromium answers from disk: a list of dicts with values, tokens and ms, for pairs of a task and its texts"
    from chromium import Chromium
    with tempfile.TemporaryDirectory() as tmp, Chromium(timeout=600) as c:
        plain_page(Path(tmp)/'page.html', files)
        c.open((Path(tmp)/'page.html').as_uri())
        c.js('adaptprunePage.opened.then(adaptprunePage.start)')
        got = [c.js(f'adaptprunePage.ask({json.dumps(task)}, {json.dumps(texts)}, {runs})') for task,texts in questions]
        if c.errors: raise RuntimeError('\n'.join(c.errors))
        return got, c('Browser.getVersion')['product']

def in_python(files, questions, tokenizer):
    "What Python answers: a list of arrays"
    asks = {t: Answers(files, t, tokenizer) for t,_ in questions}
    return [asks[task].value(tuple(texts)) for task,texts in questions]

def agreement(files, questions, tokenizer):
    "How well browser and Python agree; a score from 0 to 5 counts as a fraction of 5"
    got,browser = in_browser(files, questions)
    want = in_python(files, questions, tokenizer)
    tops = {t['name']: t.get('top', 1) for t in read_manifest(files)['tasks']}
    differences = [float(np.abs(np.array(g['values'])-w).max())/tops[t] for (t,_),g,w in zip(questions, got, want)]
    same = [int(np.argmax(g['values']))==int(w.argmax()) for g,w in zip(got, want) if len(w)>1]
    return dict(examples=len(got), difference=max(differences), median_difference=median(differences), classified=len(same), same_class=sum(same)/len(same),
        browser=browser, ms=median(g['ms'] for g in got), tokens=median(g['tokens'] for g in got))

def write_record(learnt, about, command, seconds):
    "results/try.json: sizes, scores, agreement, versions and hardware"
    questions = [(t, [x] if isinstance(x, str) else list(x)) for t,s in zip(learnt.tasks, learnt.setups) for x in texts_of(s.data['dev'])[:60]]
    load = os.getloadavg()
    agrees = agreement(cache/'try', questions, learnt.setups[0].tokenizer)
    config = dict(model='minilm', recipe='structured', remove=remove, sparsity=sparsity, steps=steps, batch_size=16, seed=0)
    about = dict(command=command, date=about['date'], config=config, removed=about['removed'], heads=[r.get('heads', 0) for r in learnt.cuts['layers']],
        neurons=[r.get('neurons', 0) for r in learnt.cuts['layers']], parts=about['parts'], masked=sum(n for _,n in about['ranges']), tasks=about['tasks'],
        agreement=agrees, runtime=f"onnxruntime-web {ort['version']}", machine=machine(), load_average=load, wall_s=round(seconds))
    record.write_text(json.dumps(about, indent=1)+'\n')

def main():
    "Make the files of the page"
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--glue-dir', help="learn GLUE's SST-2 and STS-B from this folder, or from the Hub (hub), and not the packaged mini tasks")
    parser.add_argument('--cache', default=str(cache/'try-learnt'), help='a folder that keeps what was learnt')
    parser.add_argument('--record', action='store_true', help='write results/try.json; needs Chromium')
    args = parser.parse_args()
    began = time.perf_counter()
    hub = args.glue_dir=='hub'
    if hub: os.environ.pop('GLUE_DIR', None)
    folder = None if hub else args.glue_dir
    learnt = Learnt(sources['glue' if args.glue_dir else 'mini'], folder, args.cache)
    about = write(learnt, cache/'try')
    if (root/'_site').exists(): shutil.copytree(cache/'try', root/'_site'/'try', dirs_exist_ok=True)
    shipped = sum(p['shipped'] for p in about['parts'].values())
    print(f"{shipped/1e6:.1f} MB in {os.path.relpath(cache/'try', root)}: `make docs` puts them into the site.")
    source = f" --glue-dir {'hub' if hub else 'PATH'}" if args.glue_dir else ''
    command = f'python tools/try_page.py{source} --record'
    if args.record: write_record(learnt, about, command, time.perf_counter()-began)

if __name__=='__main__': main()
