"""The golden files of training and evaluation: class-conditional UNets under EDM's preconditioning, one
whole distillation step in PyTorch, LPIPS, Inception, Fréchet distances and CLIP's picture half.

Networks too large to commit get weights that both sides draw from torch.randn with stated seeds.
Called by golden.py.
"""

import json

import diffusers
import lpips
import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
import transformers
from pytorch_fid import inception as fid

from golden import ROOT, normal, randomise, save
from golden_lora import Head, diffused, scales

SIGMA_DATA = 0.5


def karras(network, x, sigma, labels):
    """EDM's preconditioned denoiser around diffusers' UNet2DModel (Karras et al. 2022, table 1)."""
    s = sigma.view(-1, 1, 1, 1)
    total = s**2 + SIGMA_DATA**2
    output = network(x / total.sqrt(), sigma.log() / 4, class_labels=labels).sample
    return SIGMA_DATA**2 / total * x + s * SIGMA_DATA / total.sqrt() * output


@torch.no_grad()
def class_unet(name, classes, **options):
    network = diffusers.UNet2DModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(16, 32), norm_num_groups=4,
        attention_head_dim=8, num_class_embeds=classes, act_fn="silu", **options,
    )
    randomise(network, 11)
    network.save_pretrained(ROOT / name)
    x, sigma, t = normal(12, 2, 3, 8, 8), torch.tensor([0.3, 80.0]), torch.tensor([3.0, 999.0])
    labels = torch.tensor([1, classes - 1]) if classes else None
    one_hot = F.one_hot(labels, classes).float() if classes else torch.zeros(1)
    save(f"{name}/io", x=x, t=t, sigma=sigma, classes=one_hot, output=network(x, t, class_labels=labels).sample,
         x0=karras(network, x * sigma.view(-1, 1, 1, 1), sigma, labels))


