"Whole models as folders that transformers loads with the head, masks of models that were trained elsewhere, and apply on every table."
import copy,json,subprocess,sys
import pandas as pd,pytest,torch,transformers
from test_folder import classifier,cut,own_cache
from test_predict import command,made,names,rows
from test_units import drawn
from test_users import batch as users_batch,config,decoders,encoders,make
from adaptprune.artifact import BaseMismatch,TaskMask
from adaptprune.compaction import compact,is_compact
from adaptprune.folder import load_compact,save_model
from adaptprune.head import AdaptModel,copy_encoder
from adaptprune.predict import load
from adaptprune.task import adapt_task
from adaptprune.optim import MaskOptimizer
from adaptprune.tasks import Task,load_files
from adaptprune.trainer import MaskCallback
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

def test_what_is_said_without_the_code(tmp_path):
    "The report of transformers names the remedy"
    folder = save_model(net_of('Bert'), tmp_path/'m')
    code = f"from transformers import AutoModelForSequenceClassification as A; A.from_pretrained({str(folder)!r})"
    got = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert got.returncode and 'this folder needs trust_remote_code=True' in got.stderr and 'ignore_mismatched_sizes' in got.stderr

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
    again = load_compact(folder)
    assert type(again) is type(small) and is_compact(again) and torch.equal(answers(again), answers(small))

@pytest.mark.parametrize('dtype', ['fp16', 'bf16', torch.bfloat16])
def test_half_precision(dtype, tmp_path):
    "The encoder takes half the room, the head stays in float32; the answers are those of the model so rounded"
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
    assert {l.split()[1].split('.')[0].strip(',') for l in lines}=={'torch', 'transformers'} and len(source.splitlines())<200

def test_training_goes_on_in_the_loaded_model(tmp_path):
    again = remote(save_model(net_of('Bert', 2), tmp_path/'m'))
    loss = again(**users_batch).loss
    loss.backward()
    assert torch.equal(loss, torch.nn.functional.cross_entropy(answers(again), users_batch['labels']))
    assert all(p.grad is not None for p in again.head.parameters())

# The commands

def test_export_a_whole_model(command, made):
    "The folder knows the classes and the length, so a pipeline answers as `apply` does"
    folder = made['s3'].folder
    assert 'trust_remote_code=True' in command('export', folder, '--format', 'model', '--out', 'm')
    texts = [r['text'] for r in rows(12)]
    pipe = transformers.pipeline('text-classification', 'm', trust_remote_code=True)
    for got,want in zip(pipe(texts, truncation=True), load(folder).predict(texts), strict=True):
        assert got['label']==want['label'] in names and got['score']==pytest.approx(want['probability'], abs=1e-6)
    assert pipe.tokenizer.model_max_length==12 and json.load(open('m/tokenizer.json'))['truncation'] is None
    got = json.loads(command('export', folder, '--format', 'model', '--dtype', 'fp16', '--out', 'half', '--json'))
    assert got['format']=='model' and remote('half').bert.dtype==torch.float16
    assert '--dtype goes with' in command('export', folder, '--format', 'plain', '--dtype', 'fp16', fails=True)
    assert "use one of onnx, int8, model, plain" in command('export', folder, '--format', 'torch', fails=True)

def test_export_scores(command, made):
    command('export', made['price'].folder, '--format', 'model')
    pipe = transformers.pipeline('text-classification', 'whole-model', trust_remote_code=True)
    got, = pipe('a f')
    assert got['label']=='score' and got['score']==pytest.approx(load(made['price'].folder).predict('a f'), abs=1e-5)

review = pd.DataFrame(dict(id=['007', '8', '9'], text=['a d h', '', 'b e'], y=['bad', 'good', 'good']))
writers = {'semi.csv': lambda p: review.to_csv(p, sep=';', index=False), 'a.csv.gz': lambda p: review.to_csv(p, index=False),
    'a.json': lambda p: review.to_json(p, orient='records'), 'a.txt': lambda p: review.to_csv(p, sep='|', index=False),
    'a.jsonl.gz': lambda p: review.to_json(p, orient='records', lines=True), 'a16.csv': lambda p: review.to_csv(p, index=False, encoding='utf-16')}

