"One step of Eq. 4 to 7 against its formula; the schedule and the thresholds against counting."
import copy,io,math
import pytest,torch
from hypothesis import given,settings,strategies as st
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from adaptprune.layer import masked_layer
from adaptprune.mask import n_pruned
from adaptprune.optim import MaskOptimizer,MaskSettings,fitted_alpha,fitted_reach
from adaptprune.sparsity import cubic,rate_factor

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb,self.layer,self.head = nn.Embedding(12, 6),nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)]),nn.Linear(6, 1)
    def forward(self, x):
        h = self.emb(x).mean(1)
        for l in self.layer: h = h+l(h).tanh()
        return self.head(h)[:,0]

X = torch.randint(0, 12, (32, 5), generator=torch.Generator().manual_seed(0))
Y = torch.randn(32, generator=torch.Generator().manual_seed(1))
flat_rates = dict(warmup=0., decay='none')

def net():
    torch.manual_seed(0)
    return Net()
def optimizer(m, sparsity=.5, steps=1000, **kwargs): return MaskOptimizer(m, m.head, sparsity, steps, **{**dict(start='rank'), **kwargs})
def backward(m, n=32):
    m.zero_grad()
    loss = (m(X[:n])-Y[:n]).square().mean()
    loss.backward()
    return loss
def run(m, n, opt, sched=None):
    for _ in range(n):
        backward(m)
        opt.step()
        if sched: sched.step()
    return m
def places(opt): return list(opt.weights)
def thetas(opt): return [p.shaped(p.theta) for p in opt.weights]
def flat(ts): return torch.cat([t.detach().reshape(-1) for t in ts])
def set_thetas(opt, values):
    for t,v in zip(thetas(opt), values): t.copy_(v)
def pruned(opt, group): return sum(int((p.weight==0).sum()) for p in group.places)

# Eq. 4 to 7

@pytest.mark.parametrize('t_s', [0., 1., .1])
@pytest.mark.parametrize('step,head_step', [('plain', 'plain'), ('sign', 'adam'), ('adam', 'adam'), ('sign', 'plain')])
def test_one_step(step, head_step, t_s):
    m,a,b,c = net(),1e-3,1e-2,1e-4
    opt = optimizer(m, step=step, head_step=head_step, alpha=a, beta=b, gamma=c, t_s=t_s, schedule='none', every=100, **flat_rates)
    theta0 = [t.clone() for t in thetas(opt)]
    loss = backward(m)
    base = opt.base_weights()
    slope = lambda t: torch.sigmoid(t_s*t)*(1-torch.sigmoid(t_s*t))*t_s if t_s else torch.ones_like(t)
    grads = [m.get_parameter(n).grad*w0*slope(t) for (n,w0),t in zip(base.items(), theta0)]
    move = dict(plain=lambda g: g, sign=torch.sign, adam=lambda g: g/(g.abs()+1e-8))       # the first step of Adam
    want = [t-a*move[step](g) for t,g in zip(theta0, grads)],[p.detach()-b*move[head_step](p.grad) for p in m.head.parameters()]
    biases = [l.bias.detach().clone() for l in m.layer]
    assert opt.step(lambda: loss)==loss
    for got,ts in zip((thetas(opt), m.head.parameters()), want):
        for g,t in zip(got, ts): torch.testing.assert_close(g.detach(), t, rtol=1e-6, atol=1e-8)
    assert all(g.tau==torch.tensor(c).item() for g in opt.weights.groups)
    assert all(torch.equal(x, l.bias) for x,l in zip(biases, m.layer))
    for (n,w0),t in zip(base.items(), thetas(opt)): assert torch.equal(m.get_parameter(n), w0*(t>torch.tensor(c)))

