//! Times the hot operations at Stable Diffusion's shapes on flex: the median and the best of some runs, in milliseconds.
//!
//! ```text
//! cargo run --package dmd-kernels --features flex --example speed [NAME [bf16]]
//! ```
//!
//! With `bf16` the weights of linear layers and convolutions are of that type, and attention is between such layers.

use std::time::Instant;

use burn::nn::conv::Conv2dConfig;
use burn::nn::{GroupNormConfig, LinearConfig, PaddingConfig2d};
use burn::tensor::{DType, Device, Distribution, FloatDType, Tensor};
use dmd_kernels::device::processor_peak;
use dmd_kernels::{
    Activation, attention_between, convolution, convolution3, geglu, group_norm, linear, linear_composed,
    linear_geglu, normalised_convolution,
};

/// Timed runs of each operation.
const RUNS: usize = 15;

/// Prints the times, and the rate of the best where an operation has a number of multiplications and additions.
fn time<const D: usize>(name: &str, flops: f64, run: impl Fn() -> Tensor<D>) {
    drop(run().into_data());
    let mut times: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            drop(run());
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    let rate = if flops > 0.0 { format!("{:8.0}", flops / times[0] / 1e6) } else { String::new() };
    println!("{name:40} {:8.3} {:8.3} {rate}", times[RUNS / 2], times[0]);
}

/// A weight in bf16 or as it is.
fn stored<const D: usize>(weight: Tensor<D>, brain: bool) -> Tensor<D> {
    if brain { weight.cast(FloatDType::BF16) } else { weight }
}

