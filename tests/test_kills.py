"SIGKILL at the calls that touch the disk: what was finished is there, and what goes on gives the same file"
import json,os
from functools import partial
import pytest,torch
from adaptprune import compression
from adaptprune.artifact import TaskMask
from adaptprune.compression import compress
from adaptprune.folder import load_compact
from adaptprune.results import read_results
from adaptprune.sweep import run_cells
from adaptprune.task import adapt_task
from test_compress import home,quick,texts                  # the fixture of a fine-tuned model
from toy import die_at_call,own_data

died,ended,failed = 'died','ended','failed'

def in_child(f):
    "Run a function in a forked process: how that came to an end"
    pid = os.fork()
    if not pid:
        code = 7
        try: code = int(bool(f()))
        finally: os._exit(code)
    status = os.waitpid(pid, 0)[1]
    return died if os.WIFSIGNALED(status) else ended if os.WEXITSTATUS(status)==0 else failed

def killed(run, k):
    "A run whose process dies at the k-th call that touches the disk, if there are so many"
    def f():
        die_at_call(k)
        run()
    return in_child(f)

def each_kill(run, first=1, step=1, most=300):
    "Kills at every step-th call until a run ends; gives the number of the call, to a function that checks what is left"
    for k in range(first, most, step):
        how = killed(lambda: run(k), k)
        assert how!=failed
        if how==ended: return
        yield k
    raise AssertionError(f'no run ended within {most} calls')

def forbid(name): return lambda *a, **k: (_ for _ in ()).throw(AssertionError(f'{name} was finished, and is done again'))

# --- adapt

@pytest.mark.parametrize('recipe, how', [('structured', dict(remove=.5)), ('default', {})])
def test_adapt(folder, tmp_path, recipe, how):
    "While the teacher learns, between the two, while the mask learns, while the file is written"
    task,data = own_data(tmp_path)
    def run(out, resume=False):
        adapt_task(task, folder, recipe=recipe, data=data, out=out, resume=resume, max_steps=4, max_length=16, checkpoint_every=2,
            batch_size=8, progress=False, say=lambda line: None, **how)
    def at(k): return tmp_path/str(k)
    run(at('whole'))
    want,seen = TaskMask.from_pretrained(at('whole')), set()
    for k in each_kill(lambda k: run(at(k)), first=1, step=4):
        taught,teacher = list(at(k).glob('.teacher/*.pt')), (at(k)/'.teacher').exists()
        later,saved = ((at(k)/n).exists() for n in ('checkpoint.pt', 'adaptprune.json'))
        seen.add('saved' if saved else 'mask' if later else 'taught' if taught else 'teacher' if teacher else 'begun')
        def go_on():
            if saved and not later and not teacher: return
            if taught or later: pytest.MonkeyPatch().setattr('adaptprune.teacher._train', forbid('the teacher'))
            run(at(k), resume=later or teacher)
        assert in_child(go_on)==ended, f'after call {k}'
        got = TaskMask.from_pretrained(at(k))
        assert got.mask==want.mask and all(torch.equal(got.head[n], p) for n,p in want.head.items()) and got.card==want.card
        assert not list(at(k).glob('*.pt*')) and not (at(k)/'.teacher').exists()
    assert seen=={'saved', 'mask', 'begun', *(['taught', 'teacher'] if recipe=='structured' else [])}

# --- compress

def plain(report): return {k: report[k] for k in ('settings', 'removed', 'layers', 'metric') if k in report}

def test_compress(home, tmp_path, monkeypatch):
    "While it scores, learns, measures, and puts the new folder in the place of an old one"
    monkeypatch.setattr(compression, 'time_stages', partial(compression.time_stages, repeats=1))
    def run(k, **how): return compress(home/'classifier', texts, tmp_path/str(k), remove=.5, **{**quick, 'steps': 4, **how})
    run('whole')
    want,stages = load_compact(tmp_path/'whole').state_dict(), set()
    for k in each_kill(run, first=2, step=9):
        work = tmp_path/str(k)/'.compress'
        have = {p.stem.split('-')[0] for p in work.glob('*.pt')} if work.exists() else {'nothing'}
        stages |= have
        def go_on():
            m = pytest.MonkeyPatch()
            if 'made' in have: m.setattr(compression, 'adapt', forbid('the network'))
            if 'scores' in have: m.setattr(compression, 'unit_scores', forbid('scoring'))
            done = (tmp_path/str(k)/'report.json').exists() and not work.exists()
            if not done: run(k, resume=work.exists())
        assert in_child(go_on)==ended, f'after call {k}'
        got = load_compact(tmp_path/str(k)).state_dict()
        assert got.keys()==want.keys() and all(torch.equal(got[n], p) for n,p in want.items())
        assert plain(json.loads((tmp_path/str(k)/'report.json').read_text()))==plain(json.loads((tmp_path/'whole'/'report.json').read_text()))
        assert not work.exists()
    assert {'scores', 'made'}<=stages

# --- sweep

def test_sweep(folder, tmp_path):
    "A line that is recorded stays, none is there twice, and the rest comes when the same is asked for again"
    task,data = own_data(tmp_path)
    cells = [dict(task='mine', model='tiny', recipe='default', sparsity=s, max_steps=2, max_length=16, batch_size=8) for s in (.2, .5)]
    def one(**cell): return adapt_task(**dict(cell, task=task, model=folder, data=data, say=lambda line: None))
    def run(k, runs=one): return run_cells(cells, tmp_path/str(k)/'a.jsonl', run=runs, masks=tmp_path/str(k)/'masks', progress=False)
    want = {r['key']: r['report']['metrics'] for r in run('whole')}
    masks = {k: TaskMask.from_pretrained(tmp_path/'whole'/'masks'/k).mask for k in want}
    counts = set()
    for k in each_kill(run, first=1, step=2):
        path = tmp_path/str(k)/'a.jsonl'
        before = read_results(path) if path.exists() else []
        counts.add(len(before))
        left = []
        def counted(**cell):
            left.append(cell)
            return one(**cell)
        def go_on():
            rows = run(k, counted)
            return not (len(rows)==2 and len(left)==2-len(before))
        assert in_child(go_on)==ended, f'after call {k}'
        after = read_results(path)
        assert after[:len(before)]==before and {r['key']: r['report']['metrics'] for r in after}==want and len(after)==2
        assert {key: TaskMask.from_pretrained(tmp_path/str(k)/'masks'/key).mask for key in want}==masks
    assert counts=={0, 1} or counts=={0, 1, 2}
