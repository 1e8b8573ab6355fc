"A `MultiTask` in another process: every task answers as before, the base is stored once and whole, and hooks stay behind."
import copy,io,pickle
import pytest,torch
from adaptprune.compaction import compact
from adaptprune.head import AdaptModel
from adaptprune.layer import fingerprint
from adaptprune.mask import Mask
from adaptprune.multitask import MultiTask
from adaptprune.anatomy import maskable
from adaptprune.artifact import TaskMask
from adaptprune.predict import load
from adaptprune.units import find_units
from test_multitask_classes import files,same,texts
from test_units import drawn

def mask_of(base, seed):
    gen = torch.Generator().manual_seed(seed)
    return Mask({n: torch.rand(p.shape, generator=gen)>.4 for n,p in maskable(base).items()})

def task(base, seed, n_out=2, structure=None):
    "A file's worth of a task: mask, head, card"
    torch.manual_seed(seed)
    net = AdaptModel(base, n_out)
    head = {n: t.clone() for n,t in net.state_dict().items() if n.startswith('head.')}
    small = base if structure is None else compact(base, structure)
    return TaskMask(mask_of(small, seed), base, head, dict(n_out=n_out, pooling='first'), structure)

@pytest.fixture
def many(tiny):
    base = tiny('Bert')
    cut = drawn(find_units(base))
    with MultiTask(base, dict(a=task(base, 1), b=task(base, 2, 3), small=task(base, 3, structure=cut))) as m: yield m

def answers(many, tokens, names=('a', 'b', 'small')):
    got = {n: many(tasks=n, **tokens).logits for n in names}
    return dict(got, dense=many(tasks='dense', **tokens).last_hidden_state)

def equal(a, b): return a.keys()==b.keys() and all(torch.equal(a[n], b[n]) for n in a)

def by_torch(many):
    buf = io.BytesIO()
    torch.save(many, buf)
    buf.seek(0)
    return torch.load(buf, weights_only=False)

ways = {'pickle': lambda many: pickle.loads(pickle.dumps(many)), 'torch': by_torch, 'deepcopy': copy.deepcopy}

@pytest.mark.parametrize('way', ways)
@pytest.mark.parametrize('used', ['dense', 'a', 'small'])
def test_it_answers_as_before(way, used, many, tokens):
    want = answers(many, tokens)
    before = fingerprint(many.base)
    many.use(used)
    again = ways[way](many)
    assert again.task==used and again.tasks==many.tasks and again.base is not many.base
    assert equal(answers(again, tokens), want)
    rows = again(tasks=['a', 'b', 'small', 'a'], **tokens)
    assert all(torch.equal(x, y) for x,y in zip(rows, many(tasks=['a', 'b', 'small', 'a'], **tokens)))
    assert again.mask('a')==many.mask('a') and again.memory()==many.memory()
    again.close()
    assert fingerprint(again.base)==before, 'the base came over whole'
    assert many.task==used and equal(answers(many, tokens), want), 'and here nothing changed'

def test_the_base_is_stored_once(many):
    "Neither the pristine copies nor the pieces of a mask take their bytes again"
    m = many.memory()
    need = m['base']+sum(sum(m[k].values()) for k in ('masks', 'compact', 'heads'))
    for used in many.tasks:
        with many.use(used): assert len(pickle.dumps(many))<need+60_000      # names and classes: the same for any size of base

def test_large_masks_in_pieces(tiny):
    "A weight of several pieces: their planes are one tensor in the file"
    base = tiny('Bert', hidden_size=128, intermediate_size=4096, num_hidden_layers=1)
    with MultiTask(base, dict(a=Mask({'encoder.layer.0.intermediate.dense.weight': torch.rand(4096, 128)>.5}))) as many:
        assert len(next(iter(many._tasks['a'].planes.values())))>1
        size = len(pickle.dumps(many))
        assert size<many.memory()['base']+many.memory()['masks']['a']+60_000
        assert pickle.loads(pickle.dumps(many)).mask('a')==many.mask('a')

def test_what_watches_stays_behind(many, tokens):
    "The copy has its own hooks, once"
    again = pickle.loads(pickle.dumps(many))
    for m in (many, again):
        assert len(m.base._state_dict_pre_hooks)==1 and len(m.base._forward_pre_hooks)==1
    again.use('a')
    with pytest.warns(UserWarning, match="mask of the task 'a'"): again.base.state_dict()
    again.use('small')
    with pytest.raises(RuntimeError, match='is compact'): again.base(**tokens)
    again.use('dense')
    with torch.no_grad(): again.base.get_parameter('encoder.layer.0.output.dense.weight').add_(1)
    with pytest.raises(RuntimeError, match='changed since the last switch'): again.use('a')
    many.use('b')

def test_tasks_can_come_and_go(many, tokens):
    again = pickle.loads(pickle.dumps(many))
    again.remove('a')
    with again.use('dense'): base = copy.deepcopy(again.base)
    again.add('new', task(base, 9))
    assert again(tasks='new', **tokens).logits.shape==(4, 2) and 'new' not in many
    with again.use('b'): assert again.task=='b'
    assert again.task=='dense'

def test_what_cannot_be_pickled_says_why(many):
    with torch.no_grad(): many.base.get_parameter('encoder.layer.0.output.dense.weight').add_(1)
    with pytest.raises(RuntimeError, match='changed since the last switch'): pickle.dumps(many)
    many.close()
    with pytest.raises(ValueError, match='closed'): pickle.dumps(many)

script = '''
import pickle, sys
many,texts = pickle.load(open(sys.argv[1], 'rb'))
pickle.dump({n: many.predict(t, n) for n,t in texts.items()}, open(sys.argv[2], 'wb'))
'''

def test_in_another_process(files, tmp_path, elsewhere):
    "Heads of classes of transformers, from files; the tokenizer goes along, so that the folder is not needed"
    with MultiTask.from_pretrained(files) as many:
        want = {n: many.predict(t, n) for n,t in texts.items()}
        many.use('tags')
        (tmp_path/'in').write_bytes(pickle.dumps((many, texts)))
    elsewhere(script, tmp_path/'in', tmp_path/'out')
    assert same(pickle.loads((tmp_path/'out').read_bytes()), want)

def test_before_any_text_was_read(files, tmp_path):
    "The tokenizer is not there yet: it is read where the pickle is made"
    import shutil
    shutil.copytree(files['qa'].parent, tmp_path/'all')
    there = {n: tmp_path/'all'/n for n in files}
    with MultiTask.from_pretrained(there) as many: data = pickle.dumps(many)
    want = {n: load(f).predict(texts[n]) for n,f in files.items()}
    shutil.rmtree(tmp_path/'all')
    again = pickle.loads(data)
    assert all(same(again.predict(texts[n], n), want[n]) for n in files)
