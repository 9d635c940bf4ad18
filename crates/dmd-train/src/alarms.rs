//! Signs that a run is not healthy, each a rule with a number and its reason.

use std::collections::{HashMap, VecDeque};
use std::fmt;

/// A figure that left the range of a healthy run.
#[derive(Debug, Clone, PartialEq)]
pub struct Alarm {
    /// The stage.
    pub stage: String,
    /// The figure, by its name in `metrics.jsonl`.
    pub figure: String,
    /// The step at which it left the range.
    pub step: u64,
    /// Its value then.
    pub value: f64,
    /// What is wrong, and what it means.
    pub reason: String,
    /// The last step at which it was out of the range, as far as is known.
    pub last_step: u64,
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stage, figure, step, value, reason, last_step } = self;
        write!(f, "{stage}: {figure} is {value:.4} at step {step}: {reason}")?;
        if last_step > step { write!(f, " (last at step {last_step})") } else { Ok(()) }
    }
}

/// Values whose median stands for the present.
const RECENT: usize = 5;
/// Values before them, whose median stands for the past: at most so many,
const PAST: usize = 100;
/// and at least so many.
const ENOUGH: usize = 20;
/// Values of the critic's loss that are looked at together, after so many in all.
const CRITIC: usize = 50;
const CRITIC_AFTER: u64 = 200;
/// Evaluations in a row that are worse than the best one.
const WORSE: usize = 3;

#[derive(Debug, Clone, Copy)]
enum Rule {
    /// Outside a band.
    Outside(f64, f64),
    /// The present median is above the past one, times a factor.
    Above(f64),
    /// The present median is below the past one, times a factor.
    Below(f64),
    /// The median stays above a number.
    Stays(f64),
    /// Evaluations in a row exceed the lowest one by more than a share of it.
    WorseThanLowest(f64),
    /// Evaluations in a row are below the highest one by more than a number.
    WorseThanHighest(f64),
}

/// Figures, their rules, and the rules' reasons. `docs/src/watching.md` has the same table for users.
const RULES: [(&str, Rule, &str); 12] = [
    // Latents have about unit variance. Brightness is the figure that DMD2's own training logs.
    ("sample_mean", Rule::Outside(-0.5, 0.5), "beyond ±0.5 the pictures' colours are wrong"),
    ("sample_deviation", Rule::Outside(0.5, 2.0), "outside 0.5 to 2 the pictures' contrast is wrong"),
    ("sample_deviation", Rule::Below(0.5), "it fell to half of what it was: the samples become alike"),
    // Clipping hides how long a gradient is. Medians pass over a single spike.
    ("gradient_norm", Rule::Above(10.0), "ten times what it was: the training is about to diverge"),
    ("fake_gradient_norm", Rule::Above(10.0), "ten times what it was: the fake score is about to diverge"),
    // softplus(−10) = 5e-5. f-distill takes logits beyond ±10 for ±10.
    ("logit_real", Rule::Outside(-10.0, 10.0), "beyond ±10 the critic is certain and learns nothing more"),
    (
        "logit_generated",
        Rule::Outside(-10.0, 10.0),
        "beyond ±10 the critic is certain and learns nothing more",
    ),
    // Logits that are 0.02 apart give 2 ln 2 − 0.01.
    (
        "critic",
        Rule::Stays(1.376),
        "it stays at 2 ln 2: the critic tells real and generated samples not apart",
    ),
    // More than the standard error of a distance of 400 pictures, 6 to 8 %.
    ("frechet_random_conv", Rule::WorseThanLowest(0.1), WORSE_THAN_BEST),
    ("frechet_inception", Rule::WorseThanLowest(0.1), WORSE_THAN_BEST),
    // Standard errors of 400 prompts: up to 0.025 of a share, about 0.002 of a mean cosine.
    ("accuracy", Rule::WorseThanHighest(0.05), WORSE_THAN_BEST),
    ("clip_score", Rule::WorseThanHighest(0.01), WORSE_THAN_BEST),
];

const WORSE_THAN_BEST: &str = "three evaluations in a row are worse than the best";

