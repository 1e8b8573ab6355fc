"Pruning at random and by magnitude: exact masks over pre-trained values, and rounds that can be kept."
import pytest,torch
from hypothesis import given,strategies as st
from types import SimpleNamespace
from adaptprune.mask import Mask,n_pruned
from adaptprune.prune import MagnitudePruning,magnitudes,n_rounds,random_mask
from toy import *

@pytest.mark.parametrize('weights', ['all', 'encoder', '*attention*weight'])
def test_random_and_magnitude_agree_on_which_weights(tiny, weights):
    model = tiny('Bert')
    mask = random_mask(model, .3, weights)
    assert mask.keys()==magnitudes(model, weights).keys() and mask.numel-mask.kept==n_pruned(mask.numel, .3)
    assert mask==random_mask(model, .3, weights) and mask!=random_mask(model, .3, weights, seed=1)
    assert all(torch.equal(s, dict(model.named_parameters())[n].abs()) for n,s in magnitudes(model, weights).items())

@pytest.mark.parametrize('hold', [False, True])
def test_a_magnitude_run_resumes_exactly(tmp_path, hold):
    made = []
    def run(loss=ce, **kwargs):
        model = Toy()
        made.append(MagnitudePruning(mask=random_mask(model.body, .4)) if hold else MagnitudePruning(.7, every=3))
        return go(model, loss=loss, sparsity=0., recipe='finetune', max_steps=20, lr=1e-2, hooks=[made[-1]], **kwargs)
    whole = run()
    with pytest.raises(RuntimeError, match='power cut'): run(crash_at(13), out=tmp_path, checkpoint_every=5)
    resumed = run(out=tmp_path, resume=True)
    assert made[0].mask==made[2].mask and whole.history==resumed.history and resumed.report['steps']==20
    assert all(torch.equal(a, b) for a,b in zip(whole.model.parameters(), resumed.model.parameters()))
    for n,m in made[2].mask.items(): assert not resumed.model.body.get_parameter(n)[~m].any()
    assert abs(made[2].mask.sparsity-(.4 if hold else .7))<1e-2 and whole.history[-1]['sparsity']==made[0].mask.sparsity

def test_magnitude_climbs_and_what_is_out_stays_out():
    model,seen = Toy().body,[]
    hook,run = MagnitudePruning(.8, every=5), SimpleNamespace(base=model, steps=40, step=0, over=False)
    hook.begin(run)
    for i in range(40):
        with torch.no_grad(): model[0].weight.add_(torch.randn(24, 10), alpha=.02)
        run.step,run.over = i+1,i==39
        hook.after_step(run, None)
        if hook.mask and (not seen or seen[-1] is not hook.mask): seen.append(hook.mask)
    assert len(seen)==8 and all((b-a).kept==0 for a,b in zip(seen, seen[1:]))
    assert [m.sparsity for m in seen]==sorted(m.sparsity for m in seen) and seen[-1].numel-seen[-1].kept==n_pruned(seen[-1].numel, .8)

@given(st.floats(.001, .9999), st.floats(.05, .9))
def test_rounds_are_as_few_as_reach_the_sparsity(s, share):
    n = n_rounds(s, share)
    assert (1-share)**n<=1-s+1e-8 and (n==1 or (1-share)**(n-1)>1-s)
