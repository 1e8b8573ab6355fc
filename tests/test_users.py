"What new users met, by the numbers of their list: models of every kind, odd batches, and runs that end early."
import copy,os,signal,sys,warnings
from dataclasses import replace
import numpy as np,pytest,torch,transformers
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel,AutoModelForSequenceClassification
from adaptprune.artifact import TaskMask
from adaptprune.cli import main
from adaptprune.export import export_onnx
from adaptprune.head import AdaptModel,encoder_of,is_decoder,load_encoder,load_tokenizer,reads_ahead,without_pooler
from adaptprune.layer import fingerprint
from adaptprune.loop import adapt,find_base,only_run
from adaptprune.loss import G,model_loss
from adaptprune.multitask import MultiTask
from adaptprune.optim import MaskOptimizer
from adaptprune.recipe import get_recipe
from adaptprune.scores import activation_scores
from adaptprune.setup import model_mark,model_name,set_up
from adaptprune.sweep import run_cells
from adaptprune.task import adapt_task
from adaptprune.tasks import get_task,load_task
from adaptprune.teacher import teacher_recipe
from toy import *

size = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50, max_position_embeddings=64)
grouped = dict(size, num_key_value_heads=1, head_dim=8)
named = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
seq2seq = dict(d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=50, max_position_embeddings=40, **named)
t5 = dict(d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=1, num_heads=2, vocab_size=50)
decoders = {'Llama': grouped, 'Mistral': grouped, 'Qwen2': grouped, 'Qwen3': grouped, 'Gemma': grouped, 'Phi': size, 'Falcon': size, 'Olmo': grouped, 'OPT': dict(hidden_size=16, word_embed_proj_dim=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=32, vocab_size=50, max_position_embeddings=40),
    'Bloom': dict(hidden_size=16, n_layer=2, n_head=2, vocab_size=50), 'Mpt': dict(d_model=16, n_layers=2, n_heads=2, vocab_size=50), 'GPTNeoX': size,
    'Mixtral': dict(grouped, num_local_experts=2, num_experts_per_tok=1), 'GPT2': dict(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=40)}
encoders = {'Bert': size, 'Roberta': dict(size, pad_token_id=1), 'Electra': dict(size, embedding_size=8), 'Albert': dict(size, embedding_size=8), 'MPNet': size, 'XLMRoberta': dict(size, pad_token_id=1),
    'DebertaV2': size, 'DistilBert': dict(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=40), 'ModernBert': dict(size, cls_token_id=1, sep_token_id=2, **named)}

def config(family):
    known = {**decoders, **encoders, 'Bart': seq2seq, 'T5': t5}
    extra = named if family in decoders else {}
    return getattr(transformers, f'{family}Config')(**{**known[family], **extra})

def make(family, kind='Model', seed=0):
    torch.manual_seed(seed)
    return getattr(transformers, family+kind)(config(family)).eval()

ids = torch.randint(5, 50, (4, 7), generator=torch.Generator().manual_seed(0))
batch = dict(input_ids=ids, attention_mask=torch.ones_like(ids), labels=torch.tensor([0, 1, 0, 1]))
def few(model, loss=model_loss, data=(batch,), **kwargs): return adapt(model, list(data), loss, **{**dict(max_steps=4, progress=False, start='rank'), **kwargs})

# 8: the default start

@pytest.mark.parametrize('family,kind,name', [('Bart', 'ForConditionalGeneration', None), ('OPT', 'Model', 'decoder.embed_positions.weight')])
def test_8_embeddings_of_positions_take_no_indices(family, kind, name):
    "Defect 8: a subclass of `nn.Embedding` may be given anything, so its scores are |w|"
    model = make(family, kind)
    if name:
        s = activation_scores(model, [{k: v for k,v in batch.items() if k!='labels'}], loss_fn=lambda m, b: m(**b).last_hidden_state.mean())
        assert torch.equal(s[name], model.get_parameter(name).abs())
    else: assert few(model, data=[dict(input_ids=ids, labels=ids)], start='activation').report['target_met']

