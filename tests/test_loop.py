"Algorithm 1 on a toy: exact targets, runs that are cut off and go on, and what is refused."
import copy,math,signal,threading,time,warnings
import numpy as np,pytest,torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader,IterableDataset
from adaptprune.layer import fingerprint
from adaptprune.anatomy import untrained
from adaptprune.loop import Evaluate,Finite,Hook,adapt,find_base,one_loss
from adaptprune.mask import Mask,n_pruned
from adaptprune.methods import MaskMethod
from adaptprune.recipe import get_recipe
from toy import *
from toy import n_weights

def state(model):
    "All that a run may not leave changed when it fails"
    return dict(modes=[m.training for m in model.modules()], drops=[m.p for m in model.modules() if isinstance(m, nn.Dropout)], flags=[p.requires_grad for p in model.parameters()],
        values=[p.detach().clone() for p in model.parameters()], buffers=[b.clone() for b in model.buffers()], forward=model.__dict__.get('forward'),
        hooks=[(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()], sparse=[m.sparse for m in model.modules() if isinstance(m, nn.Embedding)])
def same_state(a, b):
    for k in a: assert all(torch.equal(x, y) for x,y in zip(a[k], b[k], strict=True)) if k in ('values', 'buffers') else a[k]==b[k], k

# the target, and the base

@pytest.mark.parametrize('kw', [dict(sparsity=.3), dict(sparsity=.99), dict(sparsity=0.), dict(budget='matrix', step='adam'), dict(budget='layer', recovery=False), dict(recovery=False, every=3),
    dict(step='plain', dropout=0.), dict(start='normal', step='plain'), dict(start='normal', mean=.03, std=.01), dict(start='gradient'), dict(start='activation'), dict(accumulate=3, decay='cosine'),
    dict(t_l=1e4, warmup=0.), dict(t_s=0., step='adam')], ids=str)
def test_target_is_exact_and_the_base_untouched(kw):
    model = Toy()
    before = {n: p.detach().clone() for n,p in model.body.named_parameters()}
    res = go(model, **kw)
    s,r = kw.get('sparsity', .5),res.report
    assert res.mask.numel==n_weights and (r['target'],r['target_met'],r['kept'])==(s, True, res.mask.kept)
    parts = [(n,) for n in res.mask] if kw.get('budget') in ('matrix', 'layer') else [tuple(res.mask)]
    for ns in parts: assert sum(int((~res.mask[n]).sum()) for n in ns)==n_pruned(sum(res.mask[n].numel() for n in ns), s)
    assert not any(m.training for m in model.modules()) and (r['recovered']==0 or kw.get('recovery', True))
    assert r['base']==fingerprint(Toy().body) and r['base_module']=='Sequential, body' and (res.base,res.base_name)==(model.body, 'body')
    for n,p in model.body.named_parameters():
        assert torch.equal(p, before[n]*res.mask[n] if n in res.mask else before[n]) and p.requires_grad
    assert not torch.equal(model.head.weight, Toy().head.weight)

def test_somebody_else_trains_the_base():
    for name,says in (('bias', 'frozen weights changed during the run: something else trained them'), ('weight', 'changed from outside')):
        def loss(model, batch):
            with torch.no_grad(): getattr(model.body[0], name).add_(1e-3)
            return ce(model, batch)
        with pytest.raises(RuntimeError, match=says): go(loss=loss)

def test_changes_that_nothing_counts():
    "Through `.data`: a masked weight is written again, so the mask is one of the base; a frozen bias is found at the end"
    def loss(name):
        def f(model, batch):
            getattr(model.body[0], name).data.add_(1e-3)
            return ce(model, batch)
        return f
    w0 = Toy().body[0].weight.detach()
    res = go(loss=loss('weight'))
    assert torch.equal(res.model.body[0].weight, w0*res.mask['0.weight']) and res.report['base']==fingerprint(Toy().body)
    with pytest.raises(RuntimeError, match='frozen weights changed during the run'): go(loss=loss('bias'))

def test_seeds():
    a,b,c = go(seed=0),go(seed=0),go(seed=1)
    same_run(a, b)
    assert a.mask!=c.mask and c.mask.kept==a.mask.kept

@pytest.mark.parametrize('kw', [dict(), dict(step='adam', head_step='plain')], ids=str)
def test_evaluation(kw):
    "Evaluated in eval mode, at the wanted steps and at the end, and trained on in train mode"
    seen,train = [],set()
    def evaluate(m): seen.append((m.training, m.body[2].training)); return dict(score=1.)
    def loss(m, b): train.add((m.training, m.body[2].training)); return ce(m, b)
    res = go(evaluate=evaluate, eval_every=10, loss=loss, **kw)
    assert train=={(True, True)}
    assert set(seen)=={(False, False)} and len(seen)==3                                     # steps 10 and 20, and the end
    assert [h['step'] for h in res.history]==[10, 20, 21] and [h['score'] for h in res.history]==[1.]*3 and res.report['metrics']==dict(score=1.)

def thetas(method): return {p.name: p.theta.clone() for p in method.opt.weights}

def test_default_rate_travels_the_spread():
    "Where all gradients agree in sign, theta moves by `spread` in the run"
    w0 = Toy(0.).body
    def loss(m, b): return sum((m.body[i].weight*w0[i].weight.detach().sign()).sum() for i in (0, 3))+0*ce(m, b)
    class Begin(Hook):
        def begin(self, run): self.start,self.method = thetas(run.method),run.method
        def end(self, run): self.stop = thetas(run.method)
    h = Begin()
    go(Toy(0.), loss=loss, spread=.04, step='sign', hooks=[h], reach=1.)
    for n,t in h.start.items(): torch.testing.assert_close(h.stop[n]-t, torch.full_like(t, -.04), atol=2e-3, rtol=0)

@pytest.mark.parametrize('gamma,met', [(5e-4, True), (1e-9, False)])
def test_algorithm_1_stops(gamma, met):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        res = go(recipe='paper', start='normal', gamma=gamma, epochs=20, batch_size=16, every=1)
    assert res.report['target_met']==met and (res.report['steps']<140)==met
    assert (.5<=res.mask.sparsity<.7) if met else res.mask.sparsity==0
    assert any('target sparsity 0.5 was not met: the run ended at 0.0000. Raise gamma' in str(w.message) for w in seen)!=met

def test_base_of_ones_choice():
    model = Toy()
    assert list(go(model, base=model.body[3]).mask)==['weight'] and list(go(base=(m:=Toy()).body, model=m, weights='3*').mask)==['3.weight']
    res = go(nn.Sequential(nn.Linear(10, 3)))
    assert set(res.mask)=={'0.weight'} and res.base_name=='' and res.report['base_module']=='Sequential, the whole model'
    with pytest.raises(ValueError, match='Linear.* is no part of the model .Toy'): go(base=nn.Linear(2, 2))

def test_wrapped_models_have_plain_names():
    model = Toy()
    res = go(nn.DataParallel(model), base=model.body, start='rank')
    assert res.base_name=='body' and list(res.mask)==['0.weight', '3.weight']
    found = find_base(torch.compile(model))
    assert (found.module,found.name)==(model.body, 'body')

def test_the_same_model_again():
    "A model that was adapted can be adapted again, from its pruned weights"
    model = Toy()
    go(model)
    assert go(model, sparsity=.8).report['target_met']

# untrained weights

class Named(nn.Module):
    "A model whose base is not named"
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder,self.classifier = nn.Linear(10, 16),nn.Linear(16, 3)
    def forward(self, x): return self.classifier(self.encoder(x).tanh())

def test_untrained_weights_in_the_base_are_named():
    with pytest.warns(UserWarning, match=r'The base \(Named\) holds weights that look untrained: classifier.weight.*base=model.encoder'): go(Named(), max_steps=2)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        m = Named()
        go(m, base=m.encoder, max_steps=2)
        go(Named(), recipe='finetune', max_steps=2)

def test_from_pretrained_knows_what_is_untrained(tiny, tmp_path):
    from transformers import AutoModel,AutoModelForSequenceClassification
    m = tiny('Bert')
    m.save_pretrained(tmp_path/'whole')
    m.pooler = None
    m.save_pretrained(tmp_path/'bare')
    assert untrained(AutoModel.from_pretrained(tmp_path/'whole'))==[] and untrained(AutoModel.from_pretrained(tmp_path/'bare'))==['pooler.dense.weight', 'pooler.dense.bias']
    assert untrained(AutoModelForSequenceClassification.from_pretrained(tmp_path/'whole'))==['classifier.weight', 'classifier.bias']

# other methods

def test_features():
    model = Toy()
    modes = set()
    def loss(m, b): modes.add((m.head.training, m.body.training)); return ce(m, b)
    res = go(model, loss=loss, recipe='features')
    assert modes=={(True, False)}, 'the frozen body extracts features without dropout'
    assert res.mask is None and fingerprint(model.body)==fingerprint(Toy().body)
    assert not torch.equal(model.head.weight, Toy().head.weight) and all(p.grad is None for p in model.body.parameters())

def test_finetune():
    model = Toy()
    res = go(model, recipe='finetune')
    assert res.mask is None and all(not torch.equal(p, q) for p,q in zip(model.parameters(), Toy().parameters()))

def test_finetune_groups():
    class Look(Hook):
        def begin(self, run): self.groups = [(len(g['params']), g['initial_lr'], g['weight_decay']) for g in run.opt.param_groups]
    go(recipe='finetune', hooks=[look := Look()], max_steps=1)
    assert look.groups==[(4, 1e-4, .01), (2, 1e-3, 0.)]

def test_a_method_of_ones_own():
    class Mine(MaskMethod):
        def config(self): return dict(mine=1)
    method = Mine(get_recipe(start='rank', min_steps=0))
    res = go(method=method, recipe='default')
    assert res.report['target_met'] and method.opt.done

def test_phases_belong_to_another_room():
    with pytest.raises(ValueError, match="'imp' trains in several phases.*`adapt_task`"): adapt(Toy(), loader(), ce, recipe='imp')

# hooks

def test_hooks_of_ones_own():
    events = []
    class Log(Hook):
        def __init__(self, name): self.name = name
        def begin(self, run): events.append((self.name, 'begin', run.step))
        def after_step(self, run, loss):
            events.append((self.name, run.step, loss.requires_grad))
            if run.step==2: run.notes['seen'] = self.name
        def end(self, run): events.append((self.name, 'end', run.error))
        def counts(self, run): return dict(mine=7.)
    res = go(hooks=[Log('a'), Log('b')], max_steps=3)
    steps = [(n, s, False) for s in (1, 2, 3) for n in 'ab']
    assert events==[('a', 'begin', 0), ('b', 'begin', 0), *steps, ('b', 'end', None), ('a', 'end', None)]
    assert [(h['step'], h.get('seen'), h['mine']) for h in res.history]==[(2, 'b', 7.), (3, None, 7.)]

def test_a_hook_that_fails_at_its_end():
    class Bad(Hook):
        def end(self, run): raise RuntimeError('disk')
    model = Toy()
    before = state(model)
    with pytest.raises(RuntimeError, match='disk'): go(model, hooks=[Bad()])
    same_state(before, state(model))

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
    monkeypatch.setattr('adaptprune.loop._computes_bf16', lambda: can)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        go(max_steps=2, mixed_precision='bf16')
        go(max_steps=2)
    assert len([w for w in seen if 'does not compute in bfloat16' in str(w.message)])==(not can)

@pytest.mark.parametrize('caps, can', [(dict(avx2=True, avx512_bf16=False), False), (dict(avx512_bf16=True), True), (dict(amx_bf16=True), True), (dict(neon=True, bf16=True), True)], ids=str)
def test_which_processors_compute_in_bf16(caps, can, monkeypatch):
    from adaptprune.loop import _computes_bf16
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: caps, raising=False)
    assert _computes_bf16()==can
    monkeypatch.delattr(torch.cpu, 'get_capabilities')
    assert _computes_bf16()

