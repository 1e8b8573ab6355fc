"Heads and neurons of many architectures: found, chosen to a unit, and taken out of the network"
import copy,io
import pytest,torch,transformers
from hypothesis import given,strategies as st
from torch import nn
from adaptprune.compaction import Constant,NoHeads,compact
from adaptprune.fisher import choose_units,gated,unit_scores
from adaptprune.units import Structure,Units,find_units,structure_report

shape = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=40, vocab_size=60, max_position_embeddings=40)
grouped = dict(shape, num_key_value_heads=2)
modern = dict(shape, pad_token_id=0, cls_token_id=1, sep_token_id=2, bos_token_id=1, eos_token_id=2, global_attn_every_n_layers=2, local_attention=8)
configs = dict(Bert=shape, Roberta=dict(shape, pad_token_id=1), Electra=dict(shape, embedding_size=16), MPNet=dict(shape, pad_token_id=1),
    DistilBert=dict(dim=32, n_layers=3, n_heads=4, hidden_dim=40, vocab_size=60, max_position_embeddings=40),
    ModernBert=modern, Llama=grouped, Qwen2=grouped, Qwen3=dict(grouped, head_dim=8), Mistral=grouped, Albert=dict(shape, embedding_size=16))

def make(family, **changes):
    "A small network with weights large enough for differences to show"
    torch.manual_seed(0)
    config = getattr(transformers, f'{family}Config')(**dict(configs[family], **changes))
    model = getattr(transformers, f'{family}Model')(config).eval()
    with torch.no_grad():
        for p in model.parameters(): p.add_(torch.randn_like(p)*.1)
    return model

@pytest.fixture
def batch():
    ids = torch.randint(3, 60, (4, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0,6:] = 0
    return dict(input_ids=ids, attention_mask=mask)

def drawn(units, seed=0, empty=()):
    "Uneven random units; the layers in `empty` lose all"
    g = torch.Generator().manual_seed(seed)
    kept = {u.out: torch.rand(u.n, generator=g)<.5 for u in units}
    for u in units:
        if u.out in empty: kept[u.out][:] = False
        elif not kept[u.out].any(): kept[u.out][0] = True
    return Structure(kept)

def states(model, batch): return torch.stack(model(**batch, output_hidden_states=True).hidden_states).detach()

def same(small, model, keep, batch):
    with gated(model, dict(keep)): want = states(model, batch)
    alive = batch['attention_mask'].bool()
    torch.testing.assert_close(states(small, batch)[:,alive], want[:,alive], atol=2e-5, rtol=1e-4)

@pytest.mark.parametrize('family', configs)
def test_finds_all_matrices_of_the_layers(family):
    model = make(family)
    units = find_units(model)
    inside = {n: m for n,m in model.named_modules() if isinstance(m, nn.Linear) and any(c.isdigit() for c in n.split('.'))}
    assert sum(u.n*u.cost for u in units)==sum(m.weight.numel() for m in inside.values())

@pytest.mark.parametrize('family', configs)
def test_compact_computes_what_the_gated_network_computes(family, batch):
    model = make(family)
    before = {n: p.clone() for n,p in model.named_parameters()}
    units = find_units(model)
    keep = drawn(units)
    same(compact(model, keep), model, keep, batch)
    assert all(torch.equal(p, before[n]) for n,p in model.named_parameters())

@pytest.mark.parametrize('family', configs)
def test_a_layer_may_lose_all_heads_or_all_neurons(family, batch):
    model = make(family)
    units = find_units(model)
    first = {k: next(u.out for u in units if u.kind==k) for k in ('heads', 'neurons')}
    for kind,empty in first.items():
        if family=='Albert' and kind=='heads':
            with pytest.raises(ValueError, match='keep at least one head'): compact(model, drawn(units, empty=[empty]))
            continue
        keep = drawn(units, empty=[empty])
        small = compact(model, keep)
        same(small, model, keep, batch)
        assert any(isinstance(m, (Constant, NoHeads)) for m in small.modules())

@pytest.mark.parametrize('family', ['Bert', 'MPNet', 'ModernBert', 'Llama'])
def test_kept_weights_are_those_of_the_base(family):
    model = make(family)
    keep = drawn(find_units(model))
    small = compact(model, keep)
    values = {x for p in model.parameters() for x in p.detach().flatten().tolist()}
    assert all(x in values for p in small.parameters() for x in p.detach().flatten().tolist())
    assert set(dict(small.named_parameters())) <= set(dict(model.named_parameters()))

@pytest.mark.parametrize('family', ['Bert', 'MPNet', 'ModernBert', 'Llama'])
def test_compact_trains_copies_and_pickles(family, batch):
    model = make(family)
    keep = drawn(find_units(model))
    small = compact(model, keep)
    def last(m): return m(**batch).last_hidden_state.detach()
    want = last(small)
    assert torch.equal(last(copy.deepcopy(small)), want)
    file = io.BytesIO()
    torch.save(small, file)
    file.seek(0)
    assert torch.equal(last(torch.load(file, weights_only=False)), want)
    small.train()
    small(**batch).last_hidden_state.square().mean().backward()
    grads = [p.grad for n,p in small.named_parameters() if 'layer' in n and p.ndim==2]
    assert grads and all(g is not None and g.isfinite().all() for g in grads)

def test_compiles(batch):
    model = make('Bert')
    keep = drawn(find_units(model))
    small = compact(model, keep)
    torch.testing.assert_close(states(torch.compile(small, backend='aot_eager'), batch), states(small, batch))

def test_bfloat16(batch):
    model = make('Bert').bfloat16()
    keep = drawn(find_units(model))
    assert next(compact(model, keep).parameters()).dtype==torch.bfloat16

def test_with_a_head_and_shared_parameters(batch):
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**shape, num_labels=3)).eval()
    keep = drawn(find_units(model))
    small = compact(model, keep, share=True)
    with gated(model, dict(keep)): want = model(**batch).logits
    torch.testing.assert_close(small(**batch).logits, want)
    assert small.classifier.weight is model.classifier.weight
    theirs = set(map(id, model.parameters()))
    assert not any(id(p) in theirs for p in compact(model, keep).parameters())

