"The engine with what people train with, and what it does when something goes wrong."
import copy,gc,io,math,pickle,warnings,weakref
import pytest,torch,transformers
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.utils._python_dispatch import TorchDispatchMode
from adaptprune.anatomy import maskable
from adaptprune.layer import apply_mask,fingerprint,masked_layer
from adaptprune.mask import Mask,n_pruned
from adaptprune.optim import MaskOptimizer
from toy import plain_modules
from toy_tokens import Net,X,Y

def net(dtype=torch.float32):
    torch.manual_seed(0)
    return Net().to(dtype)
def optimizer(m, sparsity=.5, steps=20, **kwargs):
    return MaskOptimizer(m.base, m.head, sparsity, steps, **{**dict(start='rank', every=2), **kwargs})
def loss_of(m, i=0, n=8): return (m(X[i*n:(i+1)*n])-Y[i*n:(i+1)*n].to(m.head.weight.dtype)).square().mean()
def train(m, opt, steps=None, loss=loss_of, first=0):
    for i in range(first, first+(opt.steps if steps is None else steps)):
        opt.zero_grad()
        loss(m, i%3).backward()
        opt.step()
    return opt
def fit(m, x, steps=6, loss=None, **kwargs):
    "A short run on a module by itself"
    opt = MaskOptimizer(m, sparsity=.5, steps=steps, **{**dict(start='rank', every=2), **kwargs})
    for _ in range(steps):
        opt.zero_grad()
        (loss or _loss)(m, x).backward()
        opt.step()
    return opt
def _loss(m, x):
    y = m(x)
    return (y[0] if isinstance(y, tuple) else y).float().square().mean()
def state(m): return {n: p.detach().clone() for n,p in m.named_parameters()}
def equal(a, b): return a.keys()==b.keys() and all(torch.equal(a[n], b[n]) for n in a)
def flat(ts): return torch.cat([t.detach().reshape(-1) for t in ts])
def holds(opt, base):
    "The model is the base with its pruned weights at zero, exactly at the target"
    mask = opt.mask()
    assert opt.done and opt.target_met() and mask.numel-mask.kept==sum(n_pruned(g.n, opt.target) for g in opt.weights.groups)
    for n,k in mask.items():
        w = maskable(opt.weights.base)[n].detach()
        assert torch.equal(w[k], base[n][k]) and not w[~k].any() and not w[~k].signbit().any()
    return mask
def base_of(m): return {n: p.detach().clone() for n,p in maskable(m).items()}

# a plain loop

def test_the_readme_loop():
    m = net()
    base = base_of(m.base)
    biases,head = (p.detach().clone() for p in (m.base['up'].bias, m.head.weight))
    opt = MaskOptimizer(m.base, head=m.head.parameters(), sparsity=.5, steps=20, start='rank')
    for i in range(20):
        loss_of(m, i%3).backward()
        opt.step()
        opt.zero_grad()
    holds(opt, base)
    assert torch.equal(m.base['up'].bias, biases) and not torch.equal(m.head.weight, head)
    opt.restore()
    assert equal(base_of(m.base), base)

def test_it_learns_what_helps():
    "A network of which half of the weights do harm"
    torch.manual_seed(0)
    x,helps = torch.randn(2000, 20),torch.arange(20)%2==1
    y = x[:,helps].sum(1)
    m = nn.Linear(20, 1, bias=False)
    with torch.no_grad(): m.weight.fill_(1.)
    opt = MaskOptimizer(m, sparsity=.5, steps=100, start='uniform', step='plain', reach=20.)
    for i in range(100):
        opt.zero_grad()
        (m(x)[:,0]-y).square().mean().backward()
        opt.step()
    assert torch.equal(opt.mask()['weight'][0], helps)

