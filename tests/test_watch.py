"Runs that are watched: what logs hold, that they never cost a run, and that the best state is one at the target."
import csv,logging,sys
from types import ModuleType,SimpleNamespace
import pytest,torch
from adaptprune.loop import Hook
from adaptprune.task import adapt_task
from adaptprune.watch import KeepBest,Log,LogCSV,LogTensorBoard,LogText,LogWandb,at_target,learning_rates
from toy import Toy,X,Y,ce,crash_at,go,same_run

class Keep(Log):
    def open(self, run): self.rows,self.closed = [],0
    def write(self, row): self.rows.append(row)
    def close(self): self.closed += 1

def score(model):
    with torch.no_grad(): return dict(accuracy=(model(X).argmax(1)==Y).float().mean().item())

def falling(scores):
    "An evaluation that gives these values, one a call"
    left = iter(scores)
    return lambda model: dict(made_up=next(left))

kw = dict(max_steps=40, sparsity=.5, eval_every=4)      # thresholds every second step, the target from step 28 on

# logs

def test_rows_of_a_log():
    "At every n-th step, where there is an evaluation, at the last step, and the metrics of the model that comes out"
    k = Keep(every=15)
    res = go(hooks=[k], max_steps=40, evaluate=score, eval_every=16)
    assert [r['step'] for r in k.rows]==[15, 16, 30, 32, 40, 40] and k.closed==1
    assert [r['step'] for r in k.rows if 'accuracy' in r]==[16, 32, 40]
    assert k.rows[-1]==dict(step=40, **res.report['metrics'])
    full = k.rows[:-1]
    assert all(r['steps_per_second']>0 and {'loss', 'sparsity', 'lr', 'lr_head'}<=r.keys() for r in full)
    assert full[-1]['sparsity']==res.mask.sparsity and full[0]['lr']>full[-1]['lr']>=0
    same_run(res, go(max_steps=40, evaluate=score, eval_every=16))

@pytest.mark.parametrize('recipe, sparsity, names', [('finetune', 0., ['lr', 'lr_head']), ('features', 0., ['lr'])])
def test_rates_of_other_methods(recipe, sparsity, names):
    seen = {}
    class Look(Hook):
        def after_step(self, run, loss):
            if run.step==3: seen.update(learning_rates(run), wanted=[g['lr'] for g in run.opt.param_groups])
    go(recipe=recipe, sparsity=sparsity, hooks=[Look()], max_steps=8)
    assert list(seen)[:-1]==names and list(seen.values())[:-1]==seen['wanted'] and all(r>0 for r in seen['wanted'])

def test_a_log_that_fails_costs_nothing():
    class Full(Keep):
        def write(self, row):
            super().write(row)
            raise OSError('disk full')
    k = Full(every=2)
    with pytest.warns(UserWarning, match='Full stopped at step 2 .OSError: disk full.'): res = go(hooks=[k], max_steps=8)
    assert len(k.rows)==1
    same_run(res, go(max_steps=8))

def test_a_log_of_a_run_that_fails_is_closed():
    k = Keep(every=1)
    with pytest.raises(RuntimeError, match='power cut'): go(hooks=[k], loss=crash_at(5), max_steps=8)
    assert [r['step'] for r in k.rows]==[1, 2, 3, 4, 5] and k.closed==1

@pytest.mark.parametrize('every', [0, -1, 2.5, True, None])
def test_every_is_a_number_of_steps(every):
    with pytest.raises(ValueError, match=f'every must be a whole number of steps, 1 or more, got {every}'): Log(every)

def test_logging(caplog):
    with caplog.at_level(logging.INFO, 'adaptprune'): go(hooks=[LogText(every=20)], max_steps=40, evaluate=score)
    said = [r.getMessage() for r in caplog.records]
    assert [s.split(',')[0] for s in said]==['step 20', 'step 40', 'step 40'] and 'accuracy' in said[-1] and 'loss' in said[0]

def table(path):
    with open(path, newline='') as f: return list(csv.DictReader(f))

