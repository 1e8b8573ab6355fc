"Patterns: one theta for several weights, against the definition, against no pattern, and against counting."
import copy,io,math
import pytest,torch
from hypothesis import given,settings,strategies as st
from torch import nn
from adaptprune.layer import masked_layer
from adaptprune.mask import n_pruned
from adaptprune.optim import MaskOptimizer,MaskSettings
from adaptprune.pattern import get_pattern,seen,unit_means
from adaptprune.recipe import get_recipe,parse_field
from adaptprune.sparsity import nearest_units,row_thresholds,weighted_threshold
from adaptprune.sweep import cell_key,cell_name,read_sweep
from toy_tokens import Net,X,Y

every_pattern = 'row','column','block:2x4','block:4x1','2:4','1:2'
def sparsity_of(pattern): return get_pattern(pattern).sparsity or .5

def net(dtype=torch.float32):
    torch.manual_seed(0)
    return Net(8).to(dtype)
def optimizer(m, pattern, sparsity=.5, steps=20, **kwargs):
    return MaskOptimizer(m.base, m.head, sparsity, steps, **{**dict(start='rank', every=2, pattern=pattern, alpha=2e-3), **kwargs})
def loss_of(m, i, n=8): return (m(X[i*n:(i+1)*n])-Y[i*n:(i+1)*n].to(m.head.weight.dtype)).square().mean()
def train(m, opt, steps=None, first=0):
    for i in range(first, first+(opt.steps if steps is None else steps)):
        opt.zero_grad()
        loss_of(m, i%3).backward()
        opt.step()
    return opt
def state(m): return {n: p.detach().clone() for n,p in m.named_parameters()}
def equal(a, b): return a.keys()==b.keys() and all(torch.equal(a[n], b[n]) for n in a)
def units(mask, pattern):
    "Name -> bools in the pattern's view, what a theta gates along the last two dimensions"
    out = {}
    for n,m in mask.items():
        view = seen(m, get_pattern(pattern).view(n, tuple(m.shape)))
        out[n] = view.movedim(1, -1).reshape(-1, view.shape[1]*view.shape[-1])
    return out

# The definition

@pytest.mark.parametrize('kw', [{}, dict(step='plain'), dict(step='adam'), dict(t_l=1e3, t_s=.1, step='plain'), dict(recovery=False),
    dict(budget='matrix', sparsity=.3), dict(schedule='none', gamma=1e-3, start='normal'), dict(sparse_grad=True), dict(in_backward=True),
    dict(start='constant', seed=3), dict(dtype=torch.bfloat16), dict(dtype=torch.float64, t_l=100.)], ids=str)
def test_blocks_of_one_weight_are_no_pattern(kw):
    "Bit for bit"
    kw = dict(kw)
    dtype = kw.pop('dtype', torch.float32)
    runs = []
    for pattern in (None, 'block:1x1'):
        m = net(dtype)
        opt = optimizer(m, pattern, **kw)
        seen_so_far = []
        for i in range(20):
            if opt.done: break
            train(m, opt, 1, first=i)
            seen_so_far += [*state(m).values(), *(g.theta.clone() for g in opt.weights.groups)]
        runs.append((seen_so_far, [g.tau for g in opt.weights.groups], opt.mask(), opt.recovered(), opt.max_theta(), opt.sparsity()))
    (a,*rest),(b,*others) = runs
    assert len(a)==len(b) and all(map(torch.equal, a, b)) and rest==others

def test_a_gate_on_columns_is_a_gate_on_the_activation():
    "Its gradient is that of a number that the activation is multiplied with"
    torch.manual_seed(0)
    m,x = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 5)),torch.randn(9, 6)
    gate = torch.ones(16, requires_grad=True)
    m[2](m[1](m[0](x))*gate).square().sum().backward()
    m.zero_grad()
    opt = MaskOptimizer(m[2], sparsity=0., steps=100, pattern='column', start='constant', step='plain', t_s=0., alpha=1., warmup=0., decay='none')
    m(x).square().sum().backward()
    theta = opt.weights.groups[0].theta.clone()
    opt.step()
    torch.testing.assert_close(theta-opt.weights.groups[0].theta, gate.grad*opt.factor(), rtol=1e-5, atol=1e-6)

