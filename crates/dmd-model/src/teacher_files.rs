use std::path::PathBuf;

use crate::{ModelFolder, Part};

impl ModelFolder {
    /// The folders and files that a teacher is made from, always in this order, whether they are there or not: what a
    /// distillation depends on. The generator is not among them.
    pub fn teacher_files(&self) -> Vec<PathBuf> {
        let parts = [Part::UNet, Part::Scheduler, Part::TextEncoder, Part::Tokenizer, Part::Autoencoder];
        parts.into_iter().map(|part| self.part(part)).chain([self.classes_file()]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A part that is added is listed, or a distillation would not notice that it changed.
    #[test]
    fn every_part_but_the_generator_is_listed() {
        let folder = ModelFolder::new("model");
        let files = folder.teacher_files();
        for part in Part::ALL {
            assert_eq!(files.contains(&folder.part(part)), part != Part::Generator, "{part:?}");
        }
    }
}
