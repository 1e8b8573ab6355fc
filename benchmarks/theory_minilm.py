"""What Theorem 1 (adaptprune) has to do with a real network: its quantities, measured on MiniLM and a packaged task.

    python benchmarks/theory_minilm.py            # a few minutes of one core (the record has the time); writes results/theory_minilm.json

A head is trained on the frozen, dense encoder and then held still, dropout is off, and F is the mean loss of fixed training sentences, so that F is one function of the mask. Two runs
of the method follow: plain steps (Eq. 5) at a moderate temperature, and the default recipe (sign steps, t_l = 1e5). Both tighten the same cubic budget by the quantile of theta, for which Theorem 2 is not
proved, and take their steps on all of the task's batches, not on F's sentences. Points and gradients are kept in float32.
Nothing measured here is a guarantee: F is not convex in the mask, and how far from it is one of the things measured."""
import json, math, time
from datetime import datetime, timezone
from pathlib import Path

import torch
from accelerate.utils import set_seed

from adaptprune.cli import script
from adaptprune.results import environment
from adaptprune.tasks import get_task, load_task, make_loaders
from adaptprune.head import AdaptModel, load_encoder, load_tokenizer
from adaptprune.layer import detach, masked_weights
from adaptprune.optim import SparsityController, rate_factor
from adaptprune.theory import bernoulli_kl, bias, frank_wolfe_gap
from adaptprune.train import get_recipe, prepare

root = Path(__file__).resolve().parent.parent
runs = {'plain step, t_l = 100': dict(step='plain', t_l=100., alpha=None), 'default recipe (sign step, t_l = 1e5)': dict()}

def cat(ts): return torch.cat([t.detach().reshape(-1) for t in ts])

def train_head(model, loader, epochs):
    "Feature extraction: the head alone learns"
    opt = prepare(model, get_recipe('features'), model.base_model, 1)
    for _ in range(epochs):
        for batch in loader: opt.zero_grad(); model(**batch).loss.backward(); opt.step()
    return model.requires_grad_(False).train()

class Loss:
    "F as a function of the mask: the mean loss of fixed batches, on a plain model whose weights are set to w0*v"
    def __init__(self, model, batches): self.model,self.batches,self.w0 = model,batches,None
    def attach(self, names): self.params = [dict(self.model.base_model.named_parameters())[n] for n in names]; self.w0 = [p.detach().clone() for p in self.params]
    @torch.no_grad()
    def __call__(self, v):
        for p,w,x in zip(self.params, self.w0, v.split([w.numel() for w in self.w0])): p.copy_(w*x.view(w.shape))
        out = sum(self.model(**b).loss.item() for b in self.batches)/len(self.batches)
        for p,w in zip(self.params, self.w0): p.copy_(w)
        return out

def full_gradient(model, ws, batches, t_s, straight):
    "F and its gradient in the mask, from the surrogate's: dF/dv = grad / (t_s*sigma'(t_s*(theta-tau))), or grad itself where the backward pass is straight through"
    for w in ws: w.theta.grad = None
    loss = sum(model(**b).loss for b in batches)/len(batches)
    loss.backward()
    slope = lambda x: 1. if straight else t_s*torch.sigmoid(x)*torch.sigmoid(-x)
    g = cat([w.theta.grad/slope(t_s*(w.theta.detach()-w.tau)) for w in ws])
    for w in ws: w.theta.grad = None
    return loss.item(), g

