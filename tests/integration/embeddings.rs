//! Textual inversion against diffusers: the features of prompts that have a word of a file. Fixtures made by
//! `scripts/golden_embedding.py`.

use std::path::{Path, PathBuf};

use dmd::infer::{Pipeline, PipelineBuilder, TextFeatures};
use dmd::model::{EmbeddingOption, OpenOptions};

use crate::opening::class_model;
use crate::support::{Fixture, Weights, assert_close, device, golden, tiny_model};

fn file(name: &str) -> PathBuf {
    golden(&format!("embeddings/{name}"))
}

/// The prompts of the fixtures.
fn prompts(word: &str) -> [String; 2] {
    [format!("a {word} above a red circle"), format!("{word}, blue {word}")]
}

fn features(pipeline: &Pipeline, prompt: &str) -> TextFeatures {
    pipeline.encode_prompt(&[prompt]).unwrap()
}

/// A builder of Stable Diffusion XL, tiny.
fn xl() -> PipelineBuilder {
    Pipeline::builder(golden("sdxl"), &device())
}

/// Why a pipeline is not built.
fn refusal(builder: PipelineBuilder) -> String {
    builder.build().map(|_| ()).unwrap_err().to_string()
}

#[test]
fn words_of_one_text_encoder() {
    let (model, expected) = (tiny_model(), Fixture::open("embeddings/features"));
    let builder = || Pipeline::builder(model.path(), &device());
    for (count, said) in [("one", "1 vector"), ("three", "3 vectors")] {
        for (name, word) in [
            (format!("diffusers_{count}.safetensors"), "<cat-toy>".to_owned()),
            (format!("web_ui_{count}.safetensors"), format!("web_ui_{count}")),
            (format!("diffusers_{count}.bin"), "<cat-toy>".to_owned()),
            (format!("web_ui_{count}.pt"), format!("web_ui_{count}")),
        ] {
            let built = builder().embedding(file(&name)).build();
            if !cfg!(feature = "pytorch") && !name.ends_with("safetensors") {
                let message = built.map(|_| ()).unwrap_err().to_string();
                assert!(message.contains("feature `pytorch`"), "{message}");
                continue;
            }
            let pipeline = built.unwrap();
            let note = pipeline.notes().join(" ");
            assert!(note.contains(&name) && note.ends_with(&format!("{word:?}, {said}")), "{note}");
            for (i, prompt) in prompts(&word).iter().enumerate() {
                let found = features(&pipeline, prompt).words;
                assert_close(&name, found, expected.tensor(&format!("{count}_{i}")));
            }
        }
    }
    // Another word, in any letters.
    let named = builder().embedding_as(file("web_ui_three.safetensors"), "Sks").build().unwrap();
    assert_close("sks", features(&named, &prompts("sKs")[0]).words, expected.tensor("three_0"));
    // Two files.
    let two = builder().embedding(file("diffusers_three.safetensors"));
    let two = two.embedding(file("web_ui_one.safetensors")).build().unwrap();
    assert_eq!(two.notes().len(), 2);
    assert_close("both", features(&two, "<cat-toy> above web_ui_one").words, expected.tensor("both"));
    // Other prompts are as they were.
    let plain = builder().build().unwrap();
    let words = |pipeline: &Pipeline| features(pipeline, "a red circle").words.into_data();
    assert_eq!(words(&two), words(&plain));
}

#[test]
fn words_of_both_text_encoders() {
    let expected = Fixture::open("embeddings/features");
    let check = |pipeline: &Pipeline, count: &str| {
        for (i, prompt) in prompts(&format!("sdxl_{count}")).iter().enumerate() {
            let (found, name) = (features(pipeline, prompt), format!("xl_{count}_{i}"));
            assert_close(&name, found.words, expected.tensor(&name));
            assert_close(&name, found.pooled.unwrap(), expected.tensor(&format!("{name}_pooled")));
        }
    };
    let path = |count: &str| file(&format!("sdxl_{count}.safetensors"));
    for count in ["one", "three"] {
        check(&xl().embedding(path(count)).build().unwrap(), count);
    }
    // Of a single file.
    let single = Pipeline::builder(golden("files/sdxl.safetensors"), &device()).config(golden("sdxl"));
    check(&single.embedding(path("three")).build().unwrap(), "three");
}

