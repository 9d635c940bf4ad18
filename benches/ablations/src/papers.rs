//! The papers' tables in the small: their rows, and what is expected of each.

use crate::experiment::Experiment;
use crate::tables::{Claim, Row, Table};
use crate::variants::*;

/// Whether a figure is at least another; of a run that diverged, none is.
fn reaches(figure: f64, other: f64) -> bool {
    figure >= other
}

/// A table's rows: some that stand by themselves, then generators.
fn with(first: &[Row], variants: &[Variant]) -> Vec<Row> {
    first.iter().copied().chain(variants.iter().map(|variant| Row::Generator(*variant))).collect()
}

/// Every table, in the papers' order.
pub fn tables() -> Vec<Table> {
    vec![
        m1(),
        m2(),
        m3(),
        m4(),
        m5(),
        m6(),
        m7(),
        m8(),
        m10(),
        picture_table("shapes", "The loss rows on single shapes, 8×8", Experiment::Shapes),
        picture_table("pictures", "The loss rows on a folder of pictures", Experiment::Folder),
        Table {
            rows: with(
                &[Row::Data, TEACHER],
                &[REGRESSION, RATIO_1, DMD, RATIO_5, DMD2, DMD2_FOUR, DIVERGENCES[2], IDENTITIES[0], ALIGNED],
            ),
            ..picture_table("digits", "The loss rows on digits, convolutional networks", Experiment::Digits)
        },
    ]
}

fn m1() -> Table {
    Table {
        id: "m1",
        title: "The losses (DMD, table 2 left)",
        experiment: Experiment::Bars,
        rows: with(&[Row::Data, TEACHER], &[REGRESSION, RATIO_1, DMD]),
        claims: vec![
            Claim {
                text: "DMD is sharper than regression only",
                holds: |at| at(DMD.name, "sharp") > at(REGRESSION.name, "sharp"),
            },
            Claim {
                text: "DMD is nearer to the data than regression only",
                holds: |at| at(DMD.name, "energy") < at(REGRESSION.name, "energy"),
            },
            Claim {
                text: "both cover every mode",
                holds: |at| {
                    at(DMD.name, "off") < 0.3
                        && at(DMD.name, "uneven") < 0.3
                        && at(REGRESSION.name, "uneven") < 0.3
                },
            },
            Claim {
                text: "matching only at ratio 1 drops modes or diverges",
                holds: |at| !(at(RATIO_1.name, "uneven") < 0.5 && at(RATIO_1.name, "off") < 0.3),
            },
        ],
        against: None,
    }
}

fn m2() -> Table {
    Table {
        id: "m2",
        title: "The matching term's weighting (DMD, table 2 right)",
        experiment: Experiment::Ring,
        rows: with(&[TEACHER], &[RATIO_5, SIGMA, SIGMA_CUBED]),
        claims: vec![Claim {
            text: "equation 8 is nearest to the data",
            holds: |at| {
                let own = at(RATIO_5.name, "energy");
                own < at(SIGMA.name, "energy") && own < at(SIGMA_CUBED.name, "energy")
            },
        }],
        against: None,
    }
}

fn m3() -> Table {
    Table {
        id: "m3",
        title: "Two time scales after a short training (DMD2, appendix C)",
        experiment: Experiment::RingEarly,
        rows: with(&[TEACHER], &[RATIO_1, RATIO_5, RATIO_10, FAST_FAKE]),
        claims: vec![
            Claim {
                text: "the batch mean is more than 1.5 times as restless at ratio 1 as at 5",
                holds: |at| at(RATIO_1.name, "jitter") > 1.5 * at(RATIO_5.name, "jitter"),
            },
            Claim {
                text: "ratio 5 is nearer to the data than ratio 1",
                holds: |at| at(RATIO_5.name, "energy") < at(RATIO_1.name, "energy"),
            },
            Claim {
                text: "ratio 10 is at least as near as ratio 5",
                holds: |at| at(RATIO_10.name, "energy") <= at(RATIO_5.name, "energy"),
            },
            Claim {
                text: "a five times faster fake score at ratio 1 is further than ratio 5",
                holds: |at| at(FAST_FAKE.name, "energy") > at(RATIO_5.name, "energy"),
            },
        ],
        against: None,
    }
}

