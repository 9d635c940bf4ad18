//! Compares a model with stored inputs and outputs: does this device compute what the reference computed?
//!
//! A reference file is a safetensors file with some of these tensors (`scripts/reference.py` makes one with diffusers).
//! A module is checked if the file has its keys.
//!
//! | keys | module |
//! | --- | --- |
//! | `input_ids` `[b, 77]` int64 → `text_hidden` | text encoder, last hidden state |
//! | `latents` `[b, c, h, w]`, `timesteps` `[b]`, `text_hidden` → `unet_out` | UNet |
//! | `latents_scaled` → `vae_decoded` | decoder; its input itself, after division by the scaling factor |
//! | `image` → `vae_mean` | encoder; the posterior's mean before scaling |
//! | `onestep_noise`, `input_ids` → `onestep_image` | one call at `onestep_timestep` `[1]`, else t = 999, decoded |
//! | `ddim_noise`, `ddim_steps` `[1]`, `ddim_guidance` `[1]`, `uncond_hidden`, `text_hidden` → `ddim_latents` | guided DDIM, eta 0 |
//!
//! Stable Diffusion XL has two text encoders, and its UNet also takes pooled features of the whole prompt and the
//! picture's sizes. For it:
//!
//! - `input_ids_2` are the second encoder's tokens, `text_hidden` the concatenated features of the tokens without the
//!   last layer, and `text_pooled` `[b, width]` the pooled features of the whole prompt, which are compared too;
//! - the keys of the UNet and of DDIM include `text_pooled` and `time_ids` `[b, 6]`, those of DDIM also
//!   `uncond_pooled`, and those of the one-step recipe `time_ids`.
//!
//! Pictures are `[b, 3, h, w]` in [−1, 1], not clamped.

mod reference;

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use dmd_core::Guided;
use dmd_model::{
    AnyText, AutoencoderFiles, Distilled, OpenOptions, Recipe, TextFeatures, TextParts, with_text,
};
use dmd_scheduler::{Sampler, Steps};
use dmd_unet::{Network, Preconditioned, Sizes};

use self::reference::Reference;
use crate::Error;

/// How far a value may be from the reference: `|a − b| ≤ absolute + relative · |b|`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerances {
    /// Absolute part.
    pub absolute: f64,
    /// Part relative to the reference.
    pub relative: f64,
}

impl Default for Tolerances {
    /// 1e-4 for both parts, which allows f32 sums in another order.
    fn default() -> Self {
        Self { absolute: 1e-4, relative: 1e-4 }
    }
}

/// The result of comparing one module.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The output's key.
    pub module: &'static str,
    /// Number of values.
    pub values: usize,
    /// Largest absolute difference of a value.
    pub max_absolute: f64,
    /// Root mean square of the differences, divided by that of the reference.
    pub relative: f64,
    /// Number of values outside the tolerances, including those that are not finite.
    pub beyond: usize,
}

/// Runs each module of a model on the reference's inputs. Each module is read, checked and dropped before the next one,
/// so that only the largest has to fit into memory. `generator` is a folder or a bare state dict that replaces the
/// model's one-step generator. A model without a generator is checked with its teacher.
///
/// # Errors
///
/// When the model or the reference cannot be read, or the reference has no complete set of keys.
pub fn verify(
    model: &Path,
    reference: &Path,
    generator: Option<&Path>,
    tolerances: &Tolerances,
    device: &Device,
) -> Result<Vec<Comparison>, Error> {
    let file = dmd_weights::read(reference)?;
    let reference = Reference { file: &file, device };
    let generator = generator.map(Path::to_owned);
    let parts = AnyText::open(&OpenOptions { generator, ..OpenOptions::new(model, device) })?;
    with_text!(&parts, parts => modules(parts, &reference, tolerances))
}

/// The key of each text encoder's tokens.
const TOKENS: [&str; 2] = ["input_ids", "input_ids_2"];

