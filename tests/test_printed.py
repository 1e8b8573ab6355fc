"Every command that the documentation prints is one that the command line takes; `make users` runs them too."
import json,re,sys
from pathlib import Path
import pytest
from adaptprune import cli

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools'))
import printed

commands = printed.printed()

@pytest.mark.parametrize('name, words', commands, ids=[f"{n}: {' '.join(w)}"[:110] for n,w in commands])
def test_a_printed_command_is_taken(name, words):
    if words in (['--version'], ['--help']): return
    if len(words)==1 and words[0] in cli.commands: return
    func,given = cli.parse(words)
    assert func is cli.commands[words[0]] and given

def test_recorded_commands_are_taken():
    "As they were printed, with an underscore in `--glue_dir` in those of early versions"
    found = printed.recorded()
    assert len(found)>=3
    for _,words in found: assert cli.parse(words)[0] is cli.sweep

def test_options_are_printed_with_hyphens():
    ours = [(n, w) for n,words in commands for w in words if not n.startswith('nbs/experiments/')]    # those show records
    bad = [(n, w) for n,w in ours if re.match('--[a-z]+_', w)]
    assert not bad, bad

def test_commands_are_found():
    "The front page prints the commands that people start with"
    front = {w[0] for n,w in commands if n=='README.md'}
    assert {'demo', 'adapt', 'evaluate', 'apply', 'export', 'push', 'sweep'} <= front

def test_make_targets_are_there():
    there = set(re.findall(r'^([a-z]+):', (root/'Makefile').read_text(), re.M))
    assert {'demo', 'test'} <= printed.make_targets() <= there

@pytest.mark.parametrize('line, words', [
    ('adaptprune adapt --task stsb  # or another', ['adapt', '--task', 'stsb']),
    ("adaptprune apply m --first 'A plane.'", ['apply', 'm', '--first', 'A plane.']),
    ('.venv-demo/bin/adaptprune demo --out x', ['demo', '--out', 'x']),
    ('#     adaptprune sweep a.toml', ['sweep', 'a.toml']),
    ('python -m adaptprune info m', ['info', 'm']),
    ('adaptprune sweep a.toml --jobs > jobs.txt', ['sweep', 'a.toml', '--jobs']),
    ('adaptprune info m | head -1', ['info', 'm']),
    ('pip install adaptprune', None), ('adaptprune: error: no', None), ('from adaptprune import x', None), ('', None),
])
def test_words_of_a_line(line, words): assert printed.words_of(line)==words

def test_code_of_markdown():
    fences = ['```sh\nadaptprune adapt \\\n  --task x\n```', '```python\nadaptprune = 1\n```\n']
    md = '\n\n'.join(['Say `adaptprune info m` or', fences[0], 'words', '    adaptprune demo', fences[1]])
    found = filter(None, map(printed.words_of, printed.code_of(md)))
    assert list(found)==[['adapt', '--task', 'x'], ['demo'], ['info', 'm']]

@pytest.mark.parametrize('page', printed.pages(), ids=lambda p: p.stem)
def test_links_between_pages_lead_to_notebooks(page):
    "A link to another page names its notebook, which is there; the site makes the address"
    links = re.findall(r'\]\(([^)#\s:]+\.(?:html|ipynb))(?:#[^)]*)?\)', printed.markdown(page))
    assert [l for l in links if l.endswith('.html') or not (page.parent/l).exists()]==[]

def test_answers_fold_wherever_a_notebook_is_read():
    "Fenced divs fold on the site alone: in Jupyter, in Colab and on GitHub they are three colons and an open answer"
    raw = [(p.name, l) for p in sorted((root/'nbs').rglob('*.ipynb')) for c in json.loads(p.read_text())['cells'] if c['cell_type']=='markdown'
        for l in ''.join(c['source']).splitlines() if l.startswith(':::')]
    assert not raw
