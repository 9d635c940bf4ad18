use std::path::PathBuf;

use crate::{ModelFolder, Part};

impl ModelFolder {
    /// The folders and files of the teacher, on which a distillation depends, always in the same order. The generator
    /// is not listed.
    ///
    /// A second text encoder is listed only if it exists, so that the fingerprints of other folders do not change.
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

    /// Every part of a family must be listed. Otherwise a distillation would not notice that the part changed.
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
