"One command that begins a run, goes on with it, and says when it is finished"
import pytest
from adaptprune.cli import adapt as adapt_command, compress as compress_command
from adaptprune.compression import is_half_made
from adaptprune.loop import goes_on
from adaptprune.task import adapt_task, is_unfinished

@pytest.mark.parametrize('resume,found,want', [('auto', True, True), ('auto', False, False), (True, False, True), (False, True, False)])
def test_what_goes_on(resume, found, want): assert goes_on(resume, found) is want

@pytest.mark.parametrize('resume', ['yes', 'Auto', None, 2])
def test_other_words(resume):
    with pytest.raises(ValueError, match='True, False or'): goes_on(resume, True)

@pytest.fixture
def table(tmp_path):
    rows = [f'{"a b c" if i%2 else "d e f"} {"g h i j"[i%4*2]},{["bad", "good"][i%2]}' for i in range(60)]
    p = tmp_path/'t.csv'
    p.write_text('\n'.join(['text,label', *rows]))
    return p

def test_command_begins_and_is_finished(folder, table, tmp_path, capsys):
    out = tmp_path/'m'
    how = dict(train=str(table), model=str(folder), recipe='default', max_steps=5, out=str(out), resume=True)
    adapt_command(**how)
    assert f'Nothing to resume in {out}: a new run begins' in capsys.readouterr().err
    before = (out/'adaptprune.json').read_bytes()
    adapt_command(**how)
    assert 'is finished: nothing to resume' in capsys.readouterr().out and (out/'adaptprune.json').read_bytes()==before

def test_a_stopped_run_goes_on(folder, table, tmp_path):
    class Stop:
        def __getattr__(self, name): return lambda *a, **k: None
        def after_step(self, run, loss):
            if run.step==3: raise KeyboardInterrupt
    out = tmp_path/'m'
    how = dict(data=str(table), model=str(folder), recipe='default', max_steps=6, out=out, checkpoint_every=2, progress=False)
    assert not is_unfinished(out)
    with pytest.raises(KeyboardInterrupt): adapt_task(**how, resume='auto', hooks=[Stop()])
    assert is_unfinished(out)
    res = adapt_task(**how, resume='auto')
    plain = adapt_task(**dict(how, out=tmp_path/'other'))
    assert res.mask==plain.mask and not is_unfinished(out)

def test_nothing_is_half_made_elsewhere(tmp_path):
    assert not is_half_made(tmp_path)
    (tmp_path/'.compress').mkdir()
    assert is_half_made(tmp_path)