def training_step():
    """One iteration of DMD2 with DMD's regression beside it: the generator's turn, then the fake score's, each
    with AdamW behind a clipped gradient. Draws, losses, norms and the new weights are stored."""
    import copy

    teacher = diffusers.UNet2DConditionModel.from_pretrained(ROOT / "unet_sd1").eval()
    generator, fake = copy.deepcopy(teacher), copy.deepcopy(teacher)
    with torch.no_grad():
        for network, seed in ((generator, 31), (fake, 32)):
            for i, parameter in enumerate(network.parameters()):
                parameter.add_(0.02 * normal(seed * 1000 + i, *parameter.shape))
    head = randomise(Head(), 33).train()
    guidance, weights = 2.0, {"regression": 0.25, "generator": 0.3, "critic": 0.1}
    draws = dict(
        z=normal(40, 4, 4, 8, 8), eps=normal(41, 4, 4, 8, 8), fake_eps=normal(42, 4, 4, 8, 8),
        critic_eps=normal(43, 4, 4, 8, 8), turn_eps=normal(44, 4, 4, 8, 8), real_eps=normal(45, 4, 4, 8, 8),
        real=normal(46, 4, 4, 8, 8), target=normal(47, 2, 4, 8, 8), text=normal(48, 4, 7, 24),
        real_text=normal(49, 4, 7, 24), empty=normal(50, 1, 7, 24),
        t=torch.tensor([20.0, 301.0, 640.0, 980.0]), fake_t=torch.tensor([0.0, 250.0, 500.0, 999.0]),
        critic_t=torch.tensor([5.0, 111.0, 444.0, 888.0]), turn_t=torch.tensor([9.0, 222.0, 333.0, 777.0]),
        real_t=torch.tensor([7.0, 123.0, 456.0, 789.0]),
    )
    d = draws

    def x0(network, x_t, t, text):
        alpha, sigma = scales(t)
        return (x_t - sigma * network(x_t, t, text).sample) / alpha

    def logits(network, x_t, t, text):
        found = {}
        hook = network.mid_block.register_forward_hook(lambda module, args, output: found.update(h=output))
        network(x_t, t, text)
        hook.remove()
        return head(found["h"])

    def optimiser(parameters):
        return torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)

    # The generator's turn.
    own = optimiser(generator.parameters())
    x = x0(generator, d["z"], torch.full((4,), 999.0), d["text"])
    with torch.no_grad():
        x_t = diffused(x, d["eps"], d["t"])
        cond, uncond = x0(teacher, x_t, d["t"], d["text"]), x0(teacher, x_t, d["t"], d["empty"].expand(4, -1, -1))
        real = uncond + guidance * (cond - uncond)
        gradient = (x0(fake, x_t, d["t"], d["text"]) - real) / (x - real).abs().mean((1, 2, 3), keepdim=True)
    matching = 0.5 * F.mse_loss(x, (x - gradient).detach())
    regression = F.mse_loss(x[:2], d["target"])
    for parameter in [*fake.parameters(), *head.parameters()]:
        parameter.requires_grad_(False)
    adversarial = F.softplus(-logits(fake, diffused(x, d["critic_eps"], d["critic_t"]), d["critic_t"], d["text"])).mean()
    total = matching + weights["regression"] * regression + weights["generator"] * adversarial
    total.backward()
    generator_norm = torch.nn.utils.clip_grad_norm_(generator.parameters(), 10.0)
    own.step()
    # The fake score's turn, on the same samples.
    for parameter in [*fake.parameters(), *head.parameters()]:
        parameter.requires_grad_(True)
    other = optimiser([*fake.parameters(), *head.parameters()])
    x = x.detach()
    x_t = diffused(x, d["fake_eps"], d["fake_t"])
    denoising = F.mse_loss(fake(x_t, d["fake_t"], d["text"]).sample, d["fake_eps"])
    critic = (F.softplus(logits(fake, diffused(x, d["turn_eps"], d["turn_t"]), d["turn_t"], d["text"])).mean()
              + F.softplus(-logits(fake, diffused(d["real"], d["real_eps"], d["real_t"]), d["real_t"],
                                   d["real_text"])).mean())
    (denoising + weights["critic"] * critic).backward()
    fake_norm = torch.nn.utils.clip_grad_norm_([*fake.parameters(), *head.parameters()], 10.0)
    other.step()

    folder = ROOT / "training_step"
    folder.mkdir(exist_ok=True)
    names = [name for name, _ in teacher.named_parameters()]
    (folder / "parameters.json").write_text(json.dumps(names) + "\n")
    # Weights after the step: every 97th value of each tensor, all of the short ones.
    sampled = {}
    for prefix, network in (("generator", generator), ("fake", fake), ("head", head)):
        for name, value in network.state_dict().items():
            flat = value.flatten()
            sampled[f"after.{prefix}.{name}"] = flat if flat.numel() <= 64 else flat[::97].clone()
    before = {f"head.{name}": value for name, value in randomise(Head(), 33).state_dict().items()}
    losses = dict(matching=matching, regression=regression, adversarial=adversarial, fake=denoising, critic=critic,
                  generator_norm=generator_norm, fake_norm=fake_norm)
    save("training_step/io", **draws, **before, **{k: v.detach().reshape(1) for k, v in losses.items()}, **sampled)


def drawn(seed, shape, scale):
    return normal(seed, *shape) * scale


@torch.no_grad()
def perceptual():
    """LPIPS with a random trunk: convolution i of the trunk is drawn from seed 100 + i (He's deviation), its bias
    from 200 + i, linear layer i from 300 + i (absolute values)."""
    image = lambda seed: torch.tanh(normal(seed, 2, 3, 64, 64))
    tensors = dict(first=image(60), second=image(61))
    for name in ("vgg", "alex"):
        network = lpips.LPIPS(net=name, pretrained=False, pnet_rand=True, verbose=False)
        convs = [module for module in network.net.modules() if isinstance(module, torch.nn.Conv2d)]
        for i, conv in enumerate(convs):
            conv.weight.copy_(drawn(100 + i, conv.weight.shape, (2 / conv.weight[0].numel()) ** 0.5))
            conv.bias.copy_(drawn(200 + i, conv.bias.shape, 0.1))
        for i, layer in enumerate(network.lins):
            weight = layer.model[-1].weight
            weight.copy_(drawn(300 + i, weight.shape, 1.0).abs())
        tensors[name] = network(tensors["first"], tensors["second"]).flatten()
        x = tensors["first"].clone().requires_grad_(True)
        with torch.enable_grad():
            network(x, tensors["second"]).sum().backward()
        tensors[f"{name}_gradient"] = x.grad
    save("lpips", **tensors)


