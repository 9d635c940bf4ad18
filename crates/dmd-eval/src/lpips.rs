//! LPIPS: the distance of two pictures in a classifier's features (Zhang et al. 2018), DMD's regression loss.

use std::path::Path;

use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::activation::relu;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Device, Tensor};
use dmd_weights::KeyMap;
use serde::{Deserialize, Serialize};

use crate::Error;

/// A network whose features LPIPS compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backbone {
    /// VGG-16, thirteen convolutions: DMD's.
    #[default]
    Vgg16,
    /// AlexNet, five convolutions: a fifth of the work.
    AlexNet,
}

/// A trunk's convolution: channels in and out, kernel, stride, padding.
type Shape = (usize, usize, usize, usize, usize);

impl Backbone {
    /// Convolutions by stage; each stage but the first starts with a max pool where `pools` says so, and ends in a
    /// feature map that is compared.
    fn stages(self) -> Vec<Vec<Shape>> {
        let three = |input, output| (input, output, 3, 1, 1);
        match self {
            Self::Vgg16 => vec![
                vec![three(3, 64), three(64, 64)],
                vec![three(64, 128), three(128, 128)],
                vec![three(128, 256), three(256, 256), three(256, 256)],
                vec![three(256, 512), three(512, 512), three(512, 512)],
                vec![three(512, 512), three(512, 512), three(512, 512)],
            ],
            Self::AlexNet => vec![
                vec![(3, 64, 11, 4, 2)],
                vec![(64, 192, 5, 1, 2)],
                vec![three(192, 384)],
                vec![three(384, 256)],
                vec![three(256, 256)],
            ],
        }
    }

    /// The max pool before a stage: its window; the stride is 2.
    fn pool(self, stage: usize) -> Option<usize> {
        match (self, stage) {
            (_, 0) => None,
            (Self::Vgg16, _) => Some(2),
            (Self::AlexNet, 1 | 2) => Some(3),
            (Self::AlexNet, _) => None,
        }
    }

    /// torchvision's numbers in `features`, in which activations and pools count.
    fn keys(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Vgg16 => &[
                ("convs.0", "features.0"),
                ("convs.1", "features.2"),
                ("convs.2", "features.5"),
                ("convs.3", "features.7"),
                ("convs.4", "features.10"),
                ("convs.5", "features.12"),
                ("convs.6", "features.14"),
                ("convs.7", "features.17"),
                ("convs.8", "features.19"),
                ("convs.9", "features.21"),
                ("convs.10", "features.24"),
                ("convs.11", "features.26"),
                ("convs.12", "features.28"),
            ],
            Self::AlexNet => &[
                ("convs.0", "features.0"),
                ("convs.1", "features.3"),
                ("convs.2", "features.6"),
                ("convs.3", "features.8"),
                ("convs.4", "features.10"),
            ],
        }
    }
}

/// `lpips`' names of the five weightings.
const LINEAR_KEYS: KeyMap = KeyMap {
    prefix: "",
    renames: &[
        ("layers.0", "lin0.model.1"),
        ("layers.1", "lin1.model.1"),
        ("layers.2", "lin2.model.1"),
        ("layers.3", "lin3.model.1"),
        ("layers.4", "lin4.model.1"),
    ],
    aliases: &[],
};

#[derive(Module, Debug)]
struct Trunk {
    convs: Vec<Conv2d>,
}

/// One weight per channel and feature map.
#[derive(Module, Debug)]
struct Weightings {
    layers: Vec<Conv2d>,
}

/// The metric with its weights, frozen.
#[derive(Debug, Clone)]
pub struct Lpips {
    backbone: Backbone,
    trunk: Trunk,
    weightings: Weightings,
}

/// `lpips`' shift and scale of pictures in [−1, 1]: ImageNet's mean and deviation.
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];

impl Lpips {
    /// Reads torchvision's classifier (`vgg16-397923af.pth`, `alexnet-owt-7be5be79.pth`, or the same as
    /// safetensors; the layers behind `features` are not needed) and `lpips`' own weights (version 0.1,
    /// `vgg.pth` or `alex.pth`). `.pth` files need the feature `pytorch`.
    ///
    /// # Errors
    ///
    /// When a file is missing, broken or of another network.
    pub fn from_files(
        backbone: Backbone,
        trunk: &Path,
        weightings: &Path,
        device: &Device,
    ) -> Result<Self, Error> {
        let conv = |(input, output, kernel, stride, padding): &Shape| {
            Conv2dConfig::new([*input, *output], [*kernel, *kernel])
                .with_stride([*stride, *stride])
                .with_padding(PaddingConfig2d::Explicit(*padding, *padding, *padding, *padding))
                .init(device)
        };
        let stages = backbone.stages();
        let fresh = Trunk { convs: stages.iter().flatten().map(conv).collect() };
        let file = dmd_weights::read(trunk)?.select(|name| name.starts_with("features."));
        let keys = KeyMap { prefix: "", renames: backbone.keys(), aliases: &[] };
        let trunk = dmd_weights::load(fresh, &file, &keys)?;
        let layer = |stage: &Vec<Shape>| {
            let width = stage.last().map_or(0, |shape| shape.1);
            Conv2dConfig::new([width, 1], [1, 1]).with_bias(false).init(device)
        };
        let fresh = Weightings { layers: stages.iter().map(layer).collect() };
        let weightings = dmd_weights::load(fresh, &dmd_weights::read(weightings)?, &LINEAR_KEYS)?;
        Ok(Self { backbone, trunk, weightings })
    }

    /// The distance of each pair of pictures, `[batch]`.
    ///
    /// # Shapes
    ///
    /// `first`, `second`: `[batch, 3, height, width]` in [−1, 1], at least 32 (VGG-16) or 64 (AlexNet) a side.
    pub fn distance(&self, first: Tensor<4>, second: Tensor<4>) -> Tensor<1> {
        let [batch, ..] = first.dims();
        let features = self.features(Tensor::cat(vec![first, second], 0));
        let mut total: Option<Tensor<1>> = None;
        for (features, weighting) in features.into_iter().zip(&self.weightings.layers) {
            // Unit length over channels; the epsilon below keeps the derivative finite where all are 0.
            let length = (features.clone().square().sum_dim(1) + 1e-20).sqrt();
            let unit = features / (length + 1e-10);
            let apart = (unit.clone().narrow(0, 0, batch) - unit.narrow(0, batch, batch)).square();
            let part: Tensor<1> = weighting.forward(apart).mean_dims(&[2, 3]).reshape([batch]);
            total = Some(match total {
                Some(total) => total + part,
                None => part,
            });
        }
        total.expect("five feature maps")
    }

    /// The five feature maps.
    fn features(&self, x: Tensor<4>) -> Vec<Tensor<4>> {
        let row = |values: [f32; 3]| Tensor::<1>::from_floats(values, &x.device()).reshape([1, 3, 1, 1]);
        let (shift, scale) = (row(SHIFT), row(SCALE));
        let mut h = (x - shift) / scale;
        let mut convs = self.trunk.convs.iter();
        let mut maps = Vec::new();
        for (stage, shapes) in self.backbone.stages().iter().enumerate() {
            if let Some(window) = self.backbone.pool(stage) {
                h = max_pool2d(h, MaxPoolOptions::new([window; 2]).with_stride([2, 2]));
            }
            for conv in convs.by_ref().take(shapes.len()) {
                h = relu(conv.forward(h));
            }
            maps.push(h.clone());
        }
        maps
    }
}
