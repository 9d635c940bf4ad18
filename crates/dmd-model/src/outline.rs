//! The sizes of a model, computed from its configurations alone. Weights are not read and need not exist.

use burn::tensor::Device;
use dmd_clip::{ProjectedTextModel, TextConfig};
use dmd_unet::{AutoencoderConfig, Costs, Network, UNet2d, XlUNet2d};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::builtin::Published;
use crate::families::{Kind, Part};
use crate::source::Source;
use crate::stable_diffusion::MAX_TOKENS;
use crate::{Error, Family, PixelClasses};

/// The sizes of a model.
#[derive(Debug, Clone)]
pub struct Outline {
    /// The kind of the model.
    pub kind: Kind,
    /// The costs of the network's parts for one sample of the size that the model was trained on.
    pub costs: Costs,
    /// Names and shapes of the network's parameters, as in files.
    pub parameters: Vec<(String, Vec<usize>)>,
    /// Number of parameters of a critic's head on the network; `None` if samples are too small for one.
    pub critic: Option<usize>,
    /// Number of parameters of all text encoders.
    pub text_encoders: usize,
    /// Number of parameters of the autoencoder.
    pub autoencoder: usize,
    /// Shape of a sample, `[channels, height, width]`.
    pub sample: [usize; 3],
    /// Number of values of a prompt's features.
    pub features: usize,
}

/// Reads a part's configuration.
type Configs<'a> = &'a dyn Fn(Part) -> Result<Value, Error>;

impl Outline {
    /// The names that [`Self::published`] accepts.
    pub const PUBLISHED: [&'static str; 3] = ["sd15", "sd21", "sdxl"];

    /// Reads the outline of a model folder or a single file. Networks are made on `device`, without values.
    ///
    /// # Errors
    ///
    /// When a configuration is missing, damaged or not supported.
    pub fn read(source: &Source, device: &Device) -> Result<Self, Error> {
        Self::of(Kind::of(source)?, &|part| source.config(part), device)
    }

    /// The outline of a published architecture, one of [`Self::PUBLISHED`]; `None` for another name.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn published(name: &str, device: &Device) -> Option<Result<Self, Error>> {
        let family = match name {
            "sd15" => Published::One,
            "sd21" => Published::Two { velocity: true },
            "sdxl" => Published::Xl { velocity: false, zero_snr: false },
            _ => return None,
        };
        let missing =
            |part: Part| Error::Missing { wanted: part.description(), hint: "the architecture has none" };
        Some(Self::of(family.kind(), &|part| family.config(part).ok_or_else(|| missing(part)), device))
    }

    fn of(kind: Kind, configs: Configs<'_>, device: &Device) -> Result<Self, Error> {
        let outline = match kind {
            Kind::StableDiffusion => Self::of_network::<UNet2d>(kind, configs, device)?,
            Kind::StableDiffusionXl => Self::of_network::<XlUNet2d>(kind, configs, device)?,
            Kind::Classes => {
                return Self::of_network::<<PixelClasses as Family>::Network>(kind, configs, device);
            }
        };
        let text: TextConfig = read(configs, Part::TextEncoder)?;
        let mut encoders = dmd_weights::count(&text.init(device)?);
        let mut features = MAX_TOKENS * text.hidden_size;
        if kind == Kind::StableDiffusionXl {
            let second: TextConfig = read(configs, Part::TextEncoder2)?;
            encoders += dmd_weights::count(&ProjectedTextModel::init(&second, device)?);
            features += (MAX_TOKENS + 1) * second.hidden_size;
        }
        let autoencoder: AutoencoderConfig = read(configs, Part::Autoencoder)?;
        let autoencoder = dmd_weights::count(&autoencoder.init(device)?);
        Ok(Self { text_encoders: encoders, features, autoencoder, ..outline })
    }

    fn of_network<N: Network>(kind: Kind, configs: Configs<'_>, device: &Device) -> Result<Self, Error> {
        let config: N::Config = read(configs, Part::UNet)?;
        N::validate(&config)?;
        let (network, sizes) = (N::init(&config, device)?, N::sizes(&config));
        let sample = sizes.sample();
        let critic = sizes.critic(device).ok();
        Ok(Self {
            kind,
            costs: network.costs([sample[1], sample[2]]),
            parameters: dmd_weights::shapes(&network, &N::KEYS),
            critic: critic.as_ref().map(dmd_weights::count),
            text_encoders: 0,
            autoencoder: 0,
            sample,
            features: sizes.classes,
        })
    }
}

fn read<T: DeserializeOwned>(configs: Configs<'_>, part: Part) -> Result<T, Error> {
    let config = configs(part)?;
    serde_json::from_value(config).map_err(|error| Error::Setting {
        setting: format!("the configuration of the {}", part.description()),
        hint: error.to_string(),
    })
}
