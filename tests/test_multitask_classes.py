"Tasks of classes of transformers in a `MultiTask`, from their files alone: the modules of one base, each with its own head."
import shutil
import pytest,torch,transformers
from adaptprune.artifact import BaseMismatch,TaskMask
from adaptprune.compaction import compact
from adaptprune.layer import fingerprint
from adaptprune.multitask import MultiTask
from adaptprune.predict import load
from adaptprune.taskcard import TaskCard
from adaptprune.units import base_of,find_units
from test_units import drawn

def prune(model, seed):
    "Without about a third of its base's matrices"
    gen = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in base_of(model).parameters():
            if p.ndim>1: p.mul_(torch.rand(p.shape, generator=gen)>.3)
    return model.eval()

kinds = dict(qa='ForQuestionAnswering', tags='ForTokenClassification', mood='ForSequenceClassification')
names = dict(id2label={0: 'O', 1: 'B-X'}, label2id={'O': 0, 'B-X': 1})
texts = dict(qa=('a', 'b c d e f g h i j a b c d e f'), tags='a b c d', mood='b c')

@pytest.fixture(scope='module', params=['Bert', 'DistilBert', 'Roberta'])
def files(request, tiny, folder, tmp_path_factory):
    "Name -> folder of a mask file, all beside their base"
    path = tmp_path_factory.mktemp('many')
    shutil.copytree(folder, path/'base')
    tiny(request.param).save_pretrained(path/'base')
    for i,(name,kind) in enumerate(kinds.items()):
        torch.manual_seed(i)
        how = {} if name=='qa' else names
        model = prune(getattr(transformers, request.param+kind).from_pretrained(path/'base', **how), i)
        TaskMask.from_model(model, max_length=12).save_pretrained(path/name)
    return {n: path/n for n in kinds}

def same(a, b):
    "Equal answers, numbers up to the last digits"
    if isinstance(a, dict): return a.keys()==b.keys() and all(same(v, b[k]) for k,v in a.items())
    if isinstance(a, list): return len(a)==len(b) and all(map(same, a, b))
    return a==pytest.approx(b, rel=1e-4) if isinstance(a, float) else a==b

def test_each_answers_as_alone(files):
    alone = {n: load(f).predict(texts[n]) for n,f in files.items()}
    many = MultiTask.from_pretrained(files)
    before = fingerprint(many.base)
    for n in [*files, *reversed(files)]: assert same(many.predict(texts[n], n), alone[n])
    mixed = [*files, 'qa', 'mood']
    for n,got in zip(mixed, many.predict([texts[n] for n in mixed], mixed), strict=True): assert same(got, alone[n])
    with many.use('dense'): assert fingerprint(many.base)==before
    many.close()
    assert fingerprint(many.base)==before

def test_one_base_in_memory(files):
    "Every weight of the base is there once; a head costs its own numbers"
    with MultiTask.from_pretrained(files) as many:
        own = {id(p) for p in many.base.parameters()}
        for n,f in files.items():
            with many.use(n):
                beside = [p for p in many.model.parameters() if id(p) not in own]
                assert sum(p.numel() for p in beside)==sum(t.numel() for t in TaskMask.from_pretrained(f).head.values())
        assert many.memory()['heads']['qa']<many.memory()['base']/50 and set(many.memory()['heads'])=={'dense', *files}

def test_a_base_with_a_pooler(files):
    "A module with a part that a class does not read: it is left out there, and stays the base's"
    base = transformers.AutoModel.from_pretrained(files['qa'].parent/'base').eval()
    alone = {n: load(f).predict(texts[n]) for n,f in files.items()}
    from adaptprune.head import load_tokenizer
    with MultiTask(base) as many:
        many.tokenizer = load_tokenizer(files['qa'].parent/'base')
        for n,f in files.items(): many.add(n, f)
        for n in files: assert same(many.predict(texts[n], n), alone[n])
        with many.use('dense'), torch.no_grad(): assert base(torch.tensor([[2, 5, 3]])).last_hidden_state.isfinite().all()

def test_small_ones(tiny, folder, tmp_path):
    "A compact file for questions, with a threshold for no answer in its card"
    shutil.copytree(folder, tmp_path/'base')
    tiny('Bert').save_pretrained(tmp_path/'base')
    torch.manual_seed(0)
    model = transformers.BertForQuestionAnswering.from_pretrained(tmp_path/'base')
    small = prune(compact(model, drawn(find_units(model))), 1)
    card = TaskCard('question-answering', 2, 'q', ('question', 'context'), no_answer=-1e5)
    TaskMask.from_model(small, str(tmp_path/'base'), card, 12).save_pretrained(tmp_path/'q')
    want = load(tmp_path/'q').predict([texts['qa']])
    with MultiTask.from_pretrained({'q': tmp_path/'q'}) as many:
        got = many.predict([texts['qa']], 'q')
        assert got[0]['text']==want[0]['text']=='' and got[0]['no_answer']==pytest.approx(want[0]['no_answer'], abs=1e-5)
        with many.use('q'): assert same_outputs(many.model, small)

def same_outputs(a, b):
    ids = torch.tensor([[2, 5, 6, 3, 7, 8, 9, 3]])
    with torch.no_grad(): return torch.equal(a(ids).start_logits, b(ids).start_logits) and torch.equal(a(ids).end_logits, b(ids).end_logits)

def test_another_kind_of_base_is_refused(files, tiny):
    other = tiny('Electra')
    many = MultiTask(other)
    with pytest.raises(BaseMismatch): many.add('qa', files['qa'])
    tm = TaskMask.from_pretrained(files['qa'])
    if tm.info['model_class'].startswith('Bert'):
        class Other(type(base_of(tm.load_model(str(files['qa'].parent/'base'))))): "Of another class, with the same weights"
        base = Other.from_pretrained(files['qa'].parent/'base')
        with pytest.raises(BaseMismatch, match='built around a BertModel, and this base is a Other: give model='): MultiTask(base, dict(qa=tm))
