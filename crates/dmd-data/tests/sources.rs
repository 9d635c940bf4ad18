//! Tar files, mirrored pictures and lists of prompts, beside the folder of the same pictures.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File};
use std::path::Path;

use dmd_core::Noise;
use dmd_data::shapes::{Scene, Split};
use dmd_data::{DataSection, Dataset, ImageFolder, Pictures, Prompts, WebDataset, save};
use image::imageops::flip_horizontal;

/// Writes files into a tar file, in this order.
fn tar(path: &Path, files: &[(String, Vec<u8>)]) {
    let mut builder = tar::Builder::new(File::create(path).unwrap());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    builder.finish().unwrap();
}

/// A folder of pictures, and the same in three tar files.
fn pictures(home: &Path) {
    let mut noise = Noise::from_seed(1);
    let mut list = String::new();
    let mut files: Vec<Vec<(String, Vec<u8>)>> = vec![Vec::new(); 3];
    for i in 0..10 {
        let scene = Scene::draw(Split::Train, &mut noise);
        let name = format!("{i:03}.png");
        save(&scene.render(), &home.join("folder").join(&name)).unwrap();
        list += &format!("{}\n", serde_json::json!({"file_name": name, "text": scene.caption}));
        let part = &mut files[i / 4];
        let caption = match i % 2 {
            0 => (format!("{i:03}.txt"), format!("{}\n", scene.caption).into_bytes()),
            _ => (
                format!("{i:03}.json"),
                serde_json::json!({"caption": scene.caption}).to_string().into_bytes(),
            ),
        };
        let picture = (name.clone(), fs::read(home.join("folder").join(&name)).unwrap());
        part.extend(if i % 3 == 0 { [caption, picture] } else { [picture, caption] });
    }
    fs::write(home.join("folder/metadata.jsonl"), list).unwrap();
    fs::create_dir(home.join("tars")).unwrap();
    for (i, files) in files.iter().enumerate() {
        tar(&home.join(format!("tars/part-{i:02}.tar")), files);
    }
}

/// Captions, pictures, their order and what is drawn are those of the folder, however the tar files are named.
#[test]
fn tar_files_are_the_folder() {
    let home = tempfile::tempdir().unwrap();
    pictures(home.path());
    let folder = ImageFolder::open(&home.path().join("folder"), 32).unwrap();
    for path in ["tars", "tars/*.tar", "tars/part-{00..02}.tar", "tars/part-0?.tar"] {
        let tars = WebDataset::open(&home.path().join(path), 32).unwrap();
        assert_eq!((tars.len(), tars.count()), (10, Some(10)), "{path}");
        for place in 0..10 {
            let (a, b) = (folder.get(place).unwrap(), tars.get(place).unwrap());
            assert!(a.caption == b.caption && a.image == b.image, "{path}: sample {place}");
        }
        let mut noises = [Noise::from_seed(2), Noise::from_seed(2)];
        for _ in 0..5 {
            let (a, b) = (folder.draw(&mut noises[0]).unwrap(), tars.draw(&mut noises[1]).unwrap());
            assert!(a.caption == b.caption && a.image == b.image);
        }
        let captions =
            |dataset: &dyn Dataset| dataset.entries().map(|e| e.caption.to_owned()).collect::<Vec<_>>();
        assert_eq!(captions(&folder), captions(&tars));
    }
    let one = WebDataset::open(&home.path().join("tars/part-02.tar"), 32).unwrap();
    assert_eq!(one.len(), 2);
    assert_ne!(one.fingerprint(), WebDataset::open(&home.path().join("tars"), 32).unwrap().fingerprint());
}

