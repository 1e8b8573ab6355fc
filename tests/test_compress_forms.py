"What `compress` writes beside its folder: ONNX and int8 in the card, a smaller vocabulary, a speed; and kills between them"
import json,os
import pytest,torch,transformers
from adaptprune import bench as timings,compression as room,forms
from adaptprune.bench import Plan,bench,made_files,open_model
from adaptprune.compression import compress
from adaptprune.export import OnnxRunner,vocabulary
from adaptprune.files import write_file
from adaptprune.folder import load_compact
from adaptprune.forms import check_formats
from adaptprune.identity import base_tensors
from adaptprune.latency import Latency
from test_compress import bad,batch,home,quick,texts,tokenizer

packages = 'onnx','onnxruntime','onnxscript'
def need(): [pytest.importorskip(n, reason=f'{n} is not installed: pip install "adaptprune[onnx]"') for n in packages]

with_files = dict(quick, formats=['onnx', 'int8'])
exported = {}

@pytest.fixture(autouse=True)
def exports_are_made_once(monkeypatch):
    "An export takes long, and the tests make the same networks again and again"
    real = timings.export_onnx
    def once(model, path, **how):
        key = str(model)+''.join(map(str, base_tensors(model).items()))
        if key not in exported:
            real(model, path, **how)
            exported[key] = path.read_bytes()
        elif not path.exists(): write_file(path, exported[key])
    monkeypatch.setattr(timings, 'export_onnx', once)

@pytest.mark.slow
@pytest.mark.parametrize('kind', ['classifier', 'encoder'])
def test_rows_of_the_card(kind, home, tmp_path):
    "Dense, dense int8, compact, ONNX, int8: each with score, time, size; and the files give what the rows say"
    need()
    res = compress(home/kind, texts, tmp_path/'out', remove=.5, **with_files)
    rows = {r['name']: r for r in res.report['stages']}
    assert list(rows)==['whole', 'whole, int8', 'compact', 'compact, ONNX', 'compact, int8']
    assert all(r['ms_1']>0 and r['ms_8']>0 and r['mb']>0 and 'agreement' in r for r in rows.values())
    assert rows['compact, ONNX']['agreement']==pytest.approx(rows['compact']['agreement'], abs=1e-3)
    assert rows['whole, int8']['like_pytorch']>.9 and rows['compact, int8']['like_pytorch']>.9
    assert sorted(p.name for p in (tmp_path/'out').glob('*.onnx'))==['model.onnx', 'model_int8.onnx']
    want = res.model(**batch())[0].detach()
    torch.testing.assert_close(torch.tensor(OnnxRunner(tmp_path/'out/model.onnx')(batch())), want, atol=2e-4*float(want.abs().max()), rtol=1e-3)
    said = (tmp_path/'out/README.md').read_text()
    assert '| compact, int8 |' in said and 'model_int8.onnx' in said and not (tmp_path/'out/.compress').exists()

@pytest.mark.slow
def test_peak_memory(home, tmp_path):
    "Each form in a process of its own; a form that fails there says so"
    need()
    res = compress(home/'classifier', texts, tmp_path/'out', remove=.5, **dict(with_files, formats='int8', memory=True))
    for r in res.report['stages']: assert 0<r['model_mb']<r['peak_mb']
    rows = {r['name']: r for r in res.report['stages']}
    assert rows['compact, int8']['peak_mb']<rows['whole']['peak_mb'], 'a session of ONNX Runtime goes without torch'
    assert 'high-water mark' in (tmp_path/'out/README.md').read_text()
    assert not (tmp_path/'out/model.onnx').exists(), 'it was not asked for'

def test_memory_that_cannot_be_measured_is_said(home, tmp_path, monkeypatch):
    monkeypatch.setattr(forms, 'session_memory', lambda *a, **k: dict(failed='killed'))
    res = compress(home/'classifier', texts, tmp_path/'out', remove=.5, **dict(quick, memory=True))
    assert 'The peak memory of compact could not be measured: killed.' in res.report['notes'] and 'peak_mb' not in res.report['stages'][0]

