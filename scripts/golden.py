"""Makes tests/golden/: tiny random networks of diffusers and transformers with their inputs and
outputs, and sampler trajectories. The Rust tests compare every tensor; they need no Python.

    python -m venv venv && venv/bin/pip install -r scripts/requirements.txt
    venv/bin/python scripts/golden.py
"""

import json
import platform
from pathlib import Path

import diffusers
import safetensors.torch as st
import torch
import transformers

ROOT = Path(__file__).resolve().parent.parent / "tests" / "golden"


def randomise(network, seed):
    """Every parameter random, norms and biases too, so that no path is silently the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim == 1:
                base = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                parameter.copy_(base + 0.1 * noise)
            elif "embedding" in name and "time" not in name:
                parameter.copy_(0.5 * noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
    return network.eval()


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def save(name, **tensors):
    st.save_file({k: v.contiguous() for k, v in tensors.items()}, ROOT / f"{name}.safetensors")


@torch.no_grad()
def unet(name, **options):
    network = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, layers_per_block=2, cross_attention_dim=24,
        norm_num_groups=4, **options,
    )
    randomise(network, 1)
    network.save_pretrained(ROOT / name)
    x, text = normal(2, 2, 4, 8, 8), normal(3, 2, 7, 24)
    t = torch.tensor([3.0, 999.0])
    save(f"{name}/io", x=x, t=t, text=text, output=network(x, t, text).sample)
    return network


@torch.no_grad()
def vae():
    network = diffusers.AutoencoderKL(
        block_out_channels=(8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, layers_per_block=1, latent_channels=4,
        norm_num_groups=4, sample_size=16, scaling_factor=0.7,
    )
    randomise(network, 4)
    network.save_pretrained(ROOT / "vae")
    image, latent = normal(5, 2, 3, 16, 24).clamp(-1, 1), normal(6, 2, 4, 4, 6)
    posterior = network.encode(image).latent_dist
    save("vae/io", image=image, mean=posterior.mean, log_variance=posterior.logvar, latent=latent,
         decoded=network.decode(latent / network.config.scaling_factor).sample)


PROMPTS = ["", "a red circle above a blue square", "It's 12 o'clock,  SOMEWHERE — naïve café! 東京 🎈",
           "don't  we'll\tthey've\nI'm x2=4"]


@torch.no_grad()
def clip(name, activation):
    folder = ROOT / name
    folder.mkdir(exist_ok=True)
    characters = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b <= 255]
    table, extra = [chr(b) for b in characters], 0
    for b in range(256):
        if b not in characters:
            table.append(chr(256 + extra))
            extra += 1
    merges = [("r", "e"), ("re", "d</w>"), ("c", "i"), ("ci", "r"), ("c", "l"), ("cl", "e</w>"), ("cir", "cle</w>"),
              ("b", "l"), ("u", "e</w>"), ("bl", "ue</w>"), ("v", "e</w>"), ("a", "b"), ("o", "v"), ("ab", "ov")]
    tokens = table + [c + "</w>" for c in table] + ["".join(m) for m in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")) \
        if int(transformers.__version__.split(".")[0]) < 5 else transformers.CLIPTokenizer.from_pretrained(folder)
    config = transformers.CLIPTextConfig(
        vocab_size=len(vocab), hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=3,
        max_position_embeddings=77, hidden_act=activation, bos_token_id=vocab["<|startoftext|>"],
        eos_token_id=vocab["<|endoftext|>"], pad_token_id=vocab["<|endoftext|>"],
    )
    network = randomise(transformers.CLIPTextModel(config), 7)
    network.save_pretrained(folder)
    ids = tokenizer(PROMPTS, padding="max_length", max_length=77, truncation=False, return_tensors="pt").input_ids
    save(f"{name}/io", ids=ids, hidden=network(ids).last_hidden_state)
    (folder / "prompts.json").write_text(json.dumps(PROMPTS, ensure_ascii=False) + "\n")


@torch.no_grad()
def trajectories(network):
    """Guided DDIM and PNDM walks of the tiny UNet, every step recorded."""
    schedule = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                    steps_offset=1, set_alpha_to_one=False)
    text, empty, scale = normal(8, 2, 7, 24), normal(9, 1, 7, 24), 3.0
    for name, scheduler in [
        ("ddim", diffusers.DDIMScheduler(clip_sample=False, **schedule)),
        ("ddim_trailing", diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing", **schedule)),
        ("pndm", diffusers.PNDMScheduler(skip_prk_steps=True, **schedule)),
    ]:
        scheduler.set_timesteps(10)
        x = normal(10, 2, 4, 8, 8)
        walk = [x]
        for t in scheduler.timesteps:
            both = network(torch.cat([x, x]), t, torch.cat([empty.expand(2, -1, -1), text])).sample
            uncond, cond = both.chunk(2)
            x = scheduler.step(uncond + scale * (cond - uncond), t, x).prev_sample
            walk.append(x)
        save(f"walk_{name}", text=text, empty=empty, timesteps=scheduler.timesteps.float(), walk=torch.stack(walk))


if __name__ == "__main__":
    torch.set_num_threads(2)
    ROOT.mkdir(parents=True, exist_ok=True)
    cross = dict(down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"))
    network = unet("unet_sd1", block_out_channels=(16, 32), attention_head_dim=4, **cross)
    unet("unet_sd2", block_out_channels=(16, 32), attention_head_dim=(2, 4), use_linear_projection=True, **cross)
    vae()
    clip("clip_quick_gelu", "quick_gelu")
    clip("clip_gelu", "gelu")
    trajectories(network)
    versions = {m.__name__: m.__version__ for m in (torch, diffusers, transformers)}
    (ROOT / "README.md").write_text(
        "# Golden files\n\nMade by `scripts/golden.py`; never edited by hand. Weights are random, sizes tiny.\n\n"
        + "".join(f"- {k} {v}\n" for k, v in versions.items()) + f"- Python {platform.python_version()}\n"
    )