@torch.no_grad()
def look(step, model, ws, batches, t_l, t_s, straight):
    "The theorem's quantities at one point of a run"
    with torch.enable_grad(): loss,g = full_gradient(model, ws, batches, t_s, straight)
    theta = cat([w.theta.detach()-w.tau for w in ws])
    u,v = t_l*theta,torch.sigmoid(t_l*theta)
    model.eval(); binary = sum(model(**b).loss.item() for b in batches)/len(batches); model.train()
    G,away,M = g.norm().item(),torch.sigmoid(-u.abs()).norm().item(),theta.abs().max().item()
    row = dict(step=step, loss=loss, loss_binary=binary, rounding=binary-loss, rounding_linear=G*away, G=G, G1=g.abs().sum().item(), G_max=g.abs().max().item(), max_theta=M, bias_share=bias(M, t_s),
               bias_term=bias(M, t_s, g.abs().sum().item()), decided=(u.abs()>4).double().mean().item(), fractional_mass=torch.sigmoid(-u.abs()).double().mean().item(),
               sparsity=(theta<=0).double().mean().item(), frank_wolfe_gap=frank_wolfe_gap(v, g, float(v.double().sum())).item(),
               quantiles_u=u[::max(1, len(u)//100_000)].abs().quantile(torch.tensor([.05, .25, .5, .75, .95])).tolist())
    return row, v, g

def follow(model, loader, batches, n_steps, every, sparsity, seed, **changes):
    "One run of the method with the head held still; looks every few steps"
    recipe = get_recipe('default', start='rank', reach=1., **{k: x for k,x in changes.items() if x is not None})      # the default recipe of the record's day
    alpha = recipe.alpha
    set_seed(seed)
    if recipe.step=='plain' and alpha is None: recipe = get_recipe(recipe, alpha=1.)
    opt = prepare(model, recipe, model.base_model, n_steps, seed, sparse_grad=False)
    for group in opt.param_groups:
        if group['role']=='head': group['lr'] = 0.
    named = masked_weights(model.base_model); ws = list(named.values())
    t_l,t_s,straight = recipe.t_l,recipe.t_s,recipe.step=='sign'       # `prepare` attaches sign steps straight through
    ctl = SparsityController(model.base_model, sparsity, n_steps)
    if alpha is None and recipe.step=='plain':
        # eta such that a weight with the root mean square gradient travels a twentieth of the start's width in the run; ten times more makes the loss rise
        _,g = full_gradient(model, ws, batches, t_s, straight)
        eta = .05*t_l*recipe.spread/(g.square().mean().sqrt().item()*n_steps)
        for group in opt.param_groups:
            if group['role']=='theta': group['lr'] = 4*eta/(t_l*t_s)
    peak,rows,points,grads,i = {id(g): g['lr'] for g in opt.param_groups},[],[],[],0
    while i<n_steps:
        for batch in loader:
            looking = i%every==0
            if looking: row,v,g = look(i, model, ws, batches, t_l, t_s, straight); before = t_l*cat([w.theta.detach()-w.tau for w in ws])
            for group in opt.param_groups: group['lr'] = peak[id(group)]*rate_factor((i+.5)/n_steps, recipe.warmup, recipe.decay)
            loss = model(**batch).loss; loss.backward(); opt.step(); opt.zero_grad();
            if looking:
                du = t_l*cat([w.theta.detach()-w.tau for w in ws])-before
                moved,squares = bernoulli_kl(torch.sigmoid(before.double()), (before+du).double()).item(),du.double().square().sum().item()
                rate = next(x['lr'] for x in opt.param_groups if x['role']=='theta')
                row.update(eta=rate*t_l*t_s/4, step_u_max=du.abs().max().item(), step_u_norm=math.sqrt(squares), step_kl=moved, step_kl_bound=squares/8)
                rows.append(row); points.append(v); grads.append(g); print(json.dumps({k: row[k] for k in ('step', 'loss', 'loss_binary', 'sparsity', 'decided', 'G', 'frank_wolfe_gap')}), flush=True)
            ctl.step(); i += 1
            if i>=n_steps: break
    row,v,g = look(n_steps, model, ws, batches, t_l, t_s, straight); rows.append(row); points.append(v); grads.append(g)
    alpha = next(peak[id(g)] for g in opt.param_groups if g['role']=='theta')
    total = sum(rate_factor((i+.5)/n_steps, recipe.warmup, recipe.decay) for i in range(n_steps))*alpha*t_l*t_s/4
    return dict(recipe=dict(recipe.__dict__, alpha=alpha), names=list(named), sum_eta=total, looks=rows), points, grads

def along_the_path(points, grads, rows):
    "The convexity step of the proof, F(v_i)-F(v*) <= <g_i, v_i-v*>, with every other look of the run as v*; all in float32, summed in double"
    out = []
    for i,(v,g) in enumerate(zip(points, grads)):
        for j,w in enumerate(points):
            if i!=j: out.append(dict(i=rows[i]['step'], j=rows[j]['step'], true=rows[i]['loss']-rows[j]['loss'], linear=(g.double()*(v.double()-w.double())).sum().item()))
    return out

def chords(F, points, tolerance=1e-4):
    "Midpoint convexity on all pairs of some points: an excess above the tolerance breaks it"
    ends = [F(p) for p in points]
    print(ends, flush=True)
    pairs = [(i, j) for i in range(len(points)) for j in range(i)]
    excess = [F((points[i]+points[j])/2)-(ends[i]+ends[j])/2 for i,j in pairs]
    return dict(ends=ends, pairs=len(pairs), excess=excess, tolerance=tolerance, violated=sum(e>tolerance for e in excess)/len(pairs))

def main(
    task:str='mini-sentiment', # a packaged task
    n_steps:int=80, # of each run
    every:int=16, # steps between two looks
    sparsity:float=.15, # budget that the runs end at
    n_points:int=6, # ends of chords in each group
    seed:int=0,
    threads:int=1, # of torch
    out:str=str(root/'results/theory_minilm.json'),
):
    "Measure and record"
    began = time.perf_counter()
    torch.set_num_threads(threads); set_seed(seed)
    encoder = load_encoder('minilm', hidden_dropout_prob=0., attention_probs_dropout_prob=0.)
    model = AdaptModel(encoder, get_task(task).num_labels)
    data = load_task(task)
    loader = make_loaders(data, load_tokenizer('minilm'), 16, max_length=48, seed=seed)['train']
    train_head(model, loader, 15)
    batches = [b for _,b in zip(range(2), loader)]
    F,record,kept = Loss(model, batches),{},{}
    for name,changes in runs.items():
        print(name, flush=True)
        record[name],points,grads = follow(model, loader, batches, n_steps, every, sparsity, seed, **changes)
        record[name]['path'] = along_the_path(points, grads, record[name]['looks']); del grads
        detach(model.base_model); model.requires_grad_(False).train()
        names,kept[name] = record[name].pop('names'),points[-n_points:]
    F.attach(names)
    d,gen = sum(w.numel() for w in F.w0),torch.Generator().manual_seed(seed)
    keep = lambda share: [(torch.rand(d, generator=gen)<share).float() for _ in range(n_points)]
    groups = {f'random binary masks, {1-s:.0%} pruned': keep(s) for s in (.99, .95, .85)} | {'fractional, uniform in (0.9, 1)': [1-.1*torch.rand(d, generator=gen) for _ in range(n_points)]}
    found = {name: chords(F, points) for name,points in (groups | {f'iterates of: {k}': p for k,p in kept.items()}).items()}
    dense = F(torch.ones(d))
    record = dict(what=__doc__.split('\n')[0], command='python benchmarks/theory_minilm.py', config=dict(task=task, model='minilm', n_steps=n_steps, every=every, sparsity=sparsity, n_points=n_points, seed=seed,
                  sentences=sum(len(b['labels']) for b in batches), train_sentences=len(data['train']), weights='all'), d=d, dense_loss=dense, runs=record, chords=found, date=datetime.now(timezone.utc).isoformat(timespec='seconds'),
                  environment=environment(), wall_s=round(time.perf_counter()-began, 1), cpu_s=round(time.process_time(), 1))
    Path(out).write_text(json.dumps(record, indent=1)+'\n')
    print(json.dumps({k: x['violated'] for k,x in found.items()}, indent=1), record['wall_s'])

if __name__=='__main__': script(main)
