//! Stable Diffusion XL against diffusers: every part, and whole pictures. Fixtures made by `scripts/golden_sdxl.py`.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{FloatDType, Tensor};
use dmd::clip::{
    ClipTextModel, ProjectedTextEncoder, ProjectedTextModel, TextConfig, TextEncoder, Tokenizer,
};
use dmd::infer::{Method, Pipeline, PipelineBuilder, Request, SizeConditions, TeacherSettings};
use dmd::model::{AnyModel, LoraOption, OpenOptions};
use dmd::unet::{Autoencoder, Network, XlCondition, XlUNet2d, XlUNetConfig};
use tempfile::TempDir;

use crate::support::{Fixture, assert_close, device, golden};

const PROMPTS: [&str; 3] = ["", "red !! red", "a red circle above a blue square"];

fn unet() -> XlUNet2d {
    let folder = golden("sdxl/unet");
    let config: XlUNetConfig = dmd::weights::read_config(&folder).unwrap();
    let path = dmd::weights::weight_file(&folder, &["diffusion_pytorch_model"]).unwrap();
    XlUNet2d::from_tensors(&config, &dmd::weights::read(&path).unwrap(), &device()).unwrap()
}

#[test]
fn unet_with_sizes_and_pooled_text() {
    let (network, io) = (unet(), Fixture::open("sdxl/io"));
    let condition =
        XlCondition { text: io.tensor("text"), pooled: io.tensor("pooled"), sizes: io.tensor("sizes") };
    for t in [999.0, 399.0, 0.0] {
        let output = network.forward(io.tensor("x"), Tensor::from_floats([t, t], &device()), &condition);
        assert_close(&format!("t = {t}"), output, io.tensor(&format!("unet_{t}")));
    }
    // Sides of 9 and 7, which two levels do not halve evenly.
    let t = Tensor::from_floats([399.0, 399.0], &device());
    assert_close("odd sides", network.forward(io.tensor("odd"), t, &condition), io.tensor("unet_odd"));
}

#[test]
fn both_tokenizers_and_encoders() {
    let io = Fixture::open("sdxl/io");
    let first: TextConfig = dmd::weights::read_config(&golden("sdxl/text_encoder")).unwrap();
    let second: TextConfig = dmd::weights::read_config(&golden("sdxl/text_encoder_2")).unwrap();
    let tokenizers = ["tokenizer", "tokenizer_2"]
        .map(|name| Tokenizer::from_dir(&golden(&format!("sdxl/{name}")), 77).unwrap());
    for (i, prompt) in PROMPTS.iter().enumerate() {
        for (tokenizer, name) in tokenizers.iter().zip(["ids", "ids_2"]) {
            let (_, expected) = io.values(&format!("{name}_{i}"));
            let expected: Vec<u32> = expected.into_iter().map(|id| id as u32).collect();
            assert_eq!(tokenizer.encode(prompt).unwrap(), expected, "{name} of {prompt:?}");
        }
    }
    let [one, two] = tokenizers;
    let network = ClipTextModel::from_dir(&golden("sdxl/text_encoder"), &device()).unwrap().0;
    let one = TextEncoder::new(one, network, &device());
    let network = ProjectedTextModel::from_dir(&golden("sdxl/text_encoder_2"), &second, &device()).unwrap();
    let two = ProjectedTextEncoder::new(two, network, &second, &device());
    assert_eq!(first.hidden_size + second.hidden_size, 56);
    let check = |prompt: &str, left_out, name: &str| {
        let text = two.encode(&[prompt], left_out).unwrap();
        let context = Tensor::cat(vec![one.hidden(&[prompt], left_out).unwrap(), text.hidden], 2);
        assert_close(prompt, context, io.tensor(&format!("context_{name}")));
        assert_close(prompt, text.pooled, io.tensor(&format!("pooled_{name}")));
    };
    for (i, prompt) in PROMPTS.iter().enumerate() {
        check(prompt, 1, &i.to_string());
    }
    check(PROMPTS[2], 2, "skip");
}

#[test]
fn autoencoder() {
    let (network, _) = Autoencoder::from_dir(&golden("sdxl/vae"), &device()).unwrap();
    let io = Fixture::open("sdxl/io");
    assert_close("decoded", network.decode(io.tensor("latent")), io.tensor("decoded"));
}

/// The golden model's folder with its UNet as a generator too, which is called at these timesteps.
fn with_generator(timesteps: &[usize]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_model(folder.path());
    copy_files(&golden("sdxl/unet"), &folder.path().join("unet_one_step"));
    let recipe = serde_json::json!({ "timesteps": timesteps });
    dmd::weights::write_json(&folder.path().join("unet_one_step/one_step.json"), &recipe).unwrap();
    folder
}