fn main() {
    let device = Device::flex();
    let only = std::env::args().nth(1).unwrap_or_default();
    let brain = std::env::args().nth(2).is_some_and(|word| word == "bf16");
    let wanted = |name: &str| name.contains(&only);
    let four = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    let three = |shape: [usize; 3]| Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    let one = |width: usize| Tensor::<1>::random([width], Distribution::Normal(1.0, 0.2), &device);
    println!("peak: {:.0} GFLOP/s", processor_peak().unwrap_or(f64::NAN) / 1e9);
    println!("{:40} {:>8} {:>8} {:>8}", "operation", "median", "best", "GFLOP/s");
    if wanted("group norm") {
        for (name, activation) in
            [("group norm", Activation::Identity), ("group norm + SiLU", Activation::Silu)]
        {
            for (channels, side) in [(320, 64), (128, 512)] {
                let (x, gamma, beta) = (four([1, channels, side, side]), one(channels), one(channels));
                time(&format!("{name}, {channels} at {side}×{side}"), 0.0, || {
                    group_norm(x.clone(), gamma.clone(), beta.clone(), 32, 1e-5, activation)
                });
                if side > 64 {
                    continue;
                }
                let tracked = x.clone().autodiff().require_grad();
                time(&format!("{name}, {channels} at {side}×{side}, gradient"), 0.0, || {
                    let out = group_norm(tracked.clone(), gamma.clone(), beta.clone(), 32, 1e-5, activation);
                    let grads = out.sum().backward();
                    tracked.grad(&grads).unwrap_or_else(|| x.clone())
                });
            }
        }
    }
    if wanted("attention") {
        let weights = if brain { DType::BF16 } else { DType::F32 };
        for (queries, keys, heads, width) in [
            (4096, 4096, 8, 40),
            (1024, 1024, 8, 80),
            (256, 256, 8, 160),
            (4096, 77, 8, 40),
            (1024, 77, 8, 80),
            (4096, 4096, 1, 512),
            (1024, 1024, 20, 64),
        ] {
            let (q, kv) = (three([1, queries, heads * width]), three([1, keys, heads * width]));
            let flops = 4.0 * (queries * keys * heads * width) as f64;
            time(&format!("attention {queries} to {keys}, {heads} heads of {width}"), flops, || {
                attention_between(weights, q.clone(), kv.clone(), kv.clone(), heads)
            });
        }
    }
    if wanted("linear") {
        for (rows, input, output) in [
            (4096, 320, 320),
            (4096, 320, 2560),
            (4096, 1280, 320),
            (1024, 640, 5120),
            (1024, 2560, 640),
            (256, 1280, 1280),
            (256, 1280, 10240),
            (256, 5120, 1280),
            (64, 1280, 1280),
            (77, 768, 640),
        ] {
            // As loaded weights are: a view of `[output, input]`.
            let mut layer = LinearConfig::new(input, output).init(&device);
            layer.weight =
                layer.weight.map(|weight| stored(weight.transpose().mul_scalar(1.0), brain).transpose());
            let x = three([1, rows, input]);
            let flops = 2.0 * (rows * input * output) as f64;
            time(&format!("linear {input} → {output}, {rows} rows"), flops, || linear(&layer, x.clone()));
            let (x, weight) = (x.squeeze_dim::<2>(0), layer.weight.val());
            time("  burn's own", flops, || {
                linear_composed(x.clone(), weight.clone().cast(FloatDType::F32), None)
            });
        }
    }
    if wanted("convolution 3×3") {
        for (channels, side) in
            [(320, 64), (640, 32), (1280, 16), (1280, 8), (4, 64), (512, 128), (256, 256), (128, 512)]
        {
            let (x, weight) = (four([1, channels, side, side]), four([channels, channels, 3, 3]));
            let (weight, bias) = (stored(weight, brain), one(channels));
            let flops = 18.0 * (channels * channels * side * side) as f64;
            time(&format!("convolution 3×3, {channels} at {side}×{side}"), flops, || {
                convolution3(x.clone(), weight.clone(), bias.clone())
            });
        }
        for (channels, side) in [(320, 64), (1280, 16), (512, 128), (256, 256), (128, 512)] {
            let layer = Conv2dConfig::new([channels, channels], [3, 3])
                .with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1))
                .init(&device);
            let norm = GroupNormConfig::new(32, channels).init(&device);
            let x = four([1, channels, side, side]);
            let flops = 18.0 * (channels * channels * side * side) as f64;
            let name = format!("group norm + SiLU + convolution 3×3, {channels} at {side}×{side}");
            time(&name, flops, || normalised_convolution(&norm, Activation::Silu, &layer, x.clone(), None));
            time("  one after the other", flops, || {
                let parameter = |parameter: &Option<_>| {
                    parameter
                        .as_ref()
                        .map(burn::module::Param::<Tensor<1>>::val)
                        .unwrap_or_else(|| one(channels))
                };
                let (gamma, beta) = (parameter(&norm.gamma), parameter(&norm.beta));
                convolution(&layer, group_norm(x.clone(), gamma, beta, 32, 1e-5, Activation::Silu))
            });
        }
    }
    if wanted("convolution 1×1") {
        for (input, output, side) in
            [(320, 320, 64), (2560, 1280, 16), (1280, 1280, 8), (512, 256, 256), (256, 128, 512)]
        {
            let mut layer = Conv2dConfig::new([input, output], [1, 1]).init(&device);
            layer.weight = layer.weight.map(|weight| stored(weight, brain));
            let x = four([1, input, side, side]);
            let flops = 2.0 * (input * output * side * side) as f64;
            time(&format!("convolution 1×1, {input} → {output} at {side}×{side}"), flops, || {
                convolution(&layer, x.clone())
            });
        }
    }
    if wanted("geglu") {
        for (rows, input) in [(4096, 320), (1024, 640), (256, 1280)] {
            let mut layer = LinearConfig::new(input, 8 * input).init(&device);
            layer.weight =
                layer.weight.map(|weight| stored(weight.transpose().mul_scalar(1.0), brain).transpose());
            let x = three([1, rows, input]);
            let flops = 2.0 * (rows * input * 8 * input) as f64;
            let name = format!("linear with geglu {input} → {}, {rows} rows", 4 * input);
            time(&name, flops, || linear_geglu(&layer, x.clone()));
            time("  one after the other", flops, || geglu(linear(&layer, x.clone())));
        }
        let both = three([1, 4096, 2560]);
        time("geglu to 1280, 4096 rows", 0.0, || geglu(both.clone()));
    }
}
