"Exact selection, the algebra of masks, and what a `Mask` refuses."
import copy,math,pickle
import pytest,torch
from hypothesis import example,given,strategies as st
from adaptprune.mask import (Mask, check_sparsity, draw_survivors, group_names, kth_smallest, locate, merge, n_pruned, pack_bits,
    pack_mask, split_at, unpack_bits, unpack_mask)

inf = math.inf
coarse = st.sampled_from([-inf, -3e38, -1., -1e-45, -0., 0., 1e-45, 1., 3e38, inf])
value = coarse | st.floats(width=32, allow_nan=False)
tensors = st.lists(st.lists(value, max_size=40), min_size=1, max_size=8).filter(any)
shares = st.floats(0, 1, exclude_max=True)

def flat(ts): return torch.cat([t.reshape(-1) for t in ts])
def named(ts): return {f'layer.{i%3}.w{i}': torch.tensor(t) for i,t in enumerate(ts)}
def rand_mask(seed, p=.5):
    g = torch.Generator().manual_seed(seed)
    return Mask({n: torch.rand(s, generator=g)<p for n,s in (('emb.w', (7, 3)), ('layer.0.w', (5,)), ('layer.1.w', (2, 2, 2)))})

@given(tensors, st.data())
def test_kth_smallest_is_sort(ts, data):
    "With samples so small that the first bracket is wrong as well"
    k,sample = data.draw(st.integers(1, sum(map(len, ts)))),data.draw(st.sampled_from([1, 2, 7, 2**16]))
    ts = [torch.tensor(t) for t in ts]
    want = flat(ts).sort()[0][k-1]
    assert kth_smallest(ts, k)==want
    assert tuple(map(float, locate(ts, k, sample=sample)))==(want, (flat(ts)<want).sum(), (flat(ts)==want).sum())

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize('kind', ['spread', 'sorted', 'ties', 'spike', 'infinite'])
def test_kth_smallest_large(kind, dtype):
    "More scores than the sample, in orders that mislead it"
    x = torch.randn(300_000, generator=torch.Generator().manual_seed(0))
    if kind=='sorted': x = x.sort(descending=True)[0]
    if kind=='ties': x = x.mul(2).round()
    if kind=='spike': x = torch.zeros_like(x); x[1::4] = torch.linspace(-1, 1, len(x[1::4]))
    if kind=='infinite': x[:100_000],x[-100_000:] = -inf,inf
    x = x.to(dtype)
    order,n = x.sort()[0],len(x)
    for k in (1, 2, n//3, n//2, n-1, n): assert kth_smallest([x[:10], x[10:10], x[10:-7].view(-1, 1), x[-7:]], k)==order[k-1]

def test_kth_smallest_leaves_scores_alone():
    x = torch.randn(1000)
    y = x.clone()
    kth_smallest([x], 500)
    assert torch.equal(x, y)

@pytest.mark.parametrize('k', [0, 4, -1])
def test_kth_smallest_range(k):
    with pytest.raises(ValueError, match=f'between 1 and the number of scores 3, got {k}'): kth_smallest([torch.zeros(3)], k)

@pytest.mark.parametrize('n', [5, 200_000])
@pytest.mark.parametrize('at', [0, 3, -1])
def test_nan_is_refused(n, at):
    "Wherever it is, in the sample or not"
    x = torch.randn(n)
    x[at] = math.nan
    for sparsity in (0., .5):
        with pytest.raises(ValueError, match='NaN: a diverged run'): Mask.from_scores({'w': x}, sparsity)

@given(tensors, shares, st.sampled_from(['global', 'layer', 'matrix']))
@example([[-inf, -inf, 1.]], 0., 'global')
@example([[-inf]*9], .01, 'matrix')
def test_exact_in_every_group(ts, sparsity, budget):
    scores = named(ts)
    groups = group_names(scores, budget)
    if any(sum(scores[n].numel() for n in ns)==0 for ns in groups.values()): return
    m = Mask.from_scores(scores, sparsity, budget)
    for ns in groups.values():
        size = sum(m[n].numel() for n in ns)
        assert sum(int((~m[n]).sum()) for n in ns)==n_pruned(size, sparsity)
        kept,gone = (torch.cat([scores[n][m[n] if keep else ~m[n]] for n in ns]) for keep in (True, False))
        if len(gone): assert gone.max()<=kept.min()

@given(st.integers(1, 10**6), shares)
def test_n_pruned(n, s):
    k = n_pruned(n, s)
    assert 0<=k<n and (abs(k-n*s)<=.5+1e-9*n or k==n-1)

def test_ties_are_reproducible_and_fair():
    x = {'a': torch.zeros(40, 50), 'b': torch.zeros(1000)}
    m,n = Mask.from_scores(x, .5),Mask.from_scores(x, .5, seed=1)
    assert m==Mask.from_scores(x, .5) and m!=n and m.kept==n.kept==1500
    assert all(abs(d-.5)<.05 for d in m.by('matrix').values())
    assert .25<m.jaccard(n)<.42                                                             # two random halves: 1/3

def test_ties_do_not_touch_the_global_generator():
    torch.manual_seed(3); a = torch.rand(1)
    torch.manual_seed(3); Mask.from_scores({'a': torch.zeros(9)}, .5)
    assert torch.equal(a, torch.rand(1))

def test_split_at_counts():
    ts = [torch.tensor([2., 1, 2]), torch.tensor([[2., 2], [0, 5]])]
    tau,alive = split_at(ts, 4)
    assert tau==2 and sum(map(len, alive))==2 and all((t.view(-1)[a]==2).all() for t,a in zip(ts, alive))

@given(st.integers(0, 99), st.integers(0, 99), st.floats(0, 1), st.floats(0, 1))
def test_algebra(i, j, p, q):
    a,b = rand_mask(i, p),rand_mask(j+100, q)
    assert ~(a&b)==~a|~b and ~(a|b)==~a&~b and a-b==a&~b and ~~a==a
    assert (a|b).kept==a.kept+b.kept-(a&b).kept
    assert a.jaccard(b)==b.jaccard(a) and 0<=a.jaccard(b)<=1 and a.jaccard(a)==1
    assert a.kept+(~a).kept==a.numel and a.sparsity==pytest.approx((~a).density)
    assert sum(d*sum(a[n].numel() for n in ns) for d,ns in zip(a.by().values(), group_names(a, 'layer').values()))==pytest.approx(a.kept)

def test_equality():
    a = rand_mask(0)
    bit = {n: m.clone() for n,m in a.items()}
    bit['layer.0.w'][3] ^= True
    assert a==Mask(dict(a)) and a!=Mask(bit) and a!=dict(a) and a!=Mask({'emb.w': a['emb.w']})
    assert a!=Mask({n: m[None] for n,m in a.items()})

@pytest.mark.parametrize('again', [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))], ids=['deepcopy', 'copy', 'pickle'])
def test_copies(again):
    m = rand_mask(0)
    assert again(m)==m and list(again(m))==list(m) and type(again(m)) is Mask

