"CoNLL files: words and tags in lines, sentences between blank lines; what is wrong is named with its line."
import gzip,json
import pytest
from adaptprune.tables import open_table
from adaptprune.tasks import load_data

sentences = [[('Anna', 'B-PER'), ('Berg', 'I-PER'), ('sings', 'O')], [('In', 'O'), ('Rome', 'B-LOC'), ('.', 'O')], [('#', 'O'), ('1', 'O')]]
want = [([w for w,_ in s], [t for _,t in s]) for s in sentences]

def text(sep=' ', blank='\n', more=()): return blank.join(''.join(sep.join([w, *more, t])+'\n' for w,t in s) for s in sentences)
def read(path, **kw):
    t = open_table(path, **kw)
    assert t.kind=='tokens'
    return [tuple(v) for _,v in t.rows(['tokens', 'tags'])]

@pytest.mark.parametrize('name', ['a.conll', 'a.bio', 'a.txt', 'a.CONLL', 'a.txt.gz'])
@pytest.mark.parametrize('sep', [' ', '\t', '   ', ' \t'])
def test_extensions_and_separators(name, sep, tmp_path):
    data = text(sep).encode()
    (tmp_path/name).write_bytes(gzip.compress(data) if name.endswith('.gz') else data)
    assert read(tmp_path/name)==want

@pytest.mark.parametrize('change', [lambda s: s.replace('\n', '\r\n'), lambda s: '\ufeff'+s, lambda s: '\n\n'+s+'\n\n', lambda s: s.replace('\n\n', '\n \t\n\n'),
    lambda s: '-DOCSTART- O\n\n'+s, lambda s: '-DOCSTART- -X- -X- O\n\n'+s, lambda s: '# id 7 domain=en\n'+s, lambda s: s.replace('\n\n', '\n\n#\n', 1), lambda s: s.rstrip('\n')])
def test_what_files_have_besides(change, tmp_path):
    (tmp_path/'a.conll').write_bytes(change(text()).encode())
    assert read(tmp_path/'a.conll')==want

def test_other_separators_and_encodings(tmp_path):
    (tmp_path/'a.conll').write_text(text(';'))
    assert read(tmp_path/'a.conll', sep=';')==want
    (tmp_path/'b.conll').write_text(text().replace('Anna', 'J\u00f6rg\u00a0B'), encoding='utf-16')      # a blank that does not break stays
    assert read(tmp_path/'b.conll')[0][0]==['J\u00f6rg\u00a0B', 'Berg', 'sings']

def test_more_columns(tmp_path):
    "The last column holds the tags, unless another one is named"
    (tmp_path/'a.conll').write_text(text(more=('N', 'I-NP')))
    t = open_table(tmp_path/'a.conll')
    assert t.names==['tokens', 'column_2', 'column_3', 'tags'] and t.notes==['tags in the last of 4 columns'] and read(tmp_path/'a.conll')==want
    assert t.column('column_2')==[['N']*3, ['N']*3, ['N']*2] and [w for w,_ in t.rows(['tags'])]==[f"{tmp_path/'a.conll'}, line {i}" for i in (1, 5, 9)]

@pytest.mark.parametrize('line,says', [('Oslo', '1 fields found, 2 expected: give each word its tag'), ('Oslo B-LOC x', '3 fields found'), ('Oslo\t', '1 fields found'),
    ('Oslo LOC', "'LOC' in 'tags' is neither 'O' nor begins with B-"), ('Oslo b-LOC', "'b-LOC'"), ('Oslo B-', "'B-'"), ('Oslo o', "'o' in")])
def test_wrong_lines(line, says, tmp_path):
    (tmp_path/'a.conll').write_text(text()+f'\nIn O\n{line}\n')
    with pytest.raises(ValueError, match='a.conll, line 13: ') as e: open_table(tmp_path/'a.conll')
    assert says in str(e.value)

def test_wrong_files(tmp_path):
    (tmp_path/'a.conll').write_text('\n \n')
    with pytest.raises(ValueError, match='holds no rows'): open_table(tmp_path/'a.conll')
    (tmp_path/'b.conll').write_text('a O\n'*501)
    with pytest.raises(ValueError, match='501 words and no blank line'): open_table(tmp_path/'b.conll')
    (tmp_path/'c.conll').write_text('-DOCSTART- O\n\n')
    with pytest.raises(ValueError, match='holds no rows'): open_table(tmp_path/'c.conll')

def test_other_text_files_are_tables_still(tmp_path):
    (tmp_path/'a.txt').write_text('text\tlabel\nO B-x\tO\ngood\tO\n')
    assert open_table(tmp_path/'a.txt').names==['text', 'label'] and open_table(tmp_path/'a.txt').kind is None
    (tmp_path/'b.txt').write_text('text,label\na b,O\n')
    assert open_table(tmp_path/'b.txt').names==['text', 'label']

def test_parts_of_speech(tmp_path):
    "Tags that are no entities are read from .conll files"
    (tmp_path/'a.conll').write_text('The DET\ndog NOUN\n\nruns VERB\n')
    assert read(tmp_path/'a.conll')==[(['The', 'dog'], ['DET', 'NOUN']), (['runs'], ['VERB'])]

def test_a_task(tmp_path):
    "No kind has to be given; dev files and several files go the same way"
    for n in 'abc': (tmp_path/f'{n}.conll').write_text('\n'.join(text().replace('Anna', f'Anna{i}{n}').replace('Rome', f'Rome{i}{n}').replace('1', f'{i}{n}') for i in range(10)))
    task,data = load_data(tmp_path/'a.conll', dev=tmp_path/'b.conll')
    assert (task.kind, task.text, task.label, task.labels)==('tokens', ('tokens',), 'tags', ('O', 'B-LOC', 'B-PER', 'I-PER')) and 'entities' in str(data.reading)
    assert {s: len(d) for s,d in data.items()}=={'train': 30, 'dev': 30}
    assert len(load_data([tmp_path/'a.conll', tmp_path/'c.conll'], dev=tmp_path/'b.conll')[1]['train'])==60

def test_from_a_file_to_answers(tmp_path, folder, command):
    "adapt, evaluate and apply by command"
    for n in 'ab': (tmp_path/f'{n}.bio').write_text('\n'.join(f'{w} B-X\ne O\n{v} O\n' for w in 'abc' for v in 'fghij'))
    command('adapt', '--train', tmp_path/'a.bio', '--dev', tmp_path/'b.bio', '--model', folder, '--recipe', 'default', '--max-steps', 5, '--out', 'm')
    got = json.loads(command('evaluate', 'm', '--model', folder, '--dev', tmp_path/'b.bio', '--json'))
    assert 0<=got['metrics']['dev']['entity_f1']<=1
    assert len(json.loads(command('apply', 'm', '--model', folder, '--input', tmp_path/'b.bio', '--json')))==15
