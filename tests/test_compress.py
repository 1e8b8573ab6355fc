"A user's own model made smaller: every kind, every way to stop and go on, and mistakes that are said before any work"
import csv,json,sys
import pytest,torch,transformers
from adaptprune import card,cli,compression as room,forms,subject as subjects
from adaptprune.card import Stage,time_stages
from adaptprune.compaction import compact
from adaptprune.compression import Settings,compress,smallest
from adaptprune.folder import load_compact
from adaptprune.subject import Subject,adapt_loss,clean_texts,compare,load_subject,read_texts,unit_loss
from adaptprune.units import base_of,find_units

words = 'good fine great bad poor awful film plot play tone was is the a'.split()
vocab = {w: i for i,w in enumerate(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *words])}
texts = [f'{a} {b} {v} {c}' for a in ('the', 'a') for b in words[6:10] for v in ('was', 'is') for c in words[:6]]
bad = [int(t.split()[-1] in words[3:6]) for t in texts]
prices = [1000*b for b in bad]
size = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=len(vocab))
quick = dict(steps=20, progress=False, n_scored=4, formats='none', memory=False)

def tokenizer(): return transformers.BertTokenizer(vocab=vocab, model_max_length=20)

def trained(targets, **config):
    "A small model that knows its task"
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**size, **config))
    batch = dict(tokenizer()(texts, padding=True, return_tensors='pt'), labels=targets)
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(60):
        model(**batch).loss.backward()
        opt.step()
        opt.zero_grad()
    return model.eval()

def saved(model, folder):
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "Folders of a classifier, a regressor and a sentence encoder, and a file of texts"
    home = tmp_path_factory.mktemp('home')
    names = dict(id2label={0: 'good', 1: 'bad'}, label2id={'good': 0, 'bad': 1})
    model = trained(torch.tensor(bad), **names)
    saved(model, home/'classifier')
    saved(trained(1000.*torch.tensor(bad).float(), num_labels=1), home/'regressor')
    saved(model.bert, home/'encoder')
    (home/'encoder/modules.json').write_text(json.dumps([dict(idx=i, name=str(i), path=p, type=f'sentence_transformers.models.{t}')
        for i,(p,t) in enumerate([('', 'Transformer'), ('1_Pooling', 'Pooling'), ('2_Normalize', 'Normalize')])]))
    (home/'encoder/1_Pooling').mkdir()
    (home/'encoder/1_Pooling/config.json').write_text(json.dumps(dict(word_embedding_dimension=32, pooling_mode_mean_tokens=True)))
    with open(home/'texts.csv', 'w', newline='') as f:
        csv.writer(f).writerows([['review', 'label'], *[[t, ['good', 'bad'][b]] for t,b in zip(texts, bad)]])
    return home

def batch(): return dict(tokenizer()(texts[:7], padding=True, return_tensors='pt'))

@pytest.mark.parametrize('kind, labels', [('classifier', None), ('classifier', bad), ('regressor', None), ('regressor', prices), ('encoder', None)])
def test_every_kind(kind, labels, home, tmp_path):
    res = compress(home/kind, texts, tmp_path/'out', remove=.5, labels=labels, **quick)
    r = res.report
    assert r['kind']==kind and abs(r['removed']-.5)<.03 and r['training']['steps']==20 and r['training']['sparsity']==pytest.approx(.2, abs=.01)
    assert r['metric']==('agreement' if labels is None else 'accuracy' if kind=='classifier' else 'spearman')
    whole,small = r['stages']
    assert whole['agreement']==pytest.approx(1) and small['agreement']>.5 and small['mb']<whole['mb']
    assert json.loads((tmp_path/'out/report.json').read_text())==json.loads(json.dumps(r))
    again = load_compact(tmp_path/'out')
    assert torch.equal(again(**batch())[0], res.model(**batch())[0])
    assert not (tmp_path/'out/.compress').exists() and (tmp_path/'out/report.png').stat().st_size>1000
    said = (tmp_path/'out/README.md').read_text()
    assert f"{small['agreement']:,.4g}" in said and str(tmp_path.parent) not in said+(tmp_path/'out/report.json').read_text()

