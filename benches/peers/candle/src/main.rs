//! Times candle's Stable Diffusion 1.5 on a model folder, part by part: `candle-peer MODEL PART RUNS` prints one line of
//! JSON with the median in milliseconds.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use candle_core::{DType, Device, Module, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::stable_diffusion::StableDiffusionConfig;
use candle_transformers::models::stable_diffusion::clip::ClipTextTransformer;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, part, runs] = args.as_slice() else { bail!("usage: candle-peer MODEL PART RUNS") };
    let (model, runs): (&Path, usize) = (Path::new(model), runs.parse()?);
    let device = Device::Cpu;
    let config = StableDiffusionConfig::v1_5(None, Some(512), Some(512));
    let file = |folder: &str, name: &str| model.join(folder).join(name);
    let weights = "diffusion_pytorch_model.safetensors";

    // The names and the vocabulary that candle expects, where the folder's differ.
    let text = || -> Result<ClipTextTransformer> {
        let mut tensors = HashMap::new();
        for (name, tensor) in candle_core::safetensors::load(file("text_encoder", "model.safetensors"), &device)? {
            let name = format!("text_model.{}", name.trim_start_matches("text_model."));
            let missing = if name.ends_with("token_embedding.weight") { 49408 - tensor.dim(0)? } else { 0 };
            let tensor = if missing > 0 { tensor.pad_with_zeros(0, 0, missing)? } else { tensor };
            tensors.insert(name, tensor);
        }
        let vb = VarBuilder::from_tensors(tensors, DType::F32, &device);
        Ok(ClipTextTransformer::new(vb, &config.clip)?)
    };
    let ids = Tensor::zeros((1, 77), DType::U32, &device)?;
    let unet = || config.build_unet(file("unet", weights), &device, 4, false, DType::F32);
    let vae = || config.build_vae(file("vae", weights), &device, DType::F32);
    let latents = Tensor::randn(0f32, 1f32, (1, 4, 64, 64), &device)?;
    let features = Tensor::randn(0f32, 1f32, (1, 77, 768), &device)?;
    let settle = |tensor: Tensor| -> Result<f32> { Ok(tensor.sum_all()?.to_scalar::<f32>()?) };

    let mut run: Box<dyn FnMut() -> Result<f32>> = match part.as_str() {
        "text" => {
            let text = text()?;
            Box::new(move || settle(text.forward(&ids)?))
        }
        "unet" => {
            let unet = unet()?;
            Box::new(move || settle(unet.forward(&latents, 999.0, &features)?))
        }
        "decode" => {
            let vae = vae()?;
            Box::new(move || settle(vae.decode(&latents)?))
        }
        "picture" => {
            let (text, unet, vae) = (text()?, unet()?, vae()?);
            Box::new(move || {
                let eps = unet.forward(&latents, 999.0, &text.forward(&ids)?)?;
                // DDPM's last timestep: alpha 0.0683, sigma 0.9977.
                let x0 = ((&latents - (eps * 0.9977)?)? / (0.0683 * 0.18215))?;
                settle((vae.decode(&x0)? * 0.5)?.clamp(-1.0, 1.0)?)
            })
        }
        other => bail!("there is no part {other:?}"),
    };
    run()?;
    let mut times = Vec::new();
    for _ in 0..runs {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    println!("{}", serde_json::json!({ "part": part, "median_ms": times[times.len() / 2] }));
    Ok(())
}
