"The scripts in benchmarks/ that add to a file of results, on networks of a few weights."
import importlib.util, json, shutil, sys
from pathlib import Path
import pytest, torch
from adaptprune.anatomy import maskable
from adaptprune.artifact import TaskMask
from adaptprune.head import load_encoder
from adaptprune.mask import Mask
from adaptprune.results import append_line, read_results
from adaptprune.sweep import cell_key, cell_name, cell_recipe
from adaptprune.vectors import text_features
from transformers import BertConfig, BertModel

def script(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).resolve().parent.parent/f'benchmarks/{name}.py')
    mod = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mod)
    return mod

@pytest.fixture
def runs(tmp_path, monkeypatch):
    "Recorded runs and their masks: a function of cells"
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    size = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50)
    BertModel(BertConfig(**size), add_pooling_layer=False).save_pretrained('bert')
    base = load_encoder('bert')
    shapes = {n: p.shape for n,p in maskable(base).items()}
    def make(*cells):
        for c in cells:
            c = dict(task='stsb', model='bert', max_steps=9, **c)
            g = torch.Generator().manual_seed(c['seed'])
            mask = Mask({n: torch.rand(s, generator=g)>c['sparsity'] for n,s in shapes.items()})
            TaskMask(mask, base).save_pretrained(f'masks/{cell_key(c)}')
            report = dict(task='stsb', metric='spearman', metrics=dict(spearman=.5), seconds=1.)
            line = dict(key=cell_key(c), name=cell_name(c), cell=c, recipe=vars(cell_recipe(c)), report=report)
            append_line('runs.jsonl', line)
        return [r['key'] for r in read_results('runs.jsonl')]
    return make

def test_topology_adds_to_what_it_has(runs):
    "Tables and pairs of masks that are gone from the folder stay as they were; a recipe that has changed keeps its own name"
    main = script('topology').main
    a,b = runs(dict(recipe='default', seed=0, sparsity=.5), dict(recipe='default', seed=1, sparsity=.5))
    def go(**kw):
        main(masks='masks', runs='runs.jsonl', out='out.json', **kw)
        got = json.loads(Path('out.json').read_text())
        def whole(t, cols): return {**got['shared'].get(t, {}), **cols} if isinstance(cols, dict) and t!='cell' else cols
        return got, [{t: whole(t, cols) for t,cols in m.items()} for m in got['masks']]
    first,tables = go()
    assert [m['key'] for m in tables]==sorted([a, b]) and {m['name'] for m in tables}=={'default'}
    assert list(zip(first['overlap']['a'], first['overlap']['b']))==[tuple(sorted([a, b]))]
    assert set(first['seeds']['component'])>={'query', 'embedding'}
    shutil.rmtree(f'masks/{a}')
    *_,c,d = runs(dict(recipe='random', seed=0, sparsity=.5), dict(recipe='default', start='rank', seed=0, sparsity=.5))
    second,more = go()
    assert {m['key']: m for m in more if m['key'] in (a, b)}=={m['key']: m for m in tables}
    assert {m['key'] for m in more}=={a, b, c, d}
    assert {m['name'] for m in more}=={'default', 'default, start=rank', 'random'}
    pairs = {frozenset(p) for p in zip(second['overlap']['a'], second['overlap']['b'])}
    assert pairs=={frozenset(p) for p in [(a, b), (b, c), (b, d), (c, d)]} and len(second['overlap']['a'])==4
    def of_seeds(record): return set(zip(record['seeds']['a'], record['seeds']['b']))
    assert of_seeds(second)==of_seeds(first), 'recipes apart are no seeds of each other'
    again,_ = go()
    assert {k: v for k,v in again.items() if k!='seconds'}=={k: v for k,v in second.items() if k!='seconds'}
    fresh,_ = go(afresh=True)
    assert {m['key'] for m in fresh['masks']}=={b, c, d}
    with pytest.raises(SystemExit, match='holds no mask'): main(masks='nowhere', runs='runs.jsonl', out='out.json')

