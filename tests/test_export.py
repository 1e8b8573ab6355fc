"Models for other programs: a plain folder that loads without adaptprune, ONNX that agrees with PyTorch, and nothing half done"
import subprocess,sys
from pathlib import Path
import numpy as np,pytest,torch
from adaptprune import export
from adaptprune.artifact import TaskMask
from adaptprune.compaction import compact
from torch import nn
from adaptprune.export import export_onnx,first_token_only,input_names,new_path,onnx_difference,read_output,save_plain,vocabulary
from adaptprune.head import AdaptModel
from adaptprune.mask import Mask
from adaptprune.units import Structure,base_of,find_units

layers = dict(DistilBert='n_layers', GPT2='n_layer')

def adapted(tiny, family='Bert', n_out=2):
    "A tiny model of one layer with half of its matrices' weights pruned, and its mask"
    enc = tiny(family, **{layers.get(family, 'num_hidden_layers'): 1})
    gen = torch.Generator().manual_seed(1)
    mask = Mask({n: torch.rand(p.shape, generator=gen)<.5 for n,p in enc.named_parameters() if p.ndim==2})
    torch.manual_seed(2)
    model = AdaptModel(enc, n_out).eval()
    TaskMask(mask, enc).apply(model)
    return model,mask

stranger = '''
import sys
sys.modules['adaptprune'] = None
import torch
from transformers import AutoModel
for at in sys.argv[1:]:
    model = AutoModel.from_pretrained(f'{at}/deep/plain').eval()
    with torch.no_grad(): out = model(**torch.load(f'{at}/x')).last_hidden_state
    torch.save(dict(out=out, zeros={n: int((p==0).sum()) for n,p in model.named_parameters()}), f'{at}/y')
'''

def test_plain_model_needs_no_adaptprune(tiny, tokens, tmp_path):
    "Three families, read in one process that has no adaptprune"
    made = {tmp_path/family: adapted(tiny, family) for family in ('Bert', 'DistilBert', 'GPT2')}
    for at,(model,_) in made.items():
        assert save_plain(model, at/'deep'/'plain')==at/'deep'/'plain'
        torch.save(tokens, at/'x')
    subprocess.run([sys.executable, '-c', stranger, *map(str, made)], check=True, cwd=tmp_path, capture_output=True)
    for at,(model,mask) in made.items():
        got = torch.load(at/'y')
        with torch.no_grad(): assert torch.equal(got['out'], model.encoder(**tokens).last_hidden_state)
        assert all(got['zeros'][n]>=int((~m).sum()) for n,m in mask.items())
        assert not [f for f in (at/'deep').iterdir() if f.name!='plain'], 'nothing else is left lying about'

def test_plain_keeps_precision(tiny, tmp_path):
    model,_ = adapted(tiny)
    from transformers import AutoModel
    save_plain(model.bfloat16(), tmp_path/'p')
    assert AutoModel.from_pretrained(tmp_path/'p', dtype='auto').dtype==torch.bfloat16

def test_nothing_is_overwritten_unasked(tiny, tmp_path):
    model,_ = adapted(tiny)
    (tmp_path/'mine').mkdir(); (tmp_path/'mine'/'thesis.txt').write_text('precious')
    for force in (False, True):
        with pytest.raises(FileExistsError, match='mine'): save_plain(model, tmp_path/'mine', force=force)
    save_plain(model, tmp_path/'p'); before = (tmp_path/'p'/'model.safetensors').read_bytes()
    with torch.no_grad(): model.encoder.embeddings.word_embeddings.weight[3] = 7
    with pytest.raises(FileExistsError, match='force'): save_plain(model, tmp_path/'p')
    assert (tmp_path/'p'/'model.safetensors').read_bytes()==before
    save_plain(model, tmp_path/'p', force=True)
    assert (tmp_path/'p'/'model.safetensors').read_bytes()!=before
    (tmp_path/'f').write_text('old')
    with pytest.raises(FileExistsError, match='f is a file'): save_plain(model, tmp_path/'f', force=True)
    with pytest.raises(FileExistsError, match='p is a folder'):
        with new_path(tmp_path/'p', force=True) as p: p.write_text('a file')
    with pytest.raises(RuntimeError):
        with new_path(tmp_path/'f', force=True) as p: p.write_text('half'); raise RuntimeError
    assert (tmp_path/'f').read_text()=='old' and sorted(f.name for f in tmp_path.iterdir())==['f', 'mine', 'p'] and (tmp_path/'mine'/'thesis.txt').exists()

