//! Single files: every part under today's names with exactly the folder's weights, and what is no supported model is
//! refused by name.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use dmd_weights::{
    Checkpoint, Dtype, Error, Family, NamedTensor, Part, Precision, Spelling, Tensors, read, write,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name)
}

fn folder(name: &str) -> Tensors {
    read(&golden(&format!("{name}.safetensors"))).unwrap()
}

fn file(name: &str) -> Tensors {
    folder(&format!("files/{name}"))
}

/// Exactly the same names, shapes, types and values.
fn same(found: &Tensors, expected: &Tensors, what: &str) {
    assert!(found.entries().keys().eq(expected.entries().keys()), "{what}");
    for (name, entry) in expected.entries() {
        let own = &found.entries()[name];
        assert_eq!((&own.shape, own.dtype), (&entry.shape, entry.dtype), "{what}: {name}");
        assert_eq!(found.floats(name).unwrap(), expected.floats(name).unwrap(), "{what}: {name}");
    }
}

fn values(tensors: &Tensors) -> Vec<NamedTensor> {
    let one =
        |name: &String| (name.clone(), tensors.entries()[name].shape.clone(), tensors.floats(name).unwrap());
    tensors.entries().iter().filter(|(_, e)| e.dtype != Dtype::I64).map(|(name, _)| one(name)).collect()
}

fn of(tensors: impl IntoIterator<Item = NamedTensor>) -> Tensors {
    Tensors::from_values("test.safetensors", tensors).unwrap()
}

fn named(name: &str, shape: &[usize]) -> NamedTensor {
    (name.to_owned(), shape.to_vec(), vec![0.5; shape.iter().product()])
}

fn prefixed(tensors: Tensors, prefix: &str) -> Tensors {
    tensors.renamed(|name| Some(format!("{prefix}{name}"))).unwrap()
}

fn sdxl_part(part: Part) -> Tensors {
    folder(match part {
        Part::UNet => "sdxl/unet/diffusion_pytorch_model",
        Part::Vae => "sdxl/vae/diffusion_pytorch_model",
        Part::TextEncoder => "sdxl/text_encoder/model",
        Part::TextEncoder2 => "sdxl/text_encoder_2/model",
    })
}

#[test]
fn whole_files_are_their_folders() {
    let sdxl = Checkpoint::open(file("sdxl")).unwrap();
    assert_eq!(
        (sdxl.family(), sdxl.missing(), sdxl.leftover()),
        (Some(Family::StableDiffusionXl), vec![], &[][..])
    );
    use Spelling::{LatentDiffusion, OpenClip, Transformers};
    let spelled = [
        (Part::UNet, LatentDiffusion),
        (Part::Vae, LatentDiffusion),
        (Part::TextEncoder, Transformers),
        (Part::TextEncoder2, OpenClip),
    ];
    assert_eq!(sdxl.parts().collect::<Vec<_>>(), spelled);
    assert_eq!(sdxl.prefix(Part::TextEncoder2), Some("conditioner.embedders.1.model."));
    for (part, _) in spelled {
        same(&sdxl.part(part).unwrap(), &sdxl_part(part), &format!("{part:?}"));
    }
    assert_eq!((sdxl.v_prediction(), sdxl.zero_terminal_snr(), sdxl.scaled()), (Some(false), false, false));
    assert_eq!(sdxl.metadata()["modelspec.architecture"], "stable-diffusion-xl-v1-base");
    for (name, family, text, spelling) in [
        ("sd1", Family::StableDiffusion1, "clip_quick_gelu", Transformers),
        ("sd2", Family::StableDiffusion2, "clip_gelu", OpenClip),
    ] {
        let checkpoint = Checkpoint::open(file(name)).unwrap();
        assert_eq!(
            (checkpoint.family(), checkpoint.missing(), checkpoint.leftover()),
            (Some(family), vec![], &[][..])
        );
        assert_eq!(checkpoint.parts().last(), Some((Part::TextEncoder, spelling)));
        same(&checkpoint.unet().unwrap(), &folder(&format!("unet_{name}/diffusion_pytorch_model")), name);
        same(&checkpoint.vae().unwrap(), &folder("vae/diffusion_pytorch_model"), name);
        // The second family's last block and projection are not used.
        same(&checkpoint.text_encoder().unwrap(), &folder(&format!("{text}/model")), name);
        assert!(checkpoint.text_encoder_2().is_none() && checkpoint.v_prediction().is_none());
    }
}

