"The definition: values and gradients of a masked weight (Eq. 2 to 4), masks on plain models, fingerprints."
import copy,math
import pytest,torch,transformers
from hypothesis import given,strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D
from adaptprune.anatomy import maskable
from adaptprune.layer import MaskedWeight,apply_mask,fingerprint,gate,masked_layer,slope
from adaptprune.mask import Mask
from toy import plain_modules

families = ['Bert', 'Roberta', 'Electra', 'Albert', 'DistilBert', 'GPT2']
tied = [('Bert', 'ForMaskedLM'), ('GPT2', 'LMHeadModel'), ('Albert', 'ForMaskedLM'), ('Roberta', 'ForMaskedLM')]

def reference(w0, theta, tau, t_l, t_s):
    "Eq. 4 by autograd: a hard value with a soft gradient"
    soft = torch.sigmoid(t_s*(theta-tau))
    return w0*(torch.sigmoid(t_l*(theta-tau)).detach()+soft-soft.detach())
def half_mask(model, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Mask({n: torch.rand(p.shape, generator=g)<.5 for n,p in maskable(model).items()})
def snapshot(model): return {n: (p.detach().clone(), p.requires_grad, p.dtype) for n,p in model.named_parameters()}
def same(a, b): return list(a)==list(b) and all(torch.equal(x[0], y[0]) and x[1:]==y[1:] for x,y in zip(a.values(), b.values()))

# Eq. 2 to 4

@pytest.mark.parametrize('t_l,t_s', [(1e5, 1.), (1e3, .1), (10., 10.), (1., 1e-2)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_value_and_surrogate(t_l, t_s, dtype):
    g = torch.Generator().manual_seed(0)
    w0,start,tau = torch.randn(6, 5, generator=g).to(dtype),torch.randn(6, 5, generator=g).mul(.02),torch.tensor(.003)
    masked = MaskedWeight(start, tau, t_l, t_s)
    out = masked(w0)
    th = start.double().requires_grad_()
    ref = reference(w0.double(), th, tau.double(), t_l, t_s)
    up = torch.randn(6, 5, generator=g).to(dtype)
    out.backward(up)
    ref.backward(up.double())
    tol = dict(rtol=1e-2, atol=1e-3) if dtype.itemsize==2 else dict(rtol=2e-4, atol=2e-5)
    assert out.dtype==dtype and masked.theta.grad.dtype==torch.float32
    torch.testing.assert_close(out.double(), ref, **tol)
    tol = dict(rtol=1e-2, atol=1e-5) if dtype.itemsize==2 else dict(rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(masked.theta.grad.double(), th.grad, **tol)

@pytest.mark.parametrize('t', [.5, 3., 20.])
def test_equal_temperatures_give_the_exact_gradient(t):
    torch.manual_seed(0)
    w0,start = torch.randn(4, 3),torch.randn(4, 3)*.1
    masked = MaskedWeight(start, .02, t, t)
    got, = torch.autograd.grad(masked(w0).sin().sum(), masked.theta)
    th = start.double().requires_grad_()
    f = lambda x: (w0.double()*torch.sigmoid(t*(x-.02))).sin()
    assert torch.autograd.gradcheck(f, th)
    want, = torch.autograd.grad(f(th).sum(), th)
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-7)

def test_surrogate_is_not_the_exact_gradient():
    masked = MaskedWeight(torch.full((3,), .01), 0., 1e5, 1.)
    masked(torch.ones(3)).sum().backward()
    assert torch.allclose(masked.theta.grad, torch.tensor(.25), atol=1e-4)                  # Eq. 3 would give 0

def test_straight_through_is_a_slope_of_one():
    masked = MaskedWeight(torch.tensor([-1., .01, 5.]), 0., math.inf, 0.)
    w0 = torch.tensor([2., -3., 4.])
    out = masked(w0)
    out.sum().backward()
    assert out.tolist()==[0., -3., 4.] and torch.equal(masked.theta.grad, w0)

@pytest.mark.parametrize('t_l', [1e5, math.inf])
def test_extreme_thetas(t_l):
    masked = MaskedWeight(torch.tensor([-1e30, -3e38, 3e38, 1e30]), 0., t_l, 1.)
    w = masked(torch.ones(4))
    w.sum().backward()
    assert w.tolist()==[0, 0, 1, 1] and masked.theta.grad.tolist()==[0]*4
    ends = torch.tensor([-math.inf, math.inf])
    assert gate(ends, 0., t_l).tolist()==[0, 1] and slope(ends, 0., 1.).tolist()==[0, 0]

@given(st.floats(-.1, .1), st.floats(-.1, .1), st.sampled_from([1., 1e3, 1e5, math.inf]), st.sampled_from([.1, 1., 10.]))
def test_gate_and_slope(theta, tau, t_l, t_s):
    t = torch.tensor([theta])
    tau = torch.tensor(tau).item()                                                          # as a float32 has it
    m = gate(t, tau, t_l).item()
    assert 0<=m<=1 and (t_l<math.inf or m==float(t.item()>tau))
    assert slope(t, tau, t_s).item()<=t_s/4*1.0001 and slope(t, tau, 0.).item()==1
    x = torch.tensor([theta], requires_grad=True)
    torch.sigmoid(t_s*(x-tau)).backward()
    assert slope(t, tau, t_s).item()==pytest.approx(x.grad.item(), rel=1e-4)

@pytest.mark.parametrize('kwargs,error', [(dict(t_l=0), 't_l must be positive, got 0'), (dict(t_s=-1.), 't_s must be 0 or more, got -1'),
    (dict(t_l=math.nan), 't_l must be positive, got nan')], ids=str)
def test_bad_temperatures(kwargs, error):
    m = nn.Linear(3, 2)
    was = snapshot(m)
    with pytest.raises(ValueError, match=error): masked_layer(m, torch.zeros(2, 3), **kwargs)
    assert same(snapshot(m), was) and not parametrize.is_parametrized(m)

# modules

modules = {**plain_modules, 'Conv1D': (lambda: Conv1D(3, 4), (2, 4))}

@pytest.mark.parametrize('kind', modules)
def test_modules(kind):
    "Binary values equal the masked plain network; gradients equal those of a weight computed by autograd; the weight comes back"
    make,shape = modules[kind]
    torch.manual_seed(0)
    model = make()
    x,base = torch.randn(shape),copy.deepcopy(model)
    theta = torch.randn(model.weight.shape)*.02
    masked = masked_layer(model, theta, t_l=math.inf)
    torch.testing.assert_close(model(x), apply_mask(copy.deepcopy(base), Mask({'weight': theta>0}))(x), rtol=0, atol=0)
    masked.t_l = 1e3
    model(x).square().mean().backward()
    th = theta.clone().requires_grad_()
    torch.func.functional_call(base, {'weight': reference(base.weight.detach(), th, 0., 1e3, 1.)}, (x,)).square().mean().backward()
    torch.testing.assert_close(masked.theta.grad, th.grad, rtol=1e-4, atol=1e-8)
    assert masked.theta.grad.any() and model.parametrizations.weight.original.grad is None
    original = model.parametrizations.weight.original
    parametrize.remove_parametrizations(model, 'weight', leave_parametrized=False)
    assert model.weight is original and torch.equal(original, base.weight)

def test_training_forward_differs_from_the_binary_one_only_near_the_threshold():
    m = nn.Linear(4, 1, bias=False)
    w0 = m.weight.detach().clone()
    masked = masked_layer(m, torch.tensor([[-.1, -1e-4, 1e-4, .1]]), t_l=1e3)
    x = torch.eye(4)
    soft = m(x)[:,0]/w0[0]
    masked.t_l = math.inf
    assert (m(x)[:,0]/w0[0]).tolist()==[0, 0, 1, 1]
    torch.testing.assert_close(soft, torch.sigmoid(1e3*masked.theta[0]))

def test_temperatures_change_value_and_slope():
    m = nn.Linear(5, 4)
    w0 = m.weight.detach().clone()
    masked = masked_layer(m, torch.randn(4, 5)*.02, t_l=2., t_s=3.)
    for t_l,t_s in ((2., 3.), (50., .5), (math.inf, 1.)):
        masked.t_l,masked.t_s = t_l,t_s
        p = masked.theta.detach().clone().requires_grad_()
        want = reference(w0, p, 0., min(t_l, 1e30), t_s)
        torch.testing.assert_close(m.weight, want)
        got, = torch.autograd.grad(m.weight.square().sum(), masked.theta)
        ref, = torch.autograd.grad(want.square().sum(), p)
        torch.testing.assert_close(got, ref)

def test_autocast():
    m = nn.Linear(40, 30)
    x = torch.randn(8, 40)
    masked = masked_layer(m, torch.randn(30, 40)*.02)
    full, = torch.autograd.grad(m(x).square().mean(), masked.theta)
    with torch.autocast('cpu', torch.bfloat16):
        assert m(x).dtype==torch.bfloat16
        half, = torch.autograd.grad(m(x).float().square().mean(), masked.theta)
    assert half.dtype==torch.float32 and F.cosine_similarity(half.view(-1), full.view(-1), dim=0)>.97

@pytest.mark.slow
def test_compile():
    m = nn.Linear(5, 4)
    masked = masked_layer(m, torch.randn(4, 5)*.02)
    c,x = torch.compile(m, backend='aot_eager', fullgraph=True),torch.randn(3, 5)
    torch.testing.assert_close(c(x), m(x))
    ref, = torch.autograd.grad(m(x).square().mean(), masked.theta)
    got, = torch.autograd.grad(c(x).square().mean(), masked.theta)
    torch.testing.assert_close(got, ref, rtol=1e-4, atol=1e-7)
    masked.tau.add_(.01)                                                                    # a threshold moves without a new graph
    torch.testing.assert_close(c(x), m(x))

def test_the_rest_of_the_module_stays(tiny):
    m = nn.Linear(3, 2)
    bias = m.bias
    masked_layer(m, torch.zeros(2, 3))
    assert m.bias is bias and bias.requires_grad and not m.parametrizations.weight.original.requires_grad
    assert {n for n,p in m.named_parameters() if p.requires_grad}=={'bias', 'parametrizations.weight.0.theta'}

# masks on plain models

@pytest.mark.parametrize('family', families)
def test_a_masked_network_has_zeros_and_nothing_else_new(tiny, tokens, family):
    m,base = tiny(family),tiny(family)
    mask = half_mask(m)
    assert apply_mask(m, mask) is m
    for n,k in mask.items():
        w,w0 = m.get_parameter(n),base.get_parameter(n)
        assert not w[~k].any() and not w[~k].signbit().any() and torch.equal(w[k], w0[k])
    rest = set(snapshot(m))-set(mask)
    assert all(torch.equal(m.get_parameter(n), base.get_parameter(n)) for n in rest)
    twice = apply_mask(copy.deepcopy(m), mask)
    assert torch.equal(twice(**tokens)[0], m(**tokens)[0]) and list(m.state_dict())==list(base.state_dict())

@pytest.mark.parametrize('wrap', [nn.DataParallel, lambda m: torch.compile(m, backend='eager')], ids=['parallel', 'compiled'])
def test_a_mask_finds_wrapped_weights(wrap):
    m = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    mask = half_mask(m)
    apply_mask(wrap(m), mask)
    assert all(not m.get_parameter(n)[~k].any() for n,k in mask.items())
    assert fingerprint(wrap(m))==fingerprint(m)

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
def test_a_mask_in_any_precision(dtype):
    m = nn.Linear(4, 4).to(dtype)
    w0 = m.weight.detach().clone()
    mask = half_mask(m)
    apply_mask(m, mask)
    assert torch.equal(m.weight, w0*mask['weight'])

def test_apply_mask_refuses():
    m = nn.Linear(3, 2)
    ones = lambda *s: torch.ones(s, dtype=torch.bool)
    with pytest.raises(ValueError, match="'decoder' that the model lacks"): apply_mask(m, Mask({'weight': ~ones(2, 3), 'decoder': ones(1)}))
    with pytest.raises(ValueError, match=r"'weight' has shape \(2, 3\) in the model and \(3, 2\)"):
        apply_mask(m, Mask({'weight': ones(3, 2)}))
    assert m.weight.all()

@pytest.mark.parametrize('family,kind', [('Bert', 'Model'), *tied])
def test_save_pretrained(tiny, tokens, tmp_path, family, kind):
    "What any tool loads from the folder is the masked network, tied weights included"
    m = tiny(family, kind)
    apply_mask(m, half_mask(m))
    out = m(**tokens)[0]
    m.save_pretrained(tmp_path)
    plain = type(m).from_pretrained(tmp_path).eval()
    assert torch.equal(plain(**tokens)[0], out)
    auto = transformers.AutoModel.from_pretrained(tmp_path).eval()
    assert torch.equal(auto(**tokens)[0], m.base_model(**tokens)[0])

# fingerprints

@given(st.integers(0, 10**6), st.integers(0, 31))
def test_fingerprint_sees_every_bit(i, bit):
    torch.manual_seed(0)
    m = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 5))
    mark,ps = fingerprint(m),list(m.parameters())
    p = ps[i%len(ps)].data.view(-1)
    p[i%len(p):i%len(p)+1].view(torch.int32).bitwise_xor_(torch.tensor(1<<bit if bit<31 else -2**31, dtype=torch.int32))
    assert fingerprint(m)!=mark

def test_fingerprint_sees_names_shapes_and_types():
    a,b = nn.Linear(4, 2, bias=False),nn.Linear(2, 4, bias=False)
    b.weight.data = a.weight.data.view(4, 2)
    assert len({fingerprint(m) for m in (a, b, nn.Sequential(a), copy.deepcopy(a).double())})==4
    assert fingerprint(nn.Sequential(a), names=[])!=fingerprint(a) and fingerprint(a, names=['weight'])==fingerprint(a)
    assert fingerprint(copy.deepcopy(a))==fingerprint(a)
