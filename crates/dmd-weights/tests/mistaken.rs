//! What is said of files that are cut off, and of files that are given in another one's place.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use dmd_weights::{Checkpoint, LoraFile, NamedTensor, Tensors, read};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn of(names: &[&str]) -> Tensors {
    let tensor = |name: &&str| -> NamedTensor { ((*name).to_owned(), vec![1], vec![0.5]) };
    Tensors::from_values("test.safetensors", names.iter().map(tensor)).unwrap()
}

/// A download that stopped says how much of the file is there; bytes too many are told apart from bytes too few.
#[test]
fn a_length_that_is_wrong_is_said_in_bytes() {
    let whole = fs::read(golden("files/sd1.safetensors")).unwrap();
    let (length, folder) = (whole.len(), tempfile::tempdir().unwrap());
    let values = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap());
    for (content, expected) in [
        (&whole[..length - 10], format!("truncated: {} of {length} bytes", length - 10)),
        (&whole[..1000], format!("truncated: 1000 of more than {values} bytes")),
        (&[whole.as_slice(), &[0; 8]].concat(), "8 bytes follow its last tensor".to_owned()),
    ] {
        let path = folder.path().join("model.safetensors");
        fs::write(&path, content).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.ends_with(&format!("({expected}); fetch or export it again")), "{error}");
    }
}

#[test]
fn a_file_in_another_one_s_place_is_named() {
    let tiny =
        [&["1.weight", "3.conv.0.weight"][..], &["decoder.layers.0.weight", "encoder.layers.0.weight"]];
    for names in tiny {
        let error = Checkpoint::open(of(names)).unwrap_err().to_string();
        assert!(error.contains("is a tiny autoencoder (TAESD)"), "{error}");
    }
    for ending in ["hada_w2_a", "lokr_w1", "oft_blocks", "diff", "w_norm", "a1.weight", "lora_mid.weight"] {
        let error =
            Checkpoint::open(of(&[&format!("lora_unet_mid_block.{ending}")])).unwrap_err().to_string();
        assert!(error.contains("is a LoRA, a change to a model"), "{ending}: {error}");
    }
    let mut models: Vec<_> =
        ["sdxl", "sd1", "sd2"].map(|name| golden(&format!("files/{name}.safetensors"))).into();
    models.push(golden("sdxl/unet/diffusion_pytorch_model.safetensors"));
    models.push(golden("sdxl/text_encoder/model.safetensors"));
    let models = models.iter().map(|path| read(path).unwrap());
    let clip = read(&golden("files/sd2.safetensors")).unwrap().only("cond_stage_model.model.");
    for model in models.chain([clip]) {
        let error = LoraFile::open(model, None).unwrap_err().to_string();
        assert!(
            error.ends_with("it is no LoRA but a model, or a part of one; give it as the model"),
            "{error}"
        );
    }
}
