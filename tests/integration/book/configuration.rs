//! `docs/src/configuration.md` is made from the structs that configuration files are read into: keys, types and meanings
//! from their source, defaults and what is required from reading small configurations. To write it anew:
//!
//! `DMD_WRITE_BOOK=1 cargo test --workspace --test integration book::configuration`

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;

use dmd::train::config::{DistillConfig, PixelTeacherConfig, TeacherConfig};
use serde::Serialize;
use serde::de::DeserializeOwned;
use syn::{
    Attribute, Expr, Field, Fields, GenericArgument, Item, ItemEnum, ItemStruct, Lit, Meta, PathArguments,
    Type,
};
use toml::{Table, Value};

use super::root;

const PAGE: &str = "docs/src/configuration.md";

/// Where the structs and enums of configurations are.
const SOURCES: [&str; 15] = [
    "crates/dmd-core/src/matching.rs",
    "crates/dmd-core/src/objective/divergence.rs",
    "crates/dmd-core/src/prediction.rs",
    "crates/dmd-core/src/times.rs",
    "crates/dmd-data/src/picture.rs",
    "crates/dmd-data/src/section.rs",
    "crates/dmd-eval/src/lpips.rs",
    "crates/dmd-train/src/config/distill/cache.rs",
    "crates/dmd-train/src/config/distill/evaluation.rs",
    "crates/dmd-train/src/config/distill/mod.rs",
    "crates/dmd-train/src/config/distill/sections.rs",
    "crates/dmd-train/src/config/pixel_teacher.rs",
    "crates/dmd-train/src/config/teacher.rs",
    "crates/dmd-train/src/lora.rs",
    "crates/dmd-train/src/optimizer.rs",
];
const PACE: &str = "crates/dmd-train/src/pace.rs";

/// A configuration with what is required and nothing else; every section is present.
const DISTILL: &str = r#"
teacher = "T"
output = "O"
data = { kind = "shapes" }
pace = { steps = 1 }
cache = { path = "C" }
lora = {}
regression = { weight = 1.0, pairs = 1, sampling_steps = 1, warmup_steps = 0, perceptual = { trunk = "T", weightings = "W" } }
adversarial = { reals = 1 }
evaluation = { every = 1 }
"#;
const TEACHER: &str = r#"
seed = 1
output = "O"
data = { kind = "shapes" }
text = { width = 1, layers = 1, heads = 1 }
unet = { block_out_channels = [1], layers_per_block = 1, heads = 1, norm_num_groups = 1 }
grounding = { batch = 1, learning_rate = 1.0, warmup_steps = 0, pace = { steps = 1 } }
[autoencoder]
block_out_channels = [1]
layers_per_block = 1
latent_channels = 1
norm_num_groups = 1
kl_weight = 0.0
batch = 1
learning_rate = 1.0
warmup_steps = 0
ema_decay = 0.0
pace = { steps = 1 }
[diffusion]
pool = 1
batch = 1
levels_per_caption = 1
loss = "epsilon"
noisy_half_share = 0.0
caption_dropout = 0.0
learning_rate = 1.0
warmup_steps = 0
ema_decay = 0.0
pace = { steps = 1 }
"#;
const PIXELS: &str = r#"
kind = "pixels"
seed = 1
output = "O"
data = { kind = "shapes" }
unet = { block_out_channels = [1], layers_per_block = 1, attention_head_dim = 1, norm_num_groups = 1 }
[training]
batch = 1
learning_rate = 1.0
warmup_steps = 0
ema_decay = 0.0
class_dropout = 0.0
pace = { steps = 1 }
"#;

/// Types that several sections share have one place in the page.
const SHARED: [&str; 2] = ["Pace", "DataSection"];

const HEAD: &str = "\
# Every configuration key

`dmd teacher` and `dmd distill` read TOML files. This page lists every key. It is made from the code, and a test fails if
the two differ. A key that is not listed here is refused with an error that names it.