def test_csv(tmp_path):
    "A column that comes late is in the header, and a new run replaces the file"
    f = tmp_path/'new'/'run.csv'
    res = go(hooks=[LogCSV(f, every=10)], max_steps=40, evaluate=score, eval_every=20)
    rows = table(f)
    assert [r['step'] for r in rows]==['10', '20', '30', '40', '40'] and rows[0]['accuracy']=='' and rows[1]['accuracy']
    assert float(rows[-1]['accuracy'])==res.report['metrics']['accuracy'] and rows[-1]['loss']==''
    go(hooks=[LogCSV(f, every=10)], max_steps=10)
    assert [r['step'] for r in table(f)]==['10']

def test_csv_of_a_run_that_resumes(tmp_path):
    "Steps after the checkpoint are made again, and stand there once"
    def watched(**kwargs): return go(hooks=[LogCSV(tmp_path/'run.csv', every=3)], out=tmp_path, max_steps=20, **kwargs)
    with pytest.raises(RuntimeError, match='power cut'): watched(loss=crash_at(10), checkpoint_every=8)
    assert [r['step'] for r in table(tmp_path/'run.csv')]==['3', '6', '9']
    watched(resume=True)
    whole = go(hooks=[LogCSV(tmp_path/'whole.csv', every=3)], max_steps=20)
    def plain(path): return [{k: v for k,v in r.items() if k!='steps_per_second'} for r in table(path)]
    assert plain(tmp_path/'run.csv')==plain(tmp_path/'whole.csv') and whole.report['steps']==20

def module(name, **members):
    m = ModuleType(name)
    vars(m).update(members)
    return m

def test_tensorboard(tmp_path, monkeypatch):
    seen = []
    class Writer:
        def __init__(self, folder): seen.append(folder)
        def add_scalar(self, name, value, step): seen.append((name, step))
        def flush(self): pass
        def close(self): seen.append('closed')
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', module('torch.utils.tensorboard', SummaryWriter=Writer))
    go(hooks=[LogTensorBoard(tmp_path, every=4)], max_steps=8, evaluate=score)
    assert seen[0]==str(tmp_path) and seen[-1]=='closed' and {('loss', 4), ('loss', 8), ('lr', 8), ('accuracy', 8)}<=set(seen)

def test_wandb(monkeypatch):
    "A run of one's own stays open, one that the log makes is finished"
    seen = []
    run = SimpleNamespace(log=lambda row, step: seen.append((step, 'loss' in row)), finish=lambda: seen.append('finished'))
    go(hooks=[LogWandb(run, every=4)], max_steps=8)
    assert seen==[(4, True), (8, True)]
    monkeypatch.setitem(sys.modules, 'wandb', module('wandb', init=lambda **kw: seen.append(kw) or run))
    go(hooks=[LogWandb(every=8, project='p')], max_steps=8)
    assert seen[2:]==[dict(project='p'), (8, True), 'finished']

@pytest.mark.parametrize('make, name, pip', [(lambda: LogTensorBoard('x'), 'torch.utils.tensorboard', 'pip install tensorboard'),
    (LogWandb, 'wandb', 'pip install wandb')])
def test_what_is_not_installed(make, name, pip, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=pip): make()

# the best state

def test_only_states_at_the_target_compete():
    "The early ones score best and are passed over; the last at the target wins over worse ones"
    res = go(hooks=[KeepBest()], evaluate=falling([9, 9, 9, 9, 9, 9, 1, 3, 2, 0, 7]), **kw)
    assert res.history[-1]['best_step']==32 and res.report['target_met'] and res.mask.sparsity==res.report['sparsity']
    at = {r['step']: r['sparsity'] for r in res.history}
    assert at[20]<at[32]==res.mask.sparsity

def states(**kwargs):
    "The model at each evaluation, of a run without `KeepBest`"
    kept = []
    def look(model):
        kept.append({n: t.clone() for n,t in model.state_dict().items()})
        return dict(made_up=0.)
    go(evaluate=look, **{**kw, **kwargs})
    return kept

@pytest.mark.parametrize('changes', [{}, dict(step='adam'), dict(t_l=1e5), dict(recipe='finetune', sparsity=0.),
    dict(recipe='features', sparsity=0.)])
