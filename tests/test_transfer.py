"Phrase alignment as a task, what may not be in it, and the benchmark of the study, on tiny models"
import importlib.util
from dataclasses import replace
from pathlib import Path
import pytest,torch
from adaptprune import TaskMask
from adaptprune.head import load_encoder,load_tokenizer
from adaptprune.identity import weights_of
from adaptprune.loop import adapt
from adaptprune.mask import Mask
from adaptprune.phrases import PhraseModel,PhrasePair,PhraseParts,leaks_into,packaged,permuted,phrase_loader,phrase_metrics
from adaptprune.phrases import phrase_vectors,read_phrases,whole_sentences
from adaptprune.start import Start

root = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location('case_transfer', root/'benchmarks/case_transfer.py')
case = importlib.util.module_from_spec(spec)
spec.loader.exec_module(case)

def pair(id='1', corpus='mtc', mrpc='none', source='a b c d', target='b c e', spans=((0, 2, 0, 1), (2, 4, 1, 3)), labels=(1, 0)):
    return PhrasePair(id, corpus, mrpc, tuple(source.split()), tuple(target.split()), spans, labels)

# Leaks

@pytest.mark.parametrize('corpus, mrpc, task, leaks', [
    ('news', 'train', 'mrpc', False), ('novels', 'none', 'mrpc', False), ('news', 'dev', 'mrpc', True), ('news', 'unknown', 'mrpc', True),
    ('news', 'sentence:train', 'mrpc', True), ('news', 'sentence:dev', 'mrpc', True),
    ('news', 'train', 'stsb', True), ('news', 'none', 'stsb', True), ('mtc', 'none', 'stsb', False), ('news', 'dev', 'sst2', False)])
def test_what_leaks(corpus, mrpc, task, leaks):
    p = pair(corpus=corpus, mrpc=mrpc)
    assert leaks_into(p, [task])==leaks and leaks_into(p, ['sst2', task])==leaks and not leaks_into(p, [])

def test_a_task_whose_leaks_are_not_known():
    with pytest.raises(ValueError, match="'qqp' is not known"): leaks_into(pair(), ['stsb', 'qqp'])

def write(folder, rows):
    lines = ['id\tsplit\tcorpus\tmrpc\tsource\ttarget', *('\t'.join(r) for r in rows)]
    (folder/'pairs.tsv').write_text('\n'.join(lines)+'\n')
    phrases = [f'{r[0]}\t0\t1\t0\t1\t{i}' for r in rows for i in (0, 1) if r[0]!='bare']
    (folder/'phrases.tsv').write_text('\n'.join(['id\ti0\ti1\tj0\tj1\tlabel', *phrases])+'\n')

def test_reading_leaves_out_what_leaks_and_what_is_tested(tmp_path):
    write(tmp_path, [('1', 'train', 'news', 'train', 'a "b', 'c'), ('2', 'train', 'news', 'dev', 'd', 'e'), ('3', 'train', 'mtc', 'none', 'f', 'g'),
        ('4', 'test', 'mtc', 'none', 'h', 'i'), ('5', 'train', 'novels', 'none', 'j', 'h'), ('bare', 'train', 'mtc', 'none', 'k', 'l')])
    def ids(*tested): return [p.id for p in read_phrases(tmp_path, tested)['train']]
    assert ids('sst2')==['1', '2', '3'] and ids('mrpc')==['1', '3'] and ids('stsb')==ids('mrpc', 'stsb')==['3']
    assert read_phrases(str(tmp_path), ('sst2',))['train'][0].source==('a', '"b')

def test_the_packaged_pairs_are_in_no_tested_task():
    both = read_phrases()
    every = [p for ps in both.values() for p in ps]
    assert len(every)>500 and not any(leaks_into(p, ('mrpc', 'stsb')) for p in every)
    assert {s for p in both['train'] for s in (p.source, p.target)}.isdisjoint(s for p in both['test'] for s in (p.source, p.target))
    for p in every:
        assert len(p.spans)==len(p.labels)>0 and set(p.labels)<={0, 1}
        assert all(0<=i0<i1<=len(p.source) and 0<=j0<j1<=len(p.target) for i0,i1,j0,j1 in p.spans)
    assert 'Apache License' in (packaged/'LICENSE.txt').read_text() and 'Thadani' in (packaged/'README.md').read_text()

