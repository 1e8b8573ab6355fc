"Which architectures go which way: a table that these tests hold. A way that is not open has its reason here, and an error that says it."
import pytest,torch
from transformers import BertTokenizer
from adaptprune.artifact import TaskMask
from adaptprune.compaction import compact
from adaptprune.fisher import choose_units,score_units
from adaptprune.export import export_onnx,save_plain
from adaptprune.head import AdaptModel,copy_encoder
from adaptprune.loop import adapt
from adaptprune.multitask import MultiTask
from adaptprune.units import find_units
from test_users import batch,decoders,encoders,make

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

def structured(family, res, path):
    "A network without three tenths of the work of its layers"
    units = find_units(res.base)
    small = compact(res.model, choose_units(units, score_units('random', res.model, [batch], 0), .3))
    assert units and small(**inputs).logits.isfinite().all() and sum(p.numel() for p in small.parameters())<sum(p.numel() for p in res.model.parameters())

def plain(family, res, path): save_plain(res.model, path/'plain')

def onnx(family, res, path):
    pytest.importorskip('onnxruntime')
    vocab = {w: i for i,w in enumerate(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *map(str, range(45))])}
    export_onnx(res.model, path/'m.onnx', BertTokenizer(vocab=vocab), 1e-3)

ways = dict(adapt=adapted, file=file, multitask=multitask, compact=structured, plain=plain, onnx=onnx)

fused = 'the order of heads in the fused projection .* is not known'
closed = {('T5', 'plain'): 'does not give the same model back', ('Bart', 'plain'): 'does not give the same model back', ('T5', 'onnx'): 'PyTorch cannot export T5Stack to ONNX',
    ('Falcon', 'compact'): fused, ('Bloom', 'compact'): fused, ('GPTNeoX', 'compact'): fused, ('GPT2', 'compact'): "GPT-2's `Conv1D` is none"}

@pytest.fixture(scope='module')
def runs(): return {}

@pytest.mark.parametrize('way', [*ways][:-1])
@pytest.mark.parametrize('family', families)
def test_ways(family, way, runs, tmp_path):
    "Every way is open, or closed with the reason that the table gives"
    if family not in runs: runs[family] = learnt(family)
    go(family, way, runs[family], tmp_path)

@pytest.mark.slow
@pytest.mark.parametrize('family', families)
def test_onnx(family, tmp_path):
    "ONNX, where the first export takes seconds"
    go(family, 'onnx', learnt(family), tmp_path)

def go(family, way, res, path):
    why = closed.get((family, way))
    if not why: return ways[way](family, res, path)
    with pytest.raises(ValueError, match=why): ways[way](family, res, path)
