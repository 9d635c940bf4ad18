//! `dmd generate` and `dmd compare`: the files they write.

use super::dmd;
use crate::support::tiny_model;

#[test]
fn generate_writes_pictures() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    let arguments =
        ["generate", "a red circle", "--model", model.path().to_str().unwrap(), "--out", "new/one.png"];
    let output = dmd(here.path(), &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let picture = image::open(here.path().join("new/one.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (32, 32));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("one.png") && said.contains("seed 0") && said.contains(" ms"), "{said}");

    let model = model.path().to_str().unwrap();
    let output = dmd(
        here.path(),
        &["generate", "x", "y", "--count", "2", "--seed", "5", "--steps", "3", "--model", model],
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for i in 1..=4 {
        assert!(here.path().join(format!("picture-{i}.png")).is_file());
    }
}

#[test]
fn compare_writes_a_labelled_sheet() {
    let model = tiny_model();
    let here = tempfile::tempdir().unwrap();
    let model = model.path().to_str().unwrap();
    let output = dmd(here.path(), &["compare", "x", "y", "--steps", "2", "--repeats", "1", "--model", model]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.contains("teacher, 2 steps") && said.contains("one step") && said.contains("ratio"),
        "{said}"
    );
    let sheet = image::open(here.path().join("compare.png")).unwrap();
    assert!(sheet.width() > 512 && sheet.height() > 512);
}
