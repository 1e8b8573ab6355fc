"Teacher and mask read the same tokens: every text goes through the tokenizer once, and the results are those of reading it twice."
from collections import Counter
import pytest,torch,transformers
from adaptprune import task as room
from adaptprune.setup import set_up
from adaptprune.task import adapt_task
from adaptprune.tasks import TokenisedDataset,make_loaders

words = 'abcdefghij'
def rows(n, shift): return [dict(text=' '.join(words[(i*k+shift)%10] for k in range(1, 4+i%4))+f' {words[i%10]*(1+i//10)}', label=['x', 'y'][i%2]) for i in range(n)]

@pytest.fixture
def data(): return dict(train=rows(64, 0), dev=rows(16, 5))

@pytest.fixture
def read(monkeypatch):
    "How often each text went through a tokenizer"
    seen,real = Counter(),transformers.PreTrainedTokenizerBase.__call__
    def call(self, text, *args, **kwargs):
        seen.update([text] if isinstance(text, str) else map(str, text))
        return real(self, text, *args, **kwargs)
    monkeypatch.setattr(transformers.PreTrainedTokenizerBase, '__call__', call)
    return seen

how = dict(max_steps=12, progress=False, max_length=16, batch_size=8)

def once(read, data):
    texts = Counter(r['text'] for split in data.values() for r in split)
    assert read and {t: n for t,n in read.items() if n>texts[t]}=={} and set(texts)==set(read)

@pytest.mark.parametrize('changes', [dict(recipe='distilled'), dict(recipe='structured', remove=.5), dict(recipe='distilled', teacher_steps=5)])
def test_a_teacher_reads_nothing_again(changes, folder, data, read):
    adapt_task('mine', folder, .3, data=data, **how, **changes)
    once(read, data)

@pytest.mark.parametrize('method', ['magnitude', 'imp'])
def test_nor_do_phases(method, folder, data, read):
    adapt_task('mine', folder, .3, method, data=data, **how)
    once(read, data)

def result(res): return res.mask, {k: v for k,v in res.report.items() if 'seconds' not in k}, {n: p.clone() for n,p in res.model.state_dict().items()}

@pytest.mark.parametrize('changes', [dict(recipe='distilled'), dict(recipe='structured', remove=.5), dict(recipe='distilled', validate=True), dict(recipe='magnitude')])
def test_the_same_bit_for_bit(changes, folder, data, monkeypatch):
    "Beside a run in which every setup tokenises anew"
    shared = result(adapt_task('mine', folder, .3, data=data, **how, **changes))
    asked = []
    def anew(*args, like=None, **kwargs):
        asked.append(like is not None)
        return set_up(*args, **kwargs)
    monkeypatch.setattr(room, 'set_up', anew)
    from adaptprune import teacher
    monkeypatch.setattr(teacher, 'set_up', anew)
    twice = result(adapt_task('mine', folder, .3, data=data, **how, **changes))
    assert sum(asked)==1, 'the second setup took the tokens of the first'
    assert shared[:2]==twice[:2] and all(torch.equal(p, twice[2][n]) for n,p in shared[2].items())

def test_a_teacher_on_disk_needs_no_tokens_either(folder, data, read, tmp_path):
    for seed in (0, 0):
        read.clear()
        adapt_task('mine', folder, .3, data=data, cache=tmp_path, seed=seed, **how)
        once(read, data)
    assert len(list(tmp_path.glob('teacher-*.pt')))==1

def test_what_was_read_is_said_once(folder, data):
    said = []
    adapt_task('mine', folder, .3, 'magnitude', data=dict(data), say=said.append, **dict(how, max_length=6))
    assert len(said)==1 and 'cut' in said[0]

def test_tags_and_pairs(folder):
    "Rows of words keep their tags"
    from adaptprune.tasks import load_data
    table = [dict(tokens=list('abcd'), tags=['O', 'B-X', 'O', 'O'])]*16
    task,splits = load_data(table, table[:8], kind='tokens')
    first = set_up(task, folder, data=splits, max_length=8)
    again = set_up(task, folder, like=first, max_length=8)
    a,b = (next(iter(s.loaders['dev'])) for s in (first, again))
    assert torch.equal(a['labels'], b['labels']) and torch.equal(a['input_ids'], b['input_ids'])

def test_another_length_is_refused(folder, data):
    first = set_up(*room.task_and_data('mine', data, {})[:1], folder, data=room.task_and_data('mine', data, {})[1], max_length=16)
    with pytest.raises(ValueError, match='tokenised with max_length=16, and 8 is asked for'): set_up(first.task, folder, like=first, max_length=8)
    rows = {k: l.dataset for k,l in first.loaders.items()}
    loaders = make_loaders(rows, first.tokenizer, batch_size=4, max_length=16)
    assert loaders['train'].dataset is rows['train'] and len(loaders['train'])==16 and isinstance(rows['train'], TokenisedDataset)

@pytest.mark.parametrize('kwargs, said', [
    (dict(task='mini-similarity'), "is a setup of 'mini-sentiment', and this one is of 'mini-similarity'"),
    (dict(max_train_samples=5), 'max_train_samples=None, and not 5'), (dict(validate=True), 'validate=False, and not True'),
    (dict(data=dict(train=[])), 'leave data out'), (dict(tokenizer='other'), "and not 'other': leave tokenizer out")])
def test_what_a_shared_setup_cannot_be_asked_for(kwargs, said, folder):
    first = set_up('mini-sentiment', folder, max_length=16)
    assert set_up('mini-sentiment', folder, like=first, max_length=16).data is first.data
    with pytest.raises(ValueError, match=said): set_up(**{'task': 'mini-sentiment', **kwargs}, model=folder, like=first, max_length=16)
