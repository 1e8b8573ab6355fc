"Where a mask prunes: names, counts, chance, heads against the network, ranks and AUC against their definitions."
import json,math
import matplotlib,numpy as np,pytest,torch
matplotlib.use('Agg')
import matplotlib.pyplot as plt
from hypothesis import given,strategies as st
from scipy.stats import hypergeom
from sklearn.metrics import cohen_kappa_score,jaccard_score,roc_auc_score
from adaptprune.anatomy import component_of,matrices,maskable
from adaptprune.layer import apply_mask
from adaptprune.mask import Mask
from adaptprune.topology import (attention_heads,describe,effective_rank,emptied,empty_by_chance,magnitude,overlaps,plot_components,plot_cross,
    plot_emptied,plot_heads,plot_layers,plot_magnitude,plot_overlap,plot_ranks,ranks,singular_values,sparsity_by,split_by_size,stable_rank)

families = ['Bert', 'Roberta', 'Electra', 'Albert', 'DistilBert', 'GPT2']
at = 'encoder.layer.0.attention.'

@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')

def weights_of(model): return {n: model.get_parameter(n).detach() for n in maskable(model)}
def rand_mask(weights, p=.5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Mask({n: torch.rand(w.shape, generator=g)<p for n,w in weights.items()})
def whole(weights): return {n: torch.ones_like(w, dtype=torch.bool) for n,w in weights.items()}
def bits(mask): return torch.cat([m.reshape(-1) for m in mask.values()]).numpy()

# Names

@pytest.mark.parametrize('family', families)
def test_every_weight_has_a_component(tiny, family):
    "One of each kind in each layer, nothing left over, and sizes that fit"
    model = tiny(family)
    pieces = matrices(weights_of(model))
    layers = {layer for _,layer,_,_ in pieces if isinstance(layer, int)}
    assert layers==set(range(1 if family=='Albert' else 2))
    for i in layers:
        inside = {c: tuple(m.shape) for _,layer,c,m in pieces if layer==i}
        assert list(inside)==['query', 'key', 'value', 'output', 'up', 'down']
        assert all(inside[c]==(16, 16) for c in ('query', 'key', 'value', 'output'))
        assert inside['up']==inside['down'][::-1] and inside['up'][0]>16
    outside = {c for _,layer,c,_ in pieces if not isinstance(layer, int)}
    assert outside==({'embedding', 'pooler'} if family in ('Bert', 'Roberta', 'Albert') else {'embedding'})
    assert sum(m.numel() for *_,m in pieces)==sum(w.numel() for w in weights_of(model).values())

@pytest.mark.parametrize('name,want', [
    ('bert.encoder.layer.11.output.dense.weight', 'down'), ('encoder.encoder.layer.0.attention.output.dense.weight', 'output'),
    ('model.layers.0.self_attn.o_proj.weight', 'output'), ('model.layers.0.mlp.gate_proj.weight', 'up'), ('decoder.layers.0.self_attn.out_proj.weight', 'output'),
    ('decoder.layers.0.fc2.weight', 'down'), ('layers.0.attention.query_key_value.weight', 'query+key+value'), ('layers.0.attn.Wo.weight', 'output'),
    ('layers.0.mlp.Wo.weight', 'down'), ('encoder.layer.0.attention.attn.q.weight', 'query'), ('encoder.layer.0.attention.self.key_proj.weight', 'key'),
    ('encoder.relative_attention_bias.weight', 'other'), ('classifier.dense.weight', 'other'), ('cls.predictions.transform.dense.weight', 'other'),
    ('pooler.dense.weight', 'pooler'), ('embeddings_project.weight', 'embedding'), ('weight', 'other'), ('0.weight', 'other'), ('', 'other')])
def test_component_of(name, want): assert component_of(name)==want

def test_fused_pieces_are_what_gpt2_uses(tiny):
    "The three thirds of c_attn, turned, give the queries, keys and values of the module"
    attn = tiny('GPT2').h[0].attn
    attn.c_attn.bias.data.zero_()
    x = torch.randn(3, 16)
    pieces = {c: m for _,_,c,m in matrices({'h.0.attn.c_attn.weight': attn.c_attn.weight})}
    for c,y in zip(('query', 'key', 'value'), attn.c_attn(x).split(16, 1)): torch.testing.assert_close(x@pieces[c].T, y)

def test_linear_c_attn_is_not_turned():
    "GPT-BigCode has GPT-2's names on plain linear layers"
    t = {'h.0.attn.c_attn.weight': torch.zeros(48, 16), 'h.0.mlp.c_fc.weight': torch.zeros(64, 16)}
    assert [tuple(m.shape) for *_,m in matrices(t)]==[(16, 16)]*3+[(64, 16)]

def test_odd_shapes():
    m = Mask({'conv': torch.ones(4, 3, 2, 2, dtype=torch.bool), 'line': torch.zeros(5, dtype=torch.bool)})
    assert [tuple(x.shape) for *_,x in matrices(m)]==[(4, 12), (5, 1)]
    assert emptied(m)[1]['empty_rows']==5

# Sparsity

@pytest.mark.parametrize('family', families)
def test_sparsity_adds_up(tiny, family):
    mask = rand_mask(weights_of(tiny(family)), .3)
    for by in (['component'], ['layer'], ['layer', 'component'], ['matrix']):
        rows = sparsity_by(mask, *by)
        assert sum(r['kept'] for r in rows)==mask.kept and sum(r['weights'] for r in rows)==mask.numel
        assert all(r['sparsity']==pytest.approx(1-r['kept']/r['weights']) for r in rows)
        assert len({tuple(r[b] for b in by) for r in rows})==len(rows)

def test_sparsity_goes_where_it_was_put(tiny):
    m = whole(weights_of(tiny('Bert')))
    for i in range(2): m[f'encoder.layer.{i}.attention.output.dense.weight'].zero_()
    assert {r['component']: r['sparsity'] for r in sparsity_by(Mask(m), 'component')}==dict(embedding=0, query=0, key=0, value=0, output=1, up=0, down=0, pooler=0)
    assert [r['layer'] for r in sparsity_by(Mask(m), 'layer')]==['embedding', 0, 1, 'pooler']

def test_layers_are_ordered_as_numbers():
    m = Mask({f'layer.{i}.w': torch.ones(2, 2, dtype=torch.bool) for i in (10, 2, 0)})
    assert [r['layer'] for r in sparsity_by(m, 'layer')]==[0, 2, 10]

@pytest.mark.parametrize('by', [(), ('heads',), ('layer', 'heads')])
def test_unknown_part(by):
    with pytest.raises(ValueError, match='component, layer or matrix'): sparsity_by(Mask({'w': torch.ones(2, 2).bool()}), *by)

# Overlap

@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 20), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=4), st.integers(0, 99))
def test_overlap_is_sklearns(shapes, seed):
    g = torch.Generator().manual_seed(seed)
    a,b = (Mask({f'layer.{i}.w': torch.rand(r, c, generator=g)<s[k] for i,(r,c,*s) in enumerate(shapes)}) for k in (0, 1))
    row = overlaps(dict(a=a, b=b))[0]
    assert row['jaccard']==pytest.approx(a.jaccard(b)) and (row['density_a'], row['density_b'])==pytest.approx((a.density, b.density))
    if a.kept or b.kept: assert row['jaccard']==pytest.approx(jaccard_score(bits(a), bits(b)))
    want = cohen_kappa_score(bits(a), bits(b), labels=[False, True]) if {a.kept, b.kept}-{0, a.numel} else math.nan
    if row['kappa_global'] is None: assert math.isnan(want)
    elif not math.isnan(want): assert row['kappa_global']==pytest.approx(want, abs=1e-9)
    if a.kept and b.kept: assert row['contained']==pytest.approx((a&b).kept/min(a.kept, b.kept))
    else: assert row['contained'] is None

