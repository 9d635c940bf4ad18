"""One distillation iteration in PyTorch and here, alternating in one run on the same cores: the generator's turn
(distribution matching against a guided teacher) and the fake score's, each with backward pass, clipping and AdamW.

    cargo build --release
    venv/bin/python benches/peers/distillation.py target/release/dmd models/shapes --batch 16 --rounds 5
"""

import argparse
import json
import os
import statistics
import subprocess
import time

arguments = argparse.ArgumentParser()
arguments.add_argument("dmd")
arguments.add_argument("model")
arguments.add_argument("--batch", type=int, default=16)
arguments.add_argument("--threads", type=int, default=2)
arguments.add_argument("--runs", type=int, default=5, help="iterations per round")
arguments.add_argument("--rounds", type=int, default=5)
arguments = arguments.parse_args()
os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

import copy

import diffusers
import torch
import torch.nn.functional as F

torch.set_num_threads(arguments.threads)
teacher = diffusers.UNet2DConditionModel.from_pretrained(arguments.model, subfolder="unet", torch_dtype=torch.float32).eval()
generator, fake = copy.deepcopy(teacher), copy.deepcopy(teacher)
teacher.requires_grad_(False)
alphas = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod
optimisers = [torch.optim.AdamW(n.parameters(), lr=1e-5, weight_decay=0.01) for n in (generator, fake)]
batch, config = arguments.batch, teacher.config
shape = (batch, config.in_channels, config.sample_size, config.sample_size)
text, empty = torch.randn(batch, 77, config.cross_attention_dim), torch.randn(batch, 77, config.cross_attention_dim)


def scales(t):
    a = alphas[t].view(-1, 1, 1, 1)
    return a.sqrt(), (1 - a).sqrt()


def x0(network, x_t, t, text):
    alpha, sigma = scales(t)
    return (x_t - sigma * network(x_t, t, text).sample) / alpha


def update(network, optimiser, loss):
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def iteration():
    x = x0(generator, torch.randn(shape), torch.full((batch,), 999), text)
    with torch.no_grad():
        t = torch.randint(20, 981, (batch,))
        alpha, sigma = scales(t)
        x_t = alpha * x + sigma * torch.randn(shape)
        both = x0(teacher, torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([empty, text]))
        real = both[:batch] + 2.0 * (both[batch:] - both[:batch])
        gradient = (x0(fake, x_t, t, text) - real) / (x - real).abs().mean((1, 2, 3), keepdim=True)
    update(generator, optimisers[0], 0.5 * F.mse_loss(x, (x - gradient).detach()))
    x, t, noise = x.detach(), torch.randint(0, 1000, (batch,)), torch.randn(shape)
    alpha, sigma = scales(t)
    update(fake, optimisers[1], F.mse_loss(fake(alpha * x + sigma * noise, t, text).sample, noise))


def torch_round():
    times = []
    for _ in range(arguments.runs):
        start = time.perf_counter()
        iteration()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def our_round():
    command = [arguments.dmd, "bench", "--model", arguments.model, "--parts", "distillation", "--batch", str(batch),
               "--runs", str(arguments.runs), "--json"]
    environment = {**os.environ, "RAYON_NUM_THREADS": str(arguments.threads)}
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)["median_ms"]


iteration()
ours, theirs = [], []
for _ in range(arguments.rounds):
    ours.append(our_round())
    theirs.append(torch_round())
    print(f"ours {ours[-1]:.0f} ms, PyTorch {theirs[-1]:.0f} ms", flush=True)
ours, theirs = statistics.median(ours), statistics.median(theirs)
print(f"one iteration, batch {batch}, {arguments.threads} threads: ours {ours:.0f} ms, PyTorch {torch.__version__} "
      f"{theirs:.0f} ms, ratio {ours / theirs:.2f}")
