//! Two-dimensional experiments: a small network behind [`Denoiser`], and a plot.
//!
//! A point is a sample `[2, 1, 1]`.

use burn::module::Module;
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::{Device, Tensor, activation::silu};
use dmd_core::{Denoiser, FakeScore, NoiseLevel, Prediction, per_sample};
use image::{Rgb, RgbImage};

/// A multilayer perceptron with EDM's preconditioning: three hidden SiLU layers over the point and
/// seven functions of `ln(sigma) / 4`, the last layer zero at the start.
#[derive(Module, Debug)]
pub struct Mlp {
    hidden: Vec<Linear>,
    out: Linear,
    sigma_data: f64,
}

impl Mlp {
    /// A fresh network of a hidden width, for data of standard deviation `sigma_data`.
    pub fn new(width: usize, sigma_data: f64, device: &Device) -> Self {
        let layer = |input| LinearConfig::new(input, width).init(device);
        Self {
            hidden: vec![layer(9), layer(width), layer(width)],
            out: LinearConfig::new(width, 2).with_initializer(Initializer::Zeros).init(device),
            sigma_data,
        }
    }

    fn prediction(&self) -> Prediction {
        Prediction::Karras { sigma_data: self.sigma_data }
    }
}

impl Denoiser for Mlp {
    type Condition = ();

    fn denoise(&self, x_t: Tensor<4>, level: &NoiseLevel, _condition: &()) -> Tensor<4> {
        let [batch, ..] = x_t.dims();
        let input = x_t.clone() * per_sample(self.prediction().scalings(level).c_in);
        let c = level.sigma.clone().log().reshape([batch, 1]) / 4.0;
        let mut features = vec![input.reshape([batch, 2]), c.clone()];
        for frequency in [2.0, 4.0, 8.0] {
            features.push((c.clone() * frequency).sin());
            features.push((c.clone() * frequency).cos());
        }
        let hidden = self.hidden.iter().fold(Tensor::cat(features, 1), |h, layer| silu(layer.forward(h)));
        let output = self.out.forward(hidden).reshape([batch, 2, 1, 1]);
        self.prediction().to_x0(output, x_t, level)
    }
}

impl FakeScore for Mlp {
    fn loss_weight(&self, level: &NoiseLevel) -> Tensor<1> {
        self.prediction().loss_weight(level)
    }
}

/// The points of `[count, 2, 1, 1]`.
pub fn points(x: Tensor<4>) -> Vec<[f64; 2]> {
    let values: Vec<f64> = x.into_data().iter::<f64>().collect();
    values.chunks_exact(2).map(|p| [p[0], p[1]]).collect()
}

/// Panels of points side by side, each showing `[−reach, reach]` squared.
pub fn scatter(panels: &[&[[f64; 2]]], reach: f64) -> RgbImage {
    const SIDE: u32 = 320;
    let mut plot = RgbImage::from_pixel(SIDE * panels.len() as u32, SIDE, Rgb([255; 3]));
    for (panel, points) in panels.iter().enumerate() {
        let left = panel as u32 * SIDE;
        for y in 0..SIDE {
            plot.put_pixel(left, y, Rgb([200; 3]));
        }
        for [x, y] in points.iter() {
            let pixel = |v: f64| ((v / reach + 1.0) / 2.0 * f64::from(SIDE)).floor();
            let (x, y) = (pixel(*x), f64::from(SIDE) - 1.0 - pixel(*y));
            if (0.0..f64::from(SIDE)).contains(&x) && (0.0..f64::from(SIDE)).contains(&y) {
                let dot = plot.get_pixel_mut(left + x as u32, y as u32);
                dot.0 = [dot.0[0] / 2, dot.0[1] / 2 + 30, 200];
            }
        }
    }
    plot
}
