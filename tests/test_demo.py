"""The demo: its rows, its files and its command"""
import json
import pytest
from adaptprune import demo
from adaptprune.demo import demo_rows, held, notes_on, untouched
from adaptprune.card import Stage
from adaptprune.setup import set_up

@pytest.mark.weights
def test_the_command(command, tmp_path, monkeypatch):
    "What it prints and writes, of two ways; the page of the demo runs all of them and sees that each beats the frozen vectors"
    ways = untouched(set_up('mini-sentiment', max_length=64))
    monkeypatch.setattr(demo, 'demo_stages', lambda *args, **kwargs: [ways, ways])
    got = json.loads(command('demo', '--out', tmp_path, '--json'))
    assert [r[''] for r in got['rows']]==['logistic regression on frozen vectors']*2 and .6<got['rows'][0]['accuracy']<1
    assert (tmp_path/'demo.png').stat().st_size>5_000
    assert 'logistic regression on frozen vectors' in command('demo', '--out', tmp_path)

@pytest.mark.weights
def test_rows_say_what_was_given():
    setup = set_up('mini-sentiment')
    stage = Stage('x', lambda batch: setup.model(**batch), held(setup.model), dict(score=.5))
    row, = demo_rows([(stage, 2000)], setup)
    assert (row[''], row['accuracy'], row['KB shipped'])==('x', .5, 2) and row['ms']>0
    assert row['MB held']==round(sum(p.numel()*4 for p in setup.model.parameters())/1e6, 1)

def test_notes_speak_of_the_size():
    assert '0.07' in notes_on(140) and '0.02' in notes_on(1821)
