//! JSON as Python writes it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;

use dmd_weights::{Error, parse_json, read_json, write_json};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Debug, Deserialize)]
struct Scheduler {
    lambda_min_clipped: f64,
    sigma_max: Option<f32>,
    bounds: Vec<f64>,
    beta_start: f64,
    steps: u64,
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

/// `DPMSolverMultistepScheduler` writes `"lambda_min_clipped": -Infinity`; an editor of Windows adds the mark.
#[test]
fn numbers_that_are_not_finite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scheduler_config.json");
    let text = "\u{feff}{\"lambda_min_clipped\": -Infinity, \"sigma_max\": Infinity, \"bounds\": [NaN,-Infinity,1],
        \"beta_start\": 0.00085, \"steps\": 18446744073709551615, \"late\": -Infinity, \"said\": \"Infinity \\\"NaN\",
        \"none\": null, \"deep\": [{\"x\": Infinity}]}";
    fs::write(&path, text).unwrap();
    let read: Scheduler = read_json(&path).unwrap();
    assert_eq!(read.lambda_min_clipped, f64::NEG_INFINITY);
    assert_eq!(read.sigma_max, Some(f32::INFINITY));
    assert!(read.bounds[0].is_nan() && read.bounds[1..] == [f64::NEG_INFINITY, 1.0]);
    assert_eq!((read.beta_start, read.steps), (0.00085, u64::MAX));
    assert_eq!(read.other["late"], "-Infinity");
    assert_eq!(read.other["said"], "Infinity \"NaN");
    assert_eq!(read.other["deep"], json!([{ "x": "Infinity" }]));

    let value: Value = read_json(&path).unwrap();
    write_json(&path, &value).unwrap();
    let written = fs::read_to_string(&path).unwrap();
    assert!(written.contains("\"lambda_min_clipped\": -Infinity"), "{written}");
    assert!(written.contains("\"said\": \"Infinity \\\"NaN\""), "{written}");
    assert_eq!(read_json::<Value>(&path).unwrap(), value);
}

/// Where a whole number, a flag or a name is expected, none of the three is one.
#[test]
fn what_is_expected_stays_expected() {
    assert!(parse_json::<u64>("NaN").is_err());
    assert!(parse_json::<bool>("Infinity").is_err());
    assert!(parse_json::<f64>("[Infinity").is_err());
    assert!(parse_json::<f64>("Infinity Infinity").is_err());
    assert!(parse_json::<Value>("{NaN: 1, x}").is_err());
    assert!(parse_json::<(f64, f64)>("[Infinity, 1, 2]").is_err());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.json");
    fs::write(&path, "{\n \"a\": 1,\n}").unwrap();
    assert!(matches!(read_json::<Value>(&path), Err(Error::Json { .. })));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i32>().prop_map(|v| Value::from(f64::from(v) / 1e3)),
        "(\\PC|\"|\\\\|-Infinity|NaN){0,6}".prop_map(Value::from),
        prop::sample::select(vec!["NaN", "Infinity", "-Infinity"]).prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("(\\PC|\"|NaN){0,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// What is written is read back, whatever the strings hold.
    #[test]
    fn writing_and_reading_is_the_identity(value in any_json()) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        write_json(&path, &value).unwrap();
        prop_assert_eq!(read_json::<Value>(&path).unwrap(), value);
    }

    /// No text makes it panic.
    #[test]
    fn no_text_is_trusted(text in "(\\PC|[\\[\\]{}\",:]|NaN|-Infinity){0,20}") {
        let _ = parse_json::<Value>(&text);
    }
}
