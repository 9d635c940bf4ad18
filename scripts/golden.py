"""Makes tests/golden/: tiny random networks of diffusers and transformers with their inputs and
outputs, and sampler trajectories. The Rust tests compare every tensor; they need no Python.

    python -m venv venv && venv/bin/pip install -r scripts/requirements.txt
    venv/bin/python scripts/golden.py
"""

import json
import platform
import sys
from pathlib import Path

import diffusers
import peft
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
            if parameter.ndim == 0:
                continue
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


# Name -> scheduler class, its options over Stable Diffusion's schedule, and steps (a number or a list of timesteps).
WALKS = {
    "ddim": ("DDIM", dict(clip_sample=False), 10),
    "ddim_trailing": ("DDIM", dict(clip_sample=False, timestep_spacing="trailing"), 7),
    "ddim_linspace": ("DDIM", dict(clip_sample=False, timestep_spacing="linspace", set_alpha_to_one=True), 10),
    "ddim_zero_snr_v": ("DDIM", dict(clip_sample=False, timestep_spacing="trailing", prediction_type="v_prediction",
                                     rescale_betas_zero_snr=True), 10),
    "ddim_sample": ("DDIM", dict(clip_sample=False, prediction_type="sample"), 10),
    "pndm": ("PNDM", dict(skip_prk_steps=True), 10),
    "ddpm": ("DDPM", dict(clip_sample=False), 10),
    "ddpm_large": ("DDPM", dict(clip_sample=False, variance_type="fixed_large"), 10),
    "ddpm_list": ("DDPM", dict(clip_sample=False), [999, 700, 250, 30]),
    "euler": ("EulerDiscrete", {}, 10),
    "euler_leading_v": ("EulerDiscrete", dict(timestep_spacing="leading", prediction_type="v_prediction"), 10),
    "euler_karras": ("EulerDiscrete", dict(use_karras_sigmas=True, timestep_spacing="trailing"), 10),
    "euler_zero_snr_v": ("EulerDiscrete", dict(timestep_spacing="trailing", prediction_type="v_prediction",
                                               rescale_betas_zero_snr=True), 10),
    "euler_list": ("EulerDiscrete", dict(timestep_spacing="leading"), [981, 700, 250, 30]),
    "euler_ancestral": ("EulerAncestralDiscrete", {}, 10),
    "heun": ("HeunDiscrete", {}, 6),
    "heun_karras": ("HeunDiscrete", dict(use_karras_sigmas=True, timestep_spacing="leading"), 6),
    "dpm": ("DPMSolverMultistep", {}, 10),
    "dpm_many": ("DPMSolverMultistep", dict(timestep_spacing="leading", final_sigmas_type="sigma_min"), 16),
    "dpm_karras": ("DPMSolverMultistep", dict(use_karras_sigmas=True), 10),
    "dpm_heun_v": ("DPMSolverMultistep", dict(solver_type="heun", euler_at_final=True, prediction_type="v_prediction",
                                              timestep_spacing="trailing"), 10),
    "dpm_first": ("DPMSolverMultistep", dict(solver_order=1), 10),
    "unipc": ("UniPCMultistep", {}, 10),
    "unipc_third": ("UniPCMultistep", dict(solver_order=3, timestep_spacing="leading"), 10),
    "unipc_bh1": ("UniPCMultistep", dict(solver_type="bh1", final_sigmas_type="sigma_min"), 10),
    "unipc_karras": ("UniPCMultistep", dict(use_karras_sigmas=True, timestep_spacing="trailing"), 10),
    "lcm": ("LCM", {}, 4),
    "lcm_list": ("LCM", {}, [999, 759, 259]),
    "cosine": ("DDIM", dict(clip_sample=False, beta_schedule="squaredcos_cap_v2"), 10),
    "tcd": ("TCD", dict(eta=0.3), 4),
    "tcd_full": ("TCD", dict(eta=1.0), 8),
    "tcd_none_v": ("TCD", dict(eta=0.0, prediction_type="v_prediction"), 5),
    "tcd_list": ("TCD", dict(eta=0.3), [999, 600, 200]),
    # Timesteps whose 0.7-fold is a whole number in single precision and less in double precision.
    "tcd_list_rounded": ("TCD", dict(eta=0.3), [999, 700, 330, 90]),
    # How published few-step models are called; guidance is for this test alone.
    "dmd2_1step": ("LCM", {}, [399]),
    "dmd2_4step": ("LCM", {}, [999, 749, 499, 249]),
    "lightning_1step": ("EulerDiscrete", dict(timestep_spacing="trailing", prediction_type="sample"), 1),
    "lightning_2step": ("EulerDiscrete", dict(timestep_spacing="trailing"), 2),
    "lightning_4step": ("EulerDiscrete", dict(timestep_spacing="trailing"), 4),
    "lightning_8step": ("EulerDiscrete", dict(timestep_spacing="trailing"), 8),
    "hyper_1step": ("TCD", dict(eta=1.0), 1),
    "hyper_1step_unet": ("LCM", {}, [800]),
    "hyper_2step": ("DDIM", dict(clip_sample=False, timestep_spacing="trailing"), 2),
    "hyper_4step": ("DDIM", dict(clip_sample=False, timestep_spacing="trailing"), 4),
    "hyper_8step": ("DDIM", dict(clip_sample=False, timestep_spacing="trailing"), 8),
    "turbo_xl_1step": ("EulerAncestralDiscrete", dict(timestep_spacing="trailing"), 1),
    "turbo_xl_4step": ("EulerAncestralDiscrete", dict(timestep_spacing="trailing"), 4),
    "turbo_1step": ("EulerDiscrete", dict(timestep_spacing="trailing"), 1),
}


