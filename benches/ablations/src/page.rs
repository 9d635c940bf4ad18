//! Tables in Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Context;
use dmd_ablations::tables::{Row, Table};
use dmd_ablations::training::Effort;
use serde::Deserialize;

use crate::results::{Key, Measured, Results};

/// What a page is made of.
pub(crate) struct Page<'a> {
    pub(crate) results: &'a Results,
    pub(crate) seeds: &'a [u64],
    /// The fingerprint of the folder of pictures.
    pub(crate) data: Option<&'a str>,
}

impl Page<'_> {
    /// A table, the seeds of each figure beside each other, and what was expected of it.
    pub(crate) fn table(&self, page: &mut String, table: &Table, effort: &Effort) -> std::fmt::Result {
        let name = table.experiment.name();
        let seeds = match self.seeds {
            [seed] => format!("seed {seed}"),
            seeds => format!("{} seeds", seeds.len()),
        };
        writeln!(page, "## {}: {}\n", table.id.to_uppercase(), table.title)?;
        writeln!(page, "{name}, {} updates of {} samples, {seeds}.\n", effort.updates, effort.batch)?;
        self.figures(page, table, effort)?;
        self.differences(page, table, effort)?;
        self.claims(page, table, effort)
    }

    fn find(&self, table: &Table, row: &Row, seed: u64, effort: &Effort) -> Option<&Measured> {
        self.results.find(&Key::new(table.experiment, row, seed, effort, self.data))
    }

    fn figures(&self, page: &mut String, table: &Table, effort: &Effort) -> std::fmt::Result {
        let mut columns: Vec<&str> = Vec::new();
        for (row, seed) in table.rows.iter().flat_map(|row| self.seeds.iter().map(move |seed| (row, *seed))) {
            for name in self.find(table, row, seed, effort).iter().flat_map(|measured| measured.columns()) {
                if !columns.contains(&name) {
                    columns.push(name);
                }
            }
        }
        writeln!(page, "| variant | {} |\n| --- |{}", columns.join(" | "), " --- |".repeat(columns.len()))?;
        for row in &table.rows {
            write!(page, "| {} |", row.name())?;
            for column in &columns {
                let of = |seed| self.find(table, row, seed, effort).and_then(|found| found.figure(column));
                let each: Vec<Option<f64>> = self.seeds.iter().map(|seed| of(*seed)).collect();
                let shown = match each.iter().all(Option::is_none) {
                    true => "–".to_owned(),
                    false => each.iter().map(|value| short(*value)).collect::<Vec<_>>().join(" / "),
                };
                write!(page, " {shown} |")?;
            }
            writeln!(page)?;
        }
        Ok(())
    }

    /// Every generator against the table's reference: the mean of the differences of one seed, and its standard error.
    fn differences(&self, page: &mut String, table: &Table, effort: &Effort) -> std::fmt::Result {
        let Some((reference, columns)) = table.against.filter(|_| self.seeds.len() > 1) else {
            return Ok(());
        };
        let Some(reference) = table.rows.iter().find(|row| row.name() == reference) else { return Ok(()) };
        writeln!(
            page,
            "\n| minus {} | {} |\n| --- |{}",
            reference.name(),
            columns.join(" | "),
            " --- |".repeat(columns.len())
        )?;
        for row in table.rows.iter().filter(|row| *row != reference && matches!(row, Row::Generator(_))) {
            write!(page, "| {} |", row.name())?;
            for column in columns {
                let figure = |row: &Row, seed: u64| {
                    self.find(table, row, seed, effort).and_then(|found| found.figure(column))
                };
                let each =
                    self.seeds.iter().map(|seed| Some(figure(row, *seed)? - figure(reference, *seed)?));
                write!(
                    page,
                    " {} |",
                    each.collect::<Option<Vec<f64>>>().map_or("–".to_owned(), |each| paired(&each))
                )?;
            }
            writeln!(page)?;
        }
        Ok(())
    }

    fn claims(&self, page: &mut String, table: &Table, effort: &Effort) -> std::fmt::Result {
        writeln!(page, "\n| expected | seeds in which it came out |\n| --- | --- |")?;
        for claim in &table.claims {
            let held = self.seeds.iter().filter(|seed| {
                let found = |row| self.find(table, row, **seed, effort);
                let by_name: BTreeMap<&str, &Measured> =
                    table.rows.iter().filter_map(|row| Some((row.name(), found(row)?))).collect();
                let at = |row: &str, column: &str| by_name.get(row).and_then(|row| row.figure(column));
                (claim.holds)(&|row: &str, column: &str| at(row, column).unwrap_or(f64::NAN))
            });
            writeln!(page, "| {} | {} of {} |", claim.text, held.count(), self.seeds.len())?;
        }
        writeln!(page)
    }
}

