//! Captioned pictures of two classes, which the tests of the program share.

use std::fs;
use std::path::Path;

/// Makes a folder of pictures of 8×8, by turns of the classes `bright` and `dark`; each has `blue` more blue than the
/// one before.
pub(crate) fn bright_and_dark(folder: &Path, count: u8, blue: u8) {
    fs::create_dir(folder).unwrap();
    let mut lines = String::new();
    for i in 0..count {
        let (name, class) = (format!("{i}.png"), ["bright", "dark"][usize::from(i % 2)]);
        let level = if i % 2 == 0 { 220 } else { 30 };
        let picture = image::RgbImage::from_pixel(8, 8, image::Rgb([level, level, blue * i]));
        picture.save(folder.join(&name)).unwrap();
        lines.push_str(&format!("{{\"file_name\": \"{name}\", \"text\": \"{class}\"}}\n"));
    }
    fs::write(folder.join("metadata.jsonl"), lines).unwrap();
}
