"What a private run promises, part by part: gradients, clipping, noise, batches, the account, and all that would void it."
import importlib.util,json,math,sys,warnings
from dataclasses import replace
from pathlib import Path
import pytest,torch
from datasets import Dataset,DatasetDict
from torch import nn
from torch.nn import functional as F
import adaptprune.private as private_room
from adaptprune.artifact import TaskMask
from adaptprune.layer import masked_layer
from adaptprune.mask import Mask
from adaptprune.optim import MaskOptimizer
from adaptprune.private import HeadLearner,MaskLearner,adapt_privately,attack_auc,learn_privately,private_recipe,row_losses,theta_gradient
from adaptprune.privacy import ClippedSum,Privacy,epsilon_spent,noisy_mean,poisson_rows,promise,sampling_rates,secret_generator,sigma_for
from adaptprune.recipe import as_method,get_recipe
from adaptprune.setup import set_up
from adaptprune.tasks import Task

free = dict(epsilon=None, delta=1e-3, batch_size=8, steps=4)
task = Task('own', ('text',), 'label', ('no', 'yes'), source='files')

def rows(n, seed):
    "Texts of letters with labels by chance"
    g = torch.Generator().manual_seed(seed)
    def text():
        n = int(torch.randint(3, 9, (1,), generator=g))
        return ' '.join('abcdefghij'[i] for i in torch.randint(0, 10, (n,), generator=g))
    return Dataset.from_dict(dict(text_a=[text() for _ in range(n)], label=torch.randint(0, 2, (n,), generator=g).tolist()))

def splits(n=40, seed=0): return DatasetDict(train=rows(n, seed), dev=rows(20, seed+1))

@pytest.fixture(autouse=True)
def no_runs_yet(): private_room._runs.clear()

@pytest.fixture
def setup(folder): return set_up(task, folder, data=splits())

def go(folder, privacy=None, **kwargs):
    kwargs = dict(dict(data=splits(), progress=False), **kwargs)
    return adapt_privately(task, folder, privacy or Privacy(**free), **kwargs)

def learner_of(setup, together=1, **changes):
    recipe = get_recipe(private_recipe, **changes)
    return MaskLearner(setup, Privacy(**free), recipe, .5, together=together)

# Gradients

def close(a, b): torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)

@pytest.mark.parametrize('pattern', [None, 'row'])
@pytest.mark.parametrize('t_s', [1., 0.])
def test_gradient_of_theta_is_that_of_the_masked_layer(pattern, t_s):
    "Against a theta that autograd sees"
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    x,y = torch.randn(1, 5), torch.tensor([1])
    opt = MaskOptimizer(net, sparsity=.5, steps=3, weights='0.weight', start='rank', pattern=pattern, t_s=t_s)
    place = next(iter(opt.weights))
    w = net[0].weight
    got = theta_gradient(place, t_s)(torch.autograd.grad(F.cross_entropy(net(x), y), w)[0])
    theta = place.theta.view(-1, 1).expand(4, 5) if pattern else place.theta.view(4, 5)
    opt.restore()
    masked = masked_layer(net[0], theta.clone(), tau=place.group.tau, t_l=math.inf, t_s=t_s)
    want, = torch.autograd.grad(F.cross_entropy(net(x), y), masked.theta)
    close(got.view(-1), (want.sum(1) if pattern else want).reshape(-1))

@pytest.mark.parametrize('pattern', [None, 'row'])
@pytest.mark.parametrize('clipping', ['joint', 'parts', 'layers'])
def test_one_by_one_is_as_together(folder, pattern, clipping):
    "A backward pass for each example against products of what layers read and give back"
    sums = []
    for together in (1, 4):
        learner = learner_of(set_up(task, folder, data=splits()), together, pattern=pattern)
        assert (learner.layers is not None)==(together>1)
        learner.privacy = replace(learner.privacy, clipping=clipping)
        sums.append(learner.batch_sum(list(range(0, 40, 3))).sums)
    for a,b in zip(*sums): close(a, b)
    assert all(s.abs().sum()>0 for s in sums[0][:-2])

