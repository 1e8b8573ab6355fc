"The room `tasks`: readers and their faults, the nine layouts of GLUE, your own files, metrics, batches"
import json, os, warnings
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, pytest, torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from hypothesis import given, settings, strategies as st
from scipy import stats
from adaptprune import tasks
from adaptprune.tasks import *

def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path

@pytest.fixture(autouse=True)
def no_env(monkeypatch): monkeypatch.delenv('GLUE_DIR', raising=False)

# --- names and tasks

@pytest.mark.parametrize('name', ['sst2', 'SST-2', 'sst-2', 'SST2', ' sst_2'])
def test_spellings(name): assert get_task(name) is GLUE['sst2']

def test_mini_names():
    assert get_task('Mini Sentiment') is MINI['mini-sentiment']
    assert get_task(MINI['mini-inference']).labels==('entailment', 'neutral', 'contradiction')

def test_unknown_name():
    with pytest.raises(ValueError, match='sst3') as e: get_task('sst3')
    for n in (*GLUE, *MINI): assert n in str(e.value)

def test_official_metrics():
    assert {n: t.metrics for n,t in GLUE.items()}==dict(cola=('matthews',), sst2=('accuracy',), mrpc=('accuracy', 'f1'), qqp=('accuracy', 'f1'),
        stsb=('spearman', 'pearson'), mnli=('accuracy',), qnli=('accuracy',), rte=('accuracy',), wnli=('accuracy',))
    assert {n: t.num_labels for n,t in GLUE.items()}==dict(cola=2, sst2=2, mrpc=2, qqp=2, stsb=1, mnli=3, qnli=2, rte=2, wnli=2)

@pytest.mark.parametrize('kw,message', [(dict(kind='ranking'), 'kind must be'), (dict(text='sentence'), 'as a tuple'), (dict(text=()), 'one or two'),
    (dict(labels=('only',)), 'two classes or more'), (dict(metrics=('bleu',)), 'bleu'), (dict(metrics=()), 'one or more metrics')])
def test_task_is_checked(kw, message):
    with pytest.raises(ValueError, match=message): Task(**(dict(name='mine', text=('a',), labels=('x', 'y')) | kw))

# --- metrics

