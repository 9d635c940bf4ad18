"""The parts of a one-step picture in diffusers on PyTorch, in OpenVINO and here, alternating in one run on the same device:
text encoder, one call of the UNet, decoder, and the whole from prompt to pixels.

    cargo build --release
    venv/bin/python benches/peers/inference.py target/release/dmd models/shapes --threads 2
    (cd benches/peers/candle && cargo build --release)
    venv/bin/python benches/peers/inference.py target/release/dmd SD15 --taesd TAESD --candle benches/peers/candle/target/release/candle-peer
    venv/bin/python benches/peers/inference.py target/release/dmd SD15 --openvino f32,bf16 --ours f32,bf16
    venv/bin/python benches/peers/inference.py target/release/dmd SD15 --device cuda:0 --torch cuda --dtype f16 --compile
    venv/bin/python benches/peers/inference.py target/release/dmd SDXL --recipe dmd2-1step --runs 1 --rounds 3 --apart

OpenVINO compiles the same networks, converted by its own tool; its precisions are those it is told to compute in, whatever
--dtype says of the others. On a processor without bf16 products it answers a request for bf16 in f32, which is said.

Stable Diffusion XL has two text encoders; its one-step picture is one call at t = 399, as DMD2's.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

arguments = argparse.ArgumentParser()
arguments.add_argument("dmd")
arguments.add_argument("model", type=Path)
arguments.add_argument("--device", default="flex", help="ours")
arguments.add_argument("--torch", default="cpu", help="PyTorch's device")
arguments.add_argument("--dtype", default="f32", choices=["f32", "f16", "bf16"])
arguments.add_argument("--ours", help="float types of ours, a row each, as in f32,bf16; default: --dtype")
arguments.add_argument("--compile", action="store_true", help="torch.compile beside eager, channels last")
arguments.add_argument("--parts", default="text,unet,decode,picture")
arguments.add_argument("--recipe", help="for our program, of a folder without unet_one_step; for Stable Diffusion XL dmd2-1step")
arguments.add_argument("--taesd", type=Path, help="folder of a TAESD: adds the part picture-taesd")
arguments.add_argument("--candle", type=Path, help="the program of benches/peers/candle: adds candle's times (f32 on a CPU)")
arguments.add_argument("--openvino", help="precisions of OpenVINO on the CPU, of f32 and bf16: f32,bf16")
arguments.add_argument("--threads", type=int, default=os.cpu_count())
arguments.add_argument("--runs", type=int, default=5, help="per round")
arguments.add_argument("--rounds", type=int, default=5)
arguments.add_argument("--apart", action="store_true", help="PyTorch in a process of its own for each round: where memory does not hold both programs' models")
arguments.add_argument("--worker", help=argparse.SUPPRESS)
parser, arguments = arguments, arguments.parse_args()
if arguments.apart and (arguments.compile or arguments.openvino):
    parser.error("--compile and --openvino do not go with --apart")
os.environ["OMP_NUM_THREADS"] = str(arguments.threads)

model = arguments.model
xl = (model / "text_encoder_2").is_dir()
if xl and not (model / "unet_one_step").is_dir():
    arguments.recipe = arguments.recipe or "dmd2-1step"
if arguments.worker or not arguments.apart:
    import diffusers
    import torch
    import transformers

    torch.set_num_threads(arguments.threads)
    torch.set_grad_enabled(False)
    dtype = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[arguments.dtype]
    device = arguments.torch
    folder = "unet_one_step" if (model / "unet_one_step").is_dir() else "unet"
    tokenizer = transformers.CLIPTokenizer.from_pretrained(model / "tokenizer")
    text_encoder = transformers.CLIPTextModel.from_pretrained(model / "text_encoder").to(device, torch.float32).eval()
    if xl:
        tokenizer_2 = transformers.CLIPTokenizer.from_pretrained(model / "tokenizer_2")
        text_encoder_2 = transformers.CLIPTextModelWithProjection.from_pretrained(model / "text_encoder_2").to(device, torch.float32).eval()
    unet = diffusers.UNet2DConditionModel.from_pretrained(model / folder, torch_dtype=dtype).to(device).eval()
    # As in diffusers, the autoencoder of Stable Diffusion XL decodes in f32 where its values exceed f16.
    upcast = xl and dtype == torch.float16 and diffusers.AutoencoderKL.load_config(model / "vae").get("force_upcast", True)
    vae_dtype = torch.float32 if upcast else dtype
    vae = diffusers.AutoencoderKL.from_pretrained(model / "vae", torch_dtype=vae_dtype).to(device).eval()
    tiny = arguments.taesd and diffusers.AutoencoderTiny.from_pretrained(arguments.taesd, torch_dtype=dtype).to(device).eval()
    alphas = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod
    timestep = 399 if xl else 999
    alpha, sigma = float(alphas[timestep].sqrt()), float((1 - alphas[timestep]).sqrt())
    config = unet.config
    shape = (1, config.in_channels, config.sample_size, config.sample_size)
    prompt = "a red circle above a blue square"
    side = config.sample_size * 2 ** (len(vae.config.block_out_channels) - 1)
    sizes = torch.tensor([[side, side, 0, 0, side, side]], dtype=dtype, device=device)


    def tokens(tokenizer):
        return tokenizer([prompt], padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids.to(device)


    def encode():
        """Features of the words, and of the whole prompt for Stable Diffusion XL."""
        if not xl:
            return text_encoder(tokens(tokenizer))[0], None
        one = text_encoder(tokens(tokenizer), output_hidden_states=True).hidden_states[-2]
        two = text_encoder_2(tokens(tokenizer_2), output_hidden_states=True)
        return torch.cat([one, two.hidden_states[-2]], -1), two.text_embeds


    def parts(unet, vae, encode=encode, tiny=tiny):
        noise = torch.randn(shape, device=device)

        def call(x, text, pooled):
            added = {"text_embeds": pooled.to(dtype), "time_ids": sizes} if xl else None
            return unet(x.to(dtype), timestep, text.to(dtype), added_cond_kwargs=added).sample

        def whole(vae=vae, vae_dtype=vae_dtype):
            z = torch.randn(shape, device=device)
            eps = call(z, *encode()).float()
            image = vae.decode(((z - sigma * eps) / alpha / vae.config.scaling_factor).to(vae_dtype)).sample
            return ((image.float() / 2 + 0.5).clamp(0, 1) * 255).round().byte().cpu()

        half, latents, (text, pooled) = noise.to(dtype), noise.to(vae_dtype), encode()
        text, pooled = text.to(dtype), pooled if pooled is None else pooled.to(dtype)
        return {
            "text": lambda: encode()[0].sum().item(),
            "unet": lambda: call(half, text, pooled).sum().item(),
            "decode": lambda: vae.decode(latents).sample.sum().item(),
            "picture": whole,
            "picture-taesd": lambda: whole(tiny, dtype),
        }


class Compiled:
    """A network in OpenVINO: called with tensors in the order of its inputs, it answers with its outputs."""

    def __init__(self, network, example, precision):
        import openvino

        with torch.no_grad():
            network.requires_grad_(False)
            model = openvino.convert_model(network, example_input=example)
        settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": arguments.threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        self.compiled = openvino.Core().compile_model(model, "CPU", settings)
        self.precision = str(self.compiled.get_property("INFERENCE_PRECISION_HINT"))

    def __call__(self, *inputs):
        outputs = self.compiled([x.float().numpy() if x.is_floating_point() else x.numpy() for x in inputs])
        return [torch.from_numpy(outputs[i]) for i in range(len(outputs))]


class Sample:
    def __init__(self, sample):
        self.sample = sample


def compiled_parts(precision):
    """The parts in OpenVINO."""

    class Call(torch.nn.Module):
        """A UNet whose conditions are inputs of their own."""

        def __init__(self):
            super().__init__()
            self.unet = unet

        def forward(self, x, timestep, text, *added):
            names = dict(zip(("text_embeds", "time_ids"), added))
            return self.unet(x, timestep, text, added_cond_kwargs=names or None).sample

    class Decode(torch.nn.Module):
        def __init__(self, vae):
            super().__init__()
            self.vae = vae

        def forward(self, latents):
            return self.vae.decode(latents).sample

    class Encode(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = text_encoder, text_encoder_2 if xl else None

        def forward(self, ids, ids_2=None):
            if ids_2 is None:
                return self.one(ids)[0]
            one = self.one(ids, output_hidden_states=True).hidden_states[-2]
            two = self.two(ids_2, output_hidden_states=True)
            return torch.cat([one, two.hidden_states[-2]], -1), two.text_embeds

    def ids():
        return (tokens(tokenizer), tokens(tokenizer_2)) if xl else (tokens(tokenizer),)

    texts = Compiled(Encode(), ids(), precision)
    text, pooled = encode()
    added = (pooled, sizes.float()) if xl else ()
    network = Compiled(Call(), (torch.randn(shape), torch.tensor(float(timestep)), text, *added), precision)
    if network.precision not in (f"<Type: '{long_names[precision]}'>", long_names[precision]):
        print(f"OpenVINO computes in {network.precision} where {precision} was asked for\n")

    def ov_encode():
        found = texts(*ids())
        return found[0], found[1] if xl else None

    def ov_unet(x, timestep, text, added_cond_kwargs=None):
        return Sample(network(x, torch.tensor(float(timestep)), text, *(added_cond_kwargs or {}).values())[0])

    def decoder(of):
        class Decoder:
            config = of.config
            run = Compiled(Decode(of), (torch.randn(shape),), precision)

            def decode(self, latents):
                return Sample(self.run(latents)[0])

        return Decoder()

    return parts(ov_unet, decoder(vae), ov_encode, tiny and decoder(tiny))


long_names = {"f32": "float32", "bf16": "bfloat16"}


def torch_round(run):
    times = []
    for _ in range(arguments.runs):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def program(command):
    environment = {**os.environ, "RAYON_NUM_THREADS": str(arguments.threads)}
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def our_round(part, kind):
    command = [arguments.dmd, "bench", "--model", str(model), "--parts", part, "--runs", str(arguments.runs), "--json",
               "--device", arguments.device, "--dtype", kind]
    command += ["--taesd", str(arguments.taesd)] if arguments.taesd else []
    return program(command + (["--recipe", arguments.recipe] if arguments.recipe else []))


def candle_round(part):
    return program([arguments.candle, str(model), part, str(arguments.runs)])["median_ms"]


def apart(part):
    found = program([sys.executable, __file__, *sys.argv[1:], "--worker", part])
    peaks.append(found["peak"])
    return found["median_ms"]


def peak():
    """Resident memory of this process at its highest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


