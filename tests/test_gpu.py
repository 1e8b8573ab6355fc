"""The engine on a GPU: kernels against the formula, runs against the processor's.
The first part also runs without one in Triton's interpreter, with TRITON_INTERPRET=1."""
import copy,gc,math,os
import pytest,torch
from torch import nn
from adaptprune import kernels
from adaptprune.kernels import OneLaunch,Rule,inside,remember,update,write
from adaptprune.mask import locate,unpack_bits
from adaptprune.optim import MaskOptimizer
from adaptprune.scores import activation_scores
from adaptprune.sparsity import threshold

cuda = torch.cuda.is_available()
interpreted = bool(kernels.triton) and os.environ.get('TRITON_INTERPRET')=='1'
where = 'cuda' if cuda else 'cpu'
pytestmark = pytest.mark.gpu
needs_triton = pytest.mark.skipif(not (kernels.triton and (cuda or interpreted)),
    reason='needs a CUDA device with Triton, or Triton with TRITON_INTERPRET=1')
needs_cuda = pytest.mark.skipif(not cuda, reason='needs a CUDA device')

# the kernels

sizes = [5000, 64, 1, 4096*2+32, 4097]
hard_rules = [Rule(), Rule('plain', t_s=0.), Rule('plain'), Rule('plain', math.inf, .1)]

def some(dtype, aligned=True):
    "Weights, base, thetas and gradients, in one buffer each, as the engine has them"
    g = torch.Generator().manual_seed(0)
    pad = 0 if aligned else 1
    def parts(dtype, scale=1.):
        whole = torch.randn(sum(sizes)+pad, generator=g).mul_(scale).to(dtype).to(where)[pad:]
        return list(whole.split(sizes))
    return parts(dtype),parts(dtype),parts(torch.float32, .02),parts(dtype)
def clones(ts): return [t.clone() for t in ts]
def bracketed(flat, lo, hi):
    "`inside` for bounds that may be numbers, as `locate` gives them on a processor"
    return inside(flat, *[torch.as_tensor(x, dtype=torch.float32, device=where) for x in (lo, hi)])
def reference(w, grad, w0, theta, tau, lr, rule):
    if grad is None: write(w, w0, theta, tau, rule.t_l)
    else: update(w, grad, w0, theta, tau, lr, rule)
def close(a, b, dtype): torch.testing.assert_close(a, b, **dict(rtol=2e-2, atol=2e-2) if dtype.itemsize==2 else dict(rtol=1e-4, atol=1e-5))

@needs_triton
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize('aligned', [True, False])
@pytest.mark.parametrize('t_l', [math.inf, 1e3])
def test_sign_steps_to_the_bit(dtype, aligned, t_l):
    w,w0,theta,grad = some(dtype, aligned)
    grad[1] = None
    rule,groups,taus = Rule('sign', t_l),[0, 1, 0, 1, 0],torch.tensor([.001, -.002], device=where)
    v,other = clones(w),clones(theta)
    launch = OneLaunch(w, w0, theta, groups)
    for _ in range(3): launch.update(grad, taus, 1e-3, rule)
    for i,g in enumerate(grad):
        for _ in range(3): reference(v[i], g, w0[i], other[i], taus[groups[i]].item(), 1e-3, rule)
        assert torch.equal(theta[i], other[i])
        if t_l==math.inf: assert torch.equal(w[i], v[i]) and not w[i][w[i]==0].signbit().any()
        else: close(w[i], v[i], dtype)

@needs_triton
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('rule', [*hard_rules, Rule('plain', 1e3, .1), Rule('plain', 10., 10.)], ids=str)
def test_other_steps(dtype, rule):
    w,w0,theta,grad = some(dtype)
    v,other = clones(w),clones(theta)
    taus = torch.tensor([.001], device=where)
    launch = OneLaunch(w, w0, theta, [0]*len(sizes))
    launch.update(grad, taus, 1e-3, rule)
    for i,g in enumerate(grad):
        reference(v[i], g, w0[i], other[i], taus[0].item(), 1e-3, rule)
        torch.testing.assert_close(theta[i], other[i], rtol=1e-4, atol=1e-7)
        if rule.t_l==math.inf: assert torch.equal(w[i], torch.where(theta[i]>taus[0], w0[i], torch.zeros_like(w0[i])))
        else: close(w[i], v[i], dtype)

