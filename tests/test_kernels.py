"One step of theta and of the weight, in pieces and in lists, against the formulas."
import math
import pytest,torch
from hypothesis import given,strategies as st
from adaptprune import kernels
from adaptprune.kernels import Rule,adam_step,gate_grad,remember,step_of,update,update_many,write,write_many
from adaptprune.mask import unpack_bits

dtypes = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
rules = [Rule(), Rule('sign', 1e3), Rule('plain', 1e3, .1), Rule('plain'), Rule('plain', t_s=0.), Rule('adam'), Rule('adam', 10., 10.)]
n_large = 2**16+137                                                                         # more than one piece

def some(n, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=g).to(dtype),torch.randn(n, generator=g).to(dtype),torch.randn(n, generator=g).mul_(.02)

def formula(grad, w0, theta, tau, lr, rule, dtype):
    "Eq. 4, 5 and 2 in double precision, for the first step"
    g,z,t = grad.double(),w0.double(),theta.double()
    s = torch.sigmoid(rule.t_s*(t-tau)) if rule.t_s else None
    d = g*z*(s*(1-s)*rule.t_s if rule.t_s else 1.)
    move = dict(plain=d, sign=(g*z).sign(), adam=d/(d.abs()+rule.eps))[rule.step]
    t = t-lr*move
    m = (t.float()>tau).double() if rule.t_l==math.inf else torch.sigmoid(rule.t_l*(t-tau))
    return t,z*m

@pytest.mark.parametrize('dtype', dtypes)
@pytest.mark.parametrize('rule', rules, ids=str)
def test_update_is_the_formula(rule, dtype):
    grad,w0,theta = some(n_large, dtype)
    w,tau,lr = torch.empty_like(w0),torch.tensor(.003).item(),1e-3
    t,want = formula(grad, w0, theta, tau, lr, rule, dtype)
    moments = (torch.zeros(n_large), torch.zeros(n_large)) if rule.step=='adam' else None
    update(w, grad, w0, theta, tau, lr, rule, moments)
    assert w.dtype==dtype and theta.dtype==torch.float32
    torch.testing.assert_close(theta.double(), t, rtol=1e-4, atol=1e-6)
    if rule.t_l==math.inf:
        assert torch.equal(w, torch.where(theta>tau, w0, torch.zeros_like(w0))) and not w[theta<=tau].signbit().any()
        assert (w.double()==want).double().mean()>.999
    else: torch.testing.assert_close(w.double(), want, **dict(rtol=1e-2, atol=2e-2) if dtype.itemsize==2 else dict(rtol=1e-3, atol=1e-3))

@pytest.mark.parametrize('dtype', dtypes)
@pytest.mark.parametrize('rule', rules, ids=str)
def test_lists_step_as_single_tensors(rule, dtype):
    sizes,taus = [5, 1000, 64],[.001, -.002, .001]
    parts = [some(n, dtype, i) for i,n in enumerate(sizes)]
    one,many = ([t.clone() for *_,t in parts] for _ in range(2))
    ws,vs = ([torch.full_like(z, 7.) for _,z,_ in parts] for _ in range(2))
    mv = [[[torch.zeros(n) for n in sizes] for _ in range(2)] for _ in range(2)] if rule.step=='adam' else [None, None]
    for i in (1, 2, 3):
        for j,(g,z,_) in enumerate(parts):
            update(ws[j], g, z, one[j], taus[j], 1e-3, rule, [m[j] for m in mv[0]] if mv[0] else None, i)
        update_many(vs, [g for g,*_ in parts], [z for _,z,_ in parts], many, taus, 1e-3, rule, mv[1], i)
    for a,b in zip(one, many): torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)
    for a,b in zip(ws, vs):
        if rule.t_l==math.inf: assert (a==b).float().mean()>.999 and not b[b==0].signbit().any()
        else: torch.testing.assert_close(a, b, **dict(rtol=2e-2, atol=2e-2) if dtype.itemsize==2 else dict(rtol=1e-4, atol=1e-5))
    write_many(vs, [z for _,z,_ in parts], one, taus, rule.t_l)
    for j,(_,z,_) in enumerate(parts): write(ws[j], z, one[j], taus[j], rule.t_l)
    tolerance = dict(rtol=2e-2, atol=2e-2) if dtype.itemsize==2 else dict(rtol=1e-5, atol=1e-6)
    for a,b in zip(ws, vs): torch.testing.assert_close(a, b, **tolerance)

