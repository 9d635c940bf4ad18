//! Whether the generator is better than its teacher, measure by measure.

use dmd_eval::frechet::{Moments, ratio_error};
use dmd_eval::manifold::recall;
use dmd_eval::paired::{FEWEST, Verdict, jackknife, mean_difference};
use serde_json::json;

use super::{COMPARED, Measured, Measures, NEIGHBOURS};
use crate::console::{note, say};

/// A measure of two sets of pictures of the same prompts and noises.
struct Compared {
    what: &'static str,
    /// What is printed, and its standard error in the same unit.
    value: f64,
    error: f64,
    /// What is counted for better: the same number, or its distance from 1 downwards.
    advantage: f64,
}

impl Measures<'_> {
    /// Prints a line for each measure.
    pub(super) fn compare(&self, student: &Measured, teacher: &Measured) {
        let count = student.features.len();
        if count < FEWEST {
            note!("{count} prompts are too few to compare generator and teacher; {FEWEST} are needed");
            return;
        }
        if !self.json {
            say!("generator against teacher, with standard errors:");
        }
        for Compared { what, value, error, advantage } in self.compared(student, teacher) {
            let verdict = Verdict::of(advantage, error);
            if self.json {
                let verdict = verdict.map(|verdict| verdict.to_string());
                say!(
                    "{}",
                    json!({"compared": what, "value": value, "standard_error": error, "verdict": verdict})
                );
                continue;
            }
            let verdict = verdict.map_or("no verdict".to_owned(), |verdict| verdict.to_string());
            say!("{what:38} {value:>9.4} ± {error:<8.4} {verdict}");
        }
    }

    fn compared(&self, student: &Measured, teacher: &Measured) -> Vec<Compared> {
        let (few, many) = (&student.features, &teacher.features);
        let mut all = Vec::new();
        let distance = |rows: &[Vec<f64>]| self.real.moments.distance(&Moments::of(rows));
        if let Some(error) = ratio_error(&self.real.moments, few, many) {
            let value = distance(few) / distance(many);
            all.push(Compared { what: "Fréchet distance, ratio", value, error, advantage: 1.0 - value });
        }
        let (few, many) = (&few[..few.len().min(COMPARED)], &many[..many.len().min(COMPARED)]);
        let kernel = |a: &[Vec<f64>], b: &[Vec<f64>]| self.kernel.distance(a) - self.kernel.distance(b);
        if let Some(error) = jackknife(few, many, kernel) {
            let value = kernel(few, many);
            all.push(Compared { what: "kernel distance, difference", value, error, advantage: -value });
        }
        let mut mean = |what, first: &[f64], second: &[f64]| {
            if let Some((value, error)) = mean_difference(first, second) {
                all.push(Compared { what, value, error, advantage: value });
            }
        };
        if let Some(manifold) = &self.manifold {
            let on = |rows: &[Vec<f64>]| manifold.on(rows).into_iter().map(share).collect::<Vec<_>>();
            mean("precision, difference", &on(few), &on(many));
        }
        mean("prompts right, difference", &student.right, &teacher.right);
        mean("retrieval, top 1, difference", &student.within(1), &teacher.within(1));
        mean("retrieval, top 5, difference", &student.within(5), &teacher.within(5));
        mean("CLIP score, difference", &student.cosines, &teacher.cosines);
        let real = &self.real.compared;
        let recalls =
            |a: &[Vec<f64>], b: &[Vec<f64>]| recall(real, a, NEIGHBOURS) - recall(real, b, NEIGHBOURS);
        // A tenth is left out.
        if self.manifold.is_some()
            && few.len() * 9 / 10 > NEIGHBOURS
            && let Some(error) = jackknife(few, many, recalls)
        {
            let value = recalls(few, many);
            all.push(Compared { what: "recall, difference", value, error, advantage: value });
        }
        all
    }
}

/// 1 for yes, 0 for no.
pub(super) fn share(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}
