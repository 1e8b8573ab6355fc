"Estimators against known effects, double robustness, coverage, cross-fitting without leaks, and the three heads."
import importlib.util,json,math
from pathlib import Path
import numpy as np,pytest,torch
from adaptprune.causal import (Effect, aiptw, bias_removed, cross_fit, cut, estimates, folds, held_out_losses, iptw, is_buzzy,
    linear_learner, load_papers, moved, naive, one_draw_interval, outcome_propensity, overlap, q_only, simulate, stratified, tmle)
from adaptprune.threeheads import (ThreeHeads, batch_of, encode_texts, heads_learner, heads_loss, learn_heads, outcome_loss,
    predict_heads, read_vectors, treatment_loss)
from sklearn.feature_extraction.text import CountVectorizer
from transformers import BertConfig,BertModel,BertTokenizer

root = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location('case_causal', root/'benchmarks/case_causal.py')
case = importlib.util.module_from_spec(spec)
spec.loader.exec_module(case)

def sigmoid(x): return 1/(1+np.exp(-x))

# A linear model with a known effect: y = 2 + .5 t + x + noise, and t likelier where x is high

n,effect = 500,.5

def linear(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    g = sigmoid(.8*x)
    t = (rng.random(n)<g).astype(int)
    y = 2+effect*t+x+rng.normal(size=n)
    return dict(y=y, t=t, g=g, q0=2+x, q1=2+effect+x)

wrong_g = dict(g=np.full(n, .5))
wrong_q = dict(q0=np.zeros(n), q1=np.ones(n)*3)         # far from the truth, and not off by a constant

def many(estimate, draws=300, **changes):
    "Values and standard errors over draws"
    found = [estimate(**{**linear(s), **changes}) for s in range(draws)]
    return np.array([e.value for e in found]), np.array([e.se for e in found])

def off(values): return (values.mean()-effect)/(values.std(ddof=1)/math.sqrt(len(values)))

def by_iptw(y, t, g, q0, q1): return iptw(y, t, g)
def by_naive(y, t, g, q0, q1): return naive(y, t)

@pytest.mark.parametrize('estimate', [aiptw, tmle, by_iptw])
def test_the_effect_of_a_linear_model(estimate):
    values,_ = many(estimate)
    assert abs(off(values))<3 and abs(values.mean()-effect)<.03

def test_the_naive_estimate_is_biased(): assert many(by_naive)[0].mean()>effect+.5

@pytest.mark.parametrize('estimate', [aiptw, tmle])
@pytest.mark.parametrize('wrong', [wrong_g, wrong_q], ids=['g', 'Q'])
def test_one_wrong_nuisance_does_no_harm(estimate, wrong):
    values,_ = many(estimate, **wrong)
    assert abs(off(values))<3 and abs(values.mean()-effect)<.06

@pytest.mark.parametrize('estimate', [aiptw, tmle])
def test_two_wrong_nuisances_do(estimate):
    assert abs(many(estimate, draws=100, **wrong_g, **wrong_q)[0].mean()-effect)>.3

@pytest.mark.parametrize('estimate', [aiptw, tmle])
def test_intervals_hold_the_truth_as_often_as_they_say(estimate):
    "300 draws: within three standard deviations of a share of .95"
    found = [estimate(**linear(s)) for s in range(300)]
    inside = [e.interval()[0]<effect<e.interval()[1] for e in found]
    assert abs(np.mean(inside)-.95)<3*math.sqrt(.95*.05/300)
    values = np.array([e.value for e in found])
    assert np.mean([e.se for e in found])==pytest.approx(values.std(), rel=.15)

def test_intervals():
    assert Effect(1., 2.).interval()==pytest.approx((1-3.92, 1+3.92), abs=.001)
    low,high = Effect(1., 2.).interval(.5)
    assert (low, high)==pytest.approx((1-1.349, 1+1.349), abs=.001) and math.isnan(Effect(1.).interval()[0])

# What theory says is equal

@pytest.mark.parametrize('seed', range(5))
def test_aiptw_of_the_moved_model_is_tmle(seed):
    d = linear(seed)
    d.update(g=np.full(n, .3), q0=np.full(n, 1.5), q1=np.full(n, 2.))
    q0,q1 = moved(**d)
    assert aiptw(d['y'], d['t'], d['g'], q0, q1).value==pytest.approx(tmle(**d).value, abs=1e-8)
    assert aiptw(**d).value!=pytest.approx(tmle(**d).value, abs=1e-3)

def strata_means(d):
    cells = {(k, z): d.y[(d.t==k) & (d.z==z)].mean() for k in (0, 1) for z in (0, 1)}
    q0,q1 = (np.array([cells[k, z] for z in d.z]) for k in (0, 1))
    return np.array([d.t[d.z==z].mean() for z in d.z]), q0, q1

def test_in_strata_all_estimators_are_one():
    d = simulate(np.arange(800)%3==0, strength=1., seed=3)
    g,q0,q1 = strata_means(d)
    want = stratified(d.y, d.t, d.z)
    got = estimates(d.y, d.t, g, q0, q1)
    for name in ('IPTW', 'AIPTW', 'TMLE'): assert got[name].value==pytest.approx(want.value, abs=1e-9), name
    assert got['Q-only'].value==pytest.approx(want.value, abs=1e-9) and math.isnan(got['Q-only'].se)
    assert got['AIPTW'].se==pytest.approx(want.se)

def test_where_nothing_confounds_iptw_is_naive():
    d = linear(0)
    assert by_iptw(**{**d, **wrong_g}).value==pytest.approx(by_naive(**d).value)

def test_the_moved_model_stays_within_the_range_of_outcomes():
    d = simulate(np.arange(300)%2, strength=3., seed=0)
    q0,q1 = moved(d.y, d.t, cut(d.z*.94+.03), d.q0, d.q1)
    assert min(q0.min(), q1.min())>=0 and max(q0.max(), q1.max())<=1
    both = np.where(d.t==1, q1, q0)
    g = cut(d.z*.94+.03)
    assert ((d.t/g-(1-d.t)/(1-g))*(d.y-both)).sum()==pytest.approx(0, abs=1e-6)

def test_scale_of_outcomes_does_not_matter():
    d = linear(1)
    more = {**d, **{k: 10*d[k]-3 for k in ('y', 'q0', 'q1')}}
    for estimate in (aiptw, tmle, by_iptw, by_naive):
        assert estimate(**more).value==pytest.approx(10*estimate(**d).value, rel=1e-6)
        assert estimate(**more).se==pytest.approx(10*estimate(**d).se, rel=1e-6)

# The simulator

def test_draws_follow_their_law():
    z = np.arange(40_000)%4==0
    d = simulate(z, strength=.6, seed=1)
    for k,chance in ((0, .3), (1, .7)): assert d.t[d.z==k].mean()==pytest.approx(chance, abs=.015)
    for k in (0, 1):
        for treated in (0, 1):
            want = sigmoid(.25*treated+.6*(2*k-1))
            assert d.y[(d.z==k) & (d.t==treated)].mean()==pytest.approx(want, abs=.02)
    want = np.mean([sigmoid(.25+s)-sigmoid(s) for s in .6*(2*z-1)])
    assert d.truth==pytest.approx(want) and stratified(d.y, d.t, d.z).value==pytest.approx(want, abs=.02)

def test_draws_repeat_and_differ():
    z = np.arange(100)%2
    a,b,c = (simulate(z, seed=s) for s in (0, 0, 1))
    assert (a.t==b.t).all() and (a.y==b.y).all() and (a.t!=c.t).any()

def test_a_draw_does_not_follow_a_stream_of_the_same_seed():
    "z made by a generator of the same seed must not decide the treatment"
    z = np.random.default_rng(0).random(2000)<.3
    d = simulate(z, seed=0)
    assert 0<d.t[d.z==0].mean()<.4

# Cross-fitting

def test_folds_are_even():
    t = np.arange(103)%5==0
    fold = folds(t, 4, seed=1)
    assert set(fold)=={0, 1, 2, 3}
    for kind in (0, 1): assert np.ptp([((fold==k) & (t==kind)).sum() for k in range(4)])<=1
    assert (fold!=folds(t, 4, seed=2)).any() and (fold==folds(t, 4, seed=1)).all()

def test_no_unit_is_predicted_by_what_learnt_from_it():
    fold = folds(np.arange(60)%2, 3)
    seen = []
    def learn(train, held):
        assert not set(train)&set(held) and set(train)|set(held)==set(range(60))
        seen.extend(held)
        return dict(g=held*1., known=np.full(len(held), len(train)))
    got = cross_fit(learn, fold)
    assert sorted(seen)==list(range(60)) and (got['g']==np.arange(60)).all() and (got['known']==40).all()

def test_a_learner_that_remembers_gains_nothing():
    "Features that name each unit tell nothing of units that are held out"
    rng = np.random.default_rng(0)
    t,y = rng.integers(0, 2, 80), rng.integers(0, 2, 80)
    p = cross_fit(linear_learner(np.eye(80), y, t), folds(t))
    assert held_out_losses(y, t, **p)['treatment']>.65

def test_linear_learner_removes_what_its_features_show():
    d = simulate(np.random.default_rng(5).random(2000)<.4, strength=2., seed=2)
    p = cross_fit(linear_learner(d.z[:,None], d.y, d.t), folds(d.t))
    got = estimates(d.y, d.t, cut(p['g']), p['q0'], p['q1'])
    assert got['naive'].value-d.truth>.2
    for name in ('Q-only', 'IPTW', 'AIPTW', 'TMLE'): assert abs(got[name].value-d.truth)<.06, name

def test_outcome_propensity_sees_the_confounder_and_no_more():
    d = simulate(np.arange(2000)%2, strength=2., seed=0)
    fold = folds(d.t)
    g = outcome_propensity(d.t, d.q0, d.q1, fold)
    assert g[d.z==1].mean()==pytest.approx(.7, abs=.05) and g[d.z==0].mean()==pytest.approx(.3, abs=.05)
    idle = outcome_propensity(d.t, np.full(2000, .5), np.full(2000, .6), fold)
    assert np.ptp(idle)<.01

def test_outcome_propensity_does_not_see_its_own_unit():
    d = simulate(np.arange(400)%2, strength=2., seed=0)
    fold = folds(d.t)
    half = folds(d.t[fold==0])
    unit = np.flatnonzero(fold==0)[half==0][0]
    q0,q1 = d.q0.copy(), d.q1.copy()
    before = outcome_propensity(d.t, q0, q1, fold)
    other = np.flatnonzero(fold==0)[half==0][1]
    q0[unit] = .9
    after = outcome_propensity(d.t, q0, q1, fold)
    assert after[unit]!=before[unit] and after[other]==before[other]

# Overlap and R

def test_overlap():
    t = np.arange(100)%2
    even = overlap(t, np.full(100, .5))
    assert even==dict(extreme=0., effective=pytest.approx(1.), spread=0.)
    g = np.where(np.arange(100)<2, .999, .5)
    got = overlap(t, g)
    assert got['extreme']==.02 and got['effective']<.9<even['effective'] and got['spread']>0

def test_bias_removed():
    truths = np.full(4, .1)
    naives = np.array([.3, .5, .3, .5])
    assert bias_removed(naives, naives, truths).value==0 and bias_removed(truths, naives, truths).value==1
    half = bias_removed((naives+truths)/2, naives, truths)
    assert half.value==pytest.approx(.5) and half.low==pytest.approx(.5) and half.draws==4
    noise = bias_removed([.2, 0, .2, 0], naives, truths)
    assert noise.value==pytest.approx(1) and noise.low<1
    assert math.isnan(bias_removed([.2, .1], naives[:2], truths[:2]).low)

def test_interval_of_one_draw():
    d = simulate(np.arange(1000)%2, strength=3., seed=0)
    low,high = one_draw_interval(d.y, d.t, d.g, d.q0, d.q1, d.truth)
    r = 1-abs(aiptw(d.y, d.t, d.g, d.q0, d.q1).value-d.truth)/abs(naive(d.y, d.t).value-d.truth)
    assert low<r<=high<=1
    flat = np.full(1000, .5)
    low,high = one_draw_interval(d.y, d.t, flat, flat, flat, d.truth)
    assert low<0<high or abs(high)<.1

# What is wrong is said

def bad(**changes): return {**linear(0), **changes}
def with_nan(x): return np.where(np.arange(n)==7, np.nan, x)

@pytest.mark.parametrize('estimate', [aiptw, tmle, by_iptw])
@pytest.mark.parametrize('changes, says', [
    (dict(t=np.zeros(n)), '0 treated units among 500'), (dict(t=np.ones(n)), '0 untreated units'),
    (dict(t=np.full(n, 2)), 't must be 0 or 1, got 2'), (dict(t=np.ones(3)), 't has 3 numbers'),
    (dict(y=with_nan(linear(0)['y'])), 'y of unit 7 is nan'), (dict(g=with_nan(linear(0)['g'])), 'g of unit 7 is nan'),
    (dict(g=np.zeros(n)), 'cut it first'), (dict(g=np.full(n, 1.2)), 'propensity g of unit 0 is 1.2'),
    (dict(y=np.zeros((n, 2))), 'one number for each unit')])
def test_bad_input(estimate, changes, says):
    with pytest.raises(ValueError, match=says): estimate(**bad(**changes))

@pytest.mark.parametrize('call, says', [
    (lambda: aiptw(**bad(q1=with_nan(linear(0)['q1']))), 'q1 of unit 7 is nan'),
    (lambda: q_only(np.ones(3), np.ones(4)), 'q1 has 4 numbers'),
    (lambda: naive([1., 2.], [0, 1]), '1 untreated units'),
    (lambda: cut([.5, 1.5]), 'give g, not logits'), (lambda: cut([.5], .9, .1), '0 < low < high < 1'),
    (lambda: simulate([0, 1, 2]), 'z must be 0 or 1, got 2 for unit 2'),
    (lambda: folds([0, 0, 0, 1], 2), 'the smaller group has 1 units'), (lambda: folds([0, 1]*5, 1), '1 folds cannot be made'),
    (lambda: stratified([1, 0, 1, 0, 1], [1, 0, 1, 1, 0], ['a', 'a', 'b', 'b', 'a']), 'units of one kind only: 2 of 2'),
    (lambda: cross_fit(lambda a, b: dict(g=np.full(len(b), np.nan)), [0, 0, 1, 1]), 'g of unit 0 is nan'),
    (lambda: linear_learner(np.eye(4), [0, 1, .5, 1], [0, 1, 0, 1]), 'y must be 0 or 1')])
def test_bad_calls(call, says):
    with pytest.raises(ValueError, match=says): call()

# Papers

def test_papers_are_packaged_with_their_licence():
    papers = load_papers()
    assert len(papers)==1000==len({p['id'] for p in papers}) and all(len(p['abstract'])>=200 and p['title'] for p in papers)
    assert sum(is_buzzy(p['title']) for p in papers)==300 and {p['venue'] for p in papers}=={'acl', 'naacl'}
    licence = (root/'adaptprune/data/papers-acl/LICENSE.md').read_text()
    assert 'CC BY 4.0' in licence and 'aclanthology.org' in licence

def test_another_table(tmp_path):
    file = tmp_path/'own.tsv'
    file.write_text('title\tabstract\nA "quoted" title\tWords\n')
    assert load_papers(file)==[dict(title='A "quoted" title', abstract='Words')]
    file.write_text('title\tbody\na\tb\n')
    with pytest.raises(ValueError, match="own.tsv has no column 'abstract'"): load_papers(file)

# Three heads

words = 'deep parser reads many short words of each title and every text again'.split()

@pytest.fixture(scope='module')
def tokenizer():
    return BertTokenizer(vocab={w: i for i,w in enumerate(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *words])})

