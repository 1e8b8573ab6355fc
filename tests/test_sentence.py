"SentenceTransformer: trained by its own Trainer and losses, saved as a mask file, loaded in another process, made smaller."
import copy,json,os,pickle,shutil,sys
import numpy as np,pandas as pd,pytest,torch,transformers
pytest.importorskip('sentence_transformers')
from datasets import Dataset
from sentence_transformers import SentenceTransformer,SentenceTransformerTrainer,SentenceTransformerTrainingArguments
try:
    from sentence_transformers.sentence_transformer import modules as models
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss,MultipleNegativesRankingLoss
except ImportError:     # version 5
    from sentence_transformers import models
    from sentence_transformers.losses import CoSENTLoss,MultipleNegativesRankingLoss
from test_units import drawn
from adaptprune.artifact import BaseMismatch,TaskMask
from adaptprune.codec import MaskFileError
from adaptprune.compaction import compact
from adaptprune.compression import compress
from adaptprune.loop import adapt
from adaptprune.mask import n_pruned
from adaptprune.optim import MaskOptimizer
from adaptprune.predict import CutText,EmptyText,load
from adaptprune.sentence import sentence_facts
from adaptprune.trainer import MaskCallback
from adaptprune.units import base_of,find_units

texts = ['a b c', 'd e', 'f g h i j a b c d e f g h', 'b']
T = 6

@pytest.fixture
def base(folder, tmp_path):
    "A base with a trained pooler, as MiniLM has one, in a folder beside that of the masks"
    shutil.copytree(folder, tmp_path/'base')
    return tmp_path/'base'

def dense(): return models.Dense(16, 8, activation_function=torch.nn.Tanh())
behind = {'mean': lambda: [models.Pooling(16, 'mean'), models.Normalize()], 'cls': lambda: [models.Pooling(16, 'cls')],
    'dense': lambda: [models.Pooling(16, 'mean'), dense(), models.LayerNorm(8), models.Dropout(.1), models.Normalize()],
    'several': lambda: [models.Pooling(16, ('cls', 'max'))]}

def make(path, parts='mean', length=12, seed=0, **kwargs):
    torch.manual_seed(seed)
    rest = behind[parts]()
    return SentenceTransformer(modules=[models.Transformer(str(path), max_seq_length=length), *rest], device='cpu', **kwargs)

def scored(n=32): return Dataset.from_dict(dict(a=[f'{"abcd"[i%4]} {"efgh"[i%3]}' for i in range(n)], b=[f'{"abcd"[i%4]} {"hij"[i%3]}' for i in range(n)], score=[i%5/4 for i in range(n)]))
data = dict(mnr=lambda m: (scored().remove_columns('score'), MultipleNegativesRankingLoss(m)), cosent=lambda m: (scored(), CoSENTLoss(m)))

def train(model, tmp_path, loss='mnr', sparsity=.4, steps=T, **kwargs):
    head = [p for m in list(model)[1:] for p in m.parameters()]
    opt = MaskOptimizer(base_of(model), head=head, sparsity=sparsity, steps=T, every=2, start='rank', spread=.01, **kwargs)
    rows,loss = data[loss](model)
    args = SentenceTransformerTrainingArguments(output_dir=str(tmp_path/'t'), max_steps=steps, per_device_train_batch_size=8, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy='no')
    SentenceTransformerTrainer(model, args, train_dataset=rows, loss=loss, optimizers=(opt, None), callbacks=[MaskCallback(opt)]).train()
    return opt

def same(a, b): return np.array_equal(a.encode(texts), b.encode(texts))

