//! UniPC (Zhao et al. 2023) on predicted clean samples, with the functions `B(h)` of the paper.

use burn::tensor::Tensor;

use crate::solver::Memory;
use crate::walk::Step;
use dmd_core::Level;

/// `B(h)` of the paper's section 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Basis {
    /// `h`.
    Bh1,
    /// `eʰ − 1`.
    Bh2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Options {
    /// 1 to 3.
    pub(crate) order: usize,
    pub(crate) basis: Basis,
}

/// The coefficients of one update from `from` to `to`, with earlier outputs at `earlier`.
struct Update {
    /// Factor of the sample.
    carry: f64,
    /// Factor of the newest output.
    base: f64,
    /// Factor of the weighted differences.
    outer: f64,
    /// `(λ_i − λ_from) / h` of each earlier output, then 1.
    nodes: Vec<f64>,
    /// The right-hand side of the weights' linear system.
    moments: Vec<f64>,
}

impl Update {
    fn new(from: Level, to: Level, earlier: &[Level], basis: Basis) -> Self {
        let h = to.lambda() - from.lambda();
        let mut nodes: Vec<f64> = earlier.iter().map(|p| (p.lambda() - from.lambda()) / h).collect();
        nodes.push(1.0);
        let hh = -h;
        let phi_1 = hh.exp_m1();
        let b = match basis {
            Basis::Bh1 => hh,
            Basis::Bh2 => phi_1,
        };
        let mut phi = phi_1 / hh - 1.0;
        let mut factorial = 1.0;
        let mut moments = Vec::with_capacity(nodes.len());
        for order in 1..=nodes.len() {
            moments.push(phi * factorial / b);
            factorial *= (order + 1) as f64;
            phi = phi / hh - 1.0 / factorial;
        }
        Self { carry: to.sigma / from.sigma, base: -to.alpha * phi_1, outer: -to.alpha * b, nodes, moments }
    }

    /// Weights `w` with `Σ_j w_j · node_jⁱ = moment_i` over the first `count` nodes.
    fn weights(&self, count: usize) -> Vec<f64> {
        let mut rows: Vec<Vec<f64>> = (0..count)
            .map(|power| {
                let row = self.nodes[..count].iter().map(|node| node.powi(power as i32));
                row.chain([self.moments[power]]).collect()
            })
            .collect();
        for pivot in 0..count {
            let best = (pivot..count).max_by(|a, b| rows[*a][pivot].abs().total_cmp(&rows[*b][pivot].abs()));
            rows.swap(pivot, best.unwrap_or(pivot));
            let chosen = rows[pivot].clone();
            let others = rows.iter_mut().enumerate().filter(|(i, _)| *i != pivot);
            for row in others.map(|(_, row)| row) {
                let factor = row[pivot] / chosen[pivot];
                row.iter_mut().zip(&chosen).for_each(|(a, b)| *a -= factor * b);
            }
        }
        rows.iter().enumerate().map(|(i, row)| row[count] / row[i]).collect()
    }
}

pub(crate) fn step(
    options: Options,
    steps: &[Step],
    call: usize,
    x: Tensor<4>,
    x0: Tensor<4>,
    memory: &mut Memory,
) -> Tensor<4> {
    // The corrector: the last step again, now that its end's output is known.
    let x = match memory.start.take() {
        Some(start) => correct(options.basis, steps, call, start, x0.clone(), memory),
        None => x,
    };
    memory.keep(x0, options.order);
    // Lower orders at the end, which is at the data.
    memory.order = options.order.min(steps.len() - call).min(memory.outputs.len()).min(call + 1);
    memory.start = Some(x.clone());
    predict(options.basis, steps, call, x, memory)
}

/// Outputs before the newest, divided by their nodes' distance: the paper's `D_m / r_m`.
fn differences(memory: &Memory, nodes: &[f64], count: usize) -> Vec<Tensor<4>> {
    let newest = memory.outputs.len() - 1;
    let m0 = &memory.outputs[newest];
    (1..=count).map(|back| (memory.outputs[newest - back].clone() - m0.clone()) / nodes[back - 1]).collect()
}

fn predict(basis: Basis, steps: &[Step], call: usize, x: Tensor<4>, memory: &Memory) -> Tensor<4> {
    let Step { from, to, .. } = steps[call];
    let count = memory.order - 1;
    let earlier: Vec<Level> = (1..=count).map(|back| steps[call - back].from).collect();
    let update = Update::new(from, to, &earlier, basis);
    let newest = memory.outputs[memory.outputs.len() - 1].clone();
    let base = x * update.carry + newest * update.base;
    // At order 2 the paper's weight is 1/2 for both bases, within the order.
    let weights = if count == 1 { vec![0.5] } else { update.weights(count) };
    let differences = differences(memory, &update.nodes, count).into_iter().zip(weights);
    differences.fold(base, |x, (difference, weight)| x + difference * (update.outer * weight))
}

fn correct(
    basis: Basis,
    steps: &[Step],
    call: usize,
    start: Tensor<4>,
    x0: Tensor<4>,
    memory: &Memory,
) -> Tensor<4> {
    let Step { from, to, .. } = steps[call - 1];
    let count = memory.order - 1;
    let earlier: Vec<Level> = (1..=count).map(|back| steps[call - 1 - back].from).collect();
    let update = Update::new(from, to, &earlier, basis);
    let newest = memory.outputs[memory.outputs.len() - 1].clone();
    let base = start * update.carry + newest.clone() * update.base;
    let mut weights = if count == 0 { vec![0.5] } else { update.weights(count + 1) };
    let last = weights.pop().unwrap_or(0.5);
    let differences = differences(memory, &update.nodes, count).into_iter().zip(weights);
    let x = differences.fold(base, |x, (difference, weight)| x + difference * (update.outer * weight));
    x + (x0 - newest) * (update.outer * last)
}