def test_chance_is_what_shuffling_gives():
    "The expected Jaccard index and a kappa of zero, against masks shuffled within each matrix"
    g = torch.Generator().manual_seed(0)
    a = Mask({'layer.0.w': torch.rand(40, 30, generator=g)<.8, 'layer.1.w': torch.rand(40, 30, generator=g)<.1})
    def shuffle(m): return Mask({n: x.reshape(-1)[torch.randperm(x.numel(), generator=g)].view(x.shape) for n,x in m.items()})
    rows = [overlaps(dict(a=a, b=shuffle(a)))[0] for _ in range(200)]
    def mean(k): return np.mean([r[k] for r in rows])
    assert mean('jaccard')==pytest.approx(mean('jaccard_chance'), abs=.002)
    assert abs(mean('kappa'))<.005 and mean('kappa_global')>.4
    assert mean('jaccard_chance')>mean('jaccard_chance_global')+.2
    assert mean('contained')==pytest.approx(mean('contained_chance'), abs=.004)

def test_overlap_by_part_and_order(tiny):
    w = weights_of(tiny('Bert'))
    masks = {k: rand_mask(w, .4, s) for s,k in enumerate('abc')}
    assert [(r['a'], r['b']) for r in overlaps(masks)]==[('a', 'b'), ('a', 'c'), ('b', 'c')]
    rows = overlaps(masks, 'component')
    assert [r['component'] for r in rows if (r['a'], r['b'])==('a', 'c')]==['embedding', 'query', 'key', 'value', 'output', 'up', 'down', 'pooler']
    def part(m): return Mask({n: x for n,x in m.items() if 'query' in n})
    assert next(r for r in rows if (r['a'], r['b'], r['component'])==('b', 'c', 'query'))['jaccard']==pytest.approx(part(masks['b']).jaccard(part(masks['c'])))
    assert overlaps(dict(a=masks['a'], b=masks['a']))[0]['kappa']==1