def test_bf16():
    seen,model = set(),Toy()
    def loss(m, b):
        out = m(b[0])
        seen.add((m.body[0].weight.dtype, m.body[0](b[0]).dtype))
        return F.cross_entropy(out.float(), b[1])
    res = go(model, mixed_precision='bf16', loss=loss, evaluate=lambda m: dict(wide=float(m(X).dtype==torch.float32)))
    assert res.report['target_met'] and res.report['metrics']==dict(wide=1.) and {d for d,_ in seen}=={torch.float32}
    assert model(X).dtype==torch.float32 and 'forward' not in model.__dict__ or model.forward.__func__ is Toy.forward

def test_half_precision_base():
    model = Toy()
    model.body.bfloat16()
    mark,w0 = fingerprint(model.body),copy.deepcopy(model.body)
    res = go(model, loss=lambda m, b: F.cross_entropy(m.head(m.body(b[0].bfloat16()).float()), b[1]))
    assert res.report['target_met'] and res.report['base']==mark
    for n,m in res.mask.items(): assert torch.equal(model.body.get_parameter(n), w0.get_parameter(n)*m)

def test_own_accelerator():
    AcceleratorState._reset_state()
    acc = Accelerator(gradient_accumulation_steps=2)
    assert go(accelerator=acc).mask==go(accumulate=2).mask

