//! A trainer as one of several ranks.

use std::fmt::Debug;
use std::ops::Range;

use burn::module::{Module, ModuleDisplay, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use dmd_core::{Condition, Denoiser, FakeScore, NoiseSchedule};

use super::Trainer;
use crate::gradients::BUCKET;
use crate::parameter::changed;
use crate::{Collective, Error, agree};

impl<'a, C, G, R, F, S> Trainer<'a, G, R, F, S>
where
    C: Condition,
    G: Denoiser<Condition = C> + Module + ModuleDisplay + Sync,
    R: Denoiser<Condition = C> + Clone + Debug + Sync,
    F: FakeScore<Condition = C> + ModuleDisplay,
    S: NoiseSchedule + Clone + Debug + Sync,
{
    /// The same trainer as one of several ranks, which all call this with equal configurations and with noise at the same
    /// position. Networks become those of rank 0.
    ///
    /// [`TrainerConfig::accumulate`](crate::TrainerConfig::accumulate) stays the number of micro-batches of all ranks
    /// together; each rank computes an equal share of them. 2, 4 or 8 ranks train, bit for bit, what one rank
    /// does.
    ///
    /// # Errors
    ///
    /// [`Error::Training`] when the micro-batches cannot be shared equally; [`Error::Rank`] on every rank when one has
    /// another configuration or has ended.
    pub fn with_ranks(self, ranks: &'a dyn Collective) -> Result<Self, Error> {
        let (count, size) = (self.config.accumulate, ranks.size());
        if !count.is_multiple_of(size) {
            return Err(Error::Training(format!(
                "{size} ranks cannot share {count} micro-batches equally: start as many ranks as divide {count}, or set \
                 `accumulate` to a multiple of {size}"
            )));
        }
        let mut trainer = Self { ranks, ..self };
        agree(ranks, trainer.settings().as_bytes(), "has another training configuration than rank 0")?;
        trainer.share_start()?;
        Ok(trainer)
    }

    /// The ranks that train together.
    pub fn ranks(&self) -> &'a dyn Collective {
        self.ranks
    }

    /// What has to be equal on all ranks.
    fn settings(&self) -> String {
        let config = &self.config;
        let turns =
            (config.shape, config.accumulate, config.fake_updates, config.ema_decay, config.optimizer);
        let rates = (config.generator_rate, config.fake_rate);
        let times = (&config.matching_times, &config.times);
        let terms =
            (config.alignment, &config.matching, config.regression.weight, config.regression.warmup_steps);
        let networks = (
            self.distiller.generator.levels(),
            Module::num_params(&self.distiller.generator),
            Module::num_params(&self.distiller.fake),
        );
        let position = (self.steps, self.noise.position());
        format!("{turns:?} {rates:?} {times:?} {terms:?} {:?} {networks:?} {position:?}", config.adversarial)
    }

    /// Which micro-batches of an update are this rank's.
    pub(super) fn own(&self) -> Range<usize> {
        let share = self.config.accumulate / self.ranks.size();
        self.ranks.rank() * share..(self.ranks.rank() + 1) * share
    }

    /// Makes the networks and the average those of rank 0.
    pub(super) fn share_start(&mut self) -> Result<(), Error> {
        if self.ranks.size() == 1 {
            return Ok(());
        }
        self.distiller.generator = broadcast(self.distiller.generator.clone(), self.ranks)?;
        self.distiller.fake = broadcast(self.distiller.fake.clone(), self.ranks)?;
        if self.average.kept() {
            let average = self.average.of(&self.distiller.generator).train();
            self.average.restart(&broadcast(average, self.ranks)?);
        }
        Ok(())
    }
}

/// A module with the parameters of rank 0.
fn broadcast<M: Module>(module: M, ranks: &dyn Collective) -> Result<M, Error> {
    let mut broadcast = Broadcast { ranks, failed: None };
    let module = module.map(&mut broadcast);
    match broadcast.failed {
        None => Ok(module),
        Some(error) => Err(error),
    }
}

struct Broadcast<'a> {
    ranks: &'a dyn Collective,
    failed: Option<Error>,
}

impl ModuleMapper for Broadcast<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.failed.is_some() {
            return param;
        }
        let plain = param.val().without_autodiff();
        let own: Vec<f32> = plain.to_data().iter::<f32>().collect();
        let mut values = own.clone();
        let sent = values.chunks_mut(BUCKET).try_for_each(|chunk| self.ranks.broadcast(chunk));
        self.failed = sent.err();
        if own.iter().zip(&values).all(|(own, sent)| own.to_bits() == sent.to_bits()) {
            return param; // as it is everywhere, but for what is drawn on the device
        }
        changed(param, |own| {
            Tensor::from_data(TensorData::new(values, own.dims()), (&own.device(), own.dtype()))
        })
    }
}