*required* means that the file must contain the key. A section that is not required may be left out; its required keys
count only if the section is there. `config.toml` in a run's folder shows all values that a run uses.

";

#[derive(Default)]
struct Types {
    structs: BTreeMap<String, ItemStruct>,
    enums: BTreeMap<String, ItemEnum>,
}

impl Types {
    fn read() -> Self {
        let mut types = Self::default();
        for source in SOURCES.iter().chain([&PACE]) {
            let file = syn::parse_file(&fs::read_to_string(root().join(source)).unwrap()).unwrap();
            for item in file.items {
                match item {
                    Item::Struct(item) => drop(types.structs.insert(item.ident.to_string(), item)),
                    Item::Enum(item) => drop(types.enums.insert(item.ident.to_string(), item)),
                    _ => {}
                }
            }
        }
        types
    }

    /// The type in words, linked where the page explains it.
    fn words(&self, kind: &Type) -> String {
        let (name, inner) = named(kind);
        match (name.as_str(), inner) {
            ("Option", Some(inner)) => self.words(inner),
            ("Vec", Some(inner)) if named(inner).0 == "String" => "list of texts".to_owned(),
            ("Vec", Some(inner)) => format!("list of {}s", self.words(inner)),
            ("usize" | "u64" | "u32", _) => "whole number".to_owned(),
            ("f64", _) => "number".to_owned(),
            ("bool", _) => "`true` or `false`".to_owned(),
            ("String", _) => "text".to_owned(),
            ("PathBuf", _) => "path".to_owned(),
            ("DataSection", _) => "[section](#data)".to_owned(),
            ("Pace", _) => "[section](#pace)".to_owned(),
            (name, _) if self.enums.contains_key(name) => {
                format!("[{}](#{})", spaced(name), anchor(&spaced(name)))
            }
            (name, _) if self.structs.contains_key(name) => "section".to_owned(),
            (name, _) => panic!("no words for the type {name}"),
        }
    }

    /// The value that a key has when it is left out and reading it back does not show it.
    fn hidden_default(&self, kind: &Type) -> String {
        let (name, _) = named(kind);
        match name.as_str() {
            "Option" => "not set".to_owned(),
            "Vec" => "`[]`".to_owned(),
            "f64" => "`0.0`".to_owned(),
            "bool" => "`false`".to_owned(),
            name => {
                let item = self.enums.get(name).unwrap_or_else(|| panic!("{name} hides its default"));
                let default = item
                    .variants
                    .iter()
                    .find(|variant| variant.attrs.iter().any(|a| a.path().is_ident("default")));
                format!(
                    "`\"{}\"`",
                    serialised(item, &default.unwrap().ident.to_string(), &default.unwrap().attrs)
                )
            }
        }
    }

    /// A section's table, and after it those of the sections in it.
    fn section<C: DeserializeOwned + Serialize>(
        &self,
        root: &Root<'_>,
        path: &[String],
        item: &ItemStruct,
        page: &mut String,
    ) {
        let mut inner = Vec::new();
        page.push_str("| key | type | default | meaning |\n| --- | --- | --- | --- |\n");
        for field in &item.fields {
            let key = field.ident.as_ref().unwrap().to_string();
            let meaning = documented(&field.attrs);
            assert!(!meaning.is_empty(), "{}.{key} has no documentation", item.ident);
            let here = [path, std::slice::from_ref(&key)].concat();
            let (name, of) = named(&field.ty);
            let section =
                of.map_or(name.clone(), |of| if name == "Option" { named(of).0 } else { name.clone() });
            let is_section = self.structs.contains_key(&section) && !SHARED.contains(&section.as_str());
            let (kind, default) = match (is_section, self.required::<C>(root, &here)) {
                (true, required) => {
                    let heading = root.heading(&here);
                    inner.push((heading.clone(), section, here));
                    let default = match (required, name.as_str()) {
                        (true, _) => "*required*",
                        (false, "Option") => "not set",
                        (false, _) => "its defaults",
                    };
                    (format!("[section](#{})", anchor(&heading)), default.to_owned())
                }
                (false, true) => (self.words(&field.ty), "*required*".to_owned()),
                (false, false) => (self.words(&field.ty), self.default_of(root, &here, field)),
            };
            writeln!(page, "| `{key}` | {kind} | {default} | {} |", meaning.replace('|', "\\|")).unwrap();
        }
        for (heading, name, here) in inner {
            let item = &self.structs[&name];
            write!(page, "\n### {heading}\n\n{}", lead(&documented(&item.attrs))).unwrap();
            self.section::<C>(root, &here, item, page);
        }
    }