@pytest.mark.parametrize('t_l,t_s', [(math.inf, 1.), (1e3, .1), (10., 10.), (math.inf, 0.)])
@pytest.mark.parametrize('step', ['plain', 'sign', 'adam'])
def test_equal_to_the_definition(step, t_l, t_s):
    "Over threshold updates: theta, weights and head as by autograd through `masked_layer`"
    kw = dict(step=step, t_l=t_l, t_s=t_s, alpha=1e-3, beta=1e-2, head_step='plain', warmup=0., decay='none', every=3)
    m,n = net(),net()
    opt = optimizer(m, steps=9, **kw)
    layers = [n.base[k] for k in ('emb', 'up', 'down')]
    masked = [masked_layer(l, p.shaped(p.theta).clone(), tau=p.group.tau, t_l=t_l, t_s=t_s) for l,p in zip(layers, opt.weights)]
    for l in layers[1:]: l.bias.requires_grad_(False)
    params = [w.theta for w in masked]
    theirs = torch.optim.Adam(params, lr=1e-3) if step=='adam' else torch.optim.SGD(params, lr=1e-3)
    head = torch.optim.SGD(n.head.parameters(), lr=1e-2)
    for i in range(8):
        train(m, opt, 1, first=i)
        n.zero_grad()
        loss_of(n, i%3).backward()
        if step=='sign':
            for t in params: t.grad.sign_()
        theirs.step()
        head.step()
        for w,p in zip(masked, opt.weights):
            torch.testing.assert_close(p.shaped(p.theta), w.theta.detach(), rtol=1e-4, atol=2e-6)
            with torch.no_grad(): w.theta.copy_(p.shaped(p.theta))          # a sign near zero and ties at the threshold would add up
            w.tau.fill_(p.group.tau)
        for l,p in zip(layers, opt.weights): torch.testing.assert_close(l.weight.detach(), p.param.detach(), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(n.head.weight, m.head.weight, rtol=1e-4, atol=1e-6)

# what loops do with gradients

def test_gradient_accumulation():
    "Two half batches step as one whole batch"
    m,n = net(),net()
    a,b = optimizer(m, alpha=1e-3, step='plain'),optimizer(n, alpha=1e-3, step='plain')
    for i in range(4):
        for half in (slice(0, 4), slice(4, 8)): ((m(X[half])-Y[half]).square().mean()/2).backward()
        a.step()
        a.zero_grad()
        train(n, b, 1)
    torch.testing.assert_close(flat(p.theta for p in a.weights), flat(p.theta for p in b.weights), rtol=1e-5, atol=1e-8)
    assert a.i==4

def test_clipping():
    "The gradients that theta's step sees are the clipped ones"
    m = net()
    opt = optimizer(m, alpha=1., step='plain', t_s=0., warmup=0., decay='none')
    before = flat(p.theta for p in opt.weights)
    loss_of(m).backward()
    norm = nn.utils.clip_grad_norm_(m.parameters(), 1e-4)
    assert norm>1e-4
    want = flat((p.param.grad*p.shaped(p.w0)) for p in opt.weights)
    opt.step()
    torch.testing.assert_close(before-flat(p.theta for p in opt.weights), want, rtol=1e-2, atol=1e-8)

def test_grad_scaler_and_autocast():
    m,n = net(),net()
    base = base_of(m.base)
    a,b = optimizer(m, alpha=1e-3),optimizer(n, alpha=1e-3)
    scaler = torch.amp.GradScaler('cpu', init_scale=2.**8)
    for i in range(20):
        a.zero_grad()
        with torch.autocast('cpu', torch.bfloat16): loss = loss_of(m, i%3)
        scaler.scale(loss).backward()
        scaler.unscale_(a)
        nn.utils.clip_grad_norm_(m.parameters(), 1.)
        scaler.step(a)
        scaler.update()
    train(n, b)
    assert holds(a, base).jaccard(b.mask())>.8

def test_a_scheduler_replaces_the_built_in_factor():
    m,n = net(),net()
    a,b = optimizer(m, alpha=1e-3),optimizer(n, alpha=1e-3, warmup=0., decay='none')
    sched = LambdaLR(a, lambda i: 1.)
    for i in range(20):
        train(m, a, 1, first=i)
        sched.step()
    train(n, b)
    assert a.mask()==b.mask() and equal(state(m), state(n))

def test_closures():
    m = net()
    opt = optimizer(m)
    def closure():
        opt.zero_grad()
        loss = loss_of(m)
        loss.backward()
        return loss
    assert opt.step(closure).requires_grad and opt.i==1

# models in wrappers

@pytest.mark.parametrize('wrap', [lambda m: torch.compile(m, backend='aot_eager'), nn.DataParallel], ids=['compiled', 'parallel'])
def test_wrapped_models(wrap):
    m,n = net(),net()
    base = base_of(m.base)
    w = wrap(m)
    opt = MaskOptimizer(wrap(m.base), m.head, .5, 8, start='rank', every=2)
    for i in range(8):
        opt.zero_grad()
        (w(X[:8])-Y[:8]).square().mean().backward()
        opt.step()
    other = optimizer(n, steps=8)
    for i in range(8): train(n, other, 1)
    assert list(holds(opt, base))==list(base) and opt.mask().jaccard(other.mask())>.95
    torch.testing.assert_close(w(X), m(X))

@pytest.mark.slow
def test_a_compiled_module_inside_the_base():
    m = net()
    m.base['up'] = torch.compile(m.base['up'], backend='aot_eager')
    opt = optimizer(m, steps=4)
    assert list(train(m, opt).mask())==['emb.weight', 'up.weight', 'down.weight']

def test_gradient_checkpointing(tiny, tokens):
    masks = []
    for on in (False, True):
        m = tiny('Bert', hidden_dropout_prob=0., attention_probs_dropout_prob=0.).train()
        if on: m.gradient_checkpointing_enable(dict(use_reentrant=False))
        masks.append(fit(m, tokens, loss=lambda m, x: m(**x)[0].square().mean()).mask())
    assert masks[0]==masks[1]

# every kind of module

kinds = {**plain_modules,
    'channels last': (lambda: nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last), (2, 4, 5, 5)),
    'LSTM': (lambda: nn.LSTM(4, 3, 2), (5, 2, 4)), 'GRU': (lambda: nn.GRU(4, 3, bidirectional=True), (5, 2, 4)),
    'RNN': (lambda: nn.RNN(4, 3), (5, 2, 4)), 'projected LSTM': (lambda: nn.LSTM(4, 3, proj_size=2), (5, 2, 4)),
    'encoder layer': (lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0., batch_first=True), (2, 3, 4)),
    'bilinear': (lambda: nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2)), (2, 4)),
    'weight norm': (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), (2, 4)),
    'transposed': (lambda: _transposed(), (2, 4)), 'scalar rows': (lambda: nn.Linear(4, 1, bias=False), (2, 4))}

def _transposed():
    m = nn.Linear(4, 3)
    m.weight = nn.Parameter(torch.randn(4, 3).T)
    return m

@pytest.mark.parametrize('kind', kinds)
def test_modules(kind):
    "The mask is exact, kept weights are the base's, and what the module computes is what the masked plain module computes"
    make,shape = kinds[kind]
    torch.manual_seed(0)
    m = make()
    x,plain,base = torch.randn(shape),copy.deepcopy(m),base_of(m)
    strides = {n: p.stride() for n,p in maskable(m).items()}
    opt = fit(m, x)
    mask = holds(opt, base)
    assert list(mask)==list(base) and {n: p.stride() for n,p in maskable(m).items()}==strides
    first = lambda y: y[0] if isinstance(y, tuple) else y
    with torch.no_grad(): torch.testing.assert_close(first(m.eval()(x)), first(apply_mask(plain, mask).eval()(x)), rtol=0, atol=0)
    opt.restore()
    assert equal(base_of(m), base)

def test_fused_projections():
    torch.manual_seed(0)
    m = nn.MultiheadAttention(8, 2, batch_first=True)
    x,base = torch.randn(3, 5, 8),base_of(m)
    opt = fit(m, x, loss=lambda m, x: m(x, x, x)[0].square().mean())
    assert list(holds(opt, base))==['in_proj_weight', 'out_proj.weight']

def test_the_fast_path_of_an_encoder_layer():
    torch.manual_seed(0)
    m = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0., batch_first=True), 2, enable_nested_tensor=False)
    x = torch.randn(3, 5, 8)
    opt = fit(m, x)
    m.eval()
    slow = m(x)
    with torch.no_grad(): fast = m(x)
    opt.close()
    for p in m.parameters(): p.requires_grad_(False)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(m(x), slow, rtol=1e-4, atol=1e-5)

def test_tied_weights_have_the_sum_of_their_gradients():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb,self.out = nn.Embedding(10, 4),nn.Linear(4, 10, bias=False)
            self.out.weight = self.emb.weight
        def forward(self, x): return self.out(self.emb(x))
    torch.manual_seed(0)
    m,x = Tied(),torch.arange(6)
    w = m.emb.weight.detach().clone().requires_grad_()
    F.linear(F.embedding(x, w), w).square().mean().backward()
    opt = MaskOptimizer(m, sparsity=.5, steps=4, start='rank', step='plain', t_s=0., alpha=1e-2, warmup=0., decay='none', schedule='cubic')
    before = next(iter(opt.weights)).theta.clone()
    m(x).square().mean().backward()
    opt.step()
    torch.testing.assert_close(before-next(iter(opt.weights)).theta, 1e-2*(w.grad*w.detach()).view(-1), rtol=1e-4, atol=1e-8)
    assert list(opt.weights.places)==['emb.weight'] and m.emb.weight is m.out.weight

@pytest.mark.parametrize('family,kind', [('Bert', 'Model'), ('Bert', 'ForMaskedLM'), ('GPT2', 'LMHeadModel'),
    ('T5', 'ForConditionalGeneration')])