@pytest.mark.parametrize('loss', data)
@pytest.mark.parametrize('parts', behind)
def test_the_trainer_leaves_a_mask_file(loss, parts, base, tmp_path):
    "The target is met to the weight, kept weights are the base's, and the file gives the same vectors again"
    model = make(base, parts)
    before = {n: p.clone() for n,p in base_of(model).named_parameters()}
    opt = train(model, tmp_path, loss)
    mask = opt.mask()
    assert mask.numel-mask.kept==n_pruned(mask.numel, .4)
    for n,p in base_of(model).named_parameters(): assert torch.equal(p, before[n]*mask[n] if n in mask else before[n]), n
    tm = TaskMask.from_model(model, task='t')
    assert all(torch.equal(m | (before[n]==0), mask[n] | (before[n]==0)) for n,m in tm.mask.items())
    assert {n.split('.')[0] for n in tm.head}==({'2', '3'} if parts=='dense' else set())
    tm.save_pretrained(tmp_path/'m')
    p = load(tmp_path/'m')
    assert same(p.model, model) and np.array_equal(p.predict(texts[:2]), model.encode(texts[:2]))
    assert [type(m).__name__ for m in p.model]==[type(m).__name__ for m in model] and p.card.n_out==model.encode('a').size
    assert p.card.kind=='vectors' and p.card.max_length==12 and not p.model.training

def test_another_process(base, tmp_path, elsewhere):
    "Found beside the file, by the card: masks, a dense layer with prompts, a structure; vectors to the bit"
    made = dict(plain=make(base), dense=make(base, 'dense', prompts=dict(q='a b ', d=''), default_prompt_name='q', truncate_dim=5, similarity_fn_name='dot'))
    whole = make(base)
    made['small'] = compact(whole, drawn(find_units(whole)))
    for n,m in made.items():
        train(m, tmp_path)
        TaskMask.from_model(m, task=n).save_pretrained(tmp_path/n)
        np.save(tmp_path/f'{n}.npy', m.encode(texts))
    code = '''
import json, sys, numpy as np, adaptprune
from pathlib import Path
at,found = Path(sys.argv[1]),[]
for n in ("plain", "dense", "small"):
    p = adaptprune.load(at/n)
    got = p.encode(["a b c", "d e", "f g h i j a b c d e f g h", "b"])
    assert (got==np.load(at/f"{n}.npy")).all(), n
    found.append([n, got.shape[1], p.model.similarity_fn_name, p.model.default_prompt_name])
Path('found.json').write_text(json.dumps(found))'''
    (tmp_path/'elsewhere').mkdir()
    elsewhere(code, tmp_path, cwd=tmp_path/'elsewhere')
    found = json.loads((tmp_path/'elsewhere/found.json').read_text())
    assert found==[['plain', 16, 'cosine', None], ['dense', 5, 'dot', 'q'], ['small', 16, 'cosine', None]]

def test_a_structure(base, tmp_path):
    whole = make(base)
    small = compact(whole, drawn(find_units(whole)))
    train(small, tmp_path)
    tm = TaskMask.from_model(small, make(base))
    tm.save_pretrained(tmp_path/'m')
    tm = TaskMask.from_pretrained(tmp_path/'m')
    again = tm.load_model(whole)
    assert tm.structure==base_of(small).structure and 0<tm.cut()['removed']<1 and same(again, small)
    assert same(whole, make(base)), 'the base that you give stays'
    assert sum(p.numel() for p in again.parameters())<sum(p.numel() for p in whole.parameters())

def features(model, batch):
    x,y = [model(model.tokenizer(t, padding=True, return_tensors='pt'))['sentence_embedding'] for t in batch]
    return (x-y).square().sum(1).mean()

def test_adapt_takes_one(base, tmp_path, recwarn):
    "Without naming the base; the pooler, which is not read, is not in the file"
    model = make(base, 'dense')
    res = adapt(model, [(texts[:2], texts[2:])]*4, features, sparsity=.3, max_steps=4, progress=False, recipe='default', every=2, start='rank')
    tm = TaskMask.from_adapted(res, task='mine')
    assert not any(n.startswith('pooler') for n in [*tm.mask, *tm.base['tensors'], *tm.head]) and not any('counts as pre-trained' in str(w.message) for w in recwarn)
    tm.save_pretrained(tmp_path/'m')
    assert same(load(tmp_path/'m').model, model) and load(tmp_path/'m').card.max_length==12