fn m4() -> Table {
    Table {
        id: "m4",
        title: "The components (DMD2, table 3)",
        experiment: Experiment::Bars,
        rows: with(&[TEACHER], &[DMD, RATIO_1, RATIO_5, DMD2, ADVERSARIAL]),
        claims: vec![
            Claim {
                text: "without regression at ratio 1 is the worst of the matching rows",
                holds: |at| {
                    let worst = at(RATIO_1.name, "energy");
                    [DMD.name, RATIO_5.name, DMD2.name].iter().all(|row| !reaches(at(row, "energy"), worst))
                },
            },
            Claim {
                text: "two time scales are at least as sharp as DMD, without pairs",
                holds: |at| at(RATIO_5.name, "sharp") >= at(DMD.name, "sharp"),
            },
            Claim {
                text: "the adversarial term makes it sharper",
                holds: |at| at(DMD2.name, "sharp") > at(RATIO_5.name, "sharp"),
            },
            Claim {
                text: "the adversarial term evens out the modes",
                holds: |at| at(DMD2.name, "uneven") < at(RATIO_5.name, "uneven"),
            },
            Claim {
                text: "adversarial only is less sharp than DMD2",
                holds: |at| at(ADVERSARIAL.name, "sharp") < at(DMD2.name, "sharp"),
            },
        ],
        against: None,
    }
}

fn m5() -> Table {
    Table {
        id: "m5",
        title: "Backward simulation, four steps (DMD2, table 4)",
        experiment: Experiment::Bars,
        rows: with(&[TEACHER], &[FOUR, FOUR_FROM_REAL]),
        claims: vec![Claim {
            text: "inputs the generator made itself are at least as good as diffused real ones",
            holds: |at| at(FOUR.name, "sharp") >= at(FOUR_FROM_REAL.name, "sharp"),
        }],
        against: None,
    }
}

fn m6() -> Table {
    Table {
        id: "m6",
        title: "What bounds the generator: the teacher's sampler",
        experiment: Experiment::NoisyBars,
        rows: with(
            &[Row::Data, TEACHER, Row::Teacher { name: COARSE_TEACHER, steps: 5, guidance: 1.0 }],
            &[REGRESSION, COARSE_REGRESSION, STRONG_DMD2],
        ),
        claims: vec![
            Claim {
                text: "regression alone is bounded by the teacher's sampler, at 18 steps and at 5",
                holds: |at| {
                    at(REGRESSION.name, "sharp") <= at(TEACHER.name(), "sharp")
                        && at(COARSE_REGRESSION.name, "sharp") <= at(COARSE_TEACHER, "sharp")
                },
            },
            Claim {
                text: "with real samples DMD2 comes nearer to the modes than its noisy teacher",
                holds: |at| at(STRONG_DMD2.name, "off") < at(TEACHER.name(), "off"),
            },
        ],
        against: None,
    }
}

fn m7() -> Table {
    Table {
        id: "m7",
        title: "Steps of the generator",
        experiment: Experiment::Bars,
        rows: with(&[TEACHER], &[RATIO_5, TWO, FOUR]),
        claims: vec![
            Claim {
                text: "two steps are at least as sharp as one",
                holds: |at| at(TWO.name, "sharp") >= at(RATIO_5.name, "sharp"),
            },
            Claim {
                text: "four steps are at least as sharp as two",
                holds: |at| at(FOUR.name, "sharp") >= at(TWO.name, "sharp"),
            },
            Claim {
                text: "four steps are at least as near to the data as one",
                holds: |at| at(FOUR.name, "energy") <= at(RATIO_5.name, "energy"),
            },
        ],
        against: None,
    }
}

fn m8() -> Table {
    Table {
        id: "m8",
        title: "Guidance of the teacher",
        experiment: Experiment::PreferredBars,
        rows: with(&[Row::Data, TEACHER], &[&GUIDED[..], &[DECOUPLED]].concat()),
        claims: vec![
            Claim {
                text: "the class comes out more clearly the stronger the guidance",
                holds: |at| {
                    GUIDED
                        .windows(2)
                        .all(|pair| at(pair[1].name, "right class") > at(pair[0].name, "right class"))
                },
            },
            Claim {
                text: "and in less variety",
                holds: |at| {
                    GUIDED.windows(2).all(|pair| at(pair[1].name, "variety") < at(pair[0].name, "variety"))
                },
            },
        ],
        against: None,
    }
}

