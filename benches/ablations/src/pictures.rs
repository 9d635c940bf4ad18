//! Small pictures of classes: single shapes, or a folder of your own.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use dmd_core::{Noise, one_hot};
use dmd_data::shapes::{Description, SIZE, Scene, Split};
use dmd_data::{Dataset, Error, ImageFolder};
use dmd_eval::frechet::Moments;
use dmd_eval::kernel::Kernel;
use dmd_eval::manifold::{Manifold, recall};
use dmd_model::pixels::from_rgb8;
use image::RgbImage;
use image::imageops::{FilterType, crop_imm, resize};

use crate::classifier::Classifier;
use crate::data::{Batch, Data, Figure, indices};

/// Pictures of the shapes experiment.
const SHAPES: usize = 4000;
/// Deviation of noise on the drawn shapes, which have none of their own: a fifth of the data's deviation.
const GRAIN: f64 = 0.1;
/// Of so many pictures one is what samples are compared with, and one is compared itself.
const FOLDS: usize = 5;
/// With a judge apart, of twenty pictures three are compared, three compared with, four the judge's, and ten trained on.
const SHARES: usize = 20;
/// Most pictures of each of these two parts.
const COMPARED: usize = 1500;
/// Neighbours of precision and recall.
const NEIGHBOURS: usize = 3;

/// Pictures as values around 0 of deviation 0.5, with class indices.
#[derive(Debug, Clone, Default)]
struct Rows {
    values: Vec<f32>,
    labels: Vec<usize>,
}

/// Small pictures of classes in three parts: three fifths to train on, a fifth that samples are compared with, and a fifth that
/// is compared as samples are, for what real pictures reach. The judge is a classifier: its last hidden layer is the feature
/// space. It saw the first part alone, or, where there are pictures enough, a part of its own (then half of all are trained on,
/// and a fifth is the judge's).
#[derive(Debug)]
pub struct Pictures {
    shape: [usize; 3],
    classes: usize,
    train: Rows,
    held_out: Rows,
    classifier: Classifier,
    real: Vec<Vec<f64>>,
    moments: Moments,
    kernel: Kernel,
}

impl Rows {
    fn len(&self) -> usize {
        self.labels.len()
    }

    fn at(&self, places: &[usize], shape: [usize; 3], classes: usize, device: &Device) -> Batch {
        let [channels, height, width] = shape;
        let size = channels * height * width;
        let values: Vec<f32> =
            places.iter().flat_map(|i| &self.values[i * size..(i + 1) * size]).copied().collect();
        let labels: Vec<usize> = places.iter().map(|i| self.labels[*i]).collect();
        Batch {
            x0: Tensor::from_data(TensorData::new(values, [places.len(), channels, height, width]), device),
            classes: Some(one_hot(&labels, classes, device)),
        }
    }

    fn draw(
        &self,
        count: usize,
        shape: [usize; 3],
        classes: usize,
        noise: &mut Noise,
        device: &Device,
    ) -> Batch {
        let places: Vec<usize> = (0..count).map(|_| noise.below(self.len())).collect();
        self.at(&places, shape, classes, device)
    }
}

impl Pictures {
    /// Single shapes of the shapes set, the 32×32 pixels around each at 8×8, a class per colour and outline.
    pub fn shapes(device: &Device) -> Self {
        let mut noise = Noise::stream(7, "small shapes");
        let mut found = Vec::with_capacity(SHAPES);
        while found.len() < SHAPES {
            let scene = Scene::draw(Split::Train, &mut noise);
            if let Description::One(object, _) = &scene.description {
                let name = format!("{:?} {:?}", object.colour, object.shape);
                let corner = |centre: f64| (centre - 16.0).round().clamp(0.0, f64::from(SIZE - 32)) as u32;
                let (x, y) = (corner(scene.objects[0].x), corner(scene.objects[0].y));
                let around = crop_imm(&scene.render(), x, y, 32, 32).to_image();
                found.push((resize(&around, 8, 8, FilterType::Triangle), name));
            }
        }
        Self::new(&found, GRAIN, false, device)
    }

