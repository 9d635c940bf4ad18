//! The Inception network that Fréchet distances are published in (Szegedy et al. 2016, as Heusel et al. 2017 use it).

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::activation::relu;
use burn::tensor::module::{avg_pool2d, conv2d, interpolate, max_pool2d};
use burn::tensor::ops::{AvgPoolOptions, ConvOptions, InterpolateMode, InterpolateOptions, MaxPoolOptions};
use burn::tensor::{Device, Tensor, TensorData};
use dmd_weights::{Error as WeightsError, Mismatch, Misshapen, Tensors};

use crate::Error;

/// Epsilon of the batch normalisations.
const EPSILON: f32 = 1e-3;
/// Height and width the network sees.
const SIDE: usize = 299;

/// A convolution with its normalisation folded in.
#[derive(Debug, Clone)]
struct Layer {
    weight: Tensor<4>,
    bias: Tensor<1>,
    stride: usize,
    padding: [usize; 2],
}

/// pytorch-fid's Inception up to the last pooling: 2048 features.
#[derive(Debug, Clone)]
pub struct Inception {
    layers: BTreeMap<String, Layer>,
}

/// A convolution's shape: name, channels in and out, kernel height and width, stride, padding height and width.
type Shape = (String, [usize; 4], usize, [usize; 2]);

