"A sweep over one's own files: what is recorded of them, what is refused, and the best mask of each sparsity."
import json,os
from pathlib import Path
import pytest
from adaptprune import cli
from adaptprune.artifact import TaskMask
from adaptprune.results import read_results
from adaptprune.sweep import cell_key,keep_best,read_sweep,run_on_files,run_sweep,sweep_jobs
from toy import own_data

common = 'train = "data/train.tsv"\ndev = "data/dev.tsv"\ntext = "sentence"\nmax_steps = 2\nmax_length = 16\nrecipe = "default"\n'

@pytest.fixture
def sweep(tmp_path, monkeypatch):
    "A function that writes a sweep file beside a folder of data; the working folder is another one"
    (tmp_path/'there'/'data').mkdir(parents=True)
    (tmp_path/'here').mkdir()
    own_data(tmp_path/'there'/'data')
    monkeypatch.chdir(tmp_path/'here')
    def write(cells, common=common, out='results/own.jsonl'):
        f = tmp_path/'there'/'own.toml'
        f.write_text(f'out = "{out}"\n[common]\n{common}\n[[cells]]\n{cells}\n')
        return str(f)
    return write

def lines(f, folder, **kwargs): return run_sweep(f, model=folder, progress=False, cache=None, **kwargs)

def test_what_is_recorded(sweep, folder, tmp_path):
    "Names and hashes, no path; run again, nothing is run; moved, the lines are found; edited, they are new"
    f = sweep('sparsity = [0.2, 0.5]')
    rows = lines(f, folder)
    assert [r['cell']['sparsity'] for r in rows]==[.2, .5] and len(read_results('results/own.jsonl'))==2
    files = rows[0]['cell']['files']
    assert {k: files[k] for k in ('train', 'dev', 'text')}==dict(train='train.tsv', dev='dev.tsv', text='sentence')
    assert len(files['train_hash'])==len(files['dev_hash'])==16 and files['train_hash']!=files['dev_hash']
    def texts(x): return [t for v in x.values() for t in texts(v)] if isinstance(x, dict) else [str(x)]
    told = {k: v for k,v in rows[0].items() if k!='command'}
    assert not [t for t in texts(dict(told, cell={**told['cell'], 'model': ''}, report=dict(told['report'], model=''))) if str(tmp_path) in t]
    assert rows[0]['cell']['task']==rows[0]['report']['task']=='train' and rows[0]['report']['metric']=='accuracy'
    assert run_sweep(f, model=folder, run=None, progress=False)==rows
    moved = tmp_path/'moved'
    (tmp_path/'there').rename(moved)
    assert run_sweep(moved/'own.toml', model=folder, run=None, progress=False)==rows
    with open(moved/'data'/'train.tsv', 'a') as t: t.write('a c z\tnegative\n')
    assert {cell_key(c) for c in read_sweep(moved/'own.toml', folder)[0]}.isdisjoint(r['key'] for r in rows)

def test_a_run_is_that_of_adapt_task(sweep, folder):
    from adaptprune.task import adapt_task
    from adaptprune.tasks import load_files
    (row,) = lines(sweep('sparsity = 0.5'), folder, masks='masks')
    there = Path('../there/data')
    task,data = load_files(there/'train.tsv', there/'dev.tsv', text='sentence')
    res = adapt_task(task, folder, .5, 'default', data=data, max_steps=2, max_length=16, progress=False)
    assert row['report']['metrics']==res.report['metrics']
    assert TaskMask.from_pretrained(f"masks/{row['key']}").mask==res.mask

def test_a_grid_of_files_and_a_task_beside_them(sweep, folder):
    "Each file is a task of its own name, and named tasks are as they were"
    f = sweep('train = ["data/train.tsv", "data/dev.tsv"]\ntext = "sentence"\nseed = [0, 1]\n[[cells]]\ntask = "mini-sentiment"', 'max_steps = 2')
    cells,_ = read_sweep(f)
    assert [(c['task'], c.get('seed', 0)) for c in cells]==[('train', 0), ('dev', 0), ('mini-sentiment', 0), ('train', 1), ('dev', 1)]
    assert cell_key(cells[2])==cell_key(dict(task='mini-sentiment', max_steps=2))
    assert all('dev' not in c['files'] for c in cells if 'files' in c)

def test_jobs(sweep, folder):
    f = sweep('sparsity = [0.2, 0.5]')
    assert len(sweep_jobs(f, model=folder))==2 and f'adaptprune sweep {f}' in sweep_jobs(f, model=folder)[0]

