//! Folders of pictures, lists of prompts, and picture files.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use dmd_core::Noise;
use dmd_data::shapes::{Scene, Split};
use dmd_data::{Dataset, Error, ImageFolder, Prompts, check_captions, save};

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
    let broken = ImageFolder::open(folder.path(), 32).unwrap_err();
    assert!(broken.to_string().contains("a.png"), "{broken}");
    fs::write(&metadata, "").unwrap();
    assert!(ImageFolder::open(folder.path(), 32).is_err());
}

/// Every line that cannot be used is named at once, with its number.
#[test]
fn all_faults_of_a_list_are_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::draw(Split::Train, &mut Noise::from_seed(1)).render();
    save(&scene, &folder.path().join("a.png")).unwrap();
    fs::write(folder.path().join("empty.png"), "").unwrap();
    fs::write(folder.path().join("text.png"), "no picture").unwrap();
    let whole = fs::read(folder.path().join("a.png")).unwrap();
    fs::write(folder.path().join("cut.png"), &whole[..20]).unwrap();
    let lines = [
        r#"{"file_name": "a.png", "text": "one"}"#,
        r#"{"file_name": "empty.png", "text": "two"}"#,
        r#"{"file_name": "text.png", "text": "three"}"#,
        r#"{"file_name": "cut.png", "text": "four"}"#,
        r#"{"file_name": "a.png", "text": 5}"#,
        r#"{"file_name": "a.png", "caption": "six"}"#,
        r#"{"file_name": "none.png", "text": "seven"}"#,
    ];
    fs::write(folder.path().join("metadata.jsonl"), lines.join("\n")).unwrap();
    let error = ImageFolder::open(folder.path(), 32).unwrap_err();
    let message = error.to_string();
    let Error::Lines { problems, .. } = error else { panic!("{message}") };
    assert_eq!(problems.iter().map(|problem| problem.line).collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7]);
    for word in
        ["empty.png", "is empty", "text.png", "cut.png", "\"text\" is 5", "rename", "caption", "none.png"]
    {
        assert!(message.contains(word), "{word} in {message}");
    }
}

#[test]
fn lists_of_windows_and_of_tables() {
    let folder = tempfile::tempdir().unwrap();
    let scene = Scene::draw(Split::Train, &mut Noise::from_seed(1)).render();
    save(&scene, &folder.path().join("a.png")).unwrap();
    let jsonl = folder.path().join("metadata.jsonl");
    fs::write(&jsonl, "\u{feff}{\"file_name\": \"a.png\", \"text\": \"one\"}\r\n").unwrap();
    let caption = |folder: &std::path::Path| ImageFolder::open(folder, 32).unwrap().get(0).unwrap().caption;
    assert_eq!(caption(folder.path()), "one");
    let csv = folder.path().join("metadata.csv");
    fs::write(&csv, "x").unwrap();
    let message = ImageFolder::open(folder.path(), 32).unwrap_err().to_string();
    assert!(message.contains("keep one"), "{message}");
    fs::remove_file(&jsonl).unwrap();
    fs::write(&csv, "\u{feff}file_name,width,text\r\na.png,64,\"a \"\"red\"\" one,\nbelow a blue\"\r\n")
        .unwrap();
    assert_eq!(caption(folder.path()), "a \"red\" one,\nbelow a blue");
    fs::write(&csv, "file_name,text\na.png,one\n../b.png,two\na.png\n").unwrap();
    let message = ImageFolder::open(folder.path(), 32).unwrap_err().to_string();
    assert!(message.contains("line 3") && message.contains("line 4"), "{message}");
    fs::write(&csv, "file_name,label\na.png,one\n").unwrap();
    let message = ImageFolder::open(folder.path(), 32).unwrap_err().to_string();
    assert!(message.contains("\"text\" is missing") && message.contains("label"), "{message}");
    fs::rename(&csv, folder.path().join("metadata.parquet")).unwrap();
    let message = ImageFolder::open(folder.path(), 32).unwrap_err().to_string();
    assert!(message.contains("Parquet"), "{message}");
}

#[test]
fn prompts_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prompts.txt");
    fs::write(&path, "\u{feff}a red fox\r\n\n  a blue door \n").unwrap();
    let prompts = Prompts::open(&path).unwrap();
    let lines: Vec<_> = prompts.entries().map(|entry| (entry.line, entry.caption.to_owned())).collect();
    assert_eq!(lines, [(1, "a red fox".to_owned()), (3, "a blue door".to_owned())]);
    assert_eq!(prompts.vocabulary(), ["a", "blue", "door", "fox", "red"]);
    let message = prompts.draw(&mut Noise::from_seed(1)).unwrap_err().to_string();
    assert!(message.contains("prompts.txt") && message.contains("no pictures"), "{message}");
    let checked = check_captions(&prompts, |caption| match caption.contains("blue") {
        true => Err("too blue".to_owned()),
        false => Ok(()),
    });
    let message = checked.unwrap_err().to_string();
    assert!(message.contains("prompts.txt") && message.contains("line 3: too blue"), "{message}");
    fs::write(&path, "\n").unwrap();
    assert!(Prompts::open(&path).unwrap_err().to_string().contains("no prompt"));
}

/// Another caption, another picture or another size makes another data set.
#[test]
fn fingerprints_follow_the_examples() {
    let folder = tempfile::tempdir().unwrap();
    let draw = |seed| Scene::draw(Split::Train, &mut Noise::from_seed(seed)).render();
    save(&draw(1), &folder.path().join("a.png")).unwrap();
    let list = folder.path().join("metadata.jsonl");
    let caption = |text: &str| {
        fs::write(&list, format!("{{\"file_name\": \"a.png\", \"text\": \"{text}\"}}\n")).unwrap();
    };
    let print = |size| ImageFolder::open(folder.path(), size).unwrap().fingerprint();
    caption("one");
    let first = print(32);
    assert_eq!(first, print(32));
    assert_ne!(first, print(64));
    caption("two");
    assert_ne!(first, print(32));
    caption("one");
    save(&draw(2), &folder.path().join("a.png")).unwrap();
    assert_ne!(first, print(32));
}
