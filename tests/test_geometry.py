"Trees, probes and senses, and the study that uses them, against known truths."
import importlib.util,json,shutil
from importlib.resources import files
from pathlib import Path
import numpy as np,pytest,torch
from hypothesis import given,strategies as st
from torch import nn
from torch.utils.data import DataLoader
from transformers import BertTokenizer
from adaptprune.loop import adapt
from adaptprune.probes import (Pair,Probe,TreeModel,Words,attention_scores,control_depths,depth_score,distance_scores,draw_pairs,fit_probe,
    guesses,pair_attention,plain_attention,probe_loss,tree_batch,tree_loss,with_words,word_states)
from adaptprune.results import stratified_permutation
from adaptprune.senses import choose_senses,nearest_senses,packaged_senses,read_senses,sense_vectors
from adaptprune.trees import (Tree,attached,chain_distances,in_two,packaged_trees,plot_tree,pythagorean,read_conllu,spanning_tree,
    squared_distances,uuas)

root = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location('case_geometry', root/'benchmarks/case_geometry.py')
case = importlib.util.module_from_spec(spec)
spec.loader.exec_module(case)

# Trees

@st.composite
def some_tree(draw):
    "Any tree of 1 to 12 words, its words in any order"
    n = draw(st.integers(1, 12))
    order = draw(st.permutations(range(n)))
    heads = [0]*n
    for k,i in enumerate(order): heads[i] = order[draw(st.integers(0, k-1))] if k else -1
    return Tree(tuple(f'w{i}' for i in range(n)), tuple(heads))

@given(some_tree())
def test_the_theorem(tree):
    "n words in n-1 dimensions, at squared distances that are those of the tree"
    x = pythagorean(tree)
    assert x.shape==(len(tree), len(tree)-1)
    assert np.allclose(squared_distances(x), tree.distances())

@given(some_tree())
def test_distances(tree):
    "By hand: up to the first common ancestor and down again"
    def up(i): return [i] if tree.heads[i]<0 else [i, *up(tree.heads[i])]
    for i,j in np.ndindex(len(tree), len(tree)):
        a,b = up(i),up(j)
        shared = len(set(a) & set(b))
        assert tree.distances()[i,j]==len(a)+len(b)-2*shared
    assert tree.depths().tolist()==[len(up(i))-1 for i in range(len(tree))]

def test_random_branches_are_near():
    "And nearer in more dimensions"
    trees = packaged_trees('dev')[:20]
    def worst(dim): return max(np.abs(squared_distances(pythagorean(t, dim, seed=1))/np.maximum(t.distances(), 1)-(t.distances()>0)).max() for t in trees)
    assert worst(20_000)<.06<worst(200)
    assert uuas(trees, [squared_distances(pythagorean(t, 20_000)) for t in trees])==1

@given(some_tree())
def test_a_perfect_probe_scores_one(tree):
    right,of = attached(tree, tree.distances())
    assert right==of==len(tree)-1

sentence = Tree(('The', 'old', 'dog', ',', 'he', 'barked', '.'), (2, 2, 5, 2, 5, -1, 5),
    tags=('DET', 'ADJ', 'NOUN', 'PUNCT', 'PRON', 'VERB', 'PUNCT'))

def test_chain_by_hand():
    "Without punctuation the chain is The-old-dog-he-barked: old-dog and he-barked are edges; so are The-dog and dog-barked"
    assert attached(sentence, chain_distances(sentence))==(2, 4)
    assert uuas([sentence, sentence], [chain_distances(sentence), sentence.distances()])==6/8

def test_spanning_tree_by_hand():
    d = np.array([[0, 1, 4, 3.], [1, 0, 2, 9], [4, 2, 0, 5], [3, 9, 5, 0]])
    assert spanning_tree(d)==spanning_tree(d-3)=={(0, 1), (1, 2), (0, 3)}       # estimates may be 0 or less
    assert len(spanning_tree(np.zeros((4, 4))))==3

def test_words_without_company():
    one = Tree(('Hi',), (-1,))
    assert one.distances().tolist()==[[0]] and attached(one, one.distances())==(0, 0)
    assert in_two(np.ones((1, 3))).shape==(1, 2)

