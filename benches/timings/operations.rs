//! Every distinct operation of Stable Diffusion 1.5 at 512×512 and of the embedded model's UNet in training, on flex.
//!
//! ```text
//! cargo bench -p dmd-timings --features criterion --bench operations                       # all of them
//! cargo bench -p dmd-timings --features criterion --bench operations -- 'convolution 3×3'  # some
//! ```
//!
//! Throughput is in operations (multiplications and additions of the plain algorithm) per second: what is above the
//! machine's peak is an algorithm that needs fewer. `burn/…` is burn's own body of the same operation.

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use burn::tensor::{Device, Tensor, TensorData};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput};
use dmd::model::{OpenOptions, TextToImage};
use dmd_core::Noise;
use dmd_kernels::{Operation, Operations, attention_composed, convolution3_composed, recorded};
use dmd_unet::{AutoencoderConfig, Network, UNetConfig};

fn inputs(operation: &Operation, device: &Device) -> Vec<Tensor<1>> {
    let mut noise = Noise::from_seed(1);
    let random = |input: dmd_kernels::Input| {
        let values = noise.normals(input.shape.iter().product()).into_iter();
        let values: Vec<f32> = values.map(|v| (v * input.deviation + input.mean) as f32).collect();
        let count = values.len();
        Tensor::from_data(TensorData::new(values, [count]), device)
    };
    operation.inputs().into_iter().map(random).collect()
}

fn bench(group: &mut BenchmarkGroup<'_, WallTime>, operation: &Operation, device: &Device) {
    let inputs = inputs(operation, device);
    let work = match operation.flops() {
        0.0 => Throughput::Bytes(4 * inputs[0].dims()[0] as u64),
        work => Throughput::Elements(work as u64),
    };
    group.throughput(work);
    group.bench_function(operation.to_string(), |b| b.iter(|| black_box(operation.apply(&inputs))));
    let reshaped = |i: usize| {
        let shape = operation.inputs().swap_remove(i).shape;
        (inputs[i].clone(), shape)
    };
    let four = |i| {
        let (x, shape) = reshaped(i);
        x.reshape(<[usize; 4]>::try_from(shape).expect("an image"))
    };
    let three = |i| {
        let (x, shape) = reshaped(i);
        x.reshape(<[usize; 3]>::try_from(shape).expect("rows"))
    };
    match *operation {
        Operation::Convolution { kernel: 3, stride: 1, padding: [1, 1], .. } => {
            let (x, weight) = (four(0), four(1));
            group.bench_function(format!("burn/{operation}"), |b| {
                b.iter(|| black_box(convolution3_composed(x.clone(), weight.clone(), inputs[2].clone())))
            });
        }
        Operation::Attention { heads, causal, .. } => {
            let (q, k, v) = (three(0), three(1), three(2));
            group.bench_function(format!("burn/{operation}"), |b| {
                b.iter(|| black_box(attention_composed(q.clone(), k.clone(), v.clone(), heads, causal)))
            });
        }
        _ => {}
    }
}

/// What a UNet with random weights runs on square latents and 77 tokens.
fn unet_operations(config: &UNetConfig, batch: usize, side: usize, device: &Device) -> Operations {
    let unet = config.init(device).expect("a supported configuration");
    let x = Tensor::zeros([batch, config.in_channels, side, side], device);
    let text = Tensor::zeros([batch, 77, config.cross_attention_dim], device);
    recorded(|| unet.forward(x, Tensor::full([batch], 500.0, device), &text)).1
}

fn main() {
    let device = Device::flex();
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .configure_from_args();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/shapes");
    let embedded =
        TextToImage::open(&OpenOptions::new(folder, &device)).expect("the embedded model is whole");
    let small = embedded.networks.config().expect("the embedded model has its teacher");
    let vae = AutoencoderConfig::sd15();
    let latents = Tensor::zeros([1, vae.latent_channels, 64, 64], &device);
    let decoder = vae.init(&device).expect("a supported configuration");
    let networks: [(&str, Operations); 3] = [
        ("UNet", unet_operations(&UNetConfig::sd15(), 1, 64, &device)),
        ("decoder", recorded(|| decoder.decode(latents)).1),
        ("embedded UNet, batch 16", unet_operations(small, 16, small.sample_size, &device)),
    ];
    drop(decoder);
    for (name, operations) in networks {
        let mut group = criterion.benchmark_group(name);
        for operation in operations.keys() {
            bench(&mut group, operation, &device);
        }
        group.finish();
    }
    criterion.final_summary();
}
