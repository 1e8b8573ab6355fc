"Classes of transformers for questions, masked words and next words: the file rebuilds them, and what is the base's stays out of it."
import copy,json,subprocess,sys,shutil
import numpy as np,pandas as pd,pytest,torch,transformers
from test_units import drawn
from test_users import make
from adaptprune.artifact import BaseMismatch,TaskMask
from adaptprune.compaction import compact
from adaptprune.folder import save_model
from adaptprune.head import load_tokenizer
from adaptprune.loop import adapt
from adaptprune.optim import MaskOptimizer
from adaptprune.predict import EmptyText,QuestionPredictor,load
from adaptprune.spans import answer_scores,best_span
from adaptprune.taskcard import card_in,from_dict
from adaptprune.trainer import MaskCallback
from adaptprune.units import base_of,find_units

ids = torch.randint(5, 15, (4, 7), generator=torch.Generator().manual_seed(0))
inputs = dict(input_ids=ids, attention_mask=torch.ones_like(ids))
size = dict(vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=40)

def saved(path, kind, seed=0, **kwargs):
    "A tiny pre-trained model in a folder, as its class loads it"
    torch.manual_seed(seed)
    cls = getattr(transformers, kind)
    cls(cls.config_class(**{**size, **kwargs})).save_pretrained(path)
    return cls.from_pretrained(path).eval()

def outputs(model):
    with torch.no_grad(): return model(**inputs)[0]

def prune(module):
    "Turn off the smaller half of each matrix"
    with torch.no_grad():
        for p in module.parameters():
            if p.ndim>1: p[p.abs()<p.abs().median()] = 0

def same(a, b):
    sa,sb = a.state_dict(),b.state_dict()
    return type(a) is type(b) and sa.keys()==sb.keys() and all(torch.equal(sa[n], sb[n]) for n in sa) and torch.equal(outputs(a), outputs(b))

models = {'mlm': ('BertForMaskedLM', {}), 'roberta': ('RobertaForMaskedLM', {}), 'untied': ('LlamaForCausalLM', dict(num_key_value_heads=1)),
    'tied': ('LlamaForCausalLM', dict(tie_word_embeddings=True)), 'qwen': ('Qwen2ForCausalLM', dict(num_key_value_heads=2)), 'gpt2': ('GPT2LMHeadModel', dict(n_embd=16, n_layer=2, n_head=2, n_positions=40))}

@pytest.mark.parametrize('name', models)
def test_the_output_layer_belongs_to_the_base(name, tmp_path):
    "It is not in the file; by name, beside the file, the same class comes back, and plain transformers reads it"
    kind,kwargs = models[name]
    model = saved(tmp_path/'base', kind, **kwargs)
    prune(model.base_model)
    tm = TaskMask.from_model(model, task='t', max_length=9)
    assert not tm.head and tm.card.kind==('masked-lm' if 'Masked' in kind else 'causal-lm') and tm.card.n_out==50 and tm.info['whole']
    assert not any(n.startswith(model.base_model_prefix+'.') for n in tm.mask), 'named as in the base'
    tm.save_pretrained(tmp_path/'m')
    again = TaskMask.from_pretrained(tmp_path/'m').load_model()
    assert same(again, model)
    auto = transformers.AutoModelForMaskedLM if 'Masked' in kind else transformers.AutoModelForCausalLM
    assert same(auto.from_pretrained(save_model(again, tmp_path/'whole')).eval(), model)
    with pytest.raises(ValueError, match='A language model has no labels to predict'): load(tmp_path/'m', tokenizer=transformers.BertTokenizer(vocab={w: i for i,w in enumerate(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'a'])}))
    assert 'load_model()' in tm.model_card('me/t') and f'pipeline_tag: {"fill-mask" if "Masked" in kind else "text-generation"}' in tm.model_card('me/t')