# 9: recurrent layers

@pytest.mark.parametrize('kind', [nn.LSTM, nn.GRU, nn.RNN])
def test_9_recurrent_layers(kind):
    "Defect 9: all matrices of a recurrent layer get masks, and the layer works on"
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.rnn = kind(10, 8, batch_first=True)
            self.head = nn.Linear(8, 3)
        def forward(self, x): return self.head(self.rnn(x[:,None])[0][:,-1])
    net = Net()
    res = adapt(net, loader(), ce, base=net.rnn, max_steps=6, progress=False)
    assert set(res.mask)=={'weight_ih_l0', 'weight_hh_l0'} and res.report['target_met'] and net(X).shape==(100, 3)

# 12: which token a decoder is read at

@pytest.mark.parametrize('family', decoders)
def test_12_decoders_are_read_at_the_last_token(family):
    "Defect 12: with no list of names, from the class tables and from what the model does"
    model = make(family)
    net = AdaptModel(model, 2).eval()
    assert net.pooling=='last' and is_decoder(model.config) and reads_ahead(model) is False
    other = ids.clone()
    other[:,-1] = 5+(ids[:,-1]-4)%45
    assert not torch.allclose(net(input_ids=ids).logits, net(input_ids=other).logits)

@pytest.mark.parametrize('family', encoders)
def test_12_encoders_are_read_at_the_first_token(family):
    model = make(family)
    assert AdaptModel(model, 2).pooling=='first' and reads_ahead(model) is True

def test_12_what_a_model_does_counts(tmp_path):
    "A model of a kind that no table knows, and one that its table takes for a decoder and that reads ahead"
    class Strange(transformers.LlamaModel): pass
    model = Strange(transformers.LlamaConfig(**grouped, **named))
    model.config.model_type = 'unheard-of'
    assert not is_decoder(model.config) and AdaptModel(model, 2).pooling=='last'
    both = transformers.BertGenerationEncoder(transformers.BertGenerationConfig(**size))
    assert is_decoder(both.config) and AdaptModel(both, 2).pooling=='first'
    assert reads_ahead(nn.Linear(2, 2)) is None

@pytest.mark.parametrize('pooling', ['first', 'last', 'mean'])
@pytest.mark.parametrize('family', ['Bert', 'XLMRoberta'])
def test_padding_is_never_read(family, pooling):
    "Padding on the left: what stands there does not matter, and 'first' is the first token of the text"
    net = AdaptModel(make(family), 2, pooling).eval()
    pad = torch.ones(4, 3, dtype=torch.long)
    padded = torch.cat([pad, ids], 1)
    mask = torch.cat([0*pad, batch['attention_mask']], 1)
    other = torch.cat([pad+1, ids], 1) if family=='Bert' else padded
    assert torch.allclose(net(padded, mask).logits, net(other, mask).logits, atol=1e-6)
    hs,_ = net.read(input_ids=padded, attention_mask=mask)
    h = hs[-1]
    want = dict(first=h[:,3], last=h[:,-1], mean=h[:,3:].mean(1))[pooling]
    torch.testing.assert_close(net.pool(hs, mask)[-1], want)
    torch.testing.assert_close(net.pool(hs, mask.bool() if pooling!='mean' else mask)[-1], want)

# 13: weights that nothing trained

def test_13_random_heads_in_the_base_are_said(tmp_path):
    "Defect 13: the head of a model that is its own base, an own head of a checkpoint without one, and a pooler"
    cfg = transformers.WhisperConfig(d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, vocab_size=60, num_mel_bins=8, max_source_positions=10,
        classifier_proj_size=8, num_labels=2, **named, decoder_start_token_id=1)
    sounds = [dict(input_features=torch.randn(2, 8, 20), labels=torch.tensor([0, 1]))]
    with pytest.warns(UserWarning, match='look untrained: classifier.weight, classifier.bias'): few(transformers.WhisperForAudioClassification(cfg), data=sounds)
    bare = make('Bert')
    bare.pooler = None
    bare.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match='look untrained: pooler.dense.weight'): few(AdaptModel(AutoModel.from_pretrained(tmp_path), 2))

