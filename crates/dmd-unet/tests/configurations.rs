//! `config.json` as diffusers writes it: what is read, what goes back, what is refused.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use dmd_unet::{
    AutoencoderConfig, ClassUNet2d, ClassUNetConfig, Error, Network, TinyAutoencoderConfig, UNet2d,
    UNetConfig,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn golden(name: &str) -> Value {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name).join("config.json");
    dmd_weights::read_json(&path).unwrap()
}

fn read<T: DeserializeOwned>(config: &Value) -> T {
    dmd_weights::parse_json(&config.to_string()).unwrap()
}

/// The golden UNet's configuration with other values.
fn unet(changes: &[(&str, Value)]) -> UNetConfig {
    let mut config = golden("unet_sd1");
    for (key, value) in changes {
        config[*key] = value.clone();
    }
    read(&config)
}

#[test]
fn every_key_goes_back_as_it_was() {
    fn unchanged<T: DeserializeOwned + Serialize>(name: &str, validate: fn(&T) -> Result<(), Error>) {
        let config: T = read(&golden(name));
        validate(&config).unwrap();
        assert_eq!(serde_json::to_value(&config).unwrap(), golden(name), "{name}");
    }
    unchanged("unet_sd1", UNetConfig::validate);
    unchanged("unet_sd2", UNetConfig::validate);
    unchanged("class_unet", ClassUNetConfig::validate);
    unchanged("class_unet_adm", ClassUNetConfig::validate);
    unchanged("class_unet_none", ClassUNetConfig::validate);
    unchanged("vae", AutoencoderConfig::validate);
    unchanged("taesd", TinyAutoencoderConfig::validate);
}

/// Keys that diffusers leaves in a network's file without a part in what it computes; `EMAModel.save_pretrained`
/// writes the first seven.
#[test]
fn keys_that_change_nothing() {
    let config = unet(&[
        ("decay", json!(0.9999)),
        ("inv_gamma", json!(1.0)),
        ("min_decay", json!(0.0)),
        ("optimization_step", json!(4000)),
        ("power", json!(2.0 / 3.0)),
        ("update_after_step", json!(0)),
        ("use_ema_warmup", json!(true)),
        ("dropout", json!(0.1)),
        ("upcast_attention", json!(true)),
        ("addition_time_embed_dim", json!(256)),
        ("_name_or_path", json!("somebody/something")),
    ]);
    config.validate().unwrap();
    assert_eq!(serde_json::to_value(&config).unwrap()["optimization_step"], 4000, "it is written back");

    // Other spellings of the same.
    unet(&[
        ("sample_size", json!([8, 8])),
        ("layers_per_block", json!([2, 2])),
        ("cross_attention_dim", json!([24, 24])),
        ("transformer_layers_per_block", json!([1, 1])),
        ("only_cross_attention", json!([false, false])),
        ("time_embedding_dim", json!(64)),
        ("act_fn", json!("swish")),
        ("conv_in_kernel", json!(3.0)),
    ])
    .validate()
    .unwrap();
}

#[test]
fn every_other_key_is_refused_by_name() {
    for (key, value) in [
        ("decay_rate", json!(0.9)),
        ("brand_new_option", json!("on")),
        ("addition_embed_type", json!("text_time")),
        ("transformer_layers_per_block", json!([1, 0])),
        ("transformer_layers_per_block", json!([1, 2, 3])),
        ("only_cross_attention", json!([false, true])),
        ("time_embedding_dim", json!(32)),
        ("mid_block_type", Value::Null),
        ("act_fn", json!("gelu")),
        ("num_attention_heads", json!(4)),
        ("norm_eps", json!(0.0)),
    ] {
        let error = unet(&[(key, value.clone())]).validate().unwrap_err().to_string();
        assert!(error.contains(key) && error.contains(&value.to_string()), "{key}: {error}");
    }
}

#[test]
fn wrong_types_name_key_and_value() {
    for (key, value, expected) in [
        ("in_channels", json!("4"), "in_channels: invalid type: string \"4\""),
        (
            "down_block_types",
            json!(["AttnDownBlock2D"]),
            "down_block_types[0]: unknown variant `AttnDownBlock2D`",
        ),
        ("layers_per_block", json!([1, 2]), "layers_per_block: [1, 2]: expected a number"),
        // A list of lists, as distilled relatives of SDXL have it.
        ("transformer_layers_per_block", json!([[1], [2]]), "transformer_layers_per_block: "),
        ("use_linear_projection", json!("yes"), "use_linear_projection: invalid type: string \"yes\""),
        ("_class_name", json!("UNet3DConditionModel"), "_class_name: unknown variant `UNet3DConditionModel`"),
    ] {
        let mut config = golden("unet_sd1");
        config[key] = value;
        let error = dmd_weights::parse_json::<UNetConfig>(&config.to_string()).unwrap_err().to_string();
        assert!(error.contains(expected), "{key}: {error}");
    }
}

/// The configuration of the published ImageNet-64 teachers and consistency models in diffusers' form
/// (openai/diffusers-cd_imagenet64_l2, dg845/diffusers-cm_edm_imagenet64_ema).
#[test]
fn the_published_imagenet_64_network() {
    let config = json!({"_class_name": "UNet2DModel", "_diffusers_version": "0.22.0.dev0", "act_fn": "silu",
        "add_attention": true, "attention_head_dim": 64, "attn_norm_num_groups": 32,
        "block_out_channels": [192, 384, 576, 768], "center_input_sample": false, "class_embed_type": null,
        "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
        "downsample_padding": 1, "downsample_type": "resnet", "dropout": 0.1, "flip_sin_to_cos": true,
        "freq_shift": 0, "in_channels": 3, "layers_per_block": 3, "mid_block_scale_factor": 1, "norm_eps": 1e-05,
        "norm_num_groups": 32, "num_class_embeds": 1000, "out_channels": 3,
        "resnet_time_scale_shift": "scale_shift", "sample_size": 64, "time_embedding_type": "positional",
        "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"],
        "upsample_type": "resnet"});
    let config: ClassUNetConfig = read(&config);
    config.validate().unwrap();
    let sizes = ClassUNet2d::sizes(&config);
    assert_eq!((sizes.sample(), sizes.classes, sizes.bottleneck_channels), ([3, 64, 64], 1000, 768));
}

/// What the parts around a network have to match is known from its configuration.
#[test]
fn sizes_without_a_network() {
    let sizes = UNet2d::sizes(&unet(&[("in_channels", json!(9))]));
    assert_eq!((sizes.sample(), sizes.out_channels), ([9, 8, 8], 4));
    assert_eq!((sizes.context_width, sizes.classes, sizes.downsampling), (Some(24), 0, 2));
    let sizes = ClassUNet2d::sizes(&read(&golden("class_unet")));
    assert_eq!((sizes.sample(), sizes.context_width, sizes.classes), ([3, 8, 8], None, 5));
}
