//! LoRA files: every spelling gives peft's weights, and what cannot be merged is refused by name.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use dmd_weights::{
    Dtype, Error, LoraFile, LoraPart, NamedTensor, Precision, Tensors, read, write, write_with_metadata,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn model(part: LoraPart) -> Tensors {
    read(&golden(match part {
        LoraPart::UNet => "sdxl/unet/diffusion_pytorch_model.safetensors",
        LoraPart::TextEncoder => "sdxl/text_encoder/model.safetensors",
        LoraPart::TextEncoder2 => "sdxl/text_encoder_2/model.safetensors",
    }))
    .unwrap()
}

fn open(name: &str) -> Tensors {
    read(&golden(&format!("files/lora/{name}.safetensors"))).unwrap()
}

fn reference(prefix: &str) -> Tensors {
    open("reference").only(prefix)
}

fn renamed(tensors: Tensors, name: impl Fn(&str) -> String) -> Tensors {
    tensors.renamed(|old| Some(name(old))).unwrap()
}

fn named(name: &str, shape: &[usize], value: f32) -> NamedTensor {
    (name.to_owned(), shape.to_vec(), vec![value; shape.iter().product()])
}

fn of(tensors: impl IntoIterator<Item = NamedTensor>) -> Tensors {
    Tensors::from_values("test.safetensors", tensors).unwrap()
}

/// That a file's updates of a part give the recorded weights, and that none of its keys is left.
fn check(mut file: LoraFile, part: LoraPart, expected: &Tensors, strength: f64, what: &str) {
    let base = model(part);
    let lora = file.fit(part, &base).unwrap();
    let merged = base.clone().merged(&lora, strength).unwrap();
    for name in expected.entries().keys() {
        let (base, merged, full) =
            (base.floats(name).unwrap(), merged.floats(name).unwrap(), expected.floats(name).unwrap());
        // The recorded weights have strength 1 and the file's own scale; the largest value counts for the tolerance.
        let largest = full.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
        let changed = base.iter().zip(&full).any(|(base, full)| (base - full).abs() > 0.01 * largest);
        assert!(changed, "{what}: {name} is not changed by the reference");
        for (merged, full) in merged.iter().zip(&full) {
            assert!((merged - full).abs() <= 1e-6 * largest, "{what}: {name} {merged} {full}");
        }
    }
}

/// Each file as diffusers, peft and kohya write it, and in the other spellings of the same matrices, against the weights
/// that peft computes: linear layers, 3×3 and 1×1 convolutions, ranks and scales that differ by layer.
#[test]
fn every_spelling_gives_peft_s_weights() {
    let whole = reference("merged.");
    let unet = LoraPart::UNet;
    let kohya = || open("kohya");
    let under = |prefix: &'static str| move |name: &str| name.replacen("unet.", prefix, 1);
    let mut files = vec![
        ("kohya", kohya()),
        ("kohya sgm", open("kohya_sgm")),
        ("peft with metadata", open("peft_metadata")),
        ("lycoris", renamed(kohya(), |name| name.replacen("lora_unet_", "lycoris_", 1))),
        ("flattened", renamed(kohya(), |name| name.replacen("lora_unet_", "", 1))),
        ("lycoris sgm", renamed(open("kohya_sgm"), |name| name.replacen("lora_unet_", "lycoris_", 1))),
    ];
    let dotted = ["", "base_model.model.", "base_model.model.unet.", "diffusion_model."];
    files.extend(dotted.map(|prefix| (prefix, renamed(open("peft_metadata"), under(prefix)))));
    let default = |name: &str| name.replace(".weight", ".default.weight");
    files.push(("a training's state", renamed(open("peft_metadata"), default)));
    for (what, tensors) in files {
        let (downs, keys) = (tensors.entries().len(), tensors.entries().keys().next().cloned().unwrap());
        let mut file = LoraFile::open(tensors, None).unwrap();
        file.fit(unet, &model(unet)).unwrap();
        let report = file.report().unwrap();
        assert!(report.unused.is_empty() && report.notes.is_empty(), "{what}: {report}");
        assert_eq!(report.applied, downs / if keys.contains("lora_A") { 2 } else { 3 }, "{what}");
        // alpha 2 of rank 3, and alpha 3 of rank 2.
        assert_eq!(report.rank, (2, 3), "{what}");
        assert!((report.factor.0 - 2.0 / 3.0).abs() < 1e-6 && report.factor.1 == 1.5, "{what}: {report}");
        check(file, unet, &whole, 1.0, what);
    }
    let attention = reference("attention.");
    for name in ["diffusers_old", "diffusers_new"] {
        check(LoraFile::open(open(name), None).unwrap(), unet, &attention, 1.0, name);
        let bare = renamed(open(name), |key| key.replacen("unet.", "", 1));
        check(LoraFile::open(bare, None).unwrap(), unet, &attention, 1.0, name);
    }
    // PEFT's folder says rank-stabilised LoRA, 1/√2; without its configuration nothing says so, and that is said.
    let folder = golden("files/lora/peft/adapter_model.safetensors");
    check(LoraFile::read(&folder).unwrap(), unet, &attention, 1.0, "PEFT's folder");
    let mut bare = LoraFile::open(open("peft_bare"), None).unwrap();
    check(bare.clone(), unet, &attention, 0.5_f64.sqrt(), "PEFT without a configuration");
    bare.fit(unet, &model(unet)).unwrap();
    assert!(
        bare.report().unwrap().notes[0].starts_with("the file says no alpha for 224 layers; it is taken")
    );
}

