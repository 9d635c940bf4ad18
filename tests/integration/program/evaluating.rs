//! `dmd evaluate`: pictures are at no distance from themselves, and others at the distance that the library measures.

use std::fs;

use dmd::eval::frechet::Moments;
use dmd::eval::{FeatureSpace, RandomConv};
use image::RgbImage;

use super::dmd;
use crate::support::{device, tiny_model};

#[test]
fn distances_of_known_pictures() {
    let model = tiny_model();
    let model = model.path().to_str().unwrap();
    let here = tempfile::tempdir().unwrap();
    let prompts = ["red", "a blue square", "circle", "two", "dark"];
    let run = |arguments: &[&str]| {
        let output = dmd(here.path(), arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    // The pictures of `dmd evaluate --seed 1` have the seeds from 1 000 000 on.
    let draw = |folder: &str, seed: &str| -> Vec<RgbImage> {
        let out = format!("{folder}/p.png");
        run(&[&["generate", "--model", model, "--seed", seed, "--out", &out], &prompts[..]].concat());
        let path = |i| here.path().join(folder).join(format!("p-{i}.png"));
        (1..=prompts.len()).map(|i| image::open(path(i)).unwrap().to_rgb8()).collect()
    };
    let (own, other) = (draw("own", "1000000"), draw("other", "2000000"));
    let line = |(i, prompt): (usize, &&str)| {
        format!("{{\"file_name\": \"p-{}.png\", \"text\": \"{prompt}\"}}\n", i + 1)
    };
    let list: String = prompts.iter().enumerate().map(line).collect();
    fs::write(here.path().join("own/metadata.jsonl"), list).unwrap();
    let evaluate = |seed: &str| {
        let said = run(&["evaluate", "--model", model, "--data", "own", "--steps", "1", "--seed", seed]);
        let (_, distance) = said.split_once("Fréchet distance ").expect("a distance");
        let (distance, rest) = distance.split_once(' ').unwrap();
        (distance.parse::<f64>().unwrap(), rest.to_owned())
    };
    let (distance, rest) = evaluate("1");
    assert_eq!(distance, 0.0, "{rest}");
    assert!(rest.contains("precision 1.000, recall 1.000"), "{rest}");

    let space = RandomConv::new(&device());
    let moments = |pictures: &[RgbImage]| Moments::of(&space.features(pictures));
    let expected = moments(&own).distance(&moments(&other));
    let (distance, rest) = evaluate("2");
    // Four decimals are printed.
    assert!(expected > 1e-3 && (distance - expected).abs() < 1e-4, "{distance}, expected {expected}");
    assert!(rest.contains(space.name()), "{rest}");
}
