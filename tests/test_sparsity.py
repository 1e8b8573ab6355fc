"Schedules, and thresholds that prune to the weight."
import math
import pytest,torch
from hypothesis import example,given,strategies as st
from adaptprune.sparsity import constant,cubic,equal_to,ordered_bits,rate_factor,schedules,threshold

@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from(['linear', 'cosine', 'none']))
def test_rate_factor(x, warmup, decay):
    assert 0<=rate_factor(x, warmup, decay)<=1
    assert rate_factor(warmup, warmup, decay)==pytest.approx(1)
    if decay!='none' and warmup<1: assert rate_factor(1, warmup, decay)==pytest.approx(0)

@given(st.floats(0, 1), st.floats(0, .99), st.floats(0, 1))
def test_cubic(x, s, end):
    y = cubic(x, s, end)
    assert 0<=y<=s and cubic(1., s, end)==s
    assert y<=cubic(min(x+.1, 1), s, end)
    if end>0: assert cubic(0., s, end)==0
    if x>=end: assert y==s
    assert constant(x, s)==s

def test_unknown_decay():
    with pytest.raises(ValueError, match="Unknown decay 'step': use linear, cosine or none"): rate_factor(.5, decay='step')

def test_schedules_are_named(): assert list(schedules)==['cubic', 'constant', 'none'] and schedules['none'] is None

# thresholds

coarse = st.sampled_from([-3e38, -1., -1e-45, -0., 0., 1e-45, .01, 1., 3e38])
numbers = st.lists(coarse | st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=60)

@given(numbers, st.data())
@example([0.]*9, None)
@example([-0., 0., -0., 0.], None)
@example([3e38]*4, None)
def test_a_threshold_prunes_to_the_weight(xs, data):
    for k in range(len(xs)) if data is None else [data.draw(st.integers(0, len(xs)-1))]:
        x = torch.tensor(xs)
        tau,alive = threshold(x, k)
        assert tau.ndim==0 and (x[alive]==tau).all()
        kept = (x>tau).index_fill(0, alive, True)
        assert int((~kept).sum())==k
        if k: assert x[~kept].max()<=x[kept].min()

@given(st.integers(0, 40), st.integers(0, 40), st.data())
def test_what_is_gone_for_good_counts_as_pruned(gone, there, data):
    "Thetas at minus infinity lie below every threshold, which is finite"
    if not there: return
    k = data.draw(st.integers(gone, gone+there-1))
    x = torch.cat([torch.full((gone,), -math.inf), torch.randn(there, generator=torch.Generator().manual_seed(gone))])
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(there))]
    tau,alive = threshold(x, k)
    assert tau.isfinite() and int((x<=tau).sum())-len(alive)==k

def test_ties_are_drawn_the_same_each_time():
    x = torch.full((1000,), .05)
    a,b,c = (threshold(x, 400, seed=s)[1] for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c) and len(a)==len(c)==600
    assert abs(a.float().mean()-500)<50                                                     # no place is favoured

def test_nan_is_refused():
    x = torch.randn(300_000)
    x[12345] = math.nan
    with pytest.raises(ValueError, match='NaN'): threshold(x, 1000)

@given(st.lists(coarse | st.sampled_from([-math.inf, math.inf]) | st.floats(width=32, allow_nan=False), min_size=2, max_size=40))
def test_ordered_bits_sort_as_floats_do(xs):
    x = torch.tensor(xs)
    b = ordered_bits(x)
    assert b.dtype==torch.int32
    assert torch.equal(b[:,None]<b[None], x[:,None]<x[None]) and torch.equal(b[:,None]==b[None], x[:,None]==x[None])

@given(st.lists(st.integers(0, 3), min_size=1, max_size=40))
def test_ties_are_found_in_order(xs):
    flat = torch.tensor(xs).float()
    for tau in range(4): assert torch.equal(equal_to(flat, torch.tensor(float(tau))), (flat==tau).nonzero()[:,0])

def test_ties_over_several_pieces():
    flat = torch.zeros(2**17*2+5)
    flat[[0, 2**17-1, 2**17, 2**18+4]] = 1.
    assert equal_to(flat, torch.tensor(1.)).tolist()==[0, 2**17-1, 2**17, 2**18+4]
