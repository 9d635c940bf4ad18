//! What an experiment learns, and how its samples are judged.

use std::fmt::Debug;

use burn::tensor::{Device, Tensor, TensorData};
use dmd_core::{Classes, GaussianMixture, Noise, one_hot};

/// Samples with their classes.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `[batch, channels, height, width]`.
    pub x0: Tensor<4>,
    /// Their classes.
    pub classes: Classes,
}

/// One measured number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// What it is: a table's column.
    pub name: &'static str,
    /// Its value.
    pub value: f64,
}

/// A data set with a judge.
pub trait Data: Debug {
    /// Shape of a sample, `[channels, height, width]`.
    fn shape(&self) -> [usize; 3];

    /// Number of classes; 0 for none.
    fn classes(&self) -> usize {
        0
    }

    /// Fresh samples with their classes.
    fn draw(&self, count: usize, noise: &mut Noise, device: &Device) -> Batch;

    /// Real samples that were not trained on.
    fn fresh(&self, count: usize, device: &Device) -> Batch {
        self.draw(count, &mut Noise::from_seed(6), device)
    }

    /// How good samples are.
    fn judge(&self, samples: &Batch) -> Vec<Figure>;

    /// Classes as a generator is asked for them, every one equally often.
    fn draw_classes(&self, count: usize, noise: &mut Noise, device: &Device) -> Classes {
        let classes = self.classes();
        (classes > 0).then(|| one_hot(&noise.integers(0..=classes - 1, count), classes, device))
    }
}

/// The largest entry's place in each row.
pub(crate) fn indices(rows: &Tensor<2>) -> Vec<usize> {
    let [_, width] = rows.dims();
    let values: Vec<f64> = rows.clone().into_data().iter::<f64>().collect();
    let largest = |row: &[f64]| {
        let entries = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        entries.map_or(0, |(place, _)| place)
    };
    values.chunks_exact(width).map(largest).collect()
}

/// Gaussian modes, all as likely, or with a preference per class.
#[derive(Debug, Clone)]
pub struct Modes {
    mixture: GaussianMixture,
    /// How near to a mode a sample is sharp, the root of the mean square over coordinates.
    sharp: f64,
    /// Per class, the share of every mode.
    preferences: Vec<Vec<f64>>,
}

impl Modes {
    fn new(means: &[Vec<f64>], std: f64, sharp: f64) -> Self {
        let components: Vec<(f64, &[f64], f64)> = means.iter().map(|mean| (1.0, &mean[..], std)).collect();
        Self { mixture: GaussianMixture::new(&components), sharp, preferences: Vec::new() }
    }

    /// Eight modes of deviation 0.05 on a circle of radius 0.7071; sharp is within 4 deviations.
    pub fn ring() -> Self {
        let place = |i: usize| {
            let angle = std::f64::consts::TAU * i as f64 / 8.0;
            vec![0.5_f64.sqrt() * angle.cos(), 0.5_f64.sqrt() * angle.sin()]
        };
        let means: Vec<Vec<f64>> = (0..8).map(place).collect();
        Self::new(&means, 0.05, 4.0 * 0.05 / 2.0_f64.sqrt())
    }

    /// Pictures of 8×8 with one bright row or column (1 on −0.5) and pixel noise of a deviation: sixteen
    /// modes; sharp is within 0.15.
    pub fn bars(std: f64) -> Self {
        let bar = |i: usize| {
            let on = |pixel: usize| if i < 8 { pixel / 8 == i } else { pixel % 8 == i - 8 };
            (0..64).map(|pixel| if on(pixel) { 1.0 } else { -0.5 }).collect()
        };
        let means: Vec<Vec<f64>> = (0..16).map(bar).collect();
        Self::new(&means, std, 0.15)
    }

