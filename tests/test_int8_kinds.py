"int8 of answers in texts, sentence vectors, tags and words: checked against PyTorch on real texts, with the score beside; what cannot be says so."
import json,shutil
import numpy as np,pytest,torch,transformers
for name in ('onnx', 'onnxruntime', 'onnxscript', 'sentence_transformers'): pytest.importorskip(name)
from test_export_kinds import base,prune
from test_sentence import make,texts
from adaptprune import quantize
from adaptprune.artifact import TaskMask
from adaptprune.export import OnnxRunner,export_onnx
from adaptprune.predict import load
from adaptprune.quantize import agreement,by_file,quantize_onnx,text_batches

letters = 'abcdefghij'
questions = [(letters[i%10], ' '.join(letters[(i*k)%10] for k in range(1, 6+i%5))) for i in range(24)]
some = [t[:15] for t in texts]

def wide(model):
    "Weights large enough for answers to differ"
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim>1: p.copy_(torch.randn_like(p)*.3)
    return model.eval()

def answering(base): return wide(transformers.AutoModelForQuestionAnswering.from_pretrained(base))

def on(base, kind='QuestionAnswering', **config):
    "A pruned model on a base with large weights"
    end = 'Model' if kind=='MaskedLM' else ''
    wide((transformers.AutoModelForMaskedLM if end else transformers.AutoModel).from_pretrained(base)).save_pretrained(base)
    model = getattr(transformers, f'AutoModelFor{kind}').from_pretrained(base, **config)
    if not end:
        with torch.no_grad(): [p.normal_(0, .3) for p in list(model.parameters())[-2:]]
    return prune(model.eval())

@pytest.fixture
def qa(base, tmp_path):
    "A model for answers, its float32 file and batches of real texts"
    model = answering(base)
    export_onnx(model, tmp_path/'qa.onnx')
    return model,tmp_path/'qa.onnx',text_batches(questions, transformers.AutoTokenizer.from_pretrained(base), 8)

@pytest.mark.slow
def test_spans(qa, tmp_path):
    "Both outputs count, and only tokens that are there"
    model,path,batches = qa
    got = agreement(OnnxRunner(path), model, batches)
    assert got['measure']=='same span' and got['same']==1 and got['difference']<1e-4 and got['examples']==24
    low = quantize_onnx(path, tmp_path/'q.onnx', model, batches, bound=.5)
    assert low['measure']=='same span' and .5<=low['same']<=1 and low['difference']>1e-4
    assert low==agreement(OnnxRunner(tmp_path/'q.onnx'), model, batches)
    with pytest.raises(ValueError, match='same span.*bound=1.01: nothing was written'): quantize_onnx(path, tmp_path/'x', model, batches, bound=1.01)
    with pytest.raises(ValueError, match='a function gives one of them: use an `OnnxRunner`'): agreement(lambda b: b, model, batches)
    with torch.no_grad(): model.qa_outputs.bias[1] += 1
    assert agreement(OnnxRunner(path), model, batches)['difference']==pytest.approx(1, abs=1e-3)
    with torch.no_grad(): model.qa_outputs.weight[1] *= -1
    assert agreement(OnnxRunner(path), model, batches)['same']<.5, 'ends that are wrong are noticed'

class Given:
    "A file that gives what it is told"
    def __init__(self, outputs): self.outputs = outputs
    def __call__(self, batch): return next(iter(self.named(batch).values()))
    def named(self, batch): return self.outputs(batch)

def test_padding_does_not_count(base):
    model,tok = answering(base),transformers.AutoTokenizer.from_pretrained(base)
    batches = text_batches(questions, tok, 8)
    def outputs(batch, at=99.):
        with torch.no_grad(): got = model(**batch)
        away = ~batch['attention_mask'].bool()
        return {n: got[n].masked_fill(away, at).numpy() for n in ('start_logits', 'end_logits')}
    got = agreement(Given(outputs), model, batches)
    assert got['same']==1 and got['difference']==0
    def swapped(batch): return dict(zip(('end_logits', 'start_logits'), outputs(batch).values()))
    assert agreement(Given(swapped), model, batches)['same']<.5
    with pytest.raises(ValueError, match='made from another model'): agreement(Given(lambda b: dict(logits=outputs(b)['end_logits'])), model, batches)
    tags = wide(transformers.AutoModelForTokenClassification.from_pretrained(base))
    def noise(batch):
        with torch.no_grad(): x = tags(**batch).logits
        return dict(logits=x.masked_fill(~batch['attention_mask'].bool()[...,None], 99.).numpy())
    assert agreement(Given(noise), tags, batches)['difference']==0

