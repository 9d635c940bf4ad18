//! Which files are chosen, on listings as real repositories have them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use dmd_hub::{Entry, Error, Selection, Variant, diffusers_selection};

fn entries(listing: &str) -> Vec<Entry> {
    let mut paths: Vec<&str> = listing.split_whitespace().collect();
    paths.sort_unstable();
    paths.into_iter().map(|path| Entry::new(path, 10)).collect()
}

fn choose(listing: &str, variant: Variant) -> Result<Selection, Error> {
    diffusers_selection(&entries(listing), variant)
}

fn paths(selection: &Selection) -> Vec<&str> {
    selection.files.iter().map(|entry| entry.path.as_str()).collect()
}

#[track_caller]
fn chooses(listing: &str, variant: Variant, expected: &str) -> Selection {
    let selection = choose(listing, variant).unwrap();
    let mut expected: Vec<&str> = expected.split_whitespace().collect();
    expected.sort_unstable();
    assert_eq!(paths(&selection), expected);
    selection
}

const SD15: &str = "
    .gitattributes README.md model_index.json v1-inference.yaml feature_extractor/preprocessor_config.json
    v1-5-pruned-emaonly-fp16.safetensors v1-5-pruned-emaonly.ckpt v1-5-pruned-emaonly.safetensors v1-5-pruned.ckpt
    v1-5-pruned.safetensors
    safety_checker/config.json safety_checker/model.fp16.safetensors safety_checker/model.safetensors
    safety_checker/pytorch_model.bin safety_checker/pytorch_model.fp16.bin
    scheduler/scheduler_config.json
    text_encoder/config.json text_encoder/model.fp16.safetensors text_encoder/model.safetensors
    text_encoder/pytorch_model.bin text_encoder/pytorch_model.fp16.bin
    tokenizer/merges.txt tokenizer/special_tokens_map.json tokenizer/tokenizer_config.json tokenizer/vocab.json
    unet/config.json unet/diffusion_pytorch_model.bin unet/diffusion_pytorch_model.fp16.bin
    unet/diffusion_pytorch_model.fp16.safetensors unet/diffusion_pytorch_model.non_ema.bin
    unet/diffusion_pytorch_model.non_ema.safetensors unet/diffusion_pytorch_model.safetensors
    vae/config.json vae/diffusion_pytorch_model.bin vae/diffusion_pytorch_model.fp16.bin
    vae/diffusion_pytorch_model.fp16.safetensors vae/diffusion_pytorch_model.safetensors";

const SD15_SMALL: &str = "
    model_index.json scheduler/scheduler_config.json text_encoder/config.json tokenizer/merges.txt
    tokenizer/special_tokens_map.json tokenizer/tokenizer_config.json tokenizer/vocab.json unet/config.json
    vae/config.json ";

const SDXL_BASE: &str = "
    .gitattributes 01.png LICENSE.md README.md comparison.png model_index.json pipeline.png
    sd_xl_base_1.0.safetensors sd_xl_base_1.0_0.9vae.safetensors sd_xl_offset_example-lora_1.0.safetensors
    scheduler/scheduler_config.json
    text_encoder/config.json text_encoder/flax_model.msgpack text_encoder/model.fp16.safetensors
    text_encoder/model.onnx text_encoder/model.safetensors text_encoder/openvino_model.bin
    text_encoder/openvino_model.xml
    text_encoder_2/config.json text_encoder_2/flax_model.msgpack text_encoder_2/model.fp16.safetensors
    text_encoder_2/model.onnx text_encoder_2/model.onnx_data text_encoder_2/model.safetensors
    text_encoder_2/openvino_model.bin text_encoder_2/openvino_model.xml
    tokenizer/merges.txt tokenizer/special_tokens_map.json tokenizer/tokenizer_config.json tokenizer/vocab.json
    tokenizer_2/merges.txt tokenizer_2/special_tokens_map.json tokenizer_2/tokenizer_config.json
    tokenizer_2/vocab.json
    unet/config.json unet/diffusion_flax_model.msgpack unet/diffusion_pytorch_model.fp16.safetensors
    unet/diffusion_pytorch_model.safetensors unet/model.onnx unet/model.onnx_data unet/openvino_model.bin
    unet/openvino_model.xml
    vae/config.json vae/diffusion_flax_model.msgpack vae/diffusion_pytorch_model.fp16.safetensors
    vae/diffusion_pytorch_model.safetensors
    vae_1_0/config.json vae_1_0/diffusion_pytorch_model.fp16.safetensors
    vae_1_0/diffusion_pytorch_model.safetensors
    vae_decoder/config.json vae_decoder/model.onnx vae_decoder/openvino_model.bin vae_decoder/openvino_model.xml
    vae_encoder/config.json vae_encoder/model.onnx vae_encoder/openvino_model.bin vae_encoder/openvino_model.xml";

