"The classes of compression in benchmarks/case_compression.py, against known truths, on networks of a few weights."
import importlib.util,json
from pathlib import Path
import pytest,torch
from adaptprune.head import AdaptModel
from adaptprune.results import read_results
from torch import nn
from transformers import BertConfig,BertModel

root = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location('case_compression', root/'benchmarks/case_compression.py')
case = importlib.util.module_from_spec(spec)
spec.loader.exec_module(case)

size = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32, vocab_size=50)

@pytest.fixture
def model():
    torch.manual_seed(0)
    return AdaptModel(BertModel(BertConfig(**size), add_pooling_layer=False), 2).eval()

@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(1)
    return dict(input_ids=torch.randint(5, 50, (8, 7), generator=g), attention_mask=torch.ones(8, 7, dtype=torch.long))

@torch.no_grad()
def said(model, batch): return model(**batch).logits
def same(a, b): return torch.allclose(a, b, atol=1e-5)

@pytest.mark.parametrize('moments', [False, True])
def test_full_rank_is_the_same_network(model, batch, moments):
    given = case.second_moments(model, [batch]) if moments else {}
    pairs = {n: case.factors(m.weight.detach(), given.get(n)) for n,m in case.layer_linears(model).items()}
    assert len(pairs)==3*6
    whole = case.factorised(model, pairs, 100.)
    assert same(said(whole, batch), said(model, batch))
    assert not same(said(case.factorised(model, pairs, .3), batch), said(model, batch))

def test_factors_are_the_best_for_what_they_are_for():
    "Plain ones for the weight, and those with moments for the outputs on such inputs"
    g = torch.Generator().manual_seed(0)
    w,x = torch.randn(12, 10, generator=g), torch.randn(200, 10, generator=g)*torch.logspace(0, -3, 10)
    made = [case.factors(w), case.factors(w, (x.T@x).double()/len(x))]
    plain,read = [left[:,:3]@right[:3] for left,right in made]
    def of_weight(a): return (w-a).norm()
    def of_output(a): return (x@(w-a).T).norm()
    assert of_weight(plain)<of_weight(read) and of_output(read)<of_output(plain)

def test_only_the_layers_that_are_named_are_cut(model):
    name = 'encoder.encoder.layer.1.output.dense'
    pair = case.factors(model.get_submodule(name).weight.detach())
    small = case.factorised(model, {name: pair}, .5)
    assert isinstance(small.get_submodule(name), nn.Sequential) and isinstance(model.get_submodule(name), nn.Linear)
    assert len(case.layer_linears(small))==len(case.layer_linears(model))+1

def test_share_of_a_weight(model):
    "Two factors hold the share of a weight's numbers, to within one rank"
    for share in (.3, .5):
        for m in case.layer_linears(model).values():
            out,into = m.weight.shape
            small = case.low_rank(m, *case.factors(m.weight.detach()), case.rank_at(m.weight, share))
            n = sum(l.weight.numel() for l in small)
            assert abs(n-share*out*into)<=(out+into)/2

@pytest.mark.parametrize('kind', ['classification', 'regression'])
def test_the_last_exit_is_the_whole_network(model, batch, kind):
    if kind=='regression': model = AdaptModel(model.encoder, 1).eval()
    y = torch.arange(8)%2
    x,own,labels = case.all_states(model, [dict(batch, labels=y)])
    assert x.shape==(3, 8, 16) and torch.equal(labels, y) and same(own, said(model, batch))
    answers = case.exit_answers(case.fit_exits(x, y.float() if kind=='regression' else y, kind), x, own, kind)
    got,used = case.leave(answers, kind, -1.)
    assert same(got, said(model, batch)) and (used==3).all()
    first,used = case.leave(answers, kind, torch.inf if kind=='regression' else 1.)
    assert torch.equal(first, answers[0]) and (used==1).all()

def test_doubt_and_thresholds():
    "Known answers of two rows at three layers: the first is sure at once, the second at the end only"
    logits = torch.tensor([[[9., 0.], [.1, 0.]], [[9., 0.], [.2, 0.]], [[9., 0.], [0., 9.]]])
    got,used = case.leave(logits, 'classification', .1)
    assert used.tolist()==[1, 3] and got.argmax(1).tolist()==[0, 1]
    scores = torch.tensor([[[1.], [2.]], [[1.1], [4.]], [[3.], [4.]]])
    got,used = case.leave(scores, 'regression', .2)
    assert used.tolist()==[2, 3] and got[:,0].tolist()==pytest.approx([1.1, 4.])