    /// Whether the smallest configuration cannot be read without a key.
    fn required<C: DeserializeOwned + Serialize>(&self, root: &Root<'_>, path: &[String]) -> bool {
        let mut without = root.smallest.clone();
        let (key, parents) = path.split_last().unwrap();
        let mut table = &mut without;
        for parent in parents {
            let Some(Value::Table(inner)) = table.get_mut(parent) else { return false };
            table = inner;
        }
        table.remove(key).is_some() && without.try_into::<C>().is_err()
    }

    /// The value of a key that is left out.
    fn default_of(&self, root: &Root<'_>, path: &[String], field: &Field) -> String {
        let (key, parents) = path.split_last().unwrap();
        let mut table = Some(&root.full);
        for parent in parents {
            table = table.and_then(|table| table.get(parent)).and_then(Value::as_table);
        }
        let given = parents.iter().try_fold(&root.smallest, |table, parent| table.get(parent)?.as_table());
        assert!(given.is_none_or(|table| !table.contains_key(key)), "{path:?} is given but not required");
        match table.and_then(|table| table.get(key)) {
            Some(value) => format!("`{}`", shown(value)),
            None => self.hidden_default(&field.ty),
        }
    }

    /// The values of an enum.
    fn values(&self, name: &str, page: &mut String) {
        let item = &self.enums[name];
        write!(page, "\n### {}\n\n{}\n\n", spaced(name), documented(&item.attrs)).unwrap();
        // Names that say everything.
        if item.variants.iter().all(|variant| documented(&variant.attrs).is_empty()) {
            let names = item.variants.iter().map(|variant| (variant.ident.to_string(), &variant.attrs));
            let names = names
                .map(|(variant, attributes)| format!("`\"{}\"`", serialised(item, &variant, attributes)));
            writeln!(page, "{}.", names.collect::<Vec<_>>().join(", ")).unwrap();
            return;
        }
        page.push_str("| value | meaning |\n| --- | --- |\n");
        for variant in &item.variants {
            let value = serialised(item, &variant.ident.to_string(), &variant.attrs);
            let mut meaning = documented(&variant.attrs);
            let value = match &variant.fields {
                Fields::Unit => format!("`\"{value}\"`"),
                Fields::Unnamed(fields) => {
                    format!("`{{ {value} = … }}`, {}", self.words(&fields.unnamed[0].ty))
                }
                Fields::Named(fields) => {
                    let keys = fields.named.iter().map(|field| field.ident.as_ref().unwrap().to_string());
                    let keys: Vec<String> = keys.collect();
                    for (key, field) in keys.iter().zip(&fields.named) {
                        let said = documented(&field.attrs);
                        assert!(!said.is_empty(), "{name}: {key} has no documentation");
                        write!(meaning, " `{key}`: {said}").unwrap();
                    }
                    let keys: Vec<String> = keys.iter().map(|key| format!("{key} = …")).collect();
                    format!("`{{ {value} = {{ {} }} }}`", keys.join(", "))
                }
            };
            writeln!(page, "| {value} | {meaning} |").unwrap();
        }
    }

