"""What Theorem 1 (adaptprune) has to do with a real network: its quantities, measured on MiniLM and a packaged task.

    python benchmarks/theory_minilm.py            # a few minutes of one core (the record has the time); writes results/theory_minilm.json

A head is trained on the frozen, dense encoder and then held still, dropout is off, and F is the mean loss of fixed
training sentences, so that F is one function of the mask. Two runs of the method follow: plain steps (Eq. 5) at a
moderate temperature, and the first default recipe (sign steps, t_l = 1e5). Both tighten the same cubic budget by the
quantile of theta, for which Theorem 2 is not proved, and take their steps on all of the task's batches, not on F's
sentences. Points and gradients are kept in float32. Nothing measured here is a guarantee: F is not convex in the mask,
and how far from it is one of the things measured."""
import json, math, time
from datetime import datetime, timezone
from itertools import chain, islice, repeat
from pathlib import Path

import torch
from accelerate.utils import set_seed

from adaptprune.cli import script
from adaptprune.head import AdaptModel, load_encoder, load_tokenizer
from adaptprune.methods import outside
from adaptprune.optim import MaskOptimizer
from adaptprune.results import engine_version, environment
from adaptprune.sparsity import rate_factor
from adaptprune.tasks import get_task, load_task, make_loaders
from adaptprune.theory import bernoulli_kl, bias, frank_wolfe_gap

root = Path(__file__).resolve().parent.parent
first_default = dict(start='rank', reach=1., t_l=1e5)      # the default recipe of the first record
runs = {'plain step, t_l = 100': dict(step='plain', t_l=100., alpha=1.), 'default recipe (sign step, t_l = 1e5)': dict()}

def cat(ts): return torch.cat([t.detach().reshape(-1) for t in ts])

def epochs_of(loader): return chain.from_iterable(repeat(loader))

def train_head(model, loader, epochs):
    "Feature extraction: the head alone learns"
    head = outside(model, model.base_model)
    model.base_model.requires_grad_(False)
    opt = torch.optim.Adam(head, lr=1e-3)
    for batch in islice(epochs_of(loader), epochs*len(loader)):
        opt.zero_grad()
        model(**batch).loss.backward()
        opt.step()
    return model.requires_grad_(False).train()

class Loss:
    "F as a function of the mask: the mean loss of fixed batches, on a plain model whose weights are set to w0*v"
    def __init__(self, model, batches, names):
        self.model,self.batches = model,batches
        params = dict(model.base_model.named_parameters())
        self.params = [params[n] for n in names]
        self.w0 = [p.detach().clone() for p in self.params]

    @torch.no_grad()
    def __call__(self, v):
        parts = v.split([w.numel() for w in self.w0])
        for p,w,x in zip(self.params, self.w0, parts): p.copy_(w*x.view(w.shape))
        out = sum(self.model(**b).loss.item() for b in self.batches)/len(self.batches)
        for p,w in zip(self.params, self.w0): p.copy_(w)
        return out

def theta_of(opt): return cat([p.theta for p in opt.weights])

def logits_of(opt):
    "u = t_l*(theta-tau) of all weights"
    return opt.settings.t_l*cat([p.theta-p.group.tau for p in opt.weights])

def full_gradient(model, opt, batches):
    "F and its gradient in the mask: dF/dv = dF/dw * w0"
    opt.zero_grad()
    loss = sum(model(**b).loss for b in batches)/len(batches)
    loss.backward()
    g = cat([p.flat(p.param.grad)*p.w0 for p in opt.weights])
    opt.zero_grad()
    return loss.item(), g

def binary_loss(model, opt, batches):
    "F of the binary mask that the thetas stand for"
    for p in opt.weights: p.write(math.inf)
    model.eval()
    loss = sum(model(**b).loss.item() for b in batches)/len(batches)
    model.train()
    opt.weights.write()
    return loss

