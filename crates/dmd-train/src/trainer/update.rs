use std::fmt::Debug;

use burn::module::{Module, ModuleDisplay};
use dmd_core::{Condition, Denoiser, FakeScore, NoiseSchedule};

use super::{Trainer, refusal};
use crate::parallel::side_by_side;
use crate::ranks::{Balanced, levels};
use crate::{Error, Figures, Gradients, together};

/// What a micro-batch gives to the update of a network.
pub(super) struct Part<P> {
    pub(super) gradients: Gradients,
    pub(super) figures: Figures,
    pub(super) made: P,
}

impl<C, G, R, F, S> Trainer<'_, G, R, F, S>
where
    C: Condition,
    G: Denoiser<Condition = C> + Module + ModuleDisplay + Sync,
    R: Denoiser<Condition = C> + Clone + Debug + Sync,
    F: FakeScore<Condition = C> + ModuleDisplay,
    S: NoiseSchedule + Clone + Debug + Sync,
{
    /// The sum of the gradients of an update's micro-batches and the means of their figures, both over all ranks; and
    /// what else `work` made of each of this rank's micro-batches.
    pub(super) fn update<T: Send, P: Send>(
        &self,
        turns: Vec<T>,
        work: impl Fn(T) -> Result<Part<P>, Error> + Sync,
    ) -> Result<(Gradients, Figures, Vec<P>), Error> {
        let (gradients, figures, made) = together(self.ranks, self.own_update(turns, work))?;
        let figures = Figures::mean_of_ranks(figures, self.ranks)?;
        Ok((gradients.summed(self.ranks)?, figures, made))
    }

    /// The same of this rank alone. At most four partial sums are kept.
    fn own_update<T: Send, P: Send>(
        &self,
        turns: Vec<T>,
        work: impl Fn(T) -> Result<Part<P>, Error> + Sync,
    ) -> Result<(Gradients, Vec<Figures>, Vec<P>), Error> {
        let mut sum = Balanced::new(turns.len(), levels(self.ranks.size()), Gradients::plus);
        let (mut figures, mut made, mut failed) = (Vec::new(), Vec::new(), None);
        side_by_side(turns, self.config.parallel, work, |part| match part {
            Ok(part) if failed.is_none() => {
                sum.push(part.gradients);
                figures.push(part.figures);
                made.push(part.made);
            }
            Ok(_) => {}
            Err(error) => failed = failed.take().or(Some(error)),
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let gradients = sum.finish().ok_or_else(|| refusal("a rank without a micro-batch"))?;
        Ok((gradients, figures, made))
    }
}
