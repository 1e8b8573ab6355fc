"One step of Eq. 5 to 7 against its formula; the controller against counting."
import copy,io,math
import pytest,torch
from hypothesis import given,settings,strategies as st
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from adaptprune.layer import attach,get_mask,masked_weights
from adaptprune.mask import n_pruned
from adaptprune.optim import MaskOptimizer,SparsityController,cubic,linear,mask_groups,pack_bits,rate_factor,unpack_bits

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

def net(start='rank', **kwargs):
    torch.manual_seed(0)
    m = attach(Net(), ['*', '!head*'], start, **kwargs)
    m.head.requires_grad_(True)
    return m
def backward(m, n=32):
    m.zero_grad(); loss = (m(X[:n])-Y[:n]).square().mean(); loss.backward()
    return loss
def run(m, n, opt, ctl=None, sched=None):
    for _ in range(n):
        backward(m); opt.step()
        if sched: sched.step()
        if ctl: ctl.step()
    return m
def thetas(m): return [w.theta for w in masked_weights(m).values()]
def flat(ts): return torch.cat([t.detach().reshape(-1) for t in ts])
def pruned(ws): return sum(int((~w.mask).sum()) for w in ws)

# Eq. 5 to 7

@pytest.mark.parametrize('step,head_step', [('plain', 'plain'), ('sign', 'sign'), ('adam', 'adam'), ('sign', 'adam')])
def test_one_step(step, head_step):
    m,a,b,c = net(),1e-3,1e-2,1e-4
    loss = backward(m)
    move = dict(plain=lambda g: g, sign=torch.sign, adam=lambda g: g/(g.abs()+1e-8))       # the first step of Adam
    want = [t.detach()-a*move[step](t.grad) for t in thetas(m)],[p.detach()-b*move[head_step](p.grad) for p in m.head.parameters()]
    frozen = [w.w0.clone() for w in masked_weights(m).values()]+[l.bias.clone() for l in m.layer]
    assert MaskOptimizer(mask_groups(m, a, b, c, step, head_step)).step(lambda: loss)==loss
    for got,ts in zip((thetas(m), m.head.parameters()), want):
        for g,t in zip(got, ts): torch.testing.assert_close(g.detach(), t, rtol=1e-6, atol=1e-8)
    assert all(w.tau==torch.tensor(c) for w in masked_weights(m).values())
    assert all(torch.equal(x, y) for x,y in zip(frozen, [w.w0 for w in masked_weights(m).values()]+[l.bias for l in m.layer]))

