"Tables by chance with what people's tables hold, and hostile files: a right reading, or one clear error of the package's own"
import csv,datetime,decimal,gzip,io,json,os,subprocess,sys
import numpy as np,pandas as pd,pytest
from adaptprune.tables import open_table
from adaptprune.tasks import load_data

def put(path, data, encoding='utf-8'):
    path.write_bytes(data if isinstance(data, bytes) else data.encode(encoding))
    return path

# --- what a table may hold, and how it is to be read

class Case:
    "A column of labels: what it is read as in a file (texts) and in memory (values); an error where that is a word"
    def __init__(self, values, kind, shown=str, file=None): self.values,self.kind,self.shown,self.file = values,kind,shown,file or kind

def cases(rng, n):
    "Name -> labels by chance, with the reading that they should have"
    def pick(xs): return [*xs, *(xs[i] for i in rng.integers(0, len(xs), n-len(xs)))]
    k = int(rng.integers(2, 6))
    days = [datetime.date(2020, 1, 1+i) for i in range(k)]
    def whole(v): return str(int(v))
    return dict(
        float_classes=Case(pick([float(i) for i in range(k)]), 'classification', whole),
        negative=Case(pick([-1, 0, 1]), 'classification', whole),
        booleans=Case(pick([True, False]), 'classification'),
        dates=Case(pick(days), 'classification'),
        many_dates=Case([datetime.date(2000, 1, 1)+datetime.timedelta(days=i) for i in range(n)], 'different labels'),
        unicode=Case(pick(['öl', 'Öl!', '日本', '😀 ja', 'a,b;c|d', 'say "x"'][:k]), 'classification'),
        scores=Case([float(np.float32(x)) for x in rng.normal(size=n)*10.**rng.integers(-8, 9)], 'regression'),
        decimals=Case([decimal.Decimal(i)/8 for i in range(n)], 'regression'),
        prices=Case([int(x) for x in rng.permutation(10*n)[:n]], 'whole numbers'),
        constant=Case(['same']*n, 'only one class'),
        mixed=Case(pick(['low', 1.5, 'high']), 'mix numbers'),
        truths=Case(pick([True, 0, 1]), 'mix truth values'),
        endless=Case(pick([1., 2., float('inf')]), "mix numbers with 'inf'"),
        sentences=Case([f'sentence {i}' for i in range(n)], 'different labels'),
        lists=Case(pick([['x'], ['x', 'y'], ['y']]), 'multilabel', file='not one label'),
        nested=Case(pick([[['x']], [['y']]]), 'expected a list of names', file='not one label'),
        dicts=Case(pick([{'a': 1}, {'a': 2}]), 'not one label', file='classification'))

names = ['text', 'Kommentar é', '本文', 'a b', 'x.y', 'a"b', '=A1']
letters = list('abcdef ,;"\'\n|äß😀=+-@\\{}[]')

def texts_by_chance(rng, n):
    "Different texts, some of them huge, some that a spreadsheet would take for a formula or a number"
    def one(i): return f'{i} '+''.join(rng.choice(letters, rng.integers(1, 25)))+' .'
    texts = [one(i) for i in range(n)]
    texts[:5] = ['=CMD()', '1,5', 'NaN.', "a\tb", 'x'*200_000]
    return texts

def saved(df, form, path):
    "A table in one of the forms"
    if form=='frame': return df
    if form=='jsonl': return put(path/'a.jsonl', '\n'.join(json.dumps(r, default=str) for r in df.to_dict('records')))
    if form=='parquet': df.to_parquet(path/'a.parquet')
    else: df.to_csv(path/f'a.{form}', index=False, sep=',' if form=='csv' else '\t')
    return path/f'a.{form}'

def can_write(df, form, path):
    try: return saved(df, form, path)
    except Exception: pytest.skip('no such file can be written')        # Parquet has one type a column