/// Whether a healthy figure stays in a band: its ends.
pub(crate) fn band(figure: &str) -> Option<(f64, f64)> {
    RULES.iter().find_map(|(name, rule, _)| match rule {
        Rule::Outside(low, high) if *name == figure => Some((*low, *high)),
        _ => None,
    })
}

/// What a rule remembers of a figure.
#[derive(Debug, Clone, Default)]
struct Track {
    /// The last values.
    values: VecDeque<f64>,
    seen: u64,
    /// The best value and its step.
    best: Option<(f64, u64)>,
    worse: usize,
    /// The alarm's place among all.
    rung: Option<usize>,
}

/// Looks at figures in the order of their steps.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch {
    tracks: HashMap<(String, usize), Track>,
    alarms: Vec<Alarm>,
}

impl Watch {
    /// Takes a figure in; the alarms that it is the first to give rise to.
    pub(crate) fn see(&mut self, stage: &str, step: u64, figure: &str, value: f64) -> Vec<Alarm> {
        let mut fresh = Vec::new();
        for (place, (_, rule, reason)) in RULES.iter().enumerate().filter(|(_, rule)| rule.0 == figure) {
            let track = self.tracks.entry((stage.to_owned(), place)).or_default();
            if !track.rings(*rule, step, value) {
                continue;
            }
            if let Some(rung) = track.rung {
                self.alarms[rung].last_step = step;
                continue;
            }
            let mut reason = (*reason).to_owned();
            if let Some((best, at)) = track.best {
                reason = format!("{reason}, {best:.4} at step {at}");
            }
            track.rung = Some(self.alarms.len());
            let (stage, figure) = (stage.to_owned(), figure.to_owned());
            fresh.push(Alarm { stage, figure, step, value, reason, last_step: step });
            self.alarms.extend(fresh.last().cloned());
        }
        fresh
    }

    /// All alarms so far, in the order in which they rang.
    pub(crate) fn alarms(&self) -> &[Alarm] {
        &self.alarms
    }
}

impl Track {
    fn rings(&mut self, rule: Rule, step: u64, value: f64) -> bool {
        if !value.is_finite() {
            return false; // a loss that is not finite ends the run
        }
        self.seen += 1;
        match rule {
            Rule::Outside(low, high) => !(low..=high).contains(&value),
            Rule::Above(times) => self.medians(value).is_some_and(|(past, present)| present > times * past),
            Rule::Below(times) => self.medians(value).is_some_and(|(past, present)| present < times * past),
            Rule::Stays(above) => {
                self.keep(value, CRITIC);
                self.seen >= CRITIC_AFTER && median(self.values.iter()) > above
            }
            Rule::WorseThanLowest(share) => {
                self.worse(step, value, |best| best * (1.0 + share) < value, -1.0)
            }
            Rule::WorseThanHighest(by) => self.worse(step, value, |best| best - by > value, 1.0),
        }
    }

    fn keep(&mut self, value: f64, count: usize) {
        self.values.push_back(value);
        while self.values.len() > count {
            self.values.pop_front();
        }
    }

    /// The medians of the past and of the present.
    fn medians(&mut self, value: f64) -> Option<(f64, f64)> {
        self.keep(value, PAST + RECENT);
        let past = self.values.len().checked_sub(RECENT).filter(|past| *past >= ENOUGH)?;
        Some((median(self.values.iter().take(past)), median(self.values.iter().skip(past))))
    }

    /// Whether enough evaluations in a row are worse than the best one. The best has the largest value times `sign`.
    fn worse(&mut self, step: u64, value: f64, is_worse: impl Fn(f64) -> bool, sign: f64) -> bool {
        self.worse = if self.best.is_some_and(|(best, _)| is_worse(best)) { self.worse + 1 } else { 0 };
        if self.best.is_none_or(|(best, _)| sign * value > sign * best) {
            self.best = Some((value, step));
        }
        self.worse >= WORSE
    }
}

