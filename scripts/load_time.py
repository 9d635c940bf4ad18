"""How long PyTorch takes to fill Stable Diffusion's networks from a diffusers folder: safetensors'
load_file and load_state_dict, for the networks that one step needs. Beside it: what `dmd generate`
prints as the time the model was read in.

    venv/bin/python scripts/load_time.py MODEL
"""

import statistics
import sys
import time
from pathlib import Path

import diffusers
import safetensors.torch as st
import transformers

model = Path(sys.argv[1])
networks = {
    "text_encoder/model.safetensors": transformers.CLIPTextModel(transformers.CLIPTextConfig.from_pretrained(model / "text_encoder")),
    "unet/diffusion_pytorch_model.safetensors": diffusers.UNet2DConditionModel.from_config(diffusers.UNet2DConditionModel.load_config(model / "unet")),
    "vae/diffusion_pytorch_model.safetensors": diffusers.AutoencoderKL.from_config(diffusers.AutoencoderKL.load_config(model / "vae")),
}
times = []
for _ in range(5):
    start = time.perf_counter()
    for name, network in networks.items():
        network.load_state_dict(st.load_file(model / name), strict=not name.startswith("text"))
    times.append(time.perf_counter() - start)
print(" ".join(f"{t:.2f}" for t in times), f"s; median {statistics.median(times):.2f} s")
