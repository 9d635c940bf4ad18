//! The judge of small pictures: a classifier that is trained on them.

use burn::module::{Module, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::{Linear, PaddingConfig2d};
use burn::tensor::activation::{log_softmax, relu};
use burn::tensor::{Device, Tensor};
use dmd_core::Noise;
use dmd_train::{AdamW, AdamWConfig, Gradients, LearningRate};

use crate::data::{Batch, indices};

/// Three convolutions and a linear layer.
#[derive(Module, Debug)]
pub(crate) struct Classifier {
    convs: Vec<Conv2d>,
    out: Linear,
}

impl Classifier {
    /// Fresh, with He's deviations, drawn on the host: the judge is the same on every run, whatever else draws numbers.
    pub(crate) fn new(channels: usize, classes: usize, device: &Device) -> Self {
        let mut noise = Noise::from_seed(40);
        let mut conv = |input: usize, output: usize, stride| {
            let weight = noise.normal([output, input, 3, 3], device) * (2.0 / (9 * input) as f64).sqrt();
            Conv2d {
                weight: Param::from_tensor(weight),
                bias: Some(Param::from_tensor(Tensor::zeros([output], device))),
                ..Conv2dConfig::new([input, output], [3, 3])
                    .with_stride([stride, stride])
                    .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                    .init(device)
            }
        };
        let convs = vec![conv(channels, 24, 1), conv(24, 48, 2), conv(48, 48, 2)];
        let weight = noise.normal([4 * 48, classes], device) * (1.0 / (4.0 * 48.0_f64)).sqrt();
        let bias = Some(Param::from_tensor(Tensor::zeros([classes], device)));
        Self { convs, out: Linear { weight: Param::from_tensor(weight), bias } }
    }

    /// Features averaged over each quarter, `[batch, 192]`.
    fn pooled(&self, x: Tensor<4>) -> Tensor<2> {
        let h = self.convs.iter().fold(x, |h, conv| relu(conv.forward(h)));
        let [batch, channels, height, width] = h.dims();
        h.reshape([batch, channels, 2, height / 2, 2, width / 2])
            .mean_dims(&[3, 5])
            .reshape([batch, 4 * channels])
    }

    /// Trains on batches of a size that `draw` gives; cross-entropy, Adam with a cosine.
    pub(crate) fn trained(mut self, mut draw: impl FnMut(usize, &mut Noise) -> Batch) -> Self {
        const STEPS: usize = 600;
        const BATCH: usize = 64;
        let mut adam = AdamW::new(AdamWConfig::default());
        let rate = LearningRate::cosine(2e-3, 50, STEPS);
        let mut noise = Noise::from_seed(41);
        for step in 0..STEPS {
            let Batch { x0, classes: labels } = draw(BATCH, &mut noise);
            let Some(labels) = labels else { break };
            let log = log_softmax(self.out.forward(self.pooled(x0)), 1);
            let loss = -(log * labels).sum() / BATCH as f64;
            let grads = Gradients::of(loss, &self);
            (self, _) = adam.step(rate.at(step), self, grads);
        }
        self
    }

    /// Features of samples, and the class each is taken for.
    pub(crate) fn features(&self, x0: &Tensor<4>) -> (Vec<Vec<f64>>, Vec<usize>) {
        let [count, ..] = x0.dims();
        let (mut rows, mut classes) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for start in (0..count).step_by(250) {
            let features = self.pooled(x0.clone().narrow(0, start, 250.min(count - start)));
            let [_, width] = features.dims();
            classes.extend(indices(&self.out.forward(features.clone())));
            let values: Vec<f64> = features.into_data().iter::<f64>().collect();
            rows.extend(values.chunks_exact(width).map(<[f64]>::to_vec));
        }
        (rows, classes)
    }
}