def test_an_example_whose_gradient_is_not_finite_spoils_no_other(folder):
    "Rows beside one whose vectors are infinite"
    learner = learner_of(set_up(task, folder, data=splits()), 4)
    some = list(range(8))
    some.sort(key=lambda i: learner.data.lengths[i])
    want = learner.batch_sum([i for i in some if i!=some[1]]).sums
    read = learner.model.read
    def spoilt(**batch):
        hs,x = read(**batch)
        ill = (batch['input_ids'][:,:n]==ids).all(1)
        return hs, x+torch.where(ill, math.inf, 0.)[None,:,None]
    ids = learner.batch([some[1]])['input_ids'][0]
    n = len(ids)
    learner.model.read = spoilt
    got = learner.batch_sum(some).sums
    for a,b in zip(got, want): close(a, b)

class Twice(nn.Module):
    "A linear layer of the encoder that is used in another way too"
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x): return self.layer(x)+F.linear(x, self.layer.weight)

def test_what_is_no_plain_linear_layer_is_read_one_by_one(folder):
    "A weight with a second use, whose gradient the layer alone does not tell"
    sums = []
    for together in (1, 4):
        setup = set_up(task, folder, data=splits())
        dense = setup.model.encoder.encoder.layer[0].intermediate
        dense.dense = Twice(dense.dense)
        learner = learner_of(setup, together)
        assert learner.layers is None
        sums.append(learner.batch_sum([1, 2, 5]).sums)
    for a,b in zip(*sums): close(a, b)

def test_half_precision_is_read_one_by_one(setup):
    "There the norm of a gradient and the gradient in the sum would be rounded apart"
    setup.model.bfloat16()
    assert learner_of(setup, 4).layers is None

def test_a_layer_that_is_called_twice_counts_twice(folder):
    sums = []
    for together in (1, 4):
        setup = set_up(task, folder, data=splits())
        dense = setup.model.encoder.encoder.layer[0].intermediate
        dense.dense = nn.Sequential(dense.dense)
        once = dense.dense.forward
        dense.dense.forward = lambda x, once=once: once(x)+once(2*x)
        learner = learner_of(setup, together)
        assert (learner.layers is not None)==(together>1)
        sums.append(learner.batch_sum([1, 2, 5]).sums)
    for a,b in zip(*sums): close(a, b)

def test_sum_is_the_gradient_where_nothing_is_clipped(setup):
    "Against the batch's own backward pass"
    learner = learner_of(setup)
    learner.privacy = replace(learner.privacy, clip=1e6, clip_head=1e6)
    some = [3, 4, 5, 9]
    got = learner.batch_sum(some).sums
    loss = sum(learner.model(**learner.batch([i])).loss for i in some)
    grads = torch.autograd.grad(loss, learner.params)
    n = len(learner.places)
    for p,g,d in zip(learner.places, grads, got): close(theta_gradient(p, learner.recipe.t_s)(g), d)
    for g,d in zip(grads[n:], got[n:]): close(g, d)

def test_gradients_are_those_of_opacus(setup):
    opacus = pytest.importorskip('opacus')
    learner = learner_of(setup)
    learner.opt.close()
    model = learner.model.train()
    model.requires_grad_(False)
    chosen = {n: p for n,p in model.named_parameters() if n.endswith('weight') and ('.layer.' in n or 'head.mlp' in n) and p.ndim>1}
    for p in chosen.values(): p.requires_grad_(True)
    some = [i for i,n in enumerate(learner.data.lengths) if n==learner.data.lengths[0]][:5]
    batch = learner.batch(some)
    want = private_room.example_gradients(model.eval(), chosen, {k: v for k,v in batch.items() if k!='attention_mask'})
    wrapped = opacus.GradSampleModule(model.train(), loss_reduction='mean', strict=False)
    for m in model.modules():
        if isinstance(m, nn.Dropout): m.p = 0.
    wrapped(**batch).loss.backward()
    for n,p in chosen.items(): close(p.grad_sample, want[n])

# Clipping

def length(total): return torch.stack([(s/b).norm() for s,b in zip(total.sums, total.bounds)]).norm()