    /// [`Self::bars`] of two classes that share all modes: the first prefers the first modes, the second the
    /// last, each mode `e^(1/4)` times as likely as its neighbour.
    pub fn preferred_bars() -> Self {
        let shares = |order: &dyn Fn(usize) -> usize| {
            let raw: Vec<f64> = (0..16).map(|mode| (-(order(mode) as f64) / 4.0).exp()).collect();
            let total: f64 = raw.iter().sum();
            raw.iter().map(|share| share / total).collect()
        };
        Self { preferences: vec![shares(&|mode| mode), shares(&|mode| 15 - mode)], ..Self::bars(0.05) }
    }

    /// Points as rows.
    fn rows(&self, x0: &Tensor<4>) -> Vec<Vec<f64>> {
        let values: Vec<f64> = x0.clone().into_data().iter::<f64>().collect();
        values.chunks_exact(self.mixture.dim()).map(<[f64]>::to_vec).collect()
    }

    /// The nearest mode of a point, and how far it is.
    fn nearest(&self, point: &[f64]) -> (usize, f64) {
        let apart = self.mixture.means().iter().map(|mode| distance(point, mode)).enumerate();
        let (mode, apart) = apart.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, f64::INFINITY));
        (mode, apart / (point.len() as f64).sqrt())
    }
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
}

/// Mean distance between the points of two sets, the first thousand of each.
fn mean_distance(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    let (a, b) = (&a[..a.len().min(1000)], &b[..b.len().min(1000)]);
    let sum: f64 = a.iter().map(|p| b.iter().map(|q| distance(p, q)).sum::<f64>()).sum();
    sum / (a.len() * b.len()) as f64
}

/// `Σ p ln (p / q)` of counts against shares; an empty mode adds nothing.
fn divergence(counts: &[usize], shares: &[f64]) -> f64 {
    let total: usize = counts.iter().sum();
    let term = |(count, share): (&usize, &f64)| match *count as f64 / total as f64 {
        0.0 => 0.0,
        p => p * (p / share).ln(),
    };
    counts.iter().zip(shares).map(term).sum()
}

impl Data for Modes {
    fn shape(&self) -> [usize; 3] {
        [self.mixture.dim(), 1, 1]
    }

    fn classes(&self) -> usize {
        self.preferences.len()
    }

    fn draw(&self, count: usize, noise: &mut Noise, device: &Device) -> Batch {
        if self.preferences.is_empty() {
            return Batch { x0: self.mixture.sample(count, noise, device), classes: None };
        }
        let (dim, std) = (self.mixture.dim(), self.mixture.stds()[0]);
        let mut values = Vec::with_capacity(count * dim);
        let picked = noise.integers(0..=self.preferences.len() - 1, count);
        for class in &picked {
            let mut u = noise.uniform(0.0..=1.0, 1)[0];
            let shares = &self.preferences[*class];
            let mut mode = 0;
            while mode + 1 < shares.len() && u > shares[mode] {
                u -= shares[mode];
                mode += 1;
            }
            let point = self.mixture.means()[mode].iter().zip(noise.normals(dim));
            values.extend(point.map(|(mean, n)| (mean + std * n) as f32));
        }
        Batch {
            x0: Tensor::from_data(TensorData::new(values, [count, dim, 1, 1]), device),
            classes: Some(one_hot(&picked, self.preferences.len(), device)),
        }
    }