@pytest.mark.slow
@pytest.mark.parametrize('parts', ['mean', 'dense'])
def test_vectors(parts, base, tmp_path):
    "Of a `SentenceTransformer`, all of it; the file in the model's place gives its own vectors"
    model = make(base, parts)
    wide(model)
    batches = text_batches(some, model.tokenizer, 4)
    export_onnx(model, tmp_path/'v.onnx')
    assert agreement(OnnxRunner(tmp_path/'v.onnx'), model, batches)['difference']<1e-4
    got = quantize_onnx(tmp_path/'v.onnx', tmp_path/'q.onnx', model, batches, bound=.8)
    assert got['measure']=='cosine' and .8<=got['same']<1 and got['examples']==len(some)
    shown = by_file(model, OnnxRunner(tmp_path/'q.onnx'))
    a,b = model.encode(some),shown.encode(some)
    assert 0<np.abs(a-b).max() and np.abs(b-OnnxRunner(tmp_path/'q.onnx').named(dict(model.tokenizer(some, padding=True, return_tensors='np')))['sentence_embedding']).max()<.05
    assert np.array_equal(model.encode(some), a), 'the model stays as it is'

def csv(path, rows):
    path.write_text('\n'.join(','.join(r) for r in rows)+'\n')
    return path

@pytest.mark.slow
def test_by_command_with_the_score_beside(base, tmp_path, command):
    "Answers: agreement, and F1 of both; without labels only the agreement; what is missing or too far off leaves no file"
    TaskMask.from_model(on(base), str(base), max_length=16).save_pretrained(tmp_path/'m')
    p = load(tmp_path/'m')
    true = [a['text'] for a in p.predict(questions)]
    data = csv(tmp_path/'dev.csv', [('question', 'context', 'answer'), *[(q, c, t) for (q,c),t in zip(questions, true)]])
    r = json.loads(command('export', tmp_path/'m', '--format', 'int8', '--data', data, '--bound', .3, '--out', tmp_path/'q.onnx', '--json'))
    assert r['agreement']['measure']=='same span' and r['metrics']['exact_match']==r['metrics']['f1']>0, 'its own answers are the true ones'
    assert 0<r['metrics_int8']['f1']<=r['metrics']['f1']
    bare = csv(tmp_path/'bare.csv', [('question', 'context'), *questions])
    said = command('export', tmp_path/'m', '--format', 'int8', '--data', bare, '--bound', .3, '--out', tmp_path/'b.onnx')
    assert 'same span' in said and 'no labels, so no score' in said
    go = 'export',tmp_path/'m','--format','int8','--out',tmp_path/'x'
    assert 'give --data' in command(*go, fails=True)
    assert 'nothing was written' in command(*go, '--data', data, '--bound', 1.01, fails=True)
    assert "'z'" in command(*go, '--data', data, '--text', 'z,context', fails=True)
    assert "'z'" in command(*go, '--data', data, '--label', 'z', fails=True)
    assert 'goes with --format int8' in command('export', tmp_path/'m', '--data', data, '--out', tmp_path/'x', fails=True)
    assert '--first-token goes with --format onnx' in command(*go, '--data', data, '--first-token', fails=True)
    assert not (tmp_path/'x').exists()

@pytest.mark.slow
def test_other_kinds_by_command(base, tmp_path, command):
    "A classifier with accuracy, vectors with Spearman, words of a language model with none"
    import re
    cls = on(base, 'SequenceClassification', id2label={0: 'x', 1: 'y'}, label2id={'x': 0, 'y': 1})
    TaskMask.from_model(cls, str(base), max_length=16).save_pretrained(tmp_path/'c')
    data = csv(tmp_path/'c.csv', [('text', 'label'), *[(t, 'xy'[i%2]) for i,(_,t) in enumerate(questions)]])
    said = command('export', tmp_path/'c', '--format', 'int8', '--data', data, '--bound', .3, '--out', tmp_path/'c.onnx')
    assert 'same class' in said and len(re.findall('accuracy', said))==2
    TaskMask.from_model(prune(make(base)), str(base)).save_pretrained(tmp_path/'v')
    pairs = csv(tmp_path/'v.csv', [('text_a', 'text_b', 'score'), *[(a, b, str(i%5)) for i,(a,b) in enumerate(questions)]])
    said = command('export', tmp_path/'v', '--format', 'int8', '--data', pairs, '--bound', .3, '--out', tmp_path/'v.onnx')
    assert 'cosine' in said and len(re.findall('spearman', said))==2
    TaskMask.from_model(on(base, 'MaskedLM'), str(base)).save_pretrained(tmp_path/'w')
    said = command('export', tmp_path/'w', '--format', 'int8', '--data', data, '--text', 'text', '--bound', .3, '--out', tmp_path/'w.onnx')
    assert 'same class' in said and 'no score' in said

def test_a_file_without_int8_is_refused(base, tmp_path, monkeypatch):
    "A file that is float32 under another name"
    import onnx
    graph = onnx.helper.make_graph([onnx.helper.make_node('Identity', ['x'], ['y'])], 'g', *[[onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1])] for n in 'xy'])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 17)]), tmp_path/'f.onnx')
    with pytest.raises(ValueError, match='No matrix product of this model can be computed in int8'): quantize_onnx(tmp_path/'f.onnx', tmp_path/'q', answering(base), [1])
    assert not (tmp_path/'q').exists()
