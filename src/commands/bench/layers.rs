//! Where the time of a part goes: kinds of layers, and the slowest shapes.

use std::collections::BTreeMap;
use std::time::Duration;

use dmd_kernels::{Operation, Spent};
use serde_json::{Value, json};

use crate::console::say;

/// Shapes that are shown by themselves.
const SHOWN: usize = 5;

/// What is shown together.
fn kind(operation: &Operation) -> String {
    match operation {
        Operation::Convolution { kernel, stride: 1, .. } => format!("convolution {kernel}×{kernel}"),
        Operation::Convolution { kernel, stride, .. } => {
            format!("convolution {kernel}×{kernel}, stride {stride}")
        }
        Operation::Linear { .. } => "linear".to_owned(),
        Operation::GroupNorm { .. } => "group normalisation".to_owned(),
        Operation::LayerNorm { .. } => "layer normalisation".to_owned(),
        Operation::Attention { .. } => "attention".to_owned(),
        Operation::Geglu { .. } => "GEGLU".to_owned(),
    }
}

/// Some operations together.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    calls: usize,
    time: Duration,
    flops: f64,
}

impl Sum {
    fn add(&mut self, operation: &Operation, spent: &Spent) {
        self.calls += spent.calls;
        self.time += spent.time;
        self.flops += operation.flops() * spent.calls as f64;
    }

    fn ms(&self) -> f64 {
        self.time.as_secs_f64() * 1e3
    }

    /// In 10⁹ operations per second, where there are products.
    fn speed(&self) -> Option<f64> {
        (self.flops > 0.0).then(|| self.flops / self.ms() / 1e6)
    }
}

/// Operations and the time of each, and of the whole run.
type Layers = (BTreeMap<Operation, Spent>, Duration);

/// Kinds with their sums, the slowest first; the last is what lies between the operations.
fn kinds((spent, whole): &Layers) -> Vec<(String, Sum)> {
    let mut kinds: BTreeMap<String, Sum> = BTreeMap::new();
    for (operation, spent) in spent {
        kinds.entry(kind(operation)).or_default().add(operation, spent);
    }
    let mut all: Vec<(String, Sum)> = kinds.into_iter().collect();
    all.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.time));
    let inside: Duration = all.iter().map(|(_, sum)| sum.time).sum();
    all.push(("between the layers".to_owned(), Sum { time: whole.saturating_sub(inside), ..Sum::default() }));
    all
}

/// Operations by themselves, the slowest first.
fn slowest((spent, _): &Layers) -> Vec<(String, Sum)> {
    let of = |(operation, spent): (&Operation, &Spent)| {
        let mut sum = Sum::default();
        sum.add(operation, spent);
        (operation.to_string(), sum)
    };
    let mut all: Vec<(String, Sum)> = spent.iter().map(of).collect();
    all.sort_by_key(|(_, sum)| std::cmp::Reverse(sum.time));
    all
}

/// Prints two tables; `peak` is in 10⁹ operations per second.
pub(super) fn print(part: &str, layers: &Layers, peak: f64) {
    let whole = layers.1.as_secs_f64() * 1e3;
    let mut slowest = slowest(layers);
    slowest.truncate(SHOWN);
    for (title, lines) in
        [(format!("layers of {part}"), kinds(layers)), ("slowest shapes".to_owned(), slowest)]
    {
        say!("\n| {title} | calls | ms | share | GFLOP/s | of peak |\n| --- | --- | --- | --- | --- | --- |");
        for (name, sum) in lines {
            let calls = if sum.calls > 0 { sum.calls.to_string() } else { "–".to_owned() };
            let (speed, share) = match sum.speed() {
                Some(speed) => (format!("{speed:.0}"), format!("{:.0} %", 100.0 * speed / peak)),
                None => ("–".to_owned(), "–".to_owned()),
            };
            let ms = sum.ms();
            say!("| {name} | {calls} | {ms:.2} | {:.1} % | {speed} | {share} |", 100.0 * ms / whole);
        }
    }
}

pub(super) fn json(layers: &Layers) -> Value {
    let lines = |all: Vec<(String, Sum)>| -> Value {
        let line = |(name, sum): (String, Sum)| json!({"name": name, "calls": sum.calls, "ms": sum.ms(), "gflops": sum.speed()});
        all.into_iter().map(line).collect()
    };
    json!({"ms": layers.1.as_secs_f64() * 1e3, "kinds": lines(kinds(layers)), "shapes": lines(slowest(layers))})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_added_up() {
        let linear = |rows| Operation::Linear { rows, input: 10, output: 5 };
        let spent = |calls, ms| Spent { calls, time: Duration::from_millis(ms) };
        let all = [
            (linear(1), spent(2, 3)),
            (linear(4), spent(1, 5)),
            (Operation::Geglu { rows: 1, width: 1 }, spent(1, 2)),
        ];
        let layers = (all.into_iter().collect(), Duration::from_millis(16));
        let found = kinds(&layers);
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["linear", "GEGLU", "between the layers"]);
        assert_eq!((found[0].1.calls, found[0].1.ms(), found[2].1.ms()), (3, 8.0, 6.0));
        // Twice 2 · 1 · 10 · 5, and once 2 · 4 · 10 · 5.
        assert_eq!(found[0].1.flops, 600.0);
        assert_eq!(slowest(&layers)[0].0, "linear 10 → 5, 4 rows");
        assert_eq!(found[1].1.speed(), None);
    }
}
