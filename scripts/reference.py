"""Makes the reference file that `dmd verify` compares a model with: inputs and outputs of every module
of a diffusers folder, computed by diffusers and transformers in f32.

    venv/bin/python scripts/reference.py MODEL [--out FILE] [--generator UNET] [--side 64] [--steps 4]
    venv/bin/python scripts/reference.py MODEL --random sd15     # makes MODEL first, with random weights
    venv/bin/python scripts/reference.py MODEL --random tiny1    # tiny1 tiny2 tiny3 tinyxl: small and quick
    venv/bin/python scripts/reference.py MODEL --random sdxl     # 14 GB

The keys are listed in crates/dmd-infer/src/verify.rs. The one-step recipe uses --generator (a UNet
folder), else MODEL/unet_one_step, else MODEL/unet, at --timestep, else the one of its one_step.json, else 999, or 399
for Stable Diffusion XL as in DMD2.
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


def xl_unet(**options):
    return dict(sample_size=128, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), block_out_channels=(320, 640, 1280),
                transformer_layers_per_block=(1, 2, 10), attention_head_dim=(5, 10, 20), cross_attention_dim=2048,
                addition_embed_type="text_time", addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816,
                use_linear_projection=True) | options


XL_VAE = SD15_VAE | dict(sample_size=1024, scaling_factor=0.13025)
XL_TEXTS = (SD15_TEXT | dict(projection_dim=768),
            dict(vocab_size=49408, hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20,
                 max_position_embeddings=77, hidden_act="gelu", projection_dim=1280))

# Two text encoders make a Stable Diffusion XL.
SHAPES = {
    "sd15": (SD15_UNET, SD15_VAE, SD15_TEXT, "epsilon"),
    "sdxl": (xl_unet(), XL_VAE, XL_TEXTS, "epsilon"),
    "tinyxl": (xl_unet(sample_size=8, norm_num_groups=4, block_out_channels=(8, 16, 32), attention_head_dim=(1, 2, 4),
                       transformer_layers_per_block=(1, 2, 3), cross_attention_dim=56, addition_time_embed_dim=8,
                       projection_class_embeddings_input_dim=68),
               tiny_vae(scaling_factor=0.13025),
               (tiny_text(projection_dim=24),
                tiny_text(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, hidden_act="gelu",
                          projection_dim=20)), "epsilon"),
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
    xl = isinstance(text, tuple)
    texts = [dict(vocab_size=len(vocabulary)) | each for each in (text if xl else (text,))]
    # Stable Diffusion XL's second tokenizer pads with "!", whose number is 0.
    for number, padding in (("", "<|endoftext|>"), ("_2", "!"))[:len(texts)]:
        tokenizer = folder / f"tokenizer{number}"
        tokenizer.mkdir(parents=True, exist_ok=True)
        for name in ("vocab.json", "merges.txt"):
            (tokenizer / name).write_text((GOLDEN / "clip_gelu" / name).read_text())
        options = {"tokenizer_class": "CLIPTokenizer"} | ({"pad_token": padding} if xl else {})
        (tokenizer / "tokenizer_config.json").write_text(json.dumps(options))
    parts = {
        "unet": diffusers.UNet2DConditionModel(**unet),
        "vae": diffusers.AutoencoderKL(**vae),
        "text_encoder": transformers.CLIPTextModel(transformers.CLIPTextConfig(**texts[0])),
    }
    if xl:
        parts["text_encoder_2"] = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**texts[1]))
    for seed, (name, network) in enumerate(parts.items()):
        randomise(network, 20 + seed).save_pretrained(folder / name, max_shard_size="1GB" if shape == "tiny3" else "10GB")
    schedule = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1,
                    prediction_type=prediction if prediction != "sample" else "epsilon")
    kind = "EulerDiscreteScheduler" if xl else "PNDMScheduler"
    if xl:
        # With keys of other schedulers, as in the published file.
        keys = dict(timestep_spacing="leading", clip_sample=False, set_alpha_to_one=False, skip_prk_steps=True)
        diffusers.EulerDiscreteScheduler.from_config(schedule | keys).save_pretrained(folder / "scheduler")
    else:
        diffusers.PNDMScheduler(**schedule, skip_prk_steps=True).save_pretrained(folder / "scheduler")
    if prediction == "sample":
        path = folder / "scheduler" / "scheduler_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "sample"}))
    index = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", kind],
             "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
             "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    if xl:
        index |= {"_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True,
                  "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
                  "tokenizer_2": ["transformers", "CLIPTokenizer"]}
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


def sizes(model):
    """Six different sizes, up to that of the model's own picture."""
    config = lambda part: json.loads((model / part / "config.json").read_text())
    side = config("unet")["sample_size"] * 2 ** (len(config("vae")["block_out_channels"]) - 1)
    return torch.tensor([[side // 2, side * 5 // 8, side // 16, side // 8, side, side * 3 // 4]]).float()


def texts(model):
    """Tokens and features of a prompt, and the features that guidance points away from."""
    config = json.loads((model / "text_encoder" / "config.json").read_text())
    ids = torch.randint(0, config["vocab_size"], (1, config["max_position_embeddings"]), generator=torch.Generator().manual_seed(1))
    text_encoder = transformers.CLIPTextModel.from_pretrained(model / "text_encoder", torch_dtype=torch.float32)
    if not (model / "text_encoder_2").is_dir():
        empty = text_encoder(torch.full_like(ids, config["vocab_size"] - 1)).last_hidden_state
        return dict(input_ids=ids, text_hidden=text_encoder(ids).last_hidden_state, uncond_hidden=empty)
    # A prompt that ends, and the two paddings.
    ids[:, 60:] = config["vocab_size"] - 1
    ids_2 = ids.clone()
    ids_2[:, 61:] = 0
    one = text_encoder(ids, output_hidden_states=True).hidden_states[-2]
    del text_encoder
    two = transformers.CLIPTextModelWithProjection.from_pretrained(model / "text_encoder_2", torch_dtype=torch.float32)
    two = two(ids_2, output_hidden_states=True)
    text, pooled = torch.cat([one, two.hidden_states[-2]], -1), two.text_embeds
    return dict(input_ids=ids, input_ids_2=ids_2, text_hidden=text, text_pooled=pooled,
                time_ids=sizes(model),
                uncond_hidden=torch.zeros_like(text), uncond_pooled=torch.zeros_like(pooled))


def called_at(generator, xl):
    """The timestep of a one-step generator."""
    path = generator / "one_step.json"
    written = json.loads(path.read_text()) if path.is_file() else {}
    return (written.get("timesteps") or [written.get("timestep", 399 if xl else 999)])[0]


@torch.no_grad()
def reference(model, generator, side, steps, timestep, only):
    wanted = lambda part: only is None or part in only
    found = texts(model)
    text, empty = found["text_hidden"], found["uncond_hidden"]
    xl = "time_ids" in found

    def call(unet, x, t, text, *pooled):
        """The UNet, told the whole prompt and the sizes where it is Stable Diffusion XL's."""
        added = dict(text_embeds=torch.cat(pooled), time_ids=found["time_ids"].expand(len(x), -1)) if xl else None
        return unet(x, t, text, added_cond_kwargs=added).sample

    pooled, empty_pooled = found.get("text_pooled"), found.get("uncond_pooled")
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
            found |= dict(latents=x, timesteps=t, unet_out=call(unet, x, t, text, pooled))
        if wanted("ddim"):
            z, guidance = normal(3, 1, channels, side, side), 3.0
            scheduler.set_timesteps(steps)
            x = z
            for t in scheduler.timesteps:
                both = call(unet, torch.cat([x, x]), t, torch.cat([empty, text]), empty_pooled, pooled)
                uncond, cond = both.chunk(2)
                x = scheduler.step(uncond + guidance * (cond - uncond), t, x).prev_sample
            found |= dict(ddim_noise=z, ddim_steps=torch.tensor([steps]), ddim_guidance=torch.tensor([guidance]),
                          ddim_latents=x)
        del unet
    if wanted("onestep"):
        own = model / "unet_one_step"
        folder = generator or (own if own.is_dir() else model / "unet")
        unet = load(folder)
        at = called_at(folder, xl) if timestep is None else timestep
        side = side or unet.config.sample_size
        z = normal(4, 1, unet.config.in_channels, side, side)
        x0 = to_x0(scheduler, call(unet, z, at, text, pooled), z, at)
        found |= dict(onestep_noise=z, onestep_timestep=torch.tensor([at]),
                      onestep_image=vae.decode(x0 / vae.config.scaling_factor).sample)
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
    parser.add_argument("--timestep", type=int, help="of the one-step generator's call")
    parser.add_argument("--only", nargs="+", choices=["unet", "ddim", "onestep", "vae"])
    args = parser.parse_args()
    if args.random:
        make(args.model, args.random)
    tensors = reference(args.model, args.generator, args.side, args.steps, args.timestep, args.only)
    out = args.out or args.model / "reference.safetensors"
    st.save_file({k: v.contiguous() for k, v in tensors.items()}, out)
    for name, tensor in tensors.items():
        print(f"{name:15} {tuple(tensor.shape)}")
