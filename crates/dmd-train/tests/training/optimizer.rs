//! AdamW.

use std::fs;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use dmd_train::{AdamW, AdamWConfig, Gradients};
use dmd_weights::{Precision, Tensors, write_with_metadata};

#[derive(Module, Debug)]
struct Point {
    p: Param<Tensor<1>>,
}

impl Point {
    fn new(values: [f32; 3]) -> Self {
        Self { p: Param::from_tensor(Tensor::from_floats(values, &Device::flex().autodiff())) }
    }

    /// Gradients that are exactly `gradient`.
    fn gradients(&self, gradient: [f32; 3]) -> Gradients {
        let gradient = Tensor::<1>::from_floats(gradient, &Device::flex());
        Gradients::of((self.p.val() * gradient).sum(), self)
    }

    fn values(&self) -> Vec<f32> {
        self.p.val().without_autodiff().into_data().iter::<f32>().collect()
    }
}

/// Three steps of torch.optim.AdamW 2.15 (lr 0.1, decay 0.01) after clip_grad_norm_(.., 10): the
/// norms before clipping, and the parameters.
const TORCH: [([f32; 3], f64, [f32; 3]); 3] = [
    ([0.5, -1.0, 2.0], 2.291_287_9, [0.899, -1.898, 0.3995]),
    ([30.0, -40.0, 0.0], 50.0, [0.818_382_4, -1.813_955_5, 0.332_094_7]),
    ([0.0, 0.1, -0.2], 0.223_606_8, [0.755_941_3, -1.749_439_7, 0.286_587_2]),
];

#[test]
fn adamw_is_torchs() {
    let mut point = Point::new([1.0, -2.0, 0.5]);
    let mut adam = AdamW::new(AdamWConfig::default());
    for (gradient, norm, expected) in TORCH {
        let grads = point.gradients(gradient);
        let (moved, found) = adam.step(0.1, point, grads);
        point = moved;
        let found = f64::from(found.into_scalar::<f32>());
        assert!((found - norm).abs() < 1e-5 * norm, "norm {found}, torch {norm}");
        for (found, expected) in point.values().iter().zip(expected) {
            assert!((found - expected).abs() < 2e-6, "{found}, torch {expected}");
        }
    }
}

#[test]
fn adamw_resumes_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adam.safetensors");
    let step = |adam: &mut AdamW, point: Point, g| {
        let grads = point.gradients(g);
        adam.step(0.1, point, grads).0
    };
    let mut adam = AdamW::new(AdamWConfig::default());
    let point = step(&mut adam, Point::new([1.0, 2.0, 3.0]), [0.1, 0.2, 0.3]);
    adam.save(&path).unwrap();
    let mut resumed = AdamW::load(AdamWConfig::default(), &path, &Device::flex()).unwrap();
    let same = Point::new(point.values().try_into().unwrap());
    let a = step(&mut adam, point, [1.0, -1.0, 0.5]).values();
    let b = step(&mut resumed, same, [1.0, -1.0, 0.5]).values();
    assert_eq!(a, b);
    let refused = || AdamW::load(AdamWConfig::default(), &path, &Device::flex()).unwrap_err().to_string();
    for (name, step, reason) in [
        ("0.first", "1", "half of moment 0"),
        ("p", "1", "unexpected tensor"),
        ("0.first", "one", "no step count"),
    ] {
        let tensors = Tensors::from_values("moments", [(name.to_owned(), vec![1], vec![0.5])]).unwrap();
        write_with_metadata(&path, &tensors, Precision::Single, &[("step", step)]).unwrap();
        assert!(refused().contains(reason), "{}", refused());
    }
    fs::write(&path, "garbage").unwrap();
    refused();
}

/// A gradient that is not finite changes nothing; the caller sees the norm.
#[test]
fn adamw_refuses_infinite_gradients() {
    let point = Point::new([1.0, 2.0, 3.0]);
    let grads = point.gradients([f32::INFINITY, 0.0, 0.0]);
    let mut adam = AdamW::new(AdamWConfig::default());
    let (point, norm) = adam.step(0.1, point, grads);
    let refused = |adam: &AdamW| adam.refused().unwrap().into_scalar::<f32>();
    assert!(!norm.into_scalar::<f32>().is_finite() && refused(&adam) == 1.0);
    assert_eq!(point.values(), [1.0, 2.0, 3.0]);
    // A later step does not hide it.
    let grads = point.gradients([0.1; 3]);
    let (_, norm) = adam.step(0.1, point, grads);
    assert!(norm.into_scalar::<f32>().is_finite() && refused(&adam) == 1.0);
}