/// The tiny model without its fixtures.
fn copy_model(to: &Path) {
    for part in ["tokenizer", "tokenizer_2", "text_encoder", "text_encoder_2", "unet", "vae", "scheduler"] {
        copy_files(&golden("sdxl").join(part), &to.join(part));
    }
    fs::copy(golden("sdxl/model_index.json"), to.join("model_index.json")).unwrap();
}

fn copy_files(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// Latents and pictures of a request beside diffusers' run of the same seed.
fn compare(pipeline: &Pipeline, request: Request, name: &str) {
    let io = Fixture::open("sdxl/pictures");
    let expected: Tensor<4> = io.tensor(&format!("{name}_picture"));
    let [_, _, height, width] = expected.dims();
    let request = request.with_seeds([5]).with_size(height, width);
    let text = pipeline.encode_prompt(&[PROMPTS[2]]).unwrap();
    let z = pipeline.noise(&[5], height, width);
    let latents = pipeline.denoise_from(&request, z, &text, &mut ()).unwrap();
    // diffusers keeps latents times the autoencoder's factor.
    assert_close(name, latents, io.tensor(&format!("{name}_latents")));
    let picture = pipeline.generate(&request).unwrap().pictures.remove(0);
    let levels = expected.permute([0, 2, 3, 1]).into_data();
    for (found, expected) in picture.as_raw().iter().zip(levels.iter::<f32>()) {
        let off = (f32::from(*found) - (expected.clamp(0.0, 1.0) * 255.0).round()).abs();
        assert!(off <= 1.0, "{name}: a level is {found}, expected {}", expected * 255.0);
    }
}

#[test]
fn one_and_four_steps_as_lcm_draws_them() {
    let request = || Request::new([PROMPTS[2]]);
    let one = with_generator(&[399]);
    compare(&Pipeline::from_dir(one.path(), &device()).unwrap(), request(), "one_step");
    let four = with_generator(&[999, 749, 499, 249]);
    let pipeline = Pipeline::from_dir(four.path(), &device()).unwrap();
    compare(&pipeline, request(), "four_steps");
    compare(&pipeline, request(), "odd");
}

#[test]
fn a_teacher_points_away_from_zeros_or_from_the_empty_prompt() {
    let pipeline = Pipeline::from_dir(&golden("sdxl"), &device()).unwrap();
    assert_eq!(pipeline.default_size(), (64, 64));
    assert_eq!(pipeline.default_guidance(), 5.0);
    let teacher = || TeacherSettings::new(3).with_guidance(5.0);
    let request = |settings: TeacherSettings| Request::new([PROMPTS[2]]).with_method(settings);
    compare(&pipeline, request(teacher()), "zeros");
    compare(&pipeline, request(teacher().with_negative("")), "empty");
    let sizes = SizeConditions { original: (512, 640), crop: (8, 16), target: (1024, 1024) };
    compare(&pipeline, request(teacher()).with_size_conditions(sizes), "sizes");
}

#[test]
fn parts_that_do_not_fit_are_named() {
    let folder = with_generator(&[399]);
    let path = folder.path().join("text_encoder_2/config.json");
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, config.replace("\"projection_dim\": 20", "\"projection_dim\": 21")).unwrap();
    let message = Pipeline::from_dir(folder.path(), &device()).unwrap_err().to_string();
    assert!(message.contains("21") && message.contains("20") && message.contains("projection"), "{message}");
}

/// A published recipe is asked for by name, or known by the file's; the model itself may be the few-step one.
#[test]
fn recipes_by_name() {
    let builder = || Pipeline::builder(golden("sdxl"), &device());
    let pipeline = builder().recipe("dmd2-4step").build().unwrap();
    compare(&pipeline, Request::new([PROMPTS[2]]), "four_steps");
    compare(&builder().recipe("dmd2-1step").build().unwrap(), Request::new([PROMPTS[2]]), "one_step");

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dmd2_sdxl_4step_unet_fp32.safetensors");
    fs::copy(golden("sdxl/unet/diffusion_pytorch_model.safetensors"), &file).unwrap();
    let named = builder().generator(&file);
    assert_eq!(named.generator_recipe().unwrap().unwrap().name.as_deref(), Some("dmd2-4step"));
    compare(&named.build().unwrap(), Request::new([PROMPTS[2]]), "four_steps");

    let message = builder().recipe("dmd3").build().unwrap_err().to_string();
    assert!(message.contains("dmd3") && message.contains("dmd2-4step"), "{message}");
    // What is written beside the weights goes before, and is not contradicted.
    let own = with_generator(&[399]);
    let refused =
        Pipeline::builder(own.path(), &device()).recipe("dmd2-4step").build().unwrap_err().to_string();
    assert!(refused.contains("one_step.json"), "{refused}");
}