    /// - *modes*: modes with at least a tenth of an even share
    /// - *sharp*: share of samples near a mode
    /// - *off*: mean distance to the nearest mode, per coordinate
    /// - *uneven*: divergence of the modes' shares from the data's (of one class for its own samples)
    /// - *energy*: energy distance to fresh data, times 1000 (without classes)
    /// - *right class*: probability of the asked class at the sample's mode (with classes)
    /// - *variety*: `e` to the entropy of the modes of one class's samples (with classes)
    fn judge(&self, samples: &Batch) -> Vec<Figure> {
        let rows = self.rows(&samples.x0);
        let found: Vec<(usize, f64)> = rows.iter().map(|row| self.nearest(row)).collect();
        let modes = self.mixture.means().len();
        let mut counts = vec![0_usize; modes];
        let mut near = vec![0_usize; modes];
        for (mode, off) in &found {
            counts[*mode] += 1;
            near[*mode] += usize::from(*off < self.sharp);
        }
        let n = rows.len() as f64;
        let enough = rows.len() / modes / 10;
        let figure = |name, value| Figure { name, value };
        let mut figures = vec![
            figure("modes", near.iter().filter(|count| **count >= enough).count() as f64),
            figure("sharp", near.iter().sum::<usize>() as f64 / n),
            figure("off", found.iter().map(|(_, off)| off).sum::<f64>() / n),
        ];
        let Some(classes) = &samples.classes else {
            let device = samples.x0.device();
            let real = self.rows(&self.mixture.sample(rows.len(), &mut Noise::from_seed(77), &device));
            let apart = 2.0 * mean_distance(&rows, &real) - mean_distance(&rows, &rows);
            figures.push(figure("uneven", divergence(&counts, self.mixture.weights())));
            figures.push(figure("energy", 1e3 * (apart - mean_distance(&real, &real))));
            return figures;
        };
        let asked = indices(classes);
        let right = asked.iter().zip(&found).map(|(class, (mode, _))| {
            let all: f64 = self.preferences.iter().map(|shares| shares[*mode]).sum();
            self.preferences[*class][*mode] / all
        });
        figures.push(figure("right class", right.sum::<f64>() / n));
        let variety = (0..self.preferences.len()).map(|class| {
            let mut counts = vec![0_usize; modes];
            for (_, (mode, _)) in asked.iter().zip(&found).filter(|(asked, _)| **asked == class) {
                counts[*mode] += 1;
            }
            (-divergence(&counts, &vec![1.0; modes])).exp()
        });
        figures.push(figure("variety", variety.sum::<f64>() / self.preferences.len() as f64));
        figures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data judges itself well; a blurred and a one-sided copy are found out.
    #[test]
    fn the_judge_knows_data_blur_and_missing_modes() {
        let device = Device::flex();
        let bars = Modes::bars(0.05);
        let value = |batch: &Batch, name: &str| {
            bars.judge(batch)
                .into_iter()
                .find(|figure| figure.name == name)
                .expect("a figure of that name")
                .value
        };
        let real = bars.draw(2000, &mut Noise::from_seed(1), &device);
        assert_eq!((value(&real, "modes"), value(&real, "sharp")), (16.0, 1.0));
        assert!((value(&real, "off") - 0.05).abs() < 2e-3 && value(&real, "uneven") < 0.02);
        let blurred = Batch { x0: real.x0.clone() * 0.5 - 0.2, classes: None };
        assert_eq!(value(&blurred, "sharp"), 0.0);
        let one = Batch { x0: real.x0.clone().narrow(0, 0, 1).expand([2000, 64, 1, 1]), classes: None };
        assert_eq!((value(&one, "modes"), value(&one, "sharp")), (1.0, 1.0));
        assert!((value(&one, "uneven") - 16.0_f64.ln()).abs() < 1e-9);
        assert!(value(&one, "energy") > 100.0 * value(&real, "energy").abs());
    }

    #[test]
    fn classes_prefer_their_modes() {
        let device = Device::flex();
        let bars = Modes::preferred_bars();
        let figures = bars.judge(&bars.draw(4000, &mut Noise::from_seed(1), &device));
        let value = |name: &str| {
            figures.iter().find(|figure| figure.name == name).expect("a figure of that name").value
        };
        // Exact: Σ_m p(m|c) p(c|m), and e^H of a geometric preference over 16 modes.
        let shares = &bars.preferences[0];
        let right: f64 = (0..16).map(|m| shares[m] * shares[m] / (shares[m] + shares[15 - m])).sum();
        let variety = (-shares.iter().map(|p| p * p.ln()).sum::<f64>()).exp();
        assert!((value("right class") - right).abs() < 0.02, "{} and {right}", value("right class"));
        assert!((value("variety") - variety).abs() < 0.2, "{} and {variety}", value("variety"));
    }
}