@pytest.fixture
def encoder():
    torch.manual_seed(0)
    size = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, vocab_size=len(words)+5)
    return BertModel(BertConfig(**size), add_pooling_layer=False).eval()

@pytest.fixture(scope='module')
def texts():
    rng = np.random.default_rng(0)
    return [' '.join(['deep']*(3*(i%2))+list(rng.choice(words[1:], 3+i%4))) for i in range(240)]

@pytest.fixture
def drawn(texts): return simulate([t.startswith('deep') for t in texts], strength=3., seed=0)

def test_heads_learn_from_their_own_group(encoder, tokenizer, texts):
    model = ThreeHeads(encoder)
    t,y = torch.tensor([1., 1., 1.]), torch.tensor([0., 1., 1.])
    out = model(**batch_of(tokenizer, encode_texts(tokenizer, texts[:3])))
    outcome_loss(out, y, t).backward()
    assert all(p.grad is None or not p.grad.any() for p in model.outcomes[0].parameters())
    assert all(p.grad.any() for p in model.outcomes[1].parameters()) and model.treatment.weight.grad is None

def test_losses_are_what_the_paper_says():
    out = {n: torch.tensor(v) for n,v in dict(g=[0., 2.], q0=[1., 1.], q1=[0., -1.]).items()}
    t,y = torch.tensor([0., 1.]), torch.tensor([1., 1.])
    def nll(logit, p): return -(p*math.log(sigmoid(logit))+(1-p)*math.log(1-sigmoid(logit)))
    assert outcome_loss(out, y, t).item()==pytest.approx((nll(1, 1)+nll(-1, 1))/2, abs=1e-6)
    assert treatment_loss(out, t).item()==pytest.approx((nll(0, .005)+nll(2, .995))/2, abs=1e-6)

