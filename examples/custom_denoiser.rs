//! Your own network behind `Denoiser`: everything else (samplers, guidance, losses) then works with
//! it. Here the "network" is three numbers that shrink and shift, trained with burn's own tools.
//!
//! `cargo run --release --example custom_denoiser`

use anyhow::ensure;
use burn::module::{Module, Param};
use burn::tensor::Tensor;
use dmd::core::{
    Denoiser, FakeScore, GaussianMixture, Noise, NoiseLevel, NoiseSchedule, Prediction, denoising, per_sample,
};
use dmd::device;
use dmd::scheduler::{KarrasSchedule, TimeSampler, heun};
use dmd::train::{AdamW, AdamWConfig, Gradients, LearningRate};
use dmd_ablations::toy::points;

// ANCHOR: network
/// `E[x0 | x_t]` of a Gaussian N(m, s²): `m + s² / (s² + sigma²) · (x_t − m)`, with m and s to learn.
#[derive(Module, Debug)]
struct Shrink {
    mean: Param<Tensor<1>>,
    deviation: Param<Tensor<1>>,
}
// ANCHOR_END: network

// ANCHOR: denoiser
impl Denoiser for Shrink {
    type Condition = ();

    fn denoise(&self, x_t: Tensor<4>, level: &NoiseLevel, _condition: &()) -> Tensor<4> {
        let mean = self.mean.val().reshape([1, 2, 1, 1]);
        let variance = self.deviation.val().square().reshape([1, 1, 1, 1]);
        let noise = per_sample::<4>(level.sigma.clone().square());
        mean.clone() + (x_t - mean) * variance.clone() / (variance + noise)
    }
}
// ANCHOR_END: denoiser

// ANCHOR: fake_score
impl FakeScore for Shrink {
    fn loss_weight(&self, level: &NoiseLevel) -> Tensor<1> {
        Prediction::Karras { sigma_data: 0.5 }.loss_weight(level)
    }
}
// ANCHOR_END: fake_score

fn main() -> anyhow::Result<()> {
    let device = device::open("flex")?;
    let training = device.clone().autodiff();
    let data = GaussianMixture::new(&[(1.0, &[0.3, -0.2], 0.4)]);
    let schedule = KarrasSchedule::default();
    let times = TimeSampler::Grid(schedule.sigmas(1000)[300..700].to_vec());
    let mut noise = Noise::from_seed(1);
    let mut model = Shrink {
        mean: Param::from_tensor(Tensor::from_floats([0.0, 0.0], &training)),
        deviation: Param::from_tensor(Tensor::from_floats([1.0], &training)),
    };
    // ANCHOR: training
    let mut adam = AdamW::new(AdamWConfig { weight_decay: 0.0, ..AdamWConfig::default() });
    let rate = LearningRate::cosine(1e-2, 10, 1500);
    for step in 0..1500 {
        let x0 = data.sample(256, &mut noise, &device);
        let level = schedule.level(times.draw(256, &mut noise, &device));
        let x_t = level.add_noise(x0.clone(), noise.normal([256, 2, 1, 1], &device));
        let loss = denoising::loss(model.denoise(x_t, &level, &()), x0, model.loss_weight(&level));
        let grads = Gradients::of(loss, &model);
        (model, _) = adam.step(rate.at(step), model, grads);
    }
    // ANCHOR_END: training
    let model = model.valid();
    println!(
        "learned {} and {}, exact [0.3, -0.2] and [0.4]",
        model.mean.val().into_data(),
        model.deviation.val().into_data()
    );

    // ANCHOR: sampling
    let z = noise.normal([4000, 2, 1, 1], &device) * schedule.sigma_max;
    let samples = points(heun::sample(&model, &schedule, 18, z, &()));
    // ANCHOR_END: sampling
    let mean = |axis: usize| samples.iter().map(|p| p[axis]).sum::<f64>() / 4000.0;
    println!("mean of 4000 samples by Heun's method: {:.3}, {:.3}", mean(0), mean(1));
    // 0.4 / √4000 is 0.006; the parameters themselves are good to about 0.01.
    ensure!((mean(0) - 0.3).abs() < 0.04 && (mean(1) + 0.2).abs() < 0.04, "the sampler misses the data");
    Ok(())
}
