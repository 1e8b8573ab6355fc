"Language models: ONNX of mask files beside PyTorch, and many of them on one base in a `MultiTask`, from their files alone."
import copy,pickle,shutil
import numpy as np,pytest,torch,transformers
from adaptprune.artifact import BaseMismatch,MaskFileError,TaskMask
from adaptprune.compaction import compact
from adaptprune.head import AdaptModel,load_encoder
from adaptprune.layer import fingerprint
from adaptprune.mask import Mask
from adaptprune.multitask import MultiTask
from adaptprune.predict import load
from adaptprune.units import base_of,find_units
from test_units import drawn

kinds = {'masked': ('Bert', 'ForMaskedLM', {}), 'untied': ('Bert', 'ForMaskedLM', dict(tie_word_embeddings=False)),
    'roberta': ('Roberta', 'ForMaskedLM', {}), 'distil': ('DistilBert', 'ForMaskedLM', {}), 'causal': ('GPT2', 'LMHeadModel', {}),
    'causal untied': ('GPT2', 'LMHeadModel', dict(tie_word_embeddings=False))}

def prune(model, seed, output=False):
    "Without about a third of its base's matrices, and of its output layer"
    gen = torch.Generator().manual_seed(seed)
    base = base_of(model)
    table = base.get_input_embeddings().weight
    outer = [p for n,p in model.named_parameters() if output and p.ndim>1 and all(p is not q for q in base.parameters())]
    with torch.no_grad():
        for p in [*base.parameters(), *outer]:
            if p.ndim>1 and p is not table: p.mul_(torch.rand(p.shape, generator=gen)>.3)
    return model.eval()

@pytest.fixture
def place(folder, tmp_path):
    shutil.copytree(folder, tmp_path/'base')
    return tmp_path/'base'

def base_of_kind(kind, tiny, place):
    family,end,changes = kinds[kind]
    layers = dict(Bert='num_hidden_layers', Roberta='num_hidden_layers', DistilBert='n_layers', GPT2='n_layer')[family]
    tiny(family, end, **{layers: 1}, **changes).save_pretrained(place)
    return getattr(transformers, family+end)

def lm(kind, cls, place, path, seed, output=False, learn=()):
    "A mask file of a language model, of which some parts of the output layer may be trained"
    model = prune(cls.from_pretrained(place), seed, output)
    with torch.no_grad():
        for n in learn: model.get_parameter(n).add_(seed)
    TaskMask.from_model(model, str(place), f'style {seed}').save_pretrained(path)
    return model

ids = torch.randint(5, 15, (3, 7), generator=torch.Generator().manual_seed(0))
tokens = dict(input_ids=ids, attention_mask=torch.tensor([[1]*7, [1]*7, [1]*4+[0]*3]))

@torch.no_grad()
def logits(model): return model(**tokens).logits

# ---- ONNX
@pytest.mark.slow
@pytest.mark.parametrize('kind', ['masked', 'causal', 'untied'])
def test_onnx(kind, tiny, place, tmp_path, command):
    "By command, from the file: the logits of every token, with any numbers of rows and tokens"
    for name in ('onnx', 'onnxruntime', 'onnxscript'): pytest.importorskip(name)
    from adaptprune.export import OnnxRunner
    model = lm(kind, base_of_kind(kind, tiny, place), place, tmp_path/'m', 1, output=kind=='untied')
    assert 'outputs differ' in command('export', tmp_path/'m', '--out', tmp_path/'m.onnx')
    run = OnnxRunner(tmp_path/'m.onnx')
    for rows,n in [(3, 7), (1, 1), (2, 4)]:
        some = {k: v[:rows,:n] for k,v in tokens.items()}
        with torch.no_grad(): want = model(**some).logits
        np.testing.assert_allclose(run.named(some)['logits'], want, atol=1e-4)
    assert 'leave out first_token' in command('export', tmp_path/'m', '--first-token', '--out', tmp_path/'x', fails=True)