def test_13_a_base_that_was_not_named_is_said():
    "Defect 13: an own module whose head becomes part of the base, since nobody said what the base is"
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.body,self.out = nn.Linear(10, 8),nn.Linear(8, 3)
        def forward(self, x): return self.out(self.body(x))
    with pytest.warns(UserWarning, match='nothing learns beside the mask.*base=model'): adapt(Own(), loader(), ce, max_steps=3, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        adapt(m := Own(), loader(), ce, base=m, max_steps=3, progress=False)
        adapt(m := Own(), loader(), ce, base=m.body, max_steps=3, progress=False)

def test_13_a_pooler_that_is_called_all_the_same(tmp_path):
    "Where an architecture calls its pooler without asking, it is replaced by nothing that learns"
    class Calls(transformers.BertModel):
        def forward(self, *args, **kwargs):
            out = super().forward(*args, **kwargs)
            out.pooler_output = self.pooler(out.last_hidden_state)
            return out
    model = Calls(transformers.BertConfig(**size)).eval()
    want = model(ids).last_hidden_state
    assert isinstance(without_pooler(model).pooler, nn.Identity) and torch.equal(model(ids).last_hidden_state, want)
    assert without_pooler(make('Bert')).pooler is None

# 14, 18, 21, 22, 29

def test_14_dropout_comes_back_after_an_exception():
    model = Toy()
    with pytest.raises(RuntimeError, match='power cut'): go(model, loss=crash_at(20), dropout=0.)
    assert model.body[2].p==.2 and model.training

@pytest.mark.parametrize('kw,says', [(dict(lr=1e-3), 'does not read lr'), (dict(max_steps=0), 'max_steps must be a whole number, 1 or more'), (dict(gamma=1e-3), "schedule='cubic' does not read gamma")])
def test_18_settings_that_nothing_reads(kw, says):
    "Defect 18: refused in `adapt`, in `adapt_task` before anything is loaded, and in the recipe"
    with pytest.raises(ValueError, match=says): adapt(Toy(), loader(), ce, progress=False, **kw)
    with pytest.raises(ValueError, match=says): adapt_task('mini-sentiment', 'nobody/nothing', recipe='default', **kw)
    if 'gamma' in kw:
        with pytest.raises(ValueError, match=says): get_recipe(**kw)
        with pytest.raises(ValueError, match='nothing reads gamma'): MaskOptimizer(Toy().body, steps=5, start='rank', **kw)

def test_18_two_lengths(tmp_path, capsys):
    with pytest.raises(ValueError, match='nothing reads epochs=2'): adapt_task('mini-sentiment', 'nobody/nothing', epochs=2, max_steps=3)
    with pytest.raises(ValueError, match='nothing reads min_steps=2'): adapt_task('mini-sentiment', 'nobody/nothing', min_steps=2, max_steps=3)
    with pytest.raises(ValueError, match='writes nothing without a folder'): adapt_task('mini-sentiment', 'nobody/nothing', checkpoint_every=5)

@pytest.mark.parametrize('wrap', [nn.DataParallel, lambda m: torch.compile(m, backend='eager')], ids=['DataParallel', 'compile'])
def test_21_names_of_wrapped_models(wrap):
    "Defect 21: the mask of a wrapped model has the names of the plain one, and fits it"
    model = Toy()
    res = adapt(wrap(model), loader(), ce, max_steps=5, progress=False)
    assert list(res.mask)==['0.weight', '3.weight']
    fresh = Toy()
    TaskMask.from_adapted(res).apply(fresh)
    assert torch.equal(fresh.body[0].weight, model.body[0].weight)

def test_22_loaders_without_a_length():
    "Defect 22: a stream runs with max_steps, and says what it needs without"
    stream = lambda: (b for _ in range(3) for b in loader())
    assert adapt(Toy(), stream(), ce, max_steps=5, progress=False).report['target_met']
    with pytest.raises(ValueError, match='has no length, so epochs cannot be counted: give max_steps'): adapt(Toy(), stream(), ce, progress=False)

@pytest.mark.parametrize('loss,says', [(lambda m, b: None, 'NoneType'), (lambda m, b: ce(m, b).item(), 'returned float'), (lambda m, b: ce(m, b).detach(), 'without a graph'), (lambda m, b: (ce(m, b), 1), 'returned tuple'),
    (lambda m, b: F.cross_entropy(m(b[0]), b[1], reduction='none'), 'take its mean'), (lambda m, b: {}, 'a dict without a loss')])
def test_29_wrong_losses(loss, says):
    with pytest.raises(ValueError, match=says): adapt(Toy(), loader(), loss, max_steps=3, progress=False, start='rank')

def test_batches_without_labels():
    net = AdaptModel(without_pooler(make('Bert')), 2)
    with pytest.raises(ValueError, match='AdaptModel gave no loss: a batch needs labels, and this one holds input_ids, attention_mask'): few(net, data=[{k: v for k,v in batch.items() if k!='labels'}])

# 15: scores of any size

def similarity(factor):
    task = replace(get_task('mini-similarity'), name='own', source='files')
    data = {k: d.select(range(96)) for k,d in load_task('mini-similarity').items()}
    return task,{k: d.map(lambda r: dict(label=r['label']*factor)) for k,d in data.items()}

@pytest.fixture(scope='module')
def scored(folder):
    "Runs on scores of three sizes"
    def run(factor):
        torch.manual_seed(0)
        task,data = similarity(factor)
        return adapt_task(task, folder, data=data, recipe='distilled', max_steps=40, max_length=32, progress=False)
    return {f: run(f) for f in (1, 1000, 1024)}

def predicted(res, folder):
    task,data = similarity(1)
    dev = next(iter(set_up(task, folder, data=data).loaders['dev']))
    return res.model(**{k: v for k,v in dev.items() if k!='labels'}).logits.detach()[:,0], dev['labels']

def test_15_scores_of_any_size_are_learnt_alike(scored, folder):
    "Defect 15: scores times 1,024 give the same mask and metrics; times 1,000 the same to rounding, as errors relative to the spread"
    one,power = scored[1],scored[1024]
    assert one.mask==power.mask and one.report['metrics']==power.report['metrics'] and one.report['teacher_metrics']==power.report['teacher_metrics']
    p,y = predicted(one, folder)
    torch.testing.assert_close(predicted(power, folder)[0], p*1024, rtol=1e-5, atol=1e-2)
    q,_ = predicted(scored[1000], folder)
    errors = [float((x-y).square().mean()/y.var()) for x in (p, q/1000)]
    assert abs(errors[0]-errors[1])<.05 and max(errors)<1.5

def test_15_the_file_knows_the_scale(scored, folder, tmp_path):
    "The file, `MultiTask` and ONNX give scores in the unit of the labels"
    onnxruntime = pytest.importorskip('onnxruntime')
    res = scored[1000]
    TaskMask.from_adapted(res).save_pretrained(tmp_path/'m')
    encoder = load_encoder(folder)
    again = TaskMask.from_pretrained(tmp_path/'m', reference=encoder)
    inputs = dict(input_ids=ids % 15, attention_mask=batch['attention_mask'])
    want = res.model(**inputs).logits
    assert want.mean()>100
    net = again.load_model(load_encoder(folder))
    torch.testing.assert_close(net(**inputs).logits, want)
    many = MultiTask(encoder, dict(a=again))
    torch.testing.assert_close(many(tasks='a', **inputs).logits, want)
    export_onnx(net, tmp_path/'m.onnx', load_tokenizer(folder), 1e-2)
    session = onnxruntime.InferenceSession(str(tmp_path/'m.onnx'))
    full = dict(inputs, token_type_ids=torch.zeros_like(ids))
    got = session.run(None, {i.name: full[i.name].numpy() for i in session.get_inputs()})[0]
    torch.testing.assert_close(torch.tensor(got), want.detach(), rtol=1e-3, atol=.5)

@pytest.mark.weights
def test_15_tasks_of_papers_stay_as_they_are():
    "GLUE and the mini tasks are learnt as before: their runs are recorded"
    s = set_up('mini-similarity')
    assert not s.model.head.standardises and set(s.model.head.state_dict())=={'mix.a', 'mlp.1.weight', 'mlp.1.bias', 'mlp.4.weight', 'mlp.4.bias'}
    assert s.model.head.mlp[-1].bias.item()==pytest.approx(float(np.mean(s.data['train']['label'])))

def test_15_labels_in_a_column():
    "Labels of shape (n, 1) are those of shape (n,); other shapes are refused"
    out,y = torch.randn(4, 1),torch.randn(4)
    assert G(out, y[:,None])==G(out, y)
    for a,b in ((out, torch.randn(4, 3)), (torch.randn(4, 3), y), (torch.randn(3, 1), y)):
        with pytest.raises(ValueError, match='one prediction for each label'): G(a, b)

# 23, 24: models in memory, encoder-decoders

@pytest.fixture
def mine(tmp_path, folder): return own_data(tmp_path)

@pytest.mark.parametrize('kind', [AutoModel, AutoModelForSequenceClassification, transformers.AutoModelForMaskedLM])
def test_23_a_model_in_memory(mine, folder, kind):
    "Defect 23: any `AutoModelForX` with its tokenizer, which stays as it is; the same as by its name"
    task,data = mine
    model,tok = kind.from_pretrained(folder),load_tokenizer(folder)
    mark = fingerprint(model)
    kw = dict(data=data, recipe='distilled', max_steps=4, max_length=16, progress=False)
    res = adapt_task(task, model, tokenizer=tok, **kw)
    named = adapt_task(task, folder, **kw)
    assert fingerprint(model)==mark and all(p.requires_grad for p in model.parameters())
    assert res.mask==named.mask and res.report['metrics']==named.report['metrics'] and res.report['base']==named.report['base']
    assert res.report['model']==folder and not any('pooler' in n for n in res.mask)
    assert adapt_task(task, model, **kw).mask==named.mask                                   # its tokenizer is found where the model came from

def test_23_what_a_model_in_memory_needs(mine, folder):
    task,data = mine
    model = make('Bert')
    assert (model_name(model),model_name('minilm'),model_mark('minilm'))==('BertModel', 'minilm', 'minilm') and model_mark(model)==model_mark(copy.deepcopy(model))!=model_mark(make('Bert', seed=1))
    with pytest.raises(ValueError, match='A model in memory needs its tokenizer: give tokenizer=.* beside the BertModel'): adapt_task(task, model, data=data)
    with pytest.raises(ValueError, match="is loaded already, so nothing reads dtype='bfloat16'"): set_up(task, model, data=data, tokenizer=load_tokenizer(folder), dtype='bfloat16')

def test_23_teachers_of_models_in_memory_are_their_own(mine, folder, tmp_path):
    "Two models of one class and name share no teacher; one model finds its own again"
    task,data = mine
    kw = dict(data=data, recipe='distilled', max_steps=2, max_length=16, progress=False, cache=tmp_path/'cache', tokenizer=load_tokenizer(folder))
    a = AutoModel.from_pretrained(folder)
    b = copy.deepcopy(a)
    with torch.no_grad(): b.embeddings.word_embeddings.weight.add_(.1)
    for m in (a, b, a): adapt_task(task, m, **kw)
    assert len(list((tmp_path/'cache').glob('teacher-*.pt')))==2

def test_23_how_a_model_is_loaded(mine, folder):
    task,data = mine
    res = adapt_task(task, folder, data=data, recipe='default', max_steps=2, max_length=16, progress=False, dtype=torch.bfloat16)
    assert {p.dtype for p in res.base.parameters()}=={torch.bfloat16} and res.model.head.mlp[1].weight.dtype==torch.float32

@pytest.mark.parametrize('family', ['T5', 'Bart'])
def test_24_encoder_decoders_by_their_encoder(mine, folder, family, tmp_path):
    "Defect 24: a folder and an object with an encoder and a decoder"
    task,data = mine
    whole = make(family, 'ForConditionalGeneration')
    whole.save_pretrained(tmp_path/'base')
    load_tokenizer(folder).save_pretrained(tmp_path/'base')
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        encoder = load_encoder(tmp_path/'base')
    assert type(encoder) is type(encoder_of(whole)) and fingerprint(encoder)==fingerprint(encoder_of(whole)) and AdaptModel(encoder, 2).pooling=='first'
    kw = dict(data=data, recipe='default', max_steps=3, max_length=16, progress=False)
    res = adapt_task(task, str(tmp_path/'base'), **kw)
    assert res.mask==adapt_task(task, whole, tokenizer=load_tokenizer(folder), **kw).mask
    TaskMask.from_adapted(res).save_pretrained(tmp_path/'m')
    net = TaskMask.from_pretrained(tmp_path/'m').load_model(str(tmp_path/'base'))
    torch.testing.assert_close(net(ids % 15, batch['attention_mask']).logits, res.model(ids % 15, batch['attention_mask']).logits)
    with pytest.raises(ValueError, match='more than an encoder: give `encoder_of'): AdaptModel(whole, 2)

# 25: the output matrix of a language model

def test_25_an_output_matrix_of_its_own_belongs_to_the_base():
    "Defect 25: an untied lm_head gets a mask like the rest; a tied one is in the base already; base=... asks for another"
    model = make('Llama', 'ForCausalLM')
    data = [dict(input_ids=ids, labels=ids)]
    res = few(model, data=data)
    assert 'lm_head.weight' in res.mask and res.base_name=='' and not TaskMask.from_adapted(res).head
    fresh = make('Llama', 'ForCausalLM')
    TaskMask.from_adapted(res).apply(fresh)
    assert torch.equal(fresh(ids).logits, model(ids).logits)
    assert find_base(make('GPT2', 'LMHeadModel')).name=='transformer' and find_base(make('Bert', 'ForMaskedLM')).name=='bert'
    other = make('Llama', 'ForCausalLM')
    assert list(TaskMask.from_adapted(few(other, data=data, base=other.model)).head)==['lm_head.weight']

# bases that no mask can be learnt on

def test_bases_without_numbers_quantised_or_with_adapters():
    with torch.device('meta'): bare = Toy()
    with pytest.raises(ValueError, match="'0.weight' is on the device 'meta' and holds no numbers"): go(bare)
    class Eighth(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(10, 16))
            self.body.register_parameter('packed', nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False))
            self.head = nn.Linear(16, 3)
        base_model = property(lambda self: self.body)
        def forward(self, x): return self.head(self.body(x))
    with pytest.raises(ValueError, match='The base is quantised .packed.: masks are learnt on floating-point weights'): go(Eighth())
    dynamic = Toy()
    dynamic.body = torch.ao.quantization.quantize_dynamic(dynamic.body, {nn.Linear})
    with pytest.raises(ValueError, match='The base is quantised .0.'): go(dynamic)

