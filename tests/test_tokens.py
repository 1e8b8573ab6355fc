"A tag for each word: read, aligned to tokens, learnt on a tiny model, answered as spans from the file"
import itertools, json, shutil
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from datasets import ClassLabel, Dataset, Features, List, Value
from hypothesis import given, strategies as st
from adaptprune.artifact import TaskMask
from adaptprune.loss import G
from adaptprune.multitask import MultiTask
from adaptprune.predict import CutText, EmptyText, load
from adaptprune.tags import are_entities, entity_scores, spans_of
from adaptprune.task import adapt_task
from adaptprune.taskcard import card_for, from_dict, task_of, to_dict
from adaptprune.tasks import Task, compute_metrics, load_data, make_loaders

names = ('O', 'B-LOC', 'B-PER', 'I-PER')
said = dict(a='B-PER', b='I-PER', c='B-LOC')
def words(i):
    fill = 'defghij'
    return [fill[i%7], *(['a', 'b'] if i%3 else []), fill[i//7%7], *(['c'] if i%2 else []), *(['a'] if i%5==0 else []), fill[i%4]]
def rows(n=70): return [dict(tokens=words(i), ner_tags=[said.get(w, 'O') for w in words(i)]) for i in range(n)]
def read(data, **kw): return load_data(data, kind='tokens', **kw)
def refuses(message, data, **kw):
    with pytest.raises(ValueError, match=message): read(data, **kw)
def got(ds): return {tuple(w): l for s in ds.values() for w,l in zip(s['text_a'][:], s['label'][:])}

# Reading

def test_every_shape_gives_the_same(tmp_path):
    (tmp_path/'a.jsonl').write_text('\n'.join(map(json.dumps, rows())))
    pd.DataFrame(rows()).to_parquet(tmp_path/'a.parquet')
    coded = Features(dict(id=Value('string'), tokens=List(Value('string')), ner_tags=List(ClassLabel(names=list(names)))))
    codes = [dict(r, id='0', ner_tags=[names.index(t) for t in r['ner_tags']]) for r in rows()]
    want = {tuple(words(i)): [names.index(said.get(w, 'O')) for w in words(i)] for i in range(70)}
    for data in (tmp_path/'a.jsonl', tmp_path/'a.parquet', rows(), pd.DataFrame(rows()), pd.read_parquet(tmp_path/'a.parquet'), Dataset.from_list(codes, features=coded)):
        task,ds = read(data)
        assert (task.kind, task.labels, task.text, task.label, task.metric, task.num_labels)==('tokens', names, ('tokens',), 'ner_tags', 'entity_f1', 4) and got(ds)==want
    other = [dict(w=r['tokens'], t=r['ner_tags']) for r in rows()]
    assert got(read(other, text='w', label='t')[1])==want

def test_the_reading_says_it():
    text = str(read(rows())[1].reading)
    assert "a tag of 4 for each word: O, B-LOC, B-PER, I-PER; 5.0 words a row; 70 rows (train 63, dev 7 held out)" in text and 'entities: ' in text and 'begin with' not in text
    odd = [dict(tokens=['x', 'y'], tags=['O', 'I-PER']), dict(tokens=['z'], tags=['B-PER'])]*4
    assert '8 entities: 8 PER; 4 of them begin with I- or E-' in str(read(odd)[1].reading)
    pos,ds = read([dict(tokens=['x', 'y'], pos_tags=[['NOUN', 'VERB'], ['VERB', 'VERB']][i%2]) for i in range(30)])
    assert pos.metrics==('accuracy', 'macro_f1') and 'spell no entities' in str(ds.reading)

@pytest.mark.parametrize('row,message', [(dict(tokens=['a', 'b'], ner_tags=['O']), 'row 71: 2 words and 1 tags'), (dict(tokens='a b', ner_tags=['O', 'O']), 'row 71: expected a list of words'),
    (dict(tokens=['a', 3.5], ner_tags=['O', 'O']), 'row 71: one of the words'), (dict(tokens=['a', ''], ner_tags=['O', 'O']), 'row 71: one of the words'), (dict(tokens=['a', None], ner_tags=['O', 'O']), 'row 71: one of the words'),
    (dict(tokens=['a'], ner_tags=None), 'row 71: the label is missing'), (dict(tokens=[], ner_tags=[]), 'row 71: the (text|label) is missing'), (dict(tokens=['a'], ner_tags='O'), 'row 71: expected a list of tags')])
def test_rows_that_do_not_fit(row, message): refuses(message, [*rows(), row])

def test_what_is_unclear_is_refused():
    refuses('only one tag', [dict(tokens=['a'], tags=['O'])]*20)
    refuses('is it the right column', [dict(tokens=[f'w{i}'], tags=[f't{i}']) for i in range(40)])
    refuses('which one holds the tags', [dict(tokens=['a'], x=['O'])]*20)
    refuses('which one holds the words', [dict(a=['a'], tags=['O'])]*20)
    refuses('at once', rows(), text='ner_tags')
    refuses('one column', rows(), text=('tokens', 'ner_tags'))
    refuses("unknown label 'B-ORG'", rows(), dev=[dict(tokens=['a'], ner_tags=['B-ORG'])])
    refuses('not for tags', rows(), class_weights='balanced')
    refuses('metrics for tokens', rows(), metrics='f1')
    refuses('spell entities', [dict(tokens=['x', 'y'], tags=[['N', 'V'], ['V', 'V']][i%2]) for i in range(30)], metrics='entity_f1')
    assert read([*rows(), dict(tokens=[], ner_tags=[])], missing='drop')[1].reading.rows==dict(train=63, dev=7)
    with pytest.raises(ValueError): load_data(rows())                # asked for, never guessed

# Entities

def slow_spans(tags):
    "The rules of conlleval, as seqeval writes them down"
    def parts(t): return t[0], (t.split('-', 1)[-1] or '_')
    out,begin,before,kind = [],0,'O',''
    for i,t in enumerate([*tags, 'O']):
        tag,own = parts(t)
        end = before in 'ES' or before in 'BI' and tag in 'BSO' or before not in 'O.' and kind!=own
        start = tag in 'BS' or before in 'ESO' and tag in 'EI' or tag not in 'O.' and kind!=own
        if end: out.append((kind, begin, i))
        if start: begin = i
        before,kind = tag,own
    return out

@given(st.lists(st.sampled_from(['O', 'B-X', 'I-X', 'E-X', 'S-X', 'B-Y', 'I-Y', 'E-Y', 'S-Y', 'B-a-b']), max_size=12))
def test_spans_are_those_of_conlleval(tags): assert spans_of(tags)==slow_spans(tags)

def test_entity_scores():
    true = [['O', 'B-MISC', 'I-MISC', 'I-MISC', 'O', 'O'], ['B-PER', 'I-PER', 'O']]           # the example of seqeval's page
    pred = [['B-MISC', 'I-MISC', 'I-MISC', 'O', 'O', 'O'], ['B-PER', 'I-PER', 'O']]
    pred[0] = ['O', 'O', 'B-MISC', 'I-MISC', 'I-MISC', 'O']
    assert entity_scores(true, pred)==dict(entity_f1=.5, entity_precision=.5, entity_recall=.5)
    assert entity_scores([['O']], [['O']])==dict(entity_f1=0, entity_precision=0, entity_recall=0)
    assert entity_scores([['B-X'], ['O']], [['O'], ['B-X']])['entity_f1']==0, 'rows count'
    assert entity_scores([['B-X', 'B-X']], [['B-X', 'I-X']])==dict(entity_f1=0, entity_precision=0, entity_recall=0)
    assert are_entities(names) and not are_entities(['O']) and not are_entities(['O', 'NOUN'])

def test_metrics_of_a_task():
    task = Task('t', ('tokens',), 'tags', names, kind='tokens')
    logits = [np.eye(4)[[0, 2, 3]], np.eye(4)[[1, 0]]]
    assert compute_metrics(task, logits, [[0, 2, 3], [0, 0]])==dict(entity_f1=pytest.approx(2/3), entity_precision=.5, entity_recall=1, accuracy=.8)
    with pytest.raises(ValueError, match='shape'): compute_metrics(task, logits, [[0, 2], [0, 0]])
    with pytest.raises(ValueError, match='NaN'): compute_metrics(task, [np.full((1, 4), np.nan)], [[0]])
    def errors(labels, logits): return (labels!=logits.argmax(1)).sum()
    assert compute_metrics(Task('t', ('tokens',), 'tags', names, (errors,), kind='tokens'), logits, [[0, 2, 3], [0, 0]])==dict(errors=1)

# Tokens

def test_the_first_piece_of_a_word_carries_its_tag(folder, tmp_path):
    from transformers import BertTokenizer
    tok = BertTokenizer(vocab={w: i for i,w in enumerate(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'abc', '##b', '##c'])})
    task,ds = read([dict(tokens=['abb', 'a', 'cb'], tags=['B-X', 'O', 'I-X']), dict(tokens=['a'], tags=['O'])]*10)
    loader = make_loaders({'dev': ds['train']}, tok, max_length=6)['dev']
    batch = next(iter(loader))
    O,B,I = 0,1,2
    assert batch['labels'][0].tolist()==[-100, B, -100, -100, O, -100] and batch['labels'][-1].tolist()==[-100, O, -100, -100, -100, -100], 'cut at six tokens'
    assert loader.dataset.n_cut==(batch['input_ids'][:,3]!=0).sum()

def test_the_loss_counts_words():
    x,y = torch.randn(2, 4, 3),torch.tensor([[-100, 0, 2, -100], [-100, 1, -100, -100]])
    want = torch.nn.functional.cross_entropy(x[y!=-100], y[y!=-100])
    torch.testing.assert_close(G(x, y), want)
    assert G(x, y*0-100)==0

def test_tokenizers_that_need_a_space_say_so():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Tokenizer
    from adaptprune.tags import encode_words, word_tokens
    vocab = {w: i for i,w in enumerate(['<|endoftext|>', 'a', 'b', 'Ġ', 'Ġa', 'Ġb'])}
    merges = [('Ġ', 'a'), ('Ġ', 'b')]
    good = GPT2Tokenizer(vocab=vocab, merges=merges, add_prefix_space=True)
    assert word_tokens(encode_words(good, [('a', 'b')], 9), 0)=={0: 0, 1: 1}
    plain = GPT2Tokenizer(vocab=vocab, merges=merges)
    try: got = encode_words(plain, [('a', 'b')], 9)
    except ValueError as e: assert 'add_prefix_space=True' in str(e)
    else: assert word_tokens(got, 0)=={0: 0, 1: 1}

# End to end

quick = dict(recipe='default', max_steps=300, progress=False, batch_size=8, beta=.02)

@pytest.fixture(scope='module')
def made(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp('masks')
    shutil.copytree(folder, root/Path(folder).name)
    def run(name, data, **kw):
        res = adapt_task(name, folder, data=data, seed=1, out=root/name, say=str, **{**quick, **kw})
        res.folder = root/name
        return res
    made = dict(ner=run('ner', rows(), dev=rows(), kind='tokens', max_length=24))
    made['taught'] = run('taught', rows(), dev=rows(), kind='tokens', recipe='distilled', lr=5e-3, teacher_steps=100)
    made['plain'] = run('plain', [dict(text=' '.join(words(i)), label='xy'[i%2]) for i in range(40)], max_steps=3)
    return made

@pytest.fixture
def ner(made): return load(made['ner'].folder)

def test_scores_rise(made, folder):
    m = made['ner'].report['metrics']
    base = adapt_task('none', folder, data=rows(), dev=rows(), kind='tokens', say=str, seed=1, **dict(quick, max_steps=1)).report['metrics']
    assert m['entity_f1']>.9>.5>base['entity_f1'] and m['accuracy']>.9 and made['ner'].report['metric']=='entity_f1'
    r = made['taught'].report
    assert r['teacher_metrics']['entity_f1']>.9 and r['metrics']['entity_f1']>.8

def test_the_file_says_all(made, ner):
    card = TaskMask.from_pretrained(made['ner'].folder).card
    assert (card.kind, card.labels, card.text, card.label, card.pooling, card.max_length)==('tokens', names, ('tokens',), 'ner_tags', 'tokens', 24) and not card.unknown
    assert from_dict(to_dict(card))==card and task_of(card).metrics==('entity_f1', 'entity_precision', 'entity_recall', 'accuracy')
    assert ner.evaluate(rows())==ner.evaluate(pd.DataFrame(rows()))==pytest.approx(made['ner'].report['metrics'])
    with pytest.raises(ValueError, match="unknown label 'B-ORG'"): ner.evaluate([dict(tokens=['a'], ner_tags=['B-ORG'])])

def test_spans(ner):
    found = ner.predict([['d', 'a', 'b', 'e', 'c']])[0]
    assert [(s['label'], s['text'], s['start'], s['end']) for s in found]==[('PER', 'a b', 1, 3), ('LOC', 'c', 4, 5)] and all(.5<s['probability']<=1 for s in found)
    text = 'd  a b,\n e (c)'
    spans = ner.predict(text)
    assert all(text[s['start']:s['end']]==s['text'] for s in spans) and ('PER', 'a b') in [(s['label'], s['text']) for s in spans]
    many = [words(i) for i in range(40)]
    one = [ner.predict([w])[0] for w in many]
    for a,b in zip(ner.predict(many, batch_size=7), one, strict=True):
        assert [(s['label'], s['start'], s['end']) for s in a]==[(s['label'], s['start'], s['end']) for s in b]
    p = ner.predict_proba(many)
    assert [x.shape for x in p]==[(len(w), 4) for w in many] and all(np.allclose(x.sum(1), 1, atol=1e-5) for x in p)
    table = pd.DataFrame(dict(tokens=many), index=range(5, 45))
    df = ner.predict(table, as_frame=True)
    assert list(df)==['spans'] and df.index.equals(table.index) and len(df['spans'][5])==len(one[0]) and ner.predict([])==[]
    assert ner.predict([dict(tokens=many[0])])[0]==ner.predict([many[0]])[0]

def test_gaps_cuts_and_wrong_rows(ner):
    with pytest.warns(EmptyText): assert ner.predict([['a'], None, '', []])[1:]==[None]*3
    with pytest.warns(CutText): spans, = ner.predict([['a']*30])
    assert len(spans)==22, 'two tokens are not words'
    with pytest.warns(CutText): assert np.isnan(ner.predict_proba([['a']*30])[0][:,0]).sum()==8
    for bad in ([3], [['a', 3]], [['a', None]], [['a', ' ']]):
        with pytest.raises(ValueError, match='Row 0'): ner.predict(bad)

def test_a_pipeline_for_tags(ner):
    "The same entities at the same places with the same probabilities, from texts and from lists of words"
    pipe = ner.pipeline()
    assert type(pipe).__mro__[1].__name__=='TokenClassificationPipeline'
    def plain(found): return [(f['entity_group'], f['start'], f['end'], pytest.approx(f['score'], abs=1e-5)) for f in found]
    def ours(found): return [(f['label'], f['start'], f['end'], f['probability']) for f in found]
    texts = [' '.join(words(i)) for i in range(20)]+['d  a b,\n e (c)', 'e']
    assert [plain(f) for f in pipe(texts)]==[ours(f) for f in ner.predict(texts)]==[plain(f) for f in pipe(texts, batch_size=4)]
    assert sum(map(len, pipe(texts)))>10
    assert [plain(f) for f in pipe([words(i) for i in range(5)], is_split_into_words=True)]==[ours(f) for f in ner.predict(texts[:5])]
    long = ' '.join(['d']*21+['a', 'b', 'c', 'c'])          # 24 tokens are read, and two are not words
    with pytest.warns(CutText): want = ours(ner.predict(long))
    assert plain(pipe(long))==want
    assert {f['entity'] for f in ner.pipeline(aggregation_strategy='none', ignore_labels=[])(texts[0])}<=set(names)

def test_a_pipeline_without_entities(folder):
    "Tags that spell nothing are the pipeline's groups; E- and S- are refused"
    rows = [dict(tokens=words(i), tags=[('X' if w in 'abc' else 'Y') for w in words(i)]) for i in range(20)]
    def made(rows): return load(TaskMask.from_adapted(adapt_task('pos', folder, data=rows, dev=rows, kind='tokens', say=str, **dict(quick, max_steps=3))), folder)
    p = made(rows)
    text = 'a d b b'
    want = [s['label'] for s in p.predict(text)]
    got = [f['entity_group'] for f in p.pipeline()(text) for _ in text[f['start']:f['end']].split()]
    assert got==want
    ends = made([dict(r, tags=[dict(X='S-X', Y='O')[t] for t in r['tags']]) for r in rows])
    with pytest.raises(ValueError, match="not 'S-X': use `predict`"): ends.pipeline()

def test_multitask(made, ner):
    tasks = MultiTask.from_pretrained({n: made[n].folder for n in ('ner', 'plain')}, made['ner'].folder.parent/Path(made['ner'].report['model']).name)
    texts = ['d a b e c', 'a b']
    assert tasks.predict(texts, 'ner')==ner.predict(texts)
    mixed = tasks.predict(texts, ['ner', 'plain'])
    assert mixed[0]==ner.predict(texts)[0] and mixed[1]['label'] in 'xy'

def test_onnx_gives_the_same_logits(ner, tmp_path):
    ort = pytest.importorskip('onnxruntime'); pytest.importorskip('onnxscript')
    from adaptprune.export import export_onnx
    assert export_onnx(ner.model, tmp_path/'m.onnx')<1e-5
    batch = ner.reader.tokenizer([['d', 'a', 'b'], ['c']], is_split_into_words=True, padding=True, return_tensors='np')
    got = ort.InferenceSession(tmp_path/'m.onnx').run(None, dict(batch))[0]
    e = np.exp(got-got.max(-1, keepdims=True))
    assert np.allclose((e/e.sum(-1, keepdims=True))[0,1:4], ner.predict_proba([['d', 'a', 'b']])[0], atol=1e-5)

def test_structured_and_features(folder, tmp_path):
    how = dict(data=rows(), dev=rows(), kind='tokens', say=str, seed=1)
    res = adapt_task('s', folder, remove=.5, lr=5e-3, out=tmp_path/'s', **how, **{**quick, 'recipe': 'structured', 'teacher_steps': 100})
    assert res.structure and res.report['metrics']['entity_f1']>.7
    assert load(tmp_path/'s', folder).evaluate(rows())==pytest.approx(res.report['metrics'], abs=1e-6)
    f = adapt_task('f', folder, sparsity=0., **how, **{**quick, 'recipe': 'features', 'max_steps': 20})
    assert 0<=f.report['metrics']['entity_f1']<=1 and f.report['metrics']['accuracy']>.3

def test_resume_is_exact(folder, tmp_path, monkeypatch):
    from adaptprune.head import AdaptModel
    def go(**kw): return adapt_task('r', folder, data=rows(), kind='tokens', say=str, **dict(quick, max_steps=12), **kw)
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

def test_pooling_is_refused(folder):
    with pytest.raises(ValueError, match='leave out pooling'): adapt_task('p', folder, data=rows(), kind='tokens', say=str, **dict(quick, pooling='mean'))

# The command line

def test_commands(command, folder, made, ner):
    Path('train.jsonl').write_text('\n'.join(map(json.dumps, rows())))
    base = '--train', 'train.jsonl', '--kind', 'tokens', '--model', folder, '--recipe', 'default', '--max-steps', 5
    told = json.loads(command('adapt', *base, '--out', 'm', '--json'))
    assert 'a tag of 4 for each word' in told['reading'] and 'entity_f1' in told['metrics']
    assert json.loads(command('evaluate', 'm', '--train', 'train.jsonl', '--model', folder, '--json'))['metrics']['dev']==pytest.approx(told['metrics'])
    assert 'tokens into O, B-LOC' in command('info', 'm')
    assert 'a tag of 4' in command('adapt', *base, '--dry-run')
    mask = made['ner'].folder
    assert command('apply', mask, '--first', 'd a b').startswith("PER 'a b' ")
    assert command('apply', mask, '--first', 'd').startswith('(nothing found)')
    command('apply', mask, '--input', 'train.jsonl', '--out', 'o.jsonl')
    want = ner.predict([words(i) for i in range(70)])
    def short(spans): return [(s['label'], s['text'], s['start'], s['end']) for s in spans]
    assert [short(json.loads(l)['spans']) for l in Path('o.jsonl').read_text().splitlines()]==list(map(short, want))
    pd.DataFrame(dict(tokens=[' '.join(words(i)) for i in range(9)])).to_csv('in.csv', index=False)
    command('apply', mask, '--input', 'in.csv', '--out', 'o.csv')
    assert [[s[:2] for s in short(json.loads(t))] for t in pd.read_csv('o.csv')['spans']]==[[s[:2] for s in short(w)] for w in want[:9]]

def test_the_card_of_the_hub_names_the_kind(made):
    from adaptprune.artifact import _card_data
    for name,kind in (('ner', 'token-classification'), ('plain', 'text-classification')):
        assert _card_data(TaskMask.from_pretrained(made[name].folder).info, 'x/y', 'a/b').pipeline_tag==kind