/// A LoRA changes the text encoders under a word, and prompts without the word as it does without an embedding.
#[test]
fn a_word_with_a_lora() {
    let lora = || xl().lora(golden("files/lora/text_kohya.safetensors"), 1.0);
    let word = |builder: PipelineBuilder| builder.embedding(file("sdxl_three.safetensors")).build().unwrap();
    let (both, only_lora, only_word) = (word(lora()), lora().build().unwrap(), word(xl()));
    assert_eq!(both.notes().len(), 2);
    let words = |pipeline: &Pipeline, prompt: &str| features(pipeline, prompt).words.into_data();
    assert_eq!(words(&both, "a red circle"), words(&only_lora, "a red circle"));
    assert_ne!(words(&both, "a sdxl_three"), words(&only_lora, "a sdxl_three"));
    assert_ne!(words(&both, "a sdxl_three"), words(&only_word, "a sdxl_three"));
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let model = tiny_model();
    let builder = || Pipeline::builder(model.path(), &device());
    let mut weights = Weights::new();
    let mut of = |name: &str, tensors: &[(&str, &[usize])]| {
        for (key, shape) in tensors {
            weights.add((*key).to_owned(), shape, vec![0.5; shape.iter().product()]);
        }
        weights.write(name)
    };
    let one = of("one.safetensors", &[("emb_params", &[2, 768])]);
    let two = of("two.safetensors", &[("sks", &[1024])]);
    let both = of("xl.safetensors", &[("clip_l", &[1, 768]), ("clip_g", &[1, 1280])]);
    let uneven = of("uneven.safetensors", &[("clip_l", &[2, 24]), ("clip_g", &[3, 32])]);
    let shape = of("shape.safetensors", &[("emb_params", &[1, 2, 24])]);
    let empty = of("empty.safetensors", &[("emb_params", &[0, 24])]);
    let other = of("other.safetensors", &[("a", &[24]), ("b", &[24])]);
    let blank = of("blank.safetensors", &[(" ", &[24])]);
    for (found, words) in [
        (refusal(builder().embedding(&one)), &["one.", "768 (Stable Diffusion 1.x)", "takes 24"][..]),
        (refusal(builder().embedding(&two)), &["1024 (Stable Diffusion 2.x)", "takes 24"]),
        (refusal(builder().embedding(&both)), &["768 and 1280 (Stable Diffusion XL)", "takes 24"]),
        (refusal(xl().embedding(&one)), &["768 (Stable Diffusion 1.x)", "24 and 32 (Stable Diffusion XL)"]),
        (refusal(xl().embedding(&uneven)), &["uneven", "2 vectors", "3 for the second"]),
        (refusal(builder().embedding(&shape)), &["emb_params", "[1, 2, 24]"]),
        (refusal(builder().embedding(&empty)), &["emb_params", "[0, 24]"]),
        (refusal(builder().embedding(&other)), &["no textual inversion", "2 tensors", "\"a\""]),
        (refusal(builder().embedding(golden("files/lora/kohya.safetensors"))), &["no textual inversion"]),
        (refusal(builder().embedding(&blank)), &["blank"]),
        (refusal(builder().embedding("nowhere.safetensors")), &["nowhere.safetensors"]),
    ] {
        assert!(words.iter().all(|word| found.contains(word)), "{words:?}: {found}");
        assert!(found.len() < 400, "{found}");
    }
}

#[test]
fn words_that_exist_are_refused() {
    let model = tiny_model();
    let three = file("diffusers_three.safetensors");
    let one = file("diffusers_one.safetensors");
    let of = |words: &[(&Path, &str)]| {
        let builder = Pipeline::builder(model.path(), &device());
        refusal(words.iter().fold(builder, |builder, (path, word)| builder.embedding_as(*path, *word)))
    };
    for (found, word) in [
        (of(&[(&one, "re")]), "\"re\""),
        (of(&[(&one, "<|endoftext|>")]), "endoftext"),
        (of(&[(&one, "<cat>"), (&one, "<cat>")]), "<cat>"),
        (of(&[(&one, "<cat>"), (&one, "<CAT>")]), "<CAT>"),
        (of(&[(&one, "<cat>_2"), (&three, "<cat>")]), "<cat>_2"),
        (of(&[(&one, "<cat>_3"), (&three, "<cat>")]), "differ by a number"),
        (of(&[(&three, "<cat>"), (&one, "<cat>_3")]), "differ by a number"),
    ] {
        assert!(found.contains(word) && found.contains("another word"), "{word}: {found}");
    }
}

/// A model that takes no words, and a conversion, which has no place for one.
#[test]
fn an_embedding_belongs_to_prompts() {
    let mut options = OpenOptions::new(golden("sdxl"), &device());
    options.embeddings.push(EmbeddingOption { path: file("sdxl_one.safetensors"), word: None });
    let folder = tempfile::tempdir().unwrap();
    let message = dmd::model::convert(&options, &folder.path().join("new")).unwrap_err().to_string();
    assert!(message.contains("embedding"), "{message}");
    assert!(!folder.path().join("new").exists());
    let classes = class_model("class_unet");
    let message =
        refusal(Pipeline::builder(classes.path(), &device()).embedding(file("sdxl_one.safetensors")));
    assert!(message.contains("--embedding") && message.contains("draws pixels"), "{message}");
}