/// The keys of a module: `common`, and also `told` for a network that takes pooled features and sizes.
fn keys<'a, P: TextParts>(parts: &P, common: &[&'a str], told: &[&'a str]) -> Vec<&'a str> {
    let told = if parts.pooled_width().is_some() { told } else { &[] };
    [common, told].concat()
}

fn modules<P: TextParts>(
    parts: &P,
    reference: &Reference<'_>,
    tolerances: &Tolerances,
) -> Result<Vec<Comparison>, Error> {
    let device = reference.device;
    let mut all = Vec::new();
    let encoders = parts.text_encoders();
    let tokens = &TOKENS[..encoders.len().min(TOKENS.len())];
    let one_step = reference.has(&keys(parts, &["onestep_noise", "onestep_image"], &["time_ids"]));
    let outputs = ["text_hidden", "text_pooled"].map(|key| reference.has(&[key]));
    let mut text = None;
    if reference.has(tokens) && (one_step || outputs.contains(&true)) {
        let pairs = tokens.iter().zip(&encoders);
        let read = pairs.map(|(key, of)| reference.ids(key, of.vocab_size, of.max_position_embeddings));
        let lists = read.collect::<Result<Vec<_>, _>>()?;
        let shape = |lists: &Vec<Vec<u32>>| (lists.len(), lists[0].len());
        if lists.iter().any(|list| shape(list) != shape(&lists[0])) {
            return Err(reference.refuse(format!("{tokens:?} differ in their shape")));
        }
        let found = parts.load_features(&lists, device)?;
        if outputs[0] {
            all.push(reference.compare("text_hidden", found.words.clone(), tolerances)?);
        }
        if let Some(pooled) = found.pooled.clone().filter(|_| outputs[1]) {
            all.push(reference.compare("text_pooled", pooled, tolerances)?);
        }
        text = Some(found);
    }
    all.extend(unet(parts, reference, tolerances)?);
    let mut x0 = None;
    if let Some(text) = text.filter(|_| one_step) {
        x0 = Some(one_step_latents(parts, reference, text)?);
    }
    let decode = reference.has(&["latents_scaled", "vae_decoded"]);
    let encode = reference.has(&["image", "vae_mean"]);
    if (decode || encode || x0.is_some())
        && let (Some(network), AutoencoderFiles::Full { config, .. }) =
            (parts.load_autoencoder(device)?, parts.autoencoder())
    {
        if decode {
            reference.fits("latents_scaled", config.latent_channels, 1)?;
            let latents = reference.tensor("latents_scaled")?;
            let decoded = network.clone().with_scaling_factor(1.0).decode(latents);
            all.push(reference.compare("vae_decoded", decoded, tolerances)?);
        }
        if encode {
            reference.fits("image", config.in_channels, config.downsampling())?;
            let mean = network.encode(reference.tensor("image")?).mean;
            all.push(reference.compare("vae_mean", mean, tolerances)?);
        }
        if let Some(x0) = x0 {
            all.push(reference.compare("onestep_image", network.decode(x0), tolerances)?);
        }
    }
    if all.is_empty() {
        let reason = "it has no complete set of keys (see `scripts/reference.py`)".to_owned();
        return Err(reference.refuse(reason));
    }
    Ok(all)
}

/// Compares the UNet's output, and guided DDIM with the same network.
fn unet<P: TextParts>(
    parts: &P,
    reference: &Reference<'_>,
    tolerances: &Tolerances,
) -> Result<Vec<Comparison>, Error> {
    let told = ["text_pooled", "time_ids"];
    let call = ["latents", "timesteps", "text_hidden", "unet_out"];
    let call = reference.has(&keys(parts, &call, &told));
    let walk = ["ddim_noise", "ddim_steps", "ddim_guidance", "uncond_hidden", "text_hidden", "ddim_latents"];
    let walk = reference.has(&keys(parts, &walk, &[&told[..], &["uncond_pooled"]].concat()));
    let mut all = Vec::new();
    if !call && !walk {
        return Ok(all);
    }
    let networks = parts.networks();
    let (Some(network), Some(config)) = (networks.load_teacher(reference.device)?, networks.config()) else {
        return Err(
            reference.refuse("it compares a teacher's UNet, and the model has no folder unet".to_owned())
        );
    };
    let sizes = P::Network::sizes(config);
    let text = features(parts, reference, ["text_hidden", "text_pooled"], &sizes)?;
    if call {
        reference.fits("latents", sizes.in_channels, sizes.downsampling)?;
        let (x, t): (Tensor<4>, Tensor<1>) = (reference.tensor("latents")?, reference.tensor("timesteps")?);
        if x.dims()[0] != t.dims()[0] || x.dims()[0] != text.words.dims()[0] {
            return Err(
                reference.refuse("latents, timesteps and text_hidden differ in their batch".to_owned())
            );
        }
        let condition = condition(parts, reference, text.clone())?;
        all.push(reference.compare("unet_out", network.forward(x, t, &condition), tolerances)?);
    }
    if walk {
        reference.fits("ddim_noise", sizes.in_channels, sizes.downsampling)?;
        let unconditional = features(parts, reference, ["uncond_hidden", "uncond_pooled"], &sizes)?;
        let z: Tensor<4> = reference.tensor("ddim_noise")?;
        let count = z.dims()[0];
        if text.words.dims()[0] != count || ![1, count].contains(&unconditional.words.dims()[0]) {
            let reason = "ddim_noise, text_hidden and uncond_hidden differ in their batch";
            return Err(reference.refuse(reason.to_owned()));
        }
        let denoiser = Preconditioned::new(network, parts.noising().prediction());
        let unconditional = condition(parts, reference, unconditional)?;
        let guided = Guided::new(denoiser, unconditional, reference.scalar("ddim_guidance")?);
        let steps = reference.scalar("ddim_steps")? as usize;
        let plan = parts.noising().plan(&Steps::Count(steps), Some(Sampler::Ddim))?;
        let none = z.zeros_like();
        let text = condition(parts, reference, text)?;
        let go_on = &mut |_: usize, _: &Tensor<4>| ControlFlow::Continue(());
        if let Some(latents) = plan.run(&guided, plan.start(z), &text, &mut || none.clone(), go_on) {
            all.push(reference.compare("ddim_latents", latents, tolerances)?);
        }
    }
    Ok(all)
}

/// Reads the features of these keys, and checks that they fit the network and each other.
fn features<P: TextParts>(
    parts: &P,
    reference: &Reference<'_>,
    [words, pooled]: [&str; 2],
    network: &Sizes,
) -> Result<TextFeatures, Error> {
    let [rows, _, width] = reference.shape::<3>(words)?;
    if let Some(wanted) = network.context_width.filter(|wanted| *wanted != width) {
        return Err(reference.refuse(format!("{words:?} is {width} wide, the UNet takes {wanted}")));
    }
    let words = reference.tensor(words)?;
    let Some(wanted) = parts.pooled_width() else { return Ok(words.into()) };
    reference.rows(pooled, [rows, wanted])?;
    Ok(TextFeatures { words, pooled: Some(reference.tensor(pooled)?) })
}

/// Makes the network's condition from features and from the reference's sizes of the picture.
fn condition<P: TextParts>(
    parts: &P,
    reference: &Reference<'_>,
    features: TextFeatures,
) -> Result<<P::Network as Network>::Condition, Error> {
    let rows = features.words.dims()[0];
    let sizes = match parts.pooled_width() {
        None => None,
        Some(_) => {
            let [given, _] = reference.shape::<2>("time_ids")?;
            reference.rows("time_ids", [given.max(rows), 6])?;
            Some(reference.tensor::<2>("time_ids")?.narrow(0, 0, rows))
        }
    };
    Ok(parts.condition(features, sizes)?)
}

/// The latents of one call of the generator, or of the teacher if there is no generator.
fn one_step_latents<P: TextParts>(
    parts: &P,
    reference: &Reference<'_>,
    text: TextFeatures,
) -> Result<Tensor<4>, Error> {
    let networks = parts.networks();
    let network = match networks.load_generator(reference.device)? {
        Some(network) => Some(network),
        None => networks.load_teacher(reference.device)?,
    };
    let (Some(network), Some(config)) = (network, networks.config()) else {
        return Err(reference.refuse("it compares a UNet, and the model has none".to_owned()));
    };
    let sizes = P::Network::sizes(config);
    reference.fits("onestep_noise", sizes.in_channels, sizes.downsampling)?;
    let noising = parts.noising();
    let recipe = match reference.has(&["onestep_timestep"]) {
        true => Recipe::new(vec![reference.scalar("onestep_timestep")? as usize], 1.0, noising)?,
        false => Recipe::published(noising),
    };
    let denoiser = Preconditioned::new(network, noising.prediction());
    let generator = Distilled::new(denoiser, recipe, noising);
    let z: Tensor<4> = reference.tensor("onestep_noise")?;
    if z.dims()[0] != text.words.dims()[0] {
        return Err(reference.refuse("onestep_noise and input_ids differ in their batch".to_owned()));
    }
    Ok(generator.network.first(z, &condition(parts, reference, text)?))
}
