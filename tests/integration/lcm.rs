//! Networks that are told their guidance, as latent consistency models are, against diffusers. Fixtures made by
//! `scripts/golden_lcm.py`.

use std::fs;
use std::path::Path;

use burn::tensor::Tensor;
use dmd::infer::{Pipeline, Request};
use dmd::unet::{Network, UNet2d, UNetConfig, XlCondition, XlUNet2d, XlUNetConfig};
use serde_json::Value;
use tempfile::TempDir;

use crate::program::{dmd, refused};
use crate::support::{Fixture, Weights, assert_close, device, golden, tiny_model};

const FILE: &str = "diffusion_pytorch_model.safetensors";

/// The network in a golden folder with the layer that takes the guidance, written as a network's folder.
fn with_guidance(source: &str, layer: &str, to: &Path) {
    let (io, weights) = (
        Fixture::open("lcm/io"),
        Fixture::open(&format!("{source}/{}", FILE.trim_end_matches(".safetensors"))),
    );
    let mut all = Weights::new();
    for name in dmd::weights::read(&golden(source).join(FILE)).unwrap().entries().keys() {
        all.copy(&weights, name, name);
    }
    all.copy(&io, layer, "time_embedding.cond_proj.weight");
    fs::create_dir_all(to).unwrap();
    fs::copy(all.write(FILE), to.join(FILE)).unwrap();
    let mut config: Value = dmd::weights::read_config(&golden(source)).unwrap();
    config["time_cond_proj_dim"] = 6.into();
    dmd::weights::write_json(&to.join("config.json"), &config).unwrap();
}

fn network<N: Network>(folder: &Path) -> N {
    let config = dmd::weights::read_config(folder).unwrap();
    N::from_tensors(&config, &dmd::weights::read(&folder.join(FILE)).unwrap(), &device()).unwrap()
}

/// A whole model of which the UNet is told its guidance.
fn model() -> TempDir {
    let model = tiny_model();
    fs::remove_dir_all(model.path().join("unet_one_step")).unwrap();
    with_guidance("unet_sd1", "cond_proj", &model.path().join("unet"));
    model
}

#[test]
fn networks_under_guidance() {
    let (io, folder) = (Fixture::open("lcm/io"), tempfile::tempdir().unwrap());
    with_guidance("unet_sd1", "cond_proj", folder.path());
    let plain: UNet2d = network(folder.path());
    let output = |network: &UNet2d| network.forward(io.tensor("x"), io.tensor("t"), &io.tensor("text"));
    assert_close("8.5 by itself", output(&plain), io.tensor("unet_8.5"));
    assert_close("1", output(&plain.with_guidance(1.0)), io.tensor("unet_1.0"));

    let folder = tempfile::tempdir().unwrap();
    with_guidance("sdxl/unet", "xl_cond_proj", folder.path());
    let network: XlUNet2d = network(folder.path());
    let condition = XlCondition {
        text: io.tensor("xl_text"),
        pooled: io.tensor("xl_pooled"),
        sizes: io.tensor("xl_sizes"),
    };
    let t = Tensor::from_floats([759.0], &device());
    let output = network.with_guidance(8.0).forward(io.tensor("xl_x"), t, &condition);
    assert_close("SDXL", output, io.tensor("xl_unet"));
    let configs: (UNetConfig, XlUNetConfig) = (
        dmd::weights::read_config(&golden("unet_sd1")).unwrap(),
        dmd::weights::read_config(&golden("sdxl/unet")).unwrap(),
    );
    assert!(!UNet2d::sizes(&configs.0).told_guidance && !XlUNet2d::sizes(&configs.1).told_guidance);
}

/// Pointing at the folder is enough: it is called as diffusers' pipeline of such models calls it.
#[test]
fn pictures_of_a_latent_consistency_model() {
    let (io, model) = (Fixture::open("lcm/io"), model());
    let builder = || Pipeline::builder(model.path(), &device());
    for (name, builder) in [("four", builder()), ("two", builder().recipe_steps(2).told_guidance(3.0))] {
        let pipeline = builder.build().unwrap();
        assert!(!pipeline.has_teacher());
        let picture =
            pipeline.generate(&Request::new(["a red circle"]).with_seeds([5])).unwrap().pictures.remove(0);
        let expected: Tensor<4> = io.tensor(&format!("{name}_picture"));
        let levels = expected.permute([0, 2, 3, 1]).into_data();
        assert_eq!(picture.as_raw().len(), levels.num_elements());
        for (found, expected) in picture.as_raw().iter().zip(levels.iter::<f32>()) {
            let off = (f32::from(*found) - (expected.clamp(0.0, 1.0) * 255.0).round()).abs();
            assert!(off <= 1.0, "{name}: a level is {found}, expected {}", expected * 255.0);
        }
    }
    let message = builder().told_guidance(0.5).build().unwrap_err().to_string();
    assert!(message.contains("at least 1"), "{message}");
    let other =
        Pipeline::builder(tiny_model().path(), &device()).told_guidance(2.0).build().unwrap_err().to_string();
    assert!(other.contains("not told"), "{other}");
}

/// The program takes its steps and its guidance as options.
#[test]
fn steps_and_guidance_of_the_program() {
    let (model, here) = (model(), tempfile::tempdir().unwrap());
    let model = model.path().to_str().unwrap();
    let output = dmd(here.path(), &["generate", "red", "--steps", "2", "--guidance", "3", "--model", model]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("recipe lcm, at t = 999, 499, told guidance 3"), "{said}");
    let said = refused(here.path(), &["generate", "red", "--steps", "30", "--model", model]);
    assert!(said.contains("in 1 to 8 steps (recipe lcm), and not in 30"), "{said}");
    let said = refused(here.path(), &["generate", "red", "--sampler", "ddim", "--model", model]);
    assert!(said.contains("--sampler ddim does not go with a latent consistency model"), "{said}");
}