@pytest.mark.slow
def test_int8_that_loses_too_much_warns(home, tmp_path):
    need()
    with pytest.warns(UserWarning, match=r'compact, int8 loses .* of agreement .*more than bound=-0.5: use the float32 file'):
        res = compress(home/'classifier', texts, tmp_path/'out', remove=.5, **dict(with_files, formats='int8', bound=-.5))
    assert any('more than bound=-0.5' in n for n in res.report['notes'])

def test_formats_without_their_packages(monkeypatch, home, tmp_path, capsys):
    "By default a line says how to get them; by name it is an error, before any work"
    monkeypatch.setattr(forms, 'available_routes', lambda: ('pytorch',))
    assert check_formats()==()
    with pytest.raises(ImportError, match=r"'int8' needs packages .*adaptprune\[onnx\]"): compress(home/'classifier', texts, tmp_path/'o', formats='int8')
    with pytest.raises(ImportError, match=r'adaptprune\[onnx,openvino\]'): check_formats(['openvino'])
    assert not (tmp_path/'o').exists()
    res = compress(home/'classifier', texts, tmp_path/'o', remove=.5, **{**quick, 'formats': None, 'progress': True, 'steps': 0})
    line = "No ONNX and int8 files, as their packages are not installed: pip install 'adaptprune[onnx]'."
    assert line in capsys.readouterr().err and line in res.report['notes']

@pytest.mark.slow
def test_a_file_that_differs_is_refused_and_nothing_is_lost(home, tmp_path, monkeypatch):
    need()
    out = tmp_path/'out'
    with monkeypatch.context() as m:
        m.setattr(forms, '_check_close', lambda agrees: (_ for _ in ()).throw(ValueError('The ONNX file differs.')))
        with pytest.raises(ValueError, match="differs. To go on without such files: resume=True and formats='none'"): compress(home/'classifier', texts, out, remove=.5, **with_files)
    monkeypatch.setattr(room, 'adapt', None)        # the network is there already
    res = compress(home/'classifier', texts, out, remove=.5, resume=True, **quick)
    assert [r['name'] for r in res.report['stages']]==['whole', 'compact'] and not list(out.glob('*.onnx'))

def test_close_is_relative_to_the_spread():
    forms._check_close(dict(difference=.5, spread=1000., examples=8))
    with pytest.raises(ValueError, match='differs from PyTorch by 0.5 on 8 texts'): forms._check_close(dict(difference=.5, spread=10., examples=8))

# ---- kills
@pytest.mark.slow
@pytest.mark.parametrize('where', ['whole', 'int8', 'score', 'times', 'publish', 'moved'])
def test_a_kill_loses_no_finished_stage(where, home, tmp_path, monkeypatch):
    "Whatever was made before the kill is taken as it is by the run that goes on"
    need()
    out,made = tmp_path/'out',[]
    real,replace_ = forms.RouteMaker.make,os.replace
    def make(self, route):
        if where=={'onnx-int8': 'whole' if self.name=='whole' else 'int8'}.get(route) and not made.count('killed'):
            made.append('killed')
            raise KeyboardInterrupt
        return real(self, route)
    def stop(*a, **k): raise KeyboardInterrupt
    moves = []
    def moving(a, b):
        if str(b).startswith(str(out)) and '.compress' not in str(b):
            moves.append(b)
            if len(moves)==3: raise KeyboardInterrupt
        if where=='publish' and str(b).endswith('ready'): raise KeyboardInterrupt
        return replace_(a, b)
    with monkeypatch.context() as m:
        m.setattr(forms.RouteMaker, 'make', make)
        if where=='score': m.setattr(room, 'compare', lambda s, *a, n=[], c=room.compare: c(s, *a) if n.append(1) or len(n)<4 else stop())
        if where=='times': m.setattr(room, 'time_stages', stop)
        if where in ('publish', 'moved'): m.setattr(room.os, 'replace', moving)
        with pytest.raises(KeyboardInterrupt, match='resume'): compress(home/'classifier', texts, out, remove=.5, **with_files)
    files = {p: p.stat().st_mtime_ns for p in out.rglob('*.onnx')}
    assert len(files)==dict(whole=0, int8=2).get(where, 3), 'of the whole network, the int8 file alone stays'
    monkeypatch.setattr(room, 'adapt', None)
    monkeypatch.setattr(room, 'unit_scores', None)
    res = compress(home/'classifier', texts, out, remove=.5, resume=True, **with_files)
    assert [r['name'] for r in res.report['stages']]==['whole', 'whole, int8', 'compact', 'compact, ONNX', 'compact, int8']
    assert sorted(p.name for p in out.glob('*.onnx'))==['model.onnx', 'model_int8.onnx'] and not (out/'.compress').exists()
    kept = {p.name: p.stat().st_mtime_ns for p in out.glob('*.onnx')}
    assert all(kept[p.name]==t for p,t in files.items() if 'new-' in str(p) or 'whole' not in str(p))
    assert torch.equal(load_compact(out)(**batch())[0], res.model(**batch())[0])

