//! `dmd cache`, and distillations whose data come from a folder, from tar files and from a cache.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use super::distillation::distillation;
use super::{losses, refused, succeeds};
use crate::support::tiny_model;

/// A folder of pictures of 32 pixels a side, and a tar file of the same.
fn pictures(here: &Path, count: usize) {
    let folder = here.join("pictures");
    fs::create_dir(&folder).unwrap();
    let mut list = String::new();
    let mut tar = tar::Builder::new(File::create(here.join("pictures.tar")).unwrap());
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes).unwrap();
    };
    for i in 0..count {
        let name = format!("{i:04}.png");
        let value =
            |x: u32, y: u32| [(x * 7 + i as u32) as u8, (y * 5 * (i as u32 + 1)) as u8, (x * y) as u8];
        let picture = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb(value(x, y)));
        picture.save(folder.join(&name)).unwrap();
        let caption = format!("picture {}", i % 300);
        list.push_str(&format!("{{\"file_name\": \"{name}\", \"text\": \"{caption}\"}}\n"));
        add(&name, &fs::read(folder.join(&name)).unwrap());
        add(&format!("{i:04}.txt"), caption.as_bytes());
    }
    tar.finish().unwrap();
    fs::write(folder.join("metadata.jsonl"), list).unwrap();
}

/// A distillation with an adversarial term, of three steps.
fn adversarial(model: &tempfile::TempDir) -> toml::Table {
    let mut config = distillation(model);
    config["generator"]["batch"] = 2.into();
    config.remove("regression");
    let section = toml::toml! {
        generator_weight = 1e-3
        critic_weight = 1e-2
        reals = 7
    };
    config.insert("adversarial".to_owned(), section.into());
    config["fake"]["steps_per_generator_step"] = 2.into();
    config["pace"]["steps"] = 3.into();
    config["pace"].as_table_mut().unwrap().insert("log_every".to_owned(), 1.into());
    let data = toml::toml! {
        kind = "folder"
        path = "pictures"
        size = 32
    };
    config["data"] = data.into();
    config
}

fn write(here: &Path, name: &str, config: &toml::Table) -> String {
    let file = format!("{name}.toml");
    let mut config = config.clone();
    config["output"] = name.into();
    fs::write(here.join(&file), config.to_string()).unwrap();
    file
}

fn with_cache(config: &toml::Table, path: &str) -> toml::Table {
    let mut config = config.clone();
    let mut section = toml::Table::new();
    section.insert("path".to_owned(), path.into());
    config.insert("cache".to_owned(), section.into());
    config
}

/// The files of a cache, with what is in them and when they were written.
fn files(folder: &Path) -> Vec<(String, Vec<u8>, SystemTime)> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let whole = entries.filter(|path| path.extension().is_some_and(|ending| ending == "safetensors"));
    let mut files: Vec<_> = whole
        .map(|path| {
            let written = path.metadata().unwrap().modified().unwrap();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap(), written)
        })
        .collect();
    files.sort();
    files
}