@pytest.mark.parametrize('betas,eps', [((.9, .999), 1e-8), ((.5, .9), 1e-4)])
def test_adam_is_torchs(betas, eps):
    m = net()
    n = copy.deepcopy(m)
    mine = MaskOptimizer(mask_groups(m, 1e-2, 1e-3, step='adam'), betas, eps)
    theirs = torch.optim.Adam([dict(params=thetas(n), lr=1e-2), dict(params=n.head.parameters(), lr=1e-3)], betas=betas, eps=eps)
    run(m, 20, mine); run(n, 20, theirs)
    torch.testing.assert_close(flat(thetas(m)), flat(thetas(n)), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(flat(m.head.parameters()), flat(n.head.parameters()), rtol=1e-5, atol=1e-7)

@pytest.mark.parametrize('step', ['plain', 'sign', 'adam'])
def test_sparse_gradients_step_as_dense_ones(step):
    got = []
    for sparse in (False, True):
        m = net(sparse_grad=sparse)
        opt = MaskOptimizer(mask_groups(m, 1e-3, 1e-3, step=step))
        backward(m, 3)
        assert m.emb.weight_theta.grad.is_sparse==sparse
        for _ in range(5): opt.step(); backward(m, 3)
        got.append(flat(thetas(m)))
    torch.testing.assert_close(*got, rtol=0, atol=1e-7)

def test_no_gradient_no_step():
    "Rows that no batch has looked up stay; a parameter without a gradient as well"
    m = net()
    before = m.emb.weight_theta.detach().clone()
    opt = MaskOptimizer(mask_groups(m, 1e-3, 1e-2, step='sign'))
    opt.step()
    assert torch.equal(m.emb.weight_theta, before)
    backward(m, 1); opt.step()
    seen = torch.zeros(12, dtype=torch.bool).index_fill(0, X[0], True)
    assert torch.equal((m.emb.weight_theta!=before).any(1), seen)

@pytest.mark.parametrize('step', ['plain', 'sign', 'adam'])
def test_gamma_is_sinking_theta(step):
    "Eq. 7 as printed, in double precision by hand, beside the threshold that rises"
    m,gamma = net('normal', t_l=1e3),5e-5
    n = copy.deepcopy(m)
    run(m, 40, MaskOptimizer(mask_groups(m, 1e-4, 1e-3, gamma, step)))
    opt = MaskOptimizer(mask_groups(n, 1e-4, 1e-3, 0., step))
    for _ in range(40):
        backward(n); opt.step()
        with torch.no_grad():
            for t in thetas(n): t.sub_(gamma)
    gap = torch.cat([(w.theta.detach()-w.tau).view(-1) for w in masked_weights(m).values()])
    torch.testing.assert_close(gap, flat(thetas(n)), rtol=0, atol=2e-5)
    assert get_mask(m).jaccard(get_mask(n))>.99

def test_groups():
    m = nn.Sequential(net(), nn.Linear(1, 2))
    roles = {g['role']: g for g in MaskOptimizer(mask_groups(m, 1., 2., 3.)).param_groups}
    assert {r: g['lr'] for r,g in roles.items()}==dict(theta=1., tau=3., head=2.)
    assert {id(p) for p in roles['head']['params']}=={id(p) for p in [*m[0].head.parameters(), *m[1].parameters()]}
    assert len(roles['theta']['params'])==len(roles['tau']['params'])==3
    assert not any(g.get('weight_decay') for g in roles.values())
    alone = attach(nn.Linear(2, 2))
    assert [g['role'] for g in mask_groups(alone)]==['theta', 'tau']

def test_theta_does_not_decay():
    m = net()
    before = flat(thetas(m))
    opt = MaskOptimizer(mask_groups(m, 1., 0.))
    for _ in range(50):
        for t in thetas(m): t.grad = torch.zeros_like(t)
        opt.step()
    assert torch.equal(flat(thetas(m)), before)

@pytest.mark.parametrize('group,error', [(dict(step='newton'), "Unknown step 'newton': use one of plain, sign, adam"),
    (dict(lr=-1.), 'head group must not be negative, got -1'),
    (dict(lr=math.nan, role='theta'), 'theta group must not be negative, got nan')], ids=str)
def test_bad_groups(group, error):
    with pytest.raises(ValueError, match=error): MaskOptimizer([dict(params=[nn.Parameter(torch.ones(1))], **group)])

def test_groups_need_masks():
    with pytest.raises(ValueError, match='no masks attached: call `attach'): mask_groups(nn.Linear(2, 2))

def test_optimizer_state_round_trip():
    m = net()
    opt = MaskOptimizer(mask_groups(m, 1e-3, 1e-3, 1e-5, 'adam'))
    run(m, 5, opt)
    twin,f = copy.deepcopy(m),io.BytesIO()
    torch.save(opt.state_dict(), f); f.seek(0)
    opt2 = MaskOptimizer(mask_groups(twin, 1., 1., 1., 'plain'))
    opt2.load_state_dict(torch.load(f, weights_only=True))
    run(m, 5, opt); run(twin, 5, opt2)
    assert all(torch.equal(p, q) for p,q in zip(m.parameters(), twin.parameters()))

@pytest.mark.parametrize('bad', [False, True])
def test_grad_scaler(bad):
    "A scaled loss takes the same step; gradients that overflow take none, gamma's included"
    m = net()
    n = copy.deepcopy(m)
    opt,scaler = MaskOptimizer(mask_groups(m, 1e-3, 1e-3, 1e-5)),torch.amp.GradScaler('cpu', init_scale=2.**10)
    before = [p.detach().clone() for p in m.parameters()]
    loss = (m(X)-Y).square().mean()
    scaler.scale(loss*(math.inf if bad else 1)).backward(); scaler.step(opt); scaler.update()
    if not bad: run(n, 1, MaskOptimizer(mask_groups(n, 1e-3, 1e-3, 1e-5)))
    for p,q in zip(m.parameters(), before if bad else n.parameters()): torch.testing.assert_close(p, q, rtol=0, atol=1e-6,
        check_stride=False)

# schedules

def test_scheduler_scales_all_rates_alike():
    m,n = net(),50
    opt = MaskOptimizer(mask_groups(m, 1e-3, 1e-2, 1e-4))
    sched = LambdaLR(opt, lambda i: rate_factor(i/n, .2, 'cosine'))
    for i in range(n):
        assert [g['lr'] for g in opt.param_groups]==pytest.approx([1e-3*(f:=rate_factor(i/n, .2, 'cosine')), 1e-4*f, 1e-2*f])
        backward(m); opt.step(); sched.step()
    total = 1e-4*sum(rate_factor(i/n, .2, 'cosine') for i in range(n))
    assert all(w.tau.item()==pytest.approx(total, rel=1e-4) for w in masked_weights(m).values())

@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from(['linear', 'cosine', 'none']))
def test_rate_factor(x, warmup, decay):
    assert 0<=rate_factor(x, warmup, decay)<=1
    assert rate_factor(warmup, warmup, decay)==pytest.approx(1)
    if decay!='none' and warmup<1: assert rate_factor(1, warmup, decay)==pytest.approx(0)

