"Baselines: exact masks over pre-trained values, rounds that can be kept, gates, and adapting without a mask."
import math, sys
import pytest, torch, transformers
from datasets import Dataset, DatasetDict
from hypothesis import given, strategies as st
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized, register_parametrization
from torch.utils.data import DataLoader
from adaptprune import baseline, train
from adaptprune.baseline import HardConcrete, L0Controller, MagnitudeController, magnitudes, n_rounds, random_mask, run_task
from adaptprune.head import load_encoder
from adaptprune.layer import apply_mask, detach, fingerprint, maskable, masked_weights
from adaptprune.mask import Mask, n_pruned
from adaptprune.optim import cubic
from adaptprune.train import adapt, get_recipe, recipes

masked = 'default', 'random', 'magnitude', 'imp', 'movement', 'edge-popup', 'l0'
letters = 'abcdefghij'

def make_data(n=40, seed=0):
    "Rows whose label is whether `a` occurs"
    gen = torch.Generator().manual_seed(seed)
    words = [[letters[i] for i in torch.randint(0, 10, (int(torch.randint(3, 7, (1,), generator=gen)),), generator=gen)] for _ in range(n)]
    return Dataset.from_dict(dict(text_a=[' '.join(w) for w in words], label=[int('a' in w) for w in words]))

@pytest.fixture(scope='session')
def go(folder):
    "A function that runs a recipe for a few steps"
    data = DatasetDict(train=make_data(), dev=make_data(20, 1))
    def run(recipe, sparsity=.5, **kwargs): return run_task('mini-sentiment', folder, sparsity, recipe, **dict(dict(data=data, batch_size=8, max_steps=6, every=2, progress=False), **kwargs))
    return run

@pytest.fixture
def calls(monkeypatch):
    "What the loop is called with, in a list"
    seen,real = [],train.adapt
    def spy(model, loader, *args, **kwargs):
        seen.append(dict(recipe=kwargs['recipe'] if 'recipe' in kwargs else args[2], head={n: p.clone() for n,p in model.head.named_parameters()}, rows=[b['input_ids'].tolist() for b in loader]))
        return real(model, loader, *args, **kwargs)
    for room in (baseline, train): monkeypatch.setattr(room, 'adapt', spy)
    return seen

def pretrained(folder): return dict(load_encoder(folder).named_parameters())
def told(res, *but): return {k: v for k,v in res.report.items() if 'seconds' not in k and k not in but}

# masks over pre-trained values

@pytest.mark.parametrize('recipe', masked)
@pytest.mark.parametrize('sparsity,budget', [(.5, None), (.37, 'matrix'), (.9, 'global')], ids=str)
def test_a_mask_is_exact_and_keeps_pretrained_values(go, folder, recipe, sparsity, budget):
    res,w0 = go(recipe, sparsity, budget=budget),pretrained(folder)
    mask,base = res.mask,res.model.base_model
    groups = [[n] for n in mask] if res.report['recipe']['budget']=='matrix' else [list(mask)]
    for ns in groups: assert sum(int((~mask[n]).sum()) for n in ns)==n_pruned(sum(mask[n].numel() for n in ns), sparsity)
    assert set(mask)=={n for n,p in w0.items() if p.ndim==2} and all(m.device.type=='cpu' for m in mask.values())
    assert res.report['base']==fingerprint(load_encoder(folder))
    attached = masked_weights(base)
    assert bool(attached)==(res.report['method']=='mask')
    for n,p in (detach(base) if attached else base).named_parameters():
        assert torch.equal(p, w0[n]*mask[n] if n in mask and not attached else w0[n])
    r = res.report
    assert (r['target'],r['target_met'],r['kept'],r['steps'])==(sparsity, True, mask.kept, 6) and r['sparsity']==mask.sparsity and 0<=r['metrics']['accuracy']<=1