def test_shape_of_the_heads(encoder):
    model = ThreeHeads(encoder)
    sizes = [tuple(m.weight.shape) for m in model.outcomes[0] if isinstance(m, torch.nn.Linear)]
    assert sizes==[(200, 32), (200, 200), (1, 200)] and tuple(model.treatment.weight.shape)==(1, 32)
    assert sum(isinstance(m, torch.nn.ELU) for m in model.outcomes[0])==2

def test_the_untouched_encoder_costs_nothing_at_first(encoder, tokenizer, texts):
    "The term of hidden states is 0 for the encoder itself, and grows with any change"
    model = ThreeHeads(encoder)
    b = batch_of(tokenizer, encode_texts(tokenizer, texts[:4]), y=[0, 1, 0, 1], t=[0, 1, 1, 0])
    free,held = (heads_loss(e, 10.)(model, b).item() for e in (None, encoder))
    assert free==pytest.approx(held)
    other = ThreeHeads(BertModel(encoder.config, add_pooling_layer=False).eval())
    assert heads_loss(encoder, 10.)(other, b)>heads_loss(None)(other, b)+1

def states(module): return {n: p.clone() for n,p in module.state_dict().items()}
def same(a, b): return all(torch.equal(a[n], b[n]) for n in a)

@pytest.mark.parametrize('recipe', ['default', 'finetune', 'features'])
def test_each_recipe_adapts_what_it_should(encoder, tokenizer, texts, drawn, recipe):
    before = states(encoder)
    need = {n: p.requires_grad for n,p in encoder.named_parameters()}
    encoded = encode_texts(tokenizer, texts)
    res = learn_heads(encoder, tokenizer, encoded, drawn.y, drawn.t, recipe=recipe, max_steps=12)
    assert same(before, states(encoder)) and need=={n: p.requires_grad for n,p in encoder.named_parameters()}
    after = states(res.model.encoder)
    if recipe=='features': assert same(before, after) and res.mask is None
    if recipe=='finetune': assert not same(before, after) and res.mask is None
    if recipe=='default':
        assert res.mask.sparsity==pytest.approx(.5, abs=.01)
        assert all(((after[n]==before[n]) | (after[n]==0)).all() for n in before)

