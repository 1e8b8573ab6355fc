"Baselines of the untouched encoder: vectors do not depend on padding or order, and linear models give metrics"
import numpy as np,pytest,torch
from datasets import Dataset,DatasetDict
from adaptprune.head import load_encoder,load_tokenizer
from adaptprune.setup import set_up
from adaptprune.tasks import Task
from adaptprune.vectors import frozen_baselines,mean_vectors

@pytest.fixture
def texts(): return ['a b c', 'd', 'e f g h i j a b', 'c c a']

def test_vectors_do_not_depend_on_their_neighbours(folder, texts):
    enc,tok = load_encoder(folder),load_tokenizer(folder)
    all_ = mean_vectors(enc, tok, texts, batch_size=2)
    one = [mean_vectors(enc, tok, [t])[0] for t in texts]
    assert all_==pytest.approx(np.stack(one), abs=1e-5)
    assert (all_**2).sum(1)==pytest.approx(1, abs=1e-5)

def test_classes(folder):
    rows = dict(text_a=['a a b', 'c d e']*12, label=[1, 0]*12)
    data = DatasetDict(train=Dataset.from_dict(rows), dev=Dataset.from_dict(rows))
    s = set_up(Task('x', ('text_a',), labels=('no', 'yes')), folder, data=data)
    before = {n: p.clone() for n,p in s.model.named_parameters()}
    found = frozen_baselines(s)
    assert found=={'logistic regression': {'dev': {'accuracy': 1.}}}
    assert all(torch.equal(p, before[n]) for n,p in s.model.named_parameters())

@pytest.mark.weights
def test_the_cosine_of_an_untouched_encoder():
    found = frozen_baselines(set_up('mini-similarity'))
    assert found['cosine']['dev']['spearman']==pytest.approx(.768, abs=.002)
