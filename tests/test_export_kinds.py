"ONNX of mask files of other kinds: answers within a text and vectors of sentences, by Python and by command, beside PyTorch."
import shutil
import numpy as np,pytest,torch,transformers
for name in ('onnx', 'onnxruntime', 'onnxscript', 'sentence_transformers'): pytest.importorskip(name)
from test_sentence import make,texts
from adaptprune.artifact import TaskMask
from adaptprune.compaction import compact
from adaptprune.export import OnnxRunner,export_onnx,onnx_difference,read_outputs
from adaptprune.predict import load
from adaptprune.spans import best_answer,context_tokens,encode_questions
from adaptprune.units import base_of,find_units
from test_units import drawn

@pytest.fixture
def base(folder, tmp_path):
    shutil.copytree(folder, tmp_path/'base')
    return tmp_path/'base'

def prune(model):
    with torch.no_grad():
        for p in base_of(model).parameters():
            if p.ndim>1: p[p.abs()<p.abs().median()] = 0
    return model

def answers_file(base, path):
    torch.manual_seed(0)
    model = prune(transformers.AutoModelForQuestionAnswering.from_pretrained(base).eval())
    TaskMask.from_model(model, max_length=16).save_pretrained(path)

def vectors_file(base, path, parts='mean', cut=False, **kwargs):
    model = make(base, parts, **kwargs)
    if cut: model = compact(model, drawn(find_units(model)))
    TaskMask.from_model(prune(model), str(base)).save_pretrained(path)

@pytest.mark.parametrize('parts', ['mean', 'cls', 'dense', 'several'])
def test_vectors(parts, base, tmp_path, command):
    "The command writes all of a sentence encoder; the file gives what `encode` gives"
    vectors_file(base, tmp_path/'m', parts, cut=parts=='dense', **(dict(truncate_dim=5) if parts=='dense' else {}))
    assert 'outputs differ' in command('export', tmp_path/'m', '--out', tmp_path/'m.onnx')
    p = load(tmp_path/'m')
    run = OnnxRunner(tmp_path/'m.onnx')
    some = [t[:15] for t in texts]
    got = run.named(dict(p.model.tokenizer(some, padding=True, return_tensors='np')))
    assert list(got)==['sentence_embedding']
    np.testing.assert_allclose(got['sentence_embedding'], p.encode(some), atol=1e-5)

def test_answers(base, tmp_path, command):
    "The command writes begin and end; over the windows of a long text they give the predictor's answer"
    answers_file(base, tmp_path/'m')
    command('export', tmp_path/'m', '--out', tmp_path/'m.onnx')
    p,run = load(tmp_path/'m'),OnnxRunner(tmp_path/'m.onnx')
    text = 'a b c d e f g h i j'*4
    enc = encode_questions(p.reader.tokenizer, ['b'], [text], 16)
    windows = []
    for i in range(len(enc['input_ids'])):
        got = run.named({n: np.array([enc[n][i]]) for n in ('input_ids', 'attention_mask', 'token_type_ids')})
        assert list(got)==['start_logits', 'end_logits']
        inside = context_tokens(enc, i)
        windows.append((*(np.where(inside, x[0], -np.inf) for x in got.values()), enc['offset_mapping'][i]))
    start,end,score = best_answer(windows)
    want = p.predict([('b', text)])[0]
    assert len(windows)>1 and (start, end)==(want['start'], want['end']) and score==pytest.approx(want['score'], rel=1e-4)

def test_the_second_output_is_checked_too(base, tmp_path):
    "A file whose begins are right and whose ends are not is noticed"
    torch.manual_seed(0)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(base).eval()
    assert export_onnx(model, tmp_path/'m.onnx')<1e-5
    with torch.no_grad(): model.qa_outputs.bias[1] += 1
    assert onnx_difference(tmp_path/'m.onnx', model, ('input_ids', 'attention_mask', 'token_type_ids'))==pytest.approx(1, abs=1e-4)

def test_what_is_refused(base, tmp_path, command):
    answers_file(base, tmp_path/'a')
    vectors_file(base, tmp_path/'v')
    for m in 'av': assert 'leave out first_token' in command('export', tmp_path/m, '--first-token', '--out', tmp_path/'x', fails=True)
    model = make(base)
    model[1].include_prompt = False
    with pytest.raises(ValueError, match='include_prompt=True'): export_onnx(model, tmp_path/'x')
    with pytest.raises(ValueError, match='float32 and from the CPU'): export_onnx(make(base).bfloat16(), tmp_path/'x')
    with pytest.raises(ValueError, match='nothing was written'): export_onnx(make(base), tmp_path/'x', tol=-1)
    with pytest.raises(ValueError, match='none of logits, start_logits, end_logits, sentence_embedding'): read_outputs(torch.ones(2))
    assert not (tmp_path/'x').exists()

def test_plain_folders(base, tmp_path, command):
    "The encoder alone, of every kind"
    answers_file(base, tmp_path/'a')
    vectors_file(base, tmp_path/'v')
    for m in 'av':
        command('export', tmp_path/m, '--format', 'plain', '--out', tmp_path/f'{m}-plain')
        got,want = transformers.AutoModel.from_pretrained(tmp_path/f'{m}-plain'),base_of(load(tmp_path/m).model)
        for n,p in want.named_parameters(): assert torch.equal(got.get_parameter(n), p)