/// A sampler's way by the distilled network: the walk that the teacher would make without guidance.
#[test]
fn recipes_of_a_sampler() {
    let drawn =
        |pipeline: Pipeline, request: Request| pipeline.generate(&request.with_seeds([3])).unwrap().pictures;
    let recipe = Pipeline::builder(golden("sdxl"), &device()).recipe("lightning-4step").build().unwrap();
    let folder = with_generator(&[399]);
    let path = folder.path().join("scheduler/scheduler_config.json");
    let text = fs::read_to_string(&path).unwrap().replace("\"leading\"", "\"trailing\"");
    fs::write(&path, text).unwrap();
    let plain = Pipeline::builder(folder.path(), &device()).teacher_only().build().unwrap();
    let request = || Request::new([PROMPTS[2]]);
    let settings = TeacherSettings::new(4).with_guidance(1.0);
    assert_eq!(
        drawn(recipe, request())[0].as_raw(),
        drawn(plain, request().with_method(settings))[0].as_raw()
    );
}

/// A model of few steps has no teacher, but for a LoRA that makes it one: without that, the model is the teacher.
#[test]
fn models_of_few_steps() {
    let builder = || Pipeline::builder(golden("sdxl"), &device());
    let turbo = builder().recipe("turbo").recipe_steps(3).build().unwrap();
    assert_eq!((turbo.generator_steps(), turbo.has_teacher()), (Some(3), false));
    for (wrong, said) in [
        (builder().recipe("turbo").recipe_steps(9), "1 to 4 steps"),
        (builder().recipe("dmd2-4step").recipe_steps(2), "4 steps, and no other"),
        (builder().recipe("turbo").teacher_only(), "1 to 4, by the recipe turbo"),
        (builder().recipe_steps(3), "no distilled generator"),
        (builder().recipe("turbo").told_guidance(3.0), "not told one"),
        (builder().generator(golden("files/sd1.safetensors")), "Stable Diffusion XL"),
    ] {
        let message = wrong.build().unwrap_err().to_string();
        assert!(message.contains(said), "{message}");
    }
    // By its name, unless the name is denied.
    let folder = tempfile::tempdir().unwrap();
    let named = folder.path().join("sdxl-turbo");
    copy_model(&named);
    let named = || Pipeline::builder(&named, &device());
    assert_eq!(named().build().unwrap().generator_steps(), Some(1));
    let plain = named().recipe("none").build().unwrap();
    assert_eq!((plain.generator_steps(), plain.has_teacher()), (None, true));

    let few = folder.path().join("dmd2_sdxl_4step_lora.safetensors");
    fs::copy(lora("kohya"), &few).unwrap();
    let both = builder().lora(&few, 1.0).build().unwrap();
    let with_lora = builder().lora(lora("kohya"), 1.0).build().unwrap();
    let drawn = |pipeline: &Pipeline, method: Method| {
        let request = Request::new([PROMPTS[2]]).with_method(method);
        pipeline.generate(&request).unwrap().pictures.remove(0).into_raw()
    };
    let teacher = || Method::teacher(2, 3.0);
    assert_eq!(drawn(&both, teacher()), drawn(&plain, teacher()));
    assert_ne!(drawn(&both, teacher()), drawn(&with_lora, teacher()));
    let of_lora = builder().lora(lora("kohya"), 1.0).recipe("dmd2-4step").build().unwrap();
    assert_eq!(drawn(&both, Method::Distilled), drawn(&of_lora, Method::Distilled));
    let left_out = builder().lora(&few, 1.0).teacher_only().build().unwrap();
    assert!(left_out.notes().join(" ").contains("left out"), "{:?}", left_out.notes());
    assert_eq!(drawn(&left_out, teacher()), drawn(&plain, teacher()));

    // A generator that nothing is known of.
    let unknown = builder().generator(golden("sdxl/unet/diffusion_pytorch_model.safetensors"));
    let notes = unknown.build().unwrap().notes().join(" ");
    assert!(notes.contains("called once, at t = 999"), "{notes}");

    // A folder that is written says how it is called.
    let mut options = OpenOptions::new(golden("sdxl"), &device());
    options.loras.push(LoraOption { path: few, strength: 1.0 });
    let out = folder.path().join("merged");
    dmd::model::convert(&options, &out).unwrap();
    let merged = Pipeline::builder(&out, &device()).build().unwrap();
    assert_eq!((merged.generator_steps(), merged.has_teacher()), (Some(4), false));
    // It can be drawn with as any other all the same; what is written is not overruled, by a LoRA's name neither.
    let any = Pipeline::builder(&out, &device()).recipe("none").build().unwrap();
    assert_eq!((any.generator_steps(), any.has_teacher()), (None, true));
    let lcm = folder.path().join("lcm");
    copy_model(&lcm);
    let file = lcm.join("unet/one_step.json");
    fs::write(&file, "{\"recipe\": \"lcm\"}").unwrap();
    options.model.clone_from(&lcm);
    let again = folder.path().join("again");
    dmd::model::convert(&options, &again).unwrap();
    let again = Pipeline::builder(&again, &device()).build().unwrap();
    assert_eq!(again.generator_recipe().unwrap().name.as_deref(), Some("lcm"));
    for text in ["{\"recipe\": \"lcm\", \"timesteps\": [999, 499]}", "{\"recipe\": \"lcn\"}"] {
        fs::write(&file, text).unwrap();
        let message = Pipeline::builder(&lcm, &device()).build().unwrap_err().to_string();
        assert!(message.contains("one_step.json"), "{message}");
    }
    assert_eq!(drawn(&merged, Method::Distilled), drawn(&both, Method::Distilled));
}

