use burn::tensor::Tensor;

/// What a training step reports, by name. The values are tensors on the device until [`Self::read`] is called: a step
/// whose figures nobody reads does not wait for the device.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    name: &'static str,
    value: Value,
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
        self.entries.push(Entry { name, value, kind });
    }

    /// Appends figures of another part of the same step.
    pub(crate) fn extend(&mut self, other: Self) {
        self.entries.extend(other.entries);
    }

    /// The figures' means over several parts, such as the micro-batches of one update. A figure that some parts do
    /// not have is the mean over the parts that have it.
    pub(crate) fn mean(parts: Vec<Self>) -> Self {
        let mut sums: Vec<(Entry, usize)> = Vec::new();
        for entry in parts.into_iter().flat_map(|part| part.entries) {
            let Some((sum, count)) =
                sums.iter_mut().find(|(sum, _)| sum.name == entry.name && sum.kind == entry.kind)
            else {
                sums.push((entry, 1));
                continue;
            };
            *count += 1;
            sum.value = match (sum.value.clone(), entry.value) {
                (Value::Tensor(a), Value::Tensor(b)) => Value::Tensor(a + b),
                (Value::Number(a), Value::Number(b)) => Value::Number(a + b),
                (Value::Tensor(a), Value::Number(b)) | (Value::Number(b), Value::Tensor(a)) => {
                    Value::Tensor(a + b)
                }
            };
        }
        let mean = |(entry, count): (Entry, usize)| {
            let value = match entry.value {
                value if count == 1 => value,
                Value::Tensor(sum) => Value::Tensor(sum / count as f64),
                Value::Number(sum) => Value::Number(sum / count as f64),
            };
            Entry { value, ..entry }
        };
        Self { entries: sums.into_iter().map(mean).collect() }
    }

    /// Waits for the device and reads all values at once.
    ///
    /// # Errors
    ///
    /// [`NotFinite`] for the first loss that is not a finite number, and where an update was refused.
    pub fn read(&self) -> Result<Vec<(&'static str, f64)>, NotFinite> {
        let tensors: Vec<Tensor<1>> = self
            .entries
            .iter()
            .filter_map(|entry| match &entry.value {
                Value::Tensor(tensor) => Some(tensor.clone()),
                Value::Number(_) => None,
            })
            .collect();
        let mut read = Vec::new();
        if !tensors.is_empty() {
            read = Tensor::cat(tensors, 0).into_data().iter::<f64>().collect();
        }
        let mut read = read.into_iter();
        let mut values = Vec::with_capacity(self.entries.len());
        for Entry { name: term, value, kind } in &self.entries {
            let value = match value {
                Value::Number(number) => *number,
                Value::Tensor(_) => read.next().unwrap_or(f64::NAN),
            };
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
