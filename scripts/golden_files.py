"""Makes tests/golden/files/: LoRA files and single files in the spellings that people have, made from the tiny networks of
golden.py and golden_sdxl.py, with what diffusers and peft compute from them. Called by golden.py; alone: `python scripts/golden_files.py`."""

import json
import re
import shutil

import diffusers
import peft
import safetensors.torch as st
import torch
import transformers
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

from golden import ROOT

FOLDER = ROOT / "files"
# What DMD2's LoRA changes.
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
           "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj"]
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
MERGED = ["down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k.weight", "up_blocks.0.resnets.2.conv1.weight",
          "down_blocks.1.resnets.0.conv_shortcut.weight", "up_blocks.1.upsamplers.0.conv.weight"]
TEXT_MERGED = ["encoder.layers.1.self_attn.out_proj.weight", "encoder.layers.0.mlp.fc1.weight"]

RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
          "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}


def ldm_unet_name(name, attention_up, layers=2):
    """The latent diffusion name of a UNet's parameter."""
    for ours, theirs in {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
                         "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
                         "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
                         "mid_block.attentions.0": "middle_block.1"}.items():
        if name.startswith(ours + "."):
            return theirs + name[len(ours):]
    inside = lambda rest: re.sub(r"^\w+", lambda found: RESNET[found[0]], rest)
    if found := re.match(r"mid_block\.resnets\.(\d)\.(.*)", name):
        return f"middle_block.{2 * int(found[1])}.{inside(found[2])}"
    side, level, kind, layer, rest = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", name).groups()
    level, layer, n = int(level), int(layer), layers + 1
    if kind == "downsamplers":
        return f"input_blocks.{n * (level + 1)}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{n * level + n - 1}.{2 if level in attention_up else 1}.{rest}"
    block = f"input_blocks.{1 + n * level + layer}" if side == "down" else f"output_blocks.{n * level + layer}"
    return f"{block}.0.{inside(rest)}" if kind == "resnets" else f"{block}.1.{rest}"


def ldm_unet(state, layers=2):
    attention_up = {int(name.split(".")[1]) for name in state if re.match(r"up_blocks\.\d\.attentions", name)}
    return {ldm_unet_name(name, attention_up, layers): value for name, value in state.items()}


def ldm_vae(state, levels):
    pairs = {"conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut", "mid_block.resnets.0": "mid.block_1",
             "mid_block.resnets.1": "mid.block_2", "mid_block.attentions.0.group_norm": "mid.attn_1.norm",
             "mid_block.attentions.0.to_q": "mid.attn_1.q", "mid_block.attentions.0.to_k": "mid.attn_1.k",
             "mid_block.attentions.0.to_v": "mid.attn_1.v", "mid_block.attentions.0.to_out.0": "mid.attn_1.proj_out",
             "downsamplers.0": "downsample", "upsamplers.0": "upsample", "down_blocks": "down", "resnets": "block"}
    renamed = {}
    for name, value in state.items():
        if "attentions" in name and value.ndim == 2:
            value = value[:, :, None, None]
        for ours, theirs in pairs.items():
            name = name.replace(ours, theirs)
        name = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{levels - 1 - int(found[1])}", name)
        renamed[name] = value
    return renamed


