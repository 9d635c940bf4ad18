//! The pairs of the regression term.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use dmd_train::pairs::Pairs;

use crate::alone;
use crate::tiny::Classes;

/// The files of pairs of a folder, with what is in them.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    files.sort();
    files
}

/// Shape and values of a tensor of a file of pairs.
fn tensor(path: &Path, name: &str) -> (Vec<usize>, Vec<f32>) {
    let file = dmd_weights::read(path).unwrap();
    (file.entries()[name].shape.clone(), file.floats(name).unwrap())
}

/// As many pairs are made as are asked for. More of them begin with those that were made before.
#[test]
fn as_many_as_are_asked_for() {
    let _alone = alone();
    let classes = Classes::new();
    let mut config = classes.config("run");
    let (folder, _) = classes.make_pairs(&config);
    let few = files(&folder);
    assert_eq!(few.len(), 1);
    let read = |name: &str| tensor(&few[0].0, name);
    let (z, x0) = (read("z"), read("x0"));
    assert_eq!((&z.0, &x0.0), (&vec![4, 3, 8, 8], &vec![4, 3, 8, 8]));

    config.regression.as_mut().unwrap().pairs = 6;
    classes.make_pairs(&config);
    let more = files(&folder);
    assert_eq!(more.len(), 1, "the longer file takes the shorter one's place");
    let read = |name: &str| tensor(&more[0].0, name);
    assert_eq!(read("x0").0, [6, 3, 8, 8]);
    assert!(read("z").1[..z.1.len()] == z.1, "other noise");
    // More samples at once are summed in another order: roundings of f32, grown by guidance and the sampler's steps.
    let largest = x0.1.iter().fold(0.0, |max: f32, value| max.max(value.abs()));
    let error = x0.1.iter().zip(read("x0").1).fold(0.0, |max: f32, (a, b)| max.max((a - b).abs()));
    assert!(error <= 1e-5 * largest, "samples of the same noise differ by {error} of {largest}");
}

/// Pairs of another guidance are made beside those of the first, which stay what they were; each run reads its own.
#[test]
fn pairs_of_other_guidance_are_not_used() {
    let _alone = alone();
    let classes = Classes::new();
    let first = classes.config("run");
    let mut second = first.clone();
    second.guidance_scale = 3.0;
    let (folder, _) = classes.make_pairs(&first);
    let before = files(&folder);
    assert_eq!(before.len(), 1);
    classes.make_pairs(&second);
    let after = files(&folder);
    assert_eq!(after.len(), 2);
    assert!(after.contains(&before[0]), "the first pairs have changed");

    let device = Device::flex();
    let open = |config: &dmd_train::config::DistillConfig| {
        let made_from = config.fingerprints(classes.dataset.as_ref()).unwrap().pairs;
        let pairs = Pairs::open(&folder, 4, classes.model.shape(), &made_from).unwrap();
        let (z, x0) = pairs.get(&[0, 1, 2, 3], &device).unwrap();
        (z.into_data(), x0.into_data())
    };
    let (one, other) = (open(&first), open(&second));
    assert_eq!(one.0, other.0, "the noise does not depend on the guidance");
    assert_ne!(one.1, other.1, "guidance changes the samples");
    let (_, x0) = tensor(&before[0].0, "x0");
    assert_eq!(one.1.iter::<f32>().collect::<Vec<_>>(), x0, "the first run reads its own pairs");

    // Back at the first guidance everything is there: no file changes.
    classes.make_pairs(&first);
    assert!(files(&folder) == after);
}