def test_immutable():
    raw = {'w': torch.ones(3, dtype=torch.bool)}
    m = Mask(raw)
    raw['v'] = raw['w']
    assert list(m)==['w']
    with pytest.raises(TypeError): m['w'] = raw['w']
    with pytest.raises(TypeError): del m['w']
    with pytest.raises(TypeError): m._tensors['w'] = raw['w']
    with pytest.raises(TypeError): hash(m)

@pytest.mark.parametrize('bad,what', [(torch.ones(2), 'float32'), (torch.ones(2, dtype=torch.uint8), 'uint8'), ([True], 'list'),
    (None, 'NoneType')])
def test_only_booleans(bad, what):
    with pytest.raises(TypeError, match=rf"'x\.w' must be a torch\.bool tensor, got .*{what}: use `scores > 0`"): Mask({'x.w': bad})

def test_masks_of_different_networks():
    a = Mask({'w': torch.ones(2, dtype=torch.bool)})
    with pytest.raises(ValueError, match="first differing name: 'v'"): a & Mask({'v': a['w']})
    with pytest.raises(ValueError, match=r"differ in shape at 'w': \(2,\) and \(1, 2\)"): a.jaccard(Mask({'w': a['w'][None]}))

@pytest.mark.parametrize('s', [1, 1., -1e-9, 50, math.nan, inf, True, '0.5', None])
def test_sparsity_out_of_range(s):
    with pytest.raises(ValueError, match=r'number in \[0, 1\).*for half of them, 0\.5'): check_sparsity(s)

def test_budgets():
    names = ['encoder.layer.0.a', 'encoder.layer.0.b', 'encoder.layer.1.a', 'embeddings.x.weight']
    assert group_names(names, len)=={17: names[:3], 19: names[3:]}
    assert sorted(map(len, group_names(names, 'layer').values()))==[1, 1, 2]
    with pytest.raises(ValueError, match="Unknown budget 'row': use one of global, layer, matrix"): group_names(names, 'row')

# Several masks

def some(n, seed=0, p=.5):
    gen = torch.Generator().manual_seed(seed)
    return [Mask({'a': torch.rand(9, 7, generator=gen)<p, 'b': torch.rand(30, generator=gen)<p}) for _ in range(n)]