@torch.no_grad()
def inception():
    """pytorch-fid's Inception with random weights: the i-th convolution in the order of the sorted names is drawn
    from seed 1000 + i, its normalisation's scale, shift, mean and variance from 2000, 3000, 4000 and 5000 + i."""
    network = fid._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    for name, block in (("5b", fid.FIDInceptionA(192, pool_features=32)), ("5c", fid.FIDInceptionA(256, pool_features=64)),
                        ("5d", fid.FIDInceptionA(288, pool_features=64)), ("6b", fid.FIDInceptionC(768, channels_7x7=128)),
                        ("6c", fid.FIDInceptionC(768, channels_7x7=160)), ("6d", fid.FIDInceptionC(768, channels_7x7=160)),
                        ("6e", fid.FIDInceptionC(768, channels_7x7=192)), ("7b", fid.FIDInceptionE_1(1280)),
                        ("7c", fid.FIDInceptionE_2(2048))):
        setattr(network, f"Mixed_{name}", block)
    network.eval()
    layers = sorted((name, module) for name, module in network.named_modules() if hasattr(module, "conv"))
    for i, (_, layer) in enumerate(layers):
        weight, norm = layer.conv.weight, layer.bn
        weight.copy_(drawn(1000 + i, weight.shape, (2 / weight[0].numel()) ** 0.5))
        norm.weight.copy_(1 + drawn(2000 + i, norm.weight.shape, 0.1))
        norm.bias.copy_(drawn(3000 + i, norm.bias.shape, 0.1))
        norm.running_mean.copy_(drawn(4000 + i, norm.bias.shape, 0.1))
        norm.running_var.copy_(1 + drawn(5000 + i, norm.bias.shape, 0.1).abs())
    original = fid.fid_inception_v3
    fid.fid_inception_v3 = lambda: network
    features = fid.InceptionV3([3]).eval()
    fid.fid_inception_v3 = original
    image = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(70))
    image = (image * 255).round() / 255
    names = json.dumps([name for name, _ in layers])
    (ROOT / "inception_layers.json").write_text(names + "\n")
    save("inception", image=image, features=features(image)[0].flatten(1))


def frechet():
    """The Fréchet distance by SciPy's matrix square root, in f64."""
    first, second = normal(80, 300, 24).double().numpy(), normal(81, 200, 24).double().numpy()
    mix = normal(82, 24, 24).double().numpy()
    second = second @ mix * 0.3 + 0.5
    first, second = torch.from_numpy(first).float(), torch.from_numpy(second).float()
    save("frechet", first=first, second=second)
    first, second = first.double().numpy(), second.double().numpy()
    m1, m2, c1, c2 = first.mean(0), second.mean(0), np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    distance = ((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * scipy.linalg.sqrtm(c1 @ c2).real)
    (ROOT / "frechet.json").write_text(json.dumps({"distance": float(distance)}) + "\n")


@torch.no_grad()
def clip_pictures():
    """A tiny CLIPModel: features of pictures and texts, and their cosines."""
    text = transformers.CLIPTextConfig.from_pretrained(ROOT / "clip_quick_gelu").to_dict()
    config = transformers.CLIPConfig(
        text_config=text,
        vision_config=dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                           image_size=32, patch_size=8, hidden_act="quick_gelu"),
        projection_dim=16,
    )
    network = randomise(transformers.CLIPModel(config), 90)
    network.save_pretrained(ROOT / "clip_score")
    ids = torch.tensor([[text["bos_token_id"], 300, 301, text["eos_token_id"]] + [text["eos_token_id"]] * 3,
                        [text["bos_token_id"], 310, text["eos_token_id"]] + [text["eos_token_id"]] * 4])
    pixels = normal(91, 2, 3, 32, 32)
    output = network(input_ids=ids, pixel_values=pixels)
    save("clip_score/io", ids=ids, pixels=pixels, image=output.image_embeds, text=output.text_embeds)


def make():
    class_unet("class_unet", 5, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
               up_block_types=("AttnUpBlock2D", "UpBlock2D"), layers_per_block=1)
    class_unet("class_unet_adm", 5, down_block_types=("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
               up_block_types=("AttnUpBlock2D", "ResnetUpsampleBlock2D"), layers_per_block=2,
               resnet_time_scale_shift="scale_shift", downsample_type="resnet", upsample_type="resnet",
               attn_norm_num_groups=4)
    class_unet("class_unet_none", None, down_block_types=("AttnDownBlock2D", "DownBlock2D"),
               up_block_types=("UpBlock2D", "AttnUpBlock2D"), layers_per_block=1)
    training_step()
    perceptual()
    inception()
    frechet()
    clip_pictures()
