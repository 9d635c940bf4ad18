use burn::tensor::{Device, Tensor};
use dmd_core::{Classes, one_hot};

use crate::Error;
use crate::family::Conditioner;

/// Converts names of classes to one-hot rows. The empty name means no class.
#[derive(Debug, Clone)]
pub struct ClassConditioner {
    names: Vec<String>,
    device: Device,
}

impl ClassConditioner {
    /// Makes a conditioner for the named classes. Without names it is that of an unconditional model.
    pub fn new(names: Vec<String>, device: &Device) -> Self {
        Self { names, device: device.clone() }
    }

    /// The classes' names, in order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    fn row(&self, name: &str) -> Result<Tensor<2>, Error> {
        let count = self.names.len();
        match self.names.iter().position(|known| known == name) {
            Some(class) => Ok(one_hot(&[class], count, &self.device)),
            None if name.is_empty() => Ok(Tensor::zeros([1, count.max(1)], &self.device)),
            None => Err(Error::Class { name: name.to_owned(), known: self.names.clone() }),
        }
    }
}

impl Conditioner for ClassConditioner {
    type Condition = Classes;

    const DRAWS_WITHOUT_PROMPT: bool = true;

    fn check(&self, prompt: &str) -> Result<(), Error> {
        self.row(prompt).map(|_| ())
    }

    fn condition(&self, prompts: &[&str]) -> Result<Classes, Error> {
        let rows = prompts.iter().map(|name| self.row(name)).collect::<Result<Vec<_>, _>>()?;
        Ok((!self.names.is_empty()).then(|| Tensor::cat(rows, 0)))
    }

    fn condition_skipping(&self, prompts: &[&str], layers: usize) -> Result<Classes, Error> {
        if layers == 0 {
            return self.condition(prompts);
        }
        Err(Error::Setting {
            setting: format!("a clip skip of {layers}"),
            hint: "it draws classes and has no text encoder".to_owned(),
        })
    }

    fn remembered(&self, captions: &[&str]) -> Result<Classes, Error> {
        // An unconditional model ignores the captions of captioned pictures.
        if self.names.is_empty() { Ok(None) } else { self.condition(captions) }
    }

    fn is_finite(_: &Classes) -> bool {
        true
    }
}