@given(n=st.integers(2, 6), seed=st.integers(0, 99), p=st.sampled_from([0., .3, .5, 1.]))
def test_merging_is_set_algebra(n, seed, p):
    ms = some(n, seed, p); stack = torch.stack([m['a'] for m in ms])
    assert torch.equal(merge(ms)['a'], stack.any(0)) and torch.equal(merge(ms, 'intersection')['a'], stack.all(0))
    assert torch.equal(merge(ms, 'vote')['a'], stack.sum(0)*2>n)
    assert merge(ms)==merge(dict(enumerate(reversed(ms)))) and (ms[0]^ms[1])==(ms[0]|ms[1])-(ms[0]&ms[1])
    assert merge([ms[0]]*n)==merge([ms[0]]*n, 'intersection')==merge([ms[0]]*n, 'vote')==ms[0]

@given(n=st.integers(2, 5), seed=st.integers(0, 99), sparsity=st.floats(0, .99), budget=st.sampled_from(['global', 'matrix']))
def test_vote_at_a_sparsity(n, seed, sparsity, budget):
    ms = some(n, seed); got = merge(ms, 'vote', sparsity=sparsity, budget=budget, seed=seed)
    assert got==merge(ms, 'vote', sparsity=sparsity, budget=budget, seed=seed)
    groups = [['a'], ['b']] if budget=='matrix' else [['a', 'b']]
    for names in groups:
        votes = torch.cat([sum(m[k].int() for m in ms).reshape(-1) for k in names]); kept = torch.cat([got[k].reshape(-1) for k in names])
        assert kept.sum()==len(kept)-min(round(len(kept)*sparsity), len(kept)-1)
        assert kept.all() or votes[kept].min()>=votes[~kept].max(), 'none is pruned that has more votes than one that is kept'

def test_weighted_vote():
    a,b,c = some(3)
    assert merge([a, b, c], 'vote', weights=[3, 1, 1])==a and merge([a, b, c], 'vote', weights=[0, 1, 0])==b
    assert merge(dict(x=a, y=b), 'vote', weights=[1, 2], sparsity=1-b.density)['a'].sum()>=0
    for bad in ([1], [1, -1, 1], [0, 0, 0], [1, float('nan'), 1], [1, float('inf'), 1]):
        with pytest.raises(ValueError, match='weights must be 3 numbers'): merge([a, b, c], 'vote', weights=bad)

def test_merges_that_make_no_sense():
    a,b = some(2)
    for bad in ([], [a], [a, None], {'x': a}):
        with pytest.raises(ValueError, match='two masks or more'): merge(bad)
    with pytest.raises(ValueError, match="'mean'.*'union', 'intersection' or 'vote'"): merge([a, b], 'mean')
    for kw in (dict(sparsity=.5), dict(weights=[1, 1])):
        with pytest.raises(ValueError, match="use how='vote'"): merge([a, b], 'union', **kw)
    with pytest.raises(ValueError, match='sparsity must be'): merge([a, b], 'vote', sparsity=50)
    with pytest.raises(ValueError, match='different weights'): merge([a, Mask({'a': a['a']})])
    with pytest.raises(ValueError, match='differ in shape'): merge([a, Mask({'a': a['a'].T, 'b': a['b']})])

# bits

@given(st.integers(0, 70), st.integers(0, 99))
def test_bits(n, seed):
    b = torch.rand(n, generator=torch.Generator().manual_seed(seed))<.5
    assert torch.equal(unpack_bits(pack_bits(b), n), b) and len(pack_bits(b))==-(-n//8)
    assert [int(x) for x in pack_bits(b)]==[sum(int(v)<<j for j,v in enumerate(b[i:i+8])) for i in range(0, n, 8)]

@pytest.mark.parametrize('layout', ['contiguous', 'transposed', 'sliced'])
def test_bits_of_any_layout(layout):
    b = torch.rand(9, 14)<.5
    b = dict(contiguous=b, transposed=b.T, sliced=b[1::2, ::3])[layout]
    assert torch.equal(unpack_bits(pack_bits(b), b.numel()).view(b.shape), b)

@given(st.integers(0, 99))
def test_a_packed_mask_comes_back(seed):
    m = rand_mask(seed)
    assert unpack_mask(pack_mask(m), {n: x.shape for n,x in m.items()})==m

@given(st.integers(0, 50), st.data())
def test_survivors_are_counted(n, data):
    go = data.draw(st.integers(0, n))
    keep = draw_survivors(n, go, seed=data.draw(st.integers(0, 5)))
    assert len(keep)==n and int(keep.sum())==n-go
