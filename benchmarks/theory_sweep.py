"""Theorem 1 (adaptprune) on many random convex problems with a known best mask: the measured gap beside the bound.

    python benchmarks/theory_sweep.py             # a few minutes of one core (the record has the time); writes results/theory_sweep.json

Each group of 50 problems shares one random setting (loss, size, steps, step, both temperatures, start, price). The best
binary mask is found by brute force (d up to 16). With exact gradients every inequality holds surely, also (5) with (6),
the bound from what the run recorded. With sampled gradients (2) and (7) bound a mean over runs, which is estimated from
20, and (5) bounds another thing (the regret on the samples)."""
import json, math, time
from datetime import datetime, timezone
from pathlib import Path

import torch

from adaptprune.cli import script
from adaptprune.results import environment
from adaptprune.theory import Problems, bernoulli_kl, best_masks, descend, rounding_gap

root = Path(__file__).resolve().parent.parent

def draw(seed):
    g = torch.Generator().manual_seed(seed)
    def uniform(lo, hi): return lo+(hi-lo)*float(torch.rand((), generator=g, dtype=torch.double))
    def log(lo, hi): return math.exp(uniform(math.log(lo), math.log(hi)))
    def pick(*xs): return xs[int(torch.randint(len(xs), (), generator=g))]
    return dict(loss=pick('squares', 'logistic', 'absolute'), d=int(uniform(2, 17)), n=int(uniform(10, 40)), T=int(log(10, 300)), eta=log(.02, 5), decay=pick(0., .5), t_l=log(1, 1e5), t_s=log(.01, 10),
                u1=uniform(-1, 6), price=pick(0., .01, .1), runs=pick(1, 1, 20), seed=seed)

def measure(c, B=50):
    "For each problem: gap of the random iterate, of the mean iterate and of the random iterate's mask to the best binary mask, and the bounds (2), (5) and (7)"
    one,d = Problems(B, c['d'], c['n'], c['loss'], seed=c['seed']),c['d']
    best,m = best_masks(one, c['price'])
    ps,gen = one.repeat(c['runs']),torch.Generator().manual_seed(c['seed'])
    eta = torch.tensor([c['eta']/(i+1)**c['decay'] for i in range(c['T'])], dtype=torch.double)
    start = torch.full((B, d), c['u1'], dtype=torch.double)
    phi = lambda v: ps.F(v)+c['price']*v.sum(-1)
    G,G_sample,G1 = one.constants()
    L = (G+c['price']*math.sqrt(d)).repeat(c['runs'])
    seen = []
    run = descend(ps.grad if c['runs']==1 else lambda v: ps.sample(v, gen), start.repeat(c['runs'], 1)/c['t_l'], (4*eta/(c['t_l']*c['t_s'])).tolist(), c['T'], c['t_l'], c['t_s'], c['price'],
                  observe=lambda i,v,th: seen.append((phi(v), phi((th>0).double()), L*rounding_gap(th, c['t_l']))))
    mean = lambda x: x.view(c['runs'], B).mean(0)
    iterate,mask,rounding = (mean((torch.stack(x)*eta[:,None]).sum(0)/eta.sum()) for x in zip(*seen))
    kl = bernoulli_kl(m, start)
    two = kl/eta.sum()+((G if c['runs']==1 else G_sample)+c['price']*math.sqrt(d))**2/8*eta.square().sum()/eta.sum()+mean(torch.tanh(c['t_s']*run.max_theta/2)**2)*G1
    five = mean((kl.repeat(c['runs'])+run.moved)/run.eta+run.lost)
    return dict(exact=torch.full((B,), c['runs']==1), gap=iterate-best, gap_mean=mean(phi(run.mean))-best, gap_mask=mask-best, two=two, five=five, seven=two+rounding)

def main(
    groups:int=400, # of 50 problems each
    out:str=str(root/'results/theory_sweep.json'), # file to write
):
    "Measure and record"
    torch.set_num_threads(1)
    began,parts = time.perf_counter(),[]
    for seed in range(groups): parts.append(measure(draw(seed)))
    x = {k: torch.cat([p[k] for p in parts]) for k in parts[0]}
    exact = x.pop('exact')
    q = lambda t: [round(float(t.quantile(p)), 4) for p in (.05, .5, .95)]
    record = dict(what=__doc__.split('\n')[0], command='python benchmarks/theory_sweep.py', config=dict(groups=groups, problems=len(x['gap']), d='2 to 16', seeds=f'0 to {groups-1}'),
        exact_gradients=int(exact.sum()),
        violations={'random iterate above (2)': int((x['gap']>x['two']).sum()), 'mean iterate above random iterate': int((x['gap_mean']>x['gap']+1e-9).sum()), 'binary mask above (7)': int((x['gap_mask']>x['seven']+1e-9).sum()),
                    'exact gradients: random iterate above (5)': int((x['gap']>x['five']+1e-9)[exact].sum()), 'exact gradients: (5) above (2)': int((x['five']>x['two']+1e-9)[exact].sum())},
        quantiles_5_50_95={k: q(v) for k,v in x.items()}, largest_ratio={'gap/(2)': round(float((x['gap']/x['two']).max()), 4), 'exact gradients: gap/(5)': round(float((x['gap']/x['five'])[exact].max()), 4)},
        negative_gaps=round(float((x['gap']<0).double().mean()), 4), date=datetime.now(timezone.utc).isoformat(timespec='seconds'), environment=environment(),
        wall_s=round(time.perf_counter()-began, 1), cpu_s=round(time.process_time(), 1))
    Path(out).write_text(json.dumps(record, indent=1)+'\n')
    print(json.dumps({k: record[k] for k in ('config', 'violations', 'largest_ratio', 'quantiles_5_50_95', 'wall_s')}, indent=1))

if __name__=='__main__': script(main)
