use std::path::PathBuf;

use crate::{ModelFolder, Part};

impl ModelFolder {
    /// The folders and files that a teacher is made from, always in this order: what a
    /// distillation depends on. The generator is not among them.
    ///
    /// A second text encoder is listed where there is one alone: the fingerprints of other folders stay what they were.
    pub fn teacher_files(&self) -> Vec<PathBuf> {
        let parts = [Part::UNet, Part::Scheduler, Part::TextEncoder, Part::Tokenizer, Part::Autoencoder];
        let second = [Part::TextEncoder2, Part::Tokenizer2].into_iter().filter(|part| self.has(*part));
        let parts = parts.into_iter().map(|part| self.part(part)).chain([self.classes_file()]);
        parts.chain(second.map(|part| self.part(part))).collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// A part that is added is listed, or a distillation would not notice that it changed.
    #[test]
    fn every_part_but_the_generator_is_listed() {
        let place = tempfile::tempdir().unwrap();
        let folder = ModelFolder::new(place.path());
        for part in Part::ALL {
            std::fs::create_dir(folder.part(part)).unwrap();
        }
        let files = folder.teacher_files();
        for part in Part::ALL {
            assert_eq!(files.contains(&folder.part(part)), part != Part::Generator, "{part:?}");
        }
    }
}
