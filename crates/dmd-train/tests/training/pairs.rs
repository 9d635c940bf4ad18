//! The pairs of the regression term.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use burn::tensor::Device;
use dmd_train::pairs::Pairs;
use dmd_weights::{Fault, with_fault};

use crate::tiny::Classes;
use crate::{StopAt, alone};

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

/// The names of the files of pairs of a folder, with what is in them and when they were written. A killed process leaves
/// the file it was writing under another ending.
fn named(folder: &Path) -> Vec<(OsString, Vec<u8>, SystemTime)> {
    let pairs =
        files(folder).into_iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "safetensors"));
    pairs
        .map(|(path, bytes)| {
            let written = fs::metadata(&path).unwrap().modified().unwrap();
            (path.file_name().unwrap().to_owned(), bytes, written)
        })
        .collect()
}

/// Stopped at any file operation, by a kill or by an error, while four pairs become a full file and a second file is
/// added: the earlier pairs or the new ones are there, each file whole, and the next call keeps what was finished and
/// ends with the files of a call that was never stopped.
#[test]
fn pairs_survive_every_kill_and_failure() {
    let _alone = alone();
    let classes = Classes::new();
    let config = |output: &str, pairs: usize| {
        let mut config = classes.config(output);
        config.regression.as_mut().unwrap().pairs = pairs;
        config
    };
    let earlier = named(&classes.make_pairs(&config("earlier", 4)).0);
    let whole = named(&classes.make_pairs(&config("whole", 130)).0);
    assert_eq!((earlier.len(), whole.len()), (1, 2));
    let same = |a: &(OsString, Vec<u8>, SystemTime), b: &(OsString, Vec<u8>, SystemTime)| {
        (&a.0, &a.1) == (&b.0, &b.1)
    };
    for fault in [Fault::Killed as fn(usize) -> Fault, Fault::Fails] {
        let mut at = 0;
        loop {
            let what = fault(at);
            let config = config(&format!("{what:?}"), 130);
            let folder = config.output.join("pairs");
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(&earlier[0].0), &earlier[0].1).unwrap();
            let (result, operations) = with_fault(what, || classes.try_pairs(&config, &mut StopAt(100, 0)));
            let left = named(&folder);
            assert!(same(&left[0], &earlier[0]) || same(&left[0], &whole[0]), "{what:?}: a pair is lost");
            assert!(left.len() == 1 || same(&left[1], &whole[1]), "{what:?}: the second file is not whole");
            assert!(result.is_err() || left.len() == 2, "{what:?}");
            if what == Fault::Fails(at) {
                assert_eq!(files(&folder).len(), left.len(), "{what:?}: something is left beside the pairs");
            }
            classes.make_pairs(&config);
            let end = named(&folder);
            assert!(
                end.len() == 2 && end.iter().zip(&whole).all(|(a, b)| same(a, b)),
                "{what:?}: other pairs"
            );
            for (before, after) in left.iter().zip(&end) {
                assert!(!same(before, after) || before.2 == after.2, "{what:?}: made again");
            }
            if operations <= at {
                break;
            }
            at += 1;
        }
        // Of each of the two files: written, synchronised, renamed, and the folder synchronised.
        assert_eq!(at, 8, "file operations");
    }
}
