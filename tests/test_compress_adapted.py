"`compress` of a model that was adapted here: folders of `export --format model` and `AdaptModel`s are their own teachers; what cannot be says why."
import json
import pytest,torch,transformers
from adaptprune import compression as room,forms
from adaptprune.artifact import TaskMask
from adaptprune.bench import open_model
from adaptprune.compaction import compact,is_compact
from adaptprune.compression import compress
from adaptprune.folder import load_adapted,load_compact,save_compact,save_model
from adaptprune.head import AdaptModel
from adaptprune.subject import load_subject
from adaptprune.units import find_units
from test_compress import bad,batch,home,quick,texts,tokenizer,trained
from test_folder import own_cache
from test_units import drawn

auto = transformers.AutoModelForSequenceClassification

def net(n_out=2, targets=None, **config):
    "An `AdaptModel` that knows its task, a third of its encoder pruned"
    torch.manual_seed(0)
    base = trained(torch.tensor(bad)).bert
    base.pooler = None
    made = AdaptModel(base, n_out)
    if n_out==1: made.head.standardise(500., 500.)
    opt = torch.optim.AdamW(made.head.parameters(), lr=1e-2)
    x = dict(tokenizer()(texts, padding=True, return_tensors='pt'))
    y = torch.tensor(bad) if targets is None else targets
    for _ in range(30):
        made(**x, labels=y).loss.backward()
        opt.step()
        made.zero_grad()
    with torch.no_grad():
        for n,p in base.named_parameters():
            if p.ndim==2 and 'encoder' in n: p[p.abs()<p.abs().flatten().kthvalue(p.numel()//3).values] = 0
    return made.eval()

kinds = {'classifier': (2, None, ('good', 'bad')), 'regressor': (1, 1000.*torch.tensor(bad), None),
    'several': (3, torch.tensor([[b, 1-b, 1] for b in bad]).float(), ('x', 'y', 'z'))}

@pytest.mark.parametrize('kind', kinds)
@pytest.mark.filterwarnings("error:.*exactly 0 already")
def test_a_folder_of_its_own_is_its_own_teacher(kind, tmp_path):
    n_out,targets,labels = kinds[kind]
    made = net(n_out, targets)
    save_model(made, tmp_path/'m', tokenizer(), labels, several=kind=='several')
    res = compress(tmp_path/'m', texts, tmp_path/'out', remove=.5, **quick)
    whole,small = res.report['stages']
    assert whole['agreement']==pytest.approx(1) and small['agreement']>.5 and abs(res.report['removed']-.5)<.03
    assert res.report['kind']==('regressor' if n_out==1 else 'classifier') and type(res.model) is AdaptModel and is_compact(res.model)
    for n,p in made.head.state_dict().items(): assert torch.equal(res.model.head.state_dict()[n], p), 'the head stays'
    want = res.model(**batch()).logits
    remote = auto.from_pretrained(tmp_path/'out', trust_remote_code=True)
    assert torch.equal(remote(**batch()).logits, want) and torch.equal(load_compact(tmp_path/'out')(**batch()).logits, want)
    if labels: assert tuple(remote.config.id2label.values())==labels
    assert (remote.config.problem_type=='multi_label_classification')==(kind=='several')
    assert torch.equal(open_model(str(tmp_path/'out'))[0](**batch()).logits, want)

def test_the_teacher_is_the_saved_model(tmp_path):
    "The subject answers as the model that was saved, and so does a model that transformers loaded by the folder's code"
    made = net()
    save_model(made, tmp_path/'m', tokenizer(), ('good', 'bad'))
    want = made(**batch()).logits
    loaded = auto.from_pretrained(tmp_path/'m', trust_remote_code=True)
    for model,how in [(tmp_path/'m', {}), (made, dict(tokenizer=tokenizer())), (loaded, dict(tokenizer=tokenizer()))]:
        s = load_subject(model, **how)
        assert type(s.model) is AdaptModel and s.kind=='classifier'
        got,states = s.outputs(s.model, batch(), hidden=True)
        assert torch.equal(got, want) and len(states)==3
    assert torch.equal(loaded(**batch()).logits, want) and hasattr(loaded.config, 'adaptprune'), 'the user keeps theirs'

def test_an_adapt_model_of_three_classes_in_memory(tmp_path):
    "Its config does not say how many classes there are"
    made = net(3)
    res = compress(made, texts, tmp_path/'out', remove=.5, tokenizer=tokenizer(), labels=bad, **quick)
    assert res.report['metric']=='accuracy' and res.model(**batch()).logits.shape==(7, 3)
    assert made.config.num_labels==2, 'the user keeps theirs'
    assert auto.from_pretrained(tmp_path/'out', trust_remote_code=True).config.num_labels==3

def test_a_vocabulary_can_be_trimmed(tmp_path):
    save_model(net(), tmp_path/'m', tokenizer(), ('good', 'bad'))
    few = [t for t in texts if 'awful' not in t]
    res = compress(tmp_path/'m', few, tmp_path/'out', remove=.5, vocabulary='texts', **quick)
    tok = transformers.AutoTokenizer.from_pretrained(tmp_path/'out')
    again = load_compact(tmp_path/'out')
    assert len(tok)<len(tokenizer()) and again.encoder.get_input_embeddings().num_embeddings==len(tok)
    small = dict(tok(texts[:7], padding=True, return_tensors='pt'))
    assert torch.equal(again(**small).logits, res.model(**small).logits)

def test_a_finished_run_that_was_killed_is_read_again(tmp_path, monkeypatch):
    save_model(net(), tmp_path/'m', tokenizer())
    with monkeypatch.context() as m:
        m.setattr(room.Work, 'finish', lambda self: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt): compress(tmp_path/'m', texts, tmp_path/'out', remove=.5, **quick)
    res = compress(tmp_path/'m', texts, tmp_path/'out', remove=.5, resume=True, **quick)
    assert type(res.model) is AdaptModel and (tmp_path/'out/report.json').exists()

@pytest.mark.slow
def test_onnx_and_int8_beside_it(tmp_path):
    for name in ('onnx', 'onnxruntime', 'onnxscript'): pytest.importorskip(name)
    save_model(net(), tmp_path/'m', tokenizer(), ('good', 'bad'))
    res = compress(tmp_path/'m', texts, tmp_path/'out', remove=.5, **dict(quick, formats=['onnx', 'int8'], memory=True))
    rows = {r['name']: r for r in res.report['stages']}
    assert list(rows)==['whole', 'whole, int8', 'compact', 'compact, ONNX', 'compact, int8']
    assert rows['compact, ONNX']['agreement']==pytest.approx(rows['compact']['agreement'], abs=1e-3)
    assert all(r['peak_mb']>0 for r in rows.values())

# ---- by command, from a mask file
def test_from_a_mask_file(tmp_path, command, monkeypatch):
    "export --format model, then compress, as the refusal of the mask file says"
    monkeypatch.setattr(forms, 'session_memory', lambda *args, **kwargs: dict(peak=2., imports=1.))
    made = net()
    base = trained(torch.tensor(bad)).bert
    base.save_pretrained(tmp_path/'base')
    tokenizer().save_pretrained(tmp_path/'base')
    TaskMask.from_model(made, tmp_path/'base', 'mood').save_pretrained(tmp_path/'mask')
    (tmp_path/'texts.csv').write_text('\n'.join(['text', *texts]))
    with pytest.raises(ValueError, match='adaptprune export .*mask --format model --out FOLDER, and compress that'): load_subject(tmp_path/'mask')
    command('export', tmp_path/'mask', '--format', 'model', '--out', tmp_path/'model')
    command('compress', tmp_path/'model', '--data', tmp_path/'texts.csv', '--out', tmp_path/'out', '--steps', 5, '--formats', 'none')
    assert type(load_compact(tmp_path/'out')) is AdaptModel

# ---- what cannot be
def test_what_cannot_be_says_the_remedy(home, tmp_path):
    made = net()
    small = compact(made, drawn(find_units(made)))
    save_model(small, tmp_path/'small', tokenizer())
    with pytest.raises(ValueError, match='compact already: start from the model that it was made from, with a larger remove'):
        compress(tmp_path/'small', texts, tmp_path/'o')
    with pytest.raises(ValueError, match='compact already'): compress(small, texts, tmp_path/'o', tokenizer=tokenizer())
    for kind,words in [('TokenClassification', 'tags words, .*adaptprune adapt --remove 0.7'), ('QuestionAnswering', 'finds answers.*`compact`')]:
        model = getattr(transformers, f'BertFor{kind}')(made.config)
        model.save_pretrained(tmp_path/kind)
        tokenizer().save_pretrained(tmp_path/kind)
        with pytest.raises(ValueError, match=words): compress(tmp_path/kind, texts, tmp_path/'o')
        with pytest.raises(ValueError, match=words): compress(model, texts, tmp_path/'o', tokenizer=tokenizer())
    with pytest.raises(ValueError, match='tags words'): compress(AdaptModel(made.encoder, 2, 'tokens'), texts, tmp_path/'o', tokenizer=tokenizer())
    with pytest.raises(ValueError, match='Linear is no model of transformers'): compress(torch.nn.Linear(2, 2), texts, tmp_path/'o', tokenizer=tokenizer())
    with pytest.raises(ValueError, match='needs its tokenizer'): compress(made, texts, tmp_path/'o')
    with pytest.raises(ValueError, match='has 2 outputs'): compress(made, texts, tmp_path/'o', tokenizer=tokenizer(), kind='regressor')
    assert not (tmp_path/'o').exists()

def test_code_of_others(home, tmp_path):
    "A class that only a folder defines is refused before any work"
    class Mine(transformers.BertForSequenceClassification): "Somebody's own"
    model = Mine(transformers.AutoConfig.from_pretrained(home/'classifier'))
    with pytest.raises(ValueError, match='Mine is no class of transformers.*`compact`.*torch.save'):
        compress(model, texts, tmp_path/'o', tokenizer=tokenizer(), kind='classifier')
    model.save_pretrained(tmp_path/'mine')
    tokenizer().save_pretrained(tmp_path/'mine')
    about = json.loads((tmp_path/'mine/config.json').read_text())
    about['auto_map'] = dict(AutoModelForSequenceClassification='modeling_mine.Mine')
    (tmp_path/'mine/config.json').write_text(json.dumps(about))
    with pytest.raises(ValueError, match='holds a Mine with code of its own, which is not run here'): compress(tmp_path/'mine', texts, tmp_path/'o')
    assert not (tmp_path/'o').exists()

def test_the_encoder_of_an_adapted_model(tmp_path):
    "Asked for by kind: the head is left out, and nothing of it is left in the config"
    save_model(net(), tmp_path/'m', tokenizer())
    res = compress(tmp_path/'m', texts, tmp_path/'out', remove=.5, kind='encoder', **quick)
    assert type(load_compact(tmp_path/'out')).__name__=='BertModel' and res.report['kind']=='encoder'

def test_loading(tmp_path):
    made = net(1, 1000.*torch.tensor(bad))
    folder = save_model(made, tmp_path/'m', tokenizer())
    again = load_adapted(folder)
    assert torch.equal(again(**batch()).logits, made(**batch()).logits) and again.pooling==made.pooling and not again.training
    assert save_model(again, tmp_path/'again') and torch.equal(load_adapted(tmp_path/'again')(**batch()).logits, made(**batch()).logits)
    assert load_adapted(folder, dtype=torch.bfloat16).encoder.dtype==torch.bfloat16
    with pytest.raises(ValueError, match='no compact one: load it with `load_adapted`'): load_compact(folder)
    save_compact(compact(made.encoder, drawn(find_units(made))), tmp_path/'c')
    with pytest.raises(ValueError, match="no model with a head of adaptprune's"): load_adapted(tmp_path/'c')
    with pytest.raises(OSError, match='holds no model'): load_adapted(tmp_path/'none')
    from safetensors.torch import load_file,save_file
    weights = load_file(folder/'model.safetensors')
    del weights['head.mlp.4.bias']
    save_file(weights, folder/'model.safetensors', dict(format='pt'))
    with pytest.raises(ValueError, match="is damaged: .*'head.mlp.4.bias'"): load_adapted(folder)