def test_language_models(tiny, tokens, family, kind):
    if family=='T5':
        torch.manual_seed(0)
        config = transformers.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
        m,x = transformers.T5ForConditionalGeneration(config),dict(tokens, labels=tokens['input_ids'])
        loss = lambda m, x: m(**x).loss
    else:
        m,x = tiny(family, kind),tokens
        loss = lambda m, x: m(**x)[0].square().mean()
    base = base_of(m)
    opt = fit(m, x, loss=loss)
    holds(opt, base)
    opt.close()
    assert all(p.requires_grad for p in m.parameters())

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
def test_models_in_other_precisions(dtype):
    m = net(dtype)
    base = base_of(m.base)
    opt = train(m, optimizer(m))
    holds(opt, base)
    assert all(p.dtype==dtype for p in m.parameters())
    opt.restore()
    assert equal(base_of(m.base), base)

def test_mixed_precisions():
    m = net()
    m.base['up'].bfloat16()
    m.forward = lambda x: m.head(m.base['emb'](x).mean(1)+m.base['down'](m.base['up'](m.base['emb'](x).mean(1).bfloat16()).float()))[:,0]
    base = base_of(m.base)
    holds(train(m, optimizer(m)), base)

# embeddings with sparse gradients

def test_sparse_gradients_give_the_same_mask():
    m,n = net(),net()
    a,b = optimizer(m, sparse_grad=True),optimizer(n)
    assert m.base['emb'].sparse
    train(m, a)
    train(n, b)
    assert a.mask()==b.mask() and equal(state(m), state(n))
    a.close()
    assert not m.base['emb'].sparse

def test_sparse_gradients_where_they_cannot_be():
    "A tied table, an embedding with a norm, a subclass with its own forward: dense by themselves"
    class Scaled(nn.Embedding):
        def forward(self, x): return super().forward(x)*2
    m = nn.ModuleDict(dict(tied=nn.Embedding(6, 4), out=nn.Linear(4, 6, bias=False), norm=nn.Embedding(6, 4, max_norm=9.)))
    m['own'] = Scaled(6, 4)
    m['out'].weight = m['tied'].weight
    x = torch.tensor([1, 2, 1])
    opt = fit(m, x, loss=lambda m, x: m['out'](m['tied'](x)+m['norm'](x)+m['own'](x)).square().mean(), sparse_grad=True)
    assert m['tied'].sparse and not m['norm'].sparse and not m['own'].sparse and opt.target_met()
    opt.close()
    assert not m['tied'].sparse

# inside the backward pass

@pytest.mark.parametrize('kw', [dict(), dict(step='plain', alpha=1e-2), dict(step='adam'), dict(sparse_grad=True), dict(t_l=1e3)], ids=str)
def test_inside_the_backward_pass(kw):
    m,n = net(),net()
    a,b = optimizer(m, in_backward=True, **kw),optimizer(n, **kw)
    for i in range(20):
        loss_of(m, i%3).backward()
        assert all(p.param.grad is None for p in a.weights)
        a.step()
        a.zero_grad()
        train(n, b, 1, first=i)
        assert torch.equal(flat(p.theta for p in a.weights), flat(p.theta for p in b.weights))
    assert a.mask()==b.mask() and equal(state(m), state(n))
    with pytest.raises(RuntimeError, match='run of 20 steps is over'): loss_of(m).backward()
    a.close()
    loss_of(m).backward()
    assert m.base['up'].weight.grad is not None

def test_inside_the_backward_pass_a_step_needs_a_backward():
    m = net()
    opt = optimizer(m, in_backward=True)
    with pytest.raises(RuntimeError, match='No masked weight has a gradient'): opt.step()
    loss_of(m).backward()
    opt.step()
    with pytest.raises(RuntimeError, match='No masked weight has a gradient'): opt.step()

# launches

class Count(TorchDispatchMode):
    "Counts the operations that reach the dispatcher"
    def __enter__(self):
        self.n,self.names = 0,[]
        return super().__enter__()
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if not str(func).startswith(('aten.detach', 'aten.as_strided', 'aten.alias')):
            self.n += 1
            self.names.append(str(func))
        return func(*args, **kwargs or {})

@pytest.mark.parametrize('kw', [dict(), dict(step='plain'), dict(step='adam'), dict(t_l=1e3)], ids=str)
def test_operations_do_not_grow_with_the_matrices(kw):
    counts = []
    for depth in (2, 40):
        m = nn.Sequential(*[nn.Linear(4, 4) for _ in range(depth)])
        opt = MaskOptimizer(m, sparsity=.5, steps=10, start='rank', every=100, **kw)
        m(torch.randn(3, 4)).square().mean().backward()
        places = list(opt.weights)
        for p in places: p.moments(opt.rule)
        with torch.no_grad(), Count() as count: opt.learn_many(places, 1e-3, 1)
        counts.append(count.n)
    assert counts[0]==counts[1] and counts[0]<30, count.names

@pytest.mark.parametrize('kw', [dict(), dict(step='plain', alpha=1e-2), dict(step='adam'), dict(t_l=1e3, t_s=.5),
    dict(step='plain', t_s=0.)], ids=str)
def test_many_at_once_as_one_by_one(kw):
    "The lists of tensors that a GPU gets, on a processor"
    m,n = net(),net()
    a,b = optimizer(m, **kw),optimizer(n, **kw)
    for i in range(20):
        a.zero_grad()
        loss_of(m, i%3).backward()
        a._learn = lambda: a.learn_many([p for p in a.weights if p.param.grad is not None], a.lr('theta'), a.i+1)
        a.step()
        train(n, b, 1, first=i)
    torch.testing.assert_close(flat(p.theta for p in a.weights), flat(p.theta for p in b.weights), rtol=1e-5, atol=1e-8)
    assert a.mask()==b.mask()

# files and copies

def test_a_model_in_training_is_an_ordinary_pruned_model(tiny, tokens, tmp_path):
    m = tiny('Bert')
    names = list(m.state_dict())
    opt = MaskOptimizer(m, sparsity=.5, steps=20, start='rank', every=2)
    for _ in range(11):
        opt.zero_grad()
        m(**tokens)[0].square().mean().backward()
        opt.step()
    assert list(m.state_dict())==names and 0<opt.sparsity()<.5
    m.save_pretrained(tmp_path)
    again = transformers.AutoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**tokens)[0], m(**tokens)[0]) and fingerprint(again)==fingerprint(m)
    with pytest.warns(UserWarning, match=r'the target is 0\.5: the optimiser is at step 11 of 20'): mask = opt.mask()
    assert fingerprint(apply_mask(tiny('Bert'), mask))==fingerprint(m)

@pytest.mark.parametrize('again', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), lambda m: _through_torch(m)],
    ids=['deepcopy', 'pickle', 'torch.save'])
