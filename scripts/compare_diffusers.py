"""Opens models/shapes with diffusers' own StableDiffusionPipeline and writes what it draws, with the
noise it drew from, to tests/golden/embedded.safetensors. `cargo test --test integration embedded`
then draws the same pictures with this project and compares them.

    venv/bin/python scripts/compare_diffusers.py
"""

from pathlib import Path

import diffusers
import safetensors.torch as st
import torch

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = ["a red circle above a blue square", "a small yellow triangle left of a large purple circle"]
STEPS, GUIDANCE = 50, 2.0


@torch.no_grad()
def main():
    model = ROOT / "models" / "shapes"
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    size = pipe.unet.config.sample_size
    noise = torch.randn(len(PROMPTS), 4, size, size, generator=torch.Generator().manual_seed(42))
    options = dict(num_inference_steps=STEPS, guidance_scale=GUIDANCE, latents=noise.clone())
    latents = pipe(PROMPTS, output_type="latent", **options).images
    teacher = pipe(PROMPTS, output_type="pt", **options).images

    tokens = pipe.tokenizer(PROMPTS, padding="max_length", max_length=pipe.tokenizer.model_max_length, return_tensors="pt")
    text = pipe.text_encoder(tokens.input_ids)[0]
    unet = diffusers.UNet2DConditionModel.from_pretrained(model / "unet_one_step", torch_dtype=torch.float32)
    alpha = pipe.scheduler.alphas_cumprod[999]
    eps = unet(noise, 999, text).sample
    x0 = (noise - (1 - alpha).sqrt() * eps) / alpha.sqrt()
    one_step = (pipe.vae.decode(x0 / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    tensors = dict(ids=tokens.input_ids, text=text, noise=noise, latents=latents, teacher=teacher, one_step_latents=x0,
                   one_step=one_step)
    st.save_file({k: v.contiguous() for k, v in tensors.items()}, ROOT / "tests" / "golden" / "embedded.safetensors")
    for name, tensor in tensors.items():
        print(name, tuple(tensor.shape))


if __name__ == "__main__":
    main()
