"The sparsity that a tolerance allows: which levels are tried, what is chosen and said, and that nothing is run twice."
import json,math
import pytest,torch
from adaptprune import cli,tolerance
from adaptprune.artifact import TaskMask
from adaptprune.loop import Hook
from adaptprune.task import adapt_task
from adaptprune.tasks import load_task
from adaptprune.tolerance import cost_of,find_sparsity,searches
from toy import own_data

scores = {.2: .9, .4: .895, .6: .88, .8: .7}        # fine-tuning: .9

@pytest.fixture
def task(folder, monkeypatch):
    "A function that searches with real runs of two steps, whose scores are made up, and a list of the runs"
    data = {s: d.select(range(40)) for s,d in load_task('mini-sentiment').items()}
    runs = []
    def scored(task, model, sparsity=None, recipe=None, **kwargs):
        if sparsity in search.fail: raise search.fail.pop(sparsity)
        runs.append((recipe.method, recipe.remove or sparsity, kwargs.get('resume')))
        res = adapt_task(task, model, sparsity, recipe, **kwargs)
        level = recipe.remove or res.report.get('sparsity')
        near = min(search.scores, key=lambda s: abs(s-(level or 0)))
        score = .9 if recipe.method=='finetune' else search.scores[near]
        res.report['metrics'] = dict(accuracy=score)
        if 'teacher_metrics' in res.report: res.report['teacher_metrics'] = dict(accuracy=.9)
        return res
    monkeypatch.setattr(tolerance, 'adapt_task', scored)
    def search(tolerance=.01, levels=tuple(scores), **kwargs):
        how = dict(data=data, max_length=16, max_steps=2, progress=False)
        return find_sparsity('mini-sentiment', folder, tolerance, levels, **{**how, **kwargs})
    search.runs,search.fail,search.scores,search.data = runs,{},scores,data
    return search

def levels_of(runs): return [level for method,level,_ in runs if method!='finetune']

# what is tried

@pytest.mark.parametrize('search', searches)
@pytest.mark.parametrize('n', range(1, 9))
def test_every_search_finds_the_last_good_level(search, n):
    for last in range(-1, n):
        tried = []
        def good(i):
            tried.append(i)
            return i<=last
        searches[search](n, good)
        assert len(tried)==len(set(tried)) and max([i for i in tried if i<=last], default=-1)==last
        if search=='bisect': assert len(tried)<=math.floor(math.log2(n))+1

def test_costs():
    assert cost_of(.9, .9)==0 and cost_of(.99, .9)<0 and cost_of(2., 1., 'rmse')==1. and cost_of(math.nan, .9)==math.inf
    for bad in (0., -.1, math.nan):
        with pytest.raises(ValueError, match='Fine-tuning scores'): cost_of(.5, bad)

# what is chosen

@pytest.mark.parametrize('allowed, level', [(0., .2), (.01, .4), (.03, .6), (.5, .8)])
def test_the_hardest_level_within_the_tolerance(task, allowed, level):
    found = task(allowed)
    assert found.met and found.level==level and found.by=='sparsity' and found.folder is None
    assert found.adapted.mask.sparsity==pytest.approx(level, abs=1e-3)
    assert [r['level'] for r in found.table]==[None, *levels_of(task.runs)] and len(task.runs)<=3
    for r in found.table[1:]: assert r['within']==(1-r['share']<=allowed+1e-9) and r['score']==scores[r['level']] and r['bytes']>0
    assert found.row['level']==level and f'sparsity={level:g}' in str(found) and 'validation' in str(found)

def test_no_level_is_within(task):
    task.scores = {.2: .8, .4: .81, .6: .5, .8: .4}
    found = task(search='all')
    assert not found.met and found.level==.4 and found.adapted.report['sparsity']==pytest.approx(.4, abs=1e-3)
    assert str(found)=='No level costs at most 1 %: the nearest, sparsity=0.4, costs 10 % of accuracy on validation (0.8100, 0.9000 fine-tuned); 4 levels were run'

