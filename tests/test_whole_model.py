"Whole models as folders that transformers loads with the head, masks of models that were trained elsewhere, and apply on every table."
import gzip,io,json,sys
from types import SimpleNamespace
import pandas as pd,pytest,torch,transformers
from test_folder import classifier,cut,own_cache
from test_units import drawn
from test_users import batch as users_batch,config,decoders,encoders,make
from adaptprune import cli
from adaptprune.artifact import TaskMask
from adaptprune.compaction import compact
from adaptprune.folder import load_compact,save_model
from adaptprune.head import AdaptModel,copy_encoder
from adaptprune.predict import load
from adaptprune.task import adapt_task
from adaptprune.tasks import load_files
from adaptprune.units import find_units

auto = transformers.AutoModelForSequenceClassification
inputs = {k: v for k,v in users_batch.items() if k!='labels'}
no_folder = {'T5', 'Bart'}
families = [*encoders, *decoders]
uncut = {'Falcon', 'Bloom', 'GPTNeoX', 'GPT2', 'Mpt', 'Mixtral'}

def net_of(family, n_out=3, **kwargs):
    torch.manual_seed(1)
    return AdaptModel(copy_encoder(make(family)), n_out, **kwargs).eval()

def answers(model): return model(**inputs).logits

def remote(folder, **kwargs): return auto.from_pretrained(folder, trust_remote_code=True, **kwargs)

# 6: the whole model: a folder that transformers loads with its head

@pytest.mark.parametrize('family', families)
def test_a_whole_model_comes_back_bit_for_bit(family, tmp_path):
    "With its head, by transformers alone; without the code it stops; the encoder alone needs no code"
    net = net_of(family)
    folder = save_model(net, tmp_path/'m', labels=('a', 'b', 'c'))
    again = remote(folder)
    assert torch.equal(answers(again), answers(net)) and again.config.id2label=={0: 'a', 1: 'b', 2: 'c'}
    assert again.config.model_type==net.config.model_type and not again.training
    encoder = transformers.AutoModel.from_pretrained(folder)
    assert torch.equal(encoder(**inputs)[0], net.encoder(**inputs)[0])
    with pytest.raises((RuntimeError, ValueError), match='ignore_mismatched_sizes|Unrecognized configuration class'): auto.from_pretrained(folder)

@pytest.mark.parametrize('family', [f for f in families if f not in uncut])
def test_a_compact_one(family, tmp_path):
    net = net_of(family)
    small = compact(net, drawn(find_units(net)))
    folder = save_model(small, tmp_path/'m')
    assert torch.equal(answers(remote(folder)), answers(small))
    encoder = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert torch.equal(encoder(**inputs)[0], small.encoder(**inputs)[0])
    for kind in (auto, transformers.AutoModel):
        with pytest.raises((RuntimeError, ValueError), match='ignore_mismatched_sizes|Unrecognized configuration class'): kind.from_pretrained(folder)
    with pytest.raises(ValueError, match='whole model with its head'): load_compact(folder)

@pytest.mark.parametrize('dtype', ['fp16', 'bf16', torch.bfloat16])
def test_half_precision(dtype, tmp_path):
    "The encoder takes half the room, the head stays in float32; the answers are those of the model so rounded"
    import copy
    net = net_of('Bert', 1)
    net.head.standardise(250_000, 9_000)
    again = remote(save_model(net, tmp_path/'m', dtype=dtype))
    kind = dict(fp16=torch.float16, bf16=torch.bfloat16).get(dtype, dtype)
    assert again.bert.dtype==kind and again.head.mlp[-1].weight.dtype==torch.float32
    rounded = copy.deepcopy(net)
    rounded.encoder.to(kind)
    assert torch.equal(answers(again), answers(rounded)) and answers(again).mean()>1e5
    assert net.encoder.dtype==torch.float32, 'the model itself stays'
    again.save_pretrained(tmp_path/'again')
    assert torch.equal(answers(remote(tmp_path/'again')), answers(again)), 'saved once more by transformers'

def test_mistakes(tmp_path):
    net = net_of('Bert')
    mixtral = net_of('Mixtral')
    small = compact(mixtral, drawn(find_units(mixtral)))
    with pytest.raises(ValueError, match='does not give the same network back'): save_model(small, tmp_path/'m')
    for path,words in [(dict(dtype='int8'), 'Unknown dtype'), (dict(labels=['a']), '3 outputs, and 1 labels')]:
        with pytest.raises(ValueError, match=words): save_model(net, tmp_path/'m', **path)
    with pytest.raises(ValueError, match='T5Stack is no class of transformers'): save_model(net_of('T5'), tmp_path/'m')
    with pytest.raises(ValueError, match='neither an `AdaptModel`'): save_model(torch.nn.Linear(2, 2), tmp_path/'m')
    assert not (tmp_path/'m').exists()
    save_model(net, tmp_path/'m')
    with pytest.raises(FileExistsError): save_model(net, tmp_path/'m')
    save_model(net, tmp_path/'m', force=True)

def test_a_head_of_transformers_needs_no_code(tmp_path):
    model = classifier('Bert')
    again = auto.from_pretrained(save_model(model, tmp_path/'m'))
    assert torch.equal(answers(again), answers(model)) and not [*(tmp_path/'m').glob('*.py')]
    assert auto.from_pretrained(save_model(model, tmp_path/'half', dtype='bf16')).dtype==torch.bfloat16
    small = cut(model, 'Bert')
    assert torch.equal(answers(remote(save_model(small, tmp_path/'small'))), answers(small))

def test_the_code_needs_only_torch_and_transformers(tmp_path):
    source = (save_model(net_of('Bert'), tmp_path/'m')/'modeling_adaptprune.py').read_text()
    lines = [l for l in source.splitlines() if l.lstrip().startswith(('import ', 'from '))]
    assert {l.split()[1].split('.')[0].strip(',') for l in lines}=={'torch', 'transformers'} and len(source.splitlines())<130

def test_training_goes_on_in_the_loaded_model(tmp_path):
    again = remote(save_model(net_of('Bert', 2), tmp_path/'m'))
    loss = again(**users_batch).loss
    loss.backward()
    assert torch.equal(loss, torch.nn.functional.cross_entropy(answers(again), users_batch['labels']))
    assert all(p.grad is not None for p in again.head.parameters())