@pytest.mark.parametrize('groups', [['a']*3, ['a', 'a', 'b'], ['a', 'b', 'c']])
def test_an_example_moves_the_sum_by_at_most_one(groups):
    "Measured in bounds, for gradients from far below to far above them"
    g = torch.Generator().manual_seed(0)
    for scale in (1e-4, .1, 1., 1e5):
        total = ClippedSum([(4, 3), (5,), (2,)], [.01, .01, 3.], groups)
        total.add([scale*torch.randn(s, generator=g) for s in ((4, 3), (5,), (2,))])
        assert length(total)<=1+1e-6
        if scale==1e5: assert length(total)>1-1e-5
    total = ClippedSum([(4, 3), (5,), (2,)], [.01, .01, 3.], groups)
    tiny = [1e-4*torch.ones(4, 3), 1e-4*torch.ones(5), .1*torch.ones(2)]
    total.add(tiny)
    for s,t in zip(total.sums, tiny): close(s, t)

@pytest.mark.parametrize('pattern', [None, 'row'])
@pytest.mark.parametrize('clipping', ['joint', 'parts', 'layers'])
def test_neighbouring_data_differ_by_at_most_one(folder, pattern, clipping):
    "A row that is blank, with gradients far above the bounds"
    learner = learner_of(set_up(task, folder, data=splits()), pattern=pattern)
    learner.privacy = replace(learner.privacy, clip=1e-6, clip_head=1e-3, clipping=clipping)
    all_rows = learner.batch_sum(list(range(12)))
    for gone in (0, 7, 11):
        fewer = learner.batch_sum([i for i in range(12) if i!=gone])
        for a,b in zip(fewer.sums, all_rows.sums): a.sub_(b)
        assert .99<length(fewer)<=1+1e-4

def test_a_gradient_that_is_not_finite_adds_nothing():
    total = ClippedSum([(2,), (1,)], [1., 1.], ['a', 'b'])
    total.add([torch.tensor([math.nan, 1.]), torch.ones(1)])
    total.add([torch.tensor([math.inf, 1.]), torch.ones(1)])
    total.add_many([torch.tensor([[math.nan, 1.], [math.inf, 0.]]), torch.ones(2, 1)])
    assert not any(s.any() for s in total.sums)

# Noise and batches

def test_noise_has_its_size():
    total = ClippedSum([(200, 300), (50_000,)], [.01, 2.], ['a', 'b'])
    a,b = noisy_mean(total, 1.5, 32, secret_generator())
    assert a.std().item()==pytest.approx(1.5*.01/32, rel=.02) and b.std().item()==pytest.approx(1.5*2/32, rel=.02)
    assert a.mean().abs()<5*a.std()/6e4**.5
    assert torch.corrcoef(torch.stack([a.flatten()[:50_000], b]))[0,1].abs()<.03

def test_batches_are_drawn_by_coins():
    "Sizes have the binomial's mean and variance, and rows do not know of each other"
    g = secret_generator()
    drawn = torch.zeros(2000, 60)
    for d in drawn: d[poisson_rows(60, .1, g)] = 1
    sizes = drawn.sum(1)
    assert sizes.mean().item()==pytest.approx(6, abs=.3) and sizes.var().item()==pytest.approx(60*.1*.9, rel=.2)
    assert sizes.min()==0 or sizes.min()<=1
    assert torch.corrcoef(drawn[:,:2].T)[0,1].abs()<.1
    assert poisson_rows(60, 0., g)==[] and poisson_rows(60, 1., g)==list(range(60))

def test_the_sum_is_divided_by_the_expected_size(setup, monkeypatch):
    "An empty batch is a step as any other"
    seen = []
    learner = learner_of(setup)
    learner.step = seen.append
    monkeypatch.setattr(private_room, 'poisson_rows', lambda *args: [])
    learn_privately(learner, 0., progress=False)
    assert len(seen)==4 and not any(g.any() for grads in seen for g in grads)
    monkeypatch.setattr(private_room, 'poisson_rows', lambda *args: [1, 2])
    learn_privately(learner, 0., progress=False)
    for got,total in zip(seen[-1], learner.batch_sum([1, 2]).sums): close(got, total/8)

def test_noise_is_not_that_of_the_seed(folder):
    "Two runs of one seed differ; with a known seed they do not"
    def mask(**kwargs):
        learner = learner_of(set_up(task, folder, data=splits()))
        learner.privacy = Privacy(**free, **kwargs)
        learn_privately(learner, 1., progress=False)
        return learner.end()[0]
    assert mask()!=mask() and mask(known_seed=3)==mask(known_seed=3)!=mask(known_seed=4)

