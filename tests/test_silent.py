"What was wrong without a word: classes in another order, hidden labels, other data and other weights under an old name"
import json,shutil
from dataclasses import dataclass,replace
import numpy as np,pandas as pd,pytest,torch,transformers
from datasets import ClassLabel,Dataset,DatasetDict
from adaptprune.anatomy import n_positions
from adaptprune.artifact import TaskMask
from adaptprune.cli import _class_order,_varied
from adaptprune.compression import Work
from adaptprune.predict import Reader,load
from adaptprune.quantize import _measure,_Pair
from adaptprune.setup import model_mark,set_up
from adaptprune.task import adapt_task
from adaptprune.tasks import fit_data,load_data,with_classes
from adaptprune.teacher import make_teacher
from adaptprune.recipe import get_recipe

rows = [dict(text='abcdefghij'[i%10]+' '+'cab'[i%3], label=('bad', 'good')[i%2]) for i in range(60)]
how = dict(recipe='default', max_steps=3, max_length=12, progress=False)

# Classes

def test_prepared_data_are_numbered_as_the_task_does_it():
    frame = pd.DataFrame(rows)
    task,ours = load_data(frame)
    _,turned = load_data(frame.assign(label=pd.Categorical(frame.label, categories=['good', 'bad'])))
    assert turned['train'].features['label'].names==['good', 'bad']
    known,data = fit_data(task, turned)
    assert known is task and data['train']['label'][:]==ours['train']['label'][:] and data.reading is turned.reading
    assert with_classes(ours, task) is ours
    other = load_data(frame.assign(label=frame.label.map(dict(bad='worse', good='good'))))[1]
    with pytest.raises(ValueError, match="'good', 'worse', and the task 'own' has 'bad', 'good'"): fit_data(task, other)

def test_a_setup_numbers_them_too(folder):
    frame = pd.DataFrame(rows)
    task,_ = load_data(frame)
    _,turned = load_data(frame.assign(label=pd.Categorical(frame.label, categories=['good', 'bad'])))
    got = set_up(task, folder, data=turned)
    assert got.data['dev'].features['label'].names==['bad', 'good']

def test_hidden_labels_stay_hidden(folder):
    "-1 is no class, in a split and in what is scored"
    hidden = Dataset.from_dict(dict(text=['a b']*4, label=[-1, 0, 1, -1])).cast_column('label', ClassLabel(names=['bad', 'good']))
    res = adapt_task('own', folder, data=rows, **how)
    p = load(TaskMask.from_adapted(res), folder)
    with pytest.raises(ValueError, match='label'): p.evaluate(hidden)
    with pytest.warns(UserWarning, match='2 rows without label left out'): assert p.evaluate(hidden, missing='drop')
    task,_ = load_data(rows)
    split = Dataset.from_dict(dict(text_a=['a']*3, label=[-1, 0, 1])).cast_column('label', ClassLabel(names=['good', 'bad']))
    assert with_classes(DatasetDict(train=split), task)['train']['label'][:]==[-1, 1, 0]

def test_a_mask_is_scored_by_the_names_of_its_classes():
    task,_ = load_data(rows)
    card = replace(TaskMask_card(), labels=('good', 'bad'))
    assert _class_order(replace(card, labels=('BAD', 'Good')), task) is None
    assert _class_order(card, task)==[1, 0] and _class_order(replace(card, labels=task.labels), task) is None
    with pytest.raises(ValueError, match="answers with the classes 'x', 'y'"): _class_order(replace(card, labels=('x', 'y')), task)

def TaskMask_card():
    from adaptprune.taskcard import TaskCard
    return TaskCard('classification', 2, 'own', ('text',))