fn median<'a>(values: impl Iterator<Item = &'a f64>) -> f64 {
    let mut values: Vec<f64> = values.copied().collect();
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The steps at which a figure's values ring, from step 1 on.
    fn ringing(figure: &str, values: impl IntoIterator<Item = f64>) -> Vec<Alarm> {
        let mut watch = Watch::default();
        let mut fresh = Vec::new();
        for (step, value) in (1..).zip(values) {
            fresh.extend(watch.see("stage", step, figure, value));
        }
        assert_eq!(fresh.len(), watch.alarms().len());
        assert!(fresh.iter().zip(watch.alarms()).all(|(a, b)| (a.step, &a.reason) == (b.step, &b.reason)));
        watch.alarms().to_vec()
    }

    fn steps(alarms: &[Alarm]) -> Vec<(u64, u64)> {
        alarms.iter().map(|alarm| (alarm.step, alarm.last_step)).collect()
    }

    /// An alarm rings once, at the first value outside the band, and knows the last one.
    #[test]
    fn a_band_rings_once() {
        let alarms = ringing("sample_mean", [0.1, 0.5, -0.6, 0.0, 0.51, 0.2, f64::NAN]);
        assert_eq!(steps(&alarms), [(3, 5)]);
        let sentence = alarms[0].to_string();
        assert_eq!(
            sentence,
            "stage: sample_mean is -0.6000 at step 3: beyond ±0.5 the pictures' colours are wrong (last at step 5)"
        );
        assert!(ringing("logit_real", [9.9, -9.9]).is_empty());
        assert_eq!(steps(&ringing("logit_generated", [0.0, -10.5])), [(2, 2)]);
        assert!(ringing("matching", [1e9, 1e-9]).is_empty(), "the matching loss may be anything");
    }

    /// A norm that grows tenfold rings when three of the last five are above; a single spike and an early fall do not.
    #[test]
    fn a_growing_gradient_rings() {
        let with = |spikes: &[f64]| [&[1.0; 30][..], spikes].concat();
        assert!(ringing("gradient_norm", with(&[500.0, 1.0, 500.0, 1.0, 1.0, 1.0])).is_empty());
        assert!(ringing("gradient_norm", with(&[9.9; 60])).is_empty(), "less than ten times");
        assert_eq!(steps(&ringing("gradient_norm", with(&[11.0; 4]))), [(33, 34)]);
        let falls = (0..100).map(|step| 1e3 / f64::from(step + 1).powi(2));
        assert!(ringing("fake_gradient_norm", falls).is_empty());
        let alarms = ringing("sample_deviation", [&[1.9; 30][..], &[0.9; 5]].concat());
        assert_eq!(steps(&alarms), [(33, 35)], "0.9 is in the band and less than half of 1.9");
    }

    /// A critic that learns nothing from the first step on rings at its 200th value; one that learns does not.
    #[test]
    fn an_idle_critic_rings() {
        let two_ln_two = 2.0 * 2.0_f64.ln();
        assert_eq!(steps(&ringing("critic", [two_ln_two; 210])), [(200, 210)]);
        assert!(ringing("critic", (0..300).map(|step| two_ln_two - 1e-3 * f64::from(step))).is_empty());
    }

    /// The third evaluation in a row that is worse than the best rings, and names the best.
    #[test]
    fn evaluations_that_get_worse_ring() {
        let alarms = ringing("frechet_inception", [20.0, 12.0, 13.3, 13.3, 12.5, 13.3, 14.0, 15.0, 11.0]);
        assert_eq!(steps(&alarms), [(8, 8)]);
        assert!(alarms[0].reason.ends_with("worse than the best, 12.0000 at step 2"), "{}", alarms[0].reason);
        assert!(
            ringing("frechet_random_conv", [12.0, 13.0, 13.0, 13.0, 13.0]).is_empty(),
            "within the noise"
        );
        assert_eq!(steps(&ringing("accuracy", [0.9, 0.96, 0.9, 0.9, 0.9])), [(5, 5)]);
        assert_eq!(steps(&ringing("clip_score", [0.32, 0.305, 0.304, 0.3])), [(4, 4)]);
    }
}
