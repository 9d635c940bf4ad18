//! A run as one HTML page that opens in any browser: curves of everything it logged, and its grids.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::Error;

/// Grids of a stage on the page: the first, the last, and evenly between.
const GRIDS: usize = 6;
/// Size of a chart, in its own units.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 160.0;

/// Where a figure is healthy. The brightness of generated samples is DMD2's own health figure: latents
/// have about unit variance, so a mean beyond 0.5 or a deviation off by a factor of 2 means wrong
/// colours or contrast.
const BANDS: [(&str, f64, f64); 2] = [("sample_mean", -0.5, 0.5), ("sample_deviation", 0.5, 2.0)];

/// Whether a figure is in its band, or has none.
pub(crate) fn healthy(figure: &str, value: f64) -> bool {
    BANDS.iter().all(|(name, low, high)| *name != figure || (*low..=*high).contains(&value))
}

/// One figure over the steps of a stage.
type Curve = Vec<(f64, f64)>;

/// A figure outside its band.
#[derive(Debug, Clone, PartialEq)]
pub struct Alarm {
    /// The stage and the figure.
    pub figure: String,
    /// The step.
    pub step: u64,
    /// The value.
    pub value: f64,
}

/// Everything that a run logged, by stage and figure.
#[derive(Debug, Clone, Default)]
pub struct Report {
    stages: BTreeMap<String, BTreeMap<String, Curve>>,
    grids: BTreeMap<String, Vec<PathBuf>>,
    config: Option<String>,
}

impl Report {
    /// Reads `metrics.jsonl` and `grids/` of a run's folder.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] when there are no metrics, or a line is not what a run writes.
    pub fn read(run: &Path) -> Result<Self, Error> {
        let path = run.join("metrics.jsonl");
        let wrong = |reason: String| Error::from(dmd_data::Error::Data { path: path.clone(), reason });
        let text = fs::read_to_string(&path).map_err(|error| wrong(error.to_string()))?;
        let mut report = Self::default();
        for (number, line) in text.lines().enumerate() {
            let at = |reason: &str| wrong(format!("line {}: {reason}", number + 1));
            let line: Value = match serde_json::from_str(line) {
                Ok(line) => line,
                // The last line of a run that was killed, or that is writing it.
                Err(_) if !text.ends_with('\n') && number + 1 == text.lines().count() => break,
                Err(error) => return Err(at(&error.to_string())),
            };
            let object = line.as_object().ok_or_else(|| at("no object"))?;
            let stage = line["stage"].as_str().ok_or_else(|| at("no stage"))?;
            let step = line["step"].as_f64().ok_or_else(|| at("no step"))?;
            let stage = report.stages.entry(stage.to_owned()).or_default();
            for (name, value) in object {
                let known = ["stage", "step"].contains(&name.as_str());
                if let Some(value) = value.as_f64().filter(|_| !known) {
                    stage.entry(name.clone()).or_default().push((step, value));
                }
            }
        }
        if report.stages.is_empty() {
            return Err(wrong("nothing was logged yet".to_owned()));
        }
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

    /// The last value of each figure that is outside its band.
    pub fn alarms(&self) -> Vec<Alarm> {
        let mut alarms = Vec::new();
        for (stage, figures) in &self.stages {
            for (name, low, high) in BANDS {
                let last = figures.get(name).and_then(|curve| curve.last());
                if let Some((step, value)) = last.filter(|(_, value)| !(low..=high).contains(value)) {
                    alarms.push(Alarm {
                        figure: format!("{stage}: {name}"),
                        step: *step as u64,
                        value: *value,
                    });
                }
            }
        }
        alarms
    }

    /// The page; pictures are inside it.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] when a grid cannot be read.
    pub fn html(&self, title: &str) -> Result<String, Error> {
        let mut page = format!(
            "<!doctype html><html lang=en><meta charset=utf-8><title>{0}</title><style>{STYLE}</style><h1>{0}</h1>",
            escaped(title)
        );
        for alarm in self.alarms() {
            let Alarm { figure, step, value } = alarm;
            add(
                &mut page,
                format_args!(
                    "<p class=alarm>{} is {value:.3} at step {step}, outside its band</p>",
                    escaped(&figure)
                ),
            );
        }
        for (stage, figures) in &self.stages {
            add(&mut page, format_args!("<h2>{}</h2><div class=charts>", escaped(stage)));
            for (name, curve) in figures.iter().filter(|(name, _)| *name != "seconds") {
                page.push_str(&chart(name, curve));
            }
            page.push_str("</div><div class=grids>");
            let grids = self.grids.get(stage).map_or(&[][..], Vec::as_slice);
            for grid in spread(grids, GRIDS) {
                let bytes = fs::read(grid).map_err(|error| dmd_data::Error::Data {
                    path: grid.clone(),
                    reason: error.to_string(),
                })?;
                let name = grid.file_stem().unwrap_or_default().to_string_lossy();
                add(
                    &mut page,
                    format_args!(
                        "<figure><img alt=\"{0}\" src=\"data:image/png;base64,{1}\"><figcaption>{0}</figcaption></figure>",
                        escaped(&name),
                        BASE64_STANDARD.encode(bytes)
                    ),
                );
            }
            page.push_str("</div>");
        }
        if let Some(config) = &self.config {
            add(&mut page, format_args!("<h2>configuration</h2><pre>{}</pre>", escaped(config)));
        }
        page.push_str("</html>\n");
        Ok(page)
    }
}

const STYLE: &str = "body{font:14px sans-serif;margin:2em;color:#222}.charts,.grids{display:flex;flex-wrap:wrap;gap:1em}\
svg{background:#f7f7f7}figure{margin:0}img{max-width:32em;image-rendering:pixelated}.alarm{color:#b00;font-weight:bold}";

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

/// A line chart with its range, and the band where the figure has one.
fn chart(name: &str, curve: &Curve) -> String {
    let finite = || curve.iter().filter(|(_, value)| value.is_finite());
    let (mut low, mut high) =
        finite().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), (_, v)| (l.min(*v), h.max(*v)));
    if low > high {
        return String::new();
    }
    let last = curve.last().map_or(0.0, |(_, value)| *value);
    let caption = format!("{name}: {last:.4} at the end, {low:.4} to {high:.4}");
    if high - low < 1e-12 {
        (low, high) = (low - 0.5, high + 0.5);
    }
    let (first_step, last_step) = (curve[0].0, curve[curve.len() - 1].0.max(curve[0].0 + 1.0));
    let x = |step: f64| (step - first_step) / (last_step - first_step) * WIDTH;
    let y = |value: f64| HEIGHT - (value - low) / (high - low) * HEIGHT;
    let points: Vec<String> = finite().map(|(s, v)| format!("{:.1},{:.1}", x(*s), y(*v))).collect();
    let band = BANDS.iter().find(|(figure, ..)| *figure == name).map_or(String::new(), |(_, from, to)| {
        let (top, bottom) = (y(*to).clamp(0.0, HEIGHT), y(*from).clamp(0.0, HEIGHT));
        format!("<rect x=0 y={top:.1} width={WIDTH} height={:.1} fill=\"#dfd\"/>", bottom - top)
    });
    format!(
        "<figure><svg viewBox=\"-4 -4 {} {}\" width={WIDTH} height={HEIGHT}>{band}<polyline fill=none stroke=\"#26c\" stroke-width=1.5 points=\"{}\"/></svg><figcaption>{}</figcaption></figure>",
        WIDTH + 8.0,
        HEIGHT + 8.0,
        points.join(" "),
        escaped(&caption)
    )
}
