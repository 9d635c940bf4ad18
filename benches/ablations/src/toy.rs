//! Two-dimensional experiments: a small network behind [`Denoiser`], and a plot.
//!
//! A point is a sample `[2, 1, 1]`.

use std::fmt;

use burn::module::Module;
use burn::nn::{Initializer, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use dmd_core::{
    Classes, Condition, Denoiser, FakeScore, GaussianMixture, NoiseLevel, Prediction, per_sample,
};
use dmd_kernels::silu;
use image::{Rgb, RgbImage};
use plotters::coord::Shift;
use plotters::prelude::*;

/// A multilayer perceptron with EDM's preconditioning: three hidden SiLU layers over the point and
/// seven functions of `ln(sigma) / 4`, the last layer zero at the start.
#[derive(Module, Debug)]
pub struct Mlp {
    hidden: Vec<Linear>,
    out: Linear,
    /// A critic's head on the second hidden layer, two layers to one logit.
    critic: Vec<Linear>,
    sigma_data: f64,
}

impl Mlp {
    /// A fresh network of a hidden width, for points of the plane of standard deviation `sigma_data`.
    pub fn new(width: usize, sigma_data: f64, device: &Device) -> Self {
        Self::of_inputs(2, 0, width, sigma_data, device)
    }

    /// Variance `1 / inputs` in the hidden layers: with PyTorch's third of it, three SiLU layers over 64 inputs
    /// pass too little on, and a teacher of 8×8 pictures stays blurred.
    fn of_inputs(dim: usize, classes: usize, width: usize, sigma_data: f64, device: &Device) -> Self {
        let initializer = Initializer::KaimingUniform { gain: 1.0, fan_out_only: false };
        let layer =
            |input| LinearConfig::new(input, width).with_initializer(initializer.clone()).init(device);
        Self {
            hidden: vec![layer(dim + 7 + classes), layer(width), layer(width)],
            out: LinearConfig::new(width, dim).with_initializer(Initializer::Zeros).init(device),
            critic: Vec::new(),
            sigma_data,
        }
    }

    /// The same network with a fresh critic's head.
    pub fn with_critic(self, device: &Device) -> Self {
        let [_, width] = self.hidden[1].weight.dims();
        let layer = |output| LinearConfig::new(width, output).init(device);
        Self { critic: vec![layer(width), layer(1)], ..self }
    }

    /// What the hidden layers see of a point.
    fn features(&self, x_t: Tensor<4>, level: &NoiseLevel, classes: &Classes) -> Tensor<2> {
        let [batch, ..] = x_t.dims();
        let dim = x_t.dims()[1..].iter().product();
        let input: Tensor<4> = x_t * per_sample(self.prediction().scalings(level).c_in);
        let c = level.sigma.clone().log().reshape([batch, 1]) / 4.0;
        let mut features: Vec<Tensor<2>> = vec![input.reshape([batch, dim]), c.clone()];
        for frequency in [2.0, 4.0, 8.0] {
            features.push((c.clone() * frequency).sin());
            features.push((c.clone() * frequency).cos());
        }
        features.extend(classes.expand(batch));
        Tensor::cat(features, 1)
    }

    fn prediction(&self) -> Prediction {
        Prediction::Karras { sigma_data: self.sigma_data }
    }
}

impl Mlp {
    fn denoise_as(&self, x_t: Tensor<4>, level: &NoiseLevel, classes: &Classes) -> Tensor<4> {
        let shape = x_t.dims();
        let features = self.features(x_t.clone(), level, classes);
        let hidden = self.hidden.iter().fold(features, |h, layer| silu(layer.forward(h)));
        let output = self.out.forward(hidden).reshape(shape);
        self.prediction().to_x0(output, x_t, level)
    }

    fn logits_as(&self, x_t: Tensor<4>, level: &NoiseLevel, classes: &Classes) -> Option<Tensor<2>> {
        let (last, first) = self.critic.split_last()?;
        let features = self.features(x_t, level, classes);
        let bottleneck = self.hidden[..2].iter().fold(features, |h, layer| silu(layer.forward(h)));
        let h = first.iter().fold(bottleneck, |h, layer| silu(layer.forward(h)));
        Some(last.forward(h))
    }
}

impl Denoiser for Mlp {
    type Condition = ();

    fn denoise(&self, x_t: Tensor<4>, level: &NoiseLevel, _condition: &()) -> Tensor<4> {
        self.denoise_as(x_t, level, &None)
    }
}

impl FakeScore for Mlp {
    fn loss_weight(&self, level: &NoiseLevel) -> Tensor<1> {
        self.prediction().loss_weight(level)
    }

    fn logits(&self, x_t: Tensor<4>, level: &NoiseLevel, _condition: &()) -> Option<Tensor<2>> {
        self.logits_as(x_t, level, &None)
    }
}

/// [`Mlp`] with classes among its inputs.
#[derive(Module, Debug)]
pub struct ClassMlp {
    network: Mlp,
}

impl ClassMlp {
    /// A fresh network of a hidden width, for points of `dim` coordinates and standard deviation
    /// `sigma_data`, with `classes` classes (0: none).
    pub fn new(dim: usize, classes: usize, width: usize, sigma_data: f64, device: &Device) -> Self {
        Self { network: Mlp::of_inputs(dim, classes, width, sigma_data, device) }
    }

    /// The same network with a fresh critic's head.
    pub fn with_critic(self, device: &Device) -> Self {
        Self { network: self.network.with_critic(device) }
    }
}

impl Denoiser for ClassMlp {
    type Condition = Classes;

    fn denoise(&self, x_t: Tensor<4>, level: &NoiseLevel, classes: &Classes) -> Tensor<4> {
        self.network.denoise_as(x_t, level, classes)
    }
}

impl FakeScore for ClassMlp {
    fn loss_weight(&self, level: &NoiseLevel) -> Tensor<1> {
        self.network.loss_weight(level)
    }

    fn logits(&self, x_t: Tensor<4>, level: &NoiseLevel, classes: &Classes) -> Option<Tensor<2>> {
        self.network.logits_as(x_t, level, classes)
    }
}

/// The points of `[count, 2, 1, 1]`.
pub fn points(x: Tensor<4>) -> Vec<[f64; 2]> {
    let values: Vec<f64> = x.into_data().iter::<f64>().collect();
    values.chunks_exact(2).map(|p| [p[0], p[1]]).collect()
}

/// How far a set of points is from a [`GaussianMixture`]; its `Display` is a small table.
#[derive(Debug, Clone, PartialEq)]
pub struct Agreement {
    /// Per axis: mean and variance, each with its distance from the exact value in standard errors.
    pub moments: Vec<[(f64, f64); 2]>,
    /// Per mode: the share of points within 4 of its deviations, and its exact weight.
    pub shares: Vec<(f64, f64)>,
}

impl Agreement {
    /// Compares points with the mixture they should come from.
    pub fn of(points: &[[f64; 2]], exact: &GaussianMixture) -> Self {
        let n = points.len() as f64;
        let moments = (0..2).map(|axis| {
            let average = |f: &dyn Fn(f64) -> f64| points.iter().map(|p| f(p[axis])).sum::<f64>() / n;
            let mean = average(&|v| v);
            let variance = average(&|v| (v - mean).powi(2));
            let fourth = average(&|v| (v - mean).powi(4));
            let mean_off = (mean - exact.mean()[axis]) / (variance / n).sqrt();
            let spread = ((fourth - variance * variance) / n).sqrt();
            [(mean, mean_off), (variance, (variance - exact.variance()[axis]) / spread)]
        });
        let modes = exact.means().iter().zip(exact.stds()).zip(exact.weights());
        let shares = modes.map(|((mode, std), weight)| {
            let near = |p: &&[f64; 2]| (p[0] - mode[0]).hypot(p[1] - mode[1]) < 4.0 * std;
            (points.iter().filter(near).count() as f64 / n, *weight)
        });
        Self { moments: moments.collect(), shares: shares.collect() }
    }

    /// Every mean and variance within 4 standard errors, no mode with less than half its share.
    pub fn holds(&self) -> bool {
        self.moments.iter().flatten().all(|(_, off)| off.abs() <= 4.0)
            && self.shares.iter().all(|(share, weight)| *share > weight / 2.0)
    }
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (axis, [(mean, mean_off), (variance, variance_off)]) in self.moments.iter().enumerate() {
            writeln!(
                f,
                "  axis {axis}: mean {mean:.3} ({mean_off:+.1} standard errors), variance {variance:.3} ({variance_off:+.1})"
            )?;
        }
        let shares = self.shares.iter().map(|(share, weight)| format!("{share:.3} of {weight:.3}"));
        write!(f, "  share of each mode: {}", shares.collect::<Vec<_>>().join(", "))
    }
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

/// A square grid of `side` × `side` points over `[−reach, reach]` squared, row by row.
pub fn grid(side: usize, reach: f64) -> Vec<[f64; 2]> {
    let place = |i: usize| ((i as f64 + 0.5) / side as f64 * 2.0 - 1.0) * reach;
    (0..side * side).map(|i| [place(i % side), place(i / side)]).collect()
}

/// Draws a field on the points of a [`grid`] as arrows, and samples as dots. A vector of length `longest` fills a cell of the
/// grid, a longer one is cut.
///
/// # Errors
///
/// When the backend cannot draw.
pub fn field<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    name: &str,
    longest: f64,
    arrows: &[([f64; 2], [f64; 2])],
    samples: &[[f64; 2]],
) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
    let side = (arrows.len() as f64).sqrt();
    let reach = arrows.iter().flat_map(|(at, _)| at).fold(0.0, |most: f64, v| most.max(v.abs())) * side
        / (side - 1.0);
    let area = area.titled(name, ("sans-serif", 15))?;
    let chart = ChartBuilder::on(&area).margin(6).build_cartesian_2d(-reach..reach, -reach..reach)?;
    let plane = chart.plotting_area();
    plane.draw(&Rectangle::new([(-reach, -reach), (reach, reach)], BLACK.mix(0.3)))?;
    for [x, y] in samples {
        plane.draw(&Circle::new((*x, *y), 2, RGBColor(255, 127, 14).filled()))?;
    }
    for ([x, y], [u, v]) in arrows {
        let scale = 2.0 * reach / side / u.hypot(*v).max(longest);
        let (u, v) = (u * scale, v * scale);
        let barb = |across: f64| (x + 0.7 * u - across * v, y + 0.7 * v + across * u);
        let (tail, head) = ((*x, *y), (x + u, y + v));
        plane
            .draw(&PathElement::new(vec![tail, head, barb(0.2), head, barb(-0.2)], RGBColor(31, 80, 160)))?;
    }
    Ok(())
}