@pytest.mark.parametrize('name', writers)
def test_apply_reads_what_training_reads(name, command, made, tmp_path):
    "Other separators, gz, JSON, encodings: the columns stay, and an empty cell has no answer"
    writers[name](name)
    got = json.loads(command('apply', made['s3'].folder, '--input', name, '--json'))
    want = load(made['s3'].folder).predict(['a d h', 'b e'])
    assert [g['label'] for g in got]==[want[0]['label'], None, want[1]['label']]
    assert [[g[c] for c in review] for g in got]==review.values.tolist() and '1 of 3 rows hold no text' in command.err

def test_apply_to_several_files_and_with_sep_and_encoding(command, made):
    for i in (1, 2): review.to_csv(f'part-{i}.csv', index=False)
    command('apply', made['s3'].folder, '--input', 'part-*.csv', '--out', 'all.csv')
    assert len(pd.read_csv('all.csv'))==6
    with open('latin.csv', 'w', encoding='latin-1') as f: f.write('text~y\né a~bad\n')
    got, = json.loads(command('apply', made['s3'].folder, '--input', 'latin.csv', '--sep', '~', '--encoding', 'latin-1', '--json'))
    assert got['text']=='é a' and got['label'] in names
    assert "--sep goes with a file" in command('apply', made['s3'].folder, '--first', 'a', '--sep', ';', fails=True)
    with open('bare.csv', 'w') as f: f.write('text,,\na,b,c\n')
    assert 'several columns without a name' in command('apply', made['s3'].folder, '--input', 'bare.csv', fails=True)

def test_evaluate_reads_what_training_reads(command, made):
    folder = made['s3'].folder
    table = pd.DataFrame(rows(30))
    want = load(folder).evaluate(rows(30))
    def dev(*args, **kwargs): return json.loads(command('evaluate', folder, '--json', '--dev', *args, **kwargs))['metrics']['dev']
    table.to_csv('d.csv', sep=';', index=False)
    table.to_json('d.json', orient='records')
    assert dev('d.csv')==dev('d.json')==want
    with open('d.csv', 'a') as f: f.write(';bad\na;\n')
    assert '--missing drop' in command('evaluate', folder, '--dev', 'd.csv', fails=True)
    assert dev('d.csv', '--missing', 'drop')==want and '1 rows without label' in command.err
    table.rename(columns=dict(y='label')).to_csv('other.csv', index=False)
    assert "no column 'y'" in command('evaluate', folder, '--dev', 'other.csv', fails=True)
    assert dev('other.csv', '--label', 'label')==want

def test_columns_that_the_file_does_not_name_are_inferred(command, made):
    tm = TaskMask.from_pretrained(made['s3'].folder)
    for k in ('text', 'label'): del tm.info['card'][k]
    tm.save_pretrained('bare')
    base = made['s3'].folder.parent/made['s3'].report['model'].split('/')[-1]
    pd.DataFrame(rows(30)).rename(columns=dict(text='review', y='mood')).to_csv('d.csv', sep=';', index=False)
    got = json.loads(command('evaluate', 'bare', '--model', base, '--dev', 'd.csv', '--json'))
    assert got['metrics']['dev']==load(made['s3'].folder).evaluate(rows(30))
    assert len(command('apply', 'bare', '--model', base, '--input', 'd.csv').splitlines())==30

def test_whole_numbers_as_classes(command, folder, tmp_path):
    "Training reads 1.0 as class 1, and so does evaluate"
    table = pd.DataFrame(dict(text=[f'{"ab"[i%2]} {"cdef"[i%4]}' for i in range(40)], label=[float(i%2) for i in range(40)]))
    table.to_csv('n.csv', index=False)
    task,data = load_files('n.csv')
    res = adapt_task(task, folder, data=data, max_steps=2, progress=False)
    TaskMask.from_adapted(res).save_pretrained('m')
    got = json.loads(command('evaluate', 'm', '--model', folder, '--train', 'n.csv', '--json'))
    assert got['metrics']['dev']==res.report['metrics']