#[test]
fn what_is_wrong_with_tar_files_is_one_sentence() {
    let home = tempfile::tempdir().unwrap();
    pictures(home.path());
    let refused = |path: &str| {
        let message = WebDataset::open(&home.path().join(path), 32).unwrap_err().to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    };
    assert!(refused("none-*.tar").contains("no such tar file"));
    assert!(refused("tars/part-{00..03}.tar").contains("part-03.tar"));
    let whole = fs::read(home.path().join("tars/part-01.tar")).unwrap();
    fs::write(home.path().join("cut.tar"), &whole[..whole.len() / 2]).unwrap();
    assert!(refused("cut.tar").contains("cut"));
    fs::write(home.path().join("text.tar"), "no tar file, but some text").unwrap();
    assert!(refused("text.tar").contains("text.tar"));
    let files = [("a.png", "no picture"), ("a.txt", "one"), ("b.png", ""), ("b.txt", "two"), ("c.png", "x")];
    tar(&home.path().join("bad.tar"), &files.map(|(name, text)| (name.to_owned(), text.into())));
    let message = refused("bad.tar");
    for part in [
        "sample 1: \"a.png\"",
        "sample 2: \"b.png\": the file is empty",
        "sample 3: \"c.png\" has no caption",
    ] {
        assert!(message.contains(part), "{part} in {message}");
    }
    tar(&home.path().join("none.tar"), &[("a.txt".to_owned(), b"one".to_vec())]);
    assert!(refused("none.tar").contains("holds no picture"));
}

#[test]
fn mirrored_pictures_are_further_examples() {
    let home = tempfile::tempdir().unwrap();
    pictures(home.path());
    let open = |flip: bool| {
        let path = home.path().join("tars");
        let pictures = Pictures { path, size: 32, background: Default::default(), flip };
        DataSection::Webdataset(pictures).open().unwrap()
    };
    let (plain, both) = (open(false), open(true));
    assert_eq!(both.count(), Some(20));
    for place in 0..10 {
        let picture = plain.get(place).unwrap();
        let mirrored = both.get(place + 10).unwrap();
        assert!(both.get(place).unwrap().image == picture.image);
        assert!(mirrored.image == flip_horizontal(&picture.image) && mirrored.caption == picture.caption);
        assert!(mirrored.image != picture.image);
    }
    assert_ne!(plain.fingerprint(), both.fingerprint());
    let mut noise = Noise::from_seed(1);
    let is_mirrored = |_| {
        let example = both.draw(&mut noise).unwrap();
        !(0..10).any(|place| plain.get(place).unwrap().image == example.image)
    };
    let count = (0..40).map(is_mirrored).filter(|mirrored| *mirrored).count();
    assert!((8..=32).contains(&count), "{count} of 40 are mirrored");
}

#[test]
fn prompts_of_json_lines() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("prompts.jsonl");
    fs::write(
        &file,
        "{\"text\": \" one \"}\n\n{\"prompt\": \"two\", \"text\": \"x\"}\n{\"caption\": \"three\"}\n",
    )
    .unwrap();
    let captions =
        |prompts: Prompts| prompts.entries().map(|e| (e.line, e.caption.to_owned())).collect::<Vec<_>>();
    let expected = [(1, "one"), (3, "two"), (4, "three")].map(|(line, text)| (line, text.to_owned()));
    assert_eq!(captions(Prompts::open(&file).unwrap()), expected);
    let message = Prompts::open_with_key(&file, Some("caption")).unwrap_err().to_string();
    assert!(
        message.contains("line 1") && message.contains("line 3") && !message.contains("line 4"),
        "{message}"
    );
    fs::write(&file, "{\"words\": \"one\"}\n").unwrap();
    assert_eq!(captions(Prompts::open_with_key(&file, Some("words")).unwrap())[0].1, "one");
    fs::write(&file, "{\"text\": 5}\nno object\n").unwrap();
    let message = Prompts::open(&file).unwrap_err().to_string();
    assert!(message.contains("line 1") && message.contains("line 2"), "{message}");
    let text = home.path().join("prompts.txt");
    fs::write(&text, "{\"text\": \"as it is\"}\n").unwrap();
    assert_eq!(captions(Prompts::open(&text).unwrap())[0].1, "{\"text\": \"as it is\"}");
    assert!(Prompts::open_with_key(&text, Some("text")).unwrap_err().to_string().contains(".jsonl"));
}
