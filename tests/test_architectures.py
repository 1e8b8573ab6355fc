"Which architectures go which way: a table that these tests hold. A way that is not open has its reason here, and an error that says it."
import json
from pathlib import Path
import pytest,torch,transformers
from transformers import AutoModelForSequenceClassification,BertTokenizer
from adaptprune.anatomy import maskable
from adaptprune.artifact import TaskMask
from adaptprune.compaction import compact
from adaptprune.export import export_onnx,save_plain
from adaptprune.folder import save_model
from adaptprune.head import AdaptModel,copy_encoder
from adaptprune.layer import apply_mask
from adaptprune.loop import adapt
from adaptprune.mask import Mask
from adaptprune.multitask import MultiTask
from adaptprune.units import Structure,find_units
from test_folder import own_cache
from test_users import batch,config,decoders,encoders,make

families = [*encoders, 'T5', 'Bart', *decoders]
inputs = {k: v for k,v in batch.items() if k!='labels'}

def learnt(family):
    "A tiny model of a family with a mask"
    net = AdaptModel(copy_encoder(make(family)), 2)
    return adapt(net, [batch], sparsity=.4, max_steps=3, recipe='default', progress=False)

def fresh(family): return copy_encoder(make(family))

def adapted(family, res, path):
    assert res.report['target_met'] and res.mask.kept<res.mask.numel
    base = fresh(family)
    for n,m in res.mask.items(): assert torch.equal(res.base.get_parameter(n), base.get_parameter(n)*m), n

def file(family, res, path):
    TaskMask.from_adapted(res).save_pretrained(path/'m')
    net = TaskMask.from_pretrained(path/'m').load_model(fresh(family))
    assert torch.equal(net(**inputs).logits, res.model(**inputs).logits)

def multitask(family, res, path):
    many = MultiTask(fresh(family), dict(a=TaskMask.from_adapted(res)))
    torch.testing.assert_close(many(tasks='a', **inputs).logits, res.model(**inputs).logits)

def with_groups(family):
    "A fresh base; where heads share keys and values, two groups of two"
    c = config(family)
    if getattr(c, 'num_key_value_heads', None)==1: c.num_attention_heads,c.num_key_value_heads = 4,2
    torch.manual_seed(0)
    return copy_encoder(getattr(transformers, f'{family}Model')(c).eval())

def cut_of(family): return sorted({u.kind for u in find_units(with_groups(family))})

def half(base):
    "The second half of the heads, or groups of heads, and of the neurons of each layer"
    units = find_units(base)
    assert units and all(u.n>1 for u in units)
    return Structure({u.out: torch.arange(u.n)>=u.n//2 for u in units})

def structured(family, res, path):
    "A compact network, and the file of its structure"
    torch.manual_seed(0)
    net = AdaptModel(with_groups(family), 2).eval()
    structure = half(net.encoder)
    small = compact(net, structure)
    assert sum(p.numel() for p in small.parameters())<sum(p.numel() for p in net.parameters())
    kept = Mask({n: p.detach().abs()>p.detach().abs().median() for n,p in maskable(small.encoder).items()})
    apply_mask(small.encoder, kept)
    head = {n: t for n,t in small.state_dict().items() if n.startswith('head.')}
    tm = TaskMask(kept, net.encoder, head, dict(n_out=2, pooling=net.pooling), structure)
    again = TaskMask.from_pretrained(tm.save_pretrained(path/'s')).load_model(with_groups(family))
    assert torch.equal(again(**inputs).logits, small(**inputs).logits)

def whole(family, res, path):
    "A folder with the head, read by transformers alone"
    folder = save_model(res.model, path/'whole')
    again = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    assert torch.equal(again(**inputs).logits, res.model.eval()(**inputs).logits)

def plain(family, res, path): save_plain(res.model, path/'plain')

def onnx(family, res, path):
    pytest.importorskip('onnxruntime')
    vocab = {w: i for i,w in enumerate(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *map(str, range(45))])}
    export_onnx(res.model, path/'m.onnx', BertTokenizer(vocab=vocab), 1e-3)

ways = dict(adapt=adapted, file=file, multitask=multitask, compact=structured, plain=plain, whole=whole, onnx=onnx)

fused = 'the order of heads in the fused projection .* is not known'
closed = {('T5', 'plain'): 'does not give the same model back', ('Bart', 'plain'): 'does not give the same model back', ('T5', 'onnx'): 'PyTorch cannot export T5Stack to ONNX', ('Mixtral', 'onnx'): 'PyTorch cannot export MixtralModel to ONNX',
    ('T5', 'whole'): 'T5Stack is no class of transformers', ('Bart', 'whole'): 'BartEncoder is no class of transformers',
    ('Mpt', 'compact'): 'MptModel cannot compute without these units', ('T5', 'compact'): 'T5Stack cannot compute without these units', ('Falcon', 'compact'): fused, ('Bloom', 'compact'): fused, ('GPTNeoX', 'compact'): fused, ('GPT2', 'compact'): "GPT-2's `Conv1D` is none"}

@pytest.fixture(scope='module')
def runs(): return {}

@pytest.mark.parametrize('way', [*ways][:-1])
@pytest.mark.parametrize('family', families)
def test_ways(family, way, runs, tmp_path):
    "Every way is open, or closed with the reason that the table gives"
    if family not in runs: runs[family] = learnt(family)
    go(family, way, runs[family], tmp_path)

some = {'Mixtral': ['heads']}

@pytest.mark.parametrize('family', [f for f in families if (f, 'compact') not in closed])
def test_what_compact_can_take_out(family): assert cut_of(family)==some.get(family, ['heads', 'neurons'])

@pytest.mark.slow
@pytest.mark.parametrize("family", [f for f in families if f in ("Bert", "ModernBert", "MPNet", "Llama")])     # all: benchmarks/architectures.py
def test_onnx(family, tmp_path):
    "ONNX, where the first export takes seconds"
    go(family, 'onnx', learnt(family), tmp_path)

def go(family, way, res, path):
    why = closed.get((family, way))
    if not why: return ways[way](family, res, path)
    with pytest.raises(ValueError, match=why): ways[way](family, res, path)

def test_the_record_says_what_these_tests_hold():
    "The table of the documentation is that of benchmarks/architectures.py"
    record = json.loads((Path(__file__).resolve().parent.parent/'results/architectures.json').read_text())
    got = {(f['family'], w): x['open'] for f in record['families'] for w,x in f['ways'].items()}
    assert got=={(f, w): (f, w) not in closed for f in families for w in ways}
    takes = {f['family']: f['ways']['compact'].get('takes_out') for f in record['families'] if f['ways']['compact']['open']}
    assert takes=={f: some.get(f, ['heads', 'neurons']) for f in families if (f, 'compact') not in closed}