def test_every_weight_is_the_users_or_zero(home, tmp_path):
    res = compress(home/'classifier', texts, tmp_path/'out', remove=.5, **quick)
    whole = transformers.AutoModelForSequenceClassification.from_pretrained(home/'classifier')
    cut = dict(compact(whole, base_of(res.model).structure).named_parameters())
    zeros = total = 0
    for n,p in res.model.named_parameters():
        assert torch.equal(p[p!=0], cut[n][p!=0]), n
        if torch.equal(p, cut[n]): continue
        zeros += int((p==0).sum())
        total += p.numel()
    assert zeros/total==pytest.approx(.2, abs=.03)
    assert all(torch.equal(p, dict(whole.named_parameters())[n]) for n,p in res.model.named_parameters() if n.startswith(('classifier', 'bert.pooler')))

def test_model_as_an_object_stays_as_it_is(home, tmp_path):
    model = transformers.AutoModelForSequenceClassification.from_pretrained(home/'classifier').train()
    before = {n: p.detach().clone() for n,p in model.named_parameters()}
    compress(model, texts, tmp_path/'a', remove=.5, tokenizer=tokenizer(), **quick)
    assert model.training and all(p.requires_grad and torch.equal(p, before[n]) for n,p in model.named_parameters())

def test_adapting_helps(home, tmp_path):
    "After the same cut, the mask brings the hidden states nearer to those of the whole model"
    subject = load_subject(home/'classifier')
    at = dict(batch(), labels=torch.zeros(7, dtype=torch.long))
    def far(**how): return adapt_loss(subject)(compress(home/'classifier', texts, tmp_path/str(how), remove=.5, **{**quick, **how}).model, at).item()
    assert far(steps=200)<.8*far(steps=0)

@pytest.fixture(scope='module')
def want(home): return compress(home/'classifier', texts, home/'whole', remove=.5, **dict(quick, steps=120))

