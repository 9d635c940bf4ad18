//! The operations of the networks, shape by shape, on the device under test in single precision against flex in double
//! precision: kernels' faults belong to shapes. Values, and gradients in every input.

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use dmd::clip::TextEncoder;
use dmd::core::Noise;
use dmd::kernels::{Operation, Operations, recorded};
use dmd::unet::{Autoencoder, AutoencoderConfig, Network, UNet2d, UNetConfig};

use crate::support::{device, device_name};

/// Output and gradients of `sum(output · weights)`, in that order.
fn run(operation: &Operation, inputs: &[Vec<f32>], device: &Device, dtype: FloatDType) -> Vec<Vec<f64>> {
    let tensor = |values: &[f32]| {
        let data = TensorData::new(values.to_vec(), [values.len()]);
        Tensor::<1>::from_data(data, device).cast(dtype)
    };
    let leaves: Vec<Tensor<1>> =
        inputs.iter().map(|values| tensor(values).autodiff().require_grad()).collect();
    let output = operation.apply(&leaves);
    let weights = numbers(&mut Noise::from_seed(1), output.dims()[0], 0.0, 1.0);
    let grads = (output.clone() * tensor(&weights).autodiff()).sum().backward();
    let read = |tensor: Tensor<1>| tensor.cast(FloatDType::F64).into_data().iter::<f64>().collect();
    let gradients = leaves.iter().map(|leaf| read32(leaf.grad(&grads).unwrap(), dtype, read));
    std::iter::once(read32(output.without_autodiff(), dtype, read)).chain(gradients).collect()
}

/// Reads in the tensor's own type: not every device has double precision.
fn read32(tensor: Tensor<1>, dtype: FloatDType, double: impl Fn(Tensor<1>) -> Vec<f64>) -> Vec<f64> {
    match dtype {
        FloatDType::F64 => double(tensor),
        _ => tensor.into_data().iter::<f32>().map(f64::from).collect(),
    }
}

fn numbers(noise: &mut Noise, count: usize, mean: f64, deviation: f64) -> Vec<f32> {
    noise.normals(count).into_iter().map(|z| (mean + deviation * z) as f32).collect()
}

fn relative(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let size: f64 = expected.iter().map(|v| v * v).sum();
    let off: f64 = found.iter().zip(expected).map(|(a, b)| (a - b) * (a - b)).sum();
    (off / size).sqrt()
}

/// Single precision's sums of up to some thousand terms are off by 1e-6 of their size in the mean, and a gradient sums
/// over all positions; burn's attention on cards with matrix units multiplies in half precision.
fn allowed(operation: &Operation) -> f64 {
    match operation {
        Operation::Attention { .. } if !on_cpu() => 2e-3,
        _ => 2e-5,
    }
}

fn software() -> bool {
    device_name().ends_with(":cpu")
}

fn on_cpu() -> bool {
    ["flex", "ndarray"].contains(&device_name().as_str()) || software()
}

fn check(operations: &Operations) {
    let device = device();
    let reference = dmd::device::open("flex").expect("the reference is flex");
    let mut wrong = Vec::new();
    let mut worst = (0.0, String::new());
    for operation in operations.keys() {
        let mut noise = Noise::from_seed(0);
        let inputs: Vec<Vec<f32>> = operation
            .inputs()
            .iter()
            .map(|input| {
                let count = input.shape.iter().product();
                numbers(&mut noise, count, input.mean, input.deviation)
            })
            .collect();
        let expected = run(operation, &inputs, &reference, FloatDType::F64);
        let found = run(operation, &inputs, &device, FloatDType::F32);
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let off = relative(found, expected);
            let part = if i == 0 { "values".to_owned() } else { format!("gradient of input {}", i - 1) };
            if off.is_nan() || off > allowed(operation) {
                wrong.push(format!("{operation}, {part}: {off:.1e}"));
            } else if off > worst.0 {
                worst = (off, format!("{operation}, {part}"));
            }
        }
    }
    println!("{} operations; the furthest: {:.1e}, {}", operations.len(), worst.0, worst.1);
    assert!(wrong.is_empty(), "{} are off:\n{}", wrong.len(), wrong.join("\n"));
}

/// What a UNet runs on a batch of square latents, recorded on flex.
fn unet_operations(unet: &UNet2d, batch: usize, channels: usize, side: usize, text: Tensor<3>) -> Operations {
    let device = Device::flex();
    let (x, t) =
        (Tensor::zeros([batch, channels, side, side], &device), Tensor::full([batch], 500.0, &device));
    let text = text.repeat_dim(0, batch);
    recorded(|| unet.forward(x, t, &text)).1
}

/// What an autoencoder runs on one picture's latents, and on a picture.
fn autoencoder_operations(vae: &Autoencoder, config: &AutoencoderConfig, side: usize) -> Operations {
    let device = Device::flex();
    let latents = Tensor::zeros([1, config.latent_channels, side, side], &device);
    let pixels = side * config.downsampling();
    let pictures = Tensor::zeros([1, config.in_channels, pixels, pixels], &device);
    recorded(|| (vae.decode(latents), vae.encode(pictures))).1
}

/// Every shape of the embedded model, for a picture and for a training batch of two (a picture's alone on software
/// drivers, which compile each kernel for seconds).
#[test]
fn operations_of_the_embedded_model() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/shapes");
    let flex = Device::flex();
    let text = TextEncoder::from_dir(&folder, &flex).unwrap();
    let (unet, config) = UNet2d::from_dir(&folder.join("unet"), &flex).unwrap();
    let (vae, vae_config) = Autoencoder::from_dir(&folder.join("vae"), &flex).unwrap();
    let (features, mut all) = recorded(|| text.encode(&["a red circle"]).unwrap());
    let batches = if software() { 1..=1 } else { 1..=2 };
    for batch in batches {
        let side = config.sample_size;
        all.extend(unet_operations(&unet, batch, config.in_channels, side, features.clone()));
    }
    all.extend(autoencoder_operations(&vae, &vae_config, config.sample_size));
    assert!(all.len() > 40, "{} operations were recorded", all.len());
    check(&all);
}

/// Every shape of Stable Diffusion 1.5 at 512×512. Minutes on a CPU: `cargo test … -- --ignored`.
#[test]
#[ignore = "minutes on a CPU"]
fn operations_of_stable_diffusion() {
    let flex = Device::flex();
    let (unet, vae) = (UNetConfig::sd15(), AutoencoderConfig::sd15());
    let text = Tensor::zeros([1, 77, unet.cross_attention_dim], &flex);
    let mut all = unet_operations(&unet.init(&flex).unwrap(), 1, unet.in_channels, 64, text);
    all.extend(autoencoder_operations(&vae.init(&flex).unwrap(), &vae, 64));
    check(&all);
}