def test_pruned_columns_are_pruned_activations():
    torch.manual_seed(0)
    m,x = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 5)),torch.randn(9, 6)
    opt = MaskOptimizer(m[2], sparsity=.25, steps=100, pattern='column', start='rank', schedule='constant')
    kept = opt.mask()['weight'].any(0)
    assert int((~kept).sum())==4
    torch.testing.assert_close(m(x), nn.functional.linear(m[1](m[0](x))*kept, opt.base_weights()['weight'], m[2].bias))

@pytest.mark.parametrize('t_l,t_s', [(math.inf, 1.), (10., 10.), (math.inf, 0.)])
@pytest.mark.parametrize('step', ['plain', 'sign', 'adam'])
@pytest.mark.parametrize('pattern', ['row', 'column', '2:4'])
def test_equal_to_the_definition(pattern, step, t_l, t_s):
    "Over threshold updates: theta and weights as by autograd through `masked_layer`, whose theta broadcasts"
    kw = dict(step=step, t_l=t_l, t_s=t_s, alpha=1e-3, beta=0., warmup=0., decay='none', every=3)
    m,n = net(),net()
    opt = optimizer(m, pattern, steps=9, **kw)
    def shaped(p, t): return t.view(p.shape) if pattern=='2:4' else t.view(-1, 1) if pattern=='row' else t.view(1, -1)
    def tau(p): return p.tau.expand(p.cells).reshape(p.shape) if pattern=='2:4' else torch.tensor(p.tau)
    layers = [n.base[k] for k in ('emb', 'up', 'down')]
    masked = [masked_layer(l, shaped(p, p.theta).clone(), tau=tau(p), t_l=t_l, t_s=t_s) for l,p in zip(layers, opt.weights)]
    for l in (*layers[1:], n.head): l.bias.requires_grad_(False)
    params = [w.theta for w in masked]
    theirs = torch.optim.Adam(params, lr=1e-3) if step=='adam' else torch.optim.SGD(params, lr=1e-3)
    for i in range(8):
        train(m, opt, 1, first=i)
        n.zero_grad()
        loss_of(n, i%3).backward()
        if step=='sign':
            for t in params: t.grad.sign_()
        theirs.step()
        for w,p in zip(masked, opt.weights):
            torch.testing.assert_close(shaped(p, p.theta), w.theta.detach(), rtol=1e-4, atol=2e-6)
            with torch.no_grad(): w.theta.copy_(shaped(p, p.theta))
            w.tau.copy_(tau(p))
        for l,p in zip(layers, opt.weights): torch.testing.assert_close(l.weight.detach(), p.param.detach(), rtol=1e-5, atol=1e-7)

def test_units_start_from_the_rank_of_their_mean():
    m = net()
    scores = {n: torch.rand(p.shape) for n,p in m.base.named_parameters() if p.ndim>1}
    opt = optimizer(m, 'column', scores=scores, spread=.08)
    up = opt.weights.places['up.weight']
    assert torch.equal(up.theta.argsort(), scores['up.weight'].mean(0).argsort())
    assert torch.allclose(up.theta.sort()[0], torch.arange(.5, 8)/8*.08)
    assert torch.equal(unit_means(scores['up.weight'], get_pattern('column')).view(-1), scores['up.weight'].mean(0))

# Counts

@pytest.mark.parametrize('kw', [{}, dict(recovery=False), dict(budget='layer'), dict(step='adam', budget='matrix'), dict(t_l=50., step='plain'),
    dict(start='constant')], ids=str)
@pytest.mark.parametrize('pattern', every_pattern)
def test_every_step_to_the_unit(pattern, kw):
    "At every threshold update, and whole units only"
    m,target = net(),sparsity_of(pattern)
    base = state(m)
    opt = optimizer(m, pattern, target, **kw)
    for i in range(20):
        train(m, opt, 1, first=i)
        if opt.i%opt.every: continue
        want = opt.schedule(opt.i/20, target, .7) if i<19 else target
        for g in opt.weights.groups:
            if ':' not in pattern or 'block' in pattern: assert abs(g.pruned()-n_pruned(g.n, want))<=g.unit/2
            below = sum(int((~p.above()).sum()) for p in g.places)
            assert g.pruned()==below
    mask = opt.mask()
    assert opt.done and opt.target_met() and opt.sparsity()==mask.sparsity
    for n,rows in units(mask, pattern).items():
        if get_pattern(pattern).keep: assert (rows.sum(1)==get_pattern(pattern).keep).all()
        else: assert (rows.all(1) | ~rows.any(1)).all()
        w = m.base.get_parameter(n).detach()
        assert torch.equal(w[mask[n]], base[f'base.{n}'][mask[n]]) and not w[~mask[n]].any()
    opt.restore()
    assert equal({n: p for n,p in state(m).items() if 'head' not in n}, {n: p for n,p in base.items() if 'head' not in n})