/// The names with dots of the original code, for a layer of every kind.
#[test]
fn original_names_with_dots_are_found() {
    let layers = [
        (
            "input_blocks.4.1.transformer_blocks.0.attn1.to_q",
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        ),
        ("output_blocks.2.2.conv", "up_blocks.0.upsamplers.0.conv"),
        ("input_blocks.3.0.op", "down_blocks.0.downsamplers.0.conv"),
        ("middle_block.2.in_layers.2", "mid_block.resnets.1.conv1"),
        ("label_emb.0.2", "add_embedding.linear_2"),
        ("time_embed.0", "time_embedding.linear_1"),
        ("out.2", "conv_out"),
        ("input_blocks.0.0", "conv_in"),
    ];
    let base = model(LoraPart::UNet);
    for (original, today) in layers {
        let target = format!("{today}.weight");
        let shape = base.entries()[&target].shape.clone();
        let down: Vec<usize> = [1].iter().chain(&shape[1..]).copied().collect();
        for prefix in ["diffusion_model.", "model.diffusion_model.", "base_model.model.diffusion_model.", ""]
        {
            let mut file = LoraFile::open(
                of([
                    named(&format!("{prefix}{original}.lora_up.weight"), &[shape[0], 1], 1.0),
                    named(&format!("{prefix}{original}.lora_down.weight"), &down, 1.0),
                ]),
                None,
            );
            let lora = file.as_mut().unwrap().fit(LoraPart::UNet, &base).unwrap();
            // A convolution's second matrix is flat here, and is taken as 1×1.
            assert_eq!(lora.updates.iter().map(|u| u.target.as_str()).collect::<Vec<_>>(), [target.as_str()]);
        }
    }
}

