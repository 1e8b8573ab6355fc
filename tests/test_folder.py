"Compact networks as folders: the same network back, by us and by transformers alone, and an error where it cannot be"
import json
import pytest,torch,transformers
from safetensors.torch import load_file,save_file
from test_units import batch,configs,drawn,make
from adaptprune.compaction import compact,is_compact
from adaptprune.folder import load_compact,save_compact
from adaptprune.units import Structure,base_of,find_units

families = [f for f in configs if f!='Albert']
can_lose_heads = {'Bert', 'Electra', 'DistilBert'}

@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    "Code of folders goes into a folder of the test"
    monkeypatch.setattr(transformers.dynamic_module_utils, 'HF_MODULES_CACHE', str(tmp_path/'modules'))

def cut(model, family):
    units = find_units(model)
    empty = [u.out for u in units if u.layer.endswith('.1') and (u.kind=='neurons' or family in can_lose_heads)]
    return compact(model, drawn(units, empty=empty))

def classifier(family, **changes):
    torch.manual_seed(0)
    kind = getattr(transformers, f'{family}Config')
    config = kind(**dict(configs[family], num_labels=3, **changes))
    model = getattr(transformers, f'{family}ForSequenceClassification')(config).eval()
    with torch.no_grad():
        for p in model.parameters(): p.add_(torch.randn_like(p)*.1)
    return model

@pytest.mark.parametrize('family', families)
def test_comes_back_bit_for_bit(family, batch, tmp_path):
    small = cut(make(family), family)
    again = load_compact(save_compact(small, tmp_path/'m'))
    assert type(again) is type(small) and not again.training and is_compact(again)
    assert base_of(again).structure==base_of(small).structure
    assert torch.equal(again(**batch)[0], small(**batch)[0])

@pytest.mark.parametrize('family', families)
def test_transformers_alone_reads_it_or_stops(family, batch, tmp_path):
    small = cut(make(family), family)
    folder = save_compact(small, tmp_path/'m')
    remote = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert torch.equal(remote(**batch)[0], small(**batch)[0]) and type(remote).__name__==type(small).__name__
    with pytest.raises(RuntimeError, match='ignore_mismatched_sizes'): transformers.AutoModel.from_pretrained(folder)

@pytest.mark.parametrize('family', ['Bert', 'Roberta', 'DistilBert', 'MPNet', 'ModernBert', 'Qwen2'])
def test_classifiers(family, batch, tmp_path):
    small = cut(classifier(family, **(dict(pad_token_id=0) if family=='Qwen2' else {})), family)
    folder = save_compact(small, tmp_path/'m')
    want = small(**batch).logits
    auto = transformers.AutoModelForSequenceClassification
    assert torch.equal(load_compact(folder)(**batch).logits, want)
    assert torch.equal(auto.from_pretrained(folder, trust_remote_code=True)(**batch).logits, want)
    encoder = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert torch.equal(encoder(**batch)[0], base_of(small)(**batch)[0])
    with pytest.raises(RuntimeError, match='ignore_mismatched_sizes'): auto.from_pretrained(folder)

@pytest.mark.parametrize('lost', ['heads', 'neurons'])
def test_one_empty_layer_and_nothing_else_is_an_error_without_our_code(lost, tmp_path):
    "No weight differs in size there: they are only gone"
    model = classifier('Bert')
    kept = {u.out: torch.ones(u.n, dtype=torch.bool) for u in find_units(model)}
    out = next(u.out for u in find_units(model) if u.kind==lost)
    kept[out][:] = False
    folder = save_compact(compact(model, Structure(kept)), tmp_path/'m')
    for auto in (transformers.AutoModel, transformers.AutoModelForSequenceClassification):
        with pytest.raises(RuntimeError, match='ignore_mismatched_sizes'): auto.from_pretrained(folder)
        auto.from_pretrained(folder, trust_remote_code=True)