def test_evaluate_of_a_task_with_another_order(folder, tmp_path, command, monkeypatch):
    "A task that numbers the classes otherwise than the mask does: the same score"
    easy = [dict(text='ab'[i%2]*(1+i%3)+' '+'ab'[i%2], label=('bad', 'good')[i%2]) for i in range(120)]
    easy = [dict(r, text=' '.join(r['text'].replace(' ', ''))) for r in easy]
    res = adapt_task('own', folder, data=easy, **dict(how, max_steps=150), sparsity=.05, beta=1e-2)
    assert res.report['metrics']['accuracy']>.9
    TaskMask.from_adapted(res).save_pretrained(tmp_path/'m')
    task,data = load_data(pd.DataFrame(easy).assign(label=lambda d: pd.Categorical(d.label, categories=['good', 'bad'])))
    assert task.labels==('good', 'bad')
    monkeypatch.setattr('adaptprune.cli._splits', lambda *args, **kwargs: (task, data))
    got = json.loads(command('evaluate', 'm', '--model', folder, '--json'))['metrics']
    assert got['dev']['accuracy']>.9

def test_class_names_go_by_their_numbers(folder):
    m = transformers.AutoModelForSequenceClassification.from_pretrained(folder, id2label={1: 'positive', 0: 'negative'})
    with torch.no_grad(): m.bert.encoder.layer[0].output.dense.weight[:,:3] = 0
    assert TaskMask.from_model(m, base=folder, task='mine').card.labels==('negative', 'positive')

def test_f1_says_of_which_class(tmp_path):
    _,data = load_data(rows, metrics='f1')
    assert "F1 is that of 'good'" in str(data.reading)

# What a run is of

def test_resume_knows_its_data(folder, tmp_path):
    class Stop(Exception): pass
    def stop(model):
        raise KeyboardInterrupt
    asked = dict(how, max_steps=6, checkpoint_every=2, eval_every=4, out=tmp_path/'m')
    from adaptprune.loop import Hook
    class Break(Hook):
        def after_step(self, run, loss):
            if run.step==4: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): adapt_task('own', folder, data=rows, **dict(asked, eval_every=0), hooks=[Break()])
    turned = [dict(r, label=dict(good='bad', bad='good')[r['label']]) for r in rows]
    again = dict(asked, eval_every=0, resume=True)
    with pytest.raises(ValueError, match='The checkpoint was made with data='): adapt_task('own', folder, data=turned, **again)
    with pytest.raises(ValueError, match='The checkpoint was made with data='): adapt_task('own', folder, data=rows, **dict(again, max_length=5))
    assert adapt_task('own', folder, data=rows, **again).report['steps']==6

def test_a_teacher_is_of_the_weights_in_the_folder(folder, tmp_path):
    base = shutil.copytree(folder, tmp_path/'base')
    data = load_data(rows)
    def taught(**more): return make_teacher(get_recipe('distilled', epochs=.5), tmp_path/'cache', 2, dict(progress=False),
        task=data[0], model=str(base), data=data[1], **more)
    taught(), taught()
    assert len([*(tmp_path/'cache').glob('*.pt')])==1
    before = model_mark(str(base))
    model = transformers.AutoModel.from_pretrained(base)
    torch.nn.init.normal_(model.embeddings.word_embeddings.weight)
    model.save_pretrained(base)
    assert model_mark(str(base))!=before and model_mark('minilm')=='minilm'
    taught()
    assert len([*(tmp_path/'cache').glob('*.pt')])==2

def test_a_kept_teacher_is_measured_by_the_metric_that_is_asked_for(folder, tmp_path):
    asked = dict(how, recipe='distilled', cache=tmp_path, data=rows)
    adapt_task('own', folder, metrics='accuracy', **asked)
    got = adapt_task('own', folder, metrics='macro_f1', **asked).report
    assert len([*tmp_path.glob('*.pt')])==1 and [*got['teacher_metrics']]==['macro_f1']

def test_means_are_over_seeds_alone():
    cells = [dict(task='x', recipe='default', seed=s, beta=.1*s, model=m, max_train_samples=9) for m in 'ab' for s in (0, 1)]
    assert _varied([dict(cell=c) for c in cells])==dict(model=['a', 'a', 'b', 'b'])
    named = [dict(task='x', recipe='default', name='mine', alpha=a, seed=s) for a in (.1, .2) for s in (0, 1)]
    assert _varied([dict(cell=c) for c in named])==dict(alpha=['0.1', '0.1', '0.2', '0.2'])
    files = [dict(task='x', recipe='default', files=dict(train='a.csv', text=t), seed=0) for t in ('text', 'short')]
    assert _varied([dict(cell=c) for c in files])==dict(text=['text', 'short'])
    default = [dict(task='x', recipe='default', seed=0), dict(task='x', recipe='default', seed=1, model='minilm', eval_every=0)]
    assert _varied([dict(cell=c) for c in default])=={}

