"Baselines of the untouched encoder: vectors do not depend on padding or order, and linear models give metrics"
import json
import numpy as np,pytest,torch
from datasets import Dataset,DatasetDict
from adaptprune.head import load_encoder,load_tokenizer
from adaptprune.setup import set_up
from adaptprune.tasks import Task
from adaptprune.vectors import cosine_baseline,frozen_baselines,linear_baseline,mean_vectors,text_features
from test_benchmarks import script

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

def test_few_labels_read_only_the_rows_that_are_given(folder):
    s = set_up('mini-similarity', folder)
    x = text_features(s)
    rows = list(range(120))
    few = linear_baseline(s, x, rows)
    cut = {k: v.copy() for k,v in x.items()}
    cut['train'][120:] = np.nan                             # would not pass the scaler
    assert linear_baseline(s, cut, rows)==few and few!=linear_baseline(s, x)

def test_what_has_no_score_has_no_cosine(folder):
    s = set_up('mini-inference', folder)
    with pytest.raises(ValueError, match='mini-inference'): cosine_baseline(s, {})

def test_benchmark_adds_what_is_missing_and_draws_samples_by_seed(folder, tmp_path):
    out,run = tmp_path/'frozen.json',script('frozen').main
    run(tasks='mini-similarity', model=str(folder), limit=150, out=str(out))
    first = json.loads(out.read_text())
    assert [r['cell']['method'] for r in first]==['cosine', 'ridge regression']+['ridge regression']*5
    assert len({r['metrics']['dev']['spearman'] for r in first[2:]})==5
    run(tasks='mini-similarity', model=str(folder), limit=150, out=str(out))
    assert json.loads(out.read_text())==first