@given(st.lists(st.sampled_from([-math.inf, -1., -1e-45, -0., 0., 1e-45, .5, 1.]), min_size=1, max_size=20), st.sampled_from([-1., 0., .5]),
    st.sampled_from(dtypes))
def test_the_binary_weight(thetas, tau, dtype):
    "Above the threshold the base value to the bit, at or below it a zero without a sign"
    theta = torch.tensor(thetas)
    w0 = torch.linspace(-1, 1, len(thetas)).to(dtype)
    w,v = torch.full_like(w0, 7.),torch.full_like(w0, 7.)
    write(w, w0, theta, tau)
    write_many([v], [w0], [theta], [tau])
    for x in (w, v): assert x.tolist()==[z if t>tau else 0. for z,t in zip(w0.tolist(), thetas)] and not x[x==0].signbit().any()

@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('rule', rules, ids=str)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_what_is_not_finite_becomes_nan(bad, rule, dtype):
    "A sign would hide it"
    grad,w0,theta = some(100, dtype)
    grad[17] = bad
    twin = theta.clone()
    moments = [[torch.zeros(100), torch.zeros(100)] if rule.step=='adam' else None for _ in range(2)]
    update(torch.empty_like(w0), grad, w0, theta, 0., 1e-3, rule, moments[0])
    update_many([torch.empty_like(w0)], [grad], [w0], [twin], [0.], 1e-3, rule, [[m] for m in moments[1]] if moments[1] else None)
    for t in (theta, twin): assert t.isnan().nonzero().tolist()==[[17]]

def test_a_zero_gradient_moves_nothing():
    _,w0,theta = some(50)
    for rule in rules:
        before = theta.clone()
        moments = (torch.zeros(50), torch.zeros(50)) if rule.step=='adam' else None
        update(torch.empty(50), torch.zeros(50), w0, theta, 0., 1., rule, moments)
        assert torch.equal(theta, before)

def test_adam_is_torchs():
    x = torch.zeros(20, requires_grad=True)
    opt,m,v,mine = torch.optim.Adam([x], lr=1e-2),torch.zeros(20),torch.zeros(20),torch.zeros(20)
    for i in range(1, 8):
        x.grad = torch.randn(20)
        mine -= 1e-2*adam_step(x.grad, m, v, i, Rule('adam'))
        opt.step()
    torch.testing.assert_close(mine, x.detach(), rtol=1e-5, atol=1e-7)

def test_arguments_stay_as_they_are():
    grad,w0,theta = some(30)
    kept = grad.clone(),w0.clone(),theta.clone()
    for rule in rules:
        step_of(gate_grad(grad, w0), theta, 0., rule)
        assert torch.equal(grad, kept[0]) and torch.equal(w0, kept[1]) and torch.equal(theta, kept[2])

@pytest.mark.parametrize('n', [1, 7, 8, 9, 2**17-1, 2**17+9])
def test_what_was_pruned_is_remembered(n):
    theta = torch.randn(n)
    gone = torch.zeros(-(-n//8), dtype=torch.uint8)
    remember(theta, 0., gone)
    assert torch.equal(unpack_bits(gone, n), theta<=0)
    other = torch.randn(n)
    remember(other, -.5, gone)
    assert torch.equal(unpack_bits(gone, n), (theta<=0) | (other<=-.5))
    if n%8: assert int(gone[-1])>>(n%8)==0

@pytest.mark.parametrize('change,error', [(dict(step='newton'), "Unknown step 'newton' of theta"),
    (dict(t_l=0), 't_l must be positive, got 0'),
    (dict(t_s=-1), 't_s must be 0 or more, got -1'), (dict(t_l=math.nan), 'got nan'), (dict(t_s=math.nan), 'got nan')], ids=str)
def test_bad_rules(change, error):
    with pytest.raises(ValueError, match=error): Rule(**change)

def test_without_triton_nothing_is_missing():
    assert kernels.triton is None or kernels.triton.__version__