@pytest.mark.parametrize('recipe', ['random', 'movement', 'edge-popup', 'l0', 'magnitude', 'imp', 'lora', 'bitfit'])
def test_a_seed_decides_a_run(go, recipe):
    a,b,c = (go(recipe, 0. if recipe in ('lora', 'bitfit') else .4, seed=s, max_steps=4) for s in (0, 0, 1))
    assert a.mask==b.mask and told(a)==told(b) and a.history==b.history and a.history!=c.history
    if recipe in ('random', 'edge-popup'): assert a.mask!=c.mask

def test_methods_share_head_and_order(go, calls):
    for r in masked+('features', 'finetune', 'lora', 'bitfit'): go(r, 0. if r in ('lora', 'bitfit') else .5, max_steps=1)
    assert len(calls)==len(masked)+4+1+4
    for c in calls[1:]:
        assert c['rows']==calls[0]['rows'] and len(c['rows'])==5
        assert all(torch.equal(p, calls[0]['head'][n]) for n,p in c['head'].items())

@pytest.mark.parametrize('weights', ['all', 'encoder', '*attention*weight'])
def test_random_and_magnitude_agree_on_which_weights(tiny, weights):
    model = tiny('Bert')
    mask = random_mask(model, .3, weights)
    assert mask.keys()==magnitudes(model, weights).keys() and mask.numel-mask.kept==n_pruned(mask.numel, .3)
    assert mask==random_mask(model, .3, weights) and mask!=random_mask(model, .3, weights, seed=1)
    assert all(torch.equal(s, dict(model.named_parameters())[n].abs()) for n,s in magnitudes(model, weights).items())

# magnitude pruning in training

X = torch.randn(96, 10, generator=torch.Generator().manual_seed(0))
Y = X[:,:3].argmax(1)
class Toy(nn.Module):
    def __init__(self):
        super().__init__(); torch.manual_seed(0)
        self.body,self.head = nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Dropout(.2), nn.Linear(24, 16), nn.Tanh()),nn.Linear(16, 3)
    base_model = property(lambda self: self.body)
    def forward(self, x): return self.head(self.body(x))
def loader(): return DataLoader(list(zip(X, Y)), 16, shuffle=True)
def ce(model, batch): return F.cross_entropy(model(batch[0]), batch[1])
def crash_at(call, loss=ce):
    calls = iter(range(10**6))
    def f(model, batch):
        if next(calls)==call: raise RuntimeError('power cut')
        return loss(model, batch)
    return f

@pytest.mark.parametrize('hold', [False, True])
def test_a_magnitude_run_resumes_exactly(tmp_path, hold):
    made = []
    def controller(base, n):
        made.append(MagnitudeController(base, n, mask=random_mask(base, .4)) if hold else MagnitudeController(base, n, .7, cubic, every=3))
        return made[-1]
    def run(loss=ce, **kwargs): return adapt(Toy(), loader(), loss, 0., 'finetune', max_steps=20, lr=1e-2, controller=controller, progress=False, **kwargs)
    whole = run()
    with pytest.raises(RuntimeError, match='power cut'): run(crash_at(13), out=tmp_path, checkpoint_every=5)
    resumed = run(out=tmp_path, resume=True)
    assert made[0].mask==made[2].mask and whole.history==resumed.history and made[2].i==20
    assert all(torch.equal(a, b) for a,b in zip(whole.model.parameters(), resumed.model.parameters()))
    for n,m in made[2].mask.items(): assert not resumed.model.body.get_parameter(n)[~m].any()
    assert abs(made[2].mask.sparsity-(.4 if hold else .7))<1e-2

def test_magnitude_climbs_and_what_is_out_stays_out():
    model,seen = Toy().body,[]
    ctl = MagnitudeController(model, 40, .8, cubic, every=5)
    for _ in range(40):
        with torch.no_grad(): model[0].weight.add_(torch.randn(24, 10), alpha=.02)
        ctl.step()
        if ctl.mask and (not seen or seen[-1] is not ctl.mask): seen.append(ctl.mask)
    assert len(seen)==8 and ctl.done and all((b-a).kept==0 for a,b in zip(seen, seen[1:]))
    assert [m.sparsity for m in seen]==sorted(m.sparsity for m in seen) and seen[-1].numel-seen[-1].kept==n_pruned(seen[-1].numel, .8)