@pytest.mark.parametrize('family', ['Bert', 'GPT2'])
def test_split_by_size(tiny, family):
    "Cutting changes what chance knows and nothing else; masks that follow size to the weight leave it nothing to explain"
    model = tiny(family)
    w = weights_of(model)
    masks = {k: rand_mask(w, .4, s) for s,k in enumerate('ab')}
    one,two = overlaps(masks),overlaps(split_by_size(masks, model))
    for k in ('jaccard', 'contained', 'kappa_global', 'jaccard_chance_global'): assert one[0][k]==pytest.approx(two[0][k])
    assert [r['component'] for r in overlaps(masks, 'component')]==[r['component'] for r in overlaps(split_by_size(masks, model), 'component')]
    if family=='GPT2': return
    large = Mask.from_scores({n: x.abs() for n,x in w.items()}, .5, 'matrix')
    cut = split_by_size(dict(a=large, b=large), w, bins=2)
    assert {m.float().mean().item() for n,m in cut['a'].items() if n.endswith('[1]')}=={1.}
    assert overlaps(cut)[0]['kappa'] is None and overlaps(dict(a=large, b=large))[0]['kappa']==1
    with pytest.raises(ValueError, match='bins'): split_by_size(masks, model, 0)

def test_split_knows_magnitude():
    "Two draws that favour large weights: alike given the density, by chance given the size"
    w = {'layer.0.w': torch.rand(300, 300, generator=torch.Generator().manual_seed(0))}
    def draw(seed): return Mask({n: torch.rand(x.shape, generator=torch.Generator().manual_seed(seed))<x for n,x in w.items()})
    masks = dict(a=draw(1), b=draw(2))
    assert overlaps(masks)[0]['kappa']>.3 and abs(overlaps(split_by_size(masks, w, 100))[0]['kappa'])<.02

def test_counts_are_exact_beyond_a_chunk():
    m = Mask({'w': torch.ones(2100, 1000, dtype=torch.bool)})
    n = Mask({'w': torch.arange(2_100_000).view(2100, 1000)%7>0})
    r = overlaps(dict(m=m, n=n))[0]
    assert r['jaccard']==n.kept/n.numel and r['contained']==1

def test_overlap_refuses():
    a,b = Mask({'w': torch.ones(2, 2).bool()}),Mask({'w': torch.ones(2, 3).bool()})
    with pytest.raises(ValueError, match="'a' and 'b' cover different weights"): overlaps(dict(a=a, b=b))
    with pytest.raises(ValueError, match='two or more'): overlaps(dict(a=a))
    with pytest.raises(ValueError, match='two or more'): overlaps(a)
    with pytest.raises(ValueError, match="Unknown part 'matrix'"): overlaps(dict(a=a, b=a), 'matrix')
    with pytest.raises(ValueError, match="No overlap 'dice'"): plot_overlap(dict(a=a, b=a), 'dice')

# Emptied

@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_empty_by_chance(r, c, data):
    k = data.draw(st.integers(0, r*c))
    assert empty_by_chance(r*c, k, c)==pytest.approx(hypergeom(r*c, k, c).pmf(0), abs=1e-9)

def test_chance_of_rows_and_of_columns():
    row = emptied(Mask({'w': torch.arange(24).view(4, 6)<5}))[0]
    assert row['rows_by_chance']==pytest.approx(4*hypergeom(24, 5, 6).pmf(0)) and row['columns_by_chance']==pytest.approx(6*hypergeom(24, 5, 4).pmf(0))
    assert (row['rows'], row['columns'], row['empty_rows'], row['empty_columns'])==(4, 6, 3, 1)

