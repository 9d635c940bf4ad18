//! The distributions of times against their closed forms. Bounds follow from the number of draws: by Dvoretzky, Kiefer and
//! Wolfowitz the shares of n draws below any place are all within √(ln(2 / p) / 2n) of the true ones, but for a chance p.

use burn::tensor::Device;
use dmd_core::{Level, Noise, TimeDistribution, TimeSampler};

use super::numbers;

const DRAWS: usize = 20_000;
/// For p = 1e-9.
const BOUND: f64 = 0.0232;

/// Stable Diffusion's levels: √ᾱ and √(1 − ᾱ) of betas whose roots are equally spaced.
fn stable_diffusion() -> Vec<Level> {
    let root = |beta: f64| beta.sqrt();
    let mut product = 1.0;
    let level = |t: usize| {
        let beta = (root(0.00085) + t as f64 / 999.0 * (root(0.012) - root(0.00085))).powi(2);
        product *= 1.0 - beta;
        Level { t: t as f64, alpha: product.sqrt(), sigma: (1.0 - product).sqrt() }
    };
    (0..1000).map(level).collect()
}

/// EDM's 1000 levels of sigma from 0.002 to 80.
fn edm() -> Vec<Level> {
    let root = |sigma: f64| sigma.powf(1.0 / 7.0);
    let sigma = |i: usize| (root(0.002) + i as f64 / 999.0 * (root(80.0) - root(0.002))).powi(7);
    (0..1000).map(|i| Level::of_sigma(sigma(i))).collect()
}

fn draw(distribution: TimeDistribution, levels: &[Level], range: (usize, usize)) -> Vec<f64> {
    let times = distribution.among(levels, range.0..=range.1).unwrap();
    numbers(times.draw(DRAWS, &mut Noise::from_seed(5), &Device::flex()))
}

fn share_below(drawn: &[f64], place: f64) -> f64 {
    drawn.iter().filter(|t| **t < place).count() as f64 / drawn.len() as f64
}

#[test]
fn shifted_times_have_their_closed_form() {
    let levels = stable_diffusion();
    for shift in [1.0, 3.0, 0.5] {
        let distribution = TimeDistribution::Shifted { shift };
        // t' < x exactly where t < x / (shift − (shift − 1) x), and of a range the others are left out.
        let before = |x: f64| x / (shift - (shift - 1.0) * x);
        for (first, last) in [(0, 999), (20, 980), (700, 700)] {
            let drawn = draw(distribution, &levels, (first, last));
            let (low, high) = (before(first as f64 / 1000.0), before((last + 1) as f64 / 1000.0));
            for place in [first, 100, 250, 500, 750, 900, last + 1] {
                let place = place.clamp(first, last + 1) as f64;
                let expected = (before(place / 1000.0) - low) / (high - low);
                let found = share_below(&drawn, place);
                assert!((found - expected).abs() < BOUND, "{shift} {first} {place}: {found}, not {expected}");
            }
        }
        if shift != 1.0 {
            // The integral of s t / (1 + (s − 1) t); a mean of numbers in [0, 1] is within 5 / (2 √n) of it.
            let mean = shift / (shift - 1.0) - shift * shift.ln() / (shift - 1.0).powi(2);
            let drawn = draw(distribution, &levels, (0, 999));
            let found = drawn.iter().map(|t| (t + 0.5) / 1000.0).sum::<f64>() / DRAWS as f64;
            assert!((found - mean).abs() < 2.5 / (DRAWS as f64).sqrt(), "{shift}: {found}, not {mean}");
        }
    }
}

