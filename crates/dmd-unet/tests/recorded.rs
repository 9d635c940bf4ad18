//! The list that a run of a UNet records holds the operations of its layers, and its work is what a hand counts.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use burn::tensor::{Device, Tensor};
use dmd_kernels::{Operation, flops, recorded};
use dmd_unet::{Network, UNetConfig};
use serde_json::json;

/// Two levels of 32 and 64 channels with one residual block each on the way down, on 8×8 latents: the upper level
/// attends to 5 rows of 16 text features with 4 heads, and so does the middle.
#[test]
fn a_tiny_unet_records_its_layers() {
    let mut config = serde_json::to_value(UNetConfig::sd15()).unwrap();
    for (key, value) in [
        ("block_out_channels", json!([32, 64])),
        ("layers_per_block", json!(1)),
        ("cross_attention_dim", json!(16)),
        ("attention_head_dim", json!(4)),
        ("norm_num_groups", json!(8)),
        ("down_block_types", json!(["CrossAttnDownBlock2D", "DownBlock2D"])),
        ("up_block_types", json!(["UpBlock2D", "CrossAttnUpBlock2D"])),
    ] {
        config[key] = value;
    }
    let config: UNetConfig = serde_json::from_value(config).unwrap();
    let device = Device::flex();
    let unet = config.init(&device).unwrap();
    let run = |batch: usize| {
        let x = Tensor::zeros([batch, 4, 8, 8], &device);
        let text = Tensor::zeros([batch, 5, 16], &device);
        recorded(|| unet.forward(x, Tensor::full([batch], 500.0, &device), &text)).1
    };
    let found = run(1);

    let convolution = |input, output, side: usize, kernel, stride| Operation::Convolution {
        batch: 1,
        input,
        output,
        side: [side; 2],
        kernel,
        stride,
        padding: [kernel / 2; 2],
    };
    let linear = |rows, input, output| Operation::Linear { rows, input, output };
    let attention = |heads, queries, keys, width| Operation::Attention {
        batch: 1,
        heads,
        queries,
        keys,
        width,
        causal: false,
    };
    let norm = |channels, side: usize, silu| Operation::GroupNorm {
        batch: 1,
        channels,
        groups: 8,
        side: [side; 2],
        silu,
    };
    // Upwards, 4×4: 64 + 64 and 64 + 32 channels come in; 8×8: 64 + 32 and 32 + 32. Three transformers at 8×8 of 32
    // channels (one down, two up), one in the middle at 4×4 of 64.
    let expected = [
        (convolution(4, 32, 8, 3, 1), 1),      // in
        (convolution(32, 32, 8, 3, 1), 2 + 2), // down: both of a block; up: the second of two
        (convolution(32, 32, 8, 3, 2), 1),     // halving
        (convolution(32, 64, 4, 3, 1), 1),
        (convolution(64, 64, 4, 3, 1), 1 + 4 + 2), // down, middle, up
        (convolution(32, 64, 4, 1, 1), 1),         // around it
        (convolution(128, 64, 4, 3, 1), 1),
        (convolution(128, 64, 4, 1, 1), 1),
        (convolution(96, 64, 4, 3, 1), 1),
        (convolution(96, 64, 4, 1, 1), 1),
        (convolution(64, 64, 8, 3, 1), 1), // after doubling
        (convolution(96, 32, 8, 3, 1), 1),
        (convolution(96, 32, 8, 1, 1), 1),
        (convolution(64, 32, 8, 3, 1), 1),
        (convolution(64, 32, 8, 1, 1), 1),
        (convolution(32, 4, 8, 3, 1), 1),      // out
        (convolution(32, 32, 8, 1, 1), 3 * 2), // projections around a transformer
        (convolution(64, 64, 4, 1, 1), 2),
        (linear(1, 32, 128), 1), // the time's embedding
        (linear(1, 128, 128), 1),
        (linear(1, 128, 32), 1 + 2), // the time in each block
        (linear(1, 128, 64), 1 + 2 + 2),
        (linear(64, 32, 32), 3 * (4 + 2)), // queries, keys, values, out; queries and out
        (linear(5, 16, 32), 3 * 2),
        (linear(64, 32, 256), 3),
        (linear(64, 128, 32), 3),
        (linear(16, 64, 64), 4 + 2),
        (linear(5, 16, 64), 2),
        (linear(16, 64, 512), 1),
        (linear(16, 256, 64), 1),
        (attention(4, 64, 64, 8), 3),
        (attention(4, 64, 5, 8), 3),
        (attention(4, 16, 16, 16), 1),
        (attention(4, 16, 5, 16), 1),
    ];
    for (operation, count) in &expected {
        assert_eq!(found.get(operation), Some(count), "{operation}");
    }
    assert_eq!(found[&norm(32, 8, false)], 3);
    assert_eq!(found[&norm(64, 4, false)], 1);
    assert_eq!(found[&Operation::LayerNorm { rows: 64, width: 32 }], 9);
    assert_eq!(found[&Operation::Geglu { rows: 64, width: 128 }], 3);

    // Two for a multiplication and its addition; convolutions per output position, products per row.
    let at_8 = 2
        * 64
        * (9 * (4 * 32 + 4 * 32 * 32 + 64 * 64 + 96 * 32 + 64 * 32 + 32 * 4)
            + 96 * 32
            + 64 * 32
            + 6 * 32 * 32);
    let at_4 = 2
        * 16
        * (9 * (32 * 32 + 32 * 64 + 7 * 64 * 64 + 128 * 64 + 96 * 64)
            + 32 * 64
            + 128 * 64
            + 96 * 64
            + 2 * 64 * 64);
    let time = 2 * (32 * 128 + 128 * 128 + 3 * 128 * 32 + 5 * 128 * 64);
    let rows_8 = 3 * 2 * (64 * (6 * 32 * 32 + 32 * 256 + 128 * 32) + 2 * 5 * 16 * 32);
    let rows_4 = 2 * (16 * (6 * 64 * 64 + 64 * 512 + 256 * 64) + 2 * 5 * 16 * 64);
    let attended = 3 * 4 * 64 * (64 + 5) * 32 + 4 * 16 * (16 + 5) * 64;
    assert_eq!(flops(&found), f64::from(at_8 + at_4 + time + rows_8 + rows_4 + attended));
    // Twice the samples are twice the work, and nothing is recorded beside a recording.
    assert_eq!(flops(&run(2)), 2.0 * flops(&found));
    assert!(recorded(|| ()).1.is_empty());
}
