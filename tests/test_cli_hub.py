"The commands that move masks and models about, in processes of their own, against a Hub on this machine"
import json
from pathlib import Path
import pytest,torch
from hub_server import Repo
from test_hub import client,fork,gets,hub,put
from adaptprune.artifact import TaskMask
from adaptprune.codec import magnitude_mask
from adaptprune.head import AdaptModel
from adaptprune.mask import Mask
from adaptprune.identity import base_tensors

as_user = '''
import io,sys
from contextlib import redirect_stderr,redirect_stdout
from adaptprune.cli import main
def cli(*args):
    sys.argv,code,out,err = ['adaptprune', *args],0,io.StringIO(),io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try: main()
        except SystemExit as e: code = e.code or 0
    return code,out.getvalue(),err.getvalue()
'''

words = '[PAD] [UNK] [CLS] [SEP] [MASK] a fine an awful day was it'.split()

@pytest.fixture
def user(hub, client, tiny, tmp_path):
    "A function that runs commands; on the Hub, a tiny base, a mask of it and (relative to the base) another"
    from transformers import BertTokenizerFast
    enc = tiny('Bert'); enc.save_pretrained(tmp_path/'base')
    (tmp_path/'vocab.txt').write_text('\n'.join(words))
    BertTokenizerFast(vocab=str(tmp_path/'vocab.txt')).save_pretrained(tmp_path/'base')
    hub.repos['someone/tiny-bert'] = r = Repo()
    rev = r.commit({f.name: f.read_bytes() for f in (tmp_path/'base').iterdir()})
    r.commit({'model.safetensors': b'another model by now'})
    torch.manual_seed(0)
    model = AdaptModel(enc, 2); model.head.mlp[-1].weight.data *= 20
    head = {n: p.detach() for n,p in model.named_parameters() if n.startswith('head.')}
    mask = Mask({n: magnitude_mask(p, int(.6*p.numel())) for n,p in enc.named_parameters() if 'attention' in n and p.ndim==2})
    base = dict(model='someone/tiny-bert', revision=rev, tensors=base_tensors(enc, mask))
    tm = TaskMask(mask, base, head, dict(task='weather', n_out=2, pooling='first', labels=['bad', 'good'], metrics=dict(accuracy=.5)))
    tm.save_pretrained(tmp_path/'m'); tm.save_pretrained(tmp_path/'small', reference=tiny('Bert'))
    put(hub, 'someone/weather', tm, tmp_path)
    def run(*lines, **kw): return client(as_user+f'print(json.dumps([cli(*a) for a in {[l.split() if isinstance(l, str) else l for l in lines]!r}]))', **kw)
    run.tm,run.model = tm,model
    return run

def fine(results):
    for code,_,err in results: assert code==0, err
    return [out for _,out,_ in results]

def test_info_reads_any_mask(user):
    folder,small,far,text = fine(user('info m --json', 'info small --json', 'info someone/weather --json', 'info someone/weather'))
    a,b,c = map(json.loads, (folder, small, far))
    assert a==c and {**a, 'bytes': 0}=={**b, 'bytes': 0} and b['bytes']<a['bytes']
    assert a['kept']==user.tm.mask.kept and a['density_by_layer']==user.tm.mask.by('layer') and a['base']['model']=='someone/tiny-bert'
    assert 'task weather on someone/tiny-bert: accuracy 0.500' in text

def test_push_then_pull(user, hub, tmp_path):
    out = fine(user('push m someone/new --private --json', 'pull someone/new --out got --json', 'pull someone/new', 'push small someone/small', 'pull someone/small --out again'))
    assert json.loads(out[0])['commit'].startswith(f'{hub.url}/someone/new/commit/') and hub.repos['someone/new'].private
    assert json.loads(out[1])['out']=='got' and 'TaskMask' in out[2]
    for a,b in (('m', 'got'), ('m', 'new'), ('small', 'again')): assert all((tmp_path/b/f.name).read_bytes()==f.read_bytes() for f in (tmp_path/a).glob('[am]*'))

def test_pull_a_revision(user, hub, tmp_path):
    r = hub.repos['someone/weather']; r.refs['v1'] = r.resolve('main')
    user.tm.info['note'] = 'newer'; put(hub, 'someone/weather', user.tm, tmp_path/'newer')
    old,new = fine(user('info someone/weather --revision v1 --json', 'info someone/weather --json'))
    assert 'note' not in json.loads(old)['info'] and json.loads(new)['info']['note']=='newer'
    code,_,err = user('pull someone/weather --revision v9')[0]
    assert code==2 and "'v9'" in err and err.count('\n')==1