# What is refused

def test_another_base(base, tmp_path):
    model = make(base)
    train(model, tmp_path)
    TaskMask.from_model(model).save_pretrained(tmp_path/'m')
    other = make(base)
    with torch.no_grad(): base_of(other).encoder.layer[0].attention.self.query.weight.mul_(2)
    with pytest.raises(BaseMismatch, match='This is not the base'): load(tmp_path/'m', other)
    with pytest.raises(BaseMismatch, match='was trained'): TaskMask.from_model(model, other)
    with pytest.raises(ValueError, match='needs its tokenizer too'): TaskMask.from_pretrained(tmp_path/'m').load_model(base_of(make(base)))
    small = compact(make(base), drawn(find_units(make(base))))
    with pytest.raises(BaseMismatch, match='lost heads and neurons'): load(tmp_path/'m', small)
    with pytest.raises(ValueError, match='none is pruned'): TaskMask.from_model(make(base))

def test_parts_without_words(base):
    first = models.Transformer(str(base))
    def facts(*parts): return sentence_facts(SentenceTransformer(modules=[*parts], device='cpu'))
    with pytest.raises(ValueError, match='no words for, WordWeights'): facts(first, models.Pooling(16), models.WordWeights(['a'], {}))
    with pytest.raises(ValueError, match="activation should be one of PyTorch's"): facts(first, models.Pooling(16), models.Dense(16, 8, activation_function=base_of(make(base)).encoder.layer[0].intermediate.intermediate_act_fn))
    with pytest.raises(ValueError, match='begins with StaticEmbedding'): facts(models.StaticEmbedding(first.tokenizer, embedding_dim=16))

@pytest.mark.parametrize('change, words', [
    (dict(modules=[dict(type='Router', config={})]), "'Router' is not known"), (dict(modules=[dict(type='Dense', config=dict(in_features=16, out_features=8, activation_function='os.system'))]), "one of PyTorch's"),
    (dict(modules=[dict(type='Pooling', config=dict(embedding_dimension=16, pooling_mode='best'))]), 'best'), (dict(modules=3), 'cannot be made'), (dict(prompts=7), 'cannot be made')])
def test_files_hold_only_known_parts(change, words, base, tmp_path):
    model = make(base)
    train(model, tmp_path)
    tm = TaskMask.from_model(model)
    tm.info['sentence'].update(change)
    with pytest.raises(MaskFileError, match=words): tm.load_model(str(base))

def test_without_the_library(base, tmp_path, monkeypatch):
    model = make(base)
    train(model, tmp_path)
    tm = TaskMask.from_model(model)
    monkeypatch.setitem(sys.modules, 'sentence_transformers', None)
    with pytest.raises(ImportError, match=r"pip install 'adaptprune\[sentence\]'"): tm.load_model(str(base))

# The predictor

@pytest.fixture
def p(base, tmp_path):
    model = make(base)
    train(model, tmp_path)
    return load(TaskMask.from_model(model, task='near').save_pretrained(tmp_path/'m'))

def test_rows_without_text_and_long_ones(p):
    with pytest.warns(EmptyText, match='1 of 3'): got = p.predict(['a', None, 'b c'])
    assert got.shape==(3, 16) and np.isnan(got[1]).all() and np.array_equal(got[[0, 2]], p.encode(['a', 'b c']))
    with pytest.warns(CutText, match='1 of 4 texts were cut: the model reads 12'): p.predict(texts)
    assert p.predict('a b').shape==(16,) and np.array_equal(p.predict('a b'), p.encode('a b')) and p.predict([]).shape==(0, 16)
    frame = p.predict(pd.DataFrame(dict(text=['a', 'b']), index=[7, 9]), as_frame=True)
    assert list(frame.index)==[7, 9] and np.allclose(frame.vector[9], p.encode('b'))

