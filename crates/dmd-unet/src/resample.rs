use burn::module::Module;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::tensor::{Device, Tensor};
use dmd_kernels::{convolution, doubled, doubled_convolution};

use crate::cost::{self, Cost};
use crate::resnet::conv3x3;

/// Halves height and width by a 3×3 convolution of stride 2.
#[derive(Module, Debug)]
pub(crate) struct Downsample {
    conv: Conv2d,
}

impl Downsample {
    /// The UNet's downsampling, which pads one row or column of zeros on every side.
    pub(crate) fn symmetric(channels: usize, device: &Device) -> Self {
        Self::new(channels, PaddingConfig2d::Explicit(1, 1, 1, 1), device)
    }

    /// The autoencoder's downsampling, which pads zeros below and to the right only.
    pub(crate) fn below_right(channels: usize, device: &Device) -> Self {
        Self::new(channels, PaddingConfig2d::Explicit(0, 0, 1, 1), device)
    }

    fn new(channels: usize, padding: PaddingConfig2d, device: &Device) -> Self {
        let conv = Conv2dConfig::new([channels, channels], [3, 3]).with_stride([2, 2]).with_padding(padding);
        Self { conv: conv.init(device) }
    }

    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        convolution(&self.conv, x)
    }

    /// The cost for an input of `[height, width]`, and the size of the output.
    pub(crate) fn cost(&self, side: [usize; 2]) -> (Cost, [usize; 2]) {
        let after = side.map(|side| side.div_ceil(2));
        let (positions, [_, output]) = (after[0] * after[1], cost::channels(&self.conv));
        let out = output * positions;
        (Cost::of(self, out, out, cost::convolution(&self.conv, positions)), after)
    }
}

/// Doubles height and width by repetition, then a 3×3 convolution.
#[derive(Module, Debug)]
pub(crate) struct Upsample {
    conv: Conv2d,
}

impl Upsample {
    pub(crate) fn new(channels: usize, device: &Device) -> Self {
        Self { conv: conv3x3(channels, channels, device) }
    }

    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        doubled_convolution(&self.conv, x)
    }

    /// The cost for an output of `[height, width]`. Kept are the doubled input and the output.
    pub(crate) fn cost(&self, [height, width]: [usize; 2]) -> Cost {
        let [input, output] = cost::channels(&self.conv);
        let out = output * height * width;
        Cost::of(self, out + input * height * width, out, cost::convolution(&self.conv, height * width))
    }

    /// As [`Self::forward`], but the output has the size of a skip. The last row or column is cut off where the down
    /// path halved an odd number of them.
    ///
    /// # Panics
    ///
    /// If the size is larger than twice the input's.
    pub(crate) fn forward_to(&self, x: Tensor<4>, [height, width]: [usize; 2]) -> Tensor<4> {
        let [_, _, from_height, from_width] = x.dims();
        if [height, width] == [2 * from_height, 2 * from_width] {
            return self.forward(x);
        }
        // The cut comes before the convolution, so that the convolution's border is zeros and not the values that were
        // cut off.
        convolution(&self.conv, doubled(x).narrow(2, 0, height).narrow(3, 0, width))
    }
}

/// Averages every 2×2 positions.
pub(crate) fn halved(x: Tensor<4>) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    x.reshape([batch, channels, height / 2, 2, width / 2, 2]).mean_dims(&[3, 5]).reshape([
        batch,
        channels,
        height / 2,
        width / 2,
    ])
}