# 8: masks of models that were trained elsewhere

small_labels = dict(id2label={0: 'bad', 1: 'good'}, label2id={'bad': 0, 'good': 1})

def theirs(family, kind, seed=0):
    "A tiny model of a class of transformers"
    torch.manual_seed(seed)
    kwargs = {} if kind in ('ForMaskedLM', 'ForCausalLM', 'LMHeadModel', 'ForQuestionAnswering') else small_labels
    c = config(family)
    for k,v in kwargs.items(): setattr(c, k, v)
    return getattr(transformers, family+kind)(c).eval()

def pruned(model):
    "Without the smaller half of its base's matrices, and with another head; a fresh copy"
    fresh = copy.deepcopy(model)
    inside = {id(p) for p in model.base_model.parameters()}
    with torch.no_grad():
        for p in model.base_model.parameters():
            if p.ndim>1: p[p.abs()<p.abs().median()] = 0
        for p in model.parameters():
            if id(p) not in inside: p.add_(1)
    return fresh

classes = [(f, 'ForSequenceClassification') for f in ('Bert', 'Roberta', 'DistilBert', 'DebertaV2', 'ModernBert', 'Electra', 'GPT2', 'Llama', 'Qwen2')]
classes += [('Bert', k) for k in ('ForTokenClassification', 'ForMaskedLM', 'ForQuestionAnswering')] + [('GPT2', 'LMHeadModel'), ('Qwen2', 'ForCausalLM')]

def first_output(model): return model(**inputs)[0]

@pytest.mark.parametrize('family,kind', classes)
def test_a_mask_file_from_any_class(family, kind, tmp_path):
    "The file gives the class, the head and the zeros again, bit for bit; saved whole, plain transformers reads it"
    model = theirs(family, kind)
    fresh = pruned(model)
    TaskMask.from_model(model, fresh, task='t', max_length=16).save_pretrained(tmp_path/'m')
    tm = TaskMask.from_pretrained(tmp_path/'m')
    want = {n: p!=0 for n,p in model.base_model.named_parameters() if n in tm.mask}
    was = dict(fresh.base_model.named_parameters())
    assert all(torch.equal(tm.mask[n], w | (was[n]==0)) for n,w in want.items()) and tm.sparsity>.3
    again = tm.load_model(fresh)
    assert type(again) is type(model) and torch.equal(first_output(again), first_output(model))
    assert again.config.id2label==model.config.id2label
    whole = type(model).from_pretrained(save_model(again, tmp_path/'whole'))
    assert torch.equal(first_output(whole), first_output(model))
    if kind=='ForSequenceClassification': assert tm.card.labels==('bad', 'good') and tm.card.max_length==16
    if kind=='ForTokenClassification': assert tm.card.kind=='tokens' and tm.card.n_out==2
    if 'LM' in kind or 'Question' in kind: assert tm.card.kind==dict(ForMaskedLM='masked-lm', ForQuestionAnswering='question-answering').get(kind, 'causal-lm')