def test_a_base_with_a_lora_adapter():
    peft = pytest.importorskip('peft')
    thin = peft.get_peft_model(without_pooler(make('Bert')), peft.LoraConfig(r=2, target_modules=['query']))
    with pytest.raises(ValueError, match='holds a LoRA adapter .*merge it .model.merge_and_unload'): few(AdaptModel(thin, 2))
    assert few(AdaptModel(thin.merge_and_unload(), 2)).report['target_met']

def test_tokens_that_the_model_has_not(mine, folder):
    "A padding token beyond the vocabulary, as Qwen2's may be, and the tokenizer of another model"
    task,data = mine
    far = load_tokenizer(folder)
    far.add_special_tokens(dict(pad_token='<far>'))
    with pytest.raises(ValueError, match=r"pads with '<far>', number 15, and the model has embeddings of 15 tokens"):
        set_up(task, make_bert(15), data=data, tokenizer=far)
    with pytest.raises(ValueError, match='is the tokenizer that of this model'): set_up(task, make_bert(6), data=data, tokenizer=load_tokenizer(folder))

def make_bert(vocab): return transformers.BertModel(transformers.BertConfig(**dict(size, vocab_size=vocab)))

# 10, 28: folders of runs

short = dict(recipe='default', max_steps=4, max_length=16, progress=False)

