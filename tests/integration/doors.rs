//! Every door through which a file comes in: whatever it holds, an answer or a clear error; no panic,
//! no allocation on its word, no path outside its folder.

use std::fs;
use std::path::Path;

use crate::support::{device, golden};
use dmd::clip::{TextConfig, Tokenizer};
use dmd::data::ImageFolder;
use dmd::infer::encode_png;
use dmd::model::pixels::from_rgb8;
use dmd::scheduler::SchedulerConfig;
use dmd::train::config::{DistillConfig, TeacherConfig};
use dmd::unet::{AutoencoderConfig, TinyAutoencoderConfig, UNetConfig};
use image::RgbImage;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A JSON value of any kind, numbers at the edges among them.
fn any_json() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0_u64..2000).prop_map(Value::from),
        any::<f64>().prop_map(|v| json!(v)),
        "[a-z_]{0,12}".prop_map(Value::from),
        prop::collection::vec(0_u64..100_000, 0..5).prop_map(|v| json!(v)),
    ]
}

/// A configuration file with one entry replaced or added.
fn changed(path: &Path, place: usize, value: Value, key: Option<String>) -> Value {
    let mut config: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let object = config.as_object_mut().unwrap();
    let key = key.unwrap_or_else(|| object.keys().nth(place % object.len()).unwrap().clone());
    object.insert(key, value);
    config
}