@pytest.mark.parametrize('in_backward', [False, True])
def test_copies_are_plain_and_independent(again, in_backward):
    m = net()
    opt = optimizer(m, in_backward=in_backward)
    train(m, opt, 7)
    twin = again(m)
    assert equal(state(twin), state(m)) and torch.equal(twin(X), m(X))
    before = state(twin)
    train(m, opt, 13, first=7)
    assert equal(state(twin), before) and opt.target_met()
    other = optimizer(twin, steps=4)                                                        # a copy has no owner
    assert train(twin, other).target_met()

def _through_torch(m):
    f = io.BytesIO()
    torch.save(m, f)
    f.seek(0)
    return torch.load(f, weights_only=False)

def test_an_optimiser_is_not_copied():
    opt = optimizer(net())
    for f in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match='cannot be copied or pickled: use state_dict'): f(opt)

@pytest.mark.parametrize('kw', [dict(), dict(step='adam'), dict(recovery=False), dict(budget='matrix', t_l=1e3), dict(sparse_grad=True),
    dict(schedule='none', gamma=2e-3, start='normal')], ids=str)
def test_a_stop_at_any_step(kw):
    "A new process loads the base, makes the optimiser, puts the head's and the optimiser's state on it, and ends at the same mask"
    m = net()
    opt,states = optimizer(m, steps=10, every=3, **{k: v for k,v in kw.items() if k!='every'}),[]
    for i in range(11):
        f = io.BytesIO()
        torch.save(dict(opt=opt.state_dict(), model=m.state_dict()), f)
        states.append(f)
        if i<10 and not opt.done: train(m, opt, 1, first=i)
    for i,f in enumerate(states):
        f.seek(0)
        saved = torch.load(f, weights_only=True)
        n = net()
        again = optimizer(n, steps=10, every=3, **kw)
        n.load_state_dict(saved['model'])
        again.load_state_dict(saved['opt'])
        assert again.i==min(i, opt.i) and equal(state(n), saved['model'])
        while not again.done: train(n, again, 1, first=again.i)
        assert again.mask()==opt.mask() and equal(state(n), state(m)) and again.recovered()==opt.recovered()

def test_accelerate():
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState,GradientState
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    m,n = net(),net()
    base = base_of(m.base)
    opt = optimizer(m)
    data = [(x, y) for x,y in zip(X, Y)]
    acc = Accelerator(cpu=True)
    model,wrapped,loader = acc.prepare(m, opt, torch.utils.data.DataLoader(data, batch_size=8))
    while not opt.done:
        for x,y in loader:
            if opt.done: break
            with acc.accumulate(model):
                acc.backward((model(x)-y).square().mean())
                acc.clip_grad_norm_(model.parameters(), 1e9)
                wrapped.step()
                wrapped.zero_grad()
    other = train(n, optimizer(n))
    assert holds(opt, base)==other.mask()

def test_a_trainer_by_its_optimizers_argument(tiny, tmp_path):
    m = tiny('Bert', 'ForSequenceClassification')
    base = base_of(m.bert)
    opt = MaskOptimizer(m.bert, m.classifier, .5, 8, start='rank', every=2)
    data = [dict(input_ids=torch.randint(2, 50, (7,)), labels=i%2) for i in range(16)]
    args = transformers.TrainingArguments(str(tmp_path), max_steps=8, per_device_train_batch_size=4, report_to=[], use_cpu=True,
        disable_tqdm=True, save_strategy='no', max_grad_norm=1., lr_scheduler_type='linear', warmup_steps=2, logging_strategy='no')
    transformers.Trainer(m, args, train_dataset=data, optimizers=(opt, None)).train()
    holds(opt, base)
    assert opt.i==8 and [g['initial_lr'] for g in opt.param_groups]==[opt.alpha, 1e-3]

# exactness

@pytest.mark.parametrize('budget', ['global', 'layer', 'matrix', lambda name: name=='up.weight'],
    ids=['global', 'layer', 'matrix', 'function'])
@pytest.mark.parametrize('target', [0., .1, .5, .999])
@pytest.mark.parametrize('schedule', ['cubic', 'constant'])
def test_every_target_to_the_weight(target, budget, schedule):
    m = net()
    base = base_of(m.base)
    opt = optimizer(m, target, 6, budget=budget, schedule=schedule)
    if schedule=='constant': assert opt.target_met() and opt.mask().sparsity==opt.sparsity()
    holds(train(m, opt), base)

@pytest.mark.parametrize('every', [1, 7, 100])
@pytest.mark.parametrize('recovery', [True, False])
def test_threshold_updates(every, recovery):
    m = net()
    base = base_of(m.base)
    opt = optimizer(m, .5, 10, every=every, recovery=recovery, schedule='constant')
    seen = opt.mask()
    for i in range(10):
        train(m, opt, 1, first=i)
        if not recovery:
            now = opt.mask() if opt.target_met() else Mask({n: p.param!=0 for n,p in opt.weights.places.items()})
            assert (now-seen).kept==0
            seen = now
    holds(opt, base)

def test_weights_that_are_zero_in_the_base():
    m = net()
    with torch.no_grad(): m.base['up'].weight[:6].zero_()
    base = base_of(m.base)
    opt = train(m, optimizer(m))
    mask = opt.mask()
    assert mask.sparsity==.5 and opt.target_met() and mask==Mask({p.name: p.shaped(p.theta>p.group.tau) for p in opt.weights})
    opt.restore()
    assert equal(base_of(m.base), base)

# faults: arguments

def flags(m): return [(n, p.requires_grad) for n,p in m.named_parameters()]+[x.sparse for x in m.modules() if isinstance(x, nn.Embedding)]

@pytest.mark.parametrize('steps', [0, -1, True, 1.5, None, '10'])
def test_bad_steps(steps):
    with pytest.raises(ValueError, match=f'number of optimiser steps of the run, 1 or more, got {steps!r}'): optimizer(net(), steps=steps)

@pytest.mark.parametrize('sparsity', [1., -.1, 50, math.nan, True, None])
def test_bad_sparsities(sparsity):
    with pytest.raises(ValueError, match='sparsity must be a number in'): optimizer(net(), sparsity)

def _scores(m): return {n: torch.rand(p.shape) for n,p in maskable(m.base).items()}
def _with(scores, **changes): return {**scores, **changes}