/// Every part alone, under every prefix that is usual for it and under none, in both spellings.
#[test]
fn parts_alone_are_read_under_every_prefix() {
    let whole = || file("sdxl");
    let first = || prefixed(sdxl_part(Part::TextEncoder), "text_model.");
    let unet = || whole().only("model.diffusion_model.");
    let (vae, clip) =
        (|| whole().only("first_stage_model."), || whole().only("conditioner.embedders.1.model."));
    let cases = [
        (Part::UNet, unet(), vec!["model.diffusion_model.", "diffusion_model.", ""]),
        (Part::UNet, sdxl_part(Part::UNet), vec!["model.diffusion_model.", "unet.", ""]),
        (Part::Vae, vae(), vec!["first_stage_model.", "vae.", ""]),
        (Part::Vae, sdxl_part(Part::Vae), vec!["first_stage_model.", "vae.", ""]),
        (
            Part::TextEncoder,
            first(),
            vec![
                "conditioner.embedders.0.transformer.",
                "cond_stage_model.transformer.",
                "text_encoders.clip_l.transformer.",
                "text_encoder.",
                "",
            ],
        ),
        (
            Part::TextEncoder,
            sdxl_part(Part::TextEncoder),
            vec!["conditioner.embedders.0.transformer.", "cond_stage_model.transformer.", ""],
        ),
        (Part::TextEncoder2, clip(), vec!["conditioner.embedders.1.model.", "model.", ""]),
        (
            Part::TextEncoder2,
            sdxl_part(Part::TextEncoder2),
            vec!["text_encoders.clip_g.transformer.", "text_encoder_2.", ""],
        ),
    ];
    for (part, tensors, prefixes) in cases {
        for prefix in prefixes {
            let checkpoint = Checkpoint::open(prefixed(tensors.clone(), prefix)).unwrap();
            let what = format!("{part:?} under {prefix:?}");
            assert_eq!(checkpoint.parts().map(|(part, _)| part).collect::<Vec<_>>(), [part], "{what}");
            assert_eq!((checkpoint.prefix(part), checkpoint.leftover()), (Some(prefix), &[][..]), "{what}");
            same(&checkpoint.part(part).unwrap(), &sdxl_part(part), &what);
            assert!(!checkpoint.missing().contains(&part));
        }
    }
    // Matrices of the autoencoder's attention that are no convolutions, and a projection that lies as transformers has it.
    let matrix = |(name, shape, values): NamedTensor| match shape.as_slice() {
        [a, b, 1, 1] if name.contains("attn_1") => (name, vec![*a, *b], values),
        _ => (name, shape, values),
    };
    let flat = of(values(&vae()).into_iter().map(matrix));
    same(&Checkpoint::open(flat).unwrap().vae().unwrap(), &sdxl_part(Part::Vae), "matrices");
    let projection = sdxl_part(Part::TextEncoder2).select(|name| name == "text_projection.weight");
    let others = clip().select(|name| name != "text_projection");
    let mixed = of(values(&others).into_iter().chain(values(&projection)));
    same(
        &Checkpoint::open(mixed).unwrap().text_encoder_2().unwrap(),
        &sdxl_part(Part::TextEncoder2),
        "projection",
    );
    // A model without an autoencoder says so.
    let pruned = Checkpoint::open(whole().select(|name| !name.starts_with("first_stage_model."))).unwrap();
    assert_eq!(pruned.missing(), [Part::Vae]);
    // The family of text encoders alone, and the last block that one of them does not use.
    let text = |name: &str, prefix: &'static str| {
        Checkpoint::open(file(name).select(|name| name.starts_with(prefix))).unwrap()
    };
    let second = text("sd2", "cond_stage_model.");
    assert_eq!(second.family(), Some(Family::StableDiffusion2));
    same(&second.text_encoder().unwrap(), &folder("clip_gelu/model"), "text of 2.x alone");
    assert_eq!(text("sdxl", "conditioner.").family(), Some(Family::StableDiffusionXl));
    assert_eq!(text("sd1", "cond_stage_model.").family(), None);
}