# Reading

def test_padding_is_on_the_right_as_in_training(folder):
    left = transformers.AutoTokenizer.from_pretrained(folder, padding_side='left')
    reader = Reader(left, 12)
    [(_,batch)] = reader.batches(reader.encode([['a b c', 'a']]), 2)
    assert batch['attention_mask'][1].tolist()==[1, 1, 1, 0, 0] and left.padding_side=='left'

def test_no_more_is_read_than_the_model_has_positions(tiny, tmp_path, folder):
    vocab = transformers.AutoTokenizer.from_pretrained(folder)
    tiny('Bert', num_hidden_layers=1, max_position_embeddings=12).save_pretrained(tmp_path)
    vocab.save_pretrained(tmp_path)
    long = [dict(r, text=' '.join('abcdefghij'*3)) for r in rows[:20]]+rows
    res = adapt_task('own', str(tmp_path), data=long, **dict(how, max_length=128))
    p = load(TaskMask.from_adapted(res), str(tmp_path))
    assert p.reader.max_length==12 and len(p.predict([' '.join('abcdefghij'*9), 'a']))==2
    assert n_positions(tiny('Roberta', max_position_embeddings=40, pad_token_id=1))==38

def test_load_refuses_what_would_change_nothing(folder):
    tm = TaskMask.from_adapted(adapt_task('own', folder, data=rows, **how))
    with pytest.raises(ValueError, match="pooling='mean' would not change it"): load(tm, folder, pooling='mean')

# Measures

def test_several_labels_are_compared_one_by_one():
    want,got = np.array([[2., 1, -1], [3., -1, -1]]),np.array([[2., -1, -1], [3., -1, -1]])
    pair = _Pair('logits', want, got)
    assert _measure([pair], want, got)==('same class', 1.) and _measure([pair], want, got, several=True)==('same labels', .5)

@pytest.mark.parametrize('name,least', [('eval_loss', True), ('perplexity', True), ('accuracy', False)])
def test_losses_are_better_when_small(name, least):
    from adaptprune.watch import KeepBest
    assert KeepBest()._value({name: 2.})==(-2. if least else 2.)

# What is there stays

def report(folder, **more):
    (folder/'report.json').write_text(json.dumps(dict(stages=[], machine={}, **more)))

def test_only_what_compress_made_is_replaced(tmp_path):
    out,new = tmp_path/'fast',tmp_path/'new'
    for d in (out, new): d.mkdir()
    report(out, files=['report.json', 'old.onnx'])
    report(new, files=['report.json', 'small.onnx'])
    mine = 'notes.txt','config_of_mine.json','tokenizer_notes.txt'
    for n in ('old.onnx', *mine): (out/n).write_text('x')
    (new/'small.onnx').write_text('x')
    work = Work(out, force=True)
    work.open(dict(a=1))
    work.publish(new)
    assert sorted(p.name for p in out.iterdir())==sorted([*mine, 'report.json', 'small.onnx'])

def test_a_report_of_somebody_else_is_none(tmp_path):
    (tmp_path/'report.json').write_text('{"sales": 3}')
    (tmp_path/'thesis.docx').write_text('x')
    with pytest.raises(FileExistsError, match='holds other things than a compressed model'): Work(tmp_path, force=True)
    assert (tmp_path/'thesis.docx').exists()

def test_a_column_of_several_kinds_goes_to_parquet_as_text(folder, tmp_path, command):
    TaskMask.from_adapted(adapt_task('own', folder, data=rows, **how)).save_pretrained(tmp_path/'m')
    (tmp_path/'in.jsonl').write_text('{"id": 1, "text": "a b"}\n{"id": "x", "text": "b a"}\n{"id": null, "text": "a"}\n')
    command('apply', 'm', '--model', folder, '--input', 'in.jsonl', '--out', 'o.parquet')
    got = pd.read_parquet(tmp_path/'o.parquet').id
    assert got.tolist()[:2]==['1', 'x'] and got.isna().tolist()==[False, False, True]

