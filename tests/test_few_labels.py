"Few training rows: drawn by the seed, the same for every method, and never those that are scored"
import pytest
from adaptprune import adapt_task
from adaptprune.setup import sampled, set_up
from adaptprune.sweep import cell_key, read_sweep
from adaptprune.tasks import load_data, load_task

@pytest.fixture(scope='module')
def few(): return load_task('mini-sentiment')

def texts(split): return list(split['text_a'])

def test_the_draw(few):
    a,b,c = sampled(few, 50), sampled(few, 50), sampled(few, 50, seed=1)
    assert texts(a['train'])==texts(b['train'])!=texts(c['train'])
    assert len(set(texts(a['train']))&set(texts(c['train'])))<50
    assert texts(a['dev'])==texts(few['dev'])
    order = texts(few['train'])
    assert [order.index(t) for t in texts(a['train'])]==sorted(order.index(t) for t in texts(a['train']))

@pytest.mark.parametrize('n', [0, -1, 10**6])
def test_numbers_that_cannot_be(few, n):
    with pytest.raises(ValueError, match=f'max_train_samples must be from 1 to .*got {n}'): sampled(few, n)

@pytest.mark.weights
def test_held_out_rows_are_not_trained_on():
    s = set_up('mini-sentiment', validate=True, max_train_samples=40, max_length=32)
    assert len(s.data['train'])==40 and not set(texts(s.data['train']))&set(texts(s.data['validation']))

def test_a_run(folder, few):
    data = load_data(dict(train=few['train'].select(range(60)).to_pandas(), dev=few['dev'].select(range(20)).to_pandas()), text='text_a')
    task,data = data
    said = []
    def run(recipe, **kw): return adapt_task(task, folder, .5, recipe, data=data, max_steps=2, max_length=16, progress=False, say=said.append, **kw)
    res = run('distilled', max_train_samples=10)
    assert res.report['max_train_samples']==10 and said
    with pytest.raises(ValueError, match='from 1 to 60'): run('default', max_train_samples=61)

def test_the_cell_of_a_sweep():
    cell = dict(task='sst2', model='minilm', recipe='distilled', max_steps=100, seed=0)
    assert cell_key(dict(cell, max_train_samples=100))!=cell_key(dict(cell, max_train_samples=300))!=cell_key(cell)

@pytest.mark.parametrize('recipe', ['imp', 'distilled'])
def test_caches_are_kept_apart(folder, few, tmp_path, recipe):
    data = {k: few[k].select(range(40)) for k in ('train', 'dev')}
    def run(n): adapt_task('mini-sentiment', folder, .5, recipe, data=data, max_steps=2, max_length=16, progress=False, cache=tmp_path, max_train_samples=n)
    run(10)
    one = {p.name for p in tmp_path.iterdir()}
    run(20)
    assert len({p.name for p in tmp_path.iterdir()})>len(one)

def test_the_declared_sweep(pytestconfig):
    cells,_ = read_sweep(pytestconfig.rootpath/'sweeps/few_labels.toml')
    assert len({cell_key(c) for c in cells})==len(cells)==80 and {c['max_train_samples'] for c in cells}=={100, 300, 1000, 3000}
