//! The list of a folder in the `imagefolder` form of Hugging Face datasets: `metadata.jsonl` or `metadata.csv`.

use std::fs;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use crate::Error;
use crate::error::Problem;

/// A line of the list.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// Counted from 1.
    pub(crate) number: usize,
    /// The picture, inside the folder.
    pub(crate) file: PathBuf,
    pub(crate) caption: String,
}

/// A line that was read, or its number with what is wrong.
pub(crate) type Read = Result<Line, Problem>;

/// The list of a folder and its lines; blank ones are left out.
///
/// # Errors
///
/// [`Error::Data`] when the folder has no list that can be read, or two.
pub(crate) fn read(folder: &Path) -> Result<(PathBuf, Vec<Read>), Error> {
    let named = |name: &str| folder.join(name);
    let wrong = |path: &Path, reason: String| Error::Data { path: path.to_owned(), reason };
    let (jsonl, csv) = (named("metadata.jsonl"), named("metadata.csv"));
    let list = match (jsonl.is_file(), csv.is_file()) {
        (true, true) => {
            let reason = "metadata.csv and metadata.jsonl are both here; keep one of them".to_owned();
            return Err(wrong(folder, reason));
        }
        (false, true) => csv,
        (false, false) if named("metadata.parquet").is_file() => {
            let reason = "Parquet is not read; write the list as metadata.jsonl or metadata.csv".to_owned();
            return Err(wrong(&named("metadata.parquet"), reason));
        }
        _ => jsonl,
    };
    let text = fs::read_to_string(&list).map_err(|e| wrong(&list, e.to_string()))?;
    // Editors on Windows begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let is_csv = list.extension().is_some_and(|extension| extension == "csv");
    let lines = if is_csv { from_csv(text, &list)? } else { from_jsonl(text) };
    Ok((list, lines))
}

fn from_jsonl(text: &str) -> Vec<Read> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(i, line)| {
            let parsed = serde_json::from_str::<Map<String, Value>>(line).map_err(|e| e.to_string());
            let line = parsed.and_then(|columns| {
                let column = |name: &str| match columns.get(name) {
                    Some(Value::String(value)) => Ok(value.clone()),
                    Some(other) => Err(format!("{name:?} is {other}, not a string")),
                    None => Err(lacks(name, columns.keys().map(String::as_str))),
                };
                line_of(i + 1, &column("file_name")?, column("text")?)
            });
            line.map_err(|reason| Problem { line: i + 1, reason })
        })
        .collect()
}

fn from_csv(text: &str, list: &Path) -> Result<Vec<Read>, Error> {
    let wrong = |reason: String| Error::Data { path: list.to_owned(), reason };
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let names = reader.headers().map_err(|e| wrong(e.to_string()))?.clone();
    let column = |name: &str| {
        names.iter().position(|found| found == name).ok_or_else(|| wrong(lacks(name, names.iter())))
    };
    let (file, caption) = (column("file_name")?, column("text")?);
    let mut lines = Vec::new();
    let mut record = csv::StringRecord::new();
    loop {
        let number = reader.position().line() as usize;
        match reader.read_record(&mut record) {
            Ok(false) => return Ok(lines),
            Ok(true) => {
                let number = record.position().map_or(number, |position| position.line() as usize);
                let line = line_of(number, &record[file], record[caption].to_owned());
                lines.push(line.map_err(|reason| Problem { line: number, reason }));
            }
            Err(error) => lines.push(Err(Problem { line: number, reason: error.to_string() })),
        }
    }
}

/// A line of the list is without a column.
fn lacks<'a>(name: &str, columns: impl Iterator<Item = &'a str>) -> String {
    let found: Vec<&str> = columns.collect();
    format!("the column {name:?} is missing; rename the one that is meant ({})", found.join(", "))
}

/// Refuses file names that lead out of the folder.
fn line_of(number: usize, file_name: &str, caption: String) -> Result<Line, String> {
    let file = Path::new(file_name);
    let inside = |component| matches!(component, Component::Normal(_) | Component::CurDir);
    if !file.components().all(inside) {
        return Err(format!("file name {file_name:?} leaves the folder"));
    }
    Ok(Line { number, file: file.to_owned(), caption })
}