@given(st.floats(0, 1), st.floats(0, .99), st.floats(0, 1), st.floats(0, 1))
def test_cubic(x, s, start, end):
    y = cubic(x, s, start, end)
    assert 0<=y<=s and cubic(1., s, start, end)==s
    assert y<=cubic(min(x+.1, 1), s, start, end)
    if end>start and x<=start: assert y==0

def test_unknown_decay():
    with pytest.raises(ValueError, match="Unknown decay 'step': use linear, cosine or none"): rate_factor(.5, decay='step')

# exact sparsity

@pytest.mark.parametrize('budget', ['global', 'layer', 'matrix'])
@pytest.mark.parametrize('recovery', [True, False])
@pytest.mark.parametrize('sparsity', [.05, .5, .93])
def test_schedule_to_the_weight(budget, recovery, sparsity):
    m,n = net(),30
    opt,ctl = MaskOptimizer(mask_groups(m, 3e-3, 1e-3)),SparsityController(m, sparsity, n, budget=budget, every=3, recovery=recovery)
    assert len(ctl.groups)==dict(layer=3, matrix=3).get(budget, 1)
    seen = torch.zeros(ctl.n, dtype=torch.bool)
    for i in range(1, n+1):
        assert not ctl.done and backward(m).isfinite()
        opt.step(); ctl.step()
        now = torch.cat([~w.mask.view(-1) for w in ctl.weights.values()])
        if i==n or i%ctl.every==0:
            want = sparsity if i==n else cubic(i/n, sparsity)
            assert [pruned(ws) for ws in ctl.groups]==[n_pruned(sum(w.theta.numel() for w in ws), want) for ws in ctl.groups]
        if not recovery: assert not (seen & ~now).any(), 'a pruned weight came back'
        seen |= now
        assert all(w.tau.isfinite() for w in ctl.weights.values())
    assert ctl.done and ctl.target_met() and ctl.sparsity()==get_mask(m).sparsity
    assert (ctl.recovered()==0) or recovery