def test_apply(user, tmp_path):
    (tmp_path/'in.csv').write_text('words,n\na fine day,1\nan awful day was it,2\n'); (tmp_path/'two.jsonl').write_text('{"a": "a day", "b": "it was"}\n')
    one,many,text,wrote,two = fine(user(['apply', 'm', '--first', 'a fine day', '--json'], 'apply small --input in.csv --text words --json', 'apply someone/weather --input in.csv --text words',
        'apply m --input in.csv --text words --out answers.jsonl', 'apply m --input two.jsonl --text a,b --model ./base --json'))
    ids = torch.tensor([[2]+[words.index(w) for w in 'a fine day'.split()]+[3]])
    model = user.tm.apply(user.model).eval()
    with torch.no_grad(): p = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.softmax(1)[0]
    got = json.loads(one)[0]
    assert got['label']==['bad', 'good'][int(p.argmax())] and got['probability']==pytest.approx(p.max().item(), abs=1e-5) and got['text_a']=='a fine day'
    both = json.loads(many); assert both[0]['probability']==pytest.approx(got['probability'], abs=1e-5) and len(both)==2
    assert len(text.splitlines())==2 and text.splitlines()[1].endswith('an awful day was it')
    assert [json.loads(l)['label'] for l in (tmp_path/'answers.jsonl').read_text().splitlines()]==[g['label'] for g in both] and '2 answers' in wrote
    assert {k: json.loads(two)[0][k] for k in 'ab'}=={'a': 'a day', 'b': 'it was'}

def test_export_plain(user, tmp_path):
    fine(user('export someone/weather --format plain --json', 'export m --format plain --out deep/p'))
    from transformers import AutoModel,AutoTokenizer
    for f in ('plain-model', 'deep/p'):
        net = AutoModel.from_pretrained(tmp_path/f); assert all(torch.equal(net.get_parameter(n)!=0, m) for n,m in user.tm.mask.items())
        assert AutoTokenizer.from_pretrained(tmp_path/f)('a day')['input_ids']==[2, 5, 9, 3]

@pytest.mark.slow
def test_export_onnx(user, tmp_path):
    ort = pytest.importorskip('onnxruntime'); pytest.importorskip('onnxscript')
    report = json.loads(fine(user('export m --out deep/w.onnx --json'))[0])
    assert report['difference']<1e-4 and report['labels']==['bad', 'good']
    got, = ort.InferenceSession(tmp_path/'deep'/'w.onnx').run(None, {k: [[2, 5, 9, 3]] if k=='input_ids' else [[int(k=='attention_mask')]*4] for k in ('input_ids', 'attention_mask', 'token_type_ids')})
    with torch.no_grad(): want = user.tm.apply(user.model).eval()(input_ids=torch.tensor([[2, 5, 9, 3]]), attention_mask=torch.ones(1, 4, dtype=torch.long)).logits
    assert torch.allclose(torch.tensor(got), want, atol=1e-4)

mistakes = [
    ('info someone/nothing', ["'someone/nothing'", 'check the id']), ('info nowhere', ["'nowhere'"]), ('info m --revision v1', ['is a folder']),
    ('pull someone/weather --out m', ["'m'", '--force']), ('pull nowhere', ["'nowhere'"]),
    ('push nowhere someone/x', ["'nowhere'"]), ('push m x', ["'x'", 'owner/name']), ('push m else/x', ["'else/x'", 'rights']),
    ('apply m', ['--first', '--input']), ('apply m --first a --input in.csv', ['either']), ('apply m --input in.csv', ['--text']), ('apply m --input in.doc --text a', ["'.doc'"]),
    ('apply m --input in.csv --text nope', ['nope']), ('apply m --first a --out base', ["'base'", '--force']), ('apply m --first a --model ./no/where', ['./no/where', '--model']),
    ('export m --format tflite', ["'tflite'", 'onnx, int8, model, plain']), ('export m --format plain --out base', ["'base'", '--force']), ('export m --format plain --out . --force', ['holds other things']),
]

def test_mistakes_are_one_line(user, tmp_path):
    (tmp_path/'in.csv').write_text('words,others\na,b\n'); (tmp_path/'in.doc').write_text('a\n')
    before = sorted(p for p in tmp_path.rglob('*') if 'home' not in p.parts)
    for (line,want),(code,out,err) in zip(mistakes, user(*[l for l,_ in mistakes])):
        assert code==2 and not out and err.startswith('adaptprune: error: ') and err.count('\n')==1 and all(w in err for w in want), (line, err)
    assert sorted(p for p in tmp_path.rglob('*') if 'home' not in p.parts and p.name not in ('stdout', 'stderr'))==before