/// Bit for bit the same losses, whether pictures come from a folder, from a tar file or, as latents, from a cache.
#[test]
fn the_losses_do_not_depend_on_where_the_data_lie() {
    let model = tiny_model();
    let home = tempfile::tempdir().unwrap();
    let here = home.path();
    pictures(here, 11);
    let folder = adversarial(&model);
    let mut tar = folder.clone();
    tar["data"]["kind"] = "webdataset".into();
    tar["data"]["path"] = "pictures.tar".into();
    let mut logged = Vec::new();
    for (name, config) in [
        ("folder", folder.clone()),
        ("tar", tar.clone()),
        ("cached", with_cache(&folder, "cache")),
        ("cached-tar", with_cache(&tar, "cache-tar")),
    ] {
        succeeds(here, &["distill", &write(here, name, &config)]);
        logged.push((name, losses(&here.join(name))));
    }
    assert_eq!(logged[0].1.iter().filter(|line| line["critic"].is_number()).count(), 3);
    for (name, losses) in &logged[1..] {
        assert_eq!(*losses, logged[0].1, "{name}");
    }
    // The cache is read, not made again: other latents in it, other losses.
    let path = here.join("cache/latents-00000.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + header..].fill(0);
    fs::write(&path, bytes).unwrap();
    succeeds(here, &["distill", &write(here, "blank", &with_cache(&folder, "cache"))]);
    assert_ne!(losses(&here.join("blank")), logged[0].1);

    // Latents of half the size are close, and not the same.
    let mut half = with_cache(&folder, "half");
    half["cache"].as_table_mut().unwrap().insert("latents".to_owned(), "f16".into());
    succeeds(here, &["distill", &write(here, "half", &half)]);
    let size = |folder: &str| here.join(folder).join("latents-00000.safetensors").metadata().unwrap().len();
    assert!(size("half") < size("cache"));
    let (found, whole) = (losses(&here.join("half")), &logged[0].1);
    let critic = |lines: &[serde_json::Value]| lines[0]["critic"].as_f64().unwrap();
    assert_ne!(found, *whole);
    // f16 has 11 bits: the logits of the critic's first step move by about 1e-3 at most.
    assert!((critic(&found) - critic(whole)).abs() < 1e-2, "{} and {}", critic(&found), critic(whole));

    // Real samples and their order are there again after a stop.
    let mut stopped = folder;
    stopped["pace"]["steps"] = 2.into();
    succeeds(here, &["distill", &write(here, "stopped", &stopped)]);
    stopped["pace"]["steps"] = 3.into();
    succeeds(here, &["distill", &write(here, "stopped", &stopped)]);
    // The learning rate's curve ends elsewhere, the real samples of the third step do not.
    let real = |lines: &[serde_json::Value]| {
        let third = lines.iter().rfind(|line| line["step"] == 3 && line["critic"].is_number()).unwrap();
        third["logit_real"].as_f64().unwrap()
    };
    let (found, whole) = (real(&losses(&here.join("stopped"))), real(&logged[0].1));
    assert!((found - whole).abs() < 1e-2 * whole.abs().max(0.01), "{found} and {whole}");
}

/// In shares, and killed again and again: the files of a cache that was made in one go, none of them made twice.
#[test]
fn a_cache_is_made_in_shares_and_survives_kills() {
    let model = tiny_model();
    let home = tempfile::tempdir().unwrap();
    let here = home.path();
    pictures(here, 600);
    let config = adversarial(&model);
    let whole = write(here, "whole", &with_cache(&config, "whole-cache"));
    succeeds(here, &["cache", &whole]);
    let expected = files(&here.join("whole-cache"));
    let names: Vec<&str> = expected.iter().map(|file| file.0.as_str()).collect();
    let numbered = |kind: &str, file: usize| format!("{kind}-{file:05}.safetensors");
    assert_eq!(
        names,
        [
            numbered("latents", 0),
            numbered("latents", 1),
            numbered("latents", 2),
            numbered("text", 0),
            numbered("text", 1)
        ]
    );
    let same = |folder: &str| {
        let found = files(&here.join(folder));
        found.len() == expected.len()
            && found.iter().zip(&expected).all(|(a, b)| (&a.0, &a.1) == (&b.0, &b.1))
    };
    let shared = write(here, "shared", &with_cache(&config, "shared-cache"));
    succeeds(here, &["cache", &shared, "--shard", "2/2"]);
    assert_eq!(files(&here.join("shared-cache")).len(), 2);
    succeeds(here, &["cache", &shared, "--shard", "1/2"]);
    assert!(same("shared-cache"), "a share differs from the whole");

    let killed = write(here, "killed", &with_cache(&config, "killed-cache"));
    let folder = here.join("killed-cache");
    for reached in [1, 3] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dmd"))
            .args(["cache", &killed])
            .current_dir(here)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while files(&folder).len() < reached {
            assert!(start.elapsed().as_secs() < 300, "the cache does not reach file {reached}");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let left = files(&folder);
    succeeds(here, &["cache", &killed]);
    assert!(same("killed-cache"), "a killed cache differs from the whole");
    for file in &left {
        let after = files(&folder).into_iter().find(|after| after.0 == file.0).unwrap();
        assert_eq!(after.2, file.2, "{} was made again", file.0);
    }
}

/// A cache of other data or of another autoencoder, a damaged one, and data without what is needed.
#[test]
fn a_cache_of_something_else_is_refused_by_name() {
    let model = tiny_model();
    let home = tempfile::tempdir().unwrap();
    let here = home.path();
    pictures(here, 5);
    let plain = adversarial(&model);
    let config = with_cache(&plain, "cache");
    let file = write(here, "run", &config);
    succeeds(here, &["cache", &file]);
    let expected = files(&here.join("cache"));
    let mut other = config.clone();
    other["data"].as_table_mut().unwrap().insert("background".to_owned(), "black".into());
    let other = write(here, "other", &other);
    for command in ["cache", "distill"] {
        let sentence = refused(here, &[command, &other]);
        assert!(sentence.contains("was made with data = "), "{sentence}");
    }
    let mut half = config.clone();
    half["cache"].as_table_mut().unwrap().insert("latents".to_owned(), "f16".into());
    let sentence = refused(here, &["cache", &write(here, "half", &half)]);
    assert!(sentence.contains("cache.latents = \"f32\", which is now \"f16\""), "{sentence}");
    assert!(files(&here.join("cache")) == expected, "a refusal has changed the cache");

    let vae = model.path().join("vae/config.json");
    let text = fs::read_to_string(&vae).unwrap();
    fs::write(&vae, format!("{text}\n")).unwrap();
    let sentence = refused(here, &["cache", &file]);
    assert!(sentence.contains("was made with autoencoder = "), "{sentence}");
    fs::write(&vae, text).unwrap();

    let damaged = here.join("cache/text-00000.safetensors");
    let bytes = fs::read(&damaged).unwrap();
    for length in [0, 5, 100, bytes.len() - 1] {
        fs::write(&damaged, &bytes[..length]).unwrap();
        assert!(refused(here, &["distill", &file]).contains("text-00000.safetensors"));
    }
    fs::write(&damaged, bytes).unwrap();

    let sentence = refused(here, &["cache", &write(here, "none", &plain)]);
    assert!(sentence.contains("[cache]"), "{sentence}");
    let mut shapes = config.clone();
    shapes["data"] = toml::Table::from_iter([("kind".to_owned(), "shapes".into())]).into();
    let sentence = refused(here, &["cache", &write(here, "shapes", &shapes)]);
    assert!(sentence.contains("no fixed list"), "{sentence}");

    // Prompts alone: refused where real pictures are needed, enough where they are not, with the same losses from a cache.
    fs::write(here.join("prompts.jsonl"), "{\"prompt\": \"one\"}\n{\"prompt\": \"two\"}\n").unwrap();
    let mut prompts = plain;
    let data = toml::toml! {
        kind = "prompts"
        path = "prompts.jsonl"
    };
    prompts["data"] = data.into();
    let sentence = refused(here, &["distill", &write(here, "critic", &prompts)]);
    assert!(
        sentence.contains("[adversarial]") && sentence.contains("has captions but no pictures"),
        "{sentence}"
    );
    prompts.remove("adversarial");
    succeeds(here, &["distill", &write(here, "prompts", &prompts)]);
    succeeds(here, &["distill", &write(here, "cached", &with_cache(&prompts, "prompts-cache"))]);
    let names: Vec<String> = files(&here.join("prompts-cache")).into_iter().map(|file| file.0).collect();
    assert_eq!(names, ["text-00000.safetensors"]);
    assert_eq!(losses(&here.join("prompts")).len(), 3);
    assert_eq!(losses(&here.join("prompts")), losses(&here.join("cached")));
}

/// Pairs with the text features of a cache are, byte for byte, those without, and their features are the cache's.
#[test]
fn pairs_from_a_cache() {
    let model = tiny_model();
    let home = tempfile::tempdir().unwrap();
    let here = home.path();
    pictures(here, 9);
    let mut plain = adversarial(&model);
    plain.remove("adversarial");
    let regression = toml::toml! {
        weight = 1.0
        pairs = 6
        sampling_steps = 2
        warmup_steps = 0
    };
    plain.insert("regression".to_owned(), regression.into());
    let pairs = |name: &str, config: &toml::Table| {
        succeeds(here, &["pairs", &write(here, name, config)]);
        let folder = here.join(name).join("pairs");
        let file = fs::read_dir(folder).unwrap().next().unwrap().unwrap();
        (file.file_name(), fs::read(file.path()).unwrap())
    };
    let without = pairs("without", &plain);
    let cached = with_cache(&plain, "cache");
    // A cache that nobody has made is not needed.
    assert!(pairs("unmade", &cached) == without, "a [cache] without files changes the pairs");
    succeeds(here, &["cache", &write(here, "made", &cached)]);
    assert!(pairs("made", &cached) == without, "the cache changes the pairs");
    let text = here.join("cache/text-00000.safetensors");
    let mut bytes = fs::read(&text).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[header..].fill(0);
    fs::write(&text, bytes).unwrap();
    assert!(pairs("zeros", &cached) != without, "the cache is not read");
}