const DMD2: &str = "
    .gitattributes README.md dmd2_sdxl_1step_unet.bin dmd2_sdxl_1step_unet_fp16.bin dmd2_sdxl_4step_lora.safetensors
    dmd2_sdxl_4step_lora_fp16.safetensors dmd2_sdxl_4step_unet.bin dmd2_sdxl_4step_unet_fp16.bin
    dmd2_sdxl_4step_unet_fp16.safetensors
    model/sdv1.5/laion6.25_sd_baseline_8node_guidance1.75/pytorch_model.bin
    model/imagenet/imagenet_gan_classifier/pytorch_model.bin data/laion_vae_latents/file.lmdb";

#[test]
fn stable_diffusion_1_5() {
    let full = "text_encoder/model.safetensors unet/diffusion_pytorch_model.safetensors
        vae/diffusion_pytorch_model.safetensors";
    let selection = chooses(SD15, Variant::Full, &[SD15_SMALL, full].concat());
    assert_eq!((selection.single.as_deref(), selection.other_variant.len()), (None, 0));
    assert_eq!(selection.bytes(), 120);
    let half = "text_encoder/model.fp16.safetensors unet/diffusion_pytorch_model.fp16.safetensors
        vae/diffusion_pytorch_model.fp16.safetensors";
    let selection = chooses(SD15, Variant::Fp16, &[SD15_SMALL, half].concat());
    assert!(selection.other_variant.is_empty());
    // bf16 is not published: the plain files, and it is said.
    let selection = chooses(SD15, Variant::Bf16, &[SD15_SMALL, full].concat());
    assert_eq!(selection.other_variant, ["unet", "vae", "text_encoder"]);
}

#[test]
fn sdxl_base_has_two_encoders_and_much_that_is_left_out() {
    let small = "
        model_index.json scheduler/scheduler_config.json text_encoder/config.json text_encoder_2/config.json
        tokenizer/merges.txt tokenizer/special_tokens_map.json tokenizer/tokenizer_config.json tokenizer/vocab.json
        tokenizer_2/merges.txt tokenizer_2/special_tokens_map.json tokenizer_2/tokenizer_config.json
        tokenizer_2/vocab.json unet/config.json vae/config.json ";
    for (variant, name) in [(Variant::Full, ""), (Variant::Fp16, ".fp16")] {
        let weights = format!(
            "text_encoder/model{name}.safetensors text_encoder_2/model{name}.safetensors
             unet/diffusion_pytorch_model{name}.safetensors vae/diffusion_pytorch_model{name}.safetensors"
        );
        chooses(SDXL_BASE, variant, &[small, &weights].concat());
    }
}

#[test]
fn sdxl_turbo_is_a_folder_although_it_has_single_files() {
    let listing = "
        .gitattributes LICENSE.md README.md image_quality_one_step.png model_index.json output_tile.jpg
        prompt_alignment_four_step.png sd_xl_turbo_1.0.safetensors sd_xl_turbo_1.0_fp16.safetensors
        scheduler/scheduler_config.json text_encoder/config.json text_encoder/model.fp16.safetensors
        text_encoder/model.onnx text_encoder/model.safetensors text_encoder_2/config.json
        text_encoder_2/model.fp16.safetensors text_encoder_2/model.safetensors tokenizer/merges.txt
        tokenizer/vocab.json tokenizer_2/merges.txt tokenizer_2/vocab.json unet/config.json
        unet/diffusion_pytorch_model.fp16.safetensors unet/diffusion_pytorch_model.safetensors vae/config.json
        vae/diffusion_pytorch_model.fp16.safetensors vae/diffusion_pytorch_model.safetensors
        vae_decoder/config.json vae_decoder/model.onnx";
    let selection = choose(listing, Variant::Fp16).unwrap();
    assert_eq!(selection.single, None);
    let weights = paths(&selection).into_iter().filter(|path| path.ends_with(".safetensors"));
    assert_eq!(weights.filter(|path| path.contains(".fp16.")).count(), 4);
    assert!(!paths(&selection).iter().any(|path| path.contains("onnx") || path.contains("turbo")));
}