def test_a_trainer_leaves_a_mask_file(folder, tmp_path):
    "From the base's folder, which the model names; then it answers, and is measured"
    base = folder
    torch.manual_seed(0)
    model = auto.from_pretrained(base, **small_labels)
    tok = transformers.AutoTokenizer.from_pretrained(base)
    data = [dict(tok(f'{"ab"[i%2]} {"cde"[i%3]}'), labels=i%2) for i in range(16)]
    opt = MaskOptimizer(model.bert, head=model.classifier, sparsity=.4, steps=4, every=2, start='rank', spread=.01)
    args = transformers.TrainingArguments(output_dir=str(tmp_path/'t'), max_steps=4, per_device_train_batch_size=8, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy='no')
    trainer = transformers.Trainer(model, args, train_dataset=data, optimizers=(opt, None), callbacks=[MaskCallback(opt)], data_collator=transformers.DataCollatorWithPadding(tok))
    trainer.train()
    tm = TaskMask.from_model(trainer.model, task='mood', max_length=16, metrics=dict(accuracy=.5))
    assert all(torch.equal(m | (w==0), opt.mask()[n] | (w==0)) for n,m in tm.mask.items() for w in [transformers.BertModel.from_pretrained(base).get_parameter(n)])
    tm.save_pretrained(tmp_path/'m')
    p = load(tmp_path/'m', base)
    logits = model.eval()(**tok(['a c', 'b d'], return_tensors='pt')).logits
    assert [g['label'] for g in p.predict(['a c', 'b d'])]==[('bad', 'good')[i] for i in logits.argmax(1)]
    assert [g['label'] for g in p.pipeline()(['a c', 'b d'])]==[g['label'] for g in p.predict(['a c', 'b d'])]
    assert 0<=p.evaluate([dict(text='a', label='bad'), dict(text='b', label='good')])['accuracy']<=1
    assert "adaptprune.load('me/mood').predict(['a text'])" in tm.model_card('me/mood')

def test_an_adapt_model_too(tmp_path):
    net = net_of('Bert')
    fresh = pruned(net)
    tm = TaskMask.from_model(net, fresh, max_length=9)
    assert torch.equal(answers(tm.load_model(copy.deepcopy(fresh).encoder)), answers(net)) and tm.card.n_out==3

def test_what_no_mask_explains_is_refused():
    model = theirs('Bert', 'ForSequenceClassification')
    fresh = pruned(model)
    def tried(words, error=ValueError, model=model, base=fresh, **kwargs):
        with pytest.raises(error, match=words): TaskMask.from_model(model, base, **kwargs)
    tried('none is pruned', model=fresh)
    tried('was trained', base=theirs('Bert', 'ForSequenceClassification', seed=1), error=BaseMismatch)
    tried('which base it was made from', base=None)
    tried('in the same precision', base=copy.deepcopy(fresh).half(), error=BaseMismatch)
    tried('has no .* of shape', base=theirs('DistilBert', 'ForSequenceClassification'), error=BaseMismatch)
    tried("has 3 outputs, and the model's head 2", task=Task('t', ('text',), labels=('a', 'b', 'c')))
    tried('neither an `AdaptModel`', model=torch.nn.Linear(2, 2))
    with torch.no_grad(): model.bert.encoder.layer[0].output.dense.bias.add_(1)
    tried('output.dense.bias.* was trained', error=BaseMismatch)

@pytest.mark.parametrize('info, words', [
    (dict(model_class='Trainer'), "is a 'Trainer'"), (dict(model_class=['BertModel']), 'which this transformers'),
    (dict(model_config={'_attn_implementation': 'someone/kernel'}), '_attn_implementation'), (dict(model_config={'id2label': [1]}), 'cannot be made'),
    (dict(model_class='BertForMaskedLM'), 'Neither the base nor the file'), (dict(model_config=dict(id2label={'0': 'a', '1': 'b'})), "has no 'classifier.*of shape")])
def test_files_name_only_classes_of_transformers(info, words):
    model = theirs('Bert', 'ForTokenClassification')
    c = copy.deepcopy(model.config)
    c.id2label = {i: str(i) for i in range(3)}
    model = transformers.BertForTokenClassification(c).eval()
    fresh = pruned(model)
    tm = TaskMask.from_model(model, fresh)
    tm.info.update(info)
    with pytest.raises(ValueError, match=words): tm.load_model(fresh)

def test_a_model_without_a_card_is_refused_by_load(tmp_path):
    model = theirs('Bert', 'ForNextSentencePrediction')
    fresh = pruned(model)
    tm = TaskMask.from_model(model, fresh)
    with pytest.raises(ValueError, match='use `load_model`'): load(tm, fresh, tokenizer=object())
    assert "TaskMask.from_pretrained('a/b').load_model()" in tm.model_card('a/b')
