//! The procedural shapes and their reader.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use dmd_core::Noise;
use dmd_data::shapes::{Colour, Description, Scene, Shape, Split, read, vocabulary};
use dmd_data::{Dataset, Shapes};

/// The reader recovers everything from pixels, on both splits.
#[test]
fn the_reader_reads_what_was_drawn() {
    let mut noise = Noise::from_seed(4);
    for split in [Split::Train, Split::HeldOut] {
        for _ in 0..300 {
            let scene = Scene::draw(split, &mut noise);
            assert_eq!(scene.description.split(), split);
            let read = read(&scene.render());
            assert!(scene.description.fits(&read), "{}: {read:?}", scene.caption);
            for object in &scene.objects {
                let near = |o: &&dmd_data::shapes::Object| (o.x - object.x).hypot(o.y - object.y) < 1.0;
                let found = read.iter().find(near).unwrap_or_else(|| panic!("{object:?} in {read:?}"));
                assert!((found.radius - object.radius).abs() < 0.75, "{object:?}, read {found:?}");
            }
        }
    }
}

/// It does not say yes to everything: another prompt's picture is wrong nearly always.
#[test]
fn the_reader_refuses_other_pictures() {
    let mut noise = Noise::from_seed(8);
    let scenes: Vec<Scene> = (0..200).map(|_| Scene::draw(Split::Train, &mut noise)).collect();
    let wrong = scenes
        .iter()
        .zip(scenes.iter().skip(1))
        .filter(|(a, b)| a.description.fits(&read(&b.render())))
        .count();
    assert!(wrong <= 4, "{wrong} of 199 foreign pictures pass");
    let blank = image::RgbImage::from_pixel(64, 64, image::Rgb(dmd_data::shapes::BACKGROUND));
    assert!(read(&blank).is_empty());
    let scene = &scenes[0];
    assert!(!scene.description.fits(&[]));
}

#[test]
fn a_seed_draws_the_same_pictures() {
    let draw = |seed| Scene::draw(Split::Train, &mut Noise::from_seed(seed));
    assert_eq!(draw(1), draw(1));
    assert_eq!(draw(1).render().into_raw(), draw(1).render().into_raw());
    assert_ne!(draw(1), draw(2));
}

/// Every composition has one split, whatever the wording, and both exist.
#[test]
fn splits_do_not_overlap() {
    let described = |shape, colour| dmd_data::shapes::Described { shape, colour, size: None };
    let (a, b) = (described(Shape::Circle, Colour::Red), described(Shape::Square, Colour::Blue));
    use dmd_data::shapes::Relation::{Above, Below, LeftOf, RightOf};
    let split = |a, r, b| Description::Two(a, r, b).split();
    assert_eq!(split(a, Above, b), split(b, Below, a));
    assert_eq!(split(a, LeftOf, b), split(b, RightOf, a));
    let mut noise = Noise::from_seed(1);
    let held = (0..2000)
        .filter(|_| {
            let train = Description::draw(Split::Train, &mut noise);
            assert_eq!(train.split(), Split::Train);
            let words = train.caption(&mut noise);
            assert!(words.split(' ').all(|w| vocabulary().contains(&w)), "{words}");
            Description::draw(Split::HeldOut, &mut noise).split() == Split::HeldOut
        })
        .count();
    assert_eq!(held, 2000);
}

/// A caption says what was described, in every wording; other text says nothing.
#[test]
fn captions_are_read_back() {
    let mut noise = Noise::from_seed(12);
    for split in [Split::Train, Split::HeldOut] {
        for _ in 0..5000 {
            let description = Description::draw(split, &mut noise);
            let caption = description.caption(&mut noise);
            assert_eq!(Description::parse(&caption), Some(description), "{caption}");
        }
    }
    for other in
        ["", "a", "a red", "a red fox", "a red circle near a blue square", "a red circle above a blue"]
    {
        assert_eq!(Description::parse(other), None, "{other}");
    }
    let scene = Scene::draw(Split::HeldOut, &mut noise);
    assert_eq!(Shapes.shows(&scene.caption, &scene.render()), Some(true));
    assert_eq!(Shapes.shows("a red fox", &scene.render()), None);
    let captions = Shapes.prompts(20, &mut noise).unwrap();
    assert!(captions.iter().all(|c| Description::parse(c).unwrap().split() == Split::HeldOut));
    let blank = vec![scene.render(); 20];
    assert!(Shapes.accuracy(&captions, &blank).unwrap() < 0.2);
}