faults = {
    'a pattern of nothing': (lambda m: optimizer(m, weights='decoder*'), "No weight matrix matches 'decoder"),
    'parameters for a base': (lambda m: MaskOptimizer(m.parameters(), steps=5, start='rank'), 'base must be a module.* got generator'),
    'no base': (lambda m: MaskOptimizer(None, steps=5, start='rank'), 'base must be a module.* got NoneType'),
    'no matrix': (lambda m: MaskOptimizer(nn.LayerNorm(3), steps=5, start='rank'), 'no floating-point weight matrix'),
    'a base that is all head': (lambda m: MaskOptimizer(m.head, m.head, steps=5, start='rank'), 'are parameters of the head'),
    'names for a head': (lambda m: MaskOptimizer(m.base, ['head'], steps=5), 'head takes a module or parameters, and holds str'),
    'modules for a head': (lambda m: MaskOptimizer(m.base, [m.head], steps=5), 'and holds Linear'),
    'a computed head': (lambda m: MaskOptimizer(m.base, [m.head.weight*2], steps=5), 'and holds a tensor that is no leaf'),
    'scores that lack a weight': (lambda m: optimizer(m, scores={'emb.weight': torch.rand(12, 6)}), "scores lack the weight 'up.weight'"),
    'scores of another shape': (lambda m: optimizer(m, scores=_with(_scores(m), **{'up.weight': torch.ones(6, 12)})),
        r'shape \(12, 6\) have shape \(6, 12\)'),
    'scores with NaN': (lambda m: optimizer(m, scores=_with(_scores(m), **{'up.weight': torch.full((12, 6), math.nan)})),
        'scores hold NaN'),
    'an unknown budget': (lambda m: optimizer(m, budget='row'), "Unknown budget 'row'"),
    'a budget that fails': (lambda m: optimizer(m, budget=lambda name: name.missing), "no attribute 'missing'"),
    'gamma missing': (lambda m: optimizer(m, schedule='none'), 'gamma is what prunes')}

@pytest.mark.parametrize('fault', faults)
def test_a_refused_optimiser_changes_nothing(fault):
    "No flag, no weight, and no owner left behind"
    m = net()
    m.base['up'].bias.requires_grad_(False)
    was,before = flags(m),state(m)
    make,error = faults[fault]
    with pytest.raises((ValueError, AttributeError), match=error) as found: make(m)
    assert flags(m)==was and equal(state(m), before)
    assert train(m, optimizer(m), 3).i==3 and found

def test_weights_that_cannot_be_masked():
    def with_weight(value):
        m = net()
        m.base['up'].weight = value
        return m
    for bad in (math.nan, math.inf):
        m = net()
        m.base['up'].weight.data[3, 2] = bad
        was = flags(m)
        with pytest.raises(ValueError, match=r"'up\.weight' holds values that are not finite: mend it, or leave it out"): optimizer(m)
        assert flags(m)==was
        optimizer(m, weights=['*', '!up.weight'])
    with pytest.raises(ValueError, match=r"'up\.weight' is on the meta device and holds no values: load the model first"):
        optimizer(with_weight(nn.Parameter(torch.empty(12, 6, device='meta'))))
    with pytest.raises(ValueError, match=r"'up\.weight' shares or skips memory \(shape \(12, 6\), strides \(0, 1\)\)"):
        optimizer(with_weight(nn.Parameter(torch.randn(6).expand(12, 6))))
    with pytest.raises(ValueError, match=r"'up\.weight' shares or skips memory"):
        optimizer(with_weight(nn.Parameter(torch.randn(12, 12)[:,::2])))
    with torch.inference_mode(): frozen = net()
    with pytest.raises(ValueError, match=r"'emb\.weight' was made in inference mode"): optimizer(frozen)
    with pytest.raises(ValueError, match='float8_e4m3fn: masks need float32'):
        optimizer(with_weight(nn.Parameter(torch.randn(12, 6).to(torch.float8_e4m3fn), requires_grad=False)))

def test_a_weight_that_is_computed():
    "Only leaves of the graph can be masked"
    m = nn.Module()
    leaf = torch.randn(3, 3, requires_grad=True)
    m.weight = nn.Parameter(torch.zeros(3, 3))
    m._parameters['weight'] = leaf*2
    with pytest.raises(ValueError, match=r"'weight' is no leaf of the graph: mask the parameter that it is computed from"):
        MaskOptimizer(m, sparsity=.5, steps=5, start='rank')

def test_a_head_inside_the_base():
    m = net()
    before = m.head.weight.detach().clone()
    opt = MaskOptimizer(m, m.head, .5, 6, start='rank')
    assert list(opt.weights.places)==['base.emb.weight', 'base.up.weight', 'base.down.weight']
    train(m, opt)
    assert not torch.equal(m.head.weight, before) and m.head.weight.all() and len(opt.mask())==3

def test_what_learns_is_given_at_the_start():
    m = net()
    opt = optimizer(m)
    with pytest.raises(ValueError, match='takes no further parameters: give what learns beside the base as head='):
        opt.add_param_group(dict(params=[nn.Parameter(torch.zeros(2))]))
    assert len(opt.param_groups)==2

# faults: owners and ends

def test_one_owner_a_weight():
    m = net()
    opt = optimizer(m, steps=4)
    was = flags(m)
    for part in (m.base, m.base['up'], m):
        with pytest.raises(ValueError, match=r"up\.weight' has a mask optimiser already|'weight' has a mask optimiser already"):
            MaskOptimizer(part, sparsity=.5, steps=5, start='rank', weights='*up*' if part is not m.base['up'] else 'all')
    assert flags(m)==was
    train(m, opt)
    opt.close()
    optimizer(m)

def test_one_owner_a_head():
    "A head that two optimisers hold would move twice a step"
    m,other = net(),net()
    opt = optimizer(m, steps=4)
    was = flags(other)
    with pytest.raises(ValueError, match=r'A parameter of the head \(shape .*\) has a mask optimiser already'):
        MaskOptimizer(other.base, m.head, .5, 4, start='rank')
    assert flags(other)==was
    opt.close()
    MaskOptimizer(other.base, m.head, .5, 4, start='rank')

class Tied(nn.Module):
    "An output that shares the embedding's matrix"
    def __init__(self):
        super().__init__()
        self.base = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4))
        self.out = nn.Linear(4, 7)
        self.out.weight = self.base[0].weight

@pytest.mark.parametrize('given', ['module', 'inside', 'parameters', 'generator'])
def test_a_head_that_shares_a_weight_with_the_base_is_named(given):
    m = Tied()
    base = m.base if given=='module' else m
    head = dict(parameters=list(m.out.parameters()), generator=m.out.parameters()).get(given, m.out)
    with pytest.warns(UserWarning, match=r"The weight '(base\.)?0.weight' of the base is a parameter of the head too"):
        MaskOptimizer(base, head, .5, 4, start='rank')

def test_a_head_inside_the_base_is_not_tied():
    m = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for head in (m[1], list(m[1].parameters()), m[1].weight):
            opt = MaskOptimizer(m, head, .5, 4, start='rank')
            assert list(opt.weights.places)==['0.weight']
            opt.close()