def test_perturb_picks_the_masks_that_are_there(runs, monkeypatch):
    "A shuffle for every mask, noise at half, and nothing for masks that are gone or of another recipe"
    mod,seen = script('perturb'),[]
    monkeypatch.setattr(mod, 'run_cells', lambda cells, *args, **kwargs: seen.extend(cells))
    base = dict(recipe='default', seed=0, sparsity=.2)
    a,b,c,d = runs(dict(base, sparsity=.5), base, dict(base, start='rank'), dict(base, seed=1))
    ask = dict(of='runs.jsonl', masks='masks', out='out.jsonl')
    mod.main(start='activation', **ask)
    assert [(x['mask'], x['change']) for x in seen]==[(b, 'shuffle'), (a, 'shuffle'), *[(a, f'noise {n:g}') for n in mod.noises]]
    assert all(x['mixed_precision']=='no' and x['max_steps']==9 for x in seen)
    seen.clear()
    mod.main(start='rank', **ask)
    assert [x['mask'] for x in seen]==[c]
    shutil.rmtree(f'masks/{c}')
    with pytest.raises(SystemExit, match='holds no mask'): mod.main(start='rank', **ask)

@pytest.mark.parametrize('std', [0., .1])
def test_noise_is_a_factor_on_masked_weights(runs, std):
    mod,names = script('perturb'),set(maskable(load_encoder('bert')))
    a,b = load_encoder('bert'),load_encoder('bert')
    mod.jittered(b, names, std, 0)
    for (n,p),q in zip(a.named_parameters(), b.parameters()):
        if n not in names or not std: assert torch.equal(p, q)
        else: assert abs((q/p)[p!=0].std().item()-std)<.05 and not torch.equal(p, q)

def test_limits_scores_seen_and_held_out_texts(folder, tmp_path, monkeypatch):
    "A line for each arm; both scores of the mask and of its teacher, over as many seen texts as held-out ones, none of them in both"
    monkeypatch.chdir(tmp_path)
    mod,seen = script('limits'),[]
    real = mod.adapt_task
    monkeypatch.setattr(mod, 'adapt_task', lambda task, data, **kw: seen.append(data) or real(task, data=data, **kw))
    mod.main(task='mini-sentiment', model=folder, max_steps=2, out='limits.jsonl', cache='cache')
    rows = read_results('limits.jsonl')
    arms = [(r['cell']['sparsity'], r['cell'].get('weights', 'all')) for r in rows]
    assert arms==[(.5, 'all'), (.9, 'all'), (.9, 'encoder')], 'with equal steps the last arm is the second'
    for r in rows:
        rep = r['report']
        assert {rep['metric'], f"{rep['metric']}_train"}<=set(rep['metrics'])
        assert set(rep['metrics'])==set(rep['teacher_metrics'])
        assert sum(p['kept'] for p in rep['parts'])==rep['kept']
    for d in seen:
        texts = {k: set(zip(*(d[k][c] for c in d[k].column_names))) for k in d}
        assert len(d['dev'])==len(d['dev_train'])
        assert texts['dev_train']<=texts['train']
        assert texts['dev'].isdisjoint(texts['train'])

def test_architectures_tells_open_ways_from_closed_ones(tmp_path, monkeypatch, capsys):
    "A way that fails is recorded with its reason, and the error behind it"
    bench = script('architectures')
    def fails(family, res, path):
        try: int('x')
        except ValueError as e: raise ValueError('\x1b[96mno\x1b[0m way. This is step 2') from e
    monkeypatch.setattr(bench, 'ways', dict(adapt=bench.ways['adapt'], compact=bench.ways['compact'], onnx=fails))
    bench.main(families='DistilBert', out=tmp_path/'a.json')
    got = json.loads((tmp_path/'a.json').read_text())
    row, = got['families']
    assert row['ways']['adapt']['open'] and row['ways']['compact']['takes_out']==['heads', 'neurons'] and row['pooling']=='first'
    assert row['ways']['onnx']['reason']=="no way. (cause: invalid literal for int() with base 10: 'x')"
    assert got['command'].endswith('--families DistilBert') and got['environment']['torch'] and 'no' in capsys.readouterr().out

def test_a_step_is_measured(monkeypatch, capsys, tmp_path):
    "The benchmark of a step runs, updates inside the backward pass included"
    monkeypatch.setattr('sys.argv', ['step.py', '--quick', '--out', str(tmp_path/'step.json')])
    script('step').main()
    measured = json.loads((tmp_path/'step.json').read_text())['models']['tiny']['shapes']['4x16']['seconds']
    assert {'adamw_fused', 'ours', 'ours_in_backward', 'ours_adam'}<=set(measured)

