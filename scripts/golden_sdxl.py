"""Makes tests/golden/sdxl/: a tiny random Stable Diffusion XL pipeline of diffusers with inputs and outputs of every
part, and pictures. Called by golden.py; alone: `python scripts/golden_sdxl.py`."""

import json

import diffusers
import torch
import transformers

from golden import ROOT, normal, randomise, save

FOLDER = ROOT / "sdxl"
PROMPTS = ["", "red !! red", "a red circle above a blue square"]


def tokenizers():
    """One vocabulary, two paddings: the end token, and "!", whose number is 0."""
    source = ROOT / "clip_quick_gelu"
    made = []
    for name, padding in (("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")):
        folder = FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in ("vocab.json", "merges.txt"):
            (folder / file).write_bytes((source / file).read_bytes())
        # As in the folders on the hub.
        special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": padding,
                   "unk_token": "<|endoftext|>"}
        (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=1) + "\n")
        options = {"add_prefix_space": False, "do_lower_case": True, "model_max_length": 77,
                   "tokenizer_class": "CLIPTokenizer", **special}
        (folder / "tokenizer_config.json").write_text(json.dumps(options, indent=1) + "\n")
        made.append(transformers.CLIPTokenizer.from_pretrained(folder))
    return made


def encoders(size):
    common = dict(vocab_size=size, max_position_embeddings=77, bos_token_id=0, eos_token_id=2, pad_token_id=1)
    first = transformers.CLIPTextModel(transformers.CLIPTextConfig(
        hidden_size=24, intermediate_size=48, num_hidden_layers=3, num_attention_heads=3, hidden_act="quick_gelu",
        projection_dim=24, **common))
    # diffusers tells an SDXL file by its tenth block; the projection is not square, so that a transpose is seen.
    second = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=11, num_attention_heads=4, hidden_act="gelu",
        projection_dim=20, **common))
    return randomise(first, 21), randomise(second, 22)


def networks():
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16, 32), layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 3), attention_head_dim=(1, 2, 4), cross_attention_dim=56,
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=68,
        norm_num_groups=4, use_linear_projection=True)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=4, norm_num_groups=4,
        sample_size=64, scaling_factor=0.13025, force_upcast=True)
    return randomise(unet, 23), randomise(vae, 24)


def pipeline():
    tokenizer, tokenizer_2 = tokenizers()
    text_encoder, text_encoder_2 = encoders(len(tokenizer))
    unet, vae = networks()
    scheduler = diffusers.EulerDiscreteScheduler.from_config({
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
        "prediction_type": "epsilon", "timestep_spacing": "leading", "steps_offset": 1, "interpolation_type": "linear",
        "use_karras_sigmas": False, "clip_sample": False, "set_alpha_to_one": False, "skip_prk_steps": True,
        "sample_max_value": 1.0, "trained_betas": None})
    pipe = diffusers.StableDiffusionXLPipeline(
        vae, text_encoder, text_encoder_2, tokenizer, tokenizer_2, unet, scheduler,
        force_zeros_for_empty_prompt=True, add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def parts(pipe):
    tensors = {}
    for i, prompt in enumerate(PROMPTS):
        context, _, pooled, _ = pipe.encode_prompt(prompt, do_classifier_free_guidance=False)
        tensors |= {f"context_{i}": context, f"pooled_{i}": pooled}
        for number, tokenizer in (("", pipe.tokenizer), ("_2", pipe.tokenizer_2)):
            ids = tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt").input_ids
            tensors[f"ids{number}_{i}"] = ids
    context, _, pooled, _ = pipe.encode_prompt(PROMPTS[2], do_classifier_free_guidance=False, clip_skip=1)
    tensors |= {"context_skip": context, "pooled_skip": pooled}
    x, text, pooled = normal(31, 2, 4, 8, 12), normal(32, 2, 77, 56), normal(33, 2, 20)
    sizes = torch.tensor([[64.0, 96.0, 0.0, 0.0, 64.0, 96.0], [1024.0, 768.0, 8.0, 16.0, 512.0, 512.0]])
    odd = normal(34, 2, 4, 9, 7)
    tensors |= {"x": x, "odd": odd, "text": text, "pooled": pooled, "sizes": sizes}
    added = {"text_embeds": pooled, "time_ids": sizes}
    for t in (999, 399, 0):
        tensors[f"unet_{t}"] = pipe.unet(x, t, text, added_cond_kwargs=added).sample
    tensors["unet_odd"] = pipe.unet(odd, 399, text, added_cond_kwargs=added).sample
    latent = normal(35, 1, 4, 4, 6)
    tensors |= {"latent": latent, "decoded": pipe.vae.decode(latent / pipe.vae.config.scaling_factor).sample}
    save("sdxl/io", **tensors)


@torch.no_grad()
def pictures(pipe):
    """Latents and pictures of whole runs, each from torch's generator with seed 5."""
    tensors = {}
    euler = pipe.scheduler
    lcm = diffusers.LCMScheduler.from_config(euler.config)

    def draw(name, scheduler, height=64, width=96, **options):
        pipe.scheduler = scheduler
        options = dict(height=height, width=width, **options)
        run = lambda kind: pipe(PROMPTS[2], generator=torch.Generator().manual_seed(5), output_type=kind,
                                **options).images
        tensors[f"{name}_latents"] = run("latent")
        tensors[f"{name}_picture"] = run("pt")

    draw("one_step", lcm, timesteps=[399], guidance_scale=0.0)
    draw("four_steps", lcm, timesteps=[999, 749, 499, 249], guidance_scale=0.0)
    draw("odd", lcm, timesteps=[999, 749, 499, 249], guidance_scale=0.0, height=72, width=56)
    draw("zeros", euler, num_inference_steps=3, guidance_scale=5.0)
    draw("empty", euler, num_inference_steps=3, guidance_scale=5.0, negative_prompt="")
    draw("sizes", euler, num_inference_steps=3, guidance_scale=5.0, original_size=(512, 640),
         crops_coords_top_left=(8, 16), target_size=(1024, 1024))
    pipe.scheduler = euler
    save("sdxl/pictures", **tensors)


def make():
    pipe = pipeline()
    pipe.save_pretrained(FOLDER)
    parts(pipe)
    pictures(pipe)


if __name__ == "__main__":
    torch.set_num_threads(2)
    make()