/// Text encoders that stay in their file's half precision compute the same numbers as widened ones, bit for bit, with and
/// without a LoRA.
#[test]
fn text_encoders_in_half_precision() {
    let folder = tempfile::tempdir().unwrap();
    copy_model(folder.path());
    for part in ["text_encoder", "text_encoder_2"] {
        let file = folder.path().join(part).join("model.safetensors");
        let whole = dmd::weights::read(&golden("sdxl").join(part).join("model.safetensors")).unwrap();
        dmd::weights::write(&file, &whole, dmd::weights::Precision::Half).unwrap();
        assert_eq!(dmd::weights::read(&file).unwrap().half(), Some(FloatDType::F16));
        assert_eq!(whole.half(), None);
    }
    if !device().supports_dtype(FloatDType::F16) {
        return;
    }
    let features = |dtype, loras: &[&str]| {
        let builder = Pipeline::builder(folder.path(), &device()).dtype(dtype);
        let pipeline =
            loras.iter().fold(builder, |builder, name| builder.lora(lora(name), 1.0)).build().unwrap();
        let found = pipeline.encode_prompt(&PROMPTS).unwrap();
        [
            found.words.into_data().try_to_vec::<f32>().unwrap(),
            found.pooled.unwrap().into_data().try_to_vec().unwrap(),
        ]
    };
    for loras in [&[][..], &["text_kohya"]] {
        assert_eq!(features(FloatDType::F16, loras), features(FloatDType::F32, loras), "{loras:?}");
    }
    assert_ne!(features(FloatDType::F16, &[]), features(FloatDType::F16, &["text_kohya"]));
}

/// Other LoRA files in an opened model: the picture of one that is built with them, bit for bit, whatever was there.
#[test]
fn changed_loras() {
    let of = |all: &[(&str, f64)]| -> Vec<LoraOption> {
        all.iter().map(|(name, strength)| LoraOption { path: lora(name), strength: *strength }).collect()
    };
    let drawn = |pipeline: &Pipeline| {
        let request = Request::new([PROMPTS[2]]).with_method(Method::teacher(2, 3.0));
        pipeline.generate(&request).unwrap().pictures.remove(0).into_raw()
    };
    for dtype in [FloatDType::F32, FloatDType::F16] {
        let builder = || Pipeline::builder(golden("sdxl"), &device()).dtype(dtype);
        let mut pipeline = builder().lora(lora("kohya"), 0.7).build().unwrap();
        for all in [
            &[("kohya", 0.3), ("text_kohya", 1.5)][..],
            &[],
            &[("text_kohya", -1.0)],
            &[("peft_metadata", 1.0)],
        ] {
            pipeline.set_loras(of(all)).unwrap();
            assert_eq!(pipeline.notes().len(), all.len());
            let anew = all.iter().fold(builder(), |b, (name, strength)| b.lora(lora(name), *strength));
            assert_eq!(drawn(&pipeline), drawn(&anew.build().unwrap()), "{all:?}");
        }
        // What is refused changes nothing.
        let before = drawn(&pipeline);
        let wrong = LoraOption { path: golden("sdxl/unet/config.json"), strength: 1.0 };
        assert!(pipeline.set_loras([wrong]).is_err());
        assert_eq!((drawn(&pipeline), pipeline.loras().len()), (before, 1));
    }
}

