//! Names that are chosen, changed, and reported when they do not fit.

use dmd_weights::{Error, KeyMap, NamedTensor, Tensors, load, tensors};

use crate::{KEYS, named, net, of};

fn renamed(all: &[NamedTensor], name: impl Fn(&str) -> String) -> Tensors {
    of(all.iter().map(|(n, shape, values)| (name(n), shape.clone(), values.clone())))
}

fn names(tensors: &Tensors) -> Vec<&str> {
    tensors.entries().keys().map(String::as_str).collect()
}

#[test]
fn views_choose_and_rename() {
    let all = of(["unet.a.w", "unet.b.w", "vae.a.w"].map(|name| named(name, &[2], |i| i as f32)));
    let unet = all.clone().only("unet.");
    assert_eq!(names(&unet), ["a.w", "b.w"]);
    let first = unet.renamed(|name| name.starts_with('a').then(|| format!("x.{name}"))).unwrap();
    assert_eq!(names(&first), ["x.a.w"]);
    assert_eq!(first.floats("x.a.w").unwrap(), [0.0, 1.0]);
    assert!(matches!(first.floats("a.w"), Err(Error::Index { .. })));
    // Two tensors of one name would be one tensor lost.
    let Err(Error::Index { reason, .. }) = all.renamed(|_| Some("same".to_owned())) else { panic!("a loss") };
    assert!(reason.contains("\"same\""), "{reason}");
    for wrong in [vec![named("a", &[2], |_| 0.0); 2], vec![("a".to_owned(), vec![3], vec![0.0; 2])]] {
        assert!(matches!(Tensors::from_values("test", wrong), Err(Error::Index { .. })));
    }
    let overflows = vec![("a".to_owned(), vec![usize::MAX, 2], vec![])];
    assert!(matches!(Tensors::from_values("test", overflows), Err(Error::Index { .. })));
}

/// Case 15: state dicts saved from inside a wrapper. All names have the same beginning, and fit without it.
#[test]
fn a_wrapper_s_prefix_is_taken_off() {
    let net = net();
    let all = tensors(&net, &KEYS);
    let usual = KeyMap { prefix: "text_model.", ..KEYS };
    for prefix in ["", "_orig_mod.", "module._orig_mod.", "model.diffusion_model.", "linear.", "text_model."]
    {
        for (keys, inner) in [(&KEYS, ""), (&usual, "text_model."), (&usual, "")] {
            let file = renamed(&all, |name| format!("{prefix}{inner}{name}"));
            let loaded = load(crate::net(), &file, keys).unwrap();
            assert_eq!(tensors(&loaded, &KEYS), all, "{prefix}{inner}");
        }
    }
    // One that not all names have belongs to another network.
    let file =
        renamed(
            &all,
            |name| {
                if name.starts_with("linear") { format!("module.{name}") } else { name.to_owned() }
            },
        );
    let Err(Error::Mismatch { mismatch, .. }) = load(crate::net(), &file, &KEYS) else { panic!("filled") };
    assert_eq!(mismatch.unused, ["module.linear.bias", "module.linear.weight"]);
    assert_eq!(mismatch.missing, ["linear.weight", "linear.bias"]);
    // Under a prefix, one difference is one difference.
    let file = renamed(&all, |name| format!("module.{}", name.replace("layers.0.bias", "layers.0.offset")));
    let Err(Error::Mismatch { mismatch, .. }) = load(crate::net(), &file, &KEYS) else { panic!("filled") };
    assert_eq!(mismatch.missing, ["module.layers.0.bias"]);
    assert_eq!(mismatch.unused, ["module.layers.0.offset"]);
}

/// Two names of the file that mean one parameter: the second is not dropped in silence.
#[test]
fn two_spellings_of_one_name_are_reported() {
    let all = tensors(&net(), &KEYS);
    let keys = KeyMap { aliases: &[("old", "linear")], ..KEYS };
    let both = all.iter().cloned().chain([named("old.bias", &[4], |_| 0.0)]);
    let Err(Error::Mismatch { mismatch, .. }) = load(net(), &of(both), &keys) else { panic!("filled") };
    assert_eq!((mismatch.missing.len(), mismatch.unused.as_slice()), (0, &["old.bias".to_owned()][..]));
}

/// A report of thousands of names, or of names that are too long or made for a terminal, is one short sentence.
#[test]
fn a_report_is_short() {
    let long = "x".repeat(50_000);
    let many = (0..3000).map(|i| named(&format!("weights.of.{i}.another.kind.of.network"), &[1], |_| 0.0));
    let odd = ["\u{1b}[2J\u{7}\n.w".to_owned(), long, "ß".repeat(300), String::new()];
    let odd = odd.map(|name| named(&name, &[1], |_| 0.0));
    let shapes = [named("linear.bias", &[1; 4000], |_| 0.0)];
    for file in [of(many.clone()), of(odd.clone()), of(many.chain(odd).chain(shapes))] {
        let count = file.entries().len();
        let said = load(net(), &file, &KEYS).unwrap_err().to_string();
        assert!(said.chars().count() < 1000, "{} characters", said.chars().count());
        assert!(!said.chars().any(char::is_control), "{said:?}");
        let unused = count - usize::from(file.entries().contains_key("linear.bias"));
        assert!(said.contains(&format!("{unused} unused")), "{said}");
    }
    let said = load(net(), &renamed(&tensors(&net(), &KEYS), |name| format!("a.b.{name}x")), &KEYS);
    assert!(said.unwrap_err().to_string().contains("all of the unused begin with \"a.b.\""));
}