@torch.no_grad()
def trajectories(network, walks=WALKS):
    """Guided walks of the tiny UNet: the timesteps, the start, the end, and the noise drawn between."""
    base = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
                steps_offset=1)
    text, empty, scale = normal(8, 2, 7, 24), normal(9, 1, 7, 24), 3.0
    (ROOT / "walks").mkdir(exist_ok=True)
    for name, (kind, options, steps) in walks.items():
        # An argument of diffusers' TCDScheduler.step, not of its file.
        eta = {k: options[k] for k in ("eta",) if k in options}
        options = {k: v for k, v in options.items() if k not in eta}
        cls = getattr(diffusers, f"{kind}Scheduler")
        if kind in ("DDIM", "PNDM") and "set_alpha_to_one" not in options:
            options = options | dict(set_alpha_to_one=False)
        known = cls.__init__.__wrapped__.__code__.co_varnames
        config = {k: v for k, v in (base | options).items() if k in known}
        scheduler = cls(**config)
        if isinstance(steps, list):
            scheduler.set_timesteps(timesteps=steps)
        else:
            scheduler.set_timesteps(steps)
        z, noises = normal(10, 2, 4, 8, 8), []
        modules = [m for m in sys.modules.values() if getattr(m, "__name__", "").startswith("diffusers.schedulers.scheduling_")]

        def recorded(shape, **_):
            noises.append(normal(100 + len(noises), *shape))
            return noises[-1]

        for module in modules:
            if hasattr(module, "randn_tensor"):
                module.randn_tensor = recorded
        x = z * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            x_in = scheduler.scale_model_input(x, t)
            both = network(torch.cat([x_in, x_in]), t, torch.cat([empty.expand(2, -1, -1), text])).sample
            uncond, cond = both.chunk(2)
            x = scheduler.step(uncond + scale * (cond - uncond), t, x, **eta).prev_sample
        (ROOT / "walks" / f"{name}.json").write_text(json.dumps({"_class_name": f"{kind}Scheduler"} | config | eta) + "\n")
        noise = torch.stack(noises) if noises else torch.zeros(0, 2, 4, 8, 8)
        save(f"walks/{name}", text=text, empty=empty, timesteps=scheduler.timesteps.float(), z=z, end=x, noise=noise,
             list=torch.tensor(steps if isinstance(steps, list) else [steps]))