@pytest.mark.parametrize('kind', ['classification', 'regression'])
def test_the_threshold_spends_what_it_may(kind):
    g = torch.Generator().manual_seed(0)
    answers = torch.randn(6, 500, 1 if kind=='regression' else 2, generator=g)
    for layers in (3., 4., 5.):
        used = case.leave(answers, kind, case.threshold_for(answers, kind, layers))[1].float().mean()
        assert layers-.05<used<=layers

def test_equal_layers_tied_change_nothing(model, batch):
    "Where all layers are equal; and where they are not, tying does change the answers"
    alike = case.repeated(model, 1)
    apart = case.copy.deepcopy(model)
    for l in apart.encoder.encoder.layer: l.load_state_dict(model.encoder.encoder.layer[1].state_dict())
    want = said(apart, batch)
    assert same(said(alike, batch), want) and same(said(case.tied(apart, [(0, 1, 2)]), batch), want)
    assert not same(said(case.tied(model, [(0, 1, 2)]), batch), said(model, batch))

def test_tying_averages_and_leaves_the_model_alone(model):
    name = 'output.dense.weight'
    before = [l.get_parameter(name).clone() for l in model.encoder.encoder.layer]
    layers = case.tied(model, [(0, 2)]).encoder.encoder.layer
    assert layers[0] is layers[2] and torch.allclose(layers[0].get_parameter(name), (before[0]+before[2])/2)
    assert torch.equal(layers[1].get_parameter(name), before[1])
    assert all(torch.equal(l.get_parameter(name), b) for l,b in zip(model.encoder.encoder.layer, before))

def test_bytes(model):
    "Parameters that are shared count once"
    n = sum(p.numel() for p in model.parameters())
    layer = sum(p.numel() for p in model.encoder.encoder.layer[0].parameters())
    assert case.held(model)==4*n and case.held(case.repeated(model, 0))==4*(n-2*layer)
    assert case.held(case.tied(model, [(0, 1)]))==4*(n-layer)
    assert case.held(nn.Linear(3, 2).half())==2*8

def test_word_vectors_read_no_context(model, batch):
    got = case.WordVectors(model.encoder)(**batch).last_hidden_state
    assert torch.equal(got[2,3], model.encoder.embeddings.word_embeddings.weight[batch['input_ids'][2,3]])

def test_adds_only_what_is_missing(tmp_path, monkeypatch):
    "A second call measures nothing, and a new class goes beside the old one"
    calls = []
    def one(w):
        calls.append(w.task)
        yield case.row('one', 'none', dict(accuracy=.5), 8)
    class Setup:
        task = type('T', (), dict(metric='accuracy'))
        data = dict(dev=[0]*3)
    monkeypatch.setattr(case, 'classes', dict(a=one, b=one))
    monkeypatch.setattr(case.Work, 'setup', Setup)
    out = tmp_path/'out.json'
    def go(only): case.main(tasks='x,y', only=only, keep=str(tmp_path), out=str(out))
    go('a')
    go('a')
    assert calls==['x', 'y']
    go('a,b')
    rows = json.loads(out.read_text())
    assert calls==['x', 'y', 'x', 'y'] and [r['cell'] for r in rows[:2]]==[dict(task=t, measured='a') for t in 'xy']
    assert all(r['rows']==3 and r['found'][0]['hold']==8 and r['machine'] and r['command'] for r in rows)

def test_the_record_is_whole():
    "What the page reads: the classes of both tasks, and a fine-tuned network that scores as the record of its training says"
    rows = json.loads((root/'results/case_compression.json').read_text())
    by = {(r['cell']['task'], r['cell']['measured']): r for r in rows}
    classes = 'dense','int8','svd','svd_parts','exits','sharing','vocabulary','word_vectors'
    assert set(by)>={(t, m) for t in ('stsb', 'sst2') for m in classes} and len(by)==len(rows)
    for r in rows:
        assert {'seed', 'machine', 'seconds', 'command', 'date', 'data'}<=set(r)
        assert all(f['ship']>0 and f['hold']>0 and r['metric'] in f['metrics'] for f in r['found'])
    for run in read_results(root/'results/structured.jsonl'):
        cell,report = run['cell'],run['report']
        if cell['seed'] or cell['task'] not in ('stsb', 'sst2'): continue
        found = by[cell['task'], 'dense']['found'][0]['metrics']
        assert found==pytest.approx(report['teacher_metrics'], abs=2e-3)