@pytest.mark.parametrize('common, words', [
    ('train = "none.csv"\ntext = "sentence"', ["train = 'none.csv'", 'no such file']),
    ('train = "data/train.tsv"\ndev = "no.tsv"\ntext = "sentence"', ["dev = 'no.tsv'", 'no such file']),
    ('train = "data/train.tsv"', ['no text', 'which column']),
    ('dev = "data/dev.tsv"', ["dev = 'data/dev.tsv' goes with train"]),
    ('text = "sentence"\ntask = "stsb"', ["text = 'sentence' goes with train"]),
    ('train = "data/train.tsv"\ntext = "sentence"\ntask = "stsb"', ["task = 'stsb'", "train = 'data/train.tsv'", 'give one']),
    ('train = 5\ntext = "sentence"', ['train = 5 is not a string']),
    ('train = "data/train.tsv"\ntext = "words"', ["no column 'words'", "'sentence'"]),
    ('train = "data/train.tsv"\ntext = "sentence"\nlabel = "sentence"\nkind = "regression"', ["'sentence'", 'text and label at once'])])
def test_a_fault_is_told_before_anything_runs(sweep, common, words):
    f = sweep('sparsity = 0.5', common)
    with pytest.raises(ValueError) as e: run_sweep(f, run=None)
    assert all(w in str(e.value) for w in words), str(e.value)
    assert not Path('results').exists()

def test_a_file_that_changes_meanwhile(sweep, folder):
    f = sweep('sparsity = [0.2, 0.5]')
    def run(task, **kwargs):
        with open('../there/data/train.tsv', 'a') as t: t.write('a c z\tnegative\n')
        from adaptprune.task import adapt_task
        return adapt_task(task, **kwargs)
    with pytest.raises(ValueError, match='train.tsv was changed while the sweep ran'): lines(f, folder, run=run)
    assert len(read_results('results/own.jsonl'))==1

def row(key, score, seed=0, sparsity=.5, name='a', remove=0., metric='accuracy'):
    cell = dict(task='t', seed=seed, sparsity=sparsity, variant=name)
    report = dict(task='t', metrics={metric: score}, metric=metric, target=sparsity, split='validation')
    return dict(key=key, name=name, cell=cell, recipe=dict(remove=remove), report=report)

@pytest.fixture
def masks(sweep, folder, tmp_path):
    "Masks under the keys a, b, c, d"
    (r,) = lines(sweep('sparsity = 0.5'), folder, masks=tmp_path/'made')
    tm = TaskMask.from_pretrained(tmp_path/'made'/r['key'])
    for k in 'abcd':
        tm.info['metrics'] = dict(accuracy=ord(k)/100)
        tm.save_pretrained(tmp_path/'masks'/k)
    return tmp_path/'masks'

def test_the_best_mask_of_each_sparsity(masks):
    "By the mean over seeds, and then the best seed; without a mask there is nothing to keep"
    rows = [row('a', .9), row('b', .5, seed=1), row('c', .8, name='b'), row('d', .75, seed=1, name='b'), row('x', 1., sparsity=0.)]
    (best,) = keep_best(rows, masks)
    assert (best['name'], best['seed'], best['score'], best['mean'], best['seeds'])==('b', 0, .8, .775, 2)
    assert TaskMask.from_pretrained(best['folder']).info['metrics']==dict(accuracy=ord('c')/100)
    assert best['folder']==str(masks/'best'/'t-sparsity-0.5')
    rows = [row('a', .9), row('b', .5, sparsity=.9), row('c', .4, remove=.7), row('d', .2, sparsity=.9, seed=1)]
    names = [Path(b['folder']).name for b in keep_best(rows, masks, masks.parent/'kept')]
    assert names==['t-sparsity-0.5', 't-sparsity-0.9', 't-remove-0.7-sparsity-0.5']

def test_the_least_error_is_the_best(masks):
    (best,) = keep_best([row('a', .9, metric='mse', name='a'), row('b', .5, metric='mse', name='b')], masks)
    assert best['score']==.5

def test_command(sweep, folder, capsys):
    f = sweep('sparsity = [0.2, 0.5]\nseed = [0, 1]')
    func,given = cli.parse(['sweep', f, '--model', folder, '--masks', 'masks'])
    func(**given)
    said = capsys.readouterr().out
    assert 'the best masks' in said and str(Path('masks/best/train-sparsity-0.2')) in said
    assert TaskMask.from_pretrained('masks/best/train-sparsity-0.5').sparsity==pytest.approx(.5, abs=1e-3)