@needs_triton
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_one_matrix_and_writing(dtype):
    w,w0,theta,grad = some(dtype)
    v,other = clones(w),clones(theta)
    taus,rule,launch = torch.tensor([.001, -.002], device=where),Rule(),OneLaunch(w, w0, theta, [0, 1, 0, 1, 0])
    launch.update_one(3, grad[3], taus, 1e-3, rule)
    update(v[3], grad[3], w0[3], other[3], taus[1].item(), 1e-3, rule)
    for i in range(len(sizes)): assert torch.equal(theta[i], other[i]) and torch.equal(w[i], v[i])
    launch.write(taus, rule)
    for i in range(len(sizes)):
        write(v[i], w0[i], other[i], taus[i%2].item())
        assert torch.equal(theta[i], other[i]) and torch.equal(w[i], v[i])

@needs_triton
@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('rule', [Rule(), Rule('plain'), Rule('plain', t_s=0.)], ids=str)
def test_what_is_not_finite_becomes_nan(bad, rule):
    w,w0,theta,grad = some(torch.float32)
    grad[0][17] = bad
    OneLaunch(w, w0, theta, [0]*len(sizes)).update(grad, torch.zeros(1, device=where), 1e-3, rule)
    assert theta[0].isnan().nonzero().tolist()==[[17]] and not any(t.isnan().any() for t in theta[1:])

