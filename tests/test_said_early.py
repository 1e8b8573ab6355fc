"What is said before work is lost: data, damaged folders, starts and numbers of rows that cannot be; and what no refusal leaves behind."
import json,shutil,warnings
import numpy as np,pytest,torch,transformers
from adaptprune.artifact import TaskMask
from adaptprune.bench import open_model
from adaptprune.folder import load_adapted,load_compact,save_model
from adaptprune.loop import writable_folder
from adaptprune.multitask import MultiTask
from adaptprune.plan import plan_run
from adaptprune.predict import load
from adaptprune.setup import set_up
from adaptprune.subject import load_subject
from adaptprune.task import adapt_task
from adaptprune.tasks import load_data
from test_compress import home,texts as phrases
from test_folder import own_cache

quick = dict(recipe='default', max_steps=2, max_length=16, progress=False)
few = [dict(text='abcdefghij'[i%10]+' '+'cab'[i%3], label='rare' if i==7 else ('good', 'bad')[i%2]) for i in range(40)]
rows = dict(train=few, dev=few[:10])

@pytest.fixture
def base(folder, tiny, tmp_path):
    "A base with positions enough for `compress`, which times it"
    shutil.copytree(folder, tmp_path/'base')
    tiny('Bert', num_hidden_layers=1, max_position_embeddings=128).save_pretrained(tmp_path/'base')
    return tmp_path/'base'

def csv(path, table):
    path.write_text('\n'.join(['text,label', *(f"{r['text']},{r['label']}" for r in table)]))
    return path

def run(base, out=None, **kwargs):
    return adapt_task(data=rows, model=str(base), out=out and str(out), **{**quick, **kwargs})

@pytest.fixture
def mask(base, tmp_path):
    run(base, tmp_path/'mask')
    return tmp_path/'mask'

# The data of `export --format int8`

@pytest.mark.parametrize('table, words', [
    ([dict(text='a b', label='ugly')], "'ugly'"), ([dict(text='', label='good')], 'text')])
def test_int8_reads_its_data_first(table, words, mask, tmp_path, command, monkeypatch):
    "Nothing is exported where the data cannot be scored"
    from adaptprune import export
    monkeypatch.setattr(export, 'export_onnx', lambda *_: pytest.fail('exported'))
    data = csv(tmp_path/'x.csv', [*few, *table])
    assert words in command('export', mask, '--format', 'int8', '--out', 'x.onnx', '--data', data, fails=True)
    assert not (tmp_path/'x.onnx').exists()

def test_int8_refuses_scores_of_vectors_first(base, tmp_path, command, monkeypatch):
    vectors_file = pytest.importorskip('test_export_kinds').vectors_file
    from adaptprune import export
    monkeypatch.setattr(export, 'export_onnx', lambda *_: pytest.fail('exported'))
    vectors_file(base, tmp_path/'v')
    (tmp_path/'x.csv').write_text('a,b,score\na b,c d,1\nb,c,high\n')
    said = command('export', tmp_path/'v', '--format', 'int8', '--out', 'x.onnx', '--data', 'x.csv', '--text', 'a,b', fails=True)
    assert 'high' in said and not (tmp_path/'x.onnx').exists()

# Sentence encoders as folders

@pytest.mark.parametrize('parts, cut', [('mean', False), ('dense', False), ('mean', True), ('dense', True)])
def test_a_sentence_encoder_as_a_folder(parts, cut, base, tmp_path, command):
    "SentenceTransformer reads it with the same vectors; `compress` and `bench` take it"
    library = pytest.importorskip('sentence_transformers')
    from test_export_kinds import vectors_file
    vectors_file(base, tmp_path/'v', parts, cut)
    code = ', trust_remote_code=True' if cut else ''
    assert f"SentenceTransformer('st'{code})" in command('export', tmp_path/'v', '--format', 'model', '--out', 'st')
    want = load(tmp_path/'v').model
    again = library.SentenceTransformer(str(tmp_path/'st'), device='cpu', trust_remote_code=cut)
    assert np.array_equal(again.encode(phrases[:9]), want.encode(phrases[:9])) and again.max_seq_length==want.max_seq_length
    net = open_model(str(tmp_path/'st'))[0]
    for n,p in want[0].auto_model.named_parameters(): assert torch.equal(net.get_parameter(n), p)
    assert save_model(load(tmp_path/'v'), tmp_path/'again')==tmp_path/'again'
    if parts=='mean' and not cut:
        csv(tmp_path/'x.csv', [dict(text=f'{a} {b} {c}', label=0) for a in 'abcde' for b in 'fghij' for c in 'abc'])
        command('compress', 'st', '--data', 'x.csv', '--out', 'out', '--steps', 2, '--formats', 'none', '--label', '')
        assert load_compact(tmp_path/'out').config.num_hidden_layers==1

