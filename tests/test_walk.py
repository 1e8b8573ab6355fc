"What a stranger tripped over: runs that are finished but others, rows without text, labels that are several, times of a busy machine"
import numpy as np,pandas as pd,pytest
from adaptprune.artifact import TaskMask
from adaptprune.card import card_text,disturbed
from adaptprune.predict import load
from adaptprune.tables import joined_by
from adaptprune.task import adapt_task
from adaptprune.tasks import load_data
from adaptprune.timing import Others,busy_words

few = [dict(text='abcdefghij'[i%10]+' '+'cab'[i%3], label=('good', 'bad')[i%2]) for i in range(40)]

def csv(path, table):
    path.write_text('\n'.join([','.join(table[0]), *(','.join(map(str, r.values())) for r in table)]))
    return path

@pytest.fixture
def words(folder, tmp_path):
    "A command that adapts to a small table"
    csv(tmp_path/'few.csv', few)
    return ['adapt', '--train', 'few.csv', '--model', folder, '--recipe', 'default', '--max-steps', 3, '--sparsity', .3, '--out', 'm']

# A finished run is not another one

def test_resume_says_so_where_the_finished_run_is_another(words, command, tmp_path):
    command(*words)
    before = (tmp_path/'m'/'adaptprune.json').read_bytes()
    assert 'The run in m is finished: nothing to resume' in command(*words, '--resume')
    csv(tmp_path/'other.csv', [dict(text='a b', label='xyz'[i%3]) for i in range(30)])
    for changed,told in (
        (['--sparsity', .6], 'sparsity 0.3 (now 0.6)'), (['--seed', 1], 'seed 0 (now 1)'), (['--max-steps', 9], 'steps 3 (now 9)'),
        (['--set', 'step=adam'], "step 'sign' (now 'adam')"), (['--weights', 'encoder'], "weights 'all' (now 'encoder')"),
        (['--train', 'other.csv'], "task 'few' (now 'other'), labels ['bad', 'good'] (now ['x', 'y', 'z'])")):
        said = command(*words, '--resume', *changed, fails=True)
        assert 'is finished, and it is another one' in said and all(t in said for t in told.split('), ')) and '--force' in said
    assert (tmp_path/'m'/'adaptprune.json').read_bytes()==before

def test_resume_takes_a_mask_that_does_not_say_its_recipe(words, folder, command, tmp_path):
    command(*words)
    tm = TaskMask.from_pretrained(tmp_path/'m')
    for k in ('recipe', 'seed', 'steps'): tm.info.pop(k)
    tm.save_pretrained(tmp_path/'m')
    assert 'is finished: nothing to resume' in command(*words, '--resume')
    assert 'sparsity 0.3 (now 0.5)' in command(*words, '--resume', '--sparsity', .5, fails=True)

# Rows without a text, or without a label

def predictor(rows, base, out):
    adapt_task(data=dict(train=rows, dev=rows[:10]), model=base, recipe='default', missing='keep', max_steps=2, progress=False, out=str(out))
    return load(out, base)

def test_evaluate_does_not_score_rows_without_text(folder, tmp_path):
    p = predictor(few, folder, tmp_path/'m')
    holes = [dict(few[0], text=''), *few[:7], dict(few[1], text=None), *few[7:]]
    for rows in (holes, dict(text=[r['text'] for r in holes], label=[r['label'] for r in holes])):
        with pytest.raises(ValueError, match=r"the data, row 1: the text is missing, here and in 1 more of 42 rows: missing='drop'"): p.evaluate(rows)
        with pytest.warns(UserWarning, match='the data: 2 rows without text left out'): got = p.evaluate(rows, missing='drop')
        assert got==p.evaluate(few)
    with pytest.raises(ValueError, match="row 2: the label is missing"): p.evaluate([few[0], dict(few[1], label=None)])

def test_evaluate_knows_a_class_that_is_called_none(folder, tmp_path):
    rows = [dict(r, label={'good': 'None', 'bad': 'bad'}[r['label']]) for r in few]
    p = predictor(rows, folder, tmp_path/'m')
    assert p.card.labels==('None', 'bad') and p.evaluate(rows)==p.evaluate(rows, missing='keep')

def test_logits_are_of_columns(folder, tmp_path):
    p = predictor(few, folder, tmp_path/'m')
    assert (p.logits([['a b', 'c']])==p.logits([pd.Series(['a b', 'c'])])).all()
    for wrong in (['a b', 'c'], 'a b', []):
        with pytest.raises(ValueError, match='use `predict`'): p.logits(wrong)

