//! What the integration tests share.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use dmd::clip::TextEncoder;
use dmd::core::Noise;
use dmd::model::{OpenOptions, TextToImage};
use dmd::unet::Discriminator;
use dmd::weights::KeyMap;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// The name of the device under test: `DMD_TEST_DEVICE`, else flex.
pub fn device_name() -> String {
    std::env::var("DMD_TEST_DEVICE").unwrap_or_else(|_| "flex".to_owned())
}

/// The device under test.
pub fn device() -> Device {
    dmd::device::open(&device_name()).expect("DMD_TEST_DEVICE names a device of this build")
}

/// A file below `tests/golden`.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A fixture's tensors.
pub struct Fixture(Vec<u8>);

impl Fixture {
    /// Reads `tests/golden/NAME.safetensors`.
    pub fn open(name: &str) -> Self {
        Self(std::fs::read(golden(&format!("{name}.safetensors"))).expect("fixture is committed"))
    }

    /// Reads a file of elsewhere.
    pub fn at(path: &Path) -> Self {
        Self(std::fs::read(path).expect("the reference can be read"))
    }

    /// Shape and values of a tensor.
    pub fn values(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let file = SafeTensors::deserialize(&self.0).expect("fixture is whole");
        let view = file.tensor(name).expect("fixture has the tensor");
        let values = match view.dtype() {
            Dtype::F32 => {
                view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
            }
            Dtype::I64 => view
                .data()
                .chunks_exact(8)
                .map(|b| i64::from_le_bytes(b.try_into().unwrap()) as f32)
                .collect(),
            other => panic!("fixture tensor of type {other:?}"),
        };
        (view.shape().to_vec(), values)
    }

    /// A tensor as it is stored.
    pub fn stored(&self, name: &str) -> (Dtype, Vec<usize>, Vec<u8>) {
        let file = SafeTensors::deserialize(&self.0).expect("fixture is whole");
        let view = file.tensor(name).expect("fixture has the tensor");
        (view.dtype(), view.shape().to_vec(), view.data().to_vec())
    }

    /// A float tensor on the device under test.
    pub fn tensor<const D: usize>(&self, name: &str) -> Tensor<D> {
        let (shape, values) = self.values(name);
        Tensor::from_data(TensorData::new(values, shape), &device())
    }

    /// An integer tensor on the device under test.
    pub fn ids(&self, name: &str) -> Tensor<2, Int> {
        let (shape, values) = self.values(name);
        let values: Vec<i32> = values.into_iter().map(|v| v as i32).collect();
        Tensor::from_data(TensorData::new(values, shape), &device())
    }
}

/// A critic's head with the weights of a fixture, under `head.`.
pub fn critic_head(io: &Fixture, head: Discriminator) -> Discriminator {
    let mut weights = Weights::new();
    for name in ["conv_1", "norm_1", "conv_2", "norm_2", "conv_out"] {
        for part in ["weight", "bias"] {
            let (shape, values) = io.values(&format!("head.{name}.{part}"));
            weights.add(format!("{name}.{part}"), &shape, values);
        }
    }
    let file = dmd::weights::read(&weights.write("head.safetensors")).expect("the weights were written");
    dmd::weights::load_for_training(head, &file, &KeyMap::default()).expect("the head fits")
}

/// Asserts `|a − b| ≤ 1e-4 + 1e-4·|b|` for every element: f32 sums in another order than PyTorch's.
pub fn assert_close<const D: usize>(what: &str, found: Tensor<D>, expected: Tensor<D>) {
    assert_eq!(found.dims(), expected.dims(), "{what}: shape");
    let found: Vec<f32> = found.into_data().iter::<f32>().collect();
    let expected: Vec<f32> = expected.into_data().iter::<f32>().collect();
    for (i, (a, b)) in found.iter().zip(&expected).enumerate() {
        let allowed = 1e-4 + 1e-4 * b.abs();
        assert!((a - b).abs() <= allowed, "{what}: element {i} is {a}, expected {b}");
    }
}

/// The text encoder of a model folder.
pub fn text_encoder(model: &Path, device: &Device) -> TextEncoder {
    let parts = TextToImage::open(&OpenOptions::new(model, device)).expect("the model is whole");
    let network = parts.load_text(device).expect("the text encoder is whole");
    TextEncoder::new(parts.tokenizer.clone(), network, device)
}

/// A whole model folder of random weights, put together from the golden networks.
pub fn tiny_model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let copy = |from: &str, to: &str, names: &[&str]| {
        let to = folder.path().join(to);
        std::fs::create_dir_all(&to).expect("a folder");
        for name in names {
            std::fs::copy(golden(from).join(name), to.join(name)).expect("a golden file");
        }
    };
    let network = ["config.json", "diffusion_pytorch_model.safetensors"];
    copy("clip_quick_gelu", "text_encoder", &["config.json", "model.safetensors"]);
    copy("clip_quick_gelu", "tokenizer", &["vocab.json", "merges.txt"]);
    copy("unet_sd1", "unet", &network);
    copy("unet_sd1", "unet_one_step", &network);
    copy("vae", "vae", &network);
    let scheduler = dmd::scheduler::SchedulerConfig::stable_diffusion();
    let path = folder.path().join("scheduler/scheduler_config.json");
    dmd::weights::write_json(&path, &scheduler).expect("a configuration");
    folder
}

/// Tensors as a temporary safetensors file.
pub struct Weights {
    folder: tempfile::TempDir,
    tensors: Vec<(String, Dtype, Vec<usize>, Vec<u8>)>,
}

impl Weights {
    /// None yet.
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), tensors: Vec::new() }
    }

    /// Adds a tensor.
    pub fn add(&mut self, name: String, shape: &[usize], values: impl IntoIterator<Item = f32>) {
        let bytes = values.into_iter().flat_map(f32::to_le_bytes).collect();
        self.tensors.push((name, Dtype::F32, shape.to_vec(), bytes));
    }

    /// Adds a tensor of a fixture under another name.
    pub fn copy(&mut self, fixture: &Fixture, from: &str, to: &str) {
        let (dtype, shape, bytes) = fixture.stored(from);
        self.tensors.push((to.to_owned(), dtype, shape, bytes));
    }

    /// Adds a tensor that was computed.
    pub fn add_tensor<const D: usize>(&mut self, name: &str, tensor: Tensor<D>) {
        let shape = tensor.dims();
        self.add(name.to_owned(), &shape, tensor.into_data().iter::<f32>());
    }

    /// Adds what `torch.randn` draws from a seed, changed by `by`.
    pub fn draw(&mut self, name: String, seed: u64, shape: &[usize], by: impl Fn(f64) -> f64) {
        let values = Noise::torch_cpu(seed).normals(shape.iter().product());
        self.add(name, shape, values.into_iter().map(|v| by(f64::from(v as f32)) as f32));
    }

    /// Writes the tensors given so far as a file of this name, and forgets them.
    pub fn write(&mut self, name: &str) -> PathBuf {
        let views = self.tensors.iter().map(|(name, dtype, shape, bytes)| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
        });
        let path = self.folder.path().join(name);
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        self.tensors.clear();
        path
    }
}