@pytest.mark.parametrize('form', ['csv', 'tsv', 'jsonl', 'parquet', 'frame'])
@pytest.mark.parametrize('name', list(cases(np.random.default_rng(0), 40)))
def test_tables_are_read_rightly_or_refused(tmp_path, name, form):
    seed = list(cases(np.random.default_rng(0), 40)).index(name)*5+len(form)
    rng = np.random.default_rng(seed)
    n = int(rng.integers(40, 90))
    case,texts,column = cases(rng, n)[name], texts_by_chance(rng, n), names[seed%len(names)]
    gap = int(rng.integers(5, n)) if seed%3==0 and name not in ('constant', 'lists', 'nested', 'dicts') else None
    values = [None if i==gap else v for i,v in enumerate(case.values)]
    data = can_write(pd.DataFrame({'id': range(n), column: texts, 'mark': pd.Series(values, dtype=object if name in ('truths', 'mixed', 'negative', 'booleans') else None)}),
        form, tmp_path)
    want = case.kind if form in ('jsonl', 'parquet', 'frame') else case.file
    how = dict(text=(column,), label='mark', missing=None if gap is None else 'drop')
    if want not in ('classification', 'regression', 'multilabel'):
        with pytest.raises(ValueError, match=want): load_data(data, **how)
        return
    if gap is not None:
        with pytest.raises(ValueError, match='the label is missing'): load_data(data, **dict(how, missing=None))
    task,ds = load_data(data, **how)
    got = {t: v for part in ds.values() for t,v in zip(part['text_a'][:], part['label'][:])}
    truth = {t: v for i,(t,v) in enumerate(zip(texts, case.values)) if i!=gap}
    assert task.kind==want and got.keys()==truth.keys()
    if want=='regression': assert all(got[t]==pytest.approx(float(v), rel=1e-6) for t,v in truth.items())
    elif want=='multilabel': assert all({task.labels[i] for i,x in enumerate(got[t]) if x}==set(v) for t,v in truth.items())
    else: assert all(task.labels[got[t]]==case.shown(v) for t,v in truth.items()) and set(task.labels)==set(map(case.shown, truth.values()))
    assert f'{len(truth):,} rows' in str(ds.reading)

@pytest.mark.parametrize('rows', [[('a', 'x')], [('a', 'x'), ('b', 'y')], [('a', .5)], []])
def test_too_few_rows(rows):
    with pytest.raises(ValueError, match='only one|leaves none|no rows'): load_data(rows)

# --- what was read silently wrong, or with an error that nobody understands

T = [f'text {i}' for i in range(40)]

def refuses(message, data, **how):
    with pytest.raises(ValueError, match=message or None) as e: load_data(data, **how)
    assert len(str(e.value))<1000
    return str(e.value)

@pytest.mark.parametrize('name', ['a.jsonl', 'a.json'])
def test_a_json_object_with_a_key_twice(tmp_path, name):
    "JSON takes the last one without a word"
    lines = ['{"text": "a %d", "text": "b %d", "label": %d}'%(i, i, i%2) for i in range(40)]
    refuses("the key 'text' twice", put(tmp_path/name, '\n'.join(lines) if name=='a.jsonl' else f"[{','.join(lines)}]"))

def test_columns_that_differ_only_in_capitals():
    data = dict(Text=T, text=T[::-1], label=['a', 'b']*20)
    refuses("the columns 'Text' and 'text'", data)
    assert load_data(data, text='Text')[1]['train']['text_a'][0]=='text 0'
    refuses("the columns 'Label' and 'label'", dict(text=T, Label=['a', 'b']*20, label=['c', 'd']*20))
    assert load_data(dict(text=T, ID=T, id=T, label=['a', 'b']*20))[0].label=='label'

def test_columns_that_are_numbers():
    "as a DataFrame without a header has them"
    task,ds = load_data(pd.DataFrame({0: T, 1: ['a', 'b']*20}), text=0, label=1)
    assert (task.text, task.label)==(('0',), '1') and ds['train']['text_a'][0]=='text 0'

@pytest.mark.parametrize('value', [1e39, -1e300])
def test_scores_beyond_float32(value):
    "which would be infinite, and the loss with them"
    refuses('row 3: the label .* is beyond', dict(text=T, label=[.5, 1.5, value, 2.5]*10), kind='regression')

@pytest.mark.parametrize('words', [['1', '+1', '-1'], ['0', '-0', '1'], ['1000', '1e3', '2'], ['01', '1', '02']])
def test_classes_that_are_one_number_are_said(words):
    task,ds = load_data(dict(text=T, label=[words[i%3] for i in range(40)]))
    assert set(task.labels)==set(words) and 'are the same number' in str(ds.reading)
    assert 'same number' not in str(load_data(dict(text=T, label=['1', '2']*20))[1].reading)

