"The task card of a mask file: what is written, what is refused, what older files let us know, and where a base is found"
import json, os, random
from dataclasses import replace
from pathlib import Path
import pytest, torch, transformers
from hypothesis import given, strategies as st
from adaptprune.artifact import BaseMismatch, MaskFileError, TaskMask, find_base, public_name
from adaptprune.bases import base_mark, models_variable
from adaptprune.maskfile import config_name, read_config, seal
from adaptprune.task import adapt_task
from adaptprune.taskcard import TaskCard, card_for, card_in, from_dict, in_words, task_of, to_dict
from adaptprune.tasks import Task, load_files, load_task
from toy import go, own_data

quick = dict(recipe='default', max_steps=4, progress=False)

@pytest.fixture
def run(folder, tmp_path):
    "A short run on files of one's own"
    task,data = own_data(tmp_path)
    return adapt_task(task, folder, data=data, max_length=9, **quick)

def sealed(folder, change):
    "Edit a config as somebody would who can make checksums"
    path = Path(folder)/config_name
    config = json.loads(path.read_text())
    change(config)
    del config['checksum']
    path.write_bytes(seal(config))

# What is written

def test_a_run_on_own_files_says_all(run, tmp_path):
    tm = TaskMask.from_pretrained(TaskMask.from_adapted(run).save_pretrained(tmp_path/'m'))
    want = TaskCard('classification', 2, 'train', ('sentence',), 'label', ('negative', 'positive'), ('accuracy',), 9, 'first', 'files')
    assert tm.card==want and not tm.card.unknown and tm.info['labels']==['negative', 'positive']
    assert task_of(tm.card)==run.task and str(tmp_path) not in (tmp_path/'m'/config_name).read_text()
    assert 'negative, positive' in in_words(tm.card) and '9 tokens' in in_words(tm.card)

def test_the_report_is_as_before(run):
    assert not {'card', 'max_length', 'labels', 'task_card'} & run.report.keys() and run.report['task']=='train'

def test_a_file_that_is_called_like_a_glue_task_keeps_its_own_classes(folder, tmp_path):
    (tmp_path/'sst2.csv').write_text('text,label\n'+''.join(f'a {"bcd"[i%3]},{("x", "y", "z")[i%3]}\n' for i in range(60)))
    task,data = load_files(tmp_path/'sst2.csv')
    tm = TaskMask.from_adapted(adapt_task(task, folder, data=data, **quick))
    assert tm.info['task']=='sst2' and tm.info['labels']==list(tm.card.labels)==['x', 'y', 'z'] and tm.card.source=='files'

def test_the_tasks_of_the_package_have_a_card_too(folder):
    tm = TaskMask.from_adapted(adapt_task('mini-similarity', folder, max_length=12, **quick))
    assert (tm.card.kind, tm.card.n_out, tm.card.labels, tm.card.text)==('regression', 1, (), ('sentence1', 'sentence2'))
    assert tm.card.source=='mini' and 'labels' not in tm.info and task_of(tm.card)==card_task('mini-similarity')

def card_task(name):
    from adaptprune.tasks import get_task
    return get_task(name)

def test_a_run_without_a_task_has_no_card():
    tm = TaskMask.from_adapted(go(max_steps=2))
    assert 'card' not in tm.info and tm.card is None

# What is refused

bad = [dict(kind=3), dict(kind=''), dict(n_out='2'), dict(n_out=True), dict(n_out=0), dict(n_out=10**12), dict(n_out=3), dict(labels=['a', 'a']),
    dict(labels=['a']), dict(labels='ab'), dict(labels=[1, 2]), dict(text=[['a']]), dict(text='sentence'), dict(max_length='long'),
    dict(max_length=-1), dict(max_length=1.5), dict(max_length=True), dict(metrics=[None]), dict(pooling=7), dict(pooling='mean'),
    dict(label=['x']), dict(source={}), dict(threshold=.5), dict(name='x'*2000)]

@pytest.mark.parametrize('change', bad, ids=str)
def test_wrong_cards_are_refused(run, tmp_path, change):
    TaskMask.from_adapted(run).save_pretrained(tmp_path/'m')
    sealed(tmp_path/'m', lambda c: c['info']['card'].update(change))
    with pytest.raises(MaskFileError): TaskMask.from_pretrained(tmp_path/'m')

