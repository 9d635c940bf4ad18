//! A list of prompts becomes a folder of pictures: drawn a few at a time, each written as soon as it is there, under a name
//! that says its prompt, with its parameters inside.
//!
//! `cargo run --release --example batch_to_folder -- prompts.txt` takes a file of one prompt a line; without one it draws
//! a list of its own. Look at `batch_to_folder/`: any program that shows a PNG's `parameters` shows prompt, seed and steps.

use std::path::Path;
use std::{env, fs};

use anyhow::{Context, ensure};
use dmd::device;
use dmd::infer::{Observer, Pipeline, Request, encode_png};
use dmd::weights::write_atomic;
use image::RgbImage;

/// Writes each picture when it is drawn, so that a list of thousands needs the memory of a few pictures.
struct Folder<'a> {
    path: &'a Path,
    pipeline: &'a Pipeline,
    request: &'a Request,
    /// The first error ends the request.
    written: anyhow::Result<usize>,
}

impl Folder<'_> {
    fn write(&self, place: usize, picture: &RgbImage) -> anyhow::Result<()> {
        let parameters = self.pipeline.describe(self.request, place, picture.dimensions(), "shapes");
        let words: Vec<_> = self.request.prompts[place].split(|c: char| !c.is_alphanumeric()).collect();
        let name: String = words.join("-").chars().take(60).collect();
        let bytes = encode_png(picture, &[("parameters", &parameters)])?;
        Ok(write_atomic(&self.path.join(format!("{place:04}-{name}.png")), &bytes)?)
    }
}

impl Observer for Folder<'_> {
    fn on_picture(&mut self, place: usize, _seed: u64, picture: &RgbImage) {
        self.written = match (&self.written, self.write(place, picture)) {
            (Ok(count), Ok(())) => Ok(count + 1),
            (_, Err(error)) => Err(error),
            (Err(_), _) => return,
        };
    }

    fn cancelled(&self) -> bool {
        self.written.is_err()
    }
}

fn main() -> anyhow::Result<()> {
    let list = match env::args().nth(1) {
        Some(path) => {
            fs::read_to_string(&path).with_context(|| format!("cannot read the prompts in {path:?}"))?
        }
        None => {
            ["red", "green", "blue", "yellow"].map(|c| format!("a {c} circle\na small {c} square\n")).concat()
        }
    };
    let prompts: Vec<&str> = list.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let folder = Path::new("batch_to_folder");
    fs::create_dir_all(folder)?;

    let device = device::open("flex")?;
    let pipeline = Pipeline::embedded(&device)?;
    let request = Request::new(prompts.iter().copied()).with_seeds(0..prompts.len() as u64);
    let mut observer = Folder { path: folder, pipeline: &pipeline, request: &request, written: Ok(0) };
    let drawn = pipeline.generate_each(&request, &mut observer);
    let written = observer.written?; // before the error of the drawing, which is then "cancelled"
    let seconds = drawn?.total().as_secs_f64();

    let together = pipeline.together(pipeline.default_size());
    println!("{written} pictures in {seconds:.2} s, {together} at a time: {}", folder.display());
    println!("the first one's parameters:\n{}", pipeline.describe(&request, 0, (64, 64), "shapes"));
    ensure!(written == prompts.len(), "{} prompts gave {written} pictures", prompts.len());
    Ok(())
}