def test_10_a_folder_is_tried_before_work_starts(mine, monkeypatch):
    "Defect 10a: before a model is loaded"
    task,data = mine
    with pytest.raises(OSError, match='cannot be written to'): adapt_task(task, 'nobody/nothing', data=data, out='/proc/nowhere', **short)

def test_10_a_run_leaves_its_mask(mine, folder, tmp_path):
    "Defect 10b: the mask is in the folder, without a checkpoint; a second run there is refused, unless it is to replace it"
    task,data = mine
    out = tmp_path/'run'
    res = adapt_task(task, folder, data=data, out=out, checkpoint_every=1, **short)
    assert {p.name.split('-')[0] for p in out.iterdir()}<={'adaptprune.json', 'mask', '.adaptprune.lock'}
    tm = TaskMask.from_pretrained(out, reference=load_encoder(folder))
    assert tm.mask==res.mask and tm.info['metrics']==res.report['metrics'] and tm.info['task']==task.name
    for kw in (dict(), dict(resume=True)):
        with pytest.raises(ValueError, match='is finished'): adapt_task(task, folder, data=data, out=out, **short, **kw)
    again = adapt_task(task, folder, data=data, out=out, force=True, seed=1, **short)
    assert TaskMask.from_pretrained(out, reference=load_encoder(folder)).mask==again.mask!=res.mask