def test_a_kill_while_an_old_result_is_replaced(home, tmp_path, monkeypatch):
    "Between the old files and the new ones nothing is lost: the run goes on, and the new result is whole"
    out = tmp_path/'out'
    compress(home/'classifier', texts, out, remove=.3, **quick)
    real = os.replace
    def stop(a, b):
        if str(b).endswith('ready'): raise KeyboardInterrupt
        return real(a, b)
    with monkeypatch.context() as m:
        m.setattr(room.os, 'replace', stop)
        with pytest.raises(KeyboardInterrupt): compress(home/'classifier', texts, out, remove=.5, force=True, **quick)
    assert (out/'.compress/old/report.json').exists()
    res = compress(home/'classifier', texts, out, remove=.5, resume=True, **quick)
    assert json.loads((out/'report.json').read_text())['settings']['remove']==.5==res.report['settings']['remove']

# ---- speed
def table(**changes):
    return Latency(**{**dict(machine='a', threads=1, batch=1, tokens=64, units=dict(heads=8, neurons=128), fixed=2., heads=.4, neurons=.016, error=0.), **changes})

def test_speed(home, tmp_path, monkeypatch):
    "A speed becomes a budget in milliseconds; whatever the table says after an interruption, the budget stays"
    monkeypatch.setattr(room, 'latency_table', lambda model, say: table())
    res = compress(home/'classifier', texts, tmp_path/'out', speed=2, **quick)
    left = sum(.4*r.get('heads', 0)+.016*r.get('neurons', 0) for r in res.report['layers'])
    whole = table().whole
    assert 2+left==pytest.approx(whole/2, abs=.21) and res.report['settings']['speed']==2
    assert any('Asked for: 2 times faster' in n and 'Measured' in n for n in res.report['notes'])
    with monkeypatch.context() as m:
        m.setattr(room, 'save_card', lambda *a: (_ for _ in ()).throw(OSError('no space')))
        with pytest.raises(OSError): compress(home/'classifier', texts, tmp_path/'b', speed=2, **quick)
    monkeypatch.setattr(room, 'latency_table', lambda model, say: table(heads=.1))
    again = compress(home/'classifier', texts, tmp_path/'b', speed=2, resume=True, **quick)
    assert again.report['layers']==res.report['layers']

def test_a_speed_that_cannot_be_reached(home, tmp_path, monkeypatch):
    monkeypatch.setattr(room, 'latency_table', lambda model, say: table())
    monkeypatch.setattr(room, 'Maker', None)
    with pytest.raises(ValueError, match='speed=40 cannot be reached.*Ask for at most 3.4, or add int8'): compress(home/'classifier', texts, tmp_path/'out', speed=40, **quick)
    assert not (tmp_path/'out').exists()