def test_requires_grad_stays():
    model = make('Bert').requires_grad_(False)
    assert not any(p.requires_grad for p in compact(model, drawn(find_units(model))).parameters())

def test_an_unknown_architecture_is_refused():
    "A layer that counts its heads in another way would compute something else: it is found out"
    model = make('Bert')
    keep = drawn(find_units(model), seed=1)
    core = model.encoder.layer[0].attention.self
    class Odd(type(core)):
        def forward(self, x, **kwargs): return super().forward(x, **kwargs)[0]*self.num_attention_heads, None
    core.__class__ = Odd
    with pytest.raises(ValueError, match='does not compute the same'): compact(model, keep)

def test_two_attentions_are_refused():
    config = transformers.BertConfig(**shape, is_decoder=True, add_cross_attention=True)
    with pytest.raises(ValueError, match='2 linear layers for'): find_units(transformers.BertModel(config))

def two(n_heads, n_neurons, cost=64):
    def of(kind, out, n, cost): return Units(kind, 'layer.0', out, n, 1, (), cost)
    return [of('heads', 'a', n_heads, cost), of('neurons', 'b', n_neurons, 2)]

@given(st.integers(1, 12), st.integers(1, 200), st.floats(0, .99), st.integers(0, 1000))
def test_the_budget_is_met_to_half_a_unit(n_heads, n_neurons, remove, seed):
    units = two(n_heads, n_neurons)
    g = torch.Generator().manual_seed(seed)
    scores = {u.out: torch.rand(u.n, generator=g) for u in units}
    total = sum(u.n*u.cost for u in units)
    try: keep = choose_units(units, scores, remove)
    except ValueError as e:
        assert 'leaves no unit' in str(e)
        return
    gone = sum(int((~keep[u.out]).sum())*u.cost for u in units)
    assert abs(gone-remove*total) <= 64/2+1e-9
    worth = [(scores[u.out][i].item()/u.cost, bool(keep[u.out][i])) for u in units for i in range(u.n)]
    kept,dropped = [w for w,k in worth if k],[w for w,k in worth if not k]
    assert not dropped or min(kept)>=max(dropped)

@given(st.integers(1, 40), st.integers(0, 1000))
def test_a_structure_is_plain_values(n, seed):
    kept = torch.rand(n, generator=torch.Generator().manual_seed(seed))<.5
    s = Structure({'x': kept})
    assert torch.equal(Structure.from_dict(s.to_dict())['x'], kept)

def test_scores_of_other_costs(batch):
    units = two(4, 100)
    scores = {u.out: torch.ones(u.n)*u.cost for u in units}
    scores['a'][0] = 1e-3
    by_time = choose_units(units, scores, .3, costs=dict(a=1., b=0.0001))
    assert by_time['a'].tolist()==[False, True, True, True]

def test_scores_put_the_model_back(batch):
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**shape, num_labels=3)).train()
    model.bert.embeddings.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]
    unit_scores(model, [dict(batch, labels=torch.tensor([0,1,2,0]))])
    assert model.training and flags==[p.requires_grad for p in model.parameters()]
    assert not any(m._forward_pre_hooks for m in model.modules())
    def fails(model, batch): raise RuntimeError('no loss')
    with pytest.raises(RuntimeError, match='no loss'): unit_scores(model, [batch], loss_fn=fails)
    assert model.training and not any(m._forward_pre_hooks for m in model.modules())

def test_report_counts_what_is_there(batch):
    model = make('Bert')
    units = find_units(model)
    keep = drawn(units)
    report = structure_report(units, keep)
    small = compact(model, keep)
    assert report['weights'][1]==sum(m.weight.numel() for m in small.encoder.modules() if isinstance(m, nn.Linear))
    assert report['layers'][1]['heads']==small.encoder.layer[1].attention.self.num_attention_heads