def test_one_process_writes_whatever_its_rank_is_called(folder, tmp_path, monkeypatch):
    monkeypatch.setenv('RANK', '1')
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    adapt_task('own', folder, data=rows, out=tmp_path/'m', **how)
    assert (tmp_path/'m'/'adaptprune.json').exists()

def test_a_fresh_base_in_memory_gives_a_file_that_loads_by_name(folder, tiny, tmp_path):
    "A pooler goes to the head, as where the base is named"
    torch.manual_seed(0)
    made = transformers.BertForSequenceClassification.from_pretrained(folder)
    fresh = transformers.BertForSequenceClassification(made.config)
    fresh.load_state_dict(made.state_dict())
    with torch.no_grad(): made.bert.encoder.layer[0].output.dense.weight[:,:3] = 0
    TaskMask.from_model(made, base=fresh, task='mine').save_pretrained(tmp_path/'m')
    again = TaskMask.from_pretrained(tmp_path/'m').load_model(folder)
    assert all(torch.equal(t, again.state_dict()[n]) for n,t in made.state_dict().items())

def test_a_finished_run_is_of_a_model_and_a_length(folder, tmp_path, command):
    pd.DataFrame(rows).to_csv(tmp_path/'few.csv', index=False)
    words = ['adapt', '--train', 'few.csv', '--model', folder, '--recipe', 'default', '--max-steps', 3, '--sparsity', .3, '--out', 'm', '--max-length', 12]
    command(*words)
    assert 'nothing to resume' in command(*words, '--resume')
    assert 'max_length 12 (now 16)' in command(*words[:-1], 16, '--resume', fails=True)

# Other weights of the base

@pytest.mark.parametrize('more', [{}, dict(weights='encoder'), dict(remove=.3, recipe='structured')])
@pytest.mark.parametrize('part', ['embeddings.LayerNorm.bias', 'embeddings.word_embeddings.weight'])
def test_a_base_is_known_by_all_its_weights(more, part, folder, tmp_path):
    asked = dict(how, **more)
    res = adapt_task('own', folder, data=rows, **asked)
    TaskMask.from_adapted(res).save_pretrained(tmp_path/'m')
    tm = TaskMask.from_pretrained(tmp_path/'m')
    assert tm.load_model(folder)
    other = transformers.AutoModel.from_pretrained(folder)
    with torch.no_grad(): other.get_parameter(part).add_(1.)
    with pytest.raises(ValueError, match='not the base that the mask|other weights are not'): tm.load_model(other)

def test_an_older_file_does_not_say(folder, tmp_path):
    tm = TaskMask.from_adapted(adapt_task('own', folder, data=rows, **how))
    del tm.info['rest']
    other = transformers.AutoModel.from_pretrained(folder)
    with torch.no_grad(): other.embeddings.LayerNorm.bias.add_(1.)
    assert tm.load_model(other)

# Rows that were learnt from

def test_the_tenth_is_the_one_that_was_held_out(folder, tmp_path, command):
    "A tenth that is not the run's own is refused: rows of it were learnt from"
    table = pd.DataFrame([dict(text=f"{'abcdefghij'[i%10]} {'cab'[i%3]} {'abcde'[i%5]} {'jihg'[i%4]}", label=('bad', 'good')[i%2]) for i in range(60)])
    table.to_csv(tmp_path/'few.csv', index=False)
    table[:12].to_csv(tmp_path/'test.csv', index=False)
    words = ['adapt', '--train', 'few.csv', '--model', folder, '--recipe', 'default', '--max-steps', 3, '--sparsity', .3]
    command(*words, '--out', 'm')
    assert 'dev: ' in command('evaluate', 'm', '--model', folder, '--train', 'few.csv')
    command(*words, '--test', 'test.csv', '--duplicates', 'drop', '--out', 't')
    said = command('evaluate', 't', '--model', folder, '--train', 'few.csv', '--duplicates', 'drop', fails=True)
    assert 'not what the run of the mask held out' in said and '--dev' in said
    table.assign(text=table.text+' a').to_csv(tmp_path/'few.csv', index=False)
    assert 'the file has changed' in command('evaluate', 'm', '--model', folder, '--train', 'few.csv', fails=True)