peaks = []
if arguments.worker:
    run = parts(unet, vae)[arguments.worker]
    run()  # warm
    print(json.dumps({"median_ms": torch_round(run), "peak": peak()}))
    sys.exit()
peers = {"PyTorch": None} if arguments.apart else {f"PyTorch {torch.__version__}": parts(unet, vae)}
if arguments.compile:
    last = dict(memory_format=torch.channels_last)
    peers["compiled"] = parts(torch.compile(unet.to(**last)), torch.compile(vae.to(**last)))
for precision in arguments.openvino.split(",") if arguments.openvino else []:
    peers[f"OpenVINO {precision}"] = compiled_parts(precision)
print(f"{model.name}, {arguments.dtype}, ours on {arguments.device}, PyTorch's on {arguments.torch}, {arguments.threads} threads\n")
names = list(peers) + (["candle"] if arguments.candle else [])
print("| part | ours ms | " + " | ".join(f"{name} ms | ratio" for name in names) + " |")
print("| --- | --- |" + " --- | --- |" * len(names))
memory = {}
for part in arguments.parts.split(",") + (["picture-taesd"] if arguments.taesd else []):
    if arguments.apart:
        rounds = {"PyTorch": lambda part=part: apart(part)}
    else:
        for each in peers.values():
            each[part]()  # warm
        rounds = {name: (lambda run=each[part]: torch_round(run)) for name, each in peers.items()}
    if arguments.candle and part != "picture-taesd":
        rounds["candle"] = lambda: candle_round(part)
    kinds = (arguments.ours or arguments.dtype).split(",")
    ours, theirs = {kind: [] for kind in kinds}, {name: [] for name in rounds}
    for _ in range(arguments.rounds):
        for kind, times in ours.items():
            found = our_round(part, kind)
            times.append(found["median_ms"])
            if part == "picture":
                memory[kind] = max(memory.get(kind, 0), found["peak_memory_bytes"] or 0)
        for name, run in rounds.items():
            theirs[name].append(run())
    for kind, times in ours.items():
        mine = statistics.median(times)
        cells = [f"{statistics.median(theirs[name]):.2f} | {mine / statistics.median(theirs[name]):.2f}" if name in theirs else "– | –" for name in names]
        print(f"| {part}, {kind} | {mine:.2f} | " + " | ".join(cells) + " |", flush=True)
used = ", ".join(f"{size / 2**30:.2f} GiB in {kind}" for kind, size in memory.items())
print(f"\npeak memory: ours {used or 'not measured'} for a picture, PyTorch's process {max(peaks, default=peak()) / 2**30:.2f} GiB")