@torch.no_grad()
def rescaled(network):
    """Guidance with its rescale (Lin et al. 2024, section 3.4), on the network's own output."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
    text, empty, x, t = normal(8, 2, 7, 24), normal(9, 1, 7, 24), normal(10, 2, 4, 8, 8), torch.tensor(601)
    both = network(torch.cat([x, x]), t, torch.cat([empty.expand(2, -1, -1), text])).sample
    uncond, cond = both.chunk(2)
    output = rescale_noise_cfg(uncond + 7.5 * (cond - uncond), cond, 0.7)
    save("guidance_rescale", text=text, empty=empty, x=x, output=output)


@torch.no_grad()
def taesd():
    network = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(16, 16, 16, 16), decoder_block_out_channels=(16, 16, 16, 16),
        num_encoder_blocks=(1, 2, 2, 2), num_decoder_blocks=(2, 2, 2, 1), latent_channels=4, scaling_factor=1.0,
    )
    randomise(network, 11)
    network.save_pretrained(ROOT / "taesd")
    image, latent = normal(12, 2, 3, 32, 16).clamp(-1, 1), 2 * normal(13, 2, 4, 4, 6)
    save("taesd/io", image=image, encoded=network.encode(image).latents, latent=latent,
         decoded=network.decode(latent).sample)


@torch.no_grad()
def tiles():
    """diffusers' tiled autoencoder on the weights of tests/golden/vae, tiles of 8 latents."""
    network = diffusers.AutoencoderKL.from_pretrained(ROOT / "vae")
    network.enable_tiling()
    network.tile_latent_min_size, network.tile_sample_min_size = 8, 32
    image, latent = normal(14, 1, 3, 64, 80).clamp(-1, 1), normal(15, 1, 4, 16, 20)
    save("tiles", image=image, mean=network.encode(image).latent_dist.mean, latent=latent,
         decoded=network.decode(latent / network.config.scaling_factor).sample)


@torch.no_grad()
def clip_skip():
    """Hidden states before the last layers, normalised as the Stable Diffusion pipeline does for clip skip."""
    network = transformers.CLIPTextModel.from_pretrained(ROOT / "clip_quick_gelu")
    ids = st.load_file(ROOT / "clip_quick_gelu" / "io.safetensors")["ids"]
    states = network(ids, output_hidden_states=True).hidden_states
    inner = getattr(network, "text_model", network)
    save("clip_skip", ids=ids, skip_1=inner.final_layer_norm(states[-2]))


def torch_noise():
    """torch.randn on the CPU: short, long and odd sizes, one after another from one generator."""
    tensors = {}
    for seed in (0, 42, 123456789, 2**32 + 7):
        generator = torch.Generator().manual_seed(seed)
        for n in (3, 16, 5, 37, 1024):
            tensors[f"{seed}_{n}"] = torch.randn(n, generator=generator)
    tensors["latents_42"] = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(42))
    save("torch_noise", **tensors)


@torch.no_grad()
def state_dict(network):
    """The tiny UNet as a bare PyTorch state dict, as DMD's checkpoints are."""
    torch.save(network.state_dict(), ROOT / "unet_sd1" / "state_dict.bin")


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
    rescaled(network)
    taesd()
    tiles()
    clip_skip()
    torch_noise()
    state_dict(network)
    import golden_training

    golden_training.make()
    import golden_lora

    golden_lora.iterations()
    import golden_sdxl

    golden_sdxl.make()
    import golden_files

    golden_files.make()
    import golden_lcm

    golden_lcm.make()
    versions = {m.__name__: m.__version__ for m in (torch, diffusers, transformers, peft)}
    (ROOT / "README.md").write_text(
        "# Golden files\n\nMade by `scripts/golden.py`; never edited by hand. Weights are random, sizes tiny.\n\n"
        + "".join(f"- {k} {v}\n" for k, v in versions.items()) + f"- Python {platform.python_version()}\n"
    )
