"int8 files: they agree with PyTorch, a bound that is not met leaves nothing, and what is there stays"
import sys
import numpy as np,pytest,torch
from torch import nn
from adaptprune import export,quantize
from adaptprune.export import OnnxRunner,export_onnx,feed,random_batch
from adaptprune.head import AdaptModel
from adaptprune.quantize import OpenvinoRunner,agreement,onnx_precision,quantize_onnx,quantize_openvino,text_batches
from transformers import AutoTokenizer

def need(*names):
    for n in names: pytest.importorskip(n, reason=f'{n} is not installed: pip install "adaptprune[onnx,openvino]"')

names = 'input_ids','attention_mask','token_type_ids'

@pytest.fixture
def batches(): return [random_batch(names, 8, 5+i, 50, seed=i) for i in range(4)]

@pytest.fixture
def made(tiny, tmp_path):
    "A function that makes a tiny model and its float32 file"
    need('onnxruntime', 'onnxscript')
    def f(kind='ForSequenceClassification', **changes):
        model = tiny('Bert', kind, initializer_range=.3, **dict(dict(num_hidden_layers=1), **changes))
        export_onnx(model, tmp_path/'m.onnx')
        return model,tmp_path/'m.onnx'
    return f

# ---- agreement, on functions instead of files
def of(model, change=lambda x: x):
    "A run that gives what the model gives, changed"
    def run(batch):
        with torch.no_grad(): return change(export.read_output(model(**batch))[1].clone()).numpy()
    return run

def test_agreement_of_classes(tiny, batches):
    model = tiny('Bert', 'ForSequenceClassification', num_labels=3, initializer_range=.3)
    assert agreement(of(model), model, batches)==dict(agreement(of(model), model, batches), examples=32, difference=0., measure='same class', same=1.)
    turned = agreement(of(model, lambda x: x.roll(1, -1)), model, batches)
    assert turned['same']==0 and turned['difference']>0
    def first_row(x): x[0] = x[0].roll(1); return x
    assert agreement(of(model, first_row), model, batches)['same']==1-4/32

def test_agreement_of_scores(tiny, batches):
    model = tiny('Bert', 'ForSequenceClassification', num_labels=1, initializer_range=.3)
    got = agreement(of(model, lambda x: 2*x+1), model, batches)
    assert got['measure']=='correlation' and got['same']==pytest.approx(1) and got['difference']>.5
    assert agreement(of(model, lambda x: -x), model, batches)['same']==pytest.approx(-1)
    assert agreement(of(model, lambda x: 0*x), model, batches)['same']==0
    nn.init.zeros_(model.classifier.weight)
    assert agreement(of(model), model, batches)['same']==1, 'a constant that is met'

def test_agreement_of_vectors(tiny, batches):
    "Padding does not count"
    model = tiny('Bert')
    def noise(b):
        out = of(model)(b)
        out[~b['attention_mask'].bool().numpy()] = 99
        return out
    got = agreement(noise, model, batches)
    assert got['measure']=='cosine' and got['same']==pytest.approx(1) and got['difference']==0
    assert agreement(of(model, lambda x: -x), model, batches)['same']==pytest.approx(-1)
    assert agreement(of(model, lambda x: x[:, :1]), model, batches)['same']==pytest.approx(1), 'a file for the first token alone'

def test_agreement_finds_nan(tiny, batches):
    model = tiny('Bert', 'ForSequenceClassification')
    got = agreement(of(model, lambda x: x*float('nan')), model, batches)
    assert got['same']==0 and got['difference']==np.inf

def test_agreement_needs_texts_and_the_same_model(tiny, batches):
    model = tiny('Bert', 'ForSequenceClassification')
    with pytest.raises(ValueError, match='no batches'): agreement(of(model), model, [])
    with pytest.raises(ValueError, match='another model'): agreement(of(model, lambda x: x[:, :1]), model, batches)