def test_adam_is_torchs():
    "Theta's Adam is Adam on a theta in the graph"
    m,n = net(),net()
    mine = optimizer(m, step='adam', alpha=1e-2, beta=1e-3, schedule='none', gamma=1e-9, every=1000, t_l=1e3, **flat_rates)
    theta0 = [t.clone() for t in thetas(mine)]
    masked = [masked_layer(l, t, tau=0., t_l=1e3) for l,t in zip([n.emb, *n.layer], theta0)]
    for l in n.layer: l.bias.requires_grad_(False)
    theirs = torch.optim.Adam([dict(params=[w.theta for w in masked], lr=1e-2), dict(params=n.head.parameters(), lr=1e-3)])
    for _ in range(20):
        backward(m)
        mine.step()
        backward(n)
        theirs.step()
        for w in masked: w.tau.add_(1e-9)
    torch.testing.assert_close(flat(thetas(mine)), flat([w.theta for w in masked]), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(flat(m.head.parameters()), flat(n.head.parameters()), rtol=1e-4, atol=1e-6)

@pytest.mark.parametrize('step', ['plain', 'sign', 'adam'])
def test_sparse_gradients_step_as_dense_ones(step):
    got = []
    for sparse in (False, True):
        m = net()
        opt = optimizer(m, step=step, alpha=1e-3, beta=1e-3, sparse_grad=sparse)
        backward(m, 3)
        assert m.emb.weight.grad.is_sparse==(sparse and step!='adam')
        for _ in range(5):
            opt.step()
            backward(m, 3)
        got.append((flat(thetas(opt)), flat(p.weight for p in opt.weights)))
    for a,b in zip(*got): torch.testing.assert_close(a, b, rtol=0, atol=1e-7)

def test_no_gradient_no_step():
    "Rows that no batch has looked up stay; a parameter without a gradient as well"
    m = net()
    opt = optimizer(m, alpha=1e-3, beta=1e-2, **flat_rates)
    emb,before = places(opt)[0],places(opt)[0].theta.clone()
    backward(m)
    m.emb.weight.grad = None
    opt.step()
    assert torch.equal(emb.theta, before)
    backward(m, 1)
    opt.step()
    seen = torch.zeros(12, dtype=torch.bool).index_fill(0, X[0], True)
    assert torch.equal((emb.theta!=before).view(12, 6).any(1), seen)

@pytest.mark.parametrize('step', ['plain', 'sign', 'adam'])
def test_gamma_is_sinking_theta(step):
    "Eq. 7 as printed, in double precision by hand, beside the threshold that rises"
    m,n,gamma = net(),net(),5e-5
    kw = dict(start='normal', step=step, alpha=1e-4, beta=1e-3, schedule='none', every=1000, t_l=1e3, **flat_rates)
    a = optimizer(m, gamma=gamma, **kw)
    run(m, 40, a)
    b = optimizer(n, gamma=1e-30, **kw)
    for _ in range(40):
        backward(n)
        b.step()
        with torch.no_grad():
            for t in thetas(b): t.sub_(gamma)
            b.weights.write()
    gap = torch.cat([p.theta-p.group.tau for p in a.weights])
    torch.testing.assert_close(gap, flat(thetas(b)), rtol=0, atol=2e-5)
    masks = [torch.cat([p.theta>p.group.tau for p in o.weights]) for o in (a, b)]
    assert (masks[0]==masks[1]).float().mean()>.99

def test_gamma_works_without_a_learning_rate():
    m = net()
    opt = optimizer(m, start='normal', alpha=0., gamma=1e-3, schedule='none', every=1, **flat_rates)
    run(m, 5, opt)
    assert opt.weights.groups[0].tau==pytest.approx(5e-3)

def test_groups():
    m = nn.Sequential(net(), nn.Linear(1, 2))
    opt = MaskOptimizer(m[0], [*m[0].head.parameters(), *m[1].parameters()], .5, 10, alpha=1., beta=2., start='rank')
    roles = {g['role']: g for g in opt.param_groups}
    assert {r: g['lr'] for r,g in roles.items()}==dict(theta=1., head=2.)
    assert {id(p) for p in roles['head']['params']}=={id(p) for p in [*m[0].head.parameters(), *m[1].parameters()]}
    assert [id(p) for p in roles['theta']['params']]==[id(p) for p in (m[0].emb.weight, m[0].layer[0].weight, m[0].layer[1].weight)]
    assert not any(g.get('weight_decay') for g in roles.values())
    alone = MaskOptimizer(nn.Linear(2, 2), sparsity=.5, steps=10, start='rank')
    assert [g['role'] for g in alone.param_groups]==['theta']

def test_theta_does_not_decay():
    m = net()
    opt = optimizer(m, alpha=1., beta=0., schedule_end=1.)
    before = flat(thetas(opt))
    for _ in range(50):
        for p in opt.weights: p.param.grad = torch.zeros_like(p.param)
        opt.step()
    torch.testing.assert_close(flat(thetas(opt)), before, rtol=0, atol=1e-8)      # ties at the threshold move by a unit in the last place

@pytest.mark.parametrize('change,error', [(dict(step='newton'), "Unknown step 'newton' of theta: use one of plain, sign, adam"),
    (dict(beta=-1.), 'beta must be 0 or more, got -1'), (dict(alpha=math.nan), 'alpha must be 0 or more, got nan'),
    (dict(spread=math.inf), 'spread must be 0 or more, got inf'), (dict(t_l=0.), 't_l must be positive, got 0'),
    (dict(t_s=-1.), 't_s must be 0 or more, got -1'), (dict(start='magnitude'), "Unknown start 'magnitude'"),
    (dict(head_step='sign'), "Unknown head_step 'sign': use one of adam, plain"), (dict(decay='step'), "Unknown decay 'step'"),
    (dict(schedule='linear'), "Unknown schedule 'linear'"), (dict(every=0), 'every must be a number of steps, 1 or more, got 0'),
    (dict(every=2.5), 'got 2.5'), (dict(every=True), 'got True'),
    (dict(warmup=1.5), 'warmup must be a fraction of the steps, 0 to 1, got 1.5'),
    (dict(schedule_end=-.1), 'schedule_end must be a fraction'), (dict(reach=0), 'reach must be positive, got 0'),
    (dict(reach=-1.), 'reach must be 0 or more, got -1')], ids=str)
def test_bad_settings(change, error):
    with pytest.raises(ValueError, match=error): MaskSettings(**change)

def test_unknown_settings_and_budgets():
    with pytest.raises(ValueError, match="no setting 'momentum'"): optimizer(net(), momentum=.9)
    with pytest.raises(ValueError, match="Unknown budget 'row'"): optimizer(net(), budget='row')
    with pytest.raises(ValueError, match='gamma is what prunes, and it is 0'): optimizer(net(), schedule='none')

@pytest.mark.parametrize('sparsity,reach', [(.9, 1.), (.4, 1.), (.25, 1.6), (.2, 2.), (.0, 2.)])
def test_reach(sparsity, reach):
    "A theta that always steps one way travels so many spreads"
    assert fitted_reach(MaskSettings(), sparsity)==pytest.approx(reach) and fitted_reach(MaskSettings(reach=.3), sparsity)==.3
    for changes in (dict(), dict(warmup=0., decay='none'), dict(decay='cosine')):
        alpha = fitted_alpha(MaskSettings(**changes), 50, sparsity)
        far = sum(alpha*rate_factor((i+.5)/50, changes.get('warmup', .1), changes.get('decay', 'linear')) for i in range(50))
        assert far==pytest.approx(reach*.05)
    assert fitted_alpha(MaskSettings(alpha=.25), 50)==.25

def test_a_theta_travels_its_reach():
    m = net()
    opt = optimizer(m, steps=40, reach=.7, schedule='constant', every=1000)
    before = flat(thetas(opt))
    for _ in range(40):
        for p in opt.weights: p.param.grad = torch.ones_like(p.param)*p.shaped(p.w0).sign()
        opt.step()
    far = before-flat(thetas(opt))
    assert far.max()==pytest.approx(.7*.05, rel=1e-3) and far.min()==pytest.approx(.7*.05, rel=1e-3)

@pytest.mark.parametrize('step', ['sign', 'plain', 'adam'])
def test_optimizer_state_round_trip(step):
    m = net()
    kw = dict(step=step, alpha=1e-3, beta=1e-3, t_l=1e3, every=2)
    opt = optimizer(m, steps=30, **kw)
    run(m, 5, opt)
    twin,f = copy.deepcopy(m),io.BytesIO()
    torch.save(opt.state_dict(), f)
    f.seek(0)
    with torch.no_grad():
        for n,w0 in opt.base_weights().items(): twin.get_parameter(n).copy_(w0)
    opt2 = optimizer(twin, steps=30, **kw)
    opt2.load_state_dict(torch.load(f, weights_only=True))
    assert all(torch.equal(p, q) for p,q in zip(m.parameters(), twin.parameters()))
    run(m, 5, opt)
    run(twin, 5, opt2)
    assert all(torch.equal(p, q) for p,q in zip(m.parameters(), twin.parameters())) and opt.i==opt2.i==10

def test_an_early_state_clears_what_came_later():
    m = net()
    opt = optimizer(m, steps=30, step='adam')
    early = copy.deepcopy(opt.state_dict())
    run(m, 4, opt)
    first = flat(thetas(opt))
    opt.load_state_dict(early)
    with torch.no_grad():
        for p,q in zip(m.head.parameters(), net().head.parameters()): p.copy_(q)
    run(m, 4, opt)
    assert torch.equal(flat(thetas(opt)), first)

@pytest.mark.parametrize('bad', [False, True])
def test_grad_scaler(bad):
    "A scaled loss takes the same step; gradients that overflow take none, gamma's included"
    m,n = net(),net()
    kw = dict(alpha=1e-3, beta=1e-3, gamma=1e-5, schedule='none')
    opt,scaler = optimizer(m, **kw),torch.amp.GradScaler('cpu', init_scale=2.**10)
    before = [p.detach().clone() for p in m.parameters()]
    loss = (m(X)-Y).square().mean()
    scaler.scale(loss*(math.inf if bad else 1)).backward()
    scaler.step(opt)
    scaler.update()
    assert opt.i==int(not bad) and (opt.weights.groups[0].tau==0)==bad
    if not bad: run(n, 1, optimizer(n, **kw))
    for p,q in zip(m.parameters(), before if bad else n.parameters()): torch.testing.assert_close(p, q, rtol=0, atol=1e-6)

# learning rates

def test_scheduler_scales_all_rates_alike():
    m,n = net(),50
    opt = optimizer(m, steps=n, alpha=1e-3, beta=1e-2, gamma=1e-4, schedule='none', every=1000)
    sched = LambdaLR(opt, lambda i: rate_factor(i/n, .2, 'cosine'))
    for i in range(n-1):
        f = rate_factor(i/n, .2, 'cosine')
        assert [g['lr'] for g in opt.param_groups]==pytest.approx([1e-3*f, 1e-2*f]) and opt.factor()==1
        assert (opt.lr('theta'), opt.lr('head'))==pytest.approx((1e-3*f, 1e-2*f))
        backward(m)
        opt.step()
        sched.step()
    total = 1e-4*sum(rate_factor(i/n, .2, 'cosine') for i in range(n-1))
    assert all(g.tau==pytest.approx(total, rel=1e-4) for g in opt.weights.groups)

def test_without_a_scheduler_the_rates_decay_by_themselves():
    m = net()
    opt = optimizer(m, steps=20, alpha=1e-3, beta=1e-2)
    seen = []
    for i in range(20):
        seen.append(opt.lr('theta'))
        assert opt.lr('head')==pytest.approx(10*opt.lr('theta'))
        run(m, 1, opt)
    assert seen==pytest.approx([1e-3*rate_factor((i+.5)/20) for i in range(20)]) and max(seen)<=1e-3
    assert [g['lr'] for g in opt.param_groups]==[1e-3, 1e-2]

# exact sparsity

@pytest.mark.parametrize('budget', ['global', 'layer', 'matrix', lambda name: 'emb' in name])
@pytest.mark.parametrize('recovery', [True, False])
@pytest.mark.parametrize('sparsity', [.05, .5, .93])
def test_schedule_to_the_weight(budget, recovery, sparsity):
    m,n = net(),30
    opt = optimizer(m, sparsity, n, alpha=3e-3, beta=1e-3, budget=budget, every=3, recovery=recovery)
    assert len(opt.weights.groups)==(2 if callable(budget) else dict(layer=3, matrix=3).get(budget, 1))
    seen = torch.zeros(opt.weights.n, dtype=torch.bool)
    for i in range(1, n+1):
        assert not opt.done and backward(m).isfinite()
        opt.step()
        now = torch.cat([p.weight==0 for p in opt.weights])
        if i==n or i%opt.every==0:
            want = sparsity if i==n else cubic(i/n, sparsity)
            assert [pruned(opt, g) for g in opt.weights.groups]==[n_pruned(g.n, want) for g in opt.weights.groups]
        if not recovery: assert not (seen & ~now).any(), 'a pruned weight came back'
        seen |= now
        assert all(math.isfinite(g.tau) for g in opt.weights.groups)
    assert opt.done and opt.target_met() and opt.sparsity()==opt.mask().sparsity
    assert (opt.recovered()==0) or recovery

@settings(max_examples=40)
@given(st.floats(0, 1, exclude_max=True), st.sampled_from(['global', 'matrix']), st.booleans(), st.integers(0, 2**31))
def test_massive_ties(sparsity, budget, recovery, seed):
    "A constant start, thetas on a coarse grid: still to the weight, and theta hardly moves"
    m = net()
    opt = optimizer(m, sparsity, 1, alpha=0., budget=budget, recovery=recovery)
    g = torch.Generator().manual_seed(seed)
    set_thetas(opt, [torch.randint(-1, 2, t.shape, generator=g)*.01 for t in thetas(opt)])
    before = flat(thetas(opt))
    run(m, 1, opt)
    assert opt.target_met() and opt.done
    gap = (flat(thetas(opt))-before)[flat(thetas(opt)).isfinite()]
    assert not len(gap) or gap.abs().max()<1e-8
    assert opt.mask().kept==sum(g.n-n_pruned(g.n, sparsity) for g in opt.weights.groups)

def test_a_target_of_nothing_still_learns():
    "A sparsity that rounds to no weight leaves thetas a slope"
    m = net()
    opt = optimizer(m, 0., 10, alpha=1e-3, every=1)
    before = flat(thetas(opt))
    run(m, 5, opt)
    assert opt.sparsity()==0 and (flat(thetas(opt))!=before).float().mean()>.9
    assert all(torch.equal(p.weight, p.w0) for p in opt.weights)

@pytest.mark.parametrize('every', [1, 4])
def test_recovered_is_a_count(every):
    m,n = net(),40
    opt = optimizer(m, .6, n, alpha=3e-3, beta=1e-3, every=every)
    gone = torch.zeros(opt.weights.n, dtype=torch.bool)
    while not opt.done:
        run(m, 1, opt)
        if opt.i%every==0: gone |= torch.cat([p.weight==0 for p in opt.weights])
    kept = torch.cat([p.weight!=0 for p in opt.weights])
    assert opt.recovered()==pytest.approx(int((kept&gone).sum())/int(kept.sum())) and opt.recovered()>0

def test_stopping_rule():
    "Algorithm 1 stops at the first threshold update past the target, and at the end of its steps in any case"
    m = net()
    opt = optimizer(m, .5, 1000, start='normal', alpha=1e-4, beta=1e-3, gamma=5e-4, schedule='none', every=1, **flat_rates)
    trail = []
    while not opt.done:
        run(m, 1, opt)
        trail.append(opt.sparsity())
    assert trail[-1]>=.5>max(trail[:-1]) and opt.i==len(trail)<1000 and opt.target_met()
    m = net()
    opt = optimizer(m, .5, 7, start='normal', gamma=1e-9, alpha=1e-9, schedule='none', every=2)
    run(m, 7, opt)
    assert opt.done and not opt.target_met() and opt.sparsity()==0

def test_tied_weights_count_once():
    m = nn.ModuleDict(dict(a=nn.Embedding(10, 4), b=nn.Linear(4, 10, bias=False)))
    m['b'].weight = m['a'].weight
    opt = MaskOptimizer(m, sparsity=.25, steps=1, start='rank')
    m['b'](m['a'](torch.arange(10))).square().mean().backward()
    opt.step()
    assert opt.weights.n==40 and int((m['a'].weight==0).sum())==10

@pytest.mark.parametrize('recovery', [True, False])
def test_state_round_trip(recovery):
    m,kw = net(),dict(recovery=recovery, every=3, alpha=3e-3, beta=1e-3)
    opt = optimizer(m, .6, 30, **kw)
    run(m, 13, opt)
    f = io.BytesIO()
    torch.save(opt.state_dict(), f)
    f.seek(0)
    twin = copy.deepcopy(m)
    for n,w0 in opt.base_weights().items(): twin.get_parameter(n).data.copy_(w0)
    opt2 = optimizer(twin, .6, 30, **kw)
    opt2.load_state_dict(torch.load(f, weights_only=True))
    run(m, 17, opt)
    run(twin, 17, opt2)
    assert opt2.i==opt.i==30 and opt2.done and opt2.target_met() and opt2.recovered()==opt.recovered() and opt2.mask()==opt.mask()
    if recovery: assert opt2.recovered()>0
    else: assert opt2.recovered()==opt.recovered()==0

def test_state_of_the_last_step():
    m = net()
    opt = optimizer(m, .5, 4, every=2, alpha=1e-3)
    run(m, 4, opt)
    state,mask = opt.state_dict(),opt.mask()
    opt.close()
    opt.restore()
    again = optimizer(m, .5, 4, every=2, alpha=1e-3)
    again.load_state_dict(state)
    assert again.done and again.target_met() and again.mask()==mask

# starts

def test_start_is_the_rank_of_the_scores_in_each_matrix():
    m = net()
    scores = {n: torch.rand(p.shape) for n,p in m.named_parameters() if p.ndim>1 and 'head' not in n}
    opt = MaskOptimizer(m, m.head, .5, 10, scores=scores, spread=.1)
    for n,t in zip(scores, thetas(opt)):
        assert torch.equal(t.reshape(-1).argsort(), scores[n].reshape(-1).argsort(stable=True)) and 0<t.min() and t.max()<.1

def test_normal_start_is_seeded():
    a,b,c = (flat(thetas(optimizer(net(), start='normal', seed=s))) for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)

def test_a_start_without_scores_says_so():
    with pytest.warns(UserWarning, match="No scores were given for start='activation'"): opt = optimizer(net(), start='activation')
    assert torch.equal(flat(thetas(opt)), flat(thetas(optimizer(net(), start='rank'))))

def test_theta_is_float32_in_any_precision():
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        m = net().to(dtype)
        opt = optimizer(m, steps=6, every=1)
        for _ in range(6):
            m.zero_grad()
            (m(X)-Y).square().mean().backward()
            opt.step()
        assert all(p.theta.dtype==torch.float32 and p.w0.dtype==dtype for p in opt.weights) and opt.target_met()

def test_max_theta():
    m = net()
    opt = optimizer(m, .5, 5, every=1, recovery=False)
    run(m, 5, opt)
    x = flat(thetas(opt))
    assert opt.max_theta()==(x[x.isfinite()]-opt.weights.groups[0].tau).abs().max().item()
    assert x.isinf().any()
