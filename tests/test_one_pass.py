"A threshold update in one pass, as on a processor, against all of its parts by themselves."
import math
import pytest,torch
from hypothesis import given,strategies as st
from torch import nn
from adaptprune.kernels import OnePass,remember
from adaptprune.mask import locate,pack_bits
from adaptprune.optim import MaskOptimizer,MovingGroup
from adaptprune.sparsity import threshold

coarse = st.sampled_from([-math.inf, -1., -0., 0., 1e-45, .01, .02, 1.])

@given(st.lists(coarse | st.floats(0, .0625, width=32), min_size=2, max_size=80), st.data())
def test_a_pass(xs, data):
    "The quantile, ties, what is pruned, and the weights that change, wherever the old threshold was"
    x = torch.tensor(xs)
    if not x.isfinite().any(): return
    old = data.draw(st.sampled_from([0., -.5, 3., *x[x.isfinite()].tolist()]))
    k = data.draw(st.integers(max(1, int((x==-math.inf).sum())), len(x)-1)) if int((x==-math.inf).sum())<len(x) else 1
    one,before = OnePass(old),x.clone()
    tau,alive = threshold(x, k, lambda scores, k: locate(scores, k, one), one.equal)
    want,others = threshold(x, k)
    assert tau==want and torch.equal(alive, others)
    if len(alive): x[alive] = torch.nextafter(tau, torch.full_like(tau, math.inf))
    one.settle(tau.item(), alive)
    gone,again = (pack_bits(torch.arange(len(x))%3==0) for _ in range(2))
    one.remember(gone)
    remember(x, tau.item(), again)
    assert torch.equal(gone, again)
    if not one.holds_old: return
    at,kept = one.flips()
    assert torch.equal(at, ((before<=old)!=(x<=tau)).nonzero()[:,0]) and torch.equal(kept, x[at]>tau)

def test_many_pieces():
    x = torch.rand(2**18+77, generator=torch.Generator().manual_seed(0))
    one = OnePass(.31)
    tau,n_below,n_ties = locate([x], 80_000, one)
    assert (tau,n_below,n_ties)==locate([x], 80_000) and len(one.at)<20_000 and one.holds_old
    one.settle(tau.item(), torch.empty(0))
    gone = torch.zeros(-(-len(x)//8), dtype=torch.uint8)
    one.remember(gone)
    assert torch.equal(gone, pack_bits(x<=tau))
    assert torch.equal(one.flips()[0], ((x<=.31)!=(x<=tau)).nonzero()[:,0])

def test_an_old_threshold_far_away_is_left_out():
    one = OnePass(.9)
    x = torch.rand(2**18, generator=torch.Generator().manual_seed(0))
    locate([x], 80_000, one)
    assert not one.holds_old and len(one.at)<20_000

def test_nan_is_found_in_a_pass():
    x = torch.rand(2**17)
    x[777] = math.nan
    with pytest.raises(ValueError, match='NaN'): locate([x], 1000, OnePass(.1))

@pytest.mark.parametrize('kw', [{}, dict(step='adam'), dict(dtype=torch.bfloat16), dict(recovery=False), dict(budget='matrix'), dict(start='constant'),
    dict(sparse_grad=True), dict(in_backward=True), dict(t_l=1e3)], ids=str)
def test_a_run_writes_only_what_changes(kw, monkeypatch):
    "Bit for bit as with every weight written, and only changed weights are"
    kw = dict(kw)
    dtype,runs = kw.pop('dtype', torch.float32),[]
    for plain in (False, True):
        if plain: monkeypatch.setattr(MovingGroup, '_pass', lambda self: None)
        torch.manual_seed(0)
        m = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 4)).to(dtype)
        with torch.no_grad(): m[1].weight[0] = -0.
        opt = MaskOptimizer(m, sparsity=.6, steps=120, every=2, **{'start': 'rank', **kw})
        flips,trace = [],[]
        for g in opt.weights.groups:
            def watch(was=g.flip):
                flips.append(was())
                return flips[-1]
            g.flip = watch
        for i in range(120):
            opt.zero_grad()
            m(torch.arange(i, i+6)%50).float().square().mean().backward()
            opt.step()
            trace += [p.param.detach().clone() for p in opt.weights]+[g.gone.clone() for g in opt.weights.groups]
        runs.append((trace, opt.mask(), opt.recovered()))
        if not plain and not kw.keys() & {'t_l', 'recovery', 'start'}: assert any(flips)
        if plain or 't_l' in kw: assert not any(flips)
    (a,*rest),(b,*others) = runs
    assert rest==others and all(map(torch.equal, a, b))