@pytest.mark.parametrize('pattern', ['row', '2:4'])
def test_recovered_counts_weights(pattern):
    m = net()
    opt = optimizer(m, pattern, alpha=1e-2)
    gone = torch.zeros(opt.weights.n, dtype=torch.bool)
    for i in range(20):
        train(m, opt, 1, first=i)
        if opt.i%2==0: gone |= torch.cat([~p.above() for p in opt.weights])
    kept = torch.cat([p.above() for p in opt.weights])
    assert 0<opt.recovered()==int((kept & gone).sum())/int(kept.sum())

@given(st.lists(st.tuples(st.sampled_from([-math.inf, 0., .25, .5, 1.]), st.integers(1, 9)), min_size=2, max_size=30), st.data())
def test_weighted_thresholds(pairs, data):
    "What is pruned is the lowest, never all, and no neighbour of that number of units is nearer"
    x,sizes = torch.tensor([t for t,_ in pairs]), torch.tensor([s for _,s in pairs])
    gone = x==-math.inf
    if gone.all(): return
    k = data.draw(st.integers(int(sizes[gone].sum()), int(sizes.sum())))
    tau,alive = weighted_threshold(x, sizes, k)
    kept = (x>tau).index_fill(0, alive, True)
    assert tau.isfinite() and kept.any() and (x[alive]==tau).all()
    if (~kept).any(): assert x[~kept].max()<=x[kept].min()
    got = int(sizes[~kept].sum())
    assert abs(got-k)<int(sizes.max()) or int(kept.sum())==1 and got<k

@given(st.integers(1, 12), st.integers(2, 30), st.integers(0, 400))
def test_nearest_units(size, n, k):
    best = min(range(n), key=lambda j: abs(j*size-k))
    assert nearest_units(k, size, n)==best

