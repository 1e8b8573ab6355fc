"A run that starts in the order of an earlier one: by its theta or its mask, only on the same base, and resumed bit for bit"
import json
import pytest,torch
from adaptprune import TaskMask,adapt_task
from adaptprune.loop import adapt
from adaptprune.mask import Mask
from adaptprune.recipe import Recipe,get_recipe
from adaptprune.start import Start,earlier_ranks,start_of,theta_at
from adaptprune.sweep import cell_key,cell_name,read_sweep,run_sweep
from adaptprune.task import read_start,theta_name
from adaptprune.tasks import load_task
from toy import Toy,ce,crash_at,go,same_run

still = dict(alpha=0., schedule='constant', max_steps=1)        # theta does not move: what comes out is the start

@pytest.fixture(scope='module')
def first(): return go(sparsity=.4, max_steps=40, keep_theta=True)

def distinct(shape): return torch.randperm(torch.Size(shape).numel()).float().view(shape)

def random_mask(shapes, sparsity, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Mask.from_scores({n: torch.rand(s, generator=g) for n,s in shapes.items()}, sparsity)

# The order

@pytest.mark.parametrize('sparsity', [.2, .5, .9])
def test_the_earlier_mask_comes_back_at_its_own_sparsity(sparsity):
    "Whatever the matrices have of it, by mask and by theta; and the order within comes from the scores"
    shapes = dict(a=(300, 400), b=(50,), c=(7, 11, 3))
    mask = random_mask(shapes, sparsity)
    scores = {n: distinct(m.shape) for n,m in mask.items()}
    ranks = earlier_ranks(mask, scores)
    assert Mask.from_scores(ranks, mask.sparsity)==mask
    for n,m in mask.items():
        assert (ranks[n][m].argsort()==scores[n][m].argsort()).all() and (ranks[n][~m].argsort()==scores[n][~m].argsort()).all()
    theta = {n: torch.where(m, 1, -1)*distinct(m.shape).add(1) for n,m in mask.items()}
    by_theta = earlier_ranks(mask, theta=theta)
    for s in (mask.sparsity, .7): assert Mask.from_scores(by_theta, s)==Mask.from_scores(theta, s)

@pytest.mark.parametrize('kept', [True, False])
def test_masks_without_pruned_or_without_kept_weights(kept):
    mask = Mask(dict(a=torch.full((4,), kept)))
    ranks = earlier_ranks(mask, dict(a=torch.arange(4.)))['a']
    assert torch.allclose(ranks, torch.tensor([.125, .375, .625, .875]), atol=1e-4)

def test_no_gap_is_rounded_away_in_a_large_matrix():
    mask = random_mask(dict(a=(2000, 3000)), .2)
    ranks = earlier_ranks(mask, dict(a=torch.randn(2000, 3000)))
    theta = {n: theta_at(r, 'normal') for n,r in ranks.items()}
    assert theta['a'][mask['a']].min()>theta['a'][~mask['a']].max()

def test_the_initial_distribution_stays():
    ranks = (torch.arange(10_000)+.5)/10_000
    assert torch.allclose(theta_at(ranks, spread=.2), ranks*.2)
    normal = theta_at(ranks, 'normal', mean=.01, std=.001)
    assert abs(normal.mean()-.01)<1e-6 and abs(normal.std()-.001)<1e-5 and (normal.diff()>0).all()
    assert theta_at(torch.tensor([0., 1.]), 'normal').isfinite().all()

# Runs

@pytest.mark.parametrize('by', ['theta', 'mask'])
@pytest.mark.parametrize('recipe', ['default', 'paper', 'movement', 'edge-popup'])
def test_every_recipe_starts_there(first, recipe, by):
    given = first if by=='theta' else TaskMask.from_adapted(first)
    moves = dict(still, gamma=0.) if recipe=='paper' else still
    res = go(recipe=recipe, sparsity=.4, budget='global', start_from=given, **moves)
    assert res.mask==first.mask
    told = res.report['start_from']
    assert told['by']==by and told['sparsity']==first.mask.sparsity and told['hash']==start_of(given).mark
    assert 'start_from' not in go(recipe=recipe, sparsity=.4, **moves).report

def test_other_starts_of_a_recipe(first):
    for start in ('rank', 'normal', 'constant', 'uniform', 'activation', 'gradient'):
        res = go(sparsity=.4, start=start, start_from=TaskMask.from_adapted(first), **still)
        assert res.mask==first.mask, start

def test_gates_start_there(first):
    def overlap(**kwargs): return go(recipe='l0', sparsity=.4, budget='global', max_steps=3, **kwargs).mask.jaccard(first.mask)
    assert overlap(start_from=first)>overlap()+.1

def test_theta_of_a_run(first):
    assert Mask({n: t>0 for n,t in first.theta.items()})==first.mask
    assert go(max_steps=2).theta is None
    more = go(sparsity=.7, start_from=first, **still)
    assert more.mask==Mask.from_scores(first.theta, .7)

def test_patterns_start_in_the_means_of_their_units(first):
    res = go(sparsity=.5, pattern='row', start_from=first, **still)
    assert all(m.all(1).logical_or(~m.any(1)).all() for m in res.mask.values())

def test_a_resumed_run_is_the_same(first, tmp_path):
    whole = go(sparsity=.5, start_from=first)
    with pytest.raises(RuntimeError, match='power cut'):
        go(sparsity=.5, start_from=first, loss=crash_at(15), out=tmp_path, checkpoint_every=5)
    with pytest.raises(ValueError, match='start_from='): go(sparsity=.5, out=tmp_path, resume=True)
    with pytest.raises(ValueError, match='start_from='):
        go(sparsity=.5, out=tmp_path, resume=True, start_from=TaskMask.from_adapted(first))
    same_run(go(sparsity=.5, start_from=first, out=tmp_path, resume=True), whole)

def other(change):
    model = Toy()
    with torch.no_grad(): change(model)
    return model

@pytest.mark.parametrize('model, kwargs, said', [
    (lambda: other(lambda m: m.body[0].weight.mul_(2)), {}, 'learnt on another base.*holds other values'),
    (lambda: Toy().bfloat16(), {}, 'learnt on another base.*has dtype bfloat16'),
    (Toy, dict(weights='0.*'), "this run has no mask of '3.weight'"),
    (Toy, dict(recipe='finetune', sparsity=0.), "'finetune' learns none"),
])
def test_what_cannot_start_there(first, model, kwargs, said):
    with pytest.raises(ValueError, match=said): go(model(), start_from=first, max_steps=2, **kwargs)

def test_an_adapted_network_is_no_base(first):
    with pytest.raises(ValueError, match='another base'): go(first.model, start_from=first, max_steps=2)

@pytest.mark.parametrize('given, said', [('a/folder', 'TaskMask.from_pretrained'), (3, 'got 3'), (Toy(), 'got Toy')])
def test_what_is_no_earlier_run(given, said):
    with pytest.raises(ValueError, match=said): go(start_from=given)

def test_a_run_without_a_mask(first):
    with pytest.raises(ValueError, match='no mask to start from'):
        go(start_from=go(recipe='finetune', sparsity=0., max_steps=1))

@pytest.mark.parametrize('kwargs, said', [(dict(recipe='features', sparsity=0.), 'learns none'), (dict(pattern='row'), "pattern='row'")])
def test_theta_that_is_not_there(kwargs, said):
    with pytest.raises(ValueError, match=f'keep_theta.*{said}|{said}.*keep_theta'): go(keep_theta=True, max_steps=1, **kwargs)

# Tasks

@pytest.fixture(scope='module')
def data():
    d = load_task('mini-sentiment')
    return dict(train=d['train'].select(range(60)), dev=d['dev'].select(range(20)))

@pytest.fixture(scope='module')
def run(folder, data):
    def run(recipe='default', **kw):
        how = dict(data=data, max_steps=3, max_length=16, progress=False)
        return adapt_task('mini-sentiment', folder, recipe=recipe, **{**how, **kw})
    return run

@pytest.fixture(scope='module')
def saved(run, tmp_path_factory):
    out = tmp_path_factory.mktemp('first')
    run(sparsity=.4, out=out, keep_theta=True)
    return out

@pytest.mark.parametrize('recipe', ['default', 'distilled'])
def test_a_task_starts_from_a_folder(run, saved, recipe, tmp_path):
    start = read_start(saved)
    assert start.theta is not None and start.task=='mini-sentiment'
    res = run(recipe, sparsity=.4, start_from=saved, out=tmp_path, **{**still, 'max_steps': 1})
    assert res.mask==start.mask and res.report['start_from']['by']=='theta'
    assert TaskMask.from_pretrained(tmp_path).info['start_from']==res.report['start_from']
    assert not (tmp_path/theta_name).exists()

def test_thetas_of_another_mask(run, saved, tmp_path):
    run(sparsity=.6, out=tmp_path)
    (tmp_path/theta_name).write_bytes((saved/theta_name).read_bytes())
    with pytest.raises(ValueError, match='is of another mask'): run(start_from=tmp_path)
    run(sparsity=.5, out=tmp_path, force=True)
    assert read_start(tmp_path).theta is None

@pytest.mark.parametrize('kwargs, said', [
    (dict(recipe='imp'), "'imp' learns none"), (dict(recipe='features', sparsity=0.), "'features' learns none"),
    (dict(recipe='structured'), 'start_from is of the whole network'), (dict(start_from='nowhere'), "No folder 'nowhere'")])
def test_tasks_that_cannot_start_there(run, saved, kwargs, said):
    with pytest.raises((ValueError, OSError), match=said): run(**{'start_from': saved, **kwargs})

def test_a_compact_network_starts_in_its_own_structure(run, tmp_path):
    a = run('structured', remove=.5, sparsity=.3, out=tmp_path, keep_theta=True)
    b = run('structured', remove=a.report['removed'], sparsity=.3, seed=1, start_from=tmp_path, **{**still, 'max_steps': 1})
    assert b.structure==a.structure and b.mask==a.mask
    with pytest.raises(ValueError, match='give remove='): run('structured', remove=.1, start_from=tmp_path)
    with pytest.raises(ValueError, match='is of a compact network'): run(start_from=tmp_path)

def test_another_base_is_found_out_before_a_teacher_learns(saved, data, tiny, folder, tmp_path):
    from adaptprune.head import load_tokenizer
    with pytest.raises(ValueError, match='another base'):
        adapt_task('mini-sentiment', tiny('Bert', num_hidden_layers=1, seed=5), data=data, tokenizer=load_tokenizer(folder), start_from=saved,
            cache=tmp_path, max_steps=2, max_length=16, progress=False)
    assert not list(tmp_path.iterdir())

# Sweeps and the command line

def test_the_cell_of_a_sweep(run, saved, folder, tmp_path):
    cell = dict(task='mini-sentiment', model=folder, recipe='default', max_steps=3)
    run(sparsity=.4, seed=1, out=tmp_path/'second')
    keys = [cell_key(dict(cell, start_from=str(f))) for f in (saved, tmp_path/'second')]
    assert len({cell_key(cell), *keys})==3
    named = dict(cell, start_from=dict(name='first', hash=read_start(saved).mark))
    assert cell_key(named)==keys[0] and cell_name(named)=='default, from first'!=cell_name(cell)

def test_a_sweep(run, data, saved, folder, tmp_path):
    (tmp_path/'masks').mkdir()
    (tmp_path/'masks'/'phrases').symlink_to(saved)
    text = f"""out = "{tmp_path}/out.jsonl"
    [[cells]]
    task = "mini-sentiment"
    model = "{folder}"
    recipe = "default"
    max_steps = 1
    max_length = 16
    start_from = "masks/phrases"
    """
    (tmp_path/'s.toml').write_text(text)
    rows = run_sweep(tmp_path/'s.toml', progress=False, cache=None)
    assert rows[0]['cell']['start_from']==dict(name='phrases', hash=read_start(saved).mark)
    assert str(saved) not in json.dumps(rows) and rows[0]['report']['start_from']['by']=='theta'
    (tmp_path/'s.toml').write_text(text.replace('masks/phrases', 'masks/none'))
    with pytest.raises(ValueError, match='no such folder'): read_sweep(tmp_path/'s.toml')

def test_the_command(command, saved, folder):
    asked = ['adapt', '--task', 'mini-sentiment', '--model', folder, '--recipe', 'default', '--max-steps', 1, '--max-length', 16]
    said = command(*asked, '--start-from', saved, '--out', 'second')
    assert 'started from the mask of mini-sentiment, by its theta' in said
    assert 'another base' not in said and "No folder 'gone'" in command(*asked, '--start-from', 'gone', '--out', 'third', fails=True)
    assert 'leave out --start-from' in command(*asked, '--start-from', saved, '--tolerance', .1, '--out', 'third', fails=True)

def test_the_command_keeps_theta(command, saved, folder):
    asked = ['adapt', '--task', 'mini-sentiment', '--model', folder, '--recipe', 'default', '--max-steps', 1, '--max-length', 16]
    command(*asked, '--keep-theta', '--out', 'first')
    assert 'by its theta' in command(*asked, '--start-from', 'first', '--out', 'second')
    assert '--keep-theta' in command(*asked, '--keep-theta', '--tolerance', .1, '--out', 'third', fails=True)

@pytest.mark.parametrize('options, said', [
    (['--start-from', 'gone'], "No folder 'gone'"), (['--remove', .5], 'start_from is of the whole network'),
    (['--weights', 'encoder'], 'start_from masks'), (['--recipe', 'default'], '')])
def test_a_dry_run_looks_at_the_start(options, said, command, saved, folder):
    asked = ['adapt', '--task', 'mini-sentiment', '--model', folder, '--max-steps', 1, '--max-length', 16, '--dry-run', '--start-from', saved]
    assert (said or 'nothing was trained') in command(*asked, *options, fails=bool(said))