def test_picture_shows_words_and_mistakes():
    ax = plot_tree(sentence, np.arange(7)[:,None])
    assert [t.get_text() for t in ax.texts]==['The', 'old', 'dog', 'he', 'barked']
    assert sorted(l.get_linestyle() for l in ax.lines if l.get_linestyle()!='None')==['-', '-', '--', '--', ':', ':']

# CoNLL-U

def line(i, word, head, tag='NOUN'): return f'{i}\t{word}\t_\t{tag}\t_\t_\t{head}\tdep\t_\t_'
def written(tmp_path, *lines):
    path = tmp_path/'x.conllu'
    path.write_text('\n'.join(lines)+'\n\n', encoding='utf-8')
    return path

def test_multiword_tokens_and_empty_nodes(tmp_path):
    lines = ['# sent_id = s1', "1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\t_", line(1, 'do', 3), line(2, "n't", 3), line(3, 'go', 0, 'VERB'),
        '3.1\tgone\t_\tVERB\t_\t_\t_\t_\t_\t_', line(4, '!', 3, 'PUNCT')]
    t, = read_conllu(written(tmp_path, *lines))
    assert (t.words, t.heads, t.name)==(('do', "n't", 'go', '!'), (2, 2, -1, 2), 's1')
    assert t.spoken.tolist()==[0, 1, 2]

@pytest.mark.parametrize('lines, says', [
    (['1 a b'], 'must contain either tabs'), ([line('x', 'a', 0)], "'x' is not a valid ID"), ([line(1, 'a', 'q')], "'q'"),
    ([line(1, 'a', '_')], "'a' has no head"), ([line(1, 'a', 5)], 'a head is word 5, and there are 1 words'), (['1\ta'], 'no column upos'),
    ([line(1, 'a', 0), line(3, 'b', 1)], 'not numbered'), ([line(1, 'a', 0), line(2, 'b', 0)], '2 words have no head'),
    ([line(1, 'a', 0), line(2, 'b', 3), line(3, 'c', 2)], 'word 2 hangs in a circle'), ([line(1, 'a', 1)], '0 words have no head')])
def test_malformed_files(tmp_path, lines, says):
    "The error names the file and the sentence"
    path = written(tmp_path, line(1, 'fine', 0), '', *lines)
    with pytest.raises(ValueError, match=f'x.conllu, sentence 2: .*{says}'): read_conllu(path)

@pytest.mark.parametrize('lines', [[], ['# nothing']])
def test_file_without_sentences(tmp_path, lines):
    with pytest.raises(ValueError, match='x.conllu.*no (sentence|words)'): read_conllu(written(tmp_path, *lines))

def test_lengths(tmp_path):
    path = written(tmp_path, line(1, 'a', 0), '', line(1, 'b', 0), line(2, 'c', 1), '', line(1, 'd', 0))
    assert [len(t) for t in read_conllu(path, 2)]==[2] and [t.words for t in read_conllu(path, longest=1)]==[('a',), ('d',)]

def test_packaged_data_and_their_licences():
    for folder,names in (('ud-ewt', ('train.conllu', 'dev.conllu')), ('semcor', ('train.tsv', 'test.tsv'))):
        here = files('adaptprune')/'data'/folder
        assert {p.name for p in here.iterdir()}=={*names, 'LICENSE.txt', 'README.md'}
    assert 'ShareAlike 4.0' in (files('adaptprune')/'data'/'ud-ewt'/'LICENSE.txt').read_text()
    train,dev = packaged_trees(),packaged_trees('dev')
    assert (len(train), len(dev))==(200, 100) and all(5<=len(t)<=30 for t in train+dev)
    assert not {t.words for t in train} & {t.words for t in dev}
    assert len({o.word for o in packaged_senses()})==20
    assert not {o.words for o in packaged_senses()} & {o.words for o in packaged_senses('test')}

# Vectors of words

@pytest.fixture(scope='module')
def tokenizer():
    letters = 'abcdefghijklmnopqrstuvwxyz'
    vocab = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *letters, *('##'+l for l in letters)]
    return BertTokenizer(vocab={w: i for i,w in enumerate(vocab)})

@pytest.fixture
def encoder(tiny):
    made = tiny('Bert', vocab_size=57, max_position_embeddings=200)
    made.pooler = None
    return made