/// The mean of some differences with its standard error, in bold where it is more than two of them.
fn paired(each: &[f64]) -> String {
    let count = each.len() as f64;
    let mean = each.iter().sum::<f64>() / count;
    let variance = each.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    let error = (variance / count).sqrt();
    let text = format!("{} ± {}", short(Some(mean)), short(Some(error)));
    if mean.abs() > 2.0 * error { format!("**{text}**") } else { text }
}

/// Three digits that matter, without an exponent.
fn short(value: Option<f64>) -> String {
    let Some(value) = value else {
        return "–".to_owned();
    };
    let size = value.abs();
    if value.fract() == 0.0 && size < 1e6 {
        format!("{value:.0}")
    } else if size < 1.0 {
        format!("{value:.3}")
    } else if size < 10.0 {
        format!("{value:.2}")
    } else if size < 1e4 {
        format!("{value:.0}")
    } else {
        format!("{value:.1e}")
    }
}

/// A line of `dmd bench --json`.
#[derive(Debug, Deserialize)]
struct Timed {
    part: String,
    runs: usize,
    device: String,
    median_ms: f64,
}

/// M9: what one network call instead of a hundred makes of the wall clock, from what `dmd bench --json` printed.
pub(crate) fn latency(page: &mut String, path: &Path) -> anyhow::Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path:?}"))?;
    let lines = text.lines().map(serde_json::from_str);
    let timed: Vec<Timed> =
        lines.collect::<Result<_, _>>().with_context(|| format!("{path:?} is not from dmd bench --json"))?;
    let of = |part: &str| {
        let line = timed.iter().find(|timed| timed.part == part);
        line.with_context(|| format!("{path:?} lacks the part {part}; name it in dmd bench --parts"))
    };
    let ms = |part: &str| Ok::<_, anyhow::Error>(of(part)?.median_ms);
    let (call, guided) = (ms("unet")?, ms("guided")?);
    let around = ms("text")? + ms("decode")?;
    let (one, fifty) = (ms("picture")?, ms("teacher")?);
    // Guidance encodes the empty prompt too; it is part of what goes around the calls.
    let (one_expected, fifty_expected) = (call + around, 50.0 * guided + around);
    let Timed { runs, device, .. } = of("unet")?;
    writeln!(page, "## M9: Network calls and the wall clock (DMD, section 4)\n")?;
    writeln!(
        page,
        "On {device}, medians of {runs} runs: c = {call:.2} ms per call of the UNet, g = {guided:.2} ms per guided call (two branches), o = {around:.2} ms around them (text and decoding).\n"
    )?;
    writeln!(page, "| picture | calls | expected ms | measured ms |\n| --- | --- | --- | --- |")?;
    writeln!(page, "| one step | 1 | c + o = {one_expected:.1} | {one:.1} |")?;
    writeln!(page, "| teacher, 50 guided steps | 100 | 50 g + o = {fifty_expected:.1} | {fifty:.1} |")?;
    writeln!(page, "| ratio | 100 | {:.1} | {:.1} |\n", fifty_expected / one_expected, fifty / one)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_with_standard_errors() {
        // The deviation of 1, 2 and 3 is 1; that of their mean 1 / √3.
        assert_eq!(paired(&[1.0, 2.0, 3.0]), "**2 ± 0.577**");
        assert_eq!(paired(&[-1.0, 0.5, 2.0]), "0.500 ± 0.866");
    }
}