@pytest.mark.parametrize('recipe', ['default', 'finetune', 'features'])
def test_adaptation_removes_bias(encoder, tokenizer, texts, drawn, recipe):
    "The first word is the confounder: the held-out outcome loss falls below that of no text at all"
    learn = heads_learner(encoder, tokenizer, encode_texts(tokenizer, texts), drawn.y, drawn.t, recipe=recipe, max_steps=200, hidden=0.)
    p = cross_fit(learn, folds(drawn.t))
    means = np.full(240, drawn.y[drawn.t==0].mean()), np.full(240, drawn.y[drawn.t==1].mean())
    blind = held_out_losses(drawn.y, drawn.t, np.full(240, .5), *means)['outcome']
    got = aiptw(drawn.y, drawn.t, cut(p['g']), p['q0'], p['q1']).value
    assert held_out_losses(drawn.y, drawn.t, **p)['outcome']<.8*blind
    assert abs(got-drawn.truth)<.5*abs(naive(drawn.y, drawn.t).value-drawn.truth)

def test_known_vectors_change_nothing(encoder, tokenizer, texts, drawn):
    encoded = encode_texts(tokenizer, texts)
    vectors = read_vectors(encoder, tokenizer, encoded)
    how = dict(recipe='features', max_steps=10)
    a = learn_heads(encoder, tokenizer, encoded, drawn.y, drawn.t, **how)
    b = learn_heads(encoder, tokenizer, encoded, drawn.y, drawn.t, vectors=vectors, **how)
    want,got = predict_heads(a.model, tokenizer, encoded), predict_heads(b.model, tokenizer, encoded, vectors)
    for k in want: assert got[k]==pytest.approx(want[k], abs=1e-4)