@given(st.integers(2, 60), st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_metrics_against_the_formulas(n, seed):
    rng = np.random.default_rng(seed)
    z,y = rng.normal(size=(n, 2)),rng.integers(0, 2, n)
    p = z.argmax(1)
    tp,fp,fn,tn = [int(((p==a)&(y==b)).sum()) for a,b in ((1, 1), (1, 0), (0, 1), (0, 0))]
    got = compute_metrics('mrpc', torch.tensor(z), torch.tensor(y))
    assert list(got)==['accuracy', 'f1']
    assert got['accuracy']==pytest.approx((tp+tn)/n)
    assert got['f1']==pytest.approx(2*tp/(2*tp+fp+fn) if tp else 0)
    d = float((tp+fp)*(tp+fn)*(tn+fp)*(tn+fn))**.5
    assert compute_metrics('cola', z, y)['matthews']==pytest.approx((tp*tn-fp*fn)/d if d else 0)
    s,t = rng.normal(size=n),rng.integers(0, 6, n)
    if n>2 and len(set(t))>1:
        got = compute_metrics('stsb', s[:,None], t)
        assert list(got)==['spearman', 'pearson']
        assert got['pearson']==pytest.approx(np.corrcoef(s, t)[0,1])
        assert got['spearman']==pytest.approx(np.corrcoef(stats.rankdata(s), stats.rankdata(t))[0,1])

@pytest.mark.parametrize('task', [*GLUE, *MINI])
def test_a_constant_prediction_is_quiet(task):
    t,y = get_task(task),[0, 1, 1, 0, 1]
    p = np.tile([.1, .2, .3][:t.num_labels], (5, 1))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        m = compute_metrics(t, p, y)
        for c in range(t.num_labels): compute_metrics(t, p, [c]*5)
    assert all(isinstance(v, float) and np.isfinite(v) for v in m.values())
    if t.metric in ('matthews', 'spearman'): assert set(m.values())=={0.}

def test_f1_without_positives_is_zero():
    assert compute_metrics('mrpc', [[1, 0]]*3, [0]*3)==dict(accuracy=1., f1=0.)

def test_metrics_take_bf16_and_lists():
    assert compute_metrics('rte', torch.tensor([[0, 1], [1, 0]], dtype=torch.bfloat16, requires_grad=True), [1, 0])=={'accuracy': 1.}

@pytest.mark.parametrize('task,p,y,message', [('rte', [], [], 'one or more'), ('mnli', [[0, 1]], [0], r'shape \(1, 3\)'), ('stsb', [[0, 1]], [0], r'shape \(1,\)'),
    ('rte', [[0, 1], [1, 0]], [0], r'shape \(1, 2\)'), ('stsb', [0, np.nan], [0, 1], 'diverged')])
def test_metrics_refuse(task, p, y, message):
    with pytest.raises(ValueError, match=message): compute_metrics(task, p, y)

# --- the reader

def test_quotes_bom_crlf(tmp_path):
    f = write(tmp_path/'dev.tsv', '\ufeffsentence\tlabel\r\n" a lone quote\t1\r\nhe said "no"\t0\r\n\r\nline\u2028separator \x85 in\rside\t1\r\n')
    assert read_rows(f, ['label', 'sentence'])==[(2, ['1', '" a lone quote']), (3, ['0', 'he said "no"']), (5, ['1', 'line\u2028separator \x85 in\rside'])]

def test_csv_has_quotes(tmp_path):
    f = write(tmp_path/'a.csv', 'sentence,label\n"one, ""two""\nthree",1\nplain,0\n')
    assert read_rows(f, ['sentence', 'label'])==[(3, ['one, "two"\nthree', '1']), (4, ['plain', '0'])]

@pytest.mark.parametrize('text,message', [('sentence\tlabel\na\t1\nb\n', r'dev.tsv, line 3: 1 fields found, 2 expected'),
    ('sentence\tlabel\na\tb\t1\n', r'line 2: 3 fields found, 2 expected'), ('sentence\tscore\na\t1\n', r"no column 'label'; it has 'sentence', 'score'"),
    ('', 'is the file empty'), ('sentence\tlabel\n', 'dev.tsv holds no rows'), (b'sentence\tlabel\n\xff\xfe\t1\n', 'dev.tsv is not UTF-8')])
def test_reader_faults(tmp_path, text, message):
    with pytest.raises(ValueError, match=message): read_rows(write(tmp_path/'dev.tsv', text), ['sentence', 'label'])

def test_unclosed_quote(tmp_path):
    with pytest.raises(ValueError, match='a.csv, line 3'): read_rows(write(tmp_path/'a.csv', 'sentence,label\n"open,1\nb,0\n'), ['sentence'])

def test_skip_bad_rows(tmp_path):
    f = write(tmp_path/'dev.tsv', 'sentence\tlabel\na\t1\nb\nc\t0\nd\t1\t2\n')
    with pytest.warns(UserWarning, match='left out 2 of 4 rows'): assert [n for n,_ in read_rows(f, ['sentence'], skip_bad_rows=True)]==[2, 4]

@pytest.mark.parametrize('task,label,message', [('rte', 'maybe', "line 2: unknown label 'maybe'"), ('rte', '2', "unknown label '2'"), ('rte', ' ', 'label is missing'),
    ('stsb', 'high', "'high' is not a number"), ('stsb', 'nan', "'nan' is not a number")])
def test_bad_labels(task, label, message):
    with pytest.raises(ValueError, match=message): to_dataset(get_task(task), [(2, ['a', 'b', label])], 'train.tsv')

# --- GLUE in a folder

mnli_train = 'index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse sentence1 sentence2 label1 gold_label'.split()
mnli_dev = mnli_train[:10] + [f'label{i}' for i in range(1, 6)] + ['gold_label']
def two(a, b, label, first, second):
    return [{a: 'A b.', label: first} | ({b: 'C'} if b else {}), {a: '" B', label: second} | ({b: 'D'} if b else {})]

layouts = dict(  # folder, header of train, of dev where it differs, the wanted columns of two rows, the labels expected
    cola=('CoLA', 'source label mark sentence', None, two('sentence', None, 'label', '0', '1'), [0, 1]),
    sst2=('SST-2', 'sentence label', None, two('sentence', None, 'label', '1', '0'), [1, 0]),
    mrpc=('MRPC', 'Quality,#1 ID,#2 ID,#1 String,#2 String', None, two('#1 String', '#2 String', 'Quality', '1', '0'), [1, 0]),
    qqp=('QQP', 'id qid1 qid2 question1 question2 is_duplicate', None, two('question1', 'question2', 'is_duplicate', '1', '0'), [1, 0]),
    stsb=('STS-B', 'index genre filename year old_index source1 source2 sentence1 sentence2 score', None,
        two('sentence1', 'sentence2', 'score', '2.500', '5'), [2.5, 5.]),
    mnli=('MNLI', ' '.join(mnli_train), ' '.join(mnli_dev), two('sentence1', 'sentence2', 'gold_label', 'contradiction', 'entailment'), [2, 0]),
    qnli=('QNLI', 'index question sentence label', None, two('question', 'sentence', 'label', 'not_entailment', 'entailment'), [1, 0]),
    rte=('RTE', 'index sentence1 sentence2 label', None, two('sentence1', 'sentence2', 'label', 'not_entailment', 'entailment'), [1, 0]),
    wnli=('WNLI', 'index sentence1 sentence2 label', None, two('sentence1', 'sentence2', 'label', '1', '0'), [1, 0]))

def make_glue(root, task, folder=None):
    name,train,dev,rows,_ = layouts[task]
    for split,header in (('train', train), ('dev_matched' if task=='mnli' else 'dev', dev or train)) + ((('dev_mismatched', dev),) if task=='mnli' else ()):
        cols = header.split(',' if ',' in header else None)
        lines = [[r.get(c, '-') for c in cols] for r in rows]
        write(root/(folder or name)/f'{split}.tsv', ''.join('\t'.join(l)+'\n' for l in ([] if task=='cola' else [cols])+lines))
    return root

@pytest.mark.parametrize('task', list(GLUE))
def test_layout(tmp_path, monkeypatch, task):
    ds = load_task(task, glue_dir=make_glue(tmp_path, task))
    assert list(ds)==['train', 'dev', *(['dev_mismatched'] if task=='mnli' else [])]
    t = get_task(task)
    for d in ds.values():
        assert d.column_names==['text_a', 'text_b'][:len(t.text)]+['label']
        assert d['label'][:]==layouts[task][-1] and d['text_a'][:]==['A b.', '" B']
        if len(t.text)==2: assert d['text_b'][:]==['C', 'D']
        assert d.features['label']==(ClassLabel(names=list(t.labels)) if t.labels else Value('float32'))
    monkeypatch.setenv('GLUE_DIR', str(tmp_path))
    assert load_task(task)['train'].to_dict()==ds['train'].to_dict()

@pytest.mark.parametrize('folder', ['SST-2', 'sst2', 'sst-2', 'SST2'])
def test_folder_spellings(tmp_path, folder): assert load_task('sst2', glue_dir=make_glue(tmp_path, 'sst2', folder))['dev'].num_rows==2

def test_argument_beats_environment(tmp_path, monkeypatch):
    monkeypatch.setenv('GLUE_DIR', str(tmp_path/'elsewhere'))
    assert load_task('rte', glue_dir=make_glue(tmp_path/'here', 'rte'))['train'].num_rows==2
    with pytest.raises(FileNotFoundError, match='elsewhere'): load_task('rte')

def test_missing_pieces(tmp_path):
    make_glue(tmp_path, 'sst2')
    with pytest.raises(FileNotFoundError, match="no folder for 'rte'.*it has SST-2"): load_task('rte', glue_dir=tmp_path)
    (tmp_path/'SST-2'/'dev.tsv').unlink()
    with pytest.raises(FileNotFoundError, match='SST-2/dev.tsv'): load_task('sst2', glue_dir=tmp_path)
    with pytest.raises(ValueError, match='needs glue_dir'): load_task('sst2', source='folder')
    with pytest.raises(ValueError, match='source must be'): load_task('sst2', source='moon')

def test_mnli_without_mismatched(tmp_path):
    (make_glue(tmp_path, 'mnli')/'MNLI'/'dev_mismatched.tsv').unlink()
    assert list(load_task('mnli', glue_dir=tmp_path))==['train', 'dev']

def test_short_qqp_rows(tmp_path):
    f = make_glue(tmp_path, 'qqp')/'QQP'/'train.tsv'
    f.write_text(f.read_text()+'7\t8\t9\thalf a row\n')
    with pytest.raises(ValueError, match='train.tsv, line 4: 4 fields found, 6 expected'): load_task('qqp', glue_dir=tmp_path)
    with pytest.warns(UserWarning, match='left out 1 of 3'): assert load_task('qqp', glue_dir=tmp_path, skip_bad_rows=True)['train'].num_rows==2

def test_the_test_split_is_never_opened(tmp_path):
    write(make_glue(tmp_path, 'rte')/'RTE'/'test.tsv', 'broken')
    assert 'test' not in load_task('rte', glue_dir=tmp_path)

# --- GLUE on the Hub

def hub(task):
    "What `load_dataset('nyu-mll/glue', task)` returns: its columns, features and splits, with made-up rows"
    t = GLUE[task]
    label = ClassLabel(names=list(t.labels)) if t.labels else Value('float32')
    feats = Features({**{c: Value('string') for c in t.text}, 'label': label, 'idx': Value('int32')})
    def d(labels): return Dataset.from_dict({**{c: ['A b.', '" B'] for c in t.text}, 'label': labels, 'idx': [0, 1]}, features=feats)
    known = d([1, 0])
    dev = {'validation_matched': known, 'validation_mismatched': known, 'test_matched': d([-1, -1])} if task=='mnli' else {'validation': known, 'test': d([-1, -1])}
    return DatasetDict(train=known, **dev)

@pytest.mark.parametrize('task', list(GLUE))
def test_hub(monkeypatch, tmp_path, task):
    asked = []
    monkeypatch.setattr(tasks, 'load_dataset', lambda *a: asked.append(a) or hub(a[1]))
    ds = load_task(task)
    assert asked==[('nyu-mll/glue', task)]
    assert list(ds)==['train', 'dev', *(['dev_mismatched'] if task=='mnli' else [])]
    folder = load_task(task, glue_dir=make_glue(tmp_path, task))
    for s in ds: assert ds[s].features==folder[s].features and ds[s]['label'][:]==[1, 0]
    assert load_task(task, glue_dir=tmp_path, source='hub')['train'].to_dict()==ds['train'].to_dict()

def test_hub_with_other_classes(monkeypatch):
    monkeypatch.setattr(tasks, 'load_dataset', lambda *a: hub('wnli'))
    with pytest.raises(ValueError, match="classes for 'rte'"): load_task('rte')

def test_no_network(tmp_path):
    import subprocess, sys
    code = "from adaptprune.tasks import load_task\ntry: load_task('sst2')\nexcept ConnectionError as e: print(e)"
    env = {**os.environ, 'HF_HUB_OFFLINE': '1', 'HF_HOME': str(tmp_path)}
    out = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True, cwd=Path(__file__).parents[1]).stdout
    for part in ("Cannot get 'sst2' from the Hub", '--glue-dir FOLDER', 'GLUE_DIR', 'mini-sentiment'): assert part in out