# ---- MultiTask
@pytest.mark.parametrize('kind', kinds)
def test_many_on_one_base(kind, tiny, place, tmp_path):
    "Each answers as alone; the base comes back; everything of the base is there once"
    cls = base_of_kind(kind, tiny, place)
    outer = kind in ('untied', 'causal untied')
    models = {f's{i}': lm(kind, cls, place, tmp_path/f's{i}', i, output=outer) for i in (1, 2)}
    many = MultiTask.from_pretrained({n: tmp_path/n for n in models})
    before = fingerprint(many.model)
    assert type(many.model) is cls
    for n in ('s1', 's2', 's1'): assert torch.equal(many(tasks=n, **tokens).logits, logits(models[n]))
    assert torch.equal(many(tasks='dense', **tokens).logits, logits(cls.from_pretrained(place).eval()))
    mixed = many(tasks=['s1', 's2', 'dense'], **tokens)
    for i,(row,n) in enumerate(zip(mixed, ['s1', 's2'])): torch.testing.assert_close(row, logits(models[n])[i], atol=1e-5, rtol=1e-4)
    m = many.memory()
    assert m['heads']=={'dense': 0, 's1': 0, 's2': 0} and m['base']==sum(p.nbytes for p in many.model.parameters())
    assert many.mask('s1')==TaskMask.from_pretrained(tmp_path/'s1').mask
    again = pickle.loads(pickle.dumps(many))
    assert torch.equal(again(tasks='s2', **tokens).logits, logits(models['s2']))
    many.use('s2')
    many.close()
    assert fingerprint(many.base)==fingerprint(base_of(cls.from_pretrained(place)))
    assert before==fingerprint(again.model) if again.task=='dense' else True

def test_generating(tiny, place, tmp_path):
    cls = base_of_kind('causal', tiny, place)
    models = {f's{i}': lm('causal', cls, place, tmp_path/f's{i}', i) for i in (1, 2)}
    how = dict(max_new_tokens=5, do_sample=False, pad_token_id=0)
    with MultiTask.from_pretrained([tmp_path/n for n in models]) as many:
        for n,m in models.items():
            with many.use(n): assert torch.equal(many.model.generate(ids[:1], **how), m.generate(ids[:1], **how))
        with pytest.raises(ValueError, match=r"'s1' is a language model, .*generate with its `model`"): many.predict(['a b'], 's1')

@pytest.mark.parametrize('kind, learn', [('masked', ['cls.predictions.bias', 'cls.predictions.transform.LayerNorm.weight']), ('untied', ['cls.predictions.decoder.weight'])])
def test_parts_of_the_output_layer_that_a_task_learnt(kind, learn, tiny, place, tmp_path):
    "They are its own, and the others' are as they were"
    cls = base_of_kind(kind, tiny, place)
    a = lm(kind, cls, place, tmp_path/'a', 1, learn=learn)
    b = lm(kind, cls, place, tmp_path/'b', 2)
    c = lm(kind, cls, place, tmp_path/'c', 3, learn=learn)
    with MultiTask.from_pretrained({n: tmp_path/n for n in 'abc'}) as many:
        for n,model in zip('abcab', (a, b, c, a, b)): assert torch.equal(many(tasks=n, **tokens).logits, logits(model))
        assert torch.equal(many(tasks='dense', **tokens).logits, logits(cls.from_pretrained(place).eval()))
        heads = many.memory()['heads']
        assert heads['b']==0 and heads['a']==sum(a.get_parameter(n).nbytes for n in learn)

def test_a_compact_one_beside_them(tiny, place, tmp_path):
    cls = base_of_kind('masked', tiny, place)
    a = lm('masked', cls, place, tmp_path/'a', 1)
    torch.manual_seed(0)
    model = cls.from_pretrained(place)
    small = prune(compact(model, drawn(find_units(model))), 2)
    with torch.no_grad(): small.cls.predictions.bias.add_(1)
    TaskMask.from_model(small, str(place), 'small').save_pretrained(tmp_path/'small')
    with MultiTask.from_pretrained({'a': tmp_path/'a', 'small': tmp_path/'small'}) as many:
        for n,want in [('small', small), ('a', a), ('small', small)]: assert torch.equal(many(tasks=n, **tokens).logits, logits(want))
        assert torch.equal(many(tasks='dense', **tokens).logits, logits(cls.from_pretrained(place).eval()))
        many.use('small')
        with pytest.raises(RuntimeError, match='is compact'): many.base(ids)

def test_beside_a_classifier(tiny, place, tmp_path):
    "A classifier on the encoder of the same model: one base for both, in either order of the files"
    cls = base_of_kind('masked', tiny, place)
    style = lm('masked', cls, place, tmp_path/'style', 1)
    torch.manual_seed(0)
    net = prune(AdaptModel(load_encoder(str(place)), 2), 3)
    TaskMask.from_model(net, str(place), 'mood', 12).save_pretrained(tmp_path/'mood')
    want = load(tmp_path/'mood').predict(['a b c'])
    for names in (['mood', 'style'], ['style', 'mood']):
        with MultiTask.from_pretrained([tmp_path/n for n in names]) as many:
            assert many.predict(['a b c'], 'mood')[0]['probability']==pytest.approx(want[0]['probability'], rel=1e-5)
            assert torch.equal(many(tasks='style', **tokens).logits, logits(style))
            assert torch.equal(many(tasks='mood', **tokens).logits, logits(net))