/// Half-precision files stay so: rows of a packed matrix and a transpose have its type and its values.
#[test]
fn half_precision_stays_half() {
    let folder = tempfile::tempdir().unwrap();
    for (precision, dtype) in [(Precision::Half, Dtype::F16), (Precision::Brain, Dtype::BF16)] {
        let path = folder.path().join("half.safetensors");
        write(&path, &file("sdxl"), precision).unwrap();
        let checkpoint = Checkpoint::open(read(&path).unwrap()).unwrap();
        for part in [Part::UNet, Part::Vae, Part::TextEncoder, Part::TextEncoder2] {
            let expected = folder.path().join("expected.safetensors");
            write(&expected, &sdxl_part(part), precision).unwrap();
            let found = checkpoint.part(part).unwrap();
            same(&found, &read(&expected).unwrap(), &format!("{part:?}"));
            // Written again, it is the file that the folder's weights give.
            let again = folder.path().join("again.safetensors");
            write(&again, &found, precision).unwrap();
            assert_eq!(fs::read(again).unwrap(), fs::read(expected).unwrap());
        }
        assert!(
            checkpoint.types().contains(&(dtype, 1518)) || checkpoint.types().iter().any(|t| t.0 == dtype)
        );
    }
}

#[test]
fn what_belongs_to_no_part_is_listed() {
    let extra = [
        named("model.diffusion_model.extra.weight", &[2]),
        named("first_stage_model.loss.logvar", &[1]),
        named("conditioner.embedders.1.model.visual.proj", &[2]),
        named("conditioner.embedders.0.transformer.text_projection.weight", &[24, 24]),
        named("betas", &[3]),
        named("denoiser.sigmas", &[3]),
        named("ztsnr", &[0]),
        named("v_pred", &[0]),
        named("unknown", &[1]),
    ];
    let checkpoint = Checkpoint::open(of(values(&file("sdxl")).into_iter().chain(extra))).unwrap();
    let listed =
        ["conditioner.embedders.1.model.visual.proj", "model.diffusion_model.extra.weight", "unknown"];
    assert_eq!(checkpoint.leftover(), listed);
    assert_eq!((checkpoint.v_prediction(), checkpoint.zero_terminal_snr()), (Some(true), true));
    same(&checkpoint.unet().unwrap(), &sdxl_part(Part::UNet), "unet");
}

/// A moving average has the UNet's names without dots.
#[test]
fn a_moving_average_is_taken_when_asked() {
    let plain = values(&file("sd1"));
    let average = plain.iter().filter(|(name, ..)| name.starts_with("model.diffusion_model.")).map(
        |(name, shape, values)| {
            let name = format!("model_ema.{}", name.replacen("model.", "", 1).replace('.', ""));
            (name, shape.clone(), values.iter().map(|value| value + 1.0).collect())
        },
    );
    let counter = named("model_ema.num_updates", &[]);
    let all: Vec<_> = plain.iter().cloned().chain(average).chain([counter]).collect();
    let checkpoint = Checkpoint::open(of(all.clone())).unwrap();
    let expected = folder("unet_sd1/diffusion_pytorch_model");
    same(&checkpoint.unet().unwrap(), &expected, "plain");
    let shifted =
        values(&expected).into_iter().map(|(n, s, v)| (n, s, v.iter().map(|value| value + 1.0).collect()));
    same(&checkpoint.unet_average().unwrap(), &of(shifted), "average");
    assert!(checkpoint.leftover().is_empty());
    // Half an average is none, and is listed.
    let lost = "model_ema.diffusion_modelout2bias";
    let half = Checkpoint::open(of(all.into_iter().filter(|(name, ..)| name != lost))).unwrap();
    assert!(half.unet_average().is_none() && half.leftover().len() > 100);
}