def test_the_order_of_classes_is_the_same_in_each_process():
    "A set's order is another one in each"
    code = "from adaptprune.tables import infer_labels; print(infer_labels(['1', '+1', '01', '-1', '1e0', '1.00']*9)[1])"
    def run(seed): return subprocess.run([sys.executable, '-c', code], env=dict(os.environ, PYTHONHASHSEED=str(seed)), capture_output=True, text=True, check=True).stdout
    assert run(1)==run(2)

def test_half_a_character(tmp_path):
    message = refuses('row 1: the text .* half a character', dict(text=['\ud800 x', *T[1:]], label=['a', 'b']*20))
    assert 'replace' in message
    refuses('half a character', put(tmp_path/'a.jsonl', '\n'.join(json.dumps(dict(text='\udcff '+t, label=i%2)) for i,t in enumerate(T))))

def test_lines_of_an_old_mac(tmp_path):
    for sep,name in ((',', 'a.csv'), ('\t', 'a.tsv')):
        rows = open_table(put(tmp_path/name, '\r'.join([f'text{sep}label', *(f'{t}{sep}{i%2}' for i,t in enumerate(T))]))).rows(['text', 'label'])
        assert [v[0] for _,v in rows]==T

def test_a_message_is_never_a_file(tmp_path):
    "A hundred thousand keys, or one endless name of a column"
    refuses('and 99,988 more: say which', put(tmp_path/'a.json', json.dumps({str(i): dict(text='a', label=1) for i in range(100_000)})))
    refuses('has the columns', put(tmp_path/'b.csv', 'x'*10**6+',b,c\n1,2,3\n'))

# --- hostile files

hostile = {
    'NULs': b'text,label\na\0b,1\n'+b'\0'*500, 'NULs only': b'\0'*1000, 'two encodings': 'text,label\nschön,1\n'.encode()+'schön,0\n'.encode('latin-1'),
    'half a UTF-16': 'text,label\nab,1\n'.encode('utf-16')[:-1], 'an open quote': b'text,label\n"a,1\n'+b'b,0\n'*50, 'a quote that closes late': b'text,label\n"a,1\nb,0\nc",1\n'+b'd,0,"\n',
    'ragged': b'text,label\na,1\nb,0,7\n', 'short': b'text,label\na,1\nb\n', 'two headers': b'text,text,label\na,b,1\n', 'a web page': b'<html>\n<p>404</p>\n</html>\n', 'an archive': b'PK\x03\x04'+bytes(range(256)),
    'a picture': b'\x89PNG\r\n\x1a\n'+bytes(range(256)), 'gzip': gzip.compress(b'text,label\na,1\n')}

@pytest.mark.parametrize('name', list(hostile))
@pytest.mark.parametrize('end', ['csv', 'tsv', 'txt'])
def test_hostile_text_files(tmp_path, name, end):
    message = refuses('', put(tmp_path/f'a.{end}', hostile[name]))
    assert f'a.{end}' in message and '\0' not in message

@pytest.mark.parametrize('end', ['\n', '\r\n'])
@pytest.mark.parametrize('bom', ['', '\ufeff', '\ufeff\ufeff'])
def test_formulas_marks_and_line_ends(tmp_path, bom, end):
    "All of it is text, and none of it is changed"
    texts = ['=CMD()', "=cmd|' /C calc'!A0", '@SUM(A1)', '+1', '-1', '"', '""', 'a\nb', "'", '\\', '%s', '{}', '../../x', '<script>', 'a\x0bb', 'a\u2028b', 'a\x85b', 'a\x1cb']
    out = io.StringIO(newline='')
    csv.writer(out, lineterminator=end).writerows([('text', 'label'), *((t, i%2) for i,t in enumerate(texts))])
    path = put(tmp_path/'a.csv', bom+out.getvalue())
    assert [v[0] for _,v in open_table(path).rows(['text'])]==texts

def test_a_line_of_a_hundred_million_letters(tmp_path):
    "In a process of its own: what it holds at most is a few times the file"
    path = tmp_path/'a.csv'
    with open(path, 'w') as f:
        f.write('text,label\n')
        for i in range(40): f.write(f'short {i},{i%2}\n')
        for _ in range(100): f.write('word '*200_000)
        f.write(',1\n')
    code = f"""import resource
from adaptprune.tables import open_table
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = open_table({str(path)!r}).rows(['text', 'label'])
print(len(rows), len(rows[-1][1][0]), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before)/1024)"""
    n,length,grown = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.split()
    assert (int(n), int(length))==(41, 10**8) and float(grown)<1000
