"Several labels a row: read from every shape, learnt on a tiny model, and answered from the file (defect 20 of users.md)"
import gzip, itertools, json, shutil
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from hypothesis import given, strategies as st
from adaptprune.artifact import TaskMask
from adaptprune.loss import G, are_several, distil_logits
from adaptprune.multitask import MultiTask
from adaptprune.predict import EmptyText, load
from adaptprune.task import adapt_task
from adaptprune.taskcard import card_for, from_dict, in_words, task_of, to_dict
from adaptprune.tasks import Task, compute_metrics, fit_data, holdout, load_data, to_dataset

names = ('blue', 'green', 'red')
words = dict(red='a', blue='b', green='c')
def text(i): return ' '.join([*(w for k,w in enumerate('abc') if i>>k&1), 'defg'[i//8%4], 'hij'[i//32%3]])
def sets(i): return [n for n,w in words.items() if w in text(i).split()]
def rows(n=96): return [dict(text=text(i), tags=sets(i)) for i in range(n)]
def semis(n=96): return pd.DataFrame([dict(text=text(i), tags=';'.join(sets(i))) for i in range(n)])
def flags(n=96): return pd.DataFrame([dict(text=text(i), **{c: int(c in sets(i)) for c in words}) for i in range(n)])
def refuses(message, data, **kw):
    with pytest.raises(ValueError, match=message): load_data(data, **kw)
def hot(i): return [float(n in sets(i)) for n in names]
def got(ds): return {t: l for s in ds.values() for t,l in zip(s['text_a'][:], s['label'][:])}
def ones(labels): return [[float(n in l) for n in names] for l in labels]

# Reading

def test_every_shape_gives_the_same(tmp_path):
    (tmp_path/'a.jsonl').write_text('\n'.join(map(json.dumps, rows())))
    pd.DataFrame(rows()).to_parquet(tmp_path/'a.parquet')
    semis().to_csv(tmp_path/'a.csv', index=False)
    (tmp_path/'b.csv.gz').write_bytes(gzip.compress(flags().to_csv(index=False).encode()))
    pd.DataFrame(rows()).to_csv(tmp_path/'c.csv', index=False)                     # "['red', 'blue']"
    strings = Features(dict(text=Value('string'), tags=List(Value('string'))))
    coded = Features(dict(text=Value('string'), tags=List(ClassLabel(names=list(names)))))
    codes = [dict(text=r['text'], tags=[names.index(t) for t in r['tags']]) for r in rows()]
    lists = [tmp_path/'a.jsonl', tmp_path/'a.parquet', rows(), pd.DataFrame(rows()), dict(text=[text(i) for i in range(96)], tags=[np.array(sets(i)) for i in range(96)]),
        [(text(i), set(sets(i))) for i in range(96)], Dataset.from_list(rows(), features=strings), Dataset.from_list(codes, features=coded),
        DatasetDict(train=Dataset.from_list(rows(), features=strings))]
    texts = [tmp_path/'a.csv', semis(), tmp_path/'c.csv', semis().replace({'tags': {'': None}})]
    columns = [tmp_path/'b.csv.gz', flags(), flags().astype({c: bool for c in words}), flags().astype({c: float for c in words}).astype(object)]
    want = {text(i): hot(i) for i in range(96)}
    for data in lists:
        task,ds = load_data(data)
        assert (task.kind, task.labels, task.metric, task.num_labels)==('multilabel', names, 'micro_f1', 3) and got(ds)==want
        assert ds['train'].features['label'].feature==Value('float32')
    for data in texts:
        task,ds = load_data(data, kind='multilabel')
        assert task.labels==names and got(ds)==want
    for data in columns:
        task,ds = load_data(data, label='blue, green,red')
        assert (task.labels, task.label, task.text)==(names, 'blue,green,red', ('text',)) and got(ds)==want
    assert load_data(flags(), label=('red', 'blue', 'green'))[0].labels==('red', 'blue', 'green'), 'as they were named'
    assert load_data(Dataset.from_list(codes, features=Features(dict(text=Value('string'), tags=List(ClassLabel(names=[*names, 'zero']))))))[0].labels==(*names, 'zero')

def test_the_reading_says_it():
    said = str(load_data(rows())[1].reading)
    assert 'read as several labels of 3: blue, green, red; 1.5 labels a row; 96 rows' in said and 'metric micro F1' in said
    assert '12 rows without any label' in said and "label 'tags'" in said and 'imbalanced' not in said
    assert "labels separated by ';'" in str(load_data(semis(), kind='multilabel')[1].reading)
    rare = [*rows(60), dict(text='x', tags=['gold']), dict(text='y', tags=['gold', 'grey'])]
    assert "the label 'grey' is in 1 rows (and 1 more with fewer than 10)" in str(load_data(rare)[1].reading)
    assert "'Red' and 'red' differ only in case" in str(load_data([*rows(20), dict(text='x', tags=['Red'])])[1].reading)
    assert '6 duplicates' in str(load_data([*rows(90), *rows(6)])[1].reading)

@pytest.mark.parametrize('sep', [';', ',', '|', ' + ', ' ', '\t'])
def test_separators(sep):
    data = semis()
    data['tags'] = data['tags'].str.replace(';', sep)
    task,ds = load_data(data, kind='multilabel', label_sep='tab' if sep=='\t' else sep)
    assert task.label_sep==sep and task.labels==names and got(ds)=={text(i): hot(i) for i in range(96)}

@given(st.lists(st.lists(st.sampled_from(['a', 'b b', "it's", 'ä', '0', '7', 'x"y']), max_size=4), min_size=12, max_size=30))
def test_lists_and_separated_text_agree(labels):
    labels = [*labels, ['a', 'b b'], ['0', 'a']]
    lists = [dict(text=f'text {i}', tags=l) for i,l in enumerate(labels)]
    joined = [dict(text=f'text {i}', tags=';'.join(l)) for i,l in enumerate(labels)]
    a,b = load_data(lists, kind='multilabel'),load_data(joined, kind='multilabel', label_sep=';')
    assert a[0].labels==b[0].labels and got(a[1])==got(b[1])
    for i,l in enumerate(labels): assert {n for n,x in zip(a[0].labels, got(a[1])[f'text {i}']) if x}==set(l)

def test_numbers_are_names():
    task,ds = load_data([dict(text=f't {i}', tags=[10, 9.0][:i%2+1]) for i in range(40)])
    assert task.labels==('9', '10') and got(ds)['t 1']==[1., 1.] and got(ds)['t 0']==[0., 1.]

bad = dict(text=[f't {i}' for i in range(40)])
@pytest.mark.parametrize('tags,message,kw', [
    (['red', 'blue']*20, "no label holds ',', ';' or '|', so each row has one label only", dict(kind='multilabel')),
    (['red;blue', 'blue']*20, "no label holds the separator ','", dict(kind='multilabel', label_sep=',')),
    (['red;blue', 'a,b']*20, "separated by ',' or ';'", dict(kind='multilabel')),
    (['red;blue', 'blue']*20, "label_sep.*kind='multilabel'", dict(label_sep=';')),
    (['red;blue', 'blue']*20, 'label_sep must be text', dict(kind='multilabel', label_sep='')),
    ([['red'], 'blue']*20, 'mix lists with text', {}),
    ([['red'], ['blue']]*20, 'every row has exactly one label', {}),
    ([['red'], []]*20, "only one class, 'red'", {}), ([[], []]*20, 'no class', dict(kind='multilabel')),
    ([[0, 1, 1], [1, 0, 0]]*20, 'lists of 0 and 1.*called', {}), ([np.array([0., 1.]), np.array([1., 1.])]*20, 'lists of 0 and 1', {}),
    ([['red', 'blue'], ['red', None]]*20, "row 2: expected a list of names in 'tags', got .'red', None", {}),
    ([['red', 'blue'], ['red', .5]]*20, 'row 2: expected a list', {}), ([['red', 'blue'], ['red', ['x']]]*20, 'row 2: expected a list', {}),
    ([['red', 'blue'], ['red', True]]*20, 'row 2: expected a list', {}), ([['red', 'blue'], ['red', '']]*20, 'row 2: expected a list', {}),
    ([["red", "blue"], None]*20, 'row 2: the label is missing', {}), (["['red' 'blue']", "['red']"]*20, 'row 1: expected a list', dict(kind='multilabel')),
    (['red;blue', 'None']*20, "row 2: the label is missing", dict(kind='multilabel')),
    ([[f'k{i}', f'l{i}'] for i in range(40)], '80 different labels in 80', {}),
    ([['red', 'blue'], ['red']]*20, 'not one label', dict(kind='classification')), ([['red', 'blue'], ['red']]*20, 'not one label', dict(kind='regression')),
    ([['red', 'blue'], ['red']]*20, 'class_weights', dict(class_weights='balanced')), ([['red', 'blue'], ['red']]*20, 'nothing separates', dict(label_sep=';')),
    ([['red', 'blue'], ['red']]*20, 'metrics for multilabel', dict(metrics='matthews')), ([['red', 'blue'], ['red']]*20, 'metrics for multilabel', dict(metrics='f1'))])
def test_what_is_unclear_is_refused(tags, message, kw): refuses(message, dict(bad, tags=tags), **kw)

def test_columns_that_do_not_fit():
    refuses("no column 'yellow'", flags(), label='red,yellow')
    refuses("row 4: the column 'red' holds 2, and columns of several labels", flags().assign(red=[0, 1, 0, 2]*24), label='red,blue')
    gaps = flags().assign(red=[0, None, 1, 1]*24)
    refuses('row 2: the label is missing', gaps, label='red,blue')
    assert load_data(gaps, label='red,blue', missing='drop')[1].reading.rows==dict(train=65, dev=7)
    refuses("kind='multilabel', got kind='classification'", flags(), label='red,blue', kind='classification')
    refuses('text and label', flags(), label='red,text', text='text')
    refuses('twice', flags(), label=('red', 'red'))
    refuses('only one class', flags().assign(red=0, blue=0), label='red,blue,green')

def test_other_splits_are_read_as_train_is():
    task,ds = load_data(semis(), dev=semis(10), kind='multilabel')
    assert ds['dev']['label'][:]==[hot(i) for i in range(10)]
    refuses("row 1: unknown label 'gold', the classes of 'own' are blue, green, red", rows(), dev=[dict(text='x', tags=['gold'])])
    hidden = [dict(text='x', tags=None), dict(text='y', tags=None)]
    assert set(load_data(dict(train=rows(), test=hidden))[1])=={'train', 'dev'}
    assert set(load_data(dict(train=flags(), test=flags(9).drop(columns='red')), label='red,blue')[1])=={'train', 'dev'}

def test_held_out_rows_are_drawn_by_chance():
    data = dict(train=load_data(rows(), dev=rows(8))[1]['train'])
    a,b,c = holdout(data),holdout(data),holdout(data, seed=1)
    assert a['validation'].num_rows==10 and a['train'].num_rows==86 and a['validation']['text_a'][:]==b['validation']['text_a'][:]!=c['validation']['text_a'][:]
    assert not set(a['validation']['text_a'][:])&set(a['train']['text_a'][:])

# Tasks, metrics, losses

def test_a_task_is_checked():
    def task(**kw): return Task(**{**dict(name='t', text=('text',), label='tags', labels=names, kind='multilabel'), **kw})
    assert task().metrics==('micro_f1', 'macro_f1', 'accuracy') and task(metrics=('auc',)).metric=='auc'
    for kw,message in ((dict(metrics=('f1',)), 'metrics for multilabel'), (dict(labels=('a',)), 'two classes'), (dict(class_weights=(1, 1, 1)), 'class_weights')):
        with pytest.raises(ValueError, match=message): task(**kw)

def test_metrics_are_those_of_sklearn():
    from sklearn import metrics as sk
    rng = np.random.default_rng(0)
    y,p = rng.integers(0, 2, (50, 4)),rng.normal(size=(50, 4))
    y[:,3] = 0
    task = Task('t', ('text',), labels=tuple('abcd'), kind='multilabel', metrics=('micro_f1', 'macro_f1', 'accuracy', 'auc'))
    want = dict(micro_f1=sk.f1_score(y, p>0, average='micro', zero_division=0), macro_f1=sk.f1_score(y, p>0, average='macro', zero_division=0),
        accuracy=sk.accuracy_score(y, p>0), auc=sk.roc_auc_score(y[:,:3], p[:,:3]))
    assert compute_metrics(task, torch.tensor(p), torch.tensor(y).float())==pytest.approx(want, abs=1e-6)
    assert compute_metrics(task, p*0, y)['accuracy']==float((y==0).all(1).mean()), 'a probability of .5 is no label'
    for y_bad in (y[:,0], y[:,:3]):
        with pytest.raises(ValueError, match='needs labels of shape'): compute_metrics(task, p, y_bad)
    with pytest.raises(ValueError, match=r'shape \(50, 4\)'): compute_metrics(task, p[:,:3], y)

def test_the_loss_is_binary_cross_entropy():
    x,y = torch.randn(5, 3),torch.tensor(np.random.default_rng(0).integers(0, 2, (5, 3))).float()
    torch.testing.assert_close(G(x, y), torch.nn.functional.binary_cross_entropy(x.sigmoid(), y))
    assert are_several(y) and not are_several(y[:,:1]) and not are_several(y[:,0]) and not are_several(y.long()) and not are_several(None)
    for bad in (y+1, y-1, y*.5+1):
        with pytest.raises(ValueError, match='zeros and ones'): G(x, bad)
    for bad in (y[:,:2], y[:4]):
        with pytest.raises(ValueError): G(x, bad)
    with pytest.raises(ValueError, match='class_weights'): G(x, y, torch.ones(3))

def test_a_teacher_of_several_labels():
    a,b,t = torch.randn(6, 3),torch.randn(6, 3),3.
    p,q = (b/t).sigmoid(),(a/t).sigmoid()
    torch.testing.assert_close(distil_logits(a, b, t, several=True), (p*(p/q).log()+(1-p)*((1-p)/(1-q)).log()).mean()*t**2)
    assert distil_logits(b, b, several=True).abs()<1e-6 and distil_logits(a+5, a, several=True)>.1, 'a softmax would not see the shift'
    a = torch.zeros(4, 3, requires_grad=True)
    for _ in range(500): a.data -= 5*torch.autograd.grad(distil_logits(a, b[:4], several=True), a)[0]
    torch.testing.assert_close(a.sigmoid(), b[:4].sigmoid(), atol=1e-2, rtol=0)
    assert torch.isfinite(distil_logits(a*1e4, -b[:4]*1e4, several=True))

def test_cards():
    task = load_data(semis(), kind='multilabel')[0]
    card = card_for(task, 12, 'mean')
    assert from_dict(json.loads(json.dumps(to_dict(card))))==card and task_of(card)==task
    assert (card.classes, card.label_sep, card.n_out)==(names, ';', 3) and 'multilabel into blue, green, red' in in_words(card)
    assert 'label_sep' not in to_dict(card_for(load_data(rows())[0])), 'nothing new in the files of other tasks'

# End to end

quick = dict(recipe='default', max_steps=150, progress=False, batch_size=8, beta=.02, pooling='mean')

@pytest.fixture(scope='module')
def made(folder, tmp_path_factory):
    "Masks of several labels, from lists, separated text and columns; the base beside them"
    root = tmp_path_factory.mktemp('masks')
    shutil.copytree(folder, root/Path(folder).name)
    semis().to_csv(root/'semis.csv', index=False)
    flags().to_csv(root/'flags.csv', index=False)
    def run(name, data, **kw):
        res = adapt_task(name, folder, data=data, seed=1, out=root/name, say=str, **{**quick, **kw})
        res.folder = root/name
        return res
    made = dict(lists=run('lists', rows(), dev=rows(), max_steps=400, max_length=12))
    made['semis'] = run('semis', root/'semis.csv', kind='multilabel', max_steps=20)
    made['flags'] = run('flags', root/'flags.csv', label='red,blue', max_steps=20)
    made['pairs'] = run('pairs', [dict(text_a=r['text'], text_b='d e', labels=r['tags']) for r in rows(40)], max_steps=5)
    made['taught'] = run('taught', rows(), dev=rows(), recipe='distilled', lr=5e-3, teacher_steps=200, max_steps=400)
    return made

@pytest.fixture
def lists(made): return load(made['lists'].folder)

def test_scores_rise_above_chance(made, folder):
    m = made['lists'].report['metrics']
    base = adapt_task('none', folder, data=rows(), dev=rows(), say=str, seed=1, **dict(quick, max_steps=1)).report['metrics']
    assert m['micro_f1']>.9>base['micro_f1'] and m['macro_f1']>.9 and m['accuracy']>.7>base['accuracy']
    assert made['lists'].report['metric']=='micro_f1' and made['lists'].mask.sparsity==pytest.approx(.5, abs=.01)

def test_a_teacher(made):
    r = made['taught'].report
    assert r['teacher_metrics']['micro_f1']>.85 and r['metrics']['micro_f1']>.75

def test_the_teacher_of_a_run_speaks_of_each_label(made, folder, monkeypatch):
    from adaptprune import loop
    real,seen = loop.distil_logits,[]
    def spy(student, teacher, temperature, several): seen.append((tuple(student.shape[1:]), several)); return real(student, teacher, temperature, several)
    monkeypatch.setattr(loop, 'distil_logits', spy)
    how = dict(quick, recipe='distilled', max_steps=2, teacher_steps=1, say=str)
    adapt_task('x', folder, data=rows(), **how)
    assert set(seen)=={((3,), True)}
    seen.clear()
    adapt_task('y', folder, data=[dict(text=text(i), label=str(i%3)) for i in range(40)], **how)
    assert set(seen)=={((3,), False)}

# Files and answers

def test_the_file_says_all(made, lists):
    card = TaskMask.from_pretrained(made['lists'].folder).card
    assert (card.kind, card.labels, card.label, card.text, card.max_length, card.pooling)==('multilabel', names, 'tags', ('text',), 12, 'mean')
    assert not card.unknown and made['lists'].report['metrics']==pytest.approx(lists.evaluate(rows()))
    assert TaskMask.from_pretrained(made['semis'].folder).card.label_sep==';'
    assert TaskMask.from_pretrained(made['flags'].folder).card.label=='red,blue'

def test_predict(made, lists, folder):
    from adaptprune.head import load_tokenizer
    tok = load_tokenizer(folder)
    texts = [text(i) for i in range(32)]
    with torch.no_grad(): want = torch.cat([made['lists'].model(**tok(t, return_tensors='pt')).logits for t in texts]).sigmoid()
    got = lists.predict(texts, batch_size=5)
    for g,p in zip(got, want.tolist(), strict=True):
        assert list(g)==['labels', 'probabilities'] and list(g['probabilities'].values())==pytest.approx(p, abs=1e-5)
        assert g['labels']==[n for n,x in zip(names, p) if x>.5]
    assert {len(g['labels']) for g in got}>={0, 1, 2} and lists.predict(texts[3])['labels']==got[3]['labels']
    torch.testing.assert_close(torch.tensor(lists.predict_proba(texts)), want, atol=1e-5, rtol=0)
    assert 'blue, green, red' in repr(lists)

def test_predict_as_frame_and_gaps(lists):
    table = pd.DataFrame(dict(text=['a b', None, 'd']), index=[5, 7, 9])
    with pytest.warns(EmptyText): df = lists.predict(table, as_frame=True)
    assert list(df)==['labels', *(f'probability_{n}' for n in names)] and list(df.index)==[5, 7, 9] and df['labels'][7] is None and df['probability_red'].isna().tolist()==[False, True, False]
    with pytest.warns(EmptyText): assert lists.predict(['a', ''])[1]==dict(labels=None, probabilities=None)
    assert df['labels'][5]==lists.predict('a b')['labels'] and lists.predict([])==[] and lists.predict_proba([]).shape==(0, 3)

def test_large_logits_stay_finite(lists):
    with torch.no_grad():
        lists.model.head.mlp[-1].bias += torch.tensor([-2e3, 0., 2e3])
    with np.errstate(over='raise', invalid='raise'): p = lists.predict_proba(['a'])
    assert p[0,0]==0 and p[0,2]==1

def test_evaluate(made, lists):
    strings = Features(dict(text=Value('string'), tags=List(Value('string'))))
    want = lists.evaluate(rows())
    for data in (pd.DataFrame(rows()), Dataset.from_list(rows(), features=strings), dict(text=[r['text'] for r in rows()], tags=[r['tags'] for r in rows()])):
        assert lists.evaluate(data)==want
    assert load(made['lists'].folder, label_sep=';').evaluate(semis())==want
    semi = load(made['semis'].folder)
    assert semi.evaluate(semis())==semi.evaluate(rows()), 'lists need no separator'
    assert set(load(made['flags'].folder).evaluate(flags()))=={'micro_f1', 'macro_f1', 'accuracy'}
    for data,message in (([dict(text='a', tags=['gold'])], "unknown label 'gold'"), ([dict(text='a', tags='red')], 'expected a list of names'),
            ([dict(text='a', tags=None)], 'holds no labels'), ([dict(text='a', tags=None), dict(text='b', tags=['red'])], 'row 1: the label is missing'),
            ([dict(text='a', label=['red'])], "no column 'tags'")):
        with pytest.raises(ValueError, match=message): lists.evaluate(data)

def test_pipeline(lists):
    texts = ['a b', 'd', 'c']
    for got,want in zip(lists.pipeline()(texts), lists.predict(texts)):
        assert {g['label']: pytest.approx(g['score'], abs=1e-5) for g in got}==want['probabilities']

def test_multitask(made, lists):
    tasks = MultiTask.from_pretrained({n: made[n].folder for n in ('lists', 'flags')}, made['lists'].folder.parent/Path(made['lists'].report['model']).name)
    texts = [text(i) for i in range(8)]
    got = tasks.predict(texts, ['lists', 'flags']*4)
    for i,g in enumerate(got):
        want = load(made[('lists', 'flags')[i%2]].folder).predict(texts[i])
        assert g['labels']==want['labels'] and list(g['probabilities'].values())==pytest.approx(list(want['probabilities'].values()), abs=1e-5)

def test_onnx_gives_the_same_logits(made, tmp_path, lists):
    ort = pytest.importorskip('onnxruntime'); pytest.importorskip('onnxscript')
    from adaptprune.export import export_onnx
    assert export_onnx(lists.model, tmp_path/'m.onnx')<1e-5
    batch = lists.reader.tokenizer([text(i) for i in range(9)], padding=True, return_tensors='np')
    got = ort.InferenceSession(tmp_path/'m.onnx').run(None, {k: v for k,v in batch.items()})[0]
    assert np.allclose(1/(1+np.exp(-got)), lists.predict_proba([text(i) for i in range(9)]), atol=1e-5) and got.shape==(9, 3)

def test_structured(folder, tmp_path):
    res = adapt_task('s', folder, data=rows(), dev=rows(), say=str, seed=1, out=tmp_path/'s', remove=.5, lr=5e-3, **{**quick, 'recipe': 'structured', 'max_steps': 200, 'teacher_steps': 200})
    assert res.structure and res.report['removed']>.3 and res.report['metrics']['micro_f1']>.8
    p = load(tmp_path/'s', folder)
    assert p.evaluate(rows())==pytest.approx(res.report['metrics'], abs=1e-6)

def test_resume_is_exact(folder, tmp_path, monkeypatch):
    from adaptprune.head import AdaptModel
    def go(**kw): return adapt_task('r', folder, data=rows(), say=str, **dict(quick, max_steps=12), **kw)
    whole = go()
    real,calls = AdaptModel.forward,itertools.count()
    def forward(self, *args, **kwargs):
        if self.training and next(calls)==10: raise RuntimeError('power cut')
        return real(self, *args, **kwargs)
    with monkeypatch.context() as mp:
        mp.setattr(AdaptModel, 'forward', forward)
        with pytest.raises(RuntimeError, match='power cut'): go(out=tmp_path, checkpoint_every=5)
    again = go(out=tmp_path, resume=True)
    assert whole.mask==again.mask and whole.history==again.history
    assert all(torch.equal(a, b) for a,b in zip(whole.model.state_dict().values(), again.model.state_dict().values(), strict=True))

def test_a_task_of_ones_own(folder):
    task = Task('own', ('text',), 'tags', names, kind='multilabel')
    _,ds = fit_data(task, rows(), dev=rows(8))
    assert got(ds)=={text(i): hot(i) for i in range(96)} and fit_data(task, ds)[1] is ds
    with pytest.raises(ValueError, match='leave out label_sep'): fit_data(task, rows(), label_sep=';')
    with pytest.raises(ValueError, match="unknown label 'green'"): fit_data(Task('own', ('text',), 'tags', ('blue', 'red'), kind='multilabel'), rows())
    assert adapt_task(task, folder, data=ds, **dict(quick, max_steps=2)).model.head.mlp[-1].out_features==3

# The command line

def test_commands(command, folder, tmp_path):
    semis().to_csv('train.csv', index=False)
    flags().to_csv('flags.csv', index=False)
    base = '--model', folder, '--recipe', 'default', '--max-steps', 5
    said = json.loads(command('adapt', '--train', 'train.csv', '--kind', 'multilabel', '--label-sep', ';', '--metric', 'macro_f1,auc', *base, '--out', 'm', '--json'))
    assert list(said['metrics'])==['macro_f1', 'auc'] and 'several labels of 3' in said['reading']
    held = json.loads(command('evaluate', 'm', '--train', 'train.csv', '--model', folder, '--json'))['metrics']['dev']
    assert held==pytest.approx(said['metrics'])
    assert set(json.loads(command('evaluate', 'm', '--dev', 'train.csv', '--model', folder, '--json'))['metrics']['dev'])=={'macro_f1', 'auc'}
    assert 'multilabel into blue, green, red' in command('info', 'm')
    command('adapt', '--train', 'flags.csv', '--label', 'red,blue', *base, '--out', 'f')
    assert 'micro_f1' in command('evaluate', 'f', '--dev', 'flags.csv', '--model', folder)
    assert 'read as several labels of 3' in command('adapt', '--train', 'train.csv', '--kind', 'multilabel', *base, '--dry-run')
    assert "no label holds the separator '|'" in command('adapt', '--train', 'train.csv', '--kind', 'multilabel', '--label-sep', '|', *base, '--out', 'x', fails=True)
    semis(3).assign(tags=['gold', 'red', '']).to_csv('gold.csv', index=False)
    assert "unknown label 'gold'" in command('evaluate', 'm', '--dev', 'gold.csv', '--model', folder, fails=True)

def test_apply(command, made, lists):
    table = pd.DataFrame(dict(id=range(8), text=[*map(text, range(7)), '']))
    table.to_csv('in.csv', index=False)
    want = lists.predict([text(i) for i in range(7)])
    for out in ('out.csv', 'out.tsv'):
        command('apply', made['lists'].folder, '--input', 'in.csv', '--out', out)
        got = pd.read_csv(out, sep='\t' if out.endswith('tsv') else ',', keep_default_na=False)
        assert list(got)==['id', 'text', 'labels', *(f'probability_{n}' for n in names)]
        assert got['labels'].tolist()==[*('|'.join(w['labels']) for w in want), ''] and got['probability_red'].tolist()[7]==''
        assert [float(x) for x in got['probability_red'][:7]]==pytest.approx([w['probabilities']['red'] for w in want], abs=1e-6)
    command('apply', made['lists'].folder, '--input', 'in.csv', '--out', 'out.jsonl')
    lines = [json.loads(l) for l in Path('out.jsonl').read_text().splitlines()]
    assert [l['labels'] for l in lines]==[*(w['labels'] for w in want), None]
    command('apply', made['lists'].folder, '--input', 'in.csv', '--out', 'out.parquet')
    assert [None if l is None else list(l) for l in pd.read_parquet('out.parquet')['labels']]==[*(w['labels'] for w in want), None]
    shown = command('apply', made['lists'].folder, '--input', 'in.csv').splitlines()
    for line,w,t in zip(shown, want, table['text']):
        answer = ', '.join(f"{l} {w['probabilities'][l]:.3f}" for l in w['labels']) or '(no label)'
        assert line==f'{answer}  {t}'
    assert shown[-1].startswith('(no answer)')
    one, = json.loads(command('apply', made['lists'].folder, '--first', 'a b', '--json'))
    assert one['labels']==lists.predict('a b')['labels']
    assert 'labels' in json.loads(command('apply', made['pairs'].folder, '--first', 'a', '--second', 'd', '--json'))[0]

def test_a_bar_in_a_name(command, folder):
    Path('a.jsonl').write_text('\n'.join(json.dumps(dict(text=text(i), tags=[['x|y', 'z'], ['z'], ['x|y']][i%3])) for i in range(30)))
    command('adapt', '--train', 'a.jsonl', '--model', folder, '--recipe', 'default', '--max-steps', 2, '--out', 'm')
    assert "'x|y' holds '|'" in command('apply', 'm', '--model', folder, '--first', 'a', '--out', 'o.csv', fails=True)
    command('apply', 'm', '--model', folder, '--first', 'a', '--out', 'o.jsonl')

# A model of one's own, made smaller

own_words = 'good fine bad poor film plot play tone was is the a'.split()
own_texts = [f'{a} {b} {v} {c} {d}' for a in ('the', 'a') for b in own_words[4:8] for v in ('was', 'is') for c in own_words[:4] for d in ('film', 'plot')]
own_sets = [[n for n,on in (('praise', t.split()[3] in ('good', 'fine')), ('film', 'film' in t.split()), ('plot', 'plot' in t.split())) if on] for t in own_texts]
own_names = ('film', 'plot', 'praise')

@pytest.fixture(scope='module')
def own(tmp_path_factory):
    "The folder of a classifier of several labels, by transformers alone"
    import transformers
    vocab = {w: i for i,w in enumerate(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *own_words])}
    tok = transformers.BertTokenizer(vocab=vocab, model_max_length=20)
    torch.manual_seed(0)
    ids = dict(enumerate(own_names))
    model = transformers.BertForSequenceClassification(transformers.BertConfig(hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
        vocab_size=len(vocab), problem_type='multi_label_classification', id2label=ids, label2id={n: i for i,n in ids.items()}))
    target = torch.tensor([[float(n in s) for n in own_names] for s in own_sets])
    batch = dict(tok(own_texts, padding=True, return_tensors='pt'), labels=target)
    opt = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(80):
        model(**batch).loss.backward()
        opt.step()
        opt.zero_grad()
    home = tmp_path_factory.mktemp('own')
    model.save_pretrained(home/'model')
    tok.save_pretrained(home/'model')
    return home/'model'

small = dict(steps=60, progress=False, n_scored=4, formats='none', memory=False)

@pytest.mark.parametrize('labels', [None, own_sets, [';'.join(s) for s in own_sets]])
def test_compress(own, tmp_path, labels):
    from adaptprune.compression import compress
    from adaptprune.folder import load_compact
    r = compress(own, own_texts, tmp_path/'out', remove=.4, labels=labels, **small)
    whole,compact = r.report['stages']
    assert r.report['metric']==('agreement' if labels is None else 'micro_f1') and whole['agreement']==1 and compact['agreement']>.8
    if labels: assert whole['micro_f1']>.95 and compact['micro_f1']>.8
    assert load_compact(tmp_path/'out').config.problem_type=='multi_label_classification'
    assert 'fraction of all labels' in (tmp_path/'out/README.md').read_text()

def test_compress_refuses_labels_that_the_model_does_not_know(own, tmp_path):
    from adaptprune.compression import compress
    for bad,message in (([*own_sets[:-1], ['gold']], "'gold' is none of the model's classes"), ([*own_sets[:-1], None], 'example 128 are missing'), (['film']*128, 'one label only')):
        with pytest.raises(ValueError, match=message): compress(own, own_texts, tmp_path/'out', remove=.4, labels=bad, **small)
        assert not (tmp_path/'out').exists()

def test_the_losses_of_a_model_of_ones_own(own):
    from adaptprune.subject import adapt_loss, coded_labels, compare, load_subject, unit_loss
    s = load_subject(own)
    assert s.several and coded_labels(s, own_sets)==[[float(n in x) for n in own_names] for x in own_sets]
    batch = dict(s.tokenizer(own_texts[:16], padding=True, return_tensors='pt'))
    y = torch.tensor(coded_labels(s, own_sets)[:16])
    x = s.model(**batch).logits
    torch.testing.assert_close(unit_loss(s, True)(s.model, dict(batch, labels=y)), G(x, y))
    assert 0<unit_loss(s)(s.model, batch)<1 and adapt_loss(s)(s.model, batch).abs()<1e-6
    assert compare(s, x, x, y.tolist())['agreement']==1
