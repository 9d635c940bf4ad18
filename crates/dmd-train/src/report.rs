//! Runs as one HTML page that opens in any browser, without a network: plots of everything they logged, their grids and
//! their configurations.

mod chart;
mod curve;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use self::chart::{COLOURS, Chart, short};
use self::curve::Curve;
pub use crate::alarms::Alarm;
use crate::alarms::{Watch, band};
use crate::{Error, metrics};

/// Grids of a stage on the page: the first, the last, and evenly between.
const GRIDS: usize = 6;

/// Runs on one page, at most: as many as there are colours.
pub const RUNS: usize = COLOURS.len();

/// Figures in the order in which a reader looks for them, and their units. Others follow by name.
const FIGURES: [(&str, &str); 27] = [
    ("frechet_inception", "squared distance of features"),
    ("frechet_random_conv", "squared distance of features"),
    ("clip_score", "mean cosine"),
    ("accuracy", "share of the prompts"),
    ("probe_accuracy", "share of the prompts"),
    ("matching", "½ mean of g²"),
    ("regression", "mean distance to the pairs"),
    ("adversarial", "mean of softplus(−logit)"),
    ("fake", "mean squared error"),
    ("critic", "mean of two softplus"),
    ("logit_real", "logit"),
    ("logit_generated", "logit"),
    ("gradient_norm", "norm before clipping"),
    ("fake_gradient_norm", "norm before clipping"),
    ("sample_mean", "mean of the samples"),
    ("sample_deviation", "deviation of the samples"),
    ("reconstruction", "error of the pictures"),
    ("kl", "nats"),
    ("preview", "error of the thumbnails"),
    ("denoising", "mean squared error"),
    ("loss", "mean squared error"),
    ("explained", "share of the variance"),
    ("learning_rate", "per step"),
    ("samples_per_second", "samples / s"),
    ("memory_gib", "GiB, this process"),
    ("device_memory_gib", "GiB, on the device"),
    ("evaluation_seconds", "s"),
];

/// Figures without noise, which are not smoothed.
const EXACT: [&str; 3] = ["learning_rate", "memory_gib", "device_memory_gib"];

/// The place of a figure on the page.
fn order(figure: &str) -> (usize, &str) {
    (FIGURES.iter().position(|(name, _)| *name == figure).unwrap_or(FIGURES.len()), figure)
}

fn unit(figure: &str) -> &'static str {
    FIGURES.iter().find(|(name, _)| *name == figure).map_or("", |(_, unit)| unit)
}

/// Everything that a run logged, by stage and figure.
#[derive(Debug, Clone, Default)]
pub struct Report {
    name: String,
    /// In the order in which they ran.
    stages: Vec<(String, BTreeMap<String, Curve>)>,
    grids: BTreeMap<String, Vec<PathBuf>>,
    config: Option<String>,
    unreadable: usize,
    watch: Watch,
}

