//! `dmd inspect`: a model of either kind, a part, a file, and what is none of them.

use std::fs;

use super::{dmd, refused};
use crate::support::{golden, tiny_model};

#[test]
fn a_model_a_part_and_a_file() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    let shown = |path: &str| {
        let output = dmd(here.path(), &["inspect", path]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let all = shown(model.path().to_str().unwrap());
    for word in ["Stable Diffusion", "tokenizer", "CLIPTextModel", "AutoencoderKL", "scheduler", "t = 999"] {
        assert!(all.contains(word), "{word} in {all}");
    }
    assert_eq!(all.matches("UNet2DConditionModel").count(), 2, "{all}");
    fs::remove_dir_all(model.path().join("vae")).unwrap();
    fs::remove_dir_all(model.path().join("unet_one_step")).unwrap();
    let less = shown(model.path().to_str().unwrap());
    assert!(
        less.contains("not a complete model: vae missing") && less.contains("no distilled generator"),
        "{less}"
    );
    let part = shown(model.path().join("unet").to_str().unwrap());
    assert!(part.contains("UNet2DConditionModel") && part.contains("parameters"), "{part}");
    let file = shown(golden("vae/diffusion_pytorch_model.safetensors").to_str().unwrap());
    assert!(file.contains("Stable Diffusion: autoencoder"), "{file}");
    let file = shown(golden("files/sdxl.safetensors").to_str().unwrap());
    assert!(
        file.contains("Stable Diffusion XL: UNet, autoencoder, text encoder, second text encoder"),
        "{file}"
    );
    let file = shown(golden("files/lora/kohya.safetensors").to_str().unwrap());
    assert!(file.contains("a LoRA file, by its header of sdxl_base_v1-0"), "{file}");
    assert!(refused(here.path(), &["inspect", "nowhere"]).contains("nowhere"));
    refused(here.path(), &["inspect", "."]);
}