def test_a_forgotten_head_is_named():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder,self.classifier = nn.Linear(4, 4),nn.Linear(4, 2)
    m = Model()
    with pytest.warns(UserWarning, match=r'The base \(Model\) holds weights that look untrained: classifier.weight, classifier.bias'):
        opt = MaskOptimizer(m, sparsity=.5, steps=4, start='rank')
    opt.close()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for base,head in ((m, m.classifier), (m.encoder, m.classifier)): MaskOptimizer(base, head, .5, 4, start='rank').close()

@pytest.mark.parametrize('step', [1, 4])
def test_a_head_that_is_not_finite_ends_the_run(step):
    "At the last step as well: its gradient alone is NaN, and every theta is finite"
    m = net()
    opt = optimizer(m, steps=4, every=1)
    train(m, opt, step-1)
    opt.zero_grad()
    loss_of(m).backward()
    next(m.head.parameters()).grad.fill_(math.nan)
    with pytest.raises(FloatingPointError, match=f'The head holds NaN or infinity at step {step}'): opt.step()
    assert not opt.done

def test_a_head_that_is_cast_is_refused():
    m = net()
    opt = optimizer(m, steps=4)
    train(m, opt, 1)
    loss_of(m).backward()
    m.head.to(torch.bfloat16)
    with pytest.raises(RuntimeError, match=r'parameter of the head .* was torch.float32 .* is torch.bfloat16 now'): opt.step()

def test_a_frozen_head_is_no_idle_one():
    m = net()
    opt = optimizer(m, steps=6, every=2)
    m.head.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        train(m, opt, 6)

def test_an_idle_head_is_said_once():
    m = net()
    m.spare = nn.Linear(3, 3)
    opt = MaskOptimizer(m.base, m.spare, .5, 8, start='rank', every=2)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        train(m, opt, 8)
    assert sum('No parameter of the head' in str(w.message) for w in seen)==1

def test_a_state_of_another_head_is_refused():
    m = net()
    opt = optimizer(m, steps=6)
    train(m, opt, 2)
    saved = copy.deepcopy(opt.state_dict())
    opt.restore()
    opt.close()
    other = MaskOptimizer(m.base, nn.Linear(7, 5), .5, 6, start='rank', every=2)
    with pytest.raises(ValueError, match='a run with another head: its parameter 0 has shape'): other.load_state_dict(saved)

def test_a_head_that_is_exchanged_is_said_once():
    m = net()
    opt = optimizer(m, steps=6, every=2)
    train(m, opt, 2)
    m.head = copy.deepcopy(m.head)
    opt.zero_grad()
    with pytest.warns(UserWarning, match='No parameter of the head had a gradient since step 2'): train(m, opt, 4)
    assert opt.done

@pytest.mark.parametrize('in_backward', [False, True])
def test_an_optimiser_that_is_forgotten_frees_its_weights(in_backward):
    m = net()
    opt = optimizer(m, in_backward=in_backward, sparse_grad=True)
    train(m, opt, 3)
    gone = weakref.ref(opt)
    del opt
    gc.collect()
    assert gone() is None
    train(m, optimizer(m), 3)

def test_a_parameter_with_the_id_of_one_that_is_gone():
    for _ in range(50): assert len(optimizer(net(), steps=2).weights.places)==3

def test_close_gives_flags_back():
    m = net()
    m.base['up'].bias.requires_grad_(False)
    m.base['down'].weight.requires_grad_(False)
    m.head.bias.requires_grad_(False)
    was = flags(m)
    opt = optimizer(m, sparse_grad=True)
    learning = {n for n,p in m.named_parameters() if p.requires_grad}
    assert learning=={'base.emb.weight', 'base.up.weight', 'base.down.weight', 'head.weight', 'head.bias'}
    train(m, opt)
    weights,mask = state(m),opt.mask()
    opt.close()
    opt.close()
    assert flags(m)==was and equal(state(m), weights) and opt.mask()==mask

def test_a_closed_optimiser_does_not_step():
    m = net()
    opt = optimizer(m)
    train(m, opt, 3)
    opt.close()
    loss_of(m).backward()
    with pytest.raises(RuntimeError, match='closed, and the weights are no longer its own: make a new one'): opt.step()

def test_a_step_after_the_end():
    m = net()
    opt = train(m, optimizer(m, steps=3))
    before = state(m)
    loss_of(m).backward()
    with pytest.raises(RuntimeError, match='run of 3 steps is over after step 3: for a longer one make the optimiser with a larger'):
        opt.step()
    assert equal(state(m), before) and opt.i==3

# faults: gradients

def test_a_step_without_a_gradient():
    m = net()
    opt = optimizer(m)
    with pytest.raises(RuntimeError, match=r'No masked weight has a gradient: call `loss.backward\(\)` before `step\(\)`'): opt.step()
    F.mse_loss(m.head(torch.ones(3, 6)), torch.ones(3, 1)).backward()
    with pytest.raises(RuntimeError, match='see that the loss depends on the base'): opt.step()
    assert opt.i==0

def test_a_weight_without_a_gradient_waits():
    "Its theta stays; its weights follow the threshold as all do"
    m = net()
    base = base_of(m.base)
    opt = optimizer(m)
    place = opt.weights.places['up.weight']
    before = place.theta.clone()
    for i in range(20):
        opt.zero_grad()
        loss_of(m, i%3).backward()
        m.base['up'].weight.grad = None
        opt.step()
    holds(opt, base)
    torch.testing.assert_close(place.theta, before, rtol=0, atol=1e-8)

@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('step', ['sign', 'plain', 'adam'])
@pytest.mark.parametrize('how', ['ordinary', 'many', 'backward', 'gamma'])
def test_a_gradient_that_is_not_finite(bad, step, how):
    "Found at the next threshold update, by name; the base can be put back"
    m = net()
    base = base_of(m.base)
    kw = dict(in_backward=True) if how=='backward' else dict(schedule='none', gamma=1e-6) if how=='gamma' else {}
    opt = optimizer(m, step=step, alpha=1e-3, every=4, **kw)
    if how=='many': opt._learn = lambda: opt.learn_many(list(opt.weights), opt.lr('theta'), opt.i+1)
    train(m, opt, 2)
    hook = m.base['up'].weight.register_hook(lambda g: g.index_fill(0, torch.tensor([3]), bad))
    train(m, opt, 1)
    hook.remove()
    with pytest.raises(FloatingPointError, match=r'NaN at step 4') as found: train(m, opt, 1)
    assert 'up.weight' in str(found.value)
    opt.restore()
    assert equal(base_of(m.base), base)

# faults: weights that something else changes

def test_another_optimiser_over_the_same_weights():
    m = net()
    opt = optimizer(m)
    other = torch.optim.AdamW(m.parameters(), lr=1e-3)
    train(m, opt, 2)
    loss_of(m).backward()
    other.step()
    with pytest.raises(RuntimeError, match=r"'emb\.weight' was changed from outside since the last step"): opt.step()

