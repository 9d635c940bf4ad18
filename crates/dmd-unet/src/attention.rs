use burn::module::Module;
use burn::nn::conv::Conv2d;
use burn::nn::{GroupNorm, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use dmd_kernels::{Activation, attention_between, convolution, layer_norm, linear, linear_geglu};

use crate::block::Attend;
use crate::cost::{self, Cost};
use crate::resnet::{apply_norm, conv1x1, group_norm};

/// diffusers' `Attention`: self-attention, or cross-attention to a context, which may have another width.
#[derive(Module, Debug)]
pub(crate) struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Vec<Linear>,
    num_heads: usize,
}

impl Attention {
    fn new(channels: usize, context: usize, num_heads: usize, device: &Device) -> Self {
        let project = |input| LinearConfig::new(input, channels).with_bias(false).init(device);
        Self {
            to_q: project(channels),
            to_k: project(context),
            to_v: project(context),
            to_out: vec![LinearConfig::new(channels, channels).init(device)],
            num_heads,
        }
    }

    /// How many values are kept for the backward pass, and how many operations are needed, for `queries` queries and
    /// `keys` keys.
    fn cost(&self, queries: usize, keys: usize) -> (usize, f64) {
        let channels = self.to_q.weight.lazy_shape()[1];
        // Kept are the normalised input, q, k, v, and the input of the output layer. The context is not counted: it is
        // no activation of the network.
        let kept = channels * (3 * queries + 2 * keys);
        let products = [(&self.to_q, queries), (&self.to_k, keys), (&self.to_v, keys)];
        let out = self.to_out.iter().map(|layer| (layer, queries));
        let layers: f64 =
            products.into_iter().chain(out).map(|(layer, rows)| cost::linear(layer, rows)).sum();
        (kept, layers + cost::attention(queries, keys, channels))
    }

    /// `x: [batch, n, channels]` attends to `context: [batch, m, width]`.
    fn forward(&self, x: Tensor<3>, context: Tensor<3>) -> Tensor<3> {
        let out = attention_between(
            self.to_q.weight.dtype(),
            linear(&self.to_q, x),
            linear(&self.to_k, context.clone()),
            linear(&self.to_v, context),
            self.num_heads,
        );
        self.to_out.iter().fold(out, |out, layer| linear(layer, out))
    }
}

/// GEGLU feed-forward: `out(h · gelu(gate))` with `h, gate = proj(x)` (exact, erf-based GELU).
#[derive(Module, Debug)]
pub(crate) struct FeedForward {
    proj: Linear,
    out: Linear,
}

impl FeedForward {
    fn new(channels: usize, device: &Device) -> Self {
        Self {
            proj: LinearConfig::new(channels, 8 * channels).init(device),
            out: LinearConfig::new(4 * channels, channels).init(device),
        }
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        linear(&self.out, linear_geglu(&self.proj, x))
    }
}

/// diffusers' `BasicTransformerBlock`: self-attention, cross-attention and feed-forward, each after a layer
/// normalisation and with a residual connection.
#[derive(Module, Debug)]
pub(crate) struct TransformerBlock {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: FeedForward,
}

impl TransformerBlock {
    fn new(channels: usize, context: usize, num_heads: usize, device: &Device) -> Self {
        let norm = || LayerNormConfig::new(channels).with_epsilon(1e-5).init(device);
        Self {
            norm1: norm(),
            attn1: Attention::new(channels, channels, num_heads, device),
            norm2: norm(),
            attn2: Attention::new(channels, context, num_heads, device),
            norm3: norm(),
            ff: FeedForward::new(channels, device),
        }
    }

    /// How many values are kept for the backward pass, and how many operations are needed.
    fn cost(&self, positions: usize, tokens: usize) -> (usize, f64) {
        let [channels, wide] = [0, 1].map(|axis| self.ff.proj.weight.lazy_shape()[axis]);
        let (of_itself, of_text) =
            (self.attn1.cost(positions, positions), self.attn2.cost(positions, tokens));
        // A layer normalisation keeps two values for each of its inputs. The feed-forward keeps the inputs of its two
        // layers and of its gate.
        let kept = positions * (3 * 2 * channels + channels + wide + wide / 2);
        let products = cost::linear(&self.ff.proj, positions) + cost::linear(&self.ff.out, positions);
        (kept + of_itself.0 + of_text.0, products + of_itself.1 + of_text.1)
    }

    fn forward(&self, x: Tensor<3>, text: Tensor<3>) -> Tensor<3> {
        let normal = layer_norm(&self.norm1, x.clone());
        let x = self.attn1.forward(normal.clone(), normal) + x;
        let x = self.attn2.forward(layer_norm(&self.norm2, x.clone()), text) + x;
        self.ff.forward(layer_norm(&self.norm3, x.clone())) + x
    }
}

/// A projection over channels, as a 1×1 convolution (SD 1.x) or a linear layer (SD 2.x).
#[derive(Module, Debug)]
pub(crate) enum Projection {
    /// `[out, in, 1, 1]` in the checkpoint.
    Convolution(Conv2d),
    /// `[out, in]` in the checkpoint.
    Linear(Linear),
}

/// Options of a [`SpatialTransformer`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct TransformerConfig {
    pub(crate) channels: usize,
    pub(crate) context: usize,
    pub(crate) num_heads: usize,
    pub(crate) groups: usize,
    pub(crate) linear_projection: bool,
    /// Number of transformer blocks between the projections.
    pub(crate) depth: usize,
}