def test_a_word_is_the_mean_of_its_pieces(encoder, tokenizer):
    words = ('a', 'dog', 'ran')
    held = word_states(encoder, tokenizer, [('x',), words, ('so', 'it', 'is', 'now')])
    ids = tokenizer('a dog ran', return_tensors='pt')
    with torch.no_grad(): h = encoder(**ids, output_hidden_states=True).hidden_states
    for layer,x in enumerate(h):
        want = torch.stack([x[0,1], x[0,2:5].mean(0), x[0,5:8].mean(0)])
        assert torch.allclose(held.batch([1])[layer,0], want, atol=3e-3)        # held in float16
    assert held.lengths==(1, 3, 4) and held.states.shape==(3, 8, 16)

def test_order_and_batches_do_not_matter(encoder, tokenizer):
    some = [t.words for t in packaged_trees('dev')[:9]]
    a,b = word_states(encoder, tokenizer, some, batch_size=1), word_states(encoder, tokenizer, some, batch_size=4)
    assert torch.allclose(a.states.float(), b.states.float(), atol=3e-3)

def test_words_without_vectors_are_refused(tokenizer):
    with pytest.raises(ValueError, match='gets no piece'): with_words(tokenizer, [('a', '\x00')])
    with pytest.raises(ValueError, match='has 6 pieces, and 4 can be read'): with_words(tokenizer, [('a', 'dog')], max_length=4)
    with pytest.raises(ValueError, match='fast tokenizer'): with_words(object(), [('a',)])

# Probes

turn = np.linalg.qr(np.random.default_rng(0).normal(size=(60, 60)))[0]
def planted(trees):
    "At layer 0 the points of the theorem, turned; at layer 1 noise"
    rng = np.random.default_rng(1)
    x = np.concatenate([pythagorean(t, dim=60)@turn for t in trees])
    return Words(torch.tensor(np.stack([x, rng.normal(size=x.shape)])).half(), tuple(map(len, trees)))

@pytest.fixture(scope='module')
def cut(): return packaged_trees()

def test_probe_finds_a_planted_tree(cut):
    fit,held = cut[:150], cut[150:]
    found = guesses(fit_probe(planted(fit), [t.distances() for t in fit], rank=60, epochs=25), planted(held))
    tree,noise = (distance_scores(held, ds) for ds in found)
    assert tree['uuas']>.95 and tree['spearman']>.85
    assert noise['uuas']<.25

def test_depth_probe_finds_planted_depths(cut):
    fit,held = cut[:80], cut[150:]
    def deep(trees):
        d = np.concatenate([t.depths() for t in trees])
        x = np.sqrt(d)[:,None]*turn[0]+.05*np.random.default_rng(2).normal(size=(len(d), 60))
        return Words(torch.tensor(x[None]).half(), tuple(map(len, trees)))
    said, = guesses(fit_probe(deep(fit), [t.depths() for t in fit], rank=4, epochs=40), deep(held), 'depths')
    assert depth_score([t.depths() for t in held], said)>.9

def test_layers_do_not_influence_each_other(cut):
    words = planted(cut[:40])
    targets = [t.distances() for t in cut[:40]]
    both = fit_probe(words, targets, rank=8, epochs=2)
    alone = fit_probe(Words(words.states[:1], words.lengths), targets, rank=8, epochs=2)
    assert torch.allclose(both.b[:1], alone.b, atol=1e-5)
    other = fit_probe(words, targets, rank=8, epochs=2, seed=1)
    assert not torch.allclose(both.b, other.b, atol=1e-2)

def test_loss_by_hand():
    "The second sentence has one word: a pair of a word with itself"
    true = torch.tensor([[[0., 2.], [2., 0.]], [[0., torch.nan], [torch.nan, torch.nan]]])
    guess = torch.tensor([[[0., 1.], [1., 0.]], [[0., 7.], [7., 7.]]])[None]
    assert probe_loss(guess, true).tolist()==[(2/4+0)/2]

def test_padding_does_not_count(cut):
    probe,words = Probe(2, 60, 8),planted(cut[:6])
    both,alone = probe.distances(words.batch([0, 1])), probe.distances(words.batch([0]))
    n = len(cut[0])
    assert torch.allclose(both[:,:1,:n,:n], alone, atol=1e-5)
    with pytest.raises(ValueError, match='6 sentences have vectors and 5 have targets'): fit_probe(words, [t.depths() for t in cut[:5]])