# --- files of one's own

rows = [dict(q=f'question {i}', a=f'answer {i}', y=('no', 'yes', 'unsure')[i%3]) for i in range(30)]

def save(path, rows):
    if path.suffix=='.jsonl': return write(path, '\n'.join(map(json.dumps, rows)))
    if path.suffix=='.parquet': pq.write_table(pa.Table.from_pylist(rows), path); return path
    sep = ',' if path.suffix=='.csv' else '\t'
    return write(path, '\n'.join(sep.join('' if v is None else str(v) for v in r) for r in [list(rows[0]), *(r.values() for r in rows)])+'\n')

formats = pytest.mark.parametrize('ext', ['csv', 'tsv', 'jsonl', 'parquet'])

@formats
def test_files(tmp_path, ext):
    task,ds = load_files(save(tmp_path/f'mine.{ext}', rows), save(tmp_path/f'dev.{ext}', rows[:7]), text=('q', 'a'), label='y')
    assert task==Task('mine', ('q', 'a'), 'y', ('no', 'unsure', 'yes'))
    assert ds['train']['label'][:4]==[0, 2, 1, 0] and ds['dev'].num_rows==7
    assert ds['train'][0]==dict(text_a='question 0', text_b='answer 0', label=0)

@formats
def test_files_whole_numbers_and_scores(tmp_path, ext):
    f = save(tmp_path/f'a.{ext}', [dict(text=f't {i}', label=(10, 2)[i%2]) for i in range(20)])
    task,ds = load_files(f)
    assert task.labels==('2', '10') and {s: d.num_rows for s,d in ds.items()}=={'train': 18, 'dev': 2}
    assert load_files(f, kind='regression')[1]['train']['label'][:2]==[10., 2.]
    task,ds = load_files(save(tmp_path/f'b.{ext}', [dict(text=f't {i}', label=i/4) for i in range(20)]))
    assert (task.kind, task.metric, task.num_labels)==('regression', 'spearman', 1)
    assert ds['dev'].features['label']==Value('float32')

