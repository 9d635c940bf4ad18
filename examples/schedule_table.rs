//! Noise schedules side by side: the signal's scale alpha, the noise's deviation sigma and their ratio at ten times.
//!
//! `cargo run --release --example schedule_table` prints a table for each schedule and writes `schedules.svg`: the
//! signal-to-noise ratio over time. Stable Diffusion's table keeps a rest of signal at its last time; with zero terminal
//! SNR it does not.

use anyhow::ensure;
use burn::tensor::{Tensor, TensorData};
use dmd::core::{NoiseLevel, NoiseSchedule};
use dmd::device;
use dmd::scheduler::{BetaSchedule, DiscreteSchedule, KarrasSchedule, SchedulerConfig};
use plotters::prelude::*;

/// Times of a curve; the table shows ten of them.
const TIMES: usize = 1000;

fn main() -> anyhow::Result<()> {
    let device = device::open("flex")?;
    let whole: Vec<f64> = (0..TIMES).map(|timestep| timestep as f64).collect();
    let karras = KarrasSchedule::default();
    let zero_snr = SchedulerConfig::stable_diffusion().with_option("prediction_type", "v_prediction")?;
    let zero_snr =
        zero_snr.with_option("rescale_betas_zero_snr", true)?.with_option("_class_name", "DDIMScheduler")?;
    let table = |beta, start, end| Box::new(DiscreteSchedule::new(beta, start, end, TIMES));
    let schedules: [(&str, Box<dyn NoiseSchedule>, Vec<f64>); 5] = [
        ("DDPM, linear", table(BetaSchedule::Linear, 1e-4, 0.02), whole.clone()),
        ("DDPM, cosine", table(BetaSchedule::SquaredCosine, 0.0, 0.0), whole.clone()),
        ("Stable Diffusion", table(BetaSchedule::ScaledLinear, 0.00085, 0.012), whole.clone()),
        ("the same, zero terminal SNR", Box::new(zero_snr.schedule()), whole),
        ("EDM (Karras)", Box::new(karras), karras.sigmas(TIMES)),
    ];

    let mut curves = Vec::new();
    for (name, schedule, times) in &schedules {
        let t = times.iter().map(|t| *t as f32).collect();
        let level = schedule.level(Tensor::from_data(TensorData::new(t, [TIMES]), &device));
        let [t, alpha, sigma, snr] = columns(&level);
        println!("{name}\n  {:>9} {:>9} {:>9} {:>11}", "t", "alpha", "sigma", "SNR");
        for row in (0..10).map(|row| row * (TIMES - 1) / 9) {
            println!("  {:9.3} {:9.5} {:9.4} {:11.3e}", t[row], alpha[row], sigma[row], snr[row]);
        }
        // More time is more noise, whatever the schedule.
        ensure!(snr.windows(2).all(|pair| pair[1] < pair[0]), "the signal-to-noise ratio of {name} rises");
        curves.push((*name, snr));
    }

    let root = SVGBackend::new("schedules.svg", (760, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(56)
        .build_cartesian_2d(0.0..1.0, -5.0..6.0)?;
    let (time, ratio) = ("time, from the least noise (0) to the most (1)", "log10 of alpha² / sigma²");
    chart.configure_mesh().light_line_style(TRANSPARENT).x_desc(time).y_desc(ratio).draw()?;
    let colours = [(31, 119, 180), (44, 160, 44), (214, 39, 40), (255, 127, 14), (0, 0, 0)];
    let colours = colours.map(|(red, green, blue)| RGBColor(red, green, blue));
    for ((name, snr), colour) in curves.iter().zip(colours) {
        // A level without signal has no logarithm.
        let points = snr.iter().enumerate().filter(|(_, snr)| **snr > 1e-5);
        let points = points.map(|(i, snr)| (i as f64 / (TIMES - 1) as f64, snr.log10())).step_by(5);
        let line = LineSeries::new(points, colour.stroke_width(2));
        let key = move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2));
        chart.draw_series(line)?.label(*name).legend(key);
    }
    let corner = SeriesLabelPosition::LowerLeft;
    chart.configure_series_labels().position(corner).border_style(BLACK.mix(0.3)).draw()?;
    root.present()?;
    println!("wrote schedules.svg");
    Ok(())
}

/// Time, alpha, sigma and signal-to-noise ratio of each level.
fn columns(level: &NoiseLevel) -> [Vec<f64>; 4] {
    let columns = [level.t.clone(), level.alpha.clone(), level.sigma.clone(), level.snr()];
    columns.map(|column| column.into_data().iter::<f64>().collect())
}