    /// A folder's pictures (see [`ImageFolder`]), each caption a class; with `apart` the judge is trained on pictures that no
    /// network is trained on.
    ///
    /// # Errors
    ///
    /// [`Error::Data`] when the folder cannot be used: unreadable pictures, a single class, fewer than 100
    /// pictures, or a size that is no multiple of 8.
    pub fn folder(folder: &ImageFolder, apart: bool, device: &Device) -> Result<Self, Error> {
        let size = folder.size()?;
        let wrong = |reason: String| Error::Data { path: folder.path().to_owned(), reason };
        if size == 0 || !size.is_multiple_of(8) {
            return Err(wrong(format!("a size of {size} is no multiple of 8")));
        }
        let found = (0..folder.len())
            .map(|i| folder.get(i).map(|example| (example.image, example.caption)))
            .collect::<Result<Vec<_>, _>>()?;
        if found.len() < 100 {
            return Err(wrong(format!("{} pictures are too few to train on", found.len())));
        }
        if found.iter().all(|(_, caption)| *caption == found[0].1) {
            return Err(wrong("all pictures have one caption; each caption is a class here".to_owned()));
        }
        Ok(Self::new(&found, 0.0, apart, device))
    }

    fn new(found: &[(RgbImage, String)], deviation: f64, apart: bool, device: &Device) -> Self {
        let mut names: Vec<&str> = found.iter().map(|(_, name)| name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let (width, height) = found[0].0.dimensions();
        // Pictures without colour need one channel only.
        let grey =
            found.iter().all(|(picture, _)| picture.pixels().all(|p| p.0[0] == p.0[1] && p.0[1] == p.0[2]));
        let channels = if grey { 1 } else { 3 };
        let shape = [channels, height as usize, width as usize];
        let [mut train, mut held_out, mut reference, mut of_judge] = [(); 4].map(|()| Rows::default());
        for (i, (picture, name)) in found.iter().enumerate() {
            let rows = match (apart, i % FOLDS, i % SHARES) {
                (false, 0, _) if held_out.len() < COMPARED => &mut held_out,
                (false, 1, _) if reference.len() < COMPARED => &mut reference,
                (true, _, 0..3) => &mut held_out,
                (true, _, 3..6) => &mut reference,
                (true, _, 6..10) => &mut of_judge,
                _ => &mut train,
            };
            let values = from_rgb8(std::slice::from_ref(picture), device).narrow(1, 0, channels);
            rows.values.extend(values.into_data().iter::<f32>());
            rows.labels.push(names.binary_search(&name.as_str()).unwrap_or(0));
        }
        // EDM's preconditioning is made for data around 0 of deviation 0.5.
        let size = shape.iter().product();
        let count = train.labels.len().max(1) as f32;
        let mean: Vec<f32> =
            (0..size).map(|i| train.values.iter().skip(i).step_by(size).sum::<f32>() / count).collect();
        let off = |(i, value): (usize, &f32)| (value - mean[i % size]).powi(2);
        let variance =
            train.values.iter().enumerate().map(off).sum::<f32>() / train.values.len().max(1) as f32;
        let scale = 0.5 / variance.sqrt().max(1e-3);
        let mut noise = Noise::stream(7, "grain");
        for rows in [&mut train, &mut held_out, &mut reference, &mut of_judge] {
            for (i, value) in rows.values.iter_mut().enumerate() {
                *value = (*value - mean[i % size]) * scale;
            }
            let grains = noise.normals(rows.values.len());
            for (value, grain) in rows.values.iter_mut().zip(grains) {
                *value += (deviation * grain) as f32;
            }
        }
        let classes = names.len();
        let classifier = Classifier::new(channels, classes, &device.clone().autodiff())
            .trained(|count, noise| {
                let rows = if apart { &of_judge } else { &train };
                rows.draw(count, shape, classes, noise, device)
            })
            .valid();
        let places: Vec<usize> = (0..reference.len()).collect();
        let real = classifier.features(&reference.at(&places, shape, classes, device).x0).0;
        let (moments, kernel) = (Moments::of(&real), Kernel::new(&real));
        Self { shape, classes, train, held_out, classifier, real, moments, kernel }
    }

    /// Held-out real pictures.
    pub fn held_out(&self, device: &Device) -> Batch {
        let places: Vec<usize> = (0..self.held_out.len()).collect();
        self.held_out.at(&places, self.shape, self.classes, device)
    }
}

impl Data for Pictures {
    fn shape(&self) -> [usize; 3] {
        self.shape
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn draw(&self, count: usize, noise: &mut Noise, device: &Device) -> Batch {
        self.train.draw(count, self.shape, self.classes, noise, device)
    }

    fn fresh(&self, _count: usize, device: &Device) -> Batch {
        self.held_out(device)
    }

    /// - *right*: share that the classifier takes for the class that was asked for
    /// - *sharp*: precision, the share near real pictures in the classifier's features
    /// - *sharp and right*: both
    /// - *covered*: recall, the share of real pictures near generated ones
    /// - *distance*: Fréchet distance in the classifier's features
    /// - *kernel*: kernel distance there times 1000, of which any number of samples has the same expectation
    ///
    /// All but *right* and *kernel* are of as many samples as there are held-out pictures.
    fn judge(&self, samples: &Batch) -> Vec<Figure> {
        let (rows, found) = self.classifier.features(&samples.x0);
        let figure = |name, value| Figure { name, value };
        let finite = rows.iter().flatten().all(|value| value.is_finite());
        if !finite {
            return ["right", "sharp", "sharp and right", "covered", "distance", "kernel"]
                .map(|name| figure(name, f64::NAN))
                .to_vec();
        }
        let asked = samples.classes.as_ref().map(indices).unwrap_or_default();
        let right: Vec<bool> = asked.iter().zip(&found).map(|(asked, found)| asked == found).collect();
        let share = |right: &[bool]| right.iter().filter(|r| **r).count() as f64 / right.len().max(1) as f64;
        let equal = &rows[..rows.len().min(self.held_out.len())];
        let manifold = Manifold::new(&self.real, NEIGHBOURS);
        let near = manifold.on(equal);
        let both: Vec<bool> = near.iter().zip(&right).map(|(near, right)| *near && *right).collect();
        vec![
            figure("right", share(&right)),
            figure("sharp", share(&near)),
            figure("sharp and right", share(&both)),
            figure("covered", recall(&self.real, equal, NEIGHBOURS)),
            figure("distance", self.moments.distance(&Moments::of(equal))),
            figure("kernel", 1e3 * self.kernel.distance(&rows)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Held-out pictures pass the judge, noise and blur do not.
    #[test]
    fn the_judge_knows_shapes() {
        let device = Device::flex();
        let pictures = Pictures::shapes(&device);
        let of = |batch: &Batch| {
            let figures = pictures.judge(batch);
            move |name: &str| {
                figures.iter().find(|figure| figure.name == name).expect("a figure of that name").value
            }
        };
        let real = pictures.held_out(&device);
        let held_out = of(&real);
        assert!(held_out("right") > 0.9, "{}", held_out("right"));
        assert!(held_out("sharp") > 0.8 && held_out("covered") > 0.8);
        let noise = Noise::from_seed(3).normal(real.x0.dims(), &device);
        let noisy = of(&Batch { x0: real.x0.clone() + noise * 0.3, ..real.clone() });
        assert!(noisy("sharp and right") < 0.2, "{}", noisy("sharp and right"));
        let (noisy, held_out) = (noisy("distance"), held_out("distance"));
        println!("noise at {noisy}, held-out pictures at {held_out}");
        assert!(noisy > 5.0 * held_out, "noise at {noisy}, held-out pictures at {held_out}");
    }
}
