//! Tokenizer folders as transformers writes them. Expected numbers are those of transformers 5.24.0's `CLIPTokenizer`
//! on the same folder.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use dmd_clip::{Error, Padding, Tokenizer, Vocabulary};
use serde_json::{Value, json};
use tempfile::TempDir;

/// 528 tokens; the last two are start and end.
fn vocabulary() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/clip_gelu")
}

/// A folder with the golden vocabulary and these files beside it.
fn folder(files: &[(&str, Value)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt"] {
        fs::copy(vocabulary().join(name), folder.path().join(name)).unwrap();
    }
    for (name, value) in files {
        fs::write(folder.path().join(name), value.to_string()).unwrap();
    }
    folder
}

fn open(files: &[(&str, Value)]) -> Tokenizer {
    Tokenizer::from_dir(folder(files).path(), 77).unwrap()
}

/// `added_tokens_decoder` with one token of these flags.
fn decoder(content: &str, flags: &[(&str, bool)]) -> Value {
    let mut token = json!({
        "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": true,
        "special": false,
    });
    for (flag, value) in flags {
        token[*flag] = json!(value);
    }
    json!({ "added_tokens_decoder": { "528": token } })
}

/// The tokens between start and end.
fn inner(tokenizer: &Tokenizer, prompt: &str) -> Vec<u32> {
    let ids = tokenizer.tokens(prompt).unwrap();
    assert_eq!((ids[0], ids[ids.len() - 1]), (526, 527));
    ids[1..ids.len() - 1].to_vec()
}

/// `tokenizer.json` as transformers 5 saves it.
fn whole() -> Value {
    let vocabulary = fs::read_to_string(vocabulary().join("vocab.json")).unwrap();
    let merges = fs::read_to_string(self::vocabulary().join("merges.txt")).unwrap();
    let merges: Vec<Vec<&str>> =
        merges.lines().filter(|line| !line.starts_with('#')).map(|line| line.split(' ').collect()).collect();
    let token = |id: u32, content: &str, special: bool| {
        json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": !special, "special": special,
        })
    };
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [
            token(526, "<|startoftext|>", true), token(527, "<|endoftext|>", true), token(528, "<cat-toy>", false),
        ],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "NFC" },
            { "type": "Replace", "pattern": { "Regex": "\\s+" }, "content": " " },
            { "type": "Lowercase" },
        ] },
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [
            { "type": "Split", "pattern": { "Regex": "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|\
              [\\p{L}]+|[\\p{N}]|[^\\s\\p{L}\\p{N}]+" }, "behavior": "Removed", "invert": true },
            { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        ] },
        "post_processor": { "type": "RobertaProcessing", "sep": ["<|endoftext|>", 527],
            "cls": ["<|startoftext|>", 526], "trim_offsets": false, "add_prefix_space": false },
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": "<|endoftext|>", "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": serde_json::from_str::<Value>(&vocabulary).unwrap(), "merges": merges,
        },
    })
}

/// A folder with nothing but this `tokenizer.json`.
fn only(file: &Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), file.to_string()).unwrap();
    folder
}

#[test]
fn taught_words_in_every_layout() {
    let alone = only(&whole());
    let layouts = [
        ("added_tokens.json", open(&[("added_tokens.json", json!({ "<cat-toy>": 528 }))])),
        ("added_tokens_decoder", open(&[("tokenizer_config.json", decoder("<cat-toy>", &[]))])),
        ("tokenizer.json", Tokenizer::from_dir(alone.path(), 77).unwrap()),
        ("tokenizer.json beside vocab.json", open(&[("tokenizer.json", whole())])),
    ];
    for (layout, tokenizer) in layouts {
        for (prompt, expected) in [
            ("a <cat-toy> circle", vec![320, 528, 518]),
            ("a <Cat-Toy>circle", vec![320, 528, 518]),
            ("a<cat-toy>, circle!", vec![320, 528, 267, 518, 256]),
            ("<|startoftext|> a", vec![526, 320]),
        ] {
            assert_eq!(inner(&tokenizer, prompt), expected, "{layout}: {prompt:?}");
        }
        assert_eq!(tokenizer.largest_id(), 528, "{layout}");
    }
}