impl Report {
    /// Reads `metrics.jsonl` and `grids/` of a run's folder. A line that cannot be read is counted and passed over.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] when there are no metrics.
    pub fn read(run: &Path) -> Result<Self, Error> {
        let path = metrics::path(run);
        let wrong = |reason: String| Error::from(dmd_data::Error::Data { path: path.clone(), reason });
        let mut report = Self { name: run.display().to_string(), ..Self::default() };
        let read = metrics::read(&path, |line, entry| match entry {
            Some(entry) => report.add(entry),
            // The last line of a run that was killed, or that is writing it, has no end.
            None => report.unreadable += usize::from(line.ends_with(b"\n") && line.trim_ascii() != b""),
        });
        read.map_err(|error| wrong(error.to_string()))?;
        if report.stages.is_empty() {
            return Err(wrong("nothing was logged yet".to_owned()));
        }
        report.stages.iter_mut().flat_map(|(_, figures)| figures.values_mut()).for_each(Curve::settle);
        report.config = fs::read_to_string(run.join("config.toml")).ok();
        for entry in fs::read_dir(run.join("grids")).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some((stage, _)) = name.strip_suffix(".png").and_then(|name| name.rsplit_once('-')) {
                report.grids.entry(stage.to_owned()).or_default().push(entry.path());
            }
        }
        report.grids.values_mut().for_each(|grids| grids.sort());
        Ok(report)
    }

    fn add(&mut self, metrics::Entry { stage, step, figures }: metrics::Entry) {
        let place = self.stages.iter().position(|(name, _)| *name == stage).unwrap_or_else(|| {
            self.stages.push((stage.clone(), BTreeMap::new()));
            self.stages.len() - 1
        });
        for (name, value) in figures {
            self.watch.see(&stage, step, &name, value);
            self.stages[place].1.entry(name).or_default().push(step, value);
        }
    }

    /// What was out of the range of a healthy run, in the order in which it first was.
    pub fn alarms(&self) -> &[Alarm] {
        self.watch.alarms()
    }

    /// How many lines of `metrics.jsonl` cannot be read.
    pub fn unreadable(&self) -> usize {
        self.unreadable
    }

    fn stage(&self, name: &str) -> Option<&BTreeMap<String, Curve>> {
        self.stages.iter().find(|(stage, _)| stage == name).map(|(_, figures)| figures)
    }
}

/// The page of runs side by side, each in a colour of its own; pictures are inside it.
///
/// # Errors
///
/// [`Error::Data`] when a grid cannot be read.
///
/// # Panics
///
/// Of more than [`RUNS`] runs.
pub fn page(runs: &[Report]) -> Result<String, Error> {
    assert!(runs.len() <= RUNS, "{} runs on a page of at most {RUNS}", runs.len());
    let title = runs.iter().map(|run| run.name.as_str()).collect::<Vec<_>>().join(", ");
    let mut page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
        <title>{0}</title><style>{STYLE}{1}</style><h1>{0}</h1>",
        escaped(&title),
        chart::STYLE,
    );
    for (place, run) in runs.iter().enumerate() {
        let stages = run.stages.iter().filter_map(|(name, figures)| {
            let last = figures.values().filter_map(|curve| curve.0.last()).map(|(step, _)| *step);
            Some(format!("{name} to step {}", last.reduce(f64::max)?))
        });
        let stages = stages.collect::<Vec<_>>().join(", ");
        add(&mut page, format_args!("<p>{} {}: {}</p>", swatch(place), escaped(&run.name), escaped(&stages)));
        if run.unreadable > 0 {
            let count = run.unreadable;
            add(
                &mut page,
                format_args!("<p class=alarm>lines of metrics.jsonl that cannot be read: {count}</p>"),
            );
        }
        for alarm in run.alarms() {
            add(
                &mut page,
                format_args!("<p class=alarm>{} {}</p>", swatch(place), escaped(&alarm.to_string())),
            );
        }
    }
    page.push_str(
        "<p class=note>Thin lines are the logged values. Thick lines are exponential means over a fiftieth of a curve's \
        values. Values that span two decades have a logarithmic axis. Green bands are the range of a healthy run.</p>",
    );
    let mut stages: Vec<&str> = Vec::new();
    for (stage, _) in runs.iter().flat_map(|run| &run.stages) {
        if !stages.contains(&stage.as_str()) {
            stages.push(stage);
        }
    }
    for stage in stages {
        add(&mut page, format_args!("<h2>{}</h2><div class=charts>", escaped(stage)));
        charts(&mut page, runs, stage);
        page.push_str("</div><div class=grids>");
        for (place, run) in runs.iter().enumerate() {
            let grids = run.grids.get(stage).map_or(&[][..], Vec::as_slice);
            for grid in spread(grids, GRIDS) {
                picture(&mut page, place, grid)?;
            }
        }
        page.push_str("</div>");
    }
    for (place, run) in runs.iter().enumerate() {
        if let Some(config) = &run.config {
            let (name, config) = (escaped(&run.name), escaped(config));
            add(
                &mut page,
                format_args!(
                    "<details><summary>{} configuration of {name}</summary><pre>{config}</pre></details>",
                    swatch(place)
                ),
            );
        }
    }
    page.push_str("</html>\n");
    Ok(page)
}