def test_tuned_metrics_are_at_the_sparsity_that_they_name(go):
    r = go('magnitude', .6).report
    assert r['tuned_sparsity']==r['sparsity'] and set(r['tuned_metrics'])=={'accuracy'} and r['mask_seconds']>=0

# rounds

@given(st.floats(.001, .9999), st.floats(.05, .9))
def test_rounds_are_as_few_as_reach_the_sparsity(s, share):
    n = n_rounds(s, share)
    assert (1-share)**n<=1-s+1e-8 and (n==1 or (1-share)**(n-1)>1-s)

def test_rounds_prune_nested_shares_and_start_from_pretrained_values(go, monkeypatch, folder):
    held,real,w0 = [],MagnitudeController.__init__,pretrained(folder)
    def init(self, model, *args, mask=None, **kwargs):
        now = {n: p.detach().clone() for n,p in model.named_parameters()}
        assert all(torch.equal(p, w0[n]) for n,p in now.items())
        held.append(mask); real(self, model, *args, mask=mask, **kwargs)
    monkeypatch.setattr(MagnitudeController, '__init__', init)
    res = go('imp', .6)
    assert res.report['rounds']==len(held)==5 and held[0] is None
    for k,m in enumerate(held[1:], 1): assert m.numel-m.kept==n_pruned(m.numel, 1-.8**k)
    assert all((b-a).kept==0 for a,b in zip(held[1:], [*held[2:], res.mask]))

def test_rounds_from_a_cache_give_the_same(go, calls, tmp_path):
    alone = {s: go('imp', s) for s in (.2, .5, .55, .6)}
    assert [len([0 for c in calls if c['recipe'].method=='finetune'])]==[1+4+4+5]
    calls.clear()
    kept = {s: go('imp', s, cache=tmp_path) for s in (.2, .5, .55, .6)}
    assert len([0 for c in calls if c['recipe'].method=='finetune'])==5 and len(list(tmp_path.iterdir()))==1
    for s in alone: assert alone[s].mask==kept[s].mask and told(alone[s])==told(kept[s])
    assert kept[.55].report['tuned_metrics']==kept[.5].report['tuned_metrics'] and kept[.55].report['mask_seconds']==kept[.5].report['mask_seconds']

def test_a_lower_sparsity_leaves_the_kept_rounds_alone(go, calls, tmp_path):
    go('imp', .6, cache=tmp_path)
    file, = tmp_path.iterdir(); before = file.read_bytes()
    low = go('imp', .2, cache=tmp_path)
    assert file.read_bytes()==before and low.mask==go('imp', .2).mask

def test_an_interrupted_run_goes_on_from_its_last_round(go, calls, tmp_path, monkeypatch):
    real,n = baseline._tune,iter(range(100))
    def tune(*args, **kwargs):
        if next(n)==2: raise RuntimeError('power cut')
        return real(*args, **kwargs)
    monkeypatch.setattr(baseline, '_tune', tune)
    with pytest.raises(RuntimeError, match='power cut'): go('imp', .5, cache=tmp_path)
    calls.clear()
    res = go('imp', .5, cache=tmp_path)
    assert len(calls)==2+1 and res.mask==go('imp', .5).mask

@pytest.mark.parametrize('kw', [dict(seed=1), dict(round_steps=3), dict(lr=1e-3), dict(max_length=5), dict(data=DatasetDict(train=make_data(seed=5), dev=make_data(20, 1)))], ids=lambda kw: next(iter(kw)))
def test_another_run_has_rounds_of_its_own(go, tmp_path, kw):
    go('imp', .2, cache=tmp_path); go('imp', .2, cache=tmp_path, **kw)
    assert len(list(tmp_path.iterdir()))==2