@needs_triton
@pytest.mark.parametrize('n', [20_000, 300_001])
@pytest.mark.parametrize('kind', ['spread', 'ties', 'spike', 'infinite'])
def test_ranks_against_a_sort(kind, n):
    x = torch.randn(n, generator=torch.Generator().manual_seed(0))
    if kind=='ties': x = x.mul(2).round()
    if kind=='spike':
        x = torch.zeros(n)
        x[1::4] = torch.linspace(-1, 1, len(x[1::4]))
    if kind=='infinite': x[:n//3] = -math.inf
    order = x.sort()[0]
    x = x.to(where)
    for k in (1, 2, n//3, n//2, n-1, n):
        tau,below,ties = locate([x[:n//7], x[n//7:]], k, bracketed)
        assert (tau.item(), below, ties)==(order[k-1].item(), int((order<order[k-1]).sum()), int((order==order[k-1]).sum()))

@needs_triton
@pytest.mark.parametrize('lo,hi,room', [(-.1, .1, .05), (-10., 10., .05), (5., 6., .05), (-math.inf, math.inf, 1.), (0., 0., .01)])
def test_a_bracket(lo, hi, room):
    "How many lie below, and which lie inside, when there is room for them at first and when there is not"
    x = torch.randn(30_000, generator=torch.Generator().manual_seed(0)).mul(20).round().div(20)
    below,found = inside([x.to(where)], torch.tensor(lo, device=where), torch.tensor(hi, device=where), room)
    assert below==int((x<lo).sum()) and torch.equal(found.sort()[0].cpu(), x[(x>=lo)&(x<=hi)].sort()[0])

@needs_triton
@pytest.mark.parametrize('at', [0, 12_345, -1])
def test_nan_is_found(at):
    x = torch.randn(200_000)
    x[at] = math.nan
    with pytest.raises(ValueError, match='NaN'): threshold(x.to(where), 1000, lambda scores, k: locate(scores, k, bracketed))

# the rest needs a GPU

class Net(nn.Module):
    def __init__(self, d=16, depth=2):
        super().__init__()
        self.emb,self.layer,self.head = nn.Embedding(50, d),nn.ModuleList([nn.Linear(d, d) for _ in range(depth)]),nn.Linear(d, 1)
    def forward(self, x):
        h = self.emb(x).mean(1)
        for l in self.layer: h = h+l(h).tanh()
        return self.head(h)[:,0]

X = torch.randint(0, 50, (3, 16, 5), generator=torch.Generator().manual_seed(0))
Y = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
weights = ['*', '!head*']

def net(dtype=torch.float32, **kw):
    torch.manual_seed(0)
    return Net(**kw).to(dtype)
def optimizer(m, steps=30, **kw): return MaskOptimizer(m, m.head, .5, steps, weights=weights, **{**dict(start='rank', every=3), **kw})
def loss_of(m, i):
    p = m.head.weight
    return (m(X[i%3].to(p.device))-Y[i%3].to(p.device, p.dtype)).square().mean()
def train(m, opt, n=None):
    for _ in range(opt.steps if n is None else n):
        opt.zero_grad()
        loss_of(m, opt.i).backward()
        opt.step()
    return opt
def plain_launches(opt):
    "As on a GPU without Triton"
    opt.weights.one_launch = lambda: []
    return opt
def weights_of(m): return {n: p.detach().cpu() for n,p in m.named_parameters()}
def equal(a, b): return a.keys()==b.keys() and all(torch.equal(a[n], b[n]) for n in a)

kinds = dict(sign=dict(), bf16=dict(dtype=torch.bfloat16), double=dict(dtype=torch.double), matrix=dict(budget='matrix'),
    gone=dict(recovery=False),     ties=dict(start='constant'), sparse=dict(sparse_grad=True))

@needs_cuda
@pytest.mark.parametrize('kind', kinds)
def test_one_launch_is_the_lists_path(kind):
    "The same model, run by one launch a step and by `torch._foreach_*`, bit for bit"
    torch.use_deterministic_algorithms(True, warn_only=True)
    kw = dict(kinds[kind])
    dtype = kw.pop('dtype', torch.float32)
    m,n = net(dtype).cuda(),net(dtype).cuda()
    try:
        a,b = train(m, optimizer(m, **kw)),train(n, plain_launches(optimizer(n, **kw)))
    finally: torch.use_deterministic_algorithms(False)
    assert a.weights.launches or not kernels.triton
    assert a.target_met() and b.target_met() and a.mask()==b.mask() and equal(weights_of(m), weights_of(n))

@needs_cuda
@pytest.mark.parametrize('kw', [dict(), dict(step='plain', alpha=1e-2, t_l=1e3), dict(step='adam', start='normal'), dict(budget='matrix'),
    dict(start='constant'), dict(schedule='none', gamma=1e-3, start='normal'), dict(in_backward=True)], ids=str)
def test_a_run_as_on_a_processor(kw):
    "In double precision, where the order of sums decides no sign"
    m,n = net(torch.double).cuda(),net(torch.double)
    a,b = optimizer(m, **kw),optimizer(n, **kw)
    while not b.done:
        train(m, a, 1)
        train(n, b, 1)
    taus = [[g.tau for g in opt.weights.groups] for opt in (a, b)]
    assert a.done and a.i==b.i and a.mask()==b.mask() and taus[0]==pytest.approx(taus[1], rel=1e-4)

@needs_cuda
@pytest.mark.parametrize('kw', [dict(), dict(step='plain', t_l=1e3), dict(step='adam'), dict(budget='matrix')], ids=str)
def test_a_step_does_not_wait_for_the_device(kw):
    m = net().cuda()
    opt = optimizer(m, steps=100, every=20, **kw)
    train(m, opt, 5)
    loss_of(m, 0).backward()
    try:
        torch.cuda.set_sync_debug_mode('error')
        opt.step()
        opt.zero_grad()
    finally: torch.cuda.set_sync_debug_mode('default')
    assert opt.i==6

def launches(opt):
    "Kernels that one update of all weights starts"
    from torch.profiler import ProfilerActivity,profile
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as prof, torch.no_grad():
        opt._learn()
        torch.cuda.synchronize()
    return sum(e.count for e in prof.key_averages() if e.device_type==torch.autograd.DeviceType.CUDA and not e.key.startswith('Mem'))

@needs_cuda
@pytest.mark.parametrize('path', ['triton', 'lists', 'adam'])
def test_launches_do_not_grow_with_the_matrices(path):
    counts = []
    for depth in (2, 40):
        m = net(depth=depth).cuda()
        opt = optimizer(m, step='adam' if path=='adam' else 'sign')
        if path=='lists': plain_launches(opt)
        train(m, opt, 2)
        opt.zero_grad()
        loss_of(m, 0).backward()
        opt._learn()
        counts.append(launches(opt))
    assert counts[0]==counts[1]>0, counts
    if path=='triton' and kernels.triton: assert counts[0]==1

@needs_cuda
@pytest.mark.parametrize('kw', [dict(), dict(sparse_grad=True), dict(step='adam'), dict(t_l=1e3)], ids=str)
def test_inside_the_backward_pass(kw):
    m,n = net(torch.double).cuda(),net(torch.double).cuda()
    a,b = optimizer(m, in_backward=True, **kw),optimizer(n, **kw)
    train(m, a)
    train(n, b)
    assert a.mask()==b.mask() and all(p.param.grad is None for p in a.weights)

@needs_cuda
def test_inside_the_backward_pass_gradients_are_freed():
    torch.cuda.empty_cache()
    peaks = []
    for in_backward in (False, True):
        m = nn.Sequential(*[nn.Linear(1024, 1024, bias=False) for _ in range(24)]).cuda()
        opt = MaskOptimizer(m, sparsity=.5, steps=10, start='constant', in_backward=in_backward)
        x = torch.randn(2, 1024, device='cuda')
        torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            opt.zero_grad()
            m(x).square().mean().backward()
            opt.step()
        peaks.append(torch.cuda.max_memory_allocated())
        del m,opt,x
        gc.collect()
    assert peaks[1]<.85*peaks[0]

@needs_cuda
def test_half_precision_with_a_scaler():
    m = net().cuda()
    opt,scaler = optimizer(m),torch.amp.GradScaler('cuda')
    for i in range(60):
        if opt.done: break
        opt.zero_grad()
        with torch.autocast('cuda', torch.float16): loss = loss_of(m, i)
        scaler.scale(loss).backward()
        scaler.unscale_(opt)
        nn.utils.clip_grad_norm_(m.parameters(), 1.)
        scaler.step(opt)
        scaler.update()
    assert opt.done and opt.target_met() and opt.mask().sparsity==pytest.approx(.5, abs=1e-3)

@needs_cuda
@pytest.mark.parametrize('kw', [dict(), dict(step='adam', start='normal'), dict(in_backward=True)], ids=str)
@pytest.mark.parametrize('after', [0, 4])
def test_a_model_that_is_moved(kw, after):
    "To the GPU and back, in a run: the optimiser follows, the head's averages as well"
    m,n = net(torch.double),net(torch.double)
    a,b = optimizer(m, **kw),optimizer(n, **kw)
    train(m, a, after)
    m.cuda()
    train(m, a, 10)
    m.cpu()
    train(m, a, 6)
    m.cuda()
    train(m, a, 30-16-after)
    train(n, b)
    assert a.mask()==b.mask() and a.weights.device.type=='cuda'
    a.restore()
    assert all(torch.equal(m.get_parameter(k).cpu(), w0.cpu()) for k,w0 in b.base_weights().items())

@needs_cuda
def test_a_state_from_another_device():
    m,n = net(torch.double),net(torch.double).cuda()
    a,b = optimizer(m),optimizer(n)
    train(m, a, 10)
    n.head.load_state_dict(m.head.state_dict())
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    train(m, a, 20)
    train(n, b, 20)
    assert a.mask()==b.mask()

@needs_cuda
def test_weights_on_two_devices():
    m = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).cuda())
    with pytest.raises(ValueError, match=r"'1\.weight' is on cuda:0 and '0\.weight' on cpu: a base lies on one device"):
        MaskOptimizer(m, sparsity=.5, steps=5, start='rank')

@needs_cuda
@pytest.mark.parametrize('make', [lambda: nn.LSTM(8, 8, 2), lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.)],
    ids=['LSTM', 'encoder layer'])
def test_modules_with_kernels_of_their_own(make):
    torch.manual_seed(0)
    m,x = make().cuda(),torch.randn(5, 3, 8, device='cuda')
    base = {n: p.detach().clone() for n,p in m.named_parameters() if p.ndim>1}
    opt = MaskOptimizer(m, sparsity=.5, steps=6, start='rank', every=2)
    for _ in range(6):
        opt.zero_grad()
        y = m(x)
        (y[0] if isinstance(y, tuple) else y).square().mean().backward()
        opt.step()
    for n,k in opt.mask().items(): assert torch.equal(m.get_parameter(n), base[n]*k.cuda())
    twin = make().cuda()
    twin.load_state_dict(m.state_dict())
    first = lambda y: y[0] if isinstance(y, tuple) else y
    torch.testing.assert_close(first(m(x)), first(twin(x)))

@needs_cuda
def test_a_gradient_that_is_not_finite():
    m = net().cuda()
    opt = optimizer(m)
    train(m, opt, 1)
    loss_of(m, 0).backward()
    m.layer[1].weight.grad[3, 4] = math.nan
    opt.step()
    with pytest.raises(FloatingPointError, match=r'first in layer\.1\.weight'): train(m, opt, 5)

@needs_cuda
def test_plain_lists_of_batches():
    "Batches on the processor, a model on the GPU"
    m = net().cuda()
    batches = [dict(x=x, y=y) for x,y in zip(X, Y)]
    f = lambda model, b: (model(b['x'])-b['y']).square().mean()
    scores = activation_scores(m, batches, loss_fn=f, weights=weights)
    assert all(s.is_cuda for s in scores.values())
    from adaptprune.loop import adapt
    done = adapt(m, batches, sparsity=.5, loss_fn=f, base=m.layer, max_steps=12)
    assert abs(done.mask.sparsity-.5)<1e-2

@needs_cuda
@pytest.mark.parametrize('n', [1, 9, 4096*8+5])
def test_what_was_pruned_is_remembered(n):
    theta = torch.randn(n, device='cuda')
    gone = torch.zeros(-(-n//8), dtype=torch.uint8, device='cuda')
    remember(theta, 0., gone)
    remember(-theta, -1., gone)
    assert torch.equal(unpack_bits(gone, n).cpu(), ((theta<=0) | (-theta<=-1)).cpu())

@needs_triton
@pytest.mark.parametrize('n', [1, 4096, 100_001])
@pytest.mark.parametrize('room', [4, 2**16])
def test_ties_are_found(n, room):
    x = torch.randint(0, 7, (n,), generator=torch.Generator().manual_seed(0)).float().to(where)
    found = kernels.equal_to(x, x[0], room)
    assert torch.equal(found, (x==x[0]).nonzero()[:,0])