#[test]
fn text_encoders_are_found_in_every_spelling() {
    let kohya = || open("text_kohya");
    let of = |part: &'static str, name: fn(&str) -> String| {
        renamed(kohya().select(|key| key.starts_with(part)), name)
    };
    let peft = |prefix: &'static str| open("text_peft").select(move |key| key.starts_with(prefix));
    for (what, part, tensors) in [
        ("te1", LoraPart::TextEncoder, kohya()),
        ("te2", LoraPart::TextEncoder2, kohya()),
        ("peft", LoraPart::TextEncoder, open("text_peft")),
        ("peft 2", LoraPart::TextEncoder2, open("text_peft")),
        ("te", LoraPart::TextEncoder, of("lora_te1_", |key| key.replacen("lora_te1_", "lora_te_", 1))),
        ("te1 short", LoraPart::TextEncoder, of("lora_te1_", |key| key.replacen("text_model_", "", 1))),
        ("te2 short", LoraPart::TextEncoder2, of("lora_te2_", |key| key.replacen("text_model_", "", 1))),
    ] {
        let number = if part == LoraPart::TextEncoder { "text_1." } else { "text_2." };
        check(LoraFile::open(tensors, None).unwrap(), part, &reference(number), 1.0, what);
    }
    // Without diffusers' prefix the metadata's entries still are those of the first encoder.
    for prefix in ["text_encoder.text_model.", "base_model.model.", "text_model.", ""] {
        let short = |key: &str| {
            let key = key.replacen("text_encoder.", "", 1).replacen("text_model.", "", 1);
            format!("{prefix}{key}")
        };
        let file = LoraFile::open(renamed(peft("text_encoder."), short), None).unwrap();
        check(file, LoraPart::TextEncoder, &reference("text_1."), 1.0, prefix);
    }
    // diffusers' oldest: `to_q_lora` for q_proj, `to_out_lora` for out_proj.
    let old = |key: &str| {
        let key =
            key.replace(".lora_A.weight", "_lora.down.weight").replace(".lora_B.weight", "_lora.up.weight");
        let key = ["q", "k", "v", "out"]
            .iter()
            .fold(key, |key, w| key.replace(&format!("{w}_proj_"), &format!("to_{w}_")));
        key.replace("fc1_lora", "fc1.lora_linear_layer").replace("fc2_lora", "fc2.lora_linear_layer")
    };
    let mut file = LoraFile::open(renamed(peft("text_encoder."), old), None).unwrap();
    file.fit(LoraPart::TextEncoder, &model(LoraPart::TextEncoder)).unwrap();
    assert_eq!(file.report().unwrap().applied, 18);
    // A whole file over both parts: nothing is left, and what only one part used is.
    let mut file = LoraFile::open(kohya(), None).unwrap();
    file.fit(LoraPart::TextEncoder, &model(LoraPart::TextEncoder)).unwrap();
    assert_eq!(file.report().unwrap().unused.len(), 3 * 6 * 11);
    file.fit(LoraPart::TextEncoder2, &model(LoraPart::TextEncoder2)).unwrap();
    assert!(file.report().unwrap().unused.is_empty());
    for key in ["lora_te2_text_projection", "lora_te2_text_model_text_projection"] {
        let pair = [
            named(&format!("{key}.lora_down.weight"), &[2, 32], 1.0),
            named(&format!("{key}.lora_up.weight"), &[20, 2], 1.0),
        ];
        let mut file = LoraFile::open(Tensors::from_values("te2", pair).unwrap(), None).unwrap();
        file.fit(LoraPart::TextEncoder2, &model(LoraPart::TextEncoder2)).unwrap();
        assert_eq!(file.report().unwrap().applied, 1);
    }
}

/// A half-precision model stays one: each merged value is the f32 sum, rounded once.
#[test]
fn a_half_precision_model_stays_half() {
    let folder = tempfile::tempdir().unwrap();
    for (precision, dtype) in [(Precision::Half, Dtype::F16), (Precision::Brain, Dtype::BF16)] {
        let (path, copy) = (folder.path().join("half.safetensors"), folder.path().join("merged.safetensors"));
        write(&path, &model(LoraPart::UNet), precision).unwrap();
        let half = read(&path).unwrap();
        let values =
            |name: &String| (name.clone(), half.entries()[name].shape.clone(), half.floats(name).unwrap());
        let single = of(half.entries().keys().map(values));
        let mut file = LoraFile::open(open("kohya"), None).unwrap();
        let lora = file.fit(LoraPart::UNet, &half).unwrap();
        let twice = |base: Tensors| base.merged(&lora, 0.5).unwrap().merged(&lora, 0.25).unwrap();
        let (merged, exact) = (twice(half.clone()), twice(single));
        write(&copy, &exact, precision).unwrap();
        let expected = read(&copy).unwrap();
        for update in &lora.updates {
            assert_eq!(merged.entries()[&update.target].dtype, dtype);
            assert_eq!(merged.floats(&update.target).unwrap(), expected.floats(&update.target).unwrap());
        }
        let rewritten = folder.path().join("again.safetensors");
        write(&rewritten, &merged, precision).unwrap();
        assert_eq!(fs::read(&rewritten).unwrap(), fs::read(&copy).unwrap());
    }
}

const STEM: &str = "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k";

/// The two matrices of one layer of the model, of rank 2.
fn pair() -> Vec<NamedTensor> {
    vec![
        named(&format!("{STEM}.lora_down.weight"), &[2, 56], 1.0),
        named(&format!("{STEM}.lora_up.weight"), &[16, 2], 1.0),
    ]
}

fn fitted(tensors: Vec<NamedTensor>) -> Result<LoraFile, Error> {
    let mut file = LoraFile::open(of(tensors), None)?;
    file.fit(LoraPart::UNet, &model(LoraPart::UNet))?;
    Ok(file)
}