def test_control_task_tells_memory_from_syntax(cut):
    "Vectors of word types solve the control task and are not selective; vectors of depths are selective"
    rng = np.random.default_rng(0)
    cut = cut[:60]
    own = {w: rng.normal(size=60) for w in sorted({w.lower() for t in cut for w in t.words})}
    types = Words(torch.tensor(np.stack([own[w.lower()] for t in cut for w in t.words])[None]).half(), tuple(map(len, cut)))
    depth,control = [t.depths() for t in cut], control_depths(cut)
    deep = Words(torch.tensor(np.sqrt(np.concatenate(depth))[None,:,None]*turn[0]).half(), types.lengths)
    def selectivity(words):
        def score(targets): return depth_score(targets, guesses(fit_probe(words, targets, rank=8, epochs=25), words, 'depths')[0])
        return score(depth)-score(control)
    assert selectivity(deep)>.5 and selectivity(types)<.1

def test_control_depths_belong_to_types(cut):
    by = {}
    for t,d in zip(cut, control_depths(cut, 3)):
        for w,v in zip(t.words, d): by.setdefault(w.lower(), set()).add(v)
    assert all(len(v)==1 for v in by.values()) and len(set.union(*by.values()))>3
    assert any((a!=b).any() for a,b in zip(control_depths(cut, 3), control_depths(cut, 4)))

# Attention

def test_pairs(cut):
    pairs = draw_pairs(cut, 400)
    assert len(pairs)==400==len(set(pairs))
    for p in pairs:
        t = cut[p.sentence]
        assert (t.heads[p.word]==p.other)==bool(p.relation) and p.word!=p.other
        assert t.tags[p.word]!='PUNCT' and (p.relation or t.tags[p.other]!='PUNCT')
    assert sum(bool(p.relation) for p in pairs)==200
    assert draw_pairs(cut, 400)==pairs!=draw_pairs(cut, 400, seed=1)

def test_attention_of_words_with_several_pieces(encoder, tokenizer):
    "To a word it is summed over pieces, from a word averaged; what is left goes to the two marks at the ends"
    t = Tree(('a', 'dog', 'ran'), (1, 2, -1), ('det', 'nsubj', 'root'), ('DET', 'NOUN', 'VERB'))
    was = encoder.config._attn_implementation
    got = pair_attention(encoder, tokenizer, [t], [Pair(0, 1, 2, 'nsubj'), Pair(0, 2, 0, '')])
    assert encoder.config._attn_implementation==was
    with torch.no_grad(), plain_attention(encoder):
        a = torch.cat(encoder(**tokenizer('a dog ran', return_tensors='pt'), output_attentions=True).attentions, 1)[0]
    assert np.allclose(got[0], a[:,2:5,5:8].mean(1).sum(-1).numpy(), atol=1e-6)
    assert np.allclose(got[1], a[:,5:8,1:2].mean(1).sum(-1).numpy(), atol=1e-6)

def test_classifiers_read_what_is_there():
    rng = np.random.default_rng(0)
    def made(n):
        pairs = [Pair(i, 0, 1, ('', 'det', '', 'nsubj')[i%4]) for i in range(n)]
        return np.array([[p.relation!='', p.relation=='det'] for p in pairs])+.1*rng.normal(size=(n, 2)), pairs
    (x,y),(a,b) = made(200),made(80)
    assert attention_scores(x, y, a, b)==dict(hangs=1., commonest=.5, relation=1.)
    noise = attention_scores(rng.normal(size=x.shape), y, rng.normal(size=a.shape), b)
    assert noise['hangs']<.7 and noise['relation']<.75

# Senses

head = 'doc\tsentence\ttokens\tsenses\n'
@pytest.mark.parametrize('text, says', [
    ('doc\tx\n', 'must begin with'), (head+'a\t1\tone\n', 'line 2'), (head+'a\t1\tone two\t5|one%1:00:00::\n', 'there is no token 5'),
    (head+'a\t1\tone\t0|one\n', 'no sense key'), (head+'a\t1\tone\tx|one%1:0::\n', 'line 2')])
def test_malformed_senses(tmp_path, text, says):
    (tmp_path/'x.tsv').write_text(text)
    with pytest.raises(ValueError, match=says): read_senses(tmp_path/'x.tsv')