    /// The kinds of data, and their keys.
    fn data(&self, page: &mut String) {
        let item = &self.enums["DataSection"];
        page.push_str("\n## Data\n\n`[data]` of every configuration, and `data` of `[evaluation]`: where captions and pictures come from. `kind` chooses one of these.\n");
        for variant in &item.variants {
            let kind = serialised(item, &variant.ident.to_string(), &variant.attrs);
            write!(page, "\n### `kind = \"{kind}\"`\n\n{}\n", documented(&variant.attrs)).unwrap();
            let fields: Vec<&Field> = match &variant.fields {
                Fields::Unnamed(inner) => {
                    self.structs[&named(&inner.unnamed[0].ty).0].fields.iter().collect()
                }
                fields => fields.iter().collect(),
            };
            if fields.is_empty() {
                continue;
            }
            page.push_str("\n| key | type | default | meaning |\n| --- | --- | --- | --- |\n");
            for field in fields {
                let optional = field.attrs.iter().any(|attribute| {
                    attribute.path().is_ident("serde")
                        && serde_words(attribute).iter().any(|word| word == "default")
                });
                let default = if optional { self.hidden_default(&field.ty) } else { "*required*".to_owned() };
                let (key, meaning) = (field.ident.as_ref().unwrap(), documented(&field.attrs));
                writeln!(page, "| `{key}` | {} | {default} | {meaning} |", self.words(&field.ty)).unwrap();
            }
        }
    }
}

/// A kind of configuration file.
struct Root<'a> {
    name: &'a str,
    smallest: Table,
    full: Table,
}

impl<'a> Root<'a> {
    fn of<C: DeserializeOwned + Serialize>(name: &'a str, smallest: &str) -> Self {
        let config: C = toml::from_str(smallest).unwrap();
        let full = Table::try_from(&config).unwrap();
        Self { name, smallest: smallest.parse().unwrap(), full }
    }

    fn heading(&self, path: &[String]) -> String {
        format!("`[{}]` of {}", path.join("."), self.name)
    }
}

/// A type's last name, and what it is generic over.
fn named(kind: &Type) -> (String, Option<&Type>) {
    let Type::Path(path) = kind else { panic!("a field has no named type") };
    let last = path.path.segments.last().unwrap();
    let inner = match &last.arguments {
        PathArguments::AngleBracketed(arguments) => {
            arguments.args.iter().find_map(|argument| match argument {
                GenericArgument::Type(inner) => Some(inner),
                _ => None,
            })
        }
        _ => None,
    };
    (last.ident.to_string(), inner)
}

/// `TimeDistribution` is "time distribution".
fn spaced(name: &str) -> String {
    let name = name.strip_suffix("Section").unwrap_or(name);
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

/// A heading's anchor, as mdBook and GitHub make it.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.map(|letter| if letter == ' ' { '-' } else { letter.to_ascii_lowercase() }).collect()
}

/// The first paragraph of a documentation comment, links of rustdoc as plain code.
fn documented(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value().trim().to_owned()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    let first: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    first.join(" ").replace("[`", "`").replace("`]", "`")
}

/// What a section's documentation says behind "`[name]` of something: ".
fn lead(said: &str) -> String {
    let Some((_, rest)) = said.strip_prefix("`[").and_then(|said| said.split_once(": ")) else {
        panic!("a section's documentation begins with its name and a colon: {said}");
    };
    let mut letters = rest.chars();
    let first = letters.next().unwrap().to_uppercase();
    format!("{first}{}\n\n", letters.as_str())
}

/// The words of `#[serde(…)]`: `default`, `rename`, and the values behind them.
fn serde_words(attribute: &Attribute) -> Vec<String> {
    let mut words = Vec::new();
    attribute
        .parse_nested_meta(|meta| {
            words.push(meta.path.get_ident().unwrap().to_string());
            if let Ok(value) = meta.value() {
                words.push(value.parse::<syn::LitStr>()?.value());
            }
            Ok(())
        })
        .unwrap();
    words
}

/// The value of an option in `#[serde(…)]`.
fn serde_value(attributes: &[Attribute], name: &str) -> Option<String> {
    let attribute = attributes.iter().filter(|attribute| attribute.path().is_ident("serde"));
    let words = attribute.flat_map(serde_words).collect::<Vec<_>>();
    let place = words.iter().position(|word| word == name)?;
    words.get(place + 1).cloned()
}