class Stream(IterableDataset):
    "Examples without a length"
    def __iter__(self): return iter([(X[i], Y[i]) for i in range(100)])

def epochs(n): return [b for _ in range(n) for b in loader(shuffle=False)]
@pytest.mark.parametrize('make', [lambda: DataLoader(Stream(), 16), lambda: epochs(1), lambda: iter(epochs(4)), lambda: (b for b in epochs(4))], ids=['stream', 'list', 'iterator', 'generator'])
@pytest.mark.parametrize('start', ['rank', 'activation'])
def test_any_batches(make, start, tmp_path):
    kw = dict(max_steps=20, start=start, dropout=0.)
    whole,once = go(data=make(), **kw), hasattr(make(), '__next__')
    assert whole.report['target_met'] and whole.report['steps']==20
    assert whole.mask==go(data=epochs(4 if once else 1), **kw).mask                         # a stream that passes once gives its first batches again
    looks = 0 if start=='rank' else 16 if once else 7
    with pytest.raises(RuntimeError, match='power cut'): go(data=make(), loss=crash_at(looks+13), out=tmp_path, checkpoint_every=5, **kw)
    same_run(go(data=make(), out=tmp_path, resume=True, **kw), whole)

def test_streams_need_a_number_of_steps():
    with pytest.raises(ValueError, match='has no length, so epochs cannot be counted: give max_steps'): go(data=DataLoader(Stream(), 16))
    with pytest.raises(ValueError, match='gave out after 1 epochs, before the run was over'): go(data=iter(list(loader())), max_steps=20)
    with pytest.raises(ValueError, match='training loader has no batches'): go(data=iter([]), max_steps=20)