#[test]
fn other_kinds_are_refused_by_name() {
    for (key, expected) in [
        (format!("{STEM}.hada_w1_a"), "it is a LoHa"),
        (format!("{STEM}.lokr_w1"), "it is a LoKr"),
        (format!("{STEM}.lokr_w2_a"), "it is a LoKr"),
        (format!("{STEM}.dora_scale"), "it is a DoRA"),
        ("unet.conv_in.lora_magnitude_vector".to_owned(), "it is a DoRA"),
        (format!("{STEM}.oft_blocks"), "it is an OFT or BOFT"),
        (format!("{STEM}.oft_diag"), "it is an OFT or BOFT"),
        (format!("{STEM}.on_input"), "it is an IA³"),
        (format!("{STEM}.a1.weight"), "it is a GLoRA"),
        (format!("{STEM}.lora_mid.weight"), "it has Tucker-decomposed convolutions"),
        (format!("{STEM}.diff"), "it holds full differences"),
        (format!("{STEM}.diff_b"), "it holds full differences"),
        (format!("{STEM}.w_norm"), "it holds full differences"),
        ("emb_params".to_owned(), "it is a textual inversion"),
        ("string_to_param.*".to_owned(), "it is a textual inversion"),
        ("control_model.input_blocks.0.0.weight".to_owned(), "it is a ControlNet, "),
        ("controlnet_cond_embedding.conv_in.weight".to_owned(), "it is a ControlNet, "),
        ("lllite_unet_down.weight".to_owned(), "it is a ControlNet-LLLite"),
        ("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight".to_owned(), "it is made for Flux"),
        ("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight".to_owned(), "it is made for Flux"),
        ("diffusion_model.joint_blocks.0.x.lora_A.weight".to_owned(), "it is made for Stable Diffusion 3"),
        ("lora_transformer_blocks.lora_A.weight".to_owned(), "it is made for a diffusion transformer"),
        ("conv_in.weight".to_owned(), "it is no LoRA"),
    ] {
        let tensors = if key == "conv_in.weight" { vec![] } else { pair() };
        let error =
            fitted(tensors.into_iter().chain([named(&key, &[2], 1.0)]).collect()).unwrap_err().to_string();
        let start = format!("the LoRA \"test.safetensors\" cannot be merged: {expected}");
        assert!(error.starts_with(&start), "{key}: {error}");
    }
    let clip = fitted(vec![named("clip_g", &[2], 1.0), named("clip_l", &[2], 1.0)]).unwrap_err().to_string();
    assert!(clip.contains("a textual inversion"), "{clip}");
}

#[test]
fn what_does_not_fit_is_said() {
    let say = |tensors| match fitted(tensors).and_then(|file| file.report()) {
        Ok(report) => report.to_string(),
        Err(error) => error.to_string(),
    };
    let stem = |width, key: &str| {
        vec![
            named(&format!("{key}.lora_down.weight"), &[2, width], 1.0),
            named(&format!("{key}.lora_up.weight"), &[16, 2], 1.0),
        ]
    };
    for (width, made) in [
        (768, "Stable Diffusion 1.x (text of width 768)"),
        (1024, "Stable Diffusion 2.x (text of width 1024)"),
        (2048, "Stable Diffusion XL (text of width 2048)"),
        (1280, "the Stable Diffusion XL refiner (text of width 1280)"),
    ] {
        let expected = format!("it is made for {made}, and the model is a model with text of width 56");
        assert!(say(stem(width, STEM)).ends_with(&expected), "{}", say(stem(width, STEM)));
    }
    // Nothing fits: the first key, and the family where it shows.
    let error = say(stem(56, "lora_unet_input_blocks_99_1_attn2_to_k"));
    assert!(
        error.contains(
            "none of its 2 keys belongs to a layer of this model (the first is \"lora_unet_input_blocks_99"
        ),
        "{error}"
    );
    assert!(error.ends_with("its layers are those of a model with text of width 56"), "{error}");
    // One key too many.
    let mut more = pair();
    more.push(named("lora_unet_nowhere.lora_down.weight", &[2, 5], 1.0));
    more.push(named("lora_unet_nowhere.lora_up.weight", &[5, 2], 1.0));
    more.push(named("lora_te_text_model_encoder_layers_22_mlp_fc1.alpha", &[], 1.0));
    let report = fitted(more.clone()).unwrap().report().unwrap();
    assert_eq!(report.unused.len(), 3);
    assert!(
        report.to_string().starts_with("1 layers, rank 2, factor 1; not used: \"lora_te_text"),
        "{report}"
    );
    more.pop();
    more.pop();
    assert!(
        say(more)
            .contains("damaged, \"lora_unet_nowhere.lora_down.weight\" is there without its counterpart")
    );
    // Ranks that disagree.
    let damaged = vec![pair().remove(0), named(&format!("{STEM}.lora_up.weight"), &[16, 3], 1.0)];
    let error = say(damaged);
    assert!(
        error.contains(&format!("1 misshapen: {STEM}.lora_up.weight is [16, 3], expected [16, 2]")),
        "{error}"
    );
    // Metadata that cannot be read would change the scale.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lora.safetensors");
    for text in ["{\"unet.r\": 2,", "[]"] {
        write_with_metadata(&path, &of(pair()), Precision::Single, &[("lora_adapter_metadata", text)])
            .unwrap();
        let error = LoraFile::read(&path).unwrap_err().to_string();
        assert!(error.contains("damaged, its metadata \"lora_adapter_metadata\" cannot be read"), "{error}");
    }
    // Two spellings of one layer: one is used.
    let mut both = pair();
    both.extend(stem(56, "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"));
    let report = fitted(both).unwrap().report().unwrap();
    assert_eq!((report.applied, report.unused.len()), (1, 2));
    assert!(
        report.notes.iter().any(|note| note.starts_with("1 layers are there in two spellings")),
        "{report}"
    );
}