def test_tied_weights_stay_tied(tmp_path):
    torch.manual_seed(0)
    config = transformers.Qwen2Config(**configs['Qwen2'], tie_word_embeddings=True)
    model = transformers.Qwen2ForCausalLM(config).eval()
    small = compact(model, drawn(find_units(model)))
    again = load_compact(save_compact(small, tmp_path/'m'))
    assert again.lm_head.weight is again.model.embed_tokens.weight
    ids = torch.arange(3, 12)[None]
    assert torch.equal(again(ids).logits, small(ids).logits)

def test_precision_and_missing_pooler_stay(batch, tmp_path):
    model = make('Bert').bfloat16()
    model.pooler = None
    small = cut(model, 'Bert')
    again = load_compact(save_compact(small, tmp_path/'m'))
    assert again.dtype==torch.bfloat16 and again.pooler is None
    assert torch.equal(again(**batch)[0], small(**batch)[0])

def test_a_loaded_network_is_saved_again(batch, tmp_path):
    small = cut(classifier('Bert'), 'Bert')
    first = load_compact(save_compact(small, tmp_path/'a'))
    second = load_compact(save_compact(first, tmp_path/'b'))
    assert torch.equal(second(**batch).logits, small(**batch).logits)
    remote = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path/'a', trust_remote_code=True)
    with pytest.raises(ValueError, match='compact already'): compact(remote, base_of(small).structure)

def test_whole_networks_are_not_disturbed_after_remote_code(batch, tmp_path):
    model = classifier('Bert')
    folder = save_compact(cut(model, 'Bert'), tmp_path/'m')
    transformers.AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    model.save_pretrained(tmp_path/'whole')
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path/'whole')
    assert torch.equal(again(**batch).logits, model(**batch).logits)

def test_the_model_that_is_saved_stays_as_it_is(tmp_path):
    small = cut(classifier('Bert'), 'Bert')
    save_compact(small, tmp_path/'m')
    assert not {'adaptprune', 'auto_map'} & small.config.to_dict().keys()
    load_compact(tmp_path/'m', device_map='cpu')

def test_damage_and_mistakes_are_errors(tmp_path):
    model = classifier('Bert')
    folder = save_compact(cut(model, 'Bert'), tmp_path/'m')
    weights = load_file(folder/'model.safetensors')
    name = 'bert.encoder.layer.0.attention.self.query.weight'
    save_file({n: t for n,t in weights.items() if n!=name}, folder/'model.safetensors', metadata=dict(format='pt'))
    with pytest.raises(ValueError, match='is damaged.*query.weight'): load_compact(folder)
    model.save_pretrained(tmp_path/'whole')
    with pytest.raises(ValueError, match='no compact network'): load_compact(tmp_path/'whole')
    with pytest.raises(OSError, match='holds no model'): load_compact(tmp_path/'nothing')
    with pytest.raises(ValueError, match='not compact'): save_compact(model, tmp_path/'x')
    with pytest.raises(ValueError, match='no class of transformers'): save_compact(torch.nn.Linear(2, 2), tmp_path/'x')
    (tmp_path/'other').mkdir()
    (tmp_path/'other/letter.txt').write_text('dear reader')
    with pytest.raises(FileExistsError, match='other things'): save_compact(cut(model, 'Bert'), tmp_path/'other', force=True)
    assert not (tmp_path/'x').exists()

def test_the_code_needs_only_torch_and_transformers(tmp_path):
    folder = save_compact(cut(classifier('Bert'), 'Bert'), tmp_path/'m')
    source = (folder/'modeling_compact.py').read_text()
    lines = [l for l in source.splitlines() if l.startswith(('import', 'from'))]
    assert lines==['import transformers', 'from torch import Tensor, nn'] and 'import adaptprune' not in source
    config = json.loads((folder/'config.json').read_text())
    assert config['auto_map']=={'AutoModel': 'modeling_compact.BertModel',
        'AutoModelForSequenceClassification': 'modeling_compact.BertForSequenceClassification'}
