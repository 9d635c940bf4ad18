use crate::pattern::fits;
use crate::{Entry, Error};

/// Folders of a pipeline that hold a network.
const NETWORKS: [&str; 5] = ["unet", "unet_one_step", "vae", "text_encoder", "text_encoder_2"];

/// Its other folders. What diffusers keeps beside them, such as `safety_checker`, is not used.
const OTHERS: [&str; 3] = ["scheduler", "tokenizer", "tokenizer_2"];

/// Beginnings of a network's weight files: diffusers', transformers', and transformers' for pickles.
const STEMS: [&str; 3] = ["diffusion_pytorch_model", "model", "pytorch_model"];

/// Endings of weight files in the order in which they are preferred. Files for other frameworks have others, or other
/// beginnings: `flax_model.msgpack`, `model.onnx`, `openvino_model.bin`.
const ENDINGS: [&str; 5] = ["safetensors", "bin", "ckpt", "pt", "pth"];

/// Beginnings of files that a training leaves behind.
const LEFT_BEHIND: [&str; 6] =
    ["optimizer", "scheduler", "training_args", "random_states", "rng_state", "openvino_model"];

/// A published precision of weights. Where a network lacks the one that is asked for, another is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Variant {
    /// The files with plain names, which usually hold f32.
    #[default]
    Full,
    /// `fp16` in the name: half the size.
    Fp16,
    /// `bf16` in the name.
    Bf16,
}

impl Variant {
    /// What stands in the files' names, in the order of preference.
    fn names(self) -> [&'static str; 3] {
        match self {
            Self::Full => ["", ".fp16", ".bf16"],
            Self::Fp16 => [".fp16", "", ".bf16"],
            Self::Bf16 => [".bf16", "", ".fp16"],
        }
    }
}

/// Which files of a repository are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Selection {
    /// The files, ordered by path.
    pub files: Vec<Entry>,
    /// The one file that is the model, where it is not the folder.
    pub single: Option<String>,
    /// Folders of networks whose weights are published in another variant only than the one that was asked for; `.` is the
    /// repository's own folder.
    pub other_variant: Vec<String>,
}

impl Selection {
    /// The files that fit one of the patterns, as Python's `fnmatch` reads them: `*` is any text, slashes too.
    pub fn matching(entries: &[Entry], patterns: &[&str]) -> Self {
        let fits_one = |entry: &&Entry| patterns.iter().any(|pattern| fits(&entry.path, pattern));
        Self { files: entries.iter().filter(fits_one).cloned().collect(), ..Self::default() }
    }

    /// One file, and the configuration that lies beside it.
    pub(crate) fn file(entries: &[Entry], file: &str) -> Option<Self> {
        entries.iter().find(|entry| entry.path == file)?;
        let (folder, _) = split(file);
        let beside = |entry: &&Entry| {
            let (its_folder, name) = split(&entry.path);
            entry.path == file
                || its_folder == folder && matches!(name, "config.json" | "adapter_config.json")
        };
        let files = entries.iter().filter(beside).cloned().collect();
        Some(Self { files, single: Some(file.to_owned()), ..Self::default() })
    }

    /// The length of all files together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|entry| entry.size).sum()
    }
}

/// Chooses the files of a diffusion model, whatever its form:
///
/// - **A pipeline's folder** (`unet/config.json` is there): `model_index.json`, and of the folders `unet`,
///   `unet_one_step`, `vae`, `text_encoder`, `text_encoder_2`, `tokenizer`, `tokenizer_2` and `scheduler` the
///   configurations and one set of weights each. Safetensors go before pickles (`.bin`), then the variant that is asked
///   for goes before others, then one file before complete shards.
/// - **A network's folder** (`config.json` and weights, in no sub-folder): the same for it alone.
/// - **One file**, such as a checkpoint or a LoRA: it must be the only one.
///
/// # Errors
///
/// [`Error::SeveralFiles`] lists the files among which a person must choose; [`Error::NothingUsable`] says what is there
/// where no weights can be used.
pub fn diffusers_selection(entries: &[Entry], variant: Variant) -> Result<Selection, Error> {
    let has = |path: &str| entries.iter().any(|entry| entry.path == path);
    let mut selection = Selection::default();
    if has("unet/config.json") || has("unet_one_step/config.json") {
        selection.files.extend(
            entries
                .iter()
                .filter(|entry| matches!(entry.path.as_str(), "model_index.json" | "classes.json"))
                .cloned(),
        );
        for folder in NETWORKS {
            if has(&format!("{folder}/config.json")) {
                selection.network(folder, &inside(entries, folder), variant)?;
            }
        }
        for folder in OTHERS {
            selection
                .files
                .extend(inside(entries, folder).into_iter().filter(|file| is_small(file)).cloned());
        }
    } else if has("config.json") && weights(&inside(entries, ""), variant).is_some() {
        selection.network("", &inside(entries, ""), variant)?;
    } else if has("model_index.json") {
        let what = "the repository's pipeline has no unet, and no other kind is known".to_owned();
        let mut folders: Vec<String> = entries.iter().map(|entry| split(&entry.path).0.to_owned()).collect();
        folders.retain(|folder| !folder.is_empty());
        folders.dedup();
        return Err(Error::NothingUsable { what, files: folders });
    } else {
        let file = the_one_file(entries)?;
        return Ok(Selection::file(entries, file).unwrap_or_default());
    }
    selection.files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(selection)
}