@settings(max_examples=40)
@given(st.floats(0, 1, exclude_max=True), st.sampled_from(['global', 'matrix']), st.booleans(), st.integers(0, 2**31))
def test_massive_ties(sparsity, budget, recovery, seed):
    "A constant start, thetas on a coarse grid: still to the weight, and theta hardly moves"
    m = net()
    g = torch.Generator().manual_seed(seed)
    for t in thetas(m): t.data.copy_(torch.randint(-1, 2, t.shape, generator=g)*.01)
    before = flat(thetas(m))
    ctl = SparsityController(m, sparsity, 1, budget=budget, recovery=recovery)
    ctl.step()
    assert ctl.target_met() and ctl.done
    gap = (flat(thetas(m))-before)[flat(thetas(m)).isfinite()]
    assert not len(gap) or gap.abs().max()<1e-8

def test_a_target_of_nothing_still_learns():
    "A sparsity that rounds to no weight leaves thetas a slope"
    m = net()
    run(m, 5, MaskOptimizer(mask_groups(m, 1e-3)), ctl:=SparsityController(m, 0., 10, every=1))
    backward(m)
    assert ctl.sparsity()==0 and all(t.grad.any() for t in thetas(m))

@pytest.mark.parametrize('every', [1, 4])
def test_recovered_is_a_count(every):
    m,n = net(),40
    opt,ctl = MaskOptimizer(mask_groups(m, 3e-3)),SparsityController(m, .6, n, every=every)
    gone = torch.zeros(ctl.n, dtype=torch.bool)
    while not ctl.done:
        run(m, 1, opt, ctl)
        if ctl.i%every==0: gone |= torch.cat([~w.mask.view(-1) for w in ctl.weights.values()])
    kept = torch.cat([w.mask.view(-1) for w in ctl.weights.values()])
    assert ctl.recovered()==pytest.approx(int((kept&gone).sum())/int(kept.sum())) and ctl.recovered()>0

def test_stopping_rule():
    "Algorithm 1 stops at the first look past the target, and at the end of its steps in any case"
    m = net('normal')
    opt,ctl = MaskOptimizer(mask_groups(m, 1e-4, 1e-3, 5e-4)),SparsityController(m, .5, 1000, schedule=None, every=1)
    trail = []
    while not ctl.done: run(m, 1, opt, ctl); trail.append(ctl.sparsity())
    assert trail[-1]>=.5>max(trail[:-1]) and ctl.i==len(trail)<1000 and ctl.target_met()
    m = net('normal')
    ctl = SparsityController(m, .5, 7, schedule=None, every=2)
    run(m, 7, MaskOptimizer(mask_groups(m, 1e-9)), ctl)
    assert ctl.done and not ctl.target_met() and ctl.sparsity()==0

def test_tied_weights_count_once():
    m = nn.ModuleDict(dict(a=nn.Embedding(10, 4), b=nn.Linear(4, 10, bias=False)))
    m['b'].weight = m['a'].weight
    ctl = SparsityController(attach(m), .25, 1)
    ctl.step()
    assert ctl.n==40 and pruned(ctl.weights.values())==10

@pytest.mark.parametrize('recovery', [True, False])
def test_controller_state_round_trip(recovery):
    m,kw = net(),dict(recovery=recovery, every=3)
    opt,ctl = MaskOptimizer(mask_groups(m, 3e-3, 1e-3)),SparsityController(m, .6, 30, **kw)
    run(m, 13, opt, ctl)
    f = io.BytesIO(); torch.save(ctl.state_dict(), f); f.seek(0)
    twin = copy.deepcopy(m)
    ctl2 = SparsityController(twin, .6, 30, **kw)
    ctl2.load_state_dict(torch.load(f, weights_only=True))
    run(m, 17, opt, ctl); run(twin, 17, MaskOptimizer(mask_groups(twin, 3e-3, 1e-3, head_step='adam')), ctl2)
    assert ctl2.i==ctl.i==30 and ctl2.done and ctl2.target_met()
    if recovery: assert ctl2.recovered()>0
    else: assert ctl2.recovered()==ctl.recovered()==0