def _load(m): m.load_state_dict(net().state_dict())
def _copy(m):
    with torch.no_grad(): m.base['up'].weight.add_(.1)
def _assign(m): m.base['up'].weight.data = torch.randn(12, 6)
def _fill(m): nn.init.zeros_(m.base['up'].weight)

@pytest.mark.parametrize('change', [_load, _copy, _assign, _fill])
def test_changes_from_outside(change):
    m = net()
    base = base_of(m.base)
    opt = optimizer(m)
    train(m, opt, 12)
    change(m)
    loss_of(m).backward()
    with pytest.raises(RuntimeError, match="changed from outside since the last step.*Load the optimiser's state after the model's"):
        opt.step()
    opt.load_state_dict(opt.state_dict())
    train(m, opt, 8)
    holds(opt, base)

@pytest.mark.parametrize('same', [lambda m: m.load_state_dict({k: v.clone() for k,v in m.state_dict().items()}),
    lambda m: [setattr(p, 'data', p.data.clone()) for p in m.parameters()]], ids=['loaded', 'moved'])
@pytest.mark.parametrize('kw', [dict(), dict(t_l=100.), dict(in_backward=True), dict(step='adam')], ids=str)
def test_the_same_values_are_no_change(same, kw):
    m,n = net(),net()
    a,b = optimizer(m, **kw),optimizer(n, **kw)
    train(m, a, 7)
    same(m)
    train(m, a, 13, first=7)
    train(n, b)
    assert a.mask()==b.mask() and equal(state(m), state(n))

def test_the_mask_of_weights_that_were_changed():
    "What the model holds is what you get: another mask with a warning, other values refused"
    m = net()
    opt = train(m, optimizer(m))
    other = Mask({n: torch.rand(p.shape)<.3 for n,p in maskable(m.base).items()})
    opt.restore()
    apply_mask(m.base, other)
    with pytest.warns(UserWarning, match='the model was changed since'): assert opt.mask()==other
    with torch.no_grad(): m.base['up'].weight.add_(.1)
    with pytest.raises(RuntimeError, match=r"'up\.weight' holds values that are neither its base values nor 0"): opt.mask()

@pytest.mark.parametrize('cast', [lambda m: m.half(), lambda m: m.bfloat16(), lambda m: m.double(), lambda m: m.base['up'].double()],
    ids=['half', 'bfloat16', 'double', 'part'])
@pytest.mark.parametrize('in_backward', [False, True])
def test_a_model_that_is_cast(cast, in_backward):
    m = net()
    opt = optimizer(m, in_backward=in_backward)
    train(m, opt, 2)
    cast(m)
    for p in opt.weights: p.param.grad = torch.zeros_like(p.param)
    with pytest.raises(RuntimeError, match=r'was torch\.float32 when the optimiser was made and is torch\.\w+ now: cast the model first'):
        opt.step()

def test_a_model_whose_layout_changes():
    m = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Conv2d(4, 4, 2))
    opt = MaskOptimizer(m, sparsity=.5, steps=5, start='rank')
    m.to(memory_format=torch.channels_last)
    m(torch.randn(2, 3, 5, 5)).sum().backward()
    with pytest.raises(RuntimeError, match=r"'0\.weight' had shape .* and strides .* change the layout first, then make the optimiser"):
        opt.step()

def _exchange(m): m.base.load_state_dict({k: v.clone() for k,v in m.base.state_dict().items()}, assign=True)
def _exchange_one(m): m.base['up'].weight = nn.Parameter(m.base['up'].weight.detach().clone())

@pytest.mark.parametrize('change', [_exchange, _exchange_one, lambda m: m.base.to('meta')], ids=['all', 'one', 'meta'])
def test_parameters_that_were_exchanged(change):
    m = net()
    opt = optimizer(m)
    train(m, opt, 2)
    change(m)
    with pytest.raises(RuntimeError, match="no longer holds the parameter '[a-z.]*' that it had.*change the model first"): opt.mask()
    if change is _exchange_one:
        with pytest.raises(RuntimeError, match=r"no longer holds the parameter 'up\.weight'"): train(m, opt, 3)
    elif change is _exchange:
        opt.zero_grad()
        loss_of(m).backward()
        with pytest.raises(RuntimeError, match='the base still holds the parameters that it had'): opt.step()

# faults: states

def test_states_of_other_runs():
    m = net()
    opt = optimizer(m)
    train(m, opt, 3)
    saved = copy.deepcopy(opt.state_dict())
    before = state(m)
    def refused(error, make, change=lambda n: None):
        n = net()
        change(n)
        other = make(n)
        kept = state(n)
        with pytest.raises(ValueError, match=error): other.load_state_dict(copy.deepcopy(saved))
        assert equal(state(n), kept) and other.i==0 and train(n, other, 2).i==2
    def shift(n):
        with torch.no_grad(): n.base['up'].weight[0, 0] += 1e-6
    refused('other base weights: load the base that it was trained on', optimizer, shift)
    refused(r'a run with steps=20, and the optimiser has 30', lambda n: optimizer(n, steps=30))
    refused(r'a run with target=0\.5, and the optimiser has 0\.9', lambda n: optimizer(n, .9))
    refused('other weights or another budget', lambda n: optimizer(n, weights='*up*'))
    refused('other weights or another budget', lambda n: optimizer(n, budget='matrix'))
    refused("group", lambda n: MaskOptimizer(n.base, (), .5, 20, start='rank'))
    with pytest.raises(ValueError, match='not the state of a MaskOptimizer'):
        opt.load_state_dict(torch.optim.SGD(m.parameters(), lr=.1).state_dict())
    assert equal(state(m), before)

def test_a_state_loads_into_a_wrapped_model():
    m,n = net(),net()
    opt = optimizer(m)
    train(m, opt, 5)
    other = MaskOptimizer(nn.DataParallel(n.base), n.head, .5, 20, start='rank', every=2)
    other.load_state_dict(opt.state_dict())
    assert all(torch.equal(p, q) for p,q in zip(m.base.parameters(), n.base.parameters()))

# odd surroundings

@pytest.fixture
def defaults():
    "The defaults of torch come back"
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)

starts = ['rank', 'uniform', 'normal', 'constant']

@pytest.mark.parametrize('start', starts)
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_another_default_type(defaults, start, dtype):
    n = net()
    want = train(n, optimizer(n, start=start)).mask()
    m = net()
    torch.set_default_dtype(dtype)
    opt = train(m, optimizer(m, start=start))
    assert opt.mask()==want and all(p.theta.dtype==torch.float32 for p in opt.weights)

