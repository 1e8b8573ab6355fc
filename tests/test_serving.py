"The server of examples/serve on tiny models: answers as alone, whatever comes together; mistakes; a full queue; a failure; int8 folders; the client."
import gc, importlib.util, json, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np, pandas as pd, pytest
from adaptprune.artifact import TaskMask
from adaptprune.compression import compress
from adaptprune.predict import load
from adaptprune.task import adapt_task
from test_compress import home, quick, texts as many_texts

for package in ('fastapi', 'uvicorn', 'httpx'): pytest.importorskip(package, reason=f'{package} is not installed: pip install "adaptprune[serve]"')
from fastapi.testclient import TestClient

def example(name):
    "A script of examples/serve"
    spec = importlib.util.spec_from_file_location(name, Path(__file__).resolve().parent.parent/f'examples/serve/{name}.py')
    mod = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mod)
    return mod

server = example('server')

def table(kind, n=40):
    words = [f'{"abc"[i%3]} {"defg"[i%4]}' for i in range(n)]
    if kind=='score': return pd.DataFrame(dict(text=words, y=[i%5+.5 for i in range(n)]))
    if kind=='pair': return pd.DataFrame(dict(one=words, two=[f'{"ab"[i%2]} h' for i in range(n)], y=[('no', 'yes')[i%2] for i in range(n)]))
    return pd.DataFrame(dict(text=words, y=[('bad', 'good', 'neutral')[i%3] for i in range(n)]))

@pytest.fixture(scope='module')
def masks(folder, tmp_path_factory):
    "Mask files of three tasks of three kinds"
    root = tmp_path_factory.mktemp('masks')
    for kind in ('label', 'score', 'pair'):
        columns = dict(text=('one', 'two') if kind=='pair' else 'text', label='y', kind='regression' if kind=='score' else None)
        res = adapt_task(data=table(kind), model=folder, recipe='default', max_steps=20, progress=False, max_length=12, beta=.02, **columns)
        TaskMask.from_adapted(res).save_pretrained(root/kind)
    return {k: str(root/k) for k in ('label', 'score', 'pair')}

@pytest.fixture(scope='module')
def engine(masks): return server.Masks(masks)

@pytest.fixture
def client(engine):
    with TestClient(server.make_app(engine, max_chars=1000)) as c: yield c

def ask(client, task, text, second=None):
    return client.post('/predict', json=dict(task=task, text=text, **({} if second is None else dict(second=second))))

def test_answers_are_those_of_the_predictor(client, masks):
    got = ask(client, 'label', 'a d').json()
    want = load(masks['label']).predict('a d')
    assert got['task']=='label' and got['label']==want['label'] and got['probabilities']==pytest.approx(want['probabilities'], abs=1e-6)
    assert ask(client, 'score', 'b e').json()['score']==pytest.approx(load(masks['score']).predict('b e'), abs=1e-5)
    want = load(masks['pair']).predict([('a d', 'b h')])[0]
    assert ask(client, 'pair', 'a d', 'b h').json()['probabilities']==pytest.approx(want['probabilities'], abs=1e-6)

def test_many_at_once_are_not_mixed_up(client, engine):
    "Questions of all tasks and lengths from many threads: batches of several rows, and each gets the answer that it gets alone"
    asked = [(t, (f'{"abc"[i%3]} {"defg"[i%4]}'+' j'*(i%6), *(['b h'] if t=='pair' else []))) for i in range(24) for t in engine.tasks]
    want = [engine.answer([t], [row])[0] for t,row in asked]
    before = client.get('/health').json()
    with ThreadPoolExecutor(12) as pool: got = list(pool.map(lambda q: ask(client, q[0], *q[1]).json(), asked))
    for g,w in zip(got, want, strict=True):
        if isinstance(w, dict): assert g['probabilities']==pytest.approx(w['probabilities'], abs=1e-6)
        else: assert g['score']==pytest.approx(w, abs=1e-5)
    assert len({json.dumps(g) for g in got})>24, 'answers that differ, or a mix-up would not be seen'
    after = client.get('/health').json()
    assert after['answered']-before['answered']==len(asked) and after['batches']-before['batches']<len(asked)
    assert after['status']=='ok' and after['tasks']['pair']['texts']==2 and after['waiting']==0

@pytest.mark.parametrize('body, status, words', [
    (dict(task='nothing', text='a'), 404, "No task 'nothing': there are label, score, pair."),
    (dict(task='label', text=' \n'), 422, 'empty'), (dict(task='pair', text='a', second=''), 422, 'empty'),
    (dict(task='pair', text='a'), 422, 'takes text and second'), (dict(task='label', text='a', second='b'), 422, 'takes text alone'),
    (dict(task='label', text='a '*30), 413, "32 tokens, and the task 'label' reads 12"), (dict(task='label', text='a'*1001), 413, '1,001 characters'),
    (dict(task='label'), 422, 'Field required'), (dict(task='label', text=None), 422, 'valid string'),
])
def test_mistakes(client, body, status, words):
    r = client.post('/predict', json=body)
    assert r.status_code==status and words in str(r.json()['detail'])
    assert ask(client, 'label', 'a d').status_code==200