impl Selection {
    /// Adds a network: its configurations and one set of its weights.
    fn network(&mut self, folder: &str, files: &[&Entry], variant: Variant) -> Result<(), Error> {
        let shown = if folder.is_empty() { "." } else { folder };
        let Some((found, name)) = weights(files, variant) else {
            let named = |file: &&Entry| !is_small(file);
            return Err(Error::NothingUsable {
                what: format!("the repository has no usable weights of {shown}, as safetensors or .bin"),
                files: files.iter().copied().filter(named).map(|file| file.path.clone()).collect(),
            });
        };
        if name != variant.names()[0] {
            self.other_variant.push(shown.to_owned());
        }
        self.files.extend(found.into_iter().cloned());
        self.files.extend(files.iter().filter(|file| is_small(file)).map(|&file| file.clone()));
        Ok(())
    }
}

/// Folder and name.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// The files that lie in a folder itself.
fn inside<'a>(entries: &'a [Entry], folder: &str) -> Vec<&'a Entry> {
    entries.iter().filter(|entry| split(&entry.path).0 == folder).collect()
}

/// Configurations, and what a tokenizer consists of. An index of shards belongs to its shards.
fn is_small(file: &Entry) -> bool {
    let (_, name) = split(&file.path);
    let ending = name.rsplit_once('.').map(|(_, ending)| ending);
    matches!(ending, Some("json" | "txt" | "model")) && !name.contains(".index.")
}

/// The best complete set of a folder's weights, with the variant's name.
fn weights<'a>(files: &[&'a Entry], variant: Variant) -> Option<(Vec<&'a Entry>, &'static str)> {
    let find = |name: &str| files.iter().copied().find(|file| split(&file.path).1 == name);
    for ending in &ENDINGS[..2] {
        for name in variant.names() {
            for stem in STEMS {
                if let Some(file) = find(&format!("{stem}{name}.{ending}")) {
                    return Some((vec![file], name));
                }
                let index = find(&format!("{stem}.{ending}.index{name}.json"))
                    .or_else(|| find(&format!("{stem}{name}.{ending}.index.json")));
                if let Some(index) = index
                    && let Some(mut shards) = shards(files, stem, name, ending)
                {
                    shards.push(index);
                    return Some((shards, name));
                }
            }
        }
    }
    None
}

/// All shards of a set, if none is missing.
fn shards<'a>(files: &[&'a Entry], stem: &str, variant: &str, ending: &str) -> Option<Vec<&'a Entry>> {
    // `STEM.fp16-00001-of-00002.safetensors`, or as it was once, `STEM-00001-of-00002.fp16.safetensors`.
    let number = |file: &Entry| -> Option<(usize, usize)> {
        let rest = split(&file.path).1.strip_prefix(stem)?.strip_suffix(ending)?.strip_suffix('.')?;
        let numbers = rest.strip_prefix(variant).or_else(|| rest.strip_suffix(variant))?.strip_prefix('-')?;
        let (number, count) = numbers.split_once("-of-")?;
        Some((number.parse().ok()?, count.parse().ok()?))
    };
    let numbered: Vec<_> = files.iter().filter_map(|&file| Some((number(file)?, file))).collect();
    let count = numbered.first()?.0.1;
    let found: Vec<_> = (1..=count.min(files.len()))
        .filter_map(|wanted| numbered.iter().find(|(number, _)| *number == (wanted, count)))
        .map(|(_, file)| *file)
        .collect();
    (found.len() == count).then_some(found)
}

/// The only file that can be meant, where a repository is neither a pipeline's nor a network's folder.
fn the_one_file(entries: &[Entry]) -> Result<&str, Error> {
    let mut files: Vec<(&str, &str, usize)> = Vec::new();
    for entry in entries {
        let Some((stem, ending)) = entry.path.rsplit_once('.') else { continue };
        let Some(rank) = ENDINGS.iter().position(|known| *known == ending) else { continue };
        let (_, name) = split(&entry.path);
        if LEFT_BEHIND.iter().any(|beginning| name.starts_with(beginning)) {
            continue;
        }
        // The same in two forms is one file, in the better form.
        match files.iter_mut().find(|(other, _, _)| *other == stem) {
            Some(known) if rank < known.2 => *known = (stem, &entry.path, rank),
            Some(_) => {}
            None => files.push((stem, &entry.path, rank)),
        }
    }
    // diffusers' and PEFT's own names for a LoRA.
    for name in ["pytorch_lora_weights", "adapter_model"] {
        if let Some((_, path, _)) = files.iter().find(|(stem, _, _)| *stem == name) {
            return Ok(path);
        }
    }
    // What lies in folders is mostly an earlier state of what lies above them.
    files.sort_by_key(|(_, path, _)| (path.contains('/'), *path));
    let above = files.iter().filter(|(_, path, _)| !path.contains('/')).count();
    match (files.as_slice(), above) {
        ([(_, path, _), ..], 1) | ([(_, path, _)], _) => Ok(path),
        ([], _) => Err(Error::NothingUsable {
            what: "the repository has no weights that can be used".to_owned(),
            files: entries.iter().map(|entry| entry.path.clone()).collect(),
        }),
        (all, _) => {
            Err(Error::SeveralFiles { files: all.iter().map(|(_, path, _)| (*path).to_owned()).collect() })
        }
    }
}