@pytest.mark.parametrize('n', [0, -1, 2.5, True, '3'])
def test_a_number_of_steps_that_cannot_be(n):
    model = Toy()
    before = state(model)
    with pytest.raises(ValueError, match='max_steps must be a whole number, 1 or more, got'): go(model, max_steps=n)
    same_state(before, state(model))

def test_lists_go_to_the_device():
    "Batches of any shape arrive where the model is: here a device that has no values"
    from adaptprune.loop import Batches
    from types import SimpleNamespace
    b = Batches([dict(x=X[:2], y=[Y[:2], 'text'])], SimpleNamespace(device=torch.device('meta'), prepare_data_loader=None))
    b.place()
    got,first = next(iter(b)),next(b.first(1))
    for x in (got, first): assert x['x'].is_meta and x['y'][0].is_meta and x['y'][1]=='text'

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

def test_small_data_are_repeated():
    assert go(recipe=get_recipe(min_steps=30, start='rank'), epochs=None, max_steps=None).report['steps']==30
    for kw in (dict(epochs=2), dict(max_steps=14)): assert go(recipe=get_recipe(min_steps=30, start='rank'), **dict(dict(epochs=None), **kw)).report['steps']==14

def test_dropout_of_a_recipe():
    off,on = Toy(dropout=.5),Toy(dropout=.5)
    a,b = go(off, dropout=0., max_steps=6),go(Toy(dropout=0.), max_steps=6)
    assert a.history[-1]['loss']==b.history[-1]['loss']!=go(on, dropout=None, max_steps=6).history[-1]['loss']
    assert off.body[2].p==.5

# refusals

@pytest.mark.parametrize('s', [1., -.1, 50, math.nan, '0.5', True])
def test_sparsity_out_of_range(s):
    model = Toy()
    with pytest.raises(ValueError, match=r'sparsity must be a number in \[0, 1\)'): go(model, sparsity=s)
    assert all(p.requires_grad for p in model.parameters())

def test_weights_that_are_not_there():
    model = Toy()
    before = state(model)
    with pytest.raises(ValueError, match="No weight matrix matches 'decoder"): go(model, weights='decoder.*')
    same_state(before, state(model))

def test_empty_loader():
    with pytest.raises(ValueError, match='training loader has no batches: check the data'): adapt(Toy(), DataLoader([]), ce)

def test_a_teacher_needs_the_models_own_loss():
    with pytest.raises(ValueError, match='name its kind'): go(teacher_model=Toy())
    with pytest.raises(ValueError, match='leave out loss_fn'): adapt(Toy(), loader(), ce, recipe=get_recipe(teacher='finetune'), teacher_model=Toy())
    with pytest.raises(ValueError, match='pass the trained model'): adapt(Toy(), loader(), recipe=get_recipe(teacher='finetune'))

@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_loss_that_is_not_a_number(value, tmp_path):
    model = Toy()
    before = state(model)
    calls = iter(range(99))
    with pytest.raises(FloatingPointError, match=f'The loss is {value} at step 7: lower the learning rates.*last checkpoint is untouched'):
        go(model, loss=lambda m, b: ce(m, b)*(value if next(calls)==7 else 1), out=tmp_path, checkpoint_every=7)
    same_state(before, state(model))
    assert go(out=tmp_path, checkpoint_every=7, resume=True).mask==go().mask