def test_int8_leaves_out_rows_without_text(words, command, tmp_path, monkeypatch):
    from adaptprune import export
    def reached(*_): raise OSError('the file would be written now')
    monkeypatch.setattr(export, 'export_onnx', reached)
    command(*words)
    csv(tmp_path/'holes.csv', [*few, dict(text='', label='good')])
    how = 'export', 'm', '--format', 'int8', '--out', 'x.onnx', '--data', 'holes.csv'
    assert 'the text is missing' in command(*how, fails=True)
    assert 'would be written now' in command(*how, '--missing', 'drop', fails=True)
    assert '--missing goes with --format int8' in command('export', 'm', '--missing', 'drop', fails=True)

# Several labels a row

@pytest.mark.parametrize('names, sep', [
    (['a', 'b', 'a;b', 'b;c', 'c'], ';'), (['a|b', 'b|c', 'a|c', 'a|b|c'], '|'), (['x, y', 'y', 'x', 'y, z', 'z'], ','),
    (['food, drink', 'food, other', 'car'], None), (['a;b', 'a', 'b'], None), (['good', 'bad'], None), ([], None),
    (['1,5', '2,5', '1,2', '5,1', '2,1'], None)])
def test_labels_that_are_made_of_each_other(names, sep): assert joined_by(names)==sep

def several(missing):
    sets = ['price', 'price;quality', 'quality;shipping', 'shipping', 'price;shipping', 'quality']
    return [dict(text='abcdefghij'[i%10], topic=None if missing and i%9==0 else sets[i%6]) for i in range(60)]

@pytest.mark.parametrize('missing', [False, True])
def test_several_labels_are_not_read_as_classes(missing):
    how = dict(text='text', label='topic')
    with pytest.raises(ValueError, match=r"look like several a row, separated by ';'.*--kind multilabel"): load_data(several(missing), **how)
    task,_ = load_data(several(missing), kind='multilabel', **how)
    assert task.labels==('price', 'quality', 'shipping')
    if not missing: assert len(load_data(several(False), kind='classification', **how)[0].labels)==6

@pytest.mark.parametrize('name, noted', [('score', True), ('stars', True), ('label', False)])
def test_scores_that_are_read_as_classes(name, noted):
    rows = [{'text': 'abcdefghij'[i%10], name: i%5+1} for i in range(60)]
    task,data = load_data(rows)
    assert task.kind=='classification' and ("if they are scores: kind='regression'" in str(data.reading))==noted
    assert "if they are scores" not in str(load_data(rows, kind='regression')[1].reading)

# A plain encoder has layers of one size

def test_plain_needs_layers_of_one_size(folder, command, tmp_path):
    csv(tmp_path/'few.csv', few)
    command('adapt', '--train', 'few.csv', '--model', folder, '--remove', .5, '--max-steps', 3, '--out', 'm')
    said = command('export', 'm', '--format', 'plain', '--out', 'p', fails=True)
    assert 'layers of unequal size' in said and '--format model' in said and len(said.splitlines())==1 and not (tmp_path/'p').exists()

# Times of a busy machine

def test_others_are_counted(monkeypatch):
    with Others() as others: np.linalg.svd(np.ones((50, 50)))
    assert others.cores is None or others.cores>=0
    def counted(*worked):
        monkeypatch.setattr(Others, '_worked', staticmethod(lambda said=iter(worked): next(said)))
        with Others() as others: pass
        return others.cores
    assert counted((10., 1., 5.), (16., 3., 7.))==2 and counted(None) is None

@pytest.mark.parametrize('others, threads, busy', [(None, 2, False), (0., 2, False), (.3, 2, True), (1.1, 1, False), (1.3, 1, True)])
def test_what_is_said_of_a_busy_machine(others, threads, busy):
    assert bool(busy_words(others, 2, threads))==busy
    here = dict(cpu='x', cores=2, threads=threads, others=others)
    row = dict(name='whole', ms_1=1.)
    report = dict(title='t', notes=[], stages=[row], macs=[2, 1], layers=[dict(layer='0')], machine=here, code='')
    assert bool(disturbed(report))==busy and ('**Other processes took' in card_text(report))==busy
    assert not disturbed(dict(report, machine=dict(cpu='x')))

def test_one_answer_for_all_is_said():
    "Rows that tell nothing of their labels: a score that is the share of one class is called that"
    rows = [dict(text=f'{i*7919%1000} {i}', label='rarely' if i%10==0 else 'often') for i in range(300)]
    with pytest.warns(UserWarning, match="Every row of dev gets 'often': the network tells nothing apart"):
        res = adapt_task('x', 'minilm', data=rows, recipe='features', max_steps=20, progress=False)
    assert res.report['alike']==dict(dev="'often'") and .8<res.report['metrics']['accuracy']<1