def test_a_broken_file_of_rounds(go, tmp_path):
    go('imp', .2, cache=tmp_path)
    file, = tmp_path.iterdir(); file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match='delete it to start anew'): go('imp', .2, cache=tmp_path)

def test_tuned_weights_at_the_final_mask(go, calls):
    a,b = go('imp', .5),go('imp', .5, tune_kept=True)
    assert a.mask==b.mask and a.report['tuned_sparsity']==pytest.approx(1-.8**3, abs=1e-3) and b.report['tuned_sparsity']==b.mask.sparsity
    assert len(calls)==5+6

def test_round_steps(go): assert go('imp', .5, round_steps=2).mask!=go('imp', .5, lr=1e-2).mask

# movement and edge-popup

def test_movement_gathers_minus_gradient_times_weight():
    model = Toy().eval()
    w = model.body[0].weight.detach().clone().requires_grad_(True)
    h = F.linear(X, w, model.body[0].bias).tanh()
    g, = torch.autograd.grad(F.cross_entropy(model.head(F.linear(h, model.body[3].weight, model.body[3].bias).tanh()), Y), w)
    r = get_recipe('movement', step='plain', alpha=.1, warmup=0., decay='none')
    opt = train.prepare(model, r, model.body, 10)
    ce(model, (X, Y)).backward(); opt.step()
    moved = masked_weights(model.body)['0.weight'].theta.detach()-1
    assert torch.allclose(moved, -.1*g*w.detach(), atol=1e-6) and moved.abs().max()>1e-4

def test_the_rate_of_movement_has_no_say():
    runs = [adapt(Toy(), loader(), ce, .7, 'movement', spread=s, max_steps=20, every=2, progress=False) for s in (1., 4., .25)]
    assert runs[0].mask==runs[1].mask==runs[2].mask and runs[0].history==runs[1].history
    other = adapt(Toy(), loader(), ce, .7, 'movement', max_steps=20, every=2, beta=1e-2, progress=False)
    assert other.mask!=runs[0].mask

@pytest.mark.parametrize('recipe', ['movement', 'edge-popup', 'default'])
def test_what_is_open_at_the_first_step(recipe):
    seen = []
    def loss(model, batch):
        if ws := masked_weights(model.body).values(): seen.append(sum(int(w.mask.sum()) for w in ws))     # the start looks at the plain network
        return ce(model, batch)
    res = adapt(Toy(), loader(), loss, .7, recipe, max_steps=30, progress=False)
    n = res.mask.numel
    assert seen[0]==(n-sum(n_pruned(m.numel(), .7) for m in res.mask.values()) if recipe=='edge-popup' else n)
    if recipe=='edge-popup': assert {h['sparsity'] for h in res.history}=={res.mask.sparsity}

def test_edge_popup_exchanges_weights_of_a_random_mask():
    first = []
    def loss(model, batch): first.append({n: w.mask.clone() for n,w in masked_weights(model.body).items()}); return ce(model, batch)
    res = adapt(Toy(), loader(), loss, .7, 'edge-popup', max_steps=30, every=2, progress=False)
    start = Mask(first[0])
    assert start.kept==res.mask.kept and .2<start.jaccard(res.mask)<1

def test_hard_masks_forward():
    model = Toy()
    train.prepare(model, get_recipe('edge-popup'), model.body, 10)
    model.train(); w = masked_weights(model.body)['0.weight']
    w.tau.data.fill_(.05)
    assert set((model.body[0].weight==0).view(-1).tolist())=={True, False} and torch.equal(model.body[0].weight, w.w0*w.mask)

@pytest.mark.parametrize('kw,says', [(dict(schedule='slow'), 'use one of cubic, linear, constant, none'), (dict(t_s=-1.), 't_s must be positive'), (dict(start='zero'), "Unknown start 'zero'")])
def test_recipes_that_cannot_be(kw, says):
    with pytest.raises(ValueError, match=says): adapt(Toy(), loader(), ce, .5, 'movement', max_steps=2, progress=False, **kw)