/// Every convolution of the network.
fn shapes() -> Vec<Shape> {
    let mut all: Vec<Shape> = Vec::new();
    let mut add =
        |name: &str, channels: [usize; 2], kernel: [usize; 2], stride: usize, padding: [usize; 2]| {
            all.push((name.to_owned(), [channels[1], channels[0], kernel[0], kernel[1]], stride, padding));
        };
    add("Conv2d_1a_3x3", [3, 32], [3, 3], 2, [0, 0]);
    add("Conv2d_2a_3x3", [32, 32], [3, 3], 1, [0, 0]);
    add("Conv2d_2b_3x3", [32, 64], [3, 3], 1, [1, 1]);
    add("Conv2d_3b_1x1", [64, 80], [1, 1], 1, [0, 0]);
    add("Conv2d_4a_3x3", [80, 192], [3, 3], 1, [0, 0]);
    for (block, input, pool) in [("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)] {
        let mut branch = |name: &str, channels, kernel, padding| {
            add(&format!("Mixed_{block}.{name}"), channels, kernel, 1, padding);
        };
        branch("branch1x1", [input, 64], [1, 1], [0, 0]);
        branch("branch5x5_1", [input, 48], [1, 1], [0, 0]);
        branch("branch5x5_2", [48, 64], [5, 5], [2, 2]);
        branch("branch3x3dbl_1", [input, 64], [1, 1], [0, 0]);
        branch("branch3x3dbl_2", [64, 96], [3, 3], [1, 1]);
        branch("branch3x3dbl_3", [96, 96], [3, 3], [1, 1]);
        branch("branch_pool", [input, pool], [1, 1], [0, 0]);
    }
    add("Mixed_6a.branch3x3", [288, 384], [3, 3], 2, [0, 0]);
    add("Mixed_6a.branch3x3dbl_1", [288, 64], [1, 1], 1, [0, 0]);
    add("Mixed_6a.branch3x3dbl_2", [64, 96], [3, 3], 1, [1, 1]);
    add("Mixed_6a.branch3x3dbl_3", [96, 96], [3, 3], 2, [0, 0]);
    for (block, inner) in [("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)] {
        let mut branch = |name: &str, channels, kernel: [usize; 2]| {
            add(&format!("Mixed_{block}.{name}"), channels, kernel, 1, [kernel[0] / 2, kernel[1] / 2]);
        };
        branch("branch1x1", [768, 192], [1, 1]);
        branch("branch7x7_1", [768, inner], [1, 1]);
        branch("branch7x7_2", [inner, inner], [1, 7]);
        branch("branch7x7_3", [inner, 192], [7, 1]);
        branch("branch7x7dbl_1", [768, inner], [1, 1]);
        branch("branch7x7dbl_2", [inner, inner], [7, 1]);
        branch("branch7x7dbl_3", [inner, inner], [1, 7]);
        branch("branch7x7dbl_4", [inner, inner], [7, 1]);
        branch("branch7x7dbl_5", [inner, 192], [1, 7]);
        branch("branch_pool", [768, 192], [1, 1]);
    }
    add("Mixed_7a.branch3x3_1", [768, 192], [1, 1], 1, [0, 0]);
    add("Mixed_7a.branch3x3_2", [192, 320], [3, 3], 2, [0, 0]);
    add("Mixed_7a.branch7x7x3_1", [768, 192], [1, 1], 1, [0, 0]);
    add("Mixed_7a.branch7x7x3_2", [192, 192], [1, 7], 1, [0, 3]);
    add("Mixed_7a.branch7x7x3_3", [192, 192], [7, 1], 1, [3, 0]);
    add("Mixed_7a.branch7x7x3_4", [192, 192], [3, 3], 2, [0, 0]);
    for (block, input) in [("7b", 1280), ("7c", 2048)] {
        let mut branch = |name: &str, channels, kernel: [usize; 2]| {
            add(&format!("Mixed_{block}.{name}"), channels, kernel, 1, [kernel[0] / 2, kernel[1] / 2]);
        };
        branch("branch1x1", [input, 320], [1, 1]);
        branch("branch3x3_1", [input, 384], [1, 1]);
        branch("branch3x3_2a", [384, 384], [1, 3]);
        branch("branch3x3_2b", [384, 384], [3, 1]);
        branch("branch3x3dbl_1", [input, 448], [1, 1]);
        branch("branch3x3dbl_2", [448, 384], [3, 3]);
        branch("branch3x3dbl_3a", [384, 384], [1, 3]);
        branch("branch3x3dbl_3b", [384, 384], [3, 1]);
        branch("branch_pool", [input, 192], [1, 1]);
    }
    all
}

impl Inception {
    /// Reads the standard file, `pt_inception-2015-12-05-6726825d.pth` (the feature `pytorch`), or the same
    /// tensors as safetensors. The classifier behind the features is not needed.
    ///
    /// # Errors
    ///
    /// When the file is missing, broken or of another network.
    pub fn from_file(path: &Path, device: &Device) -> Result<Self, Error> {
        let file = dmd_weights::read(path)?;
        let mut mismatch = Mismatch::default();
        let mut layers = BTreeMap::new();
        for (name, shape, stride, padding) in shapes() {
            let [outputs, ..] = shape;
            let tensor = |part: &str, expected: &[usize], mismatch: &mut Mismatch| {
                floats(&file, format!("{name}.{part}"), expected, mismatch)
            };
            let mut weight = tensor("conv.weight", &shape, &mut mismatch)?;
            let scale = tensor("bn.weight", &[outputs], &mut mismatch)?;
            let shift = tensor("bn.bias", &[outputs], &mut mismatch)?;
            let mean = tensor("bn.running_mean", &[outputs], &mut mismatch)?;
            let variance = tensor("bn.running_var", &[outputs], &mut mismatch)?;
            if !mismatch.is_empty() {
                continue;
            }
            let factor: Vec<f32> = scale
                .iter()
                .zip(&variance)
                .map(|(scale, variance)| scale / (variance + EPSILON).sqrt())
                .collect();
            let inputs = weight.len() / outputs;
            for (row, factor) in weight.chunks_exact_mut(inputs).zip(&factor) {
                row.iter_mut().for_each(|value| *value *= factor);
            }
            let bias =
                shift.iter().zip(&mean).zip(&factor).map(|((shift, mean), factor)| shift - mean * factor);
            let bias = TensorData::new(bias.collect::<Vec<f32>>(), [outputs]);
            let weight = Tensor::from_data(TensorData::new(weight, shape), device);
            layers.insert(name, Layer { weight, bias: Tensor::from_data(bias, device), stride, padding });
        }
        if mismatch.is_empty() {
            return Ok(Self { layers });
        }
        Err(WeightsError::Mismatch { path: path.to_owned(), mismatch }.into())
    }

    /// The shape of a convolution's weight in the file, `[out, in, height, width]`; `None` for an unknown name.
    pub fn shape(name: &str) -> Option<[usize; 4]> {
        shapes().into_iter().find(|(found, ..)| found == name).map(|(_, shape, ..)| shape)
    }

    /// The features.
    ///
    /// # Shapes
    ///
    /// `pictures`: `[batch, 3, height, width]` in [0, 1], of any size; the result is `[batch, 2048]`.
    pub fn features(&self, pictures: Tensor<4>) -> Tensor<2> {
        let options = InterpolateOptions::new(InterpolateMode::Bilinear)
            .with_output_size([SIDE, SIDE])
            .with_align_corners(false);
        let x = interpolate(pictures, options) * 2.0 - 1.0;
        let x =
            ["Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"].iter().fold(x, |x, name| self.at(name, x));
        let x = self.at("Conv2d_4a_3x3", self.at("Conv2d_3b_1x1", halve(x)));
        let x = ["5b", "5c", "5d"].iter().fold(halve(x), |x, block| self.block_a(block, x));
        let chain = |block: &str, names: &[&str], x: Tensor<4>| {
            names.iter().fold(x, |x, name| self.at(&format!("Mixed_{block}.{name}"), x))
        };
        let x = Tensor::cat(
            vec![
                chain("6a", &["branch3x3"], x.clone()),
                chain("6a", &["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"], x.clone()),
                halve(x),
            ],
            1,
        );
        let x = ["6b", "6c", "6d", "6e"].iter().fold(x, |x, block| {
            let seven = ["branch7x7_1", "branch7x7_2", "branch7x7_3"];
            let double =
                ["branch7x7dbl_1", "branch7x7dbl_2", "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5"];
            Tensor::cat(
                vec![
                    chain(block, &["branch1x1"], x.clone()),
                    chain(block, &seven, x.clone()),
                    chain(block, &double, x.clone()),
                    chain(block, &["branch_pool"], average(x)),
                ],
                1,
            )
        });
        let seven = ["branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3", "branch7x7x3_4"];
        let x = Tensor::cat(
            vec![
                chain("7a", &["branch3x3_1", "branch3x3_2"], x.clone()),
                chain("7a", &seven, x.clone()),
                halve(x),
            ],
            1,
        );
        // The file's network was trained with an average in the one and a maximum in the other.
        let x = self.block_e("7b", x.clone(), average(x));
        let pooled =
            max_pool2d(x.clone(), MaxPoolOptions::new([3, 3]).with_stride([1, 1]).with_padding([1, 1]));
        let x = self.block_e("7c", x, pooled);
        let [batch, channels, ..] = x.dims();
        x.mean_dims(&[2, 3]).reshape([batch, channels])
    }

    fn at(&self, name: &str, x: Tensor<4>) -> Tensor<4> {
        let Layer { weight, bias, stride, padding } = &self.layers[name];
        let options = ConvOptions::new([*stride; 2], *padding, [1, 1], 1);
        relu(conv2d(x, weight.clone(), Some(bias.clone()), options))
    }

    fn block_a(&self, block: &str, x: Tensor<4>) -> Tensor<4> {
        let at = |name: &str, x| self.at(&format!("Mixed_{block}.{name}"), x);
        let five = at("branch5x5_2", at("branch5x5_1", x.clone()));
        let double = at("branch3x3dbl_3", at("branch3x3dbl_2", at("branch3x3dbl_1", x.clone())));
        Tensor::cat(vec![at("branch1x1", x.clone()), five, double, at("branch_pool", average(x))], 1)
    }

    fn block_e(&self, block: &str, x: Tensor<4>, pooled: Tensor<4>) -> Tensor<4> {
        let at = |name: &str, x| self.at(&format!("Mixed_{block}.{name}"), x);
        let three = at("branch3x3_1", x.clone());
        let double = at("branch3x3dbl_2", at("branch3x3dbl_1", x.clone()));
        Tensor::cat(
            vec![
                at("branch1x1", x),
                at("branch3x3_2a", three.clone()),
                at("branch3x3_2b", three),
                at("branch3x3dbl_3a", double.clone()),
                at("branch3x3dbl_3b", double),
                at("branch_pool", pooled),
            ],
            1,
        )
    }
}

/// A tensor of a shape, or a line in the report.
fn floats(
    file: &Tensors,
    name: String,
    expected: &[usize],
    mismatch: &mut Mismatch,
) -> Result<Vec<f32>, Error> {
    match file.entries().get(&name) {
        None => mismatch.missing.push(name),
        Some(entry) if entry.shape != expected => {
            let (expected, found) = (expected.to_vec(), entry.shape.clone());
            mismatch.misshapen.push(Misshapen { name, expected, found });
        }
        Some(_) => return Ok(file.floats(&name)?),
    }
    Ok(Vec::new())
}

/// The maximum of 3×3 positions at every second.
fn halve(x: Tensor<4>) -> Tensor<4> {
    max_pool2d(x, MaxPoolOptions::new([3, 3]).with_stride([2, 2]))
}

/// The mean of 3×3 positions, those outside the picture not counted.
fn average(x: Tensor<4>) -> Tensor<4> {
    let options = AvgPoolOptions::new([3, 3]).with_stride([1, 1]).with_padding([1, 1]);
    avg_pool2d(x, options.with_count_include_pad(false))
}
