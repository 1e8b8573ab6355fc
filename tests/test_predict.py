"The predictor, MultiTask.predict and the commands that use them, on tiny models: each defect of users.md as it was reported"
import io, json, pickle, sys, threading, warnings
from dataclasses import replace
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from datasets import Dataset
from adaptprune import cli
from adaptprune.artifact import TaskMask
from adaptprune.multitask import MultiTask
from adaptprune.predict import CutText, EmptyText, Predictor, load
from adaptprune.task import adapt_task
from adaptprune.tasks import Task, load_files

names = ('bad', 'good', 'neutral')
quick = dict(recipe='default', max_steps=60, progress=False, batch_size=8, beta=.02, pooling='mean')

def rows(n=60): return [dict(text=f'{"abc"[i%3]} {"defg"[i%4]} {"hij"[i//4%3]}'+' d'*(i%5), y=names[i%3]) for i in range(n)]
def pairs(n=40): return [dict(one=f'{"ab"[i%2]} {"cde"[i%3]}', two=f'{"ab"[i//2%2]} f', same=str(i%2==i//2%2)) for i in range(n)]
def prices(n=60): return [dict(words=f'{"abcde"[i%5]} {"fgh"[i%3]}', price=i%5+.5) for i in range(n)]
def csv(path, table): pd.DataFrame(table).to_csv(path, index=False); return path

@pytest.fixture(scope='module')
def made(folder, tmp_path_factory):
    "Masks of own files: three classes, pairs, a regression, one of the package's tasks; the base beside them"
    import shutil
    root = tmp_path_factory.mktemp('masks')
    shutil.copytree(folder, root/Path(folder).name)
    def mask(name, table, text, label, **kwargs):
        task,data = load_files(csv(root/f'{name}.csv', table), text=text, label=label)
        res = adapt_task(task, folder, data=data, seed=1, **{**quick, **kwargs})
        TaskMask.from_adapted(res).save_pretrained(root/name)
        return res
    made = dict(s3=mask('s3', rows(), 'text', 'y', max_length=12), pair=mask('pair', pairs(), ('one', 'two'), 'same'),
        price=mask('price', prices(), 'words', 'price'))
    made['mini'] = adapt_task('mini-sentiment', folder, **quick)
    TaskMask.from_adapted(made['mini']).save_pretrained(root/'mini')
    for name,res in made.items(): res.folder = root/name
    return made

@pytest.fixture
def s3(made): return load(made['s3'].folder)

def by_hand(res, folder, texts):
    "Logits of each text alone"
    from adaptprune.head import load_tokenizer
    tok = load_tokenizer(folder)
    with torch.no_grad(): return torch.cat([res.model(**tok(t, return_tensors='pt', truncation=True, max_length=12)).logits for t in texts])

texts = [r['text'] for r in rows(31)]

# Answers

def test_labels_with_all_probabilities(made, s3, folder):
    want = by_hand(made['s3'], folder, texts).softmax(1)
    got = s3.predict(texts, batch_size=4)
    for p,g in zip(want.tolist(), got, strict=True):
        assert g['label']==names[int(np.argmax(p))] and g['probability']==max(g['probabilities'].values())
        assert list(g['probabilities'])==list(names) and list(g['probabilities'].values())==pytest.approx(p, abs=1e-5)
    assert len({g['label'] for g in got})>1

def test_every_shape_of_texts(s3):
    want = s3.predict(texts)
    table = dict(id=list(range(31)), text=texts, y=['?']*31)
    for data in (tuple(texts), iter(texts), pd.Series(texts), np.array(texts), table, pd.DataFrame(table), Dataset.from_dict(table),
            [dict(text=t) for t in texts], [[t] for t in texts], pd.DataFrame(dict(text_a=texts))):
        got = s3.predict(data)
        assert [g['label'] for g in got]==[w['label'] for w in want] and got[3]['probability']==pytest.approx(want[3]['probability'], abs=1e-6)
    one = s3.predict(texts[0])
    assert one['label']==want[0]['label'] and one['probability']==pytest.approx(want[0]['probability'], abs=1e-6)
    assert s3.predict([])==[] and s3.predict_proba([]).shape==(0, 3) and s3.predict(dict(text=[]))==[]

def test_pairs(made):
    p = load(made['pair'].folder)
    table = pd.DataFrame(pairs(10))
    want = p.predict(table)
    assert p.predict(list(zip(table['one'], table['two'])))==want and p.predict(('a c', 'a f'))['label']==want[0]['label']
    swapped = p.predict_proba([(b, a) for a,b in zip(table['one'], table['two'])])
    assert not np.allclose(swapped, p.predict_proba(table)), 'the order of the texts counts'
    for bad in ('a', ['a c'], [('a', 'b', 'c')], [('a',)]):
        with pytest.raises(ValueError, match='takes two texts'): p.predict(bad)

def test_a_single_task_takes_no_pairs(s3):
    with pytest.raises(ValueError, match="Row 1 holds two texts, and the task 's3' takes one text"): s3.predict(['a', ('a', 'b')])

def test_scores(made):
    p = load(made['price'].folder)
    got = p.predict([r['words'] for r in prices(10)])
    assert all(type(v) is float for v in got) and len(set(got))>5 and type(p.predict('a f')) is float
    with pytest.warns(EmptyText): frame = p.predict(['a f', ''], as_frame=True)
    assert list(frame)==['score'] and frame['score'].isna().tolist()==[False, True]
    with pytest.raises(ValueError, match='use `predict`'): p.predict_proba('a')

def test_as_a_table(s3):
    table = pd.DataFrame(dict(text=texts[:4])).set_index(pd.Index([9, 3, 7, 5]))
    got = s3.predict(table, as_frame=True)
    assert list(got)==['label', 'probability', *(f'probability_{n}' for n in names)] and list(got.index)==[9, 3, 7, 5]
    assert got['label'].tolist()==[g['label'] for g in s3.predict(texts[:4])] and list(s3.predict(table['text'], as_frame=True).index)==[9, 3, 7, 5]
    assert np.allclose(got.iloc[:, 2:].sum(axis=1), 1) and list(table.join(got)['text'])==texts[:4]

def test_an_empty_cell_stops_nothing(s3):
    holes = [texts[0], '', None, float('nan'), pd.NA, ' \n', texts[1]]
    with pytest.warns(EmptyText, match='5 of 7 rows hold no text') as said: got = s3.predict(holes)
    assert len(said)==1 and [g['label'] for g in got[1:6]]==[None]*5
    assert [got[0]['label'], got[6]['label']]==[g['label'] for g in s3.predict(texts[:2])]
    with pytest.warns(EmptyText): assert s3.predict('')==dict(label=None, probability=None, probabilities=None)
    with pytest.warns(EmptyText): assert np.isnan(s3.predict_proba(holes)).all(1).tolist()==[False, *[True]*5, False]
    with pytest.warns(EmptyText): assert s3.predict(holes, as_frame=True)['label'].tolist()[1:6]==[None]*5
    with pytest.warns(EmptyText): assert s3.predict(['', None])[0]['label'] is None

@pytest.mark.parametrize('data, words', [
    ([texts[0], 7], 'Row 1 holds 7'), ([b'a'], 'Row 0'), (dict(words=texts), "no column 'text'; it has 'words'"), (dict(text='a'), 'is one text'),
    (pd.DataFrame([['a', 'b']], columns=['text', 'text']), "Two columns are named 'text'")])
def test_what_is_no_text(s3, data, words):
    with pytest.raises(ValueError, match=words): s3.predict(data)

def test_long_texts_are_cut_and_said_to_be(s3):
    "Defect 4: the length is that of the file, 12 tokens"
    long = 'a d h'+' e'*30
    with pytest.warns(CutText, match='1 of 2 texts were cut: the model reads 12 tokens'): got = s3.predict([long, 'a'])
    assert got[0]['probabilities']==pytest.approx(s3.predict('a d h'+' e'*7)['probabilities'], abs=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        s3.predict('a d h'+' e'*7)

@pytest.mark.parametrize('size', [0, -1, 2.5, True])
def test_batch_sizes(s3, size):
    with pytest.raises(ValueError, match='batch_size must be'): s3.predict(texts, batch_size=size)

def test_portions_and_order(s3, monkeypatch):
    monkeypatch.setattr('adaptprune.predict.portion', 2)
    want = s3.predict_proba(texts)
    for size in (1, 3, 64): assert np.allclose(s3.predict_proba(texts, batch_size=size), want, atol=1e-6)

def test_outputs_that_are_not_finite(s3):
    with torch.no_grad(): s3.model.head.mlp[-1].bias.fill_(float('inf'))
    with pytest.raises(FloatingPointError, match='not finite'): s3.predict('a')

def test_a_progress_bar_when_asked(s3, capsys, monkeypatch):
    s3.predict(texts)
    s3.predict(texts, progress=True)
    assert capsys.readouterr().err=='', 'a log hears of what takes half a minute'
    monkeypatch.setattr('adaptprune.timing._seldom', dict(mininterval=0))
    s3.predict(texts, progress=True)
    said = capsys.readouterr().err
    assert '\r' not in said and said.count('texts')==said.count('\n')>0

def test_unknown_kinds_are_refused(s3):
    with pytest.raises(ValueError, match="'answers'"): Predictor(s3.model, s3.reader.tokenizer, replace(s3.card, kind='answers'))

# Measured

def test_evaluate_gives_the_metrics_of_the_run(made, s3):
    "Defects 3 and 4: the classes, the length and the metrics of the file"
    from adaptprune.tasks import load_files
    data = load_files(made['s3'].folder.parent/'s3.csv', text='text', label='y')[1]['dev']
    assert s3.evaluate(data)==made['s3'].report['metrics']
    plain = [dict(text=d['text_a'], y=names[d['label']]) for d in data]
    for same in (plain, pd.DataFrame(plain), Dataset.from_list(plain)): assert s3.evaluate(same)==made['s3'].report['metrics']

def test_evaluate_on_other_classes(s3):
    hits = [g['label']==r['y'] for g,r in zip(s3.predict(texts), rows(31))]
    part = [r for r in rows(31) if r['y']!='good']
    assert s3.evaluate(rows(31))['accuracy']==pytest.approx(np.mean(hits))
    assert s3.evaluate(part)['accuracy']==pytest.approx(np.mean([h for h,r in zip(hits, rows(31)) if r['y']!='good'])), 'a subset'
    with pytest.raises(ValueError, match="unknown label 'Good', the classes of 's3' are bad, good, neutral"):
        s3.evaluate([dict(r, y=r['y'].replace('good', 'Good')) for r in rows(9)])
    with pytest.raises(ValueError, match="no label column 'y'"): s3.evaluate([dict(text='a')])

def test_a_regression_is_measured(made):
    p = load(made['price'].folder)
    got = p.evaluate(prices(30))
    assert list(got)==['spearman', 'pearson']
    from scipy.stats import pearsonr
    assert got['pearson']==pytest.approx(pearsonr(p.predict([r['words'] for r in prices(30)]), [r['price'] for r in prices(30)])[0], abs=1e-5)

def test_an_old_file_of_own_data_asks_for_its_classes(made, tmp_path):
    tm = TaskMask.from_pretrained(made['s3'].folder)
    for k in ('card', 'labels'): del tm.info[k]
    folder = tm.save_pretrained(tmp_path/'old')
    model = made['s3'].folder.parent/Path(made['s3'].report['model']).name
    p = load(folder, model)
    assert p.predict('a')['label'] in '012' and p.reader.max_length==40 and not p.card.text     # 128, and the model has 40 positions
    with pytest.raises(ValueError, match='what its 3 classes are called'): p.evaluate(rows(9))
    told = load(folder, model, labels=names, text=('text',), label='y', max_length=12)
    assert told.evaluate(rows(31))==load(made['s3'].folder).evaluate(rows(31))
    with pytest.raises(ValueError, match='names 2 classes'): load(folder, model, labels=('a', 'b'))

# Other ways to use it

def test_threads(s3):
    "Eight threads, texts of other lengths each, and the same answers as one after another"
    parts = [[t+' e'*k for t in texts] for k in range(8)]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        want = [s3.predict_proba(p, batch_size=5) for p in parts]
        got,wrong = {},[]
        def work(k):
            try:
                for _ in range(5): got.setdefault(k, []).append(s3.predict_proba(parts[k], batch_size=5))
            except Exception as e: wrong.append(e)
        threads = [threading.Thread(target=work, args=[k]) for k in range(8)]
        for t in threads: t.start()
        for t in threads: t.join()
    assert not wrong and all(np.array_equal(g, want[k]) for k in range(8) for g in got[k]) and len(got)==8

def test_pickled(made, s3):
    for name in ('s3', 'pair', 'price'):
        p = load(made[name].folder)
        table = pd.DataFrame(dict(s3=rows, pair=pairs, price=prices)[name](12))
        want = p.predict(table)
        again = pickle.loads(pickle.dumps(p))
        assert again.predict(table)==want==p.predict(table) and pickle.loads(pickle.dumps(again)).predict(table)==want

def test_moved(s3):
    assert s3.to('cpu') is s3 and s3.device.type=='cpu' and 'bad, good, neutral; on cpu' in repr(s3)
    assert str(load_on_meta(s3))=='meta'

def load_on_meta(p): return pickle.loads(pickle.dumps(p)).to('meta').device

def test_an_encoder_wants_its_tokenizer(made, folder):
    from adaptprune.head import load_encoder, load_tokenizer
    with pytest.raises(ValueError, match='tokenizer='): load(made['s3'].folder, load_encoder(folder))
    p = load(made['s3'].folder, load_encoder(folder), tokenizer=load_tokenizer(folder))
    assert p.predict(texts)==load(made['s3'].folder).predict(texts)

@pytest.mark.parametrize('name', ['s3', 'price'])
def test_a_pipeline_answers_alike(made, name, capfd):
    p = load(made[name].folder)
    given = [*texts[:5], 'a'+' e'*30]
    pipe = p.pipeline()
    assert 'not supported' not in capfd.readouterr().err
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        want,got = p.predict(given),pipe(given)
    if name=='price': assert [g['score'] for g in got]==pytest.approx(want, abs=1e-5)
    else:
        assert [g['label'] for g in got]==[w['label'] for w in want]
        assert [g['score'] for g in got]==pytest.approx([w['probability'] for w in want], abs=1e-5)
        every = pipe(given[:1], top_k=None)[0]
        assert {g['label']: g['score'] for g in every}==pytest.approx(want[0]['probabilities'], abs=1e-5)
        assert [g['label'] for g in pipe(given, batch_size=4)]==[w['label'] for w in want]
    assert not hasattr(p.model, 'device') and p.model.config.id2label!=pipe.model.config.id2label or name=='price'
    assert p.predict(texts[:5])==p.predict(texts[:5])

def test_a_pipeline_on_pairs(made):
    p = load(made['pair'].folder)
    got = p.pipeline()([dict(text='a c', text_pair='a f'), dict(text='b d', text_pair='a f')])
    assert [g['score'] for g in got]==pytest.approx([w['probability'] for w in p.predict([('a c', 'a f'), ('b d', 'a f')])], abs=1e-5)

def same(a, b):
    if isinstance(a, dict): return a['label']==b['label'] and a['probabilities']==pytest.approx(b['probabilities'], abs=1e-6)
    return a==pytest.approx(b, abs=1e-6)

def test_many_tasks_answer_as_each_alone(made):
    folders = {n: r.folder for n,r in made.items()}
    alone = {n: load(f) for n,f in folders.items()}
    with MultiTask.from_pretrained(folders) as many:
        assert all(map(same, many.predict(texts, 's3'), alone['s3'].predict(texts)))
        assert same(many.predict('a f', 'price'), alone['price'].predict('a f')) and many.task=='dense'
        mixed = [('s3', 'a d'), ('pair', ('a c', 'b f')), ('price', 'a g'), ('mini', 'b'), ('s3', 'c e e')]*3
        got = many.predict([t for _,t in mixed], [n for n,_ in mixed])
        assert all(same(g, alone[n].predict([t])[0]) for g,(n,t) in zip(got, mixed, strict=True))
        table = pd.DataFrame(dict(text=texts[:4], words=texts[4:8]))
        got = many.predict(table, ['s3', 'price', 'price', 's3'])
        assert same(got[0], alone['s3'].predict(texts[0])) and same(got[2], alone['price'].predict(texts[6]))
        with many.use('s3'): assert same(many.predict(texts[0]), alone['s3'].predict(texts[0]))
        with pytest.raises(ValueError, match='2 tasks for 3 rows'): many.predict(['a', 'b', 'c'], ['s3', 's3'])
        with pytest.raises(ValueError, match="'dense' has no task card"): many.predict('a')
        with pytest.raises(ValueError, match="No task 'sst2'"): many.predict(['a', 'b'], ['s3', 'sst2'])
        with pytest.raises(ValueError, match='takes one text'): many.predict([('a', 'b')], ['s3'])

def test_many_tasks_on_a_module(made, folder):
    from adaptprune.head import load_encoder, load_tokenizer
    enc = load_encoder(folder)
    with MultiTask(enc, dict(s3=made['s3'].folder)) as many: assert same(many.predict('a', 's3'), load(made['s3'].folder).predict('a'))
    enc.name_or_path = ''
    enc.config._name_or_path = ''
    with MultiTask(enc, dict(s3=made['s3'].folder)) as many:
        with pytest.raises(ValueError, match='set `tokenizer`'): many.predict('a', 's3')
        many.tokenizer = load_tokenizer(folder)
        assert same(many.predict('a', 's3'), load(made['s3'].folder).predict('a'))

def test_a_compact_task(tmp_path, folder):
    task,data = load_files(csv(tmp_path/'s3.csv', rows()), text='text', label='y')
    how = dict(max_steps=4, remove=.3, progress=False, max_length=12)
    res = adapt_task(task, folder, data=data, **how)
    p = load(TaskMask.from_adapted(res).save_pretrained(tmp_path/'m'), folder)
    want = by_hand(res, folder, texts).softmax(1)
    assert np.allclose(p.predict_proba(texts), want.numpy(), atol=1e-5) and pickle.loads(pickle.dumps(p)).predict('a')==p.predict('a')
    assert [g['label'] for g in p.pipeline()(texts)]==[g['label'] for g in p.predict(texts)]

@pytest.fixture(scope='module')
def decoder(tiny, tmp_path_factory):
    "A tiny GPT-2 whose tokenizer has no separators and no padding"
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    path = tmp_path_factory.mktemp('decoder')
    words = ['<end>', '?', *'abcdefghij', *('\n'+w for w in 'abcdefghij')]
    tok = Tokenizer(models.WordLevel({w: i for i,w in enumerate(words)}, unk_token='?'))
    tok.pre_tokenizer = pre_tokenizers.Split(Regex(' '), 'removed')
    PreTrainedTokenizerFast(tokenizer_object=tok, eos_token='<end>', unk_token='?').save_pretrained(path)
    tiny('GPT2').save_pretrained(path)
    return str(path)

def test_a_decoder_without_separators(decoder, tmp_path):
    "Pairs are read as in training, padding is not seen, and a pipeline, which could not do the same, is refused"
    task,data = load_files(csv(tmp_path/'pair.csv', pairs()), text=('one', 'two'), label='same')
    res = adapt_task(task, decoder, data=data, recipe='default', max_steps=20, progress=False, beta=.02)
    p = load(TaskMask.from_adapted(res).save_pretrained(tmp_path/'m'), decoder)
    assert p.card.pooling=='last' and p.evaluate(data['dev'])==res.report['metrics']
    given = [('a c', 'b f'), ('b', 'a'), ('a c d e', 'b f g h')]
    from adaptprune.head import load_tokenizer
    tok = load_tokenizer(decoder)
    with torch.no_grad(): want = torch.cat([res.model(**tok(a, '\n'+b, return_tensors='pt')).logits for a,b in given]).softmax(1)
    assert np.allclose(p.predict_proba(given), want.numpy(), atol=1e-5)
    assert [np.allclose(p.predict_proba([g]), w, atol=1e-5) for g,w in zip(given, want.numpy())]==[True]*3
    with pytest.raises(ValueError, match='a pipeline would answer'): p.pipeline()

def test_a_loop_of_ones_own(folder, tmp_path):
    "After `adapt`, which knows no task, the card is given by hand"
    from adaptprune.loop import adapt
    from adaptprune.setup import set_up
    from adaptprune.taskcard import card_for
    task,data = load_files(csv(tmp_path/'s3.csv', rows()), text='text', label='y')
    s = set_up(task, folder, data=data, max_length=12)
    res = adapt(s.model, s.loaders['train'], recipe='default', max_steps=3, progress=False)
    bare = TaskMask.from_adapted(res)
    assert 'card' not in bare.info and load(bare, folder).card.classes==('0', '1', '2')
    tm = TaskMask.from_adapted(res, card=card_for(task, 12, s.model.pooling))
    p = load(tm.save_pretrained(tmp_path/'m'), folder)
    assert p.predict(texts[0])['label'] in names and p.evaluate(data['dev'])==s.evaluate(res.model)

# The command line

@pytest.fixture
def command(capsys, monkeypatch, made, tmp_path):
    "A function that runs a command where the masks are not; output, or the one line of the error"
    monkeypatch.chdir(tmp_path)
    def run(*args, lines=None, fails=False):
        monkeypatch.setattr(sys, 'argv', ['adaptprune', *map(str, args)])
        if lines is not None: monkeypatch.setattr(sys, 'stdin', io.StringIO(lines))
        code = 0
        try: cli.main()
        except SystemExit as e: code = e.code or 0
        out = capsys.readouterr()
        assert bool(code)==fails, out.err
        run.err = out.err
        errors = [l for l in out.err.splitlines() if l.startswith('adaptprune: error:')]
        assert len(errors)==fails
        return errors[0] if fails else out.out
    return run

def test_apply_knows_the_classes(command, made, s3):
    "Defect 5"
    want = s3.predict('a d h')
    assert command('apply', made['s3'].folder, '--first', 'a d h')==f"{want['label']}  {want['probability']:.3f}  a d h\n"
    got, = json.loads(command('apply', made['s3'].folder, '--first', 'a d h', '--json'))
    assert got['label']==want['label'] and got['probability_good']==pytest.approx(want['probabilities']['good'], abs=1e-6)

def read(path): return dict(csv=pd.read_csv, parquet=pd.read_parquet, jsonl=lambda p: pd.read_json(p, lines=True, dtype=False),
    tsv=lambda p: pd.read_csv(p, sep='\t'))[Path(path).suffix[1:]](path)

@pytest.mark.parametrize('source', ['csv', 'tsv', 'jsonl', 'parquet'])
@pytest.mark.parametrize('out', ['csv', 'tsv', 'jsonl', 'parquet'])
def test_apply_to_tables(command, made, s3, source, out):
    table = pd.DataFrame(dict(id=['007', '8', '9'], text=[texts[0], '', texts[1]], note=['NA', 'x, y', 'null']))
    dict(csv=lambda p: table.to_csv(p, index=False), tsv=lambda p: table.to_csv(p, index=False, sep='\t'),
        jsonl=lambda p: table.to_json(p, orient='records', lines=True), parquet=table.to_parquet)[source](f'in.{source}')
    said = command('apply', made['s3'].folder, '--input', f'in.{source}', '--out', f'out.{out}')
    assert '3 answers' in said and '1 of 3 rows hold no text' in command.err
    got = read(f'out.{out}')
    want = s3.predict([texts[0], texts[1]], as_frame=True)
    assert list(got)==[*table, *want] and got['label'].isna().tolist()==[False, True, False]
    assert np.allclose(got['probability_bad'].astype(float)[[0, 2]], want['probability_bad'], atol=1e-6)
    if out in ('jsonl', 'parquet'): assert got[list(table)].to_dict('list')==table.to_dict('list')
    else: assert Path(f'out.{out}').read_text().splitlines()[1].startswith('007')

def test_apply_keeps_a_column_that_is_called_label(command, made):
    csv('in.csv', [dict(text='a', label='mine')])
    got, = json.loads(command('apply', made['s3'].folder, '--input', 'in.csv', '--json'))
    assert got['label']=='mine' and got['predicted_label'] in names and 'predicted_probability_bad' in got
    csv('in.csv', [dict(text='a', label='mine', predicted_label='old')])
    assert "'predicted_label'" in command('apply', made['s3'].folder, '--input', 'in.csv', fails=True)

def test_apply_to_standard_input(command, made, s3):
    out = command('apply', made['s3'].folder, '--input', '-', lines='a d h\n\nb e\n')
    want = [g['label'] for g in s3.predict(['a d h', 'b e'])]
    first,empty,last = out.splitlines()
    assert first.startswith(want[0]) and last.startswith(want[1]) and empty.strip()=='(no answer)'
    assert 'takes two texts' in command('apply', made['pair'].folder, '--input', '-', lines='a\n', fails=True)

def test_apply_to_pairs(command, made):
    csv('in.csv', pairs(4))
    assert len(command('apply', made['pair'].folder, '--input', 'in.csv').splitlines())==4
    assert 'takes two texts' in command('apply', made['pair'].folder, '--first', 'a', fails=True)
    assert 'takes one text' in command('apply', made['s3'].folder, '--first', 'a', '--second', 'b', fails=True)
    command('apply', made['pair'].folder, '--first', 'a', '--second', 'b')

def test_apply_to_scores(command, made):
    got, = json.loads(command('apply', made['price'].folder, '--first', 'a f', '--json'))
    assert got=={'text_a': 'a f', 'score': pytest.approx(load(made['price'].folder).predict('a f'), abs=1e-6)}

@pytest.mark.parametrize('args, words', [
    (['--input', 'in.csv', '--text', 'nope'], "no column 'nope'"), (['--input', 'no.csv'], 'no.csv'), (['--input', 'in.doc'], "'.doc'"),
    (['--input', 'bad.csv'], 'bad.csv, line 3: 4 fields found, 2 expected'), (['--input', 'shift.csv'], 'shift.csv, line 2: 3 fields'), (['--input', 'latin.csv'], 'UTF-8'), (['--input', 'bad.jsonl'], 'line 2'), (['--input', 'empty.csv'], 'empty.csv'), ([], '--first')])
def test_mistakes_with_apply(command, made, args, words):
    csv('in.csv', rows(3))
    Path('in.doc').write_text('a\n')
    Path('bad.csv').write_text('text,y\na,b\nc,d,e,f\n')
    Path('shift.csv').write_text('text,y\na,b,c\nd,e,f\n')
    Path('latin.csv').write_bytes('text\né\n'.encode('latin-1'))
    Path('bad.jsonl').write_text('{"text": "a"}\n{"text": \n')
    Path('empty.csv').write_text('')
    assert words in command('apply', made['s3'].folder, *args, '--out', 'out.csv', fails=True) and not Path('out.csv').exists()

def test_evaluate_on_own_files(command, made, s3):
    "Defect 3"
    csv('t.csv', rows(30))
    want = s3.evaluate(rows(30))
    assert json.loads(command('evaluate', made['s3'].folder, '--dev', 't.csv', '--json'))['metrics']['dev']==want
    csv('part.csv', [r for r in rows(30) if r['y']!='good'])
    command('evaluate', made['s3'].folder, '--dev', 'part.csv')
    csv('Good.csv', [dict(r, y=r['y'].replace('good', 'Good')) for r in rows(30)])
    for option in ('--dev', '--train'):
        assert "unknown label 'Good', the classes of 's3' are bad, good, neutral" in command('evaluate', made['s3'].folder, option, 'Good.csv', fails=True)
    own = command('evaluate', made['s3'].folder, '--train', made['s3'].folder.parent/'s3.csv', '--text', 'text', '--label', 'y', '--json')
    assert json.loads(own)['metrics']['dev']==made['s3'].report['metrics'], 'the tenth that was held out'
    pd.DataFrame(rows(30)).rename(columns=dict(text='words', y='class')).to_csv('other.csv', index=False)
    assert json.loads(command('evaluate', made['s3'].folder, '--dev', 'other.csv', '--text', 'words', '--label', 'class', '--json'))['metrics']['dev']==want
    assert '--dev' in command('evaluate', made['s3'].folder, fails=True)
    assert '--text goes with --dev' in command('evaluate', made['mini'].folder, '--text', 'a', fails=True)
    assert 'not both' in command('evaluate', made['s3'].folder, '--task', 'sst2', '--dev', 't.csv', fails=True)

def test_evaluate_of_a_task_that_is_known(command, made):
    got = json.loads(command('evaluate', made['mini'].folder, '--json'))
    assert got['task']=='mini-sentiment' and got['metrics']['dev']==made['mini'].report['metrics']

def test_evaluate_an_old_file_as_before(command, made):
    tm = TaskMask.from_pretrained(made['s3'].folder)
    for k in ('card', 'labels'): del tm.info[k]
    tm.save_pretrained('old')
    csv('t.csv', rows(60))
    base = made['s3'].folder.parent/Path(made['s3'].report['model']).name
    own = ['evaluate', 'old', '--model', base, '--text', 'text', '--label', 'y']
    got = json.loads(command(*own, '--train', 't.csv', '--dev', 't.csv', '--json'))
    assert got['metrics']['dev']['accuracy']==pytest.approx(load(made['s3'].folder).evaluate(rows(60))['accuracy'], abs=.2)
    assert 'what its 3 classes are called' in command(*own, '--dev', 't.csv', fails=True)

def test_info_shows_the_card(command, made):
    out = command('info', made['s3'].folder)
    assert all(w in out for w in ("'s3'", 'bad, good, neutral', '12 tokens', 'text in text', 'label in y', 'fingerprint'))
    got = json.loads(command('info', made['s3'].folder, '--json'))
    assert got['card']['labels']==list(names) and got['card']['unknown']==[] and got['card']['max_length']==12 and len(got['fingerprint'])==16

def test_info_shows_what_was_removed(command, tmp_path, folder):
    task,data = load_files(csv(tmp_path/'s3.csv', rows()), text='text', label='y')
    res = adapt_task(task, folder, data=data, max_steps=2, remove=.3, progress=False)
    TaskMask.from_adapted(res).save_pretrained(tmp_path/'m')
    got = json.loads(command('info', 'm', '--json'))
    assert got['removed']==pytest.approx(res.report['removed']) and got['heads']==res.report['heads']
    assert f"{got['removed']:.1%} of the layers' multiply-accumulates removed" in command('info', 'm')

@pytest.mark.slow
def test_onnx_of_own_data_names_the_classes(command, made):
    pytest.importorskip('onnxruntime'); pytest.importorskip('onnxscript')
    got = json.loads(command('export', made['s3'].folder, '--out', 'm.onnx', '--json'))
    assert got['labels']==list(names) and got['difference']<1e-4