@formats
def test_files_faults(tmp_path, ext):
    def bad(message, rows, **kw):
        with pytest.raises(ValueError, match=message): load_files(save(tmp_path/f'bad.{ext}', rows), **(dict(text='q', label='y') | kw))
    word = 'row 3' if ext=='parquet' else 'line 3' if ext=='jsonl' else 'line 4'
    bad("no column 'x'; it has 'q', 'a', 'y'", rows, text='x')
    bad(f'{word}: the label is missing', rows[:2]+[dict(q='b', a='c', y=None)]+rows[3:])
    bad('only one class', [r for r in rows if r['y']=='no'])
    bad("'no' is not a number", rows, kind='regression')
    bad('holds no labels', [r | dict(y='') for r in rows[:3]])
    bad('needs one or two text columns', rows, text=('q', 'a', 'q'))
    dev = save(tmp_path/f'dev.{ext}', rows[:3])
    bad(rf"dev.{ext}, {word}: unknown label 'unsure'", [r for r in rows if r['y']!='unsure'], dev=dev)

def test_files_empty_and_unknown(tmp_path):
    pq.write_table(pa.table({'text': pa.array([], pa.string()), 'label': pa.array([], pa.string())}), tmp_path/'a.parquet')
    for f in (write(tmp_path/'a.csv', 'text,label\n'), write(tmp_path/'a.jsonl', '\n'), tmp_path/'a.parquet'):
        with pytest.raises(ValueError, match='holds no rows'): load_files(f)
    with pytest.raises(ValueError, match='is the file empty'): load_files(write(tmp_path/'b.csv', ''))
    with pytest.raises(ValueError, match="unknown extension '.xlsx', use one of .csv, .tsv, .jsonl, .parquet"): load_files(tmp_path/'a.xlsx')
    with pytest.raises(FileNotFoundError, match='c.csv'): load_files(tmp_path/'c.csv')
    with pytest.raises(ValueError, match='line 2: not JSON'): load_files(write(tmp_path/'c.jsonl', '{"text": "a", "label": "b"}\n{oops'))
    with pytest.raises(ValueError, match='line 1: expected one JSON object'): load_files(write(tmp_path/'d.jsonl', '[1, 2]'))
    with pytest.raises(ValueError, match='line 1: the text is missing'): load_files(write(tmp_path/'e.jsonl', '{"text": null, "label": 1}\n{"text": "a", "label": 2}'))
    with pytest.raises(ValueError, match='none to hold out'): load_files(write(tmp_path/'f.csv', 'text,label\na,0\nb,1\n'))