def test_names_are_left_out_and_parts_are_split(tmp_path):
    rows = ['a\t1\tThe Fulton_County jury took_place\t1|group%1:03:00:: 2|jury%1:14:00:: 3|take_place%2:30:00::', 'a\t2\tlong '*1+'w '*70+'\t0|long%3:00:01::']
    (tmp_path/'x.tsv').write_text(head+'\n'.join(rows)+'\n')
    a,b = read_senses(tmp_path/'x.tsv')
    assert a.words[a.start:a.stop]==('jury',) and b.words[b.start:b.stop]==('took', 'place')
    assert b.sense=='take_place%2:30:00::' and b.word=='take_place%2'

def test_choice_of_senses():
    train,test = packaged_senses(),packaged_senses('test')
    some,asked = choose_senses(train, test, n=5)
    count = {s: sum(o.sense==s for o in some) for s in {o.sense for o in asked}}
    assert set(count.values())=={5} and set(count)=={o.sense for o in some}
    with pytest.raises(ValueError, match='two senses with 11 examples'): choose_senses(train, test, n=11)

def test_nearest_is_asked_among_senses_of_the_word():
    some = packaged_senses()
    word,other = sorted({o.word for o in some})[:2]
    a,b = sorted({o.sense for o in some if o.word==word})
    c = next(o.sense for o in some if o.word==other)
    def one(sense): return next(o for o in some if o.sense==sense)
    x = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1.]])
    assert nearest_senses(x, [one(a), one(b), one(c)], np.array([[.2, .3, 9], [.3, .2, 9]]), [one(a), one(a)])==[b, a]

def test_sense_vectors_are_those_of_the_word(encoder, tokenizer):
    some = [o for o in packaged_senses() if len(o.words)<15][:4]
    x = sense_vectors(encoder, tokenizer, some, chunk=2)
    for k,o in enumerate(some):
        want = word_states(encoder, tokenizer, [o.words]).states[:,o.start:o.stop].float().mean(1)
        assert np.allclose(x[:,k], want.numpy(), atol=3e-3)

# A mask for trees

def test_mask_for_trees_learns_where_it_may(encoder, tokenizer, cut):
    trees = [t for t in cut if len(t)<12][:32]
    batches = DataLoader(trees, 8, collate_fn=lambda some: tree_batch(tokenizer, some))
    before = {n: p.clone() for n,p in encoder.named_parameters()}
    model = TreeModel(encoder, 1, rank=8)
    res = adapt(model, batches, tree_loss, sparsity=.3, weights=['re:\\blayer\\.0\\.'], epochs=15, beta=.005, progress=False)
    assert set(res.mask)=={n for n in before if '.layer.0.' in n and before[n].ndim==2} and abs(res.mask.sparsity-.3)<.01
    losses = [r['loss'] for r in res.history]
    assert losses[-1]<.8*losses[0]
    for n,p in encoder.named_parameters(): assert torch.equal(p, before[n]*res.mask[n] if n in res.mask else before[n])

def test_tree_model_starts_at_a_probe(encoder, tokenizer, cut):
    "Its distances are the probe's, and the loss is what `probe_loss` says"
    probe = Probe(3, 16, 8)
    b = tree_batch(tokenizer, cut[:2])
    with torch.no_grad(): d = TreeModel(encoder, 2, probe)(**b)
    want = probe.distances(word_states(encoder, tokenizer, [t.words for t in cut[:2]]).batch([0, 1]))[2:3]
    there = ~b['distances'].isnan()
    assert torch.allclose(d[0][there], want[0][there], atol=2e-2)
    loss = tree_loss(TreeModel(encoder, 2, probe), b)
    assert torch.allclose(loss, probe_loss(d, b['distances'])[0], atol=1e-4) and loss.ndim==0

# The permutation test

def test_permutations_within_strata():
    "Exact: three of three in two strata can be arranged in 20*20 ways, and nothing is more extreme than a perfect split"
    a,b = [[9, 8, 7], [5, 6, 4]], [[1, 2, 3], [0, 1, 2]]
    assert stratified_permutation(a, b)==pytest.approx((5., 1/400))
    assert stratified_permutation(b, a)==pytest.approx((-5., 1.))
    effect,p = stratified_permutation([[1, 2, 3]], [[1, 2, 3]])
    assert effect==0 and p>.5
    with pytest.raises(ValueError, match='strata'): stratified_permutation([[1]], [[1], [2]])

# The study

