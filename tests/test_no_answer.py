"Questions without an answer, as in SQuAD 2: labels of windows, the null score and its threshold, metrics, files."
import collections,json,random,re,shutil,string
import numpy as np,pandas as pd,pytest,torch,transformers
from adaptprune.artifact import TaskMask
from adaptprune.loop import adapt
from adaptprune.predict import load
from adaptprune.spans import answer_f1,answer_scores,answer_tokens,best_threshold,encode_questions,no_answer_gap,null_token
from adaptprune.taskcard import TaskCard,from_dict,to_dict
from dataclasses import replace

def rows(n=60, seed=0):
    "The answer is the letter j where the question is none of a, b and c; else there is none"
    pick = random.Random(seed)
    for i in range(n):
        q = pick.choice('abcdef')
        text = ' '.join(pick.sample('ggghhhiij', 9))
        none = q in 'abc'
        yield dict(question=q, context=text, answers=dict(text=[] if none else ['j'], answer_start=[] if none else [text.index('j')]))

@pytest.fixture(scope='module')
def made(folder, tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp('none')
    shutil.copytree(folder, path/'base')
    tiny('Bert', hidden_size=32, initializer_range=.3).save_pretrained(path/'base')
    torch.manual_seed(0)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(path/'base')
    tok = transformers.AutoTokenizer.from_pretrained(path/'base')
    data = list(rows(240))
    enc = encode_questions(tok, *([r[k] for r in data] for k in ('question', 'context')), 20)
    labels = torch.tensor(answer_tokens(enc, [r['context'] for r in data], [r['answers'] for r in data]))
    names = 'input_ids','attention_mask','token_type_ids'
    def batch(part): return dict(tok.pad({n: enc[n][part] for n in names}, return_tensors='pt'), start_positions=labels[part,0], end_positions=labels[part,1])
    batches = [batch(slice(i, i+20)) for i in range(0, 240, 20)]
    adapt(model, batches, sparsity=.2, recipe='default', max_steps=200, every=5, start='rank', beta=.05, dropout=0., progress=False)
    TaskMask.from_model(model, task=TaskCard('question-answering', 2, 'letters', ('question', 'context'), no_answer=0.), max_length=20).save_pretrained(path/'m')
    return model.eval(), tok, path/'m'

def test_it_is_learnt_and_the_file_says_so(made):
    "The file's threshold stands; what is said is better than always answering, and than never"
    p = load(made[2])
    dev = list(rows(60, 1))
    assert p.card.no_answer==0. and from_dict(json.loads(json.dumps(to_dict(p.card))))==p.card
    got,always,never = [load(made[2], no_answer=t).evaluate(dev)['f1'] for t in (0., 1e5, -1e5)]
    assert got>max(always, never)+.1 and load(made[2], no_answer=None).evaluate(dev)['f1']==always

def test_gaps_by_hand(made):
    "SQuAD's rule for one window and for several: the smallest null score against the best span"
    model,tok,path = made
    p = load(path)
    for context in ('d e j a', ' '.join('abcdefghij'*3)):
        enc = tok('b', context, truncation='only_second', max_length=20, stride=5, return_overflowing_tokens=True, padding=True, return_tensors='pt')
        with torch.no_grad(): out = model(**{k: enc[k] for k in ('input_ids', 'attention_mask', 'token_type_ids')})
        best = -np.inf
        for i in range(len(enc['input_ids'])):
            inside = [t for t,s in enumerate(enc.sequence_ids(i)) if s==1]
            best = max(best, *(float(out.start_logits[i,a]+out.end_logits[i,b]) for a in inside for b in inside if a<=b))
        gap = float((out.start_logits[:,0]+out.end_logits[:,0]).min())-best
        said = p.predict(('b', context))
        assert said['no_answer']==pytest.approx(gap, abs=1e-4) and (said['text']=='')==(gap>0)
        for t,none in ((gap-.01, True), (gap+.01, False)):
            got = load(path, no_answer=t).predict(('b', context))
            assert (got['text']=='')==none==(got['start'] is None)
            if not none: assert got==dict(load(path, no_answer=None).predict(('b', context)), no_answer=got['no_answer'])

def test_the_best_threshold(made):
    "As good as the best of all thresholds; without rows of both kinds it is refused"
    p,dev = load(made[2]),list(rows(60, 2))
    t = p.find_threshold(dev)
    at = sorted(a['no_answer'] for a in p.predict(dev))
    tried = [load(made[2], no_answer=x).evaluate(dev)['f1'] for x in [at[0]-1, *((a+b)/2 for a,b in zip(at, at[1:])), at[-1]+1]]
    assert load(made[2], no_answer=t).evaluate(dev)['f1']==pytest.approx(max(tried))
    with pytest.raises(ValueError, match='Each row has an answer'): p.find_threshold([r for r in dev if r['answers']['text']])

@pytest.mark.parametrize('seed', range(5))
def test_thresholds_by_trying(seed):
    gen = np.random.default_rng(seed)
    gaps,a,b = gen.integers(0, 6, 20).astype(float),gen.random(20),gen.integers(0, 2, 20).astype(float)
    def score(t): return np.where(gaps>t, b, a).mean()
    assert score(best_threshold(gaps, a, b))==pytest.approx(max(map(score, np.arange(-1, 7, .5))))

def test_rows_and_tables(made, command):
    p = load(made[2])
    dev = list(rows(8, 3))
    frame = p.predict(pd.DataFrame(dev), as_frame=True)
    assert list(frame)==['text', 'start', 'end', 'score', 'no_answer'] and (frame.text=='').any() and (frame.start.isna()==(frame.text=='')).all()
    with pytest.warns(UserWarning, match='1 of 1'): assert p.predict([('a', None)])==[None]
    with open('q.jsonl', 'w') as f: f.writelines(json.dumps(r)+'\n' for r in dev)
    base = str(made[2].parent/'base')
    got = json.loads(command('evaluate', made[2], '--model', base, '--dev', 'q.jsonl', '--label', 'answers', '--json'))
    assert got['metrics']['dev']==p.evaluate(dev) and 'no_answer_exact_match' in p.evaluate(dev)
    assert [a['text'] for a in json.loads(command('apply', made[2], '--model', base, '--input', 'q.jsonl', '--json'))]==list(frame.text)

# labels

def test_labels_of_windows(made):
    "Each window's label spells the answer where it holds all of it, and is the null token elsewhere"
    tok = made[1]
    text = ' '.join('abcdefghij'*4)
    for at in range(0, len(text), 2):
        for n in (1, 3, 5):
            said = text[at:at+n]
            if len(said)<n: continue
            enc = encode_questions(tok, ['b'], [text], 20)
            labels = answer_tokens(enc, [text], [dict(text=[said], answer_start=[at])])
            held = [[o for o,s in zip(enc['offset_mapping'][i], enc.sequence_ids(i)) if s==1] for i in range(len(labels))]
            for i,(a,b) in enumerate(labels):
                offsets = enc['offset_mapping'][i]
                if held[i][0][0]<=at and held[i][-1][1]>=at+n: assert (offsets[a][0], offsets[b][1])==(at, at+n)
                else: assert (a, b)==(0, 0)
            assert any(l!=(0, 0) for l in labels)

def test_wrong_answers_are_refused(made):
    tok,text = made[1],' '.join('abcdefghij'*2)
    enc = encode_questions(tok, ['b'], [text], 20)
    def labels(said, at): return answer_tokens(enc, [text], [dict(text=[said], answer_start=[at])])
    for said,at in (('b', 0), ('', 0), (' ', 1), ('j k', 38)):
        with pytest.raises(ValueError, match=f'Row 0: the answer .{said}. should begin at character {at}'): labels(said, at)
    with pytest.raises(ValueError, match='no window holds all .* larger max_length'): labels(text[:37], 0)
    class NoSpecial:
        def sequence_ids(self, i): return [0, 1, 1]
    with pytest.raises(ValueError, match='no special token'): null_token(NoSpecial(), 0)

# the official script's functions, on strings

def normal(s):
    s = ''.join(c for c in s.lower() if c not in set(string.punctuation))
    return ' '.join(re.sub(r'\b(a|an|the)\b', ' ', s).split())

def official_f1(gold, pred):
    g,p = normal(gold).split(),normal(pred).split()
    if not g or not p: return int(g==p)
    same = sum((collections.Counter(g)&collections.Counter(p)).values())
    if same==0: return 0
    return 2*(same/len(p))*(same/len(g))/(same/len(p)+same/len(g))

def official(said, true):
    f1,exact = [],[]
    for s,golds in zip(said, true):
        golds = [g for g in golds if normal(g)] or ['']
        exact.append(max(int(normal(g)==normal(s)) for g in golds))
        f1.append(max(official_f1(g, s) for g in golds))
    return f1,exact

def test_scores_are_those_of_squad_2():
    pick = random.Random(0)
    words = ['the', 'a', 'cat', 'Cat!', 'dog', '...', 'red', 'in']
    def text(n): return ' '.join(pick.choice(words) for _ in range(n))
    true = [[text(pick.randint(1, 4)) for _ in range(pick.randint(1, 3))] if i%3 else [] for i in range(200)]
    said = [text(pick.randint(0, 3)) for _ in true]
    f1,exact = map(np.array, official(said, true))
    has = np.array([bool(t) for t in true])
    got = answer_scores(said, true)
    want = dict(f1=f1.mean(), exact_match=exact.mean(), has_answer_f1=f1[has].mean(), has_answer_exact_match=exact[has].mean())
    want['no_answer_exact_match'] = exact[~has].mean()
    assert got==pytest.approx(want) and answer_f1(said, true)==pytest.approx(list(f1))
    assert set(answer_scores(['a cat'], [['cat']]))=={'f1', 'exact_match'} and answer_scores([None, 'x'], [[], []])==dict(f1=.5, exact_match=.5, no_answer_exact_match=.5)
    with pytest.raises(ValueError, match='Row 1 has no true answer .* give an empty list'): answer_scores(['x', 'x'], [['x'], None])

def test_what_a_card_takes(made):
    for bad in ('0', True, float('nan'), float('inf')):
        with pytest.raises(ValueError, match='no_answer'): TaskCard('question-answering', 2, no_answer=bad)
    p = load(made[2])
    with pytest.raises(ValueError, match='Row 0 has no true answer'): p.evaluate([dict(question='a', context='b', answers=None)])
    assert 'no_answer' not in to_dict(replace(p.card, no_answer=None)) and no_answer_gap([(np.zeros(2), np.zeros(2), [])], [(1., 2.)])==3
