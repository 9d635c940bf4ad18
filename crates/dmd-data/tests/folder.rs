//! Folders of pictures, lists of prompts, and picture files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use dmd_core::Noise;
use dmd_data::shapes::{Scene, Split};
use dmd_data::{Dataset, ImageFolder, save};

#[test]
fn image_folders_in_hugging_face_form() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::draw(Split::Train, &mut Noise::from_seed(1));
    save(&scene.render(), &folder.path().join("train/a.png")).unwrap();
    let metadata = folder.path().join("metadata.jsonl");
    let good = r#"{"file_name": "train/a.png", "text": "something", "extra": 1}"#;
    fs::write(&metadata, format!("{good}\n\n")).unwrap();
    let opened = ImageFolder::open(folder.path(), 32).unwrap();
    assert_eq!(opened.len(), 1);
    let example = opened.get(0).unwrap();
    assert_eq!((example.image.dimensions(), example.caption.as_str()), ((32, 32), "something"));
    for (line, word) in [
        (r#"{"file_name": "../secret.png", "text": "x"}"#, "leaves the folder"),
        (r#"{"file_name": "/etc/passwd", "text": "x"}"#, "leaves the folder"),
        (r#"{"file_name": "none.png", "text": "x"}"#, "no picture"),
        (r#"{"text": "x"}"#, "file_name"),
        ("not json", "line 2"),
    ] {
        fs::write(&metadata, format!("{good}\n{line}\n")).unwrap();
        let message = ImageFolder::open(folder.path(), 32).unwrap_err().to_string();
        assert!(message.contains(word) && message.contains("line 2"), "{message}");
    }
    fs::write(folder.path().join("train/a.png"), "no picture").unwrap();
    fs::write(&metadata, good).unwrap();
    let broken = ImageFolder::open(folder.path(), 32).unwrap().get(0).unwrap_err();
    assert!(broken.to_string().contains("a.png"), "{broken}");
    fs::write(&metadata, "").unwrap();
    assert!(ImageFolder::open(folder.path(), 32).is_err());
}
