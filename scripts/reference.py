"""Makes the reference file that `dmd verify` compares a model with: inputs and outputs of every module
of a diffusers folder, computed by diffusers and transformers in f32.

    venv/bin/python scripts/reference.py MODEL [--out FILE] [--generator UNET] [--side 64] [--steps 4]
    venv/bin/python scripts/reference.py MODEL --random sd15     # makes MODEL first, with random weights
    venv/bin/python scripts/reference.py MODEL --random tiny1    # tiny1 tiny2 tiny3: small and quick

The keys are listed in crates/dmd-infer/src/verify.rs. The one-step recipe uses --generator (a UNet
folder), else MODEL/unet_one_step, else MODEL/unet.
"""

import argparse
import json
from pathlib import Path

import diffusers
import safetensors.torch as st
import torch
import transformers

from golden import ROOT as GOLDEN
from golden import randomise

SD15_UNET = dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8, block_out_channels=(320, 640, 1280, 1280))
SD15_VAE = dict(block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4, sample_size=512)
SD15_TEXT = dict(vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
                 max_position_embeddings=77, hidden_act="quick_gelu")


def tiny_unet(**options):
    return dict(sample_size=8, cross_attention_dim=24, norm_num_groups=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), block_out_channels=(16, 32)) | options


def tiny_vae(**options):
    return dict(block_out_channels=(8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 3, latent_channels=4,
                up_block_types=("UpDecoderBlock2D",) * 3, layers_per_block=1, norm_num_groups=4, sample_size=32) | options


def tiny_text(**options):
    return dict(hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=3,
                max_position_embeddings=77) | options


SHAPES = {
    "sd15": (SD15_UNET, SD15_VAE, SD15_TEXT, "epsilon"),
    # One attention width everywhere, two residual blocks, quick GELU: Stable Diffusion 1.x.
    "tiny1": (tiny_unet(attention_head_dim=4), tiny_vae(), tiny_text(), "epsilon"),
    # Heads per level, linear projections, v-prediction, GELU: Stable Diffusion 2.x.
    "tiny2": (tiny_unet(attention_head_dim=(2, 4), use_linear_projection=True, upcast_attention=True), tiny_vae(),
              tiny_text(hidden_act="gelu"), "v_prediction"),
    # Three levels, one residual block each, attention on all; deeper autoencoder and text encoder; the sample itself.
    "tiny3": (tiny_unet(attention_head_dim=2, layers_per_block=1, block_out_channels=(8, 16, 24),
                        down_block_types=("CrossAttnDownBlock2D",) * 3, up_block_types=("CrossAttnUpBlock2D",) * 3),
              tiny_vae(block_out_channels=(8, 12), down_block_types=("DownEncoderBlock2D",) * 2,
                       up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=2, scaling_factor=0.9),
              tiny_text(num_hidden_layers=4), "sample"),
}


def make(folder, shape):
    """A model folder of random weights, every parameter of them, and CLIP's vocabulary cut down."""
    unet, vae, text, prediction = SHAPES[shape]
    vocabulary = json.loads((GOLDEN / "clip_gelu" / "vocab.json").read_text())
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    for name in ("vocab.json", "merges.txt"):
        (folder / "tokenizer" / name).write_text((GOLDEN / "clip_gelu" / name).read_text())
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    text = dict(vocab_size=len(vocabulary)) | text
    parts = {
        "unet": diffusers.UNet2DConditionModel(**unet),
        "vae": diffusers.AutoencoderKL(**vae),
        "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig(**text)),
    }
    for seed, (name, network) in enumerate(parts.items()):
        randomise(network, 20 + seed).save_pretrained(folder / name, max_shard_size="1GB" if shape == "tiny3" else "10GB")
    diffusers.PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
                            skip_prk_steps=True, prediction_type=prediction if prediction != "sample" else "epsilon",
                            ).save_pretrained(folder / "scheduler")
    if prediction == "sample":
        path = folder / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "sample"}))
    index = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "PNDMScheduler"],
             "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
             "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def to_x0(scheduler, output, x, t):
    alpha = scheduler.alphas_cumprod[t].double()
    if scheduler.config.prediction_type == "sample":
        return output
    if scheduler.config.prediction_type == "v_prediction":
        return (alpha.sqrt() * x.double() - (1 - alpha).sqrt() * output.double()).float()
    return ((x.double() - (1 - alpha).sqrt() * output.double()) / alpha.sqrt()).float()


