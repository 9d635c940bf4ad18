//! The random numbers of PyTorch's two generators, so that a seed means the same picture there and
//! here.

use rand_mt::Mt;

/// PyTorch's CPU generator: MT19937, normals by Box–Muller in one of two layouts.
#[derive(Debug, Clone)]
pub(crate) struct TorchCpu {
    seed: u64,
    engine: Mt,
    words: u128,
    /// The second half of a pair of the short layout, given out by the next call.
    spare: Option<f64>,
}

/// From this many values on, `torch.randn` takes the long layout.
const LONG: usize = 16;

impl TorchCpu {
    pub(crate) fn new(seed: u64) -> Self {
        // PyTorch keeps the low 32 bits of a seed for this engine.
        Self { seed, engine: Mt::new(seed as u32), words: 0, spare: None }
    }

    pub(crate) fn position(&self) -> u128 {
        self.words
    }

    /// Replays the stream; a spare half of a pair is dropped.
    pub(crate) fn seek(&mut self, position: u128) {
        *self = Self::new(self.seed);
        while self.words < position {
            self.next_u32();
        }
    }

    pub(crate) fn next_u32(&mut self) -> u32 {
        self.words += 1;
        self.engine.next_u32()
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        let high = u64::from(self.next_u32());
        high << 32 | u64::from(self.next_u32())
    }

    /// A number in `[0, 1)` with 24 random bits: all that an f32 takes.
    fn unit_f32(&mut self) -> f32 {
        (self.next_u32() & 0xff_ffff) as f32 / (1_u32 << 24) as f32
    }

    fn unit_f64(&mut self) -> f64 {
        (self.next_u64() & ((1 << 53) - 1)) as f64 / (1_u64 << 53) as f64
    }

    /// One call of `torch.randn(count)` in f32.
    pub(crate) fn normals(&mut self, count: usize) -> Vec<f32> {
        if count < LONG {
            return (0..count).map(|_| self.short() as f32).collect();
        }
        let mut values: Vec<f32> = (0..count).map(|_| self.unit_f32()).collect();
        let (blocks, rest) = values.as_chunks_mut::<LONG>();
        blocks.iter_mut().for_each(box_muller);
        if !rest.is_empty() {
            // The last 16 are drawn anew, over what the last whole block has already given.
            let mut block = [0.0; LONG];
            block.fill_with(|| self.unit_f32());
            box_muller(&mut block);
            values[count - LONG..].copy_from_slice(&block);
        }
        values
    }

    fn short(&mut self) -> f64 {
        if let Some(spare) = self.spare.take() {
            return spare;
        }
        let (angle, radius) = (self.unit_f64(), self.unit_f64());
        let angle = std::f64::consts::TAU * angle;
        let radius = (-2.0 * (-radius).ln_1p()).sqrt();
        self.spare = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

/// Sixteen uniform numbers to normal ones: element `j` is paired with `j + 8`.
fn box_muller(block: &mut [f32; LONG]) {
    let (first, second) = block.split_at_mut(LONG / 2);
    for (a, b) in first.iter_mut().zip(second) {
        let radius = (-2.0 * (1.0 - *a).ln()).sqrt();
        let angle = std::f32::consts::TAU * *b;
        (*a, *b) = (radius * angle.cos(), radius * angle.sin());
    }
}

/// PyTorch's CUDA generator: Philox 4×32-10, one counter per value, as its kernel hands them out
/// while a tensor has no more values than the GPU has threads (221 184 on an A100; a latent of a
/// 512×512 picture has 16 384).
#[derive(Debug, Clone)]
pub(crate) struct TorchCuda {
    key: [u32; 2],
    call: u64,
    /// For numbers that are not part of a tensor: a value index beyond any tensor's.
    loose: u64,
}

impl TorchCuda {
    pub(crate) fn new(seed: u64) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], call: 0, loose: 0 }
    }

    pub(crate) fn position(&self) -> u128 {
        u128::from(self.call) << 64 | u128::from(self.loose)
    }

    pub(crate) fn seek(&mut self, position: u128) {
        self.call = (position >> 64) as u64;
        self.loose = position as u64;
    }

    pub(crate) fn next_u64(&mut self) -> u64 {
        let [low, high, ..] = philox([u32::MAX, u32::MAX, self.loose as u32, !0], self.key);
        self.loose += 1;
        u64::from(high) << 32 | u64::from(low)
    }

    /// One call of `torch.randn(count, device="cuda")` in f32.
    pub(crate) fn normals(&mut self, count: usize) -> Vec<f32> {
        let call = [self.call as u32, (self.call >> 32) as u32];
        self.call += 1;
        let value = |index: u64| {
            let [a, b, ..] = philox([call[0], call[1], index as u32, (index >> 32) as u32], self.key);
            // curand's constants: (0, 1] and (0, 2π], in f32.
            let unit = a as f32 * 2.0_f32.powi(-32) + 2.0_f32.powi(-33);
            let step = 2.0_f32.powi(-32) * std::f32::consts::TAU;
            let angle = b as f32 * step + step / 2.0;
            (-2.0 * unit.ln()).sqrt() * angle.sin()
        };
        (0..count as u64).map(value).collect()
    }
}

/// Philox 4×32 with ten rounds (Salmon et al. 2011).
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    let wide = |a: u32, b: u32| u64::from(a) * u64::from(b);
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        let (first, second) = (wide(0xD251_1F53, counter[0]), wide(0xCD9E_8D57, counter[2]));
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::philox;

    /// The known answers of the authors' Random123 library (`kat_vectors`, philox4x32 10).
    #[test]
    fn philox_gives_its_known_answers() {
        let zeros = philox([0; 4], [0; 2]);
        assert_eq!(zeros, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = philox([u32::MAX; 4], [u32::MAX; 2]);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }
}
