use crate::pattern::fits;
use crate::{Entry, Error};

/// Folders of a pipeline that contain a network.
const NETWORKS: [&str; 5] = ["unet", "unet_one_step", "vae", "text_encoder", "text_encoder_2"];

/// The other folders of a pipeline. Further folders of diffusers, such as `safety_checker`, are not used.
const OTHERS: [&str; 3] = ["scheduler", "tokenizer", "tokenizer_2"];

/// Beginnings of a network's weight files: diffusers', transformers', and transformers' for pickles.
const STEMS: [&str; 3] = ["diffusion_pytorch_model", "model", "pytorch_model"];

/// Endings of weight files, in the order of preference. Files for other frameworks have other endings or other
/// beginnings: `flax_model.msgpack`, `model.onnx`, `openvino_model.bin`.
const ENDINGS: [&str; 5] = ["safetensors", "bin", "ckpt", "pt", "pth"];

/// Beginnings of the names of files that are not weights, such as those that a training writes.
const LEFT_BEHIND: [&str; 6] =
    ["optimizer", "scheduler", "training_args", "random_states", "rng_state", "openvino_model"];

/// A published precision of weights. If a network lacks the requested variant, another is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Variant {
    /// Files without a variant in their names, which usually hold f32.
    #[default]
    Full,
    /// Files with `fp16` in their names, which have half the size.
    Fp16,
    /// Files with `bf16` in their names.
    Bf16,
}

impl Variant {
    /// The part of the files' names for each variant, in the order of preference.
    fn names(self) -> [&'static str; 3] {
        match self {
            Self::Full => ["", ".fp16", ".bf16"],
            Self::Fp16 => [".fp16", "", ".bf16"],
            Self::Bf16 => [".bf16", "", ".fp16"],
        }
    }
}

/// A selection of a repository's files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Selection {
    /// The files, ordered by path.
    pub files: Vec<Entry>,
    /// The file that is the model, if the model is a single file.
    pub single: Option<String>,
    /// Folders of networks that do not have the requested variant, so that another was selected. `.` is the root of the
    /// repository.
    pub other_variant: Vec<String>,
}

impl Selection {
    /// Selects the files that match one of the patterns, with the rules of Python's `fnmatch`: `*` matches any text,
    /// including slashes.
    pub fn matching(entries: &[Entry], patterns: &[&str]) -> Self {
        let fits_one = |entry: &&Entry| patterns.iter().any(|pattern| fits(&entry.path, pattern));
        Self { files: entries.iter().filter(fits_one).cloned().collect(), ..Self::default() }
    }

    /// Selects one file and the configurations in the same folder.
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

    /// The total length of all files, in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|entry| entry.size).sum()
    }
}

/// Selects the files of a diffusion model. The repository may have one of three forms:
///
/// - **A pipeline's folder** (with `unet/config.json` or `unet_one_step/config.json`): `model_index.json` and
///   `classes.json` are selected, and from each of the folders `unet`, `unet_one_step`, `vae`, `text_encoder`,
///   `text_encoder_2`, `tokenizer`, `tokenizer_2` and `scheduler` the configurations and one set of weights.
///   Safetensors are preferred to pickles (`.bin`), then the requested variant to others, then one file to complete
///   shards.
/// - **A network's folder** (with `config.json` and weights at the root): its configurations and one set of weights are
///   selected in the same way.
/// - **One file**, such as a checkpoint or a LoRA. Which file is meant must be clear.
///
/// # Errors
///
/// [`Error::SeveralFiles`] if several files are possible; it lists them. [`Error::NothingUsable`] if there are no
/// usable weights; it lists what the repository has instead.
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
    /// Adds the configurations and one set of weights of a network.
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

/// Splits a path into folder and name.
fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// The files in a folder, without those in its sub-folders.
fn inside<'a>(entries: &'a [Entry], folder: &str) -> Vec<&'a Entry> {
    entries.iter().filter(|entry| split(&entry.path).0 == folder).collect()
}

/// Whether a file is a configuration or a part of a tokenizer. An index of shards is not: it belongs to its shards.
fn is_small(file: &Entry) -> bool {
    let (_, name) = split(&file.path);
    let ending = name.rsplit_once('.').map(|(_, ending)| ending);
    matches!(ending, Some("json" | "txt" | "model")) && !name.contains(".index.")
}

/// The preferred complete set of weights among the files of a folder, with the variant's part of the name.
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

/// All shards of a set, or `None` if one is missing.
fn shards<'a>(files: &[&'a Entry], stem: &str, variant: &str, ending: &str) -> Option<Vec<&'a Entry>> {
    // Names are `STEM.fp16-00001-of-00002.safetensors` or, in an older form, `STEM-00001-of-00002.fp16.safetensors`.
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

/// The file that is meant in a repository that is neither a pipeline's nor a network's folder.
fn the_one_file(entries: &[Entry]) -> Result<&str, Error> {
    let mut files: Vec<(&str, &str, usize)> = Vec::new();
    for entry in entries {
        let Some((stem, ending)) = entry.path.rsplit_once('.') else { continue };
        let Some(rank) = ENDINGS.iter().position(|known| *known == ending) else { continue };
        let (_, name) = split(&entry.path);
        if LEFT_BEHIND.iter().any(|beginning| name.starts_with(beginning)) {
            continue;
        }
        // Files that differ only in their ending count as one file, with the preferred ending.
        match files.iter_mut().find(|(other, _, _)| *other == stem) {
            Some(known) if rank < known.2 => *known = (stem, &entry.path, rank),
            Some(_) => {}
            None => files.push((stem, &entry.path, rank)),
        }
    }
    // diffusers' and PEFT's standard names for a LoRA.
    for name in ["pytorch_lora_weights", "adapter_model"] {
        if let Some((_, path, _)) = files.iter().find(|(stem, _, _)| *stem == name) {
            return Ok(path);
        }
    }
    // Files in sub-folders are usually earlier states of those at the root, so the root comes first.
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