@given(st.integers(2, 6), st.data())
def test_row_thresholds(m, data):
    k = data.draw(st.integers(0, m-1))
    rows = data.draw(st.lists(st.lists(st.sampled_from([0., -0., .25, .5, 1e-45, 3e38]), min_size=m, max_size=m), min_size=1, max_size=8))
    x = torch.tensor(rows)
    gone = data.draw(st.integers(0, k))
    x[:,:gone] = -math.inf
    x = x.gather(1, torch.rand(x.shape, generator=torch.Generator().manual_seed(m)).argsort(1))
    taus,alive = row_thresholds(x, k)
    y = x.clone().view(-1)
    y[alive] = torch.nextafter(taus[alive//m], torch.tensor(math.inf))
    y = y.view_as(x)
    assert taus.isfinite().all() and ((y>taus[:,None]).sum(1)==m-k).all()
    changed = y!=x
    assert ((x==taus[:,None]) | ~changed).all()

def test_ties_in_rows_favour_no_place():
    x = torch.full((4000, 4), .05)
    taus,alive = row_thresholds(x, 2)
    share = torch.bincount(alive%4, minlength=4)/4000
    assert len(alive)==8000 and ((share-.5).abs()<.04).all()
    assert torch.equal(alive, row_thresholds(x, 2)[1]) and not torch.equal(alive, row_thresholds(x, 2, seed=1)[1])

@pytest.mark.parametrize('pattern', ['row', 'column', 'block:4x2', '2:4'])
@pytest.mark.parametrize('make,x', [(lambda: nn.Conv2d(4, 8, 3), torch.randn(2, 4, 6, 6)),
    (lambda: nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last), torch.randn(2, 4, 6, 6)),
    (lambda: nn.MultiheadAttention(8, 2), torch.randn(5, 2, 8))], ids=['conv', 'channels last', 'attention'])
def test_modules(make, x, pattern):
    "Convolutions in any layout, fused projections"
    torch.manual_seed(0)
    m = make()
    opt = MaskOptimizer(m, sparsity=.5, steps=6, start='rank', every=2, pattern=pattern)
    for _ in range(6):
        opt.zero_grad()
        y = m(x, x, x)[0] if isinstance(m, nn.MultiheadAttention) else m(x)
        y.square().mean().backward()
        opt.step()
    assert opt.target_met()
    for rows in units(opt.mask(), pattern).values():
        if pattern=='2:4': assert (rows.view(-1, rows.shape[-1]).sum(1)==2).all()
        else: assert (rows.all(1) | ~rows.any(1)).all()

# Going on, and other paths

@pytest.mark.parametrize('kw', [{}, dict(step='adam'), dict(recovery=False)], ids=str)
@pytest.mark.parametrize('pattern', every_pattern)
def test_a_stop_at_any_step(pattern, kw):
    m,target = net(),sparsity_of(pattern)
    whole = train(m, optimizer(m, pattern, target, **kw))
    for stop in (0, 7, 19):
        n = net()
        part = train(n, optimizer(n, pattern, target, **kw), stop)
        file = io.BytesIO()
        torch.save(dict(model=n.state_dict(), opt=part.state_dict()), file)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        part.restore()
        again = copy.deepcopy(n)
        opt = optimizer(again, pattern, target, **kw)
        again.head.load_state_dict({k[5:]: v for k,v in saved['model'].items() if k.startswith('head')})
        opt.load_state_dict(saved['opt'])
        train(again, opt, 20-stop, first=stop)
        assert opt.mask()==whole.mask() and equal(state(again), state(m)) and opt.recovered()==whole.recovered()

def test_states_of_other_patterns():
    m,n = net(),net()
    opt = optimizer(m, 'row')
    for other in ('column', '2:4', None):
        with pytest.raises(ValueError, match="run with pattern='row', and the optimiser has "): optimizer(n, other).load_state_dict(opt.state_dict())
        n = net()

@pytest.mark.parametrize('pattern', every_pattern)
def test_inside_the_backward_pass_and_sparse_gradients(pattern):
    masks = []
    for kw in ({}, dict(in_backward=True), dict(sparse_grad=True)):
        m = net()
        masks.append(train(m, optimizer(m, pattern, sparsity_of(pattern), **kw)).mask())
    assert masks[0]==masks[1]==masks[2]

def test_changes_from_outside():
    m = net()
    opt = train(m, optimizer(m, 'column'), 4)
    loss_of(m, 0).backward()
    with torch.no_grad(): m.base['up'].weight[0] += 1.
    with pytest.raises(RuntimeError, match="'up.weight' was changed from outside"): opt.step()

def test_nan_is_refused():
    for pattern in ('row', 'column', 'block:2x2', '2:4'):
        m = net()
        opt = train(m, optimizer(m, pattern), 3)
        loss_of(m, 0).backward()
        m.base['up'].weight.grad[0,0] = math.nan
        with pytest.raises(FloatingPointError, match=r'Theta holds NaN at step 4 \(first in up.weight\)'): opt.step()

# Bad input

@pytest.mark.parametrize('kw,error', [(dict(pattern='diagonal'), "Unknown pattern 'diagonal': use 'row', 'column', 'block:RxC'"),
    (dict(pattern='4:4'), "Unknown pattern '4:4'"), (dict(pattern='1:4'), r"pattern='1:4' prunes 0.75 .* sparsity is 0.5: give sparsity=0.75"),
    (dict(pattern='2:4', sparsity=.4), 'prunes 0.5 .* sparsity is 0.4'), (dict(pattern='2:4', schedule='none', gamma=1.), 'met by a schedule'),
    (dict(pattern='block:4x3'), r"'emb.weight' of shape \(12, 8\) does not divide into the 4 x 3 of pattern='block:4x3': .*weights=\['\*', '!emb.weight'\]"),
    (dict(pattern='block:12x8', budget='matrix', weights='emb*'), "group 'emb.weight' of the budget holds a single unit"),
    (dict(pattern='row', scores={n: torch.ones(2, 2) for n in ('emb.weight', 'up.weight', 'down.weight')}), r'shape \(12, 8\) have shape \(2, 2\)')], ids=str)
def test_bad_patterns(kw, error):
    "Refused before anything is changed"
    m = net()
    before,flags = state(m),[p.requires_grad for p in m.parameters()]
    with pytest.raises(ValueError, match=error): optimizer(m, **{'pattern': None, **kw})
    assert equal(state(m), before) and flags==[p.requires_grad for p in m.parameters()]
    assert train(m, optimizer(m, 'row'), 2).i==2

# Recipes

def test_recipes_take_patterns():
    for text in every_pattern:
        assert parse_field('pattern', text)==text and get_recipe(pattern=text).pattern==text
    assert parse_field('pattern', 'none') is None and get_recipe(get_recipe(pattern='row'), pattern=None).pattern is None
    for bad in ('2:1', 'rows', 3, ('block', 4, 4)):
        with pytest.raises(ValueError, match="pattern must be 'row', 'column', 'block:RxC'"): get_recipe(pattern=bad)
    with pytest.raises(ValueError, match="'random' does not read pattern, got 'row'"): get_recipe('random', pattern='row')
    with pytest.raises(ValueError, match='met by a schedule'): get_recipe('paper', pattern='2:4')

def test_keys_and_names_of_patterns():
    "A pattern has a key of its own; none has the key that the run had before there were patterns"
    cell = dict(task='stsb', recipe='default', sparsity=.5)
    keys = {cell_key(dict(cell, pattern=p)) for p in every_pattern}
    assert len(keys)==len(every_pattern) and cell_key(cell) not in keys and cell_key(dict(cell, pattern=None))==cell_key(cell)
    assert cell_name(dict(cell, pattern='2:4'))=='default, pattern=2:4'

def test_a_sweep_of_patterns(tmp_path):
    (tmp_path/'s.toml').write_text('''out = 'results/s.jsonl'
[[cells]]
task = 'mini-sentiment'
recipe = 'default'
sparsity = 0.5
weights = 'encoder'
pattern = ['row', 'block:4x4', '2:4']
''')
    cells,_ = read_sweep(tmp_path/'s.toml')
    assert [c['pattern'] for c in cells]==['row', 'block:4x4', '2:4']

def test_the_command_line_takes_patterns():
    from adaptprune import cli
    assert cli._fields('pattern=2:4,step=adam')==dict(pattern='2:4', step='adam') and cli._fields('pattern=block:4x4')==dict(pattern='block:4x4')

def test_a_task_refuses_a_pattern_before_anything_is_loaded(monkeypatch):
    from adaptprune import task
    def never(*args, **kwargs): raise AssertionError('loaded')
    monkeypatch.setattr(task, 'set_up', never)
    with pytest.raises(ValueError, match='give sparsity=0.75'): task.adapt_task('mini-sentiment', pattern='1:4')

@pytest.mark.weights
def test_a_task_refuses_a_pattern_before_a_teacher_learns(monkeypatch):
    from adaptprune import task
    def never(*args, **kwargs): raise AssertionError('taught')
    monkeypatch.setattr(task, 'make_teacher', never)
    with pytest.raises(ValueError, match="word_embeddings.weight' of shape .* does not divide into the 4 x 4"):
        task.adapt_task('mini-sentiment', 'minilm', recipe='distilled', pattern='block:4x4')

@pytest.mark.weights
def test_a_task_with_a_pattern():
    from adaptprune.task import adapt_task
    res = adapt_task('mini-sentiment', 'minilm', recipe='default', pattern='2:4', weights='encoder', max_steps=3, every=1, progress=False)
    assert res.report['target_met'] and all((rows.sum(1)==2).all() for rows in units(res.mask, '2:4').values())

# A GPU

@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize('pattern', every_pattern)
def test_a_run_as_on_a_processor(pattern):
    "Plain torch on both: the same units, but for sums that differ in the last bit"
    masks = []
    for device in ('cpu', 'cuda'):
        m = net().to(device)
        opt = optimizer(m, pattern, sparsity_of(pattern))
        for i in range(20):
            opt.zero_grad()
            (m(X[:8].to(device))-Y[:8].to(device)).square().mean().backward()
            opt.step()
        assert opt.target_met()
        masks.append(opt.mask())
    same = sum(int((masks[0][n]==masks[1][n]).sum()) for n in masks[0])
    assert same>=.9*masks[0].numel
