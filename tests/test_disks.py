"A full disk, one that fills while a run goes on, and one that cannot be written: one clear error, and nothing that was there is lost"
import json,os,shutil,subprocess,sys
import pytest,torch
from adaptprune import cli
from adaptprune.artifact import TaskMask
from adaptprune.compression import compress
from adaptprune.export import save_plain
from adaptprune.files import new_path,write_file
from adaptprune.folder import load_compact
from adaptprune.loop import check_writable
from adaptprune.results import append_line,read_results
from adaptprune.sweep import run_cells
from adaptprune.task import adapt_task
from adaptprune.tolerance import find_sparsity
from test_compress import home,quick,texts
from toy import own_data

class Disk:
    "A file system in memory, of a few hundred pages"
    def __init__(self, path): self.path = path
    def fill(self, leave=0):
        "Leave so many kilobytes"
        f = os.open(self.path/'fill', os.O_CREAT|os.O_WRONLY)
        try:
            while os.write(f, b'x'*4096): pass
        except OSError: pass
        os.ftruncate(f, max(0, os.fstat(f).st_size-1024*leave))
        os.close(f)
    def free(self): (self.path/'fill').unlink()
    def lock(self): mount('-o', 'remount,ro', self.path)
    def files(self): return {str(p.relative_to(self.path)): p.read_bytes() for p in self.path.rglob('*') if p.is_file() and p.name!='fill' and p.stat().st_size}

def mount(*words): return subprocess.run(['mount', *map(str, words)], capture_output=True, text=True)

@pytest.fixture
def disk(tmp_path):
    path = tmp_path/'disk'
    path.mkdir()
    if not shutil.which('mount'): pytest.skip('there is no command to mount a file system')
    got = mount('-t', 'tmpfs', '-o', 'size=1500k', 'tmpfs', path)
    if got.returncode: pytest.skip(f'a file system cannot be mounted here: {got.stderr.strip()}')
    yield Disk(path)
    subprocess.run(['umount', '-l', path], check=True)

@pytest.fixture
def run(folder, tmp_path):
    "A function that makes a short run of a tiny model, with the arguments of `adapt_task`"
    task,data = own_data(tmp_path)
    def go(out, **how):
        how = dict(dict(recipe='default', max_steps=4, max_length=16, batch_size=8, progress=False, say=str), **how)
        return adapt_task(task, folder, data=data, out=out, **how)
    go.task,go.data,go.model = task,data,folder
    return go

def same(a, b): return a.mask==b.mask and all(torch.equal(a.head[n], b.head[n]) for n in a.head)

# --- before work: no room at all, or no right to write

@pytest.mark.parametrize('state,why', [('full', 'No space left on device'), ('read-only', 'Read-only file system')])
def test_what_cannot_be_written_is_said_before_work(disk, run, monkeypatch, state, why):
    run(disk.path/'old')
    mask = TaskMask.from_pretrained(disk.path/'old')
    before = disk.files()
    disk.fill() if state=='full' else disk.lock()
    def work(*args, **kwargs): raise AssertionError('work began')
    for place in ('adaptprune.task.set_up', 'adaptprune.compression.Maker'): monkeypatch.setattr(place, work)
    cells = [dict(task='mine', recipe='default', sparsity=.5, max_steps=2)]
    asked = dict(
        new=lambda: run(disk.path/'new'), old=lambda: run(disk.path/'old', force=True), taught=lambda: run(disk.path/'new', recipe='distilled'),
        tolerance=lambda: find_sparsity(run.task, run.model, .5, (.3,), data=run.data, out=disk.path/'levels', max_steps=2, progress=False),
        sweep=lambda: run_cells(cells, disk.path/'a.jsonl', run=work, progress=False),
        masks=lambda: run_cells(cells, disk.path.parent/'a.jsonl', run=work, masks=disk.path/'masks', progress=False))
    for name,f in asked.items():
        with pytest.raises(OSError, match=why) as e: f()
        assert str(disk.path) in str(e.value), name
    with pytest.raises(OSError, match=why): mask.save_pretrained(disk.path/'old')
    assert disk.files()==before and not list(disk.path.rglob('.adaptprune-*'))
    assert same(TaskMask.from_pretrained(disk.path/'old'), mask)

@pytest.mark.parametrize('state', ['full', 'read-only'])
def test_compress_says_so_before_work(disk, home, monkeypatch, state):
    disk.fill() if state=='full' else disk.lock()
    monkeypatch.setattr('adaptprune.compression.Maker', None)
    with pytest.raises(OSError, match='cannot be written to'): compress(home/'classifier', texts, disk.path/'out', remove=.5, **quick)