# ---- vocabulary
@pytest.mark.slow
def test_a_trimmed_folder(home, tmp_path):
    "The folder has its own tokenizer; on texts that the vocabulary covers it gives what the untrimmed one gives"
    need()
    plain = compress(home/'classifier', texts, tmp_path/'a', remove=.5, **quick)
    res = compress(home/'classifier', texts, tmp_path/'b', remove=.5, vocabulary=['the film was good', 'a plot is awful'], **dict(quick, formats='onnx'))
    small,tok = open_model(tmp_path/'b')
    assert vocabulary(small)==len(tok)==5+8 and vocabulary(plain.model)==19
    text = ['the film is awful', 'a plot was good']
    want = plain.model(**tokenizer()(text, return_tensors='pt'))[0]
    got = tok(text, return_tensors='pt')
    assert torch.equal(small(**got)[0], want)
    torch.testing.assert_close(torch.tensor(OnnxRunner(tmp_path/'b/model.onnx')(got)), want.detach())
    assert tok.tokenize('the tone was poor')==['the', '[UNK]', 'was', '[UNK]']
    rows = {r['name']: r for r in res.report['stages']}
    assert rows['compact']['agreement']<plain.report['stages'][1]['agreement'], 'unknown words cost, and the card says so'
    size = [(tmp_path/d/'model.safetensors').stat().st_size for d in 'ab']
    assert size[1]<size[0] and any('holds 13 of 19 tokens' in n for n in res.report['notes'])

def test_a_vocabulary_that_cannot_be_trimmed(home, tmp_path, monkeypatch):
    monkeypatch.setattr(room, 'Maker', None)
    bytes_ = transformers.GPT2Tokenizer(vocab={'a': 0, '<|endoftext|>': 1}, merges=[])
    model = transformers.AutoModelForSequenceClassification.from_pretrained(home/'classifier')
    with pytest.raises(ValueError, match='this one is BPE: leave out vocabulary'): compress(model, texts, tmp_path/'o', tokenizer=bytes_, vocabulary='texts')
    assert not (tmp_path/'o').exists()

# ---- bench
@pytest.mark.slow
def test_bench_opens_a_compact_folder(home, tmp_path):
    "The compact network in PyTorch, and the files in its folder as they are"
    need()
    res = compress(home/'classifier', texts, tmp_path/'fast', remove=.5, **with_files)
    net,tok = open_model(tmp_path/'fast')
    assert torch.equal(net(**tok(texts[:7], padding=True, return_tensors='pt'))[0], res.model(**batch())[0])
    files = made_files(tmp_path/'fast')
    assert {r: f.name for r,f in files.items()}=={'onnx': 'model.onnx', 'onnx-int8': 'model_int8.onnx'} and made_files('minilm')=={}
    before = {p.name: (p.stat().st_size, p.stat().st_mtime_ns) for p in (tmp_path/'fast').iterdir()}
    plan = Plan(batch=(1,), tokens=(8,), routes=('pytorch', 'onnx', 'onnx-int8'), threads=1, rounds=3, turn=0., memory=False)
    whole,_ = open_model(home/'classifier')
    how = dict(files=dict(fast=files), progress=False, out=tmp_path/'b.jsonl')
    rec, = bench(dict(whole=whole, fast=net), plan, **how)
    assert {(r['model'], r['route']): r['bytes'] for r in rec['rows']}['fast', 'onnx-int8']==files['onnx-int8'].stat().st_size
    assert before=={p.name: (p.stat().st_size, p.stat().st_mtime_ns) for p in (tmp_path/'fast').iterdir()}
    assert bench(dict(whole=whole, fast=net), plan, **how)==[rec], 'it is recorded'
    (tmp_path/'fast/model_int8.onnx').write_bytes((tmp_path/'fast/model.onnx').read_bytes())
    other, = bench(dict(whole=whole, fast=net), plan, **how)
    assert other['key']!=rec['key'], 'another file'
