//! Configurations of the published models by family, which single files do not hold. Their sources are the
//! `config.json` and `scheduler_config.json` files of the models' repositories in diffusers' layout.

use dmd_clip::Padding;
use serde_json::{Value, json};

use crate::families::{Kind, Part};

/// A family of published models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Published {
    /// Stable Diffusion 1.5, whose configuration all 1.x models have.
    One,
    /// Stable Diffusion 2.1: the model for 512 pixels, which predicts the noise, or the one for 768 pixels, which
    /// predicts the velocity.
    Two {
        /// Whether the model predicts the velocity.
        velocity: bool,
    },
    /// Stable Diffusion XL.
    Xl {
        /// Whether the model predicts the velocity, as some fine-tuned models do.
        velocity: bool,
        /// Whether the noise schedule ends in pure noise.
        zero_snr: bool,
    },
}

impl Published {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::One | Self::Two { .. } => Kind::StableDiffusion,
            Self::Xl { .. } => Kind::StableDiffusionXl,
        }
    }

    /// How a tokenizer pads; `None` for a part that is no tokenizer of this family.
    pub(crate) fn padding(self, part: Part) -> Option<Padding> {
        match (self, part) {
            (Self::One | Self::Xl { .. }, Part::Tokenizer) => Some(Padding::End),
            (Self::Two { .. }, Part::Tokenizer) | (Self::Xl { .. }, Part::Tokenizer2) => {
                Some(Padding::ExclamationMark)
            }
            _ => None,
        }
    }

    /// The `config.json` of a part; `None` for a part that this family does not have.
    pub(crate) fn config(self, part: Part) -> Option<Value> {
        Some(match (self, part) {
            (_, Part::UNet | Part::Generator) => self.unet(),
            (_, Part::Autoencoder) => self.autoencoder(),
            (_, Part::Scheduler) => self.scheduler(),
            (Self::One | Self::Xl { .. }, Part::TextEncoder) => text(768, 3072, 12, 12, "quick_gelu"),
            (Self::Two { .. }, Part::TextEncoder) => text(1024, 4096, 23, 16, "gelu"),
            (Self::Xl { .. }, Part::TextEncoder2) => {
                let mut config = text(1280, 5120, 32, 20, "gelu");
                config["projection_dim"] = json!(1280);
                config["architectures"] = json!(["CLIPTextModelWithProjection"]);
                config
            }
            _ => return None,
        })
    }

    fn unet(self) -> Value {
        let (down, cross) = ("DownBlock2D", "CrossAttnDownBlock2D");
        let (up, cross_up) = ("UpBlock2D", "CrossAttnUpBlock2D");
        let mut config = json!({
            "_class_name": "UNet2DConditionModel",
            "in_channels": 4,
            "out_channels": 4,
            "layers_per_block": 2,
            "norm_num_groups": 32,
            "norm_eps": 1e-5,
            "act_fn": "silu",
        });
        let own = match self {
            Self::One | Self::Two { .. } => json!({
                "down_block_types": [cross, cross, cross, down],
                "up_block_types": [up, cross_up, cross_up, cross_up],
                "block_out_channels": [320, 640, 1280, 1280],
            }),
            Self::Xl { .. } => json!({
                "down_block_types": [down, cross, cross],
                "up_block_types": [cross_up, cross_up, up],
                "block_out_channels": [320, 640, 1280],
                "transformer_layers_per_block": [1, 2, 10],
                "attention_head_dim": [5, 10, 20],
                "cross_attention_dim": 2048,
                "use_linear_projection": true,
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 256,
                "projection_class_embeddings_input_dim": 2816,
                "sample_size": 128,
            }),
        };
        extend(&mut config, own);
        match self {
            Self::One => extend(
                &mut config,
                json!({ "attention_head_dim": 8, "cross_attention_dim": 768, "sample_size": 64 }),
            ),
            Self::Two { velocity } => extend(
                &mut config,
                json!({
                    "attention_head_dim": [5, 10, 20, 20],
                    "cross_attention_dim": 1024,
                    "use_linear_projection": true,
                    "sample_size": if velocity { 96 } else { 64 },
                }),
            ),
            Self::Xl { .. } => {}
        }
        config
    }

    fn autoencoder(self) -> Value {
        let (down, up) = ("DownEncoderBlock2D", "UpDecoderBlock2D");
        let (factor, size, upcast) = match self {
            Self::One => (0.18215, 512, false),
            Self::Two { velocity } => (0.18215, if velocity { 768 } else { 512 }, false),
            Self::Xl { .. } => (0.13025, 1024, true),
        };
        json!({
            "_class_name": "AutoencoderKL",
            "in_channels": 3,
            "out_channels": 3,
            "down_block_types": [down, down, down, down],
            "up_block_types": [up, up, up, up],
            "block_out_channels": [128, 256, 512, 512],
            "layers_per_block": 2,
            "latent_channels": 4,
            "norm_num_groups": 32,
            "act_fn": "silu",
            "sample_size": size,
            "scaling_factor": factor,
            "force_upcast": upcast,
        })
    }

    fn scheduler(self) -> Value {
        let mut config = json!({
            "num_train_timesteps": 1000,
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "prediction_type": "epsilon",
            "timestep_spacing": "leading",
            "steps_offset": 1,
            "set_alpha_to_one": false,
            "clip_sample": false,
            "skip_prk_steps": true,
        });
        let own = match self {
            Self::One | Self::Two { velocity: false } => json!({ "_class_name": "PNDMScheduler" }),
            Self::Two { velocity: true } => {
                json!({ "_class_name": "DDIMScheduler", "prediction_type": "v_prediction" })
            }
            Self::Xl { velocity, zero_snr } => json!({
                "_class_name": "EulerDiscreteScheduler",
                "interpolation_type": "linear",
                "prediction_type": if velocity { "v_prediction" } else { "epsilon" },
                "rescale_betas_zero_snr": zero_snr,
                "timestep_spacing": if zero_snr { "trailing" } else { "leading" },
            }),
        };
        extend(&mut config, own);
        config
    }
}

fn text(width: usize, inner: usize, layers: usize, heads: usize, activation: &str) -> Value {
    json!({
        "architectures": ["CLIPTextModel"],
        "model_type": "clip_text_model",
        "vocab_size": 49408,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": 77,
        "hidden_act": activation,
        "layer_norm_eps": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    })
}

fn extend(config: &mut Value, other: Value) {
    if let (Value::Object(config), Value::Object(other)) = (config, other) {
        config.extend(other);
    }
}
