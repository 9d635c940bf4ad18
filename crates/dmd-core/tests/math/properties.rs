//! Invariants for random inputs.

use burn::tensor::{Device, Tensor, TensorData};
use dmd_core::{Diffusion, Draw, Noise, Prediction, TimeSampler, matching};
use proptest::prelude::*;

use crate::{level, numbers};

fn tensor(values: &[f32]) -> Tensor<4> {
    Tensor::from_data(TensorData::new(values.to_vec(), [2, values.len() / 2, 1, 1]), &Device::flex())
}

fn eight() -> impl Strategy<Value = Vec<f32>> {
    proptest::collection::vec(-3.0_f32..3.0, 8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The output a perfect network would give leads back to x0, amplified rounding included.
    #[test]
    fn to_x0_inverts_from_x0(x0 in eight(), eps in eight(), angle in 0.07_f64..1.5, sigma in 0.01_f64..80.0) {
        let vp = level(&[angle.cos(); 2], &[angle.sin(); 2]);
        let flow = level(&[1.0 - angle / 1.6; 2], &[angle / 1.6; 2]);
        let karras = level(&[1.0; 2], &[sigma; 2]);
        for (prediction, level) in [
            (Prediction::Epsilon, &vp),
            (Prediction::Sample, &vp),
            (Prediction::Velocity, &vp),
            (Prediction::Flow, &flow),
            (Prediction::Karras { sigma_data: 0.5 }, &karras),
        ] {
            let x_t = level.add_noise(tensor(&x0), tensor(&eps));
            let output = prediction.from_x0(tensor(&x0), x_t.clone(), level);
            let back = numbers(prediction.to_x0(output, x_t, level));
            // c_skip · x_t + c_out · F cancels: 1/alpha up to 14.2, sigma up to 80, of f32's 6e-8.
            for (found, expected) in back.iter().zip(&x0) {
                prop_assert!((found - f64::from(*expected)).abs() < 1e-4, "{prediction:?}: {found} {expected}");
            }
        }
    }

    #[test]
    fn gradient_has_the_sign_of_fake_minus_real(x in eight(), real in eight(), fake in eight()) {
        let g = numbers(matching::gradient(tensor(&x), tensor(&real), tensor(&fake)));
        for ((g, real), fake) in g.iter().zip(&real).zip(&fake) {
            prop_assert!(g * f64::from(fake - real) >= 0.0);
        }
        let zero = numbers(matching::gradient(tensor(&x), tensor(&real), tensor(&real)));
        prop_assert!(zero.iter().all(|g| *g == 0.0));
    }

    #[test]
    fn gradient_ignores_a_common_scale(x in eight(), real in eight(), fake in eight(), scale in 0.1_f32..10.0) {
        let times = |v: &[f32]| tensor(&v.iter().map(|v| v * scale).collect::<Vec<_>>());
        let a = numbers(matching::gradient(tensor(&x), tensor(&real), tensor(&fake)));
        let b = numbers(matching::gradient(times(&x), times(&real), times(&fake)));
        for (a, b) in a.iter().zip(&b) {
            prop_assert!((a - b).abs() <= 1e-4 * a.abs().max(1.0));
        }
    }

    /// A sample's gradient does not depend on its batch.
    #[test]
    fn gradient_is_per_sample(x in eight(), real in eight(), fake in eight()) {
        let both = numbers(matching::gradient(tensor(&x), tensor(&real), tensor(&fake)));
        let first = |v: &[f32]| tensor(v).narrow(0, 0, 1);
        let alone = numbers(matching::gradient(first(&x), first(&real), first(&fake)));
        prop_assert_eq!(&both[..4], &alone[..]);
    }

    /// Seeds give equal streams, purposes independent ones, and a position resumes exactly.
    /// What is skipped moves every stream as far as what is drawn, in whatever state it is: the next numbers agree.
    #[test]
    fn skipped_numbers_are_drawn_numbers(seed: u64, counts in proptest::collection::vec(0_usize..70, 1..6)) {
        let times = [
            TimeSampler::Timesteps(20..=980),
            TimeSampler::Grid(vec![0.1, 0.2, 0.7]),
            TimeSampler::Shares { times: vec![0.1, 0.2, 0.7], ends: vec![0.3, 0.3, 0.9] },
        ];
        for mut drawn in [Noise::stream(seed, "x"), Noise::torch_cpu(seed), Noise::torch_cuda(seed)] {
            let mut skipped = drawn.clone();
            for count in &counts {
                drawn.normals(*count);
                skipped.skip_normals(*count);
                prop_assert_eq!(drawn.position(), skipped.position());
            }
            let shape = [counts.len(), 1, 1, counts[0] + 1];
            for times in &times {
                Draw::new(&mut drawn, shape, times, &Device::flex());
                Draw::skip(&mut skipped, shape, times);
                Diffusion::new(&mut drawn, shape, times, &Device::flex());
                Diffusion::skip(&mut skipped, shape, times);
            }
            prop_assert_eq!(drawn.position(), skipped.position());
            prop_assert_eq!(drawn.normals(3), skipped.normals(3));
        }
    }

    #[test]
    fn noise_is_reproducible(seed: u64, skip in 0usize..50) {
        prop_assert_eq!(Noise::from_seed(seed).normals(9), Noise::from_seed(seed).normals(9));
        prop_assert_ne!(Noise::stream(seed, "a").normals(9), Noise::stream(seed, "b").normals(9));
        let mut noise = Noise::from_seed(seed);
        noise.below(7);
        noise.normals(skip);
        let mut later = Noise::from_seed(seed);
        later.seek(noise.position());
        prop_assert_eq!(noise.uniform(0.0..=1.0, 5), later.uniform(0.0..=1.0, 5));
    }
}

/// Moments of 100 000 draws within 4 standard errors (0.0032 of the mean, 0.0045 of the variance).
#[test]
fn normals_are_normal() {
    let n = 100_000;
    let values = Noise::from_seed(1).normals(n);
    let mean = values.iter().sum::<f64>() / n as f64;
    let variance = values.iter().map(|v| v * v).sum::<f64>() / n as f64;
    let fourth = values.iter().map(|v| v.powi(4)).sum::<f64>() / n as f64;
    assert!(mean.abs() < 4.0 * 0.0032, "{mean}");
    assert!((variance - 1.0).abs() < 4.0 * 0.0045, "{variance}");
    assert!((fourth - 3.0).abs() < 4.0 * 0.031, "{fourth}");
}

/// Six numbers, each in a sixth of 60 000 draws: within 4 standard errors of 10 000, `√(60 000 · 1/6 · 5/6)` = 91.3.
#[test]
fn whole_numbers_are_uniform() {
    let mut noise = Noise::from_seed(1);
    let mut counts = [0_i32; 6];
    (0..60_000).for_each(|_| counts[noise.below(6)] += 1);
    for count in counts {
        assert!((count - 10_000).abs() < 365, "{counts:?}");
    }
}