def test_pairs_are_checked_as_they_are_learnt(folder):
    "A tokenizer that puts nothing between two texts gets a line break there, in batches for int8 too"
    from adaptprune.quantize import text_batches
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    seen = []
    class Plain:
        pad_token_id,model_max_length = 0,512
        def num_special_tokens_to_add(self, pair): return 0
        def __call__(self, first, second=None, **how):
            seen.append((first, second))
            return {}
    import adaptprune.tasks as tasks
    was = tasks.with_padding
    try:
        tasks.with_padding = lambda t: Plain()
        text_batches([('a', 'b')], tok)
    finally: tasks.with_padding = was
    assert seen==[(['a'], ['\nb'])]

# Several labels, names and numbers

tags = [dict(text=r['text'], labels=['x', 'y', 'z'][:1+i%3]) for i,r in enumerate(rows)]

def test_several_labels_stay_several_in_whatever_is_made(folder, tmp_path):
    from adaptprune.folder import load_adapted,save_model
    from adaptprune.subject import load_subject
    res = adapt_task('own', folder, data=tags, label='labels', kind='multilabel', **how)
    TaskMask.from_adapted(res).save_pretrained(tmp_path/'m')
    p = load(tmp_path/'m', folder)
    assert res.model.several and p.model.several and load_subject(p.model, p.reader.tokenizer).several
    save_model(res.model, tmp_path/'f', p.reader.tokenizer)
    assert load_adapted(tmp_path/'f').several and load_subject(str(tmp_path/'f')).several
    one = adapt_task('own', folder, data=rows, **how)
    assert not one.model.several and not load_subject(one.model, p.reader.tokenizer).several

def test_a_folder_names_the_classes_that_it_is_told(folder, tmp_path):
    from adaptprune.folder import save_model
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertForSequenceClassification.from_pretrained(folder)
    save_model(model, tmp_path/'a', tok, labels=('bad', 'good'), several=True)
    config = transformers.AutoConfig.from_pretrained(tmp_path/'a')
    assert config.id2label=={0: 'bad', 1: 'good'} and config.problem_type=='multi_label_classification'
    assert model.config.id2label=={0: 'LABEL_0', 1: 'LABEL_1'} and model.config.problem_type is None
    with pytest.raises(ValueError, match='2 outputs, and 3 labels'): save_model(model, tmp_path/'b', tok, labels=('a', 'b', 'c'))

@pytest.mark.parametrize('labels,want', [([0, 1, 2, 3, 4], [0, 1, 2, 3, 4]), ([1, 5, 3], [0, 4, 2]), (['1', '2'], [0, 1]), ([0, 0, 1], [0, 0, 1])])
def test_labels_are_all_names_or_all_numbers(labels, want):
    "Stars from 1 to 5, and a column that counts from 0"
    from adaptprune.subject import _coder
    config = transformers.BertConfig(id2label=dict(enumerate('12345')), label2id={c: i for i,c in enumerate('12345')})
    assert list(map(_coder(config, labels), labels))==want

def test_labels_that_are_neither_are_refused():
    from adaptprune.subject import _coder
    config = transformers.BertConfig(id2label=dict(enumerate('12345')), label2id={c: i for i,c in enumerate('12345')})
    code = _coder(config, [0, 5])
    with pytest.raises(ValueError, match="The label 0 is none of the model's classes"): code(0)

def test_contradictions_are_counted():
    from adaptprune.subject import clean_texts
    with pytest.warns(UserWarning, match='3 of 67 examples repeat a text and are left out, 1 of them with another label'):
        got,labels = clean_texts([*map(str, range(64)), '63', '63', '62'], ['x']*64+['y', 'x', 'x'])
    assert len(got)==64 and set(labels)=={'x'}

def test_a_linear_model_of_rows_that_lack_a_class():
    from adaptprune.vectors import linear_baseline
    three = [dict(text=' '.join('abcdefghij'[(i*k)%10] for k in (1, 3, 7)), label='abc'[i%3]) for i in range(120)]
    task,data = load_data(three)
    x = {s: np.random.default_rng(0).normal(size=(len(d), 4)).astype('float32') for s,d in data.items()}
    few = [i for i,y in enumerate(data['train']['label'][:]) if y<2][:40]
    got = linear_baseline(replace(Fake(), task=task, data=data), x, few)
    assert 0<=got['dev']['accuracy']<1

