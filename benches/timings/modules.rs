//! The networks of the embedded model, whole: text encoder, UNet, decoder, a picture, and the generator's turn of a
//! distillation, on flex or on the device that `DMD_TEST_DEVICE` names.
//!
//! ```text
//! cargo bench -p dmd-timings --features criterion --bench modules
//! ```
//!
//! Each ends by reading a value back, so that devices which work on their own time are waited for. Beside PyTorch:
//! `benches/peers`.

use std::hint::black_box;
use std::path::Path;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{FloatDType, Tensor};
use criterion::Criterion;
use dmd::core::{Denoiser, Distiller, Draw, FewStep, Noise, NoiseSchedule, Terms};
use dmd::infer::{Pipeline, Request};
use dmd::model::{Conditioner, Family, OpenOptions, StableDiffusion};

/// Waits for the device.
fn settle<const D: usize>(tensor: Tensor<D>) -> f32 {
    tensor.without_autodiff().sum().into_scalar()
}

fn main() {
    let name = std::env::var("DMD_TEST_DEVICE").unwrap_or_else(|_| "flex".to_owned());
    let device = dmd::device::open(&name).expect("the device is there");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/shapes");
    let model =
        StableDiffusion::open(&OpenOptions::new(&folder, &device)).expect("the embedded model is whole");
    let teacher = model.teacher().expect("the embedded model has its teacher");
    let pipeline = Pipeline::from_dir(&folder, &device).expect("the embedded model is whole");
    let [channels, height, width] = model.shape();
    let prompt = "a red circle above a blue square";
    let mut noise = Noise::from_seed(1);
    let x = noise.normal([1, channels, height, width], &device);
    let level = model.noising.level(Tensor::full([1], 999.0, &device));
    let encode = || model.conditioner.condition(&[prompt]).expect("a prompt of the vocabulary");
    let text = encode();

    let mut criterion = Criterion::default().sample_size(20).configure_from_args();
    criterion.bench_function("text", |b| b.iter(|| settle(encode())));
    criterion.bench_function("unet", |b| {
        b.iter(|| settle(teacher.denoise(x.clone(), &level, &text)));
    });
    criterion.bench_function("decode", |b| b.iter(|| settle(model.codec.decode(x.clone()))));
    let request = Request::new([prompt]);
    criterion.bench_function("picture", |b| {
        b.iter(|| black_box(pipeline.generate(&request).expect("a picture")));
    });
    let trainable = || teacher.clone().train();
    let distiller = Distiller::new(
        FewStep::new(trainable(), vec![model.noising.at(model.noising.last_timestep())]),
        model.guided(2.0, FloatDType::F32).expect("the empty prompt is in the vocabulary"),
        trainable(),
        model.noising.clone(),
    )
    .with_both(dmd::train::both);
    let times = model.noising.times(20..=980);
    criterion.bench_function("generator's turn, batch 16", |b| {
        b.iter(|| {
            let draw = Draw::new(&mut noise, [16, channels, height, width], &times, &device);
            let loss = distiller.generator_loss(&draw, &Terms::default(), &text).expect("nothing is lacking");
            let mut grads = loss.total.backward();
            black_box(GradientsParams::from_module(&mut grads, &distiller.generator));
            settle(loss.x)
        });
    });
    criterion.final_summary();
}