def test_runs_repeat(encoder, tokenizer, texts, drawn):
    encoded = encode_texts(tokenizer, texts)
    a,b = (predict_heads(learn_heads(encoder, tokenizer, encoded, drawn.y, drawn.t, max_steps=5, seed=3).model, tokenizer, encoded) for _ in range(2))
    assert all((a[k]==b[k]).all() for k in a)

# The benchmark

def test_sample():
    papers = [dict(title='deep' if i%10==0 else 'shallow', abstract=str(i)) for i in range(1000)]
    some = case.sample(papers, 300)
    assert len(some)==300==len({p['abstract'] for p in some}) and sum(is_buzzy(p['title']) for p in some)==100
    assert some==case.sample(papers, 300) and case.sample(papers[:50], 300)==papers[:50]

class Fake(case.Texts):
    "Papers whose vectors are their confounder"
    def words(self, reads, unit): return self.vectors
    @property
    def vectors(self): return self.z[:,None].astype(float)

def papers_of(n): return [dict(title='deep' if i%3 else 'plain', abstract='w'*i, year='2017', accepted=str(i%2)) for i in range(n)]

def test_adds_only_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(case, 'Texts', Fake)
    out = tmp_path/'out.json'
    def go(draws, only): case.drawn(case.Records(out), papers_of(600), only, [3.], draws, ['title', 'abstract'])
    go(1, ['naive', 'oracle', 'frozen'])
    first = json.loads(out.read_text())
    assert [(r['cell']['row'], r['cell']['arm']) for r in first]==[('naive', 'title'), ('oracle', 'title'), ('frozen', 'title'), ('frozen', 'abstract')]
    go(2, ['naive', 'frozen'])
    rows = json.loads(out.read_text())
    assert rows[:4]==first and [r['cell']['draw'] for r in rows[4:]]==[1]*3
    for r in rows:
        assert {'truth', 'seconds', 'command', 'date', 'machine'}<=set(r)
        if r['cell']['row']=='frozen':
            assert abs(r['effects']['AIPTW']['value']-r['truth'])<.2*abs(r['effects']['naive']['value']-r['truth'])
            assert set(r['by_outcomes'])=={'effects', 'overlap'} and len(r['interval'])==2