/// diffusers' `Transformer2DModel`: transformer blocks over the positions of a picture.
#[derive(Module, Debug)]
pub struct SpatialTransformer {
    norm: GroupNorm,
    proj_in: Projection,
    transformer_blocks: Vec<TransformerBlock>,
    proj_out: Projection,
}

impl TransformerConfig {
    pub(crate) fn init(&self, device: &Device) -> SpatialTransformer {
        let channels = self.channels;
        let projection = || match self.linear_projection {
            true => Projection::Linear(LinearConfig::new(channels, channels).init(device)),
            false => Projection::Convolution(conv1x1(channels, channels, device)),
        };
        SpatialTransformer {
            // diffusers' Transformer2DModel always uses 1e-6 here, whatever the UNet's norm_eps.
            norm: group_norm(self.groups, channels, 1e-6, device),
            proj_in: projection(),
            transformer_blocks: (0..self.depth)
                .map(|_| TransformerBlock::new(channels, self.context, self.num_heads, device))
                .collect(),
            proj_out: projection(),
        }
    }
}

impl Projection {
    /// Number of input channels, and number of operations for `positions` positions.
    fn cost(&self, positions: usize) -> (usize, f64) {
        match self {
            Self::Convolution(conv) => (cost::channels(conv)[0], cost::convolution(conv, positions)),
            Self::Linear(layer) => (layer.weight.lazy_shape()[0], cost::linear(layer, positions)),
        }
    }
}

impl Attend for SpatialTransformer {
    type Context = Tensor<3>;

    fn cost(&self, positions: usize, tokens: usize) -> Cost {
        let ((channels, into), (_, out)) = (self.proj_in.cost(positions), self.proj_out.cost(positions));
        let blocks = self.transformer_blocks.iter().map(|block| block.cost(positions, tokens));
        let (kept, operations) =
            blocks.fold((0, into + out), |sum, block| (sum.0 + block.0, sum.1 + block.1));
        // Also kept are the inputs of the two projections, and the output.
        Cost::of(self, kept + 3 * channels * positions, channels * positions, operations)
    }

    /// `x: [batch, channels, height, width]`, `text: [batch, tokens, context]`.
    fn attend(&self, x: Tensor<4>, text: &Tensor<3>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let normal = apply_norm(&self.norm, x.clone(), Activation::Identity);
        let tokens = |x: Tensor<4>| {
            x.reshape([batch, channels, height * width]).swap_dims(1, 2) // [batch, positions, channels]
        };
        let picture = |x: Tensor<3>| x.swap_dims(1, 2).reshape([batch, channels, height, width]);
        let mut h = match &self.proj_in {
            Projection::Convolution(conv) => tokens(convolution(conv, normal)),
            Projection::Linear(layer) => linear(layer, tokens(normal)),
        };
        for block in &self.transformer_blocks {
            h = block.forward(h, text.clone());
        }
        let out = match &self.proj_out {
            Projection::Convolution(conv) => convolution(conv, picture(h)),
            Projection::Linear(layer) => picture(linear(layer, h)),
        };
        out + x
    }
}

/// Self-attention over the positions, after a group normalisation and with a residual connection. The autoencoder uses
/// it with one head, the class-conditional UNet with several.
#[derive(Module, Debug)]
pub struct PositionAttention {
    group_norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Vec<Linear>,
    num_heads: usize,
}

impl PositionAttention {
    pub(crate) fn new(
        channels: usize,
        num_heads: usize,
        (groups, epsilon): (usize, f64),
        device: &Device,
    ) -> Self {
        let project = || LinearConfig::new(channels, channels).init(device);
        Self {
            group_norm: group_norm(groups, channels, epsilon, device),
            to_q: project(),
            to_k: project(),
            to_v: project(),
            to_out: vec![project()],
            num_heads,
        }
    }

    /// `x: [batch, channels, height, width]`.
    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let shape = x.dims();
        let [batch, channels, height, width] = shape;
        let normal = apply_norm(&self.group_norm, x.clone(), Activation::Identity)
            .reshape([batch, channels, height * width])
            .swap_dims(1, 2);
        let out = attention_between(
            self.to_q.weight.dtype(),
            linear(&self.to_q, normal.clone()),
            linear(&self.to_k, normal.clone()),
            linear(&self.to_v, normal),
            self.num_heads,
        );
        let out = self.to_out.iter().fold(out, |out, layer| linear(layer, out));
        out.swap_dims(1, 2).reshape(shape) + x
    }
}

impl Attend for PositionAttention {
    type Context = ();

    fn cost(&self, positions: usize, _tokens: usize) -> Cost {
        let channels = self.to_q.weight.lazy_shape()[0];
        let layers = [&self.to_q, &self.to_k, &self.to_v].into_iter().chain(&self.to_out);
        let operations: f64 = layers.map(|layer| cost::linear(layer, positions)).sum();
        // Kept are three copies of the normalised positions, one for each of the first three products; q, k and v; the
        // input of the last layer; and the output.
        let kept = 8 * channels * positions;
        let both = operations + cost::attention(positions, positions, channels);
        Cost::of(self, kept, channels * positions, both)
    }

    fn attend(&self, x: Tensor<4>, (): &()) -> Tensor<4> {
        self.forward(x)
    }
}
