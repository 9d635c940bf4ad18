"""Iterations of a distillation on low-rank updates (LoRA) by PyTorch, diffusers and PEFT: the golden file
tests/golden/lora_training.safetensors, and the same at full size.

    python scripts/golden_lora.py
    python scripts/golden_lora.py SD15/unet REFERENCE.safetensors --rank 16

Then `DMD_LORA_UNET=SD15/unet DMD_LORA_REFERENCE=REFERENCE.safetensors cargo test --release --test integration --
--ignored lora_at_full_size --nocapture`.
"""

import argparse
import time
from pathlib import Path

import diffusers
import torch
import torch.nn.functional as F
from peft import LoraConfig

from golden import ROOT, normal, randomise, save


class Head(torch.nn.Module):
    """DMD2's critic on a bottleneck of 32 channels, 4×4 (section 4.3)."""

    def __init__(self, channels=32, side=4, groups=4):
        super().__init__()
        self.conv_1 = torch.nn.Conv2d(channels, channels, 4, 2, 1)
        self.norm_1 = torch.nn.GroupNorm(groups, channels)
        self.conv_2 = torch.nn.Conv2d(channels, channels, side // 2, side // 2)
        self.norm_2 = torch.nn.GroupNorm(groups, channels)
        self.conv_out = torch.nn.Conv2d(channels, 1, 1)

    def forward(self, x):
        x = F.silu(self.norm_1(self.conv_1(x)))
        return self.conv_out(F.silu(self.norm_2(self.conv_2(x)))).flatten(1)


ALPHAS = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod


def scales(t):
    """alpha and sigma of Stable Diffusion's schedule."""
    a = ALPHAS[t.long()].view(-1, 1, 1, 1)
    return a.sqrt(), (1 - a).sqrt()


def diffused(x, eps, t):
    alpha, sigma = scales(t)
    return alpha * x + sigma * eps


LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "time_emb_proj",
          "conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"]