def test_10_a_mask_that_cannot_be_saved_is_not_lost(mine, folder, tmp_path, monkeypatch):
    "The result comes back all the same, with a warning, and the checkpoint stays"
    task,data = mine
    def full(self, path): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(TaskMask, 'save_pretrained', full)
    with pytest.warns(UserWarning, match='The mask could not be saved .*No space left.* It is in the result'):
        res = adapt_task(task, folder, data=data, out=tmp_path/'run', checkpoint_every=2, **short)
    assert res.mask and 'No space left' in res.report['save_error'] and (tmp_path/'run'/'checkpoint.pt').exists()

def test_10_metrics_that_fail_at_the_end(mine, folder):
    "Defect 10c: a metric that no class fits is refused when the task is made; one of the user's own loses its numbers, not the mask"
    with pytest.raises(ValueError, match="'f1' is for two classes"): replace(get_task('mini-inference'), metrics=('f1',))
    def broken(y, logits): raise ZeroDivisionError('mine')
    own = replace(get_task('mini-inference'), metrics=(broken,))
    part = {k: d.select(range(48)) for k,d in load_task('mini-inference').items()}
    with pytest.warns(UserWarning, match='What was trained is kept'): res = adapt_task(own, folder, data=part, **short)
    assert res.mask and 'evaluate_error' in res.report