def test_words_that_tell_all_remove_the_bias(tmp_path, monkeypatch):
    monkeypatch.setattr(case, 'Texts', Fake)
    records = case.Records(tmp_path/'out.json')
    case.drawn(records, papers_of(600), ['words'], [3.], 1, ['title'])
    r, = records
    assert r['settings']==case.on_words[3.]
    assert abs(r['effects']['AIPTW']['value']-r['truth'])<.2*abs(r['effects']['naive']['value']-r['truth'])

def test_common_parts_of_words():
    papers = [dict(title=f'deep {i%2*"neural "}nets', abstract='') for i in range(20)]
    texts = case.Texts(papers, 'title')
    for unit,wanted in (('words', 3), ('parts', 10)):
        x = texts.words('all', unit)
        assert x.shape[0]==20 and x.shape[1]>=wanted and set(np.unique(x))=={0, 1}
    assert 'eep' in CountVectorizer(binary=True, **case.counted['parts']).fit(p['title'] for p in papers).vocabulary_

def test_rows_of_other_settings_are_not_mixed(tmp_path, monkeypatch):
    monkeypatch.setattr(case, 'Texts', Fake)
    def go(): case.drawn(case.Records(tmp_path/'out.json'), papers_of(600), ['frozen'], [3.], 1, ['title'])
    go()
    monkeypatch.setattr(case, 'max_length', 48)
    with pytest.raises(SystemExit, match='other settings'): go()

