//! The parts of a model: exchanged, missing, or with options that are not computed.

use std::fs;

use dmd::infer::{Error, Pipeline, Request};

use super::{four_steps, pipeline};
use crate::support::{device, golden, tiny_model};

/// One argument changes the decoder; tiles as large as the picture change nothing.
#[test]
fn decoders_can_be_exchanged() {
    let model = tiny_model();
    let builder = || Pipeline::builder(model.path(), &device());
    let draw = |pipeline: &Pipeline| pipeline.generate(&Request::new(["x"])).unwrap().pictures[0].clone();
    let whole = draw(&builder().build().unwrap());
    assert_eq!(whole.as_raw(), draw(&builder().tiles(16).build().unwrap()).as_raw());
    assert!(matches!(builder().tiles(3).build(), Err(Error::Model(dmd::model::Error::Tile { .. }))));
    // The tiny autoencoder's factor is 8 where this model's own is 4: pictures are twice as large.
    let tiny = builder().tiny_autoencoder(golden("taesd")).build().unwrap();
    assert_eq!(draw(&tiny).dimensions(), (64, 64));
}

/// A bare state dict takes the place of the generator's folder, as DMD's checkpoints are given out.
#[test]
fn a_bare_state_dict_is_a_generator() {
    let (model, pipeline) = pipeline();
    fs::remove_dir_all(model.path().join("unet_one_step")).unwrap();
    let file = golden("unet_sd1/diffusion_pytorch_model.safetensors");
    let bare = Pipeline::builder(model.path(), &device()).generator(file).one_step_only().build().unwrap();
    let draw = |pipeline: &Pipeline| pipeline.generate(&Request::new(["x"])).unwrap().pictures[0].clone();
    assert_eq!(draw(&bare).as_raw(), draw(&pipeline).as_raw());
    let bin = Pipeline::builder(model.path(), &device()).generator(golden("unet_sd1/state_dict.bin")).build();
    match bin {
        Ok(pipeline) if cfg!(feature = "pytorch") => {
            assert_eq!(draw(&pipeline).as_raw(), draw(&bare).as_raw());
        }
        Ok(_) => panic!("read without the feature `pytorch`"),
        Err(error) => assert!(error.to_string().contains("feature `pytorch`"), "{error}"),
    }
}

#[test]
fn parts_can_be_missing() {
    let model = tiny_model();
    fs::remove_dir_all(model.path().join("unet_one_step")).unwrap();
    let pipeline = Pipeline::from_dir(model.path(), &device()).unwrap();
    let error = pipeline.generate(&Request::new(["x"])).unwrap_err();
    assert!(error.to_string().contains("dmd distill"), "{error}");
    pipeline.generate(&Request::new(["x"]).with_method(four_steps())).unwrap();

    let model = tiny_model();
    let pipeline = Pipeline::builder(model.path(), &device()).one_step_only().build().unwrap();
    pipeline.generate(&Request::new(["x"])).unwrap();
    assert!(matches!(
        pipeline.generate(&Request::new(["x"]).with_method(four_steps())),
        Err(Error::Model(dmd::model::Error::Missing { .. }))
    ));

    fs::remove_dir_all(model.path().join("vae")).unwrap();
    let error = Pipeline::from_dir(model.path(), &device()).unwrap_err();
    assert!(error.to_string().contains("vae"), "{error}");
}

/// An option that this implementation does not compute is refused by name, not ignored.
#[test]
fn unsupported_options_are_refused() {
    for (file, key, value) in [
        ("unet/config.json", "class_embed_type", "\"timestep\""),
        ("unet/config.json", "down_block_types", "[\"AttnDownBlock2D\", \"DownBlock2D\"]"),
        ("unet/config.json", "norm_num_groups", "5"),
        ("unet/config.json", "attention_head_dim", "3"),
        ("vae/config.json", "act_fn", "\"gelu\""),
        ("text_encoder/config.json", "num_attention_heads", "7"),
        ("scheduler/scheduler_config.json", "prediction_type", "\"flow\""),
    ] {
        let model = tiny_model();
        let path = model.path().join(file);
        let mut config: serde_json::Value = dmd::weights::read_json(&path).unwrap();
        config[key] = serde_json::from_str(value).unwrap();
        fs::write(&path, config.to_string()).unwrap();
        let error = Pipeline::from_dir(model.path(), &device()).unwrap_err();
        let message = format!("{:#}", anyhow::Error::from(error));
        assert!(message.contains(key), "{key}: {message}");
    }
}