@pytest.mark.glue
@pytest.mark.parametrize('task', ['mrpc', 'stsb', 'sst2'])
def test_no_packaged_sentence_is_in_a_tested_set(task, glue_dir):
    from adaptprune.tasks import load_task
    d = load_task(task, glue_dir=glue_dir)['dev']
    tested = {''.join(t.lower().split()) for c in ('text_a', 'text_b') if c in d.column_names for t in d[c]}
    mine = {''.join(' '.join(s).lower().split()) for ps in read_phrases().values() for p in ps for s in (p.source, p.target)}
    assert not tested&mine

# Controls

def test_permuted_labels():
    pairs = read_phrases()['train']
    a,b = permuted(pairs),permuted(pairs, 1)
    def labels(ps): return [l for p in ps for l in p.labels]
    assert a==permuted(pairs) and labels(a)!=labels(b) and sorted(labels(a))==sorted(labels(pairs))
    assert [replace(p, labels=()) for p in a]==[replace(p, labels=()) for p in pairs]
    same = sum(x==y for x,y in zip(labels(a), labels(pairs)))/len(labels(a))
    assert abs(same-.5)<.03

def test_whole_sentences():
    pairs = read_phrases()['test']
    found = whole_sentences(pairs)
    target = {p.id: p.target for p in pairs}
    assert len(found)==2*len(pairs) and all((p.target==target[p.id])==bool(p.labels[0]) for p in found)
    assert all(p.spans==((0, len(p.source), 0, len(p.target)),) for p in found)

# Model and batches

@pytest.fixture
def tokenizer(folder): return load_tokenizer(folder)

def test_phrases_are_the_pieces_of_their_words(tokenizer):
    "'ab' is no word of the tokenizer: a and b are"
    parts = PhraseParts([pair(source='a b, c d', spans=((1, 3, 1, 3), (0, 1, 0, 1)))], tokenizer, phrases=1)
    assert len(parts)==2 and parts.cut==0
    ids = parts[0]['tokens']['input_ids']
    def said(part, side): return tokenizer.convert_ids_to_tokens([ids[k] for k in part['phrases'][0][side]])
    assert said(parts[0], 0)==['b', '[UNK]', 'c'] and said(parts[0], 1)==['c', 'e'] and parts[0]['phrases'][0][2]==1
    assert said(parts[1], 0)==['a'] and said(parts[1], 1)==['b'] and parts[1]['phrases'][0][2]==0

def test_phrases_that_are_cut_off(tokenizer):
    parts = PhraseParts([pair()], tokenizer, max_length=9)
    assert parts.cut==1 and sum(len(p['phrases']) for p in parts)==1
    with pytest.raises(ValueError, match='max_length=4'): PhraseParts([pair()], tokenizer, max_length=4)

def test_vectors_are_means_whatever_the_padding(tiny, tokenizer):
    h = torch.arange(24.).view(2, 4, 3)
    inside = torch.tensor([[True, False, True, False], [False, False, False, True]])
    assert torch.equal(phrase_vectors(h, torch.tensor([1, 0]), inside), torch.stack([(h[1,0]+h[1,2])/2, h[0,3]]))
    model = PhraseModel(tiny('Bert', num_hidden_layers=1)).eval()
    def logits(*pairs): return model(**next(iter(phrase_loader(list(pairs), tokenizer, shuffle=False))))['logits']
    assert torch.allclose(logits(pair()), logits(pair(), pair(source='a b c d e f g h', id='2'))[:2], atol=1e-6)

def test_the_order_of_batches(tokenizer):
    pairs = [pair(str(i), labels=(i%2, 1)) for i in range(40)]
    def labels(**kw): return torch.cat([b['labels'] for b in phrase_loader(pairs, tokenizer, 4, **kw)]).tolist()
    assert labels(seed=1)==labels(seed=1)!=labels(seed=2) and labels(shuffle=False)==[l for p in pairs for l in p.labels]

def same_word(n=60):
    "True phrases are the same letter, false ones another"
    g = torch.Generator().manual_seed(0)
    def one(i):
        order = torch.randperm(6, generator=g).tolist()
        words = ' '.join('abcdef'[k] for k in order)
        at = sorted(range(6), key=lambda k: order[k])
        spans = tuple((k, k+1, j, j+1) for k in (0, 1, 2) for j in (k, (k+2)%6))
        return PhrasePair(str(i), 'mtc', 'none', tuple(words.split()), tuple(words.split()), spans, (1, 0)*3)
    return [one(i) for i in range(n)]