def test_files_numbers_that_are_names(tmp_path):
    "A class that train lacks is not taken for an index"
    train = save(tmp_path/'a.csv', [dict(text='t', label=i%2+1) for i in range(10)])
    with pytest.raises(ValueError, match="unknown label '0'"): load_files(train, save(tmp_path/'b.csv', [dict(text='t', label=0)]))

def test_a_loaded_own_task_is_not_looked_up(tmp_path):
    task,_ = load_files(save(tmp_path/'a.csv', rows), text='q', label='y')
    with pytest.raises(ValueError, match='load_files'): load_task(task)

# --- holding out

@given(st.lists(st.integers(0, 4), min_size=20, max_size=300), st.sampled_from([.1, .2, .5]), st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_holdout(y, share, seed):
    y = np.unique(y, return_inverse=True)[1].tolist()
    feats = Features(text_a=Value('string'), label=ClassLabel(num_classes=max(y)+1))
    ds = DatasetDict(train=Dataset.from_dict(dict(text_a=[str(i) for i in range(len(y))], label=y), features=feats))
    h = holdout(ds, share, seed)
    a,b = h['train']['text_a'][:],h['validation']['text_a'][:]
    assert sorted(a+b, key=int)==ds['train']['text_a'][:] and b
    n,m = (np.bincount(h[s]['label'], minlength=max(y)+1) for s in ('train', 'validation'))
    assert (n>0).all() and (abs(m-share*(n+m))<=1+1e-9).all()
    assert holdout(ds, share, seed)['validation']['text_a'][:]==b

@pytest.mark.parametrize('seed', range(4))
def test_holdout_leaves_a_single_row_to_train(seed):
    ds = to_dataset(get_task('sst2'), [(i, [str(i), '0' if i else '1']) for i in range(20)], 'train.tsv')
    h = holdout(DatasetDict(train=ds), .5, seed)
    assert sum(h['train']['label'])==1 and len(h['validation']) in (9, 10)

def test_holdout_spreads_scores_and_keeps_dev():
    ds = load_task('mini-similarity')
    h = holdout(ds)
    assert list(h)==['train', 'dev', 'validation'] and h['dev'].num_rows==ds['dev'].num_rows
    assert stats.ks_2samp(h['train']['label'], h['validation']['label']).statistic<.05

@pytest.mark.parametrize('share', [0, -.1, .6, 1])
def test_holdout_share(share):
    with pytest.raises(ValueError, match='share'): holdout(load_task('mini-sentiment'), share)

# --- batches

lengths = st.lists(st.integers(1, 128), min_size=1, max_size=400)
samplers = given(lengths, st.integers(1, 40), st.integers(1, 8), st.integers(0, 1000), st.integers(0, 5))
def n_padding(s, n): return sum(max(n[i] for i in b)*len(b) for b in s)-sum(n)

@samplers
@settings(deadline=None, max_examples=60)
def test_every_row_once(n, bs, pool, seed, epoch):
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    for shuffle in (True, False):
        s = BucketBatchSampler(n, bs, pool, seed, shuffle)
        s.set_epoch(epoch)
        batches = list(s)
        assert sorted(i for b in batches for i in b)==list(range(len(n)))
        assert len(s)==len(batches) and all(len(b)==bs for b in batches[:-1])
        assert all(type(i) is int for b in batches for i in b)
        again = BucketBatchSampler(n, bs, pool, seed, shuffle)
        again.set_epoch(epoch)
        assert batches==list(again)==list(s)
    assert torch.equal(state[0], torch.get_rng_state()) and (state[1]==np.random.get_state()[1]).all()

@samplers
@settings(deadline=None, max_examples=60)
def test_padding_is_never_worse_than_shuffling(n, bs, pool, seed, epoch):
    a,b = BucketBatchSampler(n, bs, pool, seed),BucketBatchSampler(n, bs, 1, seed)
    for s in (a, b): s.set_epoch(epoch)
    assert n_padding(a, n)<=n_padding(b, n)

def test_buckets_save_most_of_the_padding():
    n = np.random.default_rng(0).integers(1, 128, 5_000)
    assert n_padding(BucketBatchSampler(n, 16), n) < .1*n_padding(BucketBatchSampler(n, 16, 1), n)

def test_lengths_come_in_no_order():
    n = np.arange(800)
    widths = [n[b].max() for b in BucketBatchSampler(n, 16)]
    assert abs(stats.spearmanr(widths, range(len(widths)))[0])<.5

def test_order_changes_with_seed_and_epoch():
    n = np.arange(200)%37+1
    def order(seed, epoch):
        s = BucketBatchSampler(n, 8, seed=seed)
        s.set_epoch(epoch)
        return list(s)
    assert len({str(order(s, e)) for s in range(3) for e in range(3)})==9

@pytest.mark.parametrize('kw', [dict(batch_size=0), dict(batch_size=-1), dict(batch_size=1.5), dict(batch_size=True), dict(pool=0)])
def test_sampler_refuses(kw):
    with pytest.raises(ValueError, match='whole number of 1 or more'): BucketBatchSampler([1, 2], **kw)

def test_sampler_refuses_nothing():
    with pytest.raises(ValueError, match='no rows'): BucketBatchSampler([])

@pytest.mark.parametrize('n', [64, 61, 5])
@pytest.mark.parametrize('split', [False, True])
def test_accelerate_shards(n, split):
    from accelerate.data_loader import BatchSamplerShard
    s = BucketBatchSampler(np.arange(n)%9+1, 8)
    shards = [list(BatchSamplerShard(s, 2, i, split_batches=split)) for i in range(2)]
    assert len(shards[0])==len(shards[1])
    assert {i for sh in shards for b in sh for i in b}==set(range(n))
    assert all(len(b)==(4 if split else 8) for sh in shards for b in sh)
    exact = [list(BatchSamplerShard(s, 2, i, split_batches=split, even_batches=False)) for i in range(2)]
    assert sorted(i for sh in exact for b in sh for i in b)==list(range(n))

@pytest.fixture(scope='module')
def tok():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast
    t = Tokenizer(models.WordLevel(unk_token='[UNK]'))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    ds = load_task('mini-inference')['train']
    t.train_from_iterator([*ds['text_a'], *ds['text_b']], trainers.WordLevelTrainer(special_tokens=['[PAD]', '[UNK]', '[CLS]', '[SEP]']))
    t.post_processor = processors.TemplateProcessing(single='[CLS] $A [SEP]', pair='[CLS] $A [SEP] $B:1 [SEP]:1', special_tokens=[('[CLS]', 2), ('[SEP]', 3)])
    return PreTrainedTokenizerFast(tokenizer_object=t, pad_token='[PAD]', unk_token='[UNK]', cls_token='[CLS]', sep_token='[SEP]', model_max_length=512)

@pytest.fixture(scope='module')
def decoder_tok():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast
    t = Tokenizer(models.BPE())
    t.pre_tokenizer,t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False),decoders.ByteLevel()
    t.train_from_iterator(load_task('mini-inference')['train']['text_a'][:100],
        trainers.BpeTrainer(vocab_size=400, special_tokens=['<|endoftext|>'], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=t, eos_token='<|endoftext|>')

def test_batches(tok):
    ds = load_task('mini-inference')
    loaders = make_loaders(ds, tok, batch_size=10, eval_batch_size=50)
    assert list(loaders)==['train', 'dev']
    for split,bs in (('train', 10), ('dev', 50)):
        got,n = [],0
        for b in loaders[split]:
            width = b['attention_mask'].sum(1)
            assert b['input_ids'].shape==b['attention_mask'].shape and len(b['labels'])<=bs
            assert width.max()==b['input_ids'].shape[1] and b['labels'].dtype==torch.long
            assert (b['input_ids'][b['attention_mask']==0]==tok.pad_token_id).all()
            got += [(tok.decode(i, skip_special_tokens=True), y) for i,y in zip(b['input_ids'], b['labels'].tolist())]
            n += 1
        assert n==len(loaders[split])
        rows = ds[split].to_dict()
        want = [(tok.decode(tok(a, b)['input_ids'], skip_special_tokens=True), y) for a,b,y in zip(rows['text_a'], rows['text_b'], rows['label'])]
        assert sorted(got)==sorted(want)
    widths = [b['input_ids'].shape[1] for b in loaders['dev']]
    assert widths==sorted(widths, reverse=True)

def test_single_sentences_scores_and_truncation(tok):
    b = next(iter(make_loaders(load_task('mini-similarity'), tok, max_length=12)['train']))
    assert b['labels'].dtype==torch.float32 and b['input_ids'].shape[1]<=12
    assert ((b['input_ids']==3).sum(1)==2).all()
    b = next(iter(make_loaders(load_task('mini-sentiment'), tok)['train']))
    assert ((b['input_ids']==3).sum(1)==1).all()

def test_tokenised_dataset(tok):
    ds = load_task('mini-inference')['train']
    ds = ds.select([i%len(ds) for i in range(2100)])
    td = TokenisedDataset(ds, tok)
    assert len(td)==2100 and td.lengths.tolist()==[len(td[i]['input_ids']) for i in range(2100)]
    assert td[2050]==td.__getitems__([3, 2050])[1] and td[2050]['label']==ds[2050]['label']
    assert td[7]['input_ids']==tok(ds[7]['text_a'], ds[7]['text_b'])['input_ids']

def test_model_max_length_wins(tok):
    from copy import deepcopy
    short = deepcopy(tok)
    short.model_max_length = 9
    assert TokenisedDataset(load_task('mini-inference')['dev'], short).lengths.max()==9

def test_decoders(decoder_tok):
    ds = load_task('mini-inference')
    b = next(iter(make_loaders(ds, decoder_tok)['dev']))
    assert decoder_tok.pad_token is None
    assert (b['input_ids'][b['attention_mask']==0]==decoder_tok.eos_token_id).all()
    assert all(decoder_tok.decode(i[m.bool()]).count('\n')==1 for i,m in zip(b['input_ids'], b['attention_mask']))
    b = next(iter(make_loaders(load_task('mini-sentiment'), decoder_tok)['dev']))
    assert not any('\n' in decoder_tok.decode(i) for i in b['input_ids'])

def test_no_padding_at_all(decoder_tok):
    from copy import deepcopy
    t = deepcopy(decoder_tok)
    t.eos_token = None
    with pytest.raises(ValueError, match='set tokenizer.pad_token'): with_padding(t)

@pytest.mark.parametrize('kw,message', [(dict(batch_size=0), 'batch_size'), (dict(eval_batch_size=0), 'eval_batch_size'), (dict(max_length=0), 'max_length')])
def test_loaders_refuse(tok, kw, message):
    with pytest.raises(ValueError, match=message): make_loaders(load_task('mini-sentiment'), tok, **kw)

def test_loaders_refuse_empty_splits(tok):
    ds = load_task('mini-sentiment')
    with pytest.raises(ValueError, match="split 'dev' holds no rows"): make_loaders({'train': ds['train'], 'dev': ds['dev'].filter(lambda r: False)}, tok)

def test_loaders_are_deterministic_and_leave_the_global_rng_alone(tok):
    ds = load_task('mini-sentiment')
    def labels(seed, epoch, **kw):
        l = make_loaders(ds, tok, seed=seed, **kw)['train']
        l.batch_sampler.set_epoch(epoch)
        return torch.cat([b['labels'] for b in l]).tolist()
    state = torch.get_rng_state()
    assert labels(0, 1)==labels(0, 1)!=labels(1, 1)
    assert torch.equal(state, torch.get_rng_state())
    assert labels(0, 1)==labels(0, 1, num_workers=1)

def test_accelerate_sets_the_epoch(tok):
    from accelerate import Accelerator
    ds = load_task('mini-sentiment')
    plain = make_loaders(ds, tok)['train']
    loader = Accelerator(cpu=True).prepare(make_loaders(ds, tok)['train'])
    for epoch in (0, 3):
        plain.batch_sampler.set_epoch(epoch)
        loader.set_epoch(epoch)
        assert [b['labels'].tolist() for b in plain]==[b['labels'].tolist() for b in loader]

def test_accelerate_reaches_a_wrapped_sampler(tok):
    from accelerate.data_loader import prepare_data_loader
    loader = prepare_data_loader(make_loaders(load_task('mini-sentiment'), tok)['train'], num_processes=2, process_index=1)
    loader.set_epoch(5)
    assert loader.batch_sampler.batch_sampler.epoch==5

# --- the mini tasks

def sentences(d): return {t for c in d.column_names if c!='label' for t in d[c]}

@pytest.mark.parametrize('name', list(MINI))
def test_mini(name):
    ds = load_task(name, glue_dir='ignored')
    assert ds['train'].num_rows>=400 and ds['dev'].num_rows>=120
    assert not sentences(ds['train']) & sentences(ds['dev'])
    assert all(t==t.strip() and t for d in ds.values() for t in sentences(d))
    for d in ds.values():
        assert len({tuple(r.values()) for r in d})==d.num_rows
        if name=='mini-similarity':
            y = np.array(d['label'])
            share = np.histogram(y, bins=5, range=(0, 5))[0]/len(y)
            assert 0<=y.min() and y.max()<=5 and share.min()>.1 and share.max()<.35, share
        else: assert np.ptp(np.bincount(d['label'])/d.num_rows)<=.02

@pytest.mark.parametrize('name,limit', [('mini-sentiment', .70), ('mini-inference', .45), ('mini-similarity', .25)])
def test_mini_needs_more_than_words(name, limit):
    "A bag of words stays weak, so that a good score needs the pre-trained network"
    from scipy.sparse import hstack
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    ds,task = load_task(name),get_task(name)
    bow = CountVectorizer().fit(sorted(sentences(ds['train'])))
    def x(d): return hstack([bow.transform(d[c]) for c in d.column_names if c!='label'])
    m = (Ridge() if task.kind=='regression' else LogisticRegression(max_iter=1000)).fit(x(ds['train']), ds['train']['label'])
    out = m.predict(x(ds['dev'])) if task.kind=='regression' else m.predict_proba(x(ds['dev']))
    got = compute_metrics(task, out, ds['dev']['label'])[task.metric]
    assert got<limit

# --- the real thing

counts = dict(sst2=(67_349, 872), stsb=(5_749, 1_500), mnli=(54_437, 9_815), rte=(2_490, 277), mrpc=(3_668, 408), cola=(8_551, 1_043))

@pytest.mark.glue
@pytest.mark.parametrize('task', list(counts))
def test_real_glue(task, glue_dir):
    ds = load_task(task, glue_dir=glue_dir)
    train,dev = counts[task]
    assert ds['dev'].num_rows==dev
    assert ds['train'].num_rows==train or task=='mnli' and ds['train'].num_rows==392_702
    if task=='sst2': assert sum(ds['dev']['label'])==444
    if task=='stsb': assert np.mean(ds['dev']['label'])==pytest.approx(2.36, abs=.005)
