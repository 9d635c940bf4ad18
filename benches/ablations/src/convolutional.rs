//! A convolutional network for small pictures of classes.

use burn::tensor::Device;
use dmd_core::Prediction;
use dmd_unet::{ClassDenoiser, ClassUNetConfig, Discriminator};

use crate::training::Student;

/// Channels per level.
const WIDTHS: [usize; 3] = [16, 32, 32];
/// Groups of the critic's normalisations.
const GROUPS: usize = 8;

/// A fresh UNet under EDM's preconditioning, for square pictures of deviation 0.5 whose side is a multiple of 8, with attention
/// at a quarter of the side.
///
/// # Panics
///
/// If the side is no multiple of 8, or there is no class.
pub fn convolutional(
    [channels, height, width]: [usize; 3],
    classes: usize,
    device: &Device,
) -> ClassDenoiser {
    assert!(
        height == width && height.is_multiple_of(8) && classes > 0,
        "pictures of {width}×{height}, {classes} classes"
    );
    let config = ClassUNetConfig::small(height, channels, WIDTHS.to_vec(), classes);
    let network = config.init(device).expect("the configuration is ours");
    ClassDenoiser::new(network, Prediction::Karras { sigma_data: 0.5 })
}

impl Student for ClassDenoiser {
    fn with_critic(self, [_, height, _]: [usize; 3], device: &Device) -> Self {
        let side = height >> (WIDTHS.len() - 1);
        Self::with_critic(self, Discriminator::new(WIDTHS[WIDTHS.len() - 1], side, GROUPS, device))
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use dmd_core::{Denoiser, FakeScore, Level, Noise};

    use super::*;
    use crate::data::{Batch, Data};
    use crate::pictures::Pictures;
    use crate::training::{Effort, distil, teacher};
    use crate::variants::DMD2;

    /// A teacher learns to take noise off, and is distilled with a critic on its bottleneck.
    #[test]
    fn a_convolutional_teacher_and_its_generator() {
        let device = Device::flex();
        let pictures = Pictures::shapes(&device);
        let (shape, classes) = (pictures.shape(), pictures.classes());
        let fresh = convolutional(shape, classes, &device.clone().autodiff());
        let effort =
            Effort { batch: 16, teacher_steps: 60, teacher_rate: 2e-3, updates: 2, rate: 1e-4, measured: 20 };
        let taught = teacher(fresh.clone(), &pictures, &effort, 0, &device);
        let Batch { x0, classes: labels } = pictures.held_out(&device);
        let level = Level::of_sigma(0.5).like(&x0);
        let x_t = level.add_noise(x0.clone(), Noise::from_seed(2).normal(x0.dims(), &device));
        let error = |network: &ClassDenoiser| {
            let off = network.valid().denoise(x_t.clone(), &level, &labels) - x0.clone();
            (off.clone() * off).mean().into_scalar::<f64>()
        };
        let (before, after) = (error(&fresh), error(&taught));
        assert!(after < 0.8 * before, "{before} before, {after} after");

        let critic = Student::with_critic(taught.clone(), shape, &device.clone().autodiff());
        let logits = critic.valid().logits(x_t, &level, &labels).expect("it has a critic");
        assert_eq!(logits.dims(), [x0.dims()[0], 1]);
        let (made, jitter) = distil(&taught, &pictures, &DMD2, &effort, 0, &device);
        assert_eq!(made.x0.dims(), [20, shape[0], shape[1], shape[2]]);
        assert!(made.x0.into_data().iter::<f64>().all(f64::is_finite) && jitter.is_finite());
    }
}
