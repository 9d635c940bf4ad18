//! Stable Diffusion XL against diffusers: every part, and whole pictures. Fixtures made by `scripts/golden_sdxl.py`.

use burn::tensor::Tensor;
use dmd::clip::{
    ClipTextModel, ProjectedTextEncoder, ProjectedTextModel, TextConfig, TextEncoder, Tokenizer,
};
use dmd::unet::{Autoencoder, Network, XlCondition, XlUNet2d, XlUNetConfig};

use crate::support::{Fixture, assert_close, device, golden};

const PROMPTS: [&str; 3] = ["", "red !! red", "a red circle above a blue square"];

fn unet() -> XlUNet2d {
    let folder = golden("sdxl/unet");
    let config: XlUNetConfig = dmd::weights::read_config(&folder).unwrap();
    let path = dmd::weights::weight_file(&folder, &["diffusion_pytorch_model"]).unwrap();
    XlUNet2d::from_tensors(&config, &dmd::weights::read(&path).unwrap(), &device()).unwrap()
}

#[test]
fn unet_with_sizes_and_pooled_text() {
    let (network, io) = (unet(), Fixture::open("sdxl/io"));
    let condition =
        XlCondition { text: io.tensor("text"), pooled: io.tensor("pooled"), sizes: io.tensor("sizes") };
    for t in [999.0, 399.0, 0.0] {
        let output = network.forward(io.tensor("x"), Tensor::from_floats([t, t], &device()), &condition);
        assert_close(&format!("t = {t}"), output, io.tensor(&format!("unet_{t}")));
    }
    // Sides of 9 and 7, which two levels do not halve evenly.
    let t = Tensor::from_floats([399.0, 399.0], &device());
    assert_close("odd sides", network.forward(io.tensor("odd"), t, &condition), io.tensor("unet_odd"));
}

#[test]
fn both_tokenizers_and_encoders() {
    let io = Fixture::open("sdxl/io");
    let first: TextConfig = dmd::weights::read_config(&golden("sdxl/text_encoder")).unwrap();
    let second: TextConfig = dmd::weights::read_config(&golden("sdxl/text_encoder_2")).unwrap();
    let tokenizers = ["tokenizer", "tokenizer_2"]
        .map(|name| Tokenizer::from_dir(&golden(&format!("sdxl/{name}")), 77).unwrap());
    for (i, prompt) in PROMPTS.iter().enumerate() {
        for (tokenizer, name) in tokenizers.iter().zip(["ids", "ids_2"]) {
            let (_, expected) = io.values(&format!("{name}_{i}"));
            let expected: Vec<u32> = expected.into_iter().map(|id| id as u32).collect();
            assert_eq!(tokenizer.encode(prompt).unwrap(), expected, "{name} of {prompt:?}");
        }
    }
    let [one, two] = tokenizers;
    let network = ClipTextModel::from_dir(&golden("sdxl/text_encoder"), &device()).unwrap().0;
    let one = TextEncoder::new(one, network, &device());
    let network = ProjectedTextModel::from_dir(&golden("sdxl/text_encoder_2"), &second, &device()).unwrap();
    let two = ProjectedTextEncoder::new(two, network, &second, &device());
    assert_eq!(first.hidden_size + second.hidden_size, 56);
    let check = |prompt: &str, left_out, name: &str| {
        let text = two.encode(&[prompt], left_out).unwrap();
        let context = Tensor::cat(vec![one.hidden(&[prompt], left_out).unwrap(), text.hidden], 2);
        assert_close(prompt, context, io.tensor(&format!("context_{name}")));
        assert_close(prompt, text.pooled, io.tensor(&format!("pooled_{name}")));
    };
    for (i, prompt) in PROMPTS.iter().enumerate() {
        check(prompt, 1, &i.to_string());
    }
    check(PROMPTS[2], 2, "skip");
}

#[test]
fn autoencoder() {
    let (network, _) = Autoencoder::from_dir(&golden("sdxl/vae"), &device()).unwrap();
    let io = Fixture::open("sdxl/io");
    assert_close("decoded", network.decode(io.tensor("latent")), io.tensor("decoded"));
}