def test_an_output_layer_that_is_pruned(tmp_path):
    "adapt masks it with the rest; a hand-pruned one is found"
    model = saved(tmp_path/'base', 'LlamaForCausalLM')
    fresh = copy.deepcopy(model)
    res = adapt(copy.deepcopy(model), [dict(inputs, labels=ids)]*4, sparsity=.4, max_steps=4, recipe='default', every=2, start='rank', progress=False)
    prune(model)
    for net,tm in ((res.model, TaskMask.from_adapted(res)), (model, TaskMask.from_model(model))):
        assert 'lm_head.weight' in tm.mask and not tm.head and tm.card.kind=='causal-lm'
        tm.save_pretrained(tmp_path/'m')
        tm = TaskMask.from_pretrained(tmp_path/'m')
        assert same(tm.load_model(), net) and same(tm.load_model(copy.deepcopy(fresh)), net)
        with pytest.raises(BaseMismatch): tm.load_model(transformers.LlamaModel.from_pretrained(tmp_path/'base'))

def test_an_output_layer_that_learns(tmp_path):
    "Asked for as head=, it goes into the file"
    model = saved(tmp_path/'base', 'LlamaForCausalLM')
    prune(model.model)
    with torch.no_grad(): model.lm_head.weight.add_(.01)
    tm = TaskMask.from_model(model)
    assert list(tm.head)==['lm_head.weight']
    tm.save_pretrained(tmp_path/'m')
    assert same(TaskMask.from_pretrained(tmp_path/'m').load_model(), model)

@pytest.mark.parametrize('kind', ['BertForMaskedLM', 'LlamaForCausalLM'])
def test_compact_ones(kind, tmp_path):
    model = saved(tmp_path/'base', kind)
    small = compact(model, drawn(find_units(model)))
    prune(small.base_model)
    TaskMask.from_model(small, str(tmp_path/'base')).save_pretrained(tmp_path/'m')
    tm = TaskMask.from_pretrained(tmp_path/'m')
    again = tm.load_model()
    assert tm.structure==base_of(small).structure and same(again, small) and same(tm.load_model(model), small)
    if 'Llama' not in kind: return
    prune(small.lm_head)
    with pytest.raises(ValueError, match="compact and 'lm_head.weight' of the output layer pruned"): TaskMask.from_model(small, str(tmp_path/'base'))

def test_it_writes_the_same(tmp_path):
    "Next words, in another process"
    model = saved(tmp_path/'base', 'Qwen2ForCausalLM', num_key_value_heads=2)
    prune(model.base_model)
    TaskMask.from_model(model).save_pretrained(tmp_path/'m')
    want = model.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0).tolist()
    code = f"import torch, sys; from adaptprune import TaskMask; m = TaskMask.from_pretrained(sys.argv[1]).load_model(); print(m.generate(torch.tensor({ids.tolist()}), max_new_tokens=5, do_sample=False, pad_token_id=0).tolist())"
    got = subprocess.run([sys.executable, '-W', 'ignore', '-c', code, tmp_path/'m'], capture_output=True, text=True)
    assert json.loads(got.stdout.splitlines()[-1])==want, got.stderr

def test_another_base(tmp_path):
    model = saved(tmp_path/'base', 'LlamaForCausalLM')
    prune(model.model)
    other = saved(tmp_path/'other', 'LlamaForCausalLM', seed=1)
    tm = TaskMask.from_model(model)
    with pytest.raises(BaseMismatch, match='not the base'): tm.load_model(str(tmp_path/'other'))
    with pytest.raises(BaseMismatch, match='was trained'): TaskMask.from_model(model, other)
    with pytest.raises(BaseMismatch, match="Neither the base nor the file holds 'lm_head.weight'"): tm.load_model(transformers.LlamaModel.from_pretrained(tmp_path/'base'))
    tm.info['model_class'] = 'os'
    with pytest.raises(ValueError, match="The file's model is a 'os'"): tm.load_model(str(tmp_path/'base'))

@pytest.mark.parametrize('kind', ['ForSequenceClassification', 'ForTokenClassification', 'ForQuestionAnswering', 'ForMaskedLM'])
def test_adapt_on_a_class(kind, folder, tmp_path):
    "What adapt leaves is saved without another word"
    shutil.copytree(folder, tmp_path/'base')
    torch.manual_seed(0)
    model = getattr(transformers, 'Bert'+kind).from_pretrained(tmp_path/'base')
    labels = dict(ForSequenceClassification=dict(labels=ids[:,0]%2), ForQuestionAnswering=dict(start_positions=ids[:,0]%7, end_positions=ids[:,1]%7), ForTokenClassification=dict(labels=ids%2), ForMaskedLM=dict(labels=ids))[kind]
    res = adapt(model, [dict(inputs, **labels)]*4, sparsity=.3, max_steps=4, recipe='default', every=2, start='rank', progress=False)
    tm = TaskMask.from_adapted(res, task='mine')
    tm.save_pretrained(tmp_path/'m')
    assert same(TaskMask.from_pretrained(tmp_path/'m').load_model(), model)
    want = dict(ForSequenceClassification='classification', ForTokenClassification='tokens', ForQuestionAnswering='question-answering', ForMaskedLM='masked-lm')
    assert tm.card.kind==want[kind]
    if kind!='ForMaskedLM': assert load(tmp_path/'m').predict([('a', 'b c')] if 'Question' in kind else ['a b'])

