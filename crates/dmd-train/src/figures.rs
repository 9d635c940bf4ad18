use burn::tensor::Tensor;

use crate::{Collective, Error, agree};

/// What a training step reports, by name. The values are tensors on the device until [`Self::read`] is called: a step
/// whose figures nobody reads does not wait for the device.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    name: &'static str,
    /// Of each part, in order; the figure is their mean.
    values: Vec<Value>,
    kind: Kind,
}

#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a dozen figures of a step")]
enum Value {
    Tensor(Tensor<1>),
    Number(f64),
}

/// What becomes of a value that is not a finite number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A loss or the norm of a gradient: the training has diverged.
    Loss,
    /// Something to look at: it is left out.
    Note,
    /// A count of refused updates: anything but 0 means that the training has diverged.
    Refused,
}

/// A loss or a gradient that is not a finite number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NotFinite {
    /// Which quantity.
    pub term: &'static str,
    /// Its value.
    pub value: f64,
}

impl Figures {
    /// No figures.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a loss or a gradient's norm, `[1]`. It has to be finite.
    pub fn loss(&mut self, name: &'static str, value: Tensor<1>) {
        self.push(name, Value::Tensor(value.without_autodiff()), Kind::Loss);
    }

    /// Adds a measurement, `[1]`. It is left out of what is read where it is not finite: a share of a variance that
    /// is 0 has no value.
    pub fn note(&mut self, name: &'static str, value: Tensor<1>) {
        self.push(name, Value::Tensor(value.without_autodiff()), Kind::Note);
    }

    /// Adds a number that the host knows: a learning rate.
    pub fn number(&mut self, name: &'static str, value: f64) {
        self.push(name, Value::Number(value), Kind::Note);
    }

    /// Adds how many updates of an optimiser were refused since it was made (see [`crate::AdamW`]), `[1]`. It is read
    /// as an error under this name, or not at all.
    pub(crate) fn refused(&mut self, name: &'static str, count: Tensor<1>) {
        self.push(name, Value::Tensor(count), Kind::Refused);
    }

    fn push(&mut self, name: &'static str, value: Value, kind: Kind) {
        self.entries.push(Entry { name, values: vec![value], kind });
    }

    /// Appends figures of another part of the same step.
    pub(crate) fn extend(&mut self, other: Self) {
        self.entries.extend(other.entries);
    }

    /// The figures' means over several parts, such as the micro-batches of one update. A figure that some parts do
    /// not have is the mean over the parts that have it.
    pub(crate) fn mean(parts: Vec<Self>) -> Self {
        let mut means: Vec<Entry> = Vec::new();
        for entry in parts.into_iter().flat_map(|part| part.entries) {
            match means.iter_mut().find(|mean| mean.name == entry.name && mean.kind == entry.kind) {
                Some(mean) => mean.values.extend(entry.values),
                None => means.push(entry),
            }
        }
        Self { entries: means }
    }

    /// [`Self::mean`] over the parts of all ranks, as if one rank had them all. With several ranks the device is waited
    /// for.
    pub(crate) fn mean_of_ranks(parts: Vec<Self>, ranks: &dyn Collective) -> Result<Self, Error> {
        if ranks.size() == 1 {
            return Ok(Self::mean(parts));
        }
        let own: Vec<Entry> = parts.into_iter().flat_map(|part| part.entries).collect();
        let form: Vec<_> = own.iter().map(|entry| (entry.name, entry.kind)).collect();
        agree(ranks, format!("{form:?}").as_bytes(), "has other terms in its losses than rank 0")?;
        let all = ranks.gather(&Self { entries: own }.values())?;
        let entries = form.into_iter().cycle().zip(all).map(|((name, kind), value)| {
            let values = vec![Value::Number(value)];
            Entry { name, values, kind }
        });
        Ok(Self::mean(vec![Self { entries: entries.collect() }]))
    }

    /// Waits for the device and reads all values at once: each figure as the mean of its parts, added in f64 in their
    /// order.
    fn values(&self) -> Vec<f64> {
        let tensors = self.entries.iter().flat_map(|entry| &entry.values).filter_map(|value| match value {
            Value::Tensor(tensor) => Some(tensor.clone()),
            Value::Number(_) => None,
        });
        let tensors: Vec<Tensor<1>> = tensors.collect();
        let mut read = Vec::new();
        if !tensors.is_empty() {
            read = Tensor::cat(tensors, 0).into_data().iter::<f64>().collect();
        }
        let mut read = read.into_iter();
        let mut number = |value: &Value| match value {
            Value::Number(number) => *number,
            Value::Tensor(_) => read.next().unwrap_or(f64::NAN),
        };
        let mean = |entry: &Entry| {
            let sum: f64 = entry.values.iter().map(&mut number).sum();
            sum / entry.values.len() as f64
        };
        self.entries.iter().map(mean).collect()
    }

    /// Waits for the device and reads all values at once.
    ///
    /// # Errors
    ///
    /// [`NotFinite`] for the first loss that is not a finite number, and where an update was refused.
    pub fn read(&self) -> Result<Vec<(&'static str, f64)>, NotFinite> {
        let mut values = Vec::with_capacity(self.entries.len());
        for (Entry { name: term, kind, .. }, value) in self.entries.iter().zip(self.values()) {
            match kind {
                Kind::Refused if value == 0.0 => {}
                Kind::Refused => return Err(NotFinite { term, value: f64::NAN }),
                Kind::Loss if !value.is_finite() => return Err(NotFinite { term, value }),
                Kind::Loss => values.push((*term, value)),
                Kind::Note if value.is_finite() => values.push((*term, value)),
                Kind::Note => {}
            }
        }
        Ok(values)
    }
}