#[test]
fn the_scale_is_alpha_over_rank() {
    let with = |ending: &str, value: f32| {
        let mut tensors = pair();
        tensors.push(named(&format!("{STEM}.{ending}"), &[], value));
        fitted(tensors).unwrap().report().unwrap()
    };
    assert_eq!(with("alpha", 0.5).factor, (0.25, 0.25));
    assert_eq!(with("scale", 0.5).factor, (0.5, 0.5));
    let zero = with("alpha", 0.0);
    assert_eq!(zero.factor, (0.0, 0.0));
    assert_eq!(zero.notes, ["alpha is 0 in 1 layers, which therefore have no effect, as in diffusers"]);
    let mut broken = pair();
    broken.push(named(&format!("{STEM}.alpha"), &[], f32::NAN));
    assert!(fitted(broken).unwrap_err().to_string().ends_with("attn2_to_k.alpha\" is no finite number"));
    // DMD2's first upload had no alpha.
    let of_rank = |path: &str, rank: usize| {
        let down = named(&format!("{STEM}.lora_down.weight"), &[rank, 56], 1.0);
        let up = named(&format!("{STEM}.lora_up.weight"), &[16, rank], 1.0);
        let mut file = LoraFile::open(Tensors::from_values(path, [down, up]).unwrap(), None).unwrap();
        file.fit(LoraPart::UNet, &model(LoraPart::UNet)).unwrap();
        file.report().unwrap().notes
    };
    assert!(of_rank("dmd2_sdxl_4step_lora.safetensors", 64)[0].contains("8 times as strongly"));
    assert!(!of_rank("dmd2_sdxl_4step_lora.safetensors", 32)[0].contains("8 times"));
    assert!(!of_rank("other.safetensors", 64)[0].contains("8 times"));
}

/// PEFT's configuration beside the file: its scale, a scale by layer, and what cannot be merged.
#[test]
fn peft_s_configuration_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter_model.safetensors");
    let layer = "base_model.model.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k";
    let tensors = [
        named(&format!("{layer}.lora_A.weight"), &[4, 56], 1.0),
        named(&format!("{layer}.lora_B.weight"), &[16, 4], 1.0),
    ];
    write(&path, &of(tensors), Precision::Brain).unwrap();
    let factor = |config: &str| {
        fs::write(folder.path().join("adapter_config.json"), config).unwrap();
        let mut file = LoraFile::read(&path)?;
        file.fit(LoraPart::UNet, &model(LoraPart::UNet))?;
        file.report().map(|report| report.factor.0)
    };
    for (config, expected) in [
        (r#"{"peft_type": "LORA", "lora_alpha": 2}"#, 0.5),
        (r#"{"lora_alpha": 2, "use_rslora": true}"#, 1.0),
        (r#"{"lora_alpha": 2, "alpha_pattern": {"attn2.to_k": 6}}"#, 1.5),
        (
            r#"{"lora_alpha": 2, "alpha_pattern": {"ttn2.to_k": 6, "^down_blocks\\.1\\.attentions\\.0\\.transformer_blocks\\.0\\.attn2\\.to_k$": 8}}"#,
            2.0,
        ),
        ("{}", 1.0),
    ] {
        assert_eq!(factor(config).unwrap(), expected, "{config}");
    }
    for (config, expected) in [
        (r#"{"peft_type": "LOHA"}"#, "its configuration says LOHA"),
        (r#"{"use_dora": true}"#, "its configuration says DoRA"),
        (r#"{"alpha_pattern": {"to_.*": 8}}"#, "its alpha_pattern \"to_.*\" is no plain name"),
    ] {
        let error = factor(config).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
