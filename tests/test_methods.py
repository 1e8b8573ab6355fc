"What methods train, and what comes out: gates, movement, edge-popup, LoRA, BitFit, features."
import math
from types import SimpleNamespace
import pytest,torch
from torch import nn
from torch.nn import functional as F
from adaptprune.head import AdaptModel
from adaptprune.loop import Hook,adapt
from adaptprune.mask import Mask,n_pruned
from adaptprune.methods import DrawnGates,GateOptimizer,Lora,by_name,chance_open,gate_slope,gate_value,get_method
from adaptprune.optim import MaskOptimizer,MaskSettings
from adaptprune.recipe import get_recipe,recipes
from adaptprune.sparsity import cubic
from toy import *

# movement and edge-popup

def test_movement_gathers_minus_gradient_times_weight():
    model = Toy().eval()
    w = model.body[0].weight.detach().clone().requires_grad_(True)
    h = F.linear(X, w, model.body[0].bias).tanh()
    g, = torch.autograd.grad(F.cross_entropy(model.head(F.linear(h, model.body[3].weight, model.body[3].bias).tanh()), Y), w)
    opt = MaskOptimizer(model.body, model.head, .5, 10, settings=get_recipe('movement', step='plain', alpha=.1, warmup=0., decay='none'))
    ce(model, (X, Y)).backward(); opt.step()
    moved = opt.state_dict()['mask']['groups']['0.weight']['theta']-1
    assert torch.allclose(moved.view_as(w), -.1*g*w.detach(), atol=1e-6) and moved.abs().max()>1e-4

def test_the_rate_of_movement_has_no_say():
    runs = [go(recipe='movement', sparsity=.7, spread=s, max_steps=20, every=2) for s in (1., 4., .25)]
    assert runs[0].mask==runs[1].mask==runs[2].mask and runs[0].history==runs[1].history
    other = go(recipe='movement', sparsity=.7, max_steps=20, every=2, beta=1e-2)
    assert other.mask!=runs[0].mask

class Masks(Hook):
    "The mask before each step"
    def begin(self, run): self.seen,self.run = [run.opt.mask()],run
    def after_step(self, run, loss): self.seen.append(run.opt.mask())

@pytest.mark.filterwarnings('ignore:This mask has sparsity')
@pytest.mark.parametrize('recipe', ['movement', 'edge-popup', 'default'])
def test_what_is_open_at_the_first_step(recipe):
    m = Masks()
    res = go(recipe=recipe, sparsity=.7, max_steps=30, hooks=[m])
    n = res.mask.numel
    assert m.seen[0].kept==(n-sum(n_pruned(x.numel(), .7) for x in res.mask.values()) if recipe=='edge-popup' else n)
    if recipe=='edge-popup': assert {h['sparsity'] for h in res.history}=={res.mask.sparsity}

@pytest.mark.filterwarnings('ignore:This mask has sparsity')
def test_edge_popup_exchanges_weights_of_a_random_mask():
    m = Masks()
    res = go(recipe='edge-popup', sparsity=.7, max_steps=30, every=2, hooks=[m])
    assert m.seen[0].kept==res.mask.kept and .2<m.seen[0].jaccard(res.mask)<1

# hard-concrete gates

@pytest.mark.parametrize('a', [-3., -1.6, 0., 2.2])
def test_gates_are_open_as_often_as_they_say(a):
    torch.manual_seed(0)
    theta = torch.full((50_000,), a)
    z = gate_value(theta, torch.rand_like(theta).logit(1e-6))
    p = chance_open(theta)[0].item()
    assert z.min()>=0 and z.max()<=1 and (z!=0).float().mean().item()==pytest.approx(p, abs=4*math.sqrt(p*(1-p)/5e4)+1e-4)
    assert (z==1).any()==(a>-3) or a<=-1.6
    assert torch.equal(gate_value(theta), (theta.sigmoid()*1.2-.1).clamp(0, 1))

def test_slope_of_a_gate():
    torch.manual_seed(0)
    a,noise = torch.randn(5000, dtype=torch.float64, requires_grad=True),torch.rand(5000, dtype=torch.float64).logit()
    exact, = torch.autograd.grad((((a+noise)/(2/3)).sigmoid()*1.2-.1).clamp(0, 1).sum(), a)
    torch.testing.assert_close(gate_slope(a.detach(), noise), exact)

def gated(steps=300, sparsity=.5, **kwargs):
    torch.manual_seed(0)
    net = nn.Linear(20, 30, bias=False)
    return net, net.weight.detach().clone(), GateOptimizer(net, sparsity=sparsity, steps=steps, **kwargs)

def test_the_model_computes_with_drawn_gates():
    net,w0,opt = gated()
    p, = opt.weights
    first = net.weight.detach().clone()
    assert torch.equal(first, w0*gate_value(p.theta, p.noise).view_as(w0)) and not torch.equal(first, w0)
    with opt.showing(): assert torch.equal(net.weight, w0*gate_value(p.theta).view_as(w0))
    assert torch.equal(net.weight, first)
    net.weight.square().sum().backward(); opt.step()
    assert not torch.equal(net.weight, first)

def test_a_price_is_positive_when_behind_and_negative_when_ahead():
    for a,sign in ((6., 1), (-6., -1)):
        net,_,opt = gated(at=a)
        opt.schedule = lambda progress, s, end: s
        g, = opt.weights.groups
        first = opt.force(g)
        before = g.theta.clone()
        (net.weight*0).sum().backward(); opt.step()
        assert sign*first>0 and abs(opt.force(g))>abs(first) and sign*opt.lam['all']>0
        assert (sign*(before-g.theta)>0).all()                                              # the price moves every gate one way