#[test]
fn flags_of_added_tokens() {
    let spelled = vec![320, 283, 66, 64, 339, 268, 83, 78, 344, 285, 518];
    for flags in [vec![("normalized", false)], vec![("normalized", false), ("special", true)]] {
        let tokenizer = open(&[("tokenizer_config.json", decoder("<cat-toy>", &flags))]);
        assert_eq!(inner(&tokenizer, "a <cat-toy> circle"), [320, 528, 518]);
        assert_eq!(inner(&tokenizer, "a <Cat-Toy>circle"), spelled, "in other letters, it is another word");
    }
    let plain = open(&[("tokenizer_config.json", decoder("toy", &[]))]);
    assert_eq!(inner(&plain, "toys toy"), [528, 338, 528]);
    assert_eq!(inner(&plain, "atoy"), [320, 528]);
    let single = open(&[("tokenizer_config.json", decoder("toy", &[("single_word", true)]))]);
    assert_eq!(inner(&single, "toys toy"), [83, 78, 88, 338, 528]);
    assert_eq!(inner(&single, "atoy"), [64, 83, 78, 344]);
    let strips = open(&[("tokenizer_config.json", decoder("toy", &[("lstrip", true), ("rstrip", true)]))]);
    assert_eq!(inner(&strips, "a\ttoy  ."), [320, 528, 269]);
}

