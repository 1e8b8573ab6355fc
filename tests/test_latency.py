"Costs in milliseconds: the fit recovers them, a speed becomes a budget, and a table of another machine is refused"
import json
import pytest,torch
from torch import nn
from adaptprune import latency
from adaptprune.fisher import choose_units,random_units
from adaptprune.latency import Latency,cache_folder,latency_table,measure_latency,read_latency,save_latency
from adaptprune.units import find_units

@pytest.fixture
def bert(tiny): return tiny('Bert', hidden_size=32, num_attention_heads=4, intermediate_size=64, num_hidden_layers=3)

@pytest.fixture
def timed(monkeypatch):
    "Passes that take 3 ms, .5 ms a head and .01 ms a neuron, with a neighbour that disturbs some"
    seen = []
    def seconds(net):
        heads = sum(l.attention.self.num_attention_heads for l in net.encoder.layer)
        neurons = sum(l.output.dense.in_features for l in net.encoder.layer)
        return (3+.5*heads+.01*neurons)/1e3
    def turns(runs, inputs, rounds, turn):
        seen.append(inputs)
        return {k: [seconds(run.args[0])+(.05 if i%5==0 else 0) for i in range(rounds)] for k,run in runs.items()}
    monkeypatch.setattr(latency, 'interleaved', turns)
    return seen

def test_the_fit_recovers_the_costs(bert, timed):
    table = measure_latency(bert, batch=4, tokens=9, rounds=15)
    assert (table.fixed,table.heads,table.neurons)==pytest.approx((3, .5, .01), rel=1e-3) and table.error<1e-3
    assert timed[0]['input_ids'].shape==(4, 9) and table.units==dict(heads=12, neurons=192)

def test_a_speed_is_reached(bert, timed):
    table,units = measure_latency(bert, rounds=15),find_units(bert)
    keep = choose_units(units, random_units(bert), table.remove_for(1.8), costs=table.costs(units))
    left = table.fixed+sum(int(k.sum())*table.costs(units)[n] for n,k in keep.items())
    assert left==pytest.approx(table.whole/1.8, abs=.25+1e-6)

@pytest.mark.parametrize('speed', [.5, 'fast', True, 9.])
def test_refused_speeds(bert, timed, speed):
    with pytest.raises(ValueError, match='speed'): measure_latency(bert, rounds=5).remove_for(speed)

def test_another_network(bert, tiny, timed):
    with pytest.raises(ValueError, match='measure yours'): measure_latency(bert, rounds=5).costs(find_units(tiny('Bert')))

def test_another_machine_or_number_of_threads(bert, timed, tmp_path):
    file = tmp_path/'table.json'
    save_latency(measure_latency(bert, rounds=5), file)
    assert isinstance(read_latency(file), Latency)
    for name,value,says in (('machine', 'abacus', 'measured on abacus'), ('threads', 64, 'with 64 threads')):
        changed = json.loads(file.read_text())|{name: value}
        (tmp_path/'changed.json').write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=says): read_latency(tmp_path/'changed.json')
    file.write_text('{"a": 1}')
    with pytest.raises(ValueError, match='no latency table'): read_latency(file)

def test_a_network_without_tokens():
    with pytest.raises(ValueError, match='no heads or feed-forward neurons'): measure_latency(nn.Linear(2, 2))

def test_a_table_is_made_once(bert, tiny, timed, tmp_path):
    "Another network, input or number of threads has a table of its own; a damaged one is made anew"
    def made(model=bert, **how): return len(timed), latency_table(model, folder=tmp_path, rounds=5, **how), len(timed)
    before,table,after = made()
    assert after==before+1
    before,again,after = made()
    assert after==before and again==table
    for how in (dict(batch=2), dict(tokens=9), dict(model=tiny('Bert'))):
        before,_,after = made(**how)
        assert after==before+1
    wider = tiny('Bert', hidden_size=32, num_attention_heads=4, intermediate_size=64, num_hidden_layers=3, vocab_size=60)
    assert made(wider)[2]==after+1, 'as many heads and neurons, but another network'
    for f in (tmp_path/'latency').iterdir(): f.write_text('{')
    before,again,after = made()
    assert after==before+1 and again==table

def test_where_tables_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv('ADAPTPRUNE_CACHE', str(tmp_path/'a'))
    assert cache_folder()==tmp_path/'a'
    monkeypatch.delenv('ADAPTPRUNE_CACHE')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'b'))
    assert cache_folder()==tmp_path/'b/adaptprune'
