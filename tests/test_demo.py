"""The demo: its rows, its files, and that adapting beats what the untouched encoder gives"""
import json
import pytest
from adaptprune import TaskMask
from adaptprune.demo import demo_rows, has_onnx, held, notes_on
from adaptprune.card import Stage
from adaptprune.setup import set_up

@pytest.mark.weights
@pytest.mark.slow
def test_adapting_beats_the_frozen_vectors(command, tmp_path):
    "What the first table of the project must show: a mask, and a compact network, above logistic regression on frozen vectors"
    got = json.loads(command('demo', '--out', tmp_path, '--epochs', 3, '--json'))
    rows = {r['']: r for r in got['rows']}
    frozen = rows['logistic regression on frozen vectors']['accuracy']
    assert frozen>.6                                        # a fair baseline, not a broken one
    for name in ('fine-tuned', 'mask, 50% pruned', 'compact, 70% removed'): assert rows[name]['accuracy']>frozen+.03, name
    assert ('compact, 70% removed, int8' in rows)==has_onnx()
    assert rows['compact, 70% removed']['MB held']<.7*rows['fine-tuned']['MB held']
    for name in ('mask', 'compact'): TaskMask.from_pretrained(tmp_path/name).load_model('minilm')
    assert (tmp_path/'demo.png').stat().st_size>5_000

@pytest.mark.weights
def test_rows_say_what_was_given():
    setup = set_up('mini-sentiment')
    stage = Stage('x', lambda batch: setup.model(**batch), held(setup.model), dict(score=.5))
    row, = demo_rows([(stage, 2000)], setup)
    assert (row[''], row['accuracy'], row['KB shipped'])==('x', .5, 2) and row['ms']>0
    assert row['MB held']==round(sum(p.numel()*4 for p in setup.model.parameters())/1e6, 1)

def test_notes_speak_of_the_size():
    assert '0.07' in notes_on(140) and '0.02' in notes_on(1821)