def test_losses_on_a_gpu_are_read_every_ten_steps():
    "Without a GPU: the flag of a device that is no CPU"
    class Loss:
        def __init__(self, ok): self.ok,self.device = ok,torch.device('cuda')
        def detach(self): return self
        def isfinite(self): return torch.tensor(self.ok)
    f = Finite(every=10)
    for step in range(1, 10): f.watch(Loss(step!=4), step)
    with pytest.raises(FloatingPointError, match='was not finite in the 10 steps before step 10'): f.watch(Loss(True), 10)
    with pytest.raises(FloatingPointError, match='was not finite'): f.check()

@pytest.mark.parametrize('bad,says', [(lambda l: None, 'returned NoneType None'), (lambda l: l.item(), 'returned float'), (lambda l: l.detach(), 'without a graph'), (lambda l: l*torch.ones(3), r'shape \(3,\): take its mean'),
    (lambda l: dict(logits=l), 'a dict without a loss'), (lambda l: (l, 1), 'returned tuple')], ids=['None', 'float', 'detached', 'vector', 'dict', 'tuple'])
def test_losses_that_are_none(bad, says):
    model = Toy()
    before = state(model)
    with pytest.raises(ValueError, match='mean loss of a batch, a tensor of one number.*'+says): go(model, loss=lambda m,b: bad(ce(m, b)))
    same_state(before, state(model))

unread = [(dict(gamma=1e-3), r"schedule='cubic' does not read gamma, got 0.001: leave it out"), (dict(recipe='paper', schedule='constant'), "schedule='constant' does not read gamma, got 2e-07"),
    (dict(epochs=2, max_steps=5), 'max_steps=5 is the length of the run, and nothing reads epochs=2'), (dict(min_steps=9, max_steps=5), 'nothing reads min_steps=9'),
    (dict(eval_every=5), 'evaluate has to be a function, model -> dict of metrics, got None'), (dict(evaluate='accuracy'), "got 'accuracy'"),
    (dict(checkpoint_every=5), 'checkpoint_every=5 writes nothing without a folder: give out=')]
never = [*(dict(eval_every=n, evaluate=len) for n in (-1, 2.5, True)), *(dict(checkpoint_every=n, out='x') for n in (-5, '5')), *(dict(accumulate=n) for n in (0, -1, 1.5)),
    *(dict(seed=s) for s in (2.5, -1, None, '0'))]