def test_the_expected_sparsity_follows_the_schedule_and_the_end_is_exact():
    net,w0,opt = gated(sparsity=.6, prices=1/600)
    worth,seen = torch.randn(30, 20).abs(),[]
    while not opt.done:
        (-(net.weight/w0*worth).mean()).backward()
        seen.append(opt.sparsity())
        opt.step(); opt.zero_grad()
    assert seen[-1]==pytest.approx(.6, abs=.05) and opt.sparsity()==pytest.approx(.6)
    assert max(seen)<.65 and min(s-cubic(i/300, .6) for i,s in enumerate(seen))>-.3
    mask = opt.mask()['weight']
    assert int(mask.sum())==240 and worth[mask].mean()>2*worth[~mask].mean()
    assert torch.equal(net.weight, w0*mask)

def test_each_group_has_its_price():
    def net(): return nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 4))
    prices = {'0.weight': 1., '1.weight': 2.}
    assert GateOptimizer(net(), steps=10, prices=prices, settings=MaskSettings(budget='matrix', spread=10.)).prices==prices
    assert GateOptimizer(net(), steps=10, prices=prices).prices=={'all': 1.5}

def test_gates_resume_bit_for_bit():
    def run(opt, net, w0, n):
        for _ in range(n): (net.weight-w0*.3).square().sum().backward(); opt.step(); opt.zero_grad()
    net,w0,opt = gated(40)
    torch.manual_seed(5); run(opt, net, w0, 40)
    part,w0,half = gated(40)
    torch.manual_seed(5); run(half, part, w0, 17)
    rng,state = torch.get_rng_state(),torch.load(_saved(half.state_dict()), weights_only=True)
    fresh,w0,again = gated(40)
    again.load_state_dict(state); assert torch.equal(fresh.weight, part.weight)
    torch.set_rng_state(rng); run(again, fresh, w0, 23)
    assert torch.equal(fresh.weight, net.weight) and again.mask()==opt.mask() and again.lam==opt.lam

def _saved(state):
    import io
    f = io.BytesIO(); torch.save(state, f); f.seek(0)
    return f

def test_gates_of_a_run_are_shown_at_their_likely_values():
    "An evaluation in the middle of a run sees what would ship, and the run goes on as if there had been none"
    seen = []
    def look(model): seen.append([p.detach().clone() for p in model.body.parameters()]); return dict(x=0.)
    kw = dict(recipe='l0', max_steps=20)
    plain,watched = go(**kw),go(evaluate=look, eval_every=5, **kw)
    assert plain.mask==watched.mask and len(seen)==4 and not torch.equal(seen[0][0], seen[1][0])

def test_tied_weights_share_their_gates():
    model = nn.Module(); model.a,model.b = nn.Linear(6, 6),nn.Linear(6, 6); model.b.weight = model.a.weight
    opt = GateOptimizer(model, steps=5)
    assert len(opt.weights.places)==1 and torch.equal(model.a.weight, model.b.weight) and len([p for p in model.parameters() if p.ndim==2])==1

# without a mask

def test_features_read_each_text_once(tiny, tokens):
    "Over all epochs the frozen encoder works on each row once, and the model forgets the rows when training ends, however it ends"
    torch.manual_seed(0)
    model,rows = AdaptModel(tiny('Bert'), 2),[]
    model.encoder.register_forward_hook(lambda m, args, kwargs, out: rows.append(len(kwargs['input_ids'])), with_kwargs=True)
    data,seen = [dict(tokens, labels=torch.tensor([0, 1, 0, 1]))]*2,[]
    def loss(m, b): seen.append(m.seen is not None); return m(**b).loss
    adapt(model, data, loss, recipe='features', epochs=3, progress=False)
    assert sum(rows)<=4 and all(seen) and len(seen)==6 and model.seen is None
    with pytest.raises(RuntimeError, match='power cut'): adapt(model, data, crash_at(0), recipe='features', epochs=3, progress=False)
    assert model.seen is None
    adapt(model, data, loss, recipe='finetune', epochs=1, progress=False)
    assert sum(rows)>=12 and not any(seen[6:])

def test_features_of_a_base_that_is_everything():
    model = nn.Sequential(nn.Linear(10, 3))
    with pytest.raises(ValueError, match='trains what lies outside the base, and nothing does'): go(model, recipe='features')
    assert all(p.requires_grad for p in model.parameters())

def test_frozen_heads_stay_frozen():
    model = Toy()
    model.head.bias.requires_grad_(False)
    before = model.head.bias.detach().clone()
    go(model)
    assert torch.equal(model.head.bias, before) and not model.head.bias.requires_grad and model.head.weight.requires_grad

def test_lora_comes_off_after_a_failure(tiny, tokens):
    model = AdaptModel(tiny('Bert'), 2)
    before = {n: p.detach().clone() for n,p in model.named_parameters()}
    data = [dict(tokens, labels=torch.tensor([0, 1, 0, 1]))]*4
    loss = lambda m,b: m(**b).loss
    with pytest.raises(RuntimeError, match='power cut'): adapt(model, data, crash_at(3, loss=loss), recipe='lora', progress=False)
    assert before.keys()=={n for n,_ in model.named_parameters()} and all(torch.equal(p, before[n]) and p.requires_grad for n,p in model.named_parameters())

def test_every_method_has_a_name():
    for name,cls in by_name.items(): assert type(get_method(get_recipe(recipes[name] if name in recipes else 'default')))==cls
    assert Lora(recipes['lora'], 3).config()==dict(rank=3)
