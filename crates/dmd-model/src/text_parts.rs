//! A text-conditional model that is read part by part.

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Tensor};
use dmd_clip::TextConfig;
use dmd_unet::{Autoencoder, Network};
use dmd_weights::{KeyMap, LoraPart, Tensors};

use crate::autoencoder::AutoencoderFiles;
use crate::family::TextFeatures;
use crate::loras::Change;
use crate::networks::NetworkFiles;
use crate::{Error, Noising};

/// A text-conditional model whose configurations were read and compared. Its parts are read one by one, so that only
/// one of them has to be in memory.
pub trait TextParts {
    /// The network of teacher and generator.
    type Network: Network;

    /// The files of teacher and generator.
    fn networks(&self) -> &NetworkFiles<Self::Network>;

    /// The autoencoder's configuration.
    fn autoencoder(&self) -> &AutoencoderFiles;

    /// Noise schedule and samplers.
    fn noising(&self) -> &Noising;

    /// The configuration of each text encoder.
    fn text_encoders(&self) -> Vec<&TextConfig>;

    /// Width of the pooled features of a prompt, for a network that takes them together with the picture's sizes.
    fn pooled_width(&self) -> Option<usize>;

    /// Reads the text encoders and computes the features of prompts. `tokens` has one entry per encoder, each with one
    /// list of tokens per prompt. All lists have the same length.
    ///
    /// # Errors
    ///
    /// When weights are missing, damaged or do not fit; [`Error::Setting`] for tokens of another number of encoders.
    fn load_features(&self, tokens: &[Vec<Vec<u32>>], device: &Device) -> Result<TextFeatures, Error>;

    /// Makes the network's condition from text features, and from the picture's sizes `[prompts, 6]` for a network that
    /// takes them.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] when the network needs an input that is not given.
    fn condition(
        &self,
        features: TextFeatures,
        sizes: Option<Tensor<2>>,
    ) -> Result<<Self::Network as Network>::Condition, Error>;

    /// Reads the autoencoder; `None` if a tiny autoencoder replaces it.
    ///
    /// # Errors
    ///
    /// When its weights are missing, damaged or do not fit.
    fn load_autoencoder(&self, device: &Device) -> Result<Option<Autoencoder>, Error>;
}

/// Fills a text encoder, which computes in single precision. If both its file and `dtype` have the same half-precision
/// type, the parameters keep that type: they are the same numbers in half the memory.
pub(crate) fn load_encoder<M: Module>(
    network: M,
    weights: &Tensors,
    keys: &KeyMap,
    dtype: FloatDType,
) -> Result<M, Error> {
    let kept = weights.half().filter(|own| *own == dtype).unwrap_or(FloatDType::F32);
    Ok(dmd_weights::load_in(network, weights, keys, kept)?)
}

/// Replaces the LoRA files that were merged into an encoder by others. The token embedding stays unchanged: it may have
/// rows that no file has, and a LoRA does not update it.
pub(crate) fn change_encoder<M: Module>(
    network: M,
    part: LoraPart,
    weights: Tensors,
    keys: &KeyMap,
    change: &mut Change,
    dtype: FloatDType,
) -> Result<M, Error> {
    let kept = weights.half().filter(|own| *own == dtype).unwrap_or(FloatDType::F32);
    let mut names = change.touched(part, &weights)?;
    names.retain(|name| !name.ends_with("token_embedding.weight"));
    let merged = change.after.merged(part, weights)?;
    Ok(dmd_weights::reload(network, &merged, keys, kept, &names)?)
}

/// Checks that there is one list of tokens for each of `N` text encoders.
pub(crate) fn lists<const N: usize>(tokens: &[Vec<Vec<u32>>]) -> Result<&[Vec<Vec<u32>>; N], Error> {
    tokens.try_into().map_err(|_tokens| Error::Setting {
        setting: format!("tokens for {} text encoders", tokens.len()),
        hint: format!("it has {N}"),
    })
}