def test_a_folder_that_does_not_come_back_is_refused(tiny, tmp_path, monkeypatch):
    model,_ = adapted(tiny)
    real = type(model.encoder).save_pretrained
    def spoilt(self, folder, **kw):
        w = self.embeddings.word_embeddings.weight; old = w[0,0].item(); w.data[0,0] = 9; real(self, folder, **kw); w.data[0,0] = old
    monkeypatch.setattr(type(model.encoder), 'save_pretrained', spoilt)
    with pytest.raises(ValueError, match='word_embeddings.weight.* differs'): save_plain(model, tmp_path/'p')
    assert not list(tmp_path.iterdir())

def test_what_cannot_be_exported(tiny, tmp_path):
    pytest.importorskip('onnxruntime'); pytest.importorskip('onnxscript')
    model,_ = adapted(tiny)
    with pytest.raises(ValueError, match='not a Hugging Face model'): save_plain(torch.nn.Linear(2, 2), tmp_path/'x')
    with pytest.raises(ValueError, match='Linear has no config'): export_onnx(nn.Linear(2, 2), tmp_path/'x')
    with pytest.raises(ValueError, match='neither logits nor last_hidden_state'): read_output(torch.ones(2))
    with pytest.raises(ValueError, match='float32'): export_onnx(adapted(tiny)[0].bfloat16(), tmp_path/'x')
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('missing', ['onnx', 'onnxruntime', 'onnxscript'])
def test_without_the_extra(missing, tiny, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=rf"\({missing}\): pip install 'adaptprune\[onnx\]'"): export_onnx(adapted(tiny)[0], tmp_path/'x.onnx')

def test_inputs(tiny):
    class Tok: model_input_names = ['input_ids', 'attention_mask']
    assert input_names(adapted(tiny)[0])==('input_ids', 'attention_mask', 'token_type_ids') and input_names(adapted(tiny)[0], Tok)==('input_ids', 'attention_mask')
    assert input_names(adapted(tiny, 'GPT2')[0])==input_names(adapted(tiny, 'DistilBert')[0])==('input_ids', 'attention_mask')

@pytest.mark.slow
@pytest.mark.parametrize('family', ['Bert', 'Roberta', 'Electra', 'Albert', 'DistilBert', 'GPT2'])
def test_onnx_agrees(family, tiny, tmp_path):
    ort = pytest.importorskip('onnxruntime'); pytest.importorskip('onnxscript')
    model,_ = adapted(tiny, family, n_out=3)
    worst = export_onnx(model, tmp_path/'m.onnx')
    assert str(Path(torch.__file__).parent).encode() not in (tmp_path/'m.onnx').read_bytes(), 'no path of this machine'
    assert 0<=worst<1e-5 and [f.name for f in tmp_path.iterdir()]==['m.onnx']
    s = ort.InferenceSession(tmp_path/'m.onnx')
    assert all(i.shape==['batch', 'sequence'] for i in s.get_inputs()) and s.get_outputs()[0].shape==['batch', 3] and s.get_outputs()[0].name=='logits'
    for rows,n in ((1, 2), (7, 30), (2, 5)):
        ids = torch.randint(2, 50, (rows, n)); kept = torch.ones_like(ids); kept[-1, 1:] = 0
        x = {k: v for k,v in dict(input_ids=ids, attention_mask=kept, token_type_ids=torch.zeros_like(ids)).items() if k in input_names(model)}
        with torch.no_grad(): want = model(**x).logits
        np.testing.assert_allclose(s.run(None, {k: v.numpy() for k,v in x.items()})[0], want, atol=1e-5)

