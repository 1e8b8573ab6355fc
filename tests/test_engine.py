"The engine with what people train with, and what it does when something goes wrong."
import copy,gc,io,math,pickle,weakref
import pytest,torch,transformers
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from torch.utils._python_dispatch import TorchDispatchMode
from adaptprune.anatomy import maskable
from adaptprune.layer import apply_mask,fingerprint,masked_layer
from adaptprune.mask import Mask,n_pruned
from adaptprune.optim import MaskOptimizer

class Net(nn.Module):
    "An encoder and a head, as `AdaptModel` has them"
    def __init__(self, d=6):
        super().__init__()
        self.base = nn.ModuleDict(dict(emb=nn.Embedding(12, d), up=nn.Linear(d, 2*d), down=nn.Linear(2*d, d)))
        self.head = nn.Linear(d, 1)
    def forward(self, x):
        h = self.base['emb'](x).mean(1)
        h = h+self.base['down'](self.base['up'](h).tanh())
        return self.head(h)[:,0]

X = torch.randint(0, 12, (24, 5), generator=torch.Generator().manual_seed(0))
Y = torch.randn(24, generator=torch.Generator().manual_seed(1))

def net(dtype=torch.float32):
    torch.manual_seed(0)
    return Net().to(dtype)
def optimizer(m, sparsity=.5, steps=20, **kwargs): return MaskOptimizer(m.base, m.head, sparsity, steps, **{**dict(start='rank', every=2), **kwargs})
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
    base,biases,head = base_of(m.base),m.base.up.bias.detach().clone() if hasattr(m.base, 'up') else m.base['up'].bias.detach().clone(),m.head.weight.detach().clone()
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
    "A network whose first half of weights does harm"
    torch.manual_seed(0)
    x = torch.randn(200, 20)
    y = x[:,10:].sum(1)
    m = nn.Linear(20, 1, bias=False)
    with torch.no_grad(): m.weight.fill_(1.)
    opt = MaskOptimizer(m, sparsity=.5, steps=200, start='constant')
    for _ in range(200):
        opt.zero_grad()
        (m(x)[:,0]-y).square().mean().backward()
        opt.step()
    assert opt.mask()['weight'][0].tolist()==[False]*10+[True]*10

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
            with torch.no_grad(): w.theta.copy_(p.shaped(p.theta))                          # a sign near zero and ties at the threshold would add up
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

kinds = {
    'Linear': (lambda: nn.Linear(4, 3), (2, 4)), 'Conv1d': (lambda: nn.Conv1d(4, 3, 2), (2, 4, 5)),
    'Conv2d': (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5)), 'ConvTranspose': (lambda: nn.ConvTranspose1d(4, 3, 2), (2, 4, 5)),
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
    assert list(opt.mask.__self__.weights.places)==['emb.weight'] and m.emb.weight is m.out.weight

@pytest.mark.parametrize('family,kind', [('Bert', 'Model'), ('Bert', 'ForMaskedLM'), ('GPT2', 'LMHeadModel'), ('T5', 'ForConditionalGeneration')])
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
    m = nn.ModuleDict(dict(tied=nn.Embedding(6, 4), out=nn.Linear(4, 6, bias=False), norm=nn.Embedding(6, 4, max_norm=9.), own=Scaled(6, 4)))
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
    assert counts[0]==counts[1] and counts[0]<25, count.names

@pytest.mark.parametrize('kw', [dict(), dict(step='plain', alpha=1e-2), dict(step='adam'), dict(t_l=1e3, t_s=.5), dict(step='plain', t_s=0.)], ids=str)
def test_many_at_once_as_one_by_one(kw):
    "The lists of tensors that a GPU gets, on a processor"
    m,n = net(),net()
    a,b = optimizer(m, **kw),optimizer(n, **kw)
    for i in range(20):
        a.zero_grad()
        loss_of(m, i%3).backward()
        with torch.no_grad():
            for p in a.weights: p.grads = p.param.grad
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

@pytest.mark.parametrize('budget', ['global', 'layer', 'matrix', lambda name: name=='up.weight'], ids=['global', 'layer', 'matrix', 'function'])
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