@pytest.fixture
def cases(tmp_path):
    "The folder that the study reads, from the packaged cuts"
    data = files('adaptprune')/'data'
    for sub,names in (('ud-ewt', dict(train='en_ewt-train.conllu', dev='en_ewt-dev.conllu')), ('semcor', dict(train='brown1.tsv', test='brown2.tsv'))):
        (tmp_path/sub).mkdir()
        for name,new in names.items(): shutil.copy(data/sub/f'{name}{Path(new).suffix}', tmp_path/sub/new)
    return tmp_path

small = dict(train=16, dev=10, pairs=60, held_pairs=40, examples=5, rank=8, epochs=1, tree_steps=6)

def test_networks_of_the_study():
    def listed(*kinds, **how): return list(case.cells(kinds, **dict(dict(tasks=['stsb', 'cola'], sparsities=None, seeds=[0, 1, 2]), **how)))
    assert listed('dense')==[dict(network='dense')]
    assert [len(listed(k)) for k in ('magnitude', 'random', 'trees', 'mask', 'finetuned')]==[3, 9, 6, 12, 6]
    assert listed('mask', tasks=['cola'], sparsities=[.8], seeds=[1])==[dict(network='mask', task='cola', sparsity=.8, seed=1)]
    assert listed('magnitude', sparsities=[.5])==[dict(network='magnitude', sparsity=.5)]

@pytest.fixture
def go(cases, tiny, tokenizer, monkeypatch):
    "A function that runs the study small, on a tiny network, and returns its records"
    monkeypatch.setattr(case, 'sizes', small)
    monkeypatch.setattr(case, 'tree_layer', 1)
    monkeypatch.setattr(case, 'steps', dict(case.steps, **{'mini-sentiment': 3}))
    tiny('Bert', num_hidden_layers=1, vocab_size=57, max_position_embeddings=300).save_pretrained(cases/'tiny')
    tokenizer.save_pretrained(cases/'tiny')
    def run(**how):
        where = dict(cases=str(cases), keep=str(cases/'kept'), cache=str(cases/'cache'), out=str(cases/'out.json'), model=str(cases/'tiny'))
        case.main(**where, **how)
        return json.loads((cases/'out.json').read_text())
    return run

def test_study_goes_on(cases, go):
    "Every kind of measure is recorded once; a mask that was learnt is read again; masks are where and as sparse as they say"
    rows = go(only='dense,trees,random', sparsities='0.5', seeds='1', measure='trees')
    assert [r['cell']['network'] for r in rows]==['dense', 'trees', 'random']
    assert rows[1]['network']['sparsity']==pytest.approx(.5, abs=.01)==rows[2]['network']['by_layer'][0]
    assert [f['probe_seed'] for f in rows[0]['found']]==[0, 1, 2] and len(rows[0]['found'][0]['uuas'])==2
    assert rows[1]['found']!=rows[0]['found'] and '--seeds 1' in rows[1]['command']
    mask, = (cases/'kept').glob('*.pt')
    made = mask.stat().st_mtime_ns
    (cases/'out.json').write_text(json.dumps(rows[:1]))
    rows = go(only='dense,trees', sparsities='0.5', seeds='1', measure='trees,senses,attention')
    assert len(rows)==6 and mask.stat().st_mtime_ns==made
    assert all(0<=f['hangs']<=1 for f in rows[2]['found']) and 0<rows[1]['found'][0]['accuracy'][0]<=1

def test_masks_of_tasks_and_their_teacher(cases, go):
    "One teacher serves both; the mask is of the layers; the fine-tuned network is no longer the untouched one"
    rows = go(only='dense,mask,finetuned', task='mini-sentiment', sparsities='0.5', seeds='0', measure='attention')
    assert [r['cell']['network'] for r in rows]==['dense', 'mask', 'finetuned']
    assert len(list((cases/'cache').glob('teacher-*.pt')))==1
    assert rows[1]['network']['teacher_metrics']==rows[2]['network']['metrics']
    assert rows[1]['network']['by_layer']==[pytest.approx(.5, abs=.01)]

def test_study_says_what_it_lacks(tmp_path):
    with pytest.raises(SystemExit, match='No folder ud-ewt'): case.main(cases=str(tmp_path))
    (tmp_path/'ud-ewt').mkdir()
    with pytest.raises(SystemExit, match="Unknown network 'all'"): case.main(cases=str(tmp_path), only='all')
