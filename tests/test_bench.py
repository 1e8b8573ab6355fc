"Timings side by side: the ratios are of one run, records go on where they stopped, and what cannot be timed is refused first"
import json, time
from pathlib import Path
import numpy as np,pytest,torch
from torch import nn
from adaptprune import bench as room
from adaptprune.artifact import TaskMask
from adaptprune.bench import CsrLinear,Plan,TorchRunner,bench,bench_rows,bench_table,made_files,open_model,plot_bench,read_bench,session_memory,with_csr,with_zeros
from adaptprune.compaction import compact
from adaptprune.export import first_token_only,input_names,random_batch
from adaptprune.head import AdaptModel
from adaptprune.identity import base_tensors
from adaptprune.mask import Mask
from adaptprune.timing import interleaved
from adaptprune.units import Structure,base_of,find_units

def need(*names):
    for n in names: pytest.importorskip(n, reason=f'{n} is not installed: pip install "adaptprune[onnx,openvino]"')

quick = dict(batch=(1,), tokens=(8,), routes=('pytorch',), threads=1, rounds=3, turn=0., memory=False)

def halved(model):
    return compact(model, Structure({u.out: torch.arange(u.n)<max(1, u.n//2) for u in find_units(base_of(model))}))

@pytest.fixture
def model(tiny): return tiny('Bert', 'ForSequenceClassification', num_hidden_layers=1)

# ---- time
def test_interleaved_rotates_and_repeats():
    log = []
    runs = {k: (lambda b, k=k: log.append(k)) for k in 'abc'}
    got = interleaved(runs, None, rounds=3, turn=0.)
    assert {k: len(v) for k,v in got.items()}==dict(a=3, b=3, c=3) and all(t>=0 for v in got.values() for t in v)
    assert ''.join(log[6:])=='aabbcc'+'bbccaa'+'ccaabb', 'two to find out how long it takes; then one untimed and one timed each'

def test_short_calls_are_repeated():
    n = []
    interleaved(dict(a=lambda b: (n.append(1), time.sleep(.001))), None, rounds=1, turn=.05)
    assert 10<=len(n)<=60

def test_ratios_are_of_the_same_round(model, monkeypatch):
    "A round in which everything takes ten times longer changes no ratio"
    base,other = ('a', 'pytorch'),('b', 'pytorch')
    monkeypatch.setattr(room, 'interleaved', lambda runs, *a: {base: [1., 10., 1.], other: [.5, 5., .5]})
    rec, = bench(dict(a=model, b=halved(model)), Plan(**quick), progress=False)
    assert [r['ratio']['median'] for r in rec['rows']]==[1., 2.] and rec['rows'][1]['ratio']['q25']==rec['rows'][1]['ratio']['q75']
    assert rec['rows'][1]['ms']['median']==500

def test_threads_are_put_back(model):
    before = torch.get_num_threads()
    bench(dict(a=model), Plan(**quick), progress=False)
    assert torch.get_num_threads()==before

def test_a_busy_machine_is_told(model):
    "What others took of the cores stands in the record, and the table warns of it"
    rec, = bench(dict(a=model), Plan(**quick), progress=False)
    assert rec['others'] is None or 0<=rec['others']<=2*rec['machine']['cores']
    rec['machine']['cores'] = 4
    for others,warns in ((None, False), (0., False), (3., False), (3.5, True)):
        assert ('Other processes took 3.5 cores of 4' in bench_table([dict(rec, others=others)]))==warns

# ---- records
def test_records_go_on(model, tmp_path, monkeypatch):
    "Interrupted in the second cell: the first is there; the same call does the rest, and a third does nothing"
    path,plan = tmp_path/'deep'/'b.jsonl', Plan(**dict(quick, tokens=(4, 8)))
    real,seen = room.interleaved, []
    def stop(runs, batch, *a):
        if seen: raise KeyboardInterrupt
        seen.append(batch['input_ids'].shape)
        return real(runs, batch, *a)
    with monkeypatch.context() as m:
        m.setattr(room, 'interleaved', stop)
        first, = bench(dict(a=model), plan, path, progress=False)
    assert first['cell']==dict(batch=1, tokens=4) and read_bench(path)==[first]
    both = bench(dict(a=model), plan, path, progress=False)
    assert both[0]==first and both[1]['cell']['tokens']==8 and read_bench(path)==both
    monkeypatch.setattr(room, 'interleaved', lambda *a: 1/0)
    assert bench(dict(a=model), plan, path, progress=False)==both
    for changed in (dict(models=dict(a=halved(model))), dict(plan=Plan(**dict(quick, tokens=(4,), rounds=4)))):
        ask = {**dict(models=dict(a=model), plan=plan), **changed}
        with pytest.raises(ZeroDivisionError): bench(ask['models'], ask['plan'], path, progress=False)
    with torch.no_grad(): model.classifier.bias += 1
    with pytest.raises(ZeroDivisionError): bench(dict(a=model), plan, path, progress=False)
    assert {'cpu', 'cores', 'torch', 'adaptprune'}<=both[0]['machine'].keys() and both[0]['threads']==1

def test_an_interrupted_export_leaves_no_record(model, tmp_path, monkeypatch):
    def stop(*a, **kw): raise KeyboardInterrupt
    monkeypatch.setattr(room.RouteMaker, 'make', stop)
    assert bench(dict(a=model), Plan(**quick), tmp_path/'b.jsonl', progress=False)==[] and not (tmp_path/'b.jsonl').exists()
    with pytest.raises(ValueError, match='no cell was finished'): bench_table([])
    with pytest.raises(ValueError, match='no cell was finished'): plot_bench([])

def test_other_files_are_refused(model, tmp_path):
    (tmp_path/'b.jsonl').write_text('{"key": 1}\n')
    with pytest.raises(ValueError, match='line 1, is no record of bench'): bench(dict(a=model), Plan(**quick), tmp_path/'b.jsonl')
    assert (tmp_path/'b.jsonl').read_text()=='{"key": 1}\n'

# ---- what cannot be timed
@pytest.mark.parametrize('change, why', [
    (dict(threads=0), 'threads must be'), (dict(threads=10_000), 'cores to give'), (dict(batch=()), 'batch is empty'),
    (dict(tokens=(8, 1.5)), 'tokens must be'), (dict(rounds=2), 'rounds must be'), (dict(routes=('pytorch', 'tvm')), r"\['tvm'\]"), (dict(routes=()), 'give some of')])
def test_plans_are_checked(change, why):
    with pytest.raises(ValueError, match=why): Plan(**{**quick, **change})

def test_a_route_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(room, 'find_spec', lambda p: None)
    assert room.available_routes()==('pytorch',)
    with pytest.raises(ImportError, match="'onnx' needs onnx: pip install"): Plan(**dict(quick, routes=('pytorch', 'onnx')))

def test_models_are_checked(model, tiny):
    plan = Plan(**quick)
    with pytest.raises(ValueError, match='no models'): bench({}, plan)
    with pytest.raises(ValueError, match="named 'a'"): bench(dict(a=model), plan, eager=dict(a=model))
    with pytest.raises(ValueError, match="'b' is not in float32"): bench(dict(a=model, b=tiny('Bert', 'ForSequenceClassification').bfloat16()), plan)
    with pytest.raises(ValueError, match="'a' cannot read 41 tokens"): bench(dict(a=model), Plan(**dict(quick, tokens=(41,))))
    with pytest.raises(ValueError, match="leave 'pytorch' in routes"): bench(dict(a=model), Plan(**dict(quick, routes=('onnx',)) if room.find_spec('onnx') else quick))

# ---- rows of what does not get faster
def test_zeros(model, tokens):
    zeros = with_zeros(model, .75)
    for n,m in model.named_modules():
        if not isinstance(m, nn.Linear): continue
        w,kept = zeros.get_submodule(n).weight, zeros.get_submodule(n).weight!=0
        if 'layer.' in n: assert int((~kept).sum())==int(.75*w.numel()) and m.weight[~kept].abs().max()<=m.weight[kept].abs().min()
        assert torch.equal(w[kept], m.weight[kept])
    for bad in (1, -.1):
        with pytest.raises(ValueError, match='fraction of zeros'): with_zeros(model, bad)

def test_csr(model, tokens):
    zeros,csr = with_zeros(model, .5), with_csr(model, .5)
    assert sum(isinstance(m, CsrLinear) for m in csr.modules())==6
    with torch.no_grad(): torch.testing.assert_close(csr(**tokens).logits, zeros(**tokens).logits)
    assert TorchRunner(csr).precision=={'float32': 2, 'float32 CSR': 6}

def test_low_precision_is_told(model):
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision('medium')
        assert list(TorchRunner(model).precision)==['float32 (bfloat16 products allowed)']
    finally: torch.set_float32_matmul_precision(before)

# ---- all of it
@pytest.mark.slow
def test_routes_of_onnx(model, tmp_path):
    need('onnx', 'onnxscript', 'onnxruntime')
    plan = Plan(**dict(quick, routes=('pytorch', 'onnx', 'onnx-int8'), memory=True))
    got = bench(dict(dense=model, compact=halved(model)), plan, tmp_path/'b.jsonl', eager={'CSR': with_csr(model, .5)}, progress=False)
    rows = {(r['model'], r['route']): r for r in got[0]['rows']}
    assert [r['route'] for r in got[0]['rows']]==[*plan.routes, *plan.routes, 'pytorch']
    assert all(0<r['memory']['imports']<=r['memory']['peak'] and r['memory']['tokens']==8 for r in rows.values())
    assert rows['dense', 'onnx-int8']['bytes']<rows['dense', 'onnx']['bytes']
    assert rows['compact', 'onnx']['bytes']<rows['dense', 'onnx']['bytes']
    assert rows['dense', 'onnx']['agrees']['difference']<1e-4<rows['dense', 'onnx-int8']['agrees']['difference']+1e-3
    assert rows['dense', 'onnx']['precision'].keys()=={'float32'} and 'int8' in rows['dense', 'onnx-int8']['precision']
    assert json.loads((tmp_path/'b.jsonl').read_text())==got[0]
    table = bench_table(got)
    assert table.count('\n')==10 and '| dense | ONNX Runtime, int8 |' in table and ' ms |' in table.splitlines()[4]
    assert list(bench_rows(got)[0])==['model', 'route', 'MB', 'peak MB', 'products', 'agrees', '1 x 8']
    plot_bench(got, tmp_path/'b.png')
    assert (tmp_path/'b.png').stat().st_size>5000

@pytest.mark.slow
def test_routes_of_openvino(model):
    need('openvino', 'nncf', 'onnx', 'onnxscript', 'onnxruntime')
    plan = Plan(**dict(quick, routes=('pytorch', 'openvino', 'openvino-int8'), memory=True))
    rec, = bench(dict(dense=model), plan, progress=False)
    _,full,small = rec['rows']
    assert full['precision'].keys()=={'float32'} and 'int8' in small['precision']
    assert all(0<r['memory']['imports']<r['memory']['peak'] for r in rec['rows'])
    assert full['agrees']['difference']<1e-4 and 'openvino' in rec['machine']

@pytest.mark.slow
@pytest.mark.parametrize('kind', ['encoder', 'head', 'first'])
def test_other_models(kind, tiny):
    "A bare encoder, the paper's head after it gave hidden states, and the last layer for the first token"
    made = dict(encoder=lambda: tiny('Bert'), head=lambda: AdaptModel(tiny('Bert'), 2).eval(), first=lambda: first_token_only(AdaptModel(tiny('Bert'), 2).eval()))[kind]()
    TorchRunner(made)(random_batch(input_names(made), 1, 4, 50))
    rec, = bench(dict(a=made), Plan(**dict(quick, memory=True)), progress=False)
    assert rec['rows'][0]['memory']['peak']>0

def test_a_session_that_fails_says_so(model, tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path/'m.pt')
    route = room.Route('a', 'pytorch', TorchRunner(model), tmp_path/'m.pt', {})
    assert 'forward() got an unexpected keyword' in session_memory(route, tokens=8)['failed']

def test_open_model(folder, model, tmp_path):
    assert type(open_model(folder)[0]).__name__=='BertModel'
    model.save_pretrained(tmp_path/'c')
    with pytest.raises(OSError, match='no usable tokenizer'): open_model(str(tmp_path/'c'))
    open_model(folder)[1].save_pretrained(tmp_path/'c')
    got,tok = open_model(str(tmp_path/'c'))
    assert type(got).__name__=='BertForSequenceClassification' and not got.training and tok('a')['input_ids']
    with pytest.raises(OSError, match='neither a model nor a saved mask|No folder'): open_model(str(tmp_path/'nothing'))

def test_open_a_saved_mask(folder, tmp_path, monkeypatch):
    from adaptprune.head import load_encoder
    folder = Path(folder)
    enc = load_encoder(folder)
    mask = Mask({n: torch.arange(p.numel()).reshape(p.shape)%2==0 for n,p in enc.named_parameters() if p.ndim==2})
    head = {n: t for n,t in AdaptModel(enc, 2).state_dict().items() if n.startswith('head.')}
    where = dict(model=folder.name, revision=None, tensors=base_tensors(enc, mask))
    TaskMask(mask, where, head, dict(n_out=2)).save_pretrained(tmp_path/'m')
    monkeypatch.setenv('ADAPTPRUNE_MODELS', str(folder.parent))
    got,tok = open_model(str(tmp_path/'m'))
    assert isinstance(got, AdaptModel) and not got.training and tok('a')['input_ids']
    assert all((got.encoder.get_parameter(n)[~m]==0).all() for n,m in mask.items())

# ---- batches
def test_batches_of_another_tokenizer_are_refused(model):
    plan,far = Plan(**quick),[dict(input_ids=torch.tensor([[2, 50]]), attention_mask=torch.ones(1, 2, dtype=torch.long))]
    with pytest.raises(ValueError, match="the token 50, and 'a' knows 50"): bench(dict(a=model), plan, batches=far)
    with pytest.raises(ValueError, match="no batches for 'a'"): bench(dict(a=model), plan, batches=dict(b=far))

# ---- the command
@pytest.fixture
def command(folder, model, tmp_path, monkeypatch, capsys):
    "A function that runs `adaptprune bench` beside two tiny models, `a` and `b`: exit status, output, error"
    from adaptprune import cli
    tok = open_model(folder)[1]
    for name,m in (('a', model), ('b', base_of(model))):
        m.save_pretrained(tmp_path/name)
        tok.save_pretrained(tmp_path/name)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    def run(words):
        monkeypatch.setattr('sys.argv', ['adaptprune', 'bench', *words.split()])
        with pytest.raises(SystemExit) as e: cli.main()
        out = capsys.readouterr()
        return e.value.code, out.out, out.err
    return run

small = '--threads 1 --batch 1 --tokens 4,8 --rounds 3 --routes pytorch'

@pytest.mark.slow
def test_command(command, tmp_path, monkeypatch):
    monkeypatch.setattr(room, 'session_memory', lambda *a, **k: dict(imports=1., peak=2., batch=1, tokens=8)) # a process each, tested above
    code,out,err = command(f'a b {small} --zeros .5 --plot p.png')
    assert code==0, err
    assert [l.split(' | ')[0].lstrip('| ') for l in out.splitlines()[4:]]==['a', 'b', 'a, 50% zeros', 'a, 50% zeros, CSR']
    assert (tmp_path/'p.png').exists() and len(read_bench(tmp_path/'bench.jsonl'))==2
    def stop(*a): raise KeyboardInterrupt
    monkeypatch.setattr(room, 'interleaved', stop)
    code,out,_ = command(f'a b {small} --zeros .5 --json')
    assert code==0 and json.loads(out)==read_bench(tmp_path/'bench.jsonl'), 'all is recorded'
    code,out,err = command(f'a {small}')
    assert code==130 and '0 of 2 cells are recorded in bench.jsonl; the same command goes on' in err

@pytest.mark.parametrize('words, why', [
    ('a --batch one', "--batch takes numbers"), ('a --tokens 8,', '--tokens takes numbers'), ('a --routes tvm', "Unknown routes ['tvm']"), (f'a a {small}', "'a' is given twice"),
    (f'nothing {small}', "'nothing' is neither a model nor a saved mask"), (f'a {small} --zeros 1', 'fraction of zeros'), (f'a {small} --data x.csv', '--data needs --text'),
    (f'a {small} --data x.csv --text t', 'no file x.csv'), ('', 'required: MODELS'), ('a --thread 2', '--threads')])
def test_command_says_what_is_wrong(command, words, why):
    code,_,err = command(words)
    assert code==2 and why in err.splitlines()[-1] and 'Traceback' not in err