@pytest.mark.slow
def test_onnx_checks_itself(tiny, tmp_path, monkeypatch):
    pytest.importorskip('onnxruntime'); pytest.importorskip('onnxscript')
    model,_ = adapted(tiny)
    export_onnx(model, tmp_path/'m.onnx'); before = (tmp_path/'m.onnx').read_bytes()
    with pytest.raises(FileExistsError, match='m.onnx exists'): export_onnx(model, tmp_path/'m.onnx')
    model.head.mlp[-1].bias.data += 1
    assert .99<onnx_difference(tmp_path/'m.onnx', model, input_names(model))<1.01
    model.head.mlp[-1].bias.data[0] = float('nan')
    assert onnx_difference(tmp_path/'m.onnx', model, input_names(model))==np.inf
    with pytest.raises(ValueError, match='differ by inf'): export_onnx(model, tmp_path/'m.onnx', force=True)
    assert (tmp_path/'m.onnx').read_bytes()==before, 'a file that does not agree replaces nothing'
    monkeypatch.setattr(export, '_trace', lambda *a: 1/0)
    with pytest.raises(ValueError, match='cannot export BertModel'): export_onnx(model, tmp_path/'n.onnx')
    assert [f.name for f in tmp_path.iterdir()]==['m.onnx']

@pytest.mark.slow
def test_large_models_have_their_weights_beside_them(tiny, tmp_path, monkeypatch):
    pytest.importorskip('onnxruntime'); pytest.importorskip('onnxscript')
    monkeypatch.setattr(export, 'one_file', 10)
    model,_ = adapted(tiny)
    export_onnx(model, tmp_path/'a'/'m.onnx')
    assert sorted(f.name for f in (tmp_path/'a').iterdir())==['m.onnx', 'm.onnx.data']
    (tmp_path/'a').rename(tmp_path/'b')
    assert onnx_difference(tmp_path/'b'/'m.onnx', model, input_names(model))<1e-5, 'the pair can be moved together'
    (tmp_path/'b'/'m.onnx').unlink()
    with pytest.raises(FileExistsError, match='m.onnx.data'): export_onnx(model, tmp_path/'b'/'m.onnx')

def smaller(model, empty=None):
    "Half of the units at random; with `empty`, no heads or no neurons are left in the last layer"
    units,keep = find_units(base_of(model)),{}
    for i,u in enumerate(units):
        keep[u.out] = torch.rand(u.n, generator=torch.Generator().manual_seed(i))>.5
        keep[u.out][0] = True
        if i>=len(units)-2 and u.kind==empty: keep[u.out][:] = False
    return compact(model, Structure(keep))

def outputs(model, x):
    with torch.no_grad(): return read_output(model(**x))[1]

firsts = [('Bert', 'ForSequenceClassification'), ('Roberta', 'ForSequenceClassification'), ('DistilBert', 'ForSequenceClassification'),
    ('Electra', 'ForSequenceClassification'), ('MPNet', 'ForSequenceClassification'), ('Bert', 'Model'), ('MPNet', 'Model')]

@pytest.fixture
def make(tiny):
    "A tiny model with weights large enough for attention to matter"
    def f(family, kind='Model', **changes):
        import transformers
        if family not in ('MPNet', 'ModernBert'): m = tiny(family, kind, **changes)
        else:
            torch.manual_seed(0)
            size = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50, max_position_embeddings=40, **changes)
            m = getattr(transformers, family+kind)(getattr(transformers, family+'Config')(**size, pad_token_id=1)).eval()
        with torch.no_grad(): [p.mul_(10) for n,p in m.named_parameters() if p.ndim==2 and 'embed' not in n]
        return m
    return f

@pytest.mark.parametrize('family, kind', firsts)
def test_first_token_is_exact(family, kind, make, tokens):
    "Each family, with padding, in fewer operations; the model that it was made from stays as it was"
    model = make(family, kind)
    before = outputs(model, tokens)
    new = first_token_only(model)
    want = before if kind!='Model' else before[:, :1]
    torch.testing.assert_close(outputs(new, tokens), want, rtol=1e-4, atol=1e-5)
    assert torch.equal(outputs(model, tokens), before)
    assert all(p is q for p,q in zip(model.parameters(), new.parameters())), 'the weights are shared'
    rows = []
    for m in (new, model): [l.register_forward_pre_hook(lambda l, x: rows.append(x[0].shape[:-1].numel())) for l in m.modules() if isinstance(l, nn.Linear)]
    outputs(new, tokens); few = sum(rows); rows.clear(); outputs(model, tokens)
    assert few<sum(rows)

