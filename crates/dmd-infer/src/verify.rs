//! A model folder against stored inputs and outputs: does this device compute what the reference did?
//!
//! A reference file is a safetensors file with some of these tensors (`scripts/reference.py` makes one
//! with diffusers); a module is checked where its keys are there.
//!
//! | keys | module |
//! | --- | --- |
//! | `input_ids` `[b, 77]` int64 → `text_hidden` | text encoder, last hidden state |
//! | `latents` `[b, c, h, w]`, `timesteps` `[b]`, `text_hidden` → `unet_out` | UNet |
//! | `latents_scaled` → `vae_decoded` | decoder; its input itself, after division by the scaling factor |
//! | `image` → `vae_mean` | encoder; the posterior's mean before scaling |
//! | `onestep_noise`, `input_ids` → `onestep_image` | the one-step recipe at t = 999, decoded |
//! | `ddim_noise`, `ddim_steps` `[1]`, `ddim_guidance` `[1]`, `uncond_hidden`, `text_hidden` → `ddim_latents` | guided DDIM, eta 0 |
//!
//! Pictures are `[b, 3, h, w]` in [−1, 1], not clamped.

mod reference;

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use dmd_core::Guided;
use dmd_model::{AutoencoderFiles, Distilled, OpenOptions, Recipe, TextToImage};
use dmd_scheduler::{Sampler, Steps};
use dmd_unet::{Network, UNetConfig, UNetDenoiser};

use self::reference::Reference;
use crate::Error;

/// How far an output may be from the reference: `|a − b| ≤ absolute + relative · |b|`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tolerances {
    /// Absolute part.
    pub absolute: f64,
    /// Part relative to the reference.
    pub relative: f64,
}

impl Default for Tolerances {
    /// 1e-4 each: f32 sums in another order.
    fn default() -> Self {
        Self { absolute: 1e-4, relative: 1e-4 }
    }
}

/// One module's comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The output's key.
    pub module: &'static str,
    /// Number of values.
    pub values: usize,
    /// Largest difference of a value.
    pub max_absolute: f64,
    /// Root mean square of the differences over that of the reference.
    pub relative: f64,
    /// Values further off than the tolerances allow, those that are not finite included.
    pub beyond: usize,
}

/// Runs each module of a model folder on the reference's inputs. A module is read, checked and
/// dropped before the next, so that memory is that of the largest. `generator` is a folder or a bare state dict in place
/// of the model's one-step generator; a model without one is called with its teacher.
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
    let parts = TextToImage::open(&OpenOptions { generator, ..OpenOptions::new(model, device) })?;
    let mut all = Vec::new();
    let mut one_step_text = None;
    let one_step = reference.has(&["onestep_noise", "input_ids", "onestep_image"]);
    if reference.has(&["input_ids"]) && (one_step || reference.has(&["text_hidden"])) {
        let network = parts.load_text(device)?;
        let ids = reference.ids(parts.text.vocab_size, parts.text.max_position_embeddings)?;
        let hidden = network.forward(ids);
        if reference.has(&["text_hidden"]) {
            all.push(reference.compare("text_hidden", hidden.clone(), tolerances)?);
        }
        one_step_text = Some(hidden);
    }
    all.extend(unet(&parts, &reference, tolerances)?);
    let mut x0 = None;
    if let Some(text) = one_step_text.filter(|_| one_step) {
        x0 = Some(one_step_latents(&parts, &reference, text)?);
    }
    let decode = reference.has(&["latents_scaled", "vae_decoded"]);
    let encode = reference.has(&["image", "vae_mean"]);
    if (decode || encode || x0.is_some())
        && let (Some(network), AutoencoderFiles::Full { config, .. }) =
            (parts.load_autoencoder(device)?, &parts.autoencoder)
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