@torch.no_grad()
def reference(model, generator, side, steps, only):
    found = {}
    wanted = lambda part: only is None or part in only
    config = json.loads((model / "text_encoder" / "config.json").read_text())
    ids = torch.randint(0, config["vocab_size"], (1, config["max_position_embeddings"]), generator=torch.Generator().manual_seed(1))
    text_encoder = transformers.CLIPTextModel.from_pretrained(model / "text_encoder", torch_dtype=torch.float32)
    text = text_encoder(ids).last_hidden_state
    empty = text_encoder(torch.full_like(ids, config["vocab_size"] - 1)).last_hidden_state
    del text_encoder
    found |= dict(input_ids=ids, text_hidden=text)
    kind = json.loads((model / "scheduler" / "scheduler_config.json").read_text())
    # One table for all: DDIM's options over the folder's schedule.
    kept = {k: v for k, v in kind.items() if k in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule",
                                                   "prediction_type", "steps_offset", "timestep_spacing", "set_alpha_to_one")}
    scheduler = diffusers.DDIMScheduler(**kept, clip_sample=False)
    vae = diffusers.AutoencoderKL.from_pretrained(model / "vae", torch_dtype=torch.float32)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    load = lambda folder: diffusers.UNet2DConditionModel.from_pretrained(folder, torch_dtype=torch.float32)
    if wanted("unet") or wanted("ddim"):
        unet = load(model / "unet")
        side = side or unet.config.sample_size
        channels = unet.config.in_channels
        if wanted("unet"):
            x, t = normal(2, 1, channels, side, side), torch.tensor([500.0])
            found |= dict(latents=x, timesteps=t, unet_out=unet(x, t, text).sample)
        if wanted("ddim"):
            z, guidance = normal(3, 1, channels, side, side), 3.0
            scheduler.set_timesteps(steps)
            x = z
            for t in scheduler.timesteps:
                uncond, cond = unet(torch.cat([x, x]), t, torch.cat([empty, text])).sample.chunk(2)
                x = scheduler.step(uncond + guidance * (cond - uncond), t, x).prev_sample
            found |= dict(ddim_noise=z, ddim_steps=torch.tensor([steps]), ddim_guidance=torch.tensor([guidance]),
                          uncond_hidden=empty, ddim_latents=x)
        del unet
    if wanted("onestep"):
        own = model / "unet_one_step"
        unet = load(generator or (own if own.is_dir() else model / "unet"))
        side = side or unet.config.sample_size
        z = normal(4, 1, unet.config.in_channels, side, side)
        x0 = to_x0(scheduler, unet(z, 999, text).sample, z, 999)
        found |= dict(onestep_noise=z, onestep_image=vae.decode(x0 / vae.config.scaling_factor).sample)
        del unet
    if wanted("vae"):
        side = side or vae.config.sample_size // factor
        x = normal(5, 1, vae.config.latent_channels, side, side)
        image = normal(6, 1, 3, side * factor, side * factor).clamp(-1, 1)
        found |= dict(latents_scaled=x, vae_decoded=vae.decode(x).sample, image=image,
                      vae_mean=vae.encode(image).latent_dist.mean)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, help="default: MODEL/reference.safetensors")
    parser.add_argument("--generator", type=Path)
    parser.add_argument("--random", choices=SHAPES)
    parser.add_argument("--side", type=int, help="latents a side; default: the model's own")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--only", nargs="+", choices=["unet", "ddim", "onestep", "vae"])
    args = parser.parse_args()
    if args.random:
        make(args.model, args.random)
    tensors = reference(args.model, args.generator, args.side, args.steps, args.only)
    out = args.out or args.model / "reference.safetensors"
    st.save_file({k: v.contiguous() for k, v in tensors.items()}, out)
    for name, tensor in tensors.items():
        print(f"{name:15} {tuple(tensor.shape)}")
