"""A training step of a class-conditional EDM teacher on pixels in diffusers on PyTorch and here, in turn on the same cores: loss,
backward pass, clipping, AdamW and the moving average.

    cargo build --release
    venv/bin/python scripts/digits.py data/digits --mnist
    venv/bin/python benches/peers/teacher.py target/release/dmd data/digits --size 28 --batch 64 --rounds 3
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

arguments = argparse.ArgumentParser()
arguments.add_argument("dmd")
arguments.add_argument("data", type=Path, help="folder of pictures with classes")
arguments.add_argument("--size", type=int, default=28)
arguments.add_argument("--channels", default="32,64")
arguments.add_argument("--batch", type=int, default=64)
arguments.add_argument("--threads", type=int, default=2)
arguments.add_argument("--steps", type=int, default=12, help="per round, of which the first two do not count")
arguments.add_argument("--rounds", type=int, default=3)
arguments = arguments.parse_args()
os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

import diffusers
import torch

torch.set_num_threads(arguments.threads)
folder = Path(tempfile.mkdtemp())
config = f"""kind = "pixels"
seed = 1
output = "{folder / "run"}"
data = {{ kind = "folder", path = "{arguments.data.resolve()}", size = {arguments.size} }}
unet = {{ block_out_channels = [{arguments.channels}], layers_per_block = 1, attention_head_dim = 8, norm_num_groups = 8 }}

[training]
batch = {arguments.batch}
learning_rate = 1e-3
warmup_steps = 100
ema_decay = 0.999
class_dropout = 0.1
pace = {{ steps = {arguments.steps} }}
"""


def our_round():
    subprocess.run(["rm", "-rf", str(folder / "run")], check=True)
    (folder / "config.toml").write_text(config)
    environment = {**os.environ, "RAYON_NUM_THREADS": str(arguments.threads)}
    subprocess.run([arguments.dmd, "teacher", str(folder / "config.toml"), "--device", "flex"], check=True, capture_output=True, env=environment)
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    seconds = [row["seconds"] for row in rows if "seconds" in row]
    return statistics.median([(b - a) * 1e3 for a, b in zip(seconds[1:], seconds[2:])])


def network():
    """The network of our last run, and as many pictures as fit a batch."""
    unet = diffusers.UNet2DModel.from_pretrained(folder / "run" / "model" / "unet")
    return unet.train(), torch.randn(arguments.batch, unet.config.in_channels, arguments.size, arguments.size) * 0.5


def torch_round():
    unet, pictures = network()
    average = [p.detach().clone() for p in unet.parameters()]
    optimiser = torch.optim.AdamW(unet.parameters(), lr=1e-3, weight_decay=0.01)
    classes, times = torch.randint(0, unet.config.num_class_embeds, (arguments.batch,)), []
    for _ in range(arguments.steps):
        start = time.perf_counter()
        sigma = (torch.randn(arguments.batch) * 1.2 - 1.2).exp()
        s = sigma.view(-1, 1, 1, 1)
        x = pictures + s * torch.randn_like(pictures)
        skip, out, scale = 0.25 / (s**2 + 0.25), s * 0.5 / (s**2 + 0.25).sqrt(), 1 / (s**2 + 0.25).sqrt()
        x0 = skip * x + out * unet(scale * x, sigma.log() / 4, classes).sample
        loss = ((x0 - pictures) ** 2 / out**2).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        torch._foreach_lerp_(average, [p.detach() for p in unet.parameters()], 1e-3)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[2:])


ours, theirs = [], []
for _ in range(arguments.rounds):
    ours.append(our_round())
    theirs.append(torch_round())
    print(f"ours {ours[-1]:.0f} ms, PyTorch {theirs[-1]:.0f} ms", flush=True)
ours, theirs = statistics.median(ours), statistics.median(theirs)
print(f"one step, batch {arguments.batch}, {arguments.threads} threads: ours {ours:.0f} ms, PyTorch {torch.__version__} {theirs:.0f} ms, ratio {ours / theirs:.2f}")