#[test]
fn several_single_files_are_listed_and_one_can_be_named() {
    let error = choose(DMD2, Variant::Fp16).unwrap_err();
    let Error::SeveralFiles { files } = &error else { panic!("{error}") };
    // What is there as safetensors is not listed as a pickle too; what lies in folders comes last.
    assert_eq!(
        files[..6],
        [
            "dmd2_sdxl_1step_unet.bin",
            "dmd2_sdxl_1step_unet_fp16.bin",
            "dmd2_sdxl_4step_lora.safetensors",
            "dmd2_sdxl_4step_lora_fp16.safetensors",
            "dmd2_sdxl_4step_unet.bin",
            "dmd2_sdxl_4step_unet_fp16.safetensors",
        ]
    );
    assert_eq!(files.len(), 8);
    assert!(error.to_string().contains("OWNER/NAME:FILE"), "{error}");
}

#[test]
fn a_lora_is_its_one_file() {
    for (listing, file) in [
        ("README.md image.png pytorch_lora_weights.safetensors", "pytorch_lora_weights.safetensors"),
        // Of a training, with its earlier states.
        (
            "README.md checkpoint-500/optimizer.bin checkpoint-500/pytorch_lora_weights.safetensors
             checkpoint-500/random_states_0.pkl checkpoint-500/scheduler.bin pytorch_lora_weights.safetensors
             pytorch_lora_weights.bin image_0.png training_args.bin other.safetensors",
            "pytorch_lora_weights.safetensors",
        ),
        ("README.md pixel-art-xl.safetensors", "pixel-art-xl.safetensors"),
        ("README.md sub/style.safetensors sub/optimizer.pt", "sub/style.safetensors"),
        ("README.md old/a.safetensors old/b.safetensors new.safetensors", "new.safetensors"),
        ("README.md pytorch_lora_weights.bin", "pytorch_lora_weights.bin"),
    ] {
        let selection = chooses(listing, Variant::Fp16, file);
        assert_eq!(selection.single.as_deref(), Some(file));
    }
    let peft = chooses(
        "README.md adapter_config.json adapter_model.safetensors x.safetensors",
        Variant::Full,
        "adapter_config.json adapter_model.safetensors",
    );
    assert_eq!(peft.single.as_deref(), Some("adapter_model.safetensors"));
}

#[test]
fn single_checkpoints() {
    let one = "README.md dreamshaper_8.safetensors dreamshaper_8.ckpt config.yaml";
    assert_eq!(choose(one, Variant::Full).unwrap().single.as_deref(), Some("dreamshaper_8.safetensors"));
    let two = "README.md sdxl_lightning_4step.safetensors sdxl_lightning_8step.safetensors";
    let error = choose(two, Variant::Full).unwrap_err().to_string();
    assert!(error.contains("sdxl_lightning_4step.safetensors, sdxl_lightning_8step.safetensors"), "{error}");
}

#[test]
fn a_network_alone_is_a_folder() {
    let taesd = "README.md config.json diffusion_pytorch_model.safetensors taesd_decoder.safetensors
        taesd_encoder.safetensors taesd_decoder.pth";
    let selection = chooses(taesd, Variant::Fp16, "config.json diffusion_pytorch_model.safetensors");
    assert_eq!((selection.single.clone(), selection.other_variant), (None, vec![".".to_owned()]));
    // The oldest unconditional pipelines have no sub-folders.
    let ddpm = "README.md config.json diffusion_pytorch_model.bin diffusion_pytorch_model.safetensors model_index.json
        scheduler_config.json generated_image_0.png";
    chooses(
        ddpm,
        Variant::Full,
        "config.json diffusion_pytorch_model.safetensors model_index.json scheduler_config.json",
    );
}

