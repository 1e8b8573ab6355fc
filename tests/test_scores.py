"Where theta starts: ranks, noise, and what the untouched network does with each weight."
import math
import pytest,torch,transformers
from torch import nn
from adaptprune.anatomy import maskable
from adaptprune.scores import activation_scores,evaluating,gradient_scores,start_theta

size = dict(d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
    decoder_ffn_dim=16, vocab_size=50, max_position_embeddings=40, pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2)
strange = {'Bart': size, 'Marian': size, 'Pegasus': size, 'MBart': size,
    'OPT': dict(hidden_size=16, num_hidden_layers=1, ffn_dim=16, num_attention_heads=2, vocab_size=50, max_position_embeddings=40,
        word_embed_proj_dim=16),
    'T5': dict(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, vocab_size=50, decoder_start_token_id=0)}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb,self.lin,self.out,self.spare = nn.Embedding(9, 4),nn.Linear(4, 5),nn.Linear(5, 2),nn.Linear(3, 3)
        self.drop = nn.Dropout(.5)
    def forward(self, x): return self.out(self.drop(self.lin(input=self.emb(x)).tanh()))

def loss_fn(model, x): return model(x).square().sum()
def net():
    torch.manual_seed(0)
    return Net()
batches = [torch.tensor([[1, 2], [1, 8]]), torch.tensor([[0, 1]])]

# starts

def test_starts():
    w = torch.randn(30, 40)
    rank,scores = start_theta(w, spread=.1),torch.rand(30, 40)
    assert torch.equal(rank.view(-1).argsort(), w.abs().view(-1).argsort(stable=True)) and rank.min()>0 and rank.max()<.1
    assert torch.equal(start_theta(w, scores).view(-1).argsort(), scores.view(-1).argsort(stable=True))
    normal = start_theta(torch.zeros(300, 300, dtype=torch.bfloat16), 'normal')
    assert normal.dtype==torch.float32 and abs(normal.mean()-.01)<1e-4 and abs(normal.std()-.001)<1e-4 and (normal>0).all()

def test_starts_that_know_nothing_of_the_weights():
    w = torch.randn(40, 30)
    a,b,c = (start_theta(w, 'uniform', spread=.2, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c) and 0<=a.min() and .19<a.max()<.2 and abs(a.mean()-.1)<.01
    assert start_theta(w, 'constant', spread=.2).unique().tolist()==[torch.tensor(.2).item()]

def test_bad_starts():
    with pytest.raises(ValueError, match="Unknown start 'magnitude'"): start_theta(torch.ones(2, 2), 'magnitude')
    with pytest.raises(ValueError, match=r'shape \(5, 8\) have shape \(20, 8\)'): start_theta(torch.ones(5, 8), torch.ones(20, 8))
    with pytest.raises(ValueError, match='scores hold NaN'): start_theta(torch.ones(2), torch.tensor([1., math.nan]))

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.int64])
def test_scores_of_any_type(dtype):
    s = torch.arange(12).view(3, 4).to(dtype)
    assert torch.equal(start_theta(torch.ones(3, 4), s).view(-1).argsort(), torch.arange(12))

# activations

def test_activation_scores_are_weight_times_input_norm():
    m = net().eval()
    got = activation_scores(m, batches, loss_fn=loss_fn)
    with torch.no_grad():
        x = torch.cat([m.emb(b).view(-1, 4) for b in batches])
        h = m.lin(x).tanh()
    counts = torch.tensor([1., 3, 1, 0, 0, 0, 0, 0, 1])
    want = {'emb.weight': m.emb.weight.abs()*(counts+1).sqrt()[:,None], 'lin.weight': m.lin.weight.abs()*x.norm(dim=0),
        'out.weight': m.out.weight.abs()*h.norm(dim=0), 'spare.weight': m.spare.weight.abs()}
    assert list(got)==list(maskable(m))
    for n,s in want.items(): torch.testing.assert_close(got[n], s.detach())

def test_scores_of_a_part_have_its_names():
    m = nn.ModuleDict(dict(body=net(), top=nn.Linear(2, 1)))
    f = lambda model, x: model['top'](model['body'](x)).sum()
    assert list(activation_scores(m, batches, base=m['body'], loss_fn=f))==list(maskable(net()))
    assert list(activation_scores(m, batches, base=m['body'], loss_fn=f, weights='lin*'))==['lin.weight']