@pytest.mark.parametrize('state', ['full', 'read-only'])
def test_commands_say_so_in_a_line(disk, run, folder, tmp_path, capsys, monkeypatch, state):
    run(tmp_path/'m')
    disk.fill() if state=='full' else disk.lock()
    def said(*words):
        monkeypatch.setattr(sys, 'argv', ['adaptprune', *map(str, words)])
        with pytest.raises(SystemExit) as e: cli.main()
        err = capsys.readouterr().err.strip().splitlines()
        assert e.value.code==2 and err[-1].startswith('adaptprune: error:') and str(disk.path) in err[-1]
    how = '--model',folder
    said('export', tmp_path/'m', *how, '--format', 'plain', '--out', disk.path/'plain')
    own = '--train',tmp_path/'train.tsv','--text','sentence','--recipe','default','--max-steps',2
    said('adapt', *own, *how, '--out', disk.path/'new')
    with monkeypatch.context() as m:
        m.setattr(cli, '_predictor', None)
        said('apply', tmp_path/'m', *how, '--input', tmp_path/'train.tsv', '--text', 'sentence', '--out', disk.path/'a.csv')

# --- the disk fills while something is written

def test_a_checkpoint_that_does_not_fit(disk, run, tmp_path):
    "The error is that of the disk; the last checkpoint and an old mask stay; with room, the run goes on to the same file"
    run(tmp_path/'whole', seed=1)
    run(disk.path/'a')
    old = TaskMask.from_pretrained(disk.path/'a')
    disk.fill(leave=8)
    with pytest.raises(OSError, match=r"No space left on device: '.*checkpoint.pt'"): run(disk.path/'a', force=True, seed=1, checkpoint_every=2)
    assert same(TaskMask.from_pretrained(disk.path/'a'), old) and not list(disk.path.rglob('*.tmp'))
    disk.free()
    run(disk.path/'a', force=True, seed=1, checkpoint_every=2)
    assert same(TaskMask.from_pretrained(disk.path/'a'), TaskMask.from_pretrained(tmp_path/'whole'))

def test_a_mask_that_does_not_fit_is_in_the_result(disk, run, monkeypatch, tmp_path):
    "With the checkpoint of its last step, from which it can be saved when there is room"
    real = TaskMask.save_pretrained
    def full(self, *args):
        disk.fill()
        return real(self, *args)
    with monkeypatch.context() as m:
        m.setattr(TaskMask, 'save_pretrained', full)
        with pytest.warns(UserWarning, match='could not be saved in .*No space left on device.*save it elsewhere'): res = run(disk.path/'a', checkpoint_every=2)
    assert 'No space left' in res.report['save_error']
    disk.free()
    run(disk.path/'a', resume=True, checkpoint_every=2)
    TaskMask.from_adapted(res).save_pretrained(tmp_path/'b')
    assert same(TaskMask.from_pretrained(disk.path/'a'), TaskMask.from_pretrained(tmp_path/'b'))

def test_compress_goes_on_when_there_is_room(disk, home, tmp_path):
    how = dict(quick, steps=4)
    want = load_compact(compress(home/'classifier', texts, tmp_path/'whole', remove=.5, **how).folder).state_dict()
    disk.fill(leave=100)
    with pytest.raises(OSError, match='No space left on device'): compress(home/'classifier', texts, disk.path/'out', remove=.5, **how)
    assert not list(disk.path.rglob('*.tmp'))
    disk.free()
    compress(home/'classifier', texts, disk.path/'out', remove=.5, resume=True, **how)
    got = load_compact(disk.path/'out').state_dict()
    assert got.keys()==want.keys() and all(torch.equal(got[n], p) for n,p in want.items())

def test_half_a_line_is_an_error(disk):
    "The system takes what fits and says so only by a number"
    path = disk.path/'a.jsonl'
    row = dict(key='a', recipe={}, text='x'*3000)
    append_line(path, row)
    disk.fill()
    with pytest.raises(OSError, match='No space left'): append_line(path, dict(row, key='b', text='y'*9000))
    disk.free()
    assert [r['key'] for r in read_results(path)]==['a']
    append_line(path, dict(row, key='b'))
    assert [r['key'] for r in read_results(path)]==['a', 'b']

def test_files_are_named_and_old_ones_stay(disk):
    write_file(disk.path/'a', b'old')
    with new_path(disk.path/'b') as new: new.write_bytes(b'old')
    disk.fill()
    with pytest.raises(OSError, match=r"No space left on device: '.*/a'"): write_file(disk.path/'a', b'x'*10**5)
    with pytest.raises(OSError, match=r"No space left on device: '.*/b'"):
        with new_path(disk.path/'b', force=True) as new: new.write_bytes(b'x'*10**5)
    assert disk.files()==dict(a=b'old', b=b'old')
    with pytest.raises(OSError, match='cannot be written to'): check_writable(disk.path)