def test_real_decisions(tmp_path, monkeypatch):
    monkeypatch.setattr(case, 'Texts', Fake)
    monkeypatch.setattr(Fake, 'vectors', property(lambda self: np.ones((len(self.z), 1))))
    records = case.Records(tmp_path/'out.json')
    case.real(records, papers_of(200), ['naive', 'oracle', 'frozen'], 1)
    assert [r['cell']['row'] for r in records]==['naive', 'frozen'] and all('truth' not in r for r in records)

def test_unknown_rows_are_refused(tmp_path):
    with pytest.raises(SystemExit, match="no row 'mask_51'"): case.main(only='mask_51', out=str(tmp_path/'out.json'))

def test_strengths_without_settings_are_refused(tmp_path):
    with pytest.raises(SystemExit, match='No settings were chosen for c = 1: use some of 3, 0.6'):
        case.main(strengths='3,1', out=str(tmp_path/'out.json'))

def test_the_record_is_whole():
    "What the page reads: no cell twice, one choice of settings for a row, and an oracle that is right on average"
    rows = json.loads((root/'results/case_causal.json').read_text())
    cells = [json.dumps(r['cell'], sort_keys=True) for r in rows]
    assert len(set(cells))==len(cells) and all({'machine', 'date', 'command', 'seconds', 'threads'}<=set(r) for r in rows)
    drawn = [r for r in rows if 'truth' in r]
    for row in case.rows:
        settings = [(r.get('settings'), case.settings(row, r['cell']['strength'])) for r in drawn if r['cell']['row']==row]
        assert all(a==b for a,b in settings), row
    for row in ('naive', 'oracle', 'frozen', 'features'):
        for strength in (.6, 3.):
            some = [r for r in drawn if r['cell']['row']==row and r['cell']['strength']==strength and r['cell']['arm']=='title']
            assert len(some)>=5
            if row!='oracle': continue
            off = np.mean([r['effects']['AIPTW']['value']-r['truth'] for r in some])
            assert abs(off)<4*some[0]['effects']['AIPTW']['se']/math.sqrt(len(some))
    bayes = simulate(np.arange(2000)<585, strength=3., seed=0)
    best = held_out_losses(bayes.y, bayes.t, bayes.g, bayes.q0, bayes.q1)['outcome']
    assert all(r['losses']['outcome']>best-.05 for r in drawn if 'losses' in r and r['cell']['strength']==3)
