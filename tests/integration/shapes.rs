//! The operations of the networks, shape by shape, on the device under test in single precision against flex in double
//! precision: kernels' faults belong to shapes. Values, and gradients in every input.

use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use dmd::clip::TextConfig;
use dmd::core::Noise;
use dmd::kernels::{Operation, Operations};
use dmd::unet::{AutoencoderConfig, UNetConfig};
use serde_json::json;

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

/// Every shape of the embedded model, for a picture and for a training batch of two (a picture's alone on software
/// drivers, which compile each kernel for seconds).
#[test]
fn operations_of_the_embedded_model() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/shapes");
    let text: TextConfig = dmd::weights::read_config(&folder.join("text_encoder")).unwrap();
    let unet: UNetConfig = dmd::weights::read_config(&folder.join("unet")).unwrap();
    let vae: AutoencoderConfig = dmd::weights::read_config(&folder.join("vae")).unwrap();
    let side = [unet.sample_size; 2];
    let mut all = text.operations(1);
    let batches = if software() { 1..=1 } else { 1..=2 };
    for batch in batches {
        all.extend(unet.operations(batch, side, text.max_position_embeddings));
    }
    all.extend(vae.decoder_operations(1, side));
    all.extend(vae.encoder_operations(1, side.map(|side| side * vae.downsampling())));
    check(&all);
}

/// Stable Diffusion 1.5's configurations (its `config.json` files, in what matters to shapes).
fn stable_diffusion() -> (TextConfig, UNetConfig, AutoencoderConfig) {
    let text = json!({
        "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "max_position_embeddings": 77,
    });
    (serde_json::from_value(text).unwrap(), UNetConfig::sd15(), AutoencoderConfig::sd15())
}

/// What diffusers' own count says of a call of SD 1.5's UNet at 64×64 latents: about 340 billion multiplications and
/// additions in pairs (0.68 TFLOP with both counted), 1.24 TFLOP for the decoder at the same size.
#[test]
fn operations_add_up() {
    let (text, unet, vae) = stable_diffusion();
    let total = |all: Operations| -> f64 {
        all.iter().map(|(operation, count)| operation.operations() * *count as f64).sum()
    };
    let unet = total(unet.operations(1, [64, 64], 77)) / 1e12;
    let decoder = total(vae.decoder_operations(1, [64, 64])) / 1e12;
    let text = total(text.operations(1)) / 1e9;
    println!("UNet {unet:.3} TFLOP, decoder {decoder:.3} TFLOP, text encoder {text:.2} GFLOP");
    assert!((0.6..0.9).contains(&unet), "{unet}");
    assert!((2.2..2.8).contains(&decoder), "{decoder}");
    assert!((12.0..14.0).contains(&text), "{text}");
}

/// Every shape of Stable Diffusion 1.5 at 512×512. Minutes on a CPU: `cargo test --release … -- --ignored`.
#[test]
#[ignore = "minutes on a CPU"]
fn operations_of_stable_diffusion() {
    let (text, unet, vae) = stable_diffusion();
    let mut all = text.operations(1);
    all.extend(unet.operations(1, [64, 64], 77));
    all.extend(vae.decoder_operations(1, [64, 64]));
    check(&all);
}