fn lora(name: &str) -> PathBuf {
    golden(&format!("files/lora/{name}.safetensors"))
}

/// The UNet's output with a LoRA merged, as peft computes it with the adapter beside the weights, in both of kohya's
/// spellings and in PEFT's; at a strength below 1, twice at half of it.
#[test]
fn loras_on_the_unet() {
    let (io, reference) = (Fixture::open("sdxl/io"), Fixture::open("files/lora/reference"));
    let condition =
        XlCondition { text: io.tensor("text"), pooled: io.tensor("pooled"), sizes: io.tensor("sizes") };
    let output = |pipeline: Pipeline| {
        let AnyModel::StableDiffusionXl(model) = pipeline.model() else { panic!("an SDXL model") };
        let t = Tensor::from_floats([399.0, 399.0], &device());
        model.teacher().unwrap().network.forward(io.tensor("x"), t, &condition)
    };
    let builder = || Pipeline::builder(golden("sdxl"), &device());
    for name in ["kohya", "kohya_sgm", "peft_metadata"] {
        let pipeline = builder().lora(lora(name), 1.0).build().unwrap();
        let notes = pipeline.notes().join(" ");
        assert!(notes.contains(name) && notes.contains("layers") && !notes.contains("not used"), "{notes}");
        assert_close(name, output(pipeline), reference.tensor("unet_1"));
    }
    let some = builder().lora(lora("kohya"), 0.7).build().unwrap();
    assert_close("0.7", output(some), reference.tensor("unet_0.7"));
    let twice = builder().lora(lora("kohya"), 0.35).lora(lora("kohya_sgm"), 0.35).build().unwrap();
    assert_close("0.35 twice", output(twice), reference.tensor("unet_0.7"));
    // Text encoders alone: the UNet is as it was.
    let text = builder().lora(lora("text_kohya"), 1.0).build().unwrap();
    assert_ne!(
        text.encode_prompt(&["red"]).unwrap().words.into_data(),
        builder().build().unwrap().encode_prompt(&["red"]).unwrap().words.into_data()
    );
    // Of another family.
    let error =
        Pipeline::builder(golden("sdxl"), &device()).lora(golden("sdxl/unet/config.json"), 1.0).build();
    assert!(error.is_err());
}

/// A single file draws what the folder draws that it was made from, bit for bit; so does the folder that is converted from
/// it.
#[test]
fn a_single_file_is_the_folder_it_was_made_from() {
    let draw = |builder: PipelineBuilder| {
        let pipeline = builder.recipe("dmd2-4step").build().unwrap();
        pipeline.generate(&Request::new([PROMPTS[2]]).with_seeds([5])).unwrap().pictures.remove(0).into_raw()
    };
    let expected = draw(Pipeline::builder(golden("sdxl"), &device()));
    let file = golden("files/sdxl.safetensors");
    assert_eq!(draw(Pipeline::builder(&file, &device()).config(golden("sdxl"))), expected);
    // Its UNet and its autoencoder alone, in a folder's model.
    let with_parts = Pipeline::builder(golden("sdxl"), &device()).generator(&file).autoencoder(&file);
    assert_eq!(draw(with_parts), expected);

    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("converted");
    let mut options = OpenOptions::new(&file, &device());
    options.config = Some(golden("sdxl"));
    dmd::model::convert(&options, &folder).unwrap();
    assert_eq!(draw(Pipeline::builder(&folder, &device())), expected);

    // Without the configurations of its unusual sizes it is refused, by what does not fit.
    let message = Pipeline::builder(&file, &device()).build().unwrap_err().to_string();
    assert!(message.len() < 2000, "{message}");
}

/// Under f16 the autoencoder stays in single precision, whose values exceed what f16 holds (`force_upcast`); under bf16,
/// which holds them, it does not.
#[test]
fn half_precision_without_black_pictures() {
    let latents = || Fixture::open("sdxl/io").tensor::<4>("latent");
    let decode = |dtype| {
        let pipeline = Pipeline::builder(golden("sdxl"), &device()).dtype(dtype).build().unwrap();
        let AnyModel::StableDiffusionXl(model) = pipeline.model() else { panic!("an SDXL model") };
        model.codec.decode(latents()).into_data().iter::<f32>().collect::<Vec<f32>>()
    };
    let single = decode(FloatDType::F32);
    if device().supports_dtype(FloatDType::F16) {
        assert_eq!(decode(FloatDType::F16), single);
    }
    if device().supports_dtype(FloatDType::BF16) {
        assert_ne!(decode(FloatDType::BF16), single);
    }
}