# Tags and several labels of a class of transformers answer too

def test_tags_and_several_labels(folder, tmp_path):
    shutil.copytree(folder, tmp_path/'base')
    torch.manual_seed(0)
    names = dict(id2label={0: 'O', 1: 'B-X'}, label2id={'O': 0, 'B-X': 1})
    tags = transformers.BertForTokenClassification.from_pretrained(tmp_path/'base', **names).eval()
    several = transformers.BertForSequenceClassification.from_pretrained(tmp_path/'base', problem_type='multi_label_classification', **names).eval()
    for model,answers in ((tags, list), (several, dict)):
        prune(model.bert)
        p = load(TaskMask.from_model(model).save_pretrained(tmp_path/'m'))
        assert isinstance(p.predict('a b c'), answers) and p.card.labels==('O', 'B-X')
    assert from_dict(dict(kind='token-classification', n_out=2)).kind=='tokens' and from_dict(dict(kind='multi-label', n_out=2)).kind=='multilabel'

# Questions

letters = 'abcdefghij'

def question_rows(n=40):
    "The answer is the letter after the one that is asked for"
    for i in range(n):
        text = ' '.join(letters[(i*3+j*(1+i%3))%10] for j in range(8))
        ask = text.split()[i%7]
        yield dict(question=ask, context=text, answers=text[text.index(ask)+2:][:1])

@pytest.fixture(scope='module')
def asked(folder, tmp_path_factory):
    "A model whose mask a Trainer learnt, and its predictor"
    path = tmp_path_factory.mktemp('qa')
    shutil.copytree(folder, path/'base')
    torch.manual_seed(0)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(path/'base')
    tok = transformers.AutoTokenizer.from_pretrained(path/'base')
    data = []
    for r in question_rows():
        enc = tok(r['question'], r['context'])
        at = enc.char_to_token(0, r['context'].index(r['question'])+2, 1)
        data.append(dict(enc, start_positions=at, end_positions=at))
    opt = MaskOptimizer(model.bert, head=model.qa_outputs, sparsity=.3, steps=10, every=2, start='rank')
    args = transformers.TrainingArguments(output_dir=str(path/'t'), max_steps=10, per_device_train_batch_size=8, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy='no')
    trainer = transformers.Trainer(model, args, train_dataset=data, optimizers=(opt, None), callbacks=[MaskCallback(opt)], data_collator=transformers.DataCollatorWithPadding(tok))
    trainer.train()
    TaskMask.from_model(trainer.model, task='letters', max_length=20).save_pretrained(path/'m')
    return model.eval(), tok, load(path/'m')

def by_hand(model, tok, question, text, most=30):
    "The best span of one window, by trying them all"
    enc = tok(question, text, return_offsets_mapping=True, return_tensors='pt')
    places = enc.pop('offset_mapping')[0].tolist()
    with torch.no_grad(): out = model(**enc)
    s,e = out.start_logits[0], out.end_logits[0]
    inside = [i for i,k in enumerate(enc.sequence_ids(0)) if k==1]
    a,b = max(((a, b) for a in inside for b in inside if a<=b<a+most), key=lambda x: float(s[x[0]]+e[x[1]]))
    return places[a][0], places[b][1], float(s[inside].softmax(0)[inside.index(a)]*e[inside].softmax(0)[inside.index(b)])