def test_stages():
    p = Privacy(batch_size=(2, 8, 4), steps=7)
    assert p.sizes()==[2, 2, 2, 8, 8, 4, 4] and sampling_rates(replace(p, delta=.01), 16)==[s/16 for s in p.sizes()]
    with pytest.raises(ValueError, match='8 rows is expected, and there are 7'): sampling_rates(p, 7)
    with pytest.raises(ValueError, match='delta=0.1'): sampling_rates(replace(p, delta=.1), 16)

# The account

known = [(256, 250, .424, 8), (1024, 62, .482, 8), (4096, 16, .57, 8), (4096, 62, .69, 8), (4096, 62, 1.338, 2)]

@pytest.mark.parametrize('size, steps, sigma, epsilon', known)
def test_account_of_known_runs(size, steps, sigma, epsilon):
    pytest.importorskip('dp_accounting')
    rates = [size/67_349]*steps
    assert epsilon_spent(sigma, rates, 1e-5)==pytest.approx(epsilon, rel=.005)

def test_sigma_keeps_the_promise():
    pytest.importorskip('dp_accounting')
    rates = [.01]*20+[.04]*10                       # batches that grow
    sigma = sigma_for(3., rates, 1e-5)
    assert 2.97<epsilon_spent(sigma, rates, 1e-5)<=3
    assert epsilon_spent(sigma, [.01]*30, 1e-5)<epsilon_spent(sigma, rates, 1e-5)<epsilon_spent(sigma, [.04]*30, 1e-5)

def test_one_full_batch_is_the_gaussian_mechanism():
    "Against the closed form of Balle and Wang"
    pytest.importorskip('dp_accounting')
    from scipy.stats import norm
    def delta(eps, s): return norm.cdf(.5/s-eps*s)-math.exp(eps)*norm.cdf(-.5/s-eps*s)
    got = epsilon_spent(2., [1.], 1e-5)
    assert delta(got, 2.)<=1e-5<delta(got*.99, 2.)

def test_without_the_library(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, 'dp_accounting', None)
    with pytest.raises(ImportError, match=r"pip install 'adaptprune\[private\]'"): go(folder, Privacy(**dict(free, epsilon=7.77)))

# What voids the promise

@pytest.mark.parametrize('what, says', [
    (dict(start='activation'), "start='rank', which looks at public"), (dict(start='gradient'), 'scores are of training rows'),
    (dict(recipe='default'), "no start='activation'"), (dict(recipe='distilled'), 'no teacher'),
    (dict(teacher='finetune'), 'no teacher: it is learnt from training rows'), (dict(remove=.5), 'no remove'),
    (dict(weights='all'), 'embedding'), (dict(method='finetune'), "method 'finetune'"), (dict(method='imp'), "method 'imp'"),
    (dict(loader=[]), 'a coin|own coin'), (dict(shuffle=True), 'own coin'), (dict(batch_size=16), 'Privacy'),
    (dict(epochs=2.), 'Privacy'), (dict(max_steps=9), 'Privacy'), (dict(accumulate=2), 'expected size'),
    (dict(resume=True), 'start it anew'), (dict(start_from='runs/a'), 'may have seen these rows'), (dict(keep_theta=True), 'may have seen'),
    (dict(checkpoint_every=5), 'start it anew'),
    (dict(hooks=['KeepBest']), 'sees training rows'), (dict(eval_every=5), 'choice'), (dict(validate=True), 'without noise'),
    (dict(class_weights='balanced'), 'counts of labels'), (dict(loss_fn=len), 'one example alone'), (dict(dropout=.1), 'without dropout'),
    (dict(data='rows.csv'), 'raw file'), (dict(data=DatasetDict(train=rows(40, 0))), 'without a dev set')])
def test_what_voids_the_promise_is_refused(folder, what, says):
    with pytest.raises(ValueError, match=says): go(folder, **what)

def test_tasks_that_look_at_labels_are_refused(folder):
    scores = Task('own', ('text',), 'label', (), ('spearman',), 'regression', source='files')
    with pytest.raises(ValueError, match='mean of the labels'): adapt_privately(scores, folder, Privacy(**free), data=splits())
    with pytest.raises(ValueError, match='counts of labels'):
        adapt_privately(replace(task, class_weights=(1., 2.)), folder, Privacy(**free), data=splits())

