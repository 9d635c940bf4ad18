//! `dmd verify`: tiny models of several shapes against diffusers, and damaged ones.

use std::fs;
use std::path::Path;

use crate::support::{Fixture, Weights, device, golden, tiny_model};
use burn::tensor::Tensor;
use dmd::infer::verify::{Comparison, Tolerances, verify};
use dmd::infer::{Error, Pipeline, Request, Sampler, SizeConditions, TeacherSettings};
use serde_json::{Value, json};

/// A reference of the tiny model's own outputs in the golden files.
fn reference(folder: &Path) -> std::path::PathBuf {
    let read = |name: &str| fs::read(golden(&format!("{name}.safetensors"))).unwrap();
    let (unet, vae, clip) = (read("unet_sd1/io"), read("vae/io"), read("clip_quick_gelu/io"));
    let [unet, vae, clip] =
        [&unet, &vae, &clip].map(|bytes| safetensors::SafeTensors::deserialize(bytes).unwrap());
    // The golden UNet was called with a text of its own; a reference has one text for all, so each
    // module has its own file here.
    let mut keys: Vec<(&str, safetensors::tensor::TensorView<'_>)> = Vec::new();
    for (file, pairs) in [
        (&clip, vec![("ids", "input_ids"), ("hidden", "text_hidden")]),
        (&vae, vec![("image", "image"), ("mean", "vae_mean")]),
    ] {
        keys.extend(pairs.into_iter().map(|(from, to)| (to, file.tensor(from).unwrap())));
    }
    let path = folder.join("reference.safetensors");
    fs::write(&path, safetensors::serialize(keys, None).unwrap()).unwrap();
    let keys = [("x", "latents"), ("t", "timesteps"), ("text", "text_hidden"), ("output", "unet_out")];
    let keys = keys.map(|(from, to)| (to, unet.tensor(from).unwrap()));
    fs::write(folder.join("unet.safetensors"), safetensors::serialize(keys, None).unwrap()).unwrap();
    path
}

fn run(model: &Path, reference: &Path) -> Result<Vec<Comparison>, Error> {
    verify(model, reference, None, &Tolerances::default(), &device())
}

#[test]
fn a_whole_model_agrees() {
    let model = tiny_model();
    let reference = reference(model.path());
    let all = run(model.path(), &reference).unwrap();
    assert_eq!(all.iter().map(|c| c.module).collect::<Vec<_>>(), ["text_hidden", "vae_mean"]);
    let unet = run(model.path(), &model.path().join("unet.safetensors")).unwrap();
    assert_eq!(unet[0].module, "unet_out");
    for found in all.iter().chain(&unet) {
        assert_eq!(found.beyond, 0, "{found:?}");
        assert!(found.max_absolute > 0.0 && found.relative < 1e-5, "{found:?}");
    }
}

/// Stable Diffusion XL: two token lists, features of the words and of the whole prompt, the UNet that is told sizes, one
/// call at t = 399, guidance away from zeros, the autoencoder. Modules and pictures are diffusers'; the walk is the
/// pipeline's own.
#[test]
fn a_whole_xl_model_agrees() {
    let model = golden("sdxl");
    let (io, pictures) = (Fixture::open("sdxl/io"), Fixture::open("sdxl/pictures"));
    let prompt = "a red circle above a blue square";
    let pipeline = Pipeline::builder(&model, &device()).teacher_only().build().unwrap();
    let (network, config) = dmd::unet::Autoencoder::from_dir(&model.join("vae"), &device()).unwrap();
    let z = pipeline.noise(&[5], 64, 96);
    let sizes = SizeConditions::of_picture((64, 96));
    let mut settings = TeacherSettings::new(3).with_guidance(3.0);
    settings.sampler = Some(Sampler::Ddim);
    let request = Request::new([prompt]).with_method(settings).with_seeds([5]).with_size_conditions(sizes);
    let text = pipeline.encode_prompt(&[prompt]).unwrap();
    let walked = pipeline.denoise_from(&request.with_size(64, 96), z.clone(), &text, &mut ()).unwrap();

    let mut weights = Weights::new();
    for (from, to) in [
        ("ids_2", "input_ids"),
        ("ids_2_2", "input_ids_2"),
        ("context_2", "text_hidden"),
        ("pooled_2", "text_pooled"),
        ("decoded", "vae_decoded"),
    ] {
        weights.copy(&io, from, to);
    }
    let latent: Tensor<4> = io.tensor("latent");
    weights.add_tensor("latents_scaled", latent / config.scaling_factor);
    weights.add("time_ids".to_owned(), &[1, 6], [64.0, 96.0, 0.0, 0.0, 64.0, 96.0]);
    weights.add_tensor("onestep_noise", z.clone());
    weights.add("onestep_timestep".to_owned(), &[1], [399.0]);
    weights.add_tensor("onestep_image", network.decode(pictures.tensor("one_step_latents")));
    weights.add_tensor("ddim_noise", z);
    weights.add("ddim_steps".to_owned(), &[1], [3.0]);
    weights.add("ddim_guidance".to_owned(), &[1], [3.0]);
    weights.add("uncond_hidden".to_owned(), &[1, 77, 56], vec![0.0; 77 * 56]);
    weights.add("uncond_pooled".to_owned(), &[1, 20], [0.0; 20]);
    weights.add_tensor("ddim_latents", walked);
    let all = run(&model, &weights.write("reference.safetensors")).unwrap();
    // One text for all: the golden call of the UNet had another.
    for (from, to) in [("x", "latents"), ("text", "text_hidden"), ("pooled", "text_pooled")] {
        weights.copy(&io, from, to);
    }
    weights.copy(&io, "sizes", "time_ids");
    weights.copy(&io, "unet_399", "unet_out");
    weights.add("timesteps".to_owned(), &[2], [399.0; 2]);
    let unet = run(&model, &weights.write("unet.safetensors")).unwrap();
    let modules = ["text_hidden", "text_pooled", "ddim_latents", "vae_decoded", "onestep_image", "unet_out"];
    let all: Vec<&Comparison> = all.iter().chain(&unet).collect();
    assert_eq!(all.iter().map(|found| found.module).collect::<Vec<_>>(), modules);
    for found in all {
        assert_eq!(found.beyond, 0, "{found:?}");
        assert!(found.relative < 1e-5, "{found:?}");
    }

    // Sizes of one sample for two; features of another width; no sizes, and so no module.
    let mut call = |sizes: Option<usize>, pooled: usize| {
        for (from, to) in [("x", "latents"), ("text", "text_hidden"), ("unet_399", "unet_out")] {
            weights.copy(&io, from, to);
        }
        weights.add("timesteps".to_owned(), &[2], [399.0; 2]);
        weights.add("text_pooled".to_owned(), &[2, pooled], vec![0.0; 2 * pooled]);
        if let Some(rows) = sizes {
            weights.add("time_ids".to_owned(), &[rows, 6], vec![64.0; rows * 6]);
        }
        run(&model, &weights.write("strange.safetensors")).unwrap_err().to_string()
    };
    assert!(call(Some(1), 20).contains("time_ids"));
    assert!(call(Some(2), 21).contains("text_pooled"));
    assert!(call(None, 20).contains("no complete set of keys"));
    weights.copy(&io, "ids_2", "input_ids");
    weights.copy(&io, "context_2", "text_hidden");
    weights.copy(&io, "ids_2_2", "input_ids_2");
    let whole = run(&model, &weights.write("text.safetensors")).unwrap();
    assert_eq!(whole.len(), 1);
    // A model of classes has no such reference.
    let classes = golden("class_unet");
    assert!(run(&classes, &golden("sdxl/io.safetensors")).is_err());
}

/// One number of one weight: the comparison says so, and says how far.
#[test]
fn a_changed_weight_is_found() {
    let model = tiny_model();
    let reference = reference(model.path());
    let path = model.path().join("vae/diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let place = {
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let weight = file.tensor("encoder.conv_in.weight").unwrap();
        weight.data().as_ptr() as usize - bytes.as_ptr() as usize
    };
    bytes[place..place + 4].copy_from_slice(&3.0_f32.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let all = run(model.path(), &reference).unwrap();
    assert_eq!(all[0].beyond, 0);
    assert!(all[1].module == "vae_mean" && all[1].beyond > 0 && all[1].max_absolute > 1e-3, "{:?}", all[1]);
}

fn edit(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut config: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

/// A config that lies about widths is refused by the tensors' shapes, one that asks for absurd sizes
/// by the sizes: at once, with nothing allocated on its word.
#[test]
fn a_lying_config_is_refused() {
    for (part, key, value, word) in [
        ("unet", "block_out_channels", json!([64, 128]), "misshapen"),
        ("unet", "block_out_channels", json!([65_536, 65_536]), "misshapen"),
        ("unet", "block_out_channels", json!([1_u64 << 40, 1_u64 << 40]), "between 1 and"),
        ("unet", "layers_per_block", json!(1_000_000_000), "layers_per_block"),
        ("unet", "cross_attention_dim", json!(0), "cross_attention_dim"),
        ("unet", "block_out_channels", json!(vec![16; 40]), "block_types"),
        ("vae", "latent_channels", json!(1_u64 << 50), "latent_channels"),
        ("vae", "block_out_channels", json!([8, 16, 32]), "misshapen"),
        ("text_encoder", "vocab_size", json!(9_000_000), "misshapen"),
        ("text_encoder", "num_hidden_layers", json!(u64::MAX >> 1), "num_hidden_layers"),
        ("text_encoder", "hidden_size", json!(-3), "hidden_size: invalid value: integer `-3`"),
        ("unet", "in_channels", json!("4"), "in_channels: invalid type: string \"4\""),
        ("unet", "use_linear_projection", json!(1), "use_linear_projection: invalid type: integer `1`"),
        ("unet", "norm_eps", json!(0), "norm_eps"),
        ("vae", "scaling_factor", json!(0.0), "scaling_factor"),
    ] {
        let model = tiny_model();
        edit(&model.path().join(part).join("config.json"), |config| config[key] = value.clone());
        let start = std::time::Instant::now();
        let error = Pipeline::from_dir(model.path(), &device()).unwrap_err();
        // A -3 fails in the JSON itself: the cause names key and value, the error the file.
        let message = format!("{:#}", anyhow::Error::from(error));
        assert!(message.contains(word), "{part} {key}: {message}");
        assert!(start.elapsed().as_secs() < 5, "{part} {key}: took {:?}", start.elapsed());
    }
}

#[test]
fn damaged_folders_are_refused() {
    let model = tiny_model();
    let reference = reference(model.path());
    // A renamed key.
    let path = model.path().join("text_encoder/model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let name = b"layers.0.self_attn.q_proj.bias";
    let at = bytes.windows(name.len()).position(|window| window == name).expect("it is in the header");
    let mut renamed = bytes.clone();
    renamed[at..at + name.len()].copy_from_slice(b"layers.0.self_attn.q_proj.bins");
    fs::write(&path, renamed).unwrap();
    let message = run(model.path(), &reference).unwrap_err().to_string();
    assert!(message.contains("missing") && message.contains("q_proj.bins?)"), "{message}");
    fs::write(&path, &bytes[..bytes.len() - 7]).unwrap();
    assert!(run(model.path(), &reference).unwrap_err().to_string().contains("not a complete"));
    fs::remove_file(&path).unwrap();
    assert!(run(model.path(), &reference).unwrap_err().to_string().contains("holds no weights"));
}

/// A strange reference is refused with a sentence, whatever it holds.
#[test]
fn a_strange_reference_is_refused() {
    let model = tiny_model();
    let path = model.path().join("strange.safetensors");
    let write = |tensors: &[(&str, Vec<usize>)]| {
        let bytes: Vec<Vec<u8>> =
            tensors.iter().map(|t| vec![0; 4 * t.1.iter().product::<usize>()]).collect();
        let views = tensors.iter().zip(&bytes).map(|((name, shape), bytes)| {
            (
                *name,
                safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap(),
            )
        });
        fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        run(model.path(), &path).unwrap_err().to_string()
    };
    assert!(write(&[("something", vec![1])]).contains("no complete set of keys"));
    assert!(write(&[("image", vec![1, 3, 15, 16]), ("vae_mean", vec![1, 4, 4, 4])]).contains("multiples"));
    assert!(write(&[("image", vec![3, 16, 16]), ("vae_mean", vec![1, 4, 4, 4])]).contains("4 dimensions"));
    assert!(
        write(&[("image", vec![1, 3, 16, 16]), ("vae_mean", vec![1, 4, 4, 5])]).contains("this model gives")
    );
    assert!(write(&[("input_ids", vec![1, 77]), ("text_hidden", vec![1, 77, 24])]).contains("whole numbers"));
    let unet = [("latents", vec![1, 4, 8, 8]), ("timesteps", vec![2]), ("unet_out", vec![1, 4, 8, 8])];
    let unet = [&unet[..], &[("text_hidden", vec![1, 7, 24])]].concat();
    assert!(write(&unet).contains("differ in their batch"));
}

/// Overlapping tiles, blended: against diffusers' own tiled decoder and encoder.
#[test]
fn tiles_are_diffusers_tiles() {
    let (network, _) = dmd::unet::Autoencoder::from_dir(&golden("vae"), &device()).unwrap();
    let io = crate::support::Fixture::open("tiles");
    let latent: Tensor<4> = io.tensor("latent");
    crate::support::assert_close("tiled picture", network.decode_tiled(latent, 8), io.tensor("decoded"));
    let posterior = network.encode_tiled(io.tensor("image"), 8);
    crate::support::assert_close("tiled mean", posterior.mean, io.tensor("mean"));
}