def test_the_best_state_is_that_of_its_step(changes):
    "Bit for bit, head and mask, for every method"
    changes = dict(dropout=0., **changes)
    res = go(hooks=[KeepBest(least=True)], evaluate=falling([5]*6+[4, 2, 3, 9, 2]), **{**kw, **changes})
    want = states(**changes)[7]
    got = res.model.state_dict()
    assert res.history[-1]['best_step']==32
    near = 't_l' in changes         # the soft mask of the evaluation; a binary one comes out
    for n,t in want.items(): assert torch.equal(got[n], t) or near and (got[n]-t).abs().gt(1e-3).float().mean()<.02, n
    if res.mask is None: return
    weights = dict(res.base.named_parameters())
    for n,m in res.mask.items(): assert torch.equal(weights[n]!=0, m)

def test_the_last_state_competes():
    res = go(hooks=[KeepBest()], evaluate=falling([0]*9+[8, 8]), **kw)
    assert res.history[-1]['best_step']==40
    same = go(evaluate=falling([0]*9+[8]), **kw)
    assert res.mask==same.mask

def test_patience():
    "Two evaluations without a better one end the run; what comes out is at the target"
    res = go(hooks=[KeepBest(patience=2)], evaluate=falling([9]*6+[5, 4, 4, 6]), **kw)
    assert (res.report['steps'], res.history[-1]['best_step'], res.report['metrics'])==(36, 28, dict(made_up=6))
    assert res.report['target_met'] and abs(res.mask.sparsity-.5)<1/res.mask.numel

def test_patience_of_a_method_without_target():
    res = go(hooks=[KeepBest(patience=3)], evaluate=falling([5, 6, 4, 4, 4, 6]), recipe='finetune', **dict(kw, sparsity=0.))
    assert (res.report['steps'], res.history[-1]['best_step'])==(20, 8)

def test_best_of_a_run_that_resumes(tmp_path):
    "The best state is in the checkpoint"
    how = dict(kw, dropout=0.)
    whole = go(hooks=[KeepBest()], evaluate=falling([0]*6+[9, 1, 2, 3, 9]), **how)
    cut = dict(out=tmp_path, evaluate=falling([0]*6+[9, 1]), loss=crash_at(34), checkpoint_every=33)
    with pytest.raises(RuntimeError, match='power cut'): go(hooks=[KeepBest()], **how, **cut)
    res = go(hooks=[KeepBest()], out=tmp_path, resume=True, evaluate=falling([2, 3, 9]), **how)
    assert res.history[-1]['best_step']==28
    same_run(res, whole)

@pytest.mark.parametrize('kwargs, words', [(dict(evaluate=score), 'eval_every'), ({}, 'eval_every'),
    (dict(evaluate=score, eval_every=3), 'an eval_every that 2 divides, got 3'),
    (dict(evaluate=score, eval_every=4, recipe='l0'), 'l0')])
def test_what_keep_best_cannot_do(kwargs, words):
    model = Toy()
    with pytest.raises(ValueError, match=words): go(model, hooks=[KeepBest()], max_steps=20, **kwargs)
    assert all(torch.equal(p, q) for p,q in zip(model.parameters(), Toy().parameters()))

def test_a_metric_that_is_not_there():
    with pytest.raises(ValueError, match="no metric 'f1' to choose by: it gives accuracy"):
        go(hooks=[KeepBest('f1')], evaluate=score, **kw)

def test_at_target():
    seen = {}
    class Look(Hook):
        def after_step(self, run, loss): seen[run.step] = at_target(run)
    go(hooks=[Look()], max_steps=40)
    assert not seen[10] and seen[28] and seen[40]

@pytest.mark.parametrize('recipe', ['magnitude', 'imp'])
def test_methods_in_phases_take_no_hooks(folder, recipe):
    with pytest.raises(ValueError, match='take no hooks'):
        adapt_task('mini-sentiment', folder, .5, recipe, max_steps=2, max_length=16, progress=False, hooks=[Keep()])

def test_hooks_in_a_task(folder):
    "`adapt_task` hands hooks to the run of the mask, and to no other"
    k = Keep(every=3)
    how = dict(max_length=16, progress=False, eval_every=10)
    res = adapt_task('mini-sentiment', folder, .5, 'distilled', max_steps=10, hooks=[k, KeepBest()], **how)
    assert [r['step'] for r in k.rows]==[3, 6, 9, 10, 10] and res.history[-1]['best_step']==10