/// All codes of the two 8-bit types as torch reads them, also where they are a slice or a transpose, and what is written.
#[test]
fn eight_bits_are_widened_exactly() {
    let eighths = file("eighths");
    for name in ["e4m3", "e5m2"] {
        let (found, expected) =
            (eighths.floats(name).unwrap(), eighths.floats(&format!("{name}_values")).unwrap());
        assert_eq!(found.len(), 256);
        for (code, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let equal = found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan());
            assert!(equal, "{name} {code}: {found}, {expected}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("single.safetensors");
    write(&path, &eighths.clone().select(|name| name == "e4m3"), Precision::Single).unwrap();
    assert_eq!(read(&path).unwrap().entries()["e4m3"].dtype, Dtype::F32);
}

/// Scaled 8-bit weights are multiplied by their scale, one number or one for each row; the marks are no leftovers.
#[test]
fn scaled_weights_are_multiplied() {
    let target = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k";
    let today = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.weight";
    let plain = sdxl_part(Part::UNet).floats(today).unwrap();
    for (shape, scale) in
        [(vec![], vec![2.0]), (vec![1], vec![2.0]), (vec![16, 1], (0..16).map(|i| i as f32).collect())]
    {
        let marks = [
            (format!("{target}.scale_weight"), shape.clone(), scale.clone()),
            named(&format!("{target}.scale_input"), &[]),
            named("scaled_fp8", &[0]),
        ];
        let checkpoint = Checkpoint::open(of(values(&file("sdxl")).into_iter().chain(marks))).unwrap();
        assert!(checkpoint.scaled() && checkpoint.leftover().is_empty());
        let found = checkpoint.unet().unwrap().floats(today).unwrap();
        for (i, (found, plain)) in found.iter().zip(&plain).enumerate() {
            assert_eq!(*found, plain * scale[if scale.len() > 1 { i / 56 } else { 0 }]);
        }
    }
    let wrong = (format!("{target}.scale_weight"), vec![3], vec![1.0; 3]);
    let error =
        Checkpoint::open(of(values(&file("sdxl")).into_iter().chain([wrong]))).unwrap_err().to_string();
    assert!(error.contains("the scale of") && error.contains("use the model's file in 16 bits"), "{error}");
}

/// A UNet's attention with the published depths, latent diffusion names; `change` edits the depths of inputs, middle, outputs.
fn attentions(width: usize, depths: &[(&str, usize)]) -> Vec<NamedTensor> {
    let name = |block: &str, k: usize| {
        format!("model.diffusion_model.{block}.1.transformer_blocks.{k}.attn2.to_k.weight")
    };
    depths
        .iter()
        .flat_map(|(block, depth)| (0..*depth).map(move |k| named(&name(block, k), &[1, width])))
        .collect()
}

fn sampler(last: usize) -> Vec<NamedTensor> {
    let sampler =
        |i: usize| named(&format!("model.diffusion_model.input_blocks.{i}.0.op.weight"), &[1, 1, 3, 3]);
    let resnet =
        |i: usize| named(&format!("model.diffusion_model.input_blocks.{i}.0.in_layers.0.bias"), &[1]);
    (3..=last).step_by(3).map(sampler).chain([resnet(last + 1)]).collect()
}

fn conv_in(out: usize, channels: usize) -> NamedTensor {
    named("model.diffusion_model.input_blocks.0.0.weight", &[out, channels, 3, 3])
}

fn label(width: usize) -> NamedTensor {
    named("model.diffusion_model.label_emb.0.0.weight", &[1, width])
}

const SDXL: [(&str, usize); 10] = [
    ("input_blocks.4", 2),
    ("input_blocks.5", 2),
    ("input_blocks.7", 10),
    ("input_blocks.8", 10),
    ("middle_block", 10),
    ("output_blocks.0", 10),
    ("output_blocks.1", 10),
    ("output_blocks.2", 10),
    ("output_blocks.3", 2),
    ("output_blocks.4", 2),
];

const SD: [(&str, usize); 16] = [
    ("input_blocks.1", 1),
    ("input_blocks.2", 1),
    ("input_blocks.4", 1),
    ("input_blocks.5", 1),
    ("input_blocks.7", 1),
    ("input_blocks.8", 1),
    ("middle_block", 1),
    ("output_blocks.3", 1),
    ("output_blocks.4", 1),
    ("output_blocks.5", 1),
    ("output_blocks.6", 1),
    ("output_blocks.7", 1),
    ("output_blocks.8", 1),
    ("output_blocks.9", 1),
    ("output_blocks.10", 1),
    ("output_blocks.11", 1),
];

fn opened(tensors: impl IntoIterator<Item = Vec<NamedTensor>>) -> Result<Checkpoint, Error> {
    Checkpoint::open(of(tensors.into_iter().flatten()))
}

#[test]
fn the_published_shapes_are_recognised() {
    let mut depths = SDXL.to_vec();
    depths.push(("output_blocks.5", 2));
    let sdxl = || vec![vec![conv_in(320, 4), label(2816)], sampler(6)];
    let family = |tensors: Vec<Vec<NamedTensor>>| opened(tensors).map(|checkpoint| checkpoint.family());
    let whole = [sdxl(), vec![attentions(2048, &depths)]].concat();
    assert_eq!(family(whole).unwrap(), Some(Family::StableDiffusionXl));
    for (width, expected) in [(768, Family::StableDiffusion1), (1024, Family::StableDiffusion2)] {
        let whole = vec![vec![conv_in(320, 4)], sampler(9), attentions(width, &SD)];
        assert_eq!(family(whole).unwrap(), Some(expected));
        let mut tiny = SD.to_vec();
        tiny.retain(|(block, _)| *block != "middle_block");
        let error = family(vec![vec![conv_in(320, 4)], sampler(9), attentions(width, &tiny)])
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("\"test.safetensors\" is a reduced Stable Diffusion, such as tiny-sd or SDXS"),
            "{error}"
        );
    }
    // SSD-1B and its like.
    let shallow: Vec<_> = depths.iter().map(|(block, depth)| (*block, (*depth).min(4))).collect();
    for depths in [shallow, SDXL.to_vec()] {
        let error = family([sdxl(), vec![attentions(2048, &depths)]].concat()).unwrap_err().to_string();
        assert!(
            error.contains("a reduced Stable Diffusion XL, such as SSD-1B, Segmind Vega or KOALA"),
            "{error}"
        );
        assert!(error.contains("(transformer blocks down [[], [2, 2], ["), "{error}");
    }
}

#[test]
fn other_models_are_refused_by_name() {
    let marked = |name: &str| vec![named(name, &[1])];
    let unet = |tensors: Vec<NamedTensor>| [tensors, attentions(768, &SD)].concat();
    let today = |conv: &[usize], more: NamedTensor| {
        vec![named("conv_in.weight", conv), named("down_blocks.0.resnets.0.norm1.bias", &[1]), more]
    };
    let added = |width: usize| named("add_embedding.linear_1.weight", &[1, width]);
    for (tensors, expected) in [
        (unet(vec![conv_in(8, 9)]), "an inpainting model"),
        (today(&[8, 9, 3, 3], added(2816)), "an inpainting model"),
        (unet(vec![conv_in(8, 8)]), "an InstructPix2Pix model"),
        (unet(vec![conv_in(8, 5)]), "a depth model"),
        (unet(vec![conv_in(8, 7)]), "an upscaler of pictures"),
        (unet(vec![conv_in(256, 4)]), "an upscaler of pictures"),
        (unet(vec![conv_in(384, 4)]), "the refiner of Stable Diffusion XL"),
        (unet(vec![conv_in(8, 4), label(2560)]), "the refiner of Stable Diffusion XL"),
        (today(&[8, 4, 3, 3], added(2560)), "the refiner of Stable Diffusion XL"),
        (unet(vec![conv_in(8, 4), label(1536)]), "an unCLIP model"),
        (unet(vec![conv_in(8, 4), label(2048)]), "an unCLIP model"),
        (
            today(&[8, 4, 3, 3], named("time_embedding.cond_proj.weight", &[1])),
            "a UNet with an input for guidance",
        ),
        (today(&[8, 4, 3, 3], named("encoder_hid_proj.weight", &[1])), "a UNet with another input of text"),
        (
            today(&[8, 4, 3, 3], named("class_embedding.linear_1.weight", &[1])),
            "a UNet with an input of classes",
        ),
        (marked("model.diffusion_model.double_blocks.0.img_attn.qkv.weight"), "a Flux model"),
        (marked("single_transformer_blocks.0.attn.to_q.weight"), "a Flux model"),
        (marked("model.diffusion_model.joint_blocks.0.x.weight"), "a Stable Diffusion 3 model"),
        (marked("transformer_blocks.0.attn1.to_q.weight"), "a diffusion transformer"),
        (marked("control_model.input_blocks.0.0.weight"), "a ControlNet"),
        (marked("controlnet_cond_embedding.conv_in.weight"), "a ControlNet"),
        (marked("down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"), "a model of videos"),
        (vec![named("encoder.conv_in.weight", &[1, 1, 1, 1, 1])], "a model of videos"),
        (unet(vec![conv_in(8, 4), named("edm_mean", &[1]), named("edm_std", &[1])]), "Playground 2.5"),
        (unet(vec![conv_in(8, 4), named("edm_vpred.sigma_max", &[1])]), "CosXL"),
        (marked("conv_in.weight.absmax"), "a model in bitsandbytes' quantisation"),
        (marked("conv_in.weight.quant_map"), "a model in bitsandbytes' quantisation"),
        (marked("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"), "a LoRA"),
        (marked("unet.mid_block.attentions.0.proj_in.lora_A.weight"), "a LoRA"),
        (marked("unet.mid_block.attn1.processor.to_q_lora.down.weight"), "a LoRA"),
        (marked("emb_params"), "a textual inversion"),
        (marked("string_to_param.*"), "a textual inversion"),
        (vec![named("clip_l", &[1]), named("clip_g", &[1])], "a textual inversion"),
        (vec![named("image_proj.proj.weight", &[1])], "an IP-Adapter"),
        (
            vec![named("decoder.conv_in.weight", &[8, 16, 3, 3])],
            "a model with an autoencoder of 16 latent channels",
        ),
        (marked("some.weight"), "no model that is known here"),
        (vec![], "empty"),
    ] {
        let error = opened([tensors]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("\"test.safetensors\" is {expected}")), "{expected}: {error}");
    }
    let folder = tempfile::tempdir().unwrap();
    for name in ["model.gguf", "model.safetensors"] {
        let path = folder.path().join(name);
        fs::write(&path, b"GGUF\x03\0\0\0\0\0\0\0").unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(
            error.ends_with("is a GGUF file, whose weights are quantised; use the model's safetensors file"),
            "{error}"
        );
    }
}

/// A training's checkpoint: a state dict in a state dict, beside an optimiser's and objects of unknown classes.
#[cfg(feature = "pytorch")]
#[test]
fn a_nested_state_dict_is_read() {
    let checkpoint = Checkpoint::open(read(&golden("files/nested.ckpt")).unwrap()).unwrap();
    same(&checkpoint.vae().unwrap(), &folder("vae/diffusion_pytorch_model"), "nested");
    assert!(checkpoint.leftover().is_empty());
}
