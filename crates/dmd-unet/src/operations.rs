//! The operations of the networks, listed from their configurations: what a device is checked on before it is
//! trusted with a model, and what benchmarks time.

use dmd_kernels::{Operation, Operations};

use crate::{AutoencoderConfig, UNetConfig};

/// A picture's place in the network.
#[derive(Debug, Clone, Copy)]
struct Tally {
    batch: usize,
    side: [usize; 2],
    groups: usize,
}

impl Tally {
    fn add(found: &mut Operations, operation: Operation) {
        *found.entry(operation).or_default() += 1;
    }

    fn convolution(&self, found: &mut Operations, input: usize, output: usize, kernel: usize) {
        let Self { batch, side, .. } = *self;
        let padding = [kernel / 2; 2];
        Self::add(found, Operation::Convolution { batch, input, output, side, kernel, stride: 1, padding });
    }

    /// A convolution of stride 2, and the place after it.
    fn halve(&mut self, found: &mut Operations, channels: usize, padding: [usize; 2]) {
        let Self { batch, side, .. } = *self;
        let (input, output) = (channels, channels);
        Self::add(
            found,
            Operation::Convolution { batch, input, output, side, kernel: 3, stride: 2, padding },
        );
        self.side = side.map(|side| (side + padding[0] + padding[1] - 3) / 2 + 1);
    }

    /// Repetition, and the convolution after it.
    fn double(&mut self, found: &mut Operations, channels: usize) {
        self.side = self.side.map(|side| 2 * side);
        self.convolution(found, channels, channels, 3);
    }

    fn norm(&self, found: &mut Operations, channels: usize, silu: bool) {
        let Self { batch, side, groups } = *self;
        Self::add(found, Operation::GroupNorm { batch, channels, groups, side, silu });
    }

    fn resnet(&self, found: &mut Operations, input: usize, output: usize, embedding: Option<usize>) {
        self.norm(found, input, true);
        self.convolution(found, input, output, 3);
        if let Some(width) = embedding {
            Self::add(found, Operation::Linear { rows: self.batch, input: width, output });
        }
        self.norm(found, output, true);
        self.convolution(found, output, output, 3);
        if input != output {
            self.convolution(found, input, output, 1);
        }
    }

    fn rows(&self) -> usize {
        self.batch * self.side[0] * self.side[1]
    }

    fn attention(&self, found: &mut Operations, channels: usize, heads: usize, keys: usize, context: usize) {
        let Self { batch, side, .. } = *self;
        let rows = self.rows();
        let (queries, width) = (side[0] * side[1], channels / heads);
        Self::add(found, Operation::Linear { rows, input: channels, output: channels });
        for _ in 0..2 {
            Self::add(found, Operation::Linear { rows: batch * keys, input: context, output: channels });
        }
        Self::add(found, Operation::Attention { batch, heads, queries, keys, width, causal: false });
        Self::add(found, Operation::Linear { rows, input: channels, output: channels });
    }

    fn transformer(&self, found: &mut Operations, unet: &UNetConfig, level: usize, tokens: usize) {
        let channels = unet.block_out_channels[level];
        let heads = unet.attention_head_dim.at(level);
        let rows = self.rows();
        self.norm(found, channels, false);
        for _ in 0..2 {
            match unet.use_linear_projection {
                true => Self::add(found, Operation::Linear { rows, input: channels, output: channels }),
                false => self.convolution(found, channels, channels, 1),
            }
        }
        self.attention(found, channels, heads, self.side[0] * self.side[1], channels);
        self.attention(found, channels, heads, tokens, unet.cross_attention_dim);
        Self::add(found, Operation::Linear { rows, input: channels, output: 8 * channels });
        Self::add(found, Operation::Geglu { rows, width: 4 * channels });
        Self::add(found, Operation::Linear { rows, input: 4 * channels, output: channels });
        for _ in 0..3 {
            Self::add(found, Operation::LayerNorm { rows, width: channels });
        }
    }
}