#[test]
fn shards_are_taken_whole_or_not_at_all() {
    let pipeline = |unet: &str| format!("model_index.json unet/config.json {unet}");
    let shard = |name: &str, count: usize, variant: &str| {
        (1..=count)
            .map(|n| format!("unet/diffusion_pytorch_model{variant}-0000{n}-of-00003.{name} "))
            .collect::<String>()
    };
    let index = "unet/diffusion_pytorch_model.safetensors.index.json ";
    let whole = pipeline(&(shard("safetensors", 3, "") + index));
    chooses(&whole, Variant::Fp16, &whole);
    // One is missing: the pickle.
    let broken = pipeline(&(shard("safetensors", 2, "") + index + "unet/diffusion_pytorch_model.bin"));
    chooses(&broken, Variant::Full, &pipeline("unet/diffusion_pytorch_model.bin"));
    let error = choose(&pipeline(&(shard("safetensors", 2, "") + index)), Variant::Full).unwrap_err();
    assert!(error.to_string().contains("weights of unet"), "{error}");
    // Without an index nobody knows what is in which.
    assert!(choose(&pipeline(&shard("safetensors", 3, "")), Variant::Full).is_err());
    for (half, index) in [
        (shard("safetensors", 3, ".fp16"), "unet/diffusion_pytorch_model.safetensors.index.fp16.json"),
        (shard("fp16.safetensors", 3, ""), "unet/diffusion_pytorch_model.fp16.safetensors.index.json"),
    ] {
        let both =
            pipeline(&format!("{whole} {half} {index}")).replacen("model_index.json unet/config.json", "", 1);
        chooses(&both, Variant::Fp16, &pipeline(&format!("{half} {index}")));
        chooses(&both, Variant::Full, &whole);
    }
}

#[test]
fn a_variant_may_be_missing_in_some_networks_or_be_the_only_one() {
    let listing =
        "model_index.json unet/config.json unet/diffusion_pytorch_model.fp16.safetensors vae/config.json
        vae/diffusion_pytorch_model.safetensors";
    assert_eq!(choose(listing, Variant::Fp16).unwrap().other_variant, ["vae"]);
    assert_eq!(choose(listing, Variant::Full).unwrap().other_variant, ["unet"]);
    // A pickle of the right variant is not worth more than safetensors of another.
    let listing = "model_index.json unet/config.json unet/diffusion_pytorch_model.fp16.bin
        unet/diffusion_pytorch_model.safetensors";
    chooses(
        listing,
        Variant::Fp16,
        "model_index.json unet/config.json unet/diffusion_pytorch_model.safetensors",
    );
}

#[test]
fn our_own_folders_are_taken_whole() {
    let listing = "README.md model_index.json scheduler/scheduler_config.json text_encoder/config.json
        text_encoder/model.fp16.safetensors tokenizer/merges.txt tokenizer/vocab.json unet_one_step/config.json
        unet_one_step/diffusion_pytorch_model.safetensors unet_one_step/one_step.json classes.json";
    let expected = listing.replace("README.md", "");
    chooses(listing, Variant::Full, &expected);
}

#[test]
fn what_is_no_diffusion_model_is_refused_with_what_is_there() {
    let flux = "model_index.json flux1-dev.safetensors transformer/config.json
        transformer/diffusion_pytorch_model-00001-of-00003.safetensors vae/config.json";
    let error = choose(flux, Variant::Full).unwrap_err().to_string();
    assert!(error.contains("no unet") && error.contains("transformer"), "{error}");
    for listing in ["", "README.md", "model.onnx data.parquet"] {
        assert!(matches!(choose(listing, Variant::Full), Err(Error::NothingUsable { .. })), "{listing}");
    }
    let flax = "model_index.json unet/config.json unet/diffusion_flax_model.msgpack unet/openvino_model.bin";
    let error = choose(flax, Variant::Full).unwrap_err().to_string();
    assert!(error.contains("unet/diffusion_flax_model.msgpack"), "{error}");
}

#[test]
fn patterns_select_too() {
    let selection = Selection::matching(&entries(SD15), &["model_index.json", "*/config.json", "tokenizer/"]);
    assert_eq!(selection.files.len(), 9);
    assert!(Selection::matching(&entries(SD15), &["nothing"]).files.is_empty());
}