def open_clip(state):
    """The names of open_clip, of a text encoder whose names may begin with `text_model.`."""
    state = {name.removeprefix("text_model."): value for name, value in state.items()}
    pairs = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc",
             "mlp.fc2": "mlp.c_proj", "encoder.layers": "transformer.resblocks", "final_layer_norm": "ln_final",
             "embeddings.token_embedding": "token_embedding"}
    renamed = {}
    for name, value in state.items():
        if found := re.match(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(\w+)", name):
            packed = torch.cat([state[name.replace("q_proj", f"{which}_proj")] for which in "qkv"])
            renamed[f"transformer.resblocks.{found[1]}.attn.in_proj_{found[2]}"] = packed
        elif name == "embeddings.position_embedding.weight":
            renamed["positional_embedding"] = value
        elif name == "text_projection.weight":
            renamed["text_projection"] = value.T.contiguous()
        elif not re.search(r"[kv]_proj", name):
            for ours, theirs in pairs.items():
                name = name.replace(ours, theirs)
            renamed[name] = value
    renamed["logit_scale"] = torch.tensor(4.6)
    return renamed


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def write(name, state, metadata=None):
    path = FOLDER / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    st.save_file({key: value.contiguous() for key, value in state.items()}, path, metadata=metadata)
    return path


def noise(network, seed):
    """Both matrices random: peft starts with one of them at zero, which would hide everything."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def merged(network, names):
    """W + the adapter's own difference, by peft."""
    layers = dict(network.named_modules())
    return {name: layers[name.removesuffix(".weight")].get_base_layer().weight.detach()
            + layers[name.removesuffix(".weight")].get_delta_weight("default").detach() for name in names}


def factors(network):
    return {name: module.scaling["default"] for name, module in network.named_modules()
            if isinstance(module, peft.tuners.lora.LoraLayer)}


def kohya(state, scales, prefix, rename=lambda name: name):
    """kohya's file of the matrices in `state`, in PEFT's names without prefix."""
    made = {}
    for name, value in state.items():
        layer, matrix = re.match(r"(.*)\.lora_([AB])\.weight", name).groups()
        stem = prefix + rename(layer).replace(".", "_")
        made[f"{stem}.lora_{'down' if matrix == 'A' else 'up'}.weight"] = value
        if matrix == "A":
            made[f"{stem}.alpha"] = torch.tensor(scales[layer] * value.shape[0])
    return made


@torch.no_grad()
def loras():
    io = st.load_file(ROOT / "sdxl" / "io.safetensors")
    unet = lambda: diffusers.UNet2DConditionModel.from_pretrained(ROOT / "sdxl" / "unet").eval()
    call = lambda network: network(io["x"], 399, io["text"], added_cond_kwargs={
        "text_embeds": io["pooled"], "time_ids": io["sizes"]}).sample
    reference = {}

    network = unet()
    config = peft.LoraConfig(r=3, lora_alpha=2, target_modules=TARGETS, rank_pattern={"conv1": 2},
                             alpha_pattern={"conv1": 3.0}, init_lora_weights="gaussian")
    network.add_adapter(config, "default")
    noise(network, 41)
    state, scales = peft.get_peft_model_state_dict(network, adapter_name="default"), factors(network)
    reference["unet_1"] = call(network)
    network.set_adapters("default", 0.7)
    reference["unet_0.7"] = call(network)
    network.set_adapters("default", 1.0)
    reference |= prefixed("merged.", merged(network, MERGED))
    attention_up = {0, 1}
    ldm = lambda layer: ldm_unet_name(layer + ".", attention_up).rstrip(".")
    write("lora/kohya", kohya(state, scales, "lora_unet_"), {
        "ss_network_module": "networks.lora", "ss_base_model_version": "sdxl_base_v1-0"})
    write("lora/kohya_sgm", {name: value.to(torch.float32) for name, value in
                             kohya(state, scales, "lora_unet_", ldm).items()})
    save = diffusers.StableDiffusionXLPipeline.save_lora_weights
    save(FOLDER / "lora", unet_lora_layers=state, weight_name="peft_metadata.safetensors",
         unet_lora_adapter_metadata=network.peft_config["default"].to_dict())

    # Of attention alone: PEFT without metadata, PEFT's own folder, diffusers' old spellings.
    network = unet()
    config = peft.LoraConfig(r=2, lora_alpha=1, target_modules=ATTENTION, use_rslora=True)
    network = peft.get_peft_model(network, config)
    noise(network, 42)
    network.save_pretrained(FOLDER / "lora" / "peft")
    (FOLDER / "lora" / "peft" / "README.md").unlink(missing_ok=True)
    bare = {name.removeprefix("base_model.model."): value
            for name, value in peft.get_peft_model_state_dict(network).items()}
    reference |= prefixed("attention.", merged(network.base_model.model, MERGED[:1]))
    write("lora/peft_bare", prefixed("unet.", bare))
    old, newer = {}, {}
    for name, value in bare.items():
        layer, matrix = re.match(r"(.*)\.lora_([AB])\.weight", name).groups()
        half = "down" if matrix == "A" else "up"
        # The file has no place for a scale other than the matrices' own.
        value = value * 2 ** -0.5 if matrix == "B" else value
        attention, projection = layer.removesuffix(".0").rsplit(".", 1)
        old[f"unet.{attention}.processor.{projection}_lora.{half}.weight"] = value
        newer[f"unet.{layer}.lora.{half}.weight"] = value
    write("lora/diffusers_old", old)
    write("lora/diffusers_new", newer)

    # Text encoders.
    first = transformers.CLIPTextModel.from_pretrained(ROOT / "sdxl" / "text_encoder").eval()
    second = transformers.CLIPTextModelWithProjection.from_pretrained(ROOT / "sdxl" / "text_encoder_2").eval()
    parts, alphas, both = {}, {}, {}
    for number, encoder in ((1, first), (2, second)):
        config = peft.LoraConfig(r=2, lora_alpha=1, target_modules=["q_proj", "k_proj", "v_proj", "out_proj", "fc1",
                                                                    "fc2"])
        encoder.add_adapter(config, "default")
        noise(encoder, 42 + number)
        parts[number] = peft.get_peft_model_state_dict(encoder, adapter_name="default")
        alphas[number] = encoder.peft_config["default"].to_dict()
        prefix = "text_model." if number == 2 else ""
        reference |= prefixed(f"text_{number}.", merged(encoder, [prefix + name for name in TEXT_MERGED]))
        bare = {name.removeprefix("text_model."): value for name, value in parts[number].items()}
        both |= kohya(bare, {name.removeprefix("text_model."): value for name, value in factors(encoder).items()},
                      f"lora_te{number}_text_model_")
    write("lora/text_kohya", both)
    save(FOLDER / "lora", text_encoder_lora_layers=parts[1], text_encoder_2_lora_layers=parts[2],
         weight_name="text_peft.safetensors", text_encoder_lora_adapter_metadata=alphas[1],
         text_encoder_2_lora_adapter_metadata=alphas[2])
    write("lora/reference", reference)

    # What diffusers makes of the two files that it reads itself.
    for name in ("kohya", "peft_metadata"):
        pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(ROOT / "sdxl")
        pipe.load_lora_weights(FOLDER / "lora", weight_name=f"{name}.safetensors")
        off = (call(pipe.unet) - reference["unet_1"]).abs().max()
        assert off < 1e-4 * reference["unet_1"].abs().max(), (name, off)


def buffers():
    return {"betas": torch.linspace(0.1, 0.2, 10), "alphas_cumprod": torch.linspace(0.9, 0.1, 10),
            "sqrt_alphas_cumprod": torch.linspace(0.9, 0.1, 10)}


def sdxl():
    load = lambda part, file: st.load_file(ROOT / "sdxl" / part / f"{file}.safetensors")
    unet = ldm_unet(load("unet", "diffusion_pytorch_model"))
    first = {name.removeprefix("text_model."): value for name, value in load("text_encoder", "model").items()}
    state = prefixed("model.diffusion_model.", unet)
    state |= prefixed("first_stage_model.", ldm_vae(load("vae", "diffusion_pytorch_model"), 4))
    state |= prefixed("conditioner.embedders.0.transformer.text_model.", first)
    state["conditioner.embedders.0.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    state |= prefixed("conditioner.embedders.1.model.", open_clip(load("text_encoder_2", "model")))
    path = write("sdxl", state, {"modelspec.architecture": "stable-diffusion-xl-v1-base",
                                 "modelspec.prediction_type": "epsilon"})
    pipe = diffusers.StableDiffusionXLPipeline.from_single_file(
        path, config=str(ROOT / "sdxl"), local_files_only=True)
    whole = diffusers.StableDiffusionXLPipeline.from_pretrained(ROOT / "sdxl")
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        mine, its = getattr(pipe, part).state_dict(), getattr(whole, part).state_dict()
        assert mine.keys() == its.keys() and all((mine[name] == its[name]).all() for name in its), part


def stable_diffusion(version, unet, text):
    """A UNet of unet_sd1 or unet_sd2, vae, and the text encoder `text`; of 2.x with a last block that is not used."""
    network = st.load_file(ROOT / unet / "diffusion_pytorch_model.safetensors")
    vae = st.load_file(ROOT / "vae" / "diffusion_pytorch_model.safetensors")
    clip = {name.removeprefix("text_model."): value
            for name, value in st.load_file(ROOT / text / "model.safetensors").items()}
    state = prefixed("model.diffusion_model.", ldm_unet(network)) | prefixed("first_stage_model.", ldm_vae(vae, 3))
    if version == 1:
        state |= prefixed("cond_stage_model.transformer.text_model.", clip)
        state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    else:
        layers = 1 + max(int(name.split(".")[2]) for name in clip if name.startswith("encoder.layers."))
        last = {name.replace("encoder.layers.0.", f"encoder.layers.{layers}."): 2 * value
                for name, value in clip.items() if name.startswith("encoder.layers.0.")}
        clip |= last | {"text_projection.weight": torch.ones(24, 24)}
        state |= prefixed("cond_stage_model.model.", open_clip(clip))
    write(f"sd{version}", state | buffers())
    # diffusers' own conversion gives the networks back.
    config = json.loads((ROOT / unet / "config.json").read_text())
    again = convert_ldm_unet_checkpoint(dict(state), config)
    assert again.keys() == network.keys() and all((again[name] == network[name]).all() for name in network)
    config = json.loads((ROOT / "vae" / "config.json").read_text())
    again = convert_ldm_vae_checkpoint(dict(state), config)
    assert again.keys() == vae.keys() and all((again[name].reshape(vae[name].shape) == vae[name]).all() for name in vae)
    return state


class Callback:
    """A class that a reader of data does not know."""

    best = None


def nested():
    """A training's checkpoint: a state dict in a state dict, beside what only its own program can read."""
    vae = ldm_vae(st.load_file(ROOT / "vae" / "diffusion_pytorch_model.safetensors"), 3)
    state = prefixed("first_stage_model.", vae)
    torch.save({"epoch": 3, "global_step": 875000, "callbacks": {"ModelCheckpoint": Callback()},
                "optimizer_states": [{"step": torch.tensor([True])}],
                "state_dict": {"state_dict": state}}, FOLDER / "nested.ckpt")


def eighths():
    """All codes of the two 8-bit types, and their values."""
    codes = torch.arange(256, dtype=torch.uint8)
    types = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
    write("eighths", {name: codes.clone().view(kind) for name, kind in types.items()}
          | {f"{name}_values": codes.view(kind).to(torch.float32) for name, kind in types.items()})


def make():
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    loras()
    sdxl()
    stable_diffusion(1, "unet_sd1", "clip_quick_gelu")
    stable_diffusion(2, "unet_sd2", "clip_gelu")
    nested()
    eighths()


if __name__ == "__main__":
    torch.set_num_threads(2)
    make()