@pytest.mark.parametrize('kw,says', [*unread, *((kw, f"{next(iter(kw))} must be a whole number, [01] or more, got {next(iter(kw.values()))!r}") for kw in never)], ids=str)
def test_settings_that_nothing_can_use(kw, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    def loss(m, b): pytest.fail('a batch was read')
    model = Toy()
    before = state(model)
    with pytest.raises(ValueError, match=says): go(model, loss=loss, **kw)
    same_state(before, state(model))
    assert not list(tmp_path.iterdir())

def test_settings_beside_an_accelerator_of_ones_own():
    AcceleratorState._reset_state()
    for kw in (dict(accumulate=2), dict(mixed_precision='bf16')):
        with pytest.raises(ValueError, match='Your own accelerator says how to accumulate.*leave them out'): go(accelerator=Accelerator(), **kw)

def test_settings_that_are_read():
    "Whole numbers of NumPy, a gamma of 0, and the named recipes"
    kw = dict(max_steps=3, eval_every=np.int64(2), evaluate=lambda m: dict(a=1))
    same_run(go(seed=np.int64(3), accumulate=np.int64(2), gamma=0., **kw), go(seed=3, accumulate=2, **kw))
    for name in ('paper', 'movement', 'edge-popup', 'l0', 'features', 'finetune', 'bitfit'): assert go(recipe=name, max_steps=np.int64(2)).report['steps']==2

def test_batches_that_the_models_own_loss_cannot_take():
    for start in ('rank', 'activation'):
        with pytest.raises(ValueError, match='takes batches that are dicts.*this one is a list: give loss_fn'): adapt(Toy(), loader(), start=start, max_steps=2, progress=False)

def test_losses_in_a_dict():
    from transformers.modeling_outputs import SequenceClassifierOutput
    plain = go(max_steps=5)
    for wrap in (lambda l: dict(loss=l), lambda l: SequenceClassifierOutput(loss=l), lambda l: l[None]): assert go(loss=lambda m,b: wrap(ce(m, b)), max_steps=5).mask==plain.mask

# every way out

@pytest.mark.parametrize('error', [RuntimeError('power cut'), KeyboardInterrupt(), SystemExit(3), FloatingPointError('x')], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize('recipe', ['default', 'finetune', 'features', 'l0', 'edge-popup', 'bitfit'])
def test_a_failure_leaves_the_model_as_it_was(error, recipe):
    "Dropout, modes, flags, hooks, and all values, so that a second run gives what a first one gives"
    kw = dict(recipe=recipe, mixed_precision='bf16' if recipe=='default' else 'no')
    model = Toy().train()
    model.body[4].eval()
    before = state(model)
    with pytest.raises(type(error)): go(model, loss=crash_at(12, error), **kw)
    same_state(before, state(model))
    fresh = Toy().train()
    fresh.body[4].eval()
    same_run(go(model, **kw), go(fresh, **kw))

class Words(nn.Module):
    "An embedding in the base"
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.base_model,self.head = nn.Sequential(nn.Embedding(30, 8), nn.Flatten(), nn.Linear(40, 16), nn.BatchNorm1d(16)),nn.Linear(16, 3)
    def forward(self, x): return self.head(self.base_model(x))

words = [(torch.randint(0, 30, (16, 5), generator=torch.Generator().manual_seed(i)), Y[:16]) for i in range(6)]
def test_embeddings_and_running_means_are_put_back(tmp_path):
    model = Words()
    before = state(model)
    with pytest.raises(RuntimeError): go(model, words, crash_at(12), out=tmp_path, checkpoint_every=4)
    same_state(before, state(model))
    whole = go(Words(), words)
    again = go(Words(), words, out=tmp_path, resume=True)
    same_run(again, whole)
    assert all(torch.equal(a, b) for a,b in zip(again.model.buffers(), whole.model.buffers())) and not whole.model.base_model[0].sparse

def fail(model): raise RuntimeError('no disk')
bad_metrics = [(lambda m: .87, 'a dict of metrics, name -> number; it returned float 0.87'), (lambda m: None, 'it returned NoneType None'),
    *((lambda m, n=n: {'accuracy': 1., n: 2.}, f"a metric {n!r}, and the history has a column of this name already: give it another, such as 'eval_{n}'") for n in ('loss', 'step', 'sparsity', 'recovered'))]

@pytest.mark.parametrize('evaluate,says', [(fail, 'no disk'), *bad_metrics], ids=['fails', 'float', 'None', 'loss', 'step', 'sparsity', 'recovered'])
def test_a_failing_evaluation(evaluate, says):
    "During the run it is an error, and the model is as it was; at the end a warning, and what was trained is kept"
    model = Toy()
    before = state(model)
    with pytest.raises((RuntimeError, ValueError), match=says): go(model, evaluate=evaluate, eval_every=5)
    same_state(before, state(model))
    with pytest.warns(UserWarning, match=f'The evaluation at the end of the run failed.*{says}.*What was trained is kept'): res = go(evaluate=evaluate)
    plain = go()
    assert says in res.report.pop('evaluate_error') and res.report.pop('metrics')=={}
    same_run(res, plain)

def test_numbers_of_numpy_and_torch_in_a_checkpoint(tmp_path):
    "Metrics and notes of hooks become plain numbers, so that the checkpoint can be read again"
    class Note(Hook):
        def after_step(self, run, loss): run.notes['note'] = np.float32(.5)
    kw = dict(evaluate=lambda m: dict(a=np.float64(.25), b=torch.tensor(.75)), eval_every=5, hooks=[Note()])
    with pytest.raises(RuntimeError, match='power cut'): go(loss=crash_at(12), out=tmp_path, checkpoint_every=10, **kw)
    res = go(out=tmp_path, resume=True, **kw)
    same_run(res, go(**kw))
    assert res.report['metrics']==dict(a=.25, b=.75) and {type(v) for h in res.history for v in h.values()}=={int, float}

# cut off, and on again

@pytest.mark.parametrize('accumulate,step', [(1, 1), (1, 6), (1, 7), (1, 8), (1, 14), (1, 20), (2, 3), (2, 4), (2, 5), (2, 8)])
def test_resume_is_exact(tmp_path, accumulate, step):
    "In the middle of an epoch, at its end and at the last step but one, with dropout and shuffled data"
    kw = dict(accumulate=accumulate, step='adam', out=tmp_path)
    per_epoch = -(-7//accumulate)
    with pytest.raises(RuntimeError, match='power cut'): go(loss=crash_at(7*(step//per_epoch)+accumulate*(step%per_epoch)), checkpoint_every=step, **kw)
    assert torch.load(tmp_path/'checkpoint.pt', weights_only=True)['run']['step']==step
    torch.manual_seed(99)                                                                   # what the caller did in between does not matter
    same_run(go(resume=True, **kw), go(accumulate=accumulate, step='adam'))
    assert not list(tmp_path.iterdir()), 'a finished run leaves no checkpoint'

@pytest.mark.parametrize('kw', [dict(recipe='features'), dict(recipe='finetune'), dict(recovery=False), dict(recipe='l0'), dict(recipe='movement'), dict(recipe='edge-popup'), dict(recipe='bitfit'),
    dict(start='gradient', budget='matrix'), dict(schedule='none', gamma=2e-4, start='normal', max_steps=21), dict(start='activation', dropout=0.),
    dict(start='normal', step='plain'), dict(start='normal', mean=.03, std=.01), dict(eval_every=10, evaluate=lambda m: dict(mean=m(X).mean().item()))],
        ids=lambda kw: next(iter(kw.values())) if isinstance(next(iter(kw.values())), str) else str(sorted(kw)[0]))
@pytest.mark.filterwarnings('ignore:The target sparsity')
def test_resume_of_other_runs(tmp_path, kw):
    seen = 7 if kw.get('start') in ('gradient', 'activation') else 4 if kw.get('recipe')=='l0' else 0       # batches for the start
    with pytest.raises(RuntimeError, match='power cut'): go(loss=crash_at(seen+11), out=tmp_path, checkpoint_every=5, **kw)
    same_run(go(out=tmp_path, resume=True, **kw), go(**kw))

def test_an_unfinished_run_that_would_be_lost_is_named(tmp_path):
    with pytest.raises(KeyboardInterrupt): go(loss=crash_at(4, lambda: signal.raise_signal(signal.SIGINT)), out=tmp_path)
    with pytest.warns(UserWarning, match='holds the checkpoint of an unfinished run, which this one will replace'): go(out=tmp_path)
    assert not (tmp_path/'checkpoint.pt').exists()

def test_an_interruption_after_the_last_step_is_said():
    "In the evaluation at the end: there is nothing to stop, and what was trained is kept"
    old = signal.getsignal(signal.SIGINT)
    def measure(model):
        signal.raise_signal(signal.SIGINT)
        return dict(score=1.)
    with pytest.warns(UserWarning, match='The interruption came after the last step'): res = go(evaluate=measure)
    assert res.report['metrics']=={'score': 1.} and signal.getsignal(signal.SIGINT) is old

def test_several_interruptions(tmp_path):
    for n in (2, 9, 5):
        with pytest.raises(KeyboardInterrupt): go(loss=crash_at(n, lambda: signal.raise_signal(signal.SIGINT)), out=tmp_path,
            resume=(tmp_path/'checkpoint.pt').exists())
    same_run(go(out=tmp_path, resume=True), go())

def test_ctrl_c(tmp_path):
    "The first finishes the step and saves, the second acts at once; the handler goes back"
    old = signal.getsignal(signal.SIGINT)
    once = lambda: signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match='Interrupted at step 5 of 21; continue with resume=True'): go(loss=crash_at(4, once), out=tmp_path)
    assert signal.getsignal(signal.SIGINT) is old and torch.load(tmp_path/'checkpoint.pt', weights_only=True)['run']['step']==5
    with pytest.raises(KeyboardInterrupt, match='nothing was saved, as no `out`'): go(loss=crash_at(4, once))
    with pytest.raises(KeyboardInterrupt, match='^$'): go(loss=crash_at(4, lambda: (once(), once())))
    assert signal.getsignal(signal.SIGINT) is old

def test_another_thread_has_no_signals():
    got = []
    t = threading.Thread(target=lambda: got.append(go(max_steps=3).report['target_met']))
    t.start(); t.join()
    assert got==[True]

@pytest.mark.parametrize('change', [dict(sparsity=.6), dict(seed=1), dict(alpha=1e-3), dict(epochs=4), dict(start='normal'),
    dict(accumulate=2, max_steps=21), dict(mixed_precision='bf16'), dict(data=8), dict(base=1)], ids=str)
def test_resume_of_another_run_is_refused(tmp_path, change):
    with pytest.raises(RuntimeError): go(loss=crash_at(6), out=tmp_path, checkpoint_every=5)
    kept = (tmp_path/'checkpoint.pt').read_bytes()
    model,key = Toy(),next(iter(change))
    if key=='base':
        model.body[0].weight.data[0,0] += 1
        change = {}
    if key=='data': change,key = dict(data=loader(8), max_steps=21),'batches'
    before = state(model)
    with pytest.raises(ValueError, match=f'The checkpoint was made with .*{key}=.*this run has .*{key}=.*use the same values, or another folder'): go(model, out=tmp_path, resume=True, **change)
    assert (tmp_path/'checkpoint.pt').read_bytes()==kept
    same_state(before, state(model))

@pytest.mark.parametrize('damage', [lambda b: b'', lambda b: b[:len(b)//2], lambda b: b'x'*len(b), lambda b: b[:100]+b'\0'*100+b[200:]],
    ids=['empty', 'cut', 'garbage', 'hole'])
def test_corrupt_checkpoint(tmp_path, damage):
    with pytest.raises(RuntimeError): go(loss=crash_at(6), out=tmp_path, checkpoint_every=5)
    f = tmp_path/'checkpoint.pt'
    f.write_bytes(damage(f.read_bytes()))
    with pytest.raises(ValueError, match=r'checkpoint\.pt is not a readable checkpoint \(.*\): delete it to start anew'): go(out=tmp_path, resume=True)

@pytest.mark.parametrize('out', [None, 'empty'])
def test_nothing_to_resume(tmp_path, out):
    model = Toy()
    before = state(model)
    with pytest.raises(ValueError, match='Nothing to resume: no checkpoint in .*Leave out resume'): go(model, out=out and tmp_path/out, resume=True)
    same_state(before, state(model))                                                        # the same model can be tried again

def test_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    with pytest.raises(RuntimeError): go(loss=crash_at(6), out=tmp_path, checkpoint_every=5)
    kept,save = (tmp_path/'checkpoint.pt').read_bytes(),torch.save
    def full(state, f): f.write(b'half a file'); raise OSError(28, 'No space left on device')
    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(OSError, match='No space left'): go(out=tmp_path, resume=True, checkpoint_every=5)
    monkeypatch.setattr(torch, 'save', save)
    assert (tmp_path/'checkpoint.pt').read_bytes()==kept
    same_run(go(out=tmp_path, resume=True), go())

def test_a_folder_that_cannot_be_written_is_refused_before_the_first_batch(tmp_path):
    (tmp_path/'file').write_text('x')
    def loss(m, b): pytest.fail('a batch was read')
    with pytest.raises(OSError, match="cannot be written to .*name another out"): go(loss=loss, out=tmp_path/'file')

def test_a_run_saved_at_its_last_step_can_be_closed(tmp_path):
    class Bad(Hook):
        def end(self, run): raise RuntimeError('no disk')
    with pytest.raises(RuntimeError, match='no disk'): go(max_steps=8, out=tmp_path, checkpoint_every=8, hooks=[Bad()])
    same_run(go(max_steps=8, out=tmp_path, resume=True), go(max_steps=8))

@pytest.mark.slow
@pytest.mark.parametrize('how', ['SIGINT', 'SIGKILL'])
def test_a_signal_from_outside(tmp_path, how):
    "Ctrl-C saves a whole checkpoint; a kill at any moment leaves one. Both go on to where an uninterrupted run ends"
    out = tmp_path/'out'
    p = child(tmp_path, f'''
        import time
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
        torch.save((dict(res.mask), res.report['steps']), f"{tmp_path}/{{os.environ['RANK']}}.pt")
        torch.distributed.destroy_process_group()''', '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2')
    err = p.communicate(timeout=180)[1]
    assert p.returncode==0, err[-3000:]
    (a,steps),(b,_) = (torch.load(tmp_path/f'{i}.pt', weights_only=True) for i in (0, 1))
    one = go(Toy(0.), even(16), max_steps=20).mask
    assert steps==20 and all(torch.equal(a[n], b[n]) for n in a)
    assert one.jaccard(Mask(a))>.99 and Mask(a).kept==one.kept

def test_a_secret_mask_is_approached():
    from adaptprune.layer import apply_mask
    from adaptprune.prune import random_mask
    def net(): torch.manual_seed(1); return nn.Sequential(nn.Linear(30, 100), nn.Tanh(), nn.Linear(100, 5))
    x = torch.randn(2048, 30, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(): y = apply_mask(net(), random_mask(net(), .6, seed=2))(x).argmax(1)
    def right(model): return dict(accuracy=(model(x).argmax(1)==y).float().mean().item())
    for recipe in ('movement', 'edge-popup'):
        res = adapt(net(), DataLoader(list(zip(x, y)), 64, shuffle=True), ce, .6, recipe, evaluate=torch.no_grad()(right), max_steps=100, progress=False)
        assert res.report['metrics']['accuracy']>right(net())['accuracy']+.25
