//! What a file of weights has for a network: the tensors found, missing, unused and of another shape.
//!
//! `cargo run --example inspect_weights` writes an autoencoder's weights, damages the file in four ways, and prints the
//! report with which the library refuses it; the same report names every difference of a file of yours.

use anyhow::{bail, ensure};
use dmd::unet::{AUTOENCODER_KEYS, Autoencoder, AutoencoderConfig};
use dmd::weights::{Error, Mismatch, Precision, Tensors, load, read, save, tensors, write};

/// A small autoencoder with random weights.
fn network(device: &burn::tensor::Device) -> anyhow::Result<Autoencoder> {
    let config = AutoencoderConfig { norm_num_groups: 4, ..AutoencoderConfig::of_widths(16, vec![8, 16]) };
    Ok(config.init(device)?)
}

/// Looks at the names and shapes of a file, and fills a network from it.
fn inspect(path: &str, device: &burn::tensor::Device) -> anyhow::Result<Mismatch> {
    let file = read(path.as_ref())?; // headers alone: a file of gigabytes opens at once
    println!("{path}: {} tensors, {} bytes", file.entries().len(), file.bytes());
    for (name, entry) in file.entries().iter().take(3) {
        println!("  {name} {:?} {:?}", entry.dtype, entry.shape);
    }
    match load(network(device)?, &file, &AUTOENCODER_KEYS) {
        Ok(_) => Ok(Mismatch::default()),
        Err(Error::Mismatch { mismatch, .. }) => Ok(mismatch),
        Err(other) => bail!(other),
    }
}

fn main() -> anyhow::Result<()> {
    let device = dmd::device::open("flex")?;
    let whole = network(&device)?;
    save(&whole, "whole.safetensors".as_ref(), &AUTOENCODER_KEYS, Precision::Half)?;
    let fits = inspect("whole.safetensors", &device)?;
    ensure!(fits.is_empty(), "the network refuses its own file");
    println!("every tensor fits\n");

    // One tensor is left out, one is misspelt, one has another shape, one belongs to nothing.
    let mut named = tensors(&whole, &AUTOENCODER_KEYS);
    let count = named.len();
    named.retain(|(name, ..)| name != "quant_conv.bias");
    for (name, shape, values) in &mut named {
        match name.as_str() {
            "decoder.conv_in.weight" => *name = "decoder.conv_inn.weight".to_owned(),
            "encoder.conv_in.bias" => {
                shape[0] -= 1;
                values.pop();
            }
            _ => {}
        }
    }
    named.push(("loss.logvar".to_owned(), vec![1], vec![0.0]));
    write("damaged.safetensors".as_ref(), &Tensors::from_values("damaged", named)?, Precision::Half)?;
    let Mismatch { missing, unused, misshapen } = &inspect("damaged.safetensors", &device)?;
    println!("found: {} of {count}", count - missing.len() - misshapen.len());
    println!("missing: {missing:?}\nunused: {unused:?}");
    for tensor in misshapen {
        println!("misshapen: {} is {:?}, expected {:?}", tensor.name, tensor.found, tensor.expected);
    }
    ensure!((missing.len(), unused.len(), misshapen.len()) == (2, 2, 1), "the report misses a damage");
    Ok(())
}
