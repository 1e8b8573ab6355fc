"Files of results: what writes and reads them, and the tables made of them."
import json, math, multiprocessing
from pathlib import Path
import pandas as pd, pytest
from hypothesis import given, strategies as st

from adaptprune import results,timing
from adaptprune.recipe import Recipe, get_recipe
from adaptprune.results import append_line, engine_version, environment, holm, paired_tests, read_results, results_frame, summarise

root = Path(__file__).resolve().parent.parent
fork = multiprocessing.get_context('fork')

# The file

def test_lines_of_a_newer_version_are_named(tmp_path):
    append_line(tmp_path/'a.jsonl', dict(cell=dict(task='stsb'), recipe=dict(vars(Recipe()), colour='blue')))
    with pytest.raises(ValueError, match=r"a\.jsonl holds a run whose recipe has 'colour'.*newer version"):
        read_results(tmp_path/'a.jsonl')
    append_line(tmp_path/'b.jsonl', dict(cell={}, recipe=vars(Recipe()), engine=engine_version+1))
    with pytest.raises(ValueError, match=r'b\.jsonl holds a run of engine 3.*newer version'):
        read_results(tmp_path/'b.jsonl')

def test_lines_of_an_older_version_are_read(tmp_path):
    "With fields and values that recipes have no more, and without those that came later"
    old = dict(method='mask', momentum=.9, head_start='means', schedule='linear', dropout=-1., teacher='none')
    for recipe in (old, dict(method='mask')):
        append_line(tmp_path/'a.jsonl', dict(cell={}, recipe=recipe))
    assert [len(r['recipe']) for r in read_results(tmp_path/'a.jsonl')]==[6, 1]

def _append(path, i):
    for j in range(40): append_line(path, dict(cell=dict(seed=j, i=i, long='x'*20_000), recipe={}))

def test_many_processes_add_to_one_file(tmp_path):
    "Lines longer than any buffer, and a half line of someone who was killed"
    path = tmp_path/'a.jsonl'
    path.write_text('{"cell": {"se')
    ps = [fork.Process(target=_append, args=(path, i)) for i in range(4)]
    for p in ps: p.start()
    for p in ps: p.join(60)
    assert sorted((r['cell']['i'], r['cell']['seed']) for r in read_results(path))==[(i, j) for i in range(4) for j in range(40)]
    assert len(path.read_text().splitlines())==161

def test_lines_are_strict_json(tmp_path):
    append_line(tmp_path/'a.jsonl', dict(recipe=dict(t_l=math.inf), history=[dict(loss=math.nan), (1, 2.5, None, True)]))
    def refuse(x): raise AssertionError(x)
    line = json.loads((tmp_path/'a.jsonl').read_text(), parse_constant=refuse)
    assert line==dict(recipe=dict(t_l='inf'), history=[dict(loss='nan'), [1, 2.5, None, True]])

def test_no_file_is_no_line(tmp_path): assert read_results(tmp_path/'none.jsonl')==[]

def test_an_environment_names_a_device_without_proc(monkeypatch):
    class Gone:
        def __init__(self, path): pass
        def read_text(self): raise OSError
    monkeypatch.setattr(timing, 'Path', Gone)
    assert environment()['device'].endswith(' threads') and environment()['torch']

# What is recorded

recorded = [(f.name, r) for f in sorted((root/'results').glob('*.jsonl')) for r in read_results(f)]

def test_every_recorded_line_is_there():
    counts = pd.Series([f for f,r in recorded if r.get('engine', 1)==1]).value_counts()
    assert dict(counts)=={'first_evidence.jsonl': 11, 'limits.jsonl': 4, 'mini_tasks.jsonl': 7, 'paper_cpu.jsonl': 166,
        'perturb.jsonl': 23, 'recipe.jsonl': 151, 'tuning.jsonl': 21}
    assert all(len(r['key'])==16 and r['name'] for _,r in recorded)
    for f in {f for f,_ in recorded}: assert pd.Series([r['key'] for g,r in recorded if g==f]).is_unique