# hard-concrete gates

@pytest.mark.parametrize('a', [-3., -1.6, 0., 2.2])
def test_gates_are_open_as_often_as_they_say(a):
    torch.manual_seed(0)
    w = torch.ones(50_000); g = HardConcrete(w, a); z = g(w).detach()
    p = g.open()[0].item()
    assert z.min()>=0 and z.max()<=1 and (z!=0).float().mean().item()==pytest.approx(p, abs=4*math.sqrt(p*(1-p)/5e4)+1e-4)
    assert (z==1).any()==(a>-3) or a<=-1.6
    g.eval(); assert torch.equal(g(w), (torch.full_like(w, a).sigmoid()*1.2-.1).clamp(0, 1))

def gated(): m = nn.Linear(20, 30); g = HardConcrete(m.weight); register_parametrization(m, 'weight', g); return m,{'weight': g}

def test_a_price_is_positive_when_behind_and_negative_when_ahead():
    for a,sign in ((6., 1), (-6., -1)):
        _,gates = gated(); gates['weight'].log_alpha.data.fill_(a)
        ctl = L0Controller(gates, 100, .5, lambda progress, s: s)
        first = ctl.cost(); ctl.step(); second = ctl.cost()
        assert sign*first.item()>0 and second.abs()>first.abs() and sign*ctl.lam['all']>0
        second.backward(); assert (sign*gates['weight'].log_alpha.grad>0).all()

def test_the_expected_sparsity_follows_the_schedule_and_the_end_is_exact():
    torch.manual_seed(0)
    m,gates = gated(); a = gates['weight'].log_alpha
    worth,opt,seen = torch.randn(30, 20).abs(),torch.optim.Adam([a], .1),[]
    ctl = L0Controller(gates, 300, .6, cubic, scale=1/600)
    for _ in range(300):
        opt.zero_grad(); (ctl.cost()-(m.weight/m.parametrizations.weight.original.detach()*worth).mean()).backward(); opt.step()
        seen.append(ctl.sparsity()); ctl.step()
    assert seen[-1]==pytest.approx(.6, abs=.05) and ctl.done and ctl.sparsity()==pytest.approx(.6)
    assert max(seen)<.65 and min(s-cubic(i/300, .6) for i,s in enumerate(seen))>-.3
    mask = a.detach()>0
    assert int(mask.sum())==240 and worth[mask].mean()>2*worth[~mask].mean()
    assert torch.equal(m.eval().weight==0, ~mask) and torch.equal(m.weight, m.parametrizations.weight.original*mask)

def test_each_group_has_its_price():
    gates = {f'{i}.weight': HardConcrete(torch.ones(4, 5), a) for i,a in enumerate((6., -6.))}
    ctl = L0Controller(gates, 10, .5, lambda progress, s: s, 'matrix', {'0.weight': 1., '1.weight': 2.})
    ctl.cost(); ctl.step()
    assert ctl.lam['0.weight']>0>ctl.lam['1.weight'] and ctl.scale=={'0.weight': 1., '1.weight': 2.}
    assert L0Controller(gates, 10, .5, scale={'0.weight': 1., '1.weight': 2.}).scale=={'all': 1.5}

def test_gates_leave_no_trace(go):
    res = go('l0', budget='matrix')
    assert not any(is_parametrized(m) for m in res.model.modules()) and not any('parametrizations' in n for n in res.model.state_dict())