def test_one_teacher_and_a_head_for_each_level(task, tmp_path):
    "What a search gives is what a run of that level gives, bit for bit"
    found = task(.03, cache=tmp_path/'teachers')
    assert len(list((tmp_path/'teachers').glob('teacher-*.pt')))==1
    how = dict(data=task.data, max_length=16, max_steps=2, progress=False, validate=True, cache=tmp_path/'teachers')
    alone = adapt_task('mini-sentiment', found.adapted.report['model'], .6, 'distilled', **how)
    assert alone.mask==found.adapted.mask
    mine,theirs = found.adapted.model.state_dict(), alone.model.state_dict()
    assert mine.keys()==theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)

def test_chosen_on_held_out_train(task):
    "Dev has no say in the choice, and is told"
    found = task(.03)
    assert found.chosen_on=='validation' and {r['split'] for r in found.table}=={'validation'}
    assert set(found.adapted.report['dev_metrics'])=={'accuracy'}
    found = task(.03, validate=False)
    assert found.chosen_on=='dev' and 'dev_metrics' not in found.adapted.report

def test_without_a_teacher_fine_tuning_runs_beside(task):
    found = task(.03, recipe='default')
    assert [m for m,*_ in task.runs].count('finetune')==1 and found.table[0]['score']==.9 and found.level==.6

def test_structured(task):
    found = task(.03, levels=(.2, .5), by='remove', search='all')
    assert found.by=='remove' and [r['level'] for r in found.table[1:]]==[.2, .5]
    removed = [r['removed'] for r in found.table[1:]]
    assert removed[0]<removed[1] and found.adapted.structure is not None
    assert found.adapted.report['recipe']['remove']==found.level and found.adapted.report['sparsity']==pytest.approx(.4, abs=.01)
    assert task(.03, levels=(.2,), recipe='structured').by=='remove'

def test_a_level_that_diverges(task):
    task.fail = {.6: FloatingPointError('The loss is nan.')}
    found = task(.03, levels=(.4, .6, .8))
    assert found.level==.4 and [r['level'] for r in found.table]==[None, .6, .4]
    assert math.isnan(found.table[1]['score']) and not found.table[1]['within']
    task.fail = {.6: FloatingPointError('nan'), .4: FloatingPointError('nan')}
    with pytest.raises(FloatingPointError, match='Every level that was tried diverged'): task(.03, levels=(.4, .6, .8))

# interrupted, and on again

def test_finished_levels_are_kept(task, tmp_path):
    task.fail = {.6: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt, match='after 1 level, kept in .*; the same call goes on'): task(.03, out=tmp_path)
    found = task(.03, out=tmp_path)
    assert levels_of(task.runs)==[.4, .6, .8]
    assert found.folder==tmp_path/'sparsity-0.6' and TaskMask.from_pretrained(found.folder).mask==found.adapted.mask
    assert not (tmp_path/'.teacher').exists() and not list(tmp_path.glob('*/run'))
    again = task(.03, out=tmp_path)
    assert len(task.runs)==3 and again.table==found.table
    assert task(.005, out=tmp_path).level==.2 and levels_of(task.runs)==[.4, .6, .8, .2]

class StopAt(Hook):
    def __init__(self, step): self.step = step
    def after_step(self, run, loss):
        if run.step==self.step and run.method.masks: run.stop = 'stopped'

def test_an_unfinished_level_goes_on(task, tmp_path):
    how = dict(max_steps=6, levels=(.4,))
    with pytest.raises(KeyboardInterrupt, match='after 0 levels, kept in'): task(out=tmp_path/'a', hooks=[StopAt(3)], **how)
    found = task(out=tmp_path/'a', **how)
    assert [r for *_,r in task.runs]==[False, True]
    whole = task(out=tmp_path/'b', **how)
    assert found.adapted.mask==whole.adapted.mask and found.adapted.history==whole.adapted.history