def test_10_a_sweep_records_no_run_without_its_metrics(monkeypatch, tmp_path):
    "A failed evaluation is no result: the line is not written"
    def run(**cell):
        class Res: mask = None; report = dict(evaluate_error='ValueError: no')
        return Res
    with pytest.raises(RuntimeError, match='The evaluation of .* failed .ValueError: no.: nothing is recorded'):
        run_cells([dict(task='mini-sentiment', recipe='default', max_steps=1)], tmp_path/'r.jsonl', run=run)
    assert not (tmp_path/'r.jsonl').exists() or not (tmp_path/'r.jsonl').read_text()

def cli(monkeypatch, *words):
    monkeypatch.setattr(sys, 'argv', ['adaptprune', *map(str, words)])
    with pytest.raises(SystemExit) as e: main()
    return e.value.code

def test_28_resume_of_a_finished_run(mine, folder, tmp_path, monkeypatch, capsys):
    "Defect 28: --resume on a finished run says so and is no error; the mask stays as it is"
    out = tmp_path/'run'
    words = 'adapt','--train',tmp_path/'train.tsv','--dev',tmp_path/'dev.tsv','--text','sentence','--model',folder,'--recipe','default','--max-steps',3,'--out',out
    assert cli(monkeypatch, *words)==0
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    capsys.readouterr()
    assert cli(monkeypatch, *words, '--resume')==0 and f'The run in {out} is finished' in capsys.readouterr().out
    assert {p.name: p.read_bytes() for p in out.iterdir()}==before
    assert cli(monkeypatch, *words)==2 and 'already holds a mask' in capsys.readouterr().err
    assert cli(monkeypatch, *words, '--force')==0