/// Stable Diffusion 2.x pads with "!", which thereby becomes a special token: it is found in prompts, too.
#[test]
fn padding_with_a_token_of_the_vocabulary() {
    let map = json!({ "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "!" });
    let config = json!({ "pad_token": "<|endoftext|>", "model_max_length": 77 });
    let tokenizer = open(&[("special_tokens_map.json", map.clone()), ("tokenizer_config.json", config)]);
    assert_eq!(inner(&tokenizer, "hello! wow"), [71, 68, 75, 75, 334, 0, 86, 78, 342]);
    assert_eq!(tokenizer.encode("red !").unwrap()[..6], [526, 513, 0, 527, 0, 0]);

    // A folder with `added_tokens_decoder` has its special tokens in `tokenizer_config.json`.
    let mut config = decoder("<cat-toy>", &[]);
    config["pad_token"] = json!("<|endoftext|>");
    let tokenizer = open(&[("special_tokens_map.json", map), ("tokenizer_config.json", config)]);
    assert_eq!(inner(&tokenizer, "hello! wow"), [71, 68, 75, 75, 334, 256, 86, 78, 342]);
    assert_eq!(tokenizer.encode("red !").unwrap()[..6], [526, 513, 256, 527, 527, 527]);
}

#[test]
fn side_and_length_of_the_padding() {
    let left = json!({ "padding_side": "left", "model_max_length": 8 });
    let tokenizer = open(&[("tokenizer_config.json", left)]);
    assert_eq!(tokenizer.max_tokens(), 8);
    assert_eq!(tokenizer.encode("red !").unwrap(), [527, 527, 527, 527, 526, 513, 256, 527]);

    // What transformers writes for "no limit", a limit above the positions, the option's older name.
    let unlimited: Value = serde_json::from_str("1000000000000000019884624838656").unwrap();
    for (config, expected) in [
        (json!({ "model_max_length": unlimited }), 77),
        (json!({ "model_max_length": 512 }), 77),
        (json!({ "max_len": 16 }), 16),
        (json!({}), 77),
    ] {
        assert_eq!(open(&[("tokenizer_config.json", config)]).max_tokens(), expected);
    }
}

/// diffusers' `maybe_convert_prompt`: a word of several vectors is written as all of them.
#[test]
fn a_word_of_several_vectors() {
    let added = json!({ "<cat-toy>": 528, "<cat-toy>_1": 529, "<cat-toy>_2": 530, "<dog>": 531 });
    let tokenizer = open(&[("added_tokens.json", added)]);
    assert_eq!(inner(&tokenizer, "a <cat-toy> circle"), [320, 528, 529, 530, 518]);
    assert_eq!(inner(&tokenizer, "<dog> <cat-toy>_1"), [531, 529]);
    assert_eq!(tokenizer.count("a <cat-toy> circle").unwrap(), 7);
}

/// The same, of words that are added when the folder is read already.
#[test]
fn words_are_added() {
    let tokenizer = open(&[]).with_word("<cat-toy>", 3).unwrap().with_word("<dog>", 1).unwrap();
    assert_eq!(inner(&tokenizer, "a <Cat-Toy> circle"), [320, 528, 529, 530, 518]);
    assert_eq!(inner(&tokenizer, "<dog> <cat-toy>_1"), [531, 529]);
    assert_eq!(tokenizer.largest_id(), 531);
    // The whole vocabulary of the published models: "cat" is one of its tokens.
    let tokenizer = Tokenizer::openai(Padding::End, 77);
    let taught = tokenizer.with_word("cat-toy", 2).unwrap();
    assert_eq!(taught.tokens("a cat-toy").unwrap(), [49406, 320, 49408, 49409, 49407]);
    assert_eq!(taught.tokens("a cat").unwrap(), tokenizer.tokens("a cat").unwrap());
    for word in ["cat", "<|endoftext|>", "", " "] {
        let message = tokenizer.with_word(word, 1).unwrap_err().to_string();
        assert!(message.contains(&format!("{word:?}")) && message.len() < 200, "{message}");
    }
}

fn refused(folder: &Path) -> String {
    let error = Tokenizer::from_dir(folder, 77).unwrap_err().to_string();
    assert!(error.len() < 600, "{error}");
    error
}

#[test]
fn options_that_are_not_honoured_are_refused_by_name() {
    for (key, value) in [
        ("add_prefix_space", json!(true)),
        ("split_special_tokens", json!(true)),
        ("add_bos_token", json!(false)),
        ("do_lower_case", json!(false)),
        ("tokenizer_class", json!("T5Tokenizer")),
        ("model_max_length", json!(2)),
        ("additional_special_tokens", json!(["<nowhere>"])),
    ] {
        let mut config = json!({});
        config[key] = value;
        let error = refused(folder(&[("tokenizer_config.json", config)]).path());
        assert!(error.contains(key), "{key}: {error}");
    }
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 9] = [
        ("normalizer", |file| file["normalizer"] = Value::Null),
        ("normalizer", |file| file["normalizer"]["normalizers"][2] = json!({ "type": "StripAccents" })),
        ("pre_tokenizer", |file| file["pre_tokenizer"] = json!({ "type": "Whitespace" })),
        ("pre_tokenizer", |file| {
            file["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = json!(true);
        }),
        ("post_processor", |file| file["post_processor"]["cls"] = json!(["<|endoftext|>", 527])),
        ("model.type", |file| file["model"]["type"] = json!("WordLevel")),
        ("model.end_of_word_suffix", |file| file["model"]["end_of_word_suffix"] = Value::Null),
        ("model.dropout", |file| file["model"]["dropout"] = json!(0.1)),
        ("model.byte_fallback", |file| file["model"]["byte_fallback"] = json!(true)),
    ];
    for (key, change) in changes {
        let mut file = whole();
        change(&mut file);
        let error = refused(only(&file).path());
        assert!(error.contains(key), "{key}: {error}");
    }
}

#[test]
fn vocabularies_that_disagree_are_refused() {
    let mut file = whole();
    file["model"]["vocab"]["red</w>"] = json!(12);
    let error = refused(folder(&[("tokenizer.json", file)]).path());
    assert!(error.contains("red</w>") && error.contains("disagree"), "{error}");

    // A number that transformers would change in silence.
    let error = refused(folder(&[("added_tokens.json", json!({ "<cat-toy>": 600 }))]).path());
    assert!(error.contains("<cat-toy>") && error.contains("600") && error.contains("528"), "{error}");
    let error = refused(folder(&[("added_tokens.json", json!({ "red</w>": 528 }))]).path());
    assert!(error.contains("red</w>"), "{error}");
}

#[test]
fn a_long_prompt_is_counted_and_cut_in_the_error() {
    let tokenizer = open(&[]);
    let prompt = "red ".repeat(500);
    assert_eq!(tokenizer.count(&prompt).unwrap(), 502);
    match tokenizer.encode(&prompt).unwrap_err() {
        Error::TooLong { prompt, found, max } => {
            assert_eq!((found, max), (502, 77));
            assert_eq!(prompt.chars().count(), 101);
        }
        other => panic!("{other}"),
    }
}

/// The ids of transformers' `CLIPTokenizer` 5.23 with OpenAI's merges, under both paddings of the published models.
#[test]
fn the_vocabulary_of_clip_is_part_of_the_library() {
    let start = |padding, prompt, count| {
        Tokenizer::openai(padding, 77).encode(prompt).unwrap().into_iter().take(count).collect::<Vec<u32>>()
    };
    let words = [49406, 320, 1125, 539, 550, 18376, 6765, 320, 4558, 525, 7496, 49407, 49407];
    assert_eq!(start(Padding::End, "a photo of an astronaut riding a horse on mars", 13), words);
    assert_eq!(start(Padding::End, "red !! red", 6), [49406, 736, 748, 736, 49407, 49407]);
    assert_eq!(start(Padding::ExclamationMark, "red !! red", 7), [49406, 736, 0, 0, 736, 49407, 0]);
    let foreign = [49406, 15304, 1097, 35689, 563, 48338, 21078, 361, 14448, 847, 713, 649, 1342, 49407, 0];
    assert_eq!(start(Padding::ExclamationMark, "café naïve 東京 🎈 don't we'll", 15), foreign);
    assert_eq!(Vocabulary::openai().len(), 49408);
    // Written as a folder, it is read back as the same tokenizer.
    let folder = tempfile::tempdir().unwrap();
    Vocabulary::openai().save_padded(folder.path(), 77, Padding::ExclamationMark).unwrap();
    let read = Tokenizer::from_dir(folder.path(), 77).unwrap();
    let prompt = "Hyper-realistic, 8k; (masterpiece:1.2)!";
    assert_eq!(
        read.encode(prompt).unwrap(),
        Tokenizer::openai(Padding::ExclamationMark, 77).encode(prompt).unwrap()
    );
}
