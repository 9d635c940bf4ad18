"""Opens models/shapes with diffusers' own StableDiffusionPipeline and writes what it draws, with the
noise it drew from, to tests/golden/embedded.safetensors. `cargo test --test integration embedded`
then draws the same pictures with this project and compares them.

    venv/bin/python scripts/compare_diffusers.py
"""

import json
from pathlib import Path

import diffusers
import safetensors.torch as st
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = ["a red circle above a blue square", "a small yellow triangle left of a large purple circle"]
SEEDS = [42, 7]
STEPS, GUIDANCE = 50, 2.0


@torch.no_grad()
def main():
    model = ROOT / "models" / "shapes"
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    size = pipe.unet.config.sample_size
    # diffusers 0.42 looks for the final layer norm where transformers 5 no longer has it (clip skip).
    object.__setattr__(pipe.text_encoder, "text_model", pipe.text_encoder)
    # One generator per picture: a batch is its singles, here and there.
    generators = lambda: [torch.Generator().manual_seed(seed) for seed in SEEDS]
    noise = torch.cat([torch.randn(1, 4, size, size, generator=g) for g in generators()])
    options = dict(num_inference_steps=STEPS, guidance_scale=GUIDANCE, output_type="pt")
    latents = pipe(PROMPTS, generator=generators(), **options | dict(output_type="latent")).images
    teacher = pipe(PROMPTS, generator=generators(), **options).images
    asked = pipe(PROMPTS, generator=generators(), negative_prompt=["a blue square"] * 2, guidance_rescale=0.5, clip_skip=1,
                 **options | dict(num_inference_steps=10)).images
    ancestral = diffusers.StableDiffusionPipeline(**pipe.components | dict(
        scheduler=diffusers.EulerAncestralDiscreteScheduler.from_config(pipe.scheduler.config)), requires_safety_checker=False)
    ancestral.set_progress_bar_config(disable=True)
    ancestral = ancestral(PROMPTS, generator=generators(), **options | dict(num_inference_steps=10)).images
    image = Image.new("RGB", (8 * size, 8 * size))
    image.putdata([(3 * x, 3 * y, 90) for y in range(8 * size) for x in range(8 * size)])
    again = diffusers.StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    again.set_progress_bar_config(disable=True)
    again = again(PROMPTS, image=[image] * 2, strength=0.6, generator=generators(),
                  **options | dict(num_inference_steps=10)).images

    tokens = pipe.tokenizer(PROMPTS, padding="max_length", max_length=pipe.tokenizer.model_max_length, return_tensors="pt")
    text = pipe.text_encoder(tokens.input_ids)[0]
    unet = diffusers.UNet2DConditionModel.from_pretrained(model / "unet_one_step", torch_dtype=torch.float32)
    # How the generator is to be called: its timestep, and the deviation of its input.
    call = json.loads((model / "unet_one_step" / "one_step.json").read_text())
    alpha = pipe.scheduler.alphas_cumprod[call["timestep"]]
    start = noise * call["noise_scale"]
    eps = unet(start, call["timestep"], text).sample
    x0 = (start - (1 - alpha).sqrt() * eps) / alpha.sqrt()
    one_step = (pipe.vae.decode(x0 / pipe.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    tensors = dict(ids=tokens.input_ids, text=text, noise=noise, latents=latents, teacher=teacher, one_step_latents=x0,
                   one_step=one_step, asked=asked, ancestral=ancestral, again=again)
    st.save_file({k: v.contiguous() for k, v in tensors.items()}, ROOT / "tests" / "golden" / "embedded.safetensors")
    for name, tensor in tensors.items():
        print(name, tuple(tensor.shape))


if __name__ == "__main__":
    main()