@pytest.mark.parametrize('kw', [dict(start=s) for s in starts]+[dict(step='adam'), dict(recovery=False), dict(sparse_grad=True),
    dict(schedule='constant'), dict(in_backward=True), dict(schedule='none', gamma=1e-3, start='normal')], ids=str)
def test_another_default_device(defaults, kw):
    "Nothing is made on the default device by accident: here it holds no values"
    n = net()
    want = train(n, optimizer(n, **kw), 6).state_dict()
    m = net()
    torch.set_default_device('meta')
    opt = train(m, optimizer(m, **kw), 6)
    opt.load_state_dict(opt.state_dict())
    assert all(torch.equal(g['theta'], want['mask']['groups'][name]['theta']) for name,g in opt.state_dict()['mask']['groups'].items())
    assert opt.recovered()>=0 and opt.max_theta()>0 and opt.weights.mask().numel==216

def test_deterministic_algorithms():
    torch.use_deterministic_algorithms(True)
    try:
        for kw in (dict(sparse_grad=True), dict(start='constant', recovery=False)):
            m = net()
            assert train(m, optimizer(m, **kw)).target_met()
    finally: torch.use_deterministic_algorithms(False)

def test_inference_mode():
    m = net()
    opt = optimizer(m)
    with torch.inference_mode(): opt.restore()
    train(m, opt)
    with torch.inference_mode(): mask = opt.mask()
    assert mask==opt.mask()

def test_two_optimisers_on_parts_of_one_base():
    m = net()
    a = MaskOptimizer(m.base, m.head, .5, 6, start='rank', weights='up*')
    b = MaskOptimizer(m.base, None, .5, 6, start='rank', weights='down*')
    for i in range(6):
        loss_of(m, i%3).backward()
        for opt in (a, b):
            opt.step()
            opt.zero_grad()
    assert a.target_met() and b.target_met()
    b.close()
    a.close()
    assert all(p.requires_grad for p in m.parameters())

def test_heads_of_every_kind():
    for head in (None, (), [], nn.Identity(), nn.Parameter(torch.zeros(2))):
        m = net()
        assert len(MaskOptimizer(m.base, head, .5, 5, start='rank').param_groups)==1+isinstance(head, nn.Parameter)

def test_weights_without_numbers_are_left_out():
    m = net()
    m.base['up'].none = nn.Parameter(torch.zeros(4, 0))
    assert list(optimizer(m, budget='matrix').weights.places)==['emb.weight', 'up.weight', 'down.weight']

def test_lookups_of_nothing():
    m = nn.Embedding(5, 3)
    opt = fit(m, torch.zeros(0, dtype=torch.long), loss=lambda m, x: m(x).sum(), sparse_grad=True)
    assert opt.target_met()

@pytest.mark.parametrize('step', ['sign', 'plain', 'adam'])
def test_a_sparse_embedding_bag(step):
    m = nn.EmbeddingBag(5, 3, sparse=True)
    assert fit(m, torch.tensor([[1, 2], [2, 2]]), step=step).target_met() and m.sparse

def test_groups_that_print_alike():
    with pytest.raises(ValueError, match="Some groups of the budget print alike.*: 1, '1'"):
        optimizer(net(), budget=lambda n: 1 if 'emb' in n else '1')

def test_numbers_that_are_not_python_s():
    import numpy as np
    m = net()
    opt = train(m, optimizer(m, np.float64(.5), np.int64(5), alpha=np.float32(1e-3), every=np.int32(2)))
    assert opt.done and type(opt.steps) is int
    f = io.BytesIO()
    torch.save(opt.state_dict(), f)
    f.seek(0)
    assert torch.load(f, weights_only=True)['mask']['steps']==5
    with pytest.raises(ValueError, match="beta must be 0 or more, got '1e-3'"): optimizer(net(), beta='1e-3')

def test_a_scheduler_goes_on():
    m = net()
    opt = optimizer(m, steps=12)
    sched = LambdaLR(opt, lambda i: 1-i/12)
    for i in range(12):
        if i==5: saved = copy.deepcopy((m.state_dict(), opt.state_dict(), sched.state_dict()))
        train(m, opt, 1, first=i)
        sched.step()
    n = net()
    again = optimizer(n, steps=12)
    sched = LambdaLR(again, lambda i: 1-i/12)
    for x,s in zip((n, again, sched), saved): x.load_state_dict(s)
    for i in range(5, 12):
        train(n, again, 1, first=i)
        sched.step()
    assert again.mask()==opt.mask() and equal(state(m), state(n))

def test_states_of_other_settings_and_members():
    def make(m, **kw): return MaskOptimizer(m.base, m.head, .5, 20, start='rank', **kw)
    m = net()
    names = list(make(m).weights.places)
    def budget(some): return lambda name: 'a' if name in some else 'b'
    m = net()
    saved = copy.deepcopy(make(m, budget=budget(names[:1])).state_dict())

    n = net()
    for kw in (dict(step='adam'), dict(every=3), dict(schedule='constant'), dict(recovery=False), dict(t_l=.01), dict(alpha=.5)):
        n = net()
        with pytest.raises(ValueError, match=f'a run with {next(iter(kw))}='): make(n, budget=budget(names[:1]), **kw).load_state_dict(copy.deepcopy(saved))

def test_states_whose_groups_hold_other_weights_of_the_same_sizes():
    def make(m, some): return MaskOptimizer(m, sparsity=.5, steps=20, start='rank', budget=lambda name: 'a' if name in some else 'b')
    def same(): return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    saved = copy.deepcopy(make(same(), ['0.weight']).state_dict())
    other = make(same(), ['1.weight'])
    saved['mask']['base'] = other.fingerprint()
    with pytest.raises(ValueError, match="of another budget: its group '[ab]' holds [01].weight"): other.load_state_dict(saved)

def test_a_base_that_was_pruned_before_is_told():
    m = net()
    opt = optimizer(m)
    train(m, opt, 20)
    opt.close()
    with pytest.warns(UserWarning, match='are exactly 0 already'): optimizer(m)

def test_a_second_gradient_inside_the_backward_pass_is_refused():
    m = net()
    opt = optimizer(m, in_backward=True)
    x = torch.randn(4, 6)
    train(m, opt, 1)
    with pytest.raises(RuntimeError, match='gradient accumulation'):
        for _ in range(2): loss_of(m).backward()

def test_modules_that_change_by_themselves():
    with pytest.warns(UserWarning, match='may renormalise its own weight'): MaskOptimizer(nn.Embedding(10, 4, max_norm=.1), steps=3, start='rank')
    with pytest.warns(UserWarning, match='running statistics'): MaskOptimizer(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), steps=3, start='rank')
    with pytest.warns(UserWarning, match='is no weight but'): MaskOptimizer(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), steps=3, start='rank')
    with pytest.raises(ValueError, match='chooses nothing'): MaskOptimizer(nn.Linear(3, 3), steps=3, start='rank', weights=[])