@pytest.mark.parametrize('fails', [False, True])
def test_scoring_leaves_no_trace(fails):
    m = net().train()
    m.lin.eval()
    modes = [x.training for x in m.modules()]
    before = torch.get_rng_state()
    def f(model, x):
        out = loss_fn(model, x)
        assert not model.drop.training
        if fails: raise KeyError('labels')
        return out
    if fails:
        with pytest.raises(KeyError): activation_scores(m, batches, loss_fn=f)
    else: activation_scores(m, batches, loss_fn=f)
    assert [x.training for x in m.modules()]==modes and torch.equal(before, torch.get_rng_state())
    assert not any(x._forward_pre_hooks for x in m.modules()) and all(p.grad is None and p.requires_grad for p in m.parameters())

@pytest.mark.parametrize('family', strange)
def test_modules_of_their_own_ways(family):
    "Position embeddings that compute their indices, shared and scaled embeddings: scored by what is known, never a crash"
    torch.manual_seed(0)
    config = getattr(transformers, f'{family}Config')(**strange[family])
    m = getattr(transformers, f'{family}Model')(config).eval()
    ids = torch.randint(3, 50, (2, 6))
    batch = dict(input_ids=ids) if family=='OPT' else dict(input_ids=ids, decoder_input_ids=ids)
    f = lambda model, b: model(**b)[0].square().mean()
    got = activation_scores(m, [batch], loss_fn=f)
    found = maskable(m)
    assert list(got)==list(found) and all(s.shape==found[n].shape and s.isfinite().all() for n,s in got.items())
    for n,mod in m.named_modules():
        if not isinstance(mod, nn.Embedding) or type(mod).forward is nn.Embedding.forward: continue
        if f'{n}.weight' in got: assert torch.equal(got[f'{n}.weight'], mod.weight.detach().abs())
    assert any(not torch.equal(s, found[n].detach().abs()) for n,s in got.items())

def test_recurrent_layers_and_convolutions_are_scored_by_magnitude():
    for m,x in ((nn.LSTM(4, 3), torch.randn(5, 2, 4)), (nn.Conv1d(4, 3, 2), torch.randn(2, 4, 5))):
        got = activation_scores(m, [x], loss_fn=lambda model, x: 0)
        f = lambda model, x: model(x)
        assert all(torch.equal(s, m.get_parameter(n).detach().abs()) for n,s in activation_scores(m, [x], loss_fn=f).items()) and got

def test_batches_may_be_anything_that_runs_once():
    m = net()
    assert activation_scores(m, iter(batches), loss_fn=loss_fn).keys()==activation_scores(m, batches, loss_fn=loss_fn).keys()

@pytest.mark.parametrize('batch,kind', [(torch.ones(2, 2), 'Tensor'), ((torch.ones(2, 2), torch.ones(2)), 'tuple'), ('text', 'str')], ids=str)
@pytest.mark.parametrize('score', [activation_scores, gradient_scores])
def test_the_models_own_loss_takes_dicts(score, batch, kind):
    m = net()
    with pytest.raises(ValueError, match=f'this one is a {kind}: give loss_fn=...'): score(m, [batch])
    assert not any(x._forward_pre_hooks for x in m.modules()) and m.training

# gradients

def test_gradient_scores_are_weight_times_gradient():
    m = net().eval()
    m.lin.weight.requires_grad_(False)
    got = gradient_scores(m, batches, loss_fn=loss_fn)
    assert not m.lin.weight.requires_grad and m.out.weight.requires_grad and all(p.grad is None for p in m.parameters())
    m.lin.weight.requires_grad_(True)
    sum(loss_fn(m, b) for b in batches).backward()
    for n in ('emb.weight', 'lin.weight', 'out.weight'):
        p = m.get_parameter(n)
        torch.testing.assert_close(got[n], (p.detach()*p.grad).abs())
    assert not got['spare.weight'].any()

def test_gradient_flags_come_back_after_a_failure():
    m = net()
    m.lin.weight.requires_grad_(False)
    def f(model, x): raise KeyError('labels')
    with pytest.raises(KeyError): gradient_scores(m, batches, loss_fn=f)
    assert not m.lin.weight.requires_grad and m.out.weight.requires_grad

def test_evaluating_gives_modes_back():
    m = net()
    m.lin.eval()
    with evaluating(m) as same: assert same is m and not any(x.training for x in m.modules())
    assert m.training and not m.lin.training and m.out.training