@pytest.mark.parametrize('changes, word', [(dict(seed=1), 'seed'), (dict(recipe='default'), 'recipe'), (dict(max_steps=3), 'max_steps'),
    (dict(validate=False), 'validate'), (dict(data='other'), 'data')])
def test_a_folder_holds_one_search(task, tmp_path, changes, word):
    task(out=tmp_path, levels=(.4,))
    if word=='data': changes = dict(data={s: d.select(range(30)) for s,d in task.data.items()})
    with pytest.raises(ValueError, match=f'another search, with another {word}'): task(out=tmp_path, levels=(.4,), **changes)
    assert len(task.runs)==1

def test_two_searches_at_once(task, tmp_path):
    with tolerance._alone(tmp_path), pytest.raises(ValueError, match='Another search is at work'): task(out=tmp_path)

# what is refused, before anything runs

@pytest.mark.parametrize('kwargs, words', [
    (dict(tolerance=1.), 'tolerance must be a fraction'), (dict(tolerance=-.1), 'got -0.1'), (dict(tolerance=True), 'got True'),
    (dict(levels=()), 'nothing to try'), (dict(levels=(.5, 1.)), 'got 1.0'), (dict(levels=(0,)), 'got 0'),
    (dict(by='size'), "by must be 'sparsity' or 'remove', got 'size'"), (dict(search='best'), "Unknown search 'best'"),
    (dict(sparsity=.5), 'The search finds sparsity, got sparsity=0.5'), (dict(by='remove', remove=.5), 'got remove=0.5'),
    (dict(recipe='finetune'), "'finetune' has no mask"), (dict(recipe='lora'), "'lora' has no mask"), (dict(recipe='bestest'), 'bestest')])
def test_refused(task, kwargs, words, tmp_path):
    with pytest.raises(ValueError, match=words): task(out=tmp_path/'new', **kwargs)
    assert not task.runs and not (tmp_path/'new').exists()

def test_progress(task, capsys):
    task(.03, levels=(.4, .6), progress=True)
    lines = capsys.readouterr().out.splitlines()
    assert [l.split(';')[0] for l in lines]==['fine-tuning: accuracy 0.9000',
        'sparsity=0.4: accuracy 0.8950, 99.44 % of fine-tuning, within 3 %', 'sparsity=0.6: accuracy 0.8800, 97.78 % of fine-tuning, within 3 %']

# command line

def call(tmp_path, folder, *more):
    own_data(tmp_path)
    func,given = cli.parse(['adapt', '--train', str(tmp_path/'train.tsv'), '--text', 'sentence', '--model', folder, '--max-steps', '2',
        '--out', str(tmp_path/'m'), *more])
    return func(**given)

def test_command(folder, tmp_path, capsys, task):
    call(tmp_path, folder, '--tolerance', '0.03')
    said = capsys.readouterr().out
    assert 'sparsity=0.6 costs 2.22 %' in said and 'on dev: accuracy' in said and said.endswith(f"mask and head saved in {tmp_path/'m'}\n")
    assert TaskMask.from_pretrained(tmp_path/'m').sparsity==pytest.approx(.6, abs=1e-3)

def test_command_that_finds_nothing(folder, tmp_path, task):
    task.scores = {.2: .8, .3: .5}
    with pytest.raises(ValueError, match='No level costs at most 1 %.*sparsity=0.2.*kept in .*larger --tolerance'):
        call(tmp_path, folder, '--tolerance', '0.01')
    assert not (tmp_path/'m'/'adaptprune.json').exists() and TaskMask.from_pretrained(tmp_path/'m'/'levels'/'sparsity-0.2')

def test_command_structured(folder, tmp_path, task, capsys):
    with pytest.raises(ValueError, match='nothing reads --remove 0.7'): call(tmp_path, folder, '--tolerance', '0.03', '--remove', '.7')
    call(tmp_path, folder, '--tolerance', '0.03', '--recipe', 'structured', '--json')
    told = json.loads(capsys.readouterr().out)
    assert told['by']=='remove' and told['level']==.7 and TaskMask.from_pretrained(tmp_path/'m').structure is not None