@pytest.mark.parametrize('recipe', ['l0', 'lora', 'bitfit'])
def test_one_phase_resumes_exactly(go, tmp_path, monkeypatch, recipe):
    s = .5 if recipe=='l0' else 0.
    kw,whole = dict(out=tmp_path, max_steps=12),go(recipe, s, max_steps=12)
    real = train.AdaptModel.forward
    seen = iter(range(10**6))
    def forward(self, *args, **kwargs):
        if self.training and next(seen)==10: raise RuntimeError('power cut')
        return real(self, *args, **kwargs)
    with monkeypatch.context() as mp:
        mp.setattr(train.AdaptModel, 'forward', forward)
        with pytest.raises(RuntimeError, match='power cut'): go(recipe, s, checkpoint_every=5, **kw)
    resumed = go(recipe, s, resume=True, **kw)
    assert whole.mask==resumed.mask and whole.history==resumed.history and told(whole)==told(resumed)
    assert all(torch.equal(a, b) for a,b in zip(whole.model.state_dict().values(), resumed.model.state_dict().values()))

def test_tied_weights_share_their_gates(tiny):
    model = nn.Module(); model.a,model.b = nn.Linear(6, 6),nn.Linear(6, 6); model.b.weight = model.a.weight
    (n,places), = maskable(model).items()
    g = HardConcrete(model.a.weight)
    for m,attr in places: register_parametrization(m, attr, g)
    model.eval()
    assert len(places)==2 and torch.equal(model.a.weight, model.b.weight) and len([p for p in model.parameters() if p.ndim==2])==2

# without a mask

def test_lora_trains_two_thin_matrices_a_projection(go, folder):
    res,w0 = go('lora', 0., rank=3),pretrained(folder)
    assert res.mask is None and res.report['trainable']==2*3*(16+16) and res.report['bytes']==4*res.report['trainable']
    now = {n.replace('.base_layer', ''): p for n,p in res.model.base_model.named_parameters() if 'lora_' not in n}
    assert now.keys()==w0.keys() and all(torch.equal(p, w0[n]) for n,p in now.items())
    assert all(p.abs().sum()>0 for n,p in res.model.base_model.named_parameters() if 'lora_B' in n)
    assert res.report['base']==fingerprint(load_encoder(folder)) and go('lora', 0.).report['trainable']==8*64

def test_bitfit_trains_all_biases_and_nothing_else(go, folder):
    res,w0 = go('bitfit', 0., lr=1e-2, weight_decay=.1),pretrained(folder)
    changed = {n for n,p in res.model.base_model.named_parameters() if not torch.equal(p, w0[n])}
    bias = {n for n in w0 if n.endswith('.bias')}
    assert changed<=bias and bias-changed<={n for n in bias if '.key.' in n or 'pooler' in n}
    assert res.mask is None and res.report['trainable']==sum(w0[n].numel() for n in bias)

def test_missing_peft(go, monkeypatch):
    monkeypatch.setitem(sys.modules, 'peft', None)
    with pytest.raises(ImportError, match="pip install 'adaptprune\\[peft\\]'"): go('lora', 0.)
    assert go('bitfit', 0.).mask is None

def test_lora_on_what_peft_cannot_adapt(go, tiny, tmp_path, folder):
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.FunnelBaseModel(transformers.FunnelConfig(vocab_size=15, block_sizes=[1], d_model=16, n_head=2, d_head=8, d_inner=16))
    model.save_pretrained(tmp_path); tok.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match='peft does not know'): run_task('mini-sentiment', str(tmp_path), 0., 'lora', data=DatasetDict(train=make_data(), dev=make_data()), max_steps=1, progress=False)

@pytest.mark.parametrize('recipe', ['l0', 'lora', 'bitfit'])
def test_somebody_else_trains_the_base(go, monkeypatch, recipe):
    real = train.AdaptModel.forward
    def forward(self, *args, **kwargs):
        if self.training: next(p for n,p in self.encoder.named_parameters() if 'LayerNorm.weight' in n).data.add_(1e-3)
        return real(self, *args, **kwargs)
    monkeypatch.setattr(train.AdaptModel, 'forward', forward)
    with pytest.raises(RuntimeError, match='frozen weights changed'): go(recipe, .5 if recipe=='l0' else 0.)