def test_many_tasks_are_measured(monkeypatch, tmp_path):
    "Every way answers for every row, with its own task's head; memory is asked of fresh processes"
    bench = script('many_tasks')
    asked = []
    monkeypatch.setattr(bench, 'measured_memory', lambda way, name, n: asked.append((way, n)) or 1.)
    record = bench.main(quick=True, counts='1,3', rounds=2, out=str(tmp_path/'m.json'))
    assert set(asked)=={(w, n) for w in bench.ways if w!='one_model' for n in (1, 3)}
    assert [set(f['batch']) for f in record['found']]==[set(bench.ways)]*2 and json.loads((tmp_path/'m.json').read_text())['found']
    sizes = record['kilobytes_of_a_task']
    assert sizes['head']<sizes['lora']<sizes['copy'] and sizes['head']<sizes['mask']<sizes['copy']
    batch = bench.batch_of('tiny')
    for way in bench.ways:
        torch.manual_seed(0)
        got = bench.ways[way]('tiny', 3)(batch)
        assert got.shape==(bench.rows, bench.classes) and len(got.unique(dim=0))==bench.rows
    torch.manual_seed(0)
    switched = bench.lora_switched('tiny', 3)(batch)
    torch.manual_seed(0)
    torch.testing.assert_close(bench.lora_mixed('tiny', 3)(batch), switched, atol=1e-5, rtol=1e-4)

def test_product_is_measured(monkeypatch, tmp_path):
    "Targets stand beside what was measured; without fresh processes here"
    bench = script('product')
    monkeypatch.setattr(bench, 'fresh', lambda code: .01)
    monkeypatch.setattr(bench, 'processor_seconds', lambda args: .5)
    bench.main(quick=True, times=2, rounds=3, out=str(tmp_path/'p.json'))
    record = json.loads((tmp_path/'p.json').read_text())
    assert {k: t['met'] for k,t in record['targets'].items() if k!='predictor_overhead'}==dict(import_s=True, help_cpu_s=False)
    assert record['table']['rows']==1000 and record['table']['tokens']>5000 and record['predictor']['cpu_ms']['predictor']['median']>0

def test_pairs_of_setfit():
    pairs = script('setfit').pairs_of(['good', 'great', 'bad', 'poor', 'awful'], [1, 1, 0, 0, 0], 0)
    good = {'good', 'great'}
    assert len(pairs)==5*2*20 and all(p['label']==((p['text_a'] in good)==(p['text_b'] in good)) for p in pairs)
    assert pairs==script('setfit').pairs_of(['good', 'great', 'bad', 'poor', 'awful'], [1, 1, 0, 0, 0], 0)

def test_setfit_tunes_the_encoder_that_the_linear_model_reads(folder, tmp_path, monkeypatch):
    mod = script('setfit')
    monkeypatch.setattr(mod, 'most_steps', 2)
    read = []
    monkeypatch.setattr(mod, 'text_features', lambda setup: read.append(setup.model.base_model) or text_features(setup))
    before = load_encoder(folder).state_dict()
    mod.main(task='mini-sentiment', labels='20', samples='1', model=str(folder), out=str(tmp_path/'out.json'))
    row, = json.loads((tmp_path/'out.json').read_text())
    assert row['steps']==2 and row['cell']==dict(task='mini-sentiment', labels=20, sample=1) and 0<row['metrics']['dev']['accuracy']<1
    after = read[0].state_dict()
    assert all(n in before for n in after) and any((before[n]!=after[n]).any() for n in after)
    mod.main(task='mini-sentiment', labels='20', samples='1', model=str(folder), out=str(tmp_path/'out.json'))
    assert len(read)==1         # what is there is not measured again

def test_what_is_asked_of_a_gpu_is_said_beside_what_was_measured():
    gpu = script('gpu')
    record = json.loads((gpu.root/'results/step_gpu.json').read_text())
    lines = list(gpu.verdicts(record))
    assert len(lines)==8 and any(l.startswith('32x128, step over that of fused AdamW') and l.endswith('asked: met') for l in lines)
    for shape in record['models']['bert']['shapes'].values(): shape['to_adamw_fused']['ours']['median'] = 1.2
    assert sum('1.200, at most 1 asked: NOT met' in l for l in gpu.verdicts(record))==2

def test_what_takes_too_long_on_a_gpu_is_ended():
    gpu = script('gpu')
    assert sum(gpu.limits.values())<=300
    assert gpu.ran([sys.executable, '-c', 'import time; time.sleep(60)'], .5)==124 and gpu.ran([sys.executable, '-c', 'exit(3)'], 60)==3
