"Every exercise says nothing of its solution as the page stands, and is right with the answer that the page folds away (`test_notebooks` runs them)."
import ast,json,re
from pathlib import Path
import pytest
from adaptprune.exercises import blank, check
from adaptprune.recipe import rules

nbs = Path(__file__).resolve().parent.parent/'nbs'
with_exercises = ['tutorials/what_you_save', 'tutorials/choosing_settings', 'explanations/method', 'explanations/method_run',
    'explanations/mask_file_size', 'explanations/mask_file_format', 'explanations/choose', 'explanations/near_optimality',
    'explanations/theorem_proof', 'explanations/theorem_knobs', 'explanations/theorem_price', 'explanations/theorem_certificate',
    'explanations/theorem_network', 'explanations/printed_theorem', 'tutorials/ten_minutes', 'tutorials/three_tasks_one_base',
    *(f'experiments/{p}' for p in ('against_baselines', 'beside_paper', 'differences', 'other_ways', 'few_labels', 'pairs', 'recipe', 'ingredients',
        'sparse_end', 'topology', 'mask_overlap', 'mask_magnitude', 'mask_structure', 'reproduction', 'engines',
        'structured', 'converged', 'serving', 'speed_and_memory', 'claims', 'first_evidence', 'ablations')),
    *(f'case_studies/{p}' for p in ('causal', 'compression', 'compression_messages', 'geometry', 'private', 'transfer'))]
files = [p for d in ('tutorials', 'explanations') for p in (nbs/d).glob('*.ipynb')]
prose = sorted(p.relative_to(nbs).with_suffix('').as_posix() for p in files)

def cells(page): return json.loads((nbs/f'{page}.ipynb').read_text(encoding='utf-8'))['cells']
def source(cell): return ''.join(cell['source'])
def is_exercise(cell): return cell['cell_type']=='code' and source(cell).startswith('answer = ...\n')
def text_of(page): return '\n'.join(source(c) for c in cells(page) if c['cell_type']=='markdown')

def exercises(page):
    "Each cell with a blank, and the Markdown cell behind it"
    there = cells(page)
    return [(c, there[i+1]) for i,c in enumerate(there) if is_exercise(c)]

def folded(cell):
    "The code of the answer that a cell folds away"
    return re.search(r'<details><summary>Answer</summary>.*?```python\n(.*?)```.*?</details>', source(cell), re.S)[1]

@pytest.mark.parametrize('page', with_exercises)
def test_each_page_has_three(page):
    found = exercises(page)
    assert len(found)>=3 and '## Exercises' in text_of(page)
    for c,below in found:
        assert [''.join(o['data']['text/plain']) for o in c['outputs']]==[blank]
        assert re.search(r'^(def answer|answer = )', folded(below), re.M)

def value_of(src, scope):
    "Run a cell; the value of its last line, where that is an expression"
    *body,last = ast.parse(src).body
    if not isinstance(last, ast.Expr): body,last = [*body, last],None
    exec(compile(ast.Module(body, []), '<cell>', 'exec'), scope)
    return last and eval(compile(ast.Expression(last.value), '<cell>', 'eval'), scope)

def try_answers(page, scope):
    "Each exercise of a page that has run says nothing, refuses what is wrong, and takes the answer that the page folds away"
    for c,below in exercises(page) if page in with_exercises else ():
        src = source(c)
        assert value_of(src, scope).right is None
        src = src.replace('answer = ...\n', '', 1)
        for wrong in (object(), 'nothing', -12345., lambda *args: None):
            verdict = value_of(src, {**scope, 'answer': wrong})
            assert verdict.right is False and verdict.says.startswith('Not yet. ')
        value_of(folded(below), scope)
        assert value_of(src, scope), f"{src}\n{scope['answer']!r}"

@pytest.mark.parametrize('answer, want, right', [
    (..., 1, None), (1.005, 1, True), (1.02, 1, False), (True, 1, False), ('1', 1, False), (-1, 1, False), ([1], 1, False),
    (' Half', 'half', True), (None, 'half', False), ([2, 1], {1, 2}, True), ([1], {1, 2}, False), (3, {1, 2}, False),
    (4, lambda a: a>3, True), ('x', lambda a: a>3, False), ((1, 2), (1, 2), True), (0, 0, True), (float('nan'), 1, False)])
def test_check(answer, want, right):
    verdict = check(answer, want, 'Look there.')
    assert verdict.right is right and bool(verdict) is (right is True)
    assert repr(verdict)==verdict.says=={None: blank, True: 'Right.', False: 'Not yet. Look there.'}[right]

def test_a_hint_is_all_that_a_wrong_answer_gets(): assert '7' not in repr(check(3, 7, 'Count again.'))

def test_numbers_may_be_off_by_what_the_page_says():
    assert check(105, 100, 'h', within=.05) and not check(106, 100, 'h', within=.05) and not check(100.1, 100, 'h', within=0)

@pytest.mark.parametrize('page', prose)
def test_time_limits_and_references(page):
    text = text_of(page)
    assert '*This page: ' in text and '\n## References' in '\n'+text
    assert re.search(r'^## (What it does not show|Limits)', text, re.M) or page=='explanations/glossary'
    assert 'http' in text[text.rindex('## References'):] or 'arXiv:' in text[text.rindex('## References'):]

def entries():
    "The entries of the glossary"
    return [l for l in text_of('explanations/glossary').splitlines() if l.startswith('- **')]

def symbols(text):
    "The signs of a text in dollars, each by itself and without what it equals or lies in"
    found = [re.split(r'=|\\in\b', t)[0] for t in re.findall(r'\$([^$]+)\$', text)]
    parts = [p for t in found for p in re.split(r',\\ |\\quad' if '(' in t else r',|\\quad', t)]
    return {p for p in (re.sub(r'\\ |\s|,$', '', p) for p in parts) if p}

def test_glossary_has_every_field():
    heads = [e.split(': ')[0] for e in entries()]
    named = {n for h in heads for n in re.findall(r'`(\w+)`', h)}
    assert set(rules)-named==set()

@pytest.mark.parametrize('page', ['explanations/method', 'explanations/near_optimality'])
def test_glossary_has_every_sign(page):
    text = text_of(page)
    rows = re.findall(r'^\| (\$.*?) \| ', text[text.index('## Notation'):], re.M)
    wanted = set.union(*map(symbols, rows))
    have = set.union(*(symbols(e.split(': ')[0]) for e in entries()))
    assert len(rows)>10 and wanted-have==set()

def test_glossary_entries_say_something():
    assert len(entries())>80 and not [e for e in entries() if len(e.split(': ', 1)[1])<20]
    terms = {e.split('**')[1] for e in entries()}
    asked = {'theta', 'reach', 'room', 'teacher', 'recovery', 'structure', 'unit', 'gate', 'compact', 'mask inside', 'removed'}
    assert {*asked, 'head', 'kind'}<=terms