def test_a_dev_set_from_ones_own_rows_is_refused(folder):
    from adaptprune.tasks import load_data
    table = [dict(text=t, label=['no', 'yes'][y]) for t,y in zip(rows(40, 0)['text_a'], rows(40, 0)['label'])]
    own,data = load_data(table)
    with pytest.raises(ValueError, match='held out of your rows'): adapt_privately(own, folder, Privacy(**free), data=data)

def test_a_module_that_mixes_examples_is_refused():
    with pytest.raises(ValueError, match='whole batch'): private_room._check_mixing(nn.Sequential(nn.BatchNorm1d(3)))

def test_a_second_run_is_a_warning(folder, monkeypatch):
    monkeypatch.setattr(private_room, 'sigma_for', lambda *args: 1.)
    asked = Privacy(**dict(free, epsilon=8.))
    go(folder, asked)
    with pytest.warns(UserWarning, match='private run 2 on the same rows'): go(folder, asked)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='This is private run')
        go(folder)                                      # without a promise nothing is spent

def test_fewer_rows_are_fine(folder):
    res = go(folder, max_train_samples=20)
    assert res.report['privacy']['rows']==20

# What comes out

def test_report_file_and_card_say_what_is_promised(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(private_room, 'sigma_for', lambda *args: .75)
    res = go(folder, Privacy(**dict(free, epsilon=3.)), out=tmp_path/'mask')
    about = res.report['privacy']
    assert (about['epsilon'], about['delta'], about['sigma'], about['rows'], about['noise_is_secret'])==(3., 1e-3, .75, 40, True)
    loaded = TaskMask.from_pretrained(tmp_path/'mask')
    assert loaded.info['privacy']==about and loaded.mask==res.mask
    assert promise(about) in loaded.model_card() and '(3, 0.001)-differentially private' in loaded.model_card()
    assert 'void' not in loaded.model_card()
    assert all(set(h)=={'step', 'sparsity'} for h in res.history), 'the loss of a batch would tell of its rows'
    assert 'seconds' not in res.report and 'loss' not in str(res.report.keys())
    with pytest.raises(ValueError, match='holds a mask already'): go(folder, out=tmp_path/'mask')

def test_a_known_seed_is_said(folder, tmp_path):
    go(folder, Privacy(**free, known_seed=1), out=tmp_path/'mask')
    assert 'without privacy' in TaskMask.from_pretrained(tmp_path/'mask').model_card()
    assert 'promise is void' in promise(dict(epsilon=1., delta=1e-5, rows=10, sigma=1., steps=2, noise_is_secret=False))

def test_a_card_of_another_hand_does_not_break(folder, tmp_path):
    res = go(folder)
    for said in ('yes', dict(epsilon='all'), dict(epsilon=1), 3):
        assert 'differentially' not in TaskMask.from_adapted(res, privacy=said).model_card()

@pytest.mark.parametrize('pattern, step', [(None, 'plain'), ('row', 'plain'), (None, 'sign'), ('row', 'adam')])
def test_masks_keep_their_sparsity_and_the_base_its_weights(folder, pattern, step):
    before = set_up(task, folder, data=splits()).model.base_model.state_dict()
    res = go(folder, pattern=pattern, step=step)
    assert isinstance(res.mask, Mask) and abs(res.mask.sparsity-.5)<.03 and res.report['target_met']
    after = res.base.state_dict()
    for n,w in before.items():
        assert torch.equal(after[n], torch.where(res.mask[n], w, 0.) if n in res.mask else w)
    rows_of = sum(len(m) for m in res.mask.values())
    assert res.report['thetas']==(rows_of if pattern else res.mask.numel)

def test_a_private_head(folder):
    before = set_up(task, folder, data=splits()).model.state_dict()
    res = go(folder, method='features', beta=.01)
    changed = [n for n,w in res.model.state_dict().items() if not torch.equal(w, before[n])]
    assert res.mask is None and changed and all(n.startswith('head') for n in changed)
    with pytest.raises(ValueError, match='no mask file'): go(folder, method='features', out='somewhere')

def test_head_gradients_are_those_of_the_whole_model(setup):
    learner = HeadLearner(setup, Privacy(**free), as_method(private_recipe, 'features'))
    total = learner.empty()
    for i in (1, 5, 6): total.add(list(torch.autograd.grad(learner.model(**learner.batch([i])).loss, learner.head)))
    for a,b in zip(learner.batch_sum([1, 5, 6]).sums, total.sums): close(a, b)

# The benchmark

@pytest.fixture
def case(folder, monkeypatch):
    path = Path(__file__).resolve().parent.parent/'benchmarks/case_private.py'
    spec = importlib.util.spec_from_file_location('case_private', path)
    mod = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mod)
    monkeypatch.setattr(mod, 'n_train', 40)
    monkeypatch.setattr(mod, 'set_up', lambda *args, **kwargs: set_up(task, folder, data=splits()))
    monkeypatch.setattr(mod, 'adapt_privately', lambda name, model, privacy, glue_dir, **kw: go(folder, privacy, **kw))
    monkeypatch.setattr(mod, 'load_task', lambda *args: splits())
    monkeypatch.setattr(mod, 'sampled', lambda data, n, seed: data)
    monkeypatch.setattr(mod, 'parted', (30, 10))
    monkeypatch.setattr(mod, 'equal', [(8, 3)])
    return mod