/// A file with some bytes overwritten.
fn damaged(path: &Path, place: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = fs::read(path).unwrap();
    let place = place % file.len();
    let end = (place + bytes.len()).min(file.len());
    file.splice(place..end, bytes.iter().copied());
    file
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn network_configurations(place in 0_usize..64, value in any_json()) {
        let config = |name: &str| changed(&golden(name).join("config.json"), place, value.clone(), None);
        let device = device();
        if let Ok(config) = serde_json::from_value::<UNetConfig>(config("unet_sd2")) {
            let _ = config.init(&device);
        }
        if let Ok(config) = serde_json::from_value::<AutoencoderConfig>(config("vae")) {
            let _ = config.init(&device);
        }
        if let Ok(config) = serde_json::from_value::<TinyAutoencoderConfig>(config("taesd")) {
            let _ = config.init(&device);
        }
        if let Ok(config) = serde_json::from_value::<TextConfig>(config("clip_gelu")) {
            let _ = config.init(&device);
        }
    }

    #[test]
    fn scheduler_configurations(
        name in prop::sample::select(vec!["dpm_karras", "unipc", "lcm", "euler_karras", "heun", "ddpm", "pndm"]),
        place in 0_usize..64,
        value in any_json(),
        extra in prop::option::of(prop::sample::select(vec![
            "solver_order", "original_inference_steps", "timestep_scaling", "final_sigmas_type",
            "rescale_betas_zero_snr", "use_karras_sigmas", "timestep_spacing", "steps_offset",
        ])),
        steps in 0_usize..1200,
        strength in -0.5_f64..1.5,
    ) {
        let path = golden(&format!("walks/{name}.json"));
        let config = changed(&path, place, value, extra.map(str::to_owned));
        if let Ok(config) = serde_json::from_value::<SchedulerConfig>(config)
            && let Ok(walk) = config.walk(steps)
        {
            prop_assert!(walk.timesteps().len() >= steps);
            prop_assert!(walk.timesteps().iter().all(|t| t.is_finite()));
            let _ = walk.with_strength(strength);
        }
    }

    #[test]
    fn tokenizer_folders(
        file in prop::sample::select(vec!["vocab.json", "merges.txt", "tokenizer_config.json"]),
        place in any::<usize>(),
        bytes in prop::collection::vec(any::<u8>(), 1..16),
        prompt in any::<String>(),
    ) {
        let folder = tempfile::tempdir().unwrap();
        for name in ["vocab.json", "merges.txt"] {
            fs::copy(golden("clip_gelu").join(name), folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("tokenizer_config.json"), r#"{ "pad_token": "<|endoftext|>" }"#).unwrap();
        let changed = damaged(&folder.path().join(file), place, &bytes);
        fs::write(folder.path().join(file), changed).unwrap();
        if let Ok(tokenizer) = Tokenizer::from_dir(folder.path(), 77) {
            let _ = tokenizer.encode(&prompt);
        }
    }

    /// Any prompt at all gives 77 tokens of the vocabulary, or the error that it is too long.
    #[test]
    fn prompts(prompt in any::<String>()) {
        let tokenizer = Tokenizer::from_dir(&golden("clip_gelu"), 77).unwrap();
        if let Ok(ids) = tokenizer.encode(&prompt) {
            prop_assert_eq!(ids.len(), 77);
        }
    }

    #[test]
    fn run_configurations(place in any::<usize>(), bytes in prop::collection::vec(any::<u8>(), 1..12)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.toml");
        let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
        fs::write(&path, damaged(&configs.join("shapes-teacher.toml"), place, &bytes)).unwrap();
        let _ = TeacherConfig::from_file(&path);
        fs::write(&path, damaged(&configs.join("shapes-distill.toml"), place, &bytes)).unwrap();
        let _ = DistillConfig::from_file(&path);
    }

    /// A picture folder's list may hold anything; a picture outside the folder is never used.
    #[test]
    fn picture_folders(name in "[a-z./\\\\]{0,10}", line in any::<String>()) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("outside.png"), [1, 2, 3]).unwrap();
        let inside = folder.path().join("pictures");
        fs::create_dir(&inside).unwrap();
        for text in [json!({ "file_name": format!("../{name}"), "text": "x" }).to_string(), line] {
            fs::write(inside.join("metadata.jsonl"), &text).unwrap();
            prop_assert!(ImageFolder::open(&inside, 64).is_err());
        }
    }

    /// A damaged PNG is an error or a picture of its stated size.
    #[test]
    fn pngs(place in any::<usize>(), bytes in prop::collection::vec(any::<u8>(), 1..8), text in any::<String>()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture.png");
        let picture = RgbImage::from_fn(5, 3, |x, y| image::Rgb([x as u8, y as u8, 7]));
        // What is written into a PNG comes out of it again, whatever characters it has.
        let written = encode_png(&picture, &[("parameters", &text)]).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&written)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        reader.finish().unwrap();
        prop_assert_eq!(&pixels, picture.as_raw());
        let texts = &reader.info().utf8_text;
        prop_assert_eq!(texts.len(), 1);
        prop_assert_eq!(texts[0].get_text().unwrap(), text);

        fs::write(&path, &written).unwrap();
        let changed = damaged(&path, place, &bytes);
        fs::write(&path, changed).unwrap();
        if let Ok(picture) = image::open(&path) {
            let _ = from_rgb8(&[picture.to_rgb8()], &device());
        }
    }
}

/// `tokenizer.json` alone serves as vocabulary and merges, in both spellings of a merge.
#[test]
fn tokenizer_json_alone() {
    let whole = Tokenizer::from_dir(&golden("clip_gelu"), 77).unwrap();
    let vocab: Value = serde_json::from_slice(&fs::read(golden("clip_gelu/vocab.json")).unwrap()).unwrap();
    let merges = fs::read_to_string(golden("clip_gelu/merges.txt")).unwrap();
    let merges: Vec<&str> = merges.lines().skip(1).collect();
    let pairs: Vec<Vec<&str>> = merges.iter().map(|m| m.split(' ').collect()).collect();
    for merges in [json!(merges), json!(pairs)] {
        let folder = tempfile::tempdir().unwrap();
        let file = json!({ "model": { "type": "BPE", "vocab": vocab, "merges": merges } });
        fs::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
        let tokenizer = Tokenizer::from_dir(folder.path(), 77).unwrap();
        for prompt in ["a red circle above a blue square", "It's naïve  東京 🎈"] {
            assert_eq!(tokenizer.encode(prompt).unwrap(), whole.encode(prompt).unwrap());
        }
    }
}
