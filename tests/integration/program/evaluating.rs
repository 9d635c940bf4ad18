//! `dmd evaluate`: pictures are at no distance from themselves, and others at the distance that the library measures; and
//! the generator against its teacher.

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
        let known = ["--retrieval", "own"];
        let data = ["evaluate", "--model", model, "--data", "own", "--steps", "1", "--seed", seed];
        let said = run(&[&data[..], &known].concat());
        let (_, distance) = said.split_once("Fréchet distance ").expect("a distance");
        let (distance, rest) = distance.split_once(", ").unwrap();
        (distance.parse::<f64>().unwrap(), rest.to_owned())
    };
    let (distance, rest) = evaluate("1");
    assert_eq!(distance, 0.0, "{rest}");
    assert!(rest.contains("precision 1.000, recall 1.000"), "{rest}");
    assert!(rest.contains("retrieval 100.0 % first, 100.0 % of the nearest five"), "{rest}");

    let space = RandomConv::new(&device());
    let moments = |pictures: &[RgbImage]| Moments::of(&space.features(pictures));
    let expected = moments(&own).distance(&moments(&other));
    let (distance, rest) = evaluate("2");
    // Four decimals are printed.
    assert!(expected > 1e-3 && (distance - expected).abs() < 1e-4, "{distance}, expected {expected}");
    assert!(rest.contains(space.name()), "{rest}");
}

/// The lines that compare follow from those of the two methods, and their verdicts from their errors.
#[test]
fn a_generator_against_its_teacher() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    let mut list = String::new();
    for i in 0..24_u8 {
        let picture = RgbImage::from_fn(32, 32, |x, y| image::Rgb([10 * i, 8 * x as u8, 8 * y as u8]));
        picture.save(here.path().join(format!("{i}.png"))).unwrap();
        let name = ["a cat", "a dog", "a red fox"][usize::from(i) % 3];
        list.push_str(&format!("{{\"file_name\": \"{i}.png\", \"text\": \"{name}, drawn\"}}\n"));
    }
    fs::write(here.path().join("metadata.jsonl"), list).unwrap();
    let model = model.path().to_str().unwrap();
    let arguments = [
        "evaluate",
        "--model",
        model,
        "--data",
        ".",
        "--steps",
        "2,1",
        "--retrieval",
        ".",
        "--guidance",
        "1",
    ];
    let output = dmd(here.path(), &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    let of = |steps: &str, what: &str| -> f64 {
        let line = said.lines().find(|line| line.trim_start().starts_with(steps)).unwrap();
        let (_, rest) = line.split_once(what).unwrap_or_else(|| panic!("{what:?} is not in {line}"));
        let number = rest.trim_start().split([',', ' ']).next().unwrap();
        number.parse().unwrap_or_else(|_| panic!("{what:?} in {line}"))
    };
    let (teacher, student) = ("2 steps", "1 steps");
    let compared = |what: &str| -> (f64, f64, &str) {
        let line = said.lines().find(|line| line.starts_with(what));
        let line = line.unwrap_or_else(|| panic!("{what:?} is not in\n{said}"));
        let (value, rest) = line[what.len()..].split_once('±').unwrap();
        let (error, verdict) = rest.trim_start().split_once(' ').unwrap();
        (value.trim().parse().unwrap(), error.parse().unwrap(), verdict.trim())
    };
    let difference = |what: &str| of(student, what) - of(teacher, what);
    let expected = [
        ("Fréchet distance, ratio", of(student, "Fréchet distance") / of(teacher, "Fréchet distance"), -1.0),
        ("kernel distance, difference", difference("kernel distance"), -1.0),
        ("precision, difference", difference("precision"), 1.0),
        ("recall, difference", difference("recall"), 1.0),
        ("retrieval, top 1, difference", difference("retrieval") / 100.0, 1.0),
        ("retrieval, top 5, difference", difference("first,") / 100.0, 1.0),
    ];
    for (what, value, sign) in expected {
        let (found, error, verdict) = compared(what);
        // Four decimals are printed, of the distances too, which are about 0.1.
        assert!((found - value).abs() < 2e-3 * value.abs().max(1.0), "{what}: {found}, expected {value}");
        let advantage = sign * (found - if what.ends_with("ratio") { 1.0 } else { 0.0 });
        let right = match verdict {
            "better" => advantage > 1.99 * error,
            "worse" => advantage < -1.99 * error,
            "equal within two standard errors" => advantage.abs() <= 2.01 * error + 1e-4,
            _ => false,
        };
        assert!(right, "{what}: {found} ± {error} is {verdict:?}");
    }
    // A name is a caption up to its first comma, so that every name is known.
    assert!(of(student, "first,") > 0.0, "{said}");
}