def test_every_recorded_line_has_its_row():
    frame = results_frame([r for _,r in recorded])
    assert len(frame)==len(recorded) and set(frame.engine)<={1, 2} and frame.value.notna().all()
    assert (frame.engine==1).sum()>=383

def test_names_tell_recipes_apart():
    "Runs of one task, sparsity, seed, precision and length that have one name had one recipe"
    files,rows = zip(*((f, r) for f,r in recorded if f in ('paper_cpu.jsonl', 'recipe.jsonl', 'tuning.jsonl')))
    frame = results_frame(rows).assign(length=[r['cell']['max_steps'] for r in rows], file=files)
    assert not frame.duplicated(['file', 'task', 'name', 'sparsity', 'seed', 'precision', 'length']).any()

# Tables

@pytest.mark.parametrize('cell, report, want', [
    (dict(recipe='default', max_steps=9), {}, (9, 0, None)), (dict(recipe='features', max_steps=9), {}, (0, 9, None)),
    (dict(recipe='random', max_steps=9), {}, (0, 9, None)),
    (dict(recipe='magnitude', max_steps=9), dict(tuned_metrics=dict(spearman=.7), tuned_sparsity=.5), (9, 9, .5)),
    (dict(recipe='imp', max_steps=9, round_steps=2), dict(rounds=4, tuned_metrics=dict(spearman=.7), tuned_sparsity=.488), (8, 9, .488)),
    (dict(recipe='imp', max_steps=9), dict(rounds=4), (36, 9, None))], ids=str)
def test_a_frame_counts_every_phase(cell, report, want):
    "Steps with all of the network at work and with the head alone, and the sparsity at which weights were tuned"
    report = dict(report, task='stsb', metric='spearman', metrics=dict(spearman=.5), steps=9, seconds=1.)
    name,recipe = cell['recipe'],vars(get_recipe(cell['recipe']))
    r = dict(key='', name=name, cell=dict(cell, mixed_precision='bf16'), recipe=recipe, report=report)
    f = results_frame([r, dict(r, engine=2, cell=dict(cell, model='other'))])
    row = f.iloc[0]
    tuned = None if row.tuned_sparsity!=row.tuned_sparsity else row.tuned_sparsity
    assert (row.steps, row.head_steps, tuned)==want
    assert list(f.precision)==['bfloat16', 'float32']
    assert list(f.model)==['minilm', 'other']
    assert list(f.engine)==[1, 2]

@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=12))
def test_holm(ps):
    "Never below the p-value, at most n times it and at most 1, in the same order, and NaN left alone"
    out = holm(ps)
    known = sorted((p, q) for p,q in zip(ps, out) if p==p)
    assert [math.isnan(q) for q in out]==[math.isnan(p) for p in ps]
    assert all(p<=q<=min(1., p*len(known)+1e-12) or q==1. for p,q in known) if len(known)<2 else all(p<=q<=1. for p,q in known)
    assert [q for _,q in known]==sorted(q for _,q in known)
    assert not known or math.isclose(known[0][1], min(1., known[0][0]*len(known)))

def test_tables_of_seeds():
    scores = dict(a=[.8, .82, .81], b=[.7, .73, None], c=[.5])
    rows = [(n, seed, v) for n,vs in scores.items() for seed,v in enumerate(vs)]
    runs = pd.DataFrame(rows, columns=['name', 'seed', 'value']).assign(task='stsb', sparsity=.5)
    table = summarise(runs).set_index('name')
    assert list(table['count'])==[3, 2, 1] and math.isclose(table['mean']['a'], .81) and math.isnan(table['std']['c'])
    tests = paired_tests(runs, 'a', ['b', 'c', 'absent']).set_index('against')
    assert list(tests.index)==['b', 'c']
    assert tests.seeds['b']==2
    assert math.isclose(tests.difference['b'], .095)
    assert math.isnan(tests.p['c'])
    assert tests.p_holm['b']==tests.p['b']
    assert paired_tests(runs, 'absent', ['a']).empty