def test_what_does_not_go_together(tiny, place, tmp_path):
    cls = base_of_kind('masked', tiny, place)
    lm('masked', cls, place, tmp_path/'a', 1)
    many = MultiTask(load_encoder(str(place)))
    with pytest.raises(BaseMismatch, match='on a whole BertForMaskedLM, .* open on a BertModel: open it on a BertForMaskedLM'): many.add('a', tmp_path/'a')
    assert many.tasks==['dense']
    other = transformers.BertLMHeadModel.from_pretrained(place)
    with pytest.raises(BaseMismatch, match='on a whole BertForMaskedLM'): MultiTask(other, dict(a=tmp_path/'a'))
    another = tiny('Bert', 'ForMaskedLM', seed=5)
    with pytest.raises(BaseMismatch, match='not the base'): MultiTask(another, dict(a=tmp_path/'a'))
    whole = cls.from_pretrained(place)
    tm = TaskMask.from_pretrained(tmp_path/'a')
    tm.head = {'bert.embeddings.LayerNorm.weight': torch.ones(16)}
    before = fingerprint(whole)
    with pytest.raises(MaskFileError, match='values for weights of the base'): MultiTask(whole, dict(a=tm))
    assert fingerprint(whole)==before

def test_words_that_are_outputs_too_are_the_bases(tiny, place, tmp_path):
    "A language model whose encoder alone was adapted: its output layer is its head, and tied to the base's own words"
    from adaptprune.loop import adapt
    cls = base_of_kind('masked', tiny, place)
    model = cls.from_pretrained(place)
    batch = dict(tokens, labels=ids)
    res = adapt(model, [batch], sparsity=.3, max_steps=3, recipe='default', progress=False, base=model.bert)
    tm = TaskMask.from_adapted(res)
    tm.save_pretrained(tmp_path/'m')
    alone = TaskMask.from_pretrained(tmp_path/'m').load_model(str(place))
    with MultiTask.from_pretrained({'m': tmp_path/'m'}, str(place)) as many:
        assert torch.equal(many(tasks='m', **tokens).logits, logits(alone))
        with many.use('m'): assert many.model.get_output_embeddings().weight is many.base.get_input_embeddings().weight

# ---- sentence encoders
@pytest.mark.parametrize('parts', ['mean', 'cls', 'dense', 'several'])
def test_sentence_encoders_from_files(parts, folder, place, tmp_path):
    pytest.importorskip('sentence_transformers')
    from test_sentence import make,texts
    for i in (1, 2):
        model = make(place, parts if i==1 else 'mean')
        gen = torch.Generator().manual_seed(i)
        with torch.no_grad():
            for p in base_of(model).parameters():
                if p.ndim>1: p.mul_(torch.rand(p.shape, generator=gen)>.3)
        TaskMask.from_model(model, str(place), f'v{i}').save_pretrained(tmp_path/f'v{i}')
    some = [t[:15] for t in texts]
    want = {n: load(tmp_path/n).predict(some) for n in ('v1', 'v2')}
    with MultiTask.from_pretrained([tmp_path/'v1', tmp_path/'v2']) as many:
        before = fingerprint(many.base)
        for n in ('v1', 'v2', 'v1'): np.testing.assert_allclose(many.predict(some, n), want[n], atol=1e-6)
        mixed = many.predict(some[:2], ['v1', 'v2'])
        for i,n in enumerate(('v1', 'v2')): np.testing.assert_allclose(mixed[i], want[n][i], atol=1e-5)
        batch = dict(many.tokenizer(some[:2], padding=True, return_tensors='pt'))
        rows = many(tasks=['v1', 'v2'], **batch)
        for i,n in enumerate(('v1', 'v2')): np.testing.assert_allclose(rows[i], want[n][i], atol=1e-5)
        again = pickle.loads(pickle.dumps(many))
        np.testing.assert_allclose(again.predict(some, 'v2'), want['v2'], atol=1e-6)
        with many.use('dense'): assert fingerprint(many.base)==before

def test_sentence_encoders_of_other_bases(place, tmp_path):
    "On a `SentenceTransformer`, on an encoder that says where it came from, and on one that does not; a compact one"
    pytest.importorskip('sentence_transformers')
    from test_sentence import make,texts
    from test_export_kinds import vectors_file
    vectors_file(place, tmp_path/'v', 'dense', cut=True, truncate_dim=5)
    some = [t[:15] for t in texts]
    want = load(tmp_path/'v').predict(some)
    bare = load_encoder(str(place))
    for base in (make(place, 'mean'), bare):
        with MultiTask(base, dict(v=tmp_path/'v')) as many: np.testing.assert_allclose(many.predict(some, 'v'), want, atol=1e-6)
    nameless = load_encoder(str(place))
    nameless.config.name_or_path = nameless.name_or_path = ''
    with pytest.raises(ValueError, match='needs its tokenizer too'): MultiTask(nameless, dict(v=tmp_path/'v'))