/// The plots of a stage, one for each figure that a run has.
fn charts(page: &mut String, runs: &[Report], stage: &str) {
    let figures = runs.iter().filter_map(|run| run.stage(stage)).flat_map(BTreeMap::keys);
    let mut figures: Vec<&str> = figures.map(String::as_str).filter(|name| *name != "seconds").collect();
    figures.sort_by_key(|name| order(name));
    figures.dedup();
    for figure in figures {
        let of = runs.iter().map(|run| run.stage(stage)?.get(figure));
        let curves: Vec<(usize, &Curve)> =
            of.enumerate().filter_map(|(place, curve)| Some((place, curve?))).collect();
        let smooth = !EXACT.contains(&figure);
        let chart = Chart { unit: unit(figure), curves: &curves, band: band(figure), smooth };
        let Some(svg) = chart.svg() else { continue };
        add(page, format_args!("<figure><b>{}</b>{svg}<figcaption>", escaped(figure)));
        for (place, curve) in &curves {
            let (Some((low, high)), Some(last)) = (curve.range(), curve.last()) else { continue };
            let (low, high, last) = (short(low), short(high), short(last));
            let name =
                if runs.len() > 1 { format!("{}: ", escaped(&runs[*place].name)) } else { String::new() };
            add(page, format_args!("{} {name}{last} at the end, {low} to {high}<br>", swatch(*place)));
        }
        page.push_str("</figcaption></figure>");
    }
}

/// A grid with its name.
fn picture(page: &mut String, place: usize, grid: &Path) -> Result<(), Error> {
    let bytes = fs::read(grid)
        .map_err(|error| dmd_data::Error::Data { path: grid.to_owned(), reason: error.to_string() })?;
    let name = escaped(&grid.file_stem().unwrap_or_default().to_string_lossy());
    let (swatch, bytes) = (swatch(place), BASE64_STANDARD.encode(bytes));
    add(
        page,
        format_args!(
            "<figure><img alt=\"{name}\" src=\"data:image/png;base64,{bytes}\"><figcaption>{swatch} {name}</figcaption></figure>"
        ),
    );
    Ok(())
}

const STYLE: &str = ":root{color-scheme:light dark;--ink:#333;--grid:#e4e4e4;--band:#e3f1e3;--page:#fff}\
@media(prefers-color-scheme:dark){:root{--ink:#ccc;--grid:#3a3a3a;--band:#203320;--page:#181818}}\
body{font:14px sans-serif;margin:2em;color:var(--ink);background:var(--page)}\
.charts,.grids{display:flex;flex-wrap:wrap;gap:1.2em;margin-top:1.2em}figure{margin:0;max-width:100%}figure svg{display:block;max-width:100%}\
figcaption{font-size:12px}img{max-width:32em;width:100%;image-rendering:pixelated}\
.alarm{color:#c33;font-weight:bold}.note{font-size:12px}i{display:inline-block;width:.8em;height:.8em;border-radius:2px}";

/// The colour of a run.
fn swatch(place: usize) -> String {
    let plotters::style::RGBColor(red, green, blue) = COLOURS[place];
    format!("<i style=\"background:#{red:02x}{green:02x}{blue:02x}\"></i>")
}

/// Writing to a string does not fail.
fn add(page: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = page.write_fmt(text);
}

/// At most `count` of a list, evenly, both ends among them.
fn spread(all: &[PathBuf], count: usize) -> Vec<&PathBuf> {
    let count = count.min(all.len());
    (0..count).map(|i| &all[i * (all.len() - 1) / (count.max(2) - 1)]).collect()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