/// A variant's name in a file.
fn serialised(item: &ItemEnum, variant: &str, attributes: &[Attribute]) -> String {
    if let Some(name) = serde_value(attributes, "rename") {
        return name;
    }
    match serde_value(&item.attrs, "rename_all").as_deref() {
        Some("snake_case") => spaced(variant).replace(' ', "_"),
        Some("lowercase") => variant.to_lowercase(),
        other => panic!("{}: names are {other:?}", item.ident),
    }
}

/// A value as a person writes it.
fn shown(value: &Value) -> String {
    match value {
        Value::Float(number) if *number != 0.0 && number.abs() < 1e-3 => format!("{number:e}"),
        value => value.to_string(),
    }
}

/// The page.
fn written() -> String {
    let types = Types::read();
    let mut page = HEAD.to_owned();
    page.push_str(
        "## A distillation\n\nThe file of `dmd distill`, `dmd pairs`, `dmd cache` and `dmd plan`.\n\n",
    );
    let root = Root::of::<DistillConfig>("a distillation", DISTILL);
    types.section::<DistillConfig>(&root, &[], &types.structs["DistillConfig"], &mut page);
    page.push_str("\n## A teacher\n\nThe file of `dmd teacher` for a text-to-image model.\n\n");
    let root = Root::of::<TeacherConfig>("a teacher", TEACHER);
    types.section::<TeacherConfig>(&root, &[], &types.structs["TeacherConfig"], &mut page);
    page.push_str(
        "\n## A teacher on pixels\n\nThe file of `dmd teacher` for a class-conditional model on pixels.\n\n",
    );
    let root = Root::of::<PixelTeacherConfig>("a teacher on pixels", PIXELS);
    types.section::<PixelTeacherConfig>(&root, &[], &types.structs["PixelTeacherConfig"], &mut page);
    types.data(&mut page);
    page.push_str("\n## Pace\n\n`pace` of every stage: its length, and how often it logs and saves.\n\n");
    let root = Root::of::<DistillConfig>("a distillation", DISTILL);
    types.section::<DistillConfig>(&root, &["pace".to_owned()], &types.structs["Pace"], &mut page);
    page.push_str("\n## Values\n");
    // Those that the page links to, in the order of their names.
    let linked = |name: &&String| page.contains(&format!("](#{})", anchor(&spaced(name))));
    let mut names: Vec<&String> =
        types.enums.keys().filter(|name| *name != "DataSection").filter(linked).collect();
    if names.iter().any(|name| *name == "ObjectiveSection") {
        names.extend(types.enums.keys().filter(|name| *name == "Divergence"));
    }
    names.sort_by_key(|name| spaced(name));
    names.dedup();
    let mut values = String::new();
    names.iter().for_each(|name| types.values(name, &mut values));
    page + &values
}

/// The page says what the code does.
#[test]
fn the_reference_of_keys_is_that_of_the_code() {
    let (place, page) = (root().join(PAGE), written());
    if std::env::var_os("DMD_WRITE_BOOK").is_some() {
        fs::write(place, page).unwrap();
        return;
    }
    let there = fs::read_to_string(place).unwrap();
    let differs = there.lines().zip(page.lines()).position(|(there, made)| there != made);
    let line = differs.unwrap_or_else(|| there.lines().count().min(page.lines().count()));
    assert!(
        there == page,
        "{PAGE} differs from the code at line {}; DMD_WRITE_BOOK=1 with this test writes it anew:\n{}",
        line + 1,
        page.lines().nth(line).unwrap_or("(the page is longer)")
    );
}

/// A key that the page does not list is refused, and so is a wrong type.
#[test]
fn other_keys_are_refused() {
    for extra in ["unknown = 1", "guidance_scale = \"much\""] {
        assert!(toml::from_str::<DistillConfig>(&format!("{extra}\n{DISTILL}")).is_err(), "{extra}");
    }
}