def test_emptied_counts(tiny):
    m = whole(weights_of(tiny('GPT2')))
    m['h.0.attn.c_attn.weight'][:,20:23] = False                       # three outputs of the keys
    m['h.0.mlp.c_proj.weight'][5] = False                              # an input
    m['wte.weight'][[3, 7]] = False                                    # two tokens
    rows = {(r['layer'], r['component'], r['rows']): (r['empty_rows'], r['empty_columns']) for r in emptied(Mask(m))}
    assert {k: v for k,v in rows.items() if any(v)}=={(0, 'key', 16): (3, 0), (0, 'down', 16): (0, 1), ('embedding', 'embedding', 50): (2, 0)}

# Heads

def noisy(model, seed=0):
    g = torch.Generator().manual_seed(seed)
    for p in model.parameters(): p.data.normal_(0, .5, generator=g)
    return model

@pytest.mark.parametrize('case', ['value', 'output', 'crossed values'])
def test_silent_heads_say_nothing(tiny, tokens, case):
    "Their queries can be changed without a change of the output; those of the other head cannot"
    model = noisy(tiny('Bert'))
    m = whole(weights_of(model))
    v,o = m[at+'self.value.weight'],m[at+'output.dense.weight']
    if case=='value': v[8:] = False
    elif case=='output': o[:,8:] = False
    else: v[8:12],o[:,12:] = False,False
    rows = {r['head']: r for r in attention_heads(Mask(m), model) if r['layer']==0}
    assert rows[1]['silent'] and rows[1]['emptied'] and not rows[1]['blind'] and not rows[0]['emptied']
    apply_mask(model, Mask(m))
    with torch.no_grad():
        was = model(**tokens).last_hidden_state
        for part,same in ((slice(8, 16), True), (slice(0, 8), False)):
            model.get_parameter(at+'self.query.weight')[part] *= -1
            now = model(**tokens).last_hidden_state
            assert torch.allclose(was, now, atol=1e-5)==same

@pytest.mark.parametrize('case', ['query', 'key', 'crossed'])
def test_blind_heads_attend_alike(tiny, tokens, case):
    model = noisy(tiny('Bert', attn_implementation='eager'))
    m = whole(weights_of(model))
    q,k = m[at+'self.query.weight'],m[at+'self.key.weight']
    if case=='query': q[:8] = False
    elif case=='key': k[:8] = False
    else: q[:4],k[4:8] = False,False
    rows = {r['head']: r for r in attention_heads(Mask(m), model.config) if r['layer']==0}
    assert rows[0]['blind'] and rows[0]['emptied'] and not rows[0]['silent'] and not rows[1]['emptied']
    with torch.no_grad(): seen = apply_mask(model, Mask(m))(**tokens, output_attentions=True).attentions[0]
    def spread(h): return (seen[:,h]-seen[:,h,:1]).abs().max()
    assert spread(0)<1e-5 and spread(1)>1e-3

@pytest.mark.parametrize('family', families)
def test_heads_of_every_family(tiny, family):
    model = tiny(family)
    rows = attention_heads(rand_mask(weights_of(model)), model)
    assert [(r['layer'], r['head']) for r in rows]==[(i, h) for i in range(1 if family=='Albert' else 2) for h in range(2)]
    for r in rows: assert sum(r[c] for c in ('query', 'key', 'value', 'output'))==r['density']*4*128 and not r['emptied']

def test_grouped_heads_share_keys_and_values():
    "Four heads on two pairs of keys and values: a lost pair takes two heads with it"
    names = [f'layers.0.self_attn.{p}_proj.weight' for p in 'qkvo']
    m = {n: torch.ones(s, dtype=torch.bool) for n,s in zip(names, ((16, 16), (8, 16), (8, 16), (16, 16)))}
    m[names[2]][:4] = False
    class Config: num_attention_heads,num_key_value_heads = 4,2
    assert [r['silent'] for r in attention_heads(Mask(m), Config)]==[True, True, False, False]

def test_heads_refuse(tiny):
    model = tiny('Bert')
    mask = rand_mask(weights_of(model))
    with pytest.raises(ValueError, match='3 heads do not divide the 16 rows'): attention_heads(mask, 3)
    with pytest.raises(ValueError, match='How many heads'): attention_heads(mask, None)
    with pytest.raises(ValueError, match='How many heads'): attention_heads(mask, 0)
    with pytest.raises(ValueError, match='no value matrix'): attention_heads(Mask({n: m for n,m in mask.items() if 'value' not in n}), 2)
    with pytest.raises(ValueError, match='no attention matrices'): attention_heads(Mask({'w': torch.ones(2, 2).bool()}), 2)
    with pytest.raises(ValueError, match='attention_heads'): plot_heads(mask)

