"Theorems 1 and 2 (adaptprune) in numbers: every inequality on random convex problems, and what the functions refuse."
import math
import pytest,torch
from hypothesis import given,settings,strategies as st
from torch.nn.functional import softplus
from adaptprune.layer import MaskedWeight
from adaptprune.theory import *

f64 = torch.double
losses = 'squares','logistic','absolute'
seeds = st.integers(0, 2**31-1)
logs = lambda lo,hi: st.floats(math.log(lo), math.log(hi)).map(math.exp)

def full(B, d, x): return torch.full((B, d), float(x), dtype=f64)
def rand(*shape, seed=0): return torch.rand(*shape, dtype=f64, generator=torch.Generator().manual_seed(seed))
def all_masks(d): return (torch.arange(2**d)[:,None]>>torch.arange(d) & 1).to(f64)

def compare(ps, rivals, u1, eta, T, t_l, t_s, price=0., keep=None, grad=None, G=None, runs=1):
    "(gap of the random iterate, gap of the mean iterate, bound (2), bound (5)) for each rival, means over runs; asserts the parts on the way"
    many,(B,d) = ps.repeat(runs),rivals[0].shape
    phi = lambda p,v: p.F(v)+price*v.sum(-1)
    seen = []
    run = descend(grad(many) if grad else many.grad, full(B*runs, d, u1/t_l), [4*e/(t_l*t_s) for e in eta], T, t_l, t_s, price, keep, lambda i,v,th: seen.append(phi(many, v)))
    eta,mean = torch.tensor(eta, dtype=f64),lambda x: x.view(runs, B).mean(0)
    assert run.eta==pytest.approx(eta.sum().item())
    assert (run.moved<=run.squares/8*(1+1e-9)+1e-12).all()
    G0,_,G1 = ps.constants()
    G = (G0 if G is None else G)+price*math.sqrt(d)
    loss_i,loss_bar = mean((torch.stack(seen)*eta[:,None]).sum(0)/eta.sum()),mean(phi(many, run.mean))
    for v in rivals:
        kl = bernoulli_kl(v, full(B, d, u1))
        two = kl/eta.sum()+G**2/8*eta.square().sum()/eta.sum()+mean(torch.tanh(t_s*run.max_theta/2)**2)*G1
        yield loss_i-phi(ps, v),loss_bar-phi(ps, v),two,mean((kl.repeat(runs)+run.moved)/run.eta+run.lost)

def holds(gaps, exact=True, slack=1e-9):
    "With sampled gradients (2) speaks of the mean over runs, and (5) of the regret on the samples"
    for iterate,mean,two,five in gaps:
        assert (mean<=iterate+slack).all() and (iterate<=two+slack).all()
        if exact: assert (iterate<=five+slack).all() and (five<=two+slack).all()

# --- Theorem 1

