"Teachers: trained once, kept, gone on with where they were interrupted."
import re,signal
import pytest,torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from adaptprune import task,teacher
from adaptprune.head import AdaptModel
from adaptprune.recipe import get_recipe
from adaptprune.task import adapt_task
from adaptprune.teacher import teacher_recipe
from toy import ce,on_two,own_data

def left(out):
    "What a run leaves in its folder: its mask, and neither a checkpoint nor a teacher"
    return sorted(p.name.split('-')[0] for p in out.iterdir() if p.name!='.adaptprune.lock')

def test_a_teacher_follows_the_recipe():
    r = get_recipe('distilled', lr=3e-5, weight_decay=.1, epochs=2, min_steps=7, batch_size=4, dropout=.3, pooling='mean', beta=0.)
    t = teacher_recipe(r)
    for n in ('lr', 'weight_decay', 'epochs', 'min_steps', 'batch_size', 'dropout', 'pooling'): assert getattr(t, n)==getattr(r, n)
    assert (t.method,t.beta)==('finetune', 1e-3)

def test_teachers(tmp_path, folder):
    "A teacher is trained once and kept; the run learns from it; its learning rate is the recipe's"
    own,data = own_data(tmp_path)
    kw = dict(recipe='default', data=data, max_steps=60, progress=False, max_length=32)
    taught = dict(kw, teacher='finetune', distil_hidden=1., cache=tmp_path)
    a = adapt_task(own, folder, **taught)
    file, = tmp_path.glob('teacher-*.pt')
    made = file.stat().st_mtime_ns
    b = adapt_task(own, folder, sparsity=.5, **taught)
    assert file.stat().st_mtime_ns==made and a.mask==b.mask and a.report['teacher_metrics']==b.report['teacher_metrics'] and a.report['teacher_seconds']>0
    none = adapt_task(own, folder, **kw)
    assert none.history[-1]['loss']!=a.history[-1]['loss'] and 'teacher_seconds' not in none.report
    fast = adapt_task(own, folder, lr=1e-3, **taught)
    assert len(list(tmp_path.glob('teacher-*.pt')))==2 and [r.report['teacher_lr'] for r in (a, fast)]==[1e-4, 1e-3] and fast.history[-1]['loss']!=a.history[-1]['loss']
    assert (a.report['teacher_steps'],a.report['recipe']['teacher'])==(60, "finetune")
    for f in tmp_path.glob('teacher-*.pt'): f.write_bytes(b'torn')
    with pytest.raises(ValueError, match='delete it to train one anew'): adapt_task(own, folder, **taught)

def test_a_teacher_goes_on_where_it_was_interrupted(tmp_path, folder, monkeypatch):
    "Stopped while the teacher learns and again while the mask does, a run ends as one that was not stopped, and leaves no teacher behind"
    own,data = own_data(tmp_path)
    kw = dict(recipe='distilled', data=data, max_steps=6, progress=False, max_length=32)
    whole = adapt_task(own, folder, **kw)
    forward = AdaptModel.forward
    def stop_after(n):
        calls = iter(range(n))
        def counted(self, *args, **kwargs):
            if self.training and next(calls, None)==n-1: signal.raise_signal(signal.SIGINT)
            return forward(self, *args, **kwargs)
        monkeypatch.setattr(AdaptModel, 'forward', counted)
    for n,says in ((3, 'The teacher: Interrupted at step 3 of 6; run the same again'), (6, 'Interrupted at step 3 of 6; continue with resume=True')):
        stop_after(n)
        with pytest.raises(KeyboardInterrupt, match=says): adapt_task(own, folder, out=tmp_path/'out', resume=n==6, **kw)
    monkeypatch.setattr(AdaptModel, 'forward', forward)
    res = adapt_task(own, folder, out=tmp_path/'out', resume=True, **kw)
    assert res.mask==whole.mask and res.report['metrics']==whole.report['metrics'] and left(tmp_path/'out')==['adaptprune.json', 'mask']
    stop_after(3)
    with pytest.raises(KeyboardInterrupt, match='nothing was saved'): adapt_task(own, folder, **kw)
    with pytest.raises(ValueError, match='Nothing to resume'): adapt_task(own, folder, out=tmp_path/'none', resume=True, **kw)
    assert not (tmp_path/'none').exists()

@pytest.mark.parametrize('kw,says', [(dict(sparcity=.5), "no 'sparcity'"), (dict(weights='decoder*'), "No weight matrix matches 'decoder*'"), (dict(loss_fn=ce), 'leave out loss_fn'),
    (dict(method='features'), 'does not read'), (dict(resume=True), 'Nothing to resume'), (dict(max_steps=0), 'got 0'), (dict(sparsity=1.), 'got 1.0')], ids=lambda x: x if isinstance(x, str) else ','.join(x))
def test_what_cannot_be_is_refused_before_a_teacher_learns(kw, says, tmp_path, folder, monkeypatch):
    own,data = own_data(tmp_path)
    monkeypatch.setattr(task, 'make_teacher', lambda *args, **kwargs: pytest.fail('a teacher was trained'))
    with pytest.raises(ValueError, match=re.escape(says)): adapt_task(own, folder, recipe='distilled', data=data, out=tmp_path/'out', progress=False, **kw)

def test_two_processes_share_a_teacher(tmp_path, folder):
    def run(rank):
        mine = tmp_path/str(rank)
        mine.mkdir()
        own,data = own_data(mine)
        how = dict(recipe='distilled', max_steps=3, max_length=32, progress=False)
        res = adapt_task(own, folder, data=data, out=tmp_path/'out', **how)
        torch.save((dict(res.mask), res.report['teacher_metrics']), f'{mine}.pt')
    on_two(run)
    (a,first),(b,second) = (torch.load(tmp_path/f'{i}.pt', weights_only=True) for i in (0, 1))
    assert first==second and all(torch.equal(a[n], b[n]) for n in a) and left(tmp_path/'out')==['adaptprune.json', 'mask']

def test_a_teacher_leaves_your_accelerator_alone(tmp_path, folder):
    AcceleratorState._reset_state()
    own,data = own_data(tmp_path)
    res = adapt_task(own, folder, recipe='default', data=data, max_steps=60, teacher='finetune', accelerator=(acc := Accelerator(mixed_precision='bf16')), progress=False, max_length=32)
    assert res.report['teacher_seconds']>0 and acc.mixed_precision=='bf16'