# what is said and refused

@pytest.mark.parametrize('recipe,sparsity,trained,stored', [('default', .5, 'mask', 'bits'), ('random', .5, 0, 'bits'), ('magnitude', .5, 'all', 'bits'), ('imp', .5, 'all', 'bits'), ('l0', .5, 'mask', 'bits'),
    ('features', 0., 0, 0), ('finetune', 0., 'all', 'all')])
def test_sizes(go, folder, recipe, sparsity, trained, stored):
    from adaptprune.artifact import mask_entropy
    res,n = go(recipe, sparsity),sum(p.numel() for p in pretrained(folder).values())
    assert res.report['trainable']=={'mask': res.mask and res.mask.numel, 'all': n, 0: 0}[trained]
    assert res.report['bytes']=={'bits': res.mask and math.ceil(mask_entropy(res.mask)), 'all': 4*n, 0: 0}[stored]

@pytest.mark.parametrize('recipe,kw,says', [(r, dict(sparsity=0.), "'%s' needs a sparsity above 0" % r) for r in ('random', 'magnitude', 'imp', 'l0')]
    + [(r, dict(sparsity=.5), "'%s' prunes nothing: give sparsity=0, got 0.5" % r) for r in ('lora', 'bitfit')]
    + [(r, dict(sparsity=1.), 'got 1.0') for r in ('random', 'lora', 'movement')]
    + [('imp', dict(resume=True, out='x'), 'give cache='), ('magnitude', dict(resume=True, out='x'), 'several phases'), ('IMP', {}, "Unknown recipe 'IMP'"),
       ('random', dict(weights='nope*'), "No weight matrix matches 'nope"), ('magnitude', dict(budget='head'), "Unknown budget 'head'"), ('random', dict(levels=[.2, .5]), 'leave out levels')])
def test_refused(go, recipe, kw, says):
    with pytest.raises(ValueError, match=says): go(recipe, **kw)

def test_loss_that_is_no_number(go, monkeypatch):
    real = train.AdaptModel.forward
    def forward(self, *args, **kwargs): out = real(self, *args, **kwargs); out.loss = out.loss*float('nan') if out.loss is not None else None; return out
    monkeypatch.setattr(train.AdaptModel, 'forward', forward)
    for r,s in (('l0', .5), ('lora', 0.), ('imp', .5)):
        with pytest.raises(FloatingPointError, match='The loss is nan at step 0'): go(r, s)

@pytest.mark.parametrize('recipe', ['movement', 'edge-popup'])
def test_a_secret_mask_is_approached(recipe):
    def net(): torch.manual_seed(1); return nn.Sequential(nn.Linear(30, 100), nn.Tanh(), nn.Linear(100, 5))
    x = torch.randn(2048, 30, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(): y = apply_mask(net(), random_mask(net(), .6, seed=2))(x).argmax(1)
    def right(model): return dict(accuracy=(model(x).argmax(1)==y).float().mean().item())
    res = adapt(net(), DataLoader(list(zip(x, y)), 64, shuffle=True), ce, .6, recipe, evaluate=torch.no_grad()(right), max_steps=100, progress=False)
    assert res.report['metrics']['accuracy']>right(net())['accuracy']+.25

# real weights

@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize('recipe', ['lora', 'bitfit'])
def test_a_method_learns_on_real_weights(recipe):
    scores = [run_task('mini-similarity', sparsity=0., recipe=r, max_steps=80, progress=False).report['metrics']['spearman'] for r in (recipe, 'features')]
    assert scores[0]>max(.4, scores[1]+.1)

@pytest.mark.parametrize('kw', [dict(head_start='means'), dict(teacher='finetune'), dict(average=.2)], ids=str)
def test_ingredients_of_masks_are_not_for_baselines(kw):
    with pytest.raises(ValueError, match=f"'random' knows no {list(kw)[0]}"): run_task('mini-sentiment', recipe='random', **kw)