def test_a_sentence_encoder_in_half_precision(base, tmp_path):
    library = pytest.importorskip('sentence_transformers')
    from test_sentence import make
    save_model(make(base), tmp_path/'half', dtype='bf16')
    assert library.SentenceTransformer(str(tmp_path/'half'), device='cpu')[0].auto_model.dtype==torch.bfloat16

# Damaged folders of models

@pytest.mark.parametrize('kind, file, left', [('classifier', 'model.safetensors', 500), ('classifier', 'config.json', 1),
    ('encoder', 'model.safetensors', -9), ('encoder', 'config.json', 1), ('encoder', 'modules.json', 1)])
def test_damaged_folders(kind, file, left, home, tmp_path, command):
    "One line with folder, file and remedy, from every reader"
    shutil.copytree(home/kind, tmp_path/'m')
    whole = (tmp_path/'m'/file).read_bytes()
    (tmp_path/'m'/file).write_bytes(whole[:left])
    match = f'The folder .*m holds no usable model: {file} is damaged .*save the model again'
    for read in (load_subject, open_model, load_compact, load_adapted):
        with pytest.raises(OSError, match=match): read(tmp_path/'m')
    for words in (['compress', 'm', '--data', home/'texts.csv'], ['bench', 'm']):
        said = command(*words, fails=True)
        assert said.count('\n')==1 and f'm holds no usable model: {file} is damaged' in said
    (tmp_path/'m'/file).write_bytes(whole)
    assert load_subject(tmp_path/'m').kind==kind

# Paths of masks

def test_one_path_is_one_task(base, mask):
    for name in (mask, str(mask)): assert MultiTask.from_pretrained(name, str(base)).tasks==['dense', 'mask']

def test_a_file_stands_for_its_folder(base, mask, tmp_path, command):
    files = [f for f in mask.iterdir() if f.suffix in ('.json', '.safetensors')]
    assert len(files)==2
    for f in files: assert TaskMask.from_pretrained(f).mask==TaskMask.from_pretrained(mask).mask
    csv(tmp_path/'x.csv', few)
    command('adapt', '--train', 'x.csv', '--model', base, '--recipe', 'default', '--max-steps', 2, '--out', 'm', '--start-from', mask/'adaptprune.json')
    assert TaskMask.from_pretrained(tmp_path/'m').info['start_from']['by']=='mask'
    with pytest.raises(OSError, match='No folder'): TaskMask.from_pretrained(tmp_path/'x.csv')

# A refused run

def test_a_refused_run_leaves_no_folder(base, mask, tmp_path, command):
    csv(tmp_path/'x.csv', few)
    before = {p.name for p in tmp_path.iterdir()}
    words = 'adapt', '--train', 'x.csv', '--model', base, '--recipe', 'default', '--max-steps', 2, '--out', 'a/b'
    other = transformers.AutoModel.from_pretrained(base)
    with torch.no_grad(): other.get_parameter('encoder.layer.0.attention.self.query.weight').add_(1)
    other.save_pretrained(tmp_path/'base')
    assert 'learnt on another base' in command(*words, '--start-from', mask, fails=True)
    assert 'from 1 to' in command(*words, '--max-train-samples', 99, fails=True)
    assert 'no-such' in command(*words, '--weights', 'no-such*', fails=True)
    with pytest.raises(ValueError, match='another base'): run(base, tmp_path/'a', start_from=mask, recipe='distilled')
    assert {p.name for p in tmp_path.iterdir()}==before
    command(*words)
    assert (tmp_path/'a/b/adaptprune.json').exists()

def test_what_was_there_or_holds_something_stays(tmp_path):
    (tmp_path/'there').mkdir()
    for name in ('there', 'new', 'used'):
        with pytest.raises(ValueError), writable_folder(tmp_path/name):
            if name=='used': (tmp_path/name/'x').touch()
            raise ValueError
    assert {p.name for p in tmp_path.iterdir()}=={'there', 'used'}

# The number of training rows

@pytest.mark.parametrize('n', [2.5, '10', True, 0, np.nan])
def test_numbers_of_rows_that_cannot_be(n, base, tmp_path):
    with pytest.raises(ValueError, match=f'max_train_samples must be from 1 to 40, a whole number .*got {n!r}'):
        run(base, tmp_path/'out', max_train_samples=n)
    assert not (tmp_path/'out').exists()

def test_classes_that_are_not_drawn_are_named(base):
    "Once, in the line that says how the data were read"
    said = []
    run(base, max_train_samples=np.int64(3), say=said.append, recipe='distilled', teacher_steps=1)
    assert len(said)==1 and "3 rows of train drawn, none of the class 'rare'" in said[0]
    run(base, max_train_samples=40, say=said.append)
    assert '40 rows of train drawn' in said[1] and 'none of' not in said[1]

kinds = dict(multilabel=(lambda i: ['x', 'y'] if i==5 else ['z'], "classes 'x', 'y'"),
    tokens=(lambda i: ['O', 'B-x'] if i==5 else ['O', 'O'], "class 'B-x'"))

