"""Makes tests/golden/lcm/: tiny random UNets that are told their guidance, as latent consistency models are, and what
diffusers draws with one. Called by golden.py; alone: `python scripts/golden_lcm.py`."""

import diffusers
import torch
import transformers

from golden import ROOT, normal, randomise, save

FOLDER = ROOT / "lcm"
SINUSOIDS = 6


def told(network, guidance):
    """What a pipeline hands over for a guidance scale."""
    scale = torch.tensor([guidance - 1.0])
    of = diffusers.LatentConsistencyModelPipeline.get_guidance_scale_embedding
    return of(None, scale, embedding_dim=network.config.time_cond_proj_dim)


def with_guidance(source, seed):
    """The network of a golden folder with the layer that takes the guidance, the only new one: the rest is in that
    folder."""
    plain = diffusers.UNet2DConditionModel.from_pretrained(ROOT / source)
    network = diffusers.UNet2DConditionModel.from_config({**plain.config, "time_cond_proj_dim": SINUSOIDS})
    network.load_state_dict(plain.state_dict(), strict=False)
    layer = network.time_embedding.cond_proj
    randomise(layer, seed)
    return network.eval(), layer.weight.data


@torch.no_grad()
def make():
    FOLDER.mkdir(parents=True, exist_ok=True)
    network, weight = with_guidance("unet_sd1", 71)
    x, text = normal(72, 2, 4, 8, 8), normal(73, 2, 7, 24)
    t = torch.tensor([259.0, 999.0])
    tensors = {"cond_proj": weight, "x": x, "t": t, "text": text}
    for guidance in (1.0, 8.5):
        condition = told(network, guidance).expand(2, -1)
        tensors[f"unet_{guidance}"] = network(x, t, text, timestep_cond=condition).sample

    source = ROOT / "clip_quick_gelu"
    pipeline = diffusers.LatentConsistencyModelPipeline(
        vae=diffusers.AutoencoderKL.from_pretrained(ROOT / "vae"),
        text_encoder=transformers.CLIPTextModel.from_pretrained(source),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(source, model_max_length=77), unet=network,
        scheduler=diffusers.LCMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False,
            set_alpha_to_one=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    for name, steps, guidance in (("four", 4, None), ("two", 2, 3.0)):
        options = {} if guidance is None else {"guidance_scale": guidance}
        picture = pipeline("a red circle", num_inference_steps=steps, height=32, width=32, output_type="pt",
                           generator=torch.Generator().manual_seed(5), **options).images
        tensors[f"{name}_picture"] = picture

    network, weight = with_guidance("sdxl/unet", 74)
    x, text, pooled = normal(75, 1, 4, 8, 8), normal(76, 1, 7, 56), normal(77, 1, 20)
    sizes = torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]])
    output = network(x, torch.tensor([759.0]), text, timestep_cond=told(network, 8.0),
                     added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample
    tensors |= {"xl_cond_proj": weight, "xl_x": x, "xl_text": text, "xl_pooled": pooled, "xl_sizes": sizes,
                "xl_unet": output}
    save("lcm/io", **tensors)


if __name__ == "__main__":
    make()