# ---- texts
def test_text_batches(folder):
    tok = AutoTokenizer.from_pretrained(folder)
    got = text_batches(['a b', 'c', 'a b c d'], tok, size=2)
    assert [tuple(b['input_ids'].shape) for b in got]==[(2, 4), (1, 6)] and got[0]['attention_mask'].sum()==7
    pairs = text_batches([('a', 'b c')], tok)
    assert pairs[0]['input_ids'].shape==(1, 6) and pairs[0]['token_type_ids'].sum()==3
    assert text_batches(['a '*99], tok, max_length=7)[0]['input_ids'].shape==(1, 7)
    with pytest.raises(ValueError, match='no texts'): text_batches([], tok)

def test_feed():
    ids = torch.ones(2, 3, dtype=torch.long)
    got = feed(('input_ids', 'token_type_ids'), dict(input_ids=ids, labels=ids))
    assert list(got)==['input_ids', 'token_type_ids'] and not got['token_type_ids'].any() and got['input_ids'].dtype==np.int64
    with pytest.raises(ValueError, match='no attention_mask'): feed(('input_ids', 'attention_mask'), dict(input_ids=ids))

# ---- ONNX Runtime
@pytest.mark.slow
@pytest.mark.parametrize('kind, changes', [('ForSequenceClassification', dict(num_labels=3)), ('ForSequenceClassification', dict(num_labels=1)), ('Model', {})])
def test_onnx_int8(kind, changes, made, batches, tmp_path, capfd):
    model,path = made(kind, **changes)
    before = path.read_bytes()
    capfd.readouterr()
    got = quantize_onnx(path, tmp_path/'q.onnx', model, batches, bound=.9)
    assert .9<=got['same']<=1 and 0<got['difference'] and got['examples']==32
    assert got==agreement(OnnxRunner(tmp_path/'q.onnx'), model, batches)
    assert onnx_precision(path).keys()=={'float32'} and onnx_precision(tmp_path/'q.onnx')['int8']>=6
    assert path.read_bytes()==before and sorted(f.name for f in tmp_path.iterdir())==['m.onnx', 'q.onnx']
    assert not ''.join(capfd.readouterr()), 'nothing is said'

@pytest.mark.slow
def test_per_channel_is_better(made, batches, tmp_path):
    "Where rows differ in size, a scale for each keeps more"
    model,_ = made(num_hidden_layers=2)
    with torch.no_grad():
        for n,p in model.named_parameters():
            if 'encoder' in n and p.ndim==2: p[::2] *= .05
    export_onnx(model, tmp_path/'u.onnx')
    kept = {c: quantize_onnx(tmp_path/'u.onnx', tmp_path/f'{c}.onnx', model, batches, bound=0, per_channel=c)['difference'] for c in (True, False)}
    assert kept[True]<kept[False]

@pytest.mark.slow
def test_nothing_is_written_unasked(made, batches, tmp_path, monkeypatch):
    model,path = made()
    out = tmp_path/'q.onnx'
    with pytest.raises(ValueError, match=r'bound=1.01: nothing was written'): quantize_onnx(path, out, model, batches, bound=1.01)
    with pytest.raises(ValueError, match='no batches'): quantize_onnx(path, out, model, [])
    with pytest.raises(FileNotFoundError, match='export_onnx first'): quantize_onnx(tmp_path/'none.onnx', out, model, batches)
    assert [f.name for f in tmp_path.iterdir()]==['m.onnx']
    out.write_text('mine')
    with pytest.raises(FileExistsError, match='force'): quantize_onnx(path, out, model, batches)
    def killed(*a): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(quantize, 'agreement', killed)
        with pytest.raises(KeyboardInterrupt): quantize_onnx(path, out, model, batches, force=True)
    assert out.read_text()=='mine' and sorted(f.name for f in tmp_path.iterdir())==['m.onnx', 'q.onnx']
    quantize_onnx(path, out, model, batches, bound=0, force=True)
    assert out.stat().st_size>1000

@pytest.mark.slow
def test_another_models_file_is_refused(made, tiny, batches, tmp_path):
    _,path = made(num_labels=3)
    with pytest.raises(ValueError, match='another model'): quantize_onnx(path, tmp_path/'q.onnx', tiny('Bert', 'ForSequenceClassification'), batches)
    other = tiny('Bert', 'ForSequenceClassification', num_labels=3, seed=5, initializer_range=.3, num_hidden_layers=1)
    with pytest.raises(ValueError, match='same class'): quantize_onnx(path, tmp_path/'q.onnx', other, batches)

