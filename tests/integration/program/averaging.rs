//! `dmd average`.

use std::fs;
use std::path::Path;

use super::{dmd, refused};
use crate::support::tiny_model;

/// The mean of a generator and itself is that generator; of generators that are called differently there is none.
#[test]
fn average_of_generators() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    let generator = model.path().join("unet_one_step");
    fs::write(
        generator.join("one_step.json"),
        r#"{"timestep": 19, "noise_scale": 1.0, "guidance_scale": 1.0}"#,
    )
    .unwrap();
    let generator = generator.to_str().unwrap();
    let output = dmd(here.path(), &["average", generator, generator, "--out", "mean"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let weights = "diffusion_pytorch_model.safetensors";
    let values = |folder: &Path| {
        let file = dmd_weights::read(&folder.join(weights)).unwrap();
        file.entries().keys().map(|name| file.floats(name).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(values(&here.path().join("mean")), values(Path::new(generator)));
    let settings =
        |folder: &Path| dmd_weights::read_json::<serde_json::Value>(&folder.join("one_step.json")).unwrap();
    assert_eq!(settings(&here.path().join("mean")), settings(Path::new(generator)));

    let other = here.path().join("mean/one_step.json");
    fs::write(&other, r#"{"timestep": 1, "noise_scale": 1.0, "guidance_scale": 1.0}"#).unwrap();
    let said = refused(here.path(), &["average", generator, "mean", "--out", "none"]);
    assert!(said.contains("one_step.json"), "{said}");
    // A key that nobody knows may change how the generator is called.
    fs::write(&other, r#"{"timestep": 19, "steps": 4}"#).unwrap();
    let said = refused(here.path(), &["average", "mean", "mean", "--out", "none"]);
    assert!(said.contains("one_step.json"), "{said}");
    // A generator without the file is called at the schedule's last timestep: another one again.
    fs::remove_file(&other).unwrap();
    let said = refused(here.path(), &["average", generator, "mean", "--out", "none"]);
    assert!(said.contains("one_step.json"), "{said}");
    let bare = format!("mean/{weights}");
    let said = refused(here.path(), &["average", generator, &bare, "--out", "none"]);
    assert!(said.contains("one_step.json"), "{said}");
    let said = refused(here.path(), &["average", generator, "nowhere", "--out", "none"]);
    assert!(said.contains("nowhere"), "{said}");
    refused(here.path(), &["average", generator, "--out", "none"]);
    assert!(!here.path().join("none").exists());
}