@pytest.mark.parametrize('kind', kinds)
def test_several_labels_and_tags(kind, base):
    label,words = kinds[kind]
    text = (lambda i: ['ab'[i%2], 'c']) if kind=='tokens' else (lambda i: 'abcdefghij'[i%10]+' b'*(i//10))
    task,data = load_data([dict(text=text(i), label=label(i)) for i in range(30)], [dict(text=text(i), label=label(i)) for i in range(10)],
        text='text', label='label', kind=kind)
    got = set_up(task, str(base), data=data, max_length=16, max_train_samples=2, seed=1)
    assert words in str(got.reading)

def test_rows_without_a_reading_get_a_warning(base):
    task,data = load_data(**rows)
    plain = dict(data)
    with pytest.warns(UserWarning, match="3 rows of train drawn, none of the class 'rare'"):
        set_up(task, str(base), data=plain, max_length=16, max_train_samples=3)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        set_up(task, str(base), data=plain, max_length=16, max_train_samples=40)

def test_by_command_and_in_the_file(base, tmp_path, command, capsys):
    "`--max-train-samples`, in a dry run too; the mask file records it"
    csv(tmp_path/'x.csv', few)
    words = 'adapt', '--train', 'x.csv', '--dev', 'x.csv', '--model', base, '--recipe', 'default', '--max-steps', 2, '--out', 'm', '--max-train-samples', 3
    assert "3 rows of train drawn, none of the class 'rare'" in command(*words, '--dry-run')
    assert not (tmp_path/'m').exists()
    assert "3 rows of train drawn" in json.loads(command(*words, '--json'))['reading']
    assert json.loads(command('info', 'm', '--json'))['info']['max_train_samples']==3
    assert "invalid int value: '2.5'" in command(*words[:-1], 2.5, fails=True)
    plan = plan_run(*load_data(**rows)[:1], str(base), data=load_data(**rows)[1], recipe='default', max_train_samples=16, epochs=1)
    assert plan.steps==1

def test_the_file_says_nothing_of_all_rows(mask): assert 'max_train_samples' not in TaskMask.from_pretrained(mask).info

# ---- damaged weights of torch, prompts, empty cells
@pytest.mark.parametrize('damage, said', [(lambda raw: b'', 'it is empty'), (lambda raw: raw[:len(raw)//2], 'its end is missing')])
def test_damaged_weights_of_torch(damage, said, tiny, tmp_path):
    from adaptprune.head import check_files,load_encoder
    tiny('Bert').save_pretrained(tmp_path)
    (tmp_path/'model.safetensors').unlink()
    torch.save(tiny('Bert').state_dict(), tmp_path/'pytorch_model.bin')
    check_files(tmp_path)
    torch.save(tiny('Bert').state_dict(), tmp_path/'pytorch_model.bin', _use_new_zipfile_serialization=False)
    check_files(tmp_path)
    torch.save(tiny('Bert').state_dict(), tmp_path/'pytorch_model.bin')
    raw = (tmp_path/'pytorch_model.bin').read_bytes()
    (tmp_path/'pytorch_model.bin').write_bytes(damage(raw))
    with pytest.raises(OSError, match=f'pytorch_model.bin is damaged .{said}'): load_encoder(str(tmp_path))

def test_an_empty_cell_is_no_answer():
    import pandas as pd
    from adaptprune.predict import QuestionPredictor
    from adaptprune.taskcard import TaskCard
    asker = object.__new__(QuestionPredictor)
    asker.card = TaskCard('question-answering', 2, label='answer')
    assert asker._true(pd.DataFrame(dict(answer=['a', float('nan')])), 'x')==[['a'], ['']]

def test_a_file_says_which_prompt_its_texts_need(base, tmp_path, command):
    "The encoder puts its prompt before each text, its file does not"
    pytest.importorskip('sentence_transformers'), pytest.importorskip('onnxruntime')
    from adaptprune.export import OnnxRunner
    from test_export_kinds import make,prune
    model = make(base, 'mean')
    prune(model)
    model.prompts,model.default_prompt_name = {'query': 'a b '},'query'
    TaskMask.from_model(model, str(base)).save_pretrained(tmp_path/'v')
    r = json.loads(command('export', tmp_path/'v', '--out', 'v.onnx', '--json'))
    assert r['prompt']=='a b '
    p = load(tmp_path/'v')
    inputs = dict(p.model.tokenizer([r['prompt']+t for t in phrases[:9]], padding=True, return_tensors='np'))
    assert np.abs(OnnxRunner(tmp_path/'v.onnx').named(inputs)['sentence_embedding']-p.predict(phrases[:9])).max()<1e-4
    assert "have to begin with 'a b '" in command('export', tmp_path/'v', '--out', 'v.onnx', '--force')