def test_28_sigterm_saves_as_ctrl_c_does(tmp_path):
    "Defect 28: a run that is ended by SIGTERM leaves a checkpoint, and goes on to the same bits"
    def kill(): os.kill(os.getpid(), signal.SIGTERM)
    def loss(at, acts):
        calls = iter(range(10**6))
        def f(model, batch):
            if acts and next(calls)==at: kill()
            return ce(model, batch)
        return f
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match='Interrupted at step 6 of 21; continue with resume=True'): go(out=tmp_path/'a', loss=loss(5, True))
    assert signal.getsignal(signal.SIGTERM)==before and (tmp_path/'a'/'checkpoint.pt').exists()
    same_run(go(out=tmp_path/'a', resume=True), go())

def test_28_two_runs_in_one_folder_exclude_each_other(tmp_path):
    "The second is refused, in another process too, and the folder is free when the first is over"
    out = tmp_path/'run'
    def second(model, batch):
        with pytest.raises(ValueError, match='Another run works in .*run.*name another out'): go(out=out)
        return ce(model, batch)
    go(out=out, loss=second, max_steps=2)
    with only_run(out):
        p = child(tmp_path, f'go(out={str(out)!r})')
        assert 'Another run works in' in p.communicate()[1] and p.returncode
    assert not (out/'.lock').exists()
    go(out=out)

# 27: bfloat16

@pytest.mark.slow
def test_27_a_base_in_bfloat16_can_be_exported(mine, folder, tmp_path, monkeypatch):
    "Defect 27: the command exports a mask on a bfloat16 base; ONNX gets the same numbers in float32"
    pytest.importorskip('onnxruntime')
    AutoModel.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(tmp_path/'base')
    load_tokenizer(folder).save_pretrained(tmp_path/'base')
    words = '--train',tmp_path/'train.tsv','--dev',tmp_path/'dev.tsv','--text','sentence','--model',tmp_path/'base','--recipe','default','--max-steps',3
    assert cli(monkeypatch, 'adapt', *words, '--out', tmp_path/'m')==0
    assert cli(monkeypatch, 'export', tmp_path/'m', '--model', tmp_path/'base', '--out', tmp_path/'m.onnx')==0
    assert (tmp_path/'m.onnx').exists()

# teachers

def test_a_teacher_has_no_rate_of_lora():
    assert teacher_recipe(get_recipe('lora', teacher='finetune')).lr==get_recipe('finetune').lr==1e-4
    assert teacher_recipe(get_recipe('distilled', lr=3e-5)).lr==3e-5

def test_where_a_wrong_mask_is_said():
    "The warning points to the line that asked for the mask"
    opt = MaskOptimizer(Toy().body, steps=5, start='rank')
    with pytest.warns(UserWarning, match='the optimiser is at step 0 of 5') as seen: opt.mask()
    assert seen[0].filename==__file__

# the command line

@pytest.mark.parametrize('words,status,says', [(['--version'], 0, 'adaptprune '), (['version'], 2, "Unknown command 'version'"), (['adpat'], 2, "Unknown command 'adpat'"), (['adapt'], 2, '')])
def test_30_words_that_are_no_commands(monkeypatch, capsys, words, status, says):
    "Defect 30, and 'adapt' without a task starts nothing"
    assert cli(monkeypatch, *words)==status
    got = capsys.readouterr()
    assert says in got.out+got.err and len(got.out+got.err)>5