def lesson(folder, tokenizer, pairs, steps=150, **kw):
    torch.manual_seed(0)
    model = PhraseModel(load_encoder(folder))
    return adapt(model, phrase_loader(pairs, tokenizer), sparsity=.2, recipe='default', max_steps=steps, progress=False, beta=1e-2, **kw)

def test_phrases_can_be_learnt_and_permuted_ones_cannot(folder, tokenizer):
    pairs = same_word()
    test = phrase_loader(same_word()[:20], tokenizer, shuffle=False)
    real,none = [phrase_metrics(lesson(folder, tokenizer, p).model, test) for p in (pairs, permuted(pairs))]
    assert real['auc']>.9>.75>none['auc'] and real['accuracy']>.8

def test_a_mask_of_phrases_starts_a_task(tokenizer, folder, tmp_path):
    from adaptprune import adapt_task
    from adaptprune.tasks import load_task
    res = lesson(folder, tokenizer, same_word(20), steps=3)
    TaskMask.from_adapted(res, task='phrases').save_pretrained(tmp_path)
    d = load_task('mini-sentiment')
    data = dict(train=d['train'].select(range(40)), dev=d['dev'].select(range(20)))
    how = dict(recipe='default', data=data, max_steps=1, max_length=16, progress=False, alpha=0., schedule='constant', max_train_samples=16)
    out = adapt_task('mini-sentiment', folder, .2, start_from=tmp_path, **how)
    assert out.mask==res.mask and out.report['start_from']['task']=='phrases'

# The benchmark

def masks(seed=0):
    g = torch.Generator().manual_seed(seed)
    shapes = {'embeddings.word_embeddings.weight': (50, 16), 'encoder.layer.0.attention.self.query.weight': (16, 16)}
    return [Mask.from_scores({n: torch.rand(s, generator=g) for n,s in shapes.items()}, .2) for _ in range(2)]

def test_overlap_of_what_is_pruned():
    a,b = masks()
    found = case.common(a, b)
    assert found['all'][0]['jaccard']==pytest.approx((~a).jaccard(~b)) and len(found['layer'])==len(found['component'])==2
    assert case.common(a, a)['all'][0]['jaccard']==1 and found['all'][0]['jaccard_chance']==pytest.approx(.2/1.8, abs=.01)

def test_putting_back_as_much_at_random():
    a,b = masks()
    own = b | ~a
    some = case.put_back_some(b, own)
    assert some!=own and (b-some).kept==0 and {n: int(m.sum()) for n,m in some.items()}=={n: int(m.sum()) for n,m in own.items()}

def test_undoing(tiny):
    "Without what the first stage pruned only the second stage's own is pruned; the network itself stays as it was"
    model = PhraseModel(tiny('Bert', num_hidden_layers=1))
    base = {n: p.detach().clone() for n,p in weights_of(model.base_model).items()}
    names = [n for n in base if n.endswith('query.weight') or n.endswith('word_embeddings.weight')]
    a,b = [Mask.from_scores({n: torch.rand(base[n].shape, generator=torch.Generator().manual_seed(s)) for n in names}, .2) for s in (0, 1)]
    pruned = case.with_mask(model, base, b)
    for m in (b | ~a, a | b, b):
        got = weights_of(case.with_mask(pruned, base, m).base_model)
        assert all(torch.equal(got[n], base[n]*m[n]) for n in names)
    assert all(torch.equal(p, base[n]) for n,p in weights_of(model.base_model).items())

def test_a_row_is_made_once(tmp_path):
    records = case.Records(tmp_path/'r.json')
    made = []
    def make(): made.append(1); return dict(metrics={})
    case.recorded(records, dict(stage=1, arm='a'), make, 'c')
    case.recorded(records, dict(stage=1, arm='a'), make, 'c')
    assert len(case.Records(tmp_path/'r.json'))==1 and len(made)==2

def test_every_arm_and_command():
    assert set(case.lessons) < set(case.arms) and case.words('1,2', int)==[1, 2] and case.words('')==[]
    for c in case.choices(): assert {'choose', 'reach', 'task', 'labels', 'arm', 'seed'}==set(c)
