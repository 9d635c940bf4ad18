//! A model of texts that is read part by part.

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

/// A model of texts whose configurations were read and compared. Its parts are read one by one, so that no more than one
/// has to be in memory.
pub trait TextParts {
    /// The network of teacher and generator.
    type Network: Network;

    /// Teacher and generator.
    fn networks(&self) -> &NetworkFiles<Self::Network>;

    /// The autoencoder's configuration.
    fn autoencoder(&self) -> &AutoencoderFiles;

    /// Noise schedule and samplers.
    fn noising(&self) -> &Noising;

    /// The configuration of each text encoder.
    fn text_encoders(&self) -> Vec<&TextConfig>;

    /// Width of the features of a whole prompt, for a network that is told them and the picture's sizes.
    fn pooled_width(&self) -> Option<usize>;

    /// Reads the text encoders and gives the features of prompts: for each encoder one list of tokens per prompt, all of
    /// one length.
    ///
    /// # Errors
    ///
    /// When weights are missing, damaged or do not fit; [`Error::Setting`] for another number of encoders.
    fn load_features(&self, tokens: &[Vec<Vec<u32>>], device: &Device) -> Result<TextFeatures, Error>;

    /// What a network is conditioned on: text features, and the picture's sizes `[prompts, 6]` where it is told them.
    ///
    /// # Errors
    ///
    /// [`Error::Setting`] when the network is told something that is not given.
    fn condition(
        &self,
        features: TextFeatures,
        sizes: Option<Tensor<2>>,
    ) -> Result<<Self::Network as Network>::Condition, Error>;

    /// Reads the autoencoder; `None` where a tiny one takes its place.
    ///
    /// # Errors
    ///
    /// When its weights are missing, damaged or do not fit.
    fn load_autoencoder(&self, device: &Device) -> Result<Option<Autoencoder>, Error>;
}

/// Fills a text encoder. It computes in single precision, and stays in its file's half precision where the networks are in
/// that too: the same numbers, in half the memory.
pub(crate) fn load_encoder<M: Module>(
    network: M,
    weights: &Tensors,
    keys: &KeyMap,
    dtype: FloatDType,
) -> Result<M, Error> {
    let kept = weights.half().filter(|own| *own == dtype).unwrap_or(FloatDType::F32);
    Ok(dmd_weights::load_in(network, weights, keys, kept)?)
}

/// Puts other LoRA files in the place of those that an encoder was filled with. The table of words is left as it is: it may
/// have rows that no file has, and a LoRA updates layers.
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

/// One list of tokens per text encoder.
pub(crate) fn lists<const N: usize>(tokens: &[Vec<Vec<u32>>]) -> Result<&[Vec<Vec<u32>>; N], Error> {
    tokens.try_into().map_err(|_tokens| Error::Setting {
        setting: format!("tokens for {} text encoders", tokens.len()),
        hint: format!("it has {N}"),
    })
}
