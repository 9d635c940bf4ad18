"""Makes tests/golden/embeddings/: files of textual inversion in the forms that people have, and the features of prompts with
their word, as diffusers computes them with the networks of golden.py and golden_sdxl.py. Alone:
`python scripts/golden_embedding.py`."""

import diffusers
import safetensors.torch as st
import torch
import transformers

from golden import ROOT, normal

FOLDER = ROOT / "embeddings"
PROMPTS = ["a {} above a red circle", "{}, blue {}"]
COUNTS = {"one": 1, "three": 3}
WORD = "<cat-toy>"


def vectors(name):
    """Vectors for the first text encoder, 24 wide, and for the second, 32 wide."""
    count = COUNTS[name]
    return 0.5 * normal(40 + count, count, 24), 0.5 * normal(50 + count, count, 32)


def files(name):
    first, second = vectors(name)
    # diffusers writes a word of one vector in either shape.
    own = {WORD: first[0] if name == "one" else first}
    st.save_file(own, FOLDER / f"diffusers_{name}.safetensors")
    torch.save(own, FOLDER / f"diffusers_{name}.bin")
    st.save_file({"emb_params": first}, FOLDER / f"web_ui_{name}.safetensors")
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": first}, "name": "another", "step": 500,
                "sd_checkpoint": None, "sd_checkpoint_name": None}, FOLDER / f"web_ui_{name}.pt")
    st.save_file({"clip_l": first, "clip_g": second}, FOLDER / f"sdxl_{name}.safetensors")


def of_one_encoder():
    """Stable Diffusion 1.x; the file does not matter, only its vectors do."""
    def pipeline():
        folder = ROOT / "clip_quick_gelu"
        return diffusers.StableDiffusionPipeline(
            diffusers.AutoencoderKL.from_pretrained(ROOT / "vae"), transformers.CLIPTextModel.from_pretrained(folder),
            transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=77),
            diffusers.UNet2DConditionModel.from_pretrained(ROOT / "unet_sd1"), diffusers.DDIMScheduler(), None, None,
            requires_safety_checker=False)

    tensors = {}
    for name in COUNTS:
        for file in (f"diffusers_{name}.safetensors", f"diffusers_{name}.bin", f"web_ui_{name}.safetensors",
                     f"web_ui_{name}.pt"):
            pipe = pipeline()
            word = WORD if file.startswith("diffusers") else file.split(".")[0]
            pipe.load_textual_inversion(str(FOLDER), weight_name=file, token=word)
            for i, prompt in enumerate(PROMPTS):
                found = pipe.encode_prompt(prompt.replace("{}", word), "cpu", 1, False)[0]
                assert torch.equal(tensors.setdefault(f"{name}_{i}", found), found), file
    # Two words, the second of one vector.
    pipe = pipeline()
    pipe.load_textual_inversion(str(FOLDER), weight_name="diffusers_three.safetensors")
    pipe.load_textual_inversion(str(FOLDER), weight_name="web_ui_one.safetensors", token="web_ui_one")
    tensors["both"] = pipe.encode_prompt(f"{WORD} above web_ui_one", "cpu", 1, False)[0]
    return tensors


def of_two_encoders():
    tensors = {}
    for name in COUNTS:
        pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(ROOT / "sdxl")
        state, word = st.load_file(FOLDER / f"sdxl_{name}.safetensors"), f"sdxl_{name}"
        pipe.load_textual_inversion(state["clip_l"], token=word, text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
        pipe.load_textual_inversion(state["clip_g"], token=word, text_encoder=pipe.text_encoder_2,
                                    tokenizer=pipe.tokenizer_2)
        for i, prompt in enumerate(PROMPTS):
            words, _, pooled, _ = pipe.encode_prompt(prompt.replace("{}", word), device="cpu",
                                                     do_classifier_free_guidance=False)
            tensors |= {f"xl_{name}_{i}": words, f"xl_{name}_{i}_pooled": pooled}
    return tensors


@torch.no_grad()
def make():
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in COUNTS:
        files(name)
    tensors = of_one_encoder() | of_two_encoders()
    st.save_file({name: value.contiguous() for name, value in tensors.items()}, FOLDER / "features.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(2)
    make()