# Rank

@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_rank_definitions(r, c, seed):
    w = torch.randn(r, c, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    s = torch.linalg.svdvals(w)
    p = (s/s.sum()).numpy()
    assert torch.allclose(singular_values(w), s, atol=1e-6*float(s[0]))
    assert effective_rank(w)==pytest.approx(np.exp(-(p*np.log(p)).sum()), rel=1e-5)
    assert stable_rank(w)==pytest.approx(float(w.norm()**2/torch.linalg.matrix_norm(w, 2)**2), rel=1e-9)
    assert 1-1e-9<=stable_rank(w)<=min(r, c)+1e-9 and 1-1e-9<=effective_rank(w)<=min(r, c)+1e-9

def test_rank_of_nothing(): assert (effective_rank(torch.zeros(3, 4)), stable_rank(torch.zeros(3, 4)))==(0, 0)

def test_small_singular_values_do_not_hide():
    "A rank of one stays one, though the Gram matrix squares the condition"
    assert effective_rank(torch.outer(torch.randn(200), torch.randn(300)))==pytest.approx(1, abs=1e-3)

def test_ranks_of_a_known_mask(tiny):
    w = {'layer.0.query.weight': torch.ones(6, 6)}
    row = ranks(Mask({'layer.0.query.weight': torch.eye(6).bool()}), w)[0]
    assert (row['effective_dense'], row['stable_dense'])==pytest.approx((1, 1), abs=1e-5)
    assert (row['effective_masked'], row['stable_masked'], row['full'])==pytest.approx((6, 6, 6))
    assert row['effective_random']<6 and ranks(Mask({'layer.0.query.weight': torch.eye(6).bool()}), w)[0]==row

def test_weights_are_checked(tiny):
    mask = Mask({'w': torch.ones(2, 2).bool()})
    for f in (ranks, magnitude, describe):
        with pytest.raises(ValueError, match="No weight 'w'"): f(mask, tiny('Bert'))
        with pytest.raises(ValueError, match=r"shape \(2, 3\), its mask \(2, 2\)"): f(mask, {'w': torch.ones(2, 3)})
    with pytest.raises(ValueError, match='NaN'): magnitude(mask, {'w': torch.full((2, 2), math.nan)})
    with pytest.raises(ValueError, match='bins'): magnitude(mask, {'w': torch.ones(2, 2)}, bins=0)

# Magnitude

sizes = st.sampled_from([0., -0., 1e-45, -1e-45, 1., -1., 3e38, math.inf, -math.inf]) | st.floats(width=32, allow_nan=False)

@given(st.lists(st.tuples(sizes, st.booleans()), min_size=2, max_size=60), st.sampled_from([torch.float32, torch.float64]))
def test_auc_is_sklearns(pairs, dtype):
    w,m = torch.tensor([p[0] for p in pairs], dtype=dtype),torch.tensor([p[1] for p in pairs])
    row = magnitude(Mask({'w': m}), {'w': w})[0]
    rank = np.unique(w.abs().numpy(), return_inverse=True)[1]           # scikit-learn refuses infinities
    if m.all() or not m.any(): assert row['auc'] is None
    else: assert row['auc']==pytest.approx(roc_auc_score(m.numpy(), rank), abs=1e-12)
    assert np.mean(row['kept'])==pytest.approx(m.float().mean())

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_auc_in_every_precision(dtype):
    w,m = torch.randn(50, 40).to(dtype),torch.rand(50, 40)<.3
    assert magnitude(Mask({'w': m}), {'w': w})[0]['auc']==pytest.approx(roc_auc_score(m.reshape(-1), w.abs().double().reshape(-1)), abs=1e-12)

def test_magnitude_pruning_is_found_out(tiny):
    w = weights_of(tiny('Bert'))
    scores = {n: x.abs() for n,x in w.items()}
    assert magnitude(Mask.from_scores(scores, .5), w)[0]['auc']==1
    assert magnitude(~Mask.from_scores(scores, .5), w)[0]['auc']==0
    by = magnitude(Mask.from_scores(scores, .7, 'matrix'), tiny('Bert'))
    assert [r['matrix'] for r in by]==['all', *w] and all(r['auc']==pytest.approx(1, abs=1e-9) for r in by[1:])

def test_shares_by_size():
    w = torch.arange(1., 101).view(10, 10)
    row = magnitude(Mask({'w': w>70}), {'w': w})[0]
    assert row['kept']==pytest.approx([0]*7+[1]*3)
    assert magnitude(Mask({'w': w>75}), {'w': w})[0]['kept']==pytest.approx([0]*7+[.5, 1, 1])

def test_ties_are_shared_out():
    "Equal weights: each group keeps the same share, wherever the kept ones stand"
    m = torch.arange(100).view(10, 10)<30
    row = magnitude(Mask({'w': m}), {'w': torch.ones(10, 10)}, bins=4)[0]
    assert row['kept']==pytest.approx([.3]*4) and row['auc']==.5

# All of it

@pytest.mark.parametrize('family', families)
def test_describe_goes_into_json(tiny, family):
    model = tiny(family)
    found = describe(rand_mask(weights_of(model)), model)
    assert json.loads(json.dumps(found, allow_nan=False))==found and found['heads']
    assert describe(rand_mask(weights_of(model)), weights_of(model))['heads']==[]

def test_plots(tiny):
    "From masks, from rows that went through JSON, from several seeds; with what they show in the axes"
    model = tiny('Bert')
    w = weights_of(model)
    masks = {k: rand_mask(w, p, i) for i,(k,p) in enumerate((('a', .2), ('b', .5), ('c', .9)))}
    stored = {k: json.loads(json.dumps(describe(m, model))) for k,m in masks.items()}
    for plot,by in ((plot_components, 'component'), (plot_layers, 'layer')):
        one,two = plot(masks),plot({k: d[by] for k,d in stored.items()})
        assert [t.get_text() for t in one.get_xticklabels()]==[t.get_text() for t in two.get_xticklabels()]==[str(r[by]) for r in stored['a'][by]]
        plot({'two seeds': [masks['a'], stored['b'][by]], 'one': masks['c']})
        plot(masks['a'])
    line = next(l for l in plot_components({'x': [masks['a'], masks['b']]}).lines if l.get_label()=='x')
    assert list(line.get_ydata())==pytest.approx([(r['sparsity']+s['sparsity'])/2 for r,s in zip(stored['a']['component'], stored['b']['component'])])
    plt.close('all')
    assert {t.get_text() for t in plot_cross(stored['a']['cross']).texts}>={f"{r['sparsity']:.1%}" for r in stored['a']['cross']}
    for v in ('kappa', 'kappa_global', 'jaccard', 'contained'): assert len(plot_overlap(overlaps(masks), v).texts)==9
    plot_emptied(masks['a'])
    plot_emptied(stored['a']['emptied'])
    assert len(plot_heads(stored['a']['heads']).texts)==4
    for v in ('effective', 'stable'): assert len(plot_ranks(stored['a']['ranks'], v).axes)==6
    assert len(plot_magnitude({k: d['magnitude'] for k,d in stored.items()}).lines)==3
    plot_magnitude({'seeds': [stored['a']['magnitude'], stored['b']['magnitude']]})
    plot_magnitude(stored['a']['magnitude'])
    plt.close('all')

def test_plots_refuse():
    with pytest.raises(ValueError, match='Nothing to plot'): plot_components({})
    with pytest.raises(ValueError, match='Nothing to plot'): plot_layers({'a': []})
    with pytest.raises(ValueError, match='No numbered layers'): plot_ranks([])
    with pytest.raises(ValueError, match="Unknown rank 'nuclear'"): plot_ranks([], 'nuclear')

def test_plots_draw_on_given_axes(tiny):
    ax = plt.subplots()[1]
    assert plot_components(rand_mask(weights_of(tiny('Bert'))), ax) is ax

def test_ranks_plot_shows_all_points(tiny):
    "Panels share their scale, which has to fit the tallest"
    model = tiny('Bert')
    fig = plot_ranks(ranks(rand_mask(weights_of(model), .9), model))
    for ax in fig.axes: assert all(ax.get_ylim()[0]<=y<=ax.get_ylim()[1] for line in ax.lines for y in line.get_ydata())

@pytest.mark.weights
def test_minilm_names():
    from adaptprune.head import load_encoder
    model = load_encoder('minilm')
    rows = sparsity_by(rand_mask(weights_of(model), .5), 'layer', 'component')
    assert len(rows)==1+6*6 and not {'other', 'query+key+value', 'pooler'} & {r['component'] for r in rows}