def test_benchmark_adds_what_it_lacks(case, tmp_path, capsys):
    pytest.importorskip('dp_accounting')
    case.noise_table = case.mini_noise = case.norms = lambda: {}
    case.attacked = lambda *args: dict(auc=.5)
    case.delta = 1e-3
    case.runs = lambda large: [case.cell(k, 8, 3, e) for k in case.kinds for e in (8., None)]
    out = tmp_path/'out.json'
    case.main(only='head', out=out)
    first = json.loads(out.read_text())
    assert [r['cell']['epsilon'] for r in first]==[8., None] and first[0]['privacy']['sigma']>0==first[1]['privacy']['sigma']
    capsys.readouterr()
    case.main(out=out, plan=True)
    assert 'kind=head batch' not in capsys.readouterr().out and json.loads(out.read_text())==first
    case.main(out=out)
    kinds = [r['cell'].get('kind') for r in json.loads(out.read_text())]
    assert json.loads(out.read_text())[:2]==first and kinds.count('mask')==kinds.count('gates')==4
    tried = [r for r in json.loads(out.read_text()) if r['cell'].get('measured')=='choice']
    assert len(tried)==2*len(case.rates) and {r['split'] for r in tried}=={'held-out train'} and tried[0]['sigma']>0

def test_benchmark_learns_a_linear_map_of_the_last_vector(case):
    "Without noise and in full batches, it is logistic regression"
    learner = case.on_all(None)
    learner.x,learner.y = torch.randn(40, 3, 16), torch.arange(40)%2
    learner.x[:,-1,0] += 4.*learner.y
    case.learn_head(learner, case.cell('linear', 40, 60, None), .1)
    said = learner.model.head(learner.x.transpose(0, 1)).argmax(-1)
    assert (said==learner.y).float().mean()>.9 and sum(p.numel() for p in learner.head)==34

# The attack

def losses_of(learner, x, y): return F.cross_entropy(learner.model.head(x.transpose(0, 1)), y, reduction='none').detach()

def test_attack_tells_members_only_without_noise(folder):
    "Labels by chance can only be learnt by heart"
    g = torch.Generator().manual_seed(0)
    x,y = 2*torch.randn(2, 40, 2, 16, generator=g), torch.randint(0, 2, (2, 40), generator=g)
    found = {}
    for sigma in (0., 8.):
        privacy = Privacy(**dict(free, batch_size=20, steps=120), known_seed=1)
        recipe = replace(as_method(private_recipe, 'features'), beta=.03)
        learner = HeadLearner(set_up(task, folder, data=splits()), privacy, recipe)
        learner.x,learner.y = x[0],y[0]
        learn_privately(learner, sigma, progress=False)
        found[sigma] = attack_auc(losses_of(learner, x[0], y[0]), losses_of(learner, x[1], y[1]))
    assert found[0.]>.8 and abs(found[8.]-.5)<.15, found

def test_auc():
    low,high = torch.tensor([.1, .2]), torch.tensor([.3, .4, .5])
    assert attack_auc(low, high)==1 and attack_auc(high, low)==0 and attack_auc(low, low)==.5