@pytest.mark.parametrize('most', [1, 3, 30])
def test_answers_are_the_best_spans(asked, most):
    model,tok,p = asked
    assert type(p) is QuestionPredictor and same(p.model, model) and p.card.max_length==20
    rows = list(question_rows(20))
    got = p.predict([(r['question'], r['context']) for r in rows], batch_size=3, most=most)
    for r,g in zip(rows, got, strict=True):
        start,end,score = by_hand(model, tok, r['question'], r['context'], most)
        assert (g['start'], g['end'])==(start, end) and g['score']==pytest.approx(score, abs=1e-5) and g['text']==r['context'][start:end]

def test_long_texts_are_read_whole(asked):
    "An answer in any window is found: the span with the largest sum of all"
    model,tok,p = asked
    text = ' '.join(letters[i*7%10] for i in range(60))
    got = p.predict(('a', text), most=1)
    spans = []
    for at in range(0, 60):
        part = p.predict(('a', text[2*at:2*at+1]))
        assert part['text']==text[2*at]
    assert text[got['start']:got['end']]==got['text'] and 0<got['score']<1
    enc = tok('a', text, truncation='only_second', max_length=20, stride=5, return_overflowing_tokens=True, return_offsets_mapping=True, padding=True, return_tensors='pt')
    with torch.no_grad(): out = model(**{k: enc[k] for k in ('input_ids', 'attention_mask', 'token_type_ids')})
    inside = torch.tensor([[k==1 for k in enc.sequence_ids(i)] for i in range(len(enc['input_ids']))])
    both = (out.start_logits+out.end_logits).masked_fill(~inside, -torch.inf)
    w,t = np.unravel_index(int(both.argmax()), both.shape)
    assert len(both)>4 and enc['offset_mapping'][w,t].tolist()==[got['start'], got['end']]

def test_rows_without_a_text(asked):
    _,_,p = asked
    with pytest.warns(EmptyText, match='2 of 3'): got = p.predict([('a', None), ('a', 'b c'), (None, 'b')])
    assert got[0] is got[2] is None and got[1]==p.predict(('a', 'b c'))
    frame = p.predict(pd.DataFrame(dict(question=['a'], context=['b c'], other=[1]), index=[7]), as_frame=True)
    assert list(frame)==['text', 'start', 'end', 'score'] and frame.index[0]==7 and frame.text[7]==got[1]['text']
    with pytest.raises(ValueError, match='has 18 tokens, and 11 is the most where 20 are read'): p.predict(('a '*18, 'b'))
    with pytest.raises(ValueError, match='no column .question.'): p.predict([dict(text='a')])
    assert p.predict([])==[] and 'a part of the text' in repr(p)
    for f in (lambda: p.logits([['a'], ['b']]), lambda: p.predict_proba([('a', 'b')]), p.pipeline):
        with pytest.raises(ValueError, match='use `predict`'): f()

def test_measured_as_squad_counts(asked):
    _,_,p = asked
    rows = list(question_rows(12))
    said = [p.predict((r['question'], r['context']))['text'] for r in rows]
    want = answer_scores(said, [[r['answers']] for r in rows])
    assert p.evaluate(rows)==want==p.evaluate([dict(r, answers=dict(text=[r['answers']], answer_start=[0])) for r in rows])
    assert answer_scores(['The Cat!', None, 'b c'], [['a cat'], ['x'], ['b d', 'q']])==dict(f1=pytest.approx((1+0+.5)/3), exact_match=pytest.approx(1/3))
    with pytest.raises(ValueError, match='no column of answers'): p.evaluate([dict(question='a', context='b')])

def test_a_card_for_the_hub(asked):
    model,_,_ = asked
    tm = TaskMask.from_model(model)
    assert "predict([('a question', 'and a text')])" in tm.model_card('me/q') and 'pipeline_tag: question-answering' in tm.model_card('me/q')

def test_the_commands(command, asked, tmp_path):
    "apply and evaluate on tables of questions"
    model,_,p = asked
    TaskMask.from_model(model, task='letters', max_length=20).save_pretrained('m')
    base = model.config.name_or_path
    rows = list(question_rows(9))
    pd.DataFrame(rows).to_csv('q.csv', index=False)
    got = json.loads(command('apply', 'm', '--model', base, '--input', 'q.csv', '--json'))
    assert [(g['text'], g['start']) for g in got]==[(a['text'], a['start']) for a in p.predict(rows)]
    assert json.loads(command('evaluate', 'm', '--model', base, '--dev', 'q.csv', '--label', 'answers', '--json'))['metrics']['dev']==p.evaluate(rows)