#[test]
fn log_normal_times_have_their_quantiles() {
    let (mean, std) = (-1.2, 1.2);
    let distribution = TimeDistribution::LogNormal { mean, std };
    // Places of the standard normal distribution and the shares below them.
    let table = [
        (-1.959_964, 0.025),
        (-1.281_552, 0.1),
        (0.0, 0.5),
        (0.674_490, 0.75),
        (1.644_854, 0.95),
        (3.090_232, 0.999),
    ];
    let levels = edm();
    let drawn = draw(distribution, &levels, (0, 999));
    // A level stands for half the distance to its neighbours: at most 0.014 in ln sigma, 0.005 of the share.
    for (place, expected) in table {
        let found = share_below(&drawn, (mean + std * place).exp());
        assert!((found - expected).abs() < BOUND + 0.005, "{place}: {found}, not {expected}");
    }
    let logs: Vec<f64> = drawn.iter().map(|sigma| sigma.ln()).collect();
    let average = logs.iter().sum::<f64>() / DRAWS as f64;
    let variance = logs.iter().map(|log| (log - average).powi(2)).sum::<f64>() / DRAWS as f64;
    // Five standard errors: std / √n of the mean, √(2 / n) std² of the variance.
    let root = (DRAWS as f64).sqrt();
    assert!((average - mean).abs() < 5.0 * std / root, "{average}");
    assert!((variance - std * std).abs() < 5.0 * 2.0_f64.sqrt() * std * std / root, "{variance}");
    // Of a range the rest is left out, and the ends have no more than their own share.
    let (first, last) = (300, 980);
    let of_range = draw(distribution, &levels, (first, last));
    let low = of_range.iter().filter(|sigma| (**sigma - levels[first].sigma).abs() < 1e-6).count();
    assert!(low as f64 / (DRAWS as f64) < BOUND, "{low}");
    let below = share_below(&drawn, levels[first].sigma);
    let expected = (0.75 - below) / (1.0 - below);
    let found = share_below(&of_range, (mean + std * 0.674_490).exp());
    assert!((found - expected).abs() < 4.0 * BOUND, "{found}, not {expected}");
}

#[test]
fn log_normal_timesteps_are_those_of_their_ratio() {
    let (mean, std) = (0.0, 1.0);
    let levels = stable_diffusion();
    let drawn = draw(TimeDistribution::LogNormal { mean, std }, &levels, (0, 999));
    // Stable Diffusion's sigma / alpha is 1.613 at t = 499 and 4.082 at 749: ln 0.4780 and 1.4065, normal shares 0.6837 and
    // 0.9202; its range ends at 0.0292 and 14.61, which leaves out 0.0002 and 0.0037.
    for (t, expected) in [(499.5, 0.6837), (749.5, 0.9202)] {
        let found = share_below(&drawn, t);
        assert!((found - expected).abs() < BOUND + 0.005, "{t}: {found}, not {expected}");
    }
}

#[test]
fn what_reaches_no_level_draws_nothing() {
    let far = TimeDistribution::LogNormal { mean: 40.0, std: 1.0 };
    assert_eq!(far.among(&edm(), 0..=999), None);
    // A level of noise alone is infinitely far; the others are drawn.
    let mut levels = stable_diffusion();
    levels[999] = Level { t: 999.0, alpha: 0.0, sigma: 1.0 };
    let drawn = draw(TimeDistribution::LogNormal { mean: 0.0, std: 1.0 }, &levels, (0, 999));
    assert!(drawn.iter().all(|t| *t < 999.0) && (share_below(&drawn, 499.5) - 0.6837).abs() < BOUND + 0.005);
    // The tail has its share, however small against the whole.
    let near = TimeDistribution::LogNormal { mean: -1.2, std: 1.2 };
    assert!(near.among(&edm(), 900..=999).is_some() && near.among(&edm(), 0..=50).is_some());
}

#[test]
fn uniform_shares_are_uniform_timesteps() {
    let drawn = draw(TimeDistribution::Uniform, &stable_diffusion(), (20, 980));
    for place in [20.0, 300.0, 500.0, 800.0, 981.0] {
        assert!((share_below(&drawn, place) - (place - 20.0) / 961.0).abs() < BOUND, "{place}");
    }
    // The same stream gives the same times.
    let again = draw(TimeDistribution::Uniform, &stable_diffusion(), (20, 980));
    assert_eq!(drawn, again);
    let times = TimeSampler::Timesteps(20..=980).draw(DRAWS, &mut Noise::from_seed(5), &Device::flex());
    let apart = numbers(times).iter().zip(&drawn).filter(|(a, b)| a != b).count();
    assert!(apart < 5, "{apart}"); // the two round a number near a border differently
}