def test_measured_on_pairs(p):
    rows = scored().to_list()
    got = p.evaluate([dict(text_a=r['a'], text_b=r['b'], label=r['score']) for r in rows])
    x,y = (p.encode([r[k] for r in rows]) for k in 'ab')
    want = pd.Series((x*y).sum(1)).corr(pd.Series([r['score'] for r in rows]), method='spearman')
    assert list(got)==['spearman', 'pearson'] and got['spearman']==pytest.approx(want, abs=1e-4)
    with pytest.raises(ValueError, match='pairs of texts with a score'): p.evaluate([(0, ['a', 1.])])

def test_what_vectors_have_not(p):
    for f in (p.predict_proba, lambda t: p.pipeline()):
        with pytest.raises(ValueError, match='no classes|labels and scores'): f(['a'])
    assert 'a vector' in repr(p)

def test_pickled(p): assert np.array_equal(pickle.loads(pickle.dumps(p)).predict(texts[:2]), p.predict(texts[:2]))

def test_a_shorter_length(base, tmp_path, p):
    short = load(tmp_path/'m', max_length=5)
    assert short.model.max_seq_length==5 and np.array_equal(short.encode('a b c d e f'), short.encode('a b c'))

def test_a_card_for_the_hub(p, tmp_path):
    card = TaskMask.from_pretrained(tmp_path/'m').model_card('me/near')
    assert "load('me/near').predict(['a text'])" in card and 'sentence-similarity' in card

# Made smaller

def test_compress_takes_one(tiny, base, tmp_path):
    "The folder is one of the library, with its parts"
    tiny('Bert', num_hidden_layers=1, max_position_embeddings=128).save_pretrained(base)
    rows = [f'{"abcdefghij"[i%10]} {"abcdefghij"[i//10]} {"ace"[i%3]}' for i in range(90)]
    model = make(base)
    got = compress(model, rows, tmp_path/'small', remove=.4, steps=3, formats='none', memory=False, progress=False)
    again = SentenceTransformer(str(tmp_path/'small'), trust_remote_code=True, device='cpu')
    assert [type(m).__name__ for m in again]==['Transformer', 'Pooling', 'Normalize'] and got.report['model']=='base'
    x = again.encode(rows[:8])
    assert np.allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5) and not np.array_equal(x, model.encode(rows[:8]))

def test_many_masks_on_one_encoder(base, tmp_path):
    "MultiTask holds a sentence encoder: each mask in its turn, and the encoder as it was afterwards"
    from adaptprune.multitask import MultiTask
    whole,made = make(base),{}
    for n,loss in (('a', 'mnr'), ('b', 'cosent')):
        model = make(base)
        train(model, tmp_path, loss)
        made[n] = (model, TaskMask.from_model(model))
    before = whole.encode(texts)
    mt = MultiTask(whole, {n: tm for n,(_,tm) in made.items()})
    for n in 'ab':
        with mt.use(n): assert same(whole, made[n][0])
    assert np.array_equal(whole.encode(texts), before) and not same(made['a'][0], made['b'][0])
    mt.close()

def test_the_commands(command, base, tmp_path):
    "apply and evaluate on tables"
    model = make(base)
    train(model, tmp_path)
    TaskMask.from_model(model, task='near').save_pretrained(tmp_path/'m')
    pd.DataFrame(dict(text=['a b', 'c'])).to_csv('t.csv', index=False)
    assert 'vectors' in command('info', 'm')
    assert command('apply', 'm', '--input', 't.csv').splitlines()[0].endswith('...)  a b')
    command('apply', 'm', '--input', 't.csv', '--out', 'o.csv')
    assert np.allclose(json.loads(pd.read_csv('o.csv').vector[1]), model.encode('c'))
    frame = scored().to_pandas().rename(columns=dict(a='sentence1', b='sentence2', score='label'))
    frame.to_csv('d.csv', index=False)
    got = json.loads(command('evaluate', 'm', '--dev', 'd.csv', '--json'))['metrics']['dev']
    assert got==pytest.approx(load('m').evaluate(frame.rename(columns=dict(sentence1='text_a', sentence2='text_b'))))
    assert 'give --dev' in command('evaluate', 'm', fails=True)