impl UNetConfig {
    /// The operations of one call on `[batch, in_channels, side…]` latents with `tokens` rows of text features.
    ///
    /// The sides are multiples of [`Self::downsampling`], and the configuration is valid ([`Self::validate`]).
    pub fn operations(&self, batch: usize, side: [usize; 2], tokens: usize) -> Operations {
        let mut found = Operations::new();
        let mut at = Tally { batch, side, groups: self.norm_num_groups };
        let channels = &self.block_out_channels;
        let (levels, embedding) = (channels.len(), 4 * channels[0]);
        at.convolution(&mut found, self.in_channels, channels[0], 3);
        Tally::add(&mut found, Operation::Linear { rows: batch, input: channels[0], output: embedding });
        Tally::add(&mut found, Operation::Linear { rows: batch, input: embedding, output: embedding });
        let mut skips = vec![channels[0]];
        for level in 0..levels {
            let mut input = channels[level.saturating_sub(1)];
            for _ in 0..self.layers_per_block {
                at.resnet(&mut found, input, channels[level], Some(embedding));
                if self.attends_down(level) {
                    at.transformer(&mut found, self, level, tokens);
                }
                input = channels[level];
                skips.push(input);
            }
            if level + 1 < levels {
                at.halve(&mut found, channels[level], [1, 1]);
                skips.push(channels[level]);
            }
        }
        let deepest = levels - 1;
        at.resnet(&mut found, channels[deepest], channels[deepest], Some(embedding));
        at.transformer(&mut found, self, deepest, tokens);
        at.resnet(&mut found, channels[deepest], channels[deepest], Some(embedding));
        let mut input = channels[deepest];
        for block in 0..levels {
            let level = deepest - block;
            for _ in 0..=self.layers_per_block {
                let skip = skips.pop().expect("the encoder pushed as many skips as the decoder takes");
                at.resnet(&mut found, input + skip, channels[level], Some(embedding));
                input = channels[level];
                if self.attends_up(block) {
                    at.transformer(&mut found, self, level, tokens);
                }
            }
            if level > 0 {
                at.double(&mut found, channels[level]);
            }
        }
        at.norm(&mut found, channels[0], true);
        at.convolution(&mut found, channels[0], self.out_channels, 3);
        found
    }
}

impl AutoencoderConfig {
    fn middle(&self, found: &mut Operations, at: &Tally, channels: usize) {
        at.resnet(found, channels, channels, None);
        at.norm(found, channels, false);
        at.attention(found, channels, 1, at.side[0] * at.side[1], channels);
        at.resnet(found, channels, channels, None);
    }

    /// The operations of decoding `[batch, latent_channels, side…]`.
    pub fn decoder_operations(&self, batch: usize, side: [usize; 2]) -> Operations {
        let mut found = Operations::new();
        let mut at = Tally { batch, side, groups: self.norm_num_groups };
        let last = self.block_out_channels.len() - 1;
        let mut channels = self.block_out_channels[last];
        at.convolution(&mut found, self.latent_channels, self.latent_channels, 1);
        at.convolution(&mut found, self.latent_channels, channels, 3);
        self.middle(&mut found, &at, channels);
        for level in (0..=last).rev() {
            for _ in 0..=self.layers_per_block {
                at.resnet(&mut found, channels, self.block_out_channels[level], None);
                channels = self.block_out_channels[level];
            }
            if level > 0 {
                at.double(&mut found, channels);
            }
        }
        at.norm(&mut found, channels, true);
        at.convolution(&mut found, channels, self.out_channels, 3);
        found
    }

    /// The operations of encoding pictures `[batch, in_channels, side…]`.
    pub fn encoder_operations(&self, batch: usize, side: [usize; 2]) -> Operations {
        let mut found = Operations::new();
        let mut at = Tally { batch, side, groups: self.norm_num_groups };
        let last = self.block_out_channels.len() - 1;
        let mut channels = self.block_out_channels[0];
        at.convolution(&mut found, self.in_channels, channels, 3);
        for level in 0..=last {
            for _ in 0..self.layers_per_block {
                at.resnet(&mut found, channels, self.block_out_channels[level], None);
                channels = self.block_out_channels[level];
            }
            if level < last {
                at.halve(&mut found, channels, [0, 1]);
            }
        }
        self.middle(&mut found, &at, channels);
        at.norm(&mut found, channels, true);
        at.convolution(&mut found, channels, 2 * self.latent_channels, 3);
        at.convolution(&mut found, 2 * self.latent_channels, 2 * self.latent_channels, 1);
        found
    }
}