@torch.no_grad()
def look(step, model, opt, batches):
    "The theorem's quantities at one point of a run"
    t_l,t_s = opt.settings.t_l,opt.settings.t_s
    with torch.enable_grad(): loss,g = full_gradient(model, opt, batches)
    binary = binary_loss(model, opt, batches)
    u = logits_of(opt)
    v,away = torch.sigmoid(u),torch.sigmoid(-u.abs())
    M,G,G1 = u.abs().max().item()/t_l,g.norm().item(),g.abs().sum().item()
    row = dict(step=step, loss=loss, loss_binary=binary, rounding=binary-loss, rounding_linear=G*away.norm().item(), G=G, G1=G1,
        G_max=g.abs().max().item(), max_theta=M, bias_share=bias(M, t_s), bias_term=bias(M, t_s, G1),
        decided=(u.abs()>4).double().mean().item(), fractional_mass=away.double().mean().item(), sparsity=(u<=0).double().mean().item(),
        frank_wolfe_gap=frank_wolfe_gap(v, g, float(v.double().sum())).item(),
        quantiles_u=u[::max(1, len(u)//100_000)].abs().quantile(torch.tensor([.05, .25, .5, .75, .95])).tolist())
    return row, v, g

def plain_rate(opt, model, batches):
    """The learning rate at which a weight with the root mean square gradient travels a twentieth of the start's width
    in the run; ten times more makes the loss rise"""
    s = opt.settings
    _,g = full_gradient(model, opt, batches)
    eta = .05*s.t_l*s.spread/(g.square().mean().sqrt().item()*opt.steps)
    return 4*eta/(s.t_l*s.t_s)

def movement(u, du, eta):
    "How far a step went, and what the theorem says of it"
    squares = du.double().square().sum().item()
    kl = bernoulli_kl(torch.sigmoid(u.double()), (u+du).double()).item()
    return dict(eta=eta, step_u_max=du.abs().max().item(), step_u_norm=math.sqrt(squares), step_kl=kl, step_kl_bound=squares/8)

def take_step(model, opt, batch):
    model(**batch).loss.backward()
    opt.step()
    opt.zero_grad()

def step_seen(model, opt, batch):
    "A step, and how far it went"
    s = opt.settings
    u,theta,eta = logits_of(opt),theta_of(opt),opt.lr('theta')*s.t_l*s.t_s/4
    take_step(model, opt, batch)
    return movement(u, s.t_l*(theta_of(opt)-theta), eta)

def follow(model, loader, batches, n_steps, every, sparsity, seed, **changes):
    "One run of the method with the head held still; looks every few steps"
    set_seed(seed)
    opt = MaskOptimizer(model.base_model, sparsity=sparsity, steps=n_steps, seed=seed, **{**first_default, **changes})
    s,group = opt.settings,opt.param_groups[0]
    if s.step=='plain': group['lr'] = plain_rate(opt, model, batches)
    looks = []
    for i,batch in enumerate(islice(epochs_of(loader), n_steps)):
        if i%every:
            take_step(model, opt, batch)
            continue
        row,v,g = look(i, model, opt, batches)
        row.update(step_seen(model, opt, batch))
        looks.append((row, v, g))
        print(json.dumps({k: row[k] for k in ('step', 'loss', 'loss_binary', 'sparsity', 'decided', 'G', 'frank_wolfe_gap')}), flush=True)
    looks.append(look(n_steps, model, opt, batches))
    opt.restore()
    opt.close()
    rows,points,grads = map(list, zip(*looks))
    total = sum(rate_factor((i+.5)/n_steps, s.warmup, s.decay) for i in range(n_steps))*group['lr']*s.t_l*s.t_s/4
    names = [p.name for p in opt.weights]
    return dict(recipe=dict(vars(s), alpha=group['lr']), sum_eta=total, looks=rows), points, grads, names

def along_the_path(points, grads, rows):
    """The convexity step of the proof, F(v_i)-F(v*) <= <g_i, v_i-v*>, with every other look of the run as v*; all in
    float32, summed in double"""
    out = []
    for i,(v,g) in enumerate(zip(points, grads)):
        for j,w in enumerate(points):
            if i==j: continue
            linear = (g.double()*(v.double()-w.double())).sum().item()
            true = rows[i]['loss']-rows[j]['loss']
            out.append(dict(i=rows[i]['step'], j=rows[j]['step'], true=true, linear=linear))
    return out

def chords(F, points, tolerance=1e-4):
    "Midpoint convexity on all pairs of some points: an excess above the tolerance breaks it"
    ends = [F(p) for p in points]
    print(ends, flush=True)
    pairs = [(i, j) for i in range(len(points)) for j in range(i)]
    excess = [F((points[i]+points[j])/2)-(ends[i]+ends[j])/2 for i,j in pairs]
    return dict(ends=ends, pairs=len(pairs), excess=excess, tolerance=tolerance, violated=sum(e>tolerance for e in excess)/len(pairs))

def random_points(d, n, seed):
    "Masks drawn at random: binary ones of three sparsities, and fractional ones"
    gen = torch.Generator().manual_seed(seed)
    def binary(kept): return [(torch.rand(d, generator=gen)<kept).float() for _ in range(n)]
    def fractional(): return [1-.1*torch.rand(d, generator=gen) for _ in range(n)]
    groups = {f'random binary masks, {1-s:.0%} pruned': binary(s) for s in (.99, .95, .85)}
    return {**groups, 'fractional, uniform in (0.9, 1)': fractional()}

def main(
    task:str='mini-sentiment', # a packaged task
    n_steps:int=80, # of each run
    every:int=16, # steps between two looks
    sparsity:float=.15, # budget that the runs end at
    n_points:int=6, # ends of chords in each group
    seed:int=0, # random seed
    threads:int=1, # of torch
    out:str=str(root/'results/theory_minilm.json'), # file to write
):
    "Measure and record"
    began = time.perf_counter()
    torch.set_num_threads(threads)
    set_seed(seed)
    encoder = load_encoder('minilm', hidden_dropout_prob=0., attention_probs_dropout_prob=0.)
    model = AdaptModel(encoder, get_task(task).num_labels)
    data = load_task(task)
    loader = make_loaders(data, load_tokenizer('minilm'), 16, max_length=48, seed=seed)['train']
    train_head(model, loader, 15)
    batches = list(islice(loader, 2))
    record,kept = {},{}
    for name,changes in runs.items():
        print(name, flush=True)
        record[name],points,grads,names = follow(model, loader, batches, n_steps, every, sparsity, seed, **changes)
        record[name]['path'] = along_the_path(points, grads, record[name]['looks'])
        kept[f'iterates of: {name}'] = points[-n_points:]
        del grads
    F = Loss(model, batches, names)
    d = sum(w.numel() for w in F.w0)
    found = {name: chords(F, points) for name,points in {**random_points(d, n_points, seed), **kept}.items()}
    config = dict(task=task, model='minilm', n_steps=n_steps, every=every, sparsity=sparsity, n_points=n_points, seed=seed,
        sentences=sum(len(b['labels']) for b in batches), train_sentences=len(data['train']), weights='all')
    times = dict(wall_s=round(time.perf_counter()-began, 1), cpu_s=round(time.process_time(), 1))
    record = dict(what=__doc__.split('\n')[0], command='python benchmarks/theory_minilm.py', config=config, d=d,
        dense_loss=F(torch.ones(d)), runs=record, chords=found, engine=engine_version,
        date=datetime.now(timezone.utc).isoformat(timespec='seconds'), environment=environment(), **times)
    Path(out).write_text(json.dumps(record, indent=1)+'\n')
    print(json.dumps({k: x['violated'] for k,x in found.items()}, indent=1), record['wall_s'])

if __name__=='__main__': script(main)
