//! The configuration files.

use std::fs;
use std::path::{Path, PathBuf};

use dmd_train::config::{DistillConfig, PixelTeacherConfig, TeacherConfig};

/// Every file of the folder of shipped configurations, by name.
fn configs() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Reads a configuration as the programs do, and what is written of it again.
macro_rules! survives {
    ($config:ty, $path:expr) => {{
        let config = <$config>::from_file($path).unwrap();
        let text = toml::to_string(&config).unwrap();
        assert_eq!(toml::from_str::<$config>(&text).unwrap(), config, "{:?}", $path);
    }};
}

/// Every shipped configuration parses, and survives being written out.
#[test]
fn shipped_configurations_parse() {
    let mut names = Vec::new();
    for path in configs() {
        let table: toml::Table = fs::read_to_string(&path).unwrap().parse().unwrap();
        if table.contains_key("kind") {
            survives!(PixelTeacherConfig, &path);
        } else if table.contains_key("autoencoder") {
            survives!(TeacherConfig, &path);
        } else {
            survives!(DistillConfig, &path);
        }
        names.push(path.file_name().unwrap().to_string_lossy().into_owned());
    }
    assert_eq!(
        names,
        [
            "cifar10-one-step.toml",
            "emoji-teacher.toml",
            "imagenet64-one-step.toml",
            "sd15-four-step.toml",
            "sd15-lora-16gb.toml",
            "sd15-lora-24gb.toml",
            "sd15-one-step-real.toml",
            "sd15-one-step.toml",
            "sdxl-lora.toml",
            "shapes-distill.toml",
            "shapes-regression.toml",
            "shapes-teacher.toml"
        ]
    );
}

#[test]
fn wrong_configurations_name_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    let shipped = configs().into_iter().find(|p| p.to_string_lossy().contains("shapes-teacher")).unwrap();
    let text = fs::read_to_string(shipped).unwrap();
    for (from, to, word) in [
        ("[text]", "[text]\nwitdh = 3", "witdh"),
        ("seed = ", "sede = ", "sede"),
        ("width = 128", "width = -1", "width"),
        ("caption_dropout = 0.1", "caption_dropout = 1.5", "diffusion.caption_dropout"),
        ("heads = 4", "heads = 5", "text.heads"),
    ] {
        assert!(text.contains(from), "{from}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let message = TeacherConfig::from_file(&path).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    }
    let message = TeacherConfig::from_file(&folder.path().join("none.toml")).unwrap_err().to_string();
    assert!(message.contains("none.toml"), "{message}");
}