def test_thousand_instances():
    "Exact gradients: the bound holds surely, against the best binary mask, the best fractional one, and a random one"
    n = 0
    for seed in range(24):
        g = torch.Generator().manual_seed(seed)
        r = lambda lo,hi: float(torch.rand((), generator=g)*(hi-lo)+lo)
        loss,d,T,price = losses[seed%3],int(r(2, 11)),int(r(5, 120)),(0., .03, .2)[seed//3%3]
        eta,decay = math.exp(r(-4, 1)),seed%2
        ps = Problems(50, d, int(r(8, 40)), loss, seed=seed)
        rivals = [best_masks(ps, price)[1].to(f64), rand(50, d, seed=seed)] + ([fractional(ps, price, 300)] if loss!='absolute' else [])
        holds(compare(ps, rivals, r(-2, 5), [eta/(i+1)**(decay/2) for i in range(T)], T, math.exp(r(0, 9)), math.exp(r(-2, 2)), price))
        n += 50
    assert n>=1000

@given(seeds, st.sampled_from(losses), st.integers(1, 9), st.integers(1, 60), logs(.01, 5), logs(1, 1e5), logs(.01, 50), st.floats(-20, 30), st.sampled_from([0., .05, 1.]))
@settings(max_examples=40)
def test_any_instance(seed, loss, d, T, eta, t_l, t_s, u1, price):
    ps = Problems(4, d, 12, loss, seed=seed)
    rivals = [best_masks(ps, price)[1].to(f64), rand(4, d, seed=seed)]
    holds(compare(ps, rivals, u1, [eta]*T, T, t_l, t_s, price))

@pytest.mark.parametrize('loss', losses)
def test_stochastic_mean(loss):
    "One sample a step: the mean over 50 runs of each of 20 problems"
    ps,gen = Problems(20, 8, 20, loss, seed=3),torch.Generator().manual_seed(3)
    rivals = [best_masks(ps, .02)[1].to(f64), rand(20, 8)]
    holds(compare(ps, rivals, 1., [.3]*150, 150, 20., 1., .02, grad=lambda p: (lambda v: p.sample(v, gen)), G=ps.constants()[1], runs=50), exact=False)

@pytest.mark.parametrize('loss', losses)
def test_stochastic_exactly(loss):
    "Three samples, six steps, strong damping: all 729 runs, so that expectations are exact. Before convexity and the bounds (4) and (6) the proof is an equality, for every binary mask"
    ps,T,t_l,t_s,eta = Problems(1, 4, 3, loss, seed=5),6,2.,1.5,.5
    paths,a,b = torch.cartesian_prod(*[torch.arange(3)]*T),ps.A[0],ps.b[0]
    seen,steps = [],iter(range(T))
    def follow(v): i = paths[:,next(steps)]; return ps.slope((a[i]*v).sum(-1)-b[i])[:,None]*a[i]
    run = descend(follow, full(729, 4, .4), 4*eta/(t_l*t_s), T, t_l, t_s, observe=lambda i,v,th: seen.append((v, th)))
    v,theta = map(torch.stack, zip(*seen))
    grads = torch.stack([ps.grad(x[:,None]).reshape(729, 4) for x in v])
    summed = lambda x: eta*x.sum(-1).mean(1).sum()
    loss_i,G1 = torch.stack([ps.F(x[:,None]).mean() for x in v]).mean(),grads.abs().sum(-1).max().item()
    assert summed(torch.tanh(t_s*theta/2)**2*grads*v).abs()>1e-3                   # the damping is not a small thing here
    for m in all_masks(4):
        start,hidden = bernoulli_kl(m, full(1, 4, .8))[0],summed(torch.tanh(t_s*theta/2)**2*grads*(v-m))
        right = start-bernoulli_kl(m, t_l*run.theta).mean()+run.moved.mean()+hidden
        assert summed(grads*(v-m)).item()==pytest.approx(right.item(), abs=1e-11)
        assert eta*T*(loss_i-ps.F(m))<=right+1e-11 and right<=start+run.squares.mean()/8+eta*T*bias(run.max_theta.max().item(), t_s, G1)

def test_regret_on_every_path():
    "(5) for sampled gradients, on each single path and for any v*"
    ps,gen,us,hs,T,eta = Problems(200, 6, 10, 'absolute', seed=6),torch.Generator().manual_seed(6),[],[],60,.4
    def sample(v): hs.append(ps.sample(v, gen)); return hs[-1]
    run = descend(sample, full(200, 6, .1), 4*eta/20, T, 20., 1., .02, observe=lambda i,v,th: us.append(20*th))
    u,g = torch.stack(us),torch.stack(hs)
    h = damping(u/20)*g+.02
    for star in (best_masks(ps, .02)[1].to(f64), rand(200, 6), rand(200, 6).round()):
        regret = eta*(h*(torch.sigmoid(u)-star)).sum((0, -1))
        assert (regret<=bernoulli_kl(star, u[0])+run.moved+1e-9).all() and torch.allclose(run.squares, eta**2*h.square().sum((0, -1)))

def test_unbiased():
    "The mean of a sample's gradient over the samples is the gradient of F"
    ps,v = Problems(1, 5, 7, 'logistic', seed=1),rand(1, 5)
    each = torch.stack([ps.slope((ps.A[0,i]*v[0]).sum()-ps.b[0,i])*ps.A[0,i] for i in range(7)])
    assert torch.allclose(each.mean(0), ps.grad(v)[0])
    G,Gs,G1 = ps.constants()
    assert ps.grad(v).norm()<=G and each.square().sum(-1).mean().sqrt()<=Gs and ps.grad(v).abs().sum()<=G1

@given(seeds, st.integers(1, 20), st.floats(-30, 30), logs(1e-3, 50))
def test_proof_steps(seed, d, shift, size):
    "(3) and (4), for any vector h whatever and any v* in the closed cube"
    g = torch.Generator().manual_seed(seed)
    u,h = torch.randn(d, dtype=f64, generator=g)*3+shift,torch.randn(d, dtype=f64, generator=g)*size
    new,star = u-h,torch.rand(d, dtype=f64, generator=g).mul(3).sub(1).clamp(0, 1)
    v,step = torch.sigmoid(u),bernoulli_kl(torch.sigmoid(u), u-h)
    right = bernoulli_kl(star, u)-bernoulli_kl(star, new)+step
    assert (h*(v-star)).sum().item()==pytest.approx(right.item(), rel=1e-9, abs=1e-8)
    assert step<=h.square().sum()/8*(1+1e-9)+1e-12

# --- the update in logits

@given(seeds, logs(1, 1e5), logs(.01, 20), logs(1e-5, 1), logs(1e-7, .1))
def test_mirror_identity(seed, t_l, t_s, alpha, gamma):
    "Eq. 5 and 7 by autograd of the masked weight is u - eta*(s*g + lambda)"
    torch.manual_seed(seed)
    w0,masked = torch.randn(7, dtype=f64),MaskedWeight(torch.randn(7, dtype=f64).div(t_l), 0., t_l, t_s)
    w,theta = masked(w0),masked.theta
    c = torch.randn(7, dtype=f64)
    (w*c).sin().sum().backward()
    new = theta.detach()-alpha*theta.grad-gamma
    th = theta.detach()
    g = (w0*c*(w0*torch.sigmoid(t_l*th)*c).cos())
    u = t_l*th-mirror_step(alpha, t_l, t_s)*(damping(th, t_s)*g+price(gamma, alpha, t_s))
    assert torch.allclose(t_l*new, u, rtol=1e-7, atol=1e-9)

def test_threshold_is_a_shift():
    "With a threshold, theta - tau takes the place of theta in the mask, in the damping and in M"
    w0,tau = rand(5),torch.tensor(.3, dtype=f64)
    masked = MaskedWeight(rand(5).sub(.5), tau, 3., 2.)
    g0, = torch.autograd.grad(masked(w0).sum(), masked.theta)
    assert torch.allclose(g0, 2/4*damping(masked.theta.detach()-tau, 2.)*w0)

@given(st.floats(-50, 50), logs(.01, 20))
def test_damping(theta, t_s):
    s = damping(torch.tensor(theta, dtype=f64), t_s).item()
    assert 0<=s<=1 and 1-s==pytest.approx(math.tanh(t_s*theta/2)**2, abs=1e-12)

@given(seeds, logs(.01, 10), st.floats(0, 5))
def test_bias_term(seed, t_s, M):
    "(6): the part of the gradient that the damping hides"
    g = torch.Generator().manual_seed(seed)
    theta,grad = (torch.rand(9, dtype=f64, generator=g)*2-1)*M,torch.randn(9, dtype=f64, generator=g)
    dv = torch.rand(9, dtype=f64, generator=g)*2-1
    assert ((1-damping(theta, t_s))*grad*dv).sum()<=bias(M, t_s, grad.abs().sum().item())+1e-12

# --- divergence, rounding, certificate, price

@given(seeds, st.integers(1, 8))
def test_kl(seed, d):
    g = torch.Generator().manual_seed(seed)
    p,u = torch.rand(d, dtype=f64, generator=g),torch.randn(d, dtype=f64, generator=g)*4
    P,Q = torch.distributions.Bernoulli(p),torch.distributions.Bernoulli(logits=u)
    assert bernoulli_kl(p, u).item()==pytest.approx(torch.distributions.kl_divergence(P, Q).sum().item(), abs=1e-9)

def test_kl_of_binary_masks_is_finite_and_exact():
    u = torch.tensor([1000., -1000., 3.], dtype=f64)
    assert bernoulli_kl(torch.tensor([True, False, True]), u).item()==pytest.approx(softplus(torch.tensor(-3., dtype=f64)).item())
    assert bernoulli_kl(torch.tensor([False, True, True]), u).item()==pytest.approx(2000+softplus(torch.tensor(-3.)).item())
    assert bernoulli_kl(torch.ones(2), torch.tensor([1, 2])).isfinite()

@pytest.mark.parametrize('loss', losses)
def test_rounding(loss):
    "(7): what 1[theta>0] adds to the loss, with the gradient's bound over the cube"
    ps,t_l = Problems(200, 9, 20, loss, seed=2),30.
    theta = torch.randn(200, 9, dtype=f64, generator=torch.Generator().manual_seed(0))*.1; theta[:,0] = 0
    v,m = torch.sigmoid(t_l*theta),(theta>0).to(f64)
    assert torch.allclose((v-m).norm(dim=-1), rounding_gap(theta, t_l))
    assert ((ps.F(m)-ps.F(v)).abs()<=ps.constants()[0]*rounding_gap(theta, t_l)).all()

def test_rounding_of_a_mapping_is_one_vector():
    th = rand(4, 6).sub(.5)
    assert rounding_gap({'a': th[:1], 'b': th[1:]}, 7., 2.).item()==pytest.approx(rounding_gap(th.view(-1), 7., 2.).item())

@given(seeds, st.sampled_from(losses), st.sampled_from([0., .1]), st.integers(1, 8))
@settings(max_examples=40)
def test_certificate(seed, loss, lam, d):
    "(8) is never below the true gap, to any mask, fractional or binary, with and without a budget"
    ps,v = Problems(20, d, 15, loss, seed=seed),rand(20, d, seed=seed)
    grad,phi = ps.grad(v)+lam,ps.F(v)+lam*v.sum(-1)
    gap = frank_wolfe_gap(v, grad)
    assert (phi-best_masks(ps, lam)[0]<=gap+1e-12).all()
    if loss!='absolute': low = fractional(ps, lam, 200); assert (phi-ps.F(low)-lam*low.sum(-1)<=gap+1e-12).all()
    for k in range(d+1): assert (phi-best_masks(ps, lam, keep=k)[0]<=frank_wolfe_gap(v, grad, k)+1e-12).all()
    assert torch.allclose(frank_wolfe_gap(v, grad, d), gap)

def test_certificate_by_enumeration():
    v,g = rand(6, 5),rand(6, 5, seed=1)-.5
    w = all_masks(5)
    for k in (None, 0, 2, 5):
        some = w if k is None else w[w.sum(-1)<=k]
        assert torch.allclose(frank_wolfe_gap(v, g, k), (g[:,None]*(v[:,None]-some)).sum(-1).amax(-1))
    assert frank_wolfe_gap(v, g, 1.5).allclose((frank_wolfe_gap(v, g, 1)+frank_wolfe_gap(v, g, 2))/2)

def test_certificate_vanishes_at_the_optimum():
    ps = Problems(10, 6, 40, seed=4)
    assert frank_wolfe_gap(fractional(ps, .02, 5000), ps.grad(fractional(ps, .02, 5000))+.02).max()<1e-6

def test_price():
    assert price(2e-7, 2e-5)==pytest.approx(.04)
    assert pressure(price(3e-6, 1e-4, .1), 1e-4, .1)==pytest.approx(3e-6)

def test_kept_is_benefit_above_price():
    "Weights that do not interact: 1[theta>0] is 'worth more than lambda', 5 prices x 400 weights"
    g = torch.Generator().manual_seed(0)
    q,c = torch.rand(400, dtype=f64, generator=g)+.5,torch.rand(400, dtype=f64, generator=g)*1.4
    lam = torch.linspace(0, .6, 5, dtype=f64)[:,None]
    run = descend(lambda v: q*(v-c), full(5, 400, 1e-5), 4*.5/1e5, 2500, 1e5, 1., price=lam)
    worth = q*(c-.5)
    sure = (worth-lam).abs()>1e-3
    assert ((run.theta>0)==(worth>lam))[sure].all() and sure.double().mean()>.99

def test_marginal_benefit():
    "(9) for weights that interact: a kept weight is worth its price, a pruned one is not, the others staying"
    ps,lam = Problems(50, 8, 30, 'logistic', seed=9),.03
    v = fractional(ps, lam, 8000)
    worth = -ps.grad(v)
    assert (worth[v==1]>=lam-1e-9).all() and (worth[v==0]<=lam+1e-9).all() and (v==1).any() and (v==0).any()
    for j in range(8):
        off,on = v.clone(),v.clone(); off[:,j] = 0; on[:,j] = 1
        assert (ps.F(off)-ps.F(v))[v[:,j]==1].ge(lam-1e-9).all() and (ps.F(v)-ps.F(on))[v[:,j]==0].le(lam+1e-9).all()

# --- Theorem 2

@pytest.mark.parametrize('loss', losses)
def test_budget(loss):
    "(10): with the shift to a budget, against every kind of v* within it"
    for k in (1, 3, 6):
        ps = Problems(40, 7, 20, loss, seed=k)
        inside = rand(40, 7, seed=k); inside = inside*(k/inside.sum(-1, keepdim=True)).clamp(max=1)
        holds(compare(ps, [best_masks(ps, keep=k)[1].to(f64), inside], 1., [.2]*120, 120, 50., 1., keep=k))

@given(seeds, st.integers(1, 12), st.floats(.05, 1))
def test_shift(seed, d, share):
    "The shift meets the budget and brings the iterate nearer to every v* of it"
    u,k = torch.randn(3, d, dtype=f64, generator=torch.Generator().manual_seed(seed))*3,max(share*d, 1e-2)
    c = budget_shift(u, k)
    after = torch.sigmoid(u-c[:,None]).sum(-1)
    assert (c>=0).all() and (after<=k+1e-9).all() and ((c==0) | ((after-k).abs()<1e-6)).all()
    star = rand(3, d, seed=seed); star = star*(k/star.sum(-1, keepdim=True)).clamp(max=1)
    assert (bernoulli_kl(star, u-c[:,None])<=bernoulli_kl(star, u)+1e-9).all()

@given(seeds, st.integers(2, 12))
def test_exact_budget_both_ways(seed, d):
    "To a sum of exactly k the threshold may move either way: each part of the way brings the iterate nearer to every v* of that sum"
    g = torch.Generator().manual_seed(seed)
    u,k = torch.randn(20, d, dtype=f64, generator=g)*3,max(1, d//2)
    c = budget_shift(u+60, k)-60
    star = (torch.rand(20, d, generator=g).argsort(-1)<k).to(f64); star = (star+star.roll(1, 0))/2
    assert torch.allclose(torch.sigmoid(u-c[:,None]).sum(-1), full(1, 20, k)[0]) and (c<0).any()
    along = bernoulli_kl(star, u-torch.linspace(0, 1, 11, dtype=f64)[:,None,None]*c[:,None])
    assert (along.diff(dim=0)<=1e-9).all()

def test_budget_that_tightens_counted_from_a_later_step():
    "(10) over the steps from a on, with KL(v*||v_a) in place of the start"
    ps,u,eta,T,a,t_l = Problems(60, 8, 20, seed=2),full(60, 8, 1.),.3,200,80,40.
    us,(G,_,G1),star = [],ps.constants(),best_masks(ps, keep=3)[1].to(f64)
    for i in range(T):
        us.append(u)
        u = u-eta*damping(u/t_l)*ps.grad(torch.sigmoid(u))
        u = u-budget_shift(u, max(3., 7.9-4.9*i/a))[:,None]
    us = torch.stack(us)
    assert (torch.sigmoid(us[a+1:]).sum(-1)<=3+1e-9).all() and (torch.sigmoid(us[a//2]).sum(-1)>3).any()
    gap,hidden = torch.stack([ps.F(torch.sigmoid(x)) for x in us[a:]]).mean(0)-ps.F(star),torch.tanh(us.abs().amax((0, -1))/t_l/2)**2*G1
    assert (gap<=bernoulli_kl(star, us[a])/(eta*(T-a))+eta*G**2/8+hidden).all()

def test_shift_is_the_quantile_at_high_temperature():
    th = rand(50, 30, seed=3)
    c,order = budget_shift(1e6*th, 8)/1e6,th.sort(-1, descending=True)[0]
    assert ((order[:,8]<=c) & (c<=order[:,7])).all()

# --- the bound as a function

def test_bound_is_the_formula():
    b = bound(10, 2., .1, 50, .02, 100., .5, price=.03, pruned=4, max_theta=.3, grad_l1=3.)
    assert b.start==pytest.approx((4*math.log1p(math.e**2)+6*math.log1p(math.e**-2))/5)
    assert b.step==pytest.approx(.1*(2+.03*math.sqrt(10))**2/8) and b.bias==pytest.approx(math.tanh(.075)**2*3)
    assert b.total==pytest.approx(sum(b))

def test_bound_without_records_is_wider():
    known = bound(10, 2., .1, 50, .02, 100., pruned=4, max_theta=.1, grad_l1=2.)
    blind = bound(10, 2., .1, 50, .02, 100.)
    assert all(x>=y for x,y in zip(blind, known))

def test_farthest_reach():
    "The default M is not exceeded by any run of that many steps"
    ps = Problems(50, 6, 10, seed=1)
    run = descend(ps.grad, full(50, 6, .1), 4*.5/10, 80, 10., price=.02)
    G = ps.constants()[0]
    assert (run.max_theta<=.1+run.eta*(G+.02)/10).all()
    for g,M in zip(G.tolist(), run.max_theta.tolist()): assert bias(M, 1., g*math.sqrt(6))<=bound(6, g, .5, 80, .1, 10., price=.02).bias

def test_bound_of_a_schedule():
    etas = [.1/math.sqrt(i+1) for i in range(30)]
    b = bound(5, 1., etas, 30, .1, 10., max_theta=.1)
    assert b.step==pytest.approx(sum(e*e for e in etas)/sum(etas)/8)
    assert bound(5, 1., [.1]*30, 30, .1, 10.)==pytest.approx(bound(5, 1., .1, 30, .1, 10.))

def test_best_step_is_best():
    eta = best_step(7., 1.5, 400)
    value = lambda e: 7/(e*400)+e*1.5**2/8
    assert value(eta)==pytest.approx(1.5*math.sqrt(7/800)) and value(eta)<min(value(1.01*eta), value(.99*eta))

def test_rate():
    "Slope -1/2 in T, on the hardest problems, and within a factor of 2.5 of the bound"
    d,found = 8,[]
    for T in (64, 256, 1024):
        gen,tilt,seen = torch.Generator().manual_seed(T),torch.tensor([1., -1.], dtype=f64).repeat(d//2)/math.sqrt(T),[]
        eta = best_step(d*math.log(2), math.sqrt(d), T)
        descend(lambda v: (torch.rand(300, d, generator=gen)<(1+tilt)/2).to(f64)*2-1, full(300, d, 0), 4*eta/1e4, T, 1e4, observe=lambda i,v,th: seen.append((tilt*v).sum(-1).mean()))
        gap,limit = (torch.stack(seen).mean()-tilt.clamp(max=0).sum()).item(),math.sqrt(d*d*math.log(2)/(2*T))
        assert limit/2.5<gap<limit
        found.append(math.log(gap))
    assert (found[-1]-found[0])/math.log(16)==pytest.approx(-.5, abs=.03)

def test_brute_force():
    ps = Problems(5, 6, 9, 'logistic', seed=2)
    each = torch.stack([ps.F(m.expand(5, 6))+.1*m.sum() for m in all_masks(6)])
    best,m = best_masks(ps, .1)
    assert torch.allclose(best, each.amin(0)) and torch.allclose(ps.F(m.to(f64))+.1*m.sum(-1), best)
    assert best_masks(ps, torch.full((5,), .1))[0].allclose(best) and (best_masks(ps, keep=2)[1].sum(-1)<=2).all()

@given(seeds, st.sampled_from(losses), st.integers(2, 11), st.sampled_from([0., .02, .2]), st.sampled_from([None, 0, 3]))
@settings(max_examples=15)
def test_exact_masks(seed, loss, d, lam, keep):
    "The cutting planes find what brute force finds, and their bound is one"
    ps = Problems(2, d, 15, loss, seed=seed)
    value,mask,low = exact_masks(ps, lam, keep)
    assert torch.allclose(value, best_masks(ps, lam, keep)[0], atol=1e-6) and torch.allclose(ps.F(mask.to(f64))+lam*mask.sum(-1), value)
    assert (low<=value+1e-9).all() and (value-low<=1.01e-6).all() and mask.dtype==torch.bool
    if keep is not None: assert (mask.sum(-1)<=keep).all()

@pytest.mark.parametrize('loss', losses)
def test_exact_masks_at_the_limit_of_brute_force(loss):
    "d = 16 with a price for each problem"
    ps,lam = Problems(2, 16, 40, loss, seed=16),torch.tensor([0., .01], dtype=f64)
    assert torch.allclose(exact_masks(ps, lam)[0], best_masks(ps, lam)[0], atol=1e-6)

def test_exact_masks_beyond_brute_force():
    "d = 18 least squares: all 2**18 masks through the quadratic form, which shares no code with the solver"
    ps = Problems(1, 18, 30, seed=18)
    A,b,m = ps.A[0],ps.b[0],all_masks(18)
    every = ((m@(A.T@A/30)*m).sum(-1)/2-m@(A.T@b/30)+b.square().mean()/2+.005*m.sum(-1))
    value,mask,_ = exact_masks(ps, .005)
    assert value.item()==pytest.approx(every.min().item(), abs=1e-6) and (mask[0]==m[every.argmin()].bool()).all()

def test_exact_masks_that_run_out_of_rounds():
    with pytest.raises(RuntimeError, match='After 1 rounds the best mask has .* raise `rounds` or `tol`'): exact_masks(Problems(d=12), rounds=1)

# --- what is refused

@pytest.mark.parametrize('call,says', [
    (lambda: mirror_step(0., 1e5), 'alpha must be a positive number, got 0.0'),
    (lambda: mirror_step(1., -3), 't_l must be a positive number, got -3'),
    (lambda: damping(torch.zeros(2), math.nan), 't_s must be a positive number, got nan'),
    (lambda: price(-1., 1.), 'gamma must be 0 or more, got -1.0'),
    (lambda: price(math.inf, 1.), 'gamma must be 0 or more, got inf'),
    (lambda: price(True, 1.), 'gamma must be 0 or more, got True'),
    (lambda: pressure(.1, 'fast'), "alpha must be a positive number, got 'fast'"),
    (lambda: bernoulli_kl(torch.tensor([-.1]), torch.zeros(1)), r'must lie in \[0, 1\], got values from -0.1'),
    (lambda: bernoulli_kl(torch.tensor([math.nan]), torch.zeros(1)), r'must lie in \[0, 1\]'),
    (lambda: bias(-1.), 'max_theta must be 0 or more'),
    (lambda: bound(0, 1., .1, 5, .1, 1.), 'd must be a positive number, got 0'),
    (lambda: bound(3, 1., 0., 5, .1, 1.), 'eta must be a positive number, got 0.0'),
    (lambda: bound(3, 1., [.1], 5, .1, 1.), 'eta has 1 steps and T is 5'),
    (lambda: bound(3, 1., .1, 5, .1, 1., pruned=4), 'pruned must lie between 0 and d=3, got 4'),
    (lambda: best_step(-1., 1., 5), 'kl must be a positive number, got -1.0'),
    (lambda: rounding_gap(torch.zeros(2), 0.), 't_l must be a positive number'),
    (lambda: frank_wolfe_gap(torch.zeros(2), torch.zeros(3)), 'must agree'),
    (lambda: frank_wolfe_gap(torch.zeros(2), torch.zeros(2), keep=3), 'keep must lie between 0 and d=2, got 3'),
    (lambda: budget_shift(torch.zeros(4), 0), r'keep must lie in \(0, d=4\], got 0'),
    (lambda: Problems(loss='hinge'), "Unknown loss 'hinge': use one of squares, logistic, absolute"),
    (lambda: Problems(0), 'n_problems must be a positive number, got 0'),
    (lambda: best_masks(Problems(d=17)), r'brute force stops at d = 16. `exact_masks` goes further'),
    (lambda: exact_masks(Problems(d=4), keep=-1), 'keep must be 0 or more, got -1'),
    (lambda: exact_masks(Problems(d=4), tol=0), 'tol must be a positive number, got 0'),
    (lambda: exact_masks(Problems(d=4), rounds=0), 'rounds must be a positive number, got 0'),
    (lambda: descend(torch.ones_like, torch.zeros(2), [.1], 3, 1.), 'alpha has 1 steps and T is 3'),
    (lambda: descend(torch.ones_like, torch.zeros(2), -.1, 3, 1.), 'alpha must be a positive number')])
def test_refuses(call, says):
    with pytest.raises(ValueError, match=says): call()