fn m10() -> Table {
    let newer = [&DIVERGENCES[..], &IDENTITIES, &[SIDA, ALIGNED]].concat();
    Table {
        id: "m10",
        title: "Newer objectives",
        experiment: Experiment::Bars,
        rows: with(&[Row::Data, TEACHER], &[&[RATIO_1, RATIO_5, DMD2][..], &newer].concat()),
        claims: vec![
            Claim {
                text: "the more a divergence covers modes, the more even they are: forward KL before Jensen–Shannon before DMD2",
                holds: |at| {
                    let [jensen_shannon, _, forward] = DIVERGENCES.map(|row| at(row.name, "uneven"));
                    forward < jensen_shannon && jensen_shannon < at(DMD2.name, "uneven")
                },
            },
            Claim {
                text: "an objective of f-distill is nearer to the data than DMD2",
                holds: |at| DIVERGENCES.iter().any(|row| at(row.name, "energy") < at(DMD2.name, "energy")),
            },
            Claim {
                text: "SiD is nearer to the data than matching at ratio 1",
                holds: |at| IDENTITIES.iter().all(|row| at(row.name, "energy") < at(RATIO_1.name, "energy")),
            },
            Claim {
                text: "alignment is at least as near as ratio 5 without it",
                holds: |at| at(ALIGNED.name, "energy") <= at(RATIO_5.name, "energy"),
            },
        ],
        against: Some((DMD2.name, &["energy", "uneven", "sharp"])),
    }
}

/// The losses' rows on pictures.
fn picture_table(id: &'static str, title: &'static str, experiment: Experiment) -> Table {
    let published = [REGRESSION, RATIO_1, DMD, RATIO_5, DMD2, DMD2_FOUR];
    let rows =
        with(&[Row::Data, TEACHER], &[&published[..], &DIVERGENCES, &IDENTITIES, &[SIDA, ALIGNED]].concat());
    let claims = vec![
        Claim {
            text: "regression only: fewer sharp and right samples than DMD",
            holds: |at| at(REGRESSION.name, GOOD) < at(DMD.name, GOOD),
        },
        Claim {
            text: "matching only, one time scale: less covered than DMD, or it diverges",
            holds: |at| !reaches(at(RATIO_1.name, "covered"), at(DMD.name, "covered")),
        },
        Claim {
            text: "two time scales, no pairs: at least as many sharp and right as DMD",
            holds: |at| at(RATIO_5.name, GOOD) >= at(DMD.name, GOOD),
        },
        Claim {
            text: "its batch mean is calmer: less than 1 / 1.5 of ratio 1's jitter",
            holds: |at| at(RATIO_1.name, "jitter") > 1.5 * at(RATIO_5.name, "jitter"),
        },
        Claim {
            text: "DMD2 is nearest to the real pictures of DMD's and DMD2's one-step rows",
            holds: |at| {
                let others = [REGRESSION, RATIO_1, DMD, RATIO_5];
                others.iter().all(|other| !reaches(at(DMD2.name, "distance"), at(other.name, "distance")))
            },
        },
        Claim {
            text: "an objective of f-distill is nearer than DMD2",
            holds: |at| DIVERGENCES.iter().any(|row| at(row.name, "distance") < at(DMD2.name, "distance")),
        },
        Claim {
            text: "DMD2 is nearer to the real pictures than the teacher's own sampler",
            holds: |at| at(DMD2.name, "distance") < at(TEACHER.name(), "distance"),
        },
        Claim {
            text: "four steps are at least as near as one",
            holds: |at| at(DMD2_FOUR.name, "distance") <= at(DMD2.name, "distance"),
        },
    ];
    Table { id, title, experiment, rows, claims, against: Some((DMD2.name, &["distance", "kernel", GOOD])) }
}
