//! Distillation of low-rank updates in place of whole networks ("LoRA", Hu et al. 2021).

use burn::module::{Module, Param, Reparameterizer};
use burn::tensor::{Tensor, TensorData};
use dmd_core::Noise;
use dmd_kernels::LowRank;
use dmd_weights::KeyMap;
use serde::{Deserialize, Serialize};

use crate::Error;

/// `[lora]` of a distillation: generator and fake score are the teacher's network with low-rank updates, and the updates
/// are all that is trained of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraSection {
    /// Rank of every update.
    pub rank: usize,
    /// An update is multiplied by `alpha / rank`; without it by 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// The layers that are updated, by the end of their names in a diffusers file: linear layers and convolutions. The
    /// default is the attention's four, diffusers' usual choice.
    pub layers: Vec<String>,
}

impl Default for LoraSection {
    fn default() -> Self {
        let layers = ["to_q", "to_k", "to_v", "to_out.0"].map(str::to_owned).to_vec();
        Self { rank: 64, alpha: None, layers }
    }
}

impl LoraSection {
    /// A frozen network with updates that are trained. They start as PEFT's do: `down` uniform within
    /// `1 / √inputs` of 0, `up` at 0, so that the network is the same as before. `keys` turns the network's parameter
    /// paths into a file's names.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] naming the first of [`Self::layers`] that is no layer of the network.
    pub fn attach<M: Module>(&self, network: M, keys: &KeyMap, noise: &mut Noise) -> Result<M, Error> {
        let mut found = vec![false; self.layers.len()];
        let network =
            network.apply_reparameterization(Attach { section: self, keys, noise, found: &mut found });
        match found.iter().position(|found| !found) {
            None => Ok(network),
            Some(missing) => Err(Error::Option {
                key: "lora.layers",
                value: format!("{:?}", self.layers[missing]),
                must: "the end of the name of a linear layer or a convolution of the network",
            }),
        }
    }

    /// How many values the updates of a network have, by the names and shapes that its parameters have in files.
    pub(crate) fn count(&self, parameters: &[(String, Vec<usize>)]) -> usize {
        let updated = parameters
            .iter()
            .filter(|(name, shape)| matches!(shape.len(), 2 | 4) && self.place(name).is_some());
        updated.map(|(_, shape)| self.rank * (shape[0] + shape[1..].iter().product::<usize>())).sum()
    }

    /// Which of [`Self::layers`] the weight under this name belongs to.
    fn place(&self, name: &str) -> Option<usize> {
        let layer = name.strip_suffix(".weight")?;
        let named = |end: &String| {
            layer.strip_suffix(end.as_str()).is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        self.layers.iter().position(named)
    }

    /// What every update is multiplied by, times the rank.
    pub(crate) fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(self.rank as f64)
    }
}

struct Attach<'a> {
    section: &'a LoraSection,
    keys: &'a KeyMap,
    noise: &'a mut Noise,
    /// Which of the section's layers the network has.
    found: &'a mut [bool],
}

impl Attach<'_> {
    /// Whether the weight under this name is updated.
    fn wants(&mut self, name: &str) -> bool {
        let place = self.section.place(name);
        place.into_iter().for_each(|place| self.found[place] = true);
        place.is_some()
    }
}

impl Reparameterizer for Attach<'_> {
    type Reparam = LowRank;

    fn reparameterize<const D: usize>(
        &mut self,
        path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<LowRank>) {
        let base = param.set_require_grad(false);
        if !matches!(D, 2 | 4) || !self.wants(&self.keys.key(path)) {
            return (base, None);
        }
        let (shape, device, rank) = (base.lazy_shape(), base.lazy_device(), self.section.rank);
        // A linear layer is kept as [inputs, outputs], a convolution as [outputs, inputs, height, width].
        let (outputs, inputs) = match D {
            2 => (shape[1], shape[0]),
            _ => (shape[0], shape[1..].iter().product()),
        };
        let bound = (1.0 / inputs as f64).sqrt();
        let down = self.noise.uniform(-bound..=bound, rank * inputs);
        let down = TensorData::new(down.into_iter().map(|value| value as f32).collect(), [rank, inputs]);
        let update = LowRank {
            down: Param::from_data(down, &device),
            up: Param::from_tensor(Tensor::zeros([outputs, rank], &device)),
            scale: self.section.alpha() / rank as f64,
        };
        (base, Some(update))
    }
}