@pytest.mark.parametrize('where', ['scores', 'early', 'late', 'card'])
def test_a_run_that_was_killed_goes_on(where, want, home, tmp_path, monkeypatch):
    out = tmp_path/'out'
    with monkeypatch.context() as m:
        if where=='scores': m.setattr(room, 'unit_scores', lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
        if where=='card': m.setattr(room, 'save_card', lambda *a: (_ for _ in ()).throw(OSError('no space')))
        if where in ('early', 'late'): m.setattr(room, 'adapt_loss', lambda *a: stopping(adapt_loss(*a), 30 if where=='early' else 115))
        with pytest.raises((KeyboardInterrupt, OSError, RuntimeError)): compress(home/'classifier', texts, out, remove=.5, **dict(quick, steps=120))
    assert [p.name for p in out.iterdir()]==['.compress']
    with pytest.raises(FileExistsError, match='resume=True'): compress(home/'classifier', texts, out, remove=.5, **quick)
    with pytest.raises(ValueError, match='seed=0, this one seed=1'):
        compress(home/'classifier', texts, out, remove=.5, resume=True, **dict(quick, steps=120), seed=1)
    done = {p.name for p in (out/'.compress').glob('*.pt')}
    assert ('scores.pt' in done)==(where!='scores') and ('made-0.5000.pt' in done)==(where=='card')
    if where=='late': assert torch.load(out/'.compress/run-0.5000/checkpoint.pt', weights_only=True)['run']['step']==100
    got = compress(home/'classifier', texts, out, remove=.5, resume=True, **dict(quick, steps=120))
    assert all(torch.equal(p, q) for p,q in zip(got.model.parameters(), want.model.parameters(), strict=True))
    assert got.report['stages'][1]['agreement']==want.report['stages'][1]['agreement']

def stopping(loss, call):
    "A loss that is killed at a call"
    calls = iter(range(10**6))
    def f(model, b):
        if next(calls)==call: raise RuntimeError('killed')
        return loss(model, b)
    return f

def test_nothing_is_overwritten_unasked_and_the_old_stays_until_the_end(home, tmp_path, monkeypatch):
    out = tmp_path/'out'
    compress(home/'classifier', texts, out, remove=.5, **quick)
    old = {p.name: p.read_bytes() for p in out.iterdir()}
    with pytest.raises(FileExistsError, match='exists already'): compress(home/'classifier', texts, out, remove=.3, **quick)
    with monkeypatch.context() as m:
        m.setattr(room, 'time_stages', lambda *a: (_ for _ in ()).throw(RuntimeError('power cut')))
        with pytest.raises(RuntimeError, match='power cut'): compress(home/'classifier', texts, out, remove=.3, force=True, **quick)
    assert {p.name: p.read_bytes() for p in out.iterdir() if p.is_file()}==old
    (out/'model.onnx').write_bytes(b'of the old model')
    res = compress(home/'classifier', texts, out, remove=.3, resume=True, **quick)
    assert abs(res.report['removed']-.3)<.03 and not (out/'model.onnx').exists()

mistakes = [
    (dict(remove=1.), ValueError, r'remove must be a fraction in \[0, 1\), got 1.0'), (dict(remove=-.1), ValueError, 'got -0.1'),
    (dict(remove=70), ValueError, 'got 70: for seven tenths, 0.7'), (dict(remove=.5, keep=.9), ValueError, 'not both'),
    (dict(speed=3, keep=.9), ValueError, 'keep=0.9 and speed=3'), (dict(speed=.5), ValueError, 'speed must be how many times faster'),
    (dict(formats='tflite'), ValueError, "Unknown format 'tflite'"), (dict(vocabulary=0), ValueError, "vocabulary must be 'texts'"), (dict(colour=1), TypeError, "no option 'colour'"),
    (dict(keep=1.), ValueError, 'keep must be a fraction'), (dict(keep=0), ValueError, 'keep must be a fraction'),
    (dict(texts=[]), ValueError, '0 different examples'), (dict(texts=['', ' ', None]*40), ValueError, '0 different examples'),
    (dict(texts=['the film was good']*200), ValueError, '1 different examples'), (dict(texts=texts+[('a', 'b')]), ValueError, 'all alike'),
    (dict(labels=bad[:5]), ValueError, '96 texts and 5 labels'), (dict(labels=['fine']*96), ValueError, "'fine' is none of the model's classes .good, bad."),
    (dict(kind='decoder'), ValueError, "Unknown kind 'decoder'"), (dict(kind='regressor'), ValueError, 'has 2 outputs'),
    (dict(steps=-1), ValueError, 'steps must be 0 or more'), (dict(sparsity=1.), ValueError, 'sparsity'),
    (dict(max_length=0), ValueError, 'max_length'), (dict(resume=True), ValueError, 'Nothing to resume'),
    (dict(texts='no.csv'), FileNotFoundError, 'no file no.csv'),
]
@pytest.mark.parametrize('wrong, error, words', mistakes)
def test_mistakes_are_said_before_any_work(wrong, error, words, home, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(room, 'Maker', None)
    monkeypatch.setattr(subjects.warnings, 'warn', lambda *a: None)
    with pytest.raises(error, match=words): compress(home/'classifier', **{**dict(texts=texts, out='out'), **wrong})
    assert not (tmp_path/'out').exists()

def test_models_that_cannot_be_made_smaller(home, tmp_path):
    (tmp_path/'empty').mkdir()
    with pytest.raises(OSError, match='holds no model'): compress(tmp_path/'empty', texts, tmp_path/'o')
    with pytest.raises(OSError, match='No folder'): compress(tmp_path/'nothing', texts, tmp_path/'o')
    base = transformers.AutoModel.from_pretrained(home/'encoder')
    saved(base, tmp_path/'base')
    with pytest.raises(ValueError, match='what BertModel is for.*--kind encoder'): compress(tmp_path/'base', texts, tmp_path/'o')
    with pytest.raises(ValueError, match='holds no trained head'): compress(tmp_path/'base', texts, tmp_path/'o', kind='classifier')
    compress(home/'classifier', texts, tmp_path/'small', remove=.5, **quick)
    with pytest.raises(ValueError, match='compact already'): compress(tmp_path/'small', texts, tmp_path/'o')
    gpt = transformers.GPT2ForSequenceClassification(transformers.GPT2Config(vocab_size=20, n_embd=16, n_layer=1, n_head=2, pad_token_id=0))
    with pytest.raises(ValueError, match='Conv1D'): compress(gpt, texts, tmp_path/'o', tokenizer=tokenizer())
    with pytest.raises(ValueError, match='needs its tokenizer'): compress(gpt, texts, tmp_path/'o')
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine/thesis.tex').write_text('years of work')
    with pytest.raises(FileExistsError, match='other things'): compress(home/'classifier', texts, tmp_path/'mine', force=True)
    assert not (tmp_path/'o').exists() and (tmp_path/'mine/thesis.tex').exists()

def test_sentence_transformers_reads_the_encoder(home, tmp_path, monkeypatch):
    st = pytest.importorskip('sentence_transformers')
    monkeypatch.setattr(transformers.dynamic_module_utils, 'HF_MODULES_CACHE', str(tmp_path/'modules'))
    res = compress(home/'encoder', texts, tmp_path/'out', remove=.5, **quick)
    got = st.SentenceTransformer(str(tmp_path/'out'), trust_remote_code=True, device='cpu').encode(texts[:7])
    want = Subject(res.model, None, 'encoder').outputs(res.model, batch())[0]
    torch.testing.assert_close(torch.tensor(got), want.detach(), atol=1e-5, rtol=1e-4)

def test_pairs(home, tmp_path):
    pairs = [(a, b) for a,b in zip(texts, texts[7:]+texts[:7])]
    near = [1.-abs(i-j) for i,j in zip(bad, bad[7:]+bad[:7])]
    res = compress(home/'encoder', pairs, tmp_path/'a', remove=.3, labels=near, **quick)
    assert res.report['metric']=='spearman' and res.report['stages'][0]['spearman']>.5
    assert compress(home/'classifier', pairs, tmp_path/'b', remove=.3, **quick).report['metric']=='agreement'

def test_keep_makes_several_networks_with_one_set_of_scores(home, tmp_path, monkeypatch):
    calls,scored = [],[]
    real = room.unit_scores
    monkeypatch.setattr(room, 'unit_scores', lambda *a: scored.append(1) or real(*a))
    monkeypatch.setattr(room, 'compare', lambda *a: dict(agreement=1. if not calls.append(1) and len(calls)<2 else 1-kept()))
    def kept(): return .4*float(len(calls)%2)
    res = compress(home/'classifier', texts, tmp_path/'out', keep=.9, **dict(quick, steps=2))
    assert len(scored)==1 and len(calls)>3 and res.report['settings']['keep']==.9
    assert any('chosen on these examples' in n for n in res.report['notes'])

def test_smallest_finds_the_edge():
    for edge in (.1, .33, .7, .9):
        found = smallest(lambda r: 1. if r<=edge else .5, .99)
        assert edge-.03<=found<=edge
    with pytest.raises(ValueError, match=r'keep=0.99 cannot be reached: the nearest is remove=0.0\d+, which keeps 0.5'): smallest(lambda r: .5, .99)

def test_other_forms_join_the_card(home, tmp_path):
    "What later rooms add: ONNX and int8"
    def half(subject, model, folder):
        (folder/'half.bin').write_bytes(b'x'*1000)
        small = model.half()
        run = subjects.runner(subject, small.float())
        return [Stage('compact, half', run, 1000)]
    res = compress(home/'classifier', texts, tmp_path/'out', remove=.5, more=[half], **quick)
    row = res.report['stages'][2]
    assert row['name']=='compact, half' and row['mb']==0. and row['agreement']>.5 and row['ms_8']>0
    assert (tmp_path/'out/half.bin').exists() and 'compact, half' in (tmp_path/'out/README.md').read_text()

def test_stages_take_turns():
    order = []
    stages = [Stage(n, lambda b, n=n: order.append(n), 1) for n in 'ab']
    times = time_stages(stages, ('input_ids',), 10, repeats=3)
    n = len(order)//2
    assert {order[0], order[-1]}<={'a', 'b'} and n>3 and all(set(t)=={'ms_1', 'ms_8', 'faster_1', 'faster_8'} for t in times)
    assert times[0]['faster_8']==1
    assert [set(t) for t in time_stages(stages, ('input_ids',), 10, repeats=3, sizes=(1,))]==[{'ms_1', 'faster_1'}]*2

def test_read_texts(tmp_path):
    for kind,text in (('csv', 'text,label\n"a, b",1\nc,0\n'), ('tsv', 'text\tlabel\na, b\t1\nc\t0\n'), ('jsonl', '{"text":"a, b","label":1}\n{"text":"c","label":0}\n')):
        (tmp_path/f'x.{kind}').write_text(text)
        rows,labels = read_texts(tmp_path/f'x.{kind}')
        assert rows==[('a, b',), ('c',)] and [str(x) for x in labels]==['1', '0']
        assert read_texts(tmp_path/f'x.{kind}', label='')==(rows, None)
    with pytest.raises(ValueError, match="no column 'stars'"): read_texts(tmp_path/'x.csv', label='stars')
    with pytest.raises(ValueError, match="no column 'body'"): read_texts(tmp_path/'x.csv', text='body')
    (tmp_path/'y.jsonl').write_text('not json\n')
    with pytest.raises(ValueError, match='line 1'): read_texts(tmp_path/'y.jsonl')

def test_gaps_and_repetitions():
    some = [f'text {i}' for i in range(70)]
    with pytest.warns(UserWarning, match='2 of 73 examples'): rows,labels = clean_texts([*some, '', None, 'text 0'], range(73))
    assert rows==[(t,) for t in some] and labels==list(range(70))

def test_regressors_do_not_care_for_the_unit(home):
    "A price in dollars or in cents gives the same loss, once it is divided by its spread"
    subject = load_subject(home/'regressor')
    at = dict(batch(), labels=torch.zeros(7))
    class Times(torch.nn.Module):
        def __init__(self, m, k): super().__init__(); self.m,self.k = m,k
        def forward(self, **b):
            out = self.m(**b)
            out.logits = out.logits*self.k
            return out
    small = load_subject(home/'regressor').model
    with torch.no_grad(): small.classifier.weight.mul_(.9)
    a = adapt_loss(subject, scale=10.)(small, at)
    subject.model = Times(subject.model, 100)
    b = adapt_loss(subject, scale=1000.)(Times(small, 100), at)
    torch.testing.assert_close(a, b)

def test_scores_of_a_regressor_are_not_zero_without_labels(home):
    from adaptprune.fisher import unit_scores
    subject = load_subject(home/'regressor')
    scores = unit_scores(subject.model, [dict(batch(), labels=torch.zeros(7))], unit_loss(subject))
    assert all(s.sum()>0 for s in scores.values())

def test_compare():
    a = torch.eye(6)
    enc = Subject(None, None, 'encoder')
    assert compare(enc, a[:4], a[:4], [1., 0.])['spearman']==0.
    cls = Subject(None, None, 'classifier')
    assert compare(cls, a, a.flip(0), [0, 1, 2, 3, 4, 0])==dict(accuracy=5/6, agreement=0.)

def test_command_line(home, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(forms, 'session_memory', lambda *args, **kwargs: dict(peak=2., imports=1.))
    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['adaptprune', 'compress', *map(str, args)])
        with pytest.raises(SystemExit) as e: cli.main()
        return e.value.code or 0, capsys.readouterr()
    args = home/'classifier', '--data', home/'texts.csv', '--remove', '.5', '--steps', '10', '--out', 'fast'
    code,got = run(*args)
    assert code==0 and 'of the layers removed: accuracy' in got.out and 'model and report card in fast' in got.out
    code,got = run(*args)
    assert code==2 and '--force' in got.err and 'Traceback' not in got.err
    code,got = run(*args, '--force', '--json', '--label', '', '--formats', 'none')
    assert code==0 and json.loads(got.out)['metric']=='agreement'
    code,got = run(*args, '--resume')
    assert code==0 and 'is finished: nothing to resume' in got.out
    for other,told in (
        (['--remove', '.8'], 'remove 0.5 (now 0.8)'), (['--steps', '20'], 'steps 10 (now 20)'), (['--keep', '.9'], 'keep None (now 0.9)')):
        code,got = run(*args, '--resume', *other)
        assert code==2 and 'is finished, and it is another one' in got.err and told in got.err
    code,got = run(home/'regressor', *args[1:], '--resume')
    assert code==2 and "model 'classifier' (now 'regressor')" in got.err
    code,got = run(home/'classifier')
    assert code==2 and '--data' in got.err

def test_plain_texts_are_examples(home):
    "A text is one example, not a row of its letters"
    s = load_subject(home/"classifier")
    run = subjects.runner(s, s.model)
    assert torch.equal(subjects.answers(s, run, texts), subjects.answers(s, run, [(t,) for t in texts]))
    assert subjects.examples(s, texts[:2])==[(texts[0],), (texts[1],)]