@pytest.mark.parametrize('card', [None, [], 'x', {}, dict(kind='classification'), dict(n_out=2)], ids=str)
def test_what_is_no_card_is_refused(run, tmp_path, card):
    TaskMask.from_adapted(run).save_pretrained(tmp_path/'m')
    sealed(tmp_path/'m', lambda c: c['info'].update(card=card))
    with pytest.raises(MaskFileError): TaskMask.from_pretrained(tmp_path/'m')

json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3), max_leaves=5)
names = st.sampled_from([*TaskCard.__dataclass_fields__, 'other'])

@given(d=st.dictionaries(names, json_values, max_size=5), whole=st.booleans())
def test_any_json_is_a_card_or_refused(d, whole):
    "Nothing but a card or a `MaskFileError` comes out, and a card that is written is read as the same"
    base = dict(kind='classification', n_out=2, labels=['a', 'b']) if whole else {}
    try: card = from_dict({**base, **d})
    except MaskFileError: return
    assert from_dict(json.loads(json.dumps(to_dict(card))))==card and in_words(card)

def test_flipped_bits_are_noticed(run, tmp_path):
    TaskMask.from_adapted(run).save_pretrained(tmp_path/'m')
    path = tmp_path/'m'/config_name
    raw = path.read_bytes()
    at,end = raw.index(b'"card"'), raw.index(b'"base"')
    assert at<end
    for i in random.Random(0).sample(range(at, end), 100):
        path.write_bytes(raw[:i]+bytes([raw[i]^1<<(i%8)])+raw[i+1:])
        with pytest.raises(MaskFileError): TaskMask.from_pretrained(tmp_path/'m')

def test_a_wrong_card_is_not_written(run, tmp_path):
    tm = TaskMask.from_adapted(run)
    tm.save_pretrained(tmp_path/'m')
    before = (tmp_path/'m'/config_name).read_bytes()
    tm.info['card'] = dict(tm.info['card'], max_length='long')
    with pytest.raises(MaskFileError, match="'max_length' holds 'long'"): tm.save_pretrained(tmp_path/'m')
    assert (tmp_path/'m'/config_name).read_bytes()==before

def test_a_large_head_is_refused_with_a_remedy(run, tmp_path):
    tm = TaskMask.from_adapted(run)
    tm.head['lm_head.weight'] = torch.zeros(1).expand(2**28+1000)
    with pytest.raises(MaskFileError, match='safetensors'): tm.save_pretrained(tmp_path/'m')
    assert not (tmp_path/'m').exists()

def test_a_card_made_by_hand_is_checked():
    with pytest.raises(ValueError, match="'n_out' holds 'two'"): TaskCard('classification', 'two')
    with pytest.raises(ValueError, match='names 3 classes'): TaskCard('classification', 2, labels=('a', 'b', 'c'))

def test_a_card_that_does_not_say_everything(run, tmp_path):
    TaskMask.from_adapted(run).save_pretrained(tmp_path/'m')
    sealed(tmp_path/'m', lambda c: [c['info']['card'].pop(k) for k in ('pooling', 'max_length', 'text', 'labels')])
    card = TaskMask.from_pretrained(tmp_path/'m').card
    assert card.unknown==['text', 'max_length', 'labels'] and card.classes==('0', '1')

# Older files

def test_old_files_let_us_know_what_they_can():
    old = Path(__file__).parent/'data'/'old_mask'/'whole'
    card = TaskMask.from_pretrained(old).card
    assert card.labels==('negative', 'positive') and card.unknown==['max_length'] and card.text==('sentence',)

@pytest.mark.parametrize('info, labels, kind', [
    (dict(task='mine', n_out=3), (), 'classification'), (dict(task='mine', n_out=2, labels=['b', 'g']), ('b', 'g'), 'classification'),
    (dict(task='sst2', n_out=3), (), 'classification'), (dict(task='sst2', n_out=2, labels=['a', 'b']), ('a', 'b'), 'classification'),
    (dict(task='mine', n_out=2, labels=['b']), (), 'classification'), (dict(task='mine', n_out=2, labels=['b', 'b']), None, None),
    (dict(task=['x'], n_out=1, labels='x'), (), 'regression'), (dict(task='stsb', n_out=1), (), 'regression'),
    (dict(n_out=10**12), None, None), (dict(task='toy'), None, None), (dict(n_out='2'), None, None)])