@dataclass
class Fake:
    task:object=None
    data:object=None

# What is kept is of what was asked

def test_levels_are_of_a_start_and_of_hooks(folder, tmp_path):
    from adaptprune.recipe import get_recipe
    from adaptprune.tolerance import _settings
    from adaptprune.watch import KeepBest
    a,b = (adapt_task('own', folder, data=rows, **dict(how, seed=s, max_steps=20), alpha=.02) for s in (0, 1))
    task,_ = load_data(rows)
    def of(**more): return _settings(task, folder, get_recipe('default'), 'sparsity', more)
    assert of(start_from=a)!=of(start_from=b) and of(start_from=a)==of(start_from=a)
    assert of(hooks=[KeepBest(patience=1)])!=of(hooks=[KeepBest(patience=2)])!=of()

def test_theta_of_a_search_is_kept(folder, tmp_path):
    from adaptprune.tolerance import find_sparsity
    got = find_sparsity('own', folder, data=rows, levels=(.3,), tolerance=.9, keep_theta=True, out=tmp_path, **how)
    assert got.adapted.theta and set(got.adapted.theta)==set(got.adapted.mask)

def test_times_are_of_a_precision(tiny, tmp_path):
    from adaptprune.latency import _table_file
    model = tiny('Bert')
    def file(m): return _table_file(m, torch.device('cpu'), 1, 8, tmp_path)
    assert file(model)==file(tiny('Bert', seed=1))!=file(tiny('Bert').bfloat16())
    assert file(model)!=file(tiny('Bert', num_attention_heads=1))

def test_a_record_of_bench_is_of_its_sparse_matrices_and_batches(tiny):
    from adaptprune.bench import _fingerprint,with_csr
    model = tiny('Bert', 'ForSequenceClassification', num_hidden_layers=1)
    assert _fingerprint('a', with_csr(model, .5))!=_fingerprint('a', with_csr(model, .9))
    assert _fingerprint('a', with_csr(model, .5))==_fingerprint('a', with_csr(model, .5))

def test_measuring_and_exporting_leave_the_mode(folder, tiny, tmp_path):
    from adaptprune.export import export_onnx
    setup = set_up(load_data(rows)[0], folder, data=load_data(rows)[1])
    setup.model.train()
    setup.evaluate(setup.model)
    assert setup.model.training and setup.model.head.training
    model = tiny('Bert', 'ForSequenceClassification', num_hidden_layers=1).train()
    export_onnx(model, tmp_path/'m.onnx')
    assert model.training and model.bert.training

def test_a_vocabulary_that_grew_is_still_the_base(folder):
    tm = TaskMask.from_adapted(adapt_task('own', folder, data=rows, **dict(how, weights='encoder')))
    more = transformers.AutoModel.from_pretrained(folder)
    more.resize_token_embeddings(20)
    with pytest.warns(UserWarning, match='other weights are not: embeddings'): tm.apply(more)

def test_two_masks_of_one_base_go_on_one_after_the_other(folder):
    "Matrices that another mask covers are none of a mask's business"
    first,second = (TaskMask.from_adapted(adapt_task('own', folder, data=rows, weights=f'*{w}*', **how)) for w in ('intermediate', 'query'))
    both = transformers.AutoModel.from_pretrained(folder)
    assert second.apply(first.apply(both)) is both

def test_marks_of_rows_do_not_depend_on_their_format():
    from adaptprune.setup import rows_mark
    d = load_data([dict(r, text=f"{r['text']} {i}") for i,r in enumerate(rows*60)])[1]['train']
    assert rows_mark(d)==rows_mark(d.with_format('torch'))==rows_mark(d.with_format('numpy'))
    other = d.to_dict()
    other['label'][len(d)//2] ^= 1
    assert rows_mark(Dataset.from_dict(other))!=rows_mark(d)

def test_a_tokenizer_is_known_whatever_it_did_last(folder):
    from adaptprune.setup import tokenizer_mark
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    before = tokenizer_mark(tok)
    tok(['a b c'], truncation=True, max_length=3, padding=True)
    assert tokenizer_mark(tok)==before