@pytest.mark.parametrize('kw', [dict(n_steps=0), dict(n_steps=5, every=0)], ids=str)
def test_controller_refuses(kw):
    with pytest.raises(ValueError, match='n_steps and every must be 1 or more'): SparsityController(net(), .5, **kw)

@given(st.integers(0, 70), st.integers(0, 99))
def test_bits(n, seed):
    b = torch.rand(n, generator=torch.Generator().manual_seed(seed))<.5
    assert torch.equal(unpack_bits(pack_bits(b), n), b) and len(pack_bits(b))==-(-n//8)
    assert [int(x) for x in pack_bits(b)]==[sum(int(v)<<j for j,v in enumerate(b[i:i+8])) for i in range(0, n, 8)]

# further steps, penalties, rates by layer, averages, temperatures

def test_normalised_step_has_rms_alpha():
    m = net()
    before = [t.detach().clone() for t in thetas(m)]
    opt = MaskOptimizer(mask_groups(m, 1e-3, step='normalised'))
    backward(m); opt.step()
    for t,b in zip(thetas(m), before):
        d = t.detach()-b
        assert d.square().mean().sqrt().item()==pytest.approx(1e-3, rel=1e-3)
        torch.testing.assert_close(d/d.norm(), -t.grad/t.grad.norm())

@pytest.mark.parametrize('step', ['sign', 'plain', 'normalised'])
def test_momentum_steps_along_the_average(step):
    m,mu = net(),.8
    opt,avg = MaskOptimizer(mask_groups(m, 1e-3, step=step, momentum=mu)),[0.]*3
    for _ in range(4):
        before = [t.detach().clone() for t in thetas(m)]
        backward(m); opt.step()
        for i,(t,b) in enumerate(zip(thetas(m), before)):
            avg[i] = mu*avg[i]+(1-mu)*t.grad
            want = dict(sign=avg[i].sign(), plain=avg[i], normalised=avg[i]/avg[i].square().mean().sqrt())[step]
            torch.testing.assert_close(t.detach(), b-1e-3*want, atol=1e-7, rtol=1e-4)

def test_momentum_out_of_range():
    with pytest.raises(ValueError, match='momentum must be in'): MaskOptimizer(mask_groups(net(), momentum=1.))

def test_pull_is_the_gradient_of_a_prior():
    m = net()
    start = [t.detach().clone() for t in thetas(m)]
    opt = MaskOptimizer(mask_groups(m, .5, step='plain', pull=.3))
    run(m, 2, opt)
    before = [t.detach().clone() for t in thetas(m)]
    backward(m); opt.step()
    for t,b,s in zip(thetas(m), before, start):
        force = .3*t.grad.square().mean().sqrt()*(b-s)/s.std(correction=0)
        assert force.any()
        torch.testing.assert_close(t.detach(), b-.5*(t.grad+force))

def test_pull_holds_what_has_no_cause():
    "Thetas that only noise moves stay nearer to their start"
    far = {}
    for pull in (0., 1.):
        m = net()
        start,opt,g = flat(thetas(m)),MaskOptimizer(mask_groups(m, 1e-3, step='sign', pull=pull)),torch.Generator().manual_seed(0)
        for _ in range(200):
            for t in thetas(m): t.grad = torch.randn(t.shape, generator=g)
            opt.step()
        far[pull] = (flat(thetas(m))-start).std().item()
    assert far[1.]<.8*far[0.]

def test_layer_decay():
    m = net()
    before = [t.detach().clone() for t in thetas(m)]
    opt = MaskOptimizer(mask_groups(m, 1e-3, layer_decay=.5))
    backward(m); opt.step()
    for t,b,f in zip(thetas(m), before, (.25, .5, 1.)): assert (t.detach()-b).abs().max().item()==pytest.approx(1e-3*f, rel=1e-3)
    with pytest.raises(ValueError, match='layer_decay must be positive, got 0'): mask_groups(m, layer_decay=0)

@given(st.floats(0, 1), st.floats(0, .99), st.floats(0, 1), st.floats(0, 1))
def test_linear(x, s, start, end):
    y = linear(x, s, start, end)
    assert 0<=y<=s and linear(1., s, start, end)==pytest.approx(s) and y<=linear(min(x+.1, 1), s, start, end)

@pytest.mark.parametrize('resume', [False, True])
def test_average_is_the_mean_of_the_last_thetas(resume):
    m,n = net(),20
    opt,ctl,seen = MaskOptimizer(mask_groups(m, 3e-3)),SparsityController(m, .5, n, average=.25),[]
    for i in range(1, n+1):
        backward(m); opt.step()
        if i>15: seen.append(flat(thetas(m)))
        if resume and i==18:
            state = copy.deepcopy(ctl.state_dict())
            ctl = SparsityController(m, .5, n, average=.25)
            ctl.load_state_dict(state)
        ctl.step()
    torch.testing.assert_close(flat(thetas(m)), torch.stack(seen).mean(0))
    assert ctl.target_met() and len(seen)==5

def test_bad_average():
    with pytest.raises(ValueError, match='average must be a share'): SparsityController(net(), .5, 10, average=1.5)

def test_annealed_temperatures():
    m = net(t_l=77.)
    ctl = SparsityController(m, .5, 20, every=5, temperatures=lambda x: (10+100*x, 1+x))
    assert m.layer[0]._mask_settings['weight'][:2]==(10., 1.)
    opt = MaskOptimizer(mask_groups(m, 1e-3))
    run(m, 10, opt, ctl)
    assert m.layer[0]._mask_settings['weight'][:2]==(60., 1.5)
    other = net(t_l=10.)
    again = SparsityController(other, .5, 20, every=5, temperatures=lambda x: (10+100*x, 1+x))
    again.load_state_dict(ctl.state_dict())
    assert other.emb._mask_settings['weight'][:2]==(60., 1.5)

@pytest.mark.parametrize('recovery', [True, False])
def test_mass_budget(recovery):
    m = net()
    opt,ctl = MaskOptimizer(mask_groups(m, 3e-3, 1e-3)),SparsityController(m, .6, 30, budget='mass', every=3, recovery=recovery)
    run(m, 30, opt, ctl)
    assert recovery or ctl.recovered()==0
    assert ctl.target_met() and len(ctl.groups)==3 and pruned(ctl.weights.values())==n_pruned(ctl.n, .6)

@pytest.mark.parametrize('kw', [dict(momentum=.5), dict(pull=1.)], ids=str)
def test_adam_takes_neither(kw):
    with pytest.raises(ValueError, match='Adam has averages of its own'): MaskOptimizer(mask_groups(net(), step='adam', **kw))

def test_a_pull_survives_weights_that_are_gone_and_sparse_gradients():
    m = net(sparse_grad=True)
    opt,ctl = MaskOptimizer(mask_groups(m, 1e-3, step='normalised', pull=.5)),SparsityController(m, .5, 12, recovery=False)
    run(m, 12, opt, ctl)
    assert ctl.target_met() and not any(t.isnan().any() for t in thetas(m))
    flat_start = net('constant')
    with pytest.raises(ValueError, match='width of the start, which is zero'): run(flat_start, 1, MaskOptimizer(mask_groups(flat_start, 1e-3, pull=.5)))
    with pytest.raises(ValueError, match='pull must not be negative'): MaskOptimizer(mask_groups(net(), pull=-1.))

def test_averages_need_a_schedule():
    with pytest.raises(ValueError, match='Averages need a schedule'): SparsityController(net(), .5, 10, schedule=None, average=.5)

def test_state_of_the_last_step():
    m = net()
    ctl = SparsityController(m, .5, 4, every=2)
    run(m, 4, MaskOptimizer(mask_groups(m, 1e-3)), ctl)
    again = SparsityController(m, .5, 4, every=2)
    again.load_state_dict(ctl.state_dict())
    assert again.done and again.target_met()