def test_without_a_card(info, labels, kind):
    card = card_in(info)
    assert (card and card.kind, card and card.labels)==(kind, labels)
    if kind=='classification': assert len(card.classes)==info['n_out'] and 'max_length' in card.unknown

# Where a base is found

@pytest.fixture
def local(folder, tmp_path, monkeypatch):
    "A mask on a base in a folder whose name no file may hold, far from everything"
    import shutil
    shutil.copytree(folder, tmp_path/'far'/'my model')
    for d in ('data', 'deep/masks', 'empty'): (tmp_path/d).mkdir(parents=True)
    monkeypatch.chdir(tmp_path/'empty')
    monkeypatch.delenv(models_variable, raising=False)
    task,data = own_data(tmp_path/'data')
    res = adapt_task(task, str(tmp_path/'far'/'my model'), data=data, **quick)
    TaskMask.from_adapted(res).save_pretrained(tmp_path/'deep'/'masks'/'m')
    assert read_config(tmp_path/'deep'/'masks'/'m')['base']['model']=='my-model'
    return tmp_path

def base_at(root):
    tm = TaskMask.from_pretrained(root/'deep'/'masks'/'m')
    return tm.open_model()[1].name

@pytest.mark.parametrize('to', ['deep/masks/m', 'deep/masks', 'deep', 'empty'])
def test_a_base_is_found_near_the_mask_or_here(local, to):
    os.rename(local/'far'/'my model', local/to/'my model')
    assert base_at(local)==str(local/to/'my model')

@pytest.mark.parametrize('value', ['far', 'nowhere:far', 'far/my model'])
def test_a_base_is_found_by_the_search_path(local, monkeypatch, value):
    monkeypatch.setenv(models_variable, os.pathsep.join(str(local/v) for v in value.split(':')))
    assert base_at(local)==str(local/'far'/'my model')

def test_a_base_of_another_name_is_found_when_it_is_named(local):
    os.rename(local/'far', local/'elsewhere')
    TaskMask.from_pretrained(local/'deep'/'masks'/'m').load_model(local/'elsewhere'/'my model')

def impostor(path, tiny):
    "A model of the same name and shapes with other weights"
    tiny('Bert', num_hidden_layers=1, seed=5).save_pretrained(path)

def test_other_weights_of_the_same_name_are_passed_over(local, tiny, monkeypatch):
    impostor(local/'deep'/'masks'/'my-model', tiny)
    with pytest.raises(OSError, match='holds other weights'): base_at(local)
    monkeypatch.setenv(models_variable, str(local/'far'))
    assert base_at(local)==str(local/'far'/'my model')
    monkeypatch.delenv(models_variable)
    os.rename(local/'far'/'my model', local/'empty'/'my model')
    assert base_at(local)==str(local/'empty'/'my model')
    (local/'deep'/'masks'/'my-model'/'model.safetensors').write_bytes(b'')
    assert base_at(local)==str(local/'empty'/'my model'), 'nor does a broken folder stop the search'

def test_a_base_that_is_nowhere_is_asked_for(local):
    tm = TaskMask.from_pretrained(local/'deep'/'masks'/'m')
    with pytest.raises(OSError) as e: tm.load_model()
    mark = base_mark(tm.base['tensors'])
    assert all(w in str(e.value) for w in ("'my-model'", mark, 'model=', models_variable, 'beside the mask')) and '\n' not in str(e.value)

def test_a_given_base_is_still_checked(local, tiny):
    impostor(local/'other', tiny)
    with pytest.raises(BaseMismatch): TaskMask.from_pretrained(local/'deep'/'masks'/'m').load_model(local/'other')

def test_fingerprints_tell_bases_apart(local, tiny):
    from adaptprune.identity import base_tensors
    tm = TaskMask.from_pretrained(local/'deep'/'masks'/'m')
    same = transformers.AutoModel.from_pretrained(local/'far'/'my model', add_pooling_layer=False)
    assert base_mark(base_tensors(same, tm.base['tensors']))==base_mark(tm.base['tensors'])
    assert base_mark(base_tensors(tiny('Bert', num_hidden_layers=1, seed=5), tm.base['tensors']))!=base_mark(tm.base['tensors'])
