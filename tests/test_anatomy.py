"Names and parts of networks: which weights can be masked, and where each one belongs."
import math
import pytest,torch
from torch import nn
from adaptprune.anatomy import component_of,components,layer_number,layer_of,maskable,matrices,plain_name,unwrap
from adaptprune.mask import Mask

families = ['Bert', 'Roberta', 'Electra', 'Albert', 'DistilBert', 'GPT2']
tied = [('Bert', 'ForMaskedLM'), ('GPT2', 'LMHeadModel'), ('Albert', 'ForMaskedLM'), ('Roberta', 'ForMaskedLM')]

class Net(nn.Module):
    "An embedding that is tied to the output, an attention with three projections, and a convolution"
    def __init__(self, d=8, vocab=20):
        super().__init__()
        self.emb,self.pos = nn.Embedding(vocab, d),nn.Embedding(5, d)
        self.conv,self.attn = nn.Conv1d(d, d, 3),nn.MultiheadAttention(d, 2, kdim=d, vdim=d+1)
        self.lin,self.out,self.norm = nn.Linear(d, d+1),nn.Linear(d, vocab),nn.LayerNorm(d)
        self.out.weight = self.emb.weight

# names

@pytest.mark.parametrize('name,plain', [('layer.0.weight', 'layer.0.weight'), ('_orig_mod.layer.0.weight', 'layer.0.weight'),
    ('layer._orig_mod.0._fsdp_wrapped_module.weight', 'layer.0.weight'), ('a._checkpoint_wrapped_module.b', 'a.b'),
    ('my_orig_mod.weight', 'my_orig_mod.weight'), ('module.weight', 'module.weight')])
def test_plain_names(name, plain): assert plain_name(name)==plain

@pytest.mark.parametrize('wrap', [nn.DataParallel, lambda m: torch.compile(m, backend='eager'),
    lambda m: nn.DataParallel(torch.compile(m, backend='eager')), lambda m: torch.compile(nn.DataParallel(m), backend='eager')],
    ids=['parallel', 'compiled', 'both', 'other way round'])
def test_wrappers_do_not_show(wrap):
    m = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    assert unwrap(wrap(m)) is m and list(maskable(wrap(m)))==['0.weight', '1.weight']
    assert all(p is q for p,q in zip(maskable(wrap(m)).values(), maskable(m).values()))

def test_a_compiled_submodule_does_not_show():
    m = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    m[0] = torch.compile(m[0], backend='eager')
    assert list(maskable(m))==['0.weight', '1.weight']

# which weights

@pytest.mark.parametrize('family', families)
def test_presets(tiny, family):
    m = tiny(family)
    every = {n for n,p in m.named_parameters() if p.ndim>1}
    inner = set(maskable(m, 'encoder'))
    assert set(maskable(m))==set(maskable(m, 'all'))==every
    assert inner=={n for n in every if any(part.isdigit() for part in n.split('.'))}
    assert every-inner and all('embed' in n or 'pooler' in n or n in ('wte.weight', 'wpe.weight') for n in every-inner)
    assert len(inner)=={'GPT2': 8, 'Albert': 6}.get(family, 12)

@pytest.mark.parametrize('family,kind', tied)
def test_tied_weights_are_found_once(tiny, family, kind):
    m = tiny(family, kind)
    shared = m.get_input_embeddings().weight
    assert shared is m.get_output_embeddings().weight
    found = maskable(m)
    assert [p is shared for p in found.values()].count(True)==1
    assert sum(p.numel() for p in found.values())==sum(p.numel() for p in m.parameters() if p.ndim>1)

def test_patterns():
    m = Net()
    assert list(maskable(m, 'attn.*'))==[f'attn.{k}_proj_weight' for k in 'qkv']+['attn.out_proj.weight']
    assert list(maskable(m, ['*', '!attn*', '!pos*']))==['emb.weight', 'conv.weight', 'lin.weight']
    assert list(maskable(m, r're:^(emb|lin)\.'))==['emb.weight', 'lin.weight']
    with pytest.raises(ValueError, match=r"No weight matrix matches 'decoder\.\*'\. This model has: emb\.weight, .*"):
        maskable(m, 'decoder.*')
    with pytest.raises(ValueError, match=r'no floating-point weight matrix \(LayerNorm\)'): maskable(nn.LayerNorm(3))

def test_only_floating_matrices():
    m = nn.Module()
    m.a = nn.Parameter(torch.zeros(2, 3, dtype=torch.int8), requires_grad=False)
    m.b,m.c,m.d = nn.Parameter(torch.zeros(3)),nn.Parameter(torch.zeros(())),nn.Parameter(torch.zeros(2, 2, 2))
    assert list(maskable(m))==['d']

# layers and components

@pytest.mark.parametrize('name,layer', [('bert.encoder.layer.11.output.dense.weight', 'layer.11'), ('h.3.attn.c_attn.weight', 'h.3'),
    ('encoder.block.0.layer.1.DenseReluDense.wi.weight', 'block.0'),
    ('decoder.block.0.layer.1.EncDecAttention.q.weight', 'decoder.block.0'), ('model.decoder.layers.5.fc1.weight', 'decoder.layers.5'),
    ('embeddings.word_embeddings.weight', 'embeddings'), ('wte.weight', 'wte'), ('weight', 'weight')])
def test_layer_of(name, layer): assert layer_of(name)==layer

@pytest.mark.parametrize('name,number', [('encoder.layer.11.output.dense.weight', 11), ('h.0.attn.c_attn.weight', 0), ('wte.weight', None),
    ('encoder.block.2.layer.1.DenseReluDense.wi.weight', 2)])
def test_layer_number(name, number): assert layer_number(name)==number

@pytest.mark.parametrize('name,part', [('embeddings.word_embeddings.weight', 'embedding'), ('wpe.weight', 'embedding'),
    ('encoder.layer.0.attention.self.query.weight', 'query'), ('encoder.layer.0.attention.output.dense.weight', 'output'),
    ('encoder.layer.0.intermediate.dense.weight', 'up'), ('encoder.layer.0.output.dense.weight', 'down'), ('pooler.dense.weight', 'pooler'),
    ('h.1.attn.c_attn.weight', 'query+key+value'), ('h.1.attn.c_attn.weight[key]', 'key'), ('h.1.mlp.c_proj.weight', 'down'),
    ('h.1.attn.c_proj.weight', 'output'), ('transformer.layer.1.ffn.lin2.weight', 'down'), ('classifier.weight', 'other')])
def test_component_of(name, part): assert component_of(name)==part and part in components

@pytest.mark.parametrize('family', families)
def test_matrices_hold_every_weight(tiny, family):
    found = maskable(tiny(family))
    table = matrices({n: p.detach() for n,p in found.items()})
    assert sum(m.numel() for *_,m in table)==sum(p.numel() for p in found.values())
    assert all(m.ndim==2 and c in components for _,_,c,m in table)
    assert len({n for n,*_ in table})==len(table)
    if family=='GPT2': assert [c for _,layer,c,_ in table if layer==0][:3]==['query', 'key', 'value']

def test_a_fused_matrix_has_a_row_for_each_output(tiny):
    m = tiny('GPT2')
    mask = Mask({n: p.detach()>0 for n,p in maskable(m).items()})
    query = next(t for n,*_,t in matrices(mask) if n.endswith('[query]'))
    assert torch.equal(query, mask['h.0.attn.c_attn.weight'].T[:16]) and math.prod(query.shape)==256