@pytest.mark.parametrize('attention', ['sdpa', 'eager'])
def test_first_token_with_either_attention(attention, make, tokens):
    model = make('Bert', 'ForSequenceClassification', attn_implementation=attention)
    torch.testing.assert_close(outputs(first_token_only(model), tokens), outputs(model, tokens), rtol=1e-4, atol=1e-5)

@pytest.mark.parametrize('family', ['Bert', 'DistilBert', 'MPNet'])
@pytest.mark.parametrize('empty', [None, 'heads', 'neurons'])
def test_first_token_of_uneven_layers(family, empty, make, tokens):
    whole = make(family, 'ForSequenceClassification')
    model = smaller(whole, empty)
    assert not torch.allclose(outputs(model, tokens), outputs(whole, tokens), atol=1e-3)
    torch.testing.assert_close(outputs(first_token_only(model), tokens), outputs(model, tokens), rtol=1e-4, atol=1e-5)

def test_first_token_with_a_scalar_mix(make, tokens):
    "All layers are read, of the last only the first token"
    torch.manual_seed(0)
    model = AdaptModel(make('Bert'), 3).eval()
    torch.testing.assert_close(outputs(first_token_only(model), tokens), outputs(model, tokens), rtol=1e-4, atol=1e-5)

@pytest.mark.parametrize('family, kind, why', [
    ('Albert', 'ForSequenceClassification', '0 lists of 2 layers'), ('ModernBert', 'ForSequenceClassification', 'leave out first_token_only'),
    ('GPT2', 'ForSequenceClassification', 'leave out first_token_only'), ('Bert', 'ForMaskedLM', 'leave out first_token_only')])
def test_first_token_is_refused(family, kind, why, make):
    changes = dict(pad_token_id=0) if family=='GPT2' else {}
    with pytest.raises(ValueError, match=why): first_token_only(make(family, kind, **changes))

@pytest.mark.parametrize('pooling', ['mean', 'last'])
def test_first_token_is_refused_where_the_head_reads_others(pooling, make):
    with pytest.raises(ValueError, match=f"pooling='{pooling}'"): first_token_only(AdaptModel(make('Bert'), 2, pooling=pooling).eval())

@pytest.mark.slow
@pytest.mark.parametrize('first_token', [False, True])
@pytest.mark.parametrize('kind, empty', [('ForSequenceClassification', 'whole'), ('Model', 'whole'), ('Model', None), ('ForSequenceClassification', 'heads'), ('ForSequenceClassification', 'neurons')])
def test_hugging_face_models_export(kind, empty, first_token, make, tokens, tmp_path):
    "Classifier and bare encoder, even and uneven, whole and for the first token"
    ort = pytest.importorskip('onnxruntime'); pytest.importorskip('onnxscript')
    model = make('Bert', kind)
    if empty!='whole': model = smaller(model, empty)
    assert export_onnx(model, tmp_path/'m.onnx', first_token=first_token)<1e-4
    s = ort.InferenceSession(tmp_path/'m.onnx')
    out, = s.get_outputs()
    name,want = ('last_hidden_state' if kind=='Model' else 'logits'),outputs(model, tokens)
    if kind=='Model' and first_token: want = want[:, :1]
    assert out.name==name and out.shape[0]=='batch'
    x = dict(tokens, token_type_ids=torch.zeros_like(tokens['input_ids']))
    np.testing.assert_allclose(s.run(None, {k: v.numpy() for k,v in x.items()})[0], want, atol=1e-4)

def test_a_trimmed_vocabulary_is_believed(tiny):
    model = tiny('Bert')
    model.embeddings.word_embeddings = nn.Embedding(7, 16)
    assert vocabulary(model)==7 and vocabulary(AdaptModel(model, 2))==7