/// The UNet's output, and the guided walk of the same network.
fn unet(
    parts: &TextToImage,
    reference: &Reference<'_>,
    tolerances: &Tolerances,
) -> Result<Vec<Comparison>, Error> {
    let call = reference.has(&["latents", "timesteps", "text_hidden", "unet_out"]);
    let keys = ["ddim_noise", "ddim_steps", "ddim_guidance", "uncond_hidden", "text_hidden", "ddim_latents"];
    let walk = reference.has(&keys);
    let mut all = Vec::new();
    if !call && !walk {
        return Ok(all);
    }
    let (Some(network), Some(config)) =
        (parts.networks.load_teacher(reference.device)?, parts.networks.config())
    else {
        return Err(
            reference.refuse("it compares a teacher's UNet, and the model has no folder unet".to_owned())
        );
    };
    let text: Tensor<3> = reference.tensor("text_hidden")?;
    check_text(reference, "text_hidden", config)?;
    if call {
        reference.fits("latents", config.in_channels, config.downsampling())?;
        let (x, t): (Tensor<4>, Tensor<1>) = (reference.tensor("latents")?, reference.tensor("timesteps")?);
        if x.dims()[0] != t.dims()[0] || x.dims()[0] != text.dims()[0] {
            return Err(
                reference.refuse("latents, timesteps and text_hidden differ in their batch".to_owned())
            );
        }
        all.push(reference.compare("unet_out", network.forward(x, t, &text), tolerances)?);
    }
    if walk {
        reference.fits("ddim_noise", config.in_channels, config.downsampling())?;
        check_text(reference, "uncond_hidden", config)?;
        let denoiser = UNetDenoiser::new(network, parts.noising.prediction());
        let unconditional: Tensor<3> = reference.tensor("uncond_hidden")?;
        let guided = Guided::new(&denoiser, unconditional, reference.scalar("ddim_guidance")?);
        let z: Tensor<4> = reference.tensor("ddim_noise")?;
        if z.dims()[0] != text.dims()[0] {
            return Err(reference.refuse("ddim_noise and text_hidden differ in their batch".to_owned()));
        }
        let steps = reference.scalar("ddim_steps")? as usize;
        let plan = parts.noising.plan(&Steps::Count(steps), Some(Sampler::Ddim))?;
        let none = z.zeros_like();
        let go_on = &mut |_: usize, _: &Tensor<4>| ControlFlow::Continue(());
        if let Some(latents) = plan.run(&guided, plan.start(z), &text, &mut || none.clone(), go_on) {
            all.push(reference.compare("ddim_latents", latents, tolerances)?);
        }
    }
    Ok(all)
}

fn check_text(reference: &Reference<'_>, key: &str, config: &UNetConfig) -> Result<(), Error> {
    let [.., width] = reference.shape::<3>(key)?;
    let wanted = config.cross_attention_dim;
    match width == wanted {
        true => Ok(()),
        false => Err(reference.refuse(format!("{key:?} is {width} wide, the UNet takes {wanted}"))),
    }
}

/// The generator's latents by the published recipe, one call at the last timestep; the teacher's where there is no
/// generator.
fn one_step_latents(
    parts: &TextToImage,
    reference: &Reference<'_>,
    text: Tensor<3>,
) -> Result<Tensor<4>, Error> {
    let network = match parts.networks.load_generator(reference.device)? {
        Some(network) => Some(network),
        None => parts.networks.load_teacher(reference.device)?,
    };
    let (Some(network), Some(config)) = (network, parts.networks.config()) else {
        return Err(reference.refuse("it compares a UNet, and the model has none".to_owned()));
    };
    reference.fits("onestep_noise", config.in_channels, config.downsampling())?;
    let denoiser = UNetDenoiser::new(network, parts.noising.prediction());
    let generator = Distilled::new(denoiser, Recipe::published(&parts.noising), &parts.noising);
    let z: Tensor<4> = reference.tensor("onestep_noise")?;
    if z.dims()[0] != text.dims()[0] {
        return Err(reference.refuse("onestep_noise and input_ids differ in their batch".to_owned()));
    }
    Ok(generator.network.first(z, &text))
}