def test_each_task_is_written_once(engine, monkeypatch):
    "A mixed list switches once for each other task, and once back to the task in use; and it leaves that in use when a text is wrong"
    from adaptprune import multitask
    written,real = [],multitask._Weight.write
    def write(self, p, planes=None):
        written.append(self.name)
        real(self, p, planes)
    monkeypatch.setattr(multitask._Weight, 'write', write)
    with engine.many.use('label'):
        written.clear()
        engine.answer(['score', 'label', 'pair', 'score'], [('a d',), ('a d',), ('a d', 'b h'), ('b e',)])
        assert set(map(written.count, written))=={3} and engine.many.task=='label'
        with pytest.raises(ValueError, match='holds 1'): engine.many.predict(['a d', 1], ['label', 'score'])
        assert engine.many.task=='label'
    assert engine.many.task=='label', 'the server starts with a task, and leaves it in use'

def test_nothing_is_kept(engine):
    "After hundreds of batches of all sizes there are as many objects as before"
    def some(n):
        for i in range(n):
            tasks = [('label', 'score')[(i+j)%2] for j in range(1+i%5)]
            engine.answer(tasks, [('a d'+' j'*((i+j)%8),) for j in range(len(tasks))])
        gc.collect()
        return len(gc.get_objects())
    some(40)
    before = some(40)
    assert some(300)-before<300, 'less than an object for each batch'

class Held:
    "An engine that waits for a sign, and fails when it is told to"
    tasks = dict(t=server.About('regression', (), 1, 99))
    def __init__(self):
        self.go = threading.Event()
        self.sizes = []
    def n_tokens(self, task, texts): return 1
    def answer(self, tasks, rows):
        self.sizes.append(len(rows))
        assert self.go.wait(20)
        if ('bad',) in rows: raise RuntimeError('a secret of the machine')
        return [float(len(r[0])) for r in rows]

def test_a_full_queue_is_said_at_once():
    "One question at work, two wait, the fourth is refused; then all three are answered, and there is room again"
    held = Held()
    with TestClient(server.make_app(held, room=2, wait=0)) as c, ThreadPoolExecutor(4) as pool:
        first = pool.submit(ask, c, 't', 'a')
        while not held.sizes: pass
        others = [pool.submit(ask, c, 't', 'bb'), pool.submit(ask, c, 't', 'cc')]
        while c.get('/health').json()['waiting']<2: pass
        r = ask(c, 't', 'd')
        assert r.status_code==503 and r.headers['retry-after']=='1' and 'Too many' in r.json()['detail']
        held.go.set()
        assert [f.result().json()['score'] for f in (first, *others)]==[1, 2, 2]
        assert ask(c, 't', 'dddd').json()['score']==4
    assert held.sizes==[1, 2, 1]

def test_a_failure_is_answered_and_the_next_question_too():
    held = Held()
    held.go.set()
    with TestClient(server.make_app(held)) as c:
        r = ask(c, 't', 'bad')
        assert r.status_code==500 and 'secret' not in r.text
        assert ask(c, 't', 'abc').json()['score']==3 and c.get('/health').json()['status']=='ok'

@pytest.mark.slow
def test_int8_folders(home, tmp_path):
    "What `compress` writes; an answer does not depend on what is asked beside it"
    for n in ('onnx', 'onnxruntime', 'onnxscript'): pytest.importorskip(n, reason=f'{n} is not installed: pip install "adaptprune[onnx]"')
    res = compress(home/'classifier', many_texts, tmp_path/'small', remove=.5, **dict(quick, formats='int8'))
    engine = server.Int8(dict(small=tmp_path/'small'))
    about = engine.tasks['small']
    assert about.kind=='classification' and about.texts==1 and about.max_length==res.report['settings']['max_length']
    some = [t if isinstance(t, str) else t[0] for t in many_texts[:20]]
    want = [engine.one('small', (t,)) for t in some]
    assert list(want[0]['probabilities'])==list(about.classes) and sum(want[0]['probabilities'].values())==pytest.approx(1)
    with TestClient(server.make_app(engine)) as c, ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda t: ask(c, 'small', t).json(), some))
    assert [g['probabilities'] for g in got]==[w['probabilities'] for w in want]
    logits = res.model(**engine.tokenizers['small'](some[0], return_tensors='pt')).logits[0].softmax(0).detach().numpy()
    assert np.abs(logits-list(want[0]['probabilities'].values())).max()<.1
    report = json.loads((tmp_path/'small/report.json').read_text())
    (tmp_path/'small/report.json').write_text(json.dumps(dict(report, kind='encoder')))
    with pytest.raises(ValueError, match="kind 'encoder'"): server.Int8(dict(small=tmp_path/'small'))

def test_the_client_sees_mix_ups_and_errors():
    "The judge of the soak: equal answers pass, those of others do not"
    soak = example('soak')
    p,q = (dict(label='a', probability=x, probabilities=dict(a=x, b=1-x)) for x in (.7, .6))
    assert soak.difference(dict(task='t', **p), p)==0 and soak.difference(dict(task='t', **q), p)==pytest.approx(.1)
    assert soak.difference(dict(task='t', score=2.), 2.5)==.5 and soak.difference(dict(task='t', **p), 2.5)==float('inf')
    assert soak.difference(dict(task='t', score=1.), p)==float('inf')
    want = {('t', ('x',)): p, ('t', ('y',)): q, ('t', ('z',)): q}
    assert soak.visible(want, 1e-3)==pytest.approx(2/3, abs=1e-4) and soak.visible(want, .1)==0
    assert soak.percentiles([.001*i for i in range(1, 101)])['p50']==pytest.approx(50.5, abs=.1)
