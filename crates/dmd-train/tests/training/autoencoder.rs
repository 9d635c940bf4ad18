//! The autoencoder's stage.

use std::sync::Arc;

use burn::tensor::Device;
use dmd_core::Noise;
use dmd_data::{Dataset, Shapes};
use dmd_model::pixels::from_rgb8;
use dmd_train::AutoencoderRecipe;
use dmd_train::fingerprint::Fingerprint;
use dmd_train::run::run;

use crate::tiny::tiny_autoencoder;
use crate::{StopAt, alone};

/// A finished autoencoder's latents have mean 0 and variance 1 in every channel; its pictures are those of
/// the network as it was trained.
#[test]
fn finished_latents_are_standardised() {
    let _alone = alone();
    let folder = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let section = tiny_autoencoder(3);
    let mut stage =
        AutoencoderRecipe::start(section.clone(), Arc::new(Shapes), 5, Fingerprint::new(), &device).unwrap();
    run(&mut stage, &section.pace, folder.path(), &mut StopAt(100, 0)).unwrap();
    let (network, config) = stage.finish(128).unwrap();
    assert!((config.scaling_factor - 1.0).abs() < f64::EPSILON);
    let mut noise = Noise::from_seed(77);
    let scenes: Vec<_> = (0..128).map(|_| Shapes.draw(&mut noise).unwrap().image).collect();
    let pictures = from_rgb8(&scenes, &device);
    let latents = network.encode(pictures.clone()).mode();
    let channels = latents.clone().swap_dims(0, 1).flatten::<2>(1, 3);
    let mean = channels.clone().mean_dim(1);
    let variance = (channels - mean.clone()).square().mean_dim(1);
    // 128 other pictures than the statistics are of: within a few hundredths.
    for (mean, variance) in mean.into_data().iter::<f32>().zip(variance.into_data().iter::<f32>()) {
        assert!(mean.abs() < 0.1 && (variance - 1.0).abs() < 0.2, "{mean} {variance}");
    }
    let trained = stage.trained().clone();
    let (ours, theirs) = (network.decode(latents), trained.decode(trained.encode(pictures).mode()));
    // Two 1×1 convolutions computed another way round: roundings of numbers of the order of 1.
    let error = (ours - theirs).abs().max().into_scalar::<f32>();
    assert!(error < 1e-5, "{error}");
}