def iterations(model=None, to=None, rank=4, alpha=8.0, batch=2, count=3, side=8, text=(7, 24), head=None, rate=1e-3):
    """Iterations of DMD2 on low-rank updates by PEFT: one network, an update for the generator and one for the fake
    score, none for the teacher. The matrices' starts are torch.randn of stated seeds, in the order of the sorted names.
    Returns the seconds that each iteration took."""
    network = diffusers.UNet2DConditionModel.from_pretrained(model or ROOT / "unet_sd1", torch_dtype=torch.float32)
    network.requires_grad_(False)
    for name in ("generator", "fake"):
        network.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=LAYERS), adapter_name=name)
    matrices = {}
    for name, seed in (("generator", 51), ("fake", 52)):
        own = {key.replace(f".{name}.", "."): value for key, value in network.named_parameters() if f".{name}." in key}
        own = {key.replace(".lora_A.weight", ".weight.lora.down").replace(".lora_B.weight", ".weight.lora.up"): value
               for key, value in own.items()}
        matrices[name] = dict(sorted(own.items()))
        with torch.no_grad():
            for i, (key, value) in enumerate(matrices[name].items()):
                value.copy_(0.05 * normal(seed * 1000 + i, *value.shape))
    head = randomise(head or Head(), 33).train()
    shape, guidance, weights = (batch, 4, side, side), 2.0, {"generator": 0.3, "critic": 0.1}
    d = dict(rate=torch.tensor([rate]), text=normal(61, batch, *text), real_text=normal(62, batch, *text), empty=normal(63, 1, *text))
    for i in range(count):
        for j, name in enumerate(["z", "eps", "critic_eps", "fake_eps", "turn_eps", "real_eps", "real"]):
            d[f"{name}{i}"] = normal(100 * (i + 1) + j, *shape)
        for j, name in enumerate(["t", "critic_t", "fake_t", "turn_t", "real_t"]):
            low, high = (20, 980) if name == "t" else (0, 999)
            generator = torch.Generator().manual_seed(1000 * (i + 1) + j)
            d[f"{name}{i}"] = torch.randint(low, high + 1, (batch,), generator=generator).float()

    def clipped(parameters):
        """clip_grad_norm_ to 10 by a norm in f64: PyTorch's in f32 is 0.15 % too small over 26 million values."""
        norm = sum(parameter.grad.double().square().sum() for parameter in parameters).sqrt()
        for parameter in parameters:
            parameter.grad.mul_(min(1.0, 10.0 / (norm.item() + 1e-6)))
        return norm.float()

    def use(name):
        network.enable_adapters() if name else network.disable_adapters()
        if name:
            network.set_adapter(name)

    def x0(x_t, t, text):
        alpha, sigma = scales(t)
        return (x_t - sigma * network(x_t, t, text).sample) / alpha

    def logits(x_t, t, text):
        """The half of the network that the critic needs."""
        class Done(Exception):
            pass

        def stop(module, args, output):
            raise Done(output)

        hook = network.mid_block.register_forward_hook(stop)
        try:
            network(x_t, t, text)
        except Done as done:
            return head(done.args[0])
        finally:
            hook.remove()

    trained = {"generator": list(matrices["generator"].values()),
               "fake": [*matrices["fake"].values(), *head.parameters()]}
    optimisers = {name: torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
                  for name, parameters in trained.items()}
    figures, times = {}, []
    before = {f"head.{name}": value.clone() for name, value in head.state_dict().items()}
    for i in range(count):
        start = time.perf_counter()
        at = lambda name: d[f"{name}{i}"]
        use("generator")
        x = x0(at("z"), torch.full((batch,), 999.0), d["text"])
        with torch.no_grad():
            x_t = diffused(x, at("eps"), at("t"))
            use(None)
            cond, uncond = x0(x_t, at("t"), d["text"]), x0(x_t, at("t"), d["empty"].expand(batch, -1, -1))
            real = uncond + guidance * (cond - uncond)
            use("fake")
            gradient = (x0(x_t, at("t"), d["text"]) - real) / (x - real).abs().mean((1, 2, 3), keepdim=True)
        matching = 0.5 * F.mse_loss(x, (x - gradient).detach())
        use("fake")
        for parameter in trained["fake"]:
            parameter.requires_grad_(False)
        adversarial = F.softplus(-logits(diffused(x, at("critic_eps"), at("critic_t")), at("critic_t"), d["text"])).mean()
        for parameter in trained["generator"]:
            parameter.requires_grad_(True)
        (matching + weights["generator"] * adversarial).backward()
        for key, value in matrices["generator"].items() if i == 0 else ():
            figures[f"gradient.generator.{key}"] = value.grad.flatten()[::7].clone()
        figures[f"generator_norm{i}"] = clipped(trained["generator"])
        optimisers["generator"].step()
        optimisers["generator"].zero_grad()
        use("fake")
        for parameter in trained["fake"]:
            parameter.requires_grad_(True)
        x = x.detach()
        denoising = F.mse_loss(network(diffused(x, at("fake_eps"), at("fake_t")), at("fake_t"), d["text"]).sample,
                               at("fake_eps"))
        critic = (F.softplus(logits(diffused(x, at("turn_eps"), at("turn_t")), at("turn_t"), d["text"])).mean()
                  + F.softplus(-logits(diffused(at("real"), at("real_eps"), at("real_t")), at("real_t"),
                                       d["real_text"])).mean())
        (denoising + weights["critic"] * critic).backward()
        for key, value in matrices["fake"].items() if i == 0 else ():
            figures[f"gradient.fake.{key}"] = value.grad.flatten()[::7].clone()
        figures[f"fake_norm{i}"] = clipped(trained["fake"])
        optimisers["fake"].step()
        optimisers["fake"].zero_grad()
        figures |= {f"matching{i}": matching, f"adversarial{i}": adversarial, f"fake{i}": denoising, f"critic{i}": critic}
        times.append(time.perf_counter() - start)
    after = {f"after.{name}.{key}": value.flatten()[::7].clone()
             for name in matrices for key, value in matrices[name].items()}
    figures = {key: value.detach().reshape(-1) for key, value in figures.items()}
    save(to or "lora_training", **d, **before, **figures, **after)
    return times


if __name__ == "__main__":
    arguments = argparse.ArgumentParser()
    arguments.add_argument("unet", nargs="?")
    arguments.add_argument("to", nargs="?")
    arguments.add_argument("--rank", type=int, default=16)
    arguments.add_argument("--rate", type=float, default=1e-4)
    arguments.add_argument("--threads", type=int, default=2)
    arguments = arguments.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.unet:
        to = str(Path(arguments.to).resolve()).removesuffix(".safetensors")
        times = iterations(arguments.unet, to, rank=arguments.rank, alpha=arguments.rank, batch=1, side=64,
                           text=(77, 768), head=Head(1280, 8, 32), rate=arguments.rate)
        print("seconds per iteration:", " ".join(f"{seconds:.1f}" for seconds in times))
    else:
        iterations()
