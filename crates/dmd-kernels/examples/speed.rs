//! Times the hot operations at Stable Diffusion's shapes on flex: the median of some runs, in milliseconds.
//!
//! ```text
//! cargo run --package dmd-kernels --features flex --example speed
//! ```

use std::time::Instant;

use burn::tensor::{Device, Distribution, Tensor};
use dmd_kernels::{Activation, attention, convolution3, geglu, group_norm};

/// Timed runs of each operation.
const RUNS: usize = 15;

fn time<const D: usize>(name: &str, run: impl Fn() -> Tensor<D>) {
    drop(run().into_data());
    let mut times: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            drop(run());
            start.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("{name:40} {:8.3} {:8.3}", times[RUNS / 2], times[0]);
}

fn main() {
    let device = Device::flex();
    let four = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    let three = |shape: [usize; 3]| Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), &device);
    let one = |width: usize| Tensor::<1>::random([width], Distribution::Normal(1.0, 0.2), &device);
    println!("{:40} {:>8} {:>8}", "operation", "median", "best");
    for (name, activation) in [("group norm", Activation::Identity), ("group norm + SiLU", Activation::Silu)]
    {
        let (x, gamma, beta) = (four([1, 320, 64, 64]), one(320), one(320));
        time(&format!("{name}, 320 at 64×64"), || {
            group_norm(x.clone(), gamma.clone(), beta.clone(), 32, 1e-5, activation)
        });
        let tracked = x.clone().autodiff().require_grad();
        time(&format!("{name}, 320 at 64×64, gradient"), || {
            let out = group_norm(tracked.clone(), gamma.clone(), beta.clone(), 32, 1e-5, activation);
            let grads = out.sum().backward();
            tracked.grad(&grads).unwrap_or_else(|| x.clone())
        });
    }
    let qkv = three([1, 4096, 320]);
    time("attention 4096 to 4096, 8 heads of 40", || {
        attention(qkv.clone(), qkv.clone(), qkv.clone(), 8, false)
    });
    let (q, kv) = (three([1, 1024, 640]), three([1, 77, 640]));
    time("attention 1024 to 77, 8 heads of 80", || attention(q.clone(), kv.clone(), kv.clone(), 8, false));
    for (channels, side) in [(320, 64), (640, 32), (1280, 8), (4, 64)] {
        let (x, weight) = (four([1, channels, side, side]), four([channels, channels, 3, 3]));
        let bias = one(channels);
        time(&format!("convolution 3×3, {channels} at {side}×{side}"), || {
            convolution3(x.clone(), weight.clone(), bias.clone())
        });
    }
    let both = three([1, 4096, 2560]);
    time("GEGLU to 1280, 4096 rows", || geglu(both.clone()));
}
