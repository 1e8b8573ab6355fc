"A predictor and a `MultiTask` in a process that has made no model: they answer as before, and the process that sent them stays as it was."
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
import pytest
from adaptprune.head import load_encoder
from adaptprune.layer import fingerprint
from adaptprune.predict import load
from test_multitask_classes import same
from test_multitask_pickle import answers,equal,many,task

def asked(many, tokens): return answers(many, tokens)

@pytest.mark.parametrize('how, each', [('fork', ['dense']), ('fork', ['a']), ('fork', ['small']), ('spawn', ['dense', 'a', 'small'])])
def test_a_pool_is_given_a_copy(how, each, many, tokens):
    "What a pool is sent lies in memory that both processes share, and each of them writes its masks"
    want = answers(many, tokens)
    before = fingerprint(many.base)
    with ProcessPoolExecutor(1, mp_context=get_context(how)) as pool:
        for used in each:
            many.use(used)
            assert equal(pool.submit(asked, many, tokens).result(), want)
            assert many.task==used and equal(answers(many, tokens), want)
    many.use('dense')
    assert fingerprint(many.base)==before

code = """import pickle,sys
with open(sys.argv[1], 'rb') as f: model,texts = pickle.load(f)
with open(sys.argv[2], 'wb') as f: pickle.dump(model.predict(texts), f)"""

@pytest.mark.parametrize('called', [False, True])
def test_a_predictor_where_no_model_was_ever_made(called, folder, tmp_path, elsewhere):
    task(load_encoder(folder), 1).save_pretrained(tmp_path/'mask')
    model = load(tmp_path/'mask', folder)
    if called: model.predict(['a b'])
    (tmp_path/'model.pkl').write_bytes(pickle.dumps((model, ['a b', 'c'])))
    elsewhere(code, tmp_path/'model.pkl', tmp_path/'said.pkl')
    assert same(pickle.loads((tmp_path/'said.pkl').read_bytes()), model.predict(['a b', 'c']))