@pytest.mark.slow
def test_int8_of_a_mask(tiny, batches, tmp_path):
    "The paper's head over all layers"
    need('onnxruntime', 'onnxscript')
    torch.manual_seed(0)
    model = AdaptModel(tiny('Bert', initializer_range=.3), 2).eval()
    export_onnx(model, tmp_path/'m.onnx')
    assert quantize_onnx(tmp_path/'m.onnx', tmp_path/'q.onnx', model, batches, bound=.8)['same']>=.8

@pytest.mark.parametrize('missing, extra', [('openvino', 'openvino'), ('nncf', 'openvino')])
def test_without_the_extra(missing, extra, tiny, batches, tmp_path, monkeypatch):
    if missing=='nncf': need('openvino')
    monkeypatch.setitem(sys.modules, missing, None)
    (tmp_path/'m.onnx').write_text('')
    with pytest.raises(ImportError, match=rf"\({missing}\): pip install 'adaptprune\[{extra}\]'"): quantize_openvino(tmp_path/'m.onnx', tmp_path/'q', tiny('Bert'), batches)

# ---- OpenVINO
@pytest.mark.slow
@pytest.mark.parametrize('kind, changes', [('ForSequenceClassification', dict(num_labels=3)), ('Model', {})])
def test_openvino_int8(kind, changes, made, batches, folder, tmp_path, capfd):
    need('openvino', 'nncf')
    model,path = made(kind, **changes)
    tok = AutoTokenizer.from_pretrained(folder)
    capfd.readouterr()
    got = quantize_openvino(path, tmp_path/'q', model, batches, calibration=batches[:2], tokenizer=tok, bound=.8)
    assert 'Statistics' not in ''.join(capfd.readouterr())
    files = {f.name for f in (tmp_path/'q').iterdir()}
    assert {'openvino_model.xml', 'openvino_model.bin', 'config.json', 'tokenizer_config.json'}<=files
    assert (tmp_path/'q'/'openvino_model.bin').stat().st_size<.5*path.stat().st_size
    run = OpenvinoRunner(tmp_path/'q', threads=1)
    assert run.precision['int8']>=12 and .8<=got['same']<=1 and got['difference']>0
    assert agreement(OpenvinoRunner(tmp_path/'q', threads=1, precision='f32'), model, batches)['same']>=.8

@pytest.mark.slow
def test_openvino_says_its_precision(made, batches):
    "float32 where it is asked for, and what a processor with bfloat16 does else"
    need('openvino')
    import openvino
    model,path = made()
    exact = OpenvinoRunner(path, threads=1, precision='f32')
    assert exact.precision.keys()=={'float32'} and agreement(exact, model, batches)['difference']<1e-4
    half = 'BF16' in openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    assert ('bfloat16' in OpenvinoRunner(path, threads=1).precision)==half

@pytest.mark.slow
def test_openvino_writes_all_or_nothing(made, batches, tmp_path, monkeypatch):
    need('openvino', 'nncf')
    model,path = made()
    with pytest.raises(ValueError, match='nothing was written'): quantize_openvino(path, tmp_path/'q', model, batches, bound=1.01)
    with pytest.raises(ValueError, match='no batches to calibrate'): quantize_openvino(path, tmp_path/'q', model, [])
    assert [f.name for f in tmp_path.iterdir()]==['m.onnx']
    quantize_openvino(path, tmp_path/'q', model, batches, bound=0)
    before = {f.name: f.read_bytes() for f in (tmp_path/'q').iterdir()}
    with pytest.raises(FileExistsError, match='force'): quantize_openvino(path, tmp_path/'q', model, batches)
    def killed(*a): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(quantize, 'agreement', killed)
        with pytest.raises(KeyboardInterrupt): quantize_openvino(path, tmp_path/'q', model, batches, force=True)
    assert {f.name: f.read_bytes() for f in (tmp_path/'q').iterdir()}==before
    quantize_openvino(path, tmp_path/'q', model, batches, bound=0, force=True)
    assert sorted(f.name for f in tmp_path.iterdir())==['m.onnx', 'q']
